//! Which sentinels count, and what most of them say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::hold::Hold;
use super::sentinel::{SentinelStatus, Statement};
use crate::topology::{Epoch, NodeId, Timestamp};

/// A sentinel that neither answers nor is known to those that do loses its seat after this long.
const UNSEATED_AFTER: Duration = Duration::from_secs(10);

/// All sentinels we know of.
///
/// Those of the configuration have a *seat* as soon as they answer; another one gets a seat when more
/// than half of the seated ones that answer know it. So a sentinel of another cluster, listed by
/// mistake, brings no friends along.
#[derive(Clone, Debug, Default)]
pub(super) struct Council {
    listed: Vec<NodeId>,
    members: BTreeMap<NodeId, Member>,
    /// By id: when it last answered, or was known to most of those that answer.
    seats: BTreeMap<Arc<str>, Timestamp>,
}

/// One sentinel.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// What it said last.
    pub statement: Option<Statement>,
    /// Why it can not be asked.
    pub failing: Option<Arc<str>>,
    /// The newest epoch that it announced.
    pub epoch: Option<Epoch>,
    /// It distrusts itself.
    pub tilt: bool,
    pub hold: Hold,
}

impl Member {
    /// What it says now.
    pub(super) fn stated(&self) -> Option<&Statement> {
        self.statement.as_ref().filter(|_| self.failing.is_none())
    }
}

/// A primary that sentinels name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Belief {
    pub epoch: Epoch,
    pub node: NodeId,
}

impl Council {
    /// The sentinels of the configuration.
    pub(super) fn list(&mut self, listed: Vec<NodeId>) {
        self.listed = listed;
    }

    pub(super) fn member(&mut self, address: &NodeId) -> &mut Member {
        self.members.entry(address.clone()).or_default()
    }

    pub(super) fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut()
    }

    /// A sentinel is watched no more.
    pub(super) fn forget(&mut self, address: &NodeId) {
        self.members.remove(address);
    }

    /// Gives and takes seats.
    pub(super) fn convene(&mut self, now: Timestamp) {
        for address in &self.listed {
            let stated = self.members.get(address).and_then(Member::stated);
            if let Some(id) = stated.map(|s| s.id.clone()) {
                self.seats.insert(id, now);
            }
        }
        let answering = self.answering();
        let ids: BTreeSet<Arc<str>> = answering.keys().cloned().collect();
        if self.listed.iter().all(|a| self.was_tried(a)) {
            let known = |id: &Arc<str>| {
                let those = answering.values().filter(|(_, s)| s.peers.contains(id));
                those.count()
            };
            let peers: BTreeSet<&Arc<str>> =
                answering.values().flat_map(|(_, s)| &s.peers).collect();
            let well_known: Vec<Arc<str>> = peers
                .into_iter()
                .filter(|id| known(id) * 2 > answering.len())
                .cloned()
                .collect();
            self.seats
                .extend(well_known.into_iter().map(|id| (id, now)));
        }
        for id in &ids {
            self.seats.insert(id.clone(), now);
        }
        if !ids.is_empty() {
            self.seats.retain(|_, seen| now - *seen < UNSEATED_AFTER);
        }
    }

    fn was_tried(&self, address: &NodeId) -> bool {
        let member = self.members.get(address);
        member.is_some_and(|m| m.statement.is_some() || m.failing.is_some())
    }

    /// What the seated sentinels that answer say, by id: one that is reached at two addresses speaks
    /// once.
    fn answering(&self) -> BTreeMap<Arc<str>, (NodeId, &Statement)> {
        self.members
            .iter()
            .filter_map(|(address, m)| Some((address, m.stated()?)))
            .filter(|(_, s)| self.seats.contains_key(&s.id))
            .map(|(address, s)| (s.id.clone(), (address.clone(), s)))
            .collect()
    }

    /// How many sentinels there are. A listed one that never answered counts too, unless another one
    /// has its place.
    pub(super) fn size(&self) -> usize {
        self.seats.len().max(self.listed.len())
    }

    /// How many of them are more than half.
    pub(super) fn majority(&self) -> usize {
        self.size() / 2 + 1
    }

    /// How many answer.
    pub(super) fn count_answering(&self) -> usize {
        self.answering().len()
    }

    /// What more than half of all sentinels say. `same`: whether two addresses are one node.
    pub(super) fn verdict(&self, same: impl Fn(&NodeId, &NodeId) -> bool) -> Option<Belief> {
        let answering = self.answering();
        let statements: Vec<&Statement> = answering.values().map(|(_, s)| *s).collect();
        let agree =
            |a: &Statement, b: &Statement| a.epoch == b.epoch && same(&a.primary, &b.primary);
        let agreed = statements
            .iter()
            .find(|s| statements.iter().filter(|o| agree(s, o)).count() >= self.majority())?;
        Some(Belief {
            epoch: agreed.epoch,
            node: agreed.primary.clone(),
        })
    }

    /// What the seated one with the newest configuration says.
    pub(super) fn newest(&self) -> Option<Belief> {
        let answering = self.answering();
        let newest = answering
            .values()
            .map(|(_, s)| *s)
            .max_by_key(|s| s.epoch)?;
        Some(Belief {
            epoch: newest.epoch,
            node: newest.primary.clone(),
        })
    }

    /// The seated sentinels whose configuration is `belief`, those of the configuration first.
    pub(super) fn agreeing(
        &self,
        belief: &Belief,
        same: impl Fn(&NodeId, &NodeId) -> bool,
    ) -> Vec<NodeId> {
        let mut agreeing: Vec<NodeId> = self
            .answering()
            .into_values()
            .filter(|(_, s)| s.epoch == belief.epoch && same(&s.primary, &belief.node))
            .map(|(address, _)| address)
            .collect();
        agreeing.sort_by_key(|a| !self.listed.contains(a));
        agreeing
    }

    /// Why nothing is agreed on, for people.
    pub(super) fn complaint(&self) -> String {
        let (answering, size) = (self.count_answering(), self.size());
        let mut failing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (address, member) in &self.members {
            if let Some(why) = &member.failing {
                failing.entry(why).or_default().push(address.as_str());
            }
        }
        let failing: Vec<String> = failing
            .into_iter()
            .map(|(why, who)| format!("{}: {why}", who.join(", ")))
            .collect();
        let failing = match failing.is_empty() {
            true => String::new(),
            false => format!(" ({})", failing.join("; ")),
        };
        match answering {
            0 => format!("no sentinel can be asked{failing}"),
            _ if answering < self.majority() => format!(
                "{answering} of {size} sentinels can be asked, and {} must agree{failing}",
                self.majority()
            ),
            _ => format!("{size} sentinels name different primaries{failing}"),
        }
    }

    pub(super) fn statuses(&self) -> Vec<SentinelStatus> {
        let status = |(address, member): (&NodeId, &Member)| {
            let stated = member.stated();
            let note = match (&member.failing, stated, member.hold.doubt()) {
                (Some(why), ..) => Some(why.to_string()),
                (None, None, _) => Some("was not reached yet".to_owned()),
                (None, Some(_), Some(doubt)) => Some(format!("announces {}", doubt.stage.word())),
                (None, Some(s), None) if !self.seats.contains_key(&s.id) => {
                    Some("most of the others do not know it: it does not count".to_owned())
                }
                _ if member.tilt => Some("is in TILT mode".to_owned()),
                _ => None,
            };
            SentinelStatus {
                sentinel: address.clone(),
                primary: stated.map(|s| s.primary.clone()),
                epoch: stated.map(|s| s.epoch),
                note,
            }
        };
        self.members.iter().map(status).collect()
    }
}
