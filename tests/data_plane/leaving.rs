//! Clients that close their side together with their last requests. The server reads what came before the
//! end, answers it, and only then sees the end: it is asked for comparison.

use bytes::BytesMut;
use pointsman::lab::Address;
use pointsman::resp::encode_request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::plane::{PATIENCE, Plane, ask};

/// As a client would send it, lines of words.
fn requests(lines: &[&str]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for line in lines {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        encode_request(&mut bytes, &words);
    }
    bytes.to_vec()
}

/// Says `before` and hears what is answered to it; then says `last`, closes its side, and hears everything
/// that comes.
async fn leave(address: &Address, before: &[&str], last: &[u8]) -> String {
    let mut stream = TcpStream::connect(address.to_string())
        .await
        .expect("it accepts");
    stream.set_nodelay(true).expect("a socket option");
    let before = requests(&[before, &["PING begun"]].concat());
    stream.write_all(&before).await.expect("sent");
    let mut said = Vec::new();
    while !said.ends_with(b"begun\r\n") {
        said.push(stream.read_u8().await.expect("a reply"));
    }
    stream.write_all(last).await.expect("sent");
    stream.shutdown().await.expect("its side is closed");
    said.clear();
    let read = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    read.expect("it closes in time").expect("no reset");
    String::from_utf8(said).expect("text")
}

/// What the server answers, and pointsman in front of it, with the same data.
async fn both(plane: &Plane, data: &[&str], before: &[&str], last: &[u8]) -> String {
    let mut client = plane.client().await;
    let mut heard = Vec::new();
    for address in [plane.node(0).address(), plane.address()] {
        ask(&mut client, "FLUSHALL").await;
        for request in data {
            ask(&mut client, request).await;
        }
        let said = leave(&address, before, last).await;
        let left = ask(&mut client, "LRANGE list 0 -1").await;
        heard.push(format!("{said}\n{left}"));
    }
    assert_eq!(heard[0], heard[1]);
    heard.remove(0)
}

#[tokio::test]
async fn what_stands_behind_a_blocking_command_runs_when_that_need_not_wait() {
    let plane = Plane::start(0).await;
    let data = ["RPUSH list 1 2 3 4"];
    let many = requests(&["INCR n"; 200]);
    for _ in 0..10 {
        let block = requests(&["BLPOP list 0"]);
        let last = [&block[..], &many, &block, &many].concat();
        let said = both(&plane, &data, &[], &last).await;
        assert!(said.contains(":400\r\n"), "{said}");
        // It waits the second time.
        let wait = requests(&["BLPOP empty 0"]);
        let last = [&block[..], &many, &wait, &many].concat();
        let said = both(&plane, &data, &[], &last).await;
        assert!(
            said.contains(":200\r\n") && !said.contains(":201\r\n"),
            "{said}"
        );
        let last = [&block[..], &requests(&["WAIT 0 0", "SELECT 1", "INCR n"])].concat();
        both(&plane, &data, &[], &last).await;
        // It keeps its own connection, which is another one by then.
        let last = [&block[..], &many, &requests(&["PUBLISH a b"])].concat();
        let said = both(&plane, &data, &["HELLO 3", "SUBSCRIBE a"], &last).await;
        assert!(said.contains("$7\r\nmessage\r\n"), "{said}");
    }
}

#[tokio::test]
async fn what_stands_behind_a_subscription_is_answered() {
    let plane = Plane::start(0).await;
    for _ in 0..10 {
        // In RESP3 who listens may do everything.
        let last = requests(&["SUBSCRIBE a", "SELECT 1", "PUBLISH a b", "GET k"]);
        both(&plane, &[], &["HELLO 3"], &last).await;
    }
    for last in [
        &["SUBSCRIBE a b", "UNSUBSCRIBE", "SET k v", "GET k"][..],
        &["SUBSCRIBE a", "RESET", "PING"],
        &["SUBSCRIBE a", "QUIT", "PING"],
    ] {
        for _ in 0..10 {
            both(&plane, &[], &[], &requests(last)).await;
        }
    }
}

#[tokio::test]
async fn who_listens_is_answered_before_it_leaves() {
    let plane = Plane::start(0).await;
    for _ in 0..10 {
        let last = requests(&["PING", "PING x"]);
        let said = both(&plane, &[], &["SUBSCRIBE a"], &last).await;
        assert!(said.contains("$1\r\nx\r\n"), "{said}");
        let last = requests(&["UNSUBSCRIBE a", "SET k v", "GET k"]);
        both(&plane, &[], &["SUBSCRIBE a"], &last).await;
    }
}

#[tokio::test]
async fn who_waits_with_unread_requests_behind_that_is_not_reset() {
    let plane = Plane::start(0).await;
    let begin = requests(&["PING", "BLPOP empty 0", "SELECT 1"]);
    let value = format!("SET k {}", "x".repeat(200_000));
    let last = [begin, requests(&[value.as_str(); 2])].concat();
    for _ in 0..10 {
        let said = both(&plane, &[], &[], &last).await;
        assert_eq!(said, "+PONG\r\n\n[]");
    }
}
