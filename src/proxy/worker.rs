//! One worker: a thread with its own runtime, sessions and lanes. Everything here runs on that
//! thread, so nothing is locked; a task borrows the worker for one turn and never across an await.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::epoll::Event;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, mpsc};

use super::lane::{Lane, LaneKey, SessionRef};
use super::listener::Accepted;
use super::queue::Spares;
use super::session::Session;
use super::settings::Settings;
use super::socket::{Poller, Socket, Token};
use super::{BackendPlan, Shared, SharedBackend, lane_task};
use crate::clock;
use crate::metrics::{RejectReason, RequestOutcome, WorkerMetrics};
use crate::resp::Limits;
use crate::topology::{Gate, Timestamp, Topology};

/// How often held requests are checked for their time limit and idle lanes for theirs.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
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
    /// Sessions with something to write after this turn.
    pub(super) dirty: Vec<usize>,
    /// Time of the present turn.
    pub(super) now: Timestamp,
    pub(super) draining: bool,
    poller: Poller,
    /// Lanes with something to write after this turn.
    pub(super) to_write: Vec<usize>,
    /// Sessions that something happened to, to be looked at in this turn.
    woken: Vec<usize>,
    /// Sockets with more to read, left for the next turn so that the others get theirs.
    pub(super) again: Vec<Token>,
    /// Told when there are such sockets.
    busy: Rc<Notify>,
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
    /// The version of the server that answered last.
    pub(super) version: Option<(u16, u16)>,
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let worker = Worker::new(index, settings, shared, plans, sender)?;
    runtime.block_on(serve(Rc::new(RefCell::new(worker)), receiver))
}

async fn serve(
    worker: Rc<RefCell<Worker>>,
    mut receiver: mpsc::UnboundedReceiver<Message>,
) -> io::Result<()> {
    let ready = worker.borrow().poller.watched()?;
    tokio::task::spawn_local(serve_sockets(worker.clone(), ready));
    let backends = worker.borrow().backends.len();
    for backend in 0..backends {
        tokio::task::spawn_local(follow_topology(worker.clone(), backend));
        tokio::task::spawn_local(follow_gaps(worker.clone(), backend));
    }
    tokio::task::spawn_local(spawn_lanes(worker.clone()));
    tokio::task::spawn_local(housekeeping(worker.clone()));
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Accept(accepted) => worker.borrow_mut().admit(accepted),
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
    Ok(())
}

