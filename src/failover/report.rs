//! Collects what one failover or switchover sees and does, for its report.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Action;
use super::candidate::Unfit;
use super::core::Core;
use crate::topology::{
    BytesLost, Epoch, FailoverReport, Fault, NodeId, Outcome, PhaseTime, RequestCounts, Timestamp,
};

/// Evidence lines kept in one report; an outage of hours must not grow it.
const EVIDENCE_LIMIT: usize = 64;

/// A report in the making, from the first evidence on.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder {
    pub fault: Option<Fault>,
    pub from: Option<NodeId>,
    /// The switchover request to answer.
    pub request: Option<u64>,
    pub closed_at: Option<Timestamp>,
    evidence: Vec<(Timestamp, String)>,
    phases: Vec<PhaseTime>,
    passed_over: BTreeMap<NodeId, String>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub epoch: Epoch,
    pub outcome: Outcome,
    pub to: Option<NodeId>,
    pub bytes_lost: BytesLost,
}

impl Recorder {
    /// Notes something seen; the same sentence in a row only once.
    pub(super) fn evidence(&mut self, now: Timestamp, text: String) {
        let repeated = self.evidence.iter().rev().take(4).any(|(_, t)| *t == text);
        if !repeated && self.evidence.len() < EVIDENCE_LIMIT {
            self.evidence.push((now, text));
        }
    }

    /// Notes that a phase begins; a phase entered again right away only once.
    pub(super) fn phase(&mut self, now: Timestamp, phase: &str) {
        let last = self.phases.last().map(|p| p.phase.as_str());
        if last != Some(phase) && self.phases.len() < EVIDENCE_LIMIT {
            self.phases.push(PhaseTime {
                phase: phase.to_owned(),
                at: now,
            });
        }
    }

    /// Notes who was not chosen, and why.
    pub(super) fn passed_over(&mut self, passed_over: &[(NodeId, Unfit)]) {
        for (node, unfit) in passed_over {
            self.passed_over.insert(node.clone(), unfit.to_string());
        }
    }

    /// The finished report.
    pub(super) fn finish(self, backend: &str, ending: Ending, now: Timestamp) -> FailoverReport {
        let mut passed_over = self.passed_over;
        if let Some(to) = &ending.to {
            passed_over.remove(to);
        }
        FailoverReport {
            backend: backend.to_owned(),
            shard: None,
            epoch: ending.epoch,
            fault: self.fault.unwrap_or(Fault::Followed),
            outcome: ending.outcome,
            from: self.from,
            to: ending.to,
            evidence: self.evidence,
            phases: self.phases,
            pause: self.closed_at.map_or(Duration::ZERO, |at| now - at),
            requests: RequestCounts::default(),
            bytes_lost: ending.bytes_lost,
            passed_over: passed_over.into_iter().collect(),
            unix_millis: 0,
        }
    }
}

impl Core {
    /// The report in the making; begun if there is none.
    pub(super) fn recorder(&mut self) -> &mut Recorder {
        let from = self.record.as_ref().map(|r| r.primary.clone());
        let from = from.or_else(|| self.published.primary.as_ref().map(|p| p.node.clone()));
        self.recorder.get_or_insert_with(|| Recorder {
            from,
            ..Recorder::default()
        })
    }

    /// Notes evidence, where a report is being made.
    pub(super) fn note(&mut self, text: String) {
        let now = self.now;
        if let Some(recorder) = &mut self.recorder {
            recorder.evidence(now, text);
        }
    }

    pub(super) fn phase(&mut self, name: &str) {
        let now = self.now;
        self.recorder().phase(now, name);
    }

    pub(super) fn finish_report(&mut self, ending: Ending) {
        let mut recorder = self.recorder.take().unwrap_or_default();
        let request = recorder.request.take();
        let report = recorder.finish(&self.backend, ending, self.now);
        self.push_report(report, request);
    }

    pub(super) fn push_report(&mut self, report: FailoverReport, request: Option<u64>) {
        self.push(Action::Report {
            report: Box::new(report),
            request,
        });
    }

    /// Refuses a switchover: nothing was begun.
    pub(super) fn refuse_switchover(&mut self, request: u64, reason: impl Into<String>) {
        let primary = self.published.primary.as_ref().map(|p| p.node.clone());
        let recorder = Recorder {
            fault: Some(Fault::Switchover),
            from: primary.clone(),
            ..Recorder::default()
        };
        let ending = Ending {
            epoch: self.published.epoch,
            outcome: Outcome::Aborted(reason.into()),
            to: primary,
            bytes_lost: BytesLost::Exactly(0),
        };
        let report = recorder.finish(&self.backend, ending, self.now);
        self.push_report(report, Some(request));
    }
}
