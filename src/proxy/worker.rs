//! One worker: a thread with its own runtime, sessions and lanes. Everything here runs on that
//! thread, so nothing is locked; a task borrows the worker for one turn and never across an await.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, mpsc};

use super::cluster::{ClusterBackend, ClusterSession, follow_cluster};
use super::door::Door;
use super::entry::{Entry, SessionRef};
use super::gathering::Gathering;
use super::lane::{Lane, LaneKey};
use super::listener::Accepted;
use super::queue::Spares;
use super::session::Session;
use super::settings::Settings;
use super::socket::{Poller, Token};
use super::{BackendPlan, Shared, SharedBackend, housekeeping, lane_task, turn};
use crate::clock;
use crate::metrics::{ClusterMetrics, RedirectKind, RejectReason, WorkerMetrics};
use crate::topology::{ClusterMap, Gate, Timestamp, Topology};

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
    pub(super) poller: Poller,
    pub(super) gathering: Gathering,
    /// Lanes with something to write after this turn.
    pub(super) to_write: Vec<usize>,
    /// Sessions that something happened to, to be looked at in this turn.
    pub(super) woken: Vec<usize>,
    /// Sockets with more to read, left for the next turn so that the others get theirs.
    pub(super) again: Vec<Token>,
    /// The task of the turns, woken when there are such sockets.
    pub(super) turns: Option<Waker>,
    /// Lanes that were made and have no task yet.
    pub(super) new_lanes: Vec<usize>,
    pub(super) spawner: Rc<Notify>,
    /// Requests to clusters that wait until it is known where they belong.
    pub(super) detained: Vec<(Entry, Bytes)>,
    messages: mpsc::UnboundedSender<Message>,
    pub(super) last_serial: u64,
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
    /// Whether the node lets clients in that say no AUTH.
    pub(super) door: Door,
    /// The shared lane of each kind.
    pub(super) shared_lanes: HashMap<LaneKey, usize>,
    /// Pinned lanes with a clean connection that belong to nobody at present.
    pub(super) idle_pinned: HashMap<LaneKey, Vec<usize>>,
    /// Where it is a cluster.
    pub(super) cluster: Option<ClusterBackend>,
    /// The cluster that it is a shard of.
    pub(super) shard_of: Option<usize>,
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
    /// Of a cluster, by [`RedirectKind`].
    pub(super) redirected: [u64; RedirectKind::ALL.len()],
}

impl TurnCounts {
    /// A request was given up with this error.
    pub(super) fn failed(&mut self, error: &[u8]) {
        match error.starts_with(b"-POINTSMAN outcome unknown") {
            true => self.unknown += 1,
            false => self.refused += 1,
        }
    }
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
    tokio::task::spawn_local(turn::serve_sockets(worker.clone(), ready));
    let backends = worker.borrow().backends.len();
    for backend in 0..backends {
        tokio::task::spawn_local(follow_topology(worker.clone(), backend));
        tokio::task::spawn_local(follow_gaps(worker.clone(), backend));
        tokio::task::spawn_local(follow_cluster(worker.clone(), backend));
    }
    tokio::task::spawn_local(spawn_lanes(worker.clone()));
    tokio::task::spawn_local(housekeeping::housekeeping(worker.clone()));
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

pub(super) async fn follow_topology(worker: Rc<RefCell<Worker>>, backend: usize) {
    let mut reader = worker.borrow().backends[backend].plan.topology.clone();
    worker
        .borrow_mut()
        .topology_changed(backend, reader.current());
    while let Ok(topology) = reader.changed().await {
        worker.borrow_mut().topology_changed(backend, topology);
    }
}

/// Lanes that let subscribers go first go on when these are done.
pub(super) async fn follow_gaps(worker: Rc<RefCell<Worker>>, backend: usize) {
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

impl Backend {
    pub(super) fn new(plan: BackendPlan, shared: Arc<SharedBackend>) -> Self {
        let cluster = plan.cluster.as_ref().map(|_| ClusterBackend {
            map: Arc::new(ClusterMap::unknown()),
            metrics: ClusterMetrics::new(&plan.name),
            shards: Vec::new(),
        });
        Backend {
            metrics: WorkerMetrics::new(&plan.name),
            topology: plan.topology.current(),
            cluster,
            shard_of: None,
            shared,
            plan,
            obeyed: 0,
            version: None,
            door: Door::default(),
            shared_lanes: HashMap::new(),
            idle_pinned: HashMap::new(),
            bytes: 0,
            starved: Vec::new(),
            turn: TurnCounts::default(),
            held: 0,
        }
    }

    /// Whether its nodes are those of a cluster.
    pub(super) fn in_cluster(&self) -> bool {
        self.shard_of.is_some() || self.cluster.is_some()
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
            .map(|(plan, shared)| Backend::new(plan, shared.clone()))
            .collect();
        Ok(Worker {
            index,
            gathering: Gathering::new(settings.adaptive_scheduling),
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
            turns: None,
            new_lanes: Vec::new(),
            spawner: Rc::default(),
            detained: Vec::new(),
            messages,
            last_serial: 0,
        })
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
        let key = LaneKey::initial(self.backends[backend].door.era);
        let lane = self.shared_lane(backend, &key);
        let serial = self.last_serial;
        let mut session = Session::new(serial, backend, socket, client, key, lane);
        let of_cluster = self.backends[backend].cluster.is_some();
        session.cluster = of_cluster.then(|| Box::new(ClusterSession::default()));
        self.sessions.insert(session);
        self.knock(index);
        let metrics = &self.backends[backend].metrics;
        metrics.clients.increment(1);
        metrics.clients_opened.increment(1);
    }

    /// The session, if it still lives.
    pub(super) fn session(&mut self, of: SessionRef) -> Option<&mut Session> {
        of.find(&mut self.sessions)
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
        let state = &mut self.lanes[lane];
        state.users -= 1;
        state.idle_since = now;
        if state.key.tracks_for.is_some() {
            // Nobody else can use it, and the node would go on to tell it of keys.
            state.close = true;
            state.wake_task();
            self.forget_lane(lane);
        }
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

    pub(super) fn topology_changed(&mut self, backend: usize, topology: Arc<Topology>) {
        self.now = clock::now();
        let state = &mut self.backends[backend];
        if topology.generation < state.topology.generation {
            return;
        }
        let opens = state.topology.gate == Gate::Closed && topology.gate == Gate::Open;
        let closes = state.topology.gate == Gate::Open && topology.gate == Gate::Closed;
        let before = std::mem::replace(&mut state.topology, topology.clone());
        let (mut wake, mut moved) = (Vec::new(), Vec::new());
        for (index, lane) in self.lanes.iter_mut().filter(|(_, l)| l.backend == backend) {
            if let Some(upstream) = &lane.upstream {
                if closes {
                    state.turn.held += lane.unsent();
                }
                let serves = topology
                    .primary
                    .as_ref()
                    .is_some_and(|p| p.run_id == upstream.run_id);
                let over = upstream.epoch < topology.epoch || !serves;
                if state.cluster.is_none() {
                    lane.retire |= over;
                } else if over && upstream.epoch == before.epoch {
                    moved.push(index);
                }
            }
            wake.push(index);
        }
        for lane in moved {
            let stays = self.leave_behind(lane);
            self.lanes[lane].retire |= !stays;
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
            for _ in 0..entry.requests() {
                metrics.hold_ended(self.now.since(entry.since));
            }
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
}
