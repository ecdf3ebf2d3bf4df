//! CLIENT TRACKING in every mode, also over a change of primary.

use std::time::Duration;

use pointsman::lab::{Client, Protocol};
use pointsman::topology::Gate;

use crate::plane::{PATIENCE, Plane, ask, hear, message, send};

const CHANNEL: &str = "__redis__:invalidate";
const FORGET_RESP2: &str = "[\"message\", \"__redis__:invalidate\", nil]";
const FORGET_RESP3: &str = ">[\"invalidate\", nil]";

/// A RESP3 client.
async fn resp3(plane: &Plane) -> Client {
    let mut client = plane.client().await;
    client.hello(Protocol::Resp3).await.expect("HELLO 3");
    client
}

/// A RESP2 client that gets invalidations of others, and its id.
async fn target(plane: &Plane) -> (Client, String) {
    let mut client = plane.client().await;
    let id = ask(&mut client, "CLIENT ID").await[1..].to_owned();
    send(&mut client, &format!("SUBSCRIBE {CHANNEL}")).await;
    assert!(message(&mut client).await.contains("\"subscribe\""));
    (client, id)
}

fn invalidated(key: &str) -> String {
    format!("[\"message\", \"{CHANNEL}\", [\"{key}\"]]")
}

fn pushed(key: &str) -> String {
    format!(">[\"invalidate\", [\"{key}\"]]")
}

/// The next message names `key`, and no other.
async fn hears_of(client: &mut Client, key: &str) {
    let message = message(client).await;
    assert!(
        message == pushed(key) || message == invalidated(key),
        "{message} is not of {key}"
    );
}

#[tokio::test]
async fn every_mode_does_what_it_does_without_pointsman() {
    let plane = Plane::start(0).await;
    let mut writer = plane.client().await;

    let mut bcast = resp3(&plane).await;
    assert_eq!(
        ask(&mut bcast, "CLIENT TRACKING ON BCAST PREFIX a: PREFIX b:").await,
        "+OK"
    );
    ask(&mut writer, "SET c:1 x").await;
    ask(&mut writer, "SET b:1 x").await;
    hears_of(&mut bcast, "b:1").await;

    let mut optin = resp3(&plane).await;
    assert_eq!(ask(&mut optin, "CLIENT TRACKING ON OPTIN").await, "+OK");
    ask(&mut optin, "GET c:1").await;
    assert_eq!(ask(&mut optin, "CLIENT CACHING YES").await, "+OK");
    ask(&mut optin, "GET c:2").await;
    ask(&mut optin, "GET c:3").await;
    ask(&mut writer, "MSET c:1 y c:3 y c:2 y").await;
    hears_of(&mut optin, "c:2").await;

    let mut optout = resp3(&plane).await;
    assert_eq!(ask(&mut optout, "CLIENT TRACKING ON OPTOUT").await, "+OK");
    assert_eq!(ask(&mut optout, "CLIENT CACHING NO").await, "+OK");
    ask(&mut optout, "GET c:1").await;
    ask(&mut optout, "GET c:2").await;
    ask(&mut writer, "MSET c:1 z c:2 z").await;
    hears_of(&mut optout, "c:2").await;

    let mut noloop = resp3(&plane).await;
    assert_eq!(ask(&mut noloop, "CLIENT TRACKING ON NOLOOP").await, "+OK");
    ask(&mut noloop, "GET c:1").await;
    ask(&mut noloop, "GET c:2").await;
    ask(&mut noloop, "SET c:1 own").await;
    ask(&mut writer, "SET c:2 other").await;
    hears_of(&mut noloop, "c:2").await;

    assert_eq!(ask(&mut noloop, "CLIENT TRACKING OFF").await, "+OK");
    assert_eq!(ask(&mut noloop, "CLIENT GETREDIR").await, ":-1");
    for request in [
        "CLIENT CACHING YES",
        "CLIENT TRACKING MAYBE",
        "CLIENT TRACKING ON OPTIN OPTOUT",
    ] {
        assert!(
            ask(&mut noloop, request).await.starts_with("-ERR "),
            "{request}"
        );
    }
}

