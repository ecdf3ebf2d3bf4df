//! Whom to promote, or why nobody yet.

use std::collections::BTreeMap;

use super::candidate::{Ballot, Candidate, Claim, Ranking, Unfit};
use super::core::Core;
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{Fault, NodeId, Timestamp};

/// What follows from the answers at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This node.
    Take(Box<Candidate>),
    /// Nobody yet; time may change that at `until`.
    Wait {
        why: String,
        until: Option<Timestamp>,
    },
}

impl Core {
    /// Chooses among `answers`. Somebody who restarted during the outage is taken only when the
    /// nodes that are missing have had time to come back: they may hold newer data.
    pub(super) fn choose(
        &mut self,
        answers: &BTreeMap<NodeId, NodeInfo>,
        excluded: &BTreeMap<NodeId, String>,
        fault: Fault,
    ) -> (Choice, Ranking) {
        let Some(record) = self.record.clone() else {
            let why = "there is no record yet".to_owned();
            return (Choice::Wait { why, until: None }, Ranking::default());
        };
        let members = self.members();
        let ranking = Ballot {
            record: &record,
            members: &members,
            answers,
            remembered: &self.remembered(),
            excluded,
            forbid_incumbent: fault == Fault::ErrorReplies,
        }
        .rank();
        let choice = match ranking.candidates.first() {
            None => Choice::Wait {
                why: nobody(&ranking),
                until: None,
            },
            Some(best) => self.patience(best, &record.primary, answers),
        };
        (choice, ranking)
    }

    fn patience(
        &mut self,
        best: &Candidate,
        recorded: &NodeId,
        answers: &BTreeMap<NodeId, NodeInfo>,
    ) -> Choice {
        let take = Choice::Take(Box::new(best.clone()));
        let last_resort = best.claim == Claim::LastResort;
        let restarted = self
            .node(&best.node)
            .is_none_or(|n| n.restarted(&best.info));
        if best.incumbent || !(restarted || last_resort) {
            return take;
        }
        let upstream = best.info.upstream.as_ref().map(|(h, p)| (&**h, *p));
        let outside = self.nodes.iter().all(|n| n.id.host_port() != upstream);
        if last_resort && outside && best.info.role == Role::Replica && best.info.link_up {
            let why = format!(
                "{} follows a primary that is not a node of this backend",
                best.node
            );
            return Choice::Wait { why, until: None };
        }
        let missing: Vec<&NodeId> = self
            .nodes
            .iter()
            .map(|n| &n.id)
            .filter(|id| answers.get(*id).is_none_or(|info| info.loading))
            .collect();
        let Some(first) = missing.first() else {
            return take;
        };
        let since = *self.patient_since.get_or_insert(self.now);
        let until = since + self.policy.restart_grace;
        if self.now < until {
            let what = if last_resort {
                "is not of the recorded history"
            } else {
                "restarted"
            };
            let why = format!(
                "{} {what}; waiting for {first}, which may hold newer data",
                best.node
            );
            return Choice::Wait {
                why,
                until: Some(until),
            };
        }
        if last_resort && !(best.node == *recorded && best.info.keys > 0) {
            let why = format!(
                "{} is not of the recorded history, and {first}, which may hold it, is missing: \
                 start it, or remove it from the configuration",
                best.node
            );
            return Choice::Wait { why, until: None };
        }
        take
    }
}

/// The sentence for a person when nobody can be promoted.
fn nobody(ranking: &Ranking) -> String {
    let reasons: Vec<String> = ranking
        .passed_over
        .iter()
        .map(|(node, unfit)| format!("{node} {unfit}"))
        .collect();
    format!("nobody can be promoted: {}", reasons.join(", "))
}

/// The reason in one sentence why `node` would not be promoted, for the status.
pub(super) fn reason_for(ranking: &Ranking, node: &NodeId) -> Option<Unfit> {
    ranking
        .passed_over
        .iter()
        .find(|(id, _)| id == node)
        .map(|(_, unfit)| unfit.clone())
}
