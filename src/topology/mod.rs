//! Who is primary: plain values, one writer, many readers. No I/O and no decisions.

mod cluster;
mod evidence;
mod handle;
mod notice;
mod report;

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cluster::{ClusterMap, ClusterReader, ClusterWriter, HASH_SLOTS, cluster_channel};
pub use evidence::{Evidence, EvidenceKind, EvidenceReceiver, EvidenceSender, evidence_channel};
pub use handle::{TopologyReader, TopologyWriter, channel};
pub use notice::Notice;
pub use report::{BytesLost, FailoverReport, Fault, Outcome, PhaseTime, RequestCounts};

/// Monotonic time since the start of the process. Printable, hashable and replayable, which
/// `Instant` is not.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point in time `since_start` after the process started.
    pub const fn from_start(since_start: Duration) -> Self {
        Timestamp(since_start.as_nanos() as u64)
    }

    /// Milliseconds since the process started.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time from `earlier` to `self`; zero when `earlier` is the later one.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(rhs.as_nanos() as u64))
    }
}

impl Sub<Timestamp> for Timestamp {
    type Output = Duration;
    fn sub(self, rhs: Timestamp) -> Duration {
        self.since(rhs)
    }
}

/// A node's address as `host:port` (IPv6 hosts in brackets). The host may be a name; it is resolved
/// at every connect and never before.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Takes the address as it is; the configuration has checked its form.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        NodeId(address.into())
    }

    /// The address of `port` at `host`, which may be an IPv6 address without brackets.
    pub fn of(host: &str, port: u16) -> Self {
        match host.contains(':') {
            true => NodeId::new(format!("[{host}]:{port}")),
            false => NodeId::new(format!("{host}:{port}")),
        }
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address split at its last colon, brackets removed; `None` when it has no valid port.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.0.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        Some((host, port.parse().ok()?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Grows by one at each change of primary; also the fencing token.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether requests may be written to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Requests flow.
    Open,
    /// Nothing new is written to any node; requests are held. Requests already written may still
    /// be answered on the connection they were written to, as long as the epoch does not change.
    Closed,
}

/// A node that was verified as primary by ROLE in the epoch of its topology (I5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Primary {
    /// Its address.
    pub node: NodeId,
    /// `run_id` of its process (INFO server): a restarted process has another one and gets no
    /// request until the control plane publishes it.
    pub run_id: Arc<str>,
    /// `master_replid` (INFO replication) of the history it serves.
    pub repl_id: Arc<str>,
}

/// Immutable snapshot of one backend: who is primary, and whether requests may flow (I1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Name of the backend in the configuration.
    pub backend: Arc<str>,
    /// Grows by one with every publication; set by [`TopologyWriter::publish`].
    pub generation: u64,
    /// Grows by one with every change of primary (I2). A reader whose upstream belongs to an
    /// older epoch must drop it.
    pub epoch: Epoch,
    /// Whether requests may flow.
    pub gate: Gate,
    /// `None` until the first primary was verified.
    pub primary: Option<Primary>,
    /// Every other known node, in the order of the configuration, discovered ones last.
    pub replicas: Vec<NodeId>,
}

impl Topology {
    /// What is known before the first probe was answered: nothing, and the gate is closed.
    pub fn unknown(backend: impl Into<Arc<str>>) -> Self {
        Topology {
            backend: backend.into(),
            generation: 0,
            epoch: Epoch(0),
            gate: Gate::Closed,
            primary: None,
            replicas: Vec::new(),
        }
    }

    /// The primary that may get requests now.
    pub fn open_primary(&self) -> Option<&Primary> {
        match self.gate {
            Gate::Open => self.primary.as_ref(),
            Gate::Closed => None,
        }
    }
}