#[tokio::test]
async fn invalidations_are_redirected_and_ids_are_those_of_pointsman() {
    let plane = Plane::start(0).await;
    let (mut writer, mut reader) = (plane.client().await, plane.client().await);
    let (mut target, id) = target(&plane).await;
    let request = format!("CLIENT TRACKING ON NOLOOP REDIRECT {id}");
    assert_eq!(ask(&mut reader, &request).await, "+OK");
    assert_eq!(ask(&mut reader, "CLIENT GETREDIR").await, format!(":{id}"));
    let info = ask(&mut reader, "CLIENT TRACKINGINFO").await;
    // Redis 6.0 does not know it.
    assert!(
        info.contains(&format!("\"redirect\", :{id}")) || info.starts_with("-ERR Unknown"),
        "{info}"
    );
    let line = ask(&mut reader, "CLIENT INFO").await;
    // Nor this.
    assert!(
        (line.contains(&format!(" redir={id} ")) && line.contains(" flags=t "))
            || line.starts_with("-ERR Unknown"),
        "{line}"
    );
    ask(&mut reader, "GET k").await;
    ask(&mut writer, "SET k 1").await;
    assert_eq!(message(&mut target).await, invalidated("k"));

    // Off, and it is only the target of nobody any more.
    assert_eq!(ask(&mut reader, "CLIENT TRACKING OFF").await, "+OK");
    assert_eq!(ask(&mut reader, "CLIENT GETREDIR").await, ":-1");
    ask(&mut reader, "GET k").await;
    ask(&mut writer, "SET k 2").await;
    ask(&mut writer, &format!("PUBLISH {CHANNEL} end")).await;
    assert!(message(&mut target).await.contains("\"end\""));
}

#[tokio::test]
async fn what_can_not_be_redirected_to_is_refused() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    let id = ask(&mut b, "CLIENT ID").await[1..].to_owned();
    let missing = "-ERR The client ID you want redirect to does not exist";
    for (request, expected) in [
        ("CLIENT TRACKING ON REDIRECT 4711", missing),
        (
            "CLIENT TRACKING ON REDIRECT x",
            "-ERR value is not an integer or out of range",
        ),
        ("CLIENT TRACKING ON REDIRECT", "-ERR syntax error"),
        (
            &format!("CLIENT TRACKING ON REDIRECT {id}"),
            "-POINTSMAN not executed: ",
        ),
    ] {
        let reply = ask(&mut a, request).await;
        assert!(reply.starts_with(expected), "{request}: {reply}");
    }
    assert_eq!(ask(&mut a, "MULTI").await, "+OK");
    let refused = ask(&mut a, &format!("CLIENT TRACKING ON REDIRECT {id}")).await;
    assert!(
        refused.starts_with("-POINTSMAN not executed: "),
        "{refused}"
    );
    assert!(ask(&mut a, "EXEC").await.starts_with("-EXECABORT"));
}

#[tokio::test]
async fn a_client_is_told_when_its_target_left() {
    let plane = Plane::start(1).await;
    let mut writer = plane.client().await;
    for failover in [false, true] {
        let mut reader = resp3(&plane).await;
        let (target, id) = target(&plane).await;
        assert_eq!(
            ask(&mut reader, &format!("CLIENT TRACKING ON REDIRECT {id}")).await,
            "+OK"
        );
        ask(&mut reader, "GET k").await;
        drop(target);
        pointsman::lab::until("the target is gone", PATIENCE, async || {
            let list = ask(&mut writer, "CLIENT LIST").await;
            if list.contains(&format!("id={id} ")) {
                Err(list)
            } else {
                Ok(())
            }
        })
        .await
        .expect("gone");
        if failover {
            plane.promote(2, 1).await;
        }
        ask(&mut writer, "SET k 1").await;
        assert_eq!(
            message(&mut reader).await,
            format!(">[\"tracking-redir-broken\", :{id}]")
        );
    }
}

