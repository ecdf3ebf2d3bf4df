//! One worker: a thread with its own runtime, sessions and lanes. Everything here runs on that
//! thread, so nothing is locked; a task borrows the worker for one turn and never across an await.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, mpsc};

use super::lane::{Lane, LaneKey, SessionRef};
use super::listener::Accepted;
use super::queue::Spares;
use super::session::Session;
use super::settings::Settings;
use super::{BackendPlan, Shared, SharedBackend, lane_task, session_task};
use crate::clock;
use crate::metrics::{RejectReason, RequestOutcome, WorkerMetrics};
use crate::resp::Limits;
use crate::topology::{Gate, Timestamp, Topology};

/// How often held requests are checked for their time limit and idle lanes for theirs.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// Tasks that run before the loop looks for more that is ready.
const EVENT_INTERVAL: u32 = 256;
/// A lane nobody uses is kept for this long.
const LANE_IDLE: Duration = Duration::from_secs(30);

/// What other threads tell a worker.
pub(super) enum Message {
    /// A client connected.
    Accept(Accepted),
    /// CLIENT KILL: end this client.
    Kill(u64),
    /// The client that this one redirects its invalidations to has a new upstream.
    Aim(u64),
    /// Invalidations that were redirected to this client were lost: it is told to forget everything.
    Forget(u64),
    /// Finish what is on its way and end every session.
    Drain,
}

/// See the module.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) settings: Settings,
    /// What a request may be; from the settings.
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    pub(super) backends: Vec<Backend>,
    pub(super) sessions: Slab<Session>,
    pub(super) lanes: Slab<Lane>,
    pub(super) spares: Spares,
    /// Where clients' requests are read to when nothing of an earlier one is left.
    pub(super) scratch: Box<[u8]>,
    /// The input whose requests are sent their ways now, when it is huge.
    pub(super) huge: Option<Bytes>,
    /// Sessions with something to write after this turn.
    pub(super) dirty: Vec<usize>,
    /// Time of the present turn.
    pub(super) now: Timestamp,
    pub(super) draining: bool,
    /// Lanes that were made and have no task yet.
    pub(super) new_lanes: Vec<usize>,
    pub(super) spawner: Rc<Notify>,
    messages: mpsc::UnboundedSender<Message>,
    last_serial: u64,
}

/// One backend as a worker sees it.
pub(super) struct Backend {
    pub(super) plan: BackendPlan,
    pub(super) shared: Arc<SharedBackend>,
    pub(super) metrics: WorkerMetrics,
    /// The newest topology this worker heard of.
    pub(super) topology: Arc<Topology>,
    /// The newest generation it obeys completely.
    obeyed: u64,
    /// The shared lane of each kind.
    pub(super) shared_lanes: HashMap<LaneKey, usize>,
    /// Pinned lanes with a clean connection that belong to nobody at present.
    pub(super) idle_pinned: HashMap<LaneKey, Vec<usize>>,
    /// Bytes of unanswered requests in all lanes.
    pub(super) bytes: usize,
    /// Sessions that wait until `bytes` is low again.
    pub(super) starved: Vec<SessionRef>,
    /// Since the last housekeeping.
    pub(super) turn: TurnCounts,
    /// Requests that wait now, as the gauge shows them.
    pub(super) held: u64,
}

/// Counted on the way, added to the metrics by housekeeping.
#[derive(Default)]
pub(super) struct TurnCounts {
    pub(super) replied: u64,
    pub(super) local: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) abandoned: u64,
    pub(super) replayed: u64,
    pub(super) held: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// The thread of worker `index`; ends when every sender of messages is gone or after a drain.
pub(super) fn run(
    index: usize,
    settings: Settings,
    shared: Arc<Shared>,
    plans: Vec<BackendPlan>,
    (sender, receiver): (
        mpsc::UnboundedSender<Message>,
        mpsc::UnboundedReceiver<Message>,
    ),
) -> io::Result<()> {
    // Tasks that became ready together run one after the other before the loop looks for more, and a
    // lane woken by the first of them runs behind the last: that is what gathers the requests of many
    // sessions in one write. (A `LocalSet` would run the lane first.)
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default())?;
    let worker = Worker::new(index, settings, shared, plans, sender);
    runtime.block_on(serve(Rc::new(RefCell::new(worker)), receiver));
    Ok(())
}

