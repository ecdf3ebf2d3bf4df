//! Several monitors share one record: a primary that does not answer counts as lost only when most failure
//! domains say so. What the others say counts only while it is seen to be said again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::{Action, Authority, Opinion};
use crate::topology::{Epoch, Fault, Timestamp};

/// Between two times that an opinion which holds is told.
pub(super) const BEAT: Duration = Duration::from_millis(500);
/// An opinion that was not seen to be told again for this long may be that of a dead monitor.
const FRESH: Duration = Duration::from_secs(2);
/// Between two readings while others are waited for, should no change of the record be told.
pub(super) const LISTEN: Duration = Duration::from_millis(100);

/// What a monitor must know of those that share its record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Panel {
    /// The failure domain this monitor runs in.
    pub domain: Arc<str>,
    /// Failure domains that have a monitor; more than half of them must agree.
    pub domains: u32,
    /// How long a proxy may forward without having confirmed the record; `None`: without end.
    pub view_lease: Option<Duration>,
}

impl Panel {
    /// How many failure domains must see a primary as lost.
    pub fn majority(&self) -> usize {
        self.domains as usize / 2 + 1
    }
}

/// What the monitors say.
#[derive(Clone, Debug, Default)]
pub(super) struct Voices {
    told: Option<Told>,
    /// The others, as the record's last reading had them.
    heard: BTreeMap<Arc<str>, Heard>,
    /// Whether they were read at all.
    listening: bool,
}

/// What this monitor said last.
#[derive(Clone, Copy, Debug)]
struct Told {
    epoch: Epoch,
    lost: bool,
    beat: u64,
    at: Timestamp,
}

#[derive(Clone, Debug)]
struct Heard {
    opinion: Opinion,
    /// When it was seen to be told; `None`: it was there when we looked for the first time.
    told_at: Option<Timestamp>,
}

impl Voices {
    /// Takes in what is stored.
    pub(super) fn take_in(&mut self, opinions: Vec<Opinion>, me: &str, now: Timestamp) {
        let mut before = std::mem::take(&mut self.heard);
        for opinion in opinions.into_iter().filter(|o| *o.monitor != *me) {
            let monitor = opinion.monitor.clone();
            let heard = match before.remove(&monitor) {
                Some(known) if known.opinion.beat >= opinion.beat => known,
                known => Heard {
                    opinion,
                    told_at: (known.is_some() || self.listening).then_some(now),
                },
            };
            self.heard.insert(monitor, heard);
        }
        self.listening = true;
    }

    /// The other failure domains that see the primary of `epoch` as lost.
    fn agreeing(&self, epoch: Epoch, now: Timestamp) -> BTreeSet<&str> {
        let fresh = |h: &&Heard| h.told_at.is_some_and(|at| now - at < FRESH);
        self.heard
            .values()
            .filter(fresh)
            .filter(|h| h.opinion.lost && h.opinion.epoch == epoch)
            .map(|h| &*h.opinion.domain)
            .collect()
    }
}

/// Whether a monitor alone may be wrong about it: what it can not reach others may.
fn is_contestable(fault: Fault) -> bool {
    matches!(fault, Fault::Refused | Fault::Unacked | Fault::Silent)
}

impl Core {
    pub(super) fn panel(&self) -> Option<&Panel> {
        match &self.authority {
            Authority::Shares(panel) => Some(panel),
            _ => None,
        }
    }

    /// Whether others must see `fault` too before anything is done about it.
    pub(super) fn needs_majority(&self, fault: Fault) -> bool {
        self.panel().is_some_and(|panel| panel.domains > 1) && is_contestable(fault)
    }

    /// Tells the other monitors whether the recorded primary is lost by a fault that they must see too,
    /// as soon as that is news, and again while it holds.
    pub(super) fn tell(&mut self, lost: bool) {
        let (Some(panel), Some(record)) = (self.panel(), &self.record) else {
            return;
        };
        if panel.domains < 2 {
            return;
        }
        let epoch = record.epoch;
        let due = match self.voices.told {
            None => true,
            Some(told) if lost => {
                (told.epoch, told.lost) != (epoch, true) || self.now >= told.at + BEAT
            }
            Some(told) => told.lost,
        };
        let domain = panel.domain.clone();
        if due {
            let beat = self.voices.told.map_or(1, |told| told.beat + 1);
            let at = self.now;
            self.voices.told = Some(Told {
                epoch,
                lost,
                beat,
                at,
            });
            self.push(Action::Opine {
                opinion: Opinion {
                    monitor: self.me.clone(),
                    domain,
                    epoch,
                    lost,
                    beat,
                },
            });
        }
        if lost && let Some(told) = self.voices.told {
            self.wake_at(told.at + BEAT);
        }
    }

