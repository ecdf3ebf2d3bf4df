//! Slots move while clients work.

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman::lab::{Client, PointsmanOptions, Value};
use pointsman::resp::key_slot;

use crate::scene::{SOON, Scene, ask, hear, message, older_than, send};

#[tokio::test]
async fn slots_move_between_shards_without_an_error_for_anybody() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    // To another shard, and to one that has none yet.
    let new = scene.cluster.add().await.unwrap();
    scene.cluster.meet(new).await.unwrap();
    scene.cluster.settled().await.unwrap();
    for slot in (0..300).step_by(3) {
        scene.cluster.move_slot(slot, 0, 1).await.unwrap();
        scene.cluster.move_slot(slot + 1, 0, new).await.unwrap();
    }
    scene.progress(50).await;
    let verdict = scene.judged().await;
    let total = verdict.total();
    assert_eq!(total.all_errors(), 0, "{verdict}");
    assert_eq!((total.lost, total.broken()), (0, 0), "{verdict}");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn the_slots_that_the_clients_use_move_under_their_hands() {
    // Of several workers each follows for itself.
    let workers = |options: &mut PointsmanOptions| options.proxy = "workers = 2".into();
    let mut scene = Scene::with(workers).await;
    scene.traffic().await;
    for round in 0..3 {
        for from in 0..3 {
            let keys = scene.cluster.node(from).cli(&["KEYS", "*"]).await.unwrap();
            let keys = keys.items().unwrap_or_default().iter();
            // Those of the clients that have one key each, and some of those with many.
            let slots: BTreeSet<u16> = keys
                .filter_map(|key| key.text())
                .filter(|key| !key.contains(":setter:") || key.ends_with("07"))
                .map(|key| key_slot(key.as_bytes()))
                .collect();
            for slot in slots {
                scene
                    .cluster
                    .move_slot(slot, from, (from + 1 + round % 2) % 3)
                    .await
                    .unwrap();
            }
        }
    }
    scene.progress(50).await;
    let verdict = scene.judged().await;
    let total = verdict.total();
    assert_eq!(total.all_errors(), 0, "{verdict}");
    assert_eq!((total.lost, total.broken()), (0, 0), "{verdict}");
    assert!(counted(&scene, "slot_map_changes_total", "").await > 0.0);
    counts_redirect(&scene, "moved").await;
    scene.assert_log_is_clean();
}

/// A counter of the cluster.
async fn counted(scene: &Scene, name: &str, labels: &str) -> f64 {
    let sample = format!("pointsman_{name}{{backend=\"main\"{labels}}}");
    let value = scene.pointsman.metric(&sample).await.unwrap();
    value.unwrap_or_else(|| panic!("no {sample}"))
}

#[tokio::test]
async fn what_a_client_sent_later_never_overtakes() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    for tag in ["t", "u", "v", "w", "x", "y"] {
        // Twice, one after the other, and not back: see docs/cluster.md.
        let slot = key_slot(tag.as_bytes());
        let first = scene.node_of(tag).await;
        let moves = async {
            for round in 0..2 {
                let (from, to) = ((first + round) % 3, (first + round + 1) % 3);
                scene.cluster.move_slot(slot, from, to).await.unwrap();
            }
        };
        let key = format!("{{{tag}}}list");
        pushed_meanwhile(&mut client, &key, moves).await;
    }
    scene.assert_log_is_clean();
}

/// Some hundred requests are on their way before, while and after `moves` is done; they run in their
/// order.
async fn pushed_meanwhile(client: &mut Client, key: &str, moves: impl Future<Output = ()>) {
    const MANY: i64 = 300;
    tokio::pin!(moves);
    let (mut sent, mut heard, mut moving) = (0, 0, true);
    while moving || heard < sent {
        while (moving || sent < 3 * MANY) && sent < heard + MANY {
            sent += 1;
            client.queue(&["RPUSH", key, &sent.to_string()]);
        }
        client.flush().await.unwrap();
        tokio::select! {
            () = &mut moves, if moving && heard >= MANY => moving = false,
            reply = hear(client) => {
                heard += 1;
                assert_eq!(reply, heard.to_string());
            }
        }
    }
    let list = client.call(&["LRANGE", key, "0", "-1"]).await.unwrap();
    let list = list.items().unwrap().iter().filter_map(Value::number);
    assert!(list.eq(1..=sent));
}

