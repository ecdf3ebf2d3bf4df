//! Of the nodes that say they are primary, which one is believed: by history (replication id, offset,
//! attached replicas), never by who answers first.
//!
//! While the followed primary serves, another one replaces it only if it goes on with its history and
//! has the replicas: that is what a promotion by somebody else's hand looks like. When it serves no
//! more, who goes on with its history comes first; a stranger is believed when replicas follow it, or
//! when nobody is left who holds what was followed.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::claims::{Claims, attached, besides, continues, is_id, primaries, replicas, unheard};
use super::core::Core;
use super::node::{Node, is_alive};
use super::{Policy, ProbeError};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{Gate, NodeId, Primary, Timestamp};

/// The longest wait for new nodes that neither answer nor fail.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// Who is believed, and why in words.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    pub node: NodeId,
    pub info: NodeInfo,
    pub why: String,
}

/// How the followed primary stands.
enum Standing {
    Serves(NodeInfo),
    /// It does not answer at present, and that is no reason to hold requests.
    Slow(NodeInfo),
    /// Nothing is known at present.
    Unclear(String),
    /// It serves no more, or is no node of the backend.
    Over(String),
}

/// See the head of the file.
pub(super) struct Judge<'a> {
    pub core: &'a Core,
    pub claims: &'a Claims,
    /// Answers of the followed primary from before this count no more.
    pub doubted: Option<Timestamp>,
    /// Since when nobody is believed.
    pub lost_since: Option<Timestamp>,
    /// Since when the followed primary is no node of the backend, and what it said last.
    pub removed: Option<(Timestamp, &'a NodeInfo)>,
    /// The histories that were followed before.
    pub line: &'a [Arc<str>],
}

