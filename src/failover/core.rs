//! What every phase shares: knowledge of the nodes and the record, what was published, and the
//! actions being collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::candidate::{lineage, position};
use super::detector;
use super::node::Node;
use super::outbox::RELOAD;
use super::panel::Voices;
use super::presence::{Attendance, Traffic};
use super::report::Recorder;
use super::roll::Roll;
use super::sentinel::{AskOutcome, SentinelNews};
use super::{
    Action, Authority, Decline, Event, NodeOpOutcome, OpId, Policy, Record, SwapOutcome, Version,
    View,
};
use crate::resp::info::NodeInfo;
use crate::topology::{BytesLost, Epoch, Gate, NodeId, Timestamp};

/// The longest time between two calls of `handle`: what exceeds a few of these was our own pause.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);

/// An event that comes this long after one was due proves that this monitor itself did not run.
const PUNCTUAL: Duration = Duration::from_millis(2);

/// How long a reading of the record justifies acting against a node where several monitors decide.
const CONFIRMED: Duration = Duration::from_millis(500);

/// What is known about the authority.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trust {
    /// Not read yet.
    Unread,
    /// Read; decisions may be based on it.
    Known,
    /// Can not be read or written.
    Unavailable(String),
}

/// An event after the knowledge in it was taken in: what a phase has to react to.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// Only time or knowledge.
    Nothing,
    /// A node was observed.
    Observed(NodeId),
    /// A worker saw something on this node.
    Hint { node: NodeId, close: bool },
    /// The record was read.
    Loaded,
    /// A swap ended.
    Swapped(OpId, Swap),
    /// A node op ended.
    Done(OpId, NodeOpOutcome),
    /// Every worker obeys a publication.
    Obeyed(OpId),
    /// The sentinels of the configuration.
    Sentinels { listed: Vec<NodeId> },
    /// A sentinel was heard.
    Sentinel(NodeId, SentinelNews),
    /// A sentinel is asked no more.
    SentinelGone(NodeId),
    /// A sentinel answered `SENTINEL FAILOVER`.
    Asked(OpId, AskOutcome),
    /// The operator asks.
    Switchover { request: u64, to: Option<NodeId> },
}

/// How a swap ended; the stored record is in [`Core::record`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    Done,
    Lost,
    Unknown,
}

/// The primary before the last change, until the bytes only it had are known.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub node: NodeId,
    pub run_id: Arc<str>,
    pub repl_id: Arc<str>,
    /// Where the new history leaves the former one.
    pub fork: u64,
    pub epoch: Epoch,
}

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Core {
    pub backend: Arc<str>,
    pub me: Arc<str>,
    pub policy: Policy,
    pub authority: Authority,
    pub nodes: Vec<Node>,
    pub record: Option<Record>,
    pub version: Version,
    /// What the monitors that share the record say.
    pub voices: Voices,
    /// What this one tells of itself where it carries requests.
    pub attendance: Attendance,
    /// Who carries requests, as a monitor read it.
    pub roll: Roll,
    /// Whether anything is on its way.
    pub traffic: Traffic,
    /// The authority said later than this that the record is the one that is known.
    pub record_at: Timestamp,
    pub trust: Trust,
    pub other_monitor: Option<Arc<str>>,
    pub published: View,
    pub recorder: Option<Recorder>,
    pub former: Option<Former>,
    /// The greatest offset that the recorded primary showed.
    pub last_offset: u64,
    /// When it showed that.
    pub last_offset_at: Timestamp,
    /// Why the outcome of the last swap is unknown, and until when no other is tried.
    pub swap_failure: Option<(String, Timestamp)>,
    /// Since when the backend is not healthy.
    pub outage_since: Option<Timestamp>,
    /// Why nothing was done about the present outage.
    pub declined: BTreeSet<Decline>,
    /// Since when a restarted candidate is kept waiting for better ones.
    pub patient_since: Option<Timestamp>,
    /// Why nothing is decided; told once.
    pub undecided: Option<String>,
    /// Whether that was told as something to look at.
    pub undecided_warned: bool,
    pub now: Timestamp,
    pub ops: BTreeMap<OpId, NodeId>,
    /// The swap under way, and when it was sent.
    pub proposed: Option<(OpId, Record, Timestamp)>,
    pub load_at: Option<Timestamp>,
    pub actions: Vec<Action>,
    pub next_op: u64,
    wake: Option<Timestamp>,
    /// When an event was last handled later than one was due.
    pub late_at: Option<Timestamp>,
    /// When the first event came.
    pub started: Option<Timestamp>,
}