#[tokio::test]
async fn the_upstream_of_a_former_target_serves_nobody_else() {
    let plane = Plane::start(0).await;
    let (mut reader, mut writer) = (plane.client().await, plane.client().await);
    let (mut target, id) = target(&plane).await;
    assert_eq!(
        ask(&mut reader, &format!("CLIENT TRACKING ON REDIRECT {id}")).await,
        "+OK"
    );
    // Subscribed to nothing it is still the target, and again a subscriber later.
    send(&mut target, "UNSUBSCRIBE").await;
    message(&mut target).await;
    send(&mut target, &format!("SUBSCRIBE {CHANNEL}")).await;
    message(&mut target).await;
    ask(&mut reader, "GET k").await;
    ask(&mut writer, "SET k 1").await;
    assert_eq!(message(&mut target).await, invalidated("k"));
    assert_eq!(ask(&mut reader, "CLIENT TRACKING OFF").await, "+OK");
    let before = plane
        .node(0)
        .cli(&["CLIENT", "LIST"])
        .await
        .expect("CLIENT LIST")
        .to_string();
    send(&mut target, "UNSUBSCRIBE").await;
    message(&mut target).await;
    let mut other = plane.client().await;
    send(&mut other, &format!("SUBSCRIBE {CHANNEL}")).await;
    message(&mut other).await;
    let after = plane
        .node(0)
        .cli(&["CLIENT", "LIST"])
        .await
        .expect("CLIENT LIST")
        .to_string();
    let subscriber = |list: &str| {
        let line = list
            .split("\\n")
            .find(|l| l.contains(" sub=1 "))
            .map(str::to_owned);
        line.and_then(|l| l.split(' ').next().map(str::to_owned))
            .expect("a subscriber")
    };
    assert_ne!(subscriber(&before), subscriber(&after));
}

#[tokio::test]
async fn after_a_change_of_primary_every_mode_works_and_caches_are_dropped() {
    let plane = Plane::start(1).await;
    let (mut bcast, mut optin) = (resp3(&plane).await, resp3(&plane).await);
    for prefix in ["a:", "b:"] {
        let request = format!("CLIENT TRACKING ON BCAST PREFIX {prefix}");
        assert_eq!(ask(&mut bcast, &request).await, "+OK");
    }
    assert_eq!(ask(&mut optin, "CLIENT TRACKING ON OPTIN").await, "+OK");
    assert_eq!(ask(&mut optin, "CLIENT CACHING YES").await, "+OK");
    plane.node(0).kill();
    plane.promote(2, 1).await;
    let mut writer = plane.client().await;
    for client in [&mut bcast, &mut optin] {
        assert_eq!(message(client).await, FORGET_RESP3);
    }
    ask(&mut optin, "GET yes").await;
    ask(&mut optin, "GET no").await;
    ask(&mut writer, "MSET no 1 b:1 1 a:1 1 yes 1").await;
    hears_of(&mut optin, "yes").await;
    let prefixed = message(&mut bcast).await + &message(&mut bcast).await;
    assert!(
        prefixed.contains("a:1") && prefixed.contains("b:1"),
        "{prefixed}"
    );
}

