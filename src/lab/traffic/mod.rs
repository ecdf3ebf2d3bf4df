//! Ordinary clients of every kind, each with one connection for the whole run.
//!
//! A dropped connection ends its client: ordinary applications would connect again, but the promise
//! is that they need not. For comparison there are clients that do ([`TrafficOptions::finder`]).

mod driver;
mod kinds;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::client::{Address, Client, Protocol};
use super::history::{ClientHistory, History, Kind, Last};
use super::value::Value;
use super::{Finder, LabError, until};
use crate::clock;
pub use driver::LiveKind;
use driver::{Driver, Log, locked};
use kinds::Place;

/// How long clients may take to end after they were asked to.
const END: Duration = Duration::from_secs(12);

/// Keys of one MGET when the last state is read.
const CHUNK: usize = 1000;

/// Which clients to start.
#[derive(Clone, Debug)]
pub struct TrafficOptions {
    /// Where they connect to.
    pub address: Address,
    /// How they find the primary by themselves, at first and whenever they lost it; `None`: they connect
    /// to `address` and never again.
    pub finder: Option<Finder>,
    /// What they log in with.
    pub password: Option<String>,
    /// What they speak.
    pub protocol: Protocol,
    /// How many of each kind. A popper needs a pusher, a subscriber a publisher.
    pub clients: Vec<(Kind, usize)>,
    /// Time each client waits between two operations; zero for none.
    pub pace: Duration,
    /// How many keys a setter or a reader uses.
    pub ring: usize,
    /// How many requests a pipelined client writes at once.
    pub depth: usize,
}

impl TrafficOptions {
    /// One client of every kind, two watchers, as fast as they can.
    pub fn every_kind(address: Address) -> Self {
        let count = |kind| if kind == Kind::Watcher { 2 } else { 1 };
        TrafficOptions {
            address,
            finder: None,
            password: None,
            protocol: Protocol::Resp2,
            clients: Kind::ALL.iter().map(|kind| (*kind, count(*kind))).collect(),
            pace: Duration::ZERO,
            ring: 4096,
            depth: 16,
        }
    }

    /// `count` clients of one kind, as fast as they can.
    pub fn only(address: Address, kind: Kind, count: usize) -> Self {
        TrafficOptions {
            clients: vec![(kind, count)],
            ..TrafficOptions::every_kind(address)
        }
    }
}

