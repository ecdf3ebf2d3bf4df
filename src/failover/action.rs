//! What the core asks for.

use std::time::Duration;

use super::{Opinion, Presence, Record, Version};
use crate::topology::{BytesLost, Epoch, FailoverReport, Gate, NodeId, Primary};

/// Names one request to the shell; answered by exactly one event with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What the data plane shall see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Epoch; never older than the published one (I2).
    pub epoch: Epoch,
    /// Whether requests may flow.
    pub gate: Gate,
    /// The verified primary (I1, I5).
    pub primary: Option<Primary>,
    /// Every other node.
    pub replicas: Vec<NodeId>,
}

/// Everything the core can ask of the shell. Executed in order of the returned list; actions on
/// different nodes run side by side, actions on one node one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Swap the data plane's snapshot. With `await_obeyed`, answer [`super::Event::Obeyed`] once
    /// every worker obeys it (nothing of this backend on its way any more when the gate is closed).
    Publish {
        /// Names the answer.
        op: OpId,
        /// The snapshot.
        view: View,
        /// Whether an answer is wanted.
        await_obeyed: bool,
    },
    /// Compare-and-swap the authority's record.
    SwapRecord {
        /// Names the answer.
        op: OpId,
        /// Version that must be stored for the swap to happen.
        expected: Version,
        /// The new record.
        record: Record,
    },
    /// Read the authority's record, and what the other monitors see, anew.
    LoadRecord,
    /// Tell the other monitors what this one sees. Not answered; what failed is told again.
    Opine {
        /// Replaces what this monitor said before.
        opinion: Opinion,
    },
    /// Tell the monitors that this pointsman carries requests, and what it obeys.
    Attend {
        /// Names the answer.
        op: OpId,
        /// Replaces what it said before.
        presence: Presence,
    },
    /// Read who carries requests; answered by [`super::Event::RollRead`].
    ReadRoll,
    /// Act on a node.
    Node {
        /// Names the answer.
        op: OpId,
        /// The node.
        node: NodeId,
        /// What to do.
        what: NodeOp,
        /// After this long without an answer the outcome is unknown.
        timeout: Duration,
    },
    /// Probe this node now instead of at its next turn.
    ProbeNow {
        /// The node.
        node: NodeId,
    },
    /// Where Sentinel decides: ask every sentinel now instead of at its next turn.
    ConsultSentinels,
    /// Where Sentinel decides: `SENTINEL FAILOVER`.
    AskFailover {
        /// Names the answer.
        op: OpId,
        /// The sentinel that shall lead it.
        sentinel: NodeId,
        /// After this long without an answer the outcome is unknown.
        timeout: Duration,
    },
    /// Tell the publishers that `to` serves in `epoch`.
    Announce {
        /// Epoch in which it serves.
        epoch: Epoch,
        /// Primary before; `None` when this monitor found `to` serving and changed nothing.
        from: Option<NodeId>,
        /// Primary now.
        to: NodeId,
    },
    /// Log one event under Sentinel's word for it where there is one.
    Emit {
        /// Sentinel's event word, for example `+sdown`, `+switch-master`, or ours.
        event: &'static str,
        /// The node it is about.
        node: Option<NodeId>,
        /// For the person who must act on it.
        detail: String,
        /// Whether somebody should look (log level warn instead of info).
        attention: bool,
    },
    /// A failover seemed needed and is not done; each reason once in an outage.
    Declined {
        /// Why.
        why: Decline,
    },
    /// A failover or switchover ended, or a switchover was refused; keep the report. The shell fills
    /// in `unix_millis`, the data plane `requests`.
    Report {
        /// What happened.
        report: Box<FailoverReport>,
        /// The [`super::Event::SwitchoverRequested`] it answers; every request gets exactly one.
        request: Option<u64>,
    },
    /// The former primary returned: complete the kept report of `epoch`.
    AmendReport {
        /// Epoch of the report.
        epoch: Epoch,
        /// What it shows; what was known before stays true.
        bytes_lost: BytesLost,
    },
}

/// Why a failover that seems needed is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decline {
    /// No replica is fit to take over.
    NoCandidate,
    /// The authority can not be read or written.
    AuthorityUnavailable,
    /// Another monitor marked the nodes, and the authority is for one monitor only.
    OtherMonitor,
    /// Another monitor won the swap.
    SwapLost,
    /// A replica still gets data from the primary.
    Vetoed,
    /// Too few failure domains see the primary as lost.
    NoMajority,
    /// Somebody else decides.
    FollowOnly,
}

/// What can be done to a node. Every one is idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeOp {
    /// `CONFIG SET min-replicas-to-write <65535 and its own>`, `CLIENT KILL TYPE normal`, `CLIENT
    /// KILL TYPE pubsub`: it accepts no write any more. Where `min-replicas-max-lag` is 0, which
    /// makes that setting void, it becomes 10, and twice 65535 says that it was 0.
    Fence,
    /// `CONFIG SET min-replicas-to-write <its own>` if it has the value of a fence, and
    /// `min-replicas-max-lag 0` if the fence says so.
    Unfence,
    /// `MULTI; CONFIG SET min-replicas-to-write <its own>; REPLICAOF NO ONE; EXEC`, then ROLE on the
    /// same connection; a role other than master is `Refused`. `CONFIG REWRITE` follows half a
    /// second later, because it stops the node while its disk works; if it fails that is logged.
    Promote,
    /// `MULTI; REPLICAOF to; CONFIG SET min-replicas-to-write <its own>; CLIENT UNPAUSE; CLIENT KILL
    /// TYPE normal; CLIENT KILL TYPE pubsub; EXEC` with masterauth and masteruser taken along, and
    /// `CONFIG REWRITE` as for `Promote`. Used for siblings (without the kills when it already was a
    /// replica) and for a former primary.
    Repoint {
        /// The primary to follow.
        to: NodeId,
    },
    /// `CLIENT PAUSE duration WRITE` for clients that bypass us; before Redis 6.2 as a fence, which
    /// pointsman lifts when `duration` is over.
    Pause {
        /// How long the pause lasts if nobody ends it.
        duration: Duration,
    },
    /// `CLIENT UNPAUSE`, or the fence lifted.
    Unpause,
    /// Read INFO now, on a connection that is open already where there is one.
    Inspect,
    /// Check that `as_replica_of` could be followed from this node: try AUTH with this node's
    /// masterauth/masteruser against the other one.
    CheckAuth {
        /// The primary it would follow.
        as_replica_of: NodeId,
    },
}
