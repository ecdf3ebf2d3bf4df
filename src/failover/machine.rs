//! One backend's failover core: the phases, and the one function that changes them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::choice::reason_for;
use super::commit::Commit;
use super::core::{Core, Input};
use super::follow::Following;
use super::led::Led;
use super::serving::Serving;
use super::start::{self, Learning, Waiting};
use super::switchover::Switchover;
use super::unplanned::Failover;
use super::{Action, Event, Health, NodeRole, NodeStatus, Panel, Policy, Presence, Status, obey};
use crate::resp::info::Role;
use crate::topology::{Fault, NodeId, Timestamp};

/// Who decides that a replica becomes primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// This monitor, alone (the record is kept in a local file): a half-done decision in the record
    /// is its own and is resumed at once.
    Decides,
    /// Several monitors share the record: a half-done decision of another one is taken over only
    /// after its tenure has ended.
    Shares(Panel),
    /// Monitors elsewhere, who share a record: do as it says, and ask no node anything.
    Obeys {
        /// How long requests may be forwarded without having confirmed the record; `None`: without end.
        view_lease: Option<Duration>,
    },
    /// Somebody else: believe ROLE, never act. There is no record.
    Follows,
    /// Sentinel: believe what most sentinels say, and ROLE. There is no record either.
    Sentinel,
}

impl Authority {
    /// Whether this monitor, alone or with others, decides by changing a record.
    pub const fn has_record(&self) -> bool {
        matches!(self, Authority::Decides | Authority::Shares(_))
    }

    /// Whether there is a record that says who serves.
    pub const fn reads_record(&self) -> bool {
        self.has_record() || matches!(self, Authority::Obeys { .. })
    }
}

/// Where the core stands. Each variant carries what only it needs.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// The record was not read yet.
    Starting,
    /// There is no record: who is primary is being learned.
    Learning(Learning),
    /// The record says who serves.
    Serving(Box<Serving>),
    /// Another monitor is deciding.
    Waiting(Waiting),
    /// The primary is given up; somebody else is being promoted.
    FailingOver(Box<Failover>),
    /// The operator moves the role.
    SwitchingOver(Box<Switchover>),
    /// The new primary was verified; the record is to say that it serves.
    Committing(Box<Commit>),
    /// Somebody else decides.
    Following(Following),
    /// Monitors elsewhere decide; the record is obeyed.
    Obeying,
    /// Sentinel decides.
    Led(Box<Led>),
}

/// What a phase says when it has taken a step.
pub(super) enum Next {
    /// It waits for the next event.
    Stay(Phase),
    /// The next phase has something to do at once.
    Go(Phase),
}

/// One per backend. Clone it to branch a search.
#[derive(Clone, Debug)]
pub struct Machine {
    core: Core,
    phase: Phase,
}

/// Steps that one event may cause; more would be a loop.
const STEP_LIMIT: usize = 16;

impl Machine {
    /// A core that knows nothing yet. `me` names this monitor in the record: unique to this
    /// process. Send it [`Event::Tick`] first.
    pub fn new(
        backend: impl Into<Arc<str>>,
        me: impl Into<Arc<str>>,
        nodes: Vec<NodeId>,
        policy: Policy,
        authority: Authority,
    ) -> Self {
        let phase = match authority {
            Authority::Follows => Phase::Following(Following::default()),
            Authority::Sentinel => Phase::Led(Box::default()),
            Authority::Obeys { .. } => Phase::Obeying,
            Authority::Decides | Authority::Shares(_) => Phase::Starting,
        };
        Machine {
            core: Core::new(backend.into(), me.into(), nodes, policy, authority),
            phase,
        }
    }

