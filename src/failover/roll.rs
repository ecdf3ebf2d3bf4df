//! The roll: which pointsmen carry requests, and which decisions each of them obeys, as the monitors
//! read it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::Core;
use super::presence::PRESENT;
use super::{Action, Presence};
use crate::topology::{Epoch, Timestamp};

/// A presence that stays the same for so long is that of a pointsman that is gone, or has stopped to
/// forward by itself. Clocks may differ a little in speed.
const GONE: Duration = Duration::from_secs(PRESENT.as_secs() + 5);
/// Between two readings when nobody is waited for.
const LOOK: Duration = Duration::from_secs(5);
/// Between two readings while somebody is waited for: at first, and later.
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(50);
/// A reading that was not answered for so long is asked for again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long the monitor that switches over waits for those who do not acknowledge: one that hangs must not
/// hold all the others.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Roll {
    seen: BTreeMap<String, Seen>,
    /// When the last reading was asked for, and when it was answered.
    read: Option<(Timestamp, Timestamp)>,
    asked: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Seen {
    presence: Presence,
    /// When it was seen for the first time as it is now.
    since: Timestamp,
}

impl Roll {
    /// Takes in what was asked for at `asked`.
    pub(super) fn take_in(&mut self, present: Vec<Presence>, asked: Timestamp, now: Timestamp) {
        let mut before = std::mem::take(&mut self.seen);
        for presence in present {
            let name = presence.name();
            let seen = match before.remove(&name) {
                Some(known) if known.presence.beat == presence.beat => known,
                _ => Seen {
                    presence,
                    since: now,
                },
            };
            self.seen.insert(name, seen);
        }
        self.asked = None;
        self.read = Some((asked, now));
    }

    /// It could not be read.
    pub(super) fn failed(&mut self) {
        self.asked = None;
    }

    /// Those who have not obeyed `epoch`, as it was read at `since` or later; `None`: not read since.
    fn missing(&self, me: &str, epoch: Epoch, since: Timestamp) -> Option<Vec<&str>> {
        let (asked, _) = self.read.filter(|(asked, _)| *asked >= since)?;
        let missing = self.seen.values().filter(|seen| {
            let presence = &seen.presence;
            *presence.pointsman != *me && presence.obeyed < epoch && asked - seen.since < GONE
        });
        Some(missing.map(|seen| &*seen.presence.pointsman).collect())
    }
}

/// A decision that others are to acknowledge.
#[derive(Clone, Copy, Debug)]
pub(super) struct RollCall {
    epoch: Epoch,
    /// The decision was in the record at this time: whoever came later obeys it from the start.
    pub since: Timestamp,
}

impl RollCall {
    /// For the record that was just stored.
    pub(super) fn begin(core: &Core) -> RollCall {
        let epoch = core.record.as_ref().map(|record| record.epoch);
        RollCall {
            epoch: epoch.unwrap_or_default(),
            since: core.now,
        }
    }

    /// Whether everybody on the roll has acknowledged; reads it again when not.
    pub(super) fn is_complete(&self, core: &mut Core) -> bool {
        let missing = core.roll.missing(&core.me, self.epoch, self.since);
        if missing.is_some_and(|missing| missing.is_empty()) {
            return true;
        }
        let pause = match core.now - self.since < PATIENCE {
            true => SOON,
            false => LATER,
        };
        core.read_roll(self.since, pause);
        false
    }

    /// Notes who has not.
    pub(super) fn note_missing(&self, core: &mut Core) {
        let text = match core.roll.missing(&core.me, self.epoch, self.since) {
            Some(missing) if missing.is_empty() => return,
            Some(missing) => format!("not acknowledged in time by {}", missing.join(", ")),
            None => "who carries requests could not be read in time".to_owned(),
        };
        core.note(text);
    }
}

impl Core {
    /// Sees from time to time who is there, so that it is known who is gone when that matters.
    pub(super) fn keep_roll(&mut self) {
        if self.panel().is_some() {
            let due = self.roll.read.map_or(self.now, |(_, at)| at + LOOK);
            if self.now >= due {
                self.ask_for_roll();
            }
        }
    }

    /// Reads it `pause` after the last reading, unless that is from before `since`: then at once.
    fn read_roll(&mut self, since: Timestamp, pause: Duration) {
        let last = self.roll.read.filter(|(asked, _)| *asked >= since);
        let due = last.map_or(self.now, |(_, at)| at + pause);
        if self.now < due {
            self.wake_at(due);
            return;
        }
        self.ask_for_roll();
    }

    fn ask_for_roll(&mut self) {
        let limit = self.roll.asked.map(|at| at + ANSWER_LIMIT);
        match limit.filter(|limit| self.now < *limit) {
            Some(limit) => self.wake_at(limit),
            None => {
                self.roll.asked = Some(self.now);
                self.push(Action::ReadRoll);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    fn presence(pointsman: &str, obeyed: u64, beat: u64) -> Presence {
        Presence {
            pointsman: pointsman.into(),
            life: 0,
            obeyed: Epoch(obeyed),
            beat,
        }
    }

    fn missing(roll: &Roll, since: u64) -> Option<Vec<&str>> {
        roll.missing("me", Epoch(3), at(since))
    }

    #[test]
    fn whoever_has_not_obeyed_is_missing_and_nobody_is_before_it_was_read() {
        let mut roll = Roll::default();
        assert_eq!(missing(&roll, 0), None);
        let all = vec![
            presence("a", 3, 1),
            presence("b", 2, 1),
            presence("me", 0, 1),
        ];
        roll.take_in(all, at(10), at(12));
        assert_eq!(missing(&roll, 10), Some(vec!["b"]));
        // Asked for before the decision was stored: somebody may have come in between.
        assert_eq!(missing(&roll, 11), None);
        roll.take_in(vec![presence("b", 3, 2)], at(20), at(21));
        assert_eq!(missing(&roll, 11), Some(vec![]));
    }

    #[test]
    fn one_that_stays_the_same_is_gone_only_when_it_was_read_so_for_long() {
        let mut roll = Roll::default();
        let gone = GONE.as_millis() as u64;
        roll.take_in(vec![presence("b", 2, 7)], at(0), at(5));
        // Nobody looked meanwhile: nothing is known.
        assert_eq!(missing(&roll, 0), Some(vec!["b"]));
        roll.take_in(vec![presence("b", 2, 7)], at(gone), at(gone + 1));
        assert_eq!(missing(&roll, 0), Some(vec!["b"]));
        roll.take_in(vec![presence("b", 2, 7)], at(gone + 5), at(gone + 6));
        assert_eq!(missing(&roll, 0), Some(vec![]));
        roll.take_in(vec![presence("b", 2, 8)], at(gone + 10), at(gone + 11));
        assert_eq!(missing(&roll, 0), Some(vec!["b"]));
    }
}
