//! The contract of `control::authority` where several monitors share a record, on the real
//! coordinators.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use pointsman::clock;
use pointsman::control::authority::{Authority, Roster, SharedAuthority, SharedRoster, Swap};
use pointsman::control::publisher::{Announcement, KvPublisher, PublishError, Publisher};
use pointsman::control::{StoreKind, StoreSettings, TlsSettings};
use pointsman::failover::{Opinion, Presence, Version};
use pointsman::lab::{Engine, EngineOptions, until};
use pointsman::resp::Credentials;
use pointsman::topology::{Epoch, NodeId};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::authority::{Place, contract, record, stores, version_of};

const SOON: Duration = Duration::from_secs(30);

/// What a request may take: twice the default, for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A swap that is lost reads what is stored instead, and everything ends a little later.
const BOUND: Duration = Duration::from_secs(6);

/// One backend's place in a coordinator.
struct Coordinator {
    settings: StoreSettings,
    backend: Arc<str>,
}

impl Coordinator {
    fn of(engine: &Engine, kind: StoreKind) -> Coordinator {
        Coordinator {
            settings: StoreSettings {
                kind,
                endpoints: engine.endpoints(),
                prefix: "/test/pointsman".to_owned(),
                timeout: TIMEOUT,
                credentials: None,
                tls: None,
            },
            backend: "main".into(),
        }
    }

    fn authority(&self) -> Box<dyn Authority> {
        Box::new(SharedAuthority::new(&self.settings, self.backend.clone()).expect("opened"))
    }

    fn roster(&self) -> SharedRoster {
        SharedRoster::new(&self.settings, &self.backend).expect("opened")
    }

