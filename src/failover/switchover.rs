//! The planned change of primary: nothing is lost, and whatever fails before the promotion leaves
//! everything as it was.
//!
//! ```text
//! Reading -> Checking -> Claiming -> Draining -> CatchingUp -> Promoting -> (commit)
//!    |________|             |___________|___________|
//!    refused, nothing begun     aborted: unpause, open, Reverting -> (serving)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::commit::{Commit, Elected};
use super::core::{Core, Input};
use super::detector::{self, Finding};
use super::machine::{Next, Phase};
use super::preflight::choose_target;
use super::report::Ending;
use super::roll::{self, RollCall};
use super::round::Round;
use super::swap::{self, Proposal};
use super::unplanned::Failover;
use super::{NodeOp, NodeOpOutcome, OpId, Record, RecordPhase};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Fault, Gate, NodeId, Outcome, Timestamp};

/// The longest wait for the authority; nothing has happened before its answer.
const SWAP_LIMIT: Duration = Duration::from_secs(2);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Switchover {
    /// The record before; once claimed, the claimed one.
    record: Record,
    /// What the operator asked for.
    wanted: Option<NodeId>,
    target: Option<(NodeId, NodeInfo)>,
    /// The old primary may be paused.
    paused: bool,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Every node is being read.
    Reading(Round),
    /// Passwords are being tried both ways.
    Checking {
        ops: BTreeMap<OpId, String>,
        deadline: Timestamp,
    },
    Claiming(Proposal),
    /// The gate is closed; requests on their way are being answered.
    Draining {
        /// Of our own workers; `None`: they obey.
        op: Option<OpId>,
        /// Of others, where the record is shared; `None`: there are none, or all have acknowledged. What they
        /// sent is answered before the old primary's clients are paused and cut off.
        others: Option<RollCall>,
        deadline: Timestamp,
    },
    CatchingUp(CatchUp),
    Promoting {
        op: OpId,
        deadline: Timestamp,
    },
    /// Aborted; the record is being put back.
    Reverting(Proposal),
}

/// Both offsets are read until they are equal.
#[derive(Clone, Debug)]
struct CatchUp {
    old: (OpId, Option<u64>),
    target: (OpId, Option<NodeInfo>),
    deadline: Timestamp,
}

impl Switchover {
    /// Begins with fresh readings of every node.
    pub(super) fn request(
        core: &mut Core,
        record: Record,
        request: u64,
        wanted: Option<NodeId>,
    ) -> Next {
        let refusal = match &wanted {
            Some(to) if *to == record.primary => Some(format!("{to} is the primary already")),
            Some(to) if core.node(to).is_none() => {
                Some(format!("{to} is not a node of this backend"))
            }
            _ => core.barred(),
        };
        core.recorder = None;
        let recorder = core.recorder();
        recorder.fault = Some(Fault::Switchover);
        recorder.request = Some(request);
        core.note("asked for by the operator".to_owned());
        core.phase("preflight");
        let switchover = Box::new(Switchover {
            record,
            wanted,
            target: None,
            paused: false,
            stage: Stage::Reading(Round::start(core)),
        });
        match refusal {
            Some(why) => switchover.refuse(core, why),
            None => Next::Stay(Phase::SwitchingOver(switchover)),
        }
    }

