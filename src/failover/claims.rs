//! Who says that it is primary, since when, and how it is related to the one that is followed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::belief::Belief;
use super::core::Core;
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{NodeId, Timestamp};

/// A promotion is news for this long; after that, a primary beside the followed one is a stray, and
/// only further replicas make it more than that.
const NEWS: Duration = Duration::from_secs(10);

/// A second primary is mentioned once it has been there for this long: every move has two for a moment.
const MENTIONED_AFTER: Duration = Duration::from_secs(1);

/// What was seen of nodes over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(BTreeMap<NodeId, Seen>);

#[derive(Clone, Debug)]
enum Seen {
    Replica { run_id: Arc<str> },
    Primary(Claim),
}

/// Says that it is primary.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    run_id: Arc<str>,
    pub since: Timestamp,
    /// The same process was a replica before: somebody promoted it.
    pub rose: bool,
    /// The followed one was preferred to it for long.
    pub stray: bool,
    /// The most replicas that a stray had.
    pub known: usize,
}

impl Claims {
    /// Takes in what the nodes say now.
    pub(super) fn watch(&mut self, core: &Core) {
        self.0.retain(|id, _| core.node(id).is_some());
        for node in &core.nodes {
            let Some(info) = node.live() else { continue };
            let run_id = info.run_id.clone();
            let before = self.0.get(&node.id);
            let seen = match (info.role, before) {
                (Role::Replica, _) => Seen::Replica { run_id },
                (Role::Primary, Some(Seen::Primary(claim))) if claim.run_id == run_id => continue,
                (Role::Primary, before) => Seen::Primary(Claim {
                    rose: matches!(before, Some(Seen::Replica { run_id: r }) if *r == run_id),
                    run_id,
                    since: core.now,
                    stray: false,
                    known: 0,
                }),
            };
            self.0.insert(node.id.clone(), seen);
        }
    }

    pub(super) fn of(&self, node: &NodeId) -> Option<&Claim> {
        match self.0.get(node) {
            Some(Seen::Primary(claim)) => Some(claim),
            _ => None,
        }
    }

    pub(super) fn is_stray(&self, node: &NodeId) -> bool {
        self.of(node).is_some_and(|claim| claim.stray)
    }

    /// `node` is followed no more: what it says from now on is another claim.
    pub(super) fn left(&mut self, node: &NodeId, now: Timestamp) {
        if let Some(Seen::Primary(claim)) = self.0.get_mut(node) {
            claim.since = now;
        }
    }

    /// `followed` serves and is preferred.
    pub(super) fn preferred(&mut self, core: &Core, followed: &NodeId) {
        for (node, info) in besides(core, followed) {
            if let Some(Seen::Primary(claim)) = self.0.get_mut(node)
                && core.now - claim.since >= NEWS
            {
                claim.stray = true;
                claim.known = claim.known.max(attached(info));
            }
        }
    }

    /// Whether another one than `followed` says since lately that it is primary.
    pub(super) fn is_news(&self, core: &Core, followed: &NodeId) -> bool {
        besides(core, followed).any(|(node, _)| !self.is_stray(node))
    }

    /// The sentence about primaries beside the followed one.
    pub(super) fn mention(&self, core: &Core, followed: &Belief) -> Option<String> {
        let others: Vec<String> = besides(core, &followed.node)
            .filter(|(node, _)| {
                let since = self.of(node).map(|claim| claim.since);
                since.is_some_and(|since| core.now - since >= MENTIONED_AFTER)
            })
            .map(|(node, info)| {
                let count = replicas(attached(info));
                format!("{node} ({count}, {})", kinship(info, &followed.info))
            })
            .collect();
        if others.is_empty() {
            return None;
        }
        Some(format!(
            "{} is followed ({}); other primaries: {}",
            followed.node,
            replicas(attached(&followed.info)),
            others.join(", ")
        ))
    }
}

pub(super) fn replicas(count: usize) -> String {
    match count {
        0 => "no replica".to_owned(),
        1 => "1 replica".to_owned(),
        _ => format!("{count} replicas"),
    }
}

fn kinship(info: &NodeInfo, followed: &NodeInfo) -> &'static str {
    if continues(info, &followed.repl_id) {
        "left its history"
    } else if continues(followed, &info.repl_id) {
        "an earlier part of its history"
    } else if is_id(&info.repl_id2) && info.repl_id2 == followed.repl_id2 {
        "left the same history"
    } else {
        "another history"
    }
}

/// The nodes that answer, say that they are primary and have their data.
pub(super) fn primaries(core: &Core) -> impl Iterator<Item = (&NodeId, &NodeInfo)> {
    core.nodes
        .iter()
        .filter_map(|n| Some((&n.id, n.live()?)))
        .filter(|(_, info)| info.role == Role::Primary && !info.loading)
}

/// Those of them that are neither `followed` nor the same process at another address.
pub(super) fn besides<'a>(
    core: &'a Core,
    followed: &'a NodeId,
) -> impl Iterator<Item = (&'a NodeId, &'a NodeInfo)> {
    let process = core
        .node(followed)
        .and_then(|n| n.info.as_ref())
        .map(|info| &info.run_id);
    primaries(core).filter(move |(node, info)| *node != followed && process != Some(&info.run_id))
}

/// The nodes that neither answered nor failed yet.
pub(super) fn unheard(core: &Core) -> impl Iterator<Item = &NodeId> {
    core.nodes
        .iter()
        .filter(|n| n.info.is_none() && n.streak.is_none())
        .map(|n| &n.id)
}

pub(super) fn attached(info: &NodeInfo) -> usize {
    info.replicas.iter().filter(|r| r.online).count()
}

/// Whether this is a replication id, and not the zeros that say there is none.
pub(super) fn is_id(id: &str) -> bool {
    id.bytes().any(|b| b != b'0')
}

/// Whether `info` holds the history `repl_id` or one that continues it.
pub(super) fn continues(info: &NodeInfo, repl_id: &str) -> bool {
    is_id(repl_id) && (&*info.repl_id == repl_id || &*info.repl_id2 == repl_id)
}
