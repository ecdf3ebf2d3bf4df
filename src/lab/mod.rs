//! The laboratory: real servers, ordinary clients, faults, and a judge of what the clients saw.
//!
//! ```text
//!   Cluster (redis-server processes)  <--faults--  test, demo, bench
//!        ^                                            |
//!   Pointsman (child process)                         |
//!        ^                                            v
//!   Traffic (ordinary clients) --records--> History --judge--> Verdict
//! ```
//!
//! Used by `pointsman demo`, by the real-server tests and by the failover bench; nothing in the
//! proxy depends on it. Everything it starts ends when its owner is dropped, also on a panic.

pub mod bind;
pub mod client;
pub mod cluster;
mod data_plane;
pub mod demo;
mod engine;
mod finder;
mod hand;
pub mod history;
pub mod http;
pub mod judge;
pub mod lan;
pub mod namespace;
pub mod pointsman;
mod port;
mod scratch;
pub mod sentinels;
pub mod server;
pub mod shard;
pub mod sharded;
pub mod traffic;
mod value;
mod wait;
mod way;

use std::time::Duration;

pub use bind::Bind;
pub use client::{Address, Client, ClientError, Protocol};
pub use cluster::{Cluster, ClusterOptions};
pub use data_plane::DataPlane;
pub use engine::{Engine, EngineOptions};
pub use finder::Finder;
pub use hand::Moved;
pub use history::{ErrorClass, History, Kind, Operation, Outcome};
pub use judge::{Tally, Verdict, judge};
pub use lan::Lan;
pub use pointsman::{Pointsman, PointsmanOptions, Serving};
pub use port::Port;
pub use scratch::Scratch;
pub use sentinels::{SentinelOptions, Sentinels};
pub use server::{Data, Persistence, Server, ServerOptions};
pub use shard::{Shard, ShardOptions};
pub use sharded::{Sharded, ShardedOptions};
pub use traffic::{Traffic, TrafficOptions};
pub use value::Value;
pub use wait::until;
pub use way::Way;

/// What can go wrong while the laboratory prepares or drives something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file or a process could not be used; the text says which.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A connection failed.
    #[error("{what}: {source}")]
    Client {
        /// What was being done.
        what: String,
        /// The cause.
        source: ClientError,
    },
    /// Something that had to come true did not within its time.
    #[error("{what} did not happen within {limit:?}{state}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen instead, empty when nothing is known.
        state: String,
    },
    /// A process ended that should live, or said something it should not.
    #[error("{0}")]
    Unexpected(String),
}

impl LabError {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }

    /// Wraps a client's error with what was being done.
    pub fn client(what: impl Into<String>) -> impl FnOnce(ClientError) -> LabError {
        let what = what.into();
        move |source| LabError::Client { what, source }
    }
}