    /// Takes in one event; the actions are to be executed in order. `now` never goes back. Same
    /// events at the same times give the same actions.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        self.core.begin(now);
        let input = self.core.absorb(event);
        self.core.reload_when_due();
        self.advance(&input);
        if self.core.lapsed().is_some() {
            self.core.close_gate();
        }
        self.core.attend();
        self.core.keep_roll();
        self.core.take_actions()
    }

    /// The only place that changes the phase.
    fn advance(&mut self, input: &Input) {
        let nothing = Input::Nothing;
        let mut input = input;
        for _ in 0..STEP_LIMIT {
            let phase = std::mem::replace(&mut self.phase, Phase::Starting);
            match step(phase, &mut self.core, input) {
                Next::Stay(phase) => {
                    self.phase = phase;
                    return;
                }
                Next::Go(phase) => self.phase = phase,
            }
            input = &nothing;
        }
        debug_assert!(false, "phases change without end");
    }

    /// What told the monitors that this pointsman carries requests: to be removed when it ends in good order
    /// and carries none any more.
    pub fn presence(&self) -> Option<Presence> {
        self.core.presence()
    }

    /// When [`Event::Tick`] is due at the latest, whatever else arrives before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.core.next_deadline()
    }

    /// What is known and why nothing is decided, for people. `now` only serves to say how long ago
    /// something was seen.
    pub fn status(&self, now: Timestamp) -> Status {
        let (phase, stage) = self.words();
        Status {
            backend: self.core.backend.clone(),
            phase: phase.to_owned(),
            step: stage.to_owned(),
            epoch: self.core.published.epoch,
            gate: self.core.published.gate,
            primary: self.core.published.primary.as_ref().map(|p| p.node.clone()),
            undecided: self.core.undecided.clone(),
            nodes: self.node_statuses(now),
            sentinels: match &self.phase {
                Phase::Led(led) => led.sentinels(),
                _ => Vec::new(),
            },
            shards: Vec::new(),
        }
    }

    fn words(&self) -> (&'static str, &'static str) {
        match &self.phase {
            Phase::Starting => ("starting", "reading the record"),
            Phase::Learning(_) => ("learning", "asking every node for its role"),
            Phase::Serving(_) => match self.core.outage_since {
                None => ("serving", "healthy"),
                Some(_) => ("serving", "looking at the primary"),
            },
            Phase::Waiting(_) => ("waiting", "another monitor is deciding"),
            Phase::FailingOver(f) if f.fault() == Fault::Switchover => {
                ("switching_over", f.stage_name())
            }
            Phase::FailingOver(f) => ("failing_over", f.stage_name()),
            Phase::SwitchingOver(s) => ("switching_over", s.stage_name()),
            Phase::Committing(c) if c.fault() == Fault::Switchover => {
                ("switching_over", "committing")
            }
            Phase::Committing(_) => ("failing_over", "committing"),
            Phase::Following(_) => ("following", "believing ROLE"),
            Phase::Obeying => ("obeying", "doing as the record says"),
            Phase::Led(led) => ("following", led.stage_name()),
        }
    }

    fn node_statuses(&self, now: Timestamp) -> Vec<NodeStatus> {
        let core = &self.core;
        let answers = core.live_answers();
        let fault = Fault::Followed;
        let (_, ranking) = core.clone().choose(&answers, &Default::default(), fault);
        let primary = core.published.primary.as_ref().map(|p| &p.node);
        let head = primary
            .and_then(|p| core.node(p))
            .and_then(|n| n.info.as_ref())
            .map(|info| info.offset);
        let flags = primary.and_then(|p| core.node(p)?.notifies.clone());
        let obeys = matches!(core.authority, Authority::Obeys { .. });
        core.nodes
            .iter()
            .map(|node| {
                let info = node.info.as_ref();
                let replica = info.filter(|i| i.role == Role::Replica);
                NodeStatus {
                    node: node.id.clone(),
                    role: info.map(|i| match i.role {
                        Role::Primary => NodeRole::Primary,
                        Role::Replica => NodeRole::Replica,
                    }),
                    health: match obeys {
                        true => Health::Unasked,
                        false => node.health(core.record.as_ref()),
                    },
                    run_id: info.map(|i| i.run_id.clone()),
                    follows: replica
                        .and_then(|i| i.upstream.as_ref())
                        .map(|(host, port)| NodeId::of(host, *port)),
                    priority: info.map(|i| i.priority),
                    announced: info.is_none_or(|i| i.announced),
                    offset: info.map(|i| i.offset),
                    lag_bytes: head
                        .zip(replica)
                        .map(|(head, i)| head.saturating_sub(i.offset)),
                    link_up: replica.map(|i| i.link_up),
                    last_seen: info.map(|_| now - node.info_at),
                    not_promotable: reason_for(&ranking, &node.id)
                        .filter(|_| Some(&node.id) != primary && !obeys)
                        .map(|unfit| unfit.to_string()),
                    repointing: match &self.phase {
                        Phase::Serving(serving) => serving.repointing(&node.id),
                        _ => None,
                    },
                    lacks: flags.as_deref().and_then(|flags| node.lacks(flags)),
                }
            })
            .collect()
    }
}

fn step(phase: Phase, core: &mut Core, input: &Input) -> Next {
    if !matches!(
        phase,
        Phase::Serving(_) | Phase::Following(_) | Phase::Obeying | Phase::Led(_)
    ) && let Input::Switchover { request, .. } = input
    {
        let why = "another decision is being made";
        core.refuse_switchover(*request, why);
    }
    match phase {
        Phase::Starting => start::starting(core),
        Phase::Learning(learning) => learning.step(core, input),
        Phase::Serving(serving) => serving.step(core, input),
        Phase::Waiting(waiting) => waiting.step(core),
        Phase::Obeying => obey::step(core, input),
        Phase::FailingOver(failover) => failover.step(core, input),
        Phase::SwitchingOver(switchover) => switchover.step(core, input),
        Phase::Committing(commit) => commit.step(core, input),
        Phase::Following(following) => following.step(core, input),
        Phase::Led(led) => led.step(core, input),
    }
}
