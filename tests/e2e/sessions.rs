//! What belongs to a client's session is there after the failover as before.

use std::time::Duration;

use pointsman::lab::{Client, ClusterOptions, Protocol, Value};

use crate::support::{Scene, ask, get, now, write_until_ok};

async fn texts(client: &mut Client) -> Vec<String> {
    let message = tokio::time::timeout(Duration::from_secs(20), client.message());
    let message = message.await.expect("a message").unwrap();
    let items = message.items().unwrap_or_default().iter();
    items
        .map(|item| item.text().unwrap_or("nil").to_owned())
        .collect()
}

/// Kills the primary and waits until a client was answered by another one.
async fn fail_over(scene: &mut Scene) {
    scene.in_sync().await;
    scene.kill_primary().await;
    scene.failed_over().await;
}

#[tokio::test]
async fn database_name_and_protocol_are_kept() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    client.hello(Protocol::Resp3).await.unwrap();
    ask(&mut client, &["SELECT", "5"]).await;
    ask(&mut client, &["CLIENT", "SETNAME", "worker-7"]).await;
    ask(&mut client, &["SET", "key", "in five"]).await;
    let id = ask(&mut client, &["CLIENT", "ID"]).await;
    fail_over(&mut scene).await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("in five"));
    assert_eq!(
        ask(&mut client, &["CLIENT", "GETNAME"]).await.text(),
        Some("worker-7")
    );
    assert_eq!(ask(&mut client, &["CLIENT", "ID"]).await, id);
    // A map, so the connection still speaks RESP3.
    assert!(matches!(
        ask(&mut client, &["CONFIG", "GET", "databases"]).await,
        Value::Map(_)
    ));
    let mut other = scene.client().await;
    assert_eq!(get(&mut other, "key").await, None);
}

#[tokio::test]
async fn every_client_stays_the_user_it_logged_in_as() {
    let acl = [
        "user alice on >wonder ~alice:* &* +@all".to_owned(),
        "user bob on >builder ~bob:* &* +@all".to_owned(),
    ];
    let mut scene = Scene::with_cluster(ClusterOptions {
        config: acl.to_vec(),
        ..ClusterOptions::default()
    })
    .await;
    let (mut alice, mut bob) = (scene.client().await, scene.client().await);
    ask(&mut alice, &["AUTH", "alice", "wonder"]).await;
    ask(&mut bob, &["AUTH", "bob", "builder"]).await;
    ask(&mut alice, &["SET", "alice:key", "1"]).await;
    fail_over(&mut scene).await;
    assert_eq!(get(&mut alice, "alice:key").await.as_deref(), Some("1"));
    let refused = bob.call(&["GET", "alice:key"]).await.unwrap();
    assert!(refused.to_string().starts_with("-NOPERM"), "{refused}");
    assert_eq!(ask(&mut bob, &["ACL", "WHOAMI"]).await.text(), Some("bob"));
    assert_eq!(
        ask(&mut alice, &["ACL", "WHOAMI"]).await.text(),
        Some("alice")
    );
}

#[tokio::test]
async fn subscriptions_of_every_kind_are_kept_and_nothing_is_acknowledged_twice() {
    let mut scene = Scene::start().await;
    let mut subscriber = scene.client().await;
    subscriber.hello(Protocol::Resp3).await.unwrap();
    for request in [
        ["SUBSCRIBE", "plain"],
        ["PSUBSCRIBE", "pat*"],
        ["SSUBSCRIBE", "shard"],
    ] {
        subscriber.send(&request).await.unwrap();
        assert_eq!(texts(&mut subscriber).await[1], request[1]);
    }
    fail_over(&mut scene).await;
    let mut publisher = scene.client().await;
    ask(&mut publisher, &["PUBLISH", "plain", "1"]).await;
    assert_eq!(texts(&mut subscriber).await, ["message", "plain", "1"]);
    ask(&mut publisher, &["PUBLISH", "pattern", "2"]).await;
    assert_eq!(
        texts(&mut subscriber).await,
        ["pmessage", "pat*", "pattern", "2"]
    );
    ask(&mut publisher, &["SPUBLISH", "shard", "3"]).await;
    assert_eq!(texts(&mut subscriber).await, ["smessage", "shard", "3"]);
    // Commands still work on the same RESP3 connection.
    assert!(ask(&mut subscriber, &["SET", "key", "x"]).await.is_ok());
}

#[tokio::test]
async fn a_watch_held_over_a_failover_lets_exec_answer_nil() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    ask(&mut client, &["SET", "key", "1"]).await;
    ask(&mut client, &["WATCH", "key"]).await;
    fail_over(&mut scene).await;
    ask(&mut client, &["MULTI"]).await;
    ask(&mut client, &["SET", "key", "2"]).await;
    assert_eq!(ask(&mut client, &["EXEC"]).await, Value::Null);
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("1"));
    // And the next one is a new one.
    ask(&mut client, &["WATCH", "key"]).await;
    ask(&mut client, &["MULTI"]).await;
    ask(&mut client, &["SET", "key", "3"]).await;
    assert!(ask(&mut client, &["EXEC"]).await.items().is_some());
}

