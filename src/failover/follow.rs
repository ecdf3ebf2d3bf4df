//! Somebody else decides: believe ROLE, publish whom it names, never act.

use std::sync::Arc;
use std::time::Duration;

use super::belief::{Belief, Judge};
use super::claims::Claims;
use super::core::{Core, Input};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::{Action, Decline, OpId};
use crate::resp::info::NodeInfo;
use crate::topology::{BytesLost, Epoch, Fault, Gate, Outcome, Primary, Timestamp};

/// Between two probes of everybody while nobody, or more than one, is known to be primary.
const LOOK: Duration = Duration::from_millis(25);

/// Histories that are remembered.
const LINE: usize = 8;

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Following {
    /// Answers of the followed primary from before this count no more.
    doubted: Option<Timestamp>,
    /// Since when nobody is believed.
    lost_since: Option<Timestamp>,
    look_at: Option<Timestamp>,
    leaving: Option<Leaving>,
    /// What the followed primary said last.
    said: Option<NodeInfo>,
    /// Since when it is no node of the backend.
    removed_at: Option<Timestamp>,
    claims: Claims,
    /// The histories that were followed before, the last ones of them.
    line: Vec<Arc<str>>,
}

/// The gate is closed, and what is on its way to the followed primary is waited for.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    op: Option<OpId>,
    until: Timestamp,
}

impl Following {
    pub(super) fn step(mut self, core: &mut Core, input: &Input) -> Next {
        if let Input::Switchover { request, .. } = input {
            let why = "this backend follows: somebody else decides who is primary";
            core.refuse_switchover(*request, why);
        }
        self.suspect(core, input);
        self.claims.watch(core);
        let followed = core.published.primary.as_ref();
        if followed.is_none_or(|f| core.node(&f.node).is_some()) {
            self.removed_at = None;
        } else {
            self.removed_at.get_or_insert(core.now);
        }
        if let Input::Obeyed(op) = input
            && let Some(leaving) = &mut self.leaving
            && leaving.op == Some(*op)
        {
            leaving.op = None;
        }
        let judge = Judge {
            core,
            claims: &self.claims,
            doubted: self.doubted,
            lost_since: self.lost_since,
            line: &self.line,
            removed: self.removed_at.zip(self.said.as_ref()),
        };
        match judge.believed() {
            Ok(belief) => self.follow(core, belief),
            Err(why) => {
                self.lost_since.get_or_insert(core.now);
                if core.published.primary.is_some() {
                    core.decline(Decline::FollowOnly);
                    self.leave(core);
                }
                core.set_undecided(Some(why));
                self.look(core);
            }
        }
        Next::Stay(Phase::Following(self))
    }

    fn suspect(&mut self, core: &mut Core, input: &Input) {
        let Some(followed) = core.published.primary.as_ref().map(|p| p.node.clone()) else {
            return;
        };
        match input {
            Input::Hint { node, close } if *node == followed => {
                if *close {
                    self.doubted = Some(core.now);
                }
                core.recorder();
                core.note(format!("clients' connections to {node} are in trouble"));
                core.probe_all();
            }
            Input::Observed(node) if *node == followed => {
                let last = core
                    .node(node)
                    .and_then(|n| n.streak.as_ref())
                    .filter(|s| s.count == 1)
                    .map(|s| s.last.clone());
                if let Some(last) = last {
                    core.recorder();
                    core.note(format!("probe of {node}: {last:?}"));
                    core.probe_all();
                }
            }
            _ => {}
        }
    }

    /// Stays with the followed one, or goes to another one when nothing is on its way any more.
    fn follow(&mut self, core: &mut Core, belief: Belief) {
        let primary = Primary {
            node: belief.node.clone(),
            run_id: belief.info.run_id.clone(),
            repl_id: belief.info.repl_id.clone(),
        };
        let stays = core.published.primary.as_ref() == Some(&primary);
        if !stays && core.published.primary.is_some() && !self.has_left(core) {
            core.recorder();
            core.note(format!("{} is followed now: {}", belief.node, belief.why));
            return;
        }
        if let Some(left) = core.published.primary.as_ref().filter(|_| !stays) {
            self.claims.left(&left.node, core.now);
            self.line.push(left.repl_id.clone());
            let old = self.line.len().saturating_sub(LINE);
            self.line.drain(..old);
        }
        self.publish(core, &belief, primary);
        self.said = Some(belief.info.clone());
        self.claims.preferred(core, &belief.node);
        let remark = self.claims.mention(core, &belief);
        core.recovered_but(remark);
        if self.claims.is_news(core, &belief.node) {
            self.look(core);
        }
    }

    /// Closes the gate; what is on its way to the followed primary may still be answered.
    fn leave(&mut self, core: &mut Core) {
        if self.leaving.is_none() {
            let primary = core.published.primary.clone();
            let until = core.now + core.policy.drain_timeout;
            core.phase("drain");
            let op = core.publish(core.published.epoch, Gate::Closed, primary, true);
            self.leaving = Some(Leaving { op, until });
        }
    }

    /// Whether the followed primary can be left without an answer being lost; begins to leave it.
    fn has_left(&mut self, core: &mut Core) -> bool {
        self.leave(core);
        match self.leaving {
            Some(Leaving { op: Some(_), until }) if core.now < until => {
                core.wake_at(until);
                false
            }
            _ => true,
        }
    }

    fn publish(&mut self, core: &mut Core, belief: &Belief, primary: Primary) {
        let before = core.published.primary.clone();
        let stays = before.as_ref() == Some(&primary);
        self.doubted = None;
        self.lost_since = None;
        self.leaving = None;
        if stays && core.published.gate == Gate::Open {
            return;
        }
        let epoch = if stays {
            core.published.epoch
        } else {
            Epoch(core.published.epoch.0 + 1)
        };
        core.publish(epoch, Gate::Open, Some(primary.clone()), false);
        if let Some(before) = before
            && !stays
        {
            core.emit(
                "+switch-master",
                Some(&primary.node),
                belief.why.clone(),
                false,
            );
            core.push(Action::Announce {
                epoch,
                from: Some(before.node.clone()),
                to: primary.node.clone(),
            });
            core.recorder().fault = Some(Fault::Followed);
            core.recorder().from = Some(before.node);
            core.finish_report(Ending {
                epoch,
                outcome: Outcome::Done,
                to: Some(primary.node),
                bytes_lost: BytesLost::Unknown,
            });
        } else if !stays {
            core.push(Action::Announce {
                epoch,
                from: None,
                to: primary.node,
            });
        }
    }

    /// Asks everybody again soon.
    fn look(&mut self, core: &mut Core) {
        if self.look_at.is_none_or(|at| core.now >= at) {
            core.probe_all();
            self.look_at = Some(core.now + LOOK);
        }
        if let Some(at) = self.look_at {
            core.wake_at(at);
        }
    }
}
