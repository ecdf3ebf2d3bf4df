//! Disks that are really full: the primary's, and the one that holds pointsman's own record.

use std::time::Duration;

use pointsman::lab::{Client, ClusterOptions, Kind, ShardOptions, Value};
use pointsman::topology::{Fault, Outcome};

use crate::support::disk::{self, Disk};
use crate::support::{
    Scene, ask, assert_no_error_at_all, becomes_true, clients, get, let_pass, write_until_ok,
};

/// How the primary keeps its data, and what makes it notice.
#[derive(Clone, Copy)]
enum Keeps {
    Snapshots,
    EveryWrite,
}

/// The primary's directory is on `disk`.
async fn scene(disk: &Disk, keeps: Keeps, promote: bool) -> Scene {
    let mut cluster =
        ClusterOptions::default().node_line(0, format!("dir {}", disk.path().display()));
    let lines: &[&str] = match keeps {
        Keeps::Snapshots => &["save 3600 1"],
        // With `always`, a server ends itself when its disk is full.
        Keeps::EveryWrite => &["appendonly yes", "appendfsync everysec"],
    };
    cluster
        .config
        .extend(lines.iter().map(|line| (*line).to_owned()));
    let mut scene = Scene::with(ShardOptions {
        cluster,
        failover: format!("promote_on_disk_error = {promote}"),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("MISCONF");
    scene
}

/// Fills the disk, and has the primary notice.
async fn fill(disk: &Disk, scene: &Scene, keeps: Keeps) {
    disk.fill();
    let primary = scene.node(0);
    let mut direct = primary.client().await.unwrap();
    let large = "x".repeat(64 * 1024);
    becomes_true("a primary that refuses writes", async || {
        if let Keeps::Snapshots = keeps {
            // While one runs, another is refused.
            let _ = direct.call(&["BGSAVE"]).await;
        }
        match direct.call(&["SET", "large", &large]).await.unwrap() {
            Value::Error(text) if text.starts_with("MISCONF") => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

async fn written(scene: &Scene) -> Client {
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    scene.in_sync().await;
    client
}

#[tokio::test]
async fn a_full_disk_of_the_primary_is_told_to_clients_and_passes() {
    if !disk::is_mine("disk::a_full_disk_of_the_primary_is_told_to_clients_and_passes") {
        return;
    }
    for keeps in [Keeps::Snapshots, Keeps::EveryWrite] {
        let disk = Disk::mount();
        let scene = scene(&disk, keeps, false).await;
        let mut client = written(&scene).await;
        fill(&disk, &scene, keeps).await;
        let refused = client.call(&["SET", "key", "2"]).await.unwrap();
        assert!(refused.to_string().starts_with("-MISCONF"), "{refused}");
        assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
        // For what must not happen there is nothing else to wait for.
        let_pass(Duration::from_millis(1500)).await;
        scene.nothing_else_happened().await;
        disk.clear();
        becomes_true("a write on the same primary", async || {
            if let Keeps::Snapshots = keeps {
                let _ = scene.node(0).cli(&["BGSAVE"]).await;
            }
            match client.call(&["SET", "key", "3"]).await.unwrap() {
                reply if reply.is_ok() => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .await;
        assert_eq!(scene.primary().await.id(), scene.node(0).id());
        scene.nothing_else_happened().await;
        scene.assert_log_is_clean();
    }
}

#[tokio::test]
async fn a_full_disk_of_the_primary_is_a_failover_where_the_operator_wants_it() {
    if !disk::is_mine("disk::a_full_disk_of_the_primary_is_a_failover_where_the_operator_wants_it")
    {
        return;
    }
    for keeps in [Keeps::Snapshots, Keeps::EveryWrite] {
        let disk = Disk::mount();
        let mut scene = scene(&disk, keeps, true).await;
        let mut client = written(&scene).await;
        disk.fill();
        // The failover may come before `fill` sees an error: by then the node refuses as a replica.
        let noticed = async {
            let large = "x".repeat(64 * 1024);
            while let Ok(Value::Simple(_) | Value::Error(_)) =
                scene.node(0).cli(&["SET", "large", &large]).await
            {
                let _ = scene.node(0).cli(&["BGSAVE"]).await;
                if !scene.node(0).is_primary().await.unwrap_or(false) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noticed)
            .await
            .expect("demoted");
        let report = scene.failed_over().await;
        assert_eq!(
            (report.fault, &report.outcome),
            (Fault::ErrorReplies, &Outcome::Done)
        );
        assert_ne!(report.to, Some(scene.node(0).id()));
        write_until_ok(&mut client, "after", "2").await;
        assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
        scene.assert_log_is_clean();
    }
}

#[tokio::test]
async fn a_full_disk_under_the_record_stops_decisions_and_not_the_traffic() {
    if !disk::is_mine("disk::a_full_disk_under_the_record_stops_decisions_and_not_the_traffic") {
        return;
    }
    let disk = Disk::mount();
    let mut scene = Scene::with(ShardOptions {
        state: Some(disk.path().join("main.json")),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("No space left on device");
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    disk.fill();
    let old = scene.primary().await.id();
    let refused = scene
        .shard
        .pointsman
        .switchover(None)
        .await
        .unwrap()
        .expect_err("it can not be recorded");
    assert!(refused.contains("No space left on device"), "{refused}");
    scene.progress(50).await;
    assert_eq!(scene.primary().await.id(), old);
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);

    let mut client = written(&scene).await;
    scene.node(0).kill();
    becomes_true("a status that says why nothing is decided", async || {
        let status = pointsman::lab::http::get(&scene.shard.pointsman.admin(), "/api/status").await;
        match status {
            Ok((200, text)) if text.contains("No space left on device") => Ok(()),
            other => Err(format!("{other:?}\n{}", scene.shard.pointsman.log_tail())),
        }
    })
    .await;
    let unknown = r#"pointsman_authority_swaps_total{backend="main",outcome="unknown"}"#;
    let swaps = scene.shard.pointsman.metric(unknown).await.unwrap();
    assert!(swaps.is_some_and(|count| count > 0.0), "{swaps:?}");
    let_pass(Duration::from_secs(2)).await;
    assert!(scene.shard.cluster.who_is_primary().await.is_empty());
    // It is said, and not a thousand times a second.
    let log = scene.shard.pointsman.log();
    assert!(
        log.contains("\"event\":\"undecided\"") && log.lines().count() < 40,
        "{log}"
    );

    // With space it goes on by itself, and who waited is answered.
    disk.clear();
    let kept = ask(&mut client, &["GET", "key"]).await;
    assert_eq!(kept.text(), Some("1"));
    assert_ne!(scene.primary().await.id(), old);
    scene.assert_log_is_clean();
}
