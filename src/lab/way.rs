//! The ways of working that the demo and the failover bench can show.

use super::{Bind, Engine, SentinelOptions, ShardOptions};
use crate::control::StoreKind;

/// Who decides, and where the nodes are learned. Adding one: a variant here, what it starts in
/// [`Way::options`] (and in `Shard::start`, if it needs something besides servers and pointsman).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// pointsman decides by itself, with a record in a file
    #[default]
    Embedded,
    /// Three sentinels decide, pointsman listens to them
    Sentinel,
    /// Three pointsman decide together, with a record in an etcd of three
    Etcd,
    /// Three pointsman decide together, with a record in a Consul of one
    Consul,
    /// Three pointsman decide together, with a record in a ZooKeeper of three
    Zookeeper,
    /// A Redis Cluster of three shards decides, see [`super::Sharded`]
    Cluster,
    /// An operator decides, and moves a name in a BIND
    Dns,
    /// An operator decides, with REPLICAOF
    Follow,
    /// pointsman decides, and an address moves with the primary; clients do not connect through it
    Vip,
}

impl Way {
    /// What is to be started where there is one primary; everything else is at its default.
    pub fn options(self) -> ShardOptions {
        ShardOptions {
            sentinels: (self == Way::Sentinel).then(SentinelOptions::default),
            coordinator: self.coordinator(),
            dns: self == Way::Dns,
            follow: self == Way::Follow,
            ..ShardOptions::default()
        }
    }

    /// Where the record is, and on how many servers.
    pub fn coordinator(self) -> Option<(StoreKind, usize)> {
        match self {
            Way::Cluster | Way::Dns | Way::Embedded | Way::Follow | Way::Sentinel | Way::Vip => {
                None
            }
            Way::Etcd => Some((StoreKind::Etcd, 3)),
            Way::Consul => Some((StoreKind::Consul, 1)),
            Way::Zookeeper => Some((StoreKind::ZooKeeper, 3)),
        }
    }

    /// Whether an operator's hand decides.
    pub fn by_hand(self) -> bool {
        matches!(self, Way::Dns | Way::Follow)
    }

    /// What this machine lacks for it, if it does.
    pub fn missing(self) -> Option<String> {
        match self {
            Way::Dns => Bind::missing().map(str::to_owned),
            _ => self
                .coordinator()
                .and_then(|(kind, _)| Engine::missing(kind)),
        }
    }

    /// What it is, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Dns => "an operator decides and moves a name in a BIND",
            Way::Embedded => "pointsman decides",
            Way::Follow => "an operator decides, with REPLICAOF",
            Way::Sentinel => "three sentinels decide, 1 s without an answer",
            Way::Etcd => "three pointsman decide, with a record in etcd",
            Way::Vip => "pointsman decides, and an address moves",
            Way::Consul => "three pointsman decide, with a record in Consul",
            Way::Zookeeper => "three pointsman decide, with a record in ZooKeeper",
            Way::Cluster => "a cluster of 3 + 3 decides, cluster-node-timeout 2000 ms",
        }
    }
}
