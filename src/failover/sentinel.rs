//! What a sentinel says: its configuration when it is asked, and what it announces by itself.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topology::{Epoch, NodeId};

/// What happened between us and one sentinel.
#[derive(Clone, Debug, PartialEq)]
pub enum SentinelNews {
    /// It answered.
    Stated(Box<Statement>),
    /// It announced something (its channels; events that say nothing about our primary are left out).
    Announced(SentinelEvent),
    /// It can not be asked, or does not know the master; why, for people.
    Failed(Arc<str>),
}

/// What a sentinel answers about one master name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `SENTINEL MYID`, which stays over restarts.
    pub id: Arc<str>,
    /// Whom it gives to clients (`GET-MASTER-ADDR-BY-NAME`).
    pub primary: NodeId,
    /// `config-epoch`: grows with each failover, the highest one wins among sentinels.
    pub epoch: Epoch,
    /// How far its own doubt of the primary has come.
    pub doubt: Option<Stage>,
    /// `failover-timeout`: how long a failover that it leads may take.
    pub failover_timeout: Duration,
    /// The other sentinels that it knows.
    pub peers: Vec<Arc<str>>,
}

/// How near a sentinel is to a change of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `+sdown`: it alone can not reach the primary.
    Subjective,
    /// `+odown`: so many others as its quorum can not either.
    Objective,
    /// `+try-failover`: it wants to lead a failover.
    Claimed,
    /// `+elected-leader`: it leads one.
    Elected,
    /// `+selected-slave` and later: a replica is chosen and will be promoted within a moment.
    Chosen,
}

impl Stage {
    /// Sentinel's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Stage::Subjective => "+sdown",
            Stage::Objective => "+odown",
            Stage::Claimed => "+try-failover",
            Stage::Elected => "+elected-leader",
            Stage::Chosen => "+selected-slave",
        }
    }
}

/// What a sentinel announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentinelEvent {
    /// It doubts the primary, or replaces it.
    Doubts {
        /// How far that has come.
        stage: Stage,
        /// Whom it doubts.
        primary: NodeId,
        /// Who takes over, as soon as that is known.
        replica: Option<NodeId>,
    },
    /// `-sdown`, `-odown`: it reaches the primary again.
    Trusts {
        /// The primary.
        primary: NodeId,
    },
    /// `-failover-abort-...`: the failover it led was given up.
    GaveUp {
        /// The event's word.
        word: Arc<str>,
    },
    /// `+new-epoch`: the epoch that its next failover would have.
    NewEpoch(Epoch),
    /// `+tilt`, `-tilt`: whether its clock or its own pauses make it distrust itself.
    Tilt(bool),
}

/// How a sentinel answered `SENTINEL FAILOVER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// It will.
    Done,
    /// It will not: its error reply, or it could not be reached at all.
    Refused(String),
    /// No answer: it may have begun.
    Unknown(String),
}

/// A sentinel as the core sees it, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentinelStatus {
    /// Its address.
    pub sentinel: NodeId,
    /// Whom it gives to clients; `None` while it does not answer.
    pub primary: Option<NodeId>,
    /// The epoch of its configuration.
    pub epoch: Option<Epoch>,
    /// Why it does not count, or what it announces at present.
    pub note: Option<String>,
}