    /// When it has elected a leader.
    async fn usable(&self) -> Box<dyn Authority> {
        let mut authority = self.authority();
        let load = async || {
            authority
                .load()
                .await
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        until("a leader", SOON, load).await.expect("usable");
        authority
    }
}

impl Coordinator {
    /// As an operator would.
    async fn remove_record(&self) {
        let server = &self.settings.endpoints[0];
        let path = format!("{}/{}/record", self.settings.prefix, self.backend);
        let client = reqwest::Client::new();
        let asked = match self.settings.kind {
            StoreKind::Etcd => {
                let body = format!(r#"{{"key":"{}"}}"#, BASE64.encode(path.as_bytes()));
                let url = format!("http://{server}/v3/kv/deleterange");
                client.post(url).body(body)
            }
            StoreKind::Consul => client.delete(format!("http://{server}/v1/kv{path}")),
            StoreKind::ZooKeeper => {
                let client = zookeeper_client::Client::connect(server).await;
                let deleted = client.expect("there").delete(&path, None).await;
                return deleted.expect("deleted");
            }
        };
        let answer = asked.send().await.expect("answered");
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

impl Place for Coordinator {
    fn open(&self) -> Box<dyn Authority> {
        self.authority()
    }
}

/// Whether this machine has it; says NOT RUN when not.
fn is_here(kind: StoreKind) -> bool {
    let missing = Engine::missing(kind);
    if let Some(what) = &missing {
        eprintln!("NOT RUN: {what} is missing; scripts/setup.sh test gets it");
    }
    missing.is_none()
}

/// Tests that run at the same time: more of them would only make one another's servers slow.
static TURNS: Semaphore = Semaphore::const_new(3);

/// Waits for a turn; `None`: it is not here.
async fn turn(kind: StoreKind) -> Option<SemaphorePermit<'static>> {
    if !is_here(kind) {
        return None;
    }
    Some(TURNS.acquire().await.expect("never closed"))
}

async fn start(kind: StoreKind, members: usize) -> (Engine, Coordinator) {
    let engine = Engine::start(kind, members).await.expect("started");
    let place = Coordinator::of(&engine, kind);
    drop(place.usable().await);
    (engine, place)
}

fn opinion(monitor: &str, beat: u64) -> Opinion {
    Opinion {
        monitor: monitor.into(),
        domain: "rack".into(),
        epoch: Epoch(1),
        lost: true,
        beat,
    }
}

fn presence(pointsman: &str, life: u32, beat: u64) -> Presence {
    Presence {
        pointsman: pointsman.into(),
        life,
        obeyed: Epoch(beat),
        beat,
    }
}

/// 7: waits until somebody else's change was told; it may be told more often.
async fn sees(authority: &mut Box<dyn Authority>, version: Version) {
    let seeing = async {
        loop {
            authority.changed().await;
            if authority.load().await.is_ok_and(|l| l.version == version) {
                return;
            }
        }
    };
    timeout(SOON, seeing).await.expect("the change is told");
}

/// Of `control::authority::Roster`. 1: presences are read by everybody at once, replaced and removed, and each
/// life is one of its own. 2: nobody who waits for a change is woken by them.
async fn roster_contract(place: &Coordinator, waiter: &mut Box<dyn Authority>) {
    let (mut one, mut other) = (place.roster(), place.roster());
    assert_eq!(one.roll().await, Ok(Vec::new()));
    one.attend(presence("a:1:ff", 0, 7)).await.expect("told");
    let telling = async {
        for beat in 1..=30 {
            let told = other.attend(presence("b:2:ee", 1, beat)).await;
            told.expect("told");
        }
    };
    let (began, woken) = (clock::now(), Cell::new(0));
    let waiting = async {
        loop {
            waiter.changed().await;
            woken.set(woken.get() + 1);
        }
    };
    tokio::select! {
        () = telling => {}
        () = waiting => {}
    }
    let looks = (clock::now() - began).as_secs() + 5;
    assert!(woken.get() < looks, "{} in {looks} s", woken.get());
    let mut roll = one.roll().await.expect("readable");
    roll.sort_by_key(|presence| presence.beat);
    assert_eq!(roll, [presence("a:1:ff", 0, 7), presence("b:2:ee", 1, 30)]);
    let left = other.leave(presence("b:2:ee", 1, 30)).await;
    left.expect("removed");
    let left = other.leave(presence("b:2:ee", 0, 30)).await;
    left.expect("it was not there, and is not");
    assert_eq!(one.roll().await, Ok(vec![presence("a:1:ff", 0, 7)]));
}

async fn shared_contract(kind: StoreKind) {
    let Some(_turn) = turn(kind).await else {
        return;
    };
    let (_engine, place) = start(kind, 1).await;
    contract(&place).await;

    // 7: a change by somebody else is told.
    let (mut one, mut other) = (place.open(), place.open());
    one.load().await.expect("readable");
    let version = stores(&mut other, 5).await;
    sees(&mut one, version).await;
    // By the watch: whoever only looked once a second would find each of these after a second.
    let mut at_once = 0;
    for epoch in 6..15 {
        let version = stores(&mut other, epoch).await;
        let began = clock::now();
        sees(&mut one, version).await;
        at_once += usize::from(clock::now() - began < Duration::from_millis(500));
    }
    assert!(at_once >= 7, "{at_once} of 9 changes were told at once");
    let version = version_of(&mut one).await;

    // 8: opinions are read by everybody, replaced, and change no version.
    for beat in [1, 2] {
        one.opine(opinion("a:1:ff", beat)).await.expect("told");
    }
    other.opine(opinion("b:2:ee", 7)).await.expect("told");
    let mut loaded = other.load().await.expect("readable");
    loaded.opinions.sort_by_key(|o| o.beat);
    assert_eq!(
        loaded.opinions,
        [opinion("a:1:ff", 2), opinion("b:2:ee", 7)]
    );
    assert_eq!(loaded.version, version);

    roster_contract(&place, &mut one).await;
    let loaded = other.load().await.expect("readable");
    assert_eq!((loaded.version, loaded.opinions.len()), (version, 2));

    // 2: of many that race for each version one wins.
    let mut racers = Vec::new();
    for racer in 0..4 {
        let mut authority = place.open();
        racers.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for round in 0..25 {
                let expected = version_of(&mut authority).await;
                let swap = authority.swap(expected, record(100 * racer + round)).await;
                match swap {
                    Swap::Done(version) => won.push((expected, version)),
                    Swap::Lost(stored) => assert!(stored.version > expected),
                    other => panic!("{other:?}"),
                }
            }
            won
        }));
    }
    let mut won = Vec::new();
    for racer in racers {
        won.extend(racer.await.expect("raced"));
    }
    won.sort();
    assert!(won.len() >= 25, "somebody wins each round: {}", won.len());
    for pair in won.windows(2) {
        assert!(pair[0].0 < pair[1].0, "two swaps of one version: {pair:?}");
        assert!(pair[0].1 <= pair[1].0, "a version came back: {pair:?}");
    }

