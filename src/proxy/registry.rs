//! Every client of this process, for CLIENT ID, LIST, INFO, KILL and UNBLOCK: touched when a client
//! comes, goes or changes its state, never by an ordinary request.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
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
    pub(super) user: Bytes,
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
    /// The same with BCAST.
    pub(super) broadcast: bool,
    /// CLIENT NO-EVICT is on.
    pub(super) no_evict: bool,
    /// CLIENT NO-TOUCH is on.
    pub(super) no_touch: bool,
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
            user: Bytes::from_static(b"default"),
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
            broadcast: false,
            no_evict: false,
            no_touch: false,
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

    /// One line of CLIENT LIST (<https://redis.io/docs/latest/commands/client-list/>) with the fields
    /// of `like`, a line that the server made. Those that describe the server's own buffers are 0.
    pub(super) fn line(&self, now: Timestamp, command: &str, like: &str) -> Vec<u8> {
        let s = self.state();
        let mut line = Vec::with_capacity(like.len() + 64);
        // Redis 6.2 began to show both.
        let shows_broadcast = like.contains(" redir=");
        for field in like.trim_end().split(' ') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let separator = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{separator}{name}=");
            let _ = match name {
                "id" => write!(line, "{}", self.id),
                "addr" => line.write_all(self.addr.as_bytes()),
                "laddr" => line.write_all(self.laddr.as_bytes()),
                "name" => line.write_all(s.name.as_bytes()),
                "age" => write!(line, "{}", now.since(self.since).as_secs()),
                "idle" => write!(line, "{}", self.idle(now)),
                "flags" => line.write_all(
                    self.flags(&s, command == "NULL", shows_broadcast)
                        .as_bytes(),
                ),
                "db" => write!(line, "{}", s.db),
                "sub" => write!(line, "{}", s.channels),
                "psub" => write!(line, "{}", s.patterns),
                "ssub" => write!(line, "{}", s.shard_channels),
                "multi" => write!(line, "{}", s.queued.map_or(-1, |n| n as i64)),
                "cmd" => line.write_all(command.as_bytes()),
                "user" => line.write_all(&s.user),
                "fd" => line.write_all(b"-1"),
                "redir" => write!(line, "{}", s.tracking.map_or(-1, |id| id as i64)),
                // What the node may do with our connection is no matter of the client's.
                "capa" => Ok(()),
                "resp" => write!(line, "{}", if s.resp3 { 3 } else { 2 }),
                "lib-name" => line.write_all(s.lib_name.as_bytes()),
                "lib-ver" => line.write_all(s.lib_ver.as_bytes()),
                _ if value.parse::<f64>().is_ok() => line.write_all(b"0"),
                _ => line.write_all(value.as_bytes()),
            };
        }
        line
    }

    /// Seconds since its newest request.
    fn idle(&self, now: Timestamp) -> u64 {
        let last = self.last_request.load(Ordering::Relaxed);
        now.as_millis().saturating_sub(last) / 1000
    }

    /// Who asks is not blocked, even if that was sent already by which it will be.
    fn flags(&self, s: &ClientState, may_be_blocked: bool, shows_broadcast: bool) -> String {
        let flags: String = [
            (s.monitor, 'O'),
            (s.channels + s.patterns + s.shard_channels > 0, 'P'),
            (s.queued.is_some(), 'x'),
            (
                may_be_blocked && self.blocked_on.load(Ordering::Relaxed) != 0,
                'b',
            ),
            (s.tracking.is_some(), 't'),
            (s.broadcast && shows_broadcast, 'B'),
            (self.laddr.ends_with(":0"), 'U'),
            (s.no_evict, 'e'),
            (s.no_touch, 'T'),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}
