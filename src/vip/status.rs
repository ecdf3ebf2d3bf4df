//! What the agent says about itself, as JSON and to `pointsman status`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::topology::{Epoch, NodeId};

/// `GET /api/status` of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Version of the program.
    pub version: String,
    /// The address with its prefix length.
    pub vip: String,
    /// Where this host takes it.
    pub interface: String,
    /// This host's node.
    pub node: NodeId,
    /// The backend whose primary it follows.
    pub backend: Arc<str>,
    /// Whether it is here.
    pub state: VipState,
    /// Why it is not here; or what hinders the agent.
    pub reason: Option<String>,
    /// Ethernet address of another host that answers for the address although it belongs here.
    pub conflict: Option<String>,
    /// The newest epoch that was seen.
    pub epoch: Option<Epoch>,
    /// The primary of that epoch.
    pub primary: Option<NodeId>,
    /// Each pointsman that is asked.
    pub pointsmen: Vec<PointsmanState>,
}

/// Whether the address is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VipState {
    /// It is.
    Held,
    /// It belongs here, and is taken when no other host answers for it.
    Claiming,
    /// It is not.
    Free,
}

/// One pointsman in [`VipStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointsmanState {
    /// Its admin address.
    pub address: Arc<str>,
    /// Why its last answer was of no use; `None` when it was.
    pub error: Option<String>,
}
