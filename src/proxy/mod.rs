//! The data plane: everything between a client's socket and the primary's.
//!
//! ```text
//!   client sockets                                              the primary
//!      |  (a) listener: accept, give to the least loaded worker     ^ |
//!      v                                                            | |
//!   session ---(b) every ready client read, into one scratch buffer | |
//!      |       (c) cut into requests, each scanned once             | |
//!      |       (d) dispatch: which lane? ------------> lane (FIFO and log)
//!      |              shared: (backend, user, db, protocol)    |    | |
//!      |              pinned: the session's own                |(e) | |
//!      |              local:  answered by us                   +----+ |
//!      |                                      one write for all       |
//!      +<--(g) one write a turn <-- (f) replies cut and given out <---+
//! ```
//! One worker is one thread; nothing on this path is locked or shared between workers. Its turn
//! (`turn.rs`) takes all sockets that are ready, (b) to (f), and ends with (e) and (g). A lane
//! outlives its connection: what is unanswered stays in its log, and is sent to the next primary when
//! that is allowed (`lane.rs` has the rules). `session_turn.rs` reads and cuts requests, `dispatch.rs`
//! decides the way of those that are not plain, `replies.rs` is the way back, `lane_task.rs` the life of
//! a connection; `pin.rs` is the state of a pinned one, `tracking.rs` CLIENT TRACKING over two of them,
//! `identity.rs` who a client is, `door.rs` whether it has to say so, `client_command.rs` what it asks
//! about clients. `gathering.rs` decides whether the worker lets its clients run first. `cluster.rs` is what
//! is different where the backend is a cluster, `parts.rs` the order of replies of several shards.

mod client_command;
mod cluster;
mod cluster_command;
mod dial;
mod dispatch;
mod door;
mod entry;
mod gathering;
mod hook;
mod housekeeping;
mod identity;
mod intake;
mod lane;
mod lane_task;
mod listener;
mod parts;
mod pin;
mod queue;
mod redirects;
mod registry;
mod replies;
mod run;
mod scans;
mod scripts;
mod session;
mod session_turn;
mod settings;
mod socket;
mod state_replies;
mod tracking;
mod turn;
mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

pub use listener::Socket;
pub use settings::{BackendSettings, Retry, Settings};

use crate::metrics::WorkerMetrics;
use crate::resp::Credentials;
use crate::topology::{ClusterReader, EvidenceSender, RequestCounts, Timestamp, TopologyReader};

use listener::Acceptor;
use registry::Registry;
use scans::Scans;
use scripts::Scripts;
use worker::Message;

/// Everything the data plane needs; made by `app`.
#[derive(Debug)]
pub struct Plan {
    /// `[proxy]` of the configuration.
    pub settings: Settings,
    /// The backends, in the order the listeners refer to.
    pub backends: Vec<BackendPlan>,
    /// The bound sockets.
    pub listeners: Vec<ListenerPlan>,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendPlan {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Who is primary; of a cluster, who answers what is about no key.
    pub topology: TopologyReader,
    /// Of a cluster: where its slots are.
    pub cluster: Option<ClusterReader>,
    /// Where to tell what was seen.
    pub evidence: EvidenceSender,
    /// pointsman's own credentials, used only to verify a node for clients that may not run INFO.
    pub credentials: Option<Credentials>,
    /// `[backend.NAME.requests]`.
    pub settings: BackendSettings,
}

/// One listener.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Index into [`Plan::backends`].
    pub backend: usize,
    /// Bound, listening and non-blocking.
    pub socket: Socket,
}

/// What all workers share; touched when a client comes or goes, never by a request.
struct Shared {
    registry: Registry,
    clients: Arc<Clients>,
    backends: Vec<Arc<SharedBackend>>,
    /// The shards of clusters, by their backend and number.
    shards: Mutex<HashMap<(usize, u16), Arc<SharedBackend>>>,
}

impl Shared {
    /// A shard of a cluster, the same for all workers.
    fn shard(&self, cluster: usize, number: u16, home: &SharedBackend) -> Arc<SharedBackend> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            Arc::new(SharedBackend {
                scripts: home.scripts.copy(),
                counts: home.counts.clone(),
                paused_until: home.paused_until.clone(),
                ..SharedBackend::default()
            })
        };
        shards.entry((cluster, number)).or_insert_with(made).clone()
    }
}

/// One backend, over all workers.
#[derive(Default)]
struct SharedBackend {
    scripts: Scripts,
    scans: Scans,
    gaps: Gaps,
    counts: Arc<Counts>,
    /// [`Timestamp::as_millis`] until which a client had all others paused (CLIENT PAUSE).
    paused_until: Arc<AtomicU64>,
}

