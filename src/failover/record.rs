//! The one record per backend that an authority keeps; changed only by compare-and-swap.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::resp::info::NodeInfo;
use crate::topology::{Epoch, NodeId};

/// Version of the stored record that a swap is conditional on. 0: there is no record yet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

/// Who is primary and what is being done about it. Only the winner of the swap acts; any other
/// monitor can resume from `phase`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format of this record; a greater one than [`Record::FORMAT`] is refused, not guessed at.
    pub format: u32,
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Grows by one with every decision.
    pub epoch: Epoch,
    /// Where the decision stands.
    pub phase: RecordPhase,
    /// The serving primary, or the old one while another is being promoted.
    pub primary: NodeId,
    /// `run_id` of `primary` when it was verified.
    pub run_id: Arc<str>,
    /// `master_replid` of `primary` when it was verified.
    pub repl_id: Arc<str>,
    /// The history that `repl_id` continues: nodes that were not repointed yet are still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestor: Option<Ancestor>,
    /// Every node that belongs to the backend.
    pub members: Vec<NodeId>,
    /// Which monitor wrote it (host, process id and a random part), for people.
    pub by: Arc<str>,
}

impl Record {
    /// The format this program writes.
    pub const FORMAT: u32 = 1;
}

/// A history and where it was left.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// `master_replid2` of the primary when it was verified.
    pub repl_id: Arc<str>,
    /// The last offset, bytes, that both histories have in common.
    pub offset: u64,
}

impl Ancestor {
    /// The history that a primary's INFO says it left.
    pub(super) fn of(info: &NodeInfo) -> Option<Ancestor> {
        let fork = u64::try_from(info.second_repl_offset).ok()?;
        Some(Ancestor {
            repl_id: info.repl_id2.clone(),
            offset: fork.saturating_sub(1),
        })
    }
}

/// Where a decision stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RecordPhase {
    /// `primary` serves.
    Serving,
    /// `primary` is given up; a replica is being chosen and promoted.
    FailingOver,
    /// The operator moves the role; `primary` serves until `to` is promoted.
    SwitchingOver {
        /// The node that takes over.
        to: NodeId,
    },
}

/// What one monitor sees, for the others: where several share a record, a primary counts as lost only
/// when most of them say so. Stored beside the record, one for each monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opinion {
    /// Whose it is: as in [`Record::by`].
    pub monitor: Arc<str>,
    /// The failure domain it runs in; monitors of one domain count once.
    pub domain: Arc<str>,
    /// The epoch it is about.
    pub epoch: Epoch,
    /// Whether it sees that epoch's primary as lost.
    pub lost: bool,
    /// Grows whenever it is stored again: an opinion that stays the same is that of a monitor that
    /// may be dead.
    pub beat: u64,
}

/// That a pointsman carries requests, and what it obeys, for the monitors. Stored apart from the record,
/// one for each of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Presence {
    /// Whose it is: as in [`Record::by`].
    pub pointsman: Arc<str>,
    /// Grows when it may have been taken for gone: what is left of its last life is not its own any more.
    pub life: u32,
    /// The last decision that it obeyed: its gate was closed, and nothing was on its way to a primary of
    /// before. 0: none yet.
    pub obeyed: Epoch,
    /// Grows whenever it is stored again: one that stays the same is that of a pointsman that may be gone.
    pub beat: u64,
}

impl Presence {
    /// Nobody else has it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.pointsman, self.life)
    }
}