    // 2: the version of a record that was deleted and made again is another one, whoever remembers
    // the old one, and however much the new record is like it.
    place.remove_record().await;
    assert_eq!(other.load().await.expect("readable").version, Version(0));
    let version = stores(&mut other, 1).await;
    assert_eq!(version_of(&mut one).await, version);
    place.remove_record().await;
    let gone = one.swap(version, record(2)).await;
    assert!(matches!(gone, Swap::Lost(stored) if stored.record.is_none()));
    assert_eq!(version_of(&mut one).await, Version(0));
    let first = stores(&mut other, 1).await;
    assert_eq!(version_of(&mut one).await, first);
    place.remove_record().await;
    let second = stores(&mut other, 1).await;
    assert!(second > first, "{second:?} after {first:?}");
    let old = one.swap(first, record(2)).await;
    assert!(
        matches!(&old, Swap::Lost(stored) if stored.version == second),
        "{old:?}"
    );
    // A swap without a load before it is as good as any other.
    let swap = place.open().swap(second, record(2)).await;
    assert!(matches!(swap, Swap::Done(_)), "{swap:?}");
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    shared_contract(StoreKind::Etcd).await;
}

#[tokio::test]
async fn consul_keeps_the_contract() {
    shared_contract(StoreKind::Consul).await;
}

#[tokio::test]
async fn zookeeper_keeps_the_contract() {
    shared_contract(StoreKind::ZooKeeper).await;
}

/// 5 and 6: a coordinator that stands still or is gone is said within the bound, nothing is lost, and
/// afterwards everything goes on.
async fn trouble(kind: StoreKind) {
    let Some(_turn) = turn(kind).await else {
        return;
    };
    let (mut engine, place) = start(kind, 1).await;
    let mut authority = place.usable().await;
    let version = stores(&mut authority, 1).await;

    engine.stop(0);
    let load = timeout(BOUND, authority.load()).await.expect("bounded");
    let said = load.expect_err("it stands still").to_string();
    assert!(said.contains("127.0.0.1"), "{said}");
    let roll = timeout(BOUND, place.roster().roll())
        .await
        .expect("bounded");
    roll.expect_err("nobody is there is not what it says");
    let swap = timeout(BOUND, authority.swap(version, record(2)))
        .await
        .expect("bounded");
    assert!(
        matches!(swap, Swap::Unknown(_) | Swap::Unavailable(_)),
        "{swap:?}"
    );
    engine.cont(0);
    let mut authority = place.usable().await;
    // Whatever became of that swap, also late, it is one or the other.
    let store = async || {
        let loaded = authority.load().await.map_err(|e| e.to_string())?;
        assert!(loaded.record == Some(record(1)) || loaded.record == Some(record(2)));
        match authority.swap(loaded.version, record(3)).await {
            Swap::Done(version) => Ok(version),
            other => Err(format!("{other:?}")),
        }
    };
    let version = until("a swap", SOON, store).await.expect("it goes on");

    engine.kill(0);
    let load = timeout(BOUND, authority.load()).await.expect("bounded");
    println!("{kind:?}: {}", load.expect_err("it is gone"));
    let swap = timeout(BOUND, authority.swap(version, record(4)))
        .await
        .expect("bounded");
    assert!(
        matches!(swap, Swap::Unknown(_) | Swap::Unavailable(_)),
        "{swap:?}"
    );
    engine.restart(0).await.expect("restarted");
    let back = async || {
        let loaded = authority.load().await.map_err(|e| e.to_string())?;
        // What was unknown may still be carried out; what was unavailable may not.
        let late = matches!(swap, Swap::Unknown(_)) && loaded.record == Some(record(4));
        match late || (loaded.record == Some(record(3)) && loaded.version == version) {
            true => Ok(()),
            false => Err(format!("{loaded:?}")),
        }
    };
    until("the record", SOON, back).await.expect("it is intact");
    let mut other = place.open();
    let version = stores(&mut other, 5).await;
    sees(&mut authority, version).await;
}

