//! What the control plane says while it works.

use super::NodeId;

/// One step of what is being done about a backend, told as it happens to whoever listens. Lossy: who
/// needs to know what is true reads the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Sentinel's event word where there is one, for example `+try-failover`, or ours.
    pub event: &'static str,
    /// The node it is about.
    pub node: Option<NodeId>,
}