impl Core {
    pub(super) fn new(
        backend: Arc<str>,
        me: Arc<str>,
        nodes: Vec<NodeId>,
        policy: Policy,
        authority: Authority,
    ) -> Self {
        let now = Timestamp::default();
        Core {
            backend,
            me,
            policy,
            authority,
            nodes: nodes.into_iter().map(|id| Node::new(id, now)).collect(),
            record: None,
            version: Version(0),
            voices: Voices::default(),
            attendance: Attendance::default(),
            roll: Roll::default(),
            traffic: Traffic::Stands,
            record_at: now,
            trust: Trust::Unread,
            other_monitor: None,
            published: View {
                epoch: Epoch(0),
                gate: Gate::Closed,
                primary: None,
                replicas: Vec::new(),
            },
            recorder: None,
            former: None,
            last_offset: 0,
            last_offset_at: now,
            swap_failure: None,
            outage_since: None,
            declined: BTreeSet::new(),
            patient_since: None,
            undecided: None,
            undecided_warned: false,
            now,
            ops: BTreeMap::new(),
            proposed: None,
            load_at: None,
            actions: Vec::new(),
            next_op: 1,
            wake: None,
            late_at: None,
            started: None,
        }
    }

    // ---- the frame around one event ----

    /// Begins an event: sets the time, and discounts a span in which this monitor did not run.
    pub(super) fn begin(&mut self, now: Timestamp) {
        let gap = now - self.now;
        let due = self.next_deadline().filter(|_| self.started.is_some());
        if due.is_some_and(|due| now > due + PUNCTUAL) {
            self.late_at = Some(now);
        }
        if self.started.is_none() {
            self.started = Some(now);
            for node in &mut self.nodes {
                node.heard_at = now;
            }
        } else if gap > HEARTBEAT * 3 {
            for node in &mut self.nodes {
                node.discount(gap);
            }
        }
        self.now = self.now.max(now);
        self.wake = None;
    }

