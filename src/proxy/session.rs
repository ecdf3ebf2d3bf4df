//! One client: its connection, its place among the lanes, and the state that Redis would keep for it,
//! as values, so that it can be built up again on another node.

use std::io::{self, IoSlice};
use std::sync::Arc;

use slab::Slab;

use super::cluster::ClusterSession;
use super::entry::SessionRef;
use super::intake::Intake;
use super::lane::LaneKey;
use super::pin::Pin;
use super::queue::{ByteQueue, Spares};
use super::registry::Client;
use super::socket::Socket;
use crate::resp::RequestScanner;

/// Requests of one session on their way at most, and before it is known how large its replies are.
const MAX_WINDOW: u32 = 1024;
const FIRST_WINDOW: u32 = 64;
/// Replies that may come for requests on their way, bytes, going by the size of earlier ones.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Of replies up to this size a whole window fits.
const SMALL_REPLY: usize = WINDOW_BYTES / MAX_WINDOW as usize;

/// Why requests of a session are not looked at for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    /// They are.
    No,
    /// The next request goes another way: everything before it must be answered first.
    Drained,
    /// So many requests are on their way that some must be answered first.
    Crowded,
    /// This backend, or shard of it, holds as many bytes as it may.
    Starved(usize),
    /// The client does not read its replies.
    Slow,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyMode {
    On,
    Off,
    /// SKIP: the next request gets no reply.
    SkipNext,
}

/// How a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// Nothing more is read; ends when every reply is written.
    Finishing,
    /// The client closed its side: what it asked for is still answered, but for what waits at the node
    /// for something that nobody would take then (an abandoned BLPOP must not eat an element).
    Left,
    /// Ends at its next turn.
    Killed,
}

/// See the module.
pub(super) struct Session {
    pub(super) serial: u64,
    pub(super) backend: usize,
    pub(super) socket: Socket,
    pub(super) client: Arc<Client>,
    /// Which lanes fit this session: its user, database and protocol version.
    pub(super) key: LaneKey,
    /// The shared lane of `key`.
    pub(super) lane: usize,
    /// Its own lane, while its state demands one.
    pub(super) pin: Option<Box<Pin>>,
    /// Of a cluster.
    pub(super) cluster: Option<Box<ClusterSession>>,
    /// What was read and is not a complete request, or waits because the session is parked.
    pub(super) input: Intake,
    pub(super) scanner: RequestScanner,
    /// Replies that are not written yet.
    pub(super) out: ByteQueue,
    /// Requests without a reply.
    pub(super) inflight: u32,
    /// Requests that may be without a reply before no more are read: few until it is known that the
    /// replies are small, so that a client that does not read them can not make us keep many.
    pub(super) window: u32,
    /// Bytes of a reply lately, leaning to the large ones.
    reply_size: usize,
    pub(super) park: Park,
    pub(super) reply_mode: ReplyMode,
    pub(super) life: Life,
    /// An AUTH, SELECT or HELLO is on its way.
    pub(super) moving: bool,
    /// It came a moment ago, and the node is asked whether it lets it in (`door.rs`).
    pub(super) knocking: bool,
    /// Whether it is in the worker's list of sessions with something to write.
    pub(super) dirty: bool,
    /// Whether it is in the worker's list of sessions to look at again.
    pub(super) woken: bool,
    /// Whether it is in a backend's list of starved sessions.
    pub(super) starved: bool,
}

impl SessionRef {
    /// The session, if it still lives.
    #[inline]
    pub(super) fn find(self, sessions: &mut Slab<Session>) -> Option<&mut Session> {
        let found = sessions.get_mut(self.index);
        found.filter(|session| session.serial == self.serial)
    }
}

impl Session {
    pub(super) fn new(
        serial: u64,
        backend: usize,
        socket: Socket,
        client: Arc<Client>,
        key: LaneKey,
        lane: usize,
    ) -> Self {
        Session {
            serial,
            backend,
            socket,
            client,
            key,
            lane,
            pin: None,
            cluster: None,
            input: Intake::default(),
            scanner: RequestScanner::default(),
            out: ByteQueue::default(),
            inflight: 0,
            window: FIRST_WINDOW,
            reply_size: 0,
            park: Park::No,
            reply_mode: ReplyMode::On,
            life: Life::Open,
            moving: false,
            knocking: false,
            dirty: false,
            woken: false,
            starved: false,
        }
    }

    /// Nothing more is read; it ends when every reply is written.
    pub(super) fn finish(&mut self) {
        if self.life == Life::Open {
            self.life = Life::Finishing;
        }
    }

    /// Nothing more is read, and what was read is forgotten.
    pub(super) fn finish_now(&mut self) {
        self.input.clear();
        self.park = Park::No;
        self.finish();
    }

    /// Ends without waiting for anything, at its next turn.
    pub(super) fn kill(&mut self) {
        self.life = Life::Killed;
    }

    /// How many requests may go to the shared lane as they are.
    #[inline]
    pub(super) fn plain_room(&self) -> u32 {
        let plain = self.pin.is_none()
            && self.cluster.is_none()
            && !self.moving
            && self.reply_mode == ReplyMode::On;
        if plain {
            self.window.saturating_sub(self.inflight)
        } else {
            0
        }
    }

    /// `count` replies of `bytes` together came: how many may be on their way from now on.
    #[inline]
    pub(super) fn learn(&mut self, count: u32, bytes: usize) {
        if self.window == MAX_WINDOW && bytes <= SMALL_REPLY {
            return;
        }
        let size = bytes / count.max(1) as usize;
        self.reply_size = size.max(self.reply_size - self.reply_size / 8);
        let fits = WINDOW_BYTES / self.reply_size.max(SMALL_REPLY);
        let earned = self.window.saturating_add(count * 4).min(MAX_WINDOW);
        self.window = earned.min(u32::try_from(fits).unwrap_or(MAX_WINDOW)).max(1);
    }

    /// Writes what the kernel takes; returns how much that was.
    pub(super) fn flush(&mut self, spares: &mut Spares) -> io::Result<usize> {
        let mut written = 0;
        while !self.out.is_empty() && self.socket.is_writable() {
            let n = match self.out.only() {
                Some(all) => self.socket.write(&[IoSlice::new(all)])?,
                None => {
                    let mut slices = [IoSlice::new(&[]); 16];
                    let filled = self.out.slices(0, &mut slices);
                    self.socket.write(&slices[..filled])?
                }
            };
            if let Some(n) = n {
                written += n;
                self.out.consume(n, spares);
            }
        }
        Ok(written)
    }
}
