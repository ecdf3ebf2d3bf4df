//! The last step of every change of primary: the record says who serves. Failover and switchover
//! share it.

use std::time::Duration;

use super::candidate::position;
use super::core::{Core, Former, Input};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::serving::Serving;
use super::swap::{self, Proposal};
use super::{Ancestor, NodeOp, OpId, Record, RecordPhase};
use crate::resp::info::NodeInfo;
use crate::topology::{BytesLost, Epoch, Fault, NodeId, Outcome, Primary};

/// The longest wait for the authority's answer before its outcome counts as unknown.
const SWAP_LIMIT: Duration = Duration::from_secs(5);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    fault: Fault,
    /// The record before the change.
    old: Record,
    proposal: Proposal,
    /// What the new primary said when it was verified.
    info: NodeInfo,
    bytes_lost: BytesLost,
    /// The op of a switchover that makes the old primary follow, until it is answered.
    demotion: Option<OpId>,
}

/// Who serves from now on.
pub(super) struct Elected<'a> {
    pub epoch: Epoch,
    pub node: &'a NodeId,
    /// What it said when it was verified.
    pub info: NodeInfo,
    pub bytes_lost: BytesLost,
    /// The op that makes the old primary follow it, where that was sent.
    pub demotion: Option<OpId>,
}

impl Commit {
    pub(super) fn begin(core: &mut Core, fault: Fault, old: Record, elected: Elected) -> Phase {
        core.phase("commit");
        let info = elected.info;
        let record = Record {
            format: Record::FORMAT,
            backend: core.backend.clone(),
            epoch: elected.epoch,
            phase: RecordPhase::Serving,
            primary: elected.node.clone(),
            run_id: info.run_id.clone(),
            repl_id: info.repl_id.clone(),
            ancestor: Ancestor::of(&info),
            members: core.members(),
            by: core.me.clone(),
        };
        Phase::Committing(Box::new(Commit {
            fault,
            old,
            proposal: Proposal::send(core, record, SWAP_LIMIT),
            info,
            bytes_lost: elected.bytes_lost,
            demotion: elected.demotion,
        }))
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault
    }

    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        if let Input::Done(op, _) = input {
            self.demotion = self.demotion.filter(|demotion| demotion != op);
        }
        match self.proposal.step(core, input) {
            swap::Outcome::Stored => self.finish(core),
            swap::Outcome::Lost => Next::Go(core.route("another monitor took over")),
            swap::Outcome::Missing => {
                let epoch = self.proposal.record().epoch;
                let stored = core.record.as_ref();
                if stored.is_some_and(|r| r.epoch == epoch && r.by == core.me) {
                    self.proposal = self.proposal.again(core);
                    Next::Stay(Phase::Committing(self))
                } else {
                    Next::Go(core.route("another monitor took over"))
                }
            }
            swap::Outcome::Pending => Next::Stay(Phase::Committing(self)),
        }
    }

    /// What is left is for the serving phase, which opens the gate as soon as the new primary's last
    /// answer is fresh.
    fn finish(self: Box<Self>, core: &mut Core) -> Next {
        let record = self.proposal.record().clone();
        let to = record.primary;
        let kept = to == self.old.primary && record.run_id == self.old.run_id;
        if !kept {
            core.former = position(&self.info, &self.old).map(|fork| Former {
                node: self.old.primary.clone(),
                run_id: self.old.run_id.clone(),
                repl_id: self.old.repl_id.clone(),
                fork,
                epoch: record.epoch,
            });
        }
        let outcome = if kept {
            Outcome::Aborted("the primary answers again, and nobody was promoted".to_owned())
        } else {
            Outcome::Done
        };
        let ending = Ending {
            epoch: record.epoch,
            outcome,
            to: Some(to.clone()),
            bytes_lost: self.bytes_lost,
        };
        let switching = matches!(self.old.phase, RecordPhase::SwitchingOver { .. });
        if kept && switching {
            core.node_op(&to, NodeOp::Unpause, core.policy.node_op_timeout);
        }
        let primary = Primary {
            node: to,
            run_id: record.run_id,
            repl_id: record.repl_id,
        };
        let demotion = self.demotion.map(|op| (self.old.primary.clone(), op));
        Next::Go(Serving::elected(core, primary, ending, demotion))
    }
}
