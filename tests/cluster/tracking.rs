//! Client-side caches in front of a cluster: every shard tells what has changed, and nothing stale survives.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

use pointsman::lab::{Client, Data, Protocol, Value};
use pointsman::resp::key_slot;

use crate::scene::{SOON, Scene, ask, hear, message, send};

/// Keys of three shards.
const KEYS: [&str; 3] = ["foo", "bar", "qux"];
const FORGET: &str = "[invalidate, nil]";

fn invalidated(key: &str) -> String {
    format!("[invalidate, [{key}]]")
}

/// A RESP3 client with CLIENT TRACKING ON and these options.
async fn tracker(scene: &Scene, options: &str) -> Client {
    let mut client = scene.client3().await;
    let request = format!("CLIENT TRACKING ON {options}");
    assert_eq!(ask(&mut client, request.trim_end()).await, "OK");
    client
}

/// The next thing that comes is the reply to this request, and no message.
async fn answers(client: &mut Client, request: &str, reply: &str) {
    send(client, request).await;
    assert_eq!(message(client).await, reply, "{request}");
}

/// Waits for `FORGET`; of what comes before only messages are allowed.
async fn is_told_to_forget(client: &mut Client) {
    loop {
        let came = message(client).await;
        match came.as_str() {
            FORGET => return,
            _ => assert!(came.starts_with("[invalidate"), "{came}"),
        }
    }
}

