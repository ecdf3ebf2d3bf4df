//! Starts and stops the control plane of all backends: one thread, one runtime, one driver each.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, EmbeddedAuthority, FollowAuthority, StateError};
use super::cluster::{self, Follower};
use super::driver::{Driver, State};
use super::failpoint::Failpoint;
use super::gauges::Gauges;
use super::handle::ControlHandle;
use super::node::Access;
use super::publisher::{HookPublisher, Publisher};
use super::reports::{Reports, RequestCounter};
use super::source::{Source, StaticSource};
use super::staff::{Common, Staff};
use crate::failover::{self, Machine, Policy};
use crate::resp::Credentials;
use crate::topology::{ClusterWriter, EvidenceReceiver, NodeId, RequestCounts, TopologyWriter};

/// Questions that wait for a driver.
const QUESTIONS: usize = 64;

/// What who asks for a switchover of a cluster is told.
const CLUSTER_DECIDES: &str = "the cluster decides who is primary: send CLUSTER FAILOVER to the replica that is to be promoted";

/// How the connections of a monitor that may decide are named.
const MONITOR_MARK: &str = "pointsman-monitor:";

/// How the connections of one that only follows are named: it disturbs nobody.
const FOLLOWER_MARK: &str = "pointsman-follower:";

/// Everything one backend's control plane needs.
pub struct BackendControl {
    /// Its name.
    pub backend: Arc<str>,
    /// Names this process in records and marks: unique, without spaces.
    pub monitor: Arc<str>,
    /// Where its nodes are learned.
    pub source: SourceSettings,
    /// With what pointsman logs in to them.
    pub credentials: Option<Credentials>,
    /// Detection and failover.
    pub policy: Policy,
    /// Who decides.
    pub authority: AuthoritySettings,
    /// Whom to tell.
    pub publishers: Vec<PublisherSettings>,
    /// Where the snapshot goes.
    pub topology: TopologyWriter,
    /// Where that of a cluster goes.
    pub cluster: Option<ClusterParts>,
    /// What the data plane sees.
    pub evidence: EvidenceReceiver,
    /// The data plane's counters since the start of the process.
    pub requests: Box<dyn Fn() -> RequestCounts + Send + Sync>,
}

/// What a cluster needs besides.
#[derive(Debug)]
pub struct ClusterParts {
    /// Where its slots are.
    pub map: ClusterWriter,
    /// How many workers read the topologies of its shards.
    pub workers: usize,
}

/// Where nodes are learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// A Redis Cluster, of which these nodes are asked first. Its authority is the cluster.
    Cluster {
        /// At least one, no duplicates.
        nodes: Vec<NodeId>,
    },
    /// The nodes are these.
    Static {
        /// In the operator's order; at least one, no duplicates.
        nodes: Vec<NodeId>,
    },
}

/// Who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthoritySettings {
    /// The Redis Cluster that is the source.
    Cluster,
    /// This monitor, with a record in this file.
    Embedded {
        /// The file; its directory exists.
        state: PathBuf,
    },
    /// Somebody else.
    Follow,
}

/// Whom to tell about a new primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherSettings {
    /// A program, see [`HookPublisher`].
    Hook {
        /// The program.
        program: PathBuf,
        /// It is killed when it runs longer.
        timeout: Duration,
    },
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A record that no waiting can mend.
    #[error("backend `{backend}`: {source}")]
    State {
        /// Name of the backend.
        backend: Arc<str>,
        /// What is wrong with its file.
        source: StateError,
    },
    /// The thread or its runtime could not be made.
    #[error("the control plane can not start: {0}")]
    Io(#[from] io::Error),
}

/// The running control plane.
pub struct Control {
    handles: Vec<ControlHandle>,
    stop: CancellationToken,
    stopped: oneshot::Receiver<()>,
}

