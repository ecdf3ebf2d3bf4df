//! What a client sees while the primary changes.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Protocol};
use pointsman::proxy::BackendSettings;
use pointsman::topology::Gate;

use crate::plane::{PATIENCE, Plane, ask, hear, message, send};

#[tokio::test]
async fn a_request_waits_while_the_gate_is_closed() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "INCR n").await, ":1");
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    send(&mut client, "INCR n").await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), client.receive())
            .await
            .is_err()
    );
    plane.gate(Gate::Open);
    assert_eq!(hear(&mut client).await, ":2");
}

#[tokio::test]
async fn requests_go_to_the_new_primary_in_the_order_they_were_sent() {
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "SET k old").await, "+OK");
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");
    plane.node(0).stop();
    for request in [
        &["GET", "k"][..],
        &["SET", "k", "new"],
        &["INCR", "n"],
        &["GET", "k"],
    ] {
        client.queue(request);
    }
    client.flush().await.expect("sent");
    plane.promote(2, 1).await;
    assert_eq!(hear(&mut client).await, "\"old\"");
    assert_eq!(hear(&mut client).await, "+OK");
    // Whether it had been written yet is a matter of how the requests arrived.
    let count = hear(&mut client).await;
    assert!(
        count.starts_with("-POINTSMAN outcome unknown: ") || count == ":1",
        "{count}"
    );
    assert_eq!(hear(&mut client).await, "\"new\"");
    plane.node(0).cont();
    assert_eq!(ask(&mut client, "GET k").await, "\"new\"");
}

#[tokio::test]
async fn of_a_pipeline_that_the_node_half_took_only_that_half_is_unknown() {
    const APPENDS: usize = 1000;
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    // More requests may be on their way once their replies are known to be small.
    for _ in 0..400 {
        client.queue(&["INCR", "n"]);
    }
    client.flush().await.expect("sent");
    for expected in 1..=400 {
        assert_eq!(hear(&mut client).await, format!(":{expected}"));
    }
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");
    plane.node(0).stop();
    // More than the kernel takes for a node that reads nothing.
    let value = "v".repeat(12_000);
    for number in 0..APPENDS {
        client.queue(&["APPEND", &format!("half:{number}"), &value]);
    }
    client.flush().await.expect("sent");
    plane.promote(2, 1).await;
    let mut unknown = 0;
    for number in 0..APPENDS {
        let reply = hear(&mut client).await;
        if reply.starts_with("-POINTSMAN outcome unknown: ") {
            assert_eq!(unknown, number, "behind one that was not sent");
            unknown += 1;
        } else {
            assert_eq!(reply, ":12000");
        }
    }
    assert!((1..APPENDS).contains(&unknown), "{unknown}");
    for number in 0..APPENDS {
        let length = ask(&mut client, &format!("STRLEN half:{number}")).await;
        let expected = if number < unknown { ":0" } else { ":12000" };
        assert_eq!(length, expected, "{number} of {unknown}");
    }
    plane.node(0).cont();
}

#[tokio::test]
async fn a_pipeline_that_a_killed_node_took_is_told_apart_request_by_request() {
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "SET k old").await, "+OK");
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");
    plane.node(0).stop();
    // Side by side as a client sends them: each sort is one entry of the lane.
    let pipeline = [
        ["GET", "k"],
        ["INCR", "n"],
        ["GETDEL", "k"],
        ["STRLEN", "k"],
    ];
    for request in pipeline.iter().flat_map(|request| [request; 10]) {
        client.queue(request);
    }
    client.flush().await.expect("sent");
    // All of it must have left for the node that is killed then.
    let early = tokio::time::timeout(Duration::from_millis(100), client.receive()).await;
    assert!(early.is_err());
    plane.node(0).kill();
    plane.promote(2, 1).await;
    let mut replies = Vec::new();
    let each = async {
        for _ in 0..4 * 10 {
            replies.push(hear(&mut client).await);
        }
    };
    tokio::time::timeout(PATIENCE, each)
        .await
        .expect("a reply to each");
    let unknown = |reply: &String| reply.starts_with("-POINTSMAN outcome unknown: ");
    assert!(
        replies[..10].iter().all(|reply| reply == "\"old\""),
        "{replies:?}"
    );
    assert!(replies[10..30].iter().all(unknown), "{replies:?}");
    assert!(
        replies[30..].iter().all(|reply| reply == ":3"),
        "{replies:?}"
    );
    assert_eq!(ask(&mut client, "GET n").await, "nil");
}

