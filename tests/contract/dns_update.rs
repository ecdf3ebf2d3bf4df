//! `dns_update` against a real BIND.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use pointsman::control::publisher::{
    Announcement, DnsUpdatePublisher, DnsUpdateSettings, PublishError, Publisher, TsigKey,
};
use pointsman::lab::bind::{SECRET, ZONE};
use pointsman::topology::{Epoch, NodeId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::publisher::{LONG, contract};
use crate::support::bind::{self, Bind, hesitant_relay, message};

const NAME: &str = "main.redis.test.";
const MARKER: &str = "_pointsman.main.redis.test.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn settings(bind: &Bind) -> DnsUpdateSettings {
    DnsUpdateSettings {
        server: bind.server(),
        zone: name(ZONE),
        name: name(NAME),
        key: TsigKey {
            name: name("pointsman."),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: BASE64.decode(SECRET.as_bytes()).expect("base64"),
        },
        srv: true,
        timeout: LONG,
        refresh: LONG,
    }
}

fn announcement(epoch: u64, to: &str) -> Announcement {
    Announcement {
        backend: "main".into(),
        epoch: Epoch(epoch),
        from: None,
        to: NodeId::new(to),
        planned: false,
        decided: true,
    }
}

async fn publish(settings: &DnsUpdateSettings, epoch: u64, to: &str) -> Result<(), PublishError> {
    let mut publisher = DnsUpdatePublisher::new(settings.clone());
    publisher.publish(announcement(epoch, to)).await
}

