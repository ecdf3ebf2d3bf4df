//! The record says who serves: verify it, keep the gate, and see when it is lost.

use std::time::Duration;

use super::choice::Choice;
use super::core::{Core, Input};
use super::detector::{self, Finding};
use super::machine::{Next, Phase};
use super::panel::BEAT;
use super::repoint::Repointer;
use super::report::Ending;
use super::swap::{self, Proposal};
use super::switchover::Switchover;
use super::unfence::Unfencing;
use super::unplanned::Failover;
use super::{Action, Ancestor, Decline, OpId, ProbeError, Record, RecordPhase, Version};
use crate::resp::info::Role;
use crate::topology::{Fault, Gate, NodeId, Outcome, Primary, Timestamp};

/// Between two probes of everybody while the primary refuses and no verdict is possible yet.
const POKE: Duration = Duration::from_millis(10);
/// The longest wait for the authority's answer before its outcome counts as unknown.
const SWAP_LIMIT: Duration = Duration::from_secs(5);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    version: Version,
    /// What was heard of the primary before this counts no more.
    doubted: Option<Timestamp>,
    /// Adopts a renamed history.
    adopting: Option<Proposal>,
    poke_at: Option<Timestamp>,
    /// What to report and announce once the gate of a new primary is open.
    ending: Option<Box<Ending>>,
    /// Since when the primary is lost, and too few of the others see it.
    alone_since: Option<Timestamp>,
    repointer: Repointer,
    unfencing: Unfencing,
}

impl Serving {
    fn new(core: &Core) -> Serving {
        Serving {
            version: core.version,
            doubted: None,
            adopting: None,
            poke_at: None,
            ending: None,
            alone_since: None,
            repointer: Repointer::default(),
            unfencing: Unfencing::default(),
        }
    }

    /// Believes a record that says who serves; the gate opens once that was verified.
    pub(super) fn believe(core: &mut Core) -> Serving {
        let mut serving = Serving::new(core);
        let Some(record) = &core.record else {
            return serving;
        };
        let believed = core.published.primary.as_ref().is_some_and(|p| {
            p.node == record.primary && p.run_id == record.run_id && p.repl_id == record.repl_id
        });
        if !believed {
            let epoch = record.epoch;
            core.publish(epoch, Gate::Closed, None, false);
            // What was heard before may be from before that decision.
            serving.doubted = Some(core.now);
        }
        core.probe_all();
        serving
    }

    /// Serves with the primary that was just promoted and verified.
    /// `demotion` is already under way.
    pub(super) fn elected(
        core: &mut Core,
        primary: Primary,
        ending: Ending,
        demotion: Option<(NodeId, OpId)>,
    ) -> Phase {
        let mut serving = Serving::new(core);
        if ending.outcome == Outcome::Done {
            serving.repointer.flatten(core, &primary.node, demotion);
        }
        serving.ending = Some(Box::new(ending));
        Phase::Serving(Box::new(serving))
    }

