//! The flight recorder: what one failover or switchover saw, decided, did and cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Epoch, NodeId, Timestamp};

/// One failover or switchover, from the first evidence to the opened gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverReport {
    /// Name of the backend.
    pub backend: String,
    /// Of a cluster: the number of the shard. The epoch is the shard's, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
    /// The epoch it led to; with [`Outcome::Aborted`] the epoch that stayed in force.
    pub epoch: Epoch,
    /// Why it was started.
    pub fault: Fault,
    /// How it ended.
    pub outcome: Outcome,
    /// Primary before.
    pub from: Option<NodeId>,
    /// Primary after.
    pub to: Option<NodeId>,
    /// What was seen, in order, one sentence each, with the time it was seen.
    pub evidence: Vec<(Timestamp, String)>,
    /// When each phase began, in order.
    pub phases: Vec<PhaseTime>,
    /// From the closing of the gate to its opening.
    pub pause: Duration,
    /// What became of the clients' requests; filled in by the data plane after the gate opened.
    pub requests: RequestCounts,
    /// What the new primary lacks. Completed when the old one returns.
    pub bytes_lost: BytesLost,
    /// Candidates that were passed over and why.
    pub passed_over: Vec<(NodeId, String)>,
    /// Wall-clock start, milliseconds since the Unix epoch.
    pub unix_millis: u64,
}

/// How much of the replication stream is lost, and how well that is known. A process that was
/// killed takes what it accepted after its last answer with it, and nobody can ever ask: of such a
/// loss only a lower bound can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "known", content = "bytes", rename_all = "snake_case")]
pub enum BytesLost {
    /// So many bytes: the old primary was read when it accepted no more writes.
    Exactly(u64),
    /// So many bytes or more: up to the greatest offset that anybody showed.
    AtLeast(u64),
    /// The old primary's offset was never seen.
    Unknown,
}

impl BytesLost {
    /// What is known when `other` is known too.
    #[must_use]
    pub fn and(self, other: BytesLost) -> BytesLost {
        match (self, other) {
            (exact @ BytesLost::Exactly(_), _) | (_, exact @ BytesLost::Exactly(_)) => exact,
            (BytesLost::AtLeast(one), BytesLost::AtLeast(two)) => BytesLost::AtLeast(one.max(two)),
            (known, BytesLost::Unknown) | (BytesLost::Unknown, known) => known,
        }
    }
}

/// When a phase began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Name of the phase.
    pub phase: String,
    /// When it began.
    pub at: Timestamp,
}

/// The classes of evidence that start a change of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Connections reset and new connects refused.
    Refused,
    /// Probes unacknowledged by the peer's kernel.
    Unacked,
    /// Acknowledged by the kernel, not answered by Redis.
    Silent,
    /// Error replies (policy).
    ErrorReplies,
    /// Another process, another history or an empty data set at the primary's address.
    Reborn,
    /// The operator asked for it.
    Switchover,
    /// Somebody else changed the primary and we follow.
    Followed,
}

impl Fault {
    /// Every class.
    pub const ALL: &[Fault] = &[
        Fault::Refused,
        Fault::Unacked,
        Fault::Silent,
        Fault::ErrorReplies,
        Fault::Reborn,
        Fault::Switchover,
        Fault::Followed,
    ];

    /// The word used in metrics, JSON and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Refused => "refused",
            Fault::Unacked => "unacked",
            Fault::Silent => "silent",
            Fault::ErrorReplies => "error_replies",
            Fault::Reborn => "reborn",
            Fault::Switchover => "switchover",
            Fault::Followed => "followed",
        }
    }
}

/// How a change of primary ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A new primary serves.
    Done,
    /// Nothing changed; the reason.
    Aborted(String),
}

/// What became of the clients' requests from a moment before the gate closed until a moment after it
/// opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// Waited in their session's order until the gate opened.
    pub held: u64,
    /// Had been sent and were sent again.
    pub replayed: u64,
    /// Answered with an error that says "not executed".
    pub refused: u64,
    /// Answered with an error that says "outcome unknown".
    pub unknown: u64,
}
