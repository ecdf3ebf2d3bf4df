//! The loop of one backend: what happened goes into the core, what the core asks is done. Nothing
//! here waits for a node, a disk or a worker; tasks do, and tell.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::authority::Swap;
use super::failpoint::Failpoint;
use super::gauges::Gauges;
use super::handle::Question;
use super::node::info_commands;
use super::ops::Order;
use super::probe::Sighting;
use super::publisher::Announcement;
use super::reports::{Reports, RequestCounter, between};
use super::sentinel::SentinelDesk;
use super::source::{Discovery, Source};
use super::staff::{Inbox, RecordNews, Staff};
use crate::clock;
use crate::failover::{
    Action, AskOutcome, Event, Machine, NodeOpOutcome, Observation, OpId, ProbeError, RecordPhase,
    SentinelNews, SwapOutcome, View,
};
use crate::resp::info::{NodeInfo, parse};
use crate::topology::{
    BytesLost, Epoch, EvidenceReceiver, FailoverReport, Gate, NodeId, Notice, RequestCounts,
    Timestamp, Topology, TopologyWriter,
};

/// Requests that were held are counted until this long after the end of a change.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// Requests are counted from at least this long before the gate closed, if it was open for so long.
const COUNTED_BEFORE: Duration = Duration::from_millis(200);

/// Pause between two looks for discovered nodes that are gone for good.
const TIDY: Duration = Duration::from_secs(10);

/// Bound of reaching an address that a node lists.
const REACH_LIMIT: Duration = Duration::from_secs(2);

/// Longest time until the next look at the clock.
const IDLE: Duration = Duration::from_secs(1);

/// What tasks of the driver itself tell it.
pub(super) enum Note {
    Obeyed(OpId),
    /// A listed address answered.
    Reached(NodeId, Box<NodeInfo>),
    /// It is time to complete the report of this number.
    Complete(u64),
}

/// One backend's driver.
pub(super) struct Driver {
    pub(super) backend: Arc<str>,
    pub(super) machine: Machine,
    pub(super) staff: Staff,
    pub(super) topology: Arc<TopologyWriter>,
    pub(super) evidence: EvidenceReceiver,
    pub(super) source: Box<dyn Source>,
    /// Where Sentinel decides.
    pub(super) sentinels: Option<SentinelDesk>,
    pub(super) reports: Reports,
    pub(super) counter: RequestCounter,
    pub(super) gauges: Gauges,
    pub(super) questions: mpsc::Receiver<Question>,
    /// Nobody may listen.
    pub(super) notices: broadcast::Sender<Notice>,
    /// Tests end the process here.
    pub(super) failpoint: Option<Failpoint>,
    pub(super) state: State,
}

/// What the driver remembers between events; nothing of it is a decision.
pub(super) struct State {
    discovery: Discovery,
    /// Foreign marks by the node they were seen on.
    marks: HashMap<NodeId, Arc<str>>,
    other_monitor: Option<Arc<str>>,
    /// Who waits for the report of a switchover.
    waiting: HashMap<u64, oneshot::Sender<FailoverReport>>,
    next_number: u64,
    /// What the core is to be told next, one thing after the other.
    due: VecDeque<Event>,
    /// The publication whose obedience is awaited, and its generation.
    awaited: Option<(OpId, u64)>,
    /// Counters before the present change, and before those of reports to be completed.
    before: RequestCounts,
    counting: HashMap<u64, RequestCounts>,
    /// The last two readings of the counters while the gate was open.
    steady: [(Timestamp, RequestCounts); 2],
    last_reply: u64,
    evidence_open: bool,
    /// Whether the newest decision in the record is a switchover.
    planned: bool,
    /// The epoch that this monitor claimed last.
    claimed: Option<Epoch>,
    tidied: Timestamp,
    note_in: mpsc::Sender<Note>,
    notes: mpsc::Receiver<Note>,
}

