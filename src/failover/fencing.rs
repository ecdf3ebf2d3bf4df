//! Who was fenced in a failover, and what each of them had when it accepted no more writes.

use std::collections::BTreeMap;

use super::candidate::position;
use super::core::{Core, Input};
use super::{NodeOp, NodeOpOutcome, OpId, Record};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{NodeId, Timestamp};

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Fencing {
    under_way: BTreeMap<OpId, NodeId>,
    fenced: BTreeMap<NodeId, Option<u64>>,
    /// Until when a candidate may catch up with a fenced primary that is still connected.
    catch_up_until: Option<Timestamp>,
}

impl Fencing {
    /// Fences every node but `chosen` that says it is primary. Returns whether one of them must be
    /// awaited because it shares the history of `old`.
    pub(super) fn fence_others(
        &mut self,
        core: &mut Core,
        answers: &BTreeMap<NodeId, NodeInfo>,
        chosen: &NodeId,
        old: &Record,
    ) -> bool {
        let timeout = core.policy.node_op_timeout;
        let mut await_one = false;
        for (node, info) in answers {
            if node == chosen || info.role != Role::Primary || self.fenced.contains_key(node) {
                continue;
            }
            core.emit("+fence", Some(node), "it says it is primary", false);
            let op = core.node_op(node, NodeOp::Fence, timeout);
            if position(info, old).is_some() {
                self.under_way.insert(op, node.clone());
                await_one = true;
            } else {
                self.fenced.insert(node.clone(), None);
            }
        }
        await_one
    }

    /// Takes in the answers to its own ops.
    pub(super) fn take_in(&mut self, core: &mut Core, input: &Input, old: &Record) {
        let Input::Done(op, outcome) = input else {
            return;
        };
        let Some(node) = self.under_way.remove(op) else {
            return;
        };
        let text = match outcome {
            NodeOpOutcome::Done(_) => format!("{node} fenced"),
            NodeOpOutcome::Refused(why) => format!("{node} could not be fenced: {why}"),
            NodeOpOutcome::Unknown(why) => format!("{node} may not be fenced: {why}"),
            NodeOpOutcome::Unreachable(_) => format!("{node} is out of reach, not fenced"),
        };
        core.note(text);
        let offset = match outcome {
            NodeOpOutcome::Done(info) => position(info, old),
            _ => None,
        };
        if offset.is_some() {
            self.catch_up_until = Some(core.now + core.policy.catch_up_timeout);
        }
        self.fenced.insert(node, offset);
    }

    /// Whether a fence is awaited.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether `node` was fenced, or it was tried.
    pub(super) fn holds(&self, node: &NodeId) -> bool {
        self.fenced.contains_key(node)
    }

    /// Whether `node` accepts no write any more, as far as it said so itself.
    pub(super) fn has_fenced(&self, node: &NodeId) -> bool {
        self.fenced.get(node).is_some_and(Option::is_some)
    }

    /// A node that is primary after all may have to be fenced anew.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.fenced.remove(node);
    }

    /// Whether a fenced primary has what a node at `position` may still receive from it.
    pub(super) fn is_ahead_of(&self, position: u64, core: &Core) -> bool {
        let ahead = self
            .fenced
            .values()
            .flatten()
            .any(|offset| *offset > position);
        ahead && self.catch_up_until.is_some_and(|until| core.now < until)
    }
}
