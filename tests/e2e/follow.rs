//! Somebody else moves the primary: hands in every order, under load. What an old primary accepts after
//! its successor was promoted is lost with or without pointsman, so writes are counted only where none is.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Data, Kind, Server, ShardOptions};
use pointsman::topology::{Fault, NodeId, Outcome};

use crate::support::{
    Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    becomes_true, clients, let_pass, now, status_says,
};

async fn scene(replicas: usize) -> Scene {
    Scene::with(ShardOptions {
        follow: true,
        cluster: ClusterOptions {
            replicas,
            ..ClusterOptions::default()
        },
        ..ShardOptions::default()
    })
    .await
}

async fn promote(node: &Server) {
    node.cli(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
}

async fn repoint(node: &Server, to: &Server) {
    let port = to.port().to_string();
    node.cli(&["REPLICAOF", "127.0.0.1", &port]).await.unwrap();
}

/// Waits until requests flow to this node.
async fn serves(scene: &Scene, id: &NodeId) {
    becomes_true("requests flow there", async || {
        let topology = scene.shard.pointsman.topology().await;
        let topology = topology.map_err(|e| e.to_string())?;
        match topology.open_primary() {
            Some(primary) if primary.node == *id => Ok(()),
            _ => Err(format!("{topology:?}")),
        }
    })
    .await;
}

#[derive(Clone, Copy, Debug)]
enum Hand {
    Promote,
    Sibling,
    Demote,
    Kill,
}
use Hand::{Demote, Kill, Promote, Sibling};

/// Lets hands act in this order while clients work, and judges what those saw.
async fn moved_by(hands: [Hand; 3]) {
    let mut scene = scene(2).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    for hand in hands {
        match hand {
            Promote => promote(scene.node(1)).await,
            Sibling => repoint(scene.node(2), scene.node(1)).await,
            Demote => repoint(scene.node(0), scene.node(1)).await,
            Kill => scene.node(0).kill(),
        }
    }
    serves(&scene, &scene.node(1).id()).await;
    scene.progress(50).await;
    let report = scene.failed_over().await;
    assert_eq!(
        (report.fault, &report.outcome),
        (Fault::Followed, &Outcome::Done)
    );
    assert_eq!(report.to, Some(scene.node(1).id()));
    scene.nothing_else_happened().await;
    let verdict = scene.judged().await;
    println!(
        "{hands:?}: longest pause {:?}",
        verdict.total().longest_pause
    );
    assert_no_error_at_all(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(1));
    scene.expect_log("undecided");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_tidy_hand() {
    moved_by([Promote, Sibling, Demote]).await;
}

#[tokio::test]
async fn a_hand_that_kills_the_old_one() {
    moved_by([Promote, Sibling, Kill]).await;
}

#[tokio::test]
async fn a_hand_that_demotes_before_the_sibling_is_told() {
    moved_by([Promote, Demote, Sibling]).await;
}

#[tokio::test]
async fn a_hand_that_demotes_first() {
    moved_by([Demote, Sibling, Promote]).await;
}

#[tokio::test]
async fn a_hand_that_begins_with_the_sibling() {
    moved_by([Sibling, Promote, Demote]).await;
}

#[tokio::test]
async fn an_orchestrator_after_a_crash() {
    moved_by([Kill, Promote, Sibling]).await;
}

#[tokio::test]
async fn the_failover_command_loses_nothing_and_shows_no_error() {
    let mut scene = scene(2).await;
    let probe = scene.node(0).cli(&["COMMAND", "INFO", "FAILOVER"]).await;
    if !format!("{probe:?}").to_lowercase().contains("\"failover\"") {
        println!("NOT RUN: this server has no FAILOVER");
        return;
    }
    scene.traffic().await;
    let port = scene.node(1).port().to_string();
    let moved = ["FAILOVER", "TO", "127.0.0.1", &port];
    scene.node(0).cli(&moved).await.unwrap();
    becomes_true("a promotion", async || {
        match scene.node(1).is_primary().await {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let promoted = now();
    serves(&scene, &scene.node(1).id()).await;
    let took = now() - promoted;
    scene.progress(50).await;
    let report = scene.failed_over().await;
    let verdict = scene.judged().await;
    println!(
        "FAILOVER: served {took:?} after the promotion, the gate was closed for {:?}, longest pause {:?}",
        report.pause,
        verdict.total().longest_pause,
    );
    // The server itself pauses its clients until the replica has acknowledged everything.
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(3));
    scene.expect_log("undecided");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn in_a_pair_a_promotion_is_a_move_without_an_error() {
    let mut scene = scene(1).await;
    scene.traffic().await;
    promote(scene.node(1)).await;
    serves(&scene, &scene.node(1).id()).await;
    scene.progress(50).await;
    // It is told once that the old one is still there, and nothing else happens.
    status_says(&scene.shard.pointsman, "other primaries").await;
    scene.failed_over().await;
    scene.nothing_else_happened().await;
    let verdict = scene.judged().await;
    println!("a pair: longest pause {:?}", verdict.total().longest_pause);
    // Of all kinds of clients: nothing was on its way when the old primary was left.
    assert_eq!(verdict.total().all_errors(), 0, "{verdict}");
    scene.expect_log("other primaries");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn an_old_primary_that_returns_empty_gets_nothing() {
    let mut scene = scene(2).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    scene.node(0).kill();
    promote(scene.node(1)).await;
    repoint(scene.node(2), scene.node(1)).await;
    serves(&scene, &scene.node(1).id()).await;
    scene.progress(20).await;
    scene.node(0).restart(Data::Empty).await.unwrap();
    status_says(&scene.shard.pointsman, "another history").await;
    scene.progress(50).await;
    scene.failed_over().await;
    scene.nothing_else_happened().await;
    let size = scene.node(0).cli(&["DBSIZE"]).await.unwrap();
    assert_eq!(size.number(), Some(0));
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
}

#[tokio::test]
async fn a_primary_that_restarts_empty_is_held_until_somebody_decides() {
    let mut scene = scene(2).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    // Replicas that can not copy the emptiness keep what they have.
    for number in [1, 2] {
        scene
            .node(number)
            .cli(&["CONFIG", "SET", "masterauth", "wrong"])
            .await
            .unwrap();
        let wrong = ["CONFIG", "SET", "masteruser", "nobody"];
        scene.node(number).cli(&wrong).await.unwrap();
    }
    scene.node(0).restart(Data::Empty).await.unwrap();
    status_says(&scene.shard.pointsman, "has restarted empty").await;
    promote(scene.node(1)).await;
    serves(&scene, &scene.node(1).id()).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
}

#[tokio::test]
async fn a_detached_copy_is_left_alone() {
    let mut scene = scene(2).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    promote(scene.node(2)).await;
    status_says(&scene.shard.pointsman, "left its history").await;
    let_pass(Duration::from_secs(1)).await;
    scene.nothing_else_happened().await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.expect_log("other primaries");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn an_old_primary_that_hung_and_returns_with_its_replicas_is_the_past() {
    let mut scene = scene(4).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    scene.node(0).stop();
    promote(scene.node(1)).await;
    repoint(scene.node(2), scene.node(1)).await;
    serves(&scene, &scene.node(1).id()).await;
    scene.progress(20).await;
    scene.node(0).cont();
    // Nodes 3 and 4 never heard of the promotion.
    let says = "2 replicas, an earlier part of its history";
    status_says(&scene.shard.pointsman, says).await;
    scene.progress(50).await;
    scene.failed_over().await;
    scene.nothing_else_happened().await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    let told = scene.shard.pointsman.log().matches(says).count();
    assert_eq!(told, 1, "{}", scene.shard.pointsman.log_tail());
}
