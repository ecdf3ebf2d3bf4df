//! The ways of working that the demo and the failover bench can show.

use super::{SentinelOptions, ShardOptions};
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
}

impl Way {
    /// What is to be started where there is one primary; everything else is at its default.
    pub fn options(self) -> ShardOptions {
        ShardOptions {
            sentinels: (self == Way::Sentinel).then(SentinelOptions::default),
            coordinator: self.coordinator(),
            ..ShardOptions::default()
        }
    }

    /// Where the record is, and on how many servers.
    pub fn coordinator(self) -> Option<(StoreKind, usize)> {
        match self {
            Way::Embedded | Way::Sentinel | Way::Cluster => None,
            Way::Etcd => Some((StoreKind::Etcd, 3)),
            Way::Consul => Some((StoreKind::Consul, 1)),
            Way::Zookeeper => Some((StoreKind::ZooKeeper, 3)),
        }
    }

    /// What it is, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Embedded => "pointsman decides",
            Way::Sentinel => "three sentinels decide, 1 s without an answer",
            Way::Etcd => "three pointsman decide, with a record in etcd",
            Way::Consul => "three pointsman decide, with a record in Consul",
            Way::Zookeeper => "three pointsman decide, with a record in ZooKeeper",
            Way::Cluster => "a cluster of 3 + 3 decides, cluster-node-timeout 2000 ms",
        }
    }
}
