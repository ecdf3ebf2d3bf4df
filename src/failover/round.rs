//! One round of fresh readings: every node is asked at once, and those that were alive are awaited.
//! A question that outlasts its round is not asked again: its answer counts in the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::Core;
use super::node::Node;
use super::{NodeOp, NodeOpOutcome, OpId};
use crate::resp::info::NodeInfo;
use crate::topology::{NodeId, Timestamp};

/// The longest that a round waits for a node that was alive just before.
const ROUND_LIMIT: Duration = Duration::from_millis(150);
/// When we ourselves were late, the answers that came meanwhile have not been handled yet.
const OWN_DELAY: Duration = Duration::from_millis(20);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// Unanswered, with the time they were asked.
    ops: BTreeMap<OpId, (NodeId, Timestamp)>,
    awaited: BTreeSet<NodeId>,
    /// Not asked: an earlier question to it is not answered yet.
    skipped: BTreeSet<NodeId>,
    pub answers: BTreeMap<NodeId, NodeInfo>,
    pub started: Timestamp,
    deadline: Timestamp,
    /// Whether the deadline was put off, which happens once.
    extended: bool,
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
            extended: false,
        }
    }

    /// Asks every node now. One that does not answer at present is asked too, but not awaited; one
    /// that was never heard is awaited longer.
    pub(super) fn start(core: &mut Core) -> Round {
        Round::with(core, BTreeMap::new())
    }

    /// The next round. What was asked at `since` or later and is not answered yet is awaited, not
    /// asked again: a node that needs longer than a round would never be heard.
    pub(super) fn next(&self, core: &mut Core, since: Timestamp) -> Round {
        let mut ops = self.ops.clone();
        ops.retain(|_, (_, asked)| *asked >= since);
        Round::with(core, ops)
    }

    fn with(core: &mut Core, ops: BTreeMap<OpId, (NodeId, Timestamp)>) -> Round {
        let unheard = |n: &Node| n.info.is_none() && n.streak.is_none();
        let limit = if core.nodes.iter().any(unheard) {
            core.policy.node_op_timeout
        } else {
            ROUND_LIMIT.min(core.policy.node_op_timeout)
        };
        let mut round = Round {
            ops,
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
            extended: false,
        };
        for node in core.members() {
            if round.is_asked(&node) {
                continue;
            }
            // No queue of questions before a node that does not answer.
            if !round.awaited.contains(&node) && core.is_asked(&node) {
                round.skipped.insert(node);
                continue;
            }
            // The round's own limit is no reason to hang up on a slow node.
            let op = core.node_op(&node, NodeOp::Inspect, core.policy.node_op_timeout);
            round.ops.insert(op, (node, core.now));
        }
        round
    }

    /// Whether this round's question to `node` is unanswered.
    pub(super) fn is_asked(&self, node: &NodeId) -> bool {
        self.ops.values().any(|(asked, _)| asked == node)
    }

    /// Takes in an answer if it belongs to this round.
    pub(super) fn done(&mut self, op: OpId, outcome: &NodeOpOutcome) {
        let Some((node, _)) = self.ops.remove(&op) else {
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
    pub(super) fn is_complete(&mut self, core: &mut Core) -> bool {
        if self.awaited.is_empty() {
            return true;
        }
        if core.now >= self.deadline {
            let late = core.late_at.map(|at| at + OWN_DELAY);
            match late.filter(|until| !self.extended && core.now < *until) {
                Some(until) => self.deadline = until,
                None => return true,
            }
            self.extended = true;
        }
        core.wake_at(self.deadline);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::{Authority, Event, Observation, Policy, ProbeError};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    /// Says nothing of use, and ends a question.
    fn refused() -> NodeOpOutcome {
        NodeOpOutcome::Refused("no".to_owned())
    }

    fn round() -> (Core, Round, Vec<OpId>) {
        let nodes = ["a:1", "b:1"].map(NodeId::new).to_vec();
        let (me, policy) = ("me".into(), Policy::default());
        let mut core = Core::new("main".into(), me, nodes, policy, Authority::Decides);
        core.begin(at(0));
        let round = Round::start(&mut core);
        let ops = round.ops.keys().copied().collect();
        (core, round, ops)
    }

    #[test]
    fn after_a_pause_of_our_own_the_answers_that_came_meanwhile_are_heard() {
        let (mut core, mut round, ops) = round();
        core.begin(at(1300));
        round.done(ops[0], &refused());
        assert!(
            !round.is_complete(&mut core),
            "the other one is in the inbox"
        );
        core.begin(at(1301));
        round.done(ops[1], &refused());
        assert!(round.is_complete(&mut core));
    }

    #[test]
    fn a_round_is_put_off_once_and_only_by_our_own_delay() {
        let (mut core, mut late, _) = round();
        core.begin(at(1300));
        assert!(!late.is_complete(&mut core));
        core.begin(at(1330));
        assert!(late.is_complete(&mut core));

        let (mut core, mut punctual, _) = round();
        for now in (100..=1000).step_by(100) {
            assert!(!punctual.is_complete(&mut core), "{now}");
            core.begin(at(now));
        }
        assert!(punctual.is_complete(&mut core));
    }

    #[test]
    fn a_question_goes_on_into_the_next_round_unless_it_is_too_old() {
        let (mut core, mut first, ops) = round();
        for node in core.members() {
            let observation = Observation::Failed(ProbeError::Silent);
            core.absorb(Event::Observed { node, observation });
        }
        first.done(ops[0], &refused());
        core.ops.remove(&ops[0]);
        core.begin(at(100));
        let second = first.next(&mut core, at(0));
        assert!(second.ops.contains_key(&ops[1]));
        assert_eq!(second.ops.len(), 2);
        let third = second.next(&mut core, at(50));
        assert!(!third.ops.contains_key(&ops[1]));
    }
}