/// The turns of the worker: each takes all that is ready.
async fn serve_sockets(worker: Rc<RefCell<Worker>>, ready: AsyncFd<Poller>) {
    let mut events = Vec::new();
    let busy = worker.borrow().busy.clone();
    loop {
        tokio::select! {
            biased;
            guard = ready.readable() => {
                // Only when the runtime ends.
                let Ok(mut guard) = guard else { return };
                if worker.borrow_mut().turn(&mut events) {
                    // Others of this thread get their turn as well.
                    tokio::task::yield_now().await;
                } else {
                    guard.clear_ready();
                }
            }
            () = busy.notified() => {
                worker.borrow_mut().turn(&mut events);
                tokio::task::yield_now().await;
            }
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
    ) -> io::Result<Self> {
        let backends = plans
            .into_iter()
            .zip(&shared.backends)
            .map(|(plan, shared)| Backend {
                metrics: WorkerMetrics::new(&plan.name),
                topology: plan.topology.current(),
                shared: shared.clone(),
                plan,
                obeyed: 0,
                version: None,
                shared_lanes: HashMap::new(),
                idle_pinned: HashMap::new(),
                bytes: 0,
                starved: Vec::new(),
                turn: TurnCounts::default(),
                held: 0,
            })
            .collect();
        Ok(Worker {
            index,
            limits: Limits::default(),
            settings,
            shared,
            backends,
            sessions: Slab::new(),
            lanes: Slab::new(),
            spares: Spares::default(),
            scratch: vec![0; 64 * 1024].into_boxed_slice(),
            dirty: Vec::new(),
            now: clock::now(),
            draining: false,
            poller: Poller::new()?,
            to_write: Vec::new(),
            woken: Vec::new(),
            again: Vec::new(),
            busy: Rc::default(),
            new_lanes: Vec::new(),
            spawner: Rc::default(),
            messages,
            last_serial: 0,
        })
    }

    /// One turn: reads every socket that is ready, then writes every connection that got something,
    /// each once. Returns whether more are ready than were looked at. `events` is empty, and comes back so.
    fn turn(&mut self, events: &mut Vec<Event>) -> bool {
        let more = self.poller.take(events).unwrap_or_else(|error| {
            tracing::error!(%error, "sockets can not be polled");
            false
        });
        self.now = clock::now();
        // Nothing is written in the mind of a topology that is over, however late this thread is.
        for backend in 0..self.backends.len() {
            let state = &self.backends[backend];
            if let Some(newer) = state.plan.topology.newer_than(&state.topology) {
                self.topology_changed(backend, newer);
            }
        }
        // All requests first, so that the replies that come with them find them waiting.
        let mut again = std::mem::take(&mut self.again);
        for event in events.iter() {
            if let Some(session) = self.session_of(Socket::token_of(event)) {
                self.sessions[session].socket.note(event);
                self.session_turn(session);
            }
        }
        for event in events.drain(..) {
            if let Some(lane) = self.lane_of(Socket::token_of(&event))
                && let Some(upstream) = &mut self.lanes[lane].upstream
            {
                upstream.socket.note(&event);
                self.lane_turn(lane);
            }
        }
        for token in again.drain(..) {
            if let Some(session) = self.session_of(token) {
                self.sessions[session].socket.looked_at();
                self.session_turn(session);
            } else if let Some(lane) = self.lane_of(token)
                && let Some(upstream) = &mut self.lanes[lane].upstream
            {
                upstream.socket.looked_at();
                self.lane_turn(lane);
            }
        }
        again.append(&mut self.again);
        self.again = again;
        self.settle();
        more
    }

    fn session_of(&self, token: Token) -> Option<usize> {
        let Token::Session(index, _) = token else {
            return None;
        };
        let session = self.sessions.get(index as usize)?;
        (session.socket.token() == token).then_some(index as usize)
    }

    fn lane_of(&self, token: Token) -> Option<usize> {
        let Token::Upstream(index, _) = token else {
            return None;
        };
        let upstream = self.lanes.get(index as usize)?.upstream.as_ref()?;
        (upstream.socket.token() == token).then_some(index as usize)
    }

    /// The end of every turn, of whichever task: what was queued is written, to the nodes first, so that they
    /// work while the clients are written to.
    pub(super) fn settle(&mut self) {
        loop {
            self.write_lanes();
            self.flush_dirty();
            if self.woken.is_empty() {
                if !self.again.is_empty() {
                    self.busy.notify_one();
                }
                return;
            }
            for index in std::mem::take(&mut self.woken) {
                if let Some(session) = self.sessions.get_mut(index)
                    && std::mem::take(&mut session.woken)
                {
                    self.session_turn(index);
                }
            }
        }
    }

    /// The session is looked at again before this turn ends.
    pub(super) fn wake_session(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if !session.woken {
            session.woken = true;
            self.woken.push(index);
        }
    }

    /// Polls a connection from now on, under a serial number that was not used before.
    pub(super) fn watch(
        &mut self,
        fd: OwnedFd,
        token: impl FnOnce(u64) -> Token,
    ) -> io::Result<Socket> {
        self.last_serial += 1;
        self.poller.add(fd, token(self.last_serial))
    }

    /// Takes a client in, or closes its connection where there is no room.
    fn admit(&mut self, accepted: Accepted) {
        let backend = accepted.backend;
        let metrics = &self.backends[backend].metrics;
        if self.draining {
            metrics.rejected(RejectReason::Draining);
            return self.shared.clients.left(self.index);
        }
        self.now = clock::now();
        let index = self.sessions.vacant_key();
        let watched = self.watch(accepted.socket, |serial| Token::session(index, serial));
        let socket = match watched {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a client could not be taken in");
                return self.shared.clients.left(self.index);
            }
        };
        let client =
            self.shared
                .registry
                .add(backend, accepted.names, self.now, self.messages.clone());
        let key = LaneKey::initial();
        let lane = self.shared_lane(backend, &key);
        let serial = self.last_serial;
        self.sessions
            .insert(Session::new(serial, backend, socket, client, key, lane));
        let metrics = &self.backends[backend].metrics;
        metrics.clients.increment(1);
        metrics.clients_opened.increment(1);
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

    fn topology_changed(&mut self, backend: usize, topology: Arc<Topology>) {
        self.now = clock::now();
        let state = &mut self.backends[backend];
        if topology.generation < state.topology.generation {
            return;
        }
        let opens = state.topology.gate == Gate::Closed && topology.gate == Gate::Open;
        let closes = state.topology.gate == Gate::Open && topology.gate == Gate::Closed;
        state.topology = topology.clone();
        let mut wake = Vec::new();
        for (index, lane) in self.lanes.iter_mut().filter(|(_, l)| l.backend == backend) {
            if let Some(upstream) = &lane.upstream {
                if closes {
                    state.turn.held += lane.unsent();
                }
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
            self.lanes[lane].wake_task();
            self.ask_to_write(lane);
        }
        self.settle();
        self.obey(backend);
    }

    /// Lanes with something to write look whether they may.
    fn wake_writers(&mut self, backend: Option<usize>) {
        let waiting: Vec<usize> = self
            .lanes
            .iter()
            .filter(|(_, lane)| {
                (lane.has_unwritten() || lane.aiming) && backend.is_none_or(|b| b == lane.backend)
            })
            .map(|(index, _)| index)
            .collect();
        for lane in waiting {
            self.ask_to_write(lane);
        }
        self.settle();
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
        if let Some((index, session)) = self.sessions.iter_mut().find(|(_, s)| s.client.id == id) {
            session.kill();
            self.wake_session(index);
            self.settle();
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        let all: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in all {
            self.sessions[index].finish();
            self.wake_session(index);
        }
        self.settle();
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
        self.settle();
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
            self.lanes[lane].wake_task();
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
