//! The operator moves the primary on purpose.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Kind, TrafficOptions};
use pointsman::topology::{Fault, NodeId, Outcome};

use crate::support::{
    Scene, ask, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    clients, get, write_until_ok,
};

#[tokio::test]
async fn nobody_sees_an_error_and_nothing_is_lost() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let old = scene.primary().await.id();
    let report = scene.switchover(None).await;
    assert_eq!(
        (report.fault, &report.outcome),
        (Fault::Switchover, &Outcome::Done)
    );
    assert_eq!(report.from, Some(old));
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(1));
    scene.in_sync().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn the_named_node_takes_over() {
    let mut scene = Scene::start().await;
    for number in [2, 1, 0] {
        let to = scene.node(number).id();
        let report = scene.switchover(Some(to.clone())).await;
        assert_eq!(report.to, Some(to.clone()));
        assert_eq!(scene.primary().await.id(), to);
        scene.in_sync().await;
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn ten_switchovers_under_traffic_count_exactly() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    for _ in 0..10 {
        scene.switchover(None).await;
        scene.progress(5).await;
        scene.all_follow().await;
    }
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.in_sync().await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

/// Asks for a switchover that must be refused or given up, while clients work, and checks that
/// nothing happened. Returns the reason.
async fn refused(scene: &mut Scene, to: Option<NodeId>) -> String {
    let old = scene.primary().await.id();
    let options = clients(scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    let answer = scene.shard.pointsman.switchover(to.as_ref()).await.unwrap();
    let reason = answer.expect_err("the switchover can not work");
    assert_eq!(scene.primary().await.id(), old);
    scene.progress(20).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    let old = scene.primary().await;
    assert!(old.is_primary().await.unwrap());
    // No pause was left behind on the node.
    let mut bypass = old.client().await.unwrap();
    write_until_ok(&mut bypass, "bypass", "1").await;
    reason
}

#[tokio::test]
async fn a_switchover_to_a_stranger_is_refused() {
    let mut scene = Scene::start().await;
    let reason = refused(&mut scene, Some(NodeId::new("127.0.0.1:1"))).await;
    assert!(reason.contains("127.0.0.1:1"), "{reason}");
}

#[tokio::test]
async fn a_switchover_to_a_dead_node_is_refused() {
    let mut scene = Scene::start().await;
    scene.expect_log("-replica");
    scene.node(1).kill();
    let to = scene.node(1).id();
    refused(&mut scene, Some(to)).await;
}

#[tokio::test]
async fn a_switchover_to_a_node_that_hangs_is_given_up_and_nothing_happened() {
    let mut scene = Scene::start().await;
    scene.node(1).stop();
    let to = scene.node(1).id();
    refused(&mut scene, Some(to)).await;
    scene.node(1).cont();
    scene.in_sync().await;
}

#[tokio::test]
async fn a_switchover_to_a_node_that_nobody_could_follow_is_refused() {
    // The others would log in to node 1 with a password that it does not have.
    let mut scene = Scene::with_cluster(ClusterOptions {
        password: Some("secret".into()),
        ..ClusterOptions::default()
    })
    .await;
    let mut direct = scene.node(0).client().await.unwrap();
    ask(&mut direct, &["CONFIG", "SET", "masterauth", "wrong"]).await;
    let to = scene.node(1).id();
    refused(&mut scene, Some(to)).await;
}

#[tokio::test]
async fn a_switchover_while_a_client_blocks_and_another_is_in_a_transaction() {
    let mut scene = Scene::start().await;
    let mut blocked = scene.client().await;
    let mut queueing = scene.client().await;
    blocked.send(&["BLPOP", "queue", "0"]).await.unwrap();
    ask(&mut queueing, &["MULTI"]).await;
    ask(&mut queueing, &["INCR", "count"]).await;
    scene.switchover(None).await;
    let done = ask(&mut queueing, &["EXEC"]).await;
    assert_eq!(done.items().map(<[_]>::len), Some(1));
    let mut pusher = scene.client().await;
    ask(&mut pusher, &["RPUSH", "queue", "element"]).await;
    let popped = blocked.receive().await.unwrap();
    assert_eq!(
        popped.items().and_then(|items| items[1].text()),
        Some("element")
    );
    assert_eq!(get(&mut pusher, "count").await.as_deref(), Some("1"));
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn twenty_fast_clients_see_no_error() {
    let mut scene = Scene::start().await;
    let options = TrafficOptions {
        clients: vec![
            (Kind::Counter, 10),
            (Kind::Appender, 5),
            (Kind::Pipeline, 5),
        ],
        ..TrafficOptions::every_kind(scene.shard.address())
    };
    scene.traffic_of(options).await;
    scene.switchover(None).await;
    scene.progress(100).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
}