#[tokio::test]
async fn redirections_go_on_after_a_change_of_primary() {
    let plane = Plane::start(1).await;
    let (mut target, id) = target(&plane).await;
    let mut third = resp3(&plane).await;
    // A second target speaks RESP3 and tracks for itself.
    assert_eq!(ask(&mut third, "CLIENT TRACKING ON").await, "+OK");
    let third_id = ask(&mut third, "CLIENT ID").await[1..].to_owned();
    let mut readers = Vec::new();
    for to in [&id, &id, &third_id] {
        let mut reader = plane.client().await;
        let request = format!("CLIENT TRACKING ON REDIRECT {to}");
        assert_eq!(ask(&mut reader, &request).await, "+OK");
        ask(&mut reader, "GET k").await;
        readers.push(reader);
    }
    // Ids of connections are others on the new primary.
    for _ in 0..50 {
        plane.node(1).cli(&["PING"]).await.expect("it answers");
    }
    plane.node(0).kill();
    plane.promote(2, 1).await;
    for (number, reader) in readers.iter_mut().enumerate() {
        assert_eq!(ask(reader, &format!("GET k{number}")).await, "nil");
    }
    for _ in 0..2 {
        assert_eq!(message(&mut target).await, FORGET_RESP2);
    }
    for _ in 0..2 {
        assert_eq!(message(&mut third).await, FORGET_RESP3);
    }
    let mut writer = plane.client().await;
    for number in 0..readers.len() {
        ask(&mut writer, &format!("SET k{number} new")).await;
    }
    hears_of(&mut target, "k0").await;
    hears_of(&mut target, "k1").await;
    hears_of(&mut third, "k2").await;
    assert_eq!(
        ask(&mut readers[0], "CLIENT GETREDIR").await,
        format!(":{id}")
    );
}

#[tokio::test]
async fn a_target_that_lost_its_connection_gets_invalidations_again() {
    let plane = Plane::start(0).await;
    let (mut reader, mut writer) = (resp3(&plane).await, plane.client().await);
    let (mut target, id) = target(&plane).await;
    assert_eq!(
        ask(&mut reader, &format!("CLIENT TRACKING ON REDIRECT {id}")).await,
        "+OK"
    );
    ask(&mut reader, "GET k").await;
    let killed = plane
        .node(0)
        .cli(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .await;
    assert_eq!(killed.expect("killed").to_string(), ":1");
    // A write in between is lost for the target; it is told to forget everything.
    assert_eq!(message(&mut target).await, FORGET_RESP2);
    assert_eq!(ask(&mut reader, "GET k").await, "nil");
    ask(&mut writer, "SET k 1").await;
    assert_eq!(message(&mut target).await, invalidated("k"));
    assert_eq!(ask(&mut reader, "PING").await, "+PONG");
}

#[tokio::test]
async fn a_redirection_that_was_on_its_way_is_answered_by_the_next_primary() {
    let plane = Plane::start(1).await;
    let mut reader = plane.client().await;
    let (mut target, id) = target(&plane).await;
    let closed = plane.gate(Gate::Closed);
    plane.obeyed(closed).await;
    send(&mut reader, &format!("CLIENT TRACKING ON REDIRECT {id}")).await;
    send(&mut reader, "GET k").await;
    plane.promote(2, 1).await;
    assert_eq!(hear(&mut reader).await, "+OK");
    assert_eq!(hear(&mut reader).await, "nil");
    ask(&mut plane.client().await, "SET k 1").await;
    assert_eq!(message(&mut target).await, invalidated("k"));
}

#[tokio::test]
async fn who_was_not_let_redirect_holds_no_connection_of_its_target() {
    let plane = Plane::impatient(Duration::from_millis(300)).await;
    let (mut target, id) = target(&plane).await;
    let mut tracking = plane.client().await;
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    let late = ask(&mut tracking, &format!("CLIENT TRACKING ON REDIRECT {id}")).await;
    assert!(late.starts_with("-POINTSMAN not executed"), "{late}");
    plane.gate(Gate::Open);
    send(&mut target, "UNSUBSCRIBE").await;
    assert!(message(&mut target).await.contains(":0"));
    let shared = pointsman::lab::until("one connection", PATIENCE, async || {
        let list = plane.node(0).cli(&["CLIENT", "LIST"]).await;
        let list = list.map_err(|e| e.to_string())?.to_string();
        match list.matches("name=pointsman").count() {
            1 => Ok(()),
            _ => Err(list),
        }
    });
    shared.await.expect("the target travels with others again");
    assert_eq!(ask(&mut target, "PING").await, "+PONG");
}
