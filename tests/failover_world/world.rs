//! A virtual-time world around the core: monitors, model nodes, an authority, a network that can be
//! cut, clients that write. Everything that happens is an entry of one time-ordered queue, so a
//! seed replays exactly.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pointsman::failover::{
    Action, Authority, Decline, Event, Machine, NodeOp, NodeOpOutcome, Observation, OpId, Opinion,
    Panel, Policy, ProbeError, Record, RecordPhase, SwapOutcome, Version, View,
};
use pointsman::resp::info::{NodeInfo, Role};
use pointsman::topology::{
    BytesLost, Epoch, EvidenceKind, FailoverReport, Gate, NodeId, Outcome, Timestamp,
};

use super::sentinels::{Council, SentinelDue};
use super::{ModelNode, Timing, index_of, node_id, replicate};

pub const MS: u64 = 1_000_000;

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What can be due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// An event reaches a monitor's machine (of this incarnation).
    Deliver(usize, u32, Box<Event>),
    Tick(usize, u32, u64),
    ProbeTimer(usize, u32, usize),
    /// A probe arrives at a node.
    Probe {
        monitor: usize,
        life: u32,
        node: usize,
        periodic: bool,
    },
    /// A node op arrives at a node.
    NodeOp {
        monitor: usize,
        life: u32,
        op: OpId,
        node: usize,
        what: NodeOp,
        expires: u64,
    },
    /// The answer (or its absence) is known: the next op on that node may go.
    OpAnswered {
        monitor: usize,
        life: u32,
        op: OpId,
        node: usize,
        outcome: Box<NodeOpOutcome>,
    },
    Swap {
        monitor: usize,
        life: u32,
        op: OpId,
        expected: Version,
        record: Box<Record>,
    },
    Load {
        monitor: usize,
        life: u32,
        asked: u64,
    },
    Opine {
        monitor: usize,
        opinion: Box<Opinion>,
    },
    Replicate,
    Clients,
    Sentinel(usize, SentinelDue),
}

/// Monitor, its life, the op, and when the monitor gives it up.
type Unread = (usize, u32, OpId, NodeOp, u64);

/// One entry of the queue, ordered by time and then by age.
struct Entry {
    when: u64,
    sequence: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.when, self.sequence).cmp(&(other.when, other.sequence))
    }
}

/// A monitor, or a sidecar that obeys the record.
pub struct Monitor {
    pub machine: Machine,
    pub authority: Authority,
    pub life: u32,
    pub name: String,
    pub view: Option<View>,
    /// What its publishers were told last.
    announced: Option<(Epoch, NodeId)>,
    pub paused_until: u64,
    pub authority_cut: bool,
    pub marked: bool,
    /// Ops on one node go one after the other.
    queues: BTreeMap<usize, VecDeque<(OpId, NodeOp, u64)>>,
    busy: BTreeSet<usize>,
    /// The run that the probe connection of a node is established to.
    probe_run: BTreeMap<usize, Arc<str>>,
    awaiting_probe: BTreeMap<usize, u64>,
    /// The last thing each node told this monitor.
    pub heard: BTreeMap<NodeId, (NodeInfo, u64)>,
    /// The nodes it was told of.
    members: Vec<NodeId>,
    /// The histories it served.
    line: BTreeSet<Arc<str>>,
    /// Nodes that failed since they told something.
    failing: BTreeSet<NodeId>,
    pub unanswered: BTreeSet<OpId>,
    backlog: Vec<Event>,
    tick_at: u64,
    /// Answers of the authority come in the order of the questions.
    read_at: u64,
}

/// Faults that stay on for a while.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    /// Percent of node ops whose answer is lost after execution.
    pub lost_replies: u64,
    /// Percent of swaps whose answer is lost, stored or not.
    pub lost_swaps: u64,
    /// Percent of changes of the record and of opinions that a monitor is not told of.
    pub lost_watches: u64,
    /// The longest time that the authority needs for a reading beyond the network's.
    pub slow_store: u64,
    /// Percent of answers that arrive twice.
    pub duplicates: u64,
    /// Percent of publications obeyed too late.
    pub slow_workers: u64,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub nodes: Vec<ModelNode>,
    pub monitors: Vec<Monitor>,
    pub policy: Policy,
    pub authority: Authority,
    pub record: Option<Record>,
    pub version: u64,
    /// What every monitor said last, the dead ones as well.
    pub opinions: BTreeMap<Arc<str>, Opinion>,
    /// Every primary that the record said serves.
    served: BTreeSet<(NodeId, Arc<str>, Arc<str>)>,
    /// Who acknowledged writes in an epoch, and who was promoted in it.
    writers: BTreeMap<Epoch, Arc<str>>,
    promoted: BTreeMap<Epoch, usize>,
    promotions: BTreeMap<(usize, u32, OpId), Epoch>,
    pub authority_up: bool,
    /// The record can be read and not written.
    pub authority_full: bool,
    /// How often the record was to be written.
    pub proposals: usize,
    /// Cut pairs: (monitor, node) and (node, node) with the smaller first.
    pub monitor_cuts: BTreeSet<(usize, usize)>,
    pub node_cuts: BTreeSet<(usize, usize)>,
    /// When monitors' cuts ended last: until a node was probed again it may be passed over.
    mended_at: u64,
    pub noise: Noise,
    pub timing: Timing,
    pub latency: u64,
    /// Nodes whose answers to operations take so much longer.
    pub slow: BTreeMap<usize, u64>,
    /// The node whose answers to promotions are lost.
    pub mute: Option<usize>,
    pub clients: bool,
    /// Acknowledged writes: id, node, time.
    pub acknowledged: Vec<(u32, usize, u64)>,
    next_write: u32,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    pub trace: VecDeque<String>,
    /// Whether the trace is kept: a failing seed is run again with it.
    pub tracing: bool,
    pub reports: Vec<(u64, FailoverReport, Option<u64>)>,
    pub violation: Option<String>,
    /// Epochs in which a promotion was sent.
    promoted_epoch: Epoch,
    /// Ops that lie in the sockets of stopped nodes.
    inboxes: BTreeMap<usize, Vec<Unread>>,
    pub answered_requests: BTreeSet<u64>,
    /// What reports were completed with.
    pub amended: Vec<BytesLost>,
    /// Why failovers were not done.
    pub declined: Vec<Decline>,
    /// Where Sentinel decides.
    pub council: Council,
    /// (time, monitor, gate) of every change of a gate.
    pub gates: Vec<(u64, usize, Gate)>,
}