impl Control {
    /// Starts a thread with a driver for each backend. Nodes that are down, a record that another
    /// process holds and a full disk are no errors: the drivers wait, and their status says for
    /// what.
    ///
    /// # Errors
    /// A state file that can not be understood, or no thread.
    pub fn start(backends: Vec<BackendControl>) -> Result<Control, StartError> {
        let mut handles = Vec::new();
        let mut prepared = Vec::new();
        for backend in backends {
            let authority = backend.open_authority()?;
            let (questions, questions_end) = mpsc::channel(QUESTIONS);
            let reports = Reports::default();
            handles.push(ControlHandle {
                backend: backend.backend.clone(),
                questions,
                reports: reports.clone(),
                refuses: backend.cluster.is_some().then_some(CLUSTER_DECIDES),
            });
            prepared.push((backend, authority, questions_end, reports));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (done, stopped) = oneshot::channel();
        let token = stop.clone();
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let mut drivers = JoinSet::new();
                    for (backend, authority, questions, reports) in prepared {
                        drivers.spawn(backend.drive(authority, questions, reports, token.clone()));
                    }
                    while let Some(ended) = drivers.join_next().await {
                        if let Err(error) = ended {
                            tracing::error!(%error, "a backend's control plane has ended by itself");
                        }
                    }
                });
                // The runtime is gone with every task: connections closed, locks released.
                drop(runtime);
                let _ = done.send(());
            })?;
        Ok(Control {
            handles,
            stop,
            stopped,
        })
    }

    /// In the order in which the backends were given.
    pub fn handles(&self) -> &[ControlHandle] {
        &self.handles
    }

    /// Closes every connection and releases every lock. Traffic that the data plane carries goes
    /// on; nothing is decided any more.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // An error means that the thread has ended already.
        let _ = (&mut self.stopped).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl BackendControl {
    fn open_authority(&self) -> Result<Box<dyn Authority>, StartError> {
        match &self.authority {
            AuthoritySettings::Follow | AuthoritySettings::Cluster => Ok(Box::new(FollowAuthority)),
            AuthoritySettings::Embedded { state } => {
                let embedded = EmbeddedAuthority::new(state, self.backend.clone());
                match embedded.check() {
                    Err(source) if !source.is_temporary() => Err(StartError::State {
                        backend: self.backend.clone(),
                        source,
                    }),
                    _ => Ok(Box::new(embedded)),
                }
            }
        }
    }

    async fn drive(
        self,
        authority: Box<dyn Authority>,
        questions: mpsc::Receiver<super::handle::Question>,
        reports: Reports,
        stop: CancellationToken,
    ) {
        if let (Some(parts), SourceSettings::Cluster { nodes }) = (self.cluster, &self.source) {
            let access = Access {
                node: NodeId::new(""),
                credentials: self.credentials,
                mark: format!("{FOLLOWER_MARK}{}", self.monitor).into(),
                unacked_after: self.policy.unacked_after,
            };
            let follower = Follower {
                backend: self.backend,
                seeds: nodes.clone(),
                access,
                workers: parts.workers,
                home: self.topology,
                map: parts.map,
                evidence: self.evidence,
                questions,
            };
            return cluster::follow(follower, stop).await;
        }
        let rule = self.authority.rule();
        let decides = rule != failover::Authority::Follows;
        let prefix = if decides { MONITOR_MARK } else { FOLLOWER_MARK };
        let common = Common {
            credentials: self.credentials,
            policy: self.policy.clone(),
            mark: format!("{prefix}{}", self.monitor).into(),
            mark_prefix: decides.then(|| MONITOR_MARK.into()),
        };
        let publishers = self.publishers.into_iter().map(PublisherSettings::open);
        let (staff, inbox) = Staff::new(common, authority, publishers.collect());
        let machine = Machine::new(
            self.backend.clone(),
            self.monitor,
            self.source.known(),
            self.policy,
            rule,
        );
        let counter: RequestCounter = Arc::from(self.requests);
        let driver = Driver {
            gauges: Gauges::new(&self.backend),
            backend: self.backend,
            machine,
            staff,
            topology: Arc::new(self.topology),
            evidence: self.evidence,
            source: self.source.open(),
            reports,
            state: State::new(counter()),
            counter,
            questions,
            failpoint: Failpoint::from_environment(),
        };
        driver.run(inbox, stop).await;
    }
}

impl SourceSettings {
    /// The nodes that are known before anybody was asked.
    fn known(&self) -> Vec<NodeId> {
        match self {
            SourceSettings::Static { nodes } | SourceSettings::Cluster { nodes } => nodes.clone(),
        }
    }

    fn open(self) -> Box<dyn Source> {
        match self {
            SourceSettings::Static { nodes } | SourceSettings::Cluster { nodes } => {
                Box::new(StaticSource::new(nodes))
            }
        }
    }
}

impl AuthoritySettings {
    /// As the configuration calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            AuthoritySettings::Cluster => "cluster",
            AuthoritySettings::Embedded { .. } => "embedded",
            AuthoritySettings::Follow => "follow",
        }
    }

    fn rule(&self) -> failover::Authority {
        match self {
            AuthoritySettings::Embedded { .. } => failover::Authority::Decides,
            AuthoritySettings::Cluster | AuthoritySettings::Follow => failover::Authority::Follows,
        }
    }
}

impl PublisherSettings {
    fn open(self) -> Box<dyn Publisher> {
        match self {
            PublisherSettings::Hook { program, timeout } => {
                Box::new(HookPublisher::new(program, timeout))
            }
        }
    }
}
