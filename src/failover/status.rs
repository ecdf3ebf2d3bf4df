//! What `pointsman status` shows: a snapshot of what the core knows and why it does not act.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SentinelStatus;
use crate::topology::{Epoch, Gate, NodeId};

/// A backend as the core sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Name of the phase: `starting`, `learning`, `serving`, `failing_over`, `switching_over`,
    /// `following`, `obeying`, `waiting` (for another monitor's decision).
    pub phase: String,
    /// Where inside the phase, in words.
    pub step: String,
    /// The published epoch.
    pub epoch: Epoch,
    /// The published gate.
    pub gate: Gate,
    /// The published primary.
    pub primary: Option<NodeId>,
    /// Why no decision is taken at present; `None` when there is none to take.
    pub undecided: Option<String>,
    /// Every node, in the order of the configuration.
    pub nodes: Vec<NodeStatus>,
    /// Where Sentinel decides: every sentinel that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentinels: Vec<SentinelStatus>,
    /// Of a cluster: every shard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardStatus>,
}

/// A shard of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number here; it never means another shard.
    pub shard: u16,
    /// Who serves it.
    pub primary: Option<NodeId>,
    /// Whether that node answers as its primary.
    pub serves: bool,
    /// Grows by one with each change of its primary.
    pub epoch: Epoch,
    /// How many hash slots it has.
    pub slots: usize,
}

/// A node as the core sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its address.
    pub node: NodeId,
    /// What it said last; `None` before the first answer.
    pub role: Option<NodeRole>,
    /// Whether it answers, and how it fails.
    pub health: Health,
    /// `run_id` of its process.
    pub run_id: Option<Arc<str>>,
    /// Replica: the node it follows, as it says itself.
    pub follows: Option<NodeId>,
    /// `replica-priority`; 0 means never promote.
    pub priority: Option<u32>,
    /// Whether it wants to be known (`replica-announced`).
    pub announced: bool,
    /// Its replication offset, bytes.
    pub offset: Option<u64>,
    /// How far it is behind the primary's last known offset, bytes.
    pub lag_bytes: Option<u64>,
    /// Replica: whether its link to its primary is up.
    pub link_up: Option<bool>,
    /// How long ago it answered.
    #[serde(with = "humantime_serde")]
    pub last_seen: Option<Duration>,
    /// Why it would not be promoted; `None` for the primary and for a candidate.
    pub not_promotable: Option<String>,
    /// What is being done to make it follow the primary, if anything.
    pub repointing: Option<String>,
    /// A setting of the primary that it does not have, and what would end with a failover therefore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

/// [`crate::resp::info::Role`] as people and programs read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Says that it is a primary, whether or not it is the published one.
    Primary,
    /// Says that it is a replica.
    Replica,
}

/// A node's health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not probed yet.
    Unknown,
    /// Never probed from here: a sidecar leaves that to the monitors.
    Unasked,
    /// Answers.
    Up,
    /// Failed to answer, not yet for long enough to say more.
    Suspect,
    /// Its kernel refuses connections: no process listens.
    Refused,
    /// Its kernel does not acknowledge: host or network is gone.
    Unacked,
    /// Its kernel acknowledges, Redis does not answer.
    Silent,
    /// Redis answers with an error, for example while loading its data.
    ErrorReply,
    /// The published primary's address is served by another process or history.
    Reborn,
    /// Redis refuses our credentials.
    Denied,
    /// Redis has as many clients as it may have.
    Full,
    /// Something answers that is not Redis.
    NotRedis,
    /// Its name does not resolve, or this machine can make no connection.
    Unresolved,
}
