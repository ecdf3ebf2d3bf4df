//! A lane: the requests of one or many sessions on their way to the primary, in order.
//!
//! ```text
//!   sessions --push--> [ answered | sent, unanswered | not sent ] --write--> upstream
//!                        dropped    entries: who waits            held while there is none
//! ```
//! The log keeps the bytes of every unanswered request, so "in flight" and "held" are one queue: when
//! the upstream is lost, [`Lane::lose`] decides for each entry whether it may be sent again, and the
//! rest is written to the next primary in the same order.
//!
//! The FIFO law: an entry leaves only when its reply came, or when its connection is gone. A session
//! that left leaves its entry behind, which eats the reply.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::entry::{AfterLoss, Entry, Kind, SessionRef};
use super::hook::Hook;
use super::intake::Intake;
use super::queue::{ByteQueue, Spares};
use super::replies::LaneEnd;
use super::settings::Retry;
use super::socket::Socket;
use crate::metrics::UpstreamKind;
use crate::resp::{ReplyScanner, Signal};
use crate::topology::{Epoch, Timestamp};

/// Bytes that a node reads from one connection at once (PROTO_IOBUF_LEN of Redis).
const NODE_READS: usize = 16 * 1024;

/// What connections may be shared by: nobody ever runs under another client's user, in another
/// database or with another protocol version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) user: Option<Rc<Login>>,
    pub(super) db: u32,
    pub(super) resp3: bool,
    /// Of those who said no AUTH: since when they are connected (`door.rs`).
    pub(super) era: u32,
    /// Of a cluster: the one session that tracks over it (`cluster/tracking.rs`).
    pub(super) tracks_for: Option<SessionRef>,
}

/// What a client said in AUTH. Never logged.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Login {
    /// `None`: AUTH with a password only.
    pub(super) user: Option<Bytes>,
    pub(super) password: Bytes,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl LaneKey {
    /// What a client is before it said anything.
    pub(super) fn initial(era: u32) -> Self {
        LaneKey {
            user: None,
            db: 0,
            resp3: false,
            era,
            tracks_for: None,
        }
    }

    /// The same for connections that many may use.
    pub(super) fn shared(&self) -> Self {
        LaneKey {
            tracks_for: None,
            ..self.clone()
        }
    }
}

/// A connection that was verified as the primary of its epoch.
pub(super) struct Upstream {
    pub(super) socket: Socket,
    pub(super) epoch: Epoch,
    /// When it was opened.
    pub(super) since: Timestamp,
    pub(super) run_id: Arc<str>,
    pub(super) input: Intake,
    pub(super) scanner: ReplyScanner,
    /// The node is so close that its replies are worth waiting for: see [`Lane::may_wait`].
    pub(super) near: bool,
    /// Our side is closed: nothing more is written.
    pub(super) finished: bool,
    /// Why it ends; its task sees to that.
    pub(super) end: Option<LaneEnd>,
    /// Its id on the node (pinned lanes).
    pub(super) client_id: u64,
    /// A "look again" error came: nothing more is written, the replies to what was sent are
    /// gathered as proof, then the connection is dropped.
    pub(super) draining: Option<Draining>,
}

/// See [`Upstream::draining`].
pub(super) struct Draining {
    pub(super) signal: Signal,
    /// Entries that are sent again, in order, with their bytes.
    pub(super) kept: Vec<(Entry, Vec<Bytes>)>,
}

