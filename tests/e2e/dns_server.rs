//! The built-in DNS server, asked by `dig`, and by whoever sends anything at all.

use std::time::Duration;

use pointsman::lab::{self, Port, Server, ShardOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::{SOON, Scene, assert_no_error_at_all, becomes_true, bind, now};

const ADDRESS: &str = "127.0.0.1";
const NAME: &str = "main.redis.test";
const SERVICE: &str = "_redis._tcp.main.redis.test";

/// A failover in which no question waits for too long.
const SHORT: Duration = Duration::from_millis(900);

/// pointsman with a DNS server, and who asks it.
struct Dns {
    scene: Scene,
    port: Port,
}

impl Dns {
    async fn start() -> Dns {
        let port = Port::pick().unwrap();
        let scene = Scene::with(ShardOptions {
            tables: format!(
                "[dns_server]\nbind = \"{}\"\nzone = \"redis.test\"",
                port.address()
            ),
            ..ShardOptions::default()
        })
        .await;
        Dns { scene, port }
    }

    fn dig(&self, arguments: &[&str]) -> String {
        lab::bind::dig(ADDRESS, self.port.number(), arguments)
    }

    fn records(&self, name: &str, kind: &str) -> Vec<String> {
        lab::bind::records(ADDRESS, self.port.number(), name, kind)
    }

    /// Waits until whoever asks is sent to this node.
    async fn means(&self, node: &Server) {
        let wanted = vec![format!("0 0 {} {NAME}.", node.port())];
        becomes_true("the name of the primary", async || {
            match self.records(SERVICE, "SRV") {
                found if found == wanted => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }

    /// The status that `dig` shows, for example NOERROR.
    fn status(&self, arguments: &[&str]) -> String {
        let text = self.dig(arguments);
        let status = text.split_once("status: ").map(|(_, rest)| rest);
        let status = status.and_then(|rest| rest.split(',').next());
        status.unwrap_or(&text).to_owned()
    }
}

#[tokio::test]
async fn it_answers_for_every_name_of_the_zone_by_udp_and_tcp() {
    if !bind::is_here() {
        return;
    }
    let dns = Dns::start().await;
    let primary = dns.scene.primary().await;
    for transport in ["+notcp", "+tcp"] {
        let full = dns.dig(&[transport, NAME, "A"]);
        assert!(full.contains("status: NOERROR"), "{full}");
        assert!(full.contains(" qr aa rd;"), "{full}");
        let answer = dns.dig(&[transport, "+noall", "+answer", NAME, "A"]);
        let words: Vec<&str> = answer.split_whitespace().collect();
        assert_eq!(words, ["main.redis.test.", "0", "IN", "A", "127.0.0.1"]);
        let service = dns.dig(&[transport, SERVICE, "SRV"]);
        let wanted = format!("SRV\t0 0 {} {NAME}.", primary.port());
        assert!(service.contains(&wanted), "{service}");
        assert!(
            service.contains("ADDITIONAL: 2"),
            "an address and OPT: {service}"
        );
        let text = dns.dig(&[transport, "+short", NAME, "TXT"]);
        let wanted = format!(
            "\"pointsman\" \"epoch=1\" \"backend=main\" \"primary={}\"",
            primary.id()
        );
        assert_eq!(text.trim(), wanted);
        let replicas = dns.dig(&[transport, "+short", "replicas.main.redis.test", "A"]);
        assert_eq!(replicas.trim(), "127.0.0.1");
    }
    // Names keep the case of the question.
    let loud = dns.dig(&["+noall", "+answer", "MAIN.Redis.test", "A"]);
    assert!(loud.starts_with("MAIN.Redis.test."), "{loud}");
    assert_eq!(dns.records("redis.test", "NS"), ["ns.redis.test."]);
    assert_eq!(dns.records("ns.redis.test", "A"), ["127.0.0.1"]);
    assert!(
        dns.records("redis.test", "SOA")[0].starts_with("ns.redis.test. hostmaster.redis.test.")
    );
    // Nothing of that type, and no such name: both say for how long, and that is not at all.
    for (name, status) in [
        (NAME, "NOERROR"),
        ("_tcp.main.redis.test", "NOERROR"),
        ("other.redis.test", "NXDOMAIN"),
        ("a.b.c.redis.test", "NXDOMAIN"),
    ] {
        let text = dns.dig(&[name, "AAAA"]);
        assert!(text.contains(&format!("status: {status}")), "{text}");
        assert!(text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
        let soa = dns.dig(&["+noall", "+authority", name, "AAAA"]);
        let words: Vec<&str> = soa.split_whitespace().collect();
        assert_eq!((words[1], words[3], words[10]), ("0", "SOA", "0"), "{soa}");
    }
    for arguments in [
        &["example.com", "A"][..],
        &["redis.test", "AXFR"],
        &["+tcp", "redis.test", "IXFR=1"],
        &["-c", "CH", "version.bind", "TXT"],
    ] {
        let text = dns.dig(arguments);
        let refused = text.contains("status: REFUSED") || text.contains("Transfer failed");
        assert!(refused, "{arguments:?}: {text}");
    }
    assert_eq!(dns.status(&["+edns=1", "+noednsneg", NAME, "A"]), "BADVERS");
    assert_eq!(dns.status(&["+opcode=STATUS", NAME, "A"]), "NOTIMP");
    let counted = r#"pointsman_dns_queries_total{result="no_such_name"}"#;
    let counted = dns.scene.shard.pointsman.metric(counted).await.unwrap();
    assert_eq!(counted, Some(2.0 * 2.0));
    dns.scene.assert_log_is_clean();
}

#[tokio::test]
async fn the_name_follows_a_failover_and_a_question_meanwhile_waits() {
    if !bind::is_here() {
        return;
    }
    let mut dns = Dns::start().await;
    dns.means(dns.scene.node(0)).await;
    dns.scene.traffic().await;
    // One question after the other while the primary dies.
    let (stop, port) = (tokio::sync::oneshot::channel::<()>(), dns.port.number());
    let (stop, mut stopped) = stop;
    let asking = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        while stopped.try_recv().is_err() {
            heard.push(lab::bind::dig(ADDRESS, port, &["+short", SERVICE, "SRV"]));
        }
        heard
    });
    let dead = dns.scene.kill_primary().await;
    let pause = dns.scene.failed_over().await.pause;
    let after = dns.scene.primary().await;
    dns.means(after).await;
    stop.send(()).unwrap();
    let (before, after) = (dns.scene.node(dead).port(), after.port());
    let (before, after) = (
        format!("0 0 {before} {NAME}."),
        format!("0 0 {after} {NAME}."),
    );
    let mut heard = asking.await.unwrap();
    if pause > SHORT {
        // A busy machine: questions waited for longer than they may.
        heard.retain(|answer| !answer.is_empty());
    }
    let first = heard.iter().position(|answer| answer.trim() == after);
    let first = first.expect("the new primary");
    // The old one until the failover, the new one from then on, and never an error in between.
    assert!(
        heard[..first].iter().all(|answer| answer.trim() == before),
        "{heard:?}"
    );
    assert!(
        heard[first..].iter().all(|answer| answer.trim() == after),
        "{heard:?}"
    );
    dns.scene.progress(20).await;
    dns.scene.judged().await;
    dns.scene.assert_log_is_clean();
}

#[tokio::test]
async fn without_a_primary_it_says_so_after_a_moment() {
    if !bind::is_here() {
        return;
    }
    let mut dns = Dns::start().await;
    dns.means(dns.scene.node(0)).await;
    dns.scene.expect_log("undecided");
    for node in dns.scene.shard.cluster.nodes() {
        node.kill();
    }
    becomes_true("SERVFAIL", async || {
        match dns.status(&[NAME, "A"]).as_str() {
            "SERVFAIL" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    assert_eq!(dns.status(&["+tcp", NAME, "A"]), "SERVFAIL");
    // What has nothing to do with the primary is answered.
    assert_eq!(dns.status(&["redis.test", "SOA"]), "NOERROR");
    assert_eq!(dns.status(&["other.redis.test", "A"]), "NXDOMAIN");
}

#[tokio::test]
async fn whatever_is_sent_to_it_the_next_question_is_answered() {
    if !bind::is_here() {
        return;
    }
    let dns = Dns::start().await;
    let socket = UdpSocket::bind((ADDRESS, 0)).await.unwrap();
    socket.connect(dns.port.address()).await.unwrap();
    // A question that is cut, changed and repeated at every place; and plain noise.
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x04main\x05redis\x04test\x00\x00\x01\x00\x01\
                     \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    let mut random = 1u32;
    let mut next = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) as u8
    };
    for at in 0..question.len() {
        socket.send(&question[..at]).await.unwrap();
        for _ in 0..8 {
            let mut changed = question.to_vec();
            changed[at] = next();
            socket.send(&changed).await.unwrap();
        }
        let noise: Vec<u8> = (0..at * 30).map(|_| next()).collect();
        socket.send(&noise).await.unwrap();
    }
    // An answer is not answered: two servers must not talk without end.
    let mut buffer = [0; 2048];
    while timeout(Duration::from_millis(200), socket.recv(&mut buffer))
        .await
        .is_ok()
    {}
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    socket.send(&answer).await.unwrap();
    assert!(
        timeout(Duration::from_millis(300), socket.recv(&mut buffer))
            .await
            .is_err()
    );
    assert_eq!(dns.records(NAME, "A"), ["127.0.0.1"]);

    // A length that is a lie, a body that never comes, two questions in one write.
    let mut lying = TcpStream::connect(dns.port.address()).await.unwrap();
    lying.write_all(b"\xff\xff\x00").await.unwrap();
    let ended = timeout(SOON, lying.read(&mut buffer))
        .await
        .expect("closed");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut stream = TcpStream::connect(dns.port.address()).await.unwrap();
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    let twice = [framed.clone(), framed].concat();
    stream.write_all(&twice).await.unwrap();
    for _ in 0..2 {
        let length = timeout(SOON, stream.read_u16())
            .await
            .expect("in time")
            .unwrap();
        let mut body = vec![0; length.into()];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body[..2], b"\x12\x34");
        assert_eq!(body[3] & 0x0f, 0, "NOERROR");
    }
    dns.scene.assert_log_is_clean();
}

/// `cargo test --test e2e thousands -- --nocapture` prints how many a second.
#[tokio::test]
async fn thousands_of_questions_are_answered_while_requests_flow() {
    const QUESTIONS: u16 = 20_000;
    let mut dns = Dns::start().await;
    dns.scene.traffic().await;
    let socket = UdpSocket::bind((ADDRESS, 0)).await.unwrap();
    socket.connect(dns.port.address()).await.unwrap();
    let mut question =
        b"\0\0\x01\x00\0\x01\0\0\0\0\0\0\x04main\x05redis\x04test\0\0\x01\0\x01".to_vec();
    let began = now();
    let asking = async {
        let mut buffer = [0; 512];
        for number in 0..QUESTIONS {
            question[..2].copy_from_slice(&number.to_be_bytes());
            socket.send(&question).await.unwrap();
            // So many are on their way at once.
            if number >= 50 {
                hear(&socket, &mut buffer, number - 50).await;
            }
        }
        for number in QUESTIONS - 50..QUESTIONS {
            hear(&socket, &mut buffer, number).await;
        }
    };
    timeout(SOON, asking).await.expect("a thousand a second");
    let took = now() - began;
    println!(
        "{} questions a second",
        (f64::from(QUESTIONS) / took.as_secs_f64()) as u64
    );
    dns.scene.progress(20).await;
    let verdict = dns.scene.judged().await;
    assert_no_error_at_all(&verdict);
    dns.scene.assert_log_is_clean();
}

/// The next answer is the one to this question, with an address.
async fn hear(socket: &UdpSocket, buffer: &mut [u8], number: u16) {
    socket.recv(buffer).await.unwrap();
    assert_eq!(buffer[..2], number.to_be_bytes());
    assert_eq!((buffer[3] & 0x0f, buffer[7]), (0, 1));
}
