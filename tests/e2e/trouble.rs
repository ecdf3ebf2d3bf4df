//! Bad days that are no death: full disks, busy scripts, strangers, too many clients.

use std::time::Duration;

use pointsman::lab::{
    Cluster, ClusterOptions, Kind, Pointsman, PointsmanOptions, ShardOptions, Value,
};
use pointsman::topology::Fault;

use crate::support::{
    Scene, ask, assert_no_error_at_all, becomes_true, clients, get, let_pass, snapshots_fail,
    status_says, with_snapshots, write_until_ok,
};

#[tokio::test]
async fn a_full_disk_is_told_to_the_client_and_is_no_failover() {
    let mut scene = Scene::with_cluster(with_snapshots()).await;
    scene.expect_log("MISCONF");
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    snapshots_fail(scene.primary().await).await;
    let refused = client.call(&["SET", "key", "2"]).await.unwrap();
    assert!(refused.to_string().starts_with("-MISCONF"), "{refused}");
    // Reads go on, on the same connection.
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
    let_pass(Duration::from_millis(1500)).await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_full_disk_is_a_failover_where_the_operator_wants_it() {
    let mut scene = Scene::with(ShardOptions {
        cluster: with_snapshots(),
        failover: "promote_on_disk_error = true".into(),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("MISCONF");
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    let old = scene.primary().await.id();
    scene.in_sync().await;
    snapshots_fail(scene.primary().await).await;
    let report = scene.failed_over().await;
    assert_eq!(report.fault, Fault::ErrorReplies);
    assert_ne!(report.to, Some(old));
    write_until_ok(&mut client, "key", "2").await;
}

#[tokio::test]
async fn a_busy_script_is_told_to_the_client_and_is_no_failover() {
    let mut scene = Scene::with_cluster(ClusterOptions {
        config: vec!["lua-time-limit 100".into()],
        ..ClusterOptions::default()
    })
    .await;
    scene.expect_log("BUSY");
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    let primary = scene.primary().await;
    let mut endless = primary.client().await.unwrap();
    endless
        .send(&["EVAL", "while true do end", "0"])
        .await
        .unwrap();
    becomes_true("a busy primary", async || {
        match client.call(&["GET", "key"]).await.unwrap() {
            Value::Error(text) if text.starts_with("BUSY") => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let_pass(Duration::from_millis(2500)).await;
    // The client's own way out works through pointsman.
    ask(&mut client, &["SCRIPT", "KILL"]).await;
    becomes_true("the end of the script", async || {
        match client.call(&["GET", "key"]).await.unwrap() {
            reply if reply.text() == Some("1") => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_full_memory_is_told_to_the_client_and_is_no_failover() {
    let scene = Scene::with_cluster(ClusterOptions {
        config: vec!["maxmemory 1".into()],
        ..ClusterOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    let refused = client.call(&["SET", "key", "value"]).await.unwrap();
    assert!(refused.to_string().starts_with("-OOM"), "{refused}");
    let_pass(Duration::from_millis(1500)).await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn an_operators_own_promotion_is_followed() {
    let mut scene = Scene::with(ShardOptions {
        follow: true,
        ..ShardOptions::default()
    })
    .await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    // As an operator or an orchestrator does it: promote one, then point the others at it.
    let port = scene.node(1).port().to_string();
    scene
        .node(1)
        .cli(&["REPLICAOF", "NO", "ONE"])
        .await
        .unwrap();
    for number in [0, 2] {
        scene
            .node(number)
            .cli(&["REPLICAOF", "127.0.0.1", &port])
            .await
            .unwrap();
    }
    let old = scene.node(0);
    scene
        .shard
        .primary_is_not(old, Duration::from_secs(10))
        .await
        .unwrap();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
}

#[tokio::test]
async fn a_follower_never_acts() {
    let scene = Scene::with(ShardOptions {
        follow: true,
        requests: "hold_timeout = \"500ms\"".into(),
        ..ShardOptions::default()
    })
    .await;
    scene.node(0).kill();
    let_pass(Duration::from_secs(2)).await;
    assert_eq!(
        scene.shard.cluster.who_is_primary().await,
        Vec::<usize>::new()
    );
}

#[tokio::test]
async fn a_stranger_among_the_nodes_hurts_nobody() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = listener.local_addr().unwrap();
    let garbage = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff*-7\r\n$x";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, hello).await;
        }
    });
    let mut nodes = cluster.addresses();
    nodes.push(stranger.to_string());
    let pointsman = Pointsman::start_ready(&PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        ..PointsmanOptions::in_front_of(nodes)
    })
    .await
    .unwrap();
    status_says(&pointsman, "not_redis").await;
    let mut client = pointsman.client(None).await.unwrap();
    write_until_ok(&mut client, "key", "1").await;
    cluster.in_sync(Duration::from_secs(10)).await.unwrap();
    cluster.node(0).kill();
    write_until_ok(&mut client, "key", "2").await;
    assert_eq!(
        pointsman
            .failover(1, Duration::from_secs(10))
            .await
            .unwrap()
            .fault,
        Fault::Refused
    );
    garbage.abort();
}

#[tokio::test]
async fn nodes_given_by_name_fail_over_as_well() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let named = |address: String| address.replace("127.0.0.1", "localhost");
    let pointsman = Pointsman::start_ready(&PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        ..PointsmanOptions::in_front_of(cluster.addresses().into_iter().map(named).collect())
    })
    .await
    .unwrap();
    let mut client = pointsman.client(None).await.unwrap();
    write_until_ok(&mut client, "key", "1").await;
    cluster.in_sync(Duration::from_secs(10)).await.unwrap();
    cluster.node(0).kill();
    write_until_ok(&mut client, "after", "2").await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
    let both = cluster
        .these_in_sync(&[1, 2], Duration::from_secs(15))
        .await;
    both.unwrap_or_else(|error| panic!("{error}\n{}", pointsman.log_tail()));
}

#[tokio::test]
async fn a_node_without_room_for_more_clients_keeps_those_it_has() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    let primary = scene.primary().await;
    let mut direct = primary.client().await.unwrap();
    let used = primary.info_field("connected_clients").await.unwrap();
    ask(&mut direct, &["CONFIG", "SET", "maxclients", &used]).await;
    // A blocking command needs a connection of its own, which the node refuses.
    let mut blocked = scene.client().await;
    blocked.send(&["BLPOP", "queue", "1"]).await.unwrap();
    for _ in 0..100 {
        assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
    }
    let_pass(Duration::from_millis(1500)).await;
    ask(&mut direct, &["CONFIG", "SET", "maxclients", "1000"]).await;
    let reply = blocked.receive().await.unwrap();
    assert!(matches!(reply, Value::Null | Value::Error(_)), "{reply}");
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn a_primary_that_takes_nobody_in_is_no_failover_and_the_status_says_so() {
    let mut scene = Scene::start().await;
    scene.expect_log("too many clients");
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "1").await;
    let primary = scene.primary().await;
    let mut direct = primary.client().await.unwrap();
    ask(&mut direct, &["CONFIG", "SET", "maxclients", "1"]).await;
    ask(&mut direct, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    client.send(&["GET", "key"]).await.unwrap();
    status_says(&scene.shard.pointsman, "has too many clients").await;
    // For what must not happen there is nothing else to wait for.
    let_pass(Duration::from_millis(1500)).await;
    scene.nothing_else_happened().await;
    ask(&mut direct, &["CONFIG", "SET", "maxclients", "1000"]).await;
    let reply = client.receive().await.unwrap();
    assert_eq!(reply.text(), Some("1"), "{reply}");
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}
