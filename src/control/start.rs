//! Starts and stops the control plane of all backends: one thread, one runtime, one driver each.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::authority::{
    Authority, AuthorityError, EmbeddedAuthority, FollowAuthority, Roster, SharedAuthority,
    SharedRoster, StateError,
};
use super::cluster::{self, Follower};
use super::driver::{Driver, State};
use super::failpoint::Failpoint;
use super::gauges::Gauges;
use super::handle::ControlHandle;
use super::node::Access;
use super::publisher::{
    DnsUpdatePublisher, DnsUpdateSettings, HookPublisher, KvPublisher, Publisher,
};
use super::reports::{Reports, RequestCounter};
use super::sentinel::{SentinelAccess, SentinelDesk, SentinelSettings, Sentinels};
use super::source::{DnsSettings, DnsSource, RecordSource, Source, StaticSource};
use super::staff::{Common, Staff};
use super::store::StoreSettings;
use crate::failover::{self, Event, Machine, Panel, Policy};
use crate::resp::Credentials;
use crate::topology::{
    ClusterWriter, EvidenceReceiver, NodeId, Notice, RequestCounts, TopologyWriter,
};

/// Questions that wait for a driver.
const QUESTIONS: usize = 64;

/// Notices that a listener may be behind.
const NOTICES: usize = 256;

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
    /// The nodes are those that names stand for, see [`DnsSource`].
    Dns(DnsSettings),
    /// Those that Sentinel names.
    Sentinel(SentinelSettings),
    /// The nodes are these.
    Static {
        /// In the operator's order; at least one, no duplicates.
        nodes: Vec<NodeId>,
    },
    /// The record that the authority keeps names them.
    Record,
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
    /// Sentinel, which is the source too.
    Sentinel,
    /// This monitor and others, with a record in a coordinator.
    Shared(Box<SharedSettings>),
}

/// How several pointsman share a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSettings {
    /// Where it is.
    pub store: StoreSettings,
    /// What this one does.
    pub role: Role,
    /// The failure domain it runs in; those of one domain count once.
    pub domain: Arc<str>,
    /// Failure domains that have a monitor; more than half must see a primary as lost.
    pub monitors: u32,
    /// How long requests may be forwarded without having confirmed the record; `None`: without end.
    pub view_lease: Option<Duration>,
}

/// What a pointsman does where several share a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides and carries requests.
    Both,
    /// It decides.
    Monitor,
    /// It carries requests, goes where the record says, and asks no node anything.
    Proxy,
}