#[tokio::test]
async fn a_queued_transaction_is_executed_whole() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    ask(&mut client, &["MULTI"]).await;
    ask(&mut client, &["INCR", "a"]).await;
    fail_over(&mut scene).await;
    ask(&mut client, &["INCR", "b"]).await;
    let reply = ask(&mut client, &["EXEC"]).await;
    assert_eq!(
        reply,
        Value::Array(vec![Value::Integer(1), Value::Integer(1)])
    );
}

#[tokio::test]
async fn a_blocked_client_waits_the_time_that_is_left() {
    let mut scene = Scene::start().await;
    let (mut blocked, mut timed) = (scene.client().await, scene.client().await);
    blocked.send(&["BLPOP", "queue", "0"]).await.unwrap();
    let began = now();
    timed.send(&["BLPOP", "nothing", "3"]).await.unwrap();
    fail_over(&mut scene).await;
    let mut pusher = scene.client().await;
    ask(&mut pusher, &["RPUSH", "queue", "element"]).await;
    let popped = blocked.receive().await.unwrap();
    assert_eq!(
        popped.items().and_then(|items| items[1].text()),
        Some("element")
    );
    assert_eq!(timed.receive().await.unwrap(), Value::Null);
    let waited = now().since(began);
    assert!(waited >= Duration::from_millis(2900), "{waited:?}");
    assert!(waited < Duration::from_millis(4500), "{waited:?}");
    assert_eq!(
        ask(&mut pusher, &["LLEN", "queue"]).await,
        Value::Integer(0)
    );
}

#[tokio::test]
async fn a_client_that_leaves_while_blocked_eats_no_element() {
    let mut scene = Scene::start().await;
    let mut blocked = scene.client().await;
    blocked.send(&["BLPOP", "queue", "0"]).await.unwrap();
    fail_over(&mut scene).await;
    drop(blocked);
    let mut pusher = scene.client().await;
    crate::support::becomes_true("no client blocked on the new primary", async || match scene
        .primary()
        .await
        .info_field("blocked_clients")
        .await
        .as_deref()
    {
        Ok("0") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    ask(&mut pusher, &["RPUSH", "queue", "element"]).await;
    assert_eq!(
        ask(&mut pusher, &["LPOP", "queue"]).await.text(),
        Some("element")
    );
}

#[tokio::test]
async fn a_script_is_known_to_the_new_primary() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    let sha = ask(
        &mut client,
        &["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"],
    )
    .await;
    let sha = sha.text().unwrap().to_owned();
    assert_eq!(
        ask(&mut client, &["EVALSHA", &sha, "1", "n"]).await,
        Value::Integer(1)
    );
    fail_over(&mut scene).await;
    assert_eq!(
        ask(&mut client, &["EVALSHA", &sha, "1", "n"]).await,
        Value::Integer(2)
    );
}

#[tokio::test]
async fn a_tracking_client_is_told_to_forget_everything() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    client.hello(Protocol::Resp3).await.unwrap();
    ask(&mut client, &["CLIENT", "TRACKING", "ON"]).await;
    ask(&mut client, &["GET", "key"]).await;
    fail_over(&mut scene).await;
    let message = tokio::time::timeout(Duration::from_secs(20), client.message());
    let message = message.await.expect("an invalidation").unwrap();
    let flush_all = Value::Push(vec![Value::Bulk("invalidate".into()), Value::Null]);
    assert_eq!(message, flush_all);
    // And it works as before.
    ask(&mut client, &["GET", "key"]).await;
    let mut other = scene.client().await;
    write_until_ok(&mut other, "key", "new").await;
    assert_eq!(texts(&mut client).await[0], "invalidate");
}

#[tokio::test]
async fn an_increment_on_its_way_to_a_hanging_primary_says_that_its_outcome_is_unknown() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    assert_eq!(ask(&mut client, &["INCR", "n"]).await, Value::Integer(1));
    scene.in_sync().await;
    let mut setter = scene.client().await;
    scene.primary().await.stop();
    client.send(&["INCR", "n"]).await.unwrap();
    setter.send(&["SET", "key", "value"]).await.unwrap();
    scene.failed_over().await;
    let reply = client.receive().await.unwrap();
    assert!(reply.to_string().contains("outcome unknown"), "{reply}");
    let set = setter.receive().await.unwrap();
    assert!(set.is_ok(), "{set}");
    assert_eq!(get(&mut setter, "key").await.as_deref(), Some("value"));
    // The connection goes on.
    assert_eq!(ask(&mut client, &["INCR", "n"]).await, Value::Integer(2));
}

#[tokio::test]
async fn what_a_client_sent_later_never_passes_what_it_sent_earlier() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    ask(&mut client, &["SET", "key", "0"]).await;
    scene.in_sync().await;
    scene.primary().await.stop();
    for number in 1..=200 {
        client.queue(&["SET", "key", &number.to_string()]);
        client.queue(&["GET", "key"]);
    }
    client.flush().await.unwrap();
    for number in 1..=200 {
        assert!(client.receive().await.unwrap().is_ok());
        let seen = client.receive().await.unwrap();
        assert_eq!(seen.number(), Some(number), "{seen}");
    }
    scene.failed_over().await;
}