async fn serve(worker: Rc<RefCell<Worker>>, mut receiver: mpsc::UnboundedReceiver<Message>) {
    let backends = worker.borrow().backends.len();
    for backend in 0..backends {
        tokio::task::spawn_local(follow_topology(worker.clone(), backend));
        tokio::task::spawn_local(follow_gaps(worker.clone(), backend));
    }
    tokio::task::spawn_local(spawn_lanes(worker.clone()));
    tokio::task::spawn_local(housekeeping(worker.clone()));
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Accept(accepted) => session_task::start(&worker, accepted),
            Message::Kill(id) => worker.borrow_mut().kill(id),
            Message::Aim(id) => worker.borrow_mut().aim_again(id),
            Message::Forget(id) => worker.borrow_mut().forget_cache(id),
            Message::Drain => worker.borrow_mut().drain(),
        }
        // The sender in the worker itself keeps the channel open for ever.
        if worker.borrow().draining {
            break;
        }
    }
    let stopping = worker.borrow().draining;
    if stopping {
        while !worker.borrow().drained() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn follow_topology(worker: Rc<RefCell<Worker>>, backend: usize) {
    let mut reader = worker.borrow().backends[backend].plan.topology.clone();
    worker
        .borrow_mut()
        .topology_changed(backend, reader.current());
    while let Ok(topology) = reader.changed().await {
        worker.borrow_mut().topology_changed(backend, topology);
    }
}

/// Lanes that let subscribers go first go on when these are done.
async fn follow_gaps(worker: Rc<RefCell<Worker>>, backend: usize) {
    let shared = worker.borrow().backends[backend].shared.clone();
    loop {
        shared.gaps.closed.notified().await;
        worker.borrow_mut().wake_writers(Some(backend));
    }
}

async fn spawn_lanes(worker: Rc<RefCell<Worker>>) {
    let spawner = worker.borrow().spawner.clone();
    loop {
        let new = std::mem::take(&mut worker.borrow_mut().new_lanes);
        for lane in new {
            tokio::task::spawn_local(lane_task::run(worker.clone(), lane));
        }
        spawner.notified().await;
    }
}

async fn housekeeping(worker: Rc<RefCell<Worker>>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        worker.borrow_mut().keep_house();
    }
}

impl Worker {
    fn new(
        index: usize,
        settings: Settings,
        shared: Arc<Shared>,
        plans: Vec<BackendPlan>,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let backends = plans
            .into_iter()
            .zip(&shared.backends)
            .map(|(plan, shared)| Backend {
                metrics: WorkerMetrics::new(&plan.name),
                topology: plan.topology.current(),
                shared: shared.clone(),
                plan,
                obeyed: 0,
                shared_lanes: HashMap::new(),
                idle_pinned: HashMap::new(),
                bytes: 0,
                starved: Vec::new(),
                turn: TurnCounts::default(),
                held: 0,
            })
            .collect();
        Worker {
            index,
            limits: Limits::default(),
            settings,
            shared,
            backends,
            sessions: Slab::new(),
            lanes: Slab::new(),
            spares: Spares::default(),
            scratch: vec![0; 64 * 1024].into_boxed_slice(),
            huge: None,
            dirty: Vec::new(),
            now: clock::now(),
            draining: false,
            new_lanes: Vec::new(),
            spawner: Rc::default(),
            messages,
            last_serial: 0,
        }
    }

