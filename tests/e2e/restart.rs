//! pointsman itself is killed, stopped or ended, and started again.

use std::time::Duration;

use pointsman::lab::Value;

use crate::support::{Scene, ask, becomes_true, get, lasts, let_pass, write_until_ok};

/// Everything serves again after pointsman's restart: one primary, the old data, new writes.
async fn serves_again(scene: &Scene) {
    scene.shard.pointsman.ready().await.unwrap();
    let mut client = scene.client().await;
    let kept = get(&mut client, "kept").await;
    assert_eq!(
        kept.as_deref(),
        Some("x"),
        "{}",
        scene.shard.pointsman.log_tail()
    );
    write_until_ok(&mut client, "after", "x").await;
    let serving = scene.primary().await;
    assert!(serving.is_primary().await.unwrap());
}

#[tokio::test]
async fn killed_right_after_its_decision_was_recorded_it_resumes() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "kept", "x").await;
    scene.in_sync().await;
    let old = scene.shard.number_of(scene.primary().await);
    // The candidates hang, so that the decision stands and its execution can not end.
    for node in scene.shard.cluster.nodes() {
        if scene.shard.number_of(node) != old {
            node.stop();
        }
    }
    scene.node(old).kill();
    let record = scene.shard.pointsman.state_file();
    becomes_true("a recorded decision", async || {
        let text = std::fs::read_to_string(&record).unwrap_or_default();
        match text.contains("failing_over") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    scene.shard.pointsman.kill();
    for node in scene.shard.cluster.nodes() {
        node.cont();
    }
    scene.shard.pointsman.restart().unwrap();
    serves_again(&scene).await;
}

#[tokio::test]
async fn a_pointsman_that_was_stopped_during_the_fault_wakes_up_and_fails_over() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "before", "1").await;
    scene.in_sync().await;
    scene.shard.pointsman.stop();
    scene.node(0).kill();
    lasts(Duration::from_millis(1500)).await;
    scene.shard.pointsman.cont();
    scene.failed_over().await;
    assert_eq!(get(&mut client, "before").await.as_deref(), Some("1"));
    write_until_ok(&mut client, "after", "2").await;
}

#[tokio::test]
async fn a_pointsman_that_was_stopped_alone_does_not_fail_over() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "before", "1").await;
    scene.shard.pointsman.stop();
    lasts(Duration::from_millis(2500)).await;
    scene.shard.pointsman.cont();
    assert_eq!(get(&mut client, "before").await.as_deref(), Some("1"));
    let_pass(Duration::from_millis(500)).await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn asked_to_end_it_answers_what_is_on_its_way_and_ends_well() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let mut idle = scene.client().await;
    ask(&mut client, &["SET", "n", "1"]).await;
    ask(&mut idle, &["PING"]).await;
    let primary = scene.primary().await;
    primary.stop();
    client.send(&["INCR", "n"]).await.unwrap();
    // Nothing tells when it has reached the stopped node's socket.
    let_pass(Duration::from_millis(200)).await;
    scene.shard.pointsman.ask_to_end();
    lasts(Duration::from_millis(100)).await;
    primary.cont();
    assert_eq!(client.receive().await.unwrap(), Value::Integer(2));
    client.closed().await.unwrap();
    idle.closed().await.unwrap();
    let status = scene.shard.pointsman.ended().await.unwrap();
    assert!(status.success(), "{status}");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn started_again_it_serves_the_same_primary() {
    let mut scene = Scene::start().await;
    let report = scene.switchover(None).await;
    let mut client = scene.client().await;
    ask(&mut client, &["SET", "key", "value"]).await;
    let status = scene.shard.pointsman.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    scene.shard.pointsman.restart().unwrap();
    scene.shard.pointsman.ready().await.unwrap();
    assert_eq!(Some(scene.primary().await.id()), report.to);
    let mut client = scene.client().await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));
    scene.assert_log_is_clean();
}
