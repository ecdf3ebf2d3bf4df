//! AUTH, SELECT, HELLO and RESET: who the client is decides which lanes fit it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::client_command::{NAME_ERROR, number, printable};
use super::dispatch::Step;
use super::hook::{Hook, Transition};
use super::lane::{Kind, LaneKey, Login, SessionRef};
use super::session::{Park, ReplyMode};
use super::worker::Worker;
use crate::resp::{Replay, Request, encode_request, put_error};

/// AUTH: the session moves to the lane of that user; the node decides whether it may.
pub(super) fn auth(
    worker: &mut Worker,
    index: usize,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let args: Vec<&[u8]> = request.args(frame).collect();
    let login = match args[..] {
        [_, password] => Login {
            user: None,
            password: Bytes::copy_from_slice(password),
        },
        [_, user, password] => Login {
            user: Some(Bytes::copy_from_slice(user)),
            password: Bytes::copy_from_slice(password),
        },
        _ => return Ok(forward(worker, index, frame)),
    };
    let key = LaneKey {
        user: Some(Rc::new(login)),
        ..worker.sessions[index].key.clone()
    };
    transition(worker, index, key, frame, frame, None)
}

/// SELECT: the session moves to the lane of that database.
pub(super) fn select(
    worker: &mut Worker,
    index: usize,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let db = request
        .arg(frame, 1)
        .and_then(number)
        .and_then(|db| u32::try_from(db).ok());
    let (Some(db), 2) = (db, request.argc) else {
        return Ok(forward(worker, index, frame));
    };
    let key = LaneKey {
        db,
        ..worker.sessions[index].key.clone()
    };
    transition(worker, index, key, frame, frame, None)
}

/// HELLO: protocol version, user and name at once or not at all.
pub(super) fn hello(
    worker: &mut Worker,
    index: usize,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let args: Vec<&[u8]> = request.args(frame).collect();
    let session = &worker.sessions[index];
    let mut key = session.key.clone();
    key.resp3 = match args.get(1) {
        None => {
            let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
            worker.push_hook(index, lane, Hook::HelloId, Replay::Read, frame);
            return Ok(Step::Next);
        }
        Some(&b"2") => false,
        Some(&b"3") => true,
        // The node has the words for what is wrong; a refused HELLO changes nothing.
        Some(_) => return Ok(forward(worker, index, frame)),
    };
    let mut name = None;
    let mut login: Option<(&[u8], &[u8])> = None;
    let mut rest = &args[2..];
    loop {
        match rest {
            [] => break,
            [word, user, password, more @ ..] if word.eq_ignore_ascii_case(b"AUTH") => {
                login = Some((user, password));
                rest = more;
            }
            [word, value, more @ ..] if word.eq_ignore_ascii_case(b"SETNAME") => {
                name = Some(*value);
                rest = more;
            }
            _ => return Ok(forward(worker, index, frame)),
        }
    }
    if name.is_some_and(|name| !printable(name)) {
        let mut reply = BytesMut::new();
        put_error(&mut reply, NAME_ERROR);
        worker.reply_local(index, &reply);
        return Ok(Step::Next);
    }
    let mut shared: Vec<&[u8]> = vec![b"HELLO", args[1]];
    let mut pinned = shared.clone();
    if let Some((user, password)) = login {
        let user_bytes = Some(Bytes::copy_from_slice(user));
        let password_bytes = Bytes::copy_from_slice(password);
        key.user = Some(Rc::new(Login {
            user: user_bytes,
            password: password_bytes,
        }));
        pinned.extend([b"AUTH".as_slice(), user, password]);
        shared.clone_from(&pinned);
    }
    let mut wire = BytesMut::new();
    encode_request(&mut wire, &shared);
    let name = name.map(|n| String::from_utf8_lossy(n).into_owned());
    transition(worker, index, key, &wire, &wire, Some(name))
}

fn forward(worker: &mut Worker, index: usize, frame: &[u8]) -> Step {
    let session = &worker.sessions[index];
    let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
    worker.push(index, lane, Kind::Plain, Replay::Read, frame);
    Step::Next
}

/// Sends the request on the lane it leads to, or, when the session has a connection of its own, on
/// that one; the session moves when the node agrees.
fn transition(
    worker: &mut Worker,
    index: usize,
    key: LaneKey,
    shared_wire: &[u8],
    pinned_wire: &[u8],
    hello: Option<Option<String>>,
) -> Result<Step, Park> {
    let session = &worker.sessions[index];
    if session.inflight > 0 {
        return Err(Park::Drained);
    }
    let (backend, pinned) = (session.backend, session.pin.as_ref().map(|pin| pin.lane));
    let lane = worker.shared_lane(backend, &key);
    worker.sessions[index].moving = true;
    let hook = Hook::Transition(Transition { key, lane, hello });
    match pinned {
        Some(pinned) => worker.push_hook(index, pinned, hook, Replay::Read, pinned_wire),
        None => worker.push_hook(index, lane, hook, Replay::Read, shared_wire),
    }
    Ok(Step::Next)
}

impl Worker {
    /// RESET: everything as at the beginning.
    pub(super) fn reset(&mut self, index: usize) -> Result<(), Park> {
        if self.sessions[index].inflight > 0 {
            return Err(Park::Drained);
        }
        if let Some(pin) = &mut self.sessions[index].pin {
            pin.tainted = true;
        }
        self.unpin(index);
        let session = &mut self.sessions[index];
        let (backend, left, serial) = (session.backend, session.lane, session.serial);
        let key = LaneKey::initial();
        session.reply_mode = ReplyMode::On;
        session.client.update(|s| *s = Default::default());
        let lane = self.shared_lane(backend, &key);
        let session = &mut self.sessions[index];
        session.key = key;
        session.lane = lane;
        self.leave_lane(left);
        self.backends[backend].turn.local += 1;
        self.deliver(SessionRef { index, serial }, b"+RESET\r\n");
        Ok(())
    }
}

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
