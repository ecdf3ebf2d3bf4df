//! Decides whether the address belongs on this host. Pure: what was seen comes in with its time, the
//! verdict goes out.
//!
//! Two things have to be true, and both have to have been confirmed within the lease: a pointsman
//! publishes this host's node as primary, and the node itself says that it is one, and is the very
//! process that was published. What speaks against it counts at once and has no time limit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::topology::{Epoch, Gate, NodeId, Primary, Timestamp};

/// What a pointsman publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) epoch: Epoch,
    pub(super) gate: Gate,
    /// `None` while one is being chosen.
    pub(super) primary: Option<Primary>,
}

/// What the node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeSays {
    /// It is a primary, and this process.
    Primary { run_id: Arc<str> },
    /// It is a replica.
    Replica,
    /// It is not there: refused, closed. Silence is not said at all.
    Down(String),
}

/// Whether the address belongs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does, until then.
    Take { until: Timestamp },
    /// Where it is here it stays, until then; where it is not it is not taken.
    Keep { until: Timestamp },
    /// It does not.
    Leave(Reason),
}

/// Why the address does not belong here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No pointsman names a primary.
    NothingPublished,
    /// Another node is published.
    OtherPrimary(NodeId),
    /// The node was not reached yet.
    NodeUnknown,
    /// The node follows another.
    NodeIsReplica,
    /// The node is not there.
    NodeDown(String),
    /// The node restarted and was not published again.
    OtherProcess,
    /// No pointsman has confirmed for a lease that the node is primary.
    Unconfirmed,
    /// The node has not answered for a lease.
    NodeSilent,
}

impl Reason {
    /// The value of a metric's label.
    pub(super) fn label(&self) -> crate::metrics::VipDrop {
        use crate::metrics::VipDrop;
        match self {
            Reason::NothingPublished | Reason::OtherPrimary(_) => VipDrop::OtherPrimary,
            Reason::NodeIsReplica | Reason::OtherProcess => VipDrop::NotPrimary,
            Reason::NodeDown(_) | Reason::NodeUnknown | Reason::NodeSilent => VipDrop::NodeDown,
            Reason::Unconfirmed => VipDrop::Unconfirmed,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NothingPublished => f.write_str("no primary is published"),
            Reason::OtherPrimary(node) => write!(f, "{node} is primary"),
            Reason::NodeUnknown => f.write_str("the node was not reached yet"),
            Reason::NodeIsReplica => f.write_str("the node says that it is a replica"),
            Reason::NodeDown(why) => write!(f, "the node is down: {why}"),
            Reason::OtherProcess => f.write_str("the node restarted and was not published again"),
            Reason::Unconfirmed => f.write_str("no pointsman confirms that the node is primary"),
            Reason::NodeSilent => f.write_str("the node does not answer"),
        }
    }
}

/// What is known.
#[derive(Debug)]
pub(super) struct Duty {
    node: NodeId,
    lease: Duration,
    published: Option<(Published, Timestamp)>,
    says: Option<(NodeSays, Timestamp)>,
}

impl Duty {
    pub(super) fn new(node: NodeId, lease: Duration) -> Self {
        Duty {
            node,
            lease,
            published: None,
            says: None,
        }
    }

    /// A pointsman that was asked at `asked` says this. `ordered`: its epochs are those of a record,
    /// so that an older one is old news, whoever tells it; else it is the only one that is asked, and
    /// its last word counts. False: it was old news.
    pub(super) fn published(&mut self, news: Published, ordered: bool, asked: Timestamp) -> bool {
        if let Some((known, at)) = &mut self.published {
            if ordered && news.epoch < known.epoch {
                return false;
            }
            // One that has just started, or follows, has not looked yet; a new epoch without a
            // primary is the end of the one before.
            if news.primary.is_none() && (!ordered || news.epoch == known.epoch) {
                return true;
            }
            if news == *known {
                *at = asked.max(*at);
                return true;
            }
            // Of two answers about one epoch the one that was asked for later is the newer one.
            if news.epoch == known.epoch && asked < *at {
                return true;
            }
        }
        self.published = Some((news, asked));
        true
    }

    /// The node, asked at `asked`, says this.
    pub(super) fn node_says(&mut self, says: NodeSays, asked: Timestamp) {
        self.says = Some((says, asked));
    }

    pub(super) fn newest(&self) -> Option<&Published> {
        self.published.as_ref().map(|(published, _)| published)
    }

