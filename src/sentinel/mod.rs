//! Answers the questions that clients ask Sentinel: who is primary, which replicas are there, and a
//! message the moment that changes. For clients that know Sentinel and do not connect through us.
//!
//! It reads the published topology and asks the control plane through [`Operator`], as the admin
//! server does. It never votes and monitors nothing itself.
//!
//! ```text
//! server    accepts, bounds connections, writes
//! session   one client: its requests, login, subscriptions
//! command   SENTINEL ...: one function for each question
//! instance  a node as Sentinel describes one: flags and fields
//! news      what subscribers are told
//! glob      patterns of PSUBSCRIBE
//! ```

mod command;
mod glob;
mod instance;
mod news;
mod server;
mod session;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sha1::{Digest, Sha1};
use tokio::sync::{Mutex, broadcast};

pub use news::Message;
pub use server::serve;
pub use session::{Session, Step};
pub use settings::{Answer, SentinelSettings};

use crate::admin::Operator;
use crate::clock;
use crate::failover::Status;
use crate::topology::{Notice, Primary, Timestamp, TopologyReader};

/// Messages that wait for one subscriber; one that is further behind is disconnected.
const NEWS_CAPACITY: usize = 1024;

/// What the control plane said is good for this long, unless something is published: however many ask,
/// it has other work than to answer them.
const STATUS_AGE: Duration = Duration::from_millis(100);

/// The control plane answers a question in microseconds; this bounds a sick one.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// One backend: what Sentinel calls a master name.
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// What is published.
    pub topology: TopologyReader,
    /// Its control plane.
    pub operator: Arc<dyn Operator>,
    /// What its control plane says while it works; taken up from the present when serving begins.
    pub notices: broadcast::Receiver<Notice>,
    /// Its first TCP listener, as it was bound: what [`Answer::Proxy`] hands out.
    pub listener: Option<SocketAddr>,
    /// Without an answer for this long a node counts as down.
    pub down_after: Duration,
    /// A switchover that takes longer is answered before it has ended.
    pub switchover_timeout: Duration,
    /// Replicas that may do a full resync at the same time.
    pub parallel_syncs: u32,
}

/// Everything that sessions read.
pub struct Sentinel {
    settings: SentinelSettings,
    /// In the order of the configuration.
    backends: Vec<Backend>,
    /// The last primary of each that was published; written by who tells the news.
    before: Vec<ArcSwapOption<Primary>>,
    /// What the control plane of each said last. Who asks it holds the lock meanwhile.
    said: Vec<Mutex<Option<Said>>>,
    /// 40 hexadecimal digits, as a run id.
    id: String,
    started: Timestamp,
    news: broadcast::Sender<Arc<Message>>,
    clients: AtomicU64,
}

impl Sentinel {
    /// `monitor` names this process uniquely.
    pub fn new(settings: SentinelSettings, monitor: &str, backends: Vec<Backend>) -> Sentinel {
        let digest = Sha1::digest(monitor);
        Sentinel {
            settings,
            before: backends.iter().map(|_| ArcSwapOption::empty()).collect(),
            said: backends.iter().map(|_| Mutex::default()).collect(),
            backends,
            id: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            started: clock::now(),
            news: broadcast::channel(NEWS_CAPACITY).0,
            clients: AtomicU64::new(0),
        }
    }

    /// What subscribers are told from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<Message>> {
        self.news.subscribe()
    }

    fn index(&self, name: &[u8]) -> Option<usize> {
        self.backends.iter().position(|b| b.name.as_bytes() == name)
    }

    /// What the control plane says now, or said a moment ago.
    async fn status(&self, index: usize) -> Option<Arc<Status>> {
        let mut said = self.said[index].lock().await;
        let generation = self.backends[index].topology.current().generation;
        let good = |said: &&Said| {
            said.generation == generation && clock::now().since(said.at) < STATUS_AGE
        };
        if let Some(said) = said.as_ref().filter(good) {
            return said.status.clone();
        }
        said.insert(self.asked(index).await).status.clone()
    }

    /// What the control plane says now.
    async fn status_now(&self, index: usize) -> Option<Arc<Status>> {
        let mut said = self.said[index].lock().await;
        said.insert(self.asked(index).await).status.clone()
    }

    async fn asked(&self, index: usize) -> Said {
        let backend = &self.backends[index];
        Said {
            // Before the question, so that a publication meanwhile leads to another one.
            generation: backend.topology.current().generation,
            status: backend.status().await.map(Arc::new),
            at: clock::now(),
        }
    }

    fn next_client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What a control plane said, and when.
struct Said {
    generation: u64,
    at: Timestamp,
    status: Option<Arc<Status>>,
}

impl Backend {
    async fn status(&self) -> Option<Status> {
        let answer = tokio::time::timeout(STATUS_TIMEOUT, self.operator.status()).await;
        answer.ok().flatten()
    }
}
