//! State that Redis keeps for a connection.

use std::time::Duration;

use pointsman::lab::{Protocol, Server};
use pointsman::topology::{EvidenceKind, Gate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::plane::{PATIENCE, Plane, ask, hear, message, send};

#[tokio::test]
async fn a_transaction_works_whole_and_command_by_command() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    for request in [
        &["MULTI"][..],
        &["INCR", "a"],
        &["INCR", "b"],
        &["EXEC"],
        &["GET", "a"],
    ] {
        client.queue(request);
    }
    client.flush().await.expect("sent");
    for expected in ["+OK", "+QUEUED", "+QUEUED", "[:1, :1]", "\"1\""] {
        assert_eq!(hear(&mut client).await, expected);
    }
    for (request, expected) in [
        ("MULTI", "+OK"),
        ("INCR a", "+QUEUED"),
        ("SELECT 2", "+QUEUED"),
        ("SET here yes", "+QUEUED"),
        ("EXEC", "[:2, +OK, +OK]"),
        ("GET here", "\"yes\""),
        ("SELECT 0", "+OK"),
        ("MULTI", "+OK"),
        ("INCR a", "+QUEUED"),
        ("DISCARD", "+OK"),
        ("GET a", "\"2\""),
    ] {
        assert_eq!(ask(&mut client, request).await, expected, "{request}");
    }
    assert_eq!(ask(&mut client, "MULTI").await, "+OK");
    assert!(
        ask(&mut client, "NONSENSE")
            .await
            .starts_with("-ERR unknown command")
    );
    assert!(ask(&mut client, "EXEC").await.starts_with("-EXECABORT"));
    assert!(
        ask(&mut client, "EXEC")
            .await
            .starts_with("-ERR EXEC without MULTI")
    );
}

#[tokio::test]
async fn watch_sees_the_writes_of_others() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    assert_eq!(ask(&mut a, "WATCH k").await, "+OK");
    assert_eq!(ask(&mut b, "SET k other").await, "+OK");
    assert_eq!(ask(&mut a, "MULTI").await, "+OK");
    assert_eq!(ask(&mut a, "SET k mine").await, "+QUEUED");
    assert_eq!(ask(&mut a, "EXEC").await, "nil");
    assert_eq!(ask(&mut a, "WATCH k").await, "+OK");
    for request in [&["MULTI"][..], &["SET", "k", "mine"], &["EXEC"]] {
        a.queue(request);
    }
    a.flush().await.expect("sent");
    for expected in ["+OK", "+QUEUED", "[+OK]"] {
        assert_eq!(hear(&mut a).await, expected);
    }
}