#[tokio::test]
async fn retry_reads_sends_no_write_twice() {
    let settings = BackendSettings {
        retry: pointsman::proxy::Retry::Reads,
        ..Default::default()
    };
    let options = ClusterOptions {
        replicas: 1,
        ..Default::default()
    };
    let plane = Plane::with(options, settings).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
    plane.node(0).stop();
    send(&mut client, "SET k v").await;
    send(&mut client, "GET k").await;
    // Both must have left for the old primary before the new one is published.
    assert!(
        tokio::time::timeout(Duration::from_millis(100), client.receive())
            .await
            .is_err()
    );
    plane.promote(2, 1).await;
    assert!(
        hear(&mut client)
            .await
            .starts_with("-POINTSMAN outcome unknown: ")
    );
    assert_eq!(hear(&mut client).await, "nil");
    plane.node(0).cont();
}

#[tokio::test]
async fn a_demoted_primary_is_noticed_by_its_replies_and_nothing_is_lost() {
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "INCR n").await, ":1");
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");
    let port = plane.node(1).port().to_string();
    plane
        .node(1)
        .cli(&["REPLICAOF", "NO", "ONE"])
        .await
        .expect("promoted");
    plane
        .node(0)
        .cli(&["REPLICAOF", "127.0.0.1", &port])
        .await
        .expect("demoted");
    for _ in 0..20 {
        client.queue(&["INCR", "n"]);
    }
    client.flush().await.expect("sent");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), client.receive())
            .await
            .is_err()
    );
    plane.publish(2, 1, Gate::Open).await;
    for expected in 2..=21 {
        assert_eq!(hear(&mut client).await, format!(":{expected}"));
    }
}

#[tokio::test]
async fn every_kind_of_state_survives_a_change_of_primary() {
    let plane = Plane::start(1).await;
    let (mut multi, mut watch, mut blocked) = (
        plane.client().await,
        plane.client().await,
        plane.client().await,
    );
    let (mut subscriber, mut scripted, mut named) = (
        plane.client().await,
        plane.client().await,
        plane.client().await,
    );
    let mut tracking = plane.client().await;
    assert_eq!(ask(&mut multi, "MULTI").await, "+OK");
    assert_eq!(ask(&mut multi, "INCR tx").await, "+QUEUED");
    assert_eq!(ask(&mut watch, "WATCH w").await, "+OK");
    send(&mut blocked, "BLPOP list 30").await;
    assert!(
        ask(&mut subscriber, "SUBSCRIBE news")
            .await
            .contains("\"subscribe\"")
    );
    let body = "return redis.call('INCR','script')";
    let sha = scripted
        .call(&["SCRIPT", "LOAD", body])
        .await
        .expect("loaded");
    let sha = sha.text().expect("a digest").to_owned();
    assert_eq!(ask(&mut named, "SELECT 4").await, "+OK");
    assert_eq!(ask(&mut named, "CLIENT SETNAME bob").await, "+OK");
    assert_eq!(ask(&mut named, "SET where four").await, "+OK");
    tracking.hello(Protocol::Resp3).await.expect("HELLO 3");
    assert_eq!(ask(&mut tracking, "CLIENT TRACKING ON").await, "+OK");
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");

    plane.node(0).kill();
    plane.promote(2, 1).await;

    assert_eq!(ask(&mut multi, "INCR tx").await, "+QUEUED");
    assert_eq!(ask(&mut multi, "EXEC").await, "[:1, :2]");
    assert_eq!(ask(&mut watch, "MULTI").await, "+OK");
    assert_eq!(ask(&mut watch, "SET w 1").await, "+QUEUED");
    assert_eq!(ask(&mut watch, "EXEC").await, "nil");
    assert_eq!(ask(&mut watch, "GET w").await, "nil");
    assert_eq!(ask(&mut scripted, &format!("EVALSHA {sha} 0")).await, ":1");
    assert_eq!(ask(&mut named, "GET where").await, "\"four\"");
    assert_eq!(ask(&mut named, "CLIENT GETNAME").await, "\"bob\"");
    assert!(message(&mut tracking).await.contains("\"invalidate\", nil"));
    let mut other = plane.client().await;
    assert_eq!(ask(&mut other, "RPUSH list x").await, ":1");
    assert_eq!(hear(&mut blocked).await, "[\"list\", \"x\"]");
    // Subscribed again before anything could be published.
    assert_eq!(ask(&mut other, "PUBLISH news flash").await, ":1");
    assert_eq!(
        hear(&mut subscriber).await,
        "[\"message\", \"news\", \"flash\"]"
    );
}

