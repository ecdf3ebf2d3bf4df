//! Sentinel decides: real sentinels, real servers, pointsman as a child process, ordinary clients, and
//! a judge of what they recorded. `failover` is what happens to the primary, `council` what happens to
//! the sentinels.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;

mod council;
mod failover;

use std::time::Duration;

use pointsman::failover::{SentinelStatus, Status};
use pointsman::lab::http;
use pointsman::lab::{ClusterOptions, Pointsman, SentinelOptions, Sentinels, ShardOptions};

use support::{Scene, becomes_true};

async fn scene() -> Scene {
    scene_with(SentinelOptions::default()).await
}

async fn scene_with(sentinels: SentinelOptions) -> Scene {
    with(ClusterOptions::default(), sentinels).await
}

async fn with(cluster: ClusterOptions, sentinels: SentinelOptions) -> Scene {
    let mut scene = Scene::with(ShardOptions {
        cluster,
        sentinels: Some(sentinels),
        ..ShardOptions::default()
    })
    .await;
    // Until Sentinel has acted, somebody should look.
    scene.expect_log("does not answer");
    scene
}

fn sentinels(scene: &Scene) -> &Sentinels {
    scene.shard.sentinels.as_ref().expect("sentinels run")
}

/// What the core knows.
async fn status(pointsman: &Pointsman) -> Result<Status, String> {
    let asked = http::get(&pointsman.admin(), "/api/status").await;
    let (_, text) = asked.map_err(|e| e.to_string())?;
    let answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    serde_json::from_value(answer["backends"][0]["status"].clone()).map_err(|e| e.to_string())
}

/// Waits until every sentinel that pointsman knows of is as `is` wants it.
async fn sentinels_are(pointsman: &Pointsman, is: impl Fn(&[SentinelStatus]) -> bool) {
    becomes_true("what pointsman knows of the sentinels", async || {
        let sentinels = status(pointsman).await?.sentinels;
        match is(&sentinels) {
            true => Ok(()),
            false => Err(format!("{sentinels:?}\n{}", pointsman.log_tail())),
        }
    })
    .await;
}

/// Longer than any time after which something would have been done.
const A_WHILE: Duration = Duration::from_secs(3);
