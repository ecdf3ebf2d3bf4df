//! The contract of `control::authority` where several monitors share a record, on the real
//! coordinators.

use std::sync::Arc;
use std::time::Duration;

use pointsman::control::authority::{Authority, SharedAuthority, Swap};
use pointsman::control::{StoreKind, StoreSettings};
use pointsman::failover::{Opinion, Version};
use pointsman::lab::{Engine, until};
use pointsman::topology::Epoch;
use tokio::time::timeout;

use super::authority::{Place, contract, record, stores, version_of};

const SOON: Duration = Duration::from_secs(30);

/// What a request may take, and some for a busy machine.
const BOUND: Duration = Duration::from_secs(3);

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
                timeout: Duration::from_secs(1),
                credentials: None,
                tls: None,
            },
            backend: "main".into(),
        }
    }

    fn authority(&self) -> Box<dyn Authority> {
        Box::new(SharedAuthority::new(&self.settings, self.backend.clone()).expect("opened"))
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

impl Place for Coordinator {
    fn open(&self) -> Box<dyn Authority> {
        self.authority()
    }
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

async fn shared_contract(kind: StoreKind) {
    let (_engine, place) = start(kind, 1).await;
    contract(&place).await;

    // 7: a change by somebody else is told.
    let (mut one, mut other) = (place.open(), place.open());
    one.load().await.expect("readable");
    let version = stores(&mut other, 5).await;
    sees(&mut one, version).await;

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
    let (mut engine, place) = start(kind, 1).await;
    let mut authority = place.usable().await;
    let version = stores(&mut authority, 1).await;

    engine.stop(0);
    let load = timeout(BOUND, authority.load()).await.expect("bounded");
    let said = load.expect_err("it stands still").to_string();
    assert!(said.contains("127.0.0.1"), "{said}");
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
        match loaded.record == Some(record(3)) && loaded.version == version {
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

/// Of three servers any one may go, also the leader: whoever it is, somebody answers.
async fn one_of_three(kind: StoreKind) {
    let (mut engine, place) = start(kind, 3).await;
    let mut authority = place.usable().await;
    let mut version = stores(&mut authority, 1).await;
    for member in 0..3 {
        engine.kill(member);
        let next = record(2 + member as u64);
        let swap = async || match authority.swap(version, next.clone()).await {
            Swap::Done(stored) => Ok(stored),
            // It may have been done before its server died.
            Swap::Lost(stored) if stored.record.as_ref() == Some(&next) => Ok(stored.version),
            other => Err(format!("{other:?}")),
        };
        version = until("a swap", SOON, swap)
            .await
            .expect("two of three are enough");
        engine.restart(member).await.expect("restarted");
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
