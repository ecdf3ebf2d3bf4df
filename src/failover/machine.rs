//! One backend's failover core.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Action, Event, Policy, Status};
use crate::topology::{Epoch, Gate, NodeId, Timestamp};

/// Who decides that a replica becomes primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// This monitor, alone (the record is kept in a local file): a half-done decision in the record
    /// is its own and is resumed at once.
    Decides,
    /// Several monitors share the record: a half-done decision of another one is taken over only
    /// after its tenure has ended.
    Shares,
    /// Somebody else: believe ROLE, never act. There is no record.
    Follows,
}

/// One per backend. Clone it to branch a search.
#[derive(Clone, Debug)]
pub struct Machine {
    backend: Arc<str>,
    me: Arc<str>,
    nodes: Vec<NodeId>,
    policy: Policy,
    authority: Authority,
}

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
        Machine {
            backend: backend.into(),
            me: me.into(),
            nodes,
            policy,
            authority,
        }
    }

    /// Takes in one event; the actions are to be executed in order. `now` never goes back. Same
    /// events at the same times give the same actions.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let _ = (
            event,
            now,
            &self.me,
            &self.policy,
            &self.authority,
            &self.nodes,
        );
        Vec::new()
    }

    /// When [`Event::Tick`] is due at the latest, whatever else arrives before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// What is known and why nothing is decided, for people. `now` only serves to say how long ago
    /// something was seen.
    pub fn status(&self, now: Timestamp) -> Status {
        let _ = now;
        Status {
            backend: self.backend.clone(),
            phase: String::new(),
            step: String::new(),
            epoch: Epoch(0),
            gate: Gate::Closed,
            primary: None,
            undecided: None,
            nodes: Vec::new(),
        }
    }
}