#[tokio::test]
async fn etcd_in_trouble() {
    trouble(StoreKind::Etcd).await;
}

#[tokio::test]
async fn consul_in_trouble() {
    trouble(StoreKind::Consul).await;
}

#[tokio::test]
async fn zookeeper_in_trouble() {
    trouble(StoreKind::ZooKeeper).await;
}

/// What was compacted away is no longer told by a watch; what is stored is read.
#[tokio::test]
async fn etcd_forgets_old_revisions() {
    let Some(_turn) = turn(StoreKind::Etcd).await else {
        return;
    };
    let (engine, place) = start(StoreKind::Etcd, 1).await;
    let (mut one, mut other) = (place.open(), place.open());
    stores(&mut other, 1).await;
    one.load().await.expect("readable");
    one.changed().await;
    let server = engine.endpoints()[0].clone();
    for epoch in 2..5 {
        let version = stores(&mut other, epoch).await;
        let asked = reqwest::Client::new()
            .post(format!("http://{server}/v3/kv/compaction"))
            .body(format!(r#"{{"revision":"{}","physical":true}}"#, version.0));
        let answer = asked.send().await.expect("answered");
        assert!(answer.status().is_success(), "{answer:?}");
        sees(&mut one, version).await;
    }
}

/// The session of a ZooKeeper that stood still for longer than it is kept is replaced.
#[tokio::test]
async fn zookeeper_forgets_a_session() {
    let Some(_turn) = turn(StoreKind::ZooKeeper).await else {
        return;
    };
    let (engine, place) = start(StoreKind::ZooKeeper, 1).await;
    let (mut one, mut other) = (place.open(), place.open());
    stores(&mut other, 1).await;
    one.load().await.expect("readable");
    engine.stop(0);
    // Each takes a request's bound; a session is kept for 4 s by a server with this tickTime.
    for _ in 0..4 {
        let load = timeout(BOUND, one.load()).await.expect("bounded");
        load.expect_err("it stands still");
    }
    engine.cont(0);
    let back = async || one.load().await.map(|_| ()).map_err(|e| e.to_string());
    until("a new session", SOON, back)
        .await
        .expect("it is made");
    let mut other = place.usable().await;
    let version = stores(&mut other, 2).await;
    sees(&mut one, version).await;
}

/// Of three servers any one may die or hang, also the leader: whoever it is, somebody answers.
async fn one_of_three(kind: StoreKind) {
    let Some(_turn) = turn(kind).await else {
        return;
    };
    let (mut engine, place) = start(kind, 3).await;
    let mut authority = place.usable().await;
    let mut version = stores(&mut authority, 1).await;
    for fault in 0..6 {
        let (member, dies) = (fault % 3, fault < 3);
        match dies {
            true => engine.kill(member),
            false => engine.stop(member),
        }
        let next = record(2 + fault as u64);
        let swap = async || match authority.swap(version, next.clone()).await {
            Swap::Done(stored) => Ok(stored),
            // It may have been done before its server died.
            Swap::Lost(stored) if stored.record.as_ref() == Some(&next) => Ok(stored.version),
            other => Err(format!("{other:?}")),
        };
        version = until("a swap", SOON, swap)
            .await
            .expect("two of three are enough");
        match dies {
            true => engine.restart(member).await.expect("restarted"),
            false => engine.cont(member),
        }
        drop(place.usable().await);
    }
}

#[tokio::test]
async fn etcd_loses_one_of_three() {
    one_of_three(StoreKind::Etcd).await;
}

#[tokio::test]
async fn consul_loses_one_of_three() {
    one_of_three(StoreKind::Consul).await;
}

#[tokio::test]
async fn zookeeper_loses_one_of_three() {
    one_of_three(StoreKind::ZooKeeper).await;
}

/// What a wrong login, or none, is told; what is stored stays.
async fn is_refused(place: &Coordinator, credentials: Option<Credentials>, word: &str) {
    let settings = StoreSettings {
        credentials,
        ..place.settings.clone()
    };
    let wrong = Coordinator {
        settings,
        backend: place.backend.clone(),
    };
    let mut authority = wrong.authority();
    let said = match authority.load().await {
        Err(error) => error.to_string(),
        // ZooKeeper shows who may not read it that there is something.
        Ok(loaded) => panic!("{loaded:?}"),
    };
    assert!(said.contains(word), "{said}");
    let swap = authority.swap(Version(1), record(9)).await;
    assert!(
        matches!(swap, Swap::Unavailable(_) | Swap::Lost(_)),
        "{swap:?}"
    );
}

fn login(user: &str, password: &str) -> Option<Credentials> {
    let user = (!user.is_empty()).then(|| user.into());
    Some(Credentials::new(user, password.as_bytes().to_vec()))
}

#[tokio::test]
async fn etcd_with_users() {
    let Some(_turn) = turn(StoreKind::Etcd).await else {
        return;
    };
    let (mut engine, mut place) = start(StoreKind::Etcd, 1).await;
    let server = engine.endpoints()[0].clone();
    let client = reqwest::Client::new();
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"geheim"}"#),
        ("role/add", r#"{"name":"root"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("enable", "{}"),
    ] {
        let asked = client
            .post(format!("http://{server}/v3/auth/{path}"))
            .body(body);
        let answer = asked.send().await.expect("answered");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }
    place.settings.credentials = login("root", "geheim");
    let mut authority = place.usable().await;
    let version = stores(&mut authority, 1).await;
    is_refused(&place, login("root", "falsch"), "authentication failed").await;
    is_refused(&place, None, "user name is empty").await;
    // A token of before is worth nothing after a restart.
    engine.kill(0);
    engine.restart(0).await.expect("restarted");
    let again = async || match authority.swap(version, record(2)).await {
        Swap::Done(_) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("a new login", SOON, again).await.expect("logged in");
    let mut other = place.open();
    let version = stores(&mut other, 3).await;
    sees(&mut authority, version).await;
}

#[tokio::test]
async fn consul_with_tokens() {
    let Some(_turn) = turn(StoreKind::Consul).await else {
        return;
    };
    let rules = "acl { enabled = true default_policy = \"deny\" \
                 tokens { master = \"geheim\" } }";
    let engine = Engine::with(EngineOptions {
        kind: StoreKind::Consul,
        members: 1,
        extra: vec!["-hcl".to_owned(), rules.to_owned()],
    })
    .await
    .expect("started");
    let mut place = Coordinator::of(&engine, StoreKind::Consul);
    place.settings.credentials = login("", "geheim");
    let mut authority = place.usable().await;
    let store = async || match authority.swap(Version(0), record(1)).await {
        Swap::Done(_) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    // The first token is known a moment after the leader.
    until("the token", SOON, store).await.expect("accepted");
    is_refused(&place, login("", "falsch"), "ACL not found").await;
    is_refused(&place, None, "ermission denied").await;
}

#[tokio::test]
async fn zookeeper_with_users() {
    let Some(_turn) = turn(StoreKind::ZooKeeper).await else {
        return;
    };
    let (_engine, mut place) = start(StoreKind::ZooKeeper, 1).await;
    place.settings.prefix = "/private".to_owned();
    place.settings.credentials = login("one", "geheim");
    let mut authority = place.usable().await;
    stores(&mut authority, 1).await;
    is_refused(&place, login("one", "falsch"), "not authorized").await;
    is_refused(&place, None, "not authorized").await;
}

/// A CA, and a certificate for 127.0.0.1 that it signed, and another CA.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Certificates {
        let directory = tempfile::tempdir().expect("directory");
        let run = |arguments: &str| {
            let output = std::process::Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(directory.path())
                .output()
                .expect("openssl runs");
            assert!(output.status.success(), "{arguments}: {output:?}");
        };
        let names = "subjectAltName=IP:127.0.0.1\n";
        std::fs::write(directory.path().join("names"), names).expect("written");
        for ca in ["ca", "other"] {
            run(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
            ));
        }
        run(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server \
             -keyout server.key -out server.csr",
        );
        run(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out server.pem",
        );
        Certificates(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn pem(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("there")
    }
}

#[tokio::test]
async fn etcd_with_certificates_on_both_sides() {
    let Some(_turn) = turn(StoreKind::Etcd).await else {
        return;
    };
    let certificates = Certificates::new();
    let engine = Engine::with(EngineOptions {
        kind: StoreKind::Etcd,
        members: 1,
        extra: vec![
            format!("--cert-file={}", certificates.path("server.pem")),
            format!("--key-file={}", certificates.path("server.key")),
            format!("--trusted-ca-file={}", certificates.path("ca.pem")),
            "--client-cert-auth".to_owned(),
        ],
    })
    .await
    .expect("started");
    let identity = (
        certificates.pem("server.pem"),
        certificates.pem("server.key"),
    );
    let mut place = Coordinator::of(&engine, StoreKind::Etcd);
    place.settings.tls = Some(TlsSettings {
        ca: Some(certificates.pem("ca.pem")),
        identity: Some(identity.clone()),
    });
    let mut authority = place.usable().await;
    stores(&mut authority, 1).await;
    for (ca, identity) in [("other.pem", Some(identity)), ("ca.pem", None)] {
        place.settings.tls = Some(TlsSettings {
            ca: Some(certificates.pem(ca)),
            identity,
        });
        let said = place.authority().load().await.expect_err("refused");
        println!("{said}");
        assert!(said.to_string().contains("ertificate"), "{said}");
    }
    place.settings.tls = None;
    let said = place.authority().load().await.expect_err("refused");
    println!("{said}");
}

#[tokio::test]
async fn consul_with_certificates_on_both_sides() {
    let Some(_turn) = turn(StoreKind::Consul).await else {
        return;
    };
    let certificates = Certificates::new();
    // The port that clients ask is the one for TLS.
    let tls = format!(
        "ca_file = {:?} cert_file = {:?} key_file = {:?} verify_incoming = true",
        certificates.path("ca.pem"),
        certificates.path("server.pem"),
        certificates.path("server.key"),
    );
    let engine = Engine::with(EngineOptions {
        kind: StoreKind::Consul,
        members: 1,
        extra: vec!["-hcl".to_owned(), tls],
    })
    .await
    .expect("started");
    let identity = (
        certificates.pem("server.pem"),
        certificates.pem("server.key"),
    );
    let mut place = Coordinator::of(&engine, StoreKind::Consul);
    place.settings.tls = Some(TlsSettings {
        ca: Some(certificates.pem("ca.pem")),
        identity: Some(identity.clone()),
    });
    let mut authority = place.usable().await;
    let version = stores(&mut authority, 1).await;
    // The watch is a connection of its own.
    let mut watching = place.open();
    watching.load().await.expect("there");
    sees(&mut watching, version).await;
    for (ca, identity) in [("other.pem", Some(identity)), ("ca.pem", None)] {
        place.settings.tls = Some(TlsSettings {
            ca: Some(certificates.pem(ca)),
            identity,
        });
        let said = place.authority().load().await.expect_err("refused");
        assert!(said.to_string().contains("ertificate"), "{said}");
    }
    place.settings.tls = None;
    let said = place.authority().load().await.expect_err("refused");
    println!("{said}");
}

#[tokio::test]
async fn zookeeper_with_certificates_on_both_sides() {
    let Some(_turn) = turn(StoreKind::ZooKeeper).await else {
        return;
    };
    let certificates = Certificates::new();
    let (certificate, key) = (
        certificates.pem("server.pem"),
        certificates.pem("server.key"),
    );
    let both = [key.as_slice(), &certificate].concat();
    std::fs::write(certificates.path("both.pem"), both).expect("written");
    let engine = Engine::with(EngineOptions {
        kind: StoreKind::ZooKeeper,
        members: 1,
        extra: vec![
            format!("ssl.keyStore.location={}", certificates.path("both.pem")),
            "ssl.keyStore.type=PEM".to_owned(),
            format!("ssl.trustStore.location={}", certificates.path("ca.pem")),
            "ssl.trustStore.type=PEM".to_owned(),
            "ssl.clientAuth=need".to_owned(),
        ],
    })
    .await
    .expect("started");
    let identity = (certificate, key);
    let mut place = Coordinator::of(&engine, StoreKind::ZooKeeper);
    place.settings.tls = Some(TlsSettings {
        ca: Some(certificates.pem("ca.pem")),
        identity: Some(identity.clone()),
    });
    let mut authority = place.usable().await;
    stores(&mut authority, 1).await;
    for (ca, identity) in [("other.pem", Some(identity)), ("ca.pem", None)] {
        place.settings.tls = Some(TlsSettings {
            ca: Some(certificates.pem(ca)),
            identity,
        });
        let said = place.authority().load().await.expect_err("refused");
        assert!(said.to_string().contains("certificate"), "{said}");
    }
    place.settings.tls = Some(TlsSettings::default());
    let said = SharedAuthority::new(&place.settings, "main".into())
        .map(|_| ())
        .expect_err("refused");
    assert!(said.to_string().contains("ca_file"), "{said}");
}

/// Another server than the one that was meant is an error, never an empty place.
#[tokio::test]
async fn the_wrong_server_is_not_taken_for_an_empty_one() {
    let Some(_turn) = turn(StoreKind::Etcd).await else {
        return;
    };
    if !is_here(StoreKind::Consul) {
        return;
    }
    let (etcd, _) = start(StoreKind::Etcd, 1).await;
    let (consul, _) = start(StoreKind::Consul, 1).await;
    for (engine, kind, word) in [
        (&consul, StoreKind::Etcd, "no etcd"),
        (&etcd, StoreKind::Consul, "404"),
        (&etcd, StoreKind::ZooKeeper, "ZooKeeper (127.0.0.1"),
    ] {
        let mut authority = Coordinator::of(engine, kind).authority();
        let load = timeout(BOUND, authority.load()).await.expect("bounded");
        let said = load.expect_err("not what was meant").to_string();
        println!("{said}");
        assert!(said.contains(word), "{said}");
        let swap = authority.swap(Version(0), record(1)).await;
        assert!(
            matches!(swap, Swap::Unknown(_) | Swap::Unavailable(_)),
            "{swap:?}"
        );
    }
}

/// 9: what somebody else keeps under our key is never overwritten.
#[tokio::test]
async fn what_is_not_understood_is_never_overwritten() {
    let Some(_turn) = turn(StoreKind::Etcd).await else {
        return;
    };
    let (engine, place) = start(StoreKind::Etcd, 1).await;
    let client = reqwest::Client::new();
    let server = engine.endpoints()[0].clone();
    let key = BASE64.encode(b"/test/pointsman/main/record");
    let ours = serde_json::to_string(&record(1)).expect("json");
    for (text, word) in [
        (String::new(), "empty"),
        ("gibberish".to_owned(), "no record of pointsman"),
        (ours.replace("\"main\"", "\"cache\""), "backend `cache`"),
        (ours.replace("\"format\":1", "\"format\":9"), "newer"),
    ] {
        let value = BASE64.encode(text.as_bytes());
        let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        let put = client.post(format!("http://{server}/v3/kv/put")).body(body);
        assert!(put.send().await.expect("answered").status().is_success());
        let mut authority = place.open();
        let said = authority
            .load()
            .await
            .expect_err("not understood")
            .to_string();
        assert!(said.contains(word), "{said}");
        let swap = authority.swap(Version(0), record(1)).await;
        assert!(matches!(swap, Swap::Unavailable(_)), "{swap:?}");
        assert!(authority.load().await.is_err(), "it is still there");
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

/// Publishers of older and newer epochs race; the newest wins, and only older ones are refused.
async fn kv_contract(kind: StoreKind) {
    let Some(_turn) = turn(kind).await else {
        return;
    };
    let (_engine, place) = start(kind, 1).await;
    let publisher = || KvPublisher::new(place.settings.clone(), Some("redis".into()));
    let mut racers = Vec::new();
    for epoch in 1..=6 {
        let mut publisher = publisher();
        racers.push(tokio::spawn(async move {
            let news = announcement(epoch, &format!("10.0.0.{epoch}:6379"));
            match publisher.publish(news).await {
                Ok(()) => {}
                Err(PublishError::Older(newer)) => assert!(newer > Epoch(epoch)),
                Err(error) => panic!("{error}"),
            }
        }));
    }
    for racer in racers {
        racer.await.expect("published or refused");
    }
    let mut one = publisher();
    let older = one.publish(announcement(5, "10.0.0.5:6379")).await;
    assert!(
        matches!(older, Err(PublishError::Older(Epoch(6)))),
        "{older:?}"
    );
    // The same again is as good as once.
    let same = one.publish(announcement(6, "10.0.0.6:6379")).await;
    same.expect("published already");
    let newer = one.publish(announcement(7, "10.0.0.7:6379")).await;
    newer.expect("published");
    let found = KvReader(&place).value("redis").await;
    assert_eq!(found, "10.0.0.7:6379");
}

/// Reads as an application would.
struct KvReader<'a>(&'a Coordinator);

impl KvReader<'_> {
    async fn value(&self, key: &str) -> String {
        let settings = &self.0.settings;
        let server = &settings.endpoints[0];
        let path = format!("{}/primary/{key}", settings.prefix);
        match settings.kind {
            StoreKind::Etcd => {
                let body = format!(r#"{{"key":"{}"}}"#, BASE64.encode(path.as_bytes()));
                let asked = reqwest::Client::new().post(format!("http://{server}/v3/kv/range"));
                let text = asked.body(body).send().await.expect("asked").text().await;
                let answer: serde_json::Value =
                    serde_json::from_str(&text.expect("text")).expect("json");
                let value = answer.pointer("/kvs/0/value").and_then(|v| v.as_str());
                let bytes = BASE64
                    .decode(value.expect("there").as_bytes())
                    .expect("base64");
                String::from_utf8(bytes).expect("text")
            }
            StoreKind::Consul => {
                let url = format!("http://{server}/v1/kv{path}?raw");
                let answer = reqwest::get(url).await.expect("asked");
                answer.text().await.expect("text")
            }
            StoreKind::ZooKeeper => {
                let client = zookeeper_client::Client::connect(server)
                    .await
                    .expect("there");
                let (value, _) = client.get_data(&path).await.expect("there");
                String::from_utf8(value).expect("text")
            }
        }
    }
}

#[tokio::test]
async fn kv_in_etcd() {
    kv_contract(StoreKind::Etcd).await;
}

#[tokio::test]
async fn kv_in_consul() {
    kv_contract(StoreKind::Consul).await;
}

#[tokio::test]
async fn kv_in_zookeeper() {
    kv_contract(StoreKind::ZooKeeper).await;
}
