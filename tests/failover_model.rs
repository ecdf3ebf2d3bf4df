//! Small scope, exhaustive: two monitors that share one record by compare-and-swap, three nodes, a
//! killed primary. The plain course of events is that the oldest request is answered next; every
//! way that leaves it at most `MODEL_DETOURS` times (1) is walked: an answer overtakes another or is
//! lost, a monitor ends and starts again, a node dies, everybody sleeps. The invariants hold in
//! every state, and a failure prints the way to it.

mod failover_world;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use failover_world::{ModelNode, Timing, index_of, node_id, replicate};
use pointsman::failover::{
    Action, Authority, Event, Machine, NodeOp, NodeOpOutcome, Observation, OpId, Opinion, Panel,
    Policy, ProbeError, Record, RecordPhase, SwapOutcome, Version, View,
};
use pointsman::resp::info::Role;
use pointsman::topology::{Epoch, Gate, NodeId, Timestamp};

const MS: u64 = 1_000_000;

/// What a monitor asked for and has no answer to.
#[derive(Clone, Debug, Hash)]
enum Request {
    Op(OpId, NodeOp),
    Swap(OpId, Version, Box<Record>),
    Load,
    Obey(OpId),
}

/// Requests on one channel are answered in order; channels go side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Channel {
    Node(usize),
    Authority,
    Workers,
}

#[derive(Clone)]
struct Monitor {
    machine: Machine,
    life: u32,
    name: String,
    pending: BTreeMap<Channel, VecDeque<(u64, Request)>>,
    view: Option<View>,
    looks: u32,
}

#[derive(Clone)]
struct State {
    now: u64,
    nodes: Vec<ModelNode>,
    monitors: Vec<Monitor>,
    record: Option<Record>,
    version: u64,
    /// Failure domains that must be heard; each monitor has one of its own.
    domains: u32,
    /// What the monitors told one another.
    opinions: BTreeMap<Arc<str>, Opinion>,
    promoted: Epoch,
    asked: u64,
    detours: u32,
    crashes: u32,
    losses: u32,
    deaths: u32,
    sleeps: u32,
    violation: Option<String>,
}

/// One step of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first request of a channel is executed and answered.
    Answer(usize, Channel),
    /// It is executed, and its answer is lost.
    Lose(usize, Channel),
    /// The monitor's probes of every node end.
    Look(usize),
    /// The monitor's process ends and starts again.
    Crash(usize),
    /// The node ends.
    Kill(usize),
    /// Nothing happens for longer than a tenure.
    Sleep,
}

impl State {
    fn start(domains: u32) -> State {
        let mut state = State {
            now: 0,
            nodes: ModelNode::cluster(3),
            monitors: Vec::new(),
            record: None,
            version: 0,
            domains,
            opinions: BTreeMap::new(),
            promoted: Epoch(0),
            asked: 0,
            detours: 0,
            crashes: 1,
            losses: 1,
            deaths: 1,
            sleeps: 1,
            violation: None,
        };
        for index in 0..2 {
            let monitor = state.monitor(index, 0);
            state.monitors.push(monitor);
            state.feed(index, Event::Tick);
            state.settle(index);
        }
        assert!(state.monitors.iter().all(|m| m.is_open()), "both serve");
        state.nodes[0].kill();
        for monitor in &mut state.monitors {
            monitor.looks = 2;
        }
        state
    }

    fn monitor(&self, index: usize, life: u32) -> Monitor {
        let name = format!("monitor{index}.{life}");
        let members = (0..3).map(node_id).collect();
        let policy = Policy::default();
        let panel = Panel {
            domain: format!("domain{index}").into(),
            domains: self.domains,
            carries: false,
            view_lease: None,
        };
        Monitor {
            machine: Machine::new(
                "main",
                name.as_str(),
                members,
                policy,
                Authority::Shares(panel),
            ),
            life,
            name,
            pending: BTreeMap::new(),
            view: None,
            looks: 3,
        }
    }

    /// Answers everything and looks until nothing is left to do.
    fn settle(&mut self, index: usize) {
        for _ in 0..4 {
            self.look(index);
            while let Some(channel) = self.monitors[index].pending.keys().next().copied() {
                self.answer(index, channel, false);
            }
        }
    }