    /// What is being done to a node, for the status.
    pub(super) fn repointing(&self, node: &NodeId) -> Option<String> {
        self.repointer.describe(node)
    }

    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        if core.version != self.version {
            return Next::Go(self.replaced(core));
        }
        let Some(record) = core.record.clone() else {
            return Next::Go(core.route("the record vanished"));
        };
        if let Some(adopting) = &mut self.adopting
            && adopting.step(core, input) != swap::Outcome::Pending
        {
            self.adopting = None;
        }
        self.repointer.take_in(core, input);
        self.suspect(core, &record, input);
        let finding = self.finding(core, &record);
        let contested = match finding {
            Finding::Lost { fault, .. } => core.needs_majority(fault),
            _ => false,
        };
        core.tell(contested);
        if !contested {
            self.alone_since = None;
        }
        match finding {
            Finding::Healthy => {
                self.healthy(core, &record, input);
                if let Input::Switchover { request, to } = input {
                    return Switchover::request(core, record, *request, to.clone());
                }
            }
            Finding::Renamed => self.adopt(core, &record),
            Finding::Undecided { until, why, close } => {
                self.undecided(core, &record, until, why, close);
            }
            Finding::Lost { fault, why } => {
                if let Some(next) = self.lost(core, &record, fault, why) {
                    if let Input::Switchover { request, .. } = input {
                        core.refuse_switchover(*request, why);
                    }
                    return next;
                }
            }
        }
        if let Input::Switchover { request, .. } = input {
            let why = core.undecided.clone();
            let why = why.unwrap_or_else(|| "the primary is not healthy at present".to_owned());
            core.refuse_switchover(*request, why);
        }
        Next::Stay(Phase::Serving(self))
    }

    /// The record changed: another monitor's decision, or our own adoption of a new history.
    fn replaced(self: Box<Self>, core: &mut Core) -> Phase {
        let phase = core.route("the record changed");
        match phase {
            Phase::Serving(mut serving) => {
                serving.repointer = self.repointer;
                serving.ending = self.ending;
                Phase::Serving(serving)
            }
            other => {
                if let Some(ending) = self.ending {
                    core.finish_report(*ending);
                }
                other
            }
        }
    }

    /// Reacts to the first sign of trouble: everybody is probed at once.
    fn suspect(&mut self, core: &mut Core, record: &Record, input: &Input) {
        match input {
            Input::Hint { node, close } if *node == record.primary => {
                core.recorder();
                core.note(format!("clients' connections to {node} are in trouble"));
                if *close {
                    self.doubted = Some(core.now);
                    core.outage_since.get_or_insert(core.now);
                    core.close_gate();
                }
                core.probe_all();
            }
            Input::Observed(node) if *node == record.primary => {
                if core.node(node).is_some_and(|n| n.agreeing == 1) {
                    core.probe(node);
                }
                let Some(streak) = core.node(node).and_then(|n| n.streak.clone()) else {
                    return;
                };
                core.recorder();
                core.note(format!("probe of {node}: {:?}", streak.last));
                if streak.count == 1 {
                    core.emit("+sdown", Some(node), format!("{:?}", streak.last), false);
                    core.probe_all();
                } else if streak.last == ProbeError::Refused && streak.refused <= 2 {
                    core.probe(node);
                }
            }
            _ => {}
        }
    }

    fn finding(&self, core: &Core, record: &Record) -> Finding {
        let heard = core
            .node(&record.primary)
            .map(|n| n.streak.as_ref().map_or(n.info_at, |s| s.at));
        if let (Some(since), Some(heard)) = (self.doubted, heard)
            && heard <= since
        {
            return Finding::Undecided {
                until: None,
                why: "the primary is being probed",
                close: true,
            };
        }
        detector::judge(
            &core.nodes,
            record,
            &core.policy,
            core.last_offset,
            core.now,
        )
    }

    fn healthy(&mut self, core: &mut Core, record: &Record, input: &Input) {
        self.doubted = None;
        self.poke_at = None;
        if let Some(why) = core.lapsed() {
            core.set_undecided(Some(why));
            return;
        }
        let primary = Primary {
            node: record.primary.clone(),
            run_id: record.run_id.clone(),
            repl_id: record.repl_id.clone(),
        };
        if core.published.gate == Gate::Closed || core.published.primary.as_ref() != Some(&primary)
        {
            self.open(core, record, primary);
        }
        core.recovered();
        self.repointer.step(core, record);
        self.unfencing.step(core, record, input);
    }

    /// Opens the gate: the primary was verified just now. A primary that stays keeps its published
    /// epoch, so that no connection to it is dropped.
    fn open(&mut self, core: &mut Core, record: &Record, primary: Primary) {
        let stays = core.published.primary.as_ref() == Some(&primary);
        let epoch = if stays {
            core.published.epoch
        } else {
            record.epoch
        };
        let suspected = core.published.gate == Gate::Closed && stays;
        core.phase("open");
        core.publish(epoch, Gate::Open, Some(primary.clone()), false);
        let from = core.recorder().from.clone();
        let ending = self.ending.take();
        let changed = ending.as_ref().is_some_and(|e| e.outcome == Outcome::Done);
        if changed {
            let detail = format!("epoch {epoch}");
            core.emit("+switch-master", Some(&primary.node), detail, false);
        }
        // Also when nobody was promoted: a monitor before this one may have told nobody.
        if !stays {
            core.push(Action::Announce {
                epoch,
                from: from.filter(|_| changed),
                to: primary.node.clone(),
            });
        }
        match ending {
            Some(ending) => core.finish_report(*ending),
            None => {
                let event = if suspected { "-sdown" } else { "+monitor" };
                core.emit(event, Some(&primary.node), "verified, serving", false);
            }
        }
    }

    /// Same process and data under a new replication id: the record follows.
    fn adopt(&mut self, core: &mut Core, record: &Record) {
        if self.adopting.is_some() {
            return;
        }
        let info = core.node(&record.primary).and_then(|n| n.live().cloned());
        let Some(info) = info else { return };
        if let Some(why) = core.barred() {
            core.set_undecided(Some(why));
            return;
        }
        let mut next = core.successor(record, RecordPhase::Serving);
        next.ancestor = Ancestor::of(&info);
        next.repl_id = info.repl_id;
        self.adopting = Some(Proposal::send(core, next, SWAP_LIMIT));
    }

    fn undecided(
        &mut self,
        core: &mut Core,
        record: &Record,
        until: Option<Timestamp>,
        why: &'static str,
        close: bool,
    ) {
        if close {
            core.outage_since.get_or_insert(core.now);
            core.close_gate();
        }
        if core.published.gate == Gate::Closed {
            core.undecided = Some(why.to_owned());
            core.note(why.to_owned());
        }
        if let Some(until) = until {
            core.wake_at(until);
        }
        let last = core
            .node(&record.primary)
            .and_then(|n| n.streak.as_ref())
            .map(|s| s.last.clone());
        if close && matches!(last, Some(ProbeError::Refused | ProbeError::ConnectionLost)) {
            if self.poke_at.is_none_or(|at| core.now >= at) {
                if self.poke_at.is_some() {
                    core.probe_all();
                }
                self.poke_at = Some(core.now + POKE);
            }
            if let Some(at) = self.poke_at {
                core.wake_at(at);
            }
        }
    }

    /// The primary is lost. Nothing is claimed while nobody could take over.
    fn lost(
        &mut self,
        core: &mut Core,
        record: &Record,
        fault: Fault,
        why: &'static str,
    ) -> Option<Next> {
        core.outage_since.get_or_insert(core.now);
        core.close_gate();
        core.recorder();
        core.note(why.to_owned());
        if let Some(barred) = core.barred_from_failover() {
            core.set_undecided(Some(barred));
            return None;
        }
        let fault = if core.policy.promote_on_reborn || fault != Fault::Reborn {
            fault
        } else {
            return self.accept_restart(core, record);
        };
        let answers = core.live_answers();
        let excluded = std::collections::BTreeMap::new();
        match core.choose(&answers, &excluded, fault) {
            (Choice::Take(_), _) => {
                if self.stands_alone(core, fault) {
                    return None;
                }
                if let Some(ending) = self.ending.take() {
                    // Lost before its gate ever opened: the report of its election ends here.
                    core.finish_report(*ending);
                }
                let record = record.clone();
                Some(Next::Go(Failover::claim(core, record, fault, why)))
            }
            (Choice::Wait { why, until }, _) => {
                core.decline(Decline::NoCandidate);
                core.set_undecided(Some(why));
                if let Some(until) = until {
                    core.wake_at(until);
                }
                None
            }
        }
    }

    /// Whether too few of the other monitors see the primary as lost. They may need a moment longer; only
    /// then is it told.
    fn stands_alone(&mut self, core: &mut Core, fault: Fault) -> bool {
        if !core.needs_majority(fault) {
            return false;
        }
        let Some(why) = core.dissent() else {
            self.alone_since = None;
            return false;
        };
        let since = *self.alone_since.get_or_insert(core.now);
        if core.now - since >= BEAT {
            core.decline(Decline::NoMajority);
            core.set_undecided(Some(why));
        } else {
            core.undecided = Some(why);
        }
        true
    }

    /// The operator wants a restarted primary to go on with what it loaded.
    fn accept_restart(&mut self, core: &mut Core, record: &Record) -> Option<Next> {
        let info = core.node(&record.primary).and_then(|n| n.live().cloned())?;
        if info.loading || info.role != Role::Primary {
            let why = "the restarted primary is not ready yet".to_owned();
            core.set_undecided(Some(why));
            return None;
        }
        if self.adopting.is_some() {
            return None;
        }
        let mut next = core.successor(record, RecordPhase::Serving);
        next.ancestor = Ancestor::of(&info);
        next.run_id = info.run_id;
        next.repl_id = info.repl_id;
        self.adopting = Some(Proposal::send(core, next, SWAP_LIMIT));
        None
    }
}
