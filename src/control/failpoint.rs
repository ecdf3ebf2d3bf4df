//! A testing aid: the process ends itself, as abruptly as by SIGKILL, or stops itself, as by SIGSTOP and
//! once, at one exact point of a failover or switchover. The environment variables below name the point,
//! for example `after-promote`. Builds without debug assertions do not look at them.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::clock;
use crate::failover::{Action, Event, NodeOp, OpId, RecordPhase};
use crate::topology::Gate;

/// `before-ACT` or `after-ACT`; the acts are in [`Failpoint::act`].
const CRASH: &str = "POINTSMAN_CRASH_AT";

/// The same.
const STOP: &str = "POINTSMAN_STOP_AT";

/// Within this time a process is stopped that asked for it.
const STOPPED: Duration = Duration::from_millis(500);

/// See the head of the file.
pub(super) struct Failpoint {
    /// [`CRASH`] or [`STOP`].
    variable: &'static str,
    before: bool,
    act: String,
    /// The gate was open once: from then on whatever is done belongs to a change.
    armed: bool,
    gate: Gate,
    /// Acts of this name that were begun.
    begun: HashSet<OpId>,
}

impl Failpoint {
    /// `None`: nothing is to be cut short.
    pub(super) fn from_environment() -> Option<Failpoint> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let set = |variable| Some((variable, std::env::var(variable).ok()?));
        let (variable, point) = set(CRASH).or_else(|| set(STOP))?;
        let (moment, act) = point.split_once('-')?;
        tracing::warn!(
            point,
            "{variable} is set: this process will end or stop itself"
        );
        Some(Failpoint {
            variable,
            before: moment == "before",
            act: act.to_owned(),
            armed: false,
            gate: Gate::Closed,
            begun: HashSet::new(),
        })
    }

    /// The core asks for this, and nothing of it is done yet.
    pub(super) fn asked(&mut self, action: &Action) {
        let found = Failpoint::act(action, self.gate);
        if let Action::Publish { view, .. } = action {
            self.gate = view.gate;
        }
        match found {
            Some((act, op)) if self.armed && act == self.act => match self.before {
                true => self.reached(),
                false => _ = self.begun.insert(op),
            },
            _ => self.armed |= self.gate == Gate::Open,
        }
    }

    /// This was published.
    pub(super) fn published(&mut self, op: OpId) {
        if self.begun.remove(&op) {
            self.reached();
        }
    }

    /// Something ended, and the core does not know yet.
    pub(super) fn ended(&mut self, event: &Event) {
        match event {
            Event::Swapped { op, .. } | Event::NodeOpDone { op, .. } => self.published(*op),
            _ => {}
        }
    }

    /// The name of an act, where it has one.
    fn act(action: &Action, gate: Gate) -> Option<(&'static str, OpId)> {
        let act = match action {
            Action::Publish { op, view, .. } => match (gate, view.gate) {
                (Gate::Open, Gate::Closed) => ("close", *op),
                (Gate::Closed, Gate::Open) => ("open", *op),
                _ => return None,
            },
            Action::SwapRecord { op, record, .. } => match record.phase {
                RecordPhase::Serving => ("commit", *op),
                RecordPhase::FailingOver | RecordPhase::SwitchingOver { .. } => ("claim", *op),
            },
            Action::Node { op, what, .. } => match what {
                NodeOp::Fence => ("fence", *op),
                NodeOp::Inspect => ("inspect", *op),
                NodeOp::Pause { .. } => ("pause", *op),
                NodeOp::Promote => ("promote", *op),
                NodeOp::Repoint { .. } => ("repoint", *op),
                NodeOp::Unfence | NodeOp::Unpause | NodeOp::CheckAuth { .. } => return None,
            },
            _ => return None,
        };
        Some(act)
    }

    fn reached(&mut self) {
        tracing::warn!("{} is reached", self.variable);
        if self.variable == CRASH {
            std::process::abort();
        }
        self.act.clear();
        // Of oneself it can not fail. Another thread may take the signal: this one goes no further before.
        let asked = clock::now();
        let _ = kill_process(getpid(), Signal::STOP);
        while clock::now() - asked < STOPPED {
            std::thread::park_timeout(STOPPED);
        }
    }
}
