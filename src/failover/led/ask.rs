//! The switchover that the operator wants and Sentinel makes.

use std::time::Duration;

use super::super::OpId;
use super::super::core::Core;
use super::super::report::Ending;
use super::super::sentinel::AskOutcome;
use super::Led;
use crate::topology::{BytesLost, Fault, Gate, NodeId, Outcome, Timestamp};

/// The longest wait for a failover that the operator asked for.
const ASKED_MOST: Duration = Duration::from_secs(8);

/// What was asked for, of whom.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) sentinel: NodeId,
    pub(super) op: OpId,
    pub(super) until: Timestamp,
}

impl Led {
    pub(super) fn switchover(&mut self, core: &mut Core, request: u64, to: Option<&NodeId>) {
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

    pub(super) fn answered(&mut self, core: &mut Core, op: OpId, outcome: &AskOutcome) {
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

    pub(super) fn give_up_asking(&mut self, core: &mut Core) {
        if self.promoted.is_none() && self.asked.as_ref().is_some_and(|a| core.now >= a.until) {
            let why = format!("Sentinel has promoted nobody within {ASKED_MOST:?}");
            self.abort_asked(core, why);
        }
    }

    pub(super) fn abort_asked(&mut self, core: &mut Core, why: String) {
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