#[tokio::test]
async fn every_shard_tells_what_has_changed() {
    let scene = Scene::start().await;
    let (mut writer, mut plain) = (scene.client().await, scene.client3().await);
    let mut reader = tracker(&scene, "").await;
    let mut many = tracker(&scene, "").await;
    for round in 0..3 {
        for key in KEYS {
            ask(&mut plain, &format!("GET {key}")).await;
            ask(&mut reader, &format!("GET {key}")).await;
        }
        ask(&mut many, "MGET foo bar qux").await;
        for key in KEYS {
            assert_eq!(ask(&mut writer, &format!("SET {key} {round}")).await, "OK");
            assert_eq!(message(&mut reader).await, invalidated(key));
            assert_eq!(message(&mut many).await, invalidated(key));
        }
    }
    // What nobody has read again is not told again, and who tracks nothing is told nothing.
    for key in KEYS {
        ask(&mut writer, &format!("SET {key} 3")).await;
    }
    for key in KEYS {
        answers(&mut reader, &format!("GET {key}"), "3").await;
        answers(&mut plain, &format!("GET {key}"), "3").await;
    }
    assert_eq!(ask(&mut writer, "DEL foo bar qux").await, "3");
    for _ in KEYS {
        assert!(message(&mut reader).await.starts_with("[invalidate, ["));
    }
    // Off.
    for key in KEYS {
        answers(&mut reader, &format!("GET {key}"), "nil").await;
    }
    assert_eq!(ask(&mut reader, "CLIENT TRACKING OFF").await, "OK");
    assert_eq!(ask(&mut writer, "MSET foo 4 bar 4 qux 4").await, "OK");
    answers(&mut reader, "MGET foo bar qux", "[4, 4, 4]").await;
    answers(&mut reader, "CLIENT GETREDIR", "-1").await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn every_mode_does_what_it_does_at_one_server() {
    let scene = Scene::start().await;
    let mut writer = scene.client().await;

    let mut bcast = tracker(&scene, "BCAST PREFIX {a}: PREFIX {b}: PREFIX {c}:").await;
    for key in ["{a}:1", "{b}:1", "{c}:1"] {
        ask(&mut writer, &format!("SET x{key} 1")).await;
        ask(&mut writer, &format!("SET {key} 1")).await;
        assert_eq!(message(&mut bcast).await, invalidated(key));
    }
    assert_eq!(
        ask(&mut bcast, "CLIENT TRACKING ON BCAST PREFIX {d}:").await,
        "OK"
    );
    is_told_to_forget(&mut bcast).await;

    let mut optin = tracker(&scene, "OPTIN").await;
    for key in KEYS {
        ask(&mut optin, &format!("GET {key}")).await;
        // In one pipeline: it is about the next command only.
        let other = format!("{{{key}}}other");
        let next = format!("{{{key}}}next");
        for request in [
            vec!["CLIENT", "CACHING", "YES"],
            vec!["GET", &other],
            vec!["GET", &next],
        ] {
            optin.queue(&request);
        }
        optin.flush().await.unwrap();
        for reply in ["OK", "nil", "nil"] {
            assert_eq!(message(&mut optin).await, reply);
        }
        for changed in [key, &next, &other] {
            ask(&mut writer, &format!("SET {changed} 1")).await;
        }
        assert_eq!(message(&mut optin).await, invalidated(&other));
    }
    assert_eq!(ask(&mut optin, "CLIENT CACHING YES").await, "OK");
    ask(&mut optin, "MGET foo bar qux").await;
    ask(&mut writer, "MSET foo 2 bar 2 qux 2").await;
    for _ in KEYS {
        assert!(message(&mut optin).await.starts_with("[invalidate, ["));
    }
    // A transaction that came whole is one command.
    for request in [
        "CLIENT CACHING YES",
        "MULTI",
        "GET {foo}a",
        "GET {foo}b",
        "EXEC",
    ] {
        let words: Vec<&str> = request.split(' ').collect();
        optin.queue(&words);
    }
    optin.flush().await.unwrap();
    for reply in ["OK", "OK", "QUEUED", "QUEUED", "[nil, nil]"] {
        assert_eq!(message(&mut optin).await, reply);
    }
    ask(&mut writer, "SET {foo}b 1").await;
    assert_eq!(message(&mut optin).await, invalidated("{foo}b"));
    // What is answered here takes it as well.
    assert_eq!(ask(&mut optin, "CLIENT CACHING YES").await, "OK");
    answers(&mut optin, "CLUSTER KEYSLOT foo", "12182").await;
    answers(&mut optin, "GET foo", "2").await;
    ask(&mut writer, "SET foo 3").await;
    answers(&mut optin, "GET foo", "3").await;

    let mut optout = tracker(&scene, "OPTOUT").await;
    for key in KEYS {
        let other = format!("{{{key}}}other");
        assert_eq!(ask(&mut optout, "CLIENT CACHING NO").await, "OK");
        ask(&mut optout, &format!("GET {key}")).await;
        ask(&mut optout, &format!("GET {other}")).await;
        ask(&mut writer, &format!("SET {key} 2")).await;
        ask(&mut writer, &format!("SET {other} 2")).await;
        assert_eq!(message(&mut optout).await, invalidated(&other));
    }

    let mut noloop = tracker(&scene, "NOLOOP").await;
    for key in KEYS {
        ask(&mut noloop, &format!("GET {key}")).await;
        answers(&mut noloop, &format!("SET {key} own"), "OK").await;
        answers(&mut noloop, &format!("GET {key}"), "own").await;
        ask(&mut writer, &format!("SET {key} other")).await;
        assert_eq!(message(&mut noloop).await, invalidated(key));
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_is_asked_about_tracking_is_answered_as_by_one_server() {
    let scene = Scene::start().await;
    let mut client = scene.client3().await;
    let info = |flags: &str, redirect: i8| {
        let wanted = [flags.to_owned(), redirect.to_string()];
        move |reply: &str| wanted.iter().all(|part| reply.contains(part.as_str()))
    };
    let off = ask(&mut client, "CLIENT TRACKINGINFO").await;
    assert!(info("off", -1)(&off), "{off}");
    for (request, reply) in [
        ("CLIENT GETREDIR", "-1"),
        ("CLIENT CACHING YES", "tracking mode"),
        ("CLIENT TRACKING OFF", "OK"),
        ("CLIENT TRACKING MAYBE", "syntax error"),
        ("CLIENT TRACKING ON PREFIX x", "requires BCAST"),
        ("CLIENT TRACKING ON REDIRECT 1", "REDIRECT is not carried"),
        ("CLIENT GETREDIR", "-1"),
        ("CLIENT TRACKING ON OPTIN", "OK"),
        ("CLIENT GETREDIR", "0"),
        ("CLIENT CACHING NO", "only valid"),
        ("CLIENT CACHING MAYBE", "syntax error"),
        ("CLIENT TRACKING ON BCAST", "switch BCAST mode"),
        ("CLIENT TRACKING ON OPTOUT", "switch OPTIN"),
        ("CLIENT CACHING YES", "OK"),
        ("MULTI", "OK"),
        ("CLIENT TRACKING OFF", "inside MULTI"),
        ("EXEC", "EXECABORT"),
        ("SET foo 1", "OK"),
    ] {
        let came = ask(&mut client, request).await;
        assert!(came.contains(reply), "{request}: {came}");
    }
    let on = ask(&mut client, "CLIENT TRACKINGINFO").await;
    assert!(info("optin", 0)(&on), "{on}");
    let line = ask(&mut client, "CLIENT INFO").await;
    assert!(
        line.contains(" flags=t ") && line.contains(" redir=0 "),
        "{line}"
    );
    // RESET ends it, and so does whoever leaves.
    assert_eq!(ask(&mut client, "RESET").await, "RESET");
    assert_eq!(ask(&mut client, "CLIENT GETREDIR").await, "-1");
    let line = ask(&mut client, "CLIENT INFO").await;
    assert!(line.contains(" flags=N "), "{line}");
    // Redis takes it also where it can tell nothing.
    let (mut resp2, mut writer) = (scene.client().await, scene.client().await);
    assert_eq!(ask(&mut resp2, "CLIENT TRACKING ON").await, "OK");
    assert_eq!(ask(&mut resp2, "CLIENT GETREDIR").await, "0");
    assert_eq!(ask(&mut resp2, "GET foo").await, "1");
    assert_eq!(ask(&mut writer, "SET foo 2").await, "OK");
    answers(&mut resp2, "GET foo", "2").await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_needs_a_connection_of_its_own_works_and_leaves_nothing_in_the_cache() {
    let scene = Scene::start().await;
    let mut client = tracker(&scene, "").await;
    let mut other = scene.client().await;
    for key in KEYS {
        // Whole: as any request.
        for request in [vec!["MULTI"], vec!["GET", key], vec!["EXEC"]] {
            client.queue(&request);
        }
        client.flush().await.unwrap();
        for reply in ["OK", "QUEUED", "[nil]"] {
            assert_eq!(message(&mut client).await, reply);
        }
        ask(&mut other, &format!("SET {key} 1")).await;
        assert_eq!(message(&mut client).await, invalidated(key));
        // Piece by piece, and watched.
        answers(&mut client, &format!("WATCH {key}"), "OK").await;
        answers(&mut client, &format!("GET {key}"), "1").await;
        assert_eq!(message(&mut client).await, FORGET);
        answers(&mut client, "MULTI", "OK").await;
        answers(&mut client, &format!("GET {key}"), "QUEUED").await;
        answers(&mut client, "EXEC", "[1]").await;
        assert_eq!(message(&mut client).await, FORGET);
        // A blocking command takes, and is nothing to keep.
        let list = format!("{{{key}}}list");
        send(&mut client, &format!("BLPOP {list} 0")).await;
        assert_eq!(ask(&mut other, &format!("RPUSH {list} e")).await, "1");
        assert_eq!(message(&mut client).await, format!("[{list}, e]"));
        answers(&mut client, &format!("GET {key}"), "1").await;
        ask(&mut other, &format!("DEL {key}")).await;
        assert_eq!(message(&mut client).await, invalidated(key));
    }
    // A subscriber may have a cache as well.
    send(&mut client, "SUBSCRIBE ch").await;
    assert_eq!(message(&mut client).await, "[subscribe, ch, 1]");
    for key in KEYS {
        answers(&mut client, &format!("GET {key}"), "nil").await;
        ask(&mut other, &format!("SET {key} 1")).await;
        assert_eq!(message(&mut client).await, invalidated(key));
    }
    assert_eq!(ask(&mut other, "PUBLISH ch m").await, "1");
    assert_eq!(message(&mut client).await, "[message, ch, m]");
    scene.assert_log_is_clean();
}

/// Asks for `bar`, whose node stands still, and for `keys` of another one, which has noted them in the end. Returns the node
/// that stands still.
async fn read_behind_a_node_that_stands_still(
    scene: &Scene,
    reader: &mut Client,
    keys: &[String],
) -> usize {
    // Both connections are there.
    assert_eq!(ask(reader, "MGET {foo} {bar}").await, "[nil, nil]");
    let (slow, quick) = (scene.node_of("bar").await, scene.node_of("foo").await);
    let noted = async || {
        let stats = scene.cluster.node(quick).cli(&["INFO", "stats"]).await;
        let stats = stats.unwrap().text().unwrap_or_default().to_owned();
        let mut lines = stats.lines();
        let number = lines.find_map(|l| l.strip_prefix("tracking_total_keys:"));
        number.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    let before: usize = noted().await;
    scene.cluster.node(slow).stop();
    send(reader, "GET bar").await;
    let mut request = vec!["MGET"];
    request.extend(keys.iter().map(String::as_str));
    reader.send(&request).await.unwrap();
    pointsman::lab::until("the read", SOON, async || match noted().await {
        now if now == before + keys.len() => Ok(()),
        now => Err(now.to_string()),
    })
    .await
    .unwrap();
    slow
}

#[tokio::test]
async fn an_invalidation_does_not_overtake_the_reply_that_it_is_about() {
    let scene = Scene::start().await;
    let (mut reader, mut writer) = (tracker(&scene, "").await, scene.client().await);
    ask(&mut writer, "MSET foo old bar old").await;
    let keys = ["foo".to_owned()];
    let slow = read_behind_a_node_that_stands_still(&scene, &mut reader, &keys).await;
    assert_eq!(ask(&mut writer, "SET foo new").await, "OK");
    assert_eq!(ask(&mut writer, "GET foo").await, "new");
    scene.cluster.node(slow).cont();
    for came in ["old", "[old]", &invalidated("foo")] {
        assert_eq!(message(&mut reader).await, came);
    }
}

#[tokio::test]
async fn many_invalidations_that_wait_become_one() {
    let scene = Scene::start().await;
    let (mut reader, mut writer) = (tracker(&scene, "").await, scene.client().await);
    let long = "x".repeat(100);
    let keys: Vec<String> = (0..3000).map(|n| format!("{{foo}}{long}{n}")).collect();
    let slow = read_behind_a_node_that_stands_still(&scene, &mut reader, &keys).await;
    for part in keys.chunks(500) {
        for key in part {
            writer.queue(&["SET", key, "1"]);
        }
        writer.flush().await.unwrap();
        for _ in part {
            assert_eq!(hear(&mut writer).await, "OK");
        }
    }
    scene.cluster.node(slow).cont();
    assert_eq!(message(&mut reader).await, "nil");
    assert!(message(&mut reader).await.starts_with("[nil, nil, "));
    assert_eq!(message(&mut reader).await, FORGET);
}

#[tokio::test]
async fn a_cache_is_dropped_when_a_shard_gets_another_primary() {
    let scene = Scene::brittle().await;
    let (mut reader, mut writer) = (tracker(&scene, "").await, scene.client().await);
    let mut bcast = tracker(&scene, "BCAST").await;
    let mut plain = scene.client3().await;
    for kills in [false, true] {
        for key in KEYS {
            ask(&mut reader, &format!("GET {key}")).await;
            ask(&mut plain, &format!("GET {key}")).await;
        }
        let before = scene.node_of("foo").await;
        match kills {
            true => scene.cluster.node(before).kill(),
            false => {
                let replica = scene.cluster.partner(before);
                scene.cluster.hand_over(replica).await.unwrap();
            }
        }
        is_told_to_forget(&mut reader).await;
        is_told_to_forget(&mut bcast).await;
        // It is tracked again, at the new primary and at those that stayed.
        for key in KEYS {
            ask(&mut reader, &format!("GET {key}")).await;
            assert_eq!(ask(&mut writer, &format!("SET {key} {kills}")).await, "OK");
            while message(&mut reader).await != invalidated(key) {}
            while message(&mut bcast).await != invalidated(key) {}
            answers(&mut plain, &format!("GET {key}"), &kills.to_string()).await;
        }
        if kills {
            let node = scene.cluster.node(before);
            node.restart(Data::Kept).await.unwrap();
        }
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_cache_is_dropped_when_a_slot_moves() {
    let scene = Scene::start().await;
    let (mut reader, mut writer) = (tracker(&scene, "").await, scene.client().await);
    let slot = key_slot(b"{foo}");
    let from = scene.node_of("foo").await;
    let to = (from + 1) % 3;
    // There is no such key, and nobody says at the old place that there is one at the new.
    answers(&mut reader, "GET foo", "nil").await;
    scene.cluster.open_slot(slot, from, to).await.unwrap();
    // While it is on its way the reply is good for once.
    answers(&mut reader, "GET {foo}asked", "nil").await;
    is_told_to_forget(&mut reader).await;
    scene.cluster.close_slot(slot, to).await.unwrap();
    is_told_to_forget(&mut reader).await;
    ask(&mut reader, "GET foo").await;
    assert_eq!(ask(&mut writer, "SET foo new").await, "OK");
    while message(&mut reader).await != invalidated("foo") {}
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_client_that_becomes_somebody_else_tracks_on_as_far_as_it_may() {
    let scene = Scene::locked("secret").await;
    let without = [
        "ACL",
        "SETUSER",
        "ann",
        "on",
        ">pw",
        "~*",
        "&*",
        "+@all",
        "-client|tracking",
    ];
    for node in scene.cluster.nodes() {
        assert!(node.cli(&without).await.unwrap().is_ok());
    }
    let mut writer = scene.client().await;
    assert_eq!(ask(&mut writer, "AUTH secret").await, "OK");
    let mut reader = scene.client().await;
    assert_eq!(ask(&mut reader, "AUTH secret").await, "OK");
    reader.hello(Protocol::Resp3).await.unwrap();
    assert_eq!(ask(&mut reader, "CLIENT TRACKING ON").await, "OK");
    for round in 0..2 {
        for key in KEYS {
            ask(&mut reader, &format!("GET {key}")).await;
            assert_eq!(ask(&mut writer, &format!("SET {key} {round}")).await, "OK");
            while message(&mut reader).await != invalidated(key) {}
        }
        answers(&mut reader, "AUTH secret", "OK").await;
        is_told_to_forget(&mut reader).await;
    }
    assert_eq!(ask(&mut reader, "AUTH ann pw").await, "OK");
    for key in KEYS {
        let refused = ask(&mut reader, &format!("GET {key}")).await;
        assert!(refused.contains("NOPERM"), "{refused}");
    }
    assert_eq!(ask(&mut reader, "AUTH secret").await, "OK");
    assert_eq!(ask(&mut reader, "MGET foo bar qux").await, "[1, 1, 1]");
    let mut ann = scene.client().await;
    assert_eq!(ask(&mut ann, "AUTH ann pw").await, "OK");
    let refused = ask(&mut ann, "CLIENT TRACKING ON").await;
    assert!(refused.contains("NOPERM"), "{refused}");
    assert_eq!(ask(&mut ann, "GET foo").await, "1");
    scene.assert_log_is_clean();
}

/// What a client keeps: it asks in pipelines for what it has not, and drops what it is told to drop.
struct Cache {
    client: Client,
    kept: HashMap<String, String>,
    /// Keys of the requests that are on their way.
    asked: VecDeque<Vec<String>>,
}

impl Cache {
    async fn ask(&mut self, mut keys: Vec<String>) {
        keys.retain(|key| !self.kept.contains_key(key));
        if keys.is_empty() {
            return;
        }
        let mut request = vec![if keys.len() == 1 { "GET" } else { "MGET" }];
        request.extend(keys.iter().map(String::as_str));
        self.client.send(&request).await.unwrap();
        self.asked.push_back(keys);
    }

    /// Takes the next thing that comes.
    async fn hear(&mut self) {
        let came = tokio::time::timeout(SOON, self.client.message()).await;
        let came = came.expect("something comes").unwrap();
        if let Value::Push(items) = &came {
            match items.get(1).and_then(Value::items) {
                Some(keys) => keys.iter().filter_map(Value::text).for_each(|key| {
                    self.kept.remove(key);
                }),
                None => self.kept.clear(),
            }
            return;
        }
        let keys = self.asked.pop_front().expect("somebody asked");
        let one = [came.clone()];
        let values = came.items().unwrap_or(&one);
        assert_eq!(keys.len(), values.len(), "{came}");
        for (key, value) in keys.into_iter().zip(values) {
            let value = value.text().unwrap_or("nil");
            self.kept.insert(key, value.to_owned());
        }
    }

    /// Nobody writes any more: what is kept becomes true as soon as the last messages have come.
    async fn becomes_true(&mut self, truth: &HashMap<String, String>) {
        while !self.asked.is_empty() {
            self.hear().await;
        }
        let stale = |kept: &HashMap<String, String>| {
            let mut kept = kept.iter();
            let stale = kept.find(|(key, value)| truth.get(*key) != Some(value));
            stale.map(|(key, value)| format!("{key}: {value}, and it is {:?}", truth.get(key)))
        };
        while let Some(what) = stale(&self.kept) {
            let more = tokio::time::timeout(SOON / 3, self.hear()).await;
            more.unwrap_or_else(|_| panic!("it is kept for ever: {what}"));
        }
    }
}

/// The number of keys of which about half are there.
const CACHED: u64 = 120;

fn cached(number: u64) -> String {
    format!("cached:{}", number % CACHED)
}

/// Reads and writes until `changing` is over, and then until every key was written again.
async fn read_and_write(cache: &mut Cache, writer: &mut Client, changing: &Cell<bool>) {
    let (mut round, mut more) = (0, 300);
    while more > 0 {
        round += 1;
        more -= i32::from(!changing.get());
        let at = round * 7;
        cache.ask(vec![cached(at)]).await;
        cache
            .ask((0..5).map(|n| cached(at + n * 17)).collect())
            .await;
        // While the reply is on its way.
        let name = cached(at + round % 5 * 17);
        let write = match round % 2 {
            0 => format!("DEL {name}"),
            _ => format!("SET {name} {round}"),
        };
        let reply = ask(writer, &write).await;
        assert!(!reply.starts_with('!'), "{reply}");
        while cache.asked.len() > 10 {
            cache.hear().await;
        }
    }
}

#[tokio::test]
async fn nothing_stale_survives_whatever_happens_to_the_cluster() {
    let scene = Scene::for_a_handover().await;
    for (options, round) in [("", 0), ("BCAST PREFIX cached:", 0), ("", 1), ("OPTOUT", 0)] {
        let mut cache = Cache {
            client: tracker(&scene, options).await,
            kept: HashMap::new(),
            asked: VecDeque::new(),
        };
        let mut writer = scene.client().await;
        for event in 0..5 {
            let changing = Cell::new(true);
            let changes = async {
                let name = cached(event * 31 + round);
                let from = scene.node_of(&name).await;
                match event {
                    // Nothing.
                    0 => {}
                    4 => {
                        let replica = scene.cluster.partner(from);
                        scene.cluster.hand_over(replica).await.unwrap();
                    }
                    _ => {
                        let mut others = Vec::new();
                        for key in KEYS {
                            others.push(scene.node_of(key).await);
                        }
                        let to = others.into_iter().find(|node| *node != from).unwrap();
                        let slot = key_slot(name.as_bytes());
                        scene.cluster.move_slot(slot, from, to).await.unwrap();
                    }
                }
                changing.set(false);
            };
            let work = read_and_write(&mut cache, &mut writer, &changing);
            tokio::join!(changes, work);
            let mut truth = HashMap::new();
            for number in 0..CACHED {
                let value = ask(&mut writer, &format!("GET {}", cached(number))).await;
                truth.insert(cached(number), value);
            }
            cache.becomes_true(&truth).await;
        }
    }
    scene.assert_log_is_clean();
}
