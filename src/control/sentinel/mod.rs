//! Redis Sentinel: which sentinels there are, what each says, and a failover when the operator wants
//! one. It concludes nothing; `failover/led` does.
//!
//! ```text
//!   watch   two connections to each sentinel: questions, announcements ─┐
//!   reply   what replies and announcements mean                        │ reports
//!   crew    which sentinels are watched, which nodes they name  <──────┘
//!              │ events for the core            │ the set of nodes
//!              v                                v
//!           driver                         SentinelSource
//! ```

mod crew;
mod reply;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as newest};
use tokio::task::JoinSet;

use super::authority::Boxed;
use super::source::Source;
use crate::failover::{Event, OpId};
use crate::resp::Credentials;
use crate::topology::NodeId;
use crew::{Crew, Errand};

/// Events that wait for the driver; it empties this queue all the time.
const TOLD: usize = 1024;

/// Errands that wait for the crew.
const ERRANDS: usize = 64;

/// Where Sentinel is, and what it calls the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// The master name.
    pub master: Arc<str>,
    /// In the operator's order; at least one, no duplicates.
    pub sentinels: Vec<ListedSentinel>,
    /// With what pointsman logs in to sentinels that it learns of.
    pub credentials: Option<Credentials>,
}

/// A sentinel of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSentinel {
    /// Its address; a name is resolved at every connect.
    pub address: NodeId,
    /// With what pointsman logs in to it.
    pub credentials: Option<Credentials>,
}

/// How connections to sentinels are made.
#[derive(Clone, Debug)]
pub struct SentinelAccess {
    /// Name of our connections.
    pub mark: Arc<str>,
    /// See [`super::Access::unacked_after`].
    pub unacked_after: Duration,
}

/// Everything that one backend has from its sentinels.
pub struct Sentinels {
    /// The nodes that they name.
    pub source: SentinelSource,
    /// What may be asked of them.
    pub desk: SentinelDesk,
    /// What they say.
    pub told: mpsc::Receiver<Event>,
}

impl Sentinels {
    /// Begins to ask and to listen; must be called in a runtime. Everything ends when the source is
    /// dropped.
    pub fn open(settings: SentinelSettings, access: SentinelAccess) -> Sentinels {
        let (told_in, told) = mpsc::channel(TOLD);
        let (errands_in, errands) = mpsc::channel(ERRANDS);
        let (nodes_in, nodes) = newest::channel(Vec::new());
        let mut task = JoinSet::new();
        task.spawn(Crew::new(settings, access, told_in, nodes_in).run(errands));
        Sentinels {
            source: SentinelSource { nodes, _task: task },
            desk: SentinelDesk(errands_in),
            told,
        }
    }
}

/// The nodes that the sentinels name: every primary and replica, in the order in which they were first
/// named.
#[derive(Debug)]
pub struct SentinelSource {
    nodes: newest::Receiver<Vec<NodeId>>,
    /// The crew.
    _task: JoinSet<()>,
}

impl Source for SentinelSource {
    fn next(&mut self) -> Boxed<'_, Vec<NodeId>> {
        Box::pin(async {
            loop {
                if self.nodes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let nodes = self.nodes.borrow_and_update().clone();
                if !nodes.is_empty() {
                    return nodes;
                }
            }
        })
    }
}

/// Asks the sentinels.
#[derive(Clone, Debug)]
pub struct SentinelDesk(mpsc::Sender<Errand>);

impl SentinelDesk {
    /// Asks all of them now instead of at their next turn. Never waits; one call that is pending is
    /// enough.
    pub fn consult(&self) {
        let _ = self.0.try_send(Errand::Consult);
    }

    /// `SENTINEL FAILOVER`; answered by [`Event::FailoverAsked`]. `false` when too much waits.
    pub fn failover(&self, op: OpId, sentinel: NodeId, timeout: Duration) -> bool {
        let errand = Errand::Failover {
            op,
            sentinel,
            timeout,
        };
        self.0.try_send(errand).is_ok()
    }
}
