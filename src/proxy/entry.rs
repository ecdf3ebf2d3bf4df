//! An entry of a lane: what awaits its reply, whose it is, and what becomes of it where its connection is lost.

use bytes::{Bytes, BytesMut};

use super::hook::Hook;
use super::parts::{Part, Sort};
use super::settings::Retry;
use crate::resp::{OwnError, Replay, ReplyScanner};
use crate::topology::Timestamp;

/// A request that was the first without a reply on so many lost connections is not sent again: the node may
/// have closed them because of it.
const MAX_LOSSES: u8 = 3;

/// Names a session for as long as it lives; an index that was given to another session has another
/// serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionRef {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// What awaits its reply: one request, a run of them (see [`Entry::is_run`]), or a MULTI ... EXEC sent as a
/// unit.
pub(super) struct Entry {
    /// `None`: our own, its replies are eaten.
    pub(super) session: Option<SessionRef>,
    /// Its bytes in the log.
    pub(super) len: usize,
    /// Replies still expected from the node; 0 for [`Kind::Local`]. Of a run also its requests: those that
    /// were answered leave it.
    pub(super) replies: u32,
    /// Replies to eat first: a subscription sent again, partly acknowledged before.
    pub(super) skip: u32,
    pub(super) replay: Replay,
    pub(super) since: Timestamp,
    /// It was written to a node whose answer never came.
    pub(super) resent: bool,
    /// How many connections were lost while it was the first that awaited its reply.
    pub(super) losses: u8,
    /// Nobody sees the reply (CLIENT REPLY OFF, or a request of our own).
    pub(super) mute: bool,
    pub(super) kind: Kind,
}

/// What happens with the reply.
pub(super) enum Kind {
    /// Goes to the session as it is.
    Plain,
    /// MULTI ... EXEC: the replies are kept together until the last one came.
    Unit(BytesMut),
    /// Made by us; waits for its turn.
    Local(Bytes),
    /// The session's state depends on it.
    Hook(Box<Hook>),
    /// Of a cluster: it has a place in its session's order.
    Part(Box<Part>),
}

/// What becomes of a request whose connection is lost.
pub(super) enum AfterLoss {
    Keep(Entry, Vec<Bytes>),
    Unknown(Bytes, SessionRef, Timestamp),
    Answered(Entry, Bytes),
}

/// Why a request's outcome is unknown, for the client.
pub(super) const LOST: &str = "the connection to the primary was lost before the reply came";

impl Entry {
    pub(super) fn new(
        session: SessionRef,
        len: usize,
        replay: Replay,
        since: Timestamp,
        kind: Kind,
    ) -> Self {
        Entry {
            session: Some(session),
            len,
            replies: 1,
            skip: 0,
            replay,
            since,
            resent: false,
            losses: 0,
            mute: false,
            kind,
        }
    }

    /// A reply of our own that waits for its turn.
    pub(super) fn local(session: SessionRef, reply: Bytes, since: Timestamp) -> Self {
        let kind = Kind::Local(reply);
        Entry {
            replies: 0,
            ..Entry::new(session, 0, Replay::Read, since, kind)
        }
    }

    /// A request of our own, whose `replies` nobody sees.
    pub(super) fn internal(len: usize, replies: u32, since: Timestamp) -> Self {
        Entry {
            session: None,
            len,
            replies,
            skip: 0,
            replay: Replay::Read,
            since,
            resent: false,
            losses: 0,
            mute: true,
            kind: Kind::Plain,
        }
    }

    /// Waits at the node for other clients, however long that takes.
    pub(super) fn waits_by_nature(&self) -> bool {
        matches!(&self.kind, Kind::Hook(hook) if hook.waits_at_node())
    }

    /// A blocking command, which CLIENT UNBLOCK ends.
    pub(super) fn blocks(&self) -> bool {
        matches!(&self.kind, Kind::Hook(hook) if matches!(**hook, Hook::Blocking { .. } | Hook::Wait { .. }))
    }

    /// What is to be said before it on its connection.
    pub(super) fn note(&self, now: Timestamp) -> Option<(Entry, Vec<Bytes>)> {
        let Kind::Hook(hook) = &self.kind else {
            return None;
        };
        let Hook::Wait { note, .. } = &**hook else {
            return None;
        };
        Some((Entry::internal(note.len(), 1, now), vec![note.clone()]))
    }

    /// (P|S)(UN)SUBSCRIBE.
    pub(super) fn expects_acknowledgement(&self) -> bool {
        match &self.kind {
            Kind::Hook(hook) => matches!(**hook, Hook::Subscription { .. } | Hook::Again),
            _ => false,
        }
    }

    /// What it is told when it has waited too long.
    pub(super) fn too_late(&self, reason: &str) -> Bytes {
        own_error(match self.resent && self.replay != Replay::Read {
            true => OwnError::Unknown(reason),
            false => OwnError::NotExecuted(reason),
        })
    }

    /// All that its client gets where it ends with this error.
    pub(super) fn refused(&self, error: Bytes) -> Bytes {
        let received = match &self.kind {
            Kind::Unit(received) => received,
            Kind::Part(part) => match &part.sort {
                Sort::Unit(_, received) => received,
                _ => return error,
            },
            _ => return error,
        };
        unit_with(received.clone(), self.replies - self.skip, &error)
    }

