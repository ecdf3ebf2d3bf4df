//! The unplanned change of primary: claim the next epoch, fence, read fresh offsets, choose,
//! promote, verify, commit. Every step is idempotent, so that it can be resumed after a crash.
//!
//! ```text
//! Claiming -> Choosing -> Promoting -> Committing -> (serving)
//!     ^          ^  ^________|  |refused, not done
//!     |          |__________ Examining   outcome unknown: look before anything else
//!     |________________________|  it may be primary and can not be asked: next epoch
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::{Candidate, position};
use super::choice::Choice;
use super::core::{Core, Former, Input, Swap};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::round::Round;
use super::serving::Serving;
use super::{Ancestor, Authority, NodeOp, NodeOpOutcome, OpId, ProbeError, Record, RecordPhase};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Epoch, Fault, Gate, NodeId, Outcome, Primary, Timestamp};

/// How long the winner of a swap may begin promotions under it. Another monitor takes a half-done
/// decision over only after this and the bound of one command have passed.
pub(super) const TENURE: Duration = Duration::from_secs(2);
/// The longest wait for the authority's answer before its outcome counts as unknown.
const SWAP_LIMIT: Duration = Duration::from_secs(5);
/// Between two readings that shall prove that offsets stand still.
const SETTLE: Duration = Duration::from_millis(3);
/// Between two looks while nobody can be promoted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a candidate that failed is passed over before it may be tried again.
const EXCLUSION: Duration = Duration::from_secs(1);
/// The longest wait for the workers to obey the closed gate of the new epoch.
const OBEY_LIMIT: Duration = Duration::from_millis(250);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Failover {
    fault: Fault,
    /// The record before the claim: whose history counts.
    old: Record,
    /// When the claim in force was sent.
    claimed_at: Timestamp,
    /// The claim in force and when it was confirmed.
    owned: Option<(Epoch, Timestamp)>,
    obeying: Option<(OpId, Timestamp)>,
    excluded: BTreeMap<NodeId, (String, Timestamp)>,
    round: Round,
    /// The offsets of the round before, to see whether they stand still.
    before: Option<BTreeMap<NodeId, u64>>,
    next_round_at: Option<Timestamp>,
    fencing: BTreeMap<OpId, NodeId>,
    fenced: BTreeMap<NodeId, Option<u64>>,
    /// Until when a candidate may catch up with a fenced primary that is still connected.
    catch_up_until: Option<Timestamp>,
    /// The op of a switchover that makes the old primary follow, until it is answered.
    demotion: Option<OpId>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The record of the next epoch is being swapped in.
    Claiming {
        op: OpId,
        deadline: Timestamp,
    },
    /// The outcome of the claim is unknown; the record is being read.
    Confirming,
    Choosing,
    Promoting {
        op: OpId,
        candidate: Box<Candidate>,
        deadline: Timestamp,
    },
    /// The promotion's outcome is unknown.
    Examining {
        op: OpId,
        candidate: Box<Candidate>,
        since: Timestamp,
    },
    /// The record that says who serves is being swapped in.
    Committing(Box<Commit>),
}

/// The last step, shared with the switchover.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    op: Option<OpId>,
    deadline: Timestamp,
    record: Record,
    info: NodeInfo,
    bytes_lost: BytesLost,
}

impl Failover {
    /// Begins: claims the epoch after the known record's, and reads offsets at the same time.
    pub(super) fn claim(core: &mut Core, record: Record, fault: Fault, why: &str) -> Phase {
        let now = core.now;
        core.recorder().fault.get_or_insert(fault);
        core.note(why.to_owned());
        core.phase("claim");
        core.emit("+try-failover", Some(&record.primary), why, true);
        let round = Round::start(core);
        let mut failover = Failover {
            fault,
            old: record,
            claimed_at: now,
            owned: None,
            obeying: None,
            excluded: BTreeMap::new(),
            round,
            before: None,
            next_round_at: None,
            fencing: BTreeMap::new(),
            fenced: BTreeMap::new(),
            catch_up_until: None,
            demotion: None,
            stage: Stage::Choosing,
        };
        failover.send_claim(core);
        Phase::FailingOver(Box::new(failover))
    }

