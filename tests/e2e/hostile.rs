//! Clients that are hostile or unlucky. Where Redis defines what happens, it is asked for comparison.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::BytesMut;
use pointsman::lab::{Address, Client, ClusterOptions, Data, Persistence, ShardOptions, Value};
use pointsman::resp::encode_request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{SOON, Scene, ask, becomes_true, now, write_until_ok};

const MB: usize = 1024 * 1024;

/// One node, no replicas: nothing here is about failovers.
async fn scene() -> Scene {
    configured("").await
}

async fn configured(proxy: &str) -> Scene {
    let mut scene = Scene::with(ShardOptions {
        cluster: ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        },
        proxy: proxy.into(),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("without a replica there is nothing to fail over to");
    scene
}

async fn connect(address: &Address) -> TcpStream {
    let Address::Tcp(address) = address else {
        panic!("not a TCP address: {address}");
    };
    let stream = TcpStream::connect(address).await.expect("it accepts");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

async fn raw(scene: &Scene) -> TcpStream {
    connect(&scene.shard.address()).await
}

/// Everything that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut received)).await;
    match read.expect("it closes in time") {
        Ok(_) => received,
        // A server that closes with something unread resets the connection.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => received,
        Err(error) => panic!("{error}"),
    }
}

fn request(words: &[&str]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    encode_request(&mut bytes, &words);
    bytes.to_vec()
}

/// Waits until so many clients are blocked at the node.
async fn blocked(scene: &Scene, count: &str) {
    becomes_true("as many are blocked", async || {
        match scene.primary().await.info_field("blocked_clients").await {
            Ok(now) if now == count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Peak of pointsman's memory, bytes.
fn peak(scene: &Scene) -> usize {
    memory(scene, "VmHWM:")
}

fn memory(scene: &Scene, field: &str) -> usize {
    let pid = scene.shard.pointsman.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    let kilobytes = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kilobytes.expect("a number of kB") * 1024
}

async fn still_well(scene: &Scene) {
    let mut client = scene.client().await;
    write_until_ok(&mut client, "well", "yes").await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_client_that_closed_its_side_gets_what_it_asked_for() {
    let scene = scene().await;
    let mut stream = raw(&scene).await;
    let mut bytes = Vec::new();
    for _ in 0..3000 {
        bytes.extend(request(&["INCR", "n"]));
    }
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let expected: String = (1..=3000).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(
        String::from_utf8(rest(&mut stream).await).unwrap(),
        expected
    );
}

#[tokio::test]
async fn who_left_while_blocked_takes_no_element() {
    const ELEMENTS: i64 = 1000;
    let scene = scene().await;
    let mut pusher = scene.client().await;
    for round in 0..5 {
        // Some leave before their own connection to the node is there, some after they blocked.
        let leavers = (0..40).map(|number| {
            let address = scene.shard.address();
            tokio::spawn(async move {
                let mut stream = connect(&address).await;
                let blpop = request(&["BLPOP", "queue", "0"]);
                stream.write_all(&blpop).await.unwrap();
                // Each leaves at a moment of its own, before, while and after elements come: the race itself.
                tokio::time::sleep(Duration::from_micros(number * 150)).await;
                if number % 2 == 0 {
                    stream.shutdown().await.unwrap();
                    assert_eq!(rest(&mut stream).await, b"");
                }
            })
        });
        for leaver in leavers.collect::<Vec<_>>() {
            leaver.await.unwrap();
        }
        becomes_true("nobody is blocked", async || {
            let list = ask(&mut pusher, &["CLIENT", "LIST"]).await.to_string();
            let blocked = scene.primary().await.info_field("blocked_clients").await;
            match (list.matches("id=").count(), blocked.as_deref()) {
                (1, Ok("0")) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        for number in 0..ELEMENTS {
            pusher.queue(&["RPUSH", "queue", &number.to_string()]);
        }
        pusher.flush().await.unwrap();
        for number in 1..=ELEMENTS {
            let length = pusher.receive().await.unwrap();
            assert_eq!(length, Value::Integer(number), "round {round}");
        }
        ask(&mut pusher, &["DEL", "queue"]).await;
    }
    still_well(&scene).await;
}

/// Redis reads what came before the end, answers it, and only then sees the end.
#[tokio::test]
async fn who_asks_for_an_element_and_closes_its_side_at_once_gets_it() {
    const ELEMENTS: usize = 300;
    let scene = scene().await;
    let mut pusher = scene.client().await;
    for address in [scene.primary().await.address(), scene.shard.address()] {
        for number in 0..ELEMENTS {
            ask(&mut pusher, &["RPUSH", "queue", &number.to_string()]).await;
        }
        let clients: Vec<_> = (0..ELEMENTS)
            .map(|_| {
                let address = address.clone();
                tokio::spawn(async move {
                    let mut stream = connect(&address).await;
                    let blpop = request(&["BLPOP", "queue", "0"]);
                    stream.write_all(&blpop).await.unwrap();
                    stream.shutdown().await.unwrap();
                    String::from_utf8(rest(&mut stream).await).unwrap()
                })
            })
            .collect();
        let mut got = BTreeSet::new();
        for client in clients {
            let reply = client.await.unwrap();
            assert!(reply.starts_with("*2\r\n$5\r\nqueue\r\n"), "{reply:?}");
            got.insert(reply);
        }
        assert_eq!(got.len(), ELEMENTS, "{address}");
    }
    still_well(&scene).await;
}

#[tokio::test]
async fn who_waits_for_replicas_and_closes_its_side_leaves_nothing_behind() {
    let scene = scene().await;
    let mut stream = raw(&scene).await;
    let mut bytes = request(&["SET", "k", "v"]);
    bytes.extend(request(&["WAIT", "5", "0"]));
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"+OK\r\n");
    blocked(&scene, "0").await;
    still_well(&scene).await;
}

#[tokio::test]
async fn who_leaves_while_everything_is_down_takes_no_element_afterwards() {
    let scene = Scene::with_cluster(ClusterOptions {
        persistence: Persistence::Aof,
        ..ClusterOptions::default()
    })
    .await;
    let mut client = scene.client().await;
    ask(&mut client, &["RPUSH", "queue", "element"]).await;
    scene.in_sync().await;
    let mut before = raw(&scene).await;
    before
        .write_all(&request(&["BLPOP", "empty", "0"]))
        .await
        .unwrap();
    blocked(&scene, "1").await;
    scene.shard.cluster.kill_all();
    let began = now();
    let mut after = raw(&scene).await;
    after
        .write_all(&request(&["BLPOP", "queue", "0"]))
        .await
        .unwrap();
    for mut stream in [before, after] {
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"");
    }
    let waited = now().since(began);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    for node in scene.shard.cluster.nodes() {
        node.restart(Data::Kept).await.unwrap();
    }
    let mut client = scene.client().await;
    becomes_true("the element is there", async || {
        match client.call(&["LRANGE", "queue", "0", "-1"]).await {
            Ok(Value::Array(items)) if items.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Redis drops an element that it served to a client in the same turn in which it sees it leave: on a
/// busy machine that may be many. So it is not counted here how many are left.
#[tokio::test]
async fn blocked_clients_come_and_leave_and_no_element_is_given_twice() {
    const ELEMENTS: usize = 1000;
    let scene = scene().await;
    let mut pusher = scene.client().await;
    let leavers: Vec<_> = (0..8)
        .map(|number| tokio::spawn(block_and_leave(scene.shard.address(), number)))
        .collect();
    for number in 0..ELEMENTS {
        let element = format!("element-{number}-");
        ask(&mut pusher, &["RPUSH", "queue", &element]).await;
    }
    let mut got = Vec::new();
    for leaver in leavers {
        got.extend(leaver.await.unwrap());
    }
    assert!(!got.is_empty(), "nobody got anything");
    let left = ask(&mut pusher, &["LRANGE", "queue", "0", "-1"]).await;
    let left = left.items().unwrap().iter();
    got.extend(left.map(|item| item.text().unwrap().to_owned()));
    let distinct: BTreeSet<&String> = got.iter().collect();
    assert_eq!(got.len(), distinct.len());
    still_well(&scene).await;
}

/// Blocks again and again, closes its side after a moment, and reads what comes until the end.
async fn block_and_leave(address: Address, number: u64) -> Vec<String> {
    let mut got = Vec::new();
    for round in 0..150 {
        let mut stream = connect(&address).await;
        let blpop = request(&["BLPOP", "queue", "0"]);
        stream.write_all(&blpop).await.unwrap();
        // Nothing is to be seen of a client that blocks: it leaves at any time of that.
        let moment = Duration::from_micros((number * 997 + round * 613) % 4000);
        tokio::time::sleep(moment).await;
        stream.shutdown().await.unwrap();
        let text = String::from_utf8(rest(&mut stream).await).unwrap();
        let elements = text.split("\r\n").filter(|l| l.starts_with("element-"));
        got.extend(elements.map(str::to_owned));
    }
    got
}

#[tokio::test]
async fn clients_that_leave_inside_of_a_request_hurt_nobody() {
    let scene = scene().await;
    let whole = request(&["SET", "half", "value"]);
    for cut in 1..whole.len() {
        let mut stream = raw(&scene).await;
        stream.write_all(&request(&["PING"])).await.unwrap();
        stream.write_all(&whole[..cut]).await.unwrap();
        if cut % 2 == 0 {
            stream.shutdown().await.unwrap();
            assert_eq!(rest(&mut stream).await, b"+PONG\r\n");
        }
    }
    let mut client = scene.client().await;
    assert_eq!(
        ask(&mut client, &["EXISTS", "half"]).await,
        Value::Integer(0)
    );
    still_well(&scene).await;
}

#[tokio::test]
async fn deep_pipelines_of_many_clients_are_answered_in_order() {
    let scene = scene().await;
    let mut tasks = Vec::new();
    for number in 0..8 {
        let mut client = scene.client().await;
        tasks.push(tokio::spawn(async move {
            let key = format!("n{number}");
            for _ in 0..10_000 {
                client.queue(&["INCR", &key]);
            }
            // Written and read at once: neither side holds 10,000 of them.
            client.flush().await.unwrap();
            for expected in 1..=10_000 {
                assert_eq!(client.receive().await.unwrap(), Value::Integer(expected));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    still_well(&scene).await;
}

#[tokio::test]
async fn the_largest_value_passes_both_ways_in_little_more_than_its_own_memory() {
    const SIZE: usize = 512 * MB;
    let mut scene = scene().await;
    // A busy machine may make the node too slow for its probes.
    scene.expect_log("nobody can be promoted");
    let base = peak(&scene);
    let mut stream = raw(&scene).await;
    let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${SIZE}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; MB];
    for _ in 0..SIZE / MB {
        stream.write_all(&block).await.unwrap();
    }
    stream.write_all(b"\r\n").await.unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"+OK\r\n");
    let there = peak(&scene) - base;

    stream.write_all(&request(&["GET", "big"])).await.unwrap();
    let mut left = format!("${SIZE}\r\n").len() + SIZE + 2;
    let mut buffer = vec![0; MB];
    while left > 0 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed with {left} bytes missing");
        left -= read;
    }
    let back = peak(&scene) - base;
    eprintln!(
        "512 MB: {} MB for the request, {} MB in all",
        there / MB,
        back / MB
    );
    assert!(back < SIZE + SIZE / 4, "{} MB", back / MB);
    becomes_true("the memory is given back", async || {
        match memory(&scene, "VmRSS:") {
            rss if rss < base + 64 * MB => Ok(()),
            rss => Err(format!("{} MB", rss / MB)),
        }
    })
    .await;
    still_well(&scene).await;
}

/// The 99th percentile of 500 round trips.
async fn p99(client: &mut Client) -> Duration {
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = now();
        ask(client, &["GET", "small"]).await;
        times.push(now().since(began));
    }
    times.sort();
    times[times.len() * 99 / 100]
}

#[tokio::test]
async fn a_client_that_never_reads_costs_the_others_nothing() {
    const VALUE: usize = 50 * 1024;
    let scene = scene().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "large", &"x".repeat(VALUE)).await;
    let before = p99(&mut client).await;
    let base = peak(&scene);
    let mut greedy = raw(&scene).await;
    let mut bytes = Vec::new();
    for _ in 0..50 * MB / VALUE {
        bytes.extend(request(&["GET", "large"]));
    }
    greedy.write_all(&bytes).await.unwrap();
    let after = p99(&mut client).await;
    let grown = peak(&scene) - base;
    eprintln!(
        "50 MB that nobody reads: {} MB, p99 {before:?} before, {after:?} after",
        grown / MB
    );
    assert!(
        after < before * 3 + Duration::from_millis(20),
        "{before:?} before, {after:?} after"
    );
    // Its requests wait, and not their replies.
    assert!(grown < 16 * MB, "{} MB", grown / MB);
    still_well(&scene).await;
    // And nothing of it was lost.
    let mut left = 50 * MB / VALUE * (format!("${VALUE}\r\n").len() + VALUE + 2);
    let mut buffer = vec![0; MB];
    while left > 0 {
        left -= greedy.read(&mut buffer).await.unwrap();
    }
}

#[tokio::test]
async fn thousands_of_short_connections_leave_nothing_behind() {
    let scene = scene().await;
    still_well(&scene).await;
    let files = || {
        let pid = scene.shard.pointsman.pid().expect("it runs");
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("it lives")
            .count()
    };
    let before = files();
    let began = now();
    for round in 0..50 {
        let mut streams = Vec::new();
        for number in 0..60 {
            let mut stream = raw(&scene).await;
            let words: &[&str] = match (round + number) % 3 {
                0 => &["PING"],
                1 => &["BLPOP", "nothing", "0"],
                _ => &["SUBSCRIBE", "channel"],
            };
            stream.write_all(&request(words)).await.unwrap();
            streams.push((stream, words[0] == "PING"));
        }
        for (stream, pings) in &mut streams {
            if *pings {
                let mut reply = [0; 7];
                stream.read_exact(&mut reply).await.unwrap();
                assert_eq!(&reply, b"+PONG\r\n");
            }
        }
    }
    eprintln!("3000 connections in {:?}", now().since(began));
    becomes_true("every socket is closed", async || match files() {
        count if count <= before + 4 => Ok(()),
        count => Err(format!("{count} open files, {before} before")),
    })
    .await;
    still_well(&scene).await;
}

#[tokio::test]
async fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let scene = scene().await;
    let mut stream = raw(&scene).await;
    let mut bytes = request(&["SET", "k", "slowly"]);
    bytes.extend_from_slice(b"GET k\r\n");
    for words in [&["MULTI"][..], &["INCR", "n"], &["EXEC"], &["QUIT"]] {
        bytes.extend(request(words));
    }
    for byte in &bytes {
        stream.write_all(std::slice::from_ref(byte)).await.unwrap();
        // The next byte is a read of its own.
        tokio::task::yield_now().await;
    }
    let expected = "+OK\r\n$6\r\nslowly\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n+OK\r\n";
    assert_eq!(
        String::from_utf8(rest(&mut stream).await).unwrap(),
        expected
    );
}

/// What the server at `address` answers to these bytes until it closes.
async fn transcript(address: &Address, bytes: &[u8]) -> String {
    let mut stream = connect(address).await;
    stream.write_all(bytes).await.unwrap();
    String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
}

#[tokio::test]
async fn after_a_protocol_error_comes_what_redis_says_and_the_end() {
    let scene = scene().await;
    let direct = scene.primary().await.address();
    let mut before = request(&["SET", "k", "v"]);
    before.extend(request(&["GET", "k"]));
    for wrong in [
        &b"*1\r\nx\r\n"[..],
        b"*1\r\n$-5\r\n",
        b"*1\r\n$x\r\n",
        b"*9999999999\r\n",
        b"*1\r\n$999999999999\r\n",
        b"GET \"open\r\n",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
    ] {
        let mut bytes = before.clone();
        bytes.extend_from_slice(wrong);
        let expected = transcript(&direct, &bytes).await;
        assert!(expected.contains("Protocol error"), "{expected}");
        assert_eq!(transcript(&scene.shard.address(), &bytes).await, expected);
    }
    // Endless lines without an end.
    for endless in [
        vec![b'A'; 70 * 1024],
        [&b"*"[..], &[b'1'; 70 * 1024]].concat(),
    ] {
        let expected = transcript(&direct, &endless).await;
        assert_eq!(transcript(&scene.shard.address(), &endless).await, expected);
    }
    still_well(&scene).await;
}

#[tokio::test]
async fn random_bytes_hurt_nobody() {
    let scene = scene().await;
    let mut client = scene.client().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..1 + seed as usize % 2000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let byte = (seed >> 56) as u8;
            // Half of the rounds look like the protocol.
            bytes.push(if round % 2 == 0 {
                byte
            } else {
                b"*$+-:_\r\n0123GETx"[byte as usize % 16]
            });
        }
        let mut stream = raw(&scene).await;
        // It may close before everything is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        rest(&mut stream).await;
        assert!(ask(&mut client, &["PING"]).await.text() == Some("PONG"));
    }
    still_well(&scene).await;
}

#[tokio::test]
async fn a_thousand_unfinished_requests_cost_little() {
    let scene = scene().await;
    still_well(&scene).await;
    let base = peak(&scene);
    let mut streams = Vec::new();
    for number in 0..1000 {
        let mut stream = raw(&scene).await;
        // They announce much and send little.
        let head = match number % 3 {
            0 => "*1000000\r\n$3\r\nDEL\r\n$1\r\na\r\n".to_owned(),
            1 => "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n".to_owned() + &"x".repeat(1000),
            _ => "GET k".to_owned(),
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let mut client = scene.client().await;
    ask(&mut client, &["PING"]).await;
    let grown = peak(&scene) - base;
    eprintln!("1000 unfinished requests: {} kB each", grown / 1024 / 1000);
    assert!(grown < 16 * MB, "{} MB", grown / MB);
    still_well(&scene).await;
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_dropped_and_slows_nobody() {
    let mut scene = configured("subscriber_reply_limit = 1000000").await;
    scene.expect_log("subscriber dropped");
    let mut deaf = scene.client().await;
    deaf.send(&["SUBSCRIBE", "news"]).await.unwrap();
    deaf.message().await.unwrap();
    let mut heard = scene.client().await;
    heard.send(&["SUBSCRIBE", "news"]).await.unwrap();
    heard.message().await.unwrap();
    let base = peak(&scene);
    let mut publisher = scene.client().await;
    let text = "x".repeat(100_000);
    let mut receivers = 2;
    for number in 0..400 {
        let reply = ask(&mut publisher, &["PUBLISH", "news", &text]).await;
        // It may be dropped between being counted and this message, never come back.
        let reached = reply.number().unwrap();
        assert!(
            (1..=receivers).contains(&reached),
            "message {number} reached {reached} of {receivers}"
        );
        let message = heard.message().await.unwrap();
        assert_eq!(
            message.items().unwrap()[2].text().map(str::len),
            Some(text.len())
        );
        let now = ask(&mut publisher, &["PUBSUB", "NUMSUB", "news"]).await;
        receivers = now.items().unwrap()[1].number().unwrap();
    }
    assert_eq!(receivers, 1, "the one that does not read was not dropped");
    assert!(
        peak(&scene) - base < 32 * MB,
        "{} MB",
        (peak(&scene) - base) / MB
    );
    still_well(&scene).await;
}
