//! Sentinel decides: hold requests from its first announcement on, believe a promotion that was
//! announced as soon as ROLE shows it, and otherwise what most sentinels say with the highest epoch.

use std::collections::BTreeSet;
use std::time::Duration;

use super::core::{Core, Input};
use super::council::{Belief, Council};
use super::hold::Hold;
use super::machine::{Next, Phase};
use super::report::Ending;
use super::sentinel::{AskOutcome, SentinelEvent, SentinelNews, SentinelStatus, Stage, Statement};
use super::{Action, Decline, OpId, ProbeError};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Fault, Gate, NodeId, Outcome, Primary, Timestamp};

/// Between two probes of the node that is about to be promoted.
const WATCH: Duration = Duration::from_millis(4);

/// Between two probes of everybody while requests wait.
const LOOK: Duration = Duration::from_millis(25);

/// Between two questions to every sentinel while requests wait.
const CONSULT: Duration = Duration::from_millis(100);

/// The longest wait for a failover that the operator asked for.
const ASKED_MOST: Duration = Duration::from_secs(8);

/// How long a first look may take before the configuration is believed without a majority.
const FIRST_LOOK: Duration = Duration::from_secs(1);

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

/// A replica that a leader chose, and that became a primary with the history of the former one.
#[derive(Clone, Debug)]
struct Promoted {
    belief: Belief,
    /// Whether the leader announced that epoch.
    is_announced: bool,
    primary: Primary,
    /// When the failover ends by its time limit.
    until: Timestamp,
}

/// The operator's switchover.
#[derive(Clone, Debug)]
struct Asked {
    sentinel: NodeId,
    op: OpId,
    until: Timestamp,
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

    // ---- what is heard ----

