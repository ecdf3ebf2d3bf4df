//! Everything is down: requests wait, bounded, then get an error that says whether they ran.

use std::time::Duration;

use pointsman::lab::{Cluster, ClusterOptions, Data, Persistence, Pointsman, ShardOptions, Value};

use crate::support::{Scene, ask, becomes_true, get, now, write_until_ok};

#[tokio::test]
async fn with_every_node_down_requests_wait_and_then_say_that_they_did_not_run() {
    let scene = Scene::with(ShardOptions {
        requests: "hold_timeout = \"700ms\"".into(),
        ..ShardOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "value").await;
    scene.shard.cluster.kill_all();
    // What was on its way when the connection broke may have another answer; ask again.
    let _ = client.call(&["PING"]).await.unwrap();
    let began = now();
    let reply = client.call(&["INCR", "count"]).await.unwrap();
    let waited = now().since(began);
    let Value::Error(text) = &reply else {
        panic!("an answer without a server: {reply}");
    };
    assert!(text.contains("not executed"), "{text}");
    assert!(waited >= Duration::from_millis(600), "{waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn requests_that_wait_for_a_restart_of_everything_are_answered() {
    let scene = Scene::with_cluster(ClusterOptions {
        persistence: Persistence::Aof,
        ..ClusterOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    ask(&mut client, &["INCR", "count"]).await;
    scene.in_sync().await;
    scene.shard.cluster.kill_all();
    let (reply, started) = tokio::join!(client.call(&["INCR", "count"]), async {
        for node in scene.shard.cluster.nodes() {
            node.restart(Data::Kept).await?;
        }
        Ok::<_, pointsman::lab::LabError>(())
    });
    started.unwrap();
    // It was sent on a connection that was already gone, or waited: never on its way.
    let reply = reply.unwrap();
    if reply != Value::Integer(2) {
        assert!(reply.to_string().contains("outcome unknown"), "{reply}");
    }
}

/// Node 2 misses the last writes; then all go down, and come back in this order.
async fn the_newest_history_serves_after(orders: &[[usize; 3]]) {
    let scene = Scene::with_cluster(ClusterOptions {
        persistence: Persistence::Aof,
        ..ClusterOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    let mut count = 0;
    for order in orders {
        let primary = scene.shard.number_of(scene.primary().await);
        let stale = (primary + 2) % 3;
        scene.node(stale).kill();
        for _ in 0..20 {
            count += 1;
            assert_eq!(
                ask(&mut client, &["INCR", "count"]).await,
                Value::Integer(count)
            );
        }
        let both = [primary, (primary + 1) % 3];
        scene
            .shard
            .cluster
            .these_in_sync(&both, Duration::from_secs(10))
            .await
            .unwrap();
        scene.shard.cluster.kill_all();
        for number in order {
            // Relative to the old primary, so that every order is tried.
            scene
                .node((primary + number) % 3)
                .restart(Data::Kept)
                .await
                .unwrap();
        }
        becomes_true("an answer after the outage", async || {
            let seen = get(&mut client, "count").await;
            match seen {
                Some(seen) if seen == count.to_string() => Ok(()),
                // A wrong answer is never right later.
                Some(seen) => panic!("{seen} instead of {count} after {order:?}"),
                None => panic!("nothing instead of {count} after {order:?}"),
            }
        })
        .await;
        scene.in_sync().await;
    }
}

#[tokio::test]
async fn all_nodes_down_and_back_the_primary_first_or_second() {
    the_newest_history_serves_after(&[[0, 1, 2], [0, 2, 1], [1, 0, 2]]).await;
}

#[tokio::test]
async fn all_nodes_down_and_back_the_stale_one_first_or_the_primary_last() {
    the_newest_history_serves_after(&[[1, 2, 0], [2, 0, 1], [2, 1, 0]]).await;
}

#[tokio::test]
async fn pointsman_starts_before_its_nodes_and_says_what_it_waits_for() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    cluster.kill_all();
    let options = ShardOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        ..ShardOptions::default()
    };
    let pointsman = Pointsman::start(&options.in_front_of(&cluster)).unwrap();
    becomes_true(
        "an honest /readyz",
        async || match pointsman::lab::http::get(&pointsman.admin(), "/readyz").await {
            Ok((503, body)) if body.contains("refuses connections") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    let mut client = pointsman.client(None).await.unwrap();
    client.send(&["SET", "early", "bird"]).await.unwrap();
    for node in cluster.nodes() {
        node.restart_now(Data::Kept).unwrap();
    }
    assert!(client.receive().await.unwrap().is_ok());
    pointsman.ready().await.unwrap();
    assert_eq!(get(&mut client, "early").await.as_deref(), Some("bird"));
}
