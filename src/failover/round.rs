//! One round of fresh readings: every node is asked at once, and those that were alive are awaited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::Core;
use super::node::Node;
use super::{NodeOp, NodeOpOutcome, OpId};
use crate::resp::info::NodeInfo;
use crate::topology::{NodeId, Timestamp};

/// The longest that a round waits for a node that was alive just before.
const ROUND_LIMIT: Duration = Duration::from_millis(150);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Round {
    ops: BTreeMap<OpId, NodeId>,
    awaited: BTreeSet<NodeId>,
    /// Not asked: an earlier question to it is not answered yet.
    skipped: BTreeSet<NodeId>,
    pub answers: BTreeMap<NodeId, NodeInfo>,
    pub started: Timestamp,
    deadline: Timestamp,
}

impl Round {
    /// A round that asks nobody.
    pub(super) fn empty(core: &Core) -> Round {
        Round {
            ops: BTreeMap::new(),
            awaited: BTreeSet::new(),
            skipped: BTreeSet::new(),
            answers: BTreeMap::new(),
            started: core.now,
            deadline: core.now,
        }
    }

    /// Asks every node now. One that does not answer at present is asked too, but not awaited; one
    /// that was never heard is awaited longer.
    pub(super) fn start(core: &mut Core) -> Round {
        let unheard = |n: &Node| n.info.is_none() && n.streak.is_none();
        let limit = if core.nodes.iter().any(unheard) {
            core.policy.node_op_timeout
        } else {
            ROUND_LIMIT.min(core.policy.node_op_timeout)
        };
        let mut round = Round {
            ops: BTreeMap::new(),
            awaited: core
                .nodes
                .iter()
                .filter(|n| n.is_up() || unheard(n))
                .map(|n| n.id.clone())
                .collect(),
            skipped: BTreeSet::new(),
            answers: BTreeMap::new(),
            started: core.now,
            deadline: core.now + limit,
        };
        for node in core.members() {
            // No queue of questions before a node that does not answer.
            if !round.awaited.contains(&node) && core.is_asked(&node) {
                round.skipped.insert(node);
                continue;
            }
            let op = core.node_op(&node, NodeOp::Inspect, limit);
            round.ops.insert(op, node);
        }
        round
    }

    /// Takes in an answer if it belongs to this round.
    pub(super) fn done(&mut self, op: OpId, outcome: &NodeOpOutcome) {
        let Some(node) = self.ops.remove(&op) else {
            return;
        };
        self.awaited.remove(&node);
        if let NodeOpOutcome::Done(info) = outcome {
            self.answers.insert(node, (**info).clone());
        }
    }

    /// Whether a node that was not asked has come back meanwhile: it may be the best one.
    pub(super) fn has_missed(&self, core: &Core) -> bool {
        let back = |n: &Node| self.skipped.contains(&n.id) && n.live_since(self.started).is_some();
        core.nodes.iter().any(back)
    }

    /// Whether it is over; asks for a tick at its end otherwise.
    pub(super) fn is_complete(&self, core: &mut Core) -> bool {
        if self.awaited.is_empty() || core.now >= self.deadline {
            return true;
        }
        core.wake_at(self.deadline);
        false
    }
}