    pub(super) fn verdict(&self, now: Timestamp) -> Verdict {
        let Some((published, confirmed)) = &self.published else {
            return Verdict::Leave(Reason::NothingPublished);
        };
        let Some(primary) = &published.primary else {
            return Verdict::Leave(Reason::NothingPublished);
        };
        if primary.node != self.node {
            return Verdict::Leave(Reason::OtherPrimary(primary.node.clone()));
        }
        let (run_id, answered) = match &self.says {
            None => return Verdict::Leave(Reason::NodeUnknown),
            Some((NodeSays::Replica, _)) => return Verdict::Leave(Reason::NodeIsReplica),
            Some((NodeSays::Down(why), _)) => {
                return Verdict::Leave(Reason::NodeDown(why.clone()));
            }
            Some((NodeSays::Primary { run_id }, answered)) => (run_id, answered),
        };
        if *run_id != primary.run_id {
            return Verdict::Leave(Reason::OtherProcess);
        }
        if *confirmed + self.lease <= now {
            return Verdict::Leave(Reason::Unconfirmed);
        }
        if *answered + self.lease <= now {
            return Verdict::Leave(Reason::NodeSilent);
        }
        let until = (*confirmed).min(*answered) + self.lease;
        match published.gate {
            Gate::Open => Verdict::Take { until },
            Gate::Closed => Verdict::Keep { until },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    fn news(epoch: u64, node: &str) -> Published {
        Published {
            epoch: Epoch(epoch),
            gate: Gate::Open,
            primary: Some(Primary {
                node: NodeId::new(node),
                run_id: "r".into(),
                repl_id: "h".into(),
            }),
        }
    }

    fn primary() -> NodeSays {
        NodeSays::Primary { run_id: "r".into() }
    }

    fn duty() -> Duty {
        let mut duty = Duty::new(NodeId::new("a:1"), LEASE);
        duty.published(news(5, "a:1"), true, at(0));
        duty.node_says(primary(), at(100));
        duty
    }

    #[test]
    fn it_belongs_here_until_the_older_confirmation_is_a_lease_old() {
        let mut duty = duty();
        let until = at(3000);
        assert_eq!(duty.verdict(at(200)), Verdict::Take { until });
        assert_eq!(duty.verdict(at(3000)), Verdict::Leave(Reason::Unconfirmed));
        duty.published(news(5, "a:1"), true, at(2900));
        assert_eq!(duty.verdict(at(3100)), Verdict::Leave(Reason::NodeSilent));
        duty.node_says(primary(), at(3100));
        let until = at(5900);
        assert_eq!(duty.verdict(at(3100)), Verdict::Take { until });
    }

    #[test]
    fn what_speaks_against_it_counts_at_once() {
        for says in [NodeSays::Replica, NodeSays::Down("refused".to_owned())] {
            let mut duty = duty();
            duty.node_says(says, at(101));
            assert!(matches!(duty.verdict(at(101)), Verdict::Leave(_)));
        }
        let mut duty = duty();
        // However long ago it was asked.
        assert!(duty.published(news(6, "b:1"), true, at(0)));
        let other = Verdict::Leave(Reason::OtherPrimary(NodeId::new("b:1")));
        assert_eq!(duty.verdict(at(100_000)), other);
    }

    #[test]
    fn an_older_epoch_is_never_believed() {
        let mut duty = duty();
        duty.published(news(6, "b:1"), true, at(200));
        assert!(!duty.published(news(5, "a:1"), true, at(300)));
        assert!(matches!(duty.verdict(at(300)), Verdict::Leave(_)));
        // One that follows counts its own epochs, and from 1 again when it restarts.
        assert!(duty.published(news(1, "a:1"), false, at(400)));
        assert!(matches!(duty.verdict(at(400)), Verdict::Take { .. }));
    }

    #[test]
    fn a_new_epoch_without_a_primary_ends_the_old_one_and_an_old_one_says_nothing() {
        let none = |epoch| Published {
            primary: None,
            ..news(epoch, "a:1")
        };
        let mut duty = duty();
        assert!(!duty.published(none(0), true, at(200)));
        assert!(duty.published(none(5), true, at(200)));
        assert!(duty.published(none(0), false, at(200)));
        assert_eq!(duty.verdict(at(200)), Verdict::Take { until: at(3000) });
        assert!(duty.published(none(6), true, at(200)));
        let nothing = Verdict::Leave(Reason::NothingPublished);
        assert_eq!(duty.verdict(at(200)), nothing);
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_makes_nothing_younger() {
        let mut duty = duty();
        duty.published(news(5, "a:1"), true, at(2000));
        duty.published(news(5, "a:1"), true, at(1000));
        duty.node_says(primary(), at(4900));
        assert_eq!(duty.verdict(at(4900)), Verdict::Take { until: at(5000) });
    }

    #[test]
    fn with_a_closed_gate_it_stays_and_is_not_taken() {
        let mut duty = duty();
        let mut closed = news(5, "a:1");
        closed.gate = Gate::Closed;
        duty.published(closed, true, at(300));
        assert_eq!(duty.verdict(at(300)), Verdict::Keep { until: at(3100) });
    }

    #[test]
    fn a_restarted_process_has_to_be_published_first() {
        let mut duty = duty();
        duty.node_says(NodeSays::Primary { run_id: "s".into() }, at(200));
        assert_eq!(duty.verdict(at(200)), Verdict::Leave(Reason::OtherProcess));
    }
}