impl SharedBackend {
    /// Whether nothing is written to the primary for the moment.
    fn paused(&self, now: Timestamp) -> bool {
        now.as_millis() <= self.paused_until.load(Ordering::Relaxed)
    }
}

/// Subscribers whose connection was lost and that are not subscribed again yet. Until they are, nothing
/// else is written to the new primary, so that no message passes them by.
#[derive(Default)]
struct Gaps {
    open: AtomicUsize,
    /// Told when the last one is closed.
    closed: Notify,
}

#[derive(Default)]
struct Counts {
    held: AtomicU64,
    replayed: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

/// How many clients each worker has.
struct Clients(Vec<AtomicUsize>);

impl Clients {
    /// One client more on the worker with the fewest; `None` when there are `max` already.
    fn enter(&self, max: usize) -> Option<usize> {
        let counts: Vec<usize> = self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        if counts.iter().sum::<usize>() >= max {
            return None;
        }
        let (worker, _) = counts.iter().enumerate().min_by_key(|(_, count)| **count)?;
        self.0[worker].fetch_add(1, Ordering::Relaxed);
        Some(worker)
    }

    fn left(&self, worker: usize) {
        self.0[worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running data plane.
pub struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Message>>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    drain_timeout: Duration,
}

/// Starts the workers and the acceptors.
///
/// # Errors
/// A thread or its runtime could not be made.
pub fn start(plan: Plan) -> io::Result<Proxy> {
    let count = plan.settings.worker_count();
    let shared = Arc::new(Shared {
        registry: Registry::default(),
        clients: Arc::new(Clients((0..count).map(|_| AtomicUsize::new(0)).collect())),
        backends: plan.backends.iter().map(|_| Arc::default()).collect(),
        shards: Mutex::default(),
    });
    let mut workers = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count + 1);
    for index in 0..count {
        let (sender, receiver) = mpsc::unbounded_channel();
        workers.push(sender.clone());
        let (settings, shared, backends) =
            (plan.settings.clone(), shared.clone(), plan.backends.clone());
        threads.push(
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) =
                        worker::run(index, settings, shared, backends, (sender, receiver))
                    {
                        tracing::error!(%error, worker = index, "a worker could not start");
                    }
                })?,
        );
    }
    let acceptors: Vec<Acceptor> = plan
        .listeners
        .into_iter()
        .map(|listener| Acceptor {
            backend: listener.backend,
            socket: listener.socket,
            max_clients: plan.settings.max_clients,
            shared: shared.clone(),
            workers: workers.clone(),
            metrics: WorkerMetrics::new(&plan.backends[listener.backend].name),
        })
        .collect();
    let (stop, stopped) = watch::channel(false);
    threads.push(
        thread::Builder::new()
            .name("accept".into())
            .spawn(move || {
                if let Err(error) = listener::run(acceptors, stopped) {
                    tracing::error!(%error, "the acceptor could not start");
                }
            })?,
    );
    Ok(Proxy {
        shared,
        workers,
        stop,
        threads,
        drain_timeout: plan.settings.drain_timeout,
    })
}

impl Proxy {
    /// What became of requests so far, over all workers; only grows.
    pub fn counts(&self, backend: usize) -> RequestCounts {
        self.counter(backend)()
    }

    /// [`Proxy::counts`] as a function that outlives the borrow.
    pub fn counter(
        &self,
        backend: usize,
    ) -> impl Fn() -> RequestCounts + Send + Sync + 'static + use<> {
        let backend = self.shared.backends[backend].clone();
        move || {
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let Counts {
                held,
                replayed,
                refused,
                unknown,
            } = &*backend.counts;
            RequestCounts {
                held: get(held),
                replayed: get(replayed),
                refused: get(refused),
                unknown: get(unknown),
            }
        }
    }

    /// Open client connections.
    pub fn clients(&self) -> usize {
        self.shared.registry.len()
    }

    /// Accepts no more clients, answers what is on its way, and ends; bounded by
    /// [`Settings::drain_timeout`]. Returns how many clients were cut off by the bound.
    pub async fn drain(self) -> usize {
        self.stop.send_replace(true);
        for worker in &self.workers {
            // A worker that ended has nothing to drain.
            let _ = worker.send(Message::Drain);
        }
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was reported where it happened.
                let _ = thread.join();
            }
        });
        match tokio::time::timeout(self.drain_timeout, joined).await {
            Ok(_) => 0,
            Err(_) => self.shared.registry.len(),
        }
    }
}
