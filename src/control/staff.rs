//! The tasks that work for one backend: a probe and an operator for each node, the keeper of the
//! record, the publishers. All end when this is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::authority::{Authority, AuthorityError, Loaded, Roster, Swap};
use super::node::Access;
use super::ops::{Operator, Order, QUEUE, SharedReplicationAuth};
use super::probe::{Probe, ProbeCaller, Sighting};
use super::publisher::{Announcement, News, Publisher, keep_telling};
use crate::clock;
use crate::failover::{Event, NodeOpOutcome, OpId, Opinion, Policy, Presence, Record, Version};
use crate::resp::Credentials;
use crate::topology::{NodeId, Timestamp};

/// Messages from the tasks that wait for the driver; it empties these queues all the time.
const INBOX: usize = 1024;

/// What all nodes of a backend have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) credentials: Option<Credentials>,
    pub(super) policy: Policy,
    /// Name of our connections.
    pub(super) mark: Arc<str>,
    /// How marks begin that are looked for; `None`: not looked for.
    pub(super) mark_prefix: Option<Arc<str>>,
    /// Whether nodes are probed and acted on.
    pub(super) asks_nodes: bool,
}

/// See the head of the file.
pub(super) struct Staff {
    common: Common,
    shared_auth: SharedReplicationAuth,
    nodes: HashMap<NodeId, Hands>,
    desk: mpsc::Sender<Errand>,
    /// Nobody reads it where there is no roster; then nothing is asked of it.
    door: mpsc::Sender<Call>,
    news: watch::Sender<News>,
    sightings: mpsc::Sender<(NodeId, Sighting)>,
    outcomes: mpsc::Sender<(OpId, NodeOpOutcome)>,
    tasks: JoinSet<()>,
}

/// What the tasks tell the driver.
pub(super) struct Inbox {
    pub(super) sightings: mpsc::Receiver<(NodeId, Sighting)>,
    pub(super) outcomes: mpsc::Receiver<(OpId, NodeOpOutcome)>,
    pub(super) record: mpsc::Receiver<RecordNews>,
    /// What the source itself tells; ended where it tells nothing.
    pub(super) told: mpsc::Receiver<Event>,
}

/// The tasks of one node.
struct Hands {
    caller: ProbeCaller,
    orders: mpsc::Sender<Order>,
    tasks: [AbortHandle; 2],
}

/// What is asked of the authority.
enum Errand {
    Load,
    Opine(Opinion),
    Swap {
        op: OpId,
        expected: Version,
        record: Record,
    },
}

/// What is asked of the roster.
enum Call {
    Attend(OpId, Presence),
    Roll,
    /// The last one.
    Leave(Presence, oneshot::Sender<()>),
}

/// What the authority answered.
pub(super) enum RecordNews {
    /// And when the reading began.
    Loaded(Result<Loaded, AuthorityError>, Timestamp),
    Swapped(OpId, Swap),
    Attended(OpId, Result<(), AuthorityError>),
    /// And when the reading began.
    Roll(Result<Vec<Presence>, AuthorityError>, Timestamp),
}

impl Staff {
    pub(super) fn new(
        common: Common,
        backend: &Arc<str>,
        authority: Box<dyn Authority>,
        roster: Option<Box<dyn Roster>>,
        publishers: Vec<Box<dyn Publisher>>,
        told: mpsc::Receiver<Event>,
    ) -> (Staff, Inbox) {
        let (sightings, sightings_end) = mpsc::channel(INBOX);
        let (outcomes, outcomes_end) = mpsc::channel(INBOX);
        let (record, record_end) = mpsc::channel(INBOX);
        let (desk, errands) = mpsc::channel(INBOX);
        let (news, _) = watch::channel(News::default());
        let mut tasks = JoinSet::new();
        let (door, calls) = mpsc::channel(INBOX);
        if let Some(roster) = roster {
            tasks.spawn(keep_roll(roster, calls, record.clone()));
        }
        tasks.spawn(keep_record(authority, errands, record));
        for publisher in publishers {
            tasks.spawn(keep_telling(publisher, backend.clone(), news.subscribe()));
        }
        let staff = Staff {
            common,
            shared_auth: SharedReplicationAuth::default(),
            nodes: HashMap::new(),
            desk,
            door,
            news,
            sightings,
            outcomes,
            tasks,
        };
        let inbox = Inbox {
            sightings: sightings_end,
            outcomes: outcomes_end,
            record: record_end,
            told,
        };
        (staff, inbox)
    }