#[tokio::test]
async fn a_blocked_client_is_served_and_an_abandoned_one_eats_nothing() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    send(&mut a, "BLPOP list 5").await;
    assert_eq!(ask(&mut b, "RPUSH list one").await, ":1");
    assert_eq!(hear(&mut a).await, "[\"list\", \"one\"]");
    assert_eq!(ask(&mut a, "BLPOP list 0.05").await, "nil");
    send(&mut a, "BLPOP list 0").await;
    let blocked = || async { plane.node(0).info_field("blocked_clients").await };
    pointsman::lab::until(
        "the client is blocked",
        crate::plane::PATIENCE,
        async || match blocked().await {
            Ok(count) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await
    .expect("blocked");
    drop(a);
    pointsman::lab::until(
        "the blocked connection is gone",
        crate::plane::PATIENCE,
        async || match blocked().await {
            Ok(count) if count == "0" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await
    .expect("no longer blocked");
    assert_eq!(ask(&mut b, "RPUSH list two").await, ":1");
    assert_eq!(ask(&mut b, "LRANGE list 0 -1").await, "[\"two\"]");
}

#[tokio::test]
async fn a_blocked_client_that_leaves_holds_up_no_end() {
    let plane = Plane::start(0).await;
    let (mut client, mut idle) = (plane.client().await, plane.client().await);
    assert_eq!(ask(&mut idle, "PING").await, "+PONG");
    send(&mut client, "BLPOP list 0").await;
    pointsman::lab::until("the client is blocked", PATIENCE, async || {
        match plane.node(0).info_field("blocked_clients").await {
            Ok(count) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("blocked");
    let drained = tokio::spawn(plane.drain());
    // The end has begun when who waits for nothing is gone.
    let closed = timeout(PATIENCE, idle.closed()).await;
    closed.expect("in time").expect("closed");
    drop(client);
    assert_eq!(drained.await.expect("no panic"), 0, "clients cut off");
}

#[tokio::test]
async fn a_blocked_client_is_unblocked_by_its_own_id() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    let id = ask(&mut a, "CLIENT ID").await[1..].to_owned();
    send(&mut a, "BLPOP nothing 0").await;
    pointsman::lab::until("unblocked", crate::plane::PATIENCE, async || {
        match ask(&mut b, &format!("CLIENT UNBLOCK {id} ERROR"))
            .await
            .as_str()
        {
            ":1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await
    .expect("unblocked");
    assert!(
        hear(&mut a)
            .await
            .starts_with("-UNBLOCKED client unblocked via CLIENT UNBLOCK")
    );
    assert_eq!(ask(&mut a, "PING").await, "+PONG");
}

#[tokio::test]
async fn subscriptions_of_every_kind_in_both_protocols() {
    let plane = Plane::start(0).await;
    let mut publisher = plane.client().await;
    // Sharded channels came with Redis 7.
    let sharded = Server::version().expect("a version").1 >= (7, 0);
    let channels = if sharded { 4 } else { 3 };
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut client = plane.client().await;
        client.hello(protocol).await.expect("HELLO");
        let mut steps = Vec::new();
        for request in &["SUBSCRIBE a b", "PSUBSCRIBE p*", "SSUBSCRIBE s"][..channels - 1] {
            send(&mut client, request).await;
        }
        for _ in 0..channels {
            steps.push(message(&mut client).await);
        }
        assert!(steps[1].contains("\"b\", :2"), "{steps:?}");
        assert_eq!(ask(&mut publisher, "PUBLISH a hello").await, ":1");
        assert!(
            message(&mut client)
                .await
                .contains("\"message\", \"a\", \"hello\"")
        );
        assert_eq!(ask(&mut publisher, "PUBLISH pat hello").await, ":1");
        assert!(
            message(&mut client)
                .await
                .contains("\"pmessage\", \"p*\", \"pat\", \"hello\"")
        );
        if sharded {
            assert_eq!(ask(&mut publisher, "SPUBLISH s hello").await, ":1");
            assert!(
                message(&mut client)
                    .await
                    .contains("\"smessage\", \"s\", \"hello\"")
            );
        }
        for request in &["UNSUBSCRIBE", "PUNSUBSCRIBE p*", "SUNSUBSCRIBE"][..channels - 1] {
            send(&mut client, request).await;
        }
        for _ in 0..channels {
            message(&mut client).await;
        }
        assert_eq!(ask(&mut client, "ECHO back").await, "\"back\"");
        assert_eq!(ask(&mut publisher, "PUBLISH a gone").await, ":0");
    }
}

#[tokio::test]
async fn a_message_within_the_reply_to_exec_is_no_element_of_it() {
    let plane = Plane::start(0).await;
    let mut said = Vec::new();
    for address in [plane.node(0).address(), plane.address()] {
        let mut stream = TcpStream::connect(address.to_string())
            .await
            .expect("connected");
        stream.write_all(b"HELLO 3\r\n").await.expect("sent");
        let mut reply = vec![0; 4096];
        let _ = stream.read(&mut reply).await.expect("HELLO is answered");
        let requests = "SUBSCRIBE c\r\nMULTI\r\nSET a 1\r\nPUBLISH c x\r\nCLIENT SETNAME me\r\nEXEC\r\n\
                        CLIENT GETNAME\r\nUNSUBSCRIBE\r\nCLIENT TRACKING ON\r\nGET a\r\nMULTI\r\nGET a\r\n\
                        SET a 2\r\nGET a\r\nEXEC\r\nSUBSCRIBE d\r\nCLIENT REPLY OFF\r\nMULTI\r\n\
                        PUBLISH d y\r\nPING\r\nEXEC\r\nCLIENT REPLY ON\r\nQUIT\r\n";
        stream.write_all(requests.as_bytes()).await.expect("sent");
        reply.clear();
        let all = timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
        all.expect("in time").expect("closed");
        said.push(String::from_utf8_lossy(&reply).into_owned());
    }
    assert!(said[0].contains("message"), "{}", said[0]);
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn who_may_not_hear_any_more_is_cut_off() {
    let plane = Plane::start(0).await;
    let mut operator = plane.client().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let user = "ACL SETUSER alice on >pw ~* +@all &*";
        if ask(&mut operator, user).await != "+OK" {
            // Redis 6.0 has no rules about channels.
            return;
        }
        let (mut alice, mut other) = (plane.client().await, plane.client().await);
        alice.hello(protocol).await.expect("HELLO");
        assert_eq!(ask(&mut alice, "AUTH alice pw").await, "+OK");
        send(&mut alice, "SUBSCRIBE a b").await;
        send(&mut other, "SUBSCRIBE a").await;
        for client in [&mut alice, &mut other] {
            assert!(message(client).await.contains("\"subscribe\", \"a\""));
        }
        assert!(message(&mut alice).await.contains("\"b\", :2"));
        let rule = "ACL SETUSER alice resetchannels &b";
        assert_eq!(ask(&mut operator, rule).await, "+OK");
        let closed = timeout(PATIENCE, alice.closed()).await;
        closed.expect("in time").expect("closed");
        assert_eq!(ask(&mut operator, "PUBLISH a x").await, ":1");
        assert!(message(&mut other).await.contains("\"message\", \"a\""));
    }
}

#[tokio::test]
async fn who_monitors_already_gets_no_reply_to_another_monitor() {
    let plane = Plane::start(0).await;
    for address in [plane.node(0).address(), plane.address()] {
        let mut stream = TcpStream::connect(address.to_string())
            .await
            .expect("connected");
        let requests = "MONITOR\r\nMONITOR\r\nMONITOR x\r\nPING\r\nMONITOR\r\nSELECT 1\r\nQUIT\r\n";
        stream.write_all(requests.as_bytes()).await.expect("sent");
        let mut said = Vec::new();
        let all = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        all.expect("in time").expect("closed");
        let said = String::from_utf8_lossy(&said);
        let seen = |line: &&str| line.starts_with('+') && line.contains('[');
        let replies: Vec<&str> = said.lines().filter(|line| !seen(line)).collect();
        let wrong = "-ERR wrong number of arguments for 'monitor' command";
        assert_eq!(replies, ["+OK", wrong, "+PONG", "+OK", "+OK"], "{said}");
    }
}

#[tokio::test]
async fn tracking_invalidates_what_was_read() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    a.hello(Protocol::Resp3).await.expect("HELLO 3");
    assert_eq!(ask(&mut a, "CLIENT TRACKING ON").await, "+OK");
    assert_eq!(ask(&mut a, "GET k").await, "nil");
    assert_eq!(ask(&mut b, "SET k 1").await, "+OK");
    assert!(message(&mut a).await.contains("\"invalidate\""));
}

#[tokio::test]
async fn wait_counts_the_replicas_that_have_the_clients_writes() {
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "SET k 1").await, "+OK");
    assert_eq!(ask(&mut client, "WAIT 1 2000").await, ":1");
    plane.node(1).stop();
    assert_eq!(ask(&mut client, "SET k 2").await, "+OK");
    assert_eq!(ask(&mut client, "WAIT 1 50").await, ":0");
    plane.node(1).cont();
}

#[tokio::test]
async fn a_wait_that_goes_over_another_connection_than_meant_waits_for_the_clients_writes() {
    let mut plane = Plane::start(1).await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "SET k 1").await, "+OK");
    assert_eq!(ask(&mut client, "WAIT 1 2000").await, ":1");
    plane.node(1).stop();
    assert_eq!(ask(&mut client, "SET k 2").await, "+OK");
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    send(&mut client, "WAIT 1 100").await;
    let early = timeout(Duration::from_millis(200), client.receive()).await;
    assert!(early.is_err());
    let kill = ["CLIENT", "KILL", "TYPE", "normal"];
    plane.node(0).cli(&kill).await.expect("CLIENT KILL");
    // The shared one, and its own.
    for _ in 0..2 {
        let lost = timeout(PATIENCE, plane.evidence().recv()).await;
        let lost = lost.expect("in time").expect("evidence").kind;
        assert_eq!(lost, EvidenceKind::ConnectionLost);
    }
    plane.gate(Gate::Open);
    assert_eq!(hear(&mut client).await, ":0");
    plane.node(1).cont();
}

#[tokio::test]
async fn a_wait_that_would_not_wait_for_the_clients_writes_is_an_error() {
    if Server::version().expect("a version").1 < (7, 2) {
        // Any command takes note of the offset there.
        return;
    }
    let plane = Plane::start(1).await;
    let mut client = plane.client().await;
    let user = "ACL SETUSER bob on >secret ~* +@all resetchannels";
    assert_eq!(ask(&mut client, user).await, "+OK");
    assert_eq!(ask(&mut client, "AUTH bob secret").await, "+OK");
    let refused = ask(&mut client, "WAIT 1 50").await;
    assert!(refused.contains("not executed"), "{refused}");
    assert!(refused.contains("pointsman:wait"), "{refused}");
    assert_eq!(ask(&mut client, "SET k 1").await, "+OK");
}

#[tokio::test]
async fn a_transaction_that_is_not_ended_shuts_nobody_in() {
    let plane = Plane::start(0).await;
    let (mut a, mut b) = (plane.client().await, plane.client().await);
    a.queue(&["MULTI"]);
    a.queue(&["DISCARD", "x"]);
    a.flush().await.expect("sent");
    let refused = "-ERR wrong number of arguments for 'discard' command";
    for expected in ["+OK", refused] {
        assert_eq!(hear(&mut a).await, expected);
    }
    assert_eq!(ask(&mut b, "GET k").await, "nil");
    assert_eq!(ask(&mut a, "GET k").await, "+QUEUED");
    assert_eq!(ask(&mut a, "DISCARD").await, "+OK");
    assert_eq!(ask(&mut a, "GET k").await, "nil");
}

#[tokio::test]
async fn what_stands_behind_an_unsubscribe_waits_for_it() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    assert_eq!(
        ask(&mut client, "SUBSCRIBE ch").await,
        "[\"subscribe\", \"ch\", :1]"
    );
    client.queue(&["UNSUBSCRIBE"]);
    client.queue(&["CLIENT", "REPLY", "SKIP"]);
    client.queue(&["GET", "skipped"]);
    client.queue(&["PING"]);
    client.flush().await.expect("sent");
    let left = "[\"unsubscribe\", \"ch\", :0]";
    for expected in [left, "+PONG"] {
        assert_eq!(hear(&mut client).await, expected);
    }
    assert_eq!(ask(&mut client, "SELECT 1").await, "+OK");
}

#[tokio::test]
async fn a_transaction_with_a_refused_command_does_not_run() {
    let plane = Plane::start(0).await;
    let mut client = plane.client().await;
    for refused in ["SCRIPT DEBUG YES", "REPLICAOF NO ONE", "SUBSCRIBE ch"] {
        assert_eq!(ask(&mut client, "MULTI").await, "+OK");
        let reply = ask(&mut client, refused).await;
        assert!(reply.starts_with("-POINTSMAN not executed"), "{reply}");
        assert_eq!(ask(&mut client, "SET k v").await, "+QUEUED");
        let reply = ask(&mut client, "EXEC").await;
        assert!(reply.starts_with("-EXECABORT"), "{reply}");
    }
    assert_eq!(ask(&mut client, "GET k").await, "nil");
}