/// See the module.
pub(super) struct Lane {
    pub(super) backend: usize,
    pub(super) key: LaneKey,
    /// The session a pinned lane belongs to.
    pub(super) owner: Option<SessionRef>,
    /// Whether it is (or was) pinned; such a lane is never shared.
    pub(super) pinned: bool,
    /// Sessions that use it as their shared lane.
    pub(super) users: usize,
    pub(super) queue: VecDeque<Entry>,
    pub(super) log: ByteQueue,
    /// Bytes of the log that were handed to the kernel.
    pub(super) written: usize,
    /// Entries at the head of the queue whose last byte was handed to the kernel.
    pub(super) sent: usize,
    /// Bytes of the log that belong to the first `sent` entries.
    pub(super) sent_bytes: usize,
    pub(super) upstream: Option<Upstream>,
    /// The lane's task; woken to connect or to end.
    waker: Option<Waker>,
    /// The upstream must be dropped at the next turn: another epoch began.
    pub(super) retire: bool,
    /// It is in the worker's list of lanes to write.
    pub(super) write_asked: bool,
    /// Bytes of the log whose replies came in this turn; they are dropped at its end.
    pub(super) answered: usize,
    /// Its subscriptions were lost and are not made again yet; counted in `Gaps`.
    pub(super) gap: bool,
    /// Its CLIENT TRACKING must be said before anything else is written.
    pub(super) aiming: bool,
    /// Its client closed its side and waits for something that may never come: the node is told so behind
    /// all requests, what it answers by then is still delivered, and then the session ends; but for one
    /// that got all of that, which goes on with what it sent behind it.
    pub(super) leaving: bool,
    /// The lane must end at the next turn.
    pub(super) close: bool,
    /// When a "look again" error was seen first without a successful write since.
    pub(super) signal_since: Option<Timestamp>,
    /// The node refused its user: it connects again only for a request.
    pub(super) denied: bool,
    /// The node took its user once.
    pub(super) served: bool,
    /// When it was last used (idle lanes end).
    pub(super) idle_since: Timestamp,
    /// Where it goes on when its connection has ended: at this shard of the cluster, and whether it has to
    /// ask there for a slot that is on its way.
    pub(super) moves_to: Option<(usize, bool)>,
    /// Connects that failed in a row.
    pub(super) failures: u32,
}

/// What became of the entries of a lost upstream.
#[derive(Default)]
pub(super) struct Losses {
    pub(super) replayed: u64,
    pub(super) unknown: u64,
    /// Entries whose session had left; nobody awaits them any more.
    pub(super) orphans: Vec<Hook>,
    /// Parts whose outcome is unknown, with what is said about it.
    pub(super) answered: Vec<(Entry, Bytes)>,
}

impl Lane {
    pub(super) fn new(
        backend: usize,
        key: LaneKey,
        owner: Option<SessionRef>,
        now: Timestamp,
    ) -> Self {
        Lane {
            backend,
            key,
            owner,
            pinned: owner.is_some(),
            users: 0,
            queue: VecDeque::new(),
            log: ByteQueue::default(),
            written: 0,
            sent: 0,
            sent_bytes: 0,
            upstream: None,
            waker: None,
            retire: false,
            write_asked: false,
            answered: 0,
            gap: false,
            aiming: false,
            leaving: false,
            close: false,
            signal_since: None,
            denied: false,
            served: false,
            idle_since: now,
            moves_to: None,
            failures: 0,
        }
    }

    /// What its connection is counted as.
    pub(super) fn upstream_kind(&self) -> UpstreamKind {
        match self.pinned || self.key.tracks_for.is_some() {
            true => UpstreamKind::Pinned,
            false => UpstreamKind::Shared,
        }
    }

    /// Its task looks at it at its next turn.
    pub(super) fn wake_task(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The task runs.
    pub(super) fn task_runs(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Whether a write may wait for a reply: while one is awaited the node is busy, and what gathers until
    /// it comes costs the node, and us, one read and one write together. Never for more than the
    /// node reads at once, and never where a round trip costs more than that saves.
    #[inline]
    pub(super) fn may_wait(&self) -> bool {
        self.sent > 0
            && !self.pinned
            && self.log.len() - self.written < NODE_READS
            && self.upstream.as_ref().is_some_and(|u| u.near)
    }

    /// Closes our side of the connection as soon as all is written.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            // Without a connection it is for the task to say whether there will be one.
            self.wake_task();
            self.finish();
        }
    }