/// Whom to tell about a new primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherSettings {
    /// A name in a zone, see [`DnsUpdatePublisher`].
    DnsUpdate(Box<DnsUpdateSettings>),
    /// A program, see [`HookPublisher`].
    Hook {
        /// The program.
        program: PathBuf,
        /// It is killed when it runs longer.
        timeout: Duration,
    },
    /// A plain key in a coordinator, see [`KvPublisher`].
    Kv {
        /// The coordinator.
        store: StoreSettings,
        /// `None`: the backend's name.
        key: Option<Arc<str>>,
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
    /// The authority can not be opened, and no waiting would help.
    #[error("backend `{backend}`: {source}")]
    Authority {
        /// Name of the backend.
        backend: Arc<str>,
        /// What is wrong with its settings.
        source: AuthorityError,
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
            let authority = (backend.open_authority()?, backend.open_roster()?);
            let (questions, questions_end) = mpsc::channel(QUESTIONS);
            let handle = ControlHandle {
                backend: backend.backend.clone(),
                questions,
                reports: Reports::default(),
                refuses: backend.cluster.is_some().then_some(CLUSTER_DECIDES),
                notices: broadcast::channel(NOTICES).0,
            };
            let (reports, notices) = (handle.reports.clone(), handle.notices.clone());
            handles.push(handle);
            prepared.push((backend, authority, questions_end, reports, notices));
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
                    for (backend, authority, questions, reports, notices) in prepared {
                        let stop = token.clone();
                        drivers.spawn(backend.drive(authority, questions, reports, notices, stop));
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
    fn open_roster(&self) -> Result<Option<Box<dyn Roster>>, StartError> {
        let AuthoritySettings::Shared(shared) = &self.authority else {
            return Ok(None);
        };
        let roster = SharedRoster::new(&shared.store, &self.backend);
        let roster = roster.map_err(|source| self.unusable(source))?;
        Ok(Some(Box::new(roster)))
    }

    fn unusable(&self, source: AuthorityError) -> StartError {
        StartError::Authority {
            backend: self.backend.clone(),
            source,
        }
    }

    fn open_authority(&self) -> Result<Box<dyn Authority>, StartError> {
        match &self.authority {
            AuthoritySettings::Cluster
            | AuthoritySettings::Follow
            | AuthoritySettings::Sentinel => Ok(Box::new(FollowAuthority)),
            AuthoritySettings::Shared(shared) => {
                let shared = SharedAuthority::new(&shared.store, self.backend.clone());
                Ok(Box::new(shared.map_err(|source| self.unusable(source))?))
            }
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
        (authority, roster): (Box<dyn Authority>, Option<Box<dyn Roster>>),
        questions: mpsc::Receiver<super::handle::Question>,
        reports: Reports,
        notices: broadcast::Sender<Notice>,
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
                counter: Arc::from(self.requests),
                reports,
                notices,
            };
            return cluster::follow(follower, stop).await;
        }
        let rule = self.authority.rule();
        let decides = rule.has_record();
        let prefix = if decides { MONITOR_MARK } else { FOLLOWER_MARK };
        let common = Common {
            credentials: self.credentials,
            policy: self.policy.clone(),
            mark: format!("{prefix}{}", self.monitor).into(),
            mark_prefix: decides.then(|| MONITOR_MARK.into()),
            asks_nodes: self.authority.role() != Some(Role::Proxy),
        };
        let publishers = self.publishers.into_iter().map(PublisherSettings::open);
        let known = self.source.known();
        let opened = self.source.open(&common, &self.backend);
        let (staff, inbox) = Staff::new(
            common,
            &self.backend,
            authority,
            roster,
            publishers.collect(),
            opened.told,
        );
        let machine = Machine::new(self.backend.clone(), self.monitor, known, self.policy, rule);
        let counter: RequestCounter = Arc::from(self.requests);
        let driver = Driver {
            gauges: Gauges::new(&self.backend),
            backend: self.backend,
            machine,
            staff,
            topology: Arc::new(self.topology),
            evidence: self.evidence,
            source: opened.source,
            sentinels: opened.sentinels,
            reports,
            state: State::new(counter()),
            counter,
            questions,
            notices,
            failpoint: Failpoint::from_environment(),
        };
        driver.run(inbox, stop).await;
    }
}

/// A source at work.
struct Opened {
    source: Box<dyn Source>,
    sentinels: Option<SentinelDesk>,
    /// What it tells the core; ended where it is a source and nothing else.
    told: mpsc::Receiver<Event>,
}

impl Opened {
    /// A source and nothing else.
    fn source(source: impl Source + 'static) -> Opened {
        Opened {
            source: Box::new(source),
            sentinels: None,
            told: mpsc::channel(1).1,
        }
    }
}

impl SourceSettings {
    /// The nodes that are known before anybody was asked.
    fn known(&self) -> Vec<NodeId> {
        match self {
            SourceSettings::Cluster { nodes } | SourceSettings::Static { nodes } => nodes.clone(),
            SourceSettings::Dns(_) | SourceSettings::Record | SourceSettings::Sentinel(_) => {
                Vec::new()
            }
        }
    }

    fn open(self, common: &Common, backend: &Arc<str>) -> Opened {
        match self {
            SourceSettings::Dns(settings) => {
                Opened::source(DnsSource::new(settings, backend.clone()))
            }
            SourceSettings::Record => Opened::source(RecordSource),
            SourceSettings::Sentinel(settings) => {
                let access = SentinelAccess {
                    mark: common.mark.clone(),
                    unacked_after: common.policy.unacked_after,
                };
                let sentinels = Sentinels::open(settings, access);
                Opened {
                    source: Box::new(sentinels.source),
                    sentinels: Some(sentinels.desk),
                    told: sentinels.told,
                }
            }
            SourceSettings::Cluster { nodes } | SourceSettings::Static { nodes } => {
                Opened::source(StaticSource::new(nodes))
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
            AuthoritySettings::Sentinel => "sentinel",
            AuthoritySettings::Shared(shared) => shared.store.kind.name(),
        }
    }

    /// Whether its epochs go on growing over a restart.
    pub fn keeps_epochs(&self) -> bool {
        match self {
            AuthoritySettings::Embedded { .. }
            // Its configuration epochs.
            | AuthoritySettings::Sentinel
            | AuthoritySettings::Shared(_) => true,
            AuthoritySettings::Cluster | AuthoritySettings::Follow => false,
        }
    }

    /// What this process does where several share a record.
    pub fn role(&self) -> Option<Role> {
        match self {
            AuthoritySettings::Shared(shared) => Some(shared.role),
            AuthoritySettings::Cluster
            | AuthoritySettings::Embedded { .. }
            | AuthoritySettings::Follow
            | AuthoritySettings::Sentinel => None,
        }
    }

    fn rule(&self) -> failover::Authority {
        match self {
            AuthoritySettings::Embedded { .. } => failover::Authority::Decides,
            AuthoritySettings::Cluster | AuthoritySettings::Follow => failover::Authority::Follows,
            AuthoritySettings::Sentinel => failover::Authority::Sentinel,
            AuthoritySettings::Shared(shared) => match shared.role {
                Role::Both | Role::Monitor => failover::Authority::Shares(Panel {
                    domain: shared.domain.clone(),
                    domains: shared.monitors,
                    carries: shared.role == Role::Both,
                    view_lease: shared.view_lease,
                }),
                Role::Proxy => failover::Authority::Obeys {
                    view_lease: shared.view_lease,
                },
            },
        }
    }
}

impl PublisherSettings {
    /// Whether it compares epochs with what an earlier run published: there must be a record that
    /// keeps them.
    pub fn needs_record(&self) -> bool {
        match self {
            PublisherSettings::DnsUpdate(_) | PublisherSettings::Kv { .. } => true,
            PublisherSettings::Hook { .. } => false,
        }
    }

    /// The name in DNS that it changes, if it does.
    pub fn dns_name(&self) -> Option<&hickory_proto::rr::Name> {
        match self {
            PublisherSettings::DnsUpdate(settings) => Some(&settings.name),
            PublisherSettings::Hook { .. } | PublisherSettings::Kv { .. } => None,
        }
    }

    fn open(self) -> Box<dyn Publisher> {
        match self {
            PublisherSettings::DnsUpdate(settings) => Box::new(DnsUpdatePublisher::new(*settings)),
            PublisherSettings::Hook { program, timeout } => {
                Box::new(HookPublisher::new(program, timeout))
            }
            PublisherSettings::Kv { store, key } => Box::new(KvPublisher::new(store, key)),
        }
    }
}
