//! The operator's settings for detection and failover, with their defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[backend.NAME.failover]` of the configuration. Every time is a bound, not a goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Time between two probes of a node that answers.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// Refused connects in a row, after established connections were reset, that make a verdict.
    pub refused_confirmations: u32,
    /// Without an acknowledgement of the peer's kernel for this long, the host counts as lost.
    #[serde(with = "humantime_serde")]
    pub unacked_after: Duration,
    /// Acknowledged but not answered for this long, Redis counts as hanging. Stretched to
    /// `fork_factor` times the node's last fork time where that is longer.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
    /// See `silent_after`.
    pub fork_factor: u32,
    /// Promote a replica when the primary restarted as another process with less data than it had.
    pub promote_on_reborn: bool,
    /// Promote a replica whose disk works when the primary's persistence fails (-MISCONF).
    pub promote_on_disk_error: bool,
    /// After an outage that the candidates themselves did not survive: how long to wait for the
    /// nodes still missing, which may hold newer data, before one that restarted is chosen.
    #[serde(with = "humantime_serde")]
    pub restart_grace: Duration,
    /// How long a switchover may wait for requests on their way to be answered.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How long a switchover may wait for the target's offset to equal the primary's.
    #[serde(with = "humantime_serde")]
    pub catch_up_timeout: Duration,
    /// A switchover is refused when the target lags by more than this many bytes.
    pub max_lag_bytes: u64,
    /// Bound of one command sent to a node (promotion, repointing, fencing).
    #[serde(with = "humantime_serde")]
    pub node_op_timeout: Duration,
    /// How many replicas may do a full resync at the same time after a failover.
    pub parallel_full_syncs: u32,
}

impl Policy {
    /// After this long without an answer a probe counts as failed, though its answer is still
    /// awaited: twice `probe_interval`, and at least 100 ms.
    pub fn probe_timeout(&self) -> Duration {
        (self.probe_interval * 2).max(Duration::from_millis(100))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            probe_interval: Duration::from_millis(100),
            refused_confirmations: 2,
            unacked_after: Duration::from_millis(500),
            silent_after: Duration::from_secs(1),
            fork_factor: 3,
            promote_on_reborn: true,
            promote_on_disk_error: false,
            restart_grace: Duration::from_secs(3),
            drain_timeout: Duration::from_millis(200),
            catch_up_timeout: Duration::from_secs(1),
            max_lag_bytes: 16 * 1024 * 1024,
            node_op_timeout: Duration::from_secs(1),
            parallel_full_syncs: 1,
        }
    }
}
