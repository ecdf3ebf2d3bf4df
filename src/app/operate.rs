//! Joins the control plane to the configuration on one side and to the admin server on the other.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::admin::{Answer, Operator};
use crate::config::Backend;
use crate::control::{BackendControl, ClusterParts, ControlHandle};
use crate::failover::Status;
use crate::topology::{EvidenceReceiver, FailoverReport, NodeId, RequestCounts, TopologyWriter};

impl Operator for ControlHandle {
    fn status(&self) -> Answer<'_, Option<Status>> {
        Box::pin(ControlHandle::status(self))
    }

    fn reports(&self) -> Vec<FailoverReport> {
        ControlHandle::reports(self)
    }

    fn switchover(&self, to: Option<NodeId>) -> Answer<'_, Result<FailoverReport, String>> {
        Box::pin(ControlHandle::switchover(self, to))
    }
}

/// What the control plane of `backend` needs.
pub(super) fn control_of(
    backend: &Backend,
    monitor: &Arc<str>,
    (topology, cluster): (TopologyWriter, Option<ClusterParts>),
    evidence: EvidenceReceiver,
    requests: impl Fn() -> RequestCounts + Send + Sync + 'static,
) -> BackendControl {
    BackendControl {
        backend: backend.name.clone(),
        monitor: monitor.clone(),
        source: backend.source.clone(),
        credentials: backend.auth.clone(),
        policy: backend.failover.clone(),
        authority: backend.authority.clone(),
        publishers: backend.publishers.clone(),
        topology,
        cluster,
        evidence,
        requests: Box::new(requests),
    }
}

/// Names this process in records and marks: host, process id and a random part, for a container
/// whose process id is always 1 and whose host name is not unique.
pub(super) fn monitor_name() -> Arc<str> {
    let system = rustix::system::uname();
    let host: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .collect();
    // The seed of a hasher is the only random number std gives.
    let random = RandomState::new().hash_one(0u8) as u32;
    format!("{host}:{}:{random:08x}", std::process::id()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_differ_and_fit_into_client_setname() {
        let (one, other) = (monitor_name(), monitor_name());
        assert_ne!(one, other);
        assert!(one.bytes().all(|b| b.is_ascii_graphic()));
    }
}
