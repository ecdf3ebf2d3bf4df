//! pointsman ends itself at every point of a failover and of a switchover, and is started again.

use std::os::unix::process::ExitStatusExt;

use pointsman::lab::{Client, Data, ShardOptions};
use pointsman::topology::Gate;

use crate::support::{
    SOON, Scene, ask, becomes_true, get, now, snapshots_fail, snapshots_work, with_snapshots,
    write_until_ok,
};

/// What is done when the primary is dead, in this order; a crash is possible before and after each.
const FAILOVER: &[&str] = &[
    "close", "claim", "inspect", "promote", "commit", "open", "repoint",
];

/// The same for a switchover.
const SWITCHOVER: &[&str] = &[
    "claim", "close", "pause", "inspect", "promote", "commit", "open", "repoint",
];

fn points(acts: &[&str]) -> impl Iterator<Item = String> {
    let both = |act: &&str| [format!("before-{act}"), format!("after-{act}")];
    acts.iter().flat_map(both).collect::<Vec<_>>().into_iter()
}

/// The epoch in the record, once no change is under way in it.
async fn recorded_epoch(scene: &Scene) -> u64 {
    let mut epoch = 0;
    becomes_true("a record that says serving", async || {
        let text = std::fs::read_to_string(scene.shard.pointsman.state_file());
        let text = text.map_err(|e| e.to_string())?;
        let record: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        epoch = record["record"]["epoch"].as_u64().ok_or(text.clone())?;
        match text.contains("serving") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    epoch
}

/// Writes one key after the other until pointsman is gone; returns how many were acknowledged.
async fn write_until_cut_off(mut client: Client, point: &str) -> u64 {
    let mut acknowledged = 0;
    let began = now();
    loop {
        assert!(now().since(began) < SOON, "{point} was not reached");
        let key = format!("{point}:{acknowledged}");
        match client.call(&["SET", &key, point]).await {
            Ok(reply) if reply.is_ok() => acknowledged += 1,
            // A full disk, or a fence.
            Ok(_) => {}
            Err(_) => return acknowledged,
        }
    }
}

/// pointsman has ended itself while `acknowledged` writes were answered: starts it again, and nothing is
/// wrong.
async fn recovers(scene: &Scene, point: &str, acknowledged: u64, epoch: u64) {
    let status = scene.shard.pointsman.ended().await.unwrap();
    assert_eq!(status.signal(), Some(6), "{point}: {status}");
    scene.shard.pointsman.restart().unwrap();
    scene.shard.pointsman.ready().await.unwrap();
    let mut client = scene.client().await;
    write_until_ok(&mut client, "after", point).await;
    for number in 0..acknowledged {
        let kept = get(&mut client, &format!("{point}:{number}")).await;
        assert_eq!(kept.as_deref(), Some(point), "write {number} is lost");
    }
    let recorded = recorded_epoch(scene).await;
    // The change that was cut short, its end by the next process, and the failover that a full disk asks
    // for again.
    assert!(
        (epoch..=epoch + 3).contains(&recorded),
        "{point}: {recorded} after {epoch}"
    );
    let published = scene.shard.pointsman.topology().await.unwrap();
    assert_eq!(published.epoch.0, recorded, "{point}");
    assert_eq!(published.gate, Gate::Open, "{point}");
}

#[tokio::test]
async fn at_every_point_of_a_failover() {
    let mut scene = Scene::with(ShardOptions {
        // A new process can not know that a node which was restarted before is in sync again.
        failover: "restart_grace = \"1s\"".into(),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("POINTSMAN_CRASH_AT");
    for point in points(FAILOVER) {
        scene.shard.pointsman.restart_to_crash(&point).unwrap();
        scene.shard.pointsman.ready().await.unwrap();
        let mut client = scene.client().await;
        write_until_ok(&mut client, "before", &point).await;
        scene.in_sync().await;
        let epoch = recorded_epoch(&scene).await;
        let old = scene.kill_primary().await;
        let acknowledged = write_until_cut_off(client, &point).await;
        recovers(&scene, &point, acknowledged, epoch).await;
        let mut client = scene.client().await;
        assert_eq!(get(&mut client, "before").await, Some(point));
        scene.node(old).restart(Data::Empty).await.unwrap();
        scene.in_sync().await;
        assert_eq!(scene.shard.cluster.who_is_primary().await.len(), 1);
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn around_the_fence_of_a_primary_that_lives() {
    let mut scene = Scene::with(ShardOptions {
        cluster: with_snapshots(),
        failover: "promote_on_disk_error = true".into(),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("POINTSMAN_CRASH_AT");
    scene.expect_log("MISCONF");
    // The former primary ends itself as a replica that can not store what it is sent.
    scene.expect_log("-slave-reconf");
    for point in points(&["fence"]) {
        scene.shard.pointsman.restart_to_crash(&point).unwrap();
        scene.shard.pointsman.ready().await.unwrap();
        scene.in_sync().await;
        let epoch = recorded_epoch(&scene).await;
        let old = scene.shard.number_of(scene.primary().await);
        let client = scene.client().await;
        let (acknowledged, ()) = tokio::join!(
            write_until_cut_off(client, &point),
            snapshots_fail(scene.node(old))
        );
        recovers(&scene, &point, acknowledged, epoch).await;
        snapshots_work(scene.node(old));
        scene.node(old).restart(Data::Empty).await.unwrap();
        scene.in_sync().await;
        assert_eq!(scene.shard.cluster.who_is_primary().await.len(), 1);
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn at_every_point_of_a_switchover() {
    let mut scene = Scene::start().await;
    scene.expect_log("POINTSMAN_CRASH_AT");
    for point in points(SWITCHOVER) {
        scene.shard.pointsman.restart_to_crash(&point).unwrap();
        scene.shard.pointsman.ready().await.unwrap();
        scene.in_sync().await;
        let epoch = recorded_epoch(&scene).await;
        // On a busy machine it may be refused before it comes that far.
        let switchover = async {
            while let Ok(answer) = scene.shard.pointsman.switchover(None).await {
                println!("{point}: {answer:?}");
            }
        };
        let writes = write_until_cut_off(scene.client().await, &point);
        let (acknowledged, ()) = tokio::join!(writes, switchover);
        recovers(&scene, &point, acknowledged, epoch).await;
        scene.in_sync().await;
        assert_eq!(scene.shard.cluster.who_is_primary().await.len(), 1);
        // Nobody who bypasses pointsman is held off any more.
        let mut bypass = scene.primary().await.client().await.unwrap();
        ask(&mut bypass, &["SET", "bypass", &point]).await;
    }
    scene.assert_log_is_clean();
}