    /// Ends it: everything to be done.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When the next tick is due.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let heartbeat = self.now + HEARTBEAT;
        Some(self.wake.map_or(heartbeat, |w| w.min(heartbeat)))
    }

    /// Asks for a tick at `at`; what is due already was looked at just now.
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        if at <= self.now {
            return;
        }
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// Takes in what an event says.
    pub(super) fn absorb(&mut self, event: Event) -> Input {
        let now = self.now;
        match event {
            Event::Observed { node, observation } => {
                let Some(known) = self.node_mut(&node) else {
                    return Input::Nothing;
                };
                known.observe(observation, now);
                self.learned(&node);
                Input::Observed(node)
            }
            Event::Notifies { node, flags } => {
                if let Some(known) = self.node_mut(&node) {
                    known.notifies = Some(flags);
                    self.compare_settings();
                }
                Input::Nothing
            }
            Event::Evidence { node, kind } => match self.node_mut(&node) {
                Some(known) => {
                    let close = known.evidence(kind, now);
                    Input::Hint { node, close }
                }
                None => Input::Nothing,
            },
            Event::ClientReplied { at } => {
                let primary = self.published.primary.as_ref().map(|p| p.node.clone());
                if let Some(node) = primary.and_then(|p| self.node_mut(&p)) {
                    node.heard_at = node.heard_at.max(at);
                }
                Input::Nothing
            }
            Event::RecordLoaded {
                record,
                version,
                opinions,
                asked,
            } => {
                if version >= self.version {
                    self.voices.take_in(opinions, &self.me, now);
                    self.warn_of_others();
                }
                self.loaded(record, version, asked)
            }
            Event::AuthorityUnavailable { reason } => {
                self.trust = Trust::Unavailable(reason);
                self.load_at = Some(now + RELOAD);
                Input::Nothing
            }
            Event::Swapped { op, outcome } => self.swapped(op, outcome),
            Event::NodeOpDone { op, outcome } => self.node_op_done(op, outcome),
            Event::Obeyed { op } => {
                if self.traffic == Traffic::Ends(op) {
                    self.traffic = Traffic::Stands;
                }
                Input::Obeyed(op)
            }
            Event::Attended { op, outcome } => {
                self.attended(op, outcome);
                Input::Nothing
            }
            Event::RollRead { roll, asked } => {
                match roll {
                    Ok(present) => self.roll.take_in(present, asked.min(now), now),
                    Err(_) => self.roll.failed(),
                }
                Input::Nothing
            }
            Event::SwitchoverRequested { request, to } => Input::Switchover { request, to },
            Event::OtherMonitor { who } => {
                self.other_monitor = who;
                Input::Nothing
            }
            Event::Members { nodes } => {
                self.set_members(nodes);
                Input::Nothing
            }
            Event::Sentinels { listed } => Input::Sentinels { listed },
            Event::Sentinel { sentinel, news } => Input::Sentinel(sentinel, news),
            Event::SentinelGone { sentinel } => Input::SentinelGone(sentinel),
            Event::FailoverAsked { op, outcome } => Input::Asked(op, outcome),
            Event::Tick => Input::Nothing,
        }
    }

    fn set_members(&mut self, members: Vec<NodeId>) {
        let now = self.now;
        let mut known = std::mem::take(&mut self.nodes);
        self.nodes = members
            .into_iter()
            .map(|id| match known.iter().position(|n| n.id == id) {
                Some(at) => known.swap_remove(at),
                None => Node::new(id, now),
            })
            .collect();
    }

    /// Tells once of each node that lacks a setting of the primary which a failover would lose.
    fn compare_settings(&mut self) {
        let primary = self.published.primary.as_ref().map(|p| p.node.clone());
        let flags = primary.and_then(|p| self.node(&p)?.notifies.clone());
        let mut told = Vec::new();
        for node in &mut self.nodes {
            let lacks = flags.as_ref().and_then(|flags| node.lacks(flags));
            let known = std::mem::replace(&mut node.told_lack, lacks.is_some());
            told.extend(lacks.filter(|_| !known).map(|why| (node.id.clone(), why)));
        }
        for (node, why) in told {
            self.emit("setting-differs", Some(&node), why, true);
        }
    }

    /// A node answered or failed: what follows for the primary.
    fn learned(&mut self, id: &NodeId) {
        let Some(record) = self.record.clone() else {
            return;
        };
        if *id == record.primary {
            let node = self.nodes.iter().find(|n| n.id == *id);
            if let Some(info) = node.and_then(Node::live)
                && info.run_id == record.run_id
                && info.repl_id == record.repl_id
            {
                self.last_offset = self.last_offset.max(info.offset);
                self.last_offset_at = self.now;
            }
        } else if detector::vouch(&mut self.nodes, id, &record, self.now) {
            self.note(format!("{id} still receives from the primary"));
            let primary = self.node(&record.primary);
            if primary.is_some_and(|n| n.streak.as_ref().is_some_and(|s| s.count > 1)) {
                self.decline(Decline::Vetoed);
            }
        }
    }

    fn loaded(&mut self, record: Option<Record>, version: Version, asked: Timestamp) -> Input {
        self.load_at = None;
        if let Some(record) = &record
            && (record.format > Record::FORMAT || record.backend != self.backend)
        {
            self.trust = Trust::Unavailable(format!(
                "the stored record (format {}, backend {}) is not one this program may change",
                record.format, record.backend
            ));
            return Input::Nothing;
        }
        // A reading that began before the record was confirmed says nothing of what came after.
        let deleted = record.is_none() && self.record.is_some() && asked > self.record_at;
        let older = version < self.version || (record.is_none() && self.record.is_some());
        let stale = older && !deleted;
        self.trust = Trust::Known;
        if stale {
            return Input::Nothing;
        }
        self.record_at = self.record_at.max(asked.min(self.now));
        self.set_record(record, version);
        Input::Loaded
    }

    fn set_record(&mut self, record: Option<Record>, version: Version) {
        let same_history = match (&self.record, &record) {
            (Some(a), Some(b)) => a.primary == b.primary && a.repl_id == b.repl_id,
            _ => false,
        };
        if !same_history {
            self.last_offset = 0;
        }
        if let (Authority::Obeys { .. }, Some(record)) = (&self.authority, &record) {
            let members = record.members.clone();
            self.set_members(members);
        }
        self.record = record;
        self.version = version;
    }

    fn swapped(&mut self, op: OpId, outcome: SwapOutcome) -> Input {
        let Some((proposed_op, record, sent)) = self.proposed.clone() else {
            return Input::Nothing;
        };
        if proposed_op != op {
            return Input::Nothing;
        }
        self.proposed = None;
        self.swap_failure = None;
        match outcome {
            SwapOutcome::Done(version) => {
                self.trust = Trust::Known;
                self.record_at = self.record_at.max(sent);
                self.set_record(Some(record), version);
                Input::Swapped(op, Swap::Done)
            }
            SwapOutcome::Lost { record, version } => {
                self.trust = Trust::Known;
                self.record_at = self.record_at.max(sent);
                self.set_record(record, version);
                Input::Swapped(op, Swap::Lost)
            }
            SwapOutcome::Unknown(why) => {
                self.swap_failure = Some((why, self.now + RELOAD * 2));
                self.load();
                Input::Swapped(op, Swap::Unknown)
            }
        }
    }

    fn node_op_done(&mut self, op: OpId, outcome: NodeOpOutcome) -> Input {
        // A second answer to the same op is not listened to.
        let Some(id) = self.ops.remove(&op) else {
            return Input::Nothing;
        };
        let now = self.now;
        if let Some(node) = self.node_mut(&id) {
            match &outcome {
                NodeOpOutcome::Done(info) => node.answered((**info).clone(), now),
                NodeOpOutcome::Unreachable(error) => node.failed(error.clone(), now),
                NodeOpOutcome::Refused(_) | NodeOpOutcome::Unknown(_) => {}
            }
        }
        self.learned(&id);
        Input::Done(op, outcome)
    }

    // ---- knowledge ----

    pub(super) fn node(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == *id)
    }

    pub(super) fn node_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|n| n.id == *id)
    }

    pub(super) fn members(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|n| n.id.clone()).collect()
    }

    pub(super) fn is_published(&self, id: &NodeId) -> bool {
        self.published
            .primary
            .as_ref()
            .is_some_and(|p| p.node == *id)
    }

    /// Whether both addresses are those of one process, as far as that is known.
    pub(super) fn is_same(&self, one: &NodeId, other: &NodeId) -> bool {
        let run_id = |id| {
            self.node(id)
                .and_then(|n| n.info.as_ref())
                .map(|i| &i.run_id)
        };
        one == other || run_id(one).is_some_and(|run| Some(run) == run_id(other))
    }

    /// The answers of the nodes that answer now.
    pub(super) fn live_answers(&self) -> BTreeMap<NodeId, NodeInfo> {
        self.nodes
            .iter()
            .filter_map(|n| Some((n.id.clone(), n.live()?.clone())))
            .collect()
    }

    /// The last positions in the recorded history that the nodes showed while in sync.
    pub(super) fn remembered(&self) -> BTreeMap<NodeId, u64> {
        let Some(record) = &self.record else {
            return BTreeMap::new();
        };
        self.nodes
            .iter()
            .filter_map(|n| {
                let (repl_id, offset) = n.in_sync.as_ref()?;
                Some((n.id.clone(), lineage(repl_id, *offset, record)?))
            })
            .collect()
    }

    /// Why this monitor may not decide at present (I6).
    pub(super) fn barred(&self) -> Option<String> {
        self.bar().map(|(_, why)| why)
    }

    /// The same where a failover seems needed.
    pub(super) fn barred_from_failover(&mut self) -> Option<String> {
        let (decline, why) = self.bar()?;
        self.decline(decline);
        Some(why)
    }

    fn bar(&self) -> Option<(Decline, String)> {
        if let Trust::Unavailable(reason) = &self.trust {
            let why = format!("the authority can not be used: {reason}");
            return Some((Decline::AuthorityUnavailable, why));
        }
        if let Some((why, until)) = &self.swap_failure
            && self.now < *until
        {
            let why = format!("the authority can not be used: {why}");
            return Some((Decline::AuthorityUnavailable, why));
        }
        match &self.other_monitor {
            Some(who) if self.authority == Authority::Decides => Some((
                Decline::OtherMonitor,
                format!(
                    "another monitor ({who}) acts on these nodes, and this authority is for one \
                     only"
                ),
            )),
            _ => None,
        }
    }

    /// Where the record is shared: that it can not be read, though the traffic goes on.
    pub(super) fn unread(&self) -> Option<String> {
        match (&self.trust, &self.authority) {
            (Trust::Unavailable(why), Authority::Shares(_) | Authority::Obeys { .. }) => {
                Some(format!(
                    "the authority can not be used: {why}; traffic goes on, and nothing is decided"
                ))
            }
            _ => None,
        }
    }

    /// What a person is told whose change found the record as it was.
    pub(super) fn not_recorded(&self) -> String {
        match &self.swap_failure {
            Some((why, _)) => format!("the record could not be changed: {why}"),
            None => "the record could not be changed".to_owned(),
        }
    }

    /// Whether a reading of the record began at `seen` or later, and lately. Where several monitors decide, what was
    /// seen may be the work of a newer decision than the one that is known; if so, it is read.
    pub(super) fn is_confirmed(&mut self, seen: Timestamp) -> bool {
        if self.panel().is_none() {
            return true;
        }
        if self.record_at >= seen && self.now - self.record_at < CONFIRMED {
            return true;
        }
        self.load_unless_asked();
        false
    }

    /// The backend is healthy: what was noted as suspicious led to nothing.
    pub(super) fn recovered(&mut self) {
        self.recovered_but(None);
    }

    /// The same, and somebody should know this.
    pub(super) fn recovered_but(&mut self, remark: Option<String>) {
        self.settled();
        let trouble = remark.or_else(|| self.unread());
        self.set_undecided(trouble);
    }

    /// As [`Core::recovered`], where something may still be undecided.
    pub(super) fn settled(&mut self) {
        self.outage_since = None;
        self.declined.clear();
        self.patient_since = None;
        self.recorder = None;
        for node in &mut self.nodes {
            node.baseline = None;
            if let Some(run_id) = node.live().map(|i| i.run_id.clone()) {
                node.settled_run_id = Some(run_id);
            }
        }
    }

    /// What `new` lacks of the history of `record`, as far as anybody showed it.
    pub(super) fn bytes_lost(&self, record: &Record, new: &NodeInfo) -> BytesLost {
        let shown = self.remembered().into_values();
        let seen = shown.fold(self.last_offset, u64::max);
        match position(new, record) {
            Some(kept) if seen > 0 => BytesLost::AtLeast(seen.saturating_sub(kept)),
            _ => BytesLost::Unknown,
        }
    }
}