    /// A promotion that was verified by a switchover: only the commit is left.
    /// `demotion` makes the old primary follow meanwhile.
    pub(super) fn committing(
        core: &mut Core,
        old: Record,
        info: NodeInfo,
        to: &NodeId,
        demotion: OpId,
    ) -> Phase {
        let now = core.now;
        let epoch = old.epoch;
        let mut failover = Failover {
            fault: Fault::Switchover,
            old,
            claimed_at: now,
            owned: None,
            obeying: None,
            excluded: BTreeMap::new(),
            round: Round::empty(core),
            before: None,
            next_round_at: None,
            fencing: BTreeMap::new(),
            fenced: BTreeMap::new(),
            catch_up_until: None,
            demotion: None,
            stage: Stage::Choosing,
        };
        failover.demotion = Some(demotion);
        // The offsets were equal while the old one was paused.
        failover.stage = failover.commit(core, epoch, to, info, BytesLost::Exactly(0));
        Phase::FailingOver(Box::new(failover))
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault
    }

    /// Where it stands, for the status.
    pub(super) fn stage_name(&self) -> &'static str {
        match &self.stage {
            Stage::Claiming { .. } => "claiming the next epoch",
            Stage::Confirming => "reading the record after a swap of unknown outcome",
            Stage::Choosing if self.obeying.is_some() => "waiting for the workers to stop",
            Stage::Choosing if !self.fencing.is_empty() => "fencing",
            Stage::Choosing => "choosing",
            Stage::Promoting { .. } => "promoting",
            Stage::Examining { .. } => "examining a promotion of unknown outcome",
            Stage::Committing(_) => "committing",
        }
    }

    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        self.take_in(core, input);
        if matches!(input, Input::Loaded) && self.is_overtaken(core) {
            return Next::Go(core.route("another monitor took over"));
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Choosing);
        match stage {
            Stage::Claiming { op, deadline } => self.claiming(core, input, op, deadline),
            Stage::Confirming => self.confirming(core, input),
            Stage::Choosing => self.choosing(core),
            Stage::Promoting {
                op,
                candidate,
                deadline,
            } => self.promoting(core, input, op, candidate, deadline),
            Stage::Examining {
                op,
                candidate,
                since,
            } => self.examining(core, input, op, candidate, since),
            Stage::Committing(commit) => self.committed(core, input, commit),
        }
    }

    /// Whether the record that was just read is another monitor's. While a swap is under way its
    /// own answer tells.
    fn is_overtaken(&self, core: &Core) -> bool {
        let acting = matches!(
            self.stage,
            Stage::Choosing | Stage::Promoting { .. } | Stage::Examining { .. }
        );
        let ours = core.record.as_ref().is_some_and(|r| {
            r.by == core.me && self.owned.is_some_and(|(epoch, _)| epoch == r.epoch)
        });
        acting && !ours
    }

    fn stay(mut self: Box<Self>, stage: Stage) -> Next {
        self.stage = stage;
        Next::Stay(Phase::FailingOver(self))
    }

    fn go(mut self: Box<Self>, stage: Stage) -> Next {
        self.stage = stage;
        Next::Go(Phase::FailingOver(self))
    }

    /// Answers that count whatever the stage.
    fn take_in(&mut self, core: &mut Core, input: &Input) {
        let now = core.now;
        self.excluded.retain(|_, (_, until)| now < *until);
        match input {
            Input::Done(op, outcome) => {
                self.demotion = self.demotion.filter(|demotion| demotion != op);
                self.round.done(*op, outcome);
                if let Some(node) = self.fencing.remove(op) {
                    self.fence_done(core, node, outcome);
                }
            }
            Input::Obeyed(op) if self.obeying.is_some_and(|(o, _)| o == *op) => {
                self.obeying = None;
            }
            _ => {}
        }
        if let Some((_, deadline)) = self.obeying {
            if now >= deadline {
                self.obeying = None;
                let text = "not every worker obeyed the closed gate in time";
                core.note(text.to_owned());
                core.emit("gate-not-obeyed", None, text, true);
            } else {
                core.wake_at(deadline);
            }
        }
    }

    // ---- claim ----

    fn send_claim(&mut self, core: &mut Core) {
        let base = core.record.clone().unwrap_or_else(|| self.old.clone());
        let record = core.successor(&base, RecordPhase::FailingOver);
        self.claimed_at = core.now;
        let op = core.swap(record);
        self.stage = Stage::Claiming {
            op,
            deadline: core.now + SWAP_LIMIT,
        };
    }

    fn claiming(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        deadline: Timestamp,
    ) -> Next {
        match input {
            Input::Swapped(done, swap) if *done == op => match swap {
                Swap::Done => self.claimed(core),
                Swap::Lost => Next::Go(core.route("another monitor decided first")),
                Swap::Unknown => self.stay(Stage::Confirming),
            },
            _ if core.now >= deadline => {
                core.forget_swap();
                self.stay(Stage::Confirming)
            }
            _ => {
                core.wake_at(deadline);
                self.stay(Stage::Claiming { op, deadline })
            }
        }
    }

    /// The epoch is ours: every proxy is fenced by publishing it with the gate closed.
    fn claimed(mut self: Box<Self>, core: &mut Core) -> Next {
        let Some(record) = core.record.clone() else {
            return Next::Go(core.route("the record vanished"));
        };
        self.owned = Some((record.epoch, core.now));
        core.phase("fence");
        core.emit("+odown", Some(&self.old.primary), "epoch claimed", false);
        if let Some(op) = core.publish(record.epoch, Gate::Closed, None, true) {
            self.obeying = Some((op, core.now + OBEY_LIMIT));
            core.wake_at(core.now + OBEY_LIMIT);
        }
        self.go(Stage::Choosing)
    }

    fn confirming(self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        match (input, &core.record) {
            (Input::Loaded, Some(record)) => {
                if record.by == core.me && record.phase == RecordPhase::FailingOver {
                    self.claimed(core)
                } else {
                    Next::Go(core.route("another monitor decided first"))
                }
            }
            (Input::Loaded, None) => Next::Go(core.route("the record vanished")),
            _ => self.stay(Stage::Confirming),
        }
    }

    // ---- choose ----

    fn choosing(self: Box<Self>, core: &mut Core) -> Next {
        if !self.round.is_complete(core) {
            return self.stay(Stage::Choosing);
        }
        if let Some(at) = self.next_round_at {
            if core.now < at {
                core.wake_at(at);
                return self.stay(Stage::Choosing);
            }
            return self.read_again(core);
        }
        if self.obeying.is_some() || !self.fencing.is_empty() {
            return self.stay(Stage::Choosing);
        }
        core.phase("choose");
        let excluded = self
            .excluded
            .iter()
            .map(|(node, (why, _))| (node.clone(), why.clone()))
            .collect();
        let (choice, ranking) = core.choose(&self.round.answers, &excluded, self.fault);
        core.recorder().passed_over(&ranking.passed_over);
        match choice {
            Choice::Wait { why, until } => {
                if core.undecided.as_ref() != Some(&why) {
                    core.emit("-failover-abort-no-good-slave", None, why.clone(), true);
                }
                core.undecided = Some(why);
                if let Some(until) = until {
                    core.wake_at(until);
                }
                self.look_again(core, LOOK_AGAIN)
            }
            Choice::Take(candidate) => {
                core.undecided = None;
                self.chosen(core, candidate)
            }
        }
    }

    fn look_again(mut self: Box<Self>, core: &mut Core, after: Duration) -> Next {
        if after.is_zero() {
            return self.read_again(core);
        }
        let at = core.now + after;
        self.next_round_at = Some(at);
        core.wake_at(at);
        self.stay(Stage::Choosing)
    }

    fn read_again(mut self: Box<Self>, core: &mut Core) -> Next {
        self.next_round_at = None;
        self.before = Some(offsets(&self.round));
        self.round = Round::start(core);
        self.stay(Stage::Choosing)
    }

    fn chosen(mut self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        if self.fence_others(core, &candidate.node) {
            // What the fenced ones wrote until now may still be on its way to the candidate.
            return self.look_again(core, Duration::ZERO);
        }
        if candidate.incumbent && !self.is_fresh() {
            return self.look_again(core, Duration::ZERO);
        }
        if !candidate.incumbent && !self.stands_still(core, &candidate) {
            return self.look_again(core, SETTLE);
        }
        if let Some(why) = core.barred() {
            core.set_undecided(Some(why));
            return self.look_again(core, LOOK_AGAIN);
        }
        if core.authority == Authority::Shares && core.now - self.claimed_at > TENURE {
            self.send_claim(core);
            return Next::Stay(Phase::FailingOver(self));
        }
        let node = candidate.node.clone();
        core.emit("+selected-slave", Some(&node), "highest offset", false);
        if candidate.incumbent && !self.fenced.contains_key(&node) {
            let epoch = core.record.as_ref().map_or(self.old.epoch, |r| r.epoch);
            let lost = BytesLost::Exactly(0);
            let stage = self.commit(core, epoch, &node, candidate.info, lost);
            return self.stay(stage);
        }
        self.promote(core, candidate)
    }

    /// Fences every other node that says it is primary. Returns whether one of them must be awaited
    /// because it shares the candidate's history.
    fn fence_others(&mut self, core: &mut Core, chosen: &NodeId) -> bool {
        let timeout = core.policy.node_op_timeout;
        let mut await_one = false;
        for (node, info) in self.round.answers.clone() {
            let handled = self.fenced.contains_key(&node);
            if node == *chosen || info.role != Role::Primary || handled {
                continue;
            }
            core.emit("+fence", Some(&node), "it says it is primary", false);
            let op = core.node_op(&node, NodeOp::Fence, timeout);
            if position(&info, &self.old).is_some() {
                self.fencing.insert(op, node);
                await_one = true;
            } else {
                self.fenced.insert(node, None);
            }
        }
        await_one
    }

    fn fence_done(&mut self, core: &mut Core, node: NodeId, outcome: &NodeOpOutcome) {
        let text = match outcome {
            NodeOpOutcome::Done(_) => format!("{node} fenced"),
            NodeOpOutcome::Refused(why) => format!("{node} could not be fenced: {why}"),
            NodeOpOutcome::Unknown(why) => format!("{node} may not be fenced: {why}"),
            NodeOpOutcome::Unreachable(_) => format!("{node} is out of reach, not fenced"),
        };
        core.note(text);
        let offset = match outcome {
            NodeOpOutcome::Done(info) => position(info, &self.old),
            _ => None,
        };
        if offset.is_some() {
            self.catch_up_until = Some(core.now + core.policy.catch_up_timeout);
        }
        self.fenced.insert(node, offset);
    }

    /// Whether no more bytes can reach the candidate: its link is down, or two readings agree and a
    /// fenced primary that it is connected to has nothing it lacks.
    fn stands_still(&self, core: &Core, candidate: &Candidate) -> bool {
        let info = &candidate.info;
        if info.role == Role::Primary || !info.link_up {
            return true;
        }
        let here = position(info, &self.old).unwrap_or(0);
        let behind = self.fenced.values().flatten().any(|offset| *offset > here);
        if behind && self.catch_up_until.is_some_and(|until| core.now < until) {
            return false;
        }
        self.is_fresh() && self.before.as_ref() == Some(&offsets(&self.round))
    }

    /// Whether the answers at hand were asked for after the epoch was claimed.
    fn is_fresh(&self) -> bool {
        self.owned.is_some_and(|(_, at)| self.round.started >= at)
    }

    // ---- promote ----

    fn promote(self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        core.phase("promote");
        let timeout = core.policy.node_op_timeout;
        let op = core.node_op(&candidate.node, NodeOp::Promote, timeout);
        let deadline = core.now + timeout * 2;
        core.wake_at(deadline);
        self.stay(Stage::Promoting {
            op,
            candidate,
            deadline,
        })
    }

    fn promoting(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        candidate: Box<Candidate>,
        deadline: Timestamp,
    ) -> Next {
        let outcome = match input {
            Input::Done(done, outcome) if *done == op => outcome,
            _ if core.now >= deadline => {
                return self.examine(core, candidate);
            }
            _ => {
                core.wake_at(deadline);
                return self.stay(Stage::Promoting {
                    op,
                    candidate,
                    deadline,
                });
            }
        };
        match outcome {
            NodeOpOutcome::Done(info) => self.promoted(core, candidate, info),
            NodeOpOutcome::Refused(why) => self.next_candidate(core, &candidate.node, why.clone()),
            NodeOpOutcome::Unreachable(error) => {
                self.next_candidate(core, &candidate.node, format!("unreachable ({error:?})"))
            }
            NodeOpOutcome::Unknown(_) => self.examine(core, candidate),
        }
    }

    /// Believes ROLE, of the process that was chosen, and nothing else.
    fn promoted(
        self: Box<Self>,
        core: &mut Core,
        candidate: Box<Candidate>,
        info: &NodeInfo,
    ) -> Next {
        if info.role != Role::Primary {
            let why = "its role is still replica".to_owned();
            return self.next_candidate(core, &candidate.node, why);
        }
        if info.run_id != candidate.info.run_id {
            let why = "it restarted while it was promoted".to_owned();
            return self.next_candidate(core, &candidate.node, why);
        }
        core.emit("+promoted-slave", Some(&candidate.node), "verified", false);
        let epoch = core.record.as_ref().map_or(self.old.epoch, |r| r.epoch);
        let mut this = self;
        let lost = core.bytes_lost(&this.old, info);
        if let BytesLost::AtLeast(_) = lost {
            let ago = (core.now - core.last_offset_at).as_millis();
            let old = &this.old.primary;
            core.note(format!("{old} showed its offset last {ago} ms ago"));
        }
        let stage = this.commit(core, epoch, &candidate.node, info.clone(), lost);
        this.stay(stage)
    }

    fn next_candidate(mut self: Box<Self>, core: &mut Core, node: &NodeId, why: String) -> Next {
        core.note(format!("{node} was not promoted: {why}"));
        core.emit("-promotion-failed", Some(node), why.clone(), true);
        self.excluded
            .insert(node.clone(), (why, core.now + EXCLUSION));
        self.fenced.remove(node);
        self.look_again(core, Duration::ZERO)
    }

    fn examine(self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        core.phase("examine");
        let since = core.now;
        let op = core.node_op(
            &candidate.node,
            NodeOp::Inspect,
            core.policy.probe_timeout(),
        );
        self.stay(Stage::Examining {
            op,
            candidate,
            since,
        })
    }

    fn examining(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        candidate: Box<Candidate>,
        since: Timestamp,
    ) -> Next {
        let limit = since + core.policy.node_op_timeout;
        let Input::Done(done, outcome) = input else {
            if core.now >= limit {
                return self.abandon(core, &candidate.node, "no answer");
            }
            core.wake_at(limit);
            return self.stay(Stage::Examining {
                op,
                candidate,
                since,
            });
        };
        if *done != op {
            core.wake_at(limit);
            return self.stay(Stage::Examining {
                op,
                candidate,
                since,
            });
        }
        match outcome {
            NodeOpOutcome::Done(info) if info.run_id != candidate.info.run_id => {
                self.abandon(core, &candidate.node, "it restarted")
            }
            // Not done, or not yet: the same promotion again, never another one beside it.
            NodeOpOutcome::Done(_) if core.now < limit => self.promote(core, candidate),
            NodeOpOutcome::Unreachable(ProbeError::Refused) => {
                self.abandon(core, &candidate.node, "its process is gone")
            }
            _ if core.now >= limit => self.abandon(core, &candidate.node, "no answer"),
            _ => {
                let timeout = core.policy.probe_timeout();
                let op = core.node_op(&candidate.node, NodeOp::Inspect, timeout);
                core.wake_at(limit);
                self.stay(Stage::Examining {
                    op,
                    candidate,
                    since,
                })
            }
        }
    }

    /// The candidate may have become primary and can not be asked: the next one gets an epoch of
    /// its own, so that nobody who heard of this one believes it.
    fn abandon(mut self: Box<Self>, core: &mut Core, node: &NodeId, why: &str) -> Next {
        core.note(format!("{node} may have been promoted, given up: {why}"));
        core.emit("-promotion-unknown", Some(node), why, true);
        let until = core.now + EXCLUSION;
        self.excluded.insert(node.clone(), (why.to_owned(), until));
        self.before = None;
        self.round = Round::start(core);
        self.send_claim(core);
        Next::Stay(Phase::FailingOver(self))
    }

    // ---- commit ----

    fn commit(
        &mut self,
        core: &mut Core,
        epoch: Epoch,
        node: &NodeId,
        info: NodeInfo,
        bytes_lost: BytesLost,
    ) -> Stage {
        core.phase("commit");
        let record = Record {
            format: Record::FORMAT,
            backend: core.backend.clone(),
            epoch,
            phase: RecordPhase::Serving,
            primary: node.clone(),
            run_id: info.run_id.clone(),
            repl_id: info.repl_id.clone(),
            ancestor: Ancestor::of(&info),
            members: core.members(),
            by: core.me.clone(),
        };
        let op = Some(core.swap(record.clone()));
        let deadline = core.now + SWAP_LIMIT;
        core.wake_at(deadline);
        Stage::Committing(Box::new(Commit {
            op,
            deadline,
            record,
            bytes_lost,
            info,
        }))
    }

    fn committed(self: Box<Self>, core: &mut Core, input: &Input, mut commit: Box<Commit>) -> Next {
        match input {
            Input::Swapped(op, swap) if commit.op == Some(*op) => match swap {
                Swap::Done => return self.finish(core, commit),
                Swap::Lost => return Next::Go(core.route("another monitor took over")),
                Swap::Unknown => commit.op = None,
            },
            Input::Loaded if commit.op.is_none() => {
                let stored = core.record.clone();
                if stored.as_ref() == Some(&commit.record) {
                    return self.finish(core, commit);
                }
                let ours =
                    stored.is_some_and(|r| r.epoch == commit.record.epoch && r.by == core.me);
                if !ours {
                    return Next::Go(core.route("another monitor took over"));
                }
                commit.op = Some(core.swap(commit.record.clone()));
                commit.deadline = core.now + SWAP_LIMIT;
            }
            _ if commit.op.is_some() && core.now >= commit.deadline => {
                core.forget_swap();
                commit.op = None;
            }
            _ => {}
        }
        core.wake_at(commit.deadline.max(core.now + SETTLE));
        self.stay(Stage::Committing(commit))
    }

    /// The record says who serves: what is left is for the serving phase, which opens the gate as
    /// soon as the new primary's last answer is fresh.
    fn finish(self: Box<Self>, core: &mut Core, commit: Box<Commit>) -> Next {
        let to = commit.record.primary.clone();
        let kept = to == self.old.primary && commit.record.run_id == self.old.run_id;
        if !kept {
            core.former = position(&commit.info, &self.old).map(|fork| Former {
                node: self.old.primary.clone(),
                run_id: self.old.run_id.clone(),
                repl_id: self.old.repl_id.clone(),
                fork,
                epoch: commit.record.epoch,
            });
        }
        let outcome = if kept {
            Outcome::Aborted("the primary answers again, and nobody was promoted".to_owned())
        } else {
            Outcome::Done
        };
        let ending = Ending {
            epoch: commit.record.epoch,
            outcome,
            to: Some(to.clone()),
            bytes_lost: commit.bytes_lost,
        };
        let switching = matches!(self.old.phase, RecordPhase::SwitchingOver { .. });
        if kept && switching {
            core.node_op(&to, NodeOp::Unpause, core.policy.node_op_timeout);
        }
        let primary = Primary {
            node: to,
            run_id: commit.record.run_id.clone(),
            repl_id: commit.record.repl_id.clone(),
        };
        let demotion = self.demotion.map(|op| (self.old.primary.clone(), op));
        Next::Go(Serving::elected(core, primary, ending, demotion))
    }
}

/// The offsets of the nodes that may become primary.
fn offsets(round: &Round) -> BTreeMap<NodeId, u64> {
    round
        .answers
        .iter()
        .filter(|(_, info)| info.role == Role::Replica)
        .map(|(node, info)| (node.clone(), info.offset))
        .collect()
}