    /// Its place in its session's order, where it has one.
    pub(super) fn place(&self) -> u64 {
        match &self.kind {
            Kind::Part(part) => part.place,
            _ => 0,
        }
    }

    /// As if nothing had been said about it.
    pub(super) fn reset_part(&mut self) {
        if let Kind::Part(part) = &mut self.kind {
            self.replies = part.replies();
            self.skip = part.eaten();
            if let Sort::Unit(_, came) = &mut part.sort {
                came.clear();
            }
        }
    }

    /// What is sent to another process: an iteration begins anew there.
    fn anew(&mut self, bytes: &[Bytes]) -> Vec<Bytes> {
        let again = match &self.kind {
            Kind::Part(part) => match (&part.sort, part.asking) {
                (Sort::Scan(iteration, _), false) => iteration.anew(&bytes.concat()),
                _ => None,
            },
            _ => None,
        };
        let bytes = again.map_or_else(|| bytes.to_vec(), |again| vec![again]);
        self.len = bytes.iter().map(Bytes::len).sum();
        bytes
    }

    /// Decides whether it may be sent again, `bytes` as they were.
    pub(super) fn after_loss(
        mut self,
        was_sent: bool,
        retry: Retry,
        now: Timestamp,
        bytes: &[Bytes],
    ) -> AfterLoss {
        let Some(session) = self.session else {
            return AfterLoss::Keep(self, bytes.to_vec());
        };
        if was_sent && self.waits_by_nature() {
            // Until now it did not wait for a primary.
            self.since = now;
        }
        if let Kind::Hook(hook) = self.kind {
            return match hook.after_loss(was_sent, self.replay, retry, now, bytes) {
                Ok((hook, bytes)) => {
                    self.len = bytes.iter().map(Bytes::len).sum();
                    if let Some((all, before)) = hook.acknowledged(&bytes) {
                        (self.replies, self.skip) = (all, before);
                    }
                    self.kind = Kind::Hook(hook);
                    AfterLoss::Keep(self, bytes)
                }
                Err(_) if self.mute => AfterLoss::Unknown(Bytes::new(), session, self.since),
                Err(reply) => AfterLoss::Unknown(reply, session, self.since),
            };
        }
        if let Kind::Part(part) = &mut self.kind {
            let again = !was_sent || may_replay(self.replay, retry);
            if again && self.losses < MAX_LOSSES {
                self.reset_part();
                let bytes = self.anew(bytes);
                return AfterLoss::Keep(self, bytes);
            }
            let reply = match &mut part.sort {
                Sort::Unit(_, came) => unknown_unit(std::mem::take(came), self.replies - self.skip),
                _ => own_error(OwnError::Unknown(LOST)),
            };
            return AfterLoss::Answered(self, reply);
        }
        let again = !was_sent || self.replies == 0 || may_replay(self.replay, retry);
        if again && self.losses < MAX_LOSSES {
            if let Kind::Unit(replies) = &mut self.kind {
                let total = count_replies(replies) + self.replies;
                replies.clear();
                self.replies = total;
            }
            return AfterLoss::Keep(self, bytes.to_vec());
        }
        match self.kind {
            Kind::Unit(replies) => {
                AfterLoss::Unknown(unknown_unit(replies, self.replies), session, self.since)
            }
            _ if self.mute => AfterLoss::Unknown(Bytes::new(), session, self.since),
            _ => AfterLoss::Unknown(own_error(OwnError::Unknown(LOST)), session, self.since),
        }
    }
}

/// Whether a request that was sent and not answered may be sent again (I8).
pub(super) fn may_replay(replay: Replay, retry: Retry) -> bool {
    match replay {
        Replay::Read => true,
        Replay::Idempotent => retry == Retry::Idempotent,
        Replay::Never => false,
    }
}

/// Complete replies that stand in `received`.
pub(super) fn count_replies(received: &[u8]) -> u32 {
    let mut scanner = ReplyScanner::default();
    let (mut at, mut count) = (0, 0);
    while let Ok(Some(n)) = scanner.scan(&received[at..]) {
        at += n;
        count += 1;
    }
    count
}

/// The replies of a unit whose EXEC got none: what came, +QUEUED for the rest, and the error.
fn unknown_unit(received: BytesMut, expected: u32) -> Bytes {
    unit_with(received, expected, &own_error(OwnError::Unknown(LOST)))
}

/// The same with any error.
fn unit_with(mut received: BytesMut, expected: u32, error: &[u8]) -> Bytes {
    let first = received.is_empty();
    for missing in 0..expected.saturating_sub(1) {
        received.extend_from_slice(if first && missing == 0 {
            b"+OK\r\n"
        } else {
            b"+QUEUED\r\n"
        });
    }
    received.extend_from_slice(error);
    received.freeze()
}

/// An error of our own as a reply.
pub(super) fn own_error(error: OwnError<'_>) -> Bytes {
    let mut reply = BytesMut::new();
    error.put(&mut reply);
    reply.freeze()
}
