//! Every client of this process, for CLIENT ID, LIST, INFO, KILL and UNBLOCK: touched when a client
//! comes, goes or changes its state, never by an ordinary request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::worker::Message;
use crate::topology::Timestamp;

/// All clients by id, over all workers.
#[derive(Default)]
pub(super) struct Registry {
    last_id: AtomicU64,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
}

/// One client as others may see it.
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) backend: usize,
    /// `ip:port`, or `path:0` of a unix socket.
    pub(super) addr: String,
    pub(super) laddr: String,
    pub(super) since: Timestamp,
    /// [`Timestamp::as_millis`] of its newest request; written by its worker.
    pub(super) last_request: AtomicU64,
    /// Id of its pinned upstream on the node while it waits in a blocking command, else 0; written
    /// by its worker, read by CLIENT UNBLOCK on any worker.
    pub(super) blocked_on: AtomicU64,
    /// Its worker, for CLIENT KILL.
    pub(super) worker: mpsc::UnboundedSender<Message>,
    state: Mutex<ClientState>,
}

/// The part of a session's state that CLIENT LIST shows.
#[derive(Clone)]
pub(super) struct ClientState {
    pub(super) name: String,
    pub(super) user: String,
    pub(super) db: u32,
    pub(super) resp3: bool,
    pub(super) lib_name: String,
    pub(super) lib_ver: String,
    pub(super) channels: usize,
    pub(super) patterns: usize,
    pub(super) shard_channels: usize,
    /// Commands queued by MULTI; `None` outside of a transaction.
    pub(super) queued: Option<usize>,
    pub(super) monitor: bool,
    /// CLIENT TRACKING is on: whom it redirects to, 0 for nobody.
    pub(super) tracking: Option<u64>,
    pub(super) upstream: OwnUpstream,
    /// Clients whose invalidations go to this one. It keeps its own upstream for them.
    pub(super) trackers: Vec<Arc<Client>>,
    /// There was such a client: the node may know the upstream as a target still.
    pub(super) redirected: bool,
}

/// A client's own upstream as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum OwnUpstream {
    /// It travels with others.
    #[default]
    None,
    /// It has its own lane, which is not connected.
    Down,
    /// The connection's id on this process.
    Up { run_id: Arc<str>, id: u64 },
}

impl Default for ClientState {
    fn default() -> Self {
        ClientState {
            name: String::new(),
            user: "default".into(),
            db: 0,
            resp3: false,
            lib_name: String::new(),
            lib_ver: String::new(),
            channels: 0,
            patterns: 0,
            shard_channels: 0,
            queued: None,
            monitor: false,
            tracking: None,
            upstream: OwnUpstream::None,
            trackers: Vec::new(),
            redirected: false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(super) fn add(
        &self,
        backend: usize,
        (addr, laddr): (String, String),
        now: Timestamp,
        worker: mpsc::UnboundedSender<Message>,
    ) -> Arc<Client> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            backend,
            addr,
            laddr,
            since: now,
            last_request: AtomicU64::new(now.as_millis()),
            blocked_on: AtomicU64::new(0),
            worker,
            state: Mutex::new(ClientState::default()),
        });
        lock(&self.clients).insert(id, client.clone());
        client
    }

    pub(super) fn remove(&self, id: u64) {
        lock(&self.clients).remove(&id);
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Client>> {
        lock(&self.clients).get(&id).cloned()
    }

    /// The clients of one backend, oldest first.
    pub(super) fn of_backend(&self, backend: usize) -> Vec<Arc<Client>> {
        lock(&self.clients)
            .values()
            .filter(|c| c.backend == backend)
            .cloned()
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.clients).len()
    }
}

impl Client {
    /// A copy of what others may see.
    pub(super) fn state(&self) -> ClientState {
        lock(&self.state).clone()
    }

    /// Changes what others may see.
    pub(super) fn update(&self, change: impl FnOnce(&mut ClientState)) {
        self.change(change);
    }

    /// As [`Client::update`], with a result.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut ClientState) -> T) -> T {
        change(&mut lock(&self.state))
    }

    /// `normal`, `pubsub`: the words CLIENT LIST TYPE and CLIENT KILL TYPE know.
    pub(super) fn kind(&self) -> &'static str {
        let state = lock(&self.state);
        match state.channels + state.patterns + state.shard_channels {
            0 => "normal",
            _ => "pubsub",
        }
    }

    /// One line of CLIENT LIST (<https://redis.io/docs/latest/commands/client-list/>), without the
    /// fields that describe the server's own buffers.
    pub(super) fn line(&self, now: Timestamp, command: &str) -> String {
        let s = self.state();
        let blocked = self.blocked_on.load(Ordering::Relaxed) != 0;
        let mut flags = String::new();
        for (set, flag) in [
            (s.channels + s.patterns + s.shard_channels > 0, 'P'),
            (s.monitor, 'O'),
            (s.queued.is_some(), 'x'),
            (blocked, 'b'),
            (s.tracking.is_some(), 't'),
            (self.laddr.ends_with(":0"), 'U'),
        ] {
            if set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let mut line = String::with_capacity(256);
        let idle = now
            .as_millis()
            .saturating_sub(self.last_request.load(Ordering::Relaxed))
            / 1000;
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} \
             multi={} watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=0 events=r cmd={} user={} redir={} resp={} lib-name={} lib-ver={}",
            self.id,
            self.addr,
            self.laddr,
            s.name,
            now.since(self.since).as_secs(),
            idle,
            flags,
            s.db,
            s.channels,
            s.patterns,
            s.shard_channels,
            s.queued.map_or(-1, |n| n as i64),
            command,
            s.user,
            s.tracking.map_or(-1, |id| id as i64),
            if s.resp3 { 3 } else { 2 },
            s.lib_name,
            s.lib_ver,
        );
        line
    }
}
