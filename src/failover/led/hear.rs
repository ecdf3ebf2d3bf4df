//! What the sentinels, the nodes and the operator say.

use std::time::Duration;

use super::super::core::{Core, Input};
use super::super::hold::Hold;
use super::super::sentinel::{SentinelEvent, SentinelNews, Stage, Statement};
use super::{Led, serves};
use crate::resp::info::Role;
use crate::topology::NodeId;

impl Led {
    pub(super) fn take_in(&mut self, core: &mut Core, input: &Input) {
        match input {
            Input::Sentinels { listed } => self.council.list(listed.clone()),
            Input::SentinelGone(sentinel) => self.council.forget(sentinel),
            Input::Sentinel(sentinel, news) => self.heard(core, sentinel, news),
            Input::Switchover { request, to } => self.switchover(core, *request, to.as_ref()),
            Input::Asked(op, outcome) => self.answered(core, *op, outcome),
            Input::Hint { node, close } if core.is_published(node) => {
                if *close {
                    self.doubted = Some(core.now);
                }
                core.recorder();
                core.note(format!("clients' connections to {node} are in trouble"));
                core.probe_all();
            }
            Input::Observed(node) if is_replica(core, node) => {
                self.followers.insert(node.clone());
            }
            Input::Observed(node) if core.is_published(node) => {
                let streak = core.node(node).and_then(|n| n.streak.as_ref());
                if let Some(last) = streak.filter(|s| s.count == 1).map(|s| s.last.clone()) {
                    core.recorder();
                    core.note(format!("probe of {node}: {last:?}"));
                    core.probe_all();
                }
            }
            _ => {}
        }
    }

    fn heard(&mut self, core: &mut Core, sentinel: &NodeId, news: &SentinelNews) {
        match news {
            SentinelNews::Stated(statement) => self.stated(core, sentinel, statement),
            SentinelNews::Failed(why) => {
                // A leader that ends before it could tell the others changed nothing, if the old primary
                // lives: they make the chosen replica a replica again. If not, that one is all there is.
                let lives = self.agreed.as_ref().is_some_and(|a| serves(core, &a.node));
                let member = self.council.member(sentinel);
                if lives || !is_chosen(&member.hold) {
                    member.hold.drop_doubt(core.now);
                }
                if member
                    .failing
                    .replace(why.clone())
                    .is_none_or(|w| w != *why)
                {
                    let detail = format!("{sentinel}: {why}");
                    core.emit("-sentinel", None, detail, true);
                }
            }
            SentinelNews::Announced(event) => self.announced(core, sentinel, event),
        }
    }

    /// A sentinel answered. What changed since its last answer is as good as an announcement.
    fn stated(&mut self, core: &mut Core, sentinel: &NodeId, statement: &Statement) {
        let confided = self.confides(core, sentinel);
        let member = self.council.member(sentinel);
        if member.failing.take().is_some() {
            core.emit("+sentinel", None, format!("{sentinel} answers"), false);
        }
        let before = member.statement.replace(statement.clone());
        let (Some(before), true) = (before, confided) else {
            return;
        };
        if statement.epoch > before.epoch && !core.is_same(&statement.primary, &before.primary) {
            let replica = Some(statement.primary.clone());
            self.raise(core, sentinel, Stage::Chosen, replica);
        } else if let Some(stage) = statement.doubt
            && before.doubt.is_none_or(|b| b < stage)
        {
            self.raise(core, sentinel, stage, None);
        }
    }

    fn announced(&mut self, core: &mut Core, sentinel: &NodeId, event: &SentinelEvent) {
        let confided = self.confides(core, sentinel);
        let about_ours = |primary| {
            self.agreed
                .as_ref()
                .is_some_and(|a| core.is_same(&a.node, primary))
        };
        match event {
            SentinelEvent::Doubts {
                stage,
                primary,
                replica,
            } => {
                if confided && about_ours(primary) {
                    self.raise(core, sentinel, *stage, replica.clone());
                }
            }
            SentinelEvent::Trusts { primary } => {
                if about_ours(primary) {
                    self.council.member(sentinel).hold.trust(core.now);
                }
            }
            SentinelEvent::GaveUp { word } => {
                core.note(format!("{sentinel}: {word}"));
                self.council.member(sentinel).hold.drop_doubt(core.now);
                let ours = self.promoted.is_none()
                    && self.asked.as_ref().is_some_and(|a| a.sentinel == *sentinel);
                if ours {
                    self.abort_asked(core, format!("Sentinel gave it up ({word})"));
                }
            }
            SentinelEvent::NewEpoch(epoch) => {
                let member = self.council.member(sentinel);
                member.epoch = member.epoch.max(Some(*epoch));
            }
            SentinelEvent::Tilt(on) => {
                let member = self.council.member(sentinel);
                member.tilt = *on;
                // Until it trusts its clock again it does nothing that it announced, unless it is done.
                if !is_chosen(&member.hold) {
                    member.hold.drop_doubt(core.now);
                }
            }
        }
    }

    /// Whether this sentinel's announcements are listened to: it counts, and its configuration is the
    /// one that is believed. One of another cluster never is, one that fell behind is not.
    fn confides(&self, core: &Core, sentinel: &NodeId) -> bool {
        let Some(agreed) = &self.agreed else {
            return false;
        };
        let agreeing = self.council.agreeing(agreed, |a, b| core.is_same(a, b));
        agreeing.contains(sentinel)
    }

    pub(super) fn raise(
        &mut self,
        core: &mut Core,
        sentinel: &NodeId,
        stage: Stage,
        replica: Option<NodeId>,
    ) {
        // The change that it speaks of was made already.
        let is_late = |node: &NodeId| {
            core.published
                .primary
                .as_ref()
                .is_some_and(|p| core.is_same(&p.node, node))
        };
        let member = self.council.member(sentinel);
        if member.tilt || replica.as_ref().is_some_and(is_late) {
            return;
        }
        let limit = member
            .statement
            .as_ref()
            .map_or(Duration::ZERO, |s| s.failover_timeout);
        let reached = |hold: &Hold| hold.doubt().map(|d| d.stage);
        let before = reached(&member.hold);
        member.hold.raise(stage, replica.clone(), limit, core.now);
        let after = reached(&member.hold);
        if after.is_none() {
            return;
        }
        core.recorder();
        let whom = replica.as_ref().map_or(String::new(), |r| format!(" {r}"));
        core.note(format!("sentinel {sentinel}: {}{whom}", stage.word()));
        if after > before {
            let about = replica.or_else(|| self.agreed.as_ref().map(|a| a.node.clone()));
            let detail = format!("announced by sentinel {sentinel}");
            core.emit(stage.word(), about.as_ref(), detail, false);
            core.probe_all();
        }
        // The next look is now.
        self.watch_at = None;
    }
}

fn is_chosen(hold: &Hold) -> bool {
    hold.doubt().is_some_and(|d| d.stage == Stage::Chosen)
}

fn is_replica(core: &Core, node: &NodeId) -> bool {
    let live = core.node(node).and_then(|n| n.live());
    live.is_some_and(|info| info.role == Role::Replica)
}
