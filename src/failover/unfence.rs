//! A fence that reached the primary late, because it lay in the socket of a process that hung, is taken
//! off again: the node serves, and would answer every write with -NOREPLICAS.

use std::time::Duration;

use super::core::{Core, Input};
use super::{NodeOp, NodeOpOutcome, OpId, Record};
use crate::topology::Timestamp;

/// Between two looks at a primary that demands replicas: INFO does not say whether a fence does.
const LOOK: Duration = Duration::from_secs(1);

/// Of the recorded primary, while it serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfencing {
    /// Since when it has demanded replicas.
    since: Option<Timestamp>,
    /// The look under way.
    op: Option<OpId>,
    looked_at: Option<Timestamp>,
    /// Whether a refusal was told.
    told: bool,
}

impl Unfencing {
    /// One look; only while the primary is verified and its gate open.
    pub(super) fn step(&mut self, core: &mut Core, record: &Record, input: &Input) {
        if let (Input::Done(done, outcome), Some(op)) = (input, self.op)
            && *done == op
        {
            self.op = None;
            if let NodeOpOutcome::Refused(why) = outcome
                && !std::mem::replace(&mut self.told, true)
            {
                core.emit("-unfence", Some(&record.primary), why.clone(), true);
            }
        }
        let info = core.node(&record.primary).and_then(|n| n.live());
        if !info.is_some_and(|info| info.needs_replicas) {
            self.since = None;
            self.looked_at = None;
            return;
        }
        let since = *self.since.get_or_insert(core.now);
        let resting = self.looked_at.is_some_and(|at| core.now < at + LOOK);
        if self.op.is_some() || resting || core.barred().is_some() || !core.is_confirmed(since) {
            return;
        }
        self.looked_at = Some(core.now);
        let timeout = core.policy.node_op_timeout;
        self.op = Some(core.node_op(&record.primary, NodeOp::Unfence, timeout));
    }
}