    /// From now on exactly these nodes are watched.
    pub(super) fn watch(&mut self, members: &[NodeId]) {
        if !self.common.asks_nodes {
            return;
        }
        self.nodes.retain(|node, hands| {
            let stays = members.contains(node);
            if !stays {
                hands.tasks.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for node in members {
            if !self.nodes.contains_key(node) {
                let hands = self.hire(node);
                self.nodes.insert(node.clone(), hands);
            }
        }
    }

    fn hire(&mut self, node: &NodeId) -> Hands {
        let access = self.access(node);
        let (probe, caller) = Probe::new(
            access.clone(),
            self.common.policy.clone(),
            self.common.mark_prefix.clone(),
            self.sightings.clone(),
        );
        let operator = Operator::new(access, self.shared_auth.clone(), self.outcomes.clone());
        let (orders, orders_end) = mpsc::channel(QUEUE);
        let tasks = [
            self.tasks.spawn(probe.run()),
            self.tasks.spawn(operator.run(orders_end)),
        ];
        Hands {
            caller,
            orders,
            tasks,
        }
    }

    /// How to get into `node`.
    pub(super) fn access(&self, node: &NodeId) -> Access {
        Access {
            node: node.clone(),
            credentials: self.common.credentials.clone(),
            mark: self.common.mark.clone(),
            unacked_after: self.common.policy.unacked_after,
        }
    }

    /// A task that ends with the staff.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Frees what ended tasks left.
    pub(super) fn tidy(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    pub(super) fn probe_now(&self, node: &NodeId) {
        if let Some(hands) = self.nodes.get(node) {
            hands.caller.probe_now();
        }
    }

    /// # Errors
    /// The node is not watched, or has more waiting than any sane core asks for.
    pub(super) fn order(&self, node: &NodeId, order: Order) -> Result<(), Order> {
        let Some(hands) = self.nodes.get(node) else {
            return Err(order);
        };
        hands.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order) => {
                order
            }
        })
    }

    /// Answered by [`RecordNews::Loaded`].
    pub(super) fn load_record(&self) {
        self.errand(Errand::Load);
    }

    /// Answered by [`RecordNews::Swapped`].
    pub(super) fn swap_record(&self, op: OpId, expected: Version, record: Record) {
        self.errand(Errand::Swap {
            op,
            expected,
            record,
        });
    }

    /// Not answered.
    pub(super) fn opine(&self, opinion: Opinion) {
        self.errand(Errand::Opine(opinion));
    }

    /// Answered by [`RecordNews::Attended`].
    pub(super) fn attend(&self, op: OpId, presence: Presence) {
        self.call(Call::Attend(op, presence));
    }

    /// Answered by [`RecordNews::Roll`].
    pub(super) fn read_roll(&self) {
        self.call(Call::Roll);
    }

    /// Returns when it was removed or that failed.
    pub(super) async fn leave(&self, presence: Presence) {
        let (done, answer) = oneshot::channel();
        self.call(Call::Leave(presence, done));
        // It ends without an answer when the authority's task did.
        let _ = answer.await;
    }

    fn call(&self, call: Call) {
        if self.door.try_send(call).is_err() {
            tracing::error!("the roster has more to do than it can; a request to it was dropped");
        }
    }

    fn errand(&self, errand: Errand) {
        if self.desk.try_send(errand).is_err() {
            tracing::error!(
                "the authority has more to do than it can; a request to it was dropped"
            );
        }
    }

    /// Replaces an announcement that was not told yet.
    pub(super) fn announce(&self, announcement: Announcement) {
        self.news.send_modify(|news| news.add(announcement));
    }
}

/// Asks the authority one thing after the other.
async fn keep_record(
    mut authority: Box<dyn Authority>,
    mut errands: mpsc::Receiver<Errand>,
    out: mpsc::Sender<RecordNews>,
) {
    loop {
        // A change that is seen while a request waits is read after it.
        let errand = tokio::select! {
            biased;
            errand = errands.recv() => errand,
            () = authority.changed() => Some(Errand::Load),
        };
        let Some(errand) = errand else { return };
        let news = match errand {
            Errand::Load => {
                let asked = clock::now();
                RecordNews::Loaded(authority.load().await, asked)
            }
            Errand::Opine(opinion) => {
                if let Err(error) = authority.opine(opinion).await {
                    tracing::debug!(%error, "the other monitors were not told");
                }
                continue;
            }
            Errand::Swap {
                op,
                expected,
                record,
            } => RecordNews::Swapped(op, authority.swap(expected, record).await),
        };
        if out.send(news).await.is_err() {
            return;
        }
    }
}

/// Asks the roster one thing after the other.
async fn keep_roll(
    mut roster: Box<dyn Roster>,
    mut calls: mpsc::Receiver<Call>,
    out: mpsc::Sender<RecordNews>,
) {
    while let Some(call) = calls.recv().await {
        let news = match call {
            Call::Attend(op, presence) => RecordNews::Attended(op, roster.attend(presence).await),
            Call::Roll => {
                let asked = clock::now();
                RecordNews::Roll(roster.roll().await, asked)
            }
            Call::Leave(presence, done) => {
                if let Err(error) = roster.leave(presence).await {
                    tracing::debug!(%error, "the monitors were not told that this one ends");
                }
                // Whoever waited has no more time.
                let _ = done.send(());
                return;
            }
        };
        if out.send(news).await.is_err() {
            return;
        }
    }
}
