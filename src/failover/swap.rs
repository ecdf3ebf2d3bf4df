//! One compare-and-swap of the record, from its proposal until it is known what came of it.
//!
//! ```text
//! asked ── stored / lost
//!   └── no answer, or none in time ── the record is read ── stored / missing
//! ```
//!
//! Where a half-done decision is in the record, all that follows a missing swap is another one: that
//! has to wait until the authority had time to mend.

use std::time::Duration;

use super::core::{Core, Input, Swap};
use super::{OpId, Record, RecordPhase};
use crate::topology::Timestamp;

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    record: Record,
    /// `None`: the outcome is unknown, and the record is being read.
    op: Option<OpId>,
    /// The record was read meanwhile, and is another.
    missing: bool,
    limit: Duration,
    deadline: Timestamp,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not known yet.
    Pending,
    /// It is the record.
    Stored,
    /// Another record was in its way, and is the known one now.
    Lost,
    /// Its outcome was unknown, and the record that was read is another.
    Missing,
}

impl Proposal {
    /// Proposes `record` in the place of the known one. After `limit` without an answer its outcome is
    /// unknown.
    pub(super) fn send(core: &mut Core, record: Record, limit: Duration) -> Proposal {
        let deadline = core.now + limit;
        core.wake_at(deadline);
        Proposal {
            op: Some(core.swap(record.clone())),
            missing: false,
            record,
            limit,
            deadline,
        }
    }

    /// The same again: it is known that it was not stored.
    pub(super) fn again(self, core: &mut Core) -> Proposal {
        Proposal::send(core, self.record, self.limit)
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Whether the record is being read to learn the outcome.
    pub(super) fn is_unknown(&self) -> bool {
        self.op.is_none()
    }

    /// Takes in what happened.
    pub(super) fn step(&mut self, core: &mut Core, input: &Input) -> Outcome {
        match (self.op, input) {
            (Some(op), Input::Swapped(done, swap)) if op == *done => match swap {
                Swap::Done => return Outcome::Stored,
                Swap::Lost => return Outcome::Lost,
                Swap::Unknown => self.op = None,
            },
            (Some(_), _) if core.now >= self.deadline => {
                core.forget_swap();
                self.op = None;
            }
            (Some(_), _) => core.wake_at(self.deadline),
            (None, Input::Loaded) if core.record.as_ref() == Some(&self.record) => {
                return Outcome::Stored;
            }
            (None, Input::Loaded) => self.missing = true,
            (None, _) => {}
        }
        match self.missing && !self.must_wait(core) {
            true => Outcome::Missing,
            false => Outcome::Pending,
        }
    }

    fn must_wait(&self, core: &mut Core) -> bool {
        let half_done = |r: &Record| r.phase != RecordPhase::Serving;
        let until = core.swap_failure.as_ref().map(|(_, until)| *until);
        let Some(until) = until.filter(|until| core.now < *until) else {
            return false;
        };
        if !core.record.as_ref().is_some_and(half_done) {
            return false;
        }
        core.wake_at(until);
        let why = core.barred();
        core.set_undecided(why);
        true
    }
}
