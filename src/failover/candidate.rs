//! Who takes over: eligibility with reasons, then a total order. Only nodes of the recorded history
//! are compared; offsets of different histories say nothing about each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Record;
use crate::resp::info::{NodeInfo, Role};
use crate::topology::NodeId;

/// Why a node can not be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Did not answer.
    Unreachable,
    /// `replica-priority 0`.
    PriorityZero,
    /// `replica-announced no`.
    Hidden,
    /// Loads its data set.
    Loading,
    /// In a full resync; what it held is being replaced.
    Syncing,
    /// Never completed a sync.
    NeverSynced,
    /// Its data does not descend from the recorded history.
    OtherHistory,
    /// Its own persistence fails.
    DiskError,
    /// `replica-read-only no`: may hold writes that are in no history.
    Writable,
    /// It was tried and failed.
    Tried(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Unreachable => "does not answer",
            Unfit::PriorityZero => "replica-priority is 0",
            Unfit::Hidden => "replica-announced is no",
            Unfit::Loading => "is loading its data",
            Unfit::Syncing => "is in a full resync",
            Unfit::NeverSynced => "never completed a sync",
            Unfit::OtherHistory => "its data is not of the recorded history",
            Unfit::DiskError => "its persistence fails",
            Unfit::Writable => "replica-read-only is no",
            Unfit::Tried(why) => return write!(f, "was tried: {why}"),
        })
    }
}

/// Position of a node in the recorded history, bytes; `None` when its data is not of that history.
pub(super) fn position(info: &NodeInfo, record: &Record) -> Option<u64> {
    // Where it left its former history: what it has beyond is its own.
    let fork = u64::try_from(info.second_repl_offset).ok();
    let fork = fork.map(|f| f.saturating_sub(1));
    lineage(&info.repl_id, info.offset, record).or_else(|| lineage(&info.repl_id2, fork?, record))
}

/// How much of the recorded history is known to somebody at `offset` of `repl_id`.
pub(super) fn lineage(repl_id: &str, offset: u64, record: &Record) -> Option<u64> {
    if *record.repl_id == *repl_id {
        return Some(offset);
    }
    let ancestor = record.ancestor.as_ref()?;
    (*ancestor.repl_id == *repl_id).then(|| offset.min(ancestor.offset))
}

/// Whether a replica may be promoted; `Ok` with its position in the recorded history.
pub(super) fn fitness(info: &NodeInfo, record: &Record) -> Result<u64, Unfit> {
    if info.loading {
        return Err(Unfit::Loading);
    }
    if info.role == Role::Replica && info.sync_in_progress {
        return Err(Unfit::Syncing);
    }
    let position = position(info, record).ok_or(Unfit::OtherHistory)?;
    if info.role == Role::Replica {
        if info.priority == 0 {
            return Err(Unfit::PriorityZero);
        }
        if !info.announced {
            return Err(Unfit::Hidden);
        }
        if !info.read_only {
            return Err(Unfit::Writable);
        }
    }
    if position == 0 {
        return Err(Unfit::NeverSynced);
    }
    if !info.disk_ok {
        return Err(Unfit::DiskError);
    }
    Ok(position)
}

/// One node that may become primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub node: NodeId,
    pub info: NodeInfo,
    /// It is the recorded primary, the same process as ever.
    pub incumbent: bool,
    /// How its data relates to the record.
    pub claim: Claim,
}

impl Candidate {
    /// How much it holds of the recorded history.
    pub(super) fn position(&self, record: &Record) -> u64 {
        match self.claim {
            Claim::Heir => position(&self.info, record).unwrap_or(0),
            Claim::Interrupted(position) => position,
            Claim::LastResort => 0,
        }
    }
}

/// Grounds for a node to become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its data descends from the recorded history.
    Heir,
    /// Began a full resync from a primary that restarted with less, and still holds what it had:
    /// this position of the recorded history.
    Interrupted(u64),
    /// Its history is unknown; there is nobody better.
    LastResort,
}

/// What is known when choosing.
pub(super) struct Ballot<'a> {
    pub record: &'a Record,
    /// Every node of the backend.
    pub members: &'a [NodeId],
    /// Fresh answers.
    pub answers: &'a BTreeMap<NodeId, NodeInfo>,
    /// The last position in the recorded history that each node showed while it was in sync.
    pub remembered: &'a BTreeMap<NodeId, u64>,
    /// Nodes that were tried in vain, and why.
    pub excluded: &'a BTreeMap<NodeId, String>,
    /// The old primary may not be chosen again even if it answers.
    pub forbid_incumbent: bool,
}

/// The ranking, best first, and everybody else with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranking {
    pub candidates: Vec<Candidate>,
    pub passed_over: Vec<(NodeId, Unfit)>,
}

