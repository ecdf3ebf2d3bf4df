//! Sentinel decides: hold requests from its first announcement on, believe a promotion that was
//! announced as soon as ROLE shows it, and otherwise what most sentinels say with the highest epoch.
//!
//! `hear` takes in what is said, `agree` and `promotion` conclude whom to believe, `ask` is the operator's
//! switchover; here is what follows: verify, hold, serve, tell.

mod agree;
mod ask;
mod hear;
mod promotion;

use std::collections::BTreeSet;
use std::time::Duration;

use super::core::{Core, Input};
use super::council::{Belief, Council};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::sentinel::SentinelStatus;
use super::{Action, Decline, ProbeError};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Fault, Gate, NodeId, Outcome, Primary, Timestamp};
use ask::Asked;
use promotion::Promoted;

/// Between two probes of the node that is about to be promoted.
const WATCH: Duration = Duration::from_millis(4);

/// Between two probes of everybody while requests wait.
const LOOK: Duration = Duration::from_millis(25);

/// Between two questions to every sentinel while requests wait.
const CONSULT: Duration = Duration::from_millis(100);

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Led {
    council: Council,
    /// The newest configuration that most sentinels agreed on.
    agreed: Option<Belief>,
    /// The nodes that said they are replicas since then.
    followers: BTreeSet<NodeId>,
    /// A promotion that no configuration names yet.
    promoted: Option<Promoted>,
    /// Answers of the published primary from before this count no more.
    doubted: Option<Timestamp>,
    look_at: Option<Timestamp>,
    watch_at: Option<Timestamp>,
    consult_at: Option<Timestamp>,
    asked: Option<Asked>,
    /// Whether a primary was ever published: the first one is announced although nothing changed.
    has_served: bool,
    /// The former primary of a change that publishers do not know of, because its epoch is not known.
    untold: Option<NodeId>,
}

