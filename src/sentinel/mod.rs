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
use tokio::sync::broadcast;

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

    fn next_client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Backend {
    async fn status(&self) -> Option<Status> {
        let answer = tokio::time::timeout(STATUS_TIMEOUT, self.operator.status()).await;
        answer.ok().flatten()
    }
}
