//! Each command goes where its keys are.

use std::collections::BTreeSet;

use pointsman::lab::Client;
use pointsman::resp::key_slot;

use crate::scene::{SOON, Scene, ask, hear, message, older_than, send};

/// Keys of three shards.
const KEYS: [&str; 3] = ["foo", "bar", "qux"];

#[tokio::test]
async fn keys_of_three_shards_are_read_and_written_over_one_connection() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let shards: BTreeSet<usize> = KEYS
        .iter()
        .map(|key| usize::from(key_slot(key.as_bytes())) * 3 / 16_384)
        .collect();
    assert_eq!(shards.len(), 3, "the keys are well chosen");
    // A pipeline that goes to and fro: replies come in the order of the requests.
    for round in 0..200 {
        for key in KEYS {
            let value = format!("{key}-{round}");
            client.queue(&["SET", key, &value]);
            client.queue(&["GET", key]);
            client.queue(&["INCR", &format!("n-{key}")]);
        }
    }
    client.flush().await.unwrap();
    for round in 0..200 {
        for key in KEYS {
            assert_eq!(hear(&mut client).await, "OK");
            assert_eq!(hear(&mut client).await, format!("{key}-{round}"));
            assert_eq!(hear(&mut client).await, format!("{}", round + 1));
        }
    }
    commands_with_many_keys(&mut client).await;
    commands_about_everything(&mut client).await;
    transactions(&mut client).await;
    scripts(&mut client).await;
    errors_are_those_of_redis(&mut client).await;
    scene.assert_log_is_clean();
}

async fn commands_with_many_keys(client: &mut Client) {
    for (request, reply) in [
        ("MSET foo 1 bar 2 qux 3", "OK"),
        ("MGET qux foo none bar foo", "[3, 1, nil, 2, 1]"),
        ("EXISTS foo bar qux none foo", "4"),
        ("TOUCH foo bar none", "2"),
        ("UNLINK foo none", "1"),
        ("DEL bar qux qux", "2"),
        ("MGET foo bar", "[nil, nil]"),
        ("MSET {t}a 1 {t}b 2", "OK"),
        ("MGET {t}a {t}b", "[1, 2]"),
    ] {
        assert_eq!(ask(client, request).await, reply, "{request}");
    }
}

async fn commands_about_everything(client: &mut Client) {
    assert_eq!(ask(client, "FLUSHALL").await, "OK");
    for number in 0..300 {
        client.queue(&["SET", &format!("scan:{number}"), "v"]);
    }
    client.flush().await.unwrap();
    for _ in 0..300 {
        assert_eq!(hear(client).await, "OK");
    }
    assert_eq!(ask(client, "DBSIZE").await, "300");
    let keys = client.call(&["KEYS", "scan:*"]).await.unwrap();
    assert_eq!(keys.items().map(<[_]>::len), Some(300));
    assert!(ask(client, "RANDOMKEY").await.starts_with("scan:"));
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = client
            .call(&["SCAN", &cursor, "COUNT", "17"])
            .await
            .unwrap();
        let [next, keys] = reply.items().expect("two elements") else {
            panic!("{reply}");
        };
        let keys = keys.items().unwrap_or_default().iter();
        seen.extend(keys.filter_map(|key| key.text().map(str::to_owned)));
        cursor = next.text().expect("a cursor").to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
}

async fn transactions(client: &mut Client) {
    // Whole.
    for request in ["MULTI", "SET {a}x 1", "INCR {a}x", "EXEC", "GET {a}x"] {
        let words: Vec<&str> = request.split(' ').collect();
        client.queue(&words);
    }
    client.flush().await.unwrap();
    for reply in ["OK", "QUEUED", "QUEUED", "[OK, 2]", "2"] {
        assert_eq!(hear(client).await, reply);
    }
    // Piece by piece, with WATCH and without, for a key of each shard.
    for key in KEYS {
        for watch in [true, false] {
            if watch {
                assert_eq!(ask(client, &format!("WATCH {key}")).await, "OK");
                ask(client, &format!("GET {key}")).await;
            }
            assert_eq!(ask(client, "MULTI").await, "OK");
            assert_eq!(ask(client, &format!("SET {key} v")).await, "QUEUED");
            assert_eq!(ask(client, &format!("STRLEN {key}")).await, "QUEUED");
            assert_eq!(ask(client, "EXEC").await, "[OK, 1]", "{key} {watch}");
        }
    }
    // A watched key that changes.
    assert_eq!(ask(client, "WATCH foo").await, "OK");
    assert_eq!(ask(client, "SET foo other").await, "OK");
    assert_eq!(ask(client, "MULTI").await, "OK");
    assert_eq!(ask(client, "GET foo").await, "QUEUED");
    assert_eq!(ask(client, "EXEC").await, "nil");
    // Over two shards.
    assert_eq!(ask(client, "MULTI").await, "OK");
    assert_eq!(ask(client, "SET foo 1").await, "QUEUED");
    assert!(ask(client, "SET bar 1").await.contains("CROSSSLOT"));
    assert!(ask(client, "EXEC").await.contains("EXECABORT"));
    assert_eq!(ask(client, "GET foo").await, "other");
}

