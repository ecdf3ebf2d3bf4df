//! Sentinel decides: real sentinels, real servers, pointsman as a child process, ordinary clients, and
//! a judge of what they recorded.

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;

use pointsman::lab::{SentinelOptions, Sentinels, ShardOptions};
use pointsman::topology::{Fault, Outcome};

use support::{
    Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_the_promise_was_kept,
    becomes_true,
};

async fn scene() -> Scene {
    scene_with(SentinelOptions::default()).await
}

async fn scene_with(sentinels: SentinelOptions) -> Scene {
    Scene::with(ShardOptions {
        sentinels: Some(sentinels),
        ..ShardOptions::default()
    })
    .await
}

fn sentinels(scene: &Scene) -> &Sentinels {
    scene.shard.sentinels.as_ref().expect("sentinels run")
}

#[tokio::test]
async fn a_killed_primary_is_replaced_by_sentinel_and_nobody_sees_an_error() {
    let mut scene = scene().await;
    scene.expect_log("does not answer");
    scene.traffic().await;
    let old = scene.primary().await.id();
    scene.kill_primary().await;
    let report = scene.failed_over().await;
    assert_eq!(
        (report.fault, report.outcome),
        (Fault::Followed, Outcome::Done)
    );
    assert_eq!(report.from, Some(old));
    scene.progress(50).await;
    assert_the_promise_was_kept(&scene.judged().await);
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_failover_that_somebody_asks_sentinel_for_loses_nothing() {
    let mut scene = scene().await;
    scene.traffic().await;
    let reply = sentinels(&scene).failover().await.unwrap();
    assert!(reply.is_ok(), "{reply}");
    let report = scene.failed_over().await;
    assert_eq!(report.outcome, Outcome::Done);
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    becomes_true("a replica of the old primary", async || {
        match scene.shard.cluster.who_is_primary().await.len() {
            1 => Ok(()),
            count => Err(format!("{count} primaries")),
        }
    })
    .await;
    scene.assert_log_is_clean();
}
