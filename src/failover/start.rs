//! How a monitor gets to the phase that the record asks for: it reads it, writes the first one, or waits
//! for another monitor's decision.

use std::time::Duration;

use super::core::{Core, Input, Trust};
use super::detector::{self, Finding};
use super::machine::{Next, Phase};
use super::serving::Serving;
use super::swap::{self, Proposal};
use super::unplanned::{Failover, TENURE};
use super::{Ancestor, Authority, Decline, Record, RecordPhase, Version};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{Fault, Gate, NodeId, Timestamp};

/// The longest wait for the authority's answer before its outcome counts as unknown.
const SWAP_LIMIT: Duration = Duration::from_secs(5);

impl Core {
    /// The phase that the known record asks for.
    pub(super) fn route(&mut self, why: &str) -> Phase {
        let Some(record) = self.record.clone() else {
            return match self.trust {
                Trust::Known => Phase::Learning(Learning { first: None }),
                _ => Phase::Starting,
            };
        };
        if record.phase == RecordPhase::Serving {
            return Phase::Serving(Box::new(Serving::believe(self)));
        }
        if self.authority == Authority::Decides || record.by == self.me {
            let fault = match record.phase {
                RecordPhase::SwitchingOver { .. } => Fault::Switchover,
                _ => Fault::Followed,
            };
            let why = format!("a decision begun by {} is resumed", record.by);
            return Failover::claim(self, record, fault, &why);
        }
        self.note(why.to_owned());
        if record.phase == RecordPhase::FailingOver {
            self.publish(record.epoch, Gate::Closed, None, false);
        } else {
            self.close_gate();
        }
        Phase::Waiting(Waiting {
            version: self.version,
            since: self.now,
        })
    }
}

/// Reads the record until it is known.
pub(super) fn starting(core: &mut Core) -> Next {
    match &core.trust {
        Trust::Known => Next::Go(core.route("the record was read")),
        Trust::Unread => {
            core.undecided = Some("the record is being read".to_owned());
            Next::Stay(Phase::Starting)
        }
        Trust::Unavailable(reason) => {
            let why = format!("the authority can not be read: {reason}");
            core.set_undecided(Some(why));
            Next::Stay(Phase::Starting)
        }
    }
}

/// Another monitor decides: wait for it, or take over when its tenure has ended.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    version: Version,
    since: Timestamp,
}

impl Waiting {
    pub(super) fn step(self, core: &mut Core) -> Next {
        if core.version != self.version {
            return Next::Go(core.route("the record changed"));
        }
        let Some(record) = core.record.clone() else {
            return Next::Go(core.route("the record vanished"));
        };
        let patience = TENURE + core.policy.node_op_timeout * 2;
        let until = self.since + patience;
        let contested = is_contested(core, &record);
        core.tell(contested);
        if core.now >= until {
            if let Some(why) = core.barred() {
                core.set_undecided(Some(why));
                return Next::Stay(Phase::Waiting(self));
            }
            if contested && let Some(why) = core.dissent() {
                core.decline(Decline::NoMajority);
                core.set_undecided(Some(why));
                return Next::Stay(Phase::Waiting(self));
            }
            let fault = Fault::Followed;
            let why = format!("{} did not finish its decision", record.by);
            return Next::Go(Failover::claim(core, record, fault, &why));
        }
        core.undecided = Some(format!("{} is deciding", record.by));
        core.wake_at(until);
        Next::Stay(Phase::Waiting(self))
    }
}

/// Whether the old primary of a switchover that another monitor left half-done is out of reach, which may
/// be so from here only. A failover that was begun needs nobody's agreement any more.
fn is_contested(core: &Core, record: &Record) -> bool {
    let switching = matches!(record.phase, RecordPhase::SwitchingOver { .. });
    let (nodes, policy) = (&core.nodes, &core.policy);
    let finding = detector::judge(nodes, record, policy, core.last_offset, core.now);
    match finding {
        Finding::Lost { fault, .. } => switching && core.needs_majority(fault),
        _ => false,
    }
}

/// No record yet: learn from ROLE who is primary, and write the first one.
#[derive(Clone, Debug)]
pub(super) struct Learning {
    first: Option<Proposal>,
}

impl Learning {
    pub(super) fn step(mut self, core: &mut Core, input: &Input) -> Next {
        if core.record.is_some() {
            core.recorder = None;
            return Next::Go(core.route("the record was read"));
        }
        if let Some(first) = &mut self.first {
            if first.step(core, input) != swap::Outcome::Pending {
                self.first = None;
            }
            return Next::Stay(Phase::Learning(self));
        }
        if let Some(why) = core.barred() {
            core.set_undecided(Some(why));
            return Next::Stay(Phase::Learning(self));
        }
        match find_primary(core) {
            Ok((node, info)) => {
                core.set_undecided(None);
                let record = Record {
                    format: Record::FORMAT,
                    backend: core.backend.clone(),
                    epoch: core.published.epoch.next(),
                    phase: RecordPhase::Serving,
                    primary: node,
                    ancestor: Ancestor::of(&info),
                    run_id: info.run_id,
                    repl_id: info.repl_id,
                    members: core.members(),
                    by: core.me.clone(),
                };
                self.first = Some(Proposal::send(core, record, SWAP_LIMIT));
            }
            Err(why) => {
                core.set_undecided(Some(why));
                core.recorder = None;
            }
        }
        Next::Stay(Phase::Learning(self))
    }
}

/// Exactly one primary, or the one with attached replicas; everybody must have been asked.
fn find_primary(core: &Core) -> Result<(NodeId, NodeInfo), String> {
    let unheard: Vec<&str> = core
        .nodes
        .iter()
        .filter(|n| n.info.is_none() && n.streak.is_none())
        .map(|n| n.id.as_str())
        .collect();
    if !unheard.is_empty() {
        return Err(format!("asking {} for their role", unheard.join(", ")));
    }
    let answers = core.live_answers();
    let primaries: Vec<(&NodeId, &NodeInfo)> = answers
        .iter()
        .filter(|(_, info)| info.role == Role::Primary)
        .collect();
    let attached = |info: &NodeInfo| info.replicas.iter().filter(|r| r.online).count();
    let best = primaries
        .iter()
        .max_by_key(|(_, info)| (attached(info), info.offset))
        .copied();
    let Some((node, info)) = best else {
        return Err(if answers.is_empty() {
            "no node answers".to_owned()
        } else {
            "every node that answers is a replica, and no record says who was primary".to_owned()
        });
    };
    if info.loading {
        return Err(format!("{node} is loading its data"));
    }
    let rivals = primaries
        .iter()
        .filter(|(_, i)| (attached(i), i.offset) == (attached(info), info.offset))
        .count();
    if rivals > 1 {
        return Err("several primaries without replicas, and no record says which".to_owned());
    }
    // A primary that nobody follows, beside replicas of another history that hold data: it may have
    // restarted empty.
    let orphan = answers.iter().find(|(_, i)| {
        i.role == Role::Replica && i.keys > 0 && i.repl_id != info.repl_id && !i.sync_in_progress
    });
    match orphan {
        Some((other, _)) if attached(info) == 0 => Err(format!(
            "{node} says it is primary, but {other} holds data of another history and does not \
             follow it"
        )),
        _ => Ok((node.clone(), info.clone())),
    }
}
