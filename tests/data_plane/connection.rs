//! What a client sees while nothing happens to the primary.

use std::time::Duration;

use bytes::BytesMut;
use pointsman::lab::{Protocol, Server};
use pointsman::resp::encode_request;
use pointsman::topology::EvidenceKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::plane::{PATIENCE, Plane, ask, hear, send};

#[tokio::test]
async fn requests_are_answered_in_order_with_our_own_replies_between() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    client.queue(&["SET", "k", "1"]);
    client.queue(&["CLIENT", "SETNAME", "me"]);
    client.queue(&["INCR", "k"]);
    client.queue(&["CLIENT", "GETNAME"]);
    client.queue_raw(b"GET k\r\n");
    client.queue(&["NONSENSE"]);
    client.queue(&["PING"]);
    client.flush().await.expect("sent");
    for expected in ["+OK", "+OK", ":2", "\"me\"", "\"2\""] {
        assert_eq!(hear(&mut client).await, expected);
    }
    assert!(hear(&mut client).await.starts_with("-ERR unknown command"));
    assert_eq!(hear(&mut client).await, "+PONG");
}

#[tokio::test]
async fn many_clients_share_one_connection_and_keep_their_own_order() {
    let plane = Plane::start(0).await;
    let mut tasks = Vec::new();
    for number in 0..50 {
        let mut client = plane.client().await;
        tasks.push(tokio::spawn(async move {
            let key = format!("k{number}");
            for round in 0..40 {
                for _ in 0..5 {
                    client.queue(&["INCR", &key]);
                }
                client.flush().await.expect("sent");
                for step in 1..=5 {
                    assert_eq!(hear(&mut client).await, format!(":{}", round * 5 + step));
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("a client was answered in its own order");
    }
    let clients = plane
        .node(0)
        .cli(&["CLIENT", "LIST"])
        .await
        .expect("CLIENT LIST")
        .to_string();
    assert_eq!(clients.matches("name=pointsman").count(), 1, "{clients}");
}

#[tokio::test]
async fn a_large_value_passes_both_ways() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    let value = "x".repeat(20 * 1024 * 1024);
    client.send(&["SET", "big", &value]).await.expect("sent");
    assert_eq!(hear(&mut client).await, "+OK");
    let reply = client.call(&["GET", "big"]).await.expect("answered");
    assert_eq!(reply.text().map(str::len), Some(value.len()));
}

#[tokio::test]
async fn ten_thousand_requests_in_one_write_are_answered() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    for _ in 0..10_000 {
        client.queue(&["INCR", "n"]);
    }
    client.flush().await.expect("sent");
    for expected in 1..=10_000 {
        assert_eq!(hear(&mut client).await, format!(":{expected}"));
    }
}

#[tokio::test]
async fn malformed_requests_get_the_words_of_redis_and_end_only_their_connection() {
    let plane = Plane::start(0).await;
    let mut other = plane.client().await;
    for (bytes, expected) in [
        (
            &b"*1\r\nx\r\n"[..],
            "-ERR Protocol error: expected '$', got 'x'",
        ),
        (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length"),
        (
            b"*9999999\r\n",
            "-ERR Protocol error: invalid multibulk length",
        ),
        (
            b"GET \"open\r\n",
            "-ERR Protocol error: unbalanced quotes in request",
        ),
    ] {
        let mut client = plane.client().await;
        client.queue_raw(bytes);
        client.flush().await.expect("sent");
        assert_eq!(hear(&mut client).await, expected);
        client.closed().await.expect("closed");
    }
    assert_eq!(ask(&mut other, "PING").await, "+PONG");
}

#[tokio::test]
async fn who_has_not_logged_in_may_send_little() {
    let plane = Plane::start(0).await;
    let node = plane.node(0);
    let rule = ["ACL", "SETUSER", "default", "resetpass", ">pw"];
    node.cli(&rule).await.expect("a password");
    // Whoever is connected stays logged in.
    let kill = ["CLIENT", "KILL", "TYPE", "normal"];
    node.cli(&kill).await.expect("the shared connection ends");
    let many = "-ERR Protocol error: unauthenticated multibulk length";
    let long = "-ERR Protocol error: unauthenticated bulk length";
    let invalid = "-ERR Protocol error: invalid multibulk length";
    for (bytes, expected) in [
        ("*11\r\n", many),
        ("*2\r\n$4\r\nECHO\r\n$16385\r\n", long),
        ("*1048577\r\n", invalid),
    ] {
        let mut client = plane.client().await;
        let refused = ask(&mut client, "PING").await;
        assert!(refused.starts_with("-NOAUTH"), "{refused}");
        client.queue(&["PING"]);
        client.queue_raw(bytes.as_bytes());
        client.flush().await.expect("sent");
        assert_eq!(hear(&mut client).await, refused);
        assert_eq!(hear(&mut client).await, expected);
        client.closed().await.expect("closed");
    }
    let mut client = plane.client().await;
    let large = "x".repeat(20_000);
    client.queue(&["AUTH", "pw"]);
    client.queue(&["ECHO", &large]);
    client.queue(&["RESET"]);
    client.queue(&["ECHO", &large]);
    client.flush().await.expect("sent");
    assert_eq!(hear(&mut client).await, "+OK");
    assert_eq!(hear(&mut client).await, format!("\"{large}\""));
    if Server::version().expect("a version").1 >= (6, 2) {
        assert_eq!(hear(&mut client).await, "+RESET");
        assert_eq!(hear(&mut client).await, long);
        client.closed().await.expect("closed");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_come_back_as_they_are() {
    let plane = Plane::start(0).await;
    let mut said = Vec::new();
    for address in [plane.node(0).address(), plane.address()] {
        let mut stream = tokio::net::TcpStream::connect(address.to_string())
            .await
            .expect("connected");
        let skip = b"CLIENT REPLY SKIP\r\n\r\nPING\r\nCLIENT REPLY SKIP\r\n*0\r\nPING\r\n";
        stream.write_all(skip).await.expect("sent");
        for request in [
            &[&b"CLIENT"[..], b"LIST", b"TYPE", b"\xff\xfe\0x"][..],
            &[b"ACL", b"SETUSER", b"\xff\xfe", b"on", b">pw", b"+@all"],
            &[b"AUTH", b"\xff\xfe", b"pw"],
            &[b"CLIENT", b"INFO"],
            &[b"CLIENT", b"KILL", b"USER", b"\xff\xfe", b"SKIPME", b"no"],
        ] {
            let mut frame = BytesMut::new();
            encode_request(&mut frame, request);
            stream.write_all(&frame).await.expect("sent");
        }
        let mut all = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut all)).await;
        end.expect("in time").expect("closed");
        if Server::version().expect("a version").1 >= (6, 2) {
            let user = all.windows(9).any(|nine| nine == b" user=\xff\xfe ");
            assert!(user, "{}", all.escape_ascii());
        }
        // Without what is about the client itself.
        let lines = all.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.starts_with(b"id=") && !line.starts_with(b"$"));
        said.push(
            lines
                .collect::<Vec<_>>()
                .join(&b'\n')
                .escape_ascii()
                .to_string(),
        );
    }
    assert!(said[0].ends_with(":1\\r\\n"), "{}", said[0]);
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn nobody_forges_the_reply_to_another() {
    let plane = Plane::start(0).await;
    let (mut forger, mut other) = (plane.client().await, plane.client().await);
    for _ in 0..20 {
        let request = ["FUNCTION", "LIST", "WITHCODE", "\r\n+FORGED"];
        forger.send(&request).await.expect("sent");
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(ask(&mut other, "GET k").await);
        }
        assert_eq!(heard, ["nil", "nil", "nil"]);
        assert!(hear(&mut forger).await.starts_with("-ERR"));
    }
}

#[tokio::test]
async fn what_the_node_takes_for_no_request_ends_its_client_only() {
    let plane = Plane::start(0).await;
    let (mut greedy, mut other) = (plane.client().await, plane.client().await);
    let limit = "CONFIG SET proto-max-bulk-len 1048576";
    assert_eq!(ask(&mut other, limit).await, "+OK");
    let large = "x".repeat(1_048_577);
    greedy.send(&["SET", "k", &large]).await.expect("sent");
    let expected = "-ERR Protocol error: invalid bulk length";
    assert_eq!(hear(&mut greedy).await, expected);
    greedy.closed().await.expect("closed");
    assert_eq!(ask(&mut other, "GET k").await, "nil");
}

#[tokio::test]
async fn quit_answers_everything_before_it_and_closes() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    client.queue(&["INCR", "n"]);
    client.queue(&["QUIT"]);
    client.queue(&["INCR", "n"]);
    client.flush().await.expect("sent");
    assert_eq!(hear(&mut client).await, ":1");
    assert_eq!(hear(&mut client).await, "+OK");
    client.closed().await.expect("closed");
    assert_eq!(ask(&mut plane.client().await, "GET n").await, "\"1\"");
}

#[tokio::test]
async fn databases_protocols_and_users_do_not_mix() {
    let plane = Plane::start(0).await;
    let node = plane.node(0);
    node.cli(&[
        "ACL",
        "SETUSER",
        "bob",
        "on",
        ">secret",
        "~*",
        "+@all",
        "-flushall",
    ])
    .await
    .expect("user made");
    let (mut a, mut b, mut c) = (
        plane.client().await,
        plane.client().await,
        plane.client().await,
    );
    assert_eq!(ask(&mut a, "SELECT 3").await, "+OK");
    assert_eq!(ask(&mut a, "SET where three").await, "+OK");
    assert_eq!(ask(&mut b, "GET where").await, "nil");
    assert!(
        ask(&mut b, "SELECT 99")
            .await
            .starts_with("-ERR DB index is out of range")
    );
    assert!(ask(&mut b, "SELECT x").await.starts_with("-ERR"));
    assert_eq!(ask(&mut b, "SET where zero").await, "+OK");
    assert_eq!(ask(&mut a, "GET where").await, "\"three\"");
    assert!(
        ask(&mut c, "AUTH bob wrong")
            .await
            .starts_with("-WRONGPASS")
    );
    assert_eq!(ask(&mut c, "ACL WHOAMI").await, "\"default\"");
    assert_eq!(ask(&mut c, "AUTH bob secret").await, "+OK");
    assert_eq!(ask(&mut c, "ACL WHOAMI").await, "\"bob\"");
    assert!(ask(&mut c, "FLUSHALL").await.starts_with("-NOPERM"));
    assert_eq!(ask(&mut a, "ACL WHOAMI").await, "\"default\"");
    c.hello(Protocol::Resp3).await.expect("HELLO 3");
    assert_eq!(ask(&mut c, "ACL WHOAMI").await, "\"bob\"");
    if Server::version().expect("a version").1 >= (6, 2) {
        assert_eq!(ask(&mut c, "RESET").await, "+RESET");
    }
}

#[tokio::test]
async fn a_node_with_a_password_demands_it_from_each_client() {
    let options = pointsman::lab::ClusterOptions {
        replicas: 0,
        password: Some("pw".into()),
        ..Default::default()
    };
    let plane = Plane::with(options, Default::default()).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    assert!(ask(&mut a, "GET k").await.starts_with("-NOAUTH"));
    assert!(ask(&mut a, "HELLO 3").await.starts_with("-NOAUTH"));
    assert_eq!(ask(&mut a, "AUTH pw").await, "+OK");
    assert_eq!(ask(&mut a, "SET k v").await, "+OK");
    assert!(ask(&mut b, "GET k").await.starts_with("-NOAUTH"));
    assert!(ask(&mut b, "AUTH nope").await.starts_with("-WRONGPASS"));
    assert!(ask(&mut b, "GET k").await.starts_with("-NOAUTH"));
}

#[tokio::test]
async fn a_password_given_later_counts_for_clients_that_come_later() {
    if Server::version().expect("a version").1 < (6, 2) {
        // It has no RESET, with which the node is asked: docs/compatibility.md.
        return;
    }
    let plane = Plane::start(0).await;
    // Who tells the node so, past pointsman.
    let mut operator = plane.node(0).client().await.expect("the node answers");
    let mut early = plane.client().await;
    assert_eq!(ask(&mut early, "SET k v").await, "+OK");
    let closed = [
        ("CONFIG SET requirepass pw", "CONFIG SET requirepass "),
        (
            "ACL SETUSER default resetpass >pw",
            "ACL SETUSER default nopass",
        ),
        (
            "ACL SETUSER default >pw off",
            "ACL SETUSER default on nopass",
        ),
    ];
    for (close, open) in closed {
        assert_eq!(ask(&mut operator, close).await, "+OK");
        let mut late = plane.client().await;
        send(&mut late, "GET k").await;
        send(&mut late, "MULTI").await;
        for _ in 0..2 {
            assert!(hear(&mut late).await.starts_with("-NOAUTH"), "{close}");
        }
        // Who was let in stays so, and shares nothing with those who were not.
        assert_eq!(ask(&mut early, "GET k").await, "\"v\"", "{close}");
        assert!(ask(&mut late, "GET k").await.starts_with("-NOAUTH"));
        let off = close.ends_with("off");
        let reply = ask(&mut late, "AUTH pw").await;
        assert!(
            if off {
                reply.starts_with("-WRONGPASS")
            } else {
                reply == "+OK"
            },
            "{reply}"
        );
        assert_eq!(ask(&mut late, "RESET").await, "+RESET");
        assert!(
            ask(&mut late, "GET k").await.starts_with("-NOAUTH"),
            "{close}"
        );
        assert_eq!(ask(&mut operator, open).await, "+OK");
        assert_eq!(ask(&mut late, "GET k").await, "\"v\"", "{open}");
        assert_eq!(
            ask(&mut plane.client().await, "GET k").await,
            "\"v\"",
            "{open}"
        );
    }
}

#[tokio::test]
async fn a_refused_login_gets_its_own_reply_among_others() {
    if Server::version().expect("a version").1 < (6, 2) {
        // It has no RESET.
        return;
    }
    let plane = Plane::start(0).await;
    let (mut a, mut b, mut c) = (
        plane.client().await,
        plane.client().await,
        plane.client().await,
    );
    let user = "ACL SETUSER bob on >secret ~* +@all";
    assert_eq!(ask(&mut c, user).await, "+OK");
    assert_eq!(ask(&mut a, "AUTH bob secret").await, "+OK");
    assert_eq!(ask(&mut a, "SET k mine").await, "+OK");
    // The connection of those who knew the password stays.
    assert_eq!(ask(&mut c, "ACL SETUSER bob <secret >new").await, "+OK");
    for login in ["AUTH bob secret", "HELLO 2 AUTH bob secret"] {
        for _ in 0..5 {
            plane.node(0).stop();
            send(&mut a, "GET k").await;
            send(&mut b, login).await;
            send(&mut a, "ACL WHOAMI").await;
            // Answered by pointsman, which has read the others by now.
            assert_eq!(ask(&mut c, "RESET").await, "+RESET");
            plane.node(0).cont();
            assert_eq!(hear(&mut a).await, "\"mine\"");
            assert_eq!(hear(&mut a).await, "\"bob\"");
            assert!(hear(&mut b).await.starts_with("-WRONGPASS"));
            assert_eq!(ask(&mut b, "ACL WHOAMI").await, "\"default\"");
        }
    }
    // With another database, which is selected before the login.
    assert_eq!(ask(&mut b, "SELECT 1").await, "+OK");
    assert!(ask(&mut b, "AUTH bob x").await.starts_with("-WRONGPASS"));
    assert_eq!(ask(&mut b, "AUTH bob new").await, "+OK");
}

#[tokio::test]
async fn client_commands_are_about_the_clients_of_pointsman() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    let id: i64 = ask(&mut b, "CLIENT ID").await[1..]
        .parse()
        .expect("a number");
    assert_eq!(ask(&mut a, "CLIENT SETNAME alice").await, "+OK");
    let list = ask(&mut b, "CLIENT LIST").await;
    assert!(
        list.contains("name=alice") && list.contains("cmd=client|list"),
        "{list}"
    );
    assert_eq!(ask(&mut a, &format!("CLIENT KILL ID {id}")).await, ":1");
    b.closed().await.expect("killed");
    for request in [
        "CLIENT REPLY SKIP",
        "PING",
        "CLIENT REPLY OFF",
        "PING",
        "CLIENT REPLY ON",
    ] {
        send(&mut a, request).await;
    }
    assert_eq!(hear(&mut a).await, "+OK");
    assert_eq!(ask(&mut a, "ECHO x").await, "\"x\"");
}

#[tokio::test]
async fn what_can_not_be_carried_is_refused_with_the_reason() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    for request in ["REPLICAOF NO ONE", "PSYNC ? -1", "SYNC", "FAILOVER"] {
        let reply = ask(&mut client, request).await;
        assert!(
            reply.starts_with("-POINTSMAN not executed: "),
            "{request}: {reply}"
        );
    }
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
}