    /// Tells the node that nothing more comes, when all is written.
    pub(super) fn finish(&mut self) {
        let all_written = !self.has_unwritten();
        if let Some(upstream) = self.upstream.as_mut().filter(|_| all_written) {
            upstream.finished = true;
            // Where it is lost already, reading tells.
            let _ = upstream.socket.finish();
        }
    }

    /// Appends a request.
    pub(super) fn push(&mut self, entry: Entry, bytes: &[u8], spares: &mut Spares) {
        debug_assert_eq!(entry.len, bytes.len());
        self.log.push(bytes, spares);
        self.queue.push_back(entry);
    }

    /// `n` bytes were handed to the kernel.
    pub(super) fn wrote(&mut self, n: usize) {
        self.written += n;
        while let Some(next) = self.queue.get(self.sent) {
            if self.sent_bytes + next.len > self.written {
                self.part_half_written();
                break;
            }
            self.sent_bytes += next.len;
            self.sent += 1;
        }
    }

    /// Requests of clients that are not written yet.
    pub(super) fn unsent(&self) -> u64 {
        let unsent = self.queue.iter().skip(self.sent);
        let of_clients = unsent.filter(|entry| entry.session.is_some());
        of_clients.map(|entry| u64::from(entry.requests())).sum()
    }

    /// Requests without a reply, ours included.
    pub(super) fn requests(&self) -> u64 {
        let each = self.queue.iter().map(|entry| u64::from(entry.requests()));
        each.sum()
    }

    /// Whether there is something to write.
    pub(super) fn has_unwritten(&self) -> bool {
        self.written < self.log.len()
    }

