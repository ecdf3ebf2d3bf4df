//! The operator's settings for the data plane, with their defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[proxy]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Worker threads; 0 means one for every four cores, at least one, at most four.
    pub workers: usize,
    /// Whether a worker lets the threads that send to it run first while that pays, see sched(7) on `SCHED_BATCH`.
    pub adaptive_scheduling: bool,
    /// Client connections over all listeners; further ones get -ERR max number of clients reached.
    pub max_clients: usize,
    /// On SIGTERM: how long requests on their way may take to be answered.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Largest request, bytes, as `proto-max-bulk-len` and `client-query-buffer-limit` of Redis.
    pub max_request_bytes: usize,
    /// Replies buffered for one client, bytes, above which its requests are no longer read.
    pub client_reply_high_water: usize,
    /// Replies buffered for one subscriber, bytes, above which it is dropped, as
    /// `client-output-buffer-limit pubsub` of Redis.
    pub subscriber_reply_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            workers: 0,
            adaptive_scheduling: true,
            max_clients: 10_000,
            drain_timeout: Duration::from_secs(5),
            max_request_bytes: 1024 * 1024 * 1024,
            client_reply_high_water: 1024 * 1024,
            subscriber_reply_limit: 32 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// The number of worker threads that `workers` stands for.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism()
                .map_or(1, |n| n.get() / 4)
                .clamp(1, 4),
            n => n,
        }
    }
}

/// `[backend.NAME.requests]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendSettings {
    /// Which requests that were sent and not answered are sent again after a failover.
    pub retry: Retry,
    /// How long a request may wait for a primary before it gets an error.
    #[serde(with = "humantime_serde")]
    pub hold_timeout: Duration,
    /// Requests held or on their way, bytes over all clients of one worker, above which their
    /// sockets are no longer read.
    pub hold_bytes: usize,
    /// Bound of one connect to the primary, name lookup and handshake included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long -NOREPLICAS is held back before the client sees it.
    #[serde(with = "humantime_serde")]
    pub noreplicas_timeout: Duration,
}

/// See [`BackendSettings::retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Reads only.
    Reads,
    /// Reads, and writes that leave the same state and give the same reply when run again.
    Idempotent,
}

impl Default for BackendSettings {
    fn default() -> Self {
        BackendSettings {
            retry: Retry::Idempotent,
            hold_timeout: Duration::from_secs(10),
            hold_bytes: 256 * 1024 * 1024,
            connect_timeout: Duration::from_millis(500),
            noreplicas_timeout: Duration::from_secs(1),
        }
    }
}