#[tokio::test]
async fn a_protocol_error_behind_a_select_is_answered_in_its_turn() {
    let plane = Plane::start(0).await;
    let mut other = plane.client().await;
    assert_eq!(ask(&mut other, "SET k v").await, "+OK");
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(plane.address().to_string())
            .await
            .expect("connected");
        let request = b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n*x\r\n";
        stream.write_all(request).await.expect("sent");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.expect("closed");
        assert_eq!(
            String::from_utf8_lossy(&said),
            "+OK\r\n-ERR Protocol error: invalid multibulk length\r\n"
        );
        assert_eq!(ask(&mut other, "GET k").await, "\"v\"");
        assert_eq!(ask(&mut other, "INCR n").await.chars().next(), Some(':'));
    }
}

#[tokio::test]
async fn a_request_that_the_node_hangs_up_on_is_given_up() {
    let mut plane = Plane::start(0).await;
    let (mut greedy, mut other) = (plane.client().await, plane.client().await);
    assert_eq!(
        ask(&mut other, "CONFIG SET client-query-buffer-limit 1048576").await,
        "+OK"
    );
    let large = "x".repeat(2 * 1024 * 1024);
    greedy.send(&["SET", "large", &large]).await.expect("sent");
    let reply = greedy.receive().await.expect("a reply").to_string();
    assert!(reply.contains("outcome unknown"), "{reply}");
    assert_eq!(ask(&mut other, "SET k v").await, "+OK");
    assert_eq!(ask(&mut greedy, "GET k").await, "\"v\"");
    // What was seen by then is there already.
    let mut lost = 0;
    while let Ok(Some(evidence)) = timeout(Duration::ZERO, plane.evidence().recv()).await {
        lost += u32::from(evidence.kind == EvidenceKind::ConnectionLost);
    }
    assert_eq!(lost, 3, "connections that it may cost");
}

#[tokio::test]
async fn a_large_array_and_a_request_of_many_arguments_cost_what_they_are() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    let members: Vec<String> = (0..400_000).map(|n| format!("member:{n}")).collect();
    let mut request = vec!["SADD", "set"];
    request.extend(members.iter().map(String::as_str));
    let began = pointsman::clock::now();
    client.send(&request).await.expect("sent");
    assert_eq!(hear(&mut client).await, ":400000");
    client.send(&["SMEMBERS", "set"]).await.expect("sent");
    let all = client.receive().await.expect("a reply");
    assert_eq!(all.items().map(<[_]>::len), Some(400_000));
    let took = pointsman::clock::now().since(began);
    // Quadratic copies took minutes.
    assert!(took < Duration::from_secs(20), "{took:?}");
}