    fn stamp(&self) -> Timestamp {
        Timestamp::from_start(Duration::from_nanos(self.now))
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, monitor) in self.monitors.iter().enumerate() {
            for (channel, requests) in &monitor.pending {
                steps.push(Step::Answer(index, *channel));
                let matters = match requests.front() {
                    Some((_, Request::Op(_, what))) => *what != NodeOp::Inspect,
                    Some((_, Request::Swap(..))) => true,
                    _ => false,
                };
                if matters && self.losses > 0 {
                    steps.push(Step::Lose(index, *channel));
                }
            }
            if monitor.looks > 0 {
                steps.push(Step::Look(index));
            }
            if self.crashes > 0 {
                steps.push(Step::Crash(index));
            }
        }
        if self.deaths > 0 {
            steps.push(Step::Kill(1));
        }
        if self.sleeps > 0 {
            steps.push(Step::Sleep);
        }
        steps
    }

    /// The plain course: the oldest request, else somebody looks, else time passes.
    fn plain(&self) -> Option<Step> {
        let oldest = self
            .monitors
            .iter()
            .enumerate()
            .flat_map(|(index, monitor)| {
                monitor.pending.iter().filter_map(move |(channel, queue)| {
                    let (asked, _) = queue.front()?;
                    Some((*asked, Step::Answer(index, *channel)))
                })
            });
        let looker = self.monitors.iter().position(|m| m.looks > 0);
        oldest
            .min_by_key(|(asked, _)| *asked)
            .map(|(_, step)| step)
            .or(looker.map(Step::Look))
            .or((self.sleeps > 0).then_some(Step::Sleep))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Answer(monitor, channel) => self.answer(monitor, channel, false),
            Step::Lose(monitor, channel) => {
                self.losses -= 1;
                self.answer(monitor, channel, true);
            }
            Step::Look(monitor) => {
                self.monitors[monitor].looks -= 1;
                self.look(monitor);
            }
            Step::Crash(monitor) => {
                self.crashes -= 1;
                let life = self.monitors[monitor].life + 1;
                self.monitors[monitor] = self.monitor(monitor, life);
                self.feed(monitor, Event::Tick);
            }
            Step::Kill(node) => {
                self.deaths -= 1;
                self.nodes[node].kill();
            }
            Step::Sleep => {
                self.sleeps -= 1;
                self.now += 6000 * MS;
                for monitor in 0..self.monitors.len() {
                    self.monitors[monitor].looks += 2;
                    self.feed(monitor, Event::Tick);
                }
            }
        }
    }

    fn replicate(&mut self) {
        let timing = Timing {
            retry: MS,
            transfer: 50 * MS,
            load: 50 * MS,
        };
        let now = self.now;
        replicate(&mut self.nodes, now, timing, |_, _| false);
    }

    fn look(&mut self, index: usize) {
        self.now += MS;
        self.replicate();
        for node in 0..self.nodes.len() {
            let times = if self.nodes[node].running { 1 } else { 2 };
            for _ in 0..times {
                let observation = if self.nodes[node].running {
                    let info = self.nodes[node].info(self.now, &self.nodes);
                    Observation::Info(Box::new(info))
                } else {
                    Observation::Failed(ProbeError::Refused)
                };
                let node = node_id(node);
                self.feed(index, Event::Observed { node, observation });
            }
        }
    }

    fn answer(&mut self, index: usize, channel: Channel, lost: bool) {
        let monitor = &mut self.monitors[index];
        let Some(requests) = monitor.pending.get_mut(&channel) else {
            return;
        };
        let request = requests.pop_front().map(|(_, request)| request);
        if requests.is_empty() {
            monitor.pending.remove(&channel);
        }
        let event = match (request, channel) {
            (Some(Request::Op(op, what)), Channel::Node(node)) => {
                let mut outcome = if self.nodes[node].running {
                    self.nodes[node].execute(&what, index_of, self.now)
                } else {
                    NodeOpOutcome::Unreachable(ProbeError::Refused)
                };
                self.replicate();
                if lost {
                    outcome = NodeOpOutcome::Unknown("no answer".to_owned());
                }
                Event::NodeOpDone { op, outcome }
            }
            (Some(Request::Swap(op, expected, record)), _) => {
                let outcome = self.swap(expected, *record, lost);
                Event::Swapped { op, outcome }
            }
            (Some(Request::Load), _) => Event::RecordLoaded {
                record: self.record.clone(),
                version: Version(self.version),
                opinions: self.opinions.values().cloned().collect(),
                asked: self.stamp(),
            },
            (Some(Request::Obey(op)), _) => Event::Obeyed { op },
            _ => return,
        };
        self.feed(index, event);
    }

    fn swap(&mut self, expected: Version, record: Record, lost: bool) -> SwapOutcome {
        if expected.0 != self.version {
            return SwapOutcome::Lost {
                record: self.record.clone(),
                version: Version(self.version),
            };
        }
        if let Some(before) = &self.record {
            let completes = record.epoch == before.epoch
                && before.phase != RecordPhase::Serving
                && record.by == before.by;
            if !(completes || record.epoch > before.epoch) {
                self.violation = Some(format!("I2: {before:?} became {record:?}"));
            }
        }
        self.version += 1;
        self.record = Some(record);
        if lost {
            SwapOutcome::Unknown("no answer".to_owned())
        } else {
            SwapOutcome::Done(Version(self.version))
        }
    }

    fn feed(&mut self, index: usize, event: Event) {
        let now = self.stamp();
        for action in self.monitors[index].machine.handle(event, now) {
            self.act(index, action);
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Node { op, node, what, .. } => {
                if what == NodeOp::Promote {
                    self.check_promotion(index, &node);
                }
                let request = Request::Op(op, what);
                self.ask(index, Channel::Node(index_of(&node)), request);
            }
            Action::SwapRecord {
                op,
                expected,
                record,
            } => {
                let request = Request::Swap(op, expected, Box::new(record));
                self.ask(index, Channel::Authority, request);
            }
            Action::LoadRecord => self.ask(index, Channel::Authority, Request::Load),
            Action::Publish {
                op,
                view,
                await_obeyed,
            } => {
                self.check_view(index, &view);
                self.monitors[index].view = Some(view);
                if await_obeyed {
                    self.ask(index, Channel::Workers, Request::Obey(op));
                }
            }
            Action::Opine { opinion } => {
                self.opinions.insert(opinion.monitor.clone(), opinion);
            }
            Action::Attend { .. } => panic!("nobody carries requests"),
            // It is not answered: nobody needs it.
            Action::ReadRoll => {}
            Action::ConsultSentinels | Action::AskFailover { .. } => {
                panic!("a sentinel is asked where there is none");
            }
            Action::ProbeNow { .. }
            | Action::Announce { .. }
            | Action::Emit { .. }
            | Action::Report { .. }
            | Action::AmendReport { .. }
            | Action::Declined { .. } => {}
        }
    }

    fn ask(&mut self, index: usize, channel: Channel, request: Request) {
        self.asked += 1;
        let pending = &mut self.monitors[index].pending;
        let queue = pending.entry(channel).or_default();
        queue.push_back((self.asked, request));
    }

    fn check_promotion(&mut self, index: usize, node: &NodeId) {
        let ours = self.record.as_ref().is_some_and(|r| {
            *r.by == *self.monitors[index].name && r.phase != RecordPhase::Serving
        });
        if !ours {
            let text = format!("I3: {node} is promoted under {:?}", self.record);
            self.violation = Some(text);
        }
        let epoch = self.record.as_ref().map_or(Epoch(0), |r| r.epoch);
        if epoch < self.promoted {
            self.violation = Some("I4: promotions of two epochs interleave".to_owned());
        }
        self.promoted = self.promoted.max(epoch);
    }

    fn check_view(&mut self, index: usize, view: &View) {
        let before = self.monitors[index].view.as_ref();
        if before.is_some_and(|b| view.epoch < b.epoch) {
            self.violation = Some("I2: a published epoch went back".to_owned());
        }
        let (Gate::Open, Some(primary)) = (view.gate, &view.primary) else {
            return;
        };
        let rival = self
            .monitors
            .iter()
            .filter_map(|m| m.view.as_ref())
            .any(|v| {
                let other = v.primary.as_ref().is_some_and(|p| p.node != primary.node);
                v.epoch == view.epoch && other
            });
        if rival {
            self.violation = Some(format!("I1: two primaries in epoch {}", view.epoch));
        }
        let node = &self.nodes[index_of(&primary.node)];
        let verified = node.run_id == primary.run_id && node.repl_id == primary.repl_id;
        if !verified || node.role != Role::Primary {
            self.violation = Some(format!("I5: {} was published unverified", primary.node));
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.nodes.hash(&mut hasher);
        self.record.hash(&mut hasher);
        (self.now, self.version, self.promoted).hash(&mut hasher);
        (
            self.crashes,
            self.losses,
            self.deaths,
            self.sleeps,
            self.detours,
        )
            .hash(&mut hasher);
        for monitor in &self.monitors {
            monitor.pending.hash(&mut hasher);
            monitor.looks.hash(&mut hasher);
            format!("{:?}{:?}", monitor.machine, monitor.view).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Monitor {
    fn is_open(&self) -> bool {
        self.view.as_ref().is_some_and(|v| v.gate == Gate::Open)
    }
}

#[test]
fn no_order_of_events_breaks_an_invariant() {
    walk(1);
}

/// Neither monitor does anything before the other one sees the primary as lost too.
#[test]
fn no_order_of_events_breaks_an_invariant_where_both_must_agree() {
    walk(2);
}

fn walk(domains: u32) {
    let detours = std::env::var("MODEL_DETOURS")
        .ok()
        .and_then(|v| v.parse().ok());
    let mut start = State::start(domains);
    start.detours = detours.unwrap_or(1);
    let mut seen = HashSet::new();
    let mut open = vec![(start, Vec::new())];
    let (mut served, mut ends) = (0, 0);
    while let Some((state, way)) = open.pop() {
        let plain = state.plain();
        if plain.is_none() {
            ends += 1;
            let record = state.record.as_ref();
            served += usize::from(record.is_some_and(|r| r.primary != node_id(0)));
        }
        for step in state.steps() {
            let detour = u32::from(Some(step) != plain);
            if detour > state.detours {
                continue;
            }
            let mut state = state.clone();
            state.detours -= detour;
            state.take(step);
            let mut way: Vec<Step> = way.clone();
            way.push(step);
            assert!(state.violation.is_none(), "{:?}\n{way:#?}", state.violation);
            if seen.insert(state.fingerprint()) {
                open.push((state, way));
            }
        }
    }
    println!(
        "{} states, {ends} ends, a new primary serves in {served}",
        seen.len()
    );
    assert!(served > 0, "no way leads to the end of a failover");
}