    /// Takes the first entry off; its reply is complete.
    pub(super) fn pop(&mut self, spares: &mut Spares) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.log.consume(entry.len, spares);
        self.forget_head(entry.len);
        Some(entry)
    }

    /// Takes the first entry off together with its bytes.
    pub(super) fn pop_with_bytes(&mut self, spares: &mut Spares) -> Option<(Entry, Vec<Bytes>)> {
        let entry = self.queue.pop_front()?;
        let bytes = self.log.split(entry.len, spares);
        self.forget_head(entry.len);
        Some((entry, bytes))
    }

    /// Drops the first entry, a plain one; its reply is complete, its bytes leave the log at [`Lane::drop_answered`],
    /// before anything else looks at them.
    #[inline]
    pub(super) fn pop_answered(&mut self) {
        let Some(entry) = self.queue.front() else {
            return;
        };
        debug_assert!(matches!(entry.kind, Kind::Plain));
        self.answered += entry.len;
        self.sent -= 1;
        // A plain one owns nothing, but the compiler does not know.
        std::mem::forget(self.queue.pop_front());
    }

    /// Drops the bytes of all that [`Lane::pop_answered`] took off; returns how many.
    #[inline]
    pub(super) fn drop_answered(&mut self, spares: &mut Spares) -> usize {
        let answered = std::mem::take(&mut self.answered);
        if answered > 0 {
            self.log.consume(answered, spares);
            self.written -= answered;
            self.sent_bytes -= answered;
        }
        answered
    }

    fn forget_head(&mut self, len: usize) {
        self.written = self.written.saturating_sub(len);
        if self.sent > 0 {
            self.sent -= 1;
            self.sent_bytes -= len;
        }
    }

    /// The first entry that may wait too long. What rebuilds a session's state waits with the session.
    pub(super) fn first_to_expire(&self) -> Option<&Entry> {
        let mut entries = self.queue.iter();
        entries.find(|entry| !self.pinned || entry.session.is_some())
    }

    /// Whether a reply that answers a request (not a local one) is awaited from the node.
    pub(super) fn awaits_reply(&self) -> bool {
        self.queue.iter().take(self.sent).any(|e| e.replies > 0)
    }

    /// Whether all that is awaited are commands of a transaction, and its end: refused like the first one.
    pub(super) fn ends_a_transaction(&self) -> bool {
        self.queue.iter().take(self.sent).all(|entry| {
            matches!(&entry.kind, Kind::Hook(hook) if hook.ends_transaction() || matches!(**hook, Hook::Queued))
        })
    }

    /// Requests on their way that do not wait at the node by their nature.
    pub(super) fn busy(&self) -> bool {
        self.upstream.is_some()
            && self.queue.iter().take(self.sent).any(|e| {
                e.replies > 0 && !matches!(&e.kind, Kind::Hook(hook) if hook.waits_at_node())
            })
    }

    /// Puts `entries` before everything that is queued. Only while there is no upstream.
    pub(super) fn prepend(&mut self, entries: Vec<(Entry, Vec<Bytes>)>, spares: &mut Spares) {
        debug_assert_eq!(self.written, 0);
        let mut log = ByteQueue::default();
        let mut queue = VecDeque::with_capacity(entries.len() + self.queue.len());
        for (entry, bytes) in entries {
            for piece in bytes {
                log.push_owned(piece, spares);
            }
            queue.push_back(entry);
        }
        let rest = self.log.len();
        for piece in self.log.split(rest, spares) {
            log.push_owned(piece, spares);
        }
        queue.append(&mut self.queue);
        self.queue = queue;
        self.log = log;
    }

    /// The upstream is gone: decides for every entry whether it is sent again. `alive` tells whether
    /// a session still exists.
    pub(super) fn lose(
        &mut self,
        retry: Retry,
        now: Timestamp,
        alive: impl Fn(SessionRef) -> bool,
        spares: &mut Spares,
    ) -> Losses {
        let mut losses = Losses::default();
        let draining = self.upstream.take().and_then(|u| u.draining);
        let refused = draining.map(|d| d.kept).unwrap_or_default();
        let mut all: Vec<_> = refused
            .into_iter()
            .map(|(entry, bytes)| (false, entry, bytes))
            .collect();
        let (sent, mut popped) = (self.sent, 0);
        let begun = self.written > 0;
        while let Some((entry, bytes)) = self.pop_with_bytes(spares) {
            let (was_sent, first) = (popped < sent, popped == 0);
            popped += 1;
            let place = all.len();
            if entry.is_run() && (was_sent || first) {
                let each = entry.each(&bytes).into_iter();
                all.extend(each.map(|(entry, bytes)| (was_sent, entry, bytes)));
            } else {
                all.push((was_sent, entry, bytes));
            }
            if let Some((_, entry, _)) = all.get_mut(place).filter(|_| begun && first) {
                entry.losses += 1;
            }
        }
        let mut kept = Vec::with_capacity(all.len());
        for (was_sent, entry, bytes) in all {
            let owner_lives = entry.session.is_some_and(&alive);
            if !owner_lives {
                if let Kind::Hook(hook) = entry.kind {
                    losses.orphans.push(*hook);
                }
                continue;
            }
            match entry.after_loss(was_sent, retry, now, &bytes) {
                AfterLoss::Keep(mut entry, bytes) => {
                    if was_sent && entry.replies > 0 {
                        losses.replayed += 1;
                        entry.resent = true;
                    }
                    kept.extend(entry.note(now));
                    kept.push((entry, bytes));
                }
                AfterLoss::Unknown(reply, session, since) => {
                    losses.unknown += 1;
                    kept.push((Entry::local(session, reply, since), Vec::new()));
                }
                AfterLoss::Answered(entry, reply) => {
                    losses.unknown += 1;
                    losses.answered.push((entry, reply));
                }
            }
        }
        self.written = 0;
        self.sent = 0;
        self.sent_bytes = 0;
        self.prepend(kept, spares);
        losses
    }
}