async fn scripts(client: &mut Client) {
    let body = "return redis.call('SET', KEYS[1], ARGV[1])";
    let sha = client.call(&["SCRIPT", "LOAD", body]).await.unwrap();
    let sha = sha.text().expect("a digest").to_owned();
    for key in KEYS {
        let reply = client
            .call(&["EVALSHA", &sha, "1", key, "s"])
            .await
            .unwrap();
        assert!(reply.is_ok(), "{key}: {reply}");
    }
    assert_eq!(
        ask(client, &format!("SCRIPT EXISTS {sha} x")).await,
        "[1, 0]"
    );
    assert_eq!(ask(client, "EVAL return{1,2} 0").await, "[1, 2]");
    assert_eq!(ask(client, "SCRIPT FLUSH").await, "OK");
    let gone = ask(client, &format!("EVALSHA {sha} 1 foo s")).await;
    assert!(gone.contains("NOSCRIPT"), "{gone}");
}

async fn errors_are_those_of_redis(client: &mut Client) {
    for (request, error) in [
        ("RENAME foo bar", "CROSSSLOT"),
        ("MSETNX foo 1 bar 2", "CROSSSLOT"),
        ("SUNION foo bar", "CROSSSLOT"),
        ("EVAL x 2 foo bar", "CROSSSLOT"),
        ("SELECT 1", "SELECT is not allowed in cluster mode"),
        ("MSET foo 1 {foo}x", "wrong number of arguments"),
        ("GET", "wrong number of arguments"),
        ("SCAN x", "invalid cursor"),
        ("nonsense foo", "unknown command"),
        ("CLUSTER FORGET x", "can not be changed"),
        ("CLIENT NO-TOUCH ON", "several nodes"),
    ] {
        let reply = ask(client, request).await;
        assert!(reply.contains(error), "{request}: {reply}");
    }
    assert_eq!(ask(client, "GET foo").await, "s", "still the same database");
}

#[tokio::test]
async fn nobody_forges_the_reply_to_another() {
    let scene = Scene::start().await;
    let (mut forger, mut other) = (scene.client().await, scene.client().await);
    for _ in 0..20 {
        let request = ["FUNCTION", "LIST", "WITHCODE", "\r\n+FORGED"];
        forger.send(&request).await.expect("sent");
        let mut heard = Vec::new();
        for key in KEYS {
            heard.push(ask(&mut other, &format!("GET {key}")).await);
        }
        assert_eq!(heard, ["nil", "nil", "nil"]);
        assert!(hear(&mut forger).await.starts_with("-ERR"));
    }
}