    fn take_in(&mut self, core: &mut Core, input: &Input) {
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

    fn raise(&mut self, core: &mut Core, sentinel: &NodeId, stage: Stage, replica: Option<NodeId>) {
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

    // ---- whom to believe ----

    /// Takes over what most sentinels say. An older epoch than one that was believed counts only when
    /// nobody remembers that one any more (the sentinels were set up anew), its primary is gone, and
    /// ROLE agrees.
    fn agree(&mut self, core: &mut Core) {
        let verdict = self.council.verdict(|a, b| core.is_same(a, b));
        let Some(verdict) = verdict.or_else(|| self.unopposed(core)) else {
            return;
        };
        let Some(agreed) = &self.agreed else {
            self.agreed = Some(verdict);
            self.join_failover(core);
            return;
        };
        if *agreed == verdict {
            return;
        }
        let serves = |node: &NodeId| serves(core, node);
        let takes_over = match verdict.epoch.cmp(&agreed.epoch) {
            std::cmp::Ordering::Greater => true,
            // The same node by another name, or two failovers that nobody can tell apart.
            std::cmp::Ordering::Equal => !serves(&agreed.node) && serves(&verdict.node),
            std::cmp::Ordering::Less => {
                let remembered = self
                    .council
                    .newest()
                    .is_some_and(|n| n.epoch >= agreed.epoch);
                !remembered && !serves(&agreed.node) && serves(&verdict.node)
            }
        };
        if takes_over {
            if !core.is_same(&agreed.node, &verdict.node) {
                core.note(format!(
                    "most sentinels name {} in epoch {}",
                    verdict.node, verdict.epoch
                ));
                core.probe_all();
                self.council.members_mut().for_each(|m| m.hold.clear());
                self.followers.clear();
            }
            self.agreed = Some(verdict);
        }
    }

    /// The first look may fall into a failover that was announced before.
    fn join_failover(&mut self, core: &mut Core) {
        let Some(agreed) = &self.agreed else { return };
        let agreeing = self.council.agreeing(agreed, |a, b| core.is_same(a, b));
        for sentinel in agreeing {
            let statement = self.council.member(&sentinel).statement.as_ref();
            let doubt = statement.and_then(|s| s.doubt);
            if let Some(stage) = doubt.filter(|stage| *stage >= Stage::Claimed) {
                self.raise(core, &sentinel, stage, None);
            }
        }
    }

    /// At a start without a majority: the newest configuration of those that answer, if every node
    /// answers, its primary is the only one, and all others replicate from it.
    fn unopposed(&self, core: &Core) -> Option<Belief> {
        let started = core.started.is_some_and(|at| core.now - at >= FIRST_LOOK);
        if self.agreed.is_some() || !started {
            return None;
        }
        let newest = self.council.newest()?;
        let answers = core.live_answers();
        let primary = answers.get(&newest.node).filter(|info| is_primary(info))?;
        let follows = |info: &NodeInfo| info.role == Role::Replica && info.link_up;
        let others = answers
            .values()
            .filter(|info| info.run_id != primary.run_id);
        let all_follow = others
            .clone()
            .all(|i| follows(i) && i.repl_id == primary.repl_id);
        let all_answer = answers.len() == core.nodes.len() && others.count() > 0;
        (all_answer && all_follow).then_some(newest)
    }

    /// A node that was a replica until now, and that a leader chose, says that it is a primary, with the
    /// history of the believed one: nobody but the failover can have done that.
    fn notice_promotion(&mut self, core: &mut Core) {
        let Some(agreed) = self.agreed.clone() else {
            return;
        };
        if self.promoted.is_some() {
            return;
        }
        let mut histories: Vec<_> = Vec::new();
        if let Some(published) = &core.published.primary {
            histories.push(published.repl_id.clone());
        }
        if let Some(info) = core.node(&agreed.node).and_then(|n| n.info.as_ref()) {
            histories.push(info.repl_id.clone());
        }
        let found = self.council.members_mut().find_map(|member| {
            let replica = member.hold.doubt()?.replica.clone()?;
            let info = core.node(&replica)?.live().filter(|i| is_primary(i))?;
            let forked = histories.contains(&info.repl_id2);
            let followed = self.followers.contains(&replica);
            if !forked || !followed || core.is_same(&replica, &agreed.node) {
                return None;
            }
            let announced = member.epoch.filter(|epoch| *epoch > agreed.epoch);
            let statement = member.statement.as_ref()?;
            let stated = Some(statement.epoch).filter(|epoch| *epoch > agreed.epoch);
            Some(Promoted {
                belief: Belief {
                    epoch: stated.or(announced).unwrap_or(agreed.epoch.next()),
                    node: replica.clone(),
                },
                is_announced: stated.or(announced).is_some(),
                primary: primary_of(&replica, info),
                until: core.now + statement.failover_timeout,
            })
        });
        if let Some(promoted) = &found {
            core.note(format!(
                "{} says that it is a primary",
                promoted.belief.node
            ));
        }
        self.promoted = found;
    }

    /// A promotion counts until a configuration names its epoch, the node is made a replica again (its
    /// leader ended before it could tell the others), or the failover's time is over and most sentinels
    /// still name the old primary, which serves.
    fn give_up_promotion(&mut self, core: &mut Core) {
        let (Some(promoted), Some(agreed)) = (&self.promoted, &self.agreed) else {
            return;
        };
        let node = &promoted.belief.node;
        if agreed.epoch >= promoted.belief.epoch {
            if !core.is_same(&agreed.node, node) {
                let detail = "promoted, and not named by the sentinels afterwards";
                core.emit("-promoted-slave", Some(node), detail, true);
            }
            self.promoted = None;
            return;
        }
        let undone = core
            .node(node)
            .filter(|n| n.live().is_some_and(|i| i.role == Role::Replica))
            .is_some_and(|n| n.agreeing > 1);
        let verdict = self.council.verdict(|a, b| core.is_same(a, b));
        let void = verdict.as_ref() == Some(agreed) && serves(core, &agreed.node);
        if undone || (core.now >= promoted.until && void) {
            let detail = "promoted, and given up by the sentinels: what it took meanwhile is lost";
            core.emit("-promoted-slave", Some(node), detail, true);
            self.promoted = None;
        } else {
            core.wake_at(promoted.until);
        }
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

    // ---- what follows ----

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

    // ---- the operator's switchover ----

    fn switchover(&mut self, core: &mut Core, request: u64, to: Option<&NodeId>) {
        let why = match (to, &self.agreed) {
            _ if self.asked.is_some() => "Sentinel was asked for a failover already".to_owned(),
            _ if self.promoted.is_some() => "Sentinel has not ended its last failover".to_owned(),
            (Some(_), _) => "Sentinel chooses the replica itself: leave the node out, or give the \
                             node you want the lowest replica-priority"
                .to_owned(),
            (None, Some(agreed)) if core.published.gate == Gate::Open => {
                let agreeing = self.council.agreeing(agreed, |a, b| core.is_same(a, b));
                let willing = agreeing.into_iter().find(|s| !self.council.member(s).tilt);
                match willing {
                    Some(sentinel) => return self.ask(core, request, sentinel),
                    None => self.council.complaint(),
                }
            }
            _ => {
                let why = core.undecided.clone();
                why.unwrap_or_else(|| "the primary is not healthy at present".to_owned())
            }
        };
        core.refuse_switchover(request, why);
    }

    /// Requests wait from now on: Sentinel lets the old primary go on acknowledging writes that are
    /// thrown away.
    fn ask(&mut self, core: &mut Core, request: u64, sentinel: NodeId) {
        let recorder = core.recorder();
        recorder.fault = Some(Fault::Switchover);
        recorder.request = Some(request);
        core.phase("ask_sentinel");
        core.note(format!("sentinel {sentinel} is asked for a failover"));
        core.close_gate();
        let limit = core.policy.node_op_timeout;
        let op = core.ask_failover(&sentinel, limit);
        let until = core.now + ASKED_MOST;
        self.asked = Some(Asked {
            sentinel,
            op,
            until,
        });
    }

    fn answered(&mut self, core: &mut Core, op: OpId, outcome: &AskOutcome) {
        if self.asked.as_ref().is_none_or(|a| a.op != op) {
            return;
        }
        match outcome {
            AskOutcome::Done => core.note("Sentinel begins a failover".to_owned()),
            AskOutcome::Refused(why) => {
                self.abort_asked(core, format!("Sentinel refuses: {why}"));
            }
            // It may have begun: wait and see.
            AskOutcome::Unknown(why) => core.note(format!("Sentinel has not answered: {why}")),
        }
    }

    fn give_up_asking(&mut self, core: &mut Core) {
        if self.promoted.is_none() && self.asked.as_ref().is_some_and(|a| core.now >= a.until) {
            let why = format!("Sentinel has promoted nobody within {ASKED_MOST:?}");
            self.abort_asked(core, why);
        }
    }

    fn abort_asked(&mut self, core: &mut Core, why: String) {
        self.asked = None;
        let to = core.published.primary.as_ref().map(|p| p.node.clone());
        core.finish_report(Ending {
            epoch: core.published.epoch,
            outcome: Outcome::Aborted(why),
            to,
            bytes_lost: BytesLost::Exactly(0),
        });
    }
}

fn is_chosen(hold: &Hold) -> bool {
    hold.doubt().is_some_and(|d| d.stage == Stage::Chosen)
}

fn is_replica(core: &Core, node: &NodeId) -> bool {
    let live = core.node(node).and_then(|n| n.live());
    live.is_some_and(|info| info.role == Role::Replica)
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