    /// Takes a client in; `None` when there is no room.
    pub(super) fn admit(&mut self, accepted: Accepted) -> Option<SessionRef> {
        let backend = accepted.backend;
        if self.draining {
            self.backends[backend]
                .metrics
                .rejected(RejectReason::Draining);
            return None;
        }
        let stream = match accepted.socket.register() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client could not be taken in");
                return None;
            }
        };
        self.now = clock::now();
        let client =
            self.shared
                .registry
                .add(backend, accepted.names, self.now, self.messages.clone());
        self.last_serial += 1;
        let serial = self.last_serial;
        let key = LaneKey::initial();
        let lane = self.shared_lane(backend, &key);
        let session = Session::new(serial, backend, stream, client, key, lane);
        let metrics = &self.backends[backend].metrics;
        metrics.clients.increment(1);
        metrics.clients_opened.increment(1);
        Some(SessionRef {
            index: self.sessions.insert(session),
            serial,
        })
    }

    /// The session, if it still lives.
    pub(super) fn session(&mut self, of: SessionRef) -> Option<&mut Session> {
        self.sessions
            .get_mut(of.index)
            .filter(|s| s.serial == of.serial)
    }

    /// Finds or makes the shared lane of `key` and counts one more user of it.
    pub(super) fn shared_lane(&mut self, backend: usize, key: &LaneKey) -> usize {
        let found = self.backends[backend].shared_lanes.get(key).copied();
        let lane = found.unwrap_or_else(|| {
            let lane = self.new_lane(backend, key.clone(), None);
            self.backends[backend]
                .shared_lanes
                .insert(key.clone(), lane);
            lane
        });
        self.lanes[lane].users += 1;
        lane
    }

    /// One user of a shared lane less.
    pub(super) fn leave_lane(&mut self, lane: usize) {
        let now = self.now;
        let lane = &mut self.lanes[lane];
        lane.users -= 1;
        lane.idle_since = now;
    }

    /// Makes a lane; its task starts after this turn.
    pub(super) fn new_lane(
        &mut self,
        backend: usize,
        key: LaneKey,
        owner: Option<SessionRef>,
    ) -> usize {
        let lane = self.lanes.insert(Lane::new(backend, key, owner, self.now));
        self.new_lanes.push(lane);
        self.spawner.notify_one();
        lane
    }

    /// The lane's task sees to it at its next turn.
    pub(super) fn wake_lane(&mut self, lane: usize) {
        if let Some(waker) = &self.lanes[lane].waker {
            waker.wake_by_ref();
        }
    }

    fn topology_changed(&mut self, backend: usize, topology: Arc<Topology>) {
        self.now = clock::now();
        let state = &mut self.backends[backend];
        if topology.generation < state.topology.generation {
            return;
        }
        let opens = state.topology.gate == Gate::Closed && topology.gate == Gate::Open;
        state.topology = topology.clone();
        let mut wake = Vec::new();
        for (index, lane) in self.lanes.iter_mut().filter(|(_, l)| l.backend == backend) {
            if let Some(upstream) = &lane.upstream {
                let serves = topology
                    .primary
                    .as_ref()
                    .is_some_and(|p| p.run_id == upstream.run_id);
                lane.retire |= upstream.epoch < topology.epoch || !serves;
            }
            wake.push(index);
        }
        for lane in wake {
            if opens && self.lanes[lane].upstream.is_some() && !self.lanes[lane].retire {
                self.hold_ends(lane);
            }
            self.wake_lane(lane);
        }
        self.obey(backend);
    }

    /// Lanes with something to write look whether they may.
    fn wake_writers(&mut self, backend: Option<usize>) {
        for (_, lane) in &mut self.lanes {
            if (lane.has_unwritten() || lane.aiming) && backend.is_none_or(|b| b == lane.backend) {
                lane.ask_to_write();
            }
        }
    }

    /// What waited in this lane goes on now.
    pub(super) fn hold_ends(&self, lane: usize) {
        let lane = &self.lanes[lane];
        let metrics = &self.backends[lane.backend].metrics;
        for entry in lane
            .queue
            .iter()
            .skip(lane.sent)
            .filter(|e| e.session.is_some())
        {
            metrics.hold_ended(self.now.since(entry.since));
        }
    }

    /// Says so when the newest topology is obeyed completely.
    pub(super) fn obey(&mut self, backend: usize) {
        let state = &self.backends[backend];
        let topology = &state.topology;
        if state.obeyed >= topology.generation {
            return;
        }
        let closed = topology.gate == Gate::Closed;
        let obeys = self
            .lanes
            .iter()
            .filter(|(_, l)| l.backend == backend)
            .all(|(_, lane)| {
                lane.upstream
                    .as_ref()
                    .is_none_or(|u| u.epoch >= topology.epoch && !lane.retire)
                    && !(closed && lane.busy())
            });
        if obeys {
            let generation = topology.generation;
            self.backends[backend].obeyed = generation;
            self.backends[backend]
                .plan
                .topology
                .obey(self.index, generation);
        }
    }

    fn kill(&mut self, id: u64) {
        if let Some((_, session)) = self.sessions.iter_mut().find(|(_, s)| s.client.id == id) {
            session.kill();
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        for (_, session) in self.sessions.iter_mut() {
            session.finish();
        }
    }

    fn drained(&self) -> bool {
        self.draining && self.sessions.is_empty()
    }

    fn keep_house(&mut self) {
        self.now = clock::now();
        let mut expired = Vec::new();
        for (index, lane) in &self.lanes {
            let backend = &self.backends[lane.backend];
            let timeout = backend.plan.settings.hold_timeout;
            let stuck = lane.upstream.is_none() || backend.topology.gate == Gate::Closed;
            if stuck
                && lane
                    .queue
                    .front()
                    .is_some_and(|e| self.now.since(e.since) >= timeout)
                && !lane
                    .queue
                    .front()
                    .is_some_and(|e| e.waits_by_nature() && lane.sent > 0)
            {
                expired.push(index);
            }
        }
        for lane in expired {
            self.expire(lane);
        }
        self.end_idle_lanes();
        self.wake_writers(None);
        for backend in 0..self.backends.len() {
            self.feed_starved(backend);
        }
        self.count();
        self.flush_dirty();
    }

    fn end_idle_lanes(&mut self) {
        let mut ended = Vec::new();
        for (index, lane) in &mut self.lanes {
            let unused = if lane.pinned {
                lane.owner.is_none()
            } else {
                lane.users == 0
            };
            if unused && lane.queue.is_empty() && self.now.since(lane.idle_since) > LANE_IDLE {
                lane.close = true;
                ended.push(index);
            }
        }
        for lane in ended {
            self.forget_lane(lane);
            self.wake_lane(lane);
        }
    }

    /// Nobody finds the lane any more.
    pub(super) fn forget_lane(&mut self, lane: usize) {
        let Lane {
            backend,
            key,
            pinned,
            ..
        } = &self.lanes[lane];
        let state = &mut self.backends[*backend];
        if *pinned {
            if let Some(idle) = state.idle_pinned.get_mut(key) {
                idle.retain(|other| *other != lane);
            }
        } else if state.shared_lanes.get(key) == Some(&lane) {
            state.shared_lanes.remove(key);
        }
    }

    fn count(&mut self) {
        for backend in 0..self.backends.len() {
            let held: u64 = self
                .lanes
                .iter()
                .filter(|(_, l)| l.backend == backend)
                .filter(|(_, l)| {
                    l.upstream.is_none() || self.backends[backend].topology.gate == Gate::Closed
                })
                .map(|(_, l)| l.queue.len() as u64)
                .sum();
            let state = &mut self.backends[backend];
            let turn = std::mem::take(&mut state.turn);
            let metrics = &state.metrics;
            metrics.held.increment(held as f64 - state.held as f64);
            state.held = held;
            metrics.held_total.increment(turn.held);
            metrics.replayed.increment(turn.replayed);
            metrics.requests(RequestOutcome::Replied, turn.replied);
            metrics.requests(RequestOutcome::Local, turn.local);
            metrics.requests(RequestOutcome::Refused, turn.refused);
            metrics.requests(RequestOutcome::Unknown, turn.unknown);
            metrics.requests(RequestOutcome::Abandoned, turn.abandoned);
            metrics.bytes_received.increment(turn.received);
            metrics.bytes_sent.increment(turn.sent);
            let counts = &state.shared.counts;
            counts.held.fetch_add(turn.held, Ordering::Relaxed);
            counts.replayed.fetch_add(turn.replayed, Ordering::Relaxed);
            counts.refused.fetch_add(turn.refused, Ordering::Relaxed);
            counts.unknown.fetch_add(turn.unknown, Ordering::Relaxed);
        }
    }
}
