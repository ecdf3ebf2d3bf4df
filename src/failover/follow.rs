//! Somebody else decides: believe ROLE, publish whom it names, never act.

use std::time::Duration;

use super::core::{Core, Input};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::{Action, Decline, ProbeError};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Epoch, Fault, Gate, NodeId, Outcome, Primary, Timestamp};

/// Between two probes of everybody while nobody is known to be primary.
const LOOK: Duration = Duration::from_millis(25);

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Following {
    /// Answers of the followed primary from before this count no more.
    doubted: Option<Timestamp>,
    look_at: Option<Timestamp>,
}

impl Following {
    pub(super) fn step(mut self, core: &mut Core, input: &Input) -> Next {
        if let Input::Switchover { request, .. } = input {
            let why = "this backend follows: somebody else decides who is primary";
            core.refuse_switchover(*request, why);
        }
        self.suspect(core, input);
        match self.believed(core) {
            Ok((node, info)) => self.publish(core, node, &info),
            Err(why) => {
                if core.published.primary.is_some() {
                    core.decline(Decline::FollowOnly);
                }
                core.close_gate();
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

    /// Whom ROLE names: the followed one as long as it is, and of several the one with attached
    /// replicas and the longer history.
    fn believed(&self, core: &Core) -> Result<(NodeId, NodeInfo), String> {
        let followed = core.published.primary.as_ref();
        if let Some(followed) = followed
            && self.is_only_slow(core, &followed.node)
        {
            let info = core.node(&followed.node).and_then(|n| n.info.clone());
            if let Some(info) = info {
                return Ok((followed.node.clone(), info));
            }
        }
        let doubted = |node: &NodeId, heard: Timestamp| {
            followed.is_some_and(|f| f.node == *node)
                && self.doubted.is_some_and(|since| heard <= since)
        };
        let best = core
            .nodes
            .iter()
            .filter(|n| !doubted(&n.id, n.info_at))
            .filter_map(|n| Some((&n.id, n.live()?)))
            .filter(|(_, info)| info.role == Role::Primary && !info.loading)
            .max_by_key(|(node, info)| {
                let attached = info.replicas.iter().filter(|r| r.online).count();
                let current = followed.is_some_and(|f| f.node == **node);
                (attached, info.offset, current)
            });
        match best {
            Some((node, info)) => Ok((node.clone(), info.clone())),
            None => Err("no node says that it is primary".to_owned()),
        }
    }

    /// Pure silence for a moment is no reason to hold requests; nobody else is primary yet.
    fn is_only_slow(&self, core: &Core, followed: &NodeId) -> bool {
        let Some(node) = core.node(followed) else {
            return false;
        };
        let Some(streak) = &node.streak else {
            return false;
        };
        let limit = match streak.last {
            ProbeError::Unacked => core.policy.unacked_after / 2,
            ProbeError::Silent => core.policy.silent_after / 2,
            ProbeError::ErrorReply(_) | ProbeError::Auth(_) | ProbeError::MaxClients => {
                Duration::MAX
            }
            _ => return false,
        };
        let rival = core
            .nodes
            .iter()
            .filter(|n| n.id != *followed)
            .filter_map(|n| n.live())
            .any(|info| info.role == Role::Primary);
        let open = core.published.gate == Gate::Open;
        open && !rival && self.doubted.is_none() && core.now - node.heard_at < limit
    }

    fn publish(&mut self, core: &mut Core, node: NodeId, info: &NodeInfo) {
        let primary = Primary {
            node,
            run_id: info.run_id.clone(),
            repl_id: info.repl_id.clone(),
        };
        let before = core.published.primary.clone();
        let stays = before.as_ref() == Some(&primary);
        self.doubted = None;
        self.look_at = None;
        if stays && core.published.gate == Gate::Open {
            core.recovered();
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
            core.emit("+switch-master", Some(&primary.node), "followed", false);
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
        core.recovered();
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