#[tokio::test]
async fn a_transaction_that_was_sent_whole_is_unknown_when_its_reply_is_lost() {
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
    plane.node(0).stop();
    for request in [&["MULTI"][..], &["INCR", "a"], &["EXEC"], &["PING"]] {
        client.queue(request);
    }
    client.flush().await.expect("sent");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), client.receive())
            .await
            .is_err()
    );
    plane.promote(2, 1).await;
    assert_eq!(hear(&mut client).await, "+OK");
    assert_eq!(hear(&mut client).await, "+QUEUED");
    assert!(
        hear(&mut client)
            .await
            .starts_with("-POINTSMAN outcome unknown: ")
    );
    assert_eq!(hear(&mut client).await, "+PONG");
    plane.node(0).cont();
}

#[tokio::test]
async fn who_wants_no_replies_is_not_told_that_an_outcome_is_unknown() {
    let plane = Plane::start(1).await;
    let (mut silent, mut other) = (plane.client().await, plane.client().await);
    for request in [&["CLIENT", "REPLY", "OFF"][..], &["MULTI"], &["INCR", "a"]] {
        silent.queue(request);
    }
    silent.flush().await.expect("sent");
    pointsman::lab::until("queued", PATIENCE, async || {
        match ask(&mut other, "CLIENT LIST").await {
            list if list.contains(" multi=1") => Ok(()),
            list => Err(list),
        }
    })
    .await
    .expect("INCR is queued");
    plane.node(0).stop();
    send(&mut silent, "EXEC").await;
    let early = tokio::time::timeout(Duration::from_millis(100), silent.receive()).await;
    assert!(early.is_err());
    plane.promote(2, 1).await;
    assert_eq!(ask(&mut silent, "CLIENT REPLY ON").await, "+OK");
    assert_eq!(ask(&mut silent, "GET a").await, "nil");
    plane.node(0).cont();
}

#[tokio::test]
async fn a_held_request_gets_an_error_in_the_end_that_says_it_did_not_run() {
    let plane = Plane::impatient(Duration::from_millis(300)).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    let reply = ask(&mut client, "INCR n").await;
    assert!(
        reply.starts_with("-POINTSMAN not executed: there was no primary"),
        "{reply}"
    );
    plane.gate(Gate::Open);
    assert_eq!(ask(&mut client, "GET n").await, "nil");
}

#[tokio::test]
async fn a_restarted_process_gets_no_request_before_it_is_published() {
    let mut plane = Plane::start(0).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "SET k v").await, "+OK");
    plane.node(0).kill();
    plane
        .node(0)
        .restart(pointsman::lab::Data::Empty)
        .await
        .expect("restarted");
    send(&mut client, "GET k").await;
    let reborn = async {
        while let Some(evidence) = plane.evidence().recv().await {
            if evidence.kind == pointsman::topology::EvidenceKind::Reborn {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reborn)
        .await
        .expect("the worker tells of another process");
    plane.publish(2, 0, Gate::Open).await;
    assert_eq!(hear(&mut client).await, "nil");
}