async fn why(settings: &DnsUpdateSettings, epoch: u64, to: &str) -> String {
    match publish(settings, epoch, to).await {
        Err(PublishError::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_keeps_the_contract_and_everything_has_ttl_0() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let heard = || {
        let parts = [(NAME, "A"), (NAME, "AAAA"), (MARKER, "TXT")];
        let all = parts.map(|(name, kind)| server.records(name, kind).join(" "));
        vec![all.join(" ")]
    };
    contract(&mut DnsUpdatePublisher::new(settings(&server)), heard).await;
    assert_eq!(server.records(NAME, "AAAA"), ["::1"]);
    assert_eq!(
        server.records("_redis._tcp.main.redis.test.", "SRV"),
        ["0 0 6380 main.redis.test."]
    );
    assert_eq!(
        server.records(MARKER, "TXT"),
        [r#""pointsman" "epoch=6" "backend=main" "primary=[::1]:6380""#]
    );
    for (name, kind) in [(NAME, "AAAA"), (MARKER, "TXT")] {
        let text = server.dig(&["+noall", "+answer", name, kind]);
        let ttl = text.split_whitespace().nth(1);
        assert_eq!(ttl, Some("0"), "{text}");
    }
}

#[tokio::test]
async fn after_a_restart_an_older_epoch_is_still_refused_and_a_newer_one_replaces_the_addresses() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let settings = settings(&server);
    // What somebody put there by hand goes: with a CNAME no address would count.
    server.update(&format!("update add {NAME} 300 CNAME elsewhere.test."));
    publish(&settings, 7, "10.0.0.1:6379")
        .await
        .expect("published");
    assert_eq!(server.records(NAME, "A"), ["10.0.0.1"]);
    let older = publish(&settings, 6, "10.0.0.2:6379").await;
    assert!(
        matches!(older, Err(PublishError::Older(Epoch(7)))),
        "{older:?}"
    );
    assert_eq!(server.records(NAME, "A"), ["10.0.0.1"]);
    publish(&settings, 8, "[2001:db8::2]:6379")
        .await
        .expect("published");
    assert_eq!(server.records(NAME, "A"), [""; 0]);
    assert_eq!(server.records(NAME, "AAAA"), ["2001:db8::2"]);
    // A name is published as what it means now.
    publish(&settings, 9, "localhost:6379")
        .await
        .expect("published");
    let wanted: BTreeSet<IpAddr> = tokio::net::lookup_host(("localhost", 0))
        .await
        .expect("localhost")
        .map(|address| address.ip())
        .collect();
    let mut found = server.records(NAME, "A");
    found.extend(server.records(NAME, "AAAA"));
    let found: BTreeSet<IpAddr> = found.iter().map(|a| a.parse().expect("address")).collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn an_older_epoch_that_read_before_a_newer_one_was_written_does_not_overwrite_it() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let direct = settings(&server);
    // Once when there is nothing to be replaced, once when there is.
    for (older, newer) in [(1, 2), (3, 4)] {
        let (relay, mut asked) = hesitant_relay(server.server()).await;
        let slow = DnsUpdateSettings {
            server: relay,
            ..direct.clone()
        };
        let late = tokio::spawn(async move { publish(&slow, older, "10.0.0.1:6379").await });
        // It has read, and its update is on its way.
        let leave = asked.recv().await.expect("an update");
        publish(&direct, newer, "10.0.0.2:6379")
            .await
            .expect("published");
        leave.send(()).expect("it waits");
        // It is refused, and reads again.
        asked
            .recv()
            .await
            .expect("a question")
            .send(())
            .expect("it waits");
        let late = late.await.expect("no panic");
        assert!(
            matches!(late, Err(PublishError::Older(epoch)) if epoch == Epoch(newer)),
            "{late:?}"
        );
        assert_eq!(server.records(NAME, "A"), ["10.0.0.2"]);
    }
    // The other way round: the newer one is the late one, and wins in its second try.
    let (relay, mut asked) = hesitant_relay(server.server()).await;
    let slow = DnsUpdateSettings {
        server: relay,
        ..direct.clone()
    };
    let late = tokio::spawn(async move { publish(&slow, 6, "10.0.0.6:6379").await });
    let leave = asked.recv().await.expect("an update");
    publish(&direct, 5, "10.0.0.5:6379")
        .await
        .expect("published");
    leave.send(()).expect("it waits");
    for _ in 0..2 {
        asked
            .recv()
            .await
            .expect("again")
            .send(())
            .expect("it waits");
    }
    late.await.expect("no panic").expect("published");
    assert_eq!(server.records(NAME, "A"), ["10.0.0.6"]);
}

#[tokio::test]
async fn of_many_that_publish_at_once_the_newest_epoch_wins() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let settings = settings(&server);
    for round in 0..5 {
        let epochs = (1..=8).map(|n| round * 8 + n);
        let all: Vec<_> = epochs
            .map(|epoch| {
                let settings = settings.clone();
                tokio::spawn(async move {
                    let to = format!("10.0.1.{epoch}:6379");
                    // As `keep_telling` does it: what failed is tried again.
                    loop {
                        match publish(&settings, epoch, &to).await {
                            Err(PublishError::Failed(why)) => {
                                assert!(why.contains("others"), "{why}")
                            }
                            told => return told,
                        }
                    }
                })
            })
            .collect();
        for one in all {
            let told = one.await.expect("no panic");
            assert!(matches!(told, Ok(()) | Err(PublishError::Older(_))));
        }
        let newest = round * 8 + 8;
        assert_eq!(server.records(NAME, "A"), [format!("10.0.1.{newest}")]);
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_said_clearly_and_changes_nothing() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let good = settings(&server);
    publish(&good, 1, "10.0.0.1:6379").await.expect("published");
    let with = |change: &dyn Fn(&mut DnsUpdateSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings
    };
    let cases = [
        (
            with(&|s| s.key.secret[0] ^= 1),
            "BADSIG",
            "the secret is not",
        ),
        (
            with(&|s| s.key.name = name("stranger.")),
            "BADKEY",
            "no key stranger.",
        ),
        (
            with(&|s| s.key.algorithm = TsigAlgorithm::HmacSha512),
            "BAD",
            "pointsman.",
        ),
        (
            with(&|s| s.key.name = name("reader.")),
            "REFUSED",
            "update-policy",
        ),
        (
            with(&|s| s.name = name("other.redis.test.")),
            "REFUSED",
            "allow-update",
        ),
        (
            with(&|s| {
                s.zone = name("nowhere.test.");
                s.name = name("main.nowhere.test.");
            }),
            "REFUSED",
            "nowhere.test.",
        ),
        (
            with(&|s| s.zone = name("main.redis.test.")),
            "NOTAUTH",
            "not the primary server",
        ),
    ];
    for (settings, code, words) in cases {
        let why = why(&settings, 2, "10.0.0.2:6379").await;
        assert!(why.contains(code) && why.contains(words), "{code}: {why}");
        assert!(!why.contains(SECRET), "{why}");
    }
    let why_not = why(&good, 2, "no-such-host.invalid:6379").await;
    assert!(why_not.contains("no-such-host.invalid"), "{why_not}");
    assert_eq!(server.records(NAME, "A"), ["10.0.0.1"]);

    server.kill();
    let down = why(&good, 2, "10.0.0.2:6379").await;
    assert!(down.contains("can not connect"), "{down}");
    server.restart().await;
    publish(&good, 2, "10.0.0.2:6379").await.expect("published");
    assert_eq!(server.records(NAME, "A"), ["10.0.0.2"]);
}

#[tokio::test]
async fn what_somebody_else_has_published_there_is_left_alone() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let settings = settings(&server);
    server.update(&format!("update add {MARKER} 0 TXT \"v=spf1 -all\""));
    let foreign = why(&settings, 1, "10.0.0.1:6379").await;
    assert!(foreign.contains("none of pointsman's"), "{foreign}");

    server.update(&format!("update delete {MARKER}"));
    publish(&settings, 3, "10.0.0.1:6379")
        .await
        .expect("published");
    let mut publisher = DnsUpdatePublisher::new(settings.clone());
    let mut other = announcement(9, "10.0.0.9:6379");
    other.backend = "other".into();
    match publisher.publish(other).await {
        Err(PublishError::Failed(why)) => {
            assert!(why.contains("belongs to the backend `main`"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let twice = why(&settings, 3, "10.0.0.2:6379").await;
    assert!(
        twice.contains("epoch 3") && twice.contains("10.0.0.1:6379"),
        "{twice}"
    );
    assert_eq!(server.records(NAME, "A"), ["10.0.0.1"]);
}

#[tokio::test]
async fn what_was_changed_by_hand_is_put_right_unless_a_newer_epoch_stands_there() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let settings = settings(&server);
    let mut publisher = DnsUpdatePublisher::new(settings.clone());
    assert_eq!(publisher.refresh(), Some(settings.refresh));
    let ours = announcement(3, "10.0.0.1:6379");
    publisher.publish(ours.clone()).await.expect("published");
    let service = "_redis._tcp.main.redis.test.";
    let all = || {
        let parts = [
            (NAME, "A"),
            (NAME, "AAAA"),
            (NAME, "CNAME"),
            (service, "SRV"),
            (MARKER, "TXT"),
        ];
        parts.map(|(name, kind)| server.records(name, kind))
    };
    let right = all();
    let deleted = format!("update delete {NAME}\nupdate delete {service}\nupdate delete {MARKER}");
    for by_hand in [
        format!("update delete {NAME} A\nupdate add {NAME} 0 A 10.9.9.9"),
        format!("update add {NAME} 0 A 10.9.9.9"),
        format!("update add {NAME} 0 AAAA 2001:db8::9"),
        format!("update delete {NAME}\nupdate add {NAME} 0 CNAME elsewhere.test."),
        format!("update delete {service}\nupdate add {service} 0 SRV 0 0 1 {NAME}"),
        format!("update delete {MARKER}"),
        // As after a restored backup.
        format!(
            "update delete {MARKER}\nupdate add {MARKER} 0 TXT \"pointsman\" \"epoch=2\" \
             \"backend=main\" \"primary=10.9.9.9:6379\"\nupdate add {NAME} 0 A 10.9.9.9"
        ),
        deleted,
    ] {
        server.update(&by_hand);
        assert_ne!(all(), right, "{by_hand}");
        publisher.publish(ours.clone()).await.expect("published");
        assert_eq!(all(), right, "{by_hand}");
    }
    publish(&settings, 4, "10.0.0.4:6379")
        .await
        .expect("published");
    server.update(&format!("update delete {NAME} A"));
    let older = publisher.publish(ours).await;
    assert!(
        matches!(older, Err(PublishError::Older(Epoch(4)))),
        "{older:?}"
    );
    assert_eq!(server.records(NAME, "A"), [""; 0]);
}

/// A server that answers every question in its own way.
async fn impostor(answer: impl Fn(Message) -> Option<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        while let Ok(question) = message(&mut client).await {
            let question = Message::from_vec(&question[2..]).expect("a question");
            let Some(answer) = answer(question) else {
                continue;
            };
            let mut bytes = (answer.len() as u16).to_be_bytes().to_vec();
            bytes.extend(answer);
            client.write_all(&bytes).await.expect("answered");
        }
    });
    address
}

#[tokio::test]
async fn nobody_is_believed_who_does_not_know_the_key_and_nobody_is_waited_for_without_end() {
    let template = |server: String| DnsUpdateSettings {
        server,
        zone: name(ZONE),
        name: name(NAME),
        key: TsigKey {
            name: name("pointsman."),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: b"secret".to_vec(),
        },
        srv: false,
        timeout: Duration::from_millis(500),
        refresh: LONG,
    };
    let unsigned = impostor(|question| {
        let code = ResponseCode::NoError;
        Message::error_msg(question.metadata.id, question.metadata.op_code, code)
            .to_vec()
            .ok()
    })
    .await;
    let why_not = why(&template(unsigned), 1, "10.0.0.1:6379").await;
    assert!(why_not.contains("is not signed"), "{why_not}");
    let silent = impostor(|_| None).await;
    let why_not = why(&template(silent), 1, "10.0.0.1:6379").await;
    assert!(why_not.contains("no answer within 500ms"), "{why_not}");
    for nonsense in [
        &b""[..],
        b"x",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0xff; 40],
    ] {
        let server = impostor(move |_| Some(nonsense.to_vec())).await;
        let why_not = why(&template(server), 1, "10.0.0.1:6379").await;
        assert!(why_not.contains("answers nonsense"), "{why_not}");
    }
}
