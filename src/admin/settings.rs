//! The operator's settings for the admin server, with their defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `[admin]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where the admin server listens.
    pub bind: SocketAddr,
    /// What peers that are not on this machine may do.
    pub allow_remote: AllowRemote,
}

/// See [`AdminSettings::allow_remote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowRemote {
    /// Nothing; `bind` must be a loopback address.
    None,
    /// Read metrics, probes and status.
    Read,
    /// Start a switchover as well. There is no password: whoever reaches the port may do it.
    All,
}

impl Default for AdminSettings {
    fn default() -> Self {
        AdminSettings {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9121),
            allow_remote: AllowRemote::None,
        }
    }
}
