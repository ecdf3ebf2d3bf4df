//! What the core asks of the shell: the actions of one event are collected here.

use std::time::Duration;

use super::core::{Core, Trust};
use super::panel::LISTEN;
use super::presence::Traffic;
use super::{Action, Authority, Decline, NodeOp, OpId, Record, RecordPhase, View};
use crate::topology::{Epoch, Gate, NodeId, Primary};

/// How long a start may take to learn who is who before somebody should look.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How often an authority that can not be read is tried again.
pub(super) const RELOAD: Duration = Duration::from_millis(500);
/// How often a shared record is read even if nothing tells of a change; a sidecar does it half as often.
const REFRESH: Duration = Duration::from_secs(1);

impl Core {
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn op(&mut self) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        op
    }

    pub(super) fn node_op(&mut self, node: &NodeId, what: NodeOp, timeout: Duration) -> OpId {
        let op = self.op();
        self.ops.insert(op, node.clone());
        self.push(Action::Node {
            op,
            node: node.clone(),
            what,
            timeout,
        });
        op
    }

    /// `SENTINEL FAILOVER`, led by this sentinel.
    pub(super) fn ask_failover(&mut self, sentinel: &NodeId, timeout: Duration) -> OpId {
        let op = self.op();
        self.push(Action::AskFailover {
            op,
            sentinel: sentinel.clone(),
            timeout,
        });
        op
    }

    /// Whether an op on this node is unanswered.
    pub(super) fn is_asked(&self, node: &NodeId) -> bool {
        self.ops.values().any(|n| n == node)
    }

    pub(super) fn probe(&mut self, node: &NodeId) {
        self.push(Action::ProbeNow { node: node.clone() });
    }

    pub(super) fn probe_all(&mut self) {
        for node in self.members() {
            self.probe(&node);
        }
    }

    pub(super) fn load(&mut self) {
        self.load_at = Some(self.now + RELOAD * 4);
        self.push(Action::LoadRecord);
    }

    /// Reads the record anew, unless that is under way.
    pub(super) fn load_unless_asked(&mut self) {
        if self.load_at.is_none() {
            self.load();
        }
    }

    /// Reads the record anew when it was asked for long ago or the authority was out of reach.
    pub(super) fn reload_when_due(&mut self) {
        if !self.authority.reads_record() {
            return;
        }
        match (self.load_at, &self.trust) {
            (Some(at), _) if self.now >= at => self.load(),
            (None, Trust::Unread | Trust::Unavailable(_)) => self.load(),
            (None, Trust::Known) if self.is_old() => self.load(),
            _ => {}
        }
        if let Some(at) = self.load_at {
            self.wake_at(at);
        }
        if let Some((_, until)) = self.swap_failure {
            self.wake_at(until);
        }
    }

    /// Whether the record was read long ago: that it changed may not have been told.
    fn is_old(&self) -> bool {
        let limit = match &self.authority {
            Authority::Shares(_) => REFRESH,
            Authority::Obeys { .. } => REFRESH * 2,
            Authority::Decides | Authority::Follows | Authority::Sentinel => return false,
        };
        // Somebody else's decision ends soon, and requests wait for it.
        let awaited = |r: &Record| r.phase != RecordPhase::Serving && r.by != self.me;
        let limit = match &self.record {
            Some(record) if awaited(record) => LISTEN,
            _ => limit,
        };
        let lease = self.view_lease();
        let limit = lease.map_or(limit, |lease| limit.min(lease / 4));
        self.now - self.record_at >= limit
    }

    /// Proposes `record` in the place of the one that is known.
    pub(super) fn swap(&mut self, record: Record) -> OpId {
        let op = self.op();
        self.proposed = Some((op, record.clone(), self.now));
        self.push(Action::SwapRecord {
            op,
            expected: self.version,
            record,
        });
        op
    }

    /// Gives up waiting for a swap's answer: its outcome is unknown.
    pub(super) fn forget_swap(&mut self) {
        self.proposed = None;
        self.load();
    }

    /// A record of the next epoch on top of the known one.
    pub(super) fn successor(&self, record: &Record, phase: RecordPhase) -> Record {
        Record {
            format: Record::FORMAT,
            epoch: record.epoch.max(self.published.epoch).next(),
            phase,
            members: self.members(),
            by: self.me.clone(),
            ..record.clone()
        }
    }

    /// Publishes; the epoch never goes back (I2), an unchanged view is not published again.
    pub(super) fn publish(
        &mut self,
        epoch: Epoch,
        gate: Gate,
        primary: Option<Primary>,
        await_obeyed: bool,
    ) -> Option<OpId> {
        let replicas = self
            .nodes
            .iter()
            .map(|n| n.id.clone())
            .filter(|id| primary.as_ref().is_none_or(|p| p.node != *id))
            .collect();
        let view = View {
            epoch: epoch.max(self.published.epoch),
            gate,
            primary,
            replicas,
        };
        if view == self.published && !await_obeyed {
            return None;
        }
        if gate == Gate::Closed && self.published.gate == Gate::Open {
            let now = self.now;
            self.recorder().closed_at.get_or_insert(now);
        }
        let op = self.op();
        // Monitors elsewhere wait for it.
        let await_obeyed = await_obeyed || (gate == Gate::Closed && self.carries());
        self.traffic = match gate {
            Gate::Open => Traffic::Flows,
            Gate::Closed => Traffic::Ends(op),
        };
        self.published = view.clone();
        self.push(Action::Publish {
            op,
            view,
            await_obeyed,
        });
        Some(op)
    }

    /// Closes the gate without another change.
    pub(super) fn close_gate(&mut self) {
        if self.published.gate == Gate::Open {
            let primary = self.published.primary.clone();
            self.publish(self.published.epoch, Gate::Closed, primary, false);
        }
    }

    pub(super) fn emit(
        &mut self,
        event: &'static str,
        node: Option<&NodeId>,
        detail: impl Into<String>,
        attention: bool,
    ) {
        self.push(Action::Emit {
            event,
            node: node.cloned(),
            detail: detail.into(),
            attention,
        });
    }

    /// A failover seemed needed; each reason why it is not done is told once in an outage.
    pub(super) fn decline(&mut self, why: Decline) {
        if self.declined.insert(why) {
            self.push(Action::Declined { why });
        }
    }

    /// Sets why nothing is decided, and tells a new reason once. What is only the first look at the
    /// nodes asks for nobody's attention, unless it lasts.
    pub(super) fn set_undecided(&mut self, reason: Option<String>) {
        let attention = self.started.is_some_and(|at| self.now - at >= FIRST_LOOK);
        let changed = self.undecided != reason;
        let lasts = attention && !self.undecided_warned && reason.is_some();
        if !changed && !lasts {
            return;
        }
        self.undecided_warned = attention;
        self.undecided = reason.clone();
        if let Some(reason) = reason {
            if changed {
                self.note(reason.clone());
            }
            self.emit("undecided", None, reason, attention);
        }
    }
}
