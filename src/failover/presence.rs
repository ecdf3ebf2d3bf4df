//! A pointsman that carries requests tells the monitors that it is there, and which decisions it obeys:
//! then they need not guess how long it may take. Step by step:
//!
//! - It starts: its presence is stored. In strict mode its gate stays closed until the record was read
//!   once more afterwards: either that reading shows a decision, or whoever makes one finds it on the roll.
//! - Somebody decides: the gate closes. When nothing is on its way any more its presence says so, in one
//!   small write. A decision that was obeyed stays obeyed: no older record is ever believed again.
//! - Nothing happens: its presence is stored again every [`TELL`], so that it does not count as gone.
//! - It can not tell: traffic goes on; in strict mode no longer than [`PRESENT`], because after [`super::roll`]'s
//!   limit, which is longer, the monitors do not wait for it any more.
//! - It was silent for so long, because it or the coordinator stood still: it comes back as another one, so that
//!   nobody who removes what is left of the old one removes the new one.
//! - It ends in good order: its presence is removed. It dies: the monitors wait for it until it counts as gone.

use std::time::Duration;

use super::core::{Core, Trust};
use super::outbox::RELOAD;
use super::panel::LISTEN;
use super::{Action, Authority, OpId, Presence, RecordPhase};
use crate::topology::{Epoch, Timestamp};

/// Between two times that a presence which stays the same is told.
const TELL: Duration = Duration::from_secs(5);
/// How long one that was told is relied on by who told it.
pub(super) const PRESENT: Duration = Duration::from_secs(15);
/// The longest wait for the coordinator's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What this pointsman told of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Attendance {
    life: u32,
    beat: u64,
    /// The last decision that was obeyed.
    obeyed: Epoch,
    /// Not answered yet.
    telling: Option<Telling>,
    told: Option<Told>,
    /// When this life was stored last, or tried for the first time.
    alive_at: Option<Timestamp>,
    /// Why the last try failed, and when the next one is due.
    failure: Option<String>,
    again_at: Timestamp,
    warned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Telling {
    op: OpId,
    obeyed: Epoch,
    at: Timestamp,
}

/// What is stored for sure.
#[derive(Clone, Copy, Debug)]
struct Told {
    obeyed: Epoch,
    /// When this life was known to be stored for the first time.
    since: Timestamp,
    /// When the last one was sent.
    at: Timestamp,
}

/// What becomes of the requests that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Flows,
    /// The gate is closed, and some may be on their way until this publication is obeyed.
    Ends(OpId),
    /// Nothing is on its way.
    Stands,
}

impl Core {
    /// Whether monitors elsewhere must know of this pointsman.
    pub(super) fn carries(&self) -> bool {
        match &self.authority {
            Authority::Shares(panel) => panel.carries,
            Authority::Obeys { .. } => true,
            Authority::Decides | Authority::Follows | Authority::Sentinel => false,
        }
    }

    /// Tells what is news, and what is old again when it is due.
    pub(super) fn attend(&mut self) {
        if !self.carries() {
            return;
        }
        self.note_obedience();
        let now = self.now;
        if let Some(telling) = self.attendance.telling {
            let limit = telling.at + ANSWER_LIMIT;
            if now < limit {
                self.wake_at(limit);
                return;
            }
            self.attendance.telling = None;
        }
        let due = match self.attendance.told {
            Some(told) if told.obeyed == self.attendance.obeyed => told.at + TELL,
            _ => now,
        };
        let due = due.max(self.attendance.again_at);
        if now < due {
            self.wake_at(due);
            return;
        }
        let op = self.op();
        self.warn_of_failures();
        let attendance = &mut self.attendance;
        let alive_at = *attendance.alive_at.get_or_insert(now);
        if now - alive_at >= PRESENT {
            attendance.life += 1;
            attendance.told = None;
            attendance.alive_at = Some(now);
        }
        attendance.beat += 1;
        let obeyed = attendance.obeyed;
        attendance.telling = Some(Telling {
            op,
            obeyed,
            at: now,
        });
        let presence = Presence {
            pointsman: self.me.clone(),
            life: attendance.life,
            obeyed,
            beat: attendance.beat,
        };
        self.wake_at(now + ANSWER_LIMIT);
        self.push(Action::Attend { op, presence });
    }

    /// The record can be read, and the presence can not be written: nobody would see it elsewhere.
    fn warn_of_failures(&mut self) {
        let attendance = &mut self.attendance;
        let silent = attendance
            .alive_at
            .is_some_and(|at| self.now - at >= PRESENT);
        if let Some(why) = &attendance.failure
            && silent
            && self.trust == Trust::Known
            && !std::mem::replace(&mut attendance.warned, true)
        {
            let why = format!(
                "the monitors can not be told that this pointsman carries requests, and will not wait \
                 for it in a switchover: {why}"
            );
            self.emit("absent", None, why, true);
        }
    }

    /// Nothing is on its way, and requests wait for the decision that is being made: it is obeyed. One's
    /// own needs no word to others.
    fn note_obedience(&mut self) {
        if let Some(record) = &self.record
            && record.phase != RecordPhase::Serving
            && record.by != self.me
            && self.traffic == Traffic::Stands
        {
            self.attendance.obeyed = self.attendance.obeyed.max(record.epoch);
        }
    }

    /// An answer to [`Action::Attend`].
    pub(super) fn attended(&mut self, op: OpId, outcome: Result<(), String>) {
        let now = self.now;
        let attendance = &mut self.attendance;
        let Some(telling) = attendance.telling.take_if(|t| t.op == op) else {
            return;
        };
        attendance.failure = outcome.err();
        if attendance.failure.is_some() {
            // Somebody waits for an acknowledgement, and for nothing else.
            let awaited = attendance
                .told
                .is_some_and(|told| told.obeyed < telling.obeyed);
            attendance.again_at = now + if awaited { LISTEN } else { RELOAD };
            return;
        }
        attendance.warned = false;
        let since = attendance.told.map_or(now, |told| told.since);
        attendance.told = Some(Told {
            obeyed: telling.obeyed,
            since,
            at: telling.at,
        });
        attendance.alive_at = Some(telling.at);
    }

    /// What is to be removed when this pointsman ends in good order.
    pub(super) fn presence(&self) -> Option<Presence> {
        let attendance = &self.attendance;
        (attendance.beat > 0).then(|| Presence {
            pointsman: self.me.clone(),
            life: attendance.life,
            obeyed: attendance.obeyed,
            beat: attendance.beat,
        })
    }

    /// In strict mode, of one that carries requests: until when it is on the roll for sure, and readings
    /// of the record from which moment on were made while it was.
    pub(super) fn on_the_roll(&self) -> Option<(Timestamp, Timestamp)> {
        let told = self.attendance.told?;
        Some((told.since, told.at + PRESENT))
    }
}