#[tokio::test]
async fn a_subscription_follows_its_slot() {
    if older_than((7, 0), "a channel of a shard") {
        return;
    }
    let scene = Scene::start().await;
    let mut publisher = scene.client().await;
    let (mut two, mut three) = (scene.client().await, scene.client3().await);
    send(&mut two, "SSUBSCRIBE {t}x {t}y").await;
    for count in ["[ssubscribe, {t}x, 1]", "[ssubscribe, {t}y, 2]"] {
        assert_eq!(hear(&mut two).await, count);
    }
    send(&mut three, "SSUBSCRIBE {t}x").await;
    assert_eq!(message(&mut three).await, "[ssubscribe, {t}x, 1]");
    let from = scene.node_of("t").await;
    let to = (from + 1) % 3;
    scene
        .cluster
        .move_slot(key_slot(b"t"), from, to)
        .await
        .unwrap();
    // They were told nothing of it, and hear again as soon as they are there.
    let deadline = pointsman::clock::now() + SOON;
    while ask(&mut publisher, "SPUBLISH {t}y ready").await != "1"
        || ask(&mut publisher, "SPUBLISH {t}x m").await != "2"
    {
        assert!(pointsman::clock::now() < deadline, "nobody listens");
    }
    assert_eq!(message(&mut three).await, "[smessage, {t}x, m]");
    loop {
        match message(&mut two).await.as_str() {
            "[smessage, {t}y, ready]" => {}
            other => break assert_eq!(other, "[smessage, {t}x, m]"),
        }
    }
    let elsewhere = ask(&mut three, "SSUBSCRIBE other").await;
    assert!(elsewhere.contains("one hash slot"), "{elsewhere}");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_subscription_that_followed_its_slot_holds_up_no_new_connection() {
    if older_than((7, 0), "a channel of a shard") {
        return;
    }
    let scene = Scene::start().await;
    let (mut subscriber, mut other) = (scene.client().await, scene.client().await);
    let heard = ask(&mut subscriber, "SSUBSCRIBE t").await;
    assert_eq!(heard, "[ssubscribe, t, 1]");
    let from = scene.node_of("t").await;
    let to = (from + 1) % 3;
    let slot = key_slot(b"t");
    scene.cluster.move_slot(slot, from, to).await.unwrap();
    let deadline = pointsman::clock::now() + SOON;
    while ask(&mut other, "SPUBLISH t m").await != "1" {
        assert!(pointsman::clock::now() < deadline, "nobody listens");
    }
    let mut stays = String::from("a");
    while scene.node_of(&stays).await != from {
        stays.push('a');
    }
    for key in ["t", &stays] {
        let mut quickest = SOON;
        for _ in 0..5 {
            let began = pointsman::clock::now();
            // It gets a connection of its own, which ends with RESET.
            assert_eq!(ask(&mut other, &format!("WATCH {key}")).await, "OK");
            quickest = quickest.min(pointsman::clock::now().since(began));
            assert_eq!(ask(&mut other, "RESET").await, "RESET");
        }
        // New ones let subscribers go first for 200 ms at most.
        assert!(quickest < Duration::from_millis(150), "{quickest:?}");
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_slot_on_its_way_is_asked_for_at_both_ends() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let slot = key_slot(b"t");
    let from = scene.node_of("t").await;
    let to = (from + 1) % 3;
    for number in 0..20 {
        let reply = ask(&mut client, &format!("SET {{t}}{number} {number}")).await;
        assert_eq!(reply, "OK");
    }
    scene.cluster.open_slot(slot, from, to).await.unwrap();
    scene.cluster.move_keys(slot, from, to, 10).await.unwrap();
    // Half of the keys are there, and new ones are made there.
    for number in 0..30 {
        send(&mut client, &format!("SET {{t}}{number} a")).await;
        send(&mut client, &format!("APPEND {{t}}{number} b")).await;
        send(&mut client, &format!("GET {{t}}{number}")).await;
    }
    for _ in 0..30 {
        assert_eq!(hear(&mut client).await, "OK");
        assert_eq!(hear(&mut client).await, "2");
        assert_eq!(hear(&mut client).await, "ab");
    }
    // A transaction about a key that is there already, or not at all.
    for request in ["MULTI", "SET {t}new 1", "GET {t}new", "EXEC"] {
        send(&mut client, request).await;
    }
    for reply in ["OK", "QUEUED", "QUEUED", "[OK, 1]"] {
        assert_eq!(hear(&mut client).await, reply);
    }
    counts_redirect(&scene, "ask").await;
    // Keys at both ends: that has to wait until they are together.
    let mut waits = scene.client().await;
    assert_eq!(ask(&mut waits, "PING").await, "PONG");
    send(&mut waits, "MGET {t}0 {t}1 {t}2 {t}3 {t}4 {t}5 {t}6 {t}7 {t}8 {t}9 {t}10 {t}11 {t}12 {t}13 {t}14 {t}15").await;
    send(&mut waits, "BLPOP {t}list 0").await;
    assert_eq!(ask(&mut client, "GET {t}0").await, "ab");
    while scene.cluster.move_keys(slot, from, to, 10).await.unwrap() > 0 {}
    let values = hear(&mut waits).await;
    assert_eq!(values.matches("ab").count(), 16, "{values}");
    scene.cluster.close_slot(slot, to).await.unwrap();
    assert_eq!(ask(&mut client, "RPUSH {t}list e").await, "1");
    assert_eq!(hear(&mut waits).await, "[{t}list, e]");
    assert_eq!(scene.node_of("t").await, to);
    counts_redirect(&scene, "try_again").await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_slot_on_its_way_is_found_when_its_target_hands_over() {
    let patience =
        |options: &mut PointsmanOptions| options.requests = "hold_timeout = \"2s\"".into();
    let scene = Scene::for_a_handover_with(patience).await;
    let mut client = scene.client().await;
    let slot = key_slot(b"t");
    let from = scene.node_of("t").await;
    let to = (from + 1) % 3;
    for number in 0..20 {
        let reply = ask(&mut client, &format!("SET {{t}}{number} {number}")).await;
        assert_eq!(reply, "OK");
    }
    scene.cluster.open_slot(slot, from, to).await.unwrap();
    scene.cluster.move_keys(slot, from, to, 10).await.unwrap();
    let heir = scene.cluster.partner(to);
    scene.cluster.hand_over(heir).await.unwrap();
    pointsman::lab::until("the old target to step down", SOON, async || {
        match scene.cluster.node(to).is_primary().await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    // Whatever the heir knew of the slot, now it does not: who asks for a new key is sent to and fro.
    scene
        .cluster
        .set_slot(heir, slot, &["STABLE"])
        .await
        .unwrap();
    let reply = ask(&mut client, "GET {t}new").await;
    let why = format!("not executed: no shard took hash slot {slot} for 2s");
    assert!(reply.contains(&why), "{reply}");
    for request in [&["MULTI"][..], &["GET", "{t}new"], &["EXEC"]] {
        client.queue(request);
    }
    client.flush().await.unwrap();
    for expected in ["OK", "QUEUED", &why] {
        let reply = hear(&mut client).await;
        assert!(reply.contains(expected), "{reply}");
    }
    // The heir takes the keys, while a Redis at the source goes on naming the old target.
    let source = ["IMPORTING", scene.cluster.name(from)];
    scene.cluster.set_slot(heir, slot, &source).await.unwrap();
    let mut blocks = scene.client().await;
    send(&mut blocks, "BLPOP {t}list 0").await;
    for number in 0..20 {
        let reply = ask(&mut client, &format!("GET {{t}}{number}")).await;
        assert_eq!(reply, number.to_string());
    }
    assert_eq!(ask(&mut client, "RPUSH {t}list e").await, "1");
    assert_eq!(hear(&mut blocks).await, "[{t}list, e]");
    scene.assert_log_is_clean();
}

async fn counts_redirect(scene: &Scene, kind: &str) {
    let label = format!(",kind=\"{kind}\"");
    // Workers add up now and then.
    pointsman::lab::until("a counted redirection", SOON, async || {
        match counted(scene, "requests_redirected_total", &label).await {
            0.0 => Err(format!("no {kind}")),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
}
