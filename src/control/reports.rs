//! The kept reports, and the requests each change of primary held, replayed and refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::topology::{BytesLost, Epoch, FailoverReport, Outcome, RequestCounts};

/// Reports that are kept; older ones are in the log.
const KEPT: usize = 100;

/// The data plane's counters since the start of the process.
pub(super) type RequestCounter = Arc<dyn Fn() -> RequestCounts + Send + Sync>;

/// Written by the driver, read by every handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports(Arc<Mutex<VecDeque<(u64, FailoverReport)>>>);

impl Reports {
    /// Oldest first.
    pub(super) fn all(&self) -> Vec<FailoverReport> {
        self.kept()
            .iter()
            .map(|(_, report)| report.clone())
            .collect()
    }

    /// Keeps `report` under a number that was not used before.
    pub(super) fn keep(&self, number: u64, report: FailoverReport) {
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((number, report));
    }

    /// Completes a kept report; `None` when it was dropped.
    pub(super) fn complete(&self, number: u64, requests: RequestCounts) -> Option<FailoverReport> {
        let mut kept = self.kept();
        let (_, report) = kept.iter_mut().find(|(n, _)| *n == number)?;
        report.requests = requests;
        Some(report.clone())
    }

    /// The former primary of `epoch` returned.
    pub(super) fn amend(&self, epoch: Epoch, bytes_lost: BytesLost) {
        let mut kept = self.kept();
        let done = |report: &FailoverReport| report.outcome == Outcome::Done;
        let mut newest_first = kept.iter_mut().rev();
        if let Some((_, report)) = newest_first.find(|(_, r)| r.epoch == epoch && done(r)) {
            report.bytes_lost = report.bytes_lost.and(bytes_lost);
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, FailoverReport)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was counted between two readings of the same counters.
pub(super) fn between(before: RequestCounts, after: RequestCounts) -> RequestCounts {
    RequestCounts {
        held: after.held.saturating_sub(before.held),
        replayed: after.replayed.saturating_sub(before.replayed),
        refused: after.refused.saturating_sub(before.refused),
        unknown: after.unknown.saturating_sub(before.unknown),
    }
}
