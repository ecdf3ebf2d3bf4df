//! What the driver counts. What names and publishers came to is counted where they are asked.

use crate::failover::{Decline, Observation, SwapOutcome};
use crate::metrics::{ControlMetrics, DeclineReason, SwapResult};
use crate::resp::info::Role;
use crate::topology::{Epoch, FailoverReport, Gate, NodeId};

/// One backend's gauges and counters.
pub(super) struct Gauges {
    metrics: ControlMetrics,
    /// Offset of the published primary when it answered last.
    head: u64,
}

impl Gauges {
    pub(super) fn new(backend: &str) -> Self {
        Gauges {
            metrics: ControlMetrics::new(backend),
            head: 0,
        }
    }

    /// `primary` is the published one.
    pub(super) fn observed(
        &mut self,
        node: &NodeId,
        observation: &Observation,
        primary: Option<&NodeId>,
    ) {
        let info = match observation {
            Observation::Info(info) => info,
            Observation::Failed(_) => return self.metrics.node_up(node, false),
        };
        self.metrics.node_up(node, true);
        if Some(node) == primary {
            self.head = info.offset;
        }
        let lag = match info.role {
            Role::Primary => 0,
            Role::Replica => self.head.saturating_sub(info.offset),
        };
        self.metrics.replica_lag(node, lag);
    }

    /// A node of a cluster answered and is so many bytes behind its primary; `None`: it did not answer.
    pub(super) fn asked(&mut self, node: &NodeId, lag: Option<u64>) {
        self.metrics.node_up(node, lag.is_some());
        if let Some(lag) = lag {
            self.metrics.replica_lag(node, lag);
        }
    }

    /// Whether a sentinel answers and knows our master.
    pub(super) fn sentinel_up(&mut self, sentinel: &NodeId, up: bool) {
        self.metrics.sentinel_up(sentinel, up);
    }

    pub(super) fn published(&self, epoch: Epoch, gate: Gate) {
        self.metrics.published(epoch, gate);
    }

    pub(super) fn swapped(&self, outcome: &SwapOutcome) {
        self.metrics.swap_ended(match outcome {
            SwapOutcome::Done(_) => SwapResult::Done,
            SwapOutcome::Lost { .. } => SwapResult::Lost,
            SwapOutcome::Unknown(_) => SwapResult::Unknown,
        });
    }

    pub(super) fn declined(&self, why: Decline) {
        self.metrics.declined(match why {
            Decline::NoCandidate => DeclineReason::NoCandidate,
            Decline::AuthorityUnavailable => DeclineReason::AuthorityUnavailable,
            Decline::OtherMonitor => DeclineReason::OtherMonitor,
            Decline::SwapLost => DeclineReason::SwapLost,
            Decline::Vetoed => DeclineReason::Vetoed,
            Decline::NoMajority => DeclineReason::NoMajority,
            Decline::FollowOnly => DeclineReason::FollowOnly,
        });
    }

    pub(super) fn ended(&self, report: &FailoverReport) {
        self.metrics.failover_ended(report);
    }

    pub(super) fn evidence_dropped(&self, since_start: u64) {
        self.metrics.evidence_dropped(since_start);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn every_documented_reason_is_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let gauges = Gauges::new("main");
            for why in [
                Decline::NoCandidate,
                Decline::AuthorityUnavailable,
                Decline::OtherMonitor,
                Decline::SwapLost,
                Decline::Vetoed,
                Decline::NoMajority,
                Decline::FollowOnly,
            ] {
                gauges.declined(why);
            }
        });
        let text = handle.render();
        for reason in DeclineReason::ALL {
            let reason = reason.as_str();
            let line = format!("{{backend=\"main\",reason=\"{reason}\"}} 1");
            assert!(text.contains(&line), "{reason}: {text}");
        }
    }
}
