//! What is left of a session when its connection is lost, also for longer than requests wait.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsman::lab::{Client, Protocol};
use pointsman::topology::{Gate, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::plane::{PATIENCE, Plane, ask, hear, message, send};

const HOLD: Duration = Duration::from_millis(400);

async fn impatient() -> Plane {
    Plane::impatient(HOLD).await
}

/// A client that listens to "news", and may do everything else as well.
async fn listener(plane: &Plane) -> Client {
    let mut client = plane.client().await;
    client.hello(Protocol::Resp3).await.expect("HELLO 3");
    send(&mut client, "SUBSCRIBE news").await;
    assert!(message(&mut client).await.contains("\"news\", :1"));
    client
}

/// Every connection to the node is lost, and no other is opened before the gate is.
async fn cut(plane: &Plane) {
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    kill_connections(plane).await;
}

async fn kill_connections(plane: &Plane) {
    for kind in ["normal", "pubsub"] {
        let killed = plane.node(0).cli(&["CLIENT", "KILL", "TYPE", kind]).await;
        killed.expect("CLIENT KILL");
    }
}

async fn long_outage(plane: &Plane) {
    cut(plane).await;
    // The length of the fault: nothing that waits is told of it.
    sleep(2 * HOLD).await;
    plane.gate(Gate::Open);
}

#[tokio::test]
async fn who_listens_still_does_after_a_long_outage() {
    let plane = impatient().await;
    let (mut subscriber, mut monitor) = (plane.client().await, plane.client().await);
    let (mut tracking, mut other) = (plane.client().await, plane.client().await);
    assert!(ask(&mut subscriber, "SUBSCRIBE news").await.contains(":1"));
    assert_eq!(ask(&mut monitor, "MONITOR").await, "+OK");
    tracking.hello(Protocol::Resp3).await.expect("HELLO 3");
    assert_eq!(ask(&mut tracking, "CLIENT TRACKING ON").await, "+OK");
    long_outage(&plane).await;
    assert_eq!(ask(&mut other, "PUBLISH news flash").await, ":1");
    let flash = "[\"message\", \"news\", \"flash\"]";
    assert_eq!(message(&mut subscriber).await, flash);
    let seen = async { while !message(&mut monitor).await.contains("flash") {} };
    timeout(PATIENCE, seen).await.expect("MONITOR shows it");
    assert!(message(&mut tracking).await.contains("\"invalidate\", nil"));
    assert_eq!(ask(&mut tracking, "GET k").await, "nil");
    assert_eq!(ask(&mut other, "SET k 1").await, "+OK");
    assert!(message(&mut tracking).await.contains("\"k\""));
}

#[tokio::test]
async fn a_transaction_is_still_open_after_a_long_outage() {
    let plane = impatient().await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "MULTI").await, "+OK");
    assert_eq!(ask(&mut client, "INCR a").await, "+QUEUED");
    long_outage(&plane).await;
    assert_eq!(ask(&mut client, "INCR b").await, "+QUEUED");
    assert_eq!(ask(&mut client, "EXEC").await, "[:1, :1]");
}

#[tokio::test]
async fn a_transaction_does_not_run_without_the_command_that_waited_too_long() {
    let plane = impatient().await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "MULTI").await, "+OK");
    assert_eq!(ask(&mut client, "INCR a").await, "+QUEUED");
    cut(&plane).await;
    let late = ask(&mut client, "INCR b").await;
    assert!(late.starts_with("-POINTSMAN not executed"), "{late}");
    plane.gate(Gate::Open);
    assert_eq!(ask(&mut client, "INCR c").await, "+QUEUED");
    let aborted = ask(&mut client, "EXEC").await;
    assert!(aborted.starts_with("-EXECABORT"), "{aborted}");
    assert_eq!(ask(&mut client, "MGET a b c").await, "[nil, nil, nil]");
}

#[tokio::test]
async fn a_transaction_whose_exec_waited_too_long_is_over() {
    let plane = impatient().await;
    let mut client = listener(&plane).await;
    assert_eq!(ask(&mut client, "MULTI").await, "+OK");
    assert_eq!(ask(&mut client, "INCR a").await, "+QUEUED");
    cut(&plane).await;
    let late = ask(&mut client, "EXEC").await;
    assert!(late.starts_with("-POINTSMAN not executed"), "{late}");
    plane.gate(Gate::Open);
    assert_eq!(ask(&mut client, "GET a").await, "nil");
    assert_eq!(ask(&mut client, "PUBLISH news flash").await, ":1");
    assert!(message(&mut client).await.contains("flash"));
}

#[tokio::test]
async fn who_waited_long_for_an_element_goes_on_to_wait_for_it() {
    let plane = impatient().await;
    let (mut blocked, mut other) = (plane.client().await, plane.client().await);
    send(&mut blocked, "BLPOP list 0").await;
    // How long it has waited when the fault comes is what this is about.
    sleep(2 * HOLD).await;
    cut(&plane).await;
    // In this time housekeeping looks at what waits, a few times, and must do nothing.
    sleep(HOLD / 3).await;
    plane.gate(Gate::Open);
    assert_eq!(ask(&mut other, "RPUSH list x").await, ":1");
    assert_eq!(hear(&mut blocked).await, "[\"list\", \"x\"]");
    // Without a primary it waits as long as anything else.
    send(&mut blocked, "BLPOP list 0").await;
    cut(&plane).await;
    let late = hear(&mut blocked).await;
    assert!(late.contains("there was no primary"), "{late}");
}