fn stamp(now: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_nanos(now))
}

/// What happened, how the nodes stand, and what was wrong.
pub fn story(world: &World) -> String {
    let trace: Vec<&str> = world.trace.iter().map(String::as_str).collect();
    let nodes: Vec<String> = world.nodes.iter().map(|n| format!("{n:?}")).collect();
    format!(
        "{}\n{}\n{:?}",
        trace.join("\n"),
        nodes.join("\n"),
        world.violation
    )
}

impl World {
    pub fn new(
        seed: u64,
        nodes: usize,
        monitors: usize,
        authority: Authority,
        policy: Policy,
    ) -> World {
        let mut world = World {
            now: 0,
            rng: Rng(seed),
            nodes: ModelNode::cluster(nodes),
            monitors: Vec::new(),
            policy,
            authority,
            record: None,
            version: 0,
            opinions: BTreeMap::new(),
            served: BTreeSet::new(),
            writers: BTreeMap::new(),
            promoted: BTreeMap::new(),
            promotions: BTreeMap::new(),
            authority_up: true,
            authority_full: false,
            proposals: 0,
            monitor_cuts: BTreeSet::new(),
            node_cuts: BTreeSet::new(),
            mended_at: 0,
            noise: Noise::default(),
            timing: Timing {
                retry: 1000 * MS,
                transfer: 60 * MS,
                load: 60 * MS,
            },
            latency: MS / 2,
            slow: BTreeMap::new(),
            mute: None,
            clients: true,
            acknowledged: Vec::new(),
            next_write: 1,
            queue: BinaryHeap::new(),
            sequence: 0,
            trace: VecDeque::new(),
            tracing: true,
            reports: Vec::new(),
            violation: None,
            promoted_epoch: Epoch(0),
            inboxes: BTreeMap::new(),
            answered_requests: BTreeSet::new(),
            amended: Vec::new(),
            declined: Vec::new(),
            council: Council::default(),
            gates: Vec::new(),
        };
        for index in 0..monitors {
            let authority = match &world.authority {
                Authority::Shares(panel) => Authority::Shares(Panel {
                    domain: format!("host{index}").into(),
                    domains: match panel.domains {
                        0 => monitors as u32,
                        few => few,
                    },
                    ..panel.clone()
                }),
                other => other.clone(),
            };
            world.add(authority);
        }
        world.at(0, Due::Replicate);
        world.at(MS, Due::Clients);
        world
    }

    fn add(&mut self, authority: Authority) {
        let index = self.monitors.len();
        let monitor = self.new_monitor(index, 0, authority);
        self.monitors.push(monitor);
        self.start_monitor(index);
    }

    /// Sidecars beside the monitors.
    pub fn add_sidecars(&mut self, count: usize) {
        for _ in 0..count {
            let view_lease = self.view_lease();
            self.add(Authority::Obeys { view_lease });
        }
    }

    fn view_lease(&self) -> Option<Duration> {
        match &self.authority {
            Authority::Shares(panel) => panel.view_lease,
            _ => None,
        }
    }

    fn is_sidecar(&self, index: usize) -> bool {
        matches!(self.monitors[index].authority, Authority::Obeys { .. })
    }

    fn new_monitor(&self, index: usize, life: u32, authority: Authority) -> Monitor {
        let name = format!("monitor{index}.{life}");
        let members = (0..self.nodes.len()).map(node_id).collect();
        Monitor {
            machine: Machine::new(
                "main",
                name.as_str(),
                members,
                self.policy.clone(),
                authority.clone(),
            ),
            authority,
            life,
            name,
            view: None,
            announced: None,
            paused_until: 0,
            authority_cut: false,
            marked: false,
            queues: BTreeMap::new(),
            busy: BTreeSet::new(),
            probe_run: BTreeMap::new(),
            awaiting_probe: BTreeMap::new(),
            heard: BTreeMap::new(),
            line: BTreeSet::new(),
            members: (0..self.nodes.len()).map(node_id).collect(),
            failing: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            backlog: Vec::new(),
            tick_at: u64::MAX,
            read_at: 0,
        }
    }

    fn start_monitor(&mut self, index: usize) {
        let life = self.monitors[index].life;
        // A sidecar asks no node anything.
        let probed = if self.is_sidecar(index) {
            0
        } else {
            self.nodes.len()
        };
        for node in 0..probed {
            self.at(
                self.now + node as u64 * MS / 5,
                Due::ProbeTimer(index, life, node),
            );
        }
        self.deliver_at(self.now, index, life, Event::Tick);
    }

    /// The process ends and another one starts.
    pub fn restart_monitor(&mut self, index: usize) {
        let life = self.monitors[index].life + 1;
        let cut = self.monitors[index].authority_cut;
        let authority = self.monitors[index].authority.clone();
        self.monitors[index] = self.new_monitor(index, life, authority);
        self.monitors[index].authority_cut = cut;
        self.log(format!("monitor {index} restarted"));
        self.start_monitor(index);
        self.introduce_sentinels(index);
    }

    pub fn log(&mut self, text: String) {
        self.log_with(|| text);
    }

    fn log_with(&mut self, text: impl FnOnce() -> String) {
        if !self.tracing {
            return;
        }
        let text = text();
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        let line = format!("{:>10.3} ms  {text}", self.now as f64 / MS as f64);
        self.trace.push_back(line);
    }

    pub fn violate(&mut self, text: String) {
        self.log(format!("VIOLATION {text}"));
        self.violation.get_or_insert(text);
    }

