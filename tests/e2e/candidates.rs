//! Who takes over, and who must not.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Data, Kind, ShardOptions};
use pointsman::topology::Outcome;

use crate::support::{
    Scene, ask, assert_the_promise_was_kept, becomes_true, clients, get, write_until_ok,
};

/// Bytes of one large value.
const LARGE: usize = 1024 * 1024;

#[tokio::test]
async fn a_node_with_priority_0_is_never_promoted() {
    let cluster = ClusterOptions::default().node_line(1, "replica-priority 0");
    let mut scene = Scene::with_cluster(cluster).await;
    let two = scene.node(2).id();
    scene.node(0).kill();
    let report = scene.failed_over().await;
    assert_eq!(report.to, Some(two));
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn where_nobody_may_take_over_nobody_is_promoted_and_the_reason_is_said() {
    let scene = Scene::with(ShardOptions {
        cluster: ClusterOptions {
            persistence: pointsman::lab::Persistence::Aof,
            ..ClusterOptions::default()
        }
        .node_line(1, "replica-priority 0")
        .node_line(2, "replica-priority 0"),
        requests: "hold_timeout = \"1s\"".into(),
        ..ShardOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "kept").await;
    scene.node(0).kill();
    let refused = client.call(&["SET", "key", "new"]).await.unwrap();
    assert!(refused.to_string().contains("not executed"), "{refused}");
    becomes_true("the reason in the log", async || {
        match scene.shard.pointsman.log().contains("priority") {
            true => Ok(()),
            false => Err(scene.shard.pointsman.log_tail()),
        }
    })
    .await;
    assert_eq!(
        scene.shard.cluster.who_is_primary().await,
        Vec::<usize>::new()
    );
    // Its own connection, as soon as the old primary is back with its data.
    scene.node(0).restart(Data::Kept).await.unwrap();
    write_until_ok(&mut client, "key2", "new").await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("kept"));
}

#[tokio::test]
async fn the_longest_history_wins_over_the_better_priority() {
    let cluster = ClusterOptions::default().node_line(1, "replica-priority 1");
    let mut scene = Scene::with_cluster(cluster).await;
    let two = scene.node(2).id();
    // Node 1 stops reading; more than any socket buffer holds is written meanwhile.
    scene.node(1).stop();
    let large = "x".repeat(LARGE);
    let mut client = scene.client().await;
    for number in 0..32 {
        write_until_ok(&mut client, &format!("large:{number}"), &large).await;
    }
    scene
        .shard
        .cluster
        .these_in_sync(&[0, 2], Duration::from_secs(10))
        .await
        .unwrap();
    scene.node(0).kill();
    scene.node(1).cont();
    let report = scene.failed_over().await;
    assert_eq!(report.to, Some(two), "{report:#?}");
    assert_eq!(
        get(&mut client, "large:31").await.map(|v| v.len()),
        Some(LARGE)
    );
    becomes_true("node 1 in sync", async || {
        let both = scene
            .shard
            .cluster
            .these_in_sync(&[1, 2], Duration::from_secs(10))
            .await;
        both.map_err(|e| e.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_replica_in_a_full_sync_is_not_promoted() {
    let cluster = ClusterOptions::default().node_line(1, "replica-priority 1");
    let mut scene = Scene::with_cluster(cluster).await;
    let two = scene.node(2).id();
    let mut client = scene.client().await;
    for number in 0..2000 {
        client.queue(&["SET", &format!("key:{number}"), "x"]);
    }
    client.flush().await.unwrap();
    for _ in 0..2000 {
        assert!(client.receive().await.unwrap().is_ok());
    }
    scene.in_sync().await;
    // The snapshot for node 1 takes 20 s.
    let mut direct = scene.node(0).client().await.unwrap();
    ask(
        &mut direct,
        &["CONFIG", "SET", "rdb-key-save-delay", "10000"],
    )
    .await;
    scene.node(1).restart(Data::Empty).await.unwrap();
    becomes_true("node 1 in its full sync", async || {
        match scene
            .node(1)
            .info_field("master_sync_in_progress")
            .await
            .as_deref()
        {
            Ok("1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    scene.node(0).kill();
    let report = scene.failed_over().await;
    assert_eq!(report.to, Some(two), "{report:#?}");
    assert_eq!(get(&mut client, "key:1999").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_candidate_that_hangs_at_the_moment_of_its_promotion_is_passed_over() {
    let cluster = ClusterOptions::default().node_line(1, "replica-priority 1");
    let mut scene = Scene::with_cluster(cluster).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    let two = scene.node(2).id();
    scene.node(1).stop();
    scene.node(0).kill();
    let report = scene.failed_over().await;
    assert_eq!((report.outcome, report.to), (Outcome::Done, Some(two)));
    scene.progress(20).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.node(1).cont();
    scene
        .shard
        .cluster
        .these_in_sync(&[1, 2], Duration::from_secs(10))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_candidate_that_dies_with_the_primary_is_passed_over() {
    let mut scene = Scene::start().await;
    let two = scene.node(2).id();
    scene.node(1).kill();
    scene.node(0).kill();
    let report = scene.failed_over().await;
    assert_eq!((report.outcome, report.to), (Outcome::Done, Some(two)));
}

#[tokio::test]
async fn a_node_that_refuses_our_password_is_passed_over() {
    let mut scene = Scene::with_cluster(ClusterOptions {
        password: Some("secret".into()),
        ..ClusterOptions::default().node_line(1, "replica-priority 1")
    })
    .await;
    scene.expect_log("WRONGPASS");
    scene.expect_log("password");
    let two = scene.node(2).id();
    let mut direct = scene.node(1).client().await.unwrap();
    ask(&mut direct, &["CONFIG", "SET", "requirepass", "changed"]).await;
    ask(&mut direct, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    scene.node(0).kill();
    let report = scene.failed_over().await;
    assert_eq!(report.to, Some(two), "{report:#?}");
    scene.progress(20).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn passwords_survive_a_failover_and_the_return_of_the_old_primary() {
    let mut scene = Scene::with_cluster(ClusterOptions {
        password: Some("secret".into()),
        ..ClusterOptions::default()
    })
    .await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    scene.node(0).kill();
    scene.failed_over().await;
    scene.node(0).restart_now(Data::Empty).unwrap();
    scene.progress(20).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.in_sync().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_chain_of_replicas_is_never_made_a_loop() {
    let mut scene = Scene::start().await;
    let port = scene.node(1).port().to_string();
    scene
        .node(2)
        .cli(&["REPLICAOF", "127.0.0.1", &port])
        .await
        .unwrap();
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "kept").await;
    becomes_true("the write at the end of the chain", async || {
        match scene.node(2).cli(&["GET", "key"]).await {
            Ok(value) if value.text() == Some("kept") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    scene.node(0).kill();
    scene.failed_over().await;
    write_until_ok(&mut client, "after", "x").await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("kept"));
    scene
        .shard
        .cluster
        .these_in_sync(&[1, 2], Duration::from_secs(15))
        .await
        .unwrap();
}
