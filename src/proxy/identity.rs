//! AUTH, SELECT, HELLO and RESET: who the client is decides which lanes fit it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::client_command::printable;
use super::dispatch::Step;
use super::entry::{Kind, SessionRef};
use super::hook::{Hook, Transition};
use super::lane::{LaneKey, Login};
use super::pin::POISON;
use super::registry::ClientState;
use super::session::{Park, ReplyMode};
use super::worker::Worker;
use crate::resp::{Replay, Request, Special, encode_request, integer};

/// What an AUTH, SELECT or HELLO asks to be changed.
pub(super) struct Change {
    login: Option<Login>,
    db: Option<u32>,
    resp3: Option<bool>,
    /// SETNAME of HELLO.
    pub(super) name: Option<String>,
    /// Its reply carries our client id.
    pub(super) hello: bool,
}

impl Change {
    const NOTHING: Change = Change {
        login: None,
        db: None,
        resp3: None,
        name: None,
        hello: false,
    };

    /// `None`: no server takes the request; the node has the words for what is wrong.
    pub(super) fn asked_by(special: Special, args: &[&[u8]]) -> Option<Change> {
        match (special, args) {
            (Special::Auth, [_, password]) => Some(Change {
                login: Some(Login {
                    user: None,
                    password: Bytes::copy_from_slice(password),
                }),
                ..Change::NOTHING
            }),
            (Special::Auth, [_, user, password]) => Some(Change {
                login: Some(Login::new(user, password)),
                ..Change::NOTHING
            }),
            (Special::Select, [_, db]) => Some(Change {
                db: Some(u32::try_from(integer(db)?).ok()?),
                ..Change::NOTHING
            }),
            (Special::Hello, [_, rest @ ..]) => Change::hello(rest),
            _ => None,
        }
    }

    fn hello(args: &[&[u8]]) -> Option<Change> {
        let mut change = Change {
            hello: true,
            ..Change::NOTHING
        };
        let Some((version, mut rest)) = args.split_first() else {
            return Some(change);
        };
        change.resp3 = Some(match *version {
            b"2" => false,
            b"3" => true,
            _ => return None,
        });
        loop {
            match rest {
                [] => return Some(change),
                [word, user, password, more @ ..] if word.eq_ignore_ascii_case(b"AUTH") => {
                    change.login = Some(Login::new(user, password));
                    rest = more;
                }
                [word, name, more @ ..] if word.eq_ignore_ascii_case(b"SETNAME") => {
                    change.name = Some(printable(name).then(|| lossy(name))?);
                    rest = more;
                }
                _ => return None,
            }
        }
    }

    /// What `key` becomes.
    pub(super) fn of(self, key: &LaneKey) -> LaneKey {
        let user = self.login.map(Rc::new).or_else(|| key.user.clone());
        LaneKey {
            era: user.as_ref().map_or(key.era, |_| 0),
            user,
            db: self.db.unwrap_or(key.db),
            resp3: self.resp3.unwrap_or(key.resp3),
            tracks_for: key.tracks_for,
        }
    }
}

