//! Commands of operators, sent through pointsman: what they do to the node, and to everybody else.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use pointsman::lab::{Client, ClusterOptions, Protocol, Server, Value};
use pointsman::topology::Fault;

use crate::support::{SOON, Scene, ask, becomes_true, get, now, status_says, write_until_ok};

/// Whether the server is older than Redis 7, and says so.
fn too_old(test: &str) -> bool {
    let version = Command::new(Server::program()).arg("--version").output();
    let version = String::from_utf8(version.expect("it runs").stdout).expect("text");
    let old = version.contains("v=6.");
    if old {
        eprintln!("NOT RUN: {test} needs Redis 7: {version}");
    }
    old
}

/// The reply, also when it is an error.
async fn reply(client: &mut Client, request: &[&str]) -> String {
    let reply = client.call_within(SOON, request).await;
    reply.expect("a reply").to_string()
}

#[tokio::test]
async fn a_pause_of_all_clients_stops_them_and_is_no_failover() {
    if too_old("a_pause_of_all_clients_stops_them_and_is_no_failover") {
        return;
    }
    let scene = Scene::start().await;
    let mut operator = scene.client().await;
    let mut other = scene.client().await;
    write_until_ok(&mut other, "key", "1").await;
    for pause in [
        &["CLIENT", "PAUSE", "2500", "ALL"][..],
        &["client", "pause", "300"],
    ] {
        let millis: u64 = pause[2].parse().unwrap();
        let began = now();
        assert!(ask(&mut operator, pause).await.is_ok());
        assert_eq!(get(&mut other, "key").await.as_deref(), Some("1"));
        let waited = now().since(began);
        assert!(waited >= Duration::from_millis(millis), "{waited:?}");
        assert!(waited < Duration::from_millis(millis + 1000), "{waited:?}");
    }
    // Writes only: the node does it, and reads go on.
    ask(&mut operator, &["CLIENT", "PAUSE", "100000", "WRITE"]).await;
    other.queue(&["GET", "key"]);
    other.queue(&["SET", "key", "2"]);
    other.flush().await.unwrap();
    assert_eq!(other.receive().await.unwrap().text(), Some("1"));
    ask(&mut operator, &["CLIENT", "UNPAUSE"]).await;
    assert!(other.receive().await.unwrap().is_ok());
    for (wrong, words) in [
        (&["CLIENT", "PAUSE", "-1"][..], "-ERR timeout is negative"),
        (
            &["CLIENT", "PAUSE", "x", "ALL"],
            "-ERR timeout is not an integer",
        ),
        (
            &["CLIENT", "PAUSE", "10", "SOME"],
            "-ERR CLIENT PAUSE mode must be WRITE or ALL",
        ),
    ] {
        let said = reply(&mut operator, wrong).await;
        assert!(said.starts_with(words), "{wrong:?}: {said}");
    }
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn who_may_not_pause_pauses_nobody() {
    if too_old("who_may_not_pause_pauses_nobody") {
        return;
    }
    let scene = Scene::start().await;
    let mut operator = scene.client().await;
    ask(
        &mut operator,
        &[
            "ACL",
            "SETUSER",
            "bob",
            "on",
            ">pw",
            "~*",
            "+@all",
            "-client|pause",
        ],
    )
    .await;
    let mut bob = scene.client().await;
    ask(&mut bob, &["AUTH", "bob", "pw"]).await;
    let said = reply(&mut bob, &["CLIENT", "PAUSE", "60000", "ALL"]).await;
    assert!(said.starts_with("-NOPERM"), "{said}");
    ask(&mut bob, &["MULTI"]).await;
    let said = reply(&mut bob, &["CLIENT", "PAUSE", "60000", "ALL"]).await;
    assert!(said.starts_with("-POINTSMAN not executed"), "{said}");
    write_until_ok(&mut operator, "key", "1").await;
}

#[tokio::test]
async fn a_shutdown_is_a_failover_like_any_other_death() {
    let mut scene = Scene::start().await;
    let mut operator = scene.client().await;
    let mut other = scene.client().await;
    write_until_ok(&mut other, "key", "1").await;
    scene.in_sync().await;
    let said = reply(&mut operator, &["SHUTDOWN", "NOSAVE"]).await;
    // Redis says nothing when it worked; a connection that is kept needs a reply.
    assert!(said.starts_with("-POINTSMAN outcome unknown"), "{said}");
    assert_eq!(get(&mut other, "key").await.as_deref(), Some("1"));
    assert_eq!(scene.failed_over().await.fault, Fault::Refused);
}

#[tokio::test]
async fn a_long_debug_sleep_is_a_hang_and_ends_as_one() {
    if too_old("a_long_debug_sleep_is_a_hang_and_ends_as_one") {
        return;
    }
    let mut scene = Scene::with_cluster(ClusterOptions {
        config: vec!["enable-debug-command yes".into()],
        ..ClusterOptions::default()
    })
    .await;
    let mut operator = scene.client().await;
    let mut other = scene.client().await;
    write_until_ok(&mut other, "key", "1").await;
    scene.in_sync().await;
    operator.send(&["DEBUG", "SLEEP", "4"]).await.unwrap();
    assert_eq!(get(&mut other, "key").await.as_deref(), Some("1"));
    assert_eq!(scene.failed_over().await.fault, Fault::Silent);
    let said = operator.receive().await.unwrap().to_string();
    assert!(said.starts_with("-POINTSMAN outcome unknown"), "{said}");
}

#[tokio::test]
async fn functions_go_along_and_settings_do_not() {
    if too_old("functions_go_along_and_settings_do_not") {
        return;
    }
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    let library = "#!lua name=mine\nredis.register_function('f', function() return 7 end)";
    ask(&mut client, &["FUNCTION", "LOAD", library]).await;
    scene.expect_log("keyspace notifications would end");
    ask(
        &mut client,
        &["CONFIG", "SET", "notify-keyspace-events", "KEA"],
    )
    .await;
    let mut listener = scene.client().await;
    listener.hello(Protocol::Resp3).await.unwrap();
    listener
        .send(&["PSUBSCRIBE", "__keyspace@0__:*"])
        .await
        .unwrap();
    listener.message().await.unwrap();
    ask(&mut client, &["SET", "key", "1"]).await;
    let event = listener.message().await.unwrap().to_string();
    assert!(event.contains("__keyspace@0__:key"), "{event}");
    status_says(&scene.shard.pointsman, "keyspace notifications would end").await;
    scene.in_sync().await;
    scene.primary().await.kill();
    scene.failed_over().await;
    assert_eq!(
        ask(&mut client, &["FCALL", "f", "0"]).await,
        Value::Integer(7)
    );
    let setting = reply(&mut client, &["CONFIG", "GET", "notify-keyspace-events"]).await;
    assert_eq!(setting, "[\"notify-keyspace-events\", \"\"]");
    // Where every node has the setting, its events go on.
    ask(
        &mut client,
        &["CONFIG", "SET", "notify-keyspace-events", "KEA"],
    )
    .await;
    ask(&mut client, &["SET", "key", "2"]).await;
    let event = listener.message().await.unwrap().to_string();
    assert!(event.contains("__keyspace@0__:key"), "{event}");
}

#[tokio::test]
async fn a_monitor_sees_the_new_primary_as_well() {
    let mut scene = Scene::start().await;
    let mut monitor = scene.client().await;
    assert!(ask(&mut monitor, &["MONITOR"]).await.is_ok());
    let mut client = scene.client().await;
    for key in ["before", "after"] {
        write_until_ok(&mut client, key, "1").await;
        becomes_true("a line about the write", async || {
            match monitor.message().await.unwrap().to_string() {
                line if line.contains(&format!("\"SET\" \"{key}\"")) => Ok(()),
                line => Err(line),
            }
        })
        .await;
        if key == "before" {
            scene.in_sync().await;
            scene.primary().await.kill();
            scene.failed_over().await;
        }
    }
}

#[tokio::test]
async fn iterations_see_everything_although_a_cursor_is_another_processes() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    for number in 0..3000 {
        client.queue(&["SET", &format!("key-{number}"), "1"]);
        client.queue(&["HSET", "hash", &format!("key-{number}"), "1"]);
    }
    client.flush().await.unwrap();
    for _ in 0..6000 {
        client.receive().await.unwrap();
    }
    scene.in_sync().await;
    // Two connections, as a pool has them: one begins, the other one ends.
    let mut other = scene.client().await;
    let iterations = [vec!["SCAN"], vec!["HSCAN", "hash"]];
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let mut cursors = ["0".to_owned(), "0".to_owned()];
    for step in 0..200 {
        for (number, iteration) in iterations.iter().enumerate() {
            if step > 0 && cursors[number] == "0" {
                continue;
            }
            let request = [iteration.as_slice(), &[&cursors[number], "COUNT", "100"]].concat();
            let client = if step < 5 { &mut client } else { &mut other };
            let page = ask(client, &request).await;
            let [cursor, names] = page.items().unwrap() else {
                panic!("{page}");
            };
            cursors[number] = cursor.text().unwrap().to_owned();
            let names = names.items().unwrap().iter().filter_map(Value::text);
            seen[number].extend(names.filter(|n| n.starts_with("key-")).map(str::to_owned));
        }
        if step == 10 {
            scene.primary().await.kill();
            scene.failed_over().await;
        }
    }
    assert_eq!(cursors, ["0", "0"]);
    assert_eq!([seen[0].len(), seen[1].len()], [3000, 3000]);
}