impl Ballot<'_> {
    /// Ranks the nodes. A last resort is offered only where no better claim exists.
    pub(super) fn rank(&self) -> Ranking {
        let mut ranking = Ranking::default();
        for node in self.members {
            match self.consider(node) {
                Ok(candidate) => ranking.candidates.push(candidate),
                Err(unfit) => ranking.passed_over.push((node.clone(), unfit)),
            }
        }
        if ranking.candidates.iter().all(|c| self.is_reborn(&c.node)) {
            self.interrupted(&mut ranking);
        }
        if ranking.candidates.is_empty() {
            self.last_resort(&mut ranking);
        }
        let record = self.record;
        ranking
            .candidates
            .sort_by_key(|c| std::cmp::Reverse(order(c, record)));
        ranking
    }

    fn consider(&self, node: &NodeId) -> Result<Candidate, Unfit> {
        if let Some(why) = self.excluded.get(node) {
            return Err(Unfit::Tried(why.clone()));
        }
        let info = self.answers.get(node).ok_or(Unfit::Unreachable)?;
        let same = *node == self.record.primary && info.run_id == self.record.run_id;
        if same && self.forbid_incumbent {
            return Err(Unfit::DiskError);
        }
        let incumbent = same && info.role == Role::Primary;
        match fitness(info, self.record) {
            Ok(_) => {}
            // The process that served all the time keeps serving with a full disk or empty history.
            Err(Unfit::DiskError | Unfit::NeverSynced) if incumbent => {}
            Err(unfit) => return Err(unfit),
        }
        Ok(Candidate {
            node: node.clone(),
            info: info.clone(),
            incumbent,
            claim: Claim::Heir,
        })
    }

    /// Whether this is the recorded primary's address, answered by another process.
    fn is_reborn(&self, node: &NodeId) -> bool {
        *node == self.record.primary
            && self
                .answers
                .get(node)
                .is_some_and(|info| info.run_id != self.record.run_id)
    }

    /// Replicas that began a full resync from the restarted primary, and have not begun to load:
    /// the replication id still says whose data they hold.
    fn interrupted(&self, ranking: &mut Ranking) {
        if !self.is_reborn(&self.record.primary) || self.has_whole_heir() {
            return;
        }
        self.take(ranking, |node, unfit, info| {
            let whole = *unfit == Unfit::Syncing && info.repl_id == self.record.repl_id;
            let position = self.remembered.get(node).copied()?;
            whole.then_some(Claim::Interrupted(position))
        });
    }

    /// Whether a replica holds the recorded history entire, though it may be unfit at present.
    fn has_whole_heir(&self) -> bool {
        self.answers.iter().any(|(node, info)| {
            *node != self.record.primary
                && !info.sync_in_progress
                && position(info, self.record).is_some_and(|p| p > 0)
        })
    }

    /// Nobody descends from the recorded history: whoever holds data, else the recorded primary.
    /// Where somebody does and is merely unfit at present, a person has to choose.
    fn last_resort(&self, ranking: &mut Ranking) {
        let heir = |info: &NodeInfo| position(info, self.record).is_some_and(|p| p > 0);
        if self.answers.values().any(heir) {
            return;
        }
        self.take(ranking, |_, unfit, info| {
            let admitted = match unfit {
                Unfit::OtherHistory => {
                    info.role == Role::Primary
                        || (info.priority > 0 && !info.sync_in_progress && info.announced)
                }
                Unfit::NeverSynced => true,
                _ => false,
            };
            admitted.then_some(Claim::LastResort)
        });
    }

    /// Moves those that `admits` grants a claim from the passed over to the candidates.
    fn take(
        &self,
        ranking: &mut Ranking,
        admits: impl Fn(&NodeId, &Unfit, &NodeInfo) -> Option<Claim>,
    ) {
        ranking.passed_over.retain(|(node, unfit)| {
            let Some(info) = self.answers.get(node) else {
                return true;
            };
            let Some(claim) = admits(node, unfit, info) else {
                return true;
            };
            ranking.candidates.push(Candidate {
                node: node.clone(),
                info: info.clone(),
                incumbent: false,
                claim,
            });
            false
        });
    }
}

type Order = (
    bool,
    bool,
    bool,
    u64,
    bool,
    std::cmp::Reverse<u32>,
    std::cmp::Reverse<Arc<str>>,
);

/// The total order; the greatest wins. Of heirs: the incumbent (nobody has more), then the highest
/// position, then one that is primary already (a promotion whose answer was lost), then the lowest
/// priority number, then the smallest run id. Of last resorts: data before none, then the recorded
/// primary.
fn order(c: &Candidate, record: &Record) -> Order {
    let last_resort = c.claim == Claim::LastResort;
    let position = match c.claim {
        Claim::LastResort => c.info.offset,
        Claim::Heir | Claim::Interrupted(_) => c.position(record),
    };
    (
        c.incumbent,
        last_resort && c.info.keys > 0,
        last_resort && c.node == record.primary,
        position,
        c.info.role == Role::Primary,
        std::cmp::Reverse(c.info.priority),
        std::cmp::Reverse(c.info.run_id.clone()),
    )
}