struct Running {
    kind: Kind,
    group: usize,
    place: Place,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

/// Clients at work. Dropping it ends them.
pub struct Traffic {
    clients: Vec<Running>,
    live: BTreeMap<Kind, Arc<LiveKind>>,
    stop: Arc<AtomicBool>,
}

impl Traffic {
    /// Connects every client, prepares what they need, then lets all of them go at once.
    pub async fn start(options: TrafficOptions) -> Result<Traffic, LabError> {
        static RUN: AtomicU64 = AtomicU64::new(1);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let mut traffic = Traffic {
            clients: Vec::new(),
            live: BTreeMap::new(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let mut ready = Vec::new();
        for (kind, count) in &options.clients {
            let live = traffic.live.entry(*kind).or_default().clone();
            for number in 0..*count {
                let group = if *kind == Kind::Watcher { 0 } else { number };
                let place = options.place(run, *kind, number, group);
                let what = format!("connect a client for {}", kind.name());
                let opened = match &options.finder {
                    Some(finder) => finder.find().await,
                    None => {
                        let password = options.password.as_deref();
                        Client::open(&options.address, options.protocol, password).await
                    }
                };
                let mut driver = Driver {
                    client: opened.map_err(LabError::client(what.clone()))?,
                    finder: options.finder.clone(),
                    live: live.clone(),
                    log: Arc::default(),
                    stop: traffic.stop.clone(),
                    pace: options.pace,
                    connected: true,
                };
                let prepared = kinds::prepare(*kind, &mut driver, &place).await;
                prepared.map_err(LabError::client(what))?;
                ready.push((*kind, group, place, driver));
            }
        }
        for (kind, group, place, driver) in ready {
            let log = driver.log.clone();
            let task = tokio::spawn(kinds::run(kind, driver, place.clone()));
            traffic.clients.push(Running {
                kind,
                group,
                place,
                log,
                task,
            });
        }
        Ok(traffic)
    }

    /// Counters of each kind that takes part.
    pub fn live(&self) -> &BTreeMap<Kind, Arc<LiveKind>> {
        &self.live
    }

    /// Operations of one kind acknowledged since the start.
    pub fn acknowledged(&self, kind: Kind) -> u64 {
        let live = self.live.get(&kind);
        live.map_or(0, |live| live.acknowledged.load(Ordering::Relaxed))
    }

    /// Waits until every kind has had `more` further operations acknowledged.
    pub async fn progress(&self, more: u64, limit: Duration) -> Result<(), LabError> {
        let load = |live: &LiveKind| live.acknowledged.load(Ordering::Relaxed);
        let due: Vec<(Kind, u64)> = self
            .live
            .iter()
            .map(|(kind, live)| (*kind, load(live) + more))
            .collect();
        until("progress of every kind of client", limit, async || {
            let late = due
                .iter()
                .filter(|(kind, due)| load(&self.live[kind]) < *due);
            let late: Vec<String> = late
                .map(|(kind, due)| {
                    let live = &self.live[kind];
                    let missing = due - load(live);
                    let errors = live.errors.load(Ordering::Relaxed);
                    let last = live.last_failure.lock().map(|text| text.clone());
                    let last = last.unwrap_or_default();
                    format!(
                        "{} ({missing} missing, {errors} errors {last})",
                        kind.name()
                    )
                })
                .collect();
            match late.is_empty() {
                true => Ok(()),
                false => Err(format!("no progress of {}", late.join(", "))),
            }
        })
        .await
    }

    /// Ends the run: every client finishes the operation it is in, poppers and subscribers what is
    /// still to come, and `primary` (a connection to the node that is primary now) tells what the
    /// clients' keys hold.
    pub async fn stop(mut self, primary: &mut Client) -> Result<History, LabError> {
        self.stop.store(true, Ordering::Relaxed);
        let read = LabError::client("read the last state");
        let waits = |running: &&mut Running| running.kind.waits_for_others();
        for running in self.clients.iter_mut().filter(|r| !waits(r)) {
            let _ = tokio::time::timeout(END, &mut running.task).await;
        }
        let mut history = History::default();
        let result = async {
            for running in self.clients.iter_mut().filter(waits) {
                let word = if running.kind == Kind::Popper {
                    "RPUSH"
                } else {
                    "PUBLISH"
                };
                primary
                    .call(&[word, &running.place.shared, kinds::END])
                    .await?;
                let _ = tokio::time::timeout(END, &mut running.task).await;
            }
            for running in &self.clients {
                running.task.abort();
                let operations = locked(&running.log).finish(clock::now());
                history.clients.push(ClientHistory {
                    kind: running.kind,
                    group: running.group,
                    operations,
                    last: last_state(running.kind, &running.place, primary).await?,
                });
            }
            Ok(())
        };
        result.await.map_err(read)?;
        Ok(history)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for running in &self.clients {
            running.task.abort();
        }
    }
}

impl TrafficOptions {
    fn place(&self, run: u64, kind: Kind, number: usize, group: usize) -> Place {
        let shared = match kind {
            Kind::Pusher | Kind::Popper => "queue",
            Kind::Publisher | Kind::Subscriber => "channel",
            _ => "shared",
        };
        let process = std::process::id();
        Place {
            own: format!("lab:{process}:{run}:{kind:?}:{number}").to_lowercase(),
            shared: format!("lab:{process}:{run}:{shared}:{group}"),
            ring: if kind == Kind::Reader {
                self.ring.min(64)
            } else {
                self.ring
            },
            depth: self.depth,
        }
    }
}

async fn last_state(
    kind: Kind,
    place: &Place,
    primary: &mut Client,
) -> Result<Last, super::ClientError> {
    Ok(match kind {
        Kind::Counter | Kind::Script | Kind::Pipeline => {
            Last::Number(get(primary, &place.counter()).await?)
        }
        Kind::Watcher => Last::Number(get(primary, &place.shared).await?),
        Kind::Transaction => {
            let [a, b] = place.pair();
            Last::Pair(get(primary, &a).await?, get(primary, &b).await?)
        }
        Kind::Setter => Last::Ring(ring(primary, place).await?),
        Kind::Appender => Last::List(list(primary, &place.list()).await?),
        Kind::Popper => Last::List(list(primary, &place.shared).await?),
        Kind::Reader | Kind::Pusher | Kind::Publisher | Kind::Subscriber => Last::None,
    })
}

fn natural(value: &Value) -> Option<u64> {
    value.number().and_then(|number| u64::try_from(number).ok())
}

async fn get(primary: &mut Client, key: &str) -> Result<u64, super::ClientError> {
    Ok(natural(&primary.call(&["GET", key]).await?).unwrap_or(0))
}

async fn ring(primary: &mut Client, place: &Place) -> Result<Vec<Option<u64>>, super::ClientError> {
    let mut ring = Vec::with_capacity(place.ring);
    for from in (0..place.ring).step_by(CHUNK) {
        let mut request = vec!["MGET".to_owned()];
        request.extend((from..place.ring.min(from + CHUNK)).map(|slot| place.slot(slot)));
        let reply = primary.call(&request).await?;
        ring.extend(reply.items().unwrap_or_default().iter().map(natural));
    }
    Ok(ring)
}

/// The list without the mark that told a popper to end.
async fn list(primary: &mut Client, key: &str) -> Result<Vec<u64>, super::ClientError> {
    let reply = primary.call(&["LRANGE", key, "0", "-1"]).await?;
    Ok(reply
        .items()
        .unwrap_or_default()
        .iter()
        .filter_map(natural)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Cluster, ClusterOptions, ErrorClass, judge};
    use super::*;

    async fn one_node() -> Cluster {
        let options = ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        };
        Cluster::start(options).await.unwrap()
    }

    #[tokio::test]
    async fn every_kind_of_client_is_clean_on_a_healthy_server() {
        let cluster = one_node().await;
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let options = TrafficOptions {
                protocol,
                ..TrafficOptions::every_kind(cluster.node(0).address())
            };
            let traffic = Traffic::start(options).await.unwrap();
            traffic
                .progress(200, Duration::from_secs(10))
                .await
                .unwrap();
            let mut primary = cluster.node(0).client().await.unwrap();
            let verdict = judge(&traffic.stop(&mut primary).await.unwrap());
            let total = verdict.total();
            assert_eq!(verdict.kinds.len(), Kind::ALL.len());
            let clean = (total.all_errors(), total.lost, total.broken(), total.gaps);
            assert_eq!(clean, (0, 0, 0, 0), "{verdict}");
        }
    }

    #[tokio::test]
    async fn without_a_proxy_a_killed_server_is_seen_by_everybody() {
        let cluster = one_node().await;
        let options = TrafficOptions::every_kind(cluster.node(0).address());
        let traffic = Traffic::start(options).await.unwrap();
        traffic.progress(50, Duration::from_secs(10)).await.unwrap();
        let node = cluster.node(0);
        node.restart(super::super::Data::Empty).await.unwrap();
        let mut primary = node.client().await.unwrap();
        let verdict = judge(&traffic.stop(&mut primary).await.unwrap());
        for (kind, tally) in &verdict.kinds {
            assert!(
                tally.errors_of(ErrorClass::Closed) > 0,
                "{kind:?} {verdict}"
            );
        }
        assert!(verdict.of(Kind::Counter).lost >= 50, "{verdict}");
        assert!(verdict.of(Kind::Setter).lost >= 50, "{verdict}");
        assert!(verdict.of(Kind::Appender).lost >= 50, "{verdict}");
    }
}