    /// Why the recorded primary does not count as lost although this monitor sees it so; `None` when a
    /// majority of the failure domains, this one included, does.
    pub(super) fn dissent(&mut self) -> Option<String> {
        let (panel, epoch) = (self.panel()?, self.record.as_ref()?.epoch);
        let mut agreeing = self.voices.agreeing(epoch, self.now);
        agreeing.insert(&panel.domain);
        let majority = panel.majority();
        if agreeing.len() >= majority {
            return None;
        }
        let others: BTreeSet<&str> = self
            .voices
            .heard
            .values()
            .map(|h| &*h.opinion.domain)
            .filter(|domain| !agreeing.contains(domain))
            .collect();
        let others = match others.len() {
            0 => "no other was heard of".to_owned(),
            1 => format!("{} does not", others.into_iter().collect::<String>()),
            _ => {
                let others: Vec<&str> = others.into_iter().collect();
                format!("{} do not", others.join(", "))
            }
        };
        let why = format!(
            "{majority} of {} failure domains must see the primary as lost; {} and {others}",
            panel.domains,
            see(&agreeing),
        );
        if self.now - self.record_at >= LISTEN {
            self.load_unless_asked();
        }
        self.wake_at(self.record_at.max(self.now) + LISTEN);
        Some(why)
    }

    /// Where a proxy may not forward for long without the record (strict mode): why it may not now.
    pub(super) fn lapsed(&mut self) -> Option<String> {
        let lease = self.view_lease()?;
        if self.record.is_none() {
            return Some("there is no record, and view_lease is set: requests wait".to_owned());
        }
        let until = self.record_at + lease;
        if self.now < until {
            self.wake_at(until);
            return None;
        }
        self.load_unless_asked();
        Some(format!(
            "the record was not confirmed for {} ms, and view_lease is {} ms: requests wait",
            (self.now - self.record_at).as_millis(),
            lease.as_millis()
        ))
    }

    pub(super) fn view_lease(&self) -> Option<Duration> {
        match &self.authority {
            Authority::Shares(panel) => panel.view_lease,
            Authority::Obeys { view_lease } => *view_lease,
            Authority::Decides | Authority::Follows | Authority::Sentinel => None,
        }
    }
}

fn see(domains: &BTreeSet<&str>) -> String {
    let verb = if domains.len() == 1 { "does" } else { "do" };
    let names: Vec<&str> = domains.iter().copied().collect();
    format!("{} {verb}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    fn opinion(monitor: &str, domain: &str, lost: bool, beat: u64) -> Opinion {
        Opinion {
            monitor: monitor.into(),
            domain: domain.into(),
            epoch: Epoch(3),
            lost,
            beat,
        }
    }

    fn agreeing(voices: &Voices, now: u64) -> Vec<&str> {
        voices.agreeing(Epoch(3), at(now)).into_iter().collect()
    }

    #[test]
    fn what_a_dead_monitor_left_counts_only_when_it_is_told_again() {
        let mut voices = Voices::default();
        voices.take_in(vec![opinion("b", "two", true, 7)], "a", at(0));
        assert!(agreeing(&voices, 1).is_empty());
        voices.take_in(vec![opinion("b", "two", true, 7)], "a", at(100));
        assert!(agreeing(&voices, 101).is_empty());
        voices.take_in(vec![opinion("b", "two", true, 8)], "a", at(200));
        assert_eq!(agreeing(&voices, 201), ["two"]);
        // It says nothing more.
        voices.take_in(vec![opinion("b", "two", true, 8)], "a", at(2100));
        assert_eq!(agreeing(&voices, 2199), ["two"]);
        assert!(agreeing(&voices, 2200).is_empty());
    }

    #[test]
    fn an_opinion_that_appears_counts_at_once() {
        let mut voices = Voices::default();
        voices.take_in(vec![], "a", at(0));
        voices.take_in(vec![opinion("b", "two", true, 1)], "a", at(10));
        assert_eq!(agreeing(&voices, 10), ["two"]);
    }

    #[test]
    fn our_own_another_epochs_and_a_withdrawn_opinion_do_not_count() {
        let mut voices = Voices::default();
        voices.take_in(vec![], "a", at(0));
        let mut old = opinion("b", "two", true, 1);
        old.epoch = Epoch(2);
        let all = vec![
            opinion("a", "one", true, 1),
            old,
            opinion("c", "three", false, 1),
        ];
        voices.take_in(all, "a", at(10));
        assert!(agreeing(&voices, 10).is_empty());
    }

    #[test]
    fn monitors_of_one_domain_count_once() {
        let mut voices = Voices::default();
        voices.take_in(vec![], "a", at(0));
        let both = vec![opinion("b", "two", true, 1), opinion("c", "two", true, 1)];
        voices.take_in(both, "a", at(10));
        assert_eq!(agreeing(&voices, 10), ["two"]);
    }
}
