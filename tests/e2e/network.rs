//! The network is cut: silence, no refusal and no reset.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Kind};
use pointsman::topology::Fault;

use crate::support::{
    Scene, assert_no_error_at_all, assert_pause_below, assert_the_promise_was_kept, becomes_true,
    clients, lasts, network,
};

#[tokio::test]
async fn a_primary_that_is_cut_off_is_replaced() {
    if !network::is_mine("network::a_primary_that_is_cut_off_is_replaced") {
        return;
    }
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let old = scene.shard.number_of(scene.primary().await);
    network::cut(scene.node(old).port());
    let report = scene.failed_over().await;
    assert_eq!(report.fault, Fault::Unacked);
    scene.progress(20).await;
    // It comes back as a primary that knows of nothing.
    network::heal();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(3));
    scene.in_sync().await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_cut_of_200_ms_is_a_pause_and_no_failover() {
    if !network::is_mine("network::a_cut_of_200_ms_is_a_pause_and_no_failover") {
        return;
    }
    let mut scene = Scene::start().await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    network::cut(scene.primary().await.port());
    lasts(Duration::from_millis(200)).await;
    network::heal();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn a_primary_that_others_still_write_to_is_not_replaced() {
    if !network::is_mine("network::a_primary_that_others_still_write_to_is_not_replaced") {
        return;
    }
    // The replicas come from addresses of their own, and so does another writer.
    let cluster = ClusterOptions::default()
        .node_line(1, "bind-source-addr 127.0.0.2")
        .node_line(2, "bind-source-addr 127.0.0.3");
    let mut scene = Scene::with_cluster(cluster).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    let port = scene.primary().await.port();
    let writer = tokio::spawn(network::write_from_elsewhere(port));
    becomes_true("the other writer at work", async || {
        match scene.node(0).cli(&["GET", "elsewhere"]).await {
            Ok(count) if count.text().is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    network::cut_for_us(port);
    lasts(Duration::from_millis(2500)).await;
    network::heal();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    writer.abort();
    assert_no_error_at_all(&verdict);
    scene.nothing_else_happened().await;
}