    /// Where it stands, for the status.
    pub(super) fn stage_name(&self) -> &'static str {
        match &self.stage {
            Stage::Reading(_) => "reading every node",
            Stage::Checking { .. } => "checking authentication both ways",
            Stage::Claiming(_) => "claiming the next epoch",
            Stage::Draining { .. } => "waiting for requests on their way",
            Stage::CatchingUp(_) => "waiting for equal offsets",
            Stage::Promoting { .. } => "promoting",
            Stage::Reverting(_) => "putting the record back",
        }
    }

    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        if let Some(why) = self.lost_primary(core) {
            return self.primary_lost(core, why);
        }
        let nothing = Stage::Reading(Round::empty(core));
        match std::mem::replace(&mut self.stage, nothing) {
            Stage::Reading(round) => self.reading(core, input, round),
            Stage::Checking { ops, deadline } => self.checking(core, input, ops, deadline),
            Stage::Claiming(claim) => self.claiming(core, input, claim),
            Stage::Draining {
                op,
                others,
                deadline,
            } => self.draining(core, input, op, others, deadline),
            Stage::CatchingUp(catch_up) => self.catching_up(core, input, catch_up),
            Stage::Promoting { op, deadline } => self.promoting(core, input, op, deadline),
            Stage::Reverting(back) => self.reverting(core, input, back),
        }
    }

    fn stay(mut self: Box<Self>, stage: Stage) -> Next {
        self.stage = stage;
        Next::Stay(Phase::SwitchingOver(self))
    }

    // ---- the primary dies meanwhile ----

    fn lost_primary(&self, core: &Core) -> Option<(Fault, &'static str)> {
        // While the target is being promoted its outcome is what matters.
        if matches!(self.stage, Stage::Promoting { .. }) {
            return None;
        }
        let finding = detector::judge(
            &core.nodes,
            &self.record,
            &core.policy,
            core.last_offset,
            core.now,
        );
        match finding {
            // Being put back, it is for the serving phase to ask the others.
            Finding::Lost { fault, .. }
                if matches!(self.stage, Stage::Reverting(_)) && core.needs_majority(fault) =>
            {
                None
            }
            Finding::Lost { fault, why } => Some((fault, why)),
            _ => None,
        }
    }

    fn primary_lost(self: Box<Self>, core: &mut Core, lost: (Fault, &'static str)) -> Next {
        let (fault, why) = lost;
        let ours = |r: &Record| r.phase != RecordPhase::Serving && r.by == core.me;
        if core.needs_majority(fault) && core.record.as_ref().is_some_and(ours) {
            core.close_gate();
            return self.abort(core, format!("the primary was lost meanwhile: {why}"));
        }
        if !matches!(self.stage, Stage::Reverting(_)) {
            self.report(core, format!("the primary was lost meanwhile: {why}"));
        }
        core.close_gate();
        match core.record.clone() {
            // The half-done switchover is in the record: the next epoch ends it.
            Some(record) if record.phase != RecordPhase::Serving && record.by == core.me => {
                Next::Go(Failover::claim(core, record, fault, why))
            }
            _ => Next::Go(core.route(why)),
        }
    }

    // ---- preflight ----

    fn reading(mut self: Box<Self>, core: &mut Core, input: &Input, mut round: Round) -> Next {
        if let Input::Done(op, outcome) = input {
            round.done(*op, outcome);
        }
        if !round.is_complete(core) {
            return self.stay(Stage::Reading(round));
        }
        let wanted = self.wanted.as_ref();
        let target = match choose_target(core, &self.record, wanted, &round.answers) {
            Ok(target) => target,
            Err(why) => return self.refuse(core, why),
        };
        let timeout = core.policy.node_op_timeout;
        let (old, to) = (self.record.primary.clone(), target.0.clone());
        self.target = Some(target);
        let mut ops = BTreeMap::new();
        for (node, primary) in [(&old, &to), (&to, &old)] {
            let what = NodeOp::CheckAuth {
                as_replica_of: primary.clone(),
            };
            let op = core.node_op(node, what, timeout);
            ops.insert(op, format!("{node} as a replica of {primary}"));
        }
        let deadline = core.now + timeout * 2;
        core.wake_at(deadline);
        self.stay(Stage::Checking { ops, deadline })
    }

    fn checking(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        mut ops: BTreeMap<OpId, String>,
        deadline: Timestamp,
    ) -> Next {
        if let Input::Done(op, outcome) = input
            && let Some(what) = ops.remove(op)
        {
            match outcome {
                NodeOpOutcome::Done(_) => {}
                NodeOpOutcome::Refused(why) => {
                    return self.refuse(core, format!("{what}: {why}"));
                }
                NodeOpOutcome::Unknown(_) | NodeOpOutcome::Unreachable(_) => {
                    return self.refuse(core, format!("{what}: could not be checked"));
                }
            }
        }
        if core.now >= deadline {
            return self.refuse(
                core,
                "authentication could not be checked in time".to_owned(),
            );
        }
        if !ops.is_empty() {
            core.wake_at(deadline);
            return self.stay(Stage::Checking { ops, deadline });
        }
        self.claim(core)
    }

    /// Nothing was begun.
    fn refuse(self: Box<Self>, core: &mut Core, why: String) -> Next {
        self.report(core, why);
        Next::Go(core.route("a switchover was refused"))
    }

    fn report(&self, core: &mut Core, why: String) {
        core.emit("-switchover", Some(&self.record.primary), why.clone(), true);
        core.finish_report(Ending {
            epoch: core.published.epoch,
            outcome: Outcome::Aborted(why),
            to: Some(self.record.primary.clone()),
            bytes_lost: BytesLost::Exactly(0),
        });
    }

    // ---- claim ----

    fn claim(self: Box<Self>, core: &mut Core) -> Next {
        let Some((to, _)) = self.target.clone() else {
            return self.refuse(core, "no target".to_owned());
        };
        core.phase("claim");
        let phase = RecordPhase::SwitchingOver { to };
        let record = core.successor(&self.record, phase);
        let claim = Proposal::send(core, record, SWAP_LIMIT);
        self.stay(Stage::Claiming(claim))
    }

    fn claiming(self: Box<Self>, core: &mut Core, input: &Input, mut claim: Proposal) -> Next {
        match claim.step(core, input) {
            swap::Outcome::Pending => self.stay(Stage::Claiming(claim)),
            swap::Outcome::Stored => self.claimed(core),
            swap::Outcome::Lost => {
                self.refuse(core, "another monitor decided meanwhile".to_owned())
            }
            swap::Outcome::Missing => {
                let why = core.not_recorded();
                self.refuse(core, why)
            }
        }
    }

    /// From here on the gate is closed: no timer but bounds.
    fn claimed(mut self: Box<Self>, core: &mut Core) -> Next {
        if let Some(record) = core.record.clone() {
            self.record = record;
        }
        core.phase("drain");
        let primary = core.published.primary.clone();
        let epoch = core.published.epoch;
        let deadline = core.now + core.policy.drain_timeout;
        core.wake_at(deadline);
        let others = core.panel().is_some().then(|| RollCall::begin(core));
        if let Some(others) = &others {
            others.is_complete(core);
        }
        match core.publish(epoch, Gate::Closed, primary, true) {
            Some(op) => self.stay(Stage::Draining {
                op: Some(op),
                others,
                deadline,
            }),
            None => self.abort(core, "the gate could not be closed".to_owned()),
        }
    }

    // ---- the gate is closed ----

    fn draining(
        mut self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: Option<OpId>,
        others: Option<RollCall>,
        deadline: Timestamp,
    ) -> Next {
        let op = op.filter(|op| !matches!(input, Input::Obeyed(done) if done == op));
        let others = others.filter(|call| !call.is_complete(core));
        let late = others.filter(|call| core.now >= call.since + roll::PATIENCE);
        match op {
            None if others.is_none() || late.is_some() => {
                if let Some(late) = late {
                    late.note_missing(core);
                }
                core.phase("catch up");
                let timeout = core.policy.node_op_timeout;
                let duration = core.policy.catch_up_timeout + timeout * 2;
                let duration = duration + core.view_lease().unwrap_or_default();
                let pause = NodeOp::Pause { duration };
                self.paused = true;
                let deadline = core.now + core.policy.catch_up_timeout;
                let old = core.node_op(&self.record.primary, pause, timeout);
                let target = self.inspect_target(core);
                core.wake_at(deadline);
                self.stay(Stage::CatchingUp(CatchUp {
                    old: (old, None),
                    target: (target, None),
                    deadline,
                }))
            }
            Some(_) if core.now >= deadline => self.abort(
                core,
                "requests on their way were not answered in time".to_owned(),
            ),
            _ => {
                core.wake_at(deadline);
                if let Some(call) = &others {
                    core.wake_at(call.since + roll::PATIENCE);
                }
                self.stay(Stage::Draining {
                    op,
                    others,
                    deadline,
                })
            }
        }
    }

    fn inspect_target(&self, core: &mut Core) -> OpId {
        let to = self.target.as_ref().map(|(node, _)| node.clone());
        let to = to.unwrap_or_else(|| self.record.primary.clone());
        core.node_op(&to, NodeOp::Inspect, core.policy.node_op_timeout)
    }

    fn catching_up(self: Box<Self>, core: &mut Core, input: &Input, mut catch_up: CatchUp) -> Next {
        if let Input::Done(op, outcome) = input {
            let about_old = *op == catch_up.old.0;
            let about_target = *op == catch_up.target.0;
            match outcome {
                NodeOpOutcome::Done(info) if about_old => catch_up.old.1 = Some(info.offset),
                NodeOpOutcome::Done(info) if about_target => {
                    catch_up.target.1 = Some((**info).clone());
                }
                NodeOpOutcome::Done(_) => {}
                _ if about_old => {
                    return self.abort(core, format!("the primary was not paused: {outcome:?}"));
                }
                _ if about_target => {
                    return self.abort(core, format!("the target failed: {outcome:?}"));
                }
                _ => {}
            }
        }
        if core.now >= catch_up.deadline {
            return self.abort(core, "the target did not catch up in time".to_owned());
        }
        let (Some(old), Some(target)) = (catch_up.old.1, &catch_up.target.1) else {
            core.wake_at(catch_up.deadline);
            return self.stay(Stage::CatchingUp(catch_up));
        };
        if let Some(why) = self.changed(target) {
            return self.abort(core, why);
        }
        if target.offset >= old {
            return self.promote(core);
        }
        let timeout = core.policy.node_op_timeout;
        let read = core.node_op(&self.record.primary, NodeOp::Inspect, timeout);
        catch_up.old = (read, None);
        catch_up.target = (self.inspect_target(core), None);
        core.wake_at(catch_up.deadline);
        self.stay(Stage::CatchingUp(catch_up))
    }

    /// Why the target is not the one that passed the preflight any more.
    fn changed(&self, now: &NodeInfo) -> Option<String> {
        let (_, before) = self.target.as_ref()?;
        if now.run_id != before.run_id {
            Some("the target restarted".to_owned())
        } else if now.repl_id != self.record.repl_id || now.role != Role::Replica {
            Some("the target does not follow the primary any more".to_owned())
        } else {
            None
        }
    }

    fn promote(self: Box<Self>, core: &mut Core) -> Next {
        let Some((to, _)) = self.target.clone() else {
            return self.abort(core, "no target".to_owned());
        };
        core.phase("promote");
        let timeout = core.policy.node_op_timeout;
        let op = core.node_op(&to, NodeOp::Promote, timeout);
        let deadline = core.now + timeout * 2;
        core.wake_at(deadline);
        self.stay(Stage::Promoting { op, deadline })
    }

    fn promoting(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        deadline: Timestamp,
    ) -> Next {
        let outcome = match input {
            Input::Done(done, outcome) if *done == op => outcome.clone(),
            _ if core.now >= deadline => NodeOpOutcome::Unknown("no answer".to_owned()),
            _ => {
                core.wake_at(deadline);
                return self.stay(Stage::Promoting { op, deadline });
            }
        };
        let same = |info: &NodeInfo| {
            self.target
                .as_ref()
                .is_some_and(|(_, before)| before.run_id == info.run_id)
        };
        match outcome {
            NodeOpOutcome::Done(info) if info.role == Role::Primary && same(&info) => {
                self.promoted(core, *info)
            }
            NodeOpOutcome::Refused(why) => self.abort(core, format!("promotion refused: {why}")),
            NodeOpOutcome::Unreachable(error) => {
                self.abort(core, format!("the target is unreachable: {error:?}"))
            }
            // It may be primary now: whoever has everything and answers goes on, in a new epoch.
            NodeOpOutcome::Done(_) | NodeOpOutcome::Unknown(_) => {
                let why = "the outcome of the promotion is unknown";
                core.note(why.to_owned());
                let record = self.record.clone();
                Next::Go(Failover::claim(core, record, Fault::Switchover, why))
            }
        }
    }

    /// The target is primary, and the old one follows it while the record is being written.
    fn promoted(self: Box<Self>, core: &mut Core, info: NodeInfo) -> Next {
        let Some((to, _)) = self.target.clone() else {
            return self.abort(core, "no target".to_owned());
        };
        core.emit("+promoted-slave", Some(&to), "verified", false);
        let demotion = NodeOp::Repoint { to: to.clone() };
        let old = self.record.primary.clone();
        let op = core.node_op(&old, demotion, core.policy.node_op_timeout);
        let elected = Elected {
            epoch: self.record.epoch,
            node: &to,
            info,
            // The offsets were equal while the old one was paused.
            bytes_lost: BytesLost::Exactly(0),
            demotion: Some(op),
        };
        let fault = Fault::Switchover;
        Next::Stay(Commit::begin(core, fault, self.record, elected))
    }

    // ---- abort ----

    /// Nothing was promoted: unpause, open, and put the record back.
    fn abort(self: Box<Self>, core: &mut Core, why: String) -> Next {
        if self.paused {
            let timeout = core.policy.node_op_timeout;
            core.node_op(&self.record.primary, NodeOp::Unpause, timeout);
        }
        // We slept, and another monitor ends it: it relies on our gate.
        if core.record.as_ref() != Some(&self.record) {
            self.report(core, why);
            return Next::Go(core.route("another monitor took over"));
        }
        let healthy = detector::judge(
            &core.nodes,
            &self.record,
            &core.policy,
            core.last_offset,
            core.now,
        ) == Finding::Healthy;
        if healthy && core.lapsed().is_none() {
            let primary = core.published.primary.clone();
            let epoch = core.published.epoch;
            core.publish(epoch, Gate::Open, primary, false);
        }
        self.report(core, why);
        let record = Record {
            phase: RecordPhase::Serving,
            by: core.me.clone(),
            ..self.record.clone()
        };
        let back = Proposal::send(core, record, SWAP_LIMIT);
        self.stay(Stage::Reverting(back))
    }

    fn reverting(self: Box<Self>, core: &mut Core, input: &Input, mut back: Proposal) -> Next {
        match back.step(core, input) {
            swap::Outcome::Pending => self.stay(Stage::Reverting(back)),
            swap::Outcome::Missing if core.record.as_ref() == Some(&self.record) => {
                let back = back.again(core);
                self.stay(Stage::Reverting(back))
            }
            _ => Next::Go(core.route("the switchover was aborted")),
        }
    }
}