#[tokio::test]
async fn who_listens_and_may_not_log_in_any_more_is_cut_off() {
    let plane = Plane::start(0).await;
    let mut client = listener(&plane).await;
    let mut operator = plane.node(0).client().await.expect("a connection");
    let rule = "ACL SETUSER default resetpass >pw";
    assert_eq!(ask(&mut operator, rule).await, "+OK");
    assert_eq!(ask(&mut operator, "CLIENT KILL TYPE pubsub").await, ":1");
    let closed = timeout(PATIENCE, client.closed()).await;
    closed.expect("in time").expect("closed");
}

#[tokio::test]
async fn a_wrong_password_is_refused_also_behind_what_was_subscribed_again() {
    let plane = Plane::start(0).await;
    let mut client = listener(&plane).await;
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    send(&mut client, "AUTH alice wrong").await;
    let early = timeout(Duration::from_millis(100), client.receive()).await;
    assert!(early.is_err());
    kill_connections(&plane).await;
    plane.gate(Gate::Open);
    let refused = hear(&mut client).await;
    assert!(refused.starts_with("-WRONGPASS"), "{refused}");
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
}

type Left = Arc<Mutex<Option<usize>>>;

/// Passes everything on to a node, but ends the connection on which the last of `left` bytes of replies came.
async fn relay(port: u16, left: Left) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((ours, _)) = listener.accept().await {
            tokio::spawn(pass(ours, port, left.clone()));
        }
    });
    address
}

async fn pass(mut ours: TcpStream, port: u16, left: Left) -> std::io::Result<()> {
    let mut node = TcpStream::connect(("127.0.0.1", port)).await?;
    let ((mut from_us, mut to_us), (mut from_node, mut to_node)) = (ours.split(), node.split());
    let replies = async {
        let mut buffer = [0; 4096];
        while let Ok(came @ 1..) = from_node.read(&mut buffer).await {
            let allowed = left.lock().expect("a lock").unwrap_or(usize::MAX).min(came);
            to_us.write_all(&buffer[..allowed]).await?;
            let mut left = left.lock().expect("a lock");
            *left = left.map(|left| left - allowed);
            if left.take_if(|left| *left == 0).is_some() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        result = replies => result,
        result = copy(&mut from_us, &mut to_node) => result.map(drop),
    }
}

#[tokio::test]
async fn every_channel_is_acknowledged_once_wherever_the_connection_is_lost() {
    let plane = Plane::start(0).await;
    let left = Left::default();
    let address = relay(plane.node(0).port(), left.clone()).await;
    plane.publish_at(2, NodeId::new(address.to_string()));
    let mut client = plane.client().await;
    let mut count = 0;
    let heard =
        |word: &str, channel: &str, count: i32| format!("[\"{word}\", \"{channel}\", :{count}]");
    for lost_behind in 1..=2 {
        let channels = ["a", "b", "c"].map(|name| format!("{name}{lost_behind}"));
        assert!(ask(&mut client, "SUBSCRIBE x").await.contains("\"x\""));
        count = count.max(1);
        let acknowledgement = "*3\r\n$9\r\nsubscribe\r\n$2\r\na1\r\n:2\r\n".len();
        *left.lock().expect("a lock") = Some(lost_behind * acknowledgement);
        send(&mut client, &format!("SUBSCRIBE {}", channels.join(" "))).await;
        for channel in &channels {
            count += 1;
            assert_eq!(
                message(&mut client).await,
                heard("subscribe", channel, count)
            );
        }
    }
    let acknowledgement = "*3\r\n$11\r\nunsubscribe\r\n$2\r\na1\r\n:2\r\n".len();
    *left.lock().expect("a lock") = Some(2 * acknowledgement);
    send(&mut client, "UNSUBSCRIBE").await;
    while count > 0 {
        count -= 1;
        assert!(message(&mut client).await.ends_with(&format!(":{count}]")));
    }
    assert_eq!(ask(&mut client, "ECHO back").await, "\"back\"");
}

#[tokio::test]
async fn every_request_of_a_transaction_that_waited_too_long_is_answered() {
    let plane = impatient().await;
    let mut client = plane.client().await;
    assert_eq!(ask(&mut client, "PING").await, "+PONG");
    cut(&plane).await;
    for request in [&["MULTI"][..], &["INCR", "a"], &["EXEC"]] {
        client.queue(request);
    }
    client.flush().await.expect("sent");
    for expected in ["+OK", "+QUEUED", "-POINTSMAN not executed"] {
        let reply = hear(&mut client).await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    plane.gate(Gate::Open);
    assert_eq!(ask(&mut client, "GET a").await, "nil");
}