impl State {
    pub(super) fn new(before: RequestCounts) -> Self {
        let (note_in, notes) = mpsc::channel(256);
        State {
            discovery: Discovery::default(),
            marks: HashMap::new(),
            other_monitor: None,
            waiting: HashMap::new(),
            next_number: 0,
            due: VecDeque::new(),
            awaited: None,
            before,
            counting: HashMap::new(),
            steady: [(clock::now(), before); 2],
            last_reply: 0,
            evidence_open: true,
            planned: false,
            claimed: None,
            tidied: clock::now(),
            note_in,
            notes,
        }
    }

    fn note_phase(&mut self, phase: &RecordPhase) {
        match phase {
            RecordPhase::SwitchingOver { .. } => self.planned = true,
            RecordPhase::FailingOver => self.planned = false,
            RecordPhase::Serving => {}
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// What woke the driver.
enum Woken {
    Sighting(NodeId, Sighting),
    Event(Event),
    Record(RecordNews),
    Members(Vec<NodeId>),
    Question(Question),
    Note(Note),
    EvidenceEnded,
    Stop,
}

impl Driver {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        self.feed(Event::Tick);
        loop {
            match self.wait(&mut inbox, &stop).await {
                Woken::Stop => break,
                Woken::Event(event) => self.feed(event),
                Woken::Sighting(node, sighting) => self.sighted(node, sighting),
                Woken::Record(news) => self.record_news(news),
                Woken::Members(nodes) => {
                    self.state.discovery.configure(nodes);
                    self.members_changed();
                }
                Woken::Question(question) => self.asked(question),
                Woken::Note(note) => self.noted(note),
                Woken::EvidenceEnded => self.state.evidence_open = false,
            }
            self.tidy();
        }
        let unfinished: Vec<u64> = self.state.counting.keys().copied().collect();
        for number in unfinished {
            self.complete(number);
        }
    }

    async fn wait(&mut self, inbox: &mut Inbox, stop: &CancellationToken) -> Woken {
        let now = clock::now();
        let due = self.machine.next_deadline();
        let pause = due.map_or(IDLE, |due| due.since(now)).min(IDLE);
        tokio::select! {
            biased;
            () = stop.cancelled() => Woken::Stop,
            Some((op, outcome)) = inbox.outcomes.recv() => {
                Woken::Event(Event::NodeOpDone { op, outcome })
            }
            Some(event) = inbox.told.recv() => Woken::Event(event),
            Some(news) = inbox.record.recv() => Woken::Record(news),
            Some(note) = self.state.notes.recv() => Woken::Note(note),
            Some((node, sighting)) = inbox.sightings.recv() => Woken::Sighting(node, sighting),
            evidence = self.evidence.recv(), if self.state.evidence_open => match evidence {
                Some(evidence) => Woken::Event(Event::Evidence {
                    node: evidence.node,
                    kind: evidence.kind,
                }),
                None => Woken::EvidenceEnded,
            },
            Some(question) = self.questions.recv() => Woken::Question(question),
            nodes = self.source.next() => Woken::Members(nodes),
            () = sleep(pause) => Woken::Event(Event::Tick),
        }
    }

    /// Tells the core, and does what it asks.
    fn feed(&mut self, event: Event) {
        let now = clock::now();
        if let Event::Sentinel { sentinel, news } = &event {
            match news {
                SentinelNews::Stated(_) => self.gauges.sentinel_up(sentinel, true),
                SentinelNews::Failed(_) => self.gauges.sentinel_up(sentinel, false),
                SentinelNews::Announced(_) => {}
            }
        }
        self.read_counters(now);
        let last_reply = self.evidence.last_reply_millis();
        if last_reply != self.state.last_reply {
            self.state.last_reply = last_reply;
            let at = Timestamp::from_start(Duration::from_millis(last_reply));
            self.state.due.push_back(Event::ClientReplied { at });
        }
        // Before anything that may end the wait for it: when we were late, the word of it still lies in
        // the inbox.
        let obeyed = |(_, generation): &mut (OpId, u64)| self.topology.is_obeyed(*generation);
        if let Some((op, _)) = self.state.awaited.take_if(obeyed) {
            self.state.due.push_back(Event::Obeyed { op });
        }
        self.state.due.push_back(event);
        while let Some(event) = self.state.due.pop_front() {
            if let Some(failpoint) = &mut self.failpoint {
                failpoint.ended(&event);
            }
            let actions = self.machine.handle(event, now);
            self.execute(actions, now);
        }
    }

    fn execute(&mut self, actions: Vec<Action>, decided: Timestamp) {
        for action in actions {
            if let Some(failpoint) = &mut self.failpoint {
                failpoint.asked(&action);
            }
            match action {
                Action::Publish {
                    op,
                    view,
                    await_obeyed,
                } => {
                    self.publish(op, view, await_obeyed);
                    if let Some(failpoint) = &mut self.failpoint {
                        failpoint.published(op);
                    }
                }
                Action::SwapRecord {
                    op,
                    expected,
                    record,
                } => {
                    self.state.note_phase(&record.phase);
                    self.state.claimed = Some(record.epoch);
                    self.staff.swap_record(op, expected, record);
                }
                Action::LoadRecord => self.staff.load_record(),
                Action::Opine { opinion } => self.staff.opine(opinion),
                Action::Node {
                    op,
                    node,
                    what,
                    timeout,
                } => self.order(
                    &node,
                    Order {
                        op,
                        what,
                        timeout,
                        decided,
                    },
                ),
                Action::ProbeNow { node } => {
                    self.staff.probe_now(&node);
                    self.source.look_again();
                }
                Action::ConsultSentinels => {
                    if let Some(desk) = &self.sentinels {
                        desk.consult();
                    }
                }
                Action::AskFailover {
                    op,
                    sentinel,
                    timeout,
                } => self.ask_failover(op, sentinel, timeout),
                Action::Announce { epoch, from, to } => self.staff.announce(Announcement {
                    backend: self.backend.clone(),
                    epoch,
                    from,
                    to,
                    planned: std::mem::take(&mut self.state.planned),
                    decided: self.state.claimed == Some(epoch),
                }),
                Action::Emit {
                    event,
                    node,
                    detail,
                    attention,
                } => self.emit(event, node.as_ref(), &detail, attention),
                Action::Declined { why } => self.gauges.declined(why),
                Action::Report { report, request } => self.report(*report, request),
                Action::AmendReport { epoch, bytes_lost } => self.amend(epoch, bytes_lost),
            }
        }
    }

    /// Workers count what a lost connection cost before the gate closes, so a change is counted from a
    /// reading that is a little older.
    fn read_counters(&mut self, now: Timestamp) {
        let [_, newest] = self.state.steady;
        if now - newest.0 >= COUNTED_BEFORE && self.topology.current().gate == Gate::Open {
            self.state.steady = [newest, (now, (self.counter)())];
        }
    }

    fn publish(&mut self, op: OpId, view: View, await_obeyed: bool) {
        let before = self.topology.current();
        match (before.gate, view.gate) {
            (Gate::Open, Gate::Closed) => self.state.before = self.state.steady[0].1,
            (Gate::Closed, Gate::Open) => {
                self.state.steady = [(clock::now(), (self.counter)()); 2];
            }
            _ => {}
        }
        let next = Topology {
            backend: self.backend.clone(),
            generation: 0,
            epoch: view.epoch,
            gate: view.gate,
            primary: view.primary,
            replicas: view.replicas,
        };
        self.gauges.published(&next);
        let generation = self.topology.publish(next);
        if await_obeyed {
            self.state.awaited = Some((op, generation));
            let (topology, notes) = (self.topology.clone(), self.state.note_in.clone());
            self.staff.spawn(async move {
                topology.obeyed(generation).await;
                // Nobody waits for it when the driver is gone.
                let _ = notes.send(Note::Obeyed(op)).await;
            });
        }
    }

    fn ask_failover(&mut self, op: OpId, sentinel: NodeId, timeout: Duration) {
        self.state.planned = true;
        let desk = self.sentinels.as_ref();
        if !desk.is_some_and(|desk| desk.failover(op, sentinel, timeout)) {
            let outcome = AskOutcome::Refused("it can not be asked".to_owned());
            // Not now: other actions of the same list come before what follows from it.
            let answer = Event::FailoverAsked { op, outcome };
            self.state.due.push_back(answer);
        }
    }

    fn order(&mut self, node: &NodeId, order: Order) {
        if let Err(order) = self.staff.order(node, order) {
            let outcome = NodeOpOutcome::Unreachable(ProbeError::Unresolved);
            // Not now: other actions of the same list come before what follows from it.
            self.state.due.push_back(Event::NodeOpDone {
                op: order.op,
                outcome,
            });
        }
    }

    fn emit(&self, event: &'static str, node: Option<&NodeId>, detail: &str, attention: bool) {
        let _ = self.notices.send(Notice {
            event,
            node: node.cloned(),
        });
        let backend = &*self.backend;
        let node = node.map(tracing::field::display);
        match attention {
            true => tracing::warn!(backend, event, node, detail, "failover event"),
            false => tracing::info!(backend, event, node, detail, "failover event"),
        }
    }

    fn report(&mut self, mut report: FailoverReport, request: Option<u64>) {
        let began = report.phases.first().map(|phase| phase.at);
        let age = began.map_or(Duration::ZERO, |began| clock::now() - began);
        let unix = clock::unix_time().saturating_sub(age);
        report.unix_millis = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        report.requests = between(self.state.before, (self.counter)());
        self.gauges.ended(&report);
        if let Some(answer) = request.and_then(|request| self.state.waiting.remove(&request)) {
            // Whoever asked may have left.
            let _ = answer.send(report.clone());
        }
        let number = self.state.number();
        self.state.counting.insert(number, self.state.before);
        self.reports.keep(number, report);
        let notes = self.state.note_in.clone();
        self.staff.spawn(async move {
            sleep(COUNTED_FOR).await;
            let _ = notes.send(Note::Complete(number)).await;
        });
    }

    /// Fills in what became of the clients' requests, and logs the report.
    fn complete(&mut self, number: u64) {
        let Some(before) = self.state.counting.remove(&number) else {
            return;
        };
        let requests = between(before, (self.counter)());
        if let Some(report) = self.reports.complete(number, requests) {
            match serde_json::to_string(&report) {
                Ok(report) => {
                    tracing::info!(backend = &*self.backend, report, "failover report");
                }
                Err(error) => tracing::warn!(%error, "a failover report can not be written"),
            }
        }
    }

    fn amend(&self, epoch: Epoch, bytes_lost: BytesLost) {
        self.reports.amend(epoch, bytes_lost);
        let backend = &*self.backend;
        tracing::info!(backend, %epoch, ?bytes_lost, "the former primary returned");
    }

    fn sighted(&mut self, node: NodeId, sighting: Sighting) {
        let observation = match sighting {
            Sighting::Observed(observation) => observation,
            Sighting::Mark(who) => return self.marked(node, who),
        };
        let topology = self.topology.current();
        let primary = topology.primary.as_ref().map(|primary| &primary.node);
        self.gauges.observed(&node, &observation, primary);
        match &observation {
            Observation::Info(_) if self.source.is_all() => {}
            Observation::Info(info) => {
                let now = clock::now();
                for listed in self.state.discovery.answered(&node, info, now) {
                    self.reach(listed);
                }
            }
            Observation::Failed(ProbeError::Silent | ProbeError::ErrorReply(_)) => {}
            // Nobody is connected to it that we could know of.
            Observation::Failed(_) => self.marked(node.clone(), None),
        }
        self.feed(Event::Observed { node, observation });
    }

    /// Looks whether a node answers at an address that another one lists.
    fn reach(&mut self, listed: NodeId) {
        let access = self.staff.access(&listed);
        let notes = self.state.note_in.clone();
        self.staff.spawn(async move {
            let ask = async {
                let mut connection = access.open(REACH_LIMIT).await.ok()?;
                let mut commands = access.handshake();
                commands.extend(info_commands(None));
                let replies = connection.request(commands).await.ok()?;
                let text = replies.last()?;
                parse(redis_protocol::resp2::types::Resp2Frame::as_bytes(text)?).ok()
            };
            if let Ok(Some(info)) = tokio::time::timeout(REACH_LIMIT, ask).await {
                let _ = notes.send(Note::Reached(listed, Box::new(info))).await;
            }
        });
    }

    fn marked(&mut self, node: NodeId, who: Option<Arc<str>>) {
        match who {
            Some(who) => self.state.marks.insert(node, who),
            None => self.state.marks.remove(&node),
        };
        let who = self.state.marks.values().min().cloned();
        if who != self.state.other_monitor {
            self.state.other_monitor.clone_from(&who);
            self.feed(Event::OtherMonitor { who });
        }
    }

    fn record_news(&mut self, news: RecordNews) {
        match news {
            RecordNews::Loaded(Ok(loaded), asked) => {
                if let Some(record) = &loaded.record {
                    self.state.note_phase(&record.phase);
                }
                self.feed(Event::RecordLoaded {
                    record: loaded.record,
                    version: loaded.version,
                    opinions: loaded.opinions,
                    asked,
                });
            }
            RecordNews::Loaded(Err(error), _) => self.unavailable(error.0),
            RecordNews::Swapped(op, swap) => {
                let outcome = match swap {
                    Swap::Done(version) => SwapOutcome::Done(version),
                    Swap::Lost(stored) => {
                        self.state.claimed = None;
                        SwapOutcome::Lost {
                            record: stored.record,
                            version: stored.version,
                        }
                    }
                    Swap::Unknown(why) => SwapOutcome::Unknown(why),
                    Swap::Unavailable(why) => {
                        self.unavailable(why.clone());
                        SwapOutcome::Unknown(why)
                    }
                };
                self.gauges.swapped(&outcome);
                self.feed(Event::Swapped { op, outcome });
            }
        }
    }

    fn unavailable(&mut self, reason: String) {
        self.feed(Event::AuthorityUnavailable { reason });
    }

    fn members_changed(&mut self) {
        let nodes = self.state.discovery.members();
        self.staff.watch(&nodes);
        self.state.marks.retain(|node, _| nodes.contains(node));
        self.feed(Event::Members { nodes });
    }

    fn asked(&mut self, question: Question) {
        match question {
            Question::Status(answer) => {
                let mut status = self.machine.status(clock::now());
                if status.nodes.is_empty() || status.undecided.is_none() {
                    status.undecided = self.source.trouble().or(status.undecided);
                }
                // Whoever asked may have left.
                let _ = answer.send(status);
            }
            Question::Switchover { to, answer } => {
                let request = self.state.number();
                self.state.waiting.insert(request, answer);
                self.feed(Event::SwitchoverRequested { request, to });
            }
        }
    }

    fn noted(&mut self, note: Note) {
        match note {
            Note::Obeyed(op) => self.feed(Event::Obeyed { op }),
            Note::Complete(number) => self.complete(number),
            Note::Reached(node, info) => {
                let name = node.to_string();
                if self.state.discovery.reached(node, &info, clock::now()) {
                    let backend = &*self.backend;
                    tracing::info!(backend, node = name, "a replica was discovered");
                    self.members_changed();
                }
            }
        }
    }

    fn tidy(&mut self) {
        let now = clock::now();
        if now - self.state.tidied < TIDY {
            return;
        }
        self.state.tidied = now;
        self.staff.tidy();
        self.gauges.evidence_dropped(self.evidence.dropped());
        if self.state.discovery.forget(now) {
            self.members_changed();
        }
    }
}