impl Judge<'_> {
    /// Who is believed now; or why nobody.
    pub(super) fn believed(&self) -> Result<Belief, String> {
        let Some(followed) = &self.core.published.primary else {
            return self.first();
        };
        match self.standing(followed) {
            Standing::Serves(info) => Ok(self
                .beside(followed, &info)
                .unwrap_or_else(|| Belief::new((&followed.node, &info), "it serves"))),
            Standing::Slow(info) => Ok(self
                .heir(followed, true)
                .unwrap_or_else(|| Belief::new((&followed.node, &info), "it is only slow"))),
            Standing::Unclear(why) => self.heir(followed, true).ok_or(why),
            Standing::Over(why) => match self.heir(followed, false) {
                Some(heir) => Ok(heir),
                None => self.stranger(followed, why),
            },
        }
    }

    // ---- the followed one ----

    fn standing(&self, followed: &Primary) -> Standing {
        let id = &followed.node;
        let Some(node) = self.core.node(id) else {
            if let Some(info) = self.waits_for_new_nodes() {
                return Standing::Serves(info.clone());
            }
            return Standing::Over(format!("{id} is not a node of this backend any more"));
        };
        match node.live().filter(|_| !self.is_doubted(node)) {
            None if self.is_only_slow(node) => match node.info.clone() {
                Some(info) => Standing::Slow(info),
                None => Standing::Unclear(format!("{id} does not answer")),
            },
            None if is_gone(node, &self.core.policy, self.core.now) => {
                Standing::Over(format!("{id} does not answer"))
            }
            None => Standing::Unclear(match node.streak.as_ref().map(|s| &s.last) {
                Some(ProbeError::ErrorReply(word)) => format!("{id} answers -{word}"),
                _ => format!("{id} does not answer, it is asked again"),
            }),
            Some(info) if info.role == Role::Replica => {
                Standing::Over(format!("{id} says that it is a replica"))
            }
            Some(info) if info.loading => Standing::Unclear(format!("{id} is loading its data")),
            Some(info)
                if info.run_id == followed.run_id
                    || continues(info, &followed.repl_id)
                    || info.keys > 0 =>
            {
                Standing::Serves(info.clone())
            }
            Some(_) => Standing::Over(format!("{id} has restarted empty")),
        }
    }

    /// A primary that was taken out of the set serves until those who took its place were heard.
    fn waits_for_new_nodes(&self) -> Option<&NodeInfo> {
        let (since, info) = self.removed?;
        let waits = self.core.published.gate == Gate::Open
            && self.core.now - since < FIRST_ANSWERS
            && unheard(self.core).next().is_some()
            && primaries(self.core).next().is_none();
        waits.then_some(info)
    }

    /// Pure silence for a moment is no reason to hold requests.
    fn is_only_slow(&self, node: &Node) -> bool {
        let Some(streak) = &node.streak else {
            return false;
        };
        let policy = &self.core.policy;
        let limit = match streak.last {
            ProbeError::Unacked => policy.unacked_after / 2,
            ProbeError::Silent => policy.silent_after / 2,
            ProbeError::ErrorReply(_) | ProbeError::Auth(_) | ProbeError::MaxClients => {
                Duration::MAX
            }
            _ => return false,
        };
        self.core.published.gate == Gate::Open
            && self.doubted.is_none()
            && self.core.now - node.heard_at < limit
    }

    // ---- the others ----

    /// Without the followed one while its last answer counts no more.
    fn primaries(&self) -> impl Iterator<Item = (&NodeId, &NodeInfo)> {
        let followed = self.core.published.primary.as_ref();
        primaries(self.core).filter(move |(id, _)| {
            let node = self
                .core
                .node(id)
                .filter(|n| followed.is_some_and(|f| f.node == n.id));
            !node.is_some_and(|n| self.is_doubted(n))
        })
    }

    fn is_doubted(&self, node: &Node) -> bool {
        self.doubted.is_some_and(|since| node.info_at <= since)
    }

    /// Somebody who was promoted beside the followed one, and has the replicas.
    fn beside(&self, followed: &Primary, mine: &NodeInfo) -> Option<Belief> {
        let others = besides(self.core, &followed.node);
        let taking = others.filter(|(node, info)| self.takes_over(followed, mine, node, info));
        let claim = self.best(taking)?;
        let why = format!(
            "it was promoted from the history of {} and has {}, the old one {}",
            followed.node,
            replicas(attached(claim.1)),
            replicas(attached(mine))
        );
        Some(Belief::new(claim, why))
    }

    fn takes_over(
        &self,
        followed: &Primary,
        mine: &NodeInfo,
        node: &NodeId,
        info: &NodeInfo,
    ) -> bool {
        let Some(claim) = self.claims.of(node) else {
            return false;
        };
        let child = continues(info, &mine.repl_id);
        // Promoted from what the followed one comes from too.
        let before = info.repl_id2 == mine.repl_id2 || self.line.contains(&info.repl_id2);
        let sibling = claim.rose && is_id(&info.repl_id2) && before;
        let (count, ours) = (attached(info), attached(mine));
        if (child || sibling) && count > ours.max(claim.known) {
            return true;
        }
        // A promotion is somebody's decision; a restart of the followed one is not.
        let decided = self.claims.of(&followed.node).is_some_and(|c| c.rose);
        let newer = child || (sibling && !decided);
        newer && claim.rose && !claim.stray && count == ours
    }

    /// Somebody who goes on with the history of the followed one, which does not serve at present. While
    /// that may come `back`, only one that was promoted since, or that has the replicas.
    fn heir(&self, followed: &Primary, back: bool) -> Option<Belief> {
        let old = self.core.node(&followed.node);
        let replicas = old.and_then(|n| n.info.as_ref()).map_or(0, attached);
        let failed = old.and_then(|n| n.streak.as_ref()).map(|s| s.since);
        let trouble = failed.into_iter().chain(self.doubted).min();
        let is_answer = |node: &NodeId, info: &NodeInfo| {
            let since = self.claims.of(node).map(|claim| claim.since);
            since
                .zip(trouble)
                .is_some_and(|(since, trouble)| since >= trouble)
                || attached(info) >= replicas
        };
        let heirs = primaries(self.core).filter(|(node, info)| {
            **node != followed.node
                && continues(info, &followed.repl_id)
                && !self.claims.is_stray(node)
                && (!back || is_answer(node, info))
        });
        let why = format!("it goes on with the history of {}", followed.node);
        Some(Belief::new(self.best(heirs)?, why))
    }

    /// Somebody else, when the followed one serves no more and nobody goes on with its history.
    fn stranger(&self, followed: &Primary, over: String) -> Result<Belief, String> {
        let core = self.core;
        let gained = self.primaries().filter(|(node, info)| {
            let known = self.claims.of(node).map_or(0, |claim| claim.known);
            attached(info) > known
        });
        if let Some(claim) = self.best(gained) {
            let why = format!("{over}, and it has {}", replicas(attached(claim.1)));
            return Ok(Belief::new(claim, why));
        }
        let Some((node, info)) = self.best(self.primaries()) else {
            return Err(format!("{over}; {}", nobody(core)));
        };
        let since = self.lost_since.unwrap_or(core.now);
        let patient = core.now - since < core.policy.restart_grace;
        let holder = core.nodes.iter().find(|n| {
            let holds = |info: &NodeInfo| info.keys > 0 && continues(info, &followed.repl_id);
            n.id != *node && n.live().is_some_and(holds)
        });
        if let Some(holder) = holder
            && (patient || *node != followed.node)
        {
            return Err(format!(
                "{over}; {node} says that it is primary, but {} holds the data that was followed, and \
                 does not follow it",
                holder.id
            ));
        }
        let missing = core.nodes.iter().find(|n| n.id != *node && !n.is_up());
        if let Some(missing) = missing
            && patient
        {
            return Err(format!(
                "{over}; {node} says that it is primary and has another history; waiting for {}, which \
                 may go on with the one that was followed",
                missing.id
            ));
        }
        let why = format!("{over}, and nobody else says that it is primary");
        Ok(Belief::new((node, info), why))
    }

    /// Of several that are equally related: the one with the replicas, the longest common history,
    /// the longest of all; the order of the configuration decides between equals.
    fn best<'a>(
        &self,
        claims: impl Iterator<Item = (&'a NodeId, &'a NodeInfo)>,
    ) -> Option<(&'a NodeId, &'a NodeInfo)> {
        let ranked = claims.enumerate().max_by_key(|(index, (_, info))| {
            let fork = info.second_repl_offset;
            (
                attached(info),
                info.keys > 0,
                fork,
                info.offset,
                Reverse(*index),
            )
        });
        ranked.map(|(_, claim)| claim)
    }

    // ---- the start ----

    /// Nobody was followed yet: everybody is asked first.
    fn first(&self) -> Result<Belief, String> {
        let core = self.core;
        let waited = core.now - core.started.unwrap_or(core.now);
        let unheard: Vec<&str> = unheard(core).map(NodeId::as_str).collect();
        if !unheard.is_empty() && waited < FIRST_ANSWERS {
            return Err(format!("asking {} for their role", unheard.join(", ")));
        }
        let (node, info) = self.worthiest()?;
        let orphan = core.nodes.iter().find(|n| {
            let holds = |other: &NodeInfo| {
                other.role == Role::Replica && other.keys > 0 && !continues(info, &other.repl_id)
            };
            n.live().is_some_and(holds)
        });
        if let Some(orphan) = orphan
            && attached(info) == 0
            && info.keys == 0
            && waited < FIRST_ANSWERS + core.policy.restart_grace
        {
            return Err(format!(
                "{node} says that it is primary and is empty, {} holds data and does not follow it",
                orphan.id
            ));
        }
        Ok(Belief::new((node, info), "found at the start"))
    }

    /// The one with the most replicas, of equals one with data, of one history the longest.
    fn worthiest(&self) -> Result<(&NodeId, &NodeInfo), String> {
        let worth = |info: &NodeInfo| (attached(info), info.keys > 0);
        let most = primaries(self.core).map(|(_, info)| worth(info)).max();
        let equals: Vec<(&NodeId, &NodeInfo)> = primaries(self.core)
            .filter(|(_, info)| Some(worth(info)) == most)
            .collect();
        let related = |a: &NodeInfo, b: &NodeInfo| {
            continues(a, &b.repl_id)
                || continues(b, &a.repl_id)
                || (is_id(&a.repl_id2) && a.repl_id2 == b.repl_id2)
        };
        let strangers = equals.iter().find_map(|(one, a)| {
            let (other, _) = equals.iter().find(|(_, b)| !related(a, b))?;
            Some((one, other))
        });
        if let Some((one, other)) = strangers {
            return Err(format!(
                "{one} and {other} say that they are primary, of different histories and with as many \
                 replicas: one of them has to go"
            ));
        }
        // Of two that are as long the one that left their history later.
        let longest = equals.iter().enumerate().max_by_key(|(index, (_, info))| {
            (info.offset, info.second_repl_offset, Reverse(*index))
        });
        let (_, claim) = longest.ok_or_else(|| nobody(self.core))?;
        Ok(*claim)
    }
}

