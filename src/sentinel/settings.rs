//! The operator's settings for the Sentinel answers, with their defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::resp::Credentials;

/// `[sentinel]` of the configuration; without that table nothing is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SentinelSettings {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Which address it hands out for a primary.
    pub answer: Answer,
    /// Further connections get `-ERR max number of clients reached`.
    pub max_clients: usize,
    /// What clients must log in with; read by hand, see `config::auth`.
    #[serde(skip)]
    pub auth: Option<Credentials>,
}

/// See [`SentinelSettings::answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// That of the node: what a client expects that connects to nodes itself.
    Node,
    /// That of the backend's first TCP listener: the client never has to move.
    Proxy,
}

impl Default for SentinelSettings {
    fn default() -> Self {
        SentinelSettings {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 26379),
            answer: Answer::Node,
            max_clients: 1000,
            auth: None,
        }
    }
}