impl Led {
    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        self.take_in(core, input);
        self.council.convene(core.now);
        self.council
            .members_mut()
            .for_each(|m| m.hold.expire(core.now));
        self.agree(core);
        self.notice_promotion(core);
        self.give_up_promotion(core);
        self.give_up_asking(core);
        match self.verified(core) {
            Ok((belief, primary)) => match self.why_held() {
                Some(why) => {
                    // An announcement is no reason for anybody to look.
                    core.undecided = Some(why);
                    self.wait(core);
                }
                None => self.serve(core, &belief, primary),
            },
            Err(why) => {
                if core.published.primary.is_some() {
                    core.decline(Decline::FollowOnly);
                }
                core.set_undecided(Some(why));
                self.wait(core);
            }
        }
        Next::Stay(Phase::Led(self))
    }

    /// Where it stands, for the status.
    pub(super) fn stage_name(&self) -> &'static str {
        match (&self.asked, &self.promoted) {
            (Some(_), _) => "Sentinel was asked for a failover",
            (None, Some(_)) => "the promoted replica serves, the sentinels do not name it yet",
            (None, None) => "believing Sentinel and ROLE",
        }
    }

    pub(super) fn sentinels(&self) -> Vec<SentinelStatus> {
        self.council.statuses()
    }

    /// The believed primary, if ROLE agrees.
    fn verified(&self, core: &Core) -> Result<(Belief, Primary), String> {
        let belief = match (&self.promoted, &self.agreed) {
            (Some(promoted), _) => &promoted.belief,
            (None, Some(agreed)) => agreed,
            (None, None) => return Err(self.council.complaint()),
        };
        let published = core.published.primary.as_ref();
        let trusted = self.doubted.is_none() && core.published.gate == Gate::Open;
        if let Some(published) = published.filter(|p| core.is_same(&p.node, &belief.node))
            && trusted
            && self.is_only_slow(core, published)
        {
            return Ok((belief.clone(), published.clone()));
        }
        let Some(node) = core.node(&belief.node) else {
            return Err(format!("{} was not reached yet", belief.node));
        };
        let doubted = self.doubted.filter(|_| core.is_published(&belief.node));
        let fresh = node
            .live()
            .filter(|_| doubted.is_none_or(|at| node.info_at > at));
        let named = format!(
            "{}, which Sentinel names in epoch {},",
            belief.node, belief.epoch
        );
        let same_process = |info: &NodeInfo| match &self.promoted {
            Some(promoted) => promoted.primary.run_id == info.run_id,
            None => true,
        };
        match fresh {
            None => Err(format!("{named} does not answer")),
            Some(info) if info.role == Role::Replica => Err(format!("{named} is a replica")),
            Some(info) if !same_process(info) => Err(format!("{named} has restarted")),
            Some(info) if info.loading => Err(format!("{named} is loading its data")),
            Some(info) => Ok((belief.clone(), primary_of(&belief.node, info))),
        }
    }

    /// Pure silence for a moment is no reason to hold requests.
    fn is_only_slow(&self, core: &Core, published: &Primary) -> bool {
        let Some(node) = core.node(&published.node) else {
            return false;
        };
        let limit = match node.streak.as_ref().map(|s| &s.last) {
            Some(ProbeError::Unacked) => core.policy.unacked_after / 2,
            Some(ProbeError::Silent) => core.policy.silent_after / 2,
            Some(ProbeError::ErrorReply(_) | ProbeError::Auth(_) | ProbeError::MaxClients) => {
                Duration::MAX
            }
            _ => return false,
        };
        core.now - node.heard_at < limit
    }

    /// Why requests wait although the believed primary answers.
    fn why_held(&mut self) -> Option<String> {
        if self.promoted.is_some() {
            return None;
        }
        if self.asked.is_some() {
            return Some("a failover that Sentinel was asked for".to_owned());
        }
        let doubts = self.council.members_mut().filter_map(|m| m.hold.doubt());
        let latest = doubts.max_by_key(|d| d.stage)?;
        Some(format!("a sentinel announces {}", latest.stage.word()))
    }

    /// Opens the gate.
    fn serve(&mut self, core: &mut Core, belief: &Belief, primary: Primary) {
        self.doubted = None;
        self.look_at = None;
        self.watch_at = None;
        self.consult_at = None;
        let before = core.published.primary.clone();
        let moved = before
            .as_ref()
            .is_some_and(|b| !core.is_same(&b.node, &primary.node));
        if before.as_ref() != Some(&primary) || core.published.gate == Gate::Closed {
            self.publish(core, belief, primary.clone(), before.as_ref());
        }
        if moved {
            self.council.members_mut().for_each(|m| m.hold.clear());
            self.moved(core, belief, before.map(|b| b.node), &primary.node);
        }
        self.tell_late(core);
        core.settled();
        // Nothing is wrong with the traffic, but the next failover would not be seen.
        let agreed = self.council.count_answering() >= self.council.majority();
        let complaint = || {
            format!(
                "{}: no failover could be believed",
                self.council.complaint()
            )
        };
        core.set_undecided((!agreed).then(complaint));
    }

    fn publish(
        &mut self,
        core: &mut Core,
        belief: &Belief,
        primary: Primary,
        before: Option<&Primary>,
    ) {
        let epoch = match before {
            None => belief.epoch,
            Some(before) if *before == primary => core.published.epoch,
            // Also where a process was replaced within Sentinel's epoch: connections to the old one
            // must go.
            Some(_) => belief.epoch.max(core.published.epoch.next()),
        };
        core.phase("open");
        core.publish(epoch, Gate::Open, Some(primary.clone()), false);
        if before.is_none() && !std::mem::replace(&mut self.has_served, true) {
            core.push(Action::Announce {
                epoch: belief.epoch,
                from: None,
                to: primary.node.clone(),
            });
        }
        let restarted =
            before.is_some_and(|b| b.node == primary.node && b.run_id != primary.run_id);
        if restarted {
            let detail = "restarted, and Sentinel keeps it as primary";
            core.emit("+reboot", Some(&primary.node), detail, true);
        } else if before.is_none() {
            let detail = format!("named by Sentinel in epoch {}", belief.epoch);
            core.emit("+monitor", Some(&primary.node), detail, false);
        }
    }

    /// Another node serves: tell it, and report it.
    fn moved(&mut self, core: &mut Core, belief: &Belief, from: Option<NodeId>, to: &NodeId) {
        let epoch = core.published.epoch;
        core.emit("+switch-master", Some(to), "decided by Sentinel", false);
        let announced = self.promoted.as_ref().is_none_or(|p| p.is_announced);
        match announced {
            true => core.push(Action::Announce {
                epoch: belief.epoch,
                from: from.clone(),
                to: to.clone(),
            }),
            false => self.untold = from.clone(),
        }
        let bytes_lost = self.bytes_lost(core, from.as_ref(), to);
        let asked = self.asked.take().is_some();
        let recorder = core.recorder();
        recorder.fault = Some(match asked {
            true => Fault::Switchover,
            false => Fault::Followed,
        });
        recorder.from = from;
        core.finish_report(Ending {
            epoch,
            outcome: Outcome::Done,
            to: Some(to.clone()),
            bytes_lost,
        });
    }

    /// Tells of a change whose epoch was not known when it was made.
    fn tell_late(&mut self, core: &mut Core) {
        let (None, Some(agreed)) = (&self.promoted, &self.agreed) else {
            return;
        };
        let Some(from) = self.untold.take() else {
            return;
        };
        core.push(Action::Announce {
            epoch: agreed.epoch,
            from: Some(from),
            to: agreed.node.clone(),
        });
    }

    /// What the new primary lacks, as far as the former one showed its offset.
    fn bytes_lost(&self, core: &Core, from: Option<&NodeId>, to: &NodeId) -> BytesLost {
        let former = from
            .and_then(|id| core.node(id))
            .and_then(|n| n.info.as_ref());
        let new = core.node(to).and_then(|n| n.info.as_ref());
        match former.zip(new) {
            Some((former, new)) if former.repl_id == new.repl_id2 => {
                let fork = u64::try_from(new.second_repl_offset - 1).unwrap_or(0);
                BytesLost::AtLeast(former.offset.saturating_sub(fork))
            }
            _ => BytesLost::Unknown,
        }
    }

    /// Closes the gate and looks again soon, most of all at the node that is about to be promoted.
    fn wait(&mut self, core: &mut Core) {
        if core.published.gate == Gate::Open {
            core.phase("hold");
        }
        core.close_gate();
        let now = core.now;
        let is_due = |at: &mut Option<Timestamp>, pause: Duration| {
            let due = at.is_none_or(|at| now >= at);
            if due {
                *at = Some(now + pause);
            }
            due
        };
        let chosen: Vec<NodeId> = self
            .council
            .members_mut()
            .filter_map(|m| m.hold.doubt()?.replica.clone())
            .collect();
        if !chosen.is_empty() && is_due(&mut self.watch_at, WATCH) {
            chosen.iter().for_each(|node| core.probe(node));
        }
        if is_due(&mut self.look_at, LOOK) {
            core.probe_all();
        }
        if is_due(&mut self.consult_at, CONSULT) {
            core.push(Action::ConsultSentinels);
        }
        let ends = self
            .council
            .members_mut()
            .filter_map(|m| Some(m.hold.doubt()?.until));
        let ends: Vec<Timestamp> = ends.collect();
        let due = [self.look_at, self.consult_at];
        let watch = self.watch_at.filter(|_| !chosen.is_empty());
        let asked = self.asked.as_ref().map(|a| a.until);
        let all = due.into_iter().chain([watch, asked]).flatten().chain(ends);
        all.for_each(|at| core.wake_at(at));
    }
}

/// Whether a node says now that it is a primary.
fn serves(core: &Core, node: &NodeId) -> bool {
    core.node(node)
        .and_then(|n| n.live())
        .is_some_and(is_primary)
}

fn is_primary(info: &NodeInfo) -> bool {
    info.role == Role::Primary && !info.loading
}

fn primary_of(node: &NodeId, info: &NodeInfo) -> Primary {
    Primary {
        node: node.clone(),
        run_id: info.run_id.clone(),
        repl_id: info.repl_id.clone(),
    }
}