    pub(super) fn at(&mut self, when: u64, due: Due) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry {
            when,
            sequence: self.sequence,
            due,
        }));
    }

    pub(super) fn deliver_at(&mut self, when: u64, monitor: usize, life: u32, event: Event) {
        self.at(when, Due::Deliver(monitor, life, Box::new(event)));
    }

    pub fn deliver(&mut self, monitor: usize, event: Event) {
        let life = self.monitors[monitor].life;
        self.deliver_at(self.now, monitor, life, event);
    }

    /// Runs until `end` or the first violation.
    pub fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(entry)) if entry.when <= end => {}
                _ => break,
            }
            let Some(Reverse(entry)) = self.queue.pop() else {
                break;
            };
            self.now = self.now.max(entry.when);
            self.happen(entry.due);
        }
        self.now = self.now.max(end);
    }

    pub fn run_for(&mut self, span: u64) {
        self.run_until(self.now + span);
    }

    /// Runs until `done` holds, at most for `limit`; whether it came to hold.
    pub fn run_while(&mut self, limit: u64, mut going_on: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        let step = (limit / 2000).max(MS / 4);
        while going_on(self) {
            if self.now >= end || self.violation.is_some() {
                return false;
            }
            self.run_until((self.now + step).min(end));
        }
        true
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Deliver(monitor, life, event) => self.hand_over(monitor, life, *event),
            Due::Tick(monitor, life, at) => {
                if self.monitors[monitor].tick_at == at {
                    self.monitors[monitor].tick_at = u64::MAX;
                    self.hand_over(monitor, life, Event::Tick);
                }
            }
            Due::ProbeTimer(monitor, life, node) => {
                if self.monitors[monitor].life == life {
                    self.send_probe(monitor, node, true);
                }
            }
            Due::Probe {
                monitor,
                life,
                node,
                periodic,
            } => self.probe_arrives(monitor, life, node, periodic),
            Due::NodeOp {
                monitor,
                life,
                op,
                node,
                what,
                expires,
            } => {
                self.op_arrives(monitor, life, op, node, what, expires);
            }
            Due::OpAnswered {
                monitor,
                life,
                op,
                node,
                outcome,
            } => {
                self.op_answered(monitor, life, op, node, *outcome);
            }
            Due::Swap {
                monitor,
                life,
                op,
                expected,
                record,
            } => self.swap_arrives(monitor, life, op, expected, *record),
            Due::Load {
                monitor,
                life,
                asked,
            } => self.load_arrives(monitor, life, asked),
            Due::Opine { monitor, opinion } => {
                if self.authority_reachable(monitor) {
                    self.opinions.insert(opinion.monitor.clone(), *opinion);
                    self.tell_others(monitor);
                }
            }
            Due::Replicate => {
                let cuts = self.node_cuts.clone();
                replicate(&mut self.nodes, self.now, self.timing, |a, b| {
                    cuts.contains(&(a.min(b), a.max(b)))
                });
                self.at(self.now + 3 * MS / 2, Due::Replicate);
            }
            Due::Clients => self.clients_write(),
            Due::Sentinel(sentinel, due) => self.sentinel_happens(sentinel, due),
        }
    }

    // ---- monitors ----

    fn hand_over(&mut self, index: usize, life: u32, event: Event) {
        let now = self.now;
        let monitor = &mut self.monitors[index];
        if monitor.life != life {
            return;
        }
        if now < monitor.paused_until {
            if monitor.backlog.is_empty() {
                let at = monitor.paused_until;
                self.deliver_at(at, index, life, Event::Tick);
            }
            self.monitors[index].backlog.push(event);
            return;
        }
        for event in std::mem::take(&mut monitor.backlog) {
            self.feed(index, event);
        }
        self.feed(index, event);
    }

    fn feed(&mut self, index: usize, event: Event) {
        let now = self.now;
        let monitor = &mut self.monitors[index];
        match &event {
            Event::Observed {
                node,
                observation: Observation::Info(info),
            } => {
                monitor.heard.insert(node.clone(), ((**info).clone(), now));
                monitor.failing.remove(node);
            }
            Event::Observed { node, .. } | Event::Evidence { node, .. } => {
                monitor.failing.insert(node.clone());
            }
            Event::Members { nodes } => monitor.members.clone_from(nodes),
            Event::NodeOpDone {
                outcome: NodeOpOutcome::Done(_),
                ..
            }
            | Event::Tick => {}
            _ => {}
        }
        let quiet = matches!(
            event,
            Event::Tick
                | Event::ClientReplied { .. }
                | Event::Observed {
                    observation: Observation::Info(_),
                    ..
                }
        );
        let shown = if quiet || !self.tracing {
            String::new()
        } else {
            brief(&event)
        };
        if self.authority == Authority::Sentinel {
            self.note_statement(index, &event);
        }
        let monitor = &mut self.monitors[index];
        let actions = monitor.machine.handle(event, stamp(now));
        if !quiet && self.tracing {
            self.log(format!("m{index} <- {shown}"));
        }
        for action in actions {
            self.act(index, action);
        }
        match self.authority {
            Authority::Follows => {
                self.check_announced(index);
                self.check_belief(index);
            }
            // It announces a change when its epoch is known, which may be later.
            Authority::Sentinel => self.check_led(index),
            Authority::Decides | Authority::Shares(_) | Authority::Obeys { .. } => {
                self.check_announced(index);
            }
        }
        let monitor = &mut self.monitors[index];
        if let Some(deadline) = monitor.machine.next_deadline() {
            let at = (deadline.since(Timestamp::default()).as_nanos() as u64).max(now + 1);
            if at < monitor.tick_at {
                monitor.tick_at = at;
                let life = monitor.life;
                self.at(at, Due::Tick(index, life, at));
            }
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let life = self.monitors[index].life;
        let lag = self.latency + self.rng.below(self.latency.max(1));
        if !matches!(
            action,
            Action::ProbeNow { .. }
                | Action::Node {
                    what: NodeOp::Inspect,
                    ..
                }
        ) {
            self.log_with(|| format!("m{index} -> {}", brief(&action)));
        }
        match action {
            Action::Publish {
                op,
                view,
                await_obeyed,
            } => self.publish(index, op, view, await_obeyed),
            Action::SwapRecord {
                op,
                expected,
                record,
            } => {
                if !self.authority.has_record() {
                    self.violate("a follower decides".to_owned());
                }
                if self.monitors[index].marked {
                    self.violate("I6: a decision beside another monitor's mark".to_owned());
                }
                let record = Box::new(record);
                self.at(
                    self.now + lag,
                    Due::Swap {
                        monitor: index,
                        life,
                        op,
                        expected,
                        record,
                    },
                );
            }
            Action::LoadRecord => self.at(
                self.now + lag,
                Due::Load {
                    monitor: index,
                    life,
                    asked: self.now,
                },
            ),
            Action::Opine { opinion } => {
                let opinion = Box::new(opinion);
                let monitor = index;
                self.at(self.now + lag, Due::Opine { monitor, opinion });
            }
            Action::Node {
                op,
                node,
                what,
                timeout,
            } => {
                self.check_op(index, op, &node, &what);
                let node = index_of(&node);
                let timeout = timeout.as_nanos() as u64;
                let monitor = &mut self.monitors[index];
                monitor.unanswered.insert(op);
                monitor
                    .queues
                    .entry(node)
                    .or_default()
                    .push_back((op, what, timeout));
                self.next_op(index, node);
            }
            Action::ProbeNow { node } => {
                if self.is_sidecar(index) {
                    self.violate("a sidecar probes".to_owned());
                }
                let node = index_of(&node);
                let until = self.monitors[index].awaiting_probe.get(&node).copied();
                if until.is_none_or(|until| self.now >= until) {
                    self.send_probe(index, node, false);
                }
            }
            Action::ConsultSentinels => self.consult_sentinels(index),
            Action::AskFailover {
                op,
                sentinel,
                timeout,
            } => self.ask_failover(index, op, &sentinel, timeout),
            Action::Announce { epoch, to, .. } => {
                let before = self.monitors[index].announced.replace((epoch, to));
                let grows = self.authority != Authority::Sentinel;
                if grows && before.as_ref().is_some_and(|(before, _)| *before >= epoch) {
                    self.violate(format!("epoch {epoch} was announced after {before:?}"));
                }
            }
            Action::Emit { .. } => {}
            Action::Declined { why } => self.declined.push(why),
            Action::AmendReport { epoch, bytes_lost } => {
                let of = |(_, r, _): &&(u64, FailoverReport, Option<u64>)| {
                    r.epoch == epoch && r.outcome == Outcome::Done
                };
                match self.reports.iter().rev().find(of).cloned() {
                    Some((_, report, _)) => self.check_loss(&report, bytes_lost),
                    None => self.violate(format!("no report of epoch {epoch} to amend")),
                }
                self.amended.push(bytes_lost);
            }
            Action::Report { report, request } => {
                if let Some(request) = request
                    && !self.answered_requests.insert(request)
                {
                    self.violate(format!("switchover request {request} was answered twice"));
                }
                self.check_loss(&report, report.bytes_lost);
                self.reports.push((self.now, *report, request));
            }
        }
    }

    // ---- invariants ----

    fn publish(&mut self, index: usize, op: OpId, view: View, await_obeyed: bool) {
        if let Some(before) = self.monitors[index].view.clone() {
            if view.epoch < before.epoch {
                self.violate(format!("I2: epoch {} after {}", view.epoch, before.epoch));
            }
            let changed = before.primary.is_some()
                && view.primary.is_some()
                && before.primary != view.primary;
            if changed && view.epoch == before.epoch {
                self.violate("I1: two primaries in one epoch".to_owned());
            }
        }
        if view.gate == Gate::Open {
            self.check_open(index, &view);
            if self.authority == Authority::Follows
                && let Some(before) = self.monitors[index].view.clone()
                && before.primary != view.primary
            {
                self.check_move(index, &before, &view);
            }
        }
        if self.monitors[index].view.as_ref().map(|v| v.gate) != Some(view.gate) {
            self.gates.push((self.now, index, view.gate));
        }
        let served = view.primary.iter().map(|primary| primary.repl_id.clone());
        self.monitors[index].line.extend(served);
        self.monitors[index].view = Some(view);
        if await_obeyed {
            let slow = self.rng.chance(self.noise.slow_workers);
            let delay = if slow {
                400 * MS
            } else {
                MS / 5 + self.rng.below(MS)
            };
            let life = self.monitors[index].life;
            self.deliver_at(self.now + delay, index, life, Event::Obeyed { op });
        }
    }

    fn check_open(&mut self, index: usize, view: &View) {
        let Some(primary) = &view.primary else {
            self.violate("I1: an open gate without a primary".to_owned());
            return;
        };
        let heard = self.monitors[index].heard.get(&primary.node);
        let fits = if self.is_sidecar(index) {
            let (node, run) = (primary.node.clone(), primary.run_id.clone());
            let said = (node, run, primary.repl_id.clone());
            self.served.contains(&said)
        } else {
            heard.is_some_and(|(info, _)| {
                info.role == Role::Primary
                    && info.run_id == primary.run_id
                    && info.repl_id == primary.repl_id
            })
        };
        if !fits {
            self.violate(format!("I5: {} was published unverified", primary.node));
        }
        if !self.authority.has_record() {
            return;
        }
        let others: Vec<&View> = self
            .monitors
            .iter()
            .filter_map(|m| m.view.as_ref())
            .filter(|v| v.epoch == view.epoch)
            .filter(|v| v.primary.as_ref().is_some_and(|p| p.node != primary.node))
            .collect();
        if !others.is_empty() {
            self.violate(format!("I1: two primaries in epoch {}", view.epoch));
        }
    }

    /// Publishers know whom requests go to.
    fn check_announced(&mut self, index: usize) {
        let Monitor {
            view, announced, ..
        } = &self.monitors[index];
        let Some(view) = view.as_ref().filter(|view| view.gate == Gate::Open) else {
            return;
        };
        let open = view.primary.as_ref().map(|p| (view.epoch, p.node.clone()));
        if *announced != open {
            self.violate(format!(
                "{announced:?} was announced, and {open:?} is published"
            ));
        }
    }

    /// A follower believes a node that says it is primary.
    fn check_belief(&mut self, index: usize) {
        let monitor = &self.monitors[index];
        let open = monitor.view.as_ref().filter(|v| v.gate == Gate::Open);
        let Some(followed) = open.and_then(|v| v.primary.as_ref()).map(|p| &p.node) else {
            return;
        };
        let said = self.says(index, followed);
        if said.is_some_and(|info| info.role != Role::Primary) {
            self.violate(format!("{followed} is followed and says it is a replica"));
        }
    }

    /// What a node told a monitor last, unless it fails.
    fn says(&self, index: usize, node: &NodeId) -> Option<&NodeInfo> {
        let monitor = &self.monitors[index];
        let (info, _) = monitor.heard.get(node)?;
        let counts = monitor.members.contains(node) && !monitor.failing.contains(node);
        counts.then_some(info)
    }

    /// A follower leaves a primary that serves only for one that goes on with its history and has the
    /// replicas, and nobody's data for an empty node.
    fn check_move(&mut self, index: usize, before: &View, next: &View) {
        let (Some(from), Some(to)) = (&before.primary, &next.primary) else {
            return;
        };
        let Some(new) = self.says(index, &to.node) else {
            return;
        };
        if from.node != to.node
            && let Some(old) = self.says(index, &from.node)
            && old.role == Role::Primary
            && old.run_id == from.run_id
            && !old.loading
        {
            let line = &self.monitors[index].line;
            let related = new.repl_id2 == old.repl_id
                || new.repl_id2 == old.repl_id2
                || line.contains(&new.repl_id2);
            if !related || new.replicas.len() < old.replicas.len() {
                let text = format!("{old:?} serves and is left for {new:?}");
                return self.violate(text);
            }
        }
        let held = (0..self.nodes.len()).map(node_id).any(|node| {
            let holds = |i: &NodeInfo| i.keys > 0 && *i.repl_id == *from.repl_id;
            node != to.node && self.says(index, &node).is_some_and(holds)
        });
        let waited = from.node == to.node;
        if held && new.keys == 0 && new.replicas.is_empty() && !waited {
            let text = format!(
                "{new:?} is empty and believed, data of {} is there",
                from.node
            );
            self.violate(text);
        }
    }

    fn check_op(&mut self, index: usize, op: OpId, node: &NodeId, what: &NodeOp) {
        if !self.authority.has_record() || self.is_sidecar(index) {
            self.violate(format!("one that must not acts: {what:?}"));
        }
        if matches!(
            what,
            NodeOp::Inspect | NodeOp::CheckAuth { .. } | NodeOp::Unpause
        ) {
            return;
        }
        if self.monitors[index].marked && *what == NodeOp::Promote {
            self.violate("I6: a promotion beside another monitor's mark".to_owned());
        }
        if *what == NodeOp::Unfence && self.authority == Authority::Decides {
            let serves = |r: &Record| r.primary == *node && r.phase == RecordPhase::Serving;
            if !self.record.as_ref().is_some_and(serves) {
                self.violate(format!("{node} does not serve and is unfenced"));
            }
        }
        if *what != NodeOp::Promote {
            return;
        }
        let Some(record) = self.record.clone() else {
            self.violate("I3: a promotion without a record".to_owned());
            return;
        };
        let ours = *record.by == *self.monitors[index].name;
        let open = record.phase != RecordPhase::Serving;
        if !ours || !open {
            self.violate(format!(
                "I3: a promotion of {node} without the record: {record:?}"
            ));
        }
        if record.epoch < self.promoted_epoch {
            self.violate("I4: promotions of two epochs interleave".to_owned());
        }
        self.promoted_epoch = record.epoch;
        let life = self.monitors[index].life;
        self.promotions.insert((index, life, op), record.epoch);
        self.check_choice(index, node, &record);
    }

    /// In one epoch one node becomes primary, and stays it unless it is fenced: it had restarted.
    fn check_promoted(&mut self, op: (usize, u32, OpId), node: usize, outcome: &NodeOpOutcome) {
        let Some(epoch) = self.promotions.get(&op).copied() else {
            return;
        };
        if !matches!(outcome, NodeOpOutcome::Done(_)) {
            return;
        }
        if let Some(before) = self.promoted.insert(epoch, node)
            && before != node
            && self.nodes[before].running
            && self.nodes[before].role == Role::Primary
            && !self.nodes[before].fenced
        {
            let text = format!("nodes {before} and {node} were promoted in epoch {epoch}");
            self.violate(text);
        }
    }

    /// What a report says of the loss is true, as long as the old primary is as it was.
    fn check_loss(&mut self, report: &FailoverReport, claimed: BytesLost) {
        let (Some(from), Some(to)) = (&report.from, &report.to) else {
            return;
        };
        let (old, new) = (&self.nodes[index_of(from)], &self.nodes[index_of(to)]);
        if old.repl_id != new.repl_id2 || old.role != Role::Primary {
            return;
        }
        let truth = old.offset.saturating_sub((new.second - 1) as u64);
        let wrong = match claimed {
            BytesLost::Exactly(bytes) => bytes != truth,
            BytesLost::AtLeast(bytes) => bytes > truth,
            BytesLost::Unknown => false,
        };
        if wrong {
            self.violate(format!("{claimed:?} is said to be lost, and {truth} is"));
        }
    }

    /// Nobody who could have been promoted, and had stood still for a while, has more.
    fn check_choice(&mut self, index: usize, chosen: &NodeId, record: &Record) {
        let now = self.now;
        let taken = self.nodes[index_of(chosen)].clone();
        if taken.role == Role::Primary {
            // The same promotion again, because its answer was lost.
            return;
        }
        for node in &self.nodes {
            let reachable = !self.monitor_cuts.contains(&(index, node.index)) && node.answers();
            let still = now - node.received_at > 30 * MS && now - node.started_at > 400 * MS;
            let heir = node.repl_id == record.repl_id
                && node.priority > 0
                && !node.stubborn
                && !node.is_loading(now)
                && !matches!(node.link, super::Link::Syncing { .. });
            let mended = self.mended_at > 0 && now - self.mended_at < 250 * MS;
            let calm = !mended
                && self.noise.lost_replies == 0
                && self.monitors[index].paused_until + 3000 * MS < now;
            if reachable
                && still
                && heir
                && calm
                && node.log.len() > taken.log.len()
                && node.role == Role::Replica
            {
                let text = format!(
                    "{chosen} is promoted with {} writes, node {} has {}",
                    taken.log.len(),
                    node.index,
                    node.log.len()
                );
                self.trouble(text);
                return;
            }
        }
    }

    /// A choice that was wrong as far as the model can tell.
    fn trouble(&mut self, text: String) {
        self.violate(format!("choice: {text}"));
    }

    // ---- probes ----

    fn cut(&self, monitor: usize, node: usize) -> bool {
        self.monitor_cuts.contains(&(monitor, node))
    }

    fn send_probe(&mut self, monitor: usize, node: usize, periodic: bool) {
        let life = self.monitors[monitor].life;
        let lag = self.latency / 2 + self.rng.below(self.latency.max(1));
        self.at(
            self.now + lag,
            Due::Probe {
                monitor,
                life,
                node,
                periodic,
            },
        );
    }

    fn probe_arrives(&mut self, monitor: usize, life: u32, node: usize, periodic: bool) {
        if self.monitors[monitor].life != life {
            return;
        }
        let interval = self.policy.probe_interval.as_nanos() as u64;
        let timeout = self.policy.probe_timeout().as_nanos() as u64;
        let target = &self.nodes[node];
        let failed = |error| Observation::Failed(error);
        let (delay, observation) = if self.cut(monitor, node) {
            (timeout, failed(ProbeError::Unacked))
        } else if !target.running {
            let lost = self.monitors[monitor].probe_run.remove(&node).is_some();
            let error = if lost {
                ProbeError::ConnectionLost
            } else {
                ProbeError::Refused
            };
            (self.latency, failed(error))
        } else if target.stopped {
            (timeout, failed(ProbeError::Silent))
        } else {
            let info = target.info(self.now, &self.nodes);
            self.monitors[monitor]
                .probe_run
                .insert(node, info.run_id.clone());
            (self.latency, Observation::Info(Box::new(info)))
        };
        if delay == timeout {
            self.monitors[monitor]
                .awaiting_probe
                .insert(node, self.now + timeout);
        }
        let event = Event::Observed {
            node: node_id(node),
            observation,
        };
        self.deliver_at(self.now + delay, monitor, life, event);
        if periodic {
            let next = interval.max(delay);
            self.at(self.now + next, Due::ProbeTimer(monitor, life, node));
        }
    }

    // ---- node ops ----

    fn next_op(&mut self, monitor: usize, node: usize) {
        let life = self.monitors[monitor].life;
        let m = &mut self.monitors[monitor];
        if m.busy.contains(&node) {
            return;
        }
        let Some((op, what, timeout)) = m.queues.get_mut(&node).and_then(VecDeque::pop_front)
        else {
            return;
        };
        m.busy.insert(node);
        let lag = self.latency / 2 + self.rng.below(self.latency.max(1));
        let expires = self.now + timeout;
        self.at(
            self.now + lag,
            Due::NodeOp {
                monitor,
                life,
                op,
                node,
                what,
                expires,
            },
        );
    }

    fn op_arrives(
        &mut self,
        monitor: usize,
        life: u32,
        op: OpId,
        node: usize,
        what: NodeOp,
        expires: u64,
    ) {
        let unknown = || Box::new(NodeOpOutcome::Unknown("no answer".to_owned()));
        let (at, outcome) = if self.cut(monitor, node) {
            let never_connected = self.rng.chance(50);
            let outcome = if never_connected {
                Box::new(NodeOpOutcome::Unreachable(ProbeError::Unacked))
            } else {
                unknown()
            };
            (expires, outcome)
        } else if !self.nodes[node].running {
            (
                self.now + self.latency,
                Box::new(NodeOpOutcome::Unreachable(ProbeError::Refused)),
            )
        } else if self.nodes[node].stopped {
            // It stays in the socket and is executed when the process goes on.
            self.inboxes
                .entry(node)
                .or_default()
                .push((monitor, life, op, what, expires));
            (expires, unknown())
        } else {
            let outcome = self.execute(node, &what);
            self.check_promoted((monitor, life, op), node, &outcome);
            let mute = self.mute == Some(node) && what == NodeOp::Promote;
            if mute || self.rng.chance(self.noise.lost_replies) {
                (expires, unknown())
            } else {
                let slow = self.slow.get(&node).copied().unwrap_or(0);
                match self.now + self.latency + slow {
                    at if at < expires => (at, Box::new(outcome)),
                    _ => (expires, unknown()),
                }
            }
        };
        let due = Due::OpAnswered {
            monitor,
            life,
            op,
            node,
            outcome,
        };
        if self.rng.chance(self.noise.duplicates) {
            let later = at + self.rng.below(50 * MS);
            self.at(later, due.clone());
        }
        self.at(at, due);
    }

    fn execute(&mut self, node: usize, what: &NodeOp) -> NodeOpOutcome {
        let now = self.now;
        let outcome = self.nodes[node].execute(what, index_of, now);
        if *what != NodeOp::Inspect {
            self.log(format!(
                "node {node} executes {what:?}: {}",
                outcome_word(&outcome)
            ));
        }
        match outcome {
            NodeOpOutcome::Done(_) => {
                let info = self.nodes[node].info(now, &self.nodes);
                NodeOpOutcome::Done(Box::new(info))
            }
            other => other,
        }
    }

    fn op_answered(
        &mut self,
        monitor: usize,
        life: u32,
        op: OpId,
        node: usize,
        outcome: NodeOpOutcome,
    ) {
        if self.monitors[monitor].life != life {
            return;
        }
        let first = self.monitors[monitor].unanswered.remove(&op);
        if first {
            self.monitors[monitor].busy.remove(&node);
        }
        if first && let NodeOpOutcome::Done(info) = &outcome {
            let now = self.now;
            self.monitors[monitor]
                .heard
                .insert(node_id(node), ((**info).clone(), now));
        }
        self.hand_over(monitor, life, Event::NodeOpDone { op, outcome });
        self.next_op(monitor, node);
    }

    // ---- authority ----

    fn authority_reachable(&self, monitor: usize) -> bool {
        self.authority_up && !self.monitors[monitor].authority_cut
    }

    fn swap_arrives(
        &mut self,
        monitor: usize,
        life: u32,
        op: OpId,
        expected: Version,
        record: Record,
    ) {
        let lost = self.rng.chance(self.noise.lost_swaps);
        let stored_first = self.rng.chance(50);
        let reachable = self.authority_reachable(monitor);
        self.proposals += 1;
        let outcome = if self.authority_full {
            SwapOutcome::Unknown("the disk is full".to_owned())
        } else if !reachable || (lost && !stored_first) {
            SwapOutcome::Unknown("no answer".to_owned())
        } else if expected != self.stored_version() {
            SwapOutcome::Lost {
                record: self.record.clone(),
                version: self.stored_version(),
            }
        } else {
            self.check_record(&record);
            self.version += 1;
            self.log(format!(
                "record v{} is {:?} epoch {} primary {}",
                self.version, record.phase, record.epoch, record.primary
            ));
            if record.phase == RecordPhase::Serving {
                let (run, history) = (record.run_id.clone(), record.repl_id.clone());
                self.served.insert((record.primary.clone(), run, history));
            }
            self.record = Some(record);
            self.tell_others(monitor);
            if lost {
                SwapOutcome::Unknown("the answer was lost".to_owned())
            } else {
                SwapOutcome::Done(Version(self.version))
            }
        };
        let delay = match outcome {
            SwapOutcome::Unknown(_) if !self.authority_full => 50 * MS,
            _ => self.latency,
        };
        self.deliver_at(
            self.now + delay,
            monitor,
            life,
            Event::Swapped { op, outcome },
        );
    }

    /// What is not there has none; what is made again has another one than before.
    fn stored_version(&self) -> Version {
        Version(if self.record.is_some() {
            self.version
        } else {
            0
        })
    }

    /// Somebody deletes the record.
    pub fn delete_record(&mut self) {
        self.record = None;
        self.log("the record is deleted".to_owned());
        self.tell_others(usize::MAX);
    }

    /// The record's own law: the epoch grows by one with each decision and stays within one.
    fn check_record(&mut self, next: &Record) {
        let Some(before) = self.record.clone() else {
            return;
        };
        let completes = next.epoch == before.epoch
            && before.phase != RecordPhase::Serving
            && next.phase == RecordPhase::Serving
            && next.by == before.by;
        let decides = next.epoch > before.epoch;
        if !completes && !decides {
            self.violate(format!("I2: record {before:?} became {next:?}"));
        }
    }

    fn tell_others(&mut self, writer: usize) {
        for monitor in 0..self.monitors.len() {
            let lost = 10.max(self.noise.lost_watches);
            if monitor == writer || self.rng.chance(lost) || !self.authority_reachable(monitor) {
                continue;
            }
            let life = self.monitors[monitor].life;
            let asked = self.now + self.rng.below(20 * MS);
            let load = Due::Load {
                monitor,
                life,
                asked,
            };
            self.at(asked, load);
        }
    }

    fn load_arrives(&mut self, monitor: usize, life: u32, asked: u64) {
        let event = if self.authority_reachable(monitor) {
            Event::RecordLoaded {
                record: self.record.clone(),
                version: self.stored_version(),
                opinions: self.opinions.values().cloned().collect(),
                asked: stamp(asked),
            }
        } else {
            Event::AuthorityUnavailable {
                reason: "it is down".to_owned(),
            }
        };
        let lag = self.latency + self.rng.below(self.latency.max(1));
        let lag = match self.noise.slow_store {
            0 => lag,
            longest => lag + self.rng.below(longest),
        };
        let when = (self.now + lag).max(self.monitors[monitor].read_at);
        self.monitors[monitor].read_at = when;
        self.deliver_at(when, monitor, life, event);
    }

    // ---- clients ----

    fn clients_write(&mut self) {
        for index in 0..self.monitors.len() {
            if self.clients {
                self.client_writes(index);
            }
        }
        self.at(self.now + 8 * MS, Due::Clients);
    }

    fn client_writes(&mut self, index: usize) {
        if self.now <= self.monitors[index].paused_until {
            return;
        }
        let Some(primary) = self.monitors[index]
            .view
            .as_ref()
            .filter(|v| v.gate == Gate::Open)
            .and_then(|v| v.primary.clone())
        else {
            return;
        };
        let epoch = self.monitors[index].view.as_ref().map(|v| v.epoch);
        let epoch = epoch.unwrap_or_default();
        let node = index_of(&primary.node);
        if self.cut(index, node) || self.nodes[node].run_id != primary.run_id {
            return;
        }
        let id = self.next_write;
        self.next_write += 1;
        if self.nodes[node].write(id, self.now) {
            self.acknowledged.push((id, node, self.now));
            self.check_writer(epoch, &primary.run_id);
            if self.rng.chance(20) {
                let life = self.monitors[index].life;
                self.deliver_at(
                    self.now,
                    index,
                    life,
                    Event::ClientReplied {
                        at: stamp(self.now),
                    },
                );
            }
        }
    }

    /// In one epoch one process acknowledges writes. In strict mode nobody does in an old epoch once
    /// somebody did in a newer one.
    fn check_writer(&mut self, epoch: Epoch, run: &Arc<str>) {
        // Where somebody else decides, a process may be replaced within an epoch, and a promotion undone.
        if !self.authority.has_record() {
            return;
        }
        let before = self.writers.insert(epoch, run.clone());
        if let Some(before) = before.filter(|before| before != run) {
            self.violate(format!("{before} and {run} acknowledged in epoch {epoch}"));
        }
        let newer = self.writers.last_key_value();
        let newer = newer.filter(|(e, by)| **e > epoch && *by != run);
        if let (Some((newer, by)), Some(_)) = (newer, self.view_lease()) {
            let text = format!("{run} acknowledged in epoch {epoch} after {by} did in {newer}");
            self.violate(text);
        }
    }

    // ---- faults ----

    pub fn kill(&mut self, node: usize) {
        self.log(format!("KILL node {node}"));
        self.nodes[node].kill();
        self.inboxes.remove(&node);
        for monitor in 0..self.monitors.len() {
            if self.cut(monitor, node) {
                continue;
            }
            let life = self.monitors[monitor].life;
            if self.monitors[monitor].probe_run.remove(&node).is_some() {
                let event = Event::Observed {
                    node: node_id(node),
                    observation: Observation::Failed(ProbeError::ConnectionLost),
                };
                self.deliver_at(self.now + self.latency, monitor, life, event);
            }
            let kind = EvidenceKind::ConnectionLost;
            self.deliver_at(
                self.now + self.latency,
                monitor,
                life,
                Event::Evidence {
                    node: node_id(node),
                    kind,
                },
            );
        }
    }

    /// Somebody else changes a node.
    pub fn operate(&mut self, node: usize, what: &NodeOp) {
        if self.nodes[node].answers() {
            self.execute(node, what);
        }
    }

    /// A fence that was sent to a process that hung is executed now.
    pub fn fence_lands(&mut self, node: usize) {
        self.operate(node, &NodeOp::Fence);
    }

    pub fn stop(&mut self, node: usize) {
        self.log(format!("STOP node {node}"));
        self.nodes[node].stopped = true;
    }

    /// SIGCONT: what lay in its sockets is executed now.
    pub fn cont(&mut self, node: usize) {
        if !self.nodes[node].stopped {
            return;
        }
        self.log(format!("CONT node {node}"));
        self.nodes[node].stopped = false;
        for (monitor, life, op, what, expires) in self.inboxes.remove(&node).unwrap_or_default() {
            let outcome = self.execute(node, &what);
            self.check_promoted((monitor, life, op), node, &outcome);
            if self.now < expires && self.monitors[monitor].life == life {
                let outcome = Box::new(outcome);
                self.at(
                    self.now + self.latency,
                    Due::OpAnswered {
                        monitor,
                        life,
                        op,
                        node,
                        outcome,
                    },
                );
            }
        }
    }

    /// The network works again.
    pub fn mend(&mut self) {
        if !self.monitor_cuts.is_empty() {
            self.mended_at = self.now;
        }
        self.monitor_cuts.clear();
        self.node_cuts.clear();
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.log("HEAL".to_owned());
        self.mend();
        self.authority_up = true;
        self.authority_full = false;
        self.noise = Noise::default();
        self.council.lost = 0;
        for sentinel in &mut self.council.sentinels {
            sentinel.alive = true;
            sentinel.deaf = false;
        }
        for index in 0..self.nodes.len() {
            self.cont(index);
            self.nodes[index].stubborn = false;
            if !self.nodes[index].running {
                let master = self.nodes[index].master;
                let now = self.now;
                self.log(format!("node {index} restarts"));
                self.nodes[index].restart(super::Disk::Saved, master, 0, now);
            }
        }
        for index in 0..self.monitors.len() {
            self.monitors[index].authority_cut = false;
            self.monitors[index].paused_until = 0;
            if std::mem::take(&mut self.monitors[index].marked) {
                self.deliver(index, Event::OtherMonitor { who: None });
            }
        }
    }

    /// Whether every monitor serves a verified primary and everybody else follows it.
    pub fn is_settled(&self) -> Result<(), String> {
        for (index, monitor) in self.monitors.iter().enumerate() {
            let status = monitor.machine.status(stamp(self.now));
            let why = format!(
                "monitor {index}: {} ({}), {:?}",
                status.phase, status.step, status.undecided
            );
            let view = monitor.view.as_ref().ok_or(why.clone())?;
            let primary = view.primary.as_ref().ok_or(why.clone())?;
            if view.gate != Gate::Open {
                return Err(why);
            }
            let node = &self.nodes[index_of(&primary.node)];
            if node.run_id != primary.run_id || node.role != Role::Primary || node.fenced {
                return Err(format!("monitor {index} serves {}: {node:?}", primary.node));
            }
            for other in self.nodes.iter().filter(|n| n.index != node.index) {
                let linked =
                    matches!(&other.link, super::Link::Up { peer_run } if *peer_run == node.run_id);
                if other.master != Some(node.index) || !linked {
                    let state = format!("{:?} {:?}", other.master, other.link);
                    return Err(format!(
                        "node {} does not follow {}: {state}",
                        other.index, node.index
                    ));
                }
            }
            if self.authority.has_record()
                && self.record.as_ref().map(|r| &r.primary) != Some(&primary.node)
            {
                return Err(format!(
                    "the record names another primary than {}",
                    primary.node
                ));
            }
        }
        Ok(())
    }

    /// The primary that monitor 0 publishes with an open gate.
    pub fn serving(&self) -> Option<usize> {
        self.serving_at(0)
    }

    /// The same of another one.
    pub fn serving_at(&self, index: usize) -> Option<usize> {
        let view = self.monitors[index].view.as_ref()?;
        (view.gate == Gate::Open).then_some(index_of(&view.primary.as_ref()?.node))
    }

    pub fn last_report(&self) -> Option<&FailoverReport> {
        self.reports.last().map(|(_, report, _)| report)
    }

    pub fn done_reports(&self) -> usize {
        self.reports
            .iter()
            .filter(|(_, r, _)| r.outcome == Outcome::Done)
            .count()
    }
}

fn outcome_word(outcome: &NodeOpOutcome) -> String {
    match outcome {
        NodeOpOutcome::Done(info) => format!("done, {:?} offset {}", info.role, info.offset),
        other => format!("{other:?}"),
    }
}

fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let mut end = text.len().min(360);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
