//! Requests whose replies change the state of their session.

use bytes::{Bytes, BytesMut};

use super::entry::{LOST, may_replay, own_error};
use super::lane::LaneKey;
use super::scans::Iteration;
use super::settings::Retry;
use super::tracking::Tracking;
use crate::resp::command::{Channels, lookup, with_timeout};
use crate::resp::{Limits, OwnError, Replay, RequestScanner, encode_request};
use crate::topology::Timestamp;

/// What the reply to a request means for its session.
#[derive(Debug)]
pub(super) enum Hook {
    /// AUTH, SELECT or HELLO, sent on the lane it leads to: +OK moves the session there.
    Transition(Transition),
    /// Whether the node lets somebody in who connects now (`door.rs`).
    Door,
    /// RESET on a pinned lane.
    Reset,
    /// HELLO without arguments: the reply carries our client id instead of the node's.
    HelloId,
    /// A CLIENT subcommand that we answer, when the node has answered in its place.
    Client(Bytes),
    /// MULTI on a pinned lane.
    Multi,
    /// A command queued by MULTI.
    Queued,
    /// EXEC; `watched`: the session held a WATCH, whose loss makes it answer nil.
    Exec {
        /// See above.
        watched: bool,
    },
    /// DISCARD sent in the place of an EXEC whose WATCH was lost: the client gets nil.
    ExecLost,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// A blocking command that may wait until then; `None`: for ever.
    Blocking {
        /// See above.
        until: Option<Timestamp>,
    },
    /// (P|S)(UN)SUBSCRIBE with one acknowledgement a channel.
    Subscription {
        /// Which kind of channels.
        kind: Channels,
        /// Acknowledgements the client got already.
        acknowledged: u32,
    },
    /// MONITOR.
    Monitor,
    /// SUBSCRIBE or MONITOR, said again by us on a new connection.
    Again,
    /// SCAN and its kin.
    Scan(Iteration),
    /// WAIT, WAITAOF; `blind`: the node did not let us take note of its offset before.
    Wait {
        /// See above.
        blind: bool,
        /// The request that takes note of it.
        note: Bytes,
    },
    /// CLIENT TRACKING.
    Tracking(Tracking),
    /// CLIENT GETREDIR, TRACKINGINFO: the reply names pointsman's id of the target.
    Target,
    /// CLIENT PAUSE of all clients, sent as one of no length to learn whether the client may: they are
    /// paused until then.
    Pause(Timestamp),
    /// CLIENT CACHING, which is valid for the next command.
    Caching,
    /// State of the connection that is set again on the next one.
    Sticky(Sticky),
}

/// CLIENT NO-TOUCH.
#[derive(Debug)]
pub(super) struct Sticky {
    /// The request.
    pub(super) frame: Bytes,
    /// Turns the state off.
    pub(super) off: bool,
}

/// Where an AUTH, SELECT or HELLO leads to.
#[derive(Debug)]
pub(super) struct Transition {
    pub(super) key: LaneKey,
    /// The lane of that key, on which the request was sent.
    pub(super) lane: usize,
    /// HELLO: the reply carries our client id; with its SETNAME.
    pub(super) hello: Option<Option<String>>,
}

impl Hook {
    /// Waits at the node by its nature, so that nobody may wait for its reply.
    pub(super) fn waits_at_node(&self) -> bool {
        matches!(
            self,
            Hook::Blocking { .. } | Hook::Subscription { .. } | Hook::Monitor | Hook::Wait { .. }
        )
    }

    /// Acknowledgements that come when the request is sent again, and how many of them the client got already.
    /// `None`: as many as were missing.
    pub(super) fn acknowledged(&self, request: &[Bytes]) -> Option<(u32, u32)> {
        let Hook::Subscription { acknowledged, .. } = self else {
            return None;
        };
        let frame = request.concat();
        let scanned = RequestScanner::default().scan(&frame, &Limits::default());
        // Without channels it is about those that are left.
        let channels = scanned.ok()??.argc.checked_sub(1).filter(|n| *n > 0)?;
        Some((u32::try_from(channels).ok()?, *acknowledged))
    }

    /// Whether the reply may hold what a client could keep in a cache.
    pub(super) fn reads(&self, replay: Replay) -> bool {
        match self {
            Hook::Exec { .. } | Hook::Scan(_) => true,
            Hook::Blocking { .. } => replay == Replay::Read,
            _ => false,
        }
    }

    /// Whether it ends a MULTI.
    pub(super) fn ends_transaction(&self) -> bool {
        matches!(self, Hook::Exec { .. } | Hook::ExecLost | Hook::Discard)
    }

    /// The connection is gone: what is sent on the next one, or what the client is told.
    pub(super) fn after_loss(
        self,
        was_sent: bool,
        replay: Replay,
        retry: Retry,
        now: Timestamp,
        bytes: &[Bytes],
    ) -> Result<(Box<Hook>, Vec<Bytes>), Bytes> {
        match self {
            Hook::Exec { watched: true } if !was_sent || replay == Replay::Read => {
                Ok((Box::new(Hook::ExecLost), vec![Bytes::from_static(DISCARD)]))
            }
            Hook::Exec { watched } if was_sent && (watched || !may_replay(replay, retry)) => {
                Err(own_error(OwnError::Unknown(LOST)))
            }
            Hook::Wait { .. } if was_sent => Err(own_error(OwnError::Unknown(LOST))),
            Hook::Blocking { until: Some(until) } => {
                let frame = bytes.concat();
                let again = less_time(&frame, until.since(now)).unwrap_or_else(|| frame.into());
                Ok((Box::new(self), vec![again]))
            }
            Hook::Scan(iteration) => {
                let frame = bytes.concat();
                let again = iteration.anew(&frame).unwrap_or_else(|| frame.into());
                Ok((Box::new(self), vec![again]))
            }
            // The connection took the transaction along: an acknowledgement is all that is left.
            other => Ok((Box::new(other), bytes.to_vec())),
        }
    }
}

/// Makes its connection take note of the node's offset: any command does before Redis 7.2, since then only
/// one that is replicated. This one changes nothing, and no pattern sees a message of a shard channel.
pub(super) fn note_offset(version: Option<(u16, u16)>, channel: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    match version {
        Some(version) if version < (7, 2) => encode_request(&mut frame, &[b"PING"]),
        _ => encode_request(&mut frame, &[b"SPUBLISH", channel, b""]),
    }
    frame
}

/// Where that message goes.
pub(super) const WAIT_CHANNEL: &[u8] = b"pointsman:wait";

/// What a WAIT is told that would not have waited for the client's writes.
pub(super) const BLIND: &str =
    "WAIT and WAITAOF need the right to SPUBLISH on the channel pointsman:wait";

/// DISCARD as a request.
pub(super) const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

/// The blocking request with the time that is left.
fn less_time(frame: &[u8], left: std::time::Duration) -> Option<Bytes> {
    let request = RequestScanner::default()
        .scan(frame, &Limits::default())
        .ok()??;
    let command = lookup(request.arg(frame, 0)?)?;
    Some(with_timeout(command.special, &request, frame, left).freeze())
}
