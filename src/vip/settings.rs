//! The operator's settings for one address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::resp::Credentials;
use crate::topology::NodeId;

/// `[vip_agent]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSettings {
    /// The address that follows the primary.
    pub address: IpAddr,
    /// Its prefix length. Nothing is routed by it: it only stands beside the address.
    pub prefix: u8,
    /// Where this host takes it.
    pub interface: String,
    /// This host's node, as the pointsman's configuration names it.
    pub node: NodeId,
    /// The backend of the pointsman whose primary it is.
    pub backend: Arc<str>,
    /// Admin addresses, `host:port`, of the pointsmen that are asked; at least one.
    pub pointsmen: Vec<Arc<str>>,
    /// The address is dropped when its right to be here was not confirmed for this long.
    pub lease: Duration,
    /// With what the agent logs in to its node.
    pub auth: Option<Credentials>,
}

impl VipSettings {
    /// A question to a pointsman waits this long for a change; its answer counts from the moment it
    /// was asked, so several have to fit into a lease.
    pub fn wait(&self) -> Duration {
        self.lease / 4
    }

    /// The node is asked this often while nothing happens.
    pub fn check_interval(&self) -> Duration {
        (self.lease / 10).min(Duration::from_millis(200))
    }
}