impl Login {
    fn new(user: &[u8], password: &[u8]) -> Login {
        Login {
            user: Some(Bytes::copy_from_slice(user)),
            password: Bytes::copy_from_slice(password),
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// AUTH, SELECT, HELLO: the session moves to the lane of that user, database and protocol version at
/// once or not at all; the node decides whether it may.
pub(super) fn identity(
    worker: &mut Worker,
    index: usize,
    special: Special,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let args: Vec<&[u8]> = request.args(frame).collect();
    let Some(change) = Change::asked_by(special, &args) else {
        return forward(worker, index, &args, frame);
    };
    let session = &worker.sessions[index];
    if change.hello && args.len() == 1 {
        let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
        worker.push_hook(index, lane, Hook::HelloId, Replay::Read, frame);
        return Ok(Step::Next);
    }
    let mut wire = BytesMut::new();
    if change.name.is_some() {
        encode_request(&mut wire, &without_name(&args));
    } else {
        wire.extend_from_slice(frame);
    }
    let hello = change.hello.then(|| change.name.clone());
    let logs_in = change.login.is_some();
    let key = change.of(&session.key);
    transition(worker, index, key, &wire, hello, logs_in)
}

/// HELLO without SETNAME: the upstream keeps its own name.
fn without_name<'a>(args: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut kept = args[..2].to_vec();
    let mut rest = &args[2..];
    while let [word, ..] = rest {
        let words = if word.eq_ignore_ascii_case(b"AUTH") {
            3
        } else {
            2
        };
        let (option, more) = rest.split_at(words.min(rest.len()));
        if words == 3 {
            kept.extend(option);
        }
        rest = more;
    }
    kept
}

/// The node has the words for what is wrong. A HELLO that fails may have logged in before (Redis reads
/// its options one after the other), so it goes over a connection that nobody uses after it.
fn forward(worker: &mut Worker, index: usize, args: &[&[u8]], frame: &[u8]) -> Result<Step, Park> {
    let session = &worker.sessions[index];
    let mut lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
    if args.len() > 3 {
        lane = worker.pin(index)?;
        if let Some(pin) = &mut worker.sessions[index].pin {
            pin.tainted = true;
        }
    }
    worker.push(index, lane, Kind::Plain, Replay::Read, frame);
    Ok(Step::Next)
}

/// Sends the request on the lane it leads to, or, when the session has a connection of its own, on
/// that one; the session moves when the node agrees.
fn transition(
    worker: &mut Worker,
    index: usize,
    key: LaneKey,
    wire: &[u8],
    hello: Option<Option<String>>,
    logs_in: bool,
) -> Result<Step, Park> {
    let session = &worker.sessions[index];
    if session.inflight > 0 {
        return Err(Park::Drained);
    }
    let (backend, pinned) = (session.backend, session.pin.as_ref().map(|pin| pin.lane));
    let lane = worker.shared_lane(backend, &key.shared());
    worker.sessions[index].moving = true;
    let via = pinned.unwrap_or(lane);
    // On a connection of its own something may come before it yet, when that has to be set up again.
    let shared = pinned.is_some() || !worker.lanes[via].queue.is_empty();
    let swallows = worker.backends[backend]
        .version
        .is_none_or(|version| version >= (7, 2));
    let hook = Hook::Transition(Transition { key, lane, hello });
    worker.push_hook(index, via, hook, Replay::Read, wire);
    if logs_in && shared && swallows {
        // A failing AUTH may get no reply there: the one to this tells.
        worker.push(index, via, Kind::Plain, Replay::Read, POISON);
        if let Some(entry) = worker.lanes[via].queue.back_mut() {
            entry.mute = true;
        }
    }
    Ok(Step::Next)
}

impl Worker {
    /// RESET. A connection of the session's own is told, so that nobody sees what it was once the client knows.
    pub(super) fn ask_to_reset(&mut self, index: usize, frame: &[u8]) -> Result<(), Park> {
        let session = &mut self.sessions[index];
        let Some(pin) = &mut session.pin else {
            return self.reset(index);
        };
        if session.inflight > 0 {
            return Err(Park::Drained);
        }
        pin.tainted = true;
        session.moving = true;
        let lane = pin.lane;
        self.push_hook(index, lane, Hook::Reset, Replay::Read, frame);
        Ok(())
    }

    /// The session's own connection is reset; `mute`: the reply of the node would be.
    pub(super) fn reset_answered(&mut self, of: SessionRef, mute: bool) {
        let Some(session) = self.session(of) else {
            return;
        };
        session.moving = false;
        if mute && session.reply_mode == ReplyMode::On {
            session.reply_mode = ReplyMode::SkipNext;
        }
        self.finish_request(of, &[], None, true);
        // Nothing is on its way.
        let _ = self.reset(of.index);
    }

    /// Everything as at the beginning.
    pub(super) fn reset(&mut self, index: usize) -> Result<(), Park> {
        if self.sessions[index].inflight > 0 {
            return Err(Park::Drained);
        }
        if let Some(pin) = &mut self.sessions[index].pin {
            pin.tainted = true;
        }
        self.unpin(index);
        self.leave_shards(index);
        let session = &mut self.sessions[index];
        if let Some(cluster) = &mut session.cluster {
            cluster.tracker = None;
        }
        let (backend, left, serial) = (session.backend, session.lane, session.serial);
        let key = LaneKey::initial(self.backends[backend].door.era);
        let mute = std::mem::replace(&mut session.reply_mode, ReplyMode::On) == ReplyMode::SkipNext;
        session.client.update(|s| {
            // Redis keeps who the library is.
            *s = ClientState {
                lib_name: std::mem::take(&mut s.lib_name),
                lib_ver: std::mem::take(&mut s.lib_ver),
                ..ClientState::default()
            }
        });
        let lane = self.shared_lane(backend, &key);
        let session = &mut self.sessions[index];
        session.key = key;
        session.lane = lane;
        self.leave_lane(left);
        self.backends[backend].turn.local += 1;
        // After CLIENT REPLY OFF it is answered, after SKIP it is skipped.
        if !mute {
            self.deliver(SessionRef { index, serial }, b"+RESET\r\n");
        }
        Ok(())
    }
}

/// Since Redis 7.2 a failing AUTH is not answered while replies before it wait to be written: what came is the
/// reply to the request behind it.
pub(super) fn swallowed(head: &Kind, frame: &[u8]) -> bool {
    matches!(head, Kind::Hook(hook) if matches!(**hook, Hook::Transition(_)))
        && frame.starts_with(b"-ERR unknown command")
        && memchr::memmem::find(frame, b"POINTSMAN.REFUSED").is_some()
}

/// What a failing AUTH is told.
pub(super) const WRONG_PASSWORD: &[u8] =
    b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// The node's reply to HELLO with our client id in the place of its own.
pub(super) fn with_client_id(frame: &[u8], id: u64) -> Bytes {
    const KEY: &[u8] = b"$2\r\nid\r\n:";
    let Some(at) = memchr::memmem::find(frame, KEY).map(|at| at + KEY.len()) else {
        return Bytes::copy_from_slice(frame);
    };
    let end = memchr::memchr(b'\r', &frame[at..]).map_or(frame.len(), |n| at + n);
    let mut reply = Vec::with_capacity(frame.len() + 20);
    reply.extend_from_slice(&frame[..at]);
    reply.extend_from_slice(id.to_string().as_bytes());
    reply.extend_from_slice(&frame[end..]);
    reply.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_shows_our_client_id() {
        let frame = b"*4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n";
        let reply = with_client_id(frame, 12345);
        assert_eq!(
            &reply[..],
            b"*4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:12345\r\n"
        );
    }
}