impl Belief {
    fn new((node, info): (&NodeId, &NodeInfo), why: impl Into<String>) -> Belief {
        Belief {
            node: node.clone(),
            info: info.clone(),
            why: why.into(),
        }
    }
}

/// Why nobody can be believed.
fn nobody(core: &Core) -> String {
    let said: Vec<String> = core
        .nodes
        .iter()
        .filter_map(|n| match n.live()? {
            info if info.loading => Some(format!("{} is loading its data", n.id)),
            info if info.role == Role::Replica => Some(format!("{} is a replica", n.id)),
            _ => Some(format!("{} is asked again", n.id)),
        })
        .collect();
    if core.nodes.is_empty() {
        "no node is known".to_owned()
    } else if said.is_empty() {
        "no node answers".to_owned()
    } else {
        format!("no node says that it is primary: {}", said.join(", "))
    }
}

/// Whether nothing more is to be expected of a node that fails.
fn is_gone(node: &Node, policy: &Policy, now: Timestamp) -> bool {
    let Some(streak) = &node.streak else {
        return false;
    };
    if is_alive(&streak.last) || streak.count < 2 {
        return false;
    }
    let limit = match streak.last {
        ProbeError::Unacked => policy.unacked_after,
        _ => policy.silent_after,
    };
    streak.refused >= policy.refused_confirmations || now - node.heard_at >= limit
}
