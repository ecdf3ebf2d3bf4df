//! The ways of working that the demo and the failover bench can show.

use super::{SentinelOptions, ShardOptions};

/// Who decides, and where the nodes are learned. Adding one: a variant here, what it starts in
/// [`Way::options`] (and in `Shard::start`, if it needs something besides servers and pointsman).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// pointsman decides by itself, with a record in a file
    #[default]
    Embedded,
    /// Three sentinels decide, pointsman listens to them
    Sentinel,
}

impl Way {
    /// What is to be started; everything else is at its default.
    pub fn options(self) -> ShardOptions {
        ShardOptions {
            sentinels: (self == Way::Sentinel).then(SentinelOptions::default),
            ..ShardOptions::default()
        }
    }

    /// What it is, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Embedded => "pointsman decides",
            Way::Sentinel => "three sentinels decide, 1 s without an answer",
        }
    }
}
