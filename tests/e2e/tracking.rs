//! Client-side caches over a failover: nothing stale survives.

use std::time::Duration;

use pointsman::lab::{Client, Protocol, ShardOptions, Value};

use crate::support::{Scene, ask, get, write_until_ok};

const CHANNEL: &str = "__redis__:invalidate";

async fn message(client: &mut Client) -> Value {
    let message = tokio::time::timeout(Duration::from_secs(20), client.message());
    message.await.expect("a message").unwrap()
}

/// Reads messages until all `keys` were named.
async fn hears_of_all(client: &mut Client, mut keys: Vec<String>) {
    while !keys.is_empty() {
        let message = message(client).await.to_string();
        keys.retain(|key| !message.contains(&format!("\"{key}\"")));
    }
}

#[tokio::test]
async fn redirected_invalidations_go_on_over_all_workers() {
    let mut scene = Scene::with(ShardOptions {
        proxy: "workers = 2".into(),
        ..ShardOptions::default()
    })
    .await;
    // Clients are spread over both workers; each target gets those of both.
    let mut targets = Vec::new();
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut target = scene.client().await;
        target.hello(protocol).await.unwrap();
        let id = ask(&mut target, &["CLIENT", "ID"]).await.number().unwrap();
        target.send(&["SUBSCRIBE", CHANNEL]).await.unwrap();
        message(&mut target).await;
        targets.push((target, id.to_string()));
    }
    let mut readers = Vec::new();
    for number in 0..8 {
        let mut reader = scene.client().await;
        let id = &targets[number % 2].1;
        ask(&mut reader, &["CLIENT", "TRACKING", "ON", "REDIRECT", id]).await;
        readers.push(reader);
    }
    let keys = |target: usize| {
        (0..8)
            .filter(move |n| n % 2 == target)
            .map(|n| format!("key-{n}"))
    };
    for round in ["before", "after"] {
        for (number, reader) in readers.iter_mut().enumerate() {
            get(reader, &format!("key-{number}")).await;
        }
        let mut writer = scene.client().await;
        for number in 0..8 {
            write_until_ok(&mut writer, &format!("key-{number}"), round).await;
        }
        for (number, (target, _)) in targets.iter_mut().enumerate() {
            hears_of_all(target, keys(number).collect()).await;
        }
        if round == "before" {
            scene.in_sync().await;
            scene.primary().await.kill();
            scene.failed_over().await;
            for (target, _) in &mut targets {
                let forget = message(target).await;
                assert_eq!(
                    forget.items().unwrap().last(),
                    Some(&Value::Null),
                    "{forget}"
                );
            }
        }
    }
    for (number, reader) in readers.iter_mut().enumerate() {
        let id = ask(reader, &["CLIENT", "GETREDIR"]).await.number().unwrap();
        assert_eq!(id.to_string(), targets[number % 2].1);
    }
}
