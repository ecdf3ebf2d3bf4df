//! A record in a coordinator, and what becomes of everybody when that is gone.

use pointsman::control::StoreKind;
use pointsman::lab::{Engine, ShardOptions, http};

use crate::support::{Scene, assert_the_promise_was_kept, becomes_true, get, write_until_ok};

/// `None`: this machine has none.
async fn with(kind: StoreKind) -> Option<(Engine, Scene)> {
    if let Some(what) = Engine::missing(kind) {
        eprintln!("NOT RUN: {what} is missing; scripts/setup.sh test gets it");
        return None;
    }
    let engine = Engine::start(kind, 1).await.unwrap();
    let keys = format!("endpoints = {:?}", engine.endpoints());
    let name = kind.name();
    let mut scene = Scene::with(ShardOptions {
        authority: Some(format!("{{ kind = \"{name}\", {keys} }}")),
        backend: format!("publishers = [{{ kind = \"kv\", store = \"{name}\", {keys} }}]"),
        ..ShardOptions::default()
    })
    .await;
    // On a busy machine it may answer late.
    scene.expect_log("the authority can not be");
    Some((engine, scene))
}

async fn fails_over(kind: StoreKind) {
    let Some((_engine, mut scene)) = with(kind).await else {
        return;
    };
    scene.traffic().await;
    scene.in_sync().await;
    scene.kill_primary().await;
    scene.failed_over().await;
    scene.progress(50).await;
    let told = "pointsman_publications_total{backend=\"main\",outcome=\"done\",publisher=\"kv\"}";
    becomes_true("a published change", async || {
        let count = scene.shard.pointsman.metric(told).await;
        match count.map_err(|e| e.to_string())? {
            Some(count) if count >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn it_fails_over_with_a_record_in_etcd() {
    fails_over(StoreKind::Etcd).await;
}

#[tokio::test]
async fn it_fails_over_with_a_record_in_consul() {
    fails_over(StoreKind::Consul).await;
}

#[tokio::test]
async fn it_fails_over_with_a_record_in_zookeeper() {
    fails_over(StoreKind::ZooKeeper).await;
}

#[tokio::test]
async fn without_the_coordinator_traffic_goes_on_and_nothing_is_decided() {
    let Some((mut engine, mut scene)) = with(StoreKind::Etcd).await else {
        return;
    };
    let mut client = scene.client().await;
    write_until_ok(&mut client, "before", "1").await;
    scene.in_sync().await;
    engine.kill(0);
    write_until_ok(&mut client, "meanwhile", "2").await;
    let old = scene.kill_primary().await;
    let admin = scene.shard.pointsman.admin();
    let server = engine.endpoints()[0].clone();
    becomes_true("the reason in the status", async || {
        let text = match http::get(&admin, "/api/status").await {
            Ok((200, text)) => text,
            other => return Err(format!("{other:?}")),
        };
        let says = |word: &str| text.contains(word);
        match says("\"undecided\":\"") && says("refused") && says(&server) {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    scene.nothing_else_happened().await;
    for node in scene.shard.cluster.nodes() {
        if scene.shard.number_of(node) != old {
            assert!(!node.is_primary().await.unwrap(), "nobody may decide");
        }
    }
    engine.restart(0).await.unwrap();
    scene.failed_over().await;
    write_until_ok(&mut client, "after", "3").await;
    for (key, value) in [("before", "1"), ("meanwhile", "2")] {
        assert_eq!(get(&mut client, key).await.as_deref(), Some(value));
    }
}
