//! What the core is told.

use std::sync::Arc;

use super::sentinel::{AskOutcome, SentinelNews};
use super::{OpId, Opinion, Presence, Record, Version};
use crate::resp::info::NodeInfo;
use crate::topology::{EvidenceKind, NodeId, Timestamp};

/// Everything that can happen to the core. Every [`super::Action`] that has an [`OpId`] is answered
/// by exactly one event with the same id; a time limit after sending is `Unknown`, never failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A probe of `node` ended. Probes come by themselves every `probe_interval`, and early after
    /// [`super::Action::ProbeNow`]. A probe without an answer is reported as failed after
    /// [`super::Policy::probe_timeout`] and again every `probe_interval` until something changes;
    /// its late answer is reported too (a slow node is not a dead one).
    Observed {
        /// The node probed.
        node: NodeId,
        /// What it said or how it failed.
        observation: Observation,
    },
    /// A node told its `notify-keyspace-events`; every few seconds, where it lets us ask.
    Notifies {
        /// The node.
        node: NodeId,
        /// As CONFIG GET answers.
        flags: Arc<str>,
    },
    /// A worker saw this on a connection that carries clients' requests.
    Evidence {
        /// The node it was seen on.
        node: NodeId,
        /// What was seen.
        kind: EvidenceKind,
    },
    /// The published primary answered a client's request at this time.
    ClientReplied {
        /// When.
        at: Timestamp,
    },
    /// The authority was read: at start-up, after a lost swap, or because it changed.
    RecordLoaded {
        /// The record, `None` when there is none yet.
        record: Option<Record>,
        /// What the next swap is conditional on.
        version: Version,
        /// The last opinion of each monitor.
        opinions: Vec<Opinion>,
        /// When the reading began: the record was this one then or later.
        asked: Timestamp,
    },
    /// The authority can not be read or written at present: go on serving, decide nothing.
    AuthorityUnavailable {
        /// For people.
        reason: String,
    },
    /// Answer to [`super::Action::SwapRecord`].
    Swapped {
        /// The action it answers.
        op: OpId,
        /// How it ended.
        outcome: SwapOutcome,
    },
    /// Answer to [`super::Action::Attend`].
    Attended {
        /// The action it answers.
        op: OpId,
        /// Where it is not known that it was stored, why.
        outcome: Result<(), String>,
    },
    /// Answer to [`super::Action::ReadRoll`].
    RollRead {
        /// Who carries requests, the dead ones as well; or why that could not be read.
        roll: Result<Vec<Presence>, String>,
        /// When the reading began.
        asked: Timestamp,
    },
    /// Answer to [`super::Action::Node`].
    NodeOpDone {
        /// The action it answers.
        op: OpId,
        /// How it ended.
        outcome: NodeOpOutcome,
    },
    /// Answer to [`super::Action::Publish`] with `await_obeyed`: every worker obeys it.
    Obeyed {
        /// The action it answers.
        op: OpId,
    },
    /// The operator asks for a planned switchover; answered by exactly one
    /// [`super::Action::Report`] with the same request number, whether done or refused.
    SwitchoverRequested {
        /// Names the answer.
        request: u64,
        /// The node that shall take over; `None`: the best one.
        to: Option<NodeId>,
    },
    /// Another monitor's mark was seen on a node (embedded authority: refuse to decide, I6).
    OtherMonitor {
        /// Whose mark, `None` when it is gone.
        who: Option<Arc<str>>,
    },
    /// The set of nodes changed (a source learned of them).
    Members {
        /// All nodes of the backend.
        nodes: Vec<NodeId>,
    },
    /// Where Sentinel decides: the sentinels that the configuration names. Told once, at the start.
    Sentinels {
        /// Their addresses.
        listed: Vec<NodeId>,
    },
    /// A sentinel answered, announced something, or can not be asked. Each is asked by itself every
    /// second, and early after [`super::Action::ConsultSentinels`]; one that does not answer in time is
    /// reported as failed.
    Sentinel {
        /// Its address.
        sentinel: NodeId,
        /// What it said.
        news: SentinelNews,
    },
    /// A sentinel is asked no more: no other one knows it.
    SentinelGone {
        /// Its address.
        sentinel: NodeId,
    },
    /// Answer to [`super::Action::AskFailover`].
    FailoverAsked {
        /// The action it answers.
        op: OpId,
        /// How it ended.
        outcome: AskOutcome,
    },
    /// Time passed; sent at [`super::Machine::next_deadline`] or later, and once at the start.
    Tick,
}

/// How a probe ended. Each probe is bounded in time.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// INFO was answered.
    Info(Box<NodeInfo>),
    /// It was not.
    Failed(ProbeError),
}

/// How a probe failed; kinds of silence are not alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProbeError {
    /// The established probe connection ended with EOF or RST.
    ConnectionLost,
    /// A connect was refused by the peer's kernel: the host lives, the process does not listen.
    Refused,
    /// A probe, or a connect, was not acknowledged by the peer's kernel in time, or there is no
    /// route.
    Unacked,
    /// The kernel acknowledged the probe; Redis did not answer in time.
    Silent,
    /// The host name did not resolve.
    Unresolved,
    /// Redis answered PING or INFO with an error such as -LOADING, -MISCONF, -BUSY, -OOM,
    /// -MASTERDOWN: the first word without the dash.
    ErrorReply(Arc<str>),
    /// -NOAUTH, -WRONGPASS or -NOPERM: our credentials do not fit this node.
    Auth(Arc<str>),
    /// The answer is not RESP or not Redis.
    NotRedis,
    /// -ERR max number of clients reached.
    MaxClients,
}

/// How a compare-and-swap ended: done, refused, unknown. Never a bool.
#[derive(Clone, Debug, PartialEq)]
pub enum SwapOutcome {
    /// The record is stored; the next swap is conditional on this version.
    Done(Version),
    /// Somebody else changed it: what is stored now.
    Lost {
        /// The stored record.
        record: Option<Record>,
        /// Its version.
        version: Version,
    },
    /// It may or may not have been stored; read again before deciding anything.
    Unknown(String),
}

/// How a [`super::NodeOp`] ended.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeOpOutcome {
    /// Done, and INFO read on the same connection afterwards.
    Done(Box<NodeInfo>),
    /// The node refused: its error reply.
    Refused(String),
    /// No answer in time or connection lost: it may have been done.
    Unknown(String),
    /// The node could not be reached at all: it was not done.
    Unreachable(ProbeError),
}