#[tokio::test]
async fn blocking_commands_wait_at_their_shard() {
    let scene = Scene::start().await;
    let (mut waits, mut pushes) = (scene.client().await, scene.client().await);
    for key in KEYS {
        send(&mut waits, &format!("BLPOP {key} 0")).await;
        send(&mut waits, "PING").await;
        assert_eq!(ask(&mut pushes, &format!("RPUSH {key} e")).await, "1");
        assert_eq!(hear(&mut waits).await, format!("[{key}, e]"));
        assert_eq!(hear(&mut waits).await, "PONG");
        assert_eq!(ask(&mut waits, &format!("LLEN {key}")).await, "0");
    }
    let over_two = ask(&mut waits, "BLPOP foo bar 1").await;
    assert!(over_two.contains("CROSSSLOT"), "{over_two}");
    assert_eq!(ask(&mut waits, "XREAD STREAMS foo 0").await, "nil");
    assert_eq!(ask(&mut waits, "SET bar 1").await, "OK");
    assert_eq!(ask(&mut waits, "WAIT 1 5000").await, "1");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn messages_reach_subscribers_of_channels_and_of_shard_channels() {
    let scene = Scene::start().await;
    let mut publisher = scene.client().await;
    let mut plain = scene.client().await;
    assert_eq!(ask(&mut plain, "SUBSCRIBE ch").await, "[subscribe, ch, 1]");
    for key in KEYS {
        assert_eq!(ask(&mut publisher, &format!("SET {key} 1")).await, "OK");
        assert_eq!(ask(&mut publisher, &format!("PUBLISH ch {key}")).await, "1");
        assert_eq!(message(&mut plain).await, format!("[message, ch, {key}]"));
    }
    // A subscriber of RESP3 may ask for keys of all shards.
    let mut both = scene.client3().await;
    send(&mut both, "SUBSCRIBE ch").await;
    assert_eq!(message(&mut both).await, "[subscribe, ch, 1]");
    for key in KEYS {
        assert_eq!(ask(&mut both, &format!("GET {key}")).await, "1");
    }
    scene.assert_log_is_clean();
    if older_than((7, 0), "a channel of a shard") {
        return;
    }
    for channel in KEYS {
        let mut sharded = scene.client().await;
        let subscribed = ask(&mut sharded, &format!("SSUBSCRIBE {channel}")).await;
        assert_eq!(subscribed, format!("[ssubscribe, {channel}, 1]"));
        let heard = ask(&mut publisher, &format!("SPUBLISH {channel} m")).await;
        assert_eq!(heard, "1");
        assert_eq!(
            message(&mut sharded).await,
            format!("[smessage, {channel}, m]")
        );
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_client_that_knows_clusters_sees_one_node() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let port = scene.pointsman.port();
    let slots = ask(&mut client, "CLUSTER SLOTS").await;
    assert!(
        slots.starts_with(&format!("[[0, 16383, [127.0.0.1, {port}, ")),
        "{slots}"
    );
    assert_eq!(ask(&mut client, "CLUSTER KEYSLOT foo").await, "12182");
    let id = ask(&mut client, "CLUSTER MYID").await;
    assert_eq!(id.len(), 40);
    let nodes = ask(&mut client, "CLUSTER NODES").await;
    assert!(nodes.contains(&id) && nodes.contains("myself,master - 0 0 1 connected 0-16383"));
    assert!(
        ask(&mut client, "CLUSTER INFO")
            .await
            .contains("cluster_state:ok")
    );
    let shards = ask(&mut client, "CLUSTER SHARDS").await;
    assert!(shards.contains(&id) && shards.contains("16383"), "{shards}");
    for request in ["ASKING", "READONLY", "READWRITE", "SET foo 1"] {
        assert_eq!(ask(&mut client, request).await, "OK");
    }
    assert_eq!(ask(&mut client, "CLUSTER COUNTKEYSINSLOT 12182").await, "1");
    assert_eq!(
        ask(&mut client, "CLUSTER GETKEYSINSLOT 12182 5").await,
        "[foo]"
    );
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn an_operator_sees_the_nodes_and_that_the_cluster_decides() {
    let scene = Scene::start().await;
    let program = env!("CARGO_BIN_EXE_pointsman");
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        let output = command
            .args(arguments)
            .args(["--admin", &scene.pointsman.admin()]);
        let output = output.output().await.expect("it starts");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    pointsman::lab::until("a status of six nodes", SOON, async || {
        let status = run(&["status"]).await;
        let of_role = |role: &str| status.matches(&format!(" {role} ")).count();
        let all = of_role("primary") == 3 && of_role("replica") == 3;
        let shown = status.contains("the cluster decides") && status.contains("SHARD");
        match all && shown && !status.contains("never") {
            true => Ok(()),
            false => Err(status),
        }
    })
    .await
    .unwrap();
    let refused = run(&["switchover", "main"]).await;
    assert!(refused.contains("CLUSTER FAILOVER"), "{refused}");
}

#[tokio::test]
async fn users_are_those_of_the_nodes() {
    let scene = Scene::locked("secret").await;
    let mut client = scene.client().await;
    for key in KEYS {
        let refused = ask(&mut client, &format!("GET {key}")).await;
        assert!(refused.contains("NOAUTH"), "{refused}");
    }
    assert!(ask(&mut client, "AUTH wrong").await.contains("WRONGPASS"));
    assert_eq!(ask(&mut client, "AUTH secret").await, "OK");
    for key in KEYS {
        assert_eq!(ask(&mut client, &format!("SET {key} 1")).await, "OK");
    }
    assert_eq!(ask(&mut client, "MGET foo bar qux").await, "[1, 1, 1]");
    let ann = ["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"];
    for node in scene.cluster.nodes() {
        assert!(node.cli(&ann).await.unwrap().is_ok());
    }
    assert_eq!(ask(&mut client, "AUTH ann pw").await, "OK");
    assert_eq!(ask(&mut client, "ACL WHOAMI").await, "ann");
    for key in KEYS {
        assert_eq!(ask(&mut client, &format!("GET {key}")).await, "1");
    }
    scene.assert_log_is_clean();
    if older_than((6, 2), "RESET") {
        return;
    }
    assert_eq!(ask(&mut client, "RESET").await, "RESET");
    assert!(ask(&mut client, "GET foo").await.contains("NOAUTH"));
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_client_that_wants_no_replies_gets_none() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    for request in [
        "CLIENT REPLY OFF",
        "SET foo 1",
        "SET bar 2",
        "MSET foo 3 qux 4",
        "DBSIZE",
    ] {
        send(&mut client, request).await;
    }
    assert_eq!(ask(&mut client, "CLIENT REPLY ON").await, "OK");
    send(&mut client, "CLIENT REPLY SKIP").await;
    send(&mut client, "GET bar").await;
    assert_eq!(ask(&mut client, "MGET foo bar qux").await, "[3, 2, 4]");
    // Local answers and those of shards in one pipeline.
    for request in [
        "GET foo",
        "CLUSTER KEYSLOT foo",
        "GET bar",
        "PING",
        "CLIENT GETNAME",
        "GET qux",
    ] {
        send(&mut client, request).await;
    }
    for reply in ["3", "12182", "2", "PONG", "nil", "4"] {
        assert_eq!(hear(&mut client).await, reply);
    }
    scene.assert_log_is_clean();
}
