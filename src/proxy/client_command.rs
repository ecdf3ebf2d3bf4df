//! CLIENT and its subcommands. The client's connection is ours, so they are about our clients and are
//! answered here; but whether the client may ask, and whether this server knows the question at all, is
//! the node's to say: it is asked the same of our connection first, in a way that changes nothing.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::dispatch::Step;
use super::entry::Kind;
use super::hook::{Hook, Sticky};
use super::registry::Client;
use super::session::{Park, ReplyMode, Session};
use super::tracking;
use super::worker::{Message, Worker};
use crate::resp::reply::payload;
use crate::resp::{
    Limits, Replay, Request, RequestScanner, encode_request, put_bulk, put_error, put_error_bytes,
    put_integer, put_null, put_ok,
};
use crate::topology::Timestamp;

/// No CLIENT PAUSE is longer than a year.
const MAX_PAUSE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An id that no client has.
const NOBODY: &[u8] = b"9223372036854775807";

/// CLIENT and its subcommands.
pub(super) fn client(
    worker: &mut Worker,
    index: usize,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let args: Vec<&[u8]> = request.args(frame).collect();
    let word = upper(&args, 1);
    let session = &worker.sessions[index];
    let current = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
    if let Some(wire) = unblock(worker, &args) {
        worker.push(index, current, Kind::Plain, Replay::Never, &wire);
        return Ok(Step::Next);
    }
    match (word.as_slice(), args.len()) {
        (b"TRACKING", 3..) => return tracking::tracking(worker, index, &args),
        (b"NO-TOUCH", 3..) => return no_touch(worker, index, &args, frame),
        (b"TRACKINGINFO" | b"GETREDIR" | b"CACHING", _) => {
            let hook = match word.as_slice() {
                b"CACHING" => Hook::Caching,
                _ => Hook::Target,
            };
            worker.push_hook(index, current, hook, Replay::Read, frame);
        }
        (b"PAUSE", 3..) if pause_of_all(worker.now, &args).is_some() => {
            return pause(worker, index, &args);
        }
        _ => match probe(&args) {
            Some(probe) => {
                // What stands behind these depends on what becomes of them.
                worker.sessions[index].moving = matches!(word.as_slice(), b"REPLY" | b"KILL");
                let hook = Hook::Client(Bytes::copy_from_slice(frame));
                worker.push_hook(index, current, hook, Replay::Read, &probe);
                // CLIENT REPLY ON is answered also where nothing was.
                let on = word == b"REPLY" && upper(&args, 2) == b"ON";
                if let Some(entry) = worker.lanes[current].queue.back_mut() {
                    entry.mute &= !on;
                }
            }
            None => {
                // PAUSE, UNPAUSE, HELP and what we do not know: never over a shared connection.
                let lane = worker.pin(index)?;
                if let Some(pin) = &mut worker.sessions[index].pin {
                    pin.tainted = true;
                }
                worker.push(index, lane, Kind::Plain, Replay::Never, frame);
            }
        },
    }
    Ok(Step::Next)
}

/// What the node is asked in the place of a request that we answer: the same command, so that it is
/// permitted and known if the request is, about nobody or nothing. `None`: we do not answer it.
pub(super) fn probe(args: &[&[u8]]) -> Option<BytesMut> {
    let word = upper(args, 1);
    let probe: Vec<&[u8]> = match (word.as_slice(), args.len()) {
        (b"ID" | b"GETNAME" | b"INFO", 2) => args.to_vec(),
        (b"LIST", _) => args[..2].to_vec(),
        (b"SETNAME", 3) => vec![args[0], args[1], b"pointsman"],
        (b"SETINFO", 4) => vec![args[0], args[1], args[2], b""],
        (b"REPLY", 3) => vec![args[0], args[1], b"ON"],
        (b"NO-EVICT", 3) => vec![args[0], args[1], b"OFF"],
        (b"KILL", 3) => vec![args[0], args[1], b"ID", NOBODY],
        (b"KILL", 4..) => kill_nobody(args),
        _ => return None,
    };
    let mut wire = BytesMut::new();
    encode_request(&mut wire, &probe);
    Some(wire)
}

/// CLIENT KILL with every id replaced by one that nobody has.
fn kill_nobody<'a>(args: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut by_id = false;
    let mut out: Vec<&[u8]> = Vec::with_capacity(args.len() + 2);
    for (at, arg) in args.iter().enumerate() {
        let age = at > 2 && args[at - 1].eq_ignore_ascii_case(b"MAXAGE");
        if at > 2 && !age && number(arg).is_some_and(|id| id > 0) {
            out.push(NOBODY);
            by_id |= args[at - 1].eq_ignore_ascii_case(b"ID");
        } else {
            out.push(arg);
        }
    }
    if !by_id {
        out.extend([b"ID", NOBODY]);
    }
    out
}

fn upper(args: &[&[u8]], at: usize) -> Vec<u8> {
    args.get(at)
        .map(|arg| arg.to_ascii_uppercase())
        .unwrap_or_default()
}

impl Worker {
    /// The node answered `probe` and would have answered `frame`: our answer; `None` where Redis gives
    /// none.
    pub(super) fn answer_client(
        &mut self,
        index: usize,
        frame: &[u8],
        probe: &[u8],
    ) -> Option<Bytes> {
        let request = RequestScanner::default()
            .scan(frame, &Limits::default())
            .ok()??;
        let args: Vec<&[u8]> = request.args(frame).collect();
        let mut reply = BytesMut::new();
        let session = &mut self.sessions[index];
        let resp3 = session.key.resp3;
        match upper(&args, 1).as_slice() {
            b"ID" => put_integer(&mut reply, session.client.id as i64),
            b"GETNAME" => match session.client.state().name {
                name if name.is_empty() => put_null(&mut reply, resp3),
                name => put_bulk(&mut reply, name.as_bytes()),
            },
            b"SETNAME" => set_name(&session.client, args[2], &mut reply),
            b"SETINFO" => set_info(&session.client, args[2], args[3], &mut reply),
            b"INFO" => {
                let mut line = session.client.line(self.now, "client|info", &fields(probe));
                line.push(b'\n');
                put_text(&mut reply, &line, resp3);
            }
            b"LIST" => list(self, index, &args, &fields(probe), &mut reply),
            b"KILL" => kill(self, index, &args, &mut reply),
            b"REPLY" => return reply_mode(session, args[2]),
            _ => match upper(&args, 2).as_slice() {
                word @ (b"ON" | b"OFF") => {
                    session.client.update(|s| s.no_evict = word == b"ON");
                    put_ok(&mut reply);
                }
                _ => put_error(&mut reply, "ERR syntax error"),
            },
        }
        Some(reply.freeze())
    }
}

/// The first line about a client in the reply to CLIENT INFO or LIST: the fields that this server shows.
fn fields(reply: &[u8]) -> Cow<'_, str> {
    let text = payload(reply).unwrap_or_default();
    let text = text.strip_prefix(b"txt:").unwrap_or(text);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line)
}

/// Redis' rule for client names and library info: printable, no blanks.
pub(super) fn printable(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

fn set_name(client: &Client, name: &[u8], reply: &mut BytesMut) {
    if printable(name) {
        client.update(|s| s.name = String::from_utf8_lossy(name).into_owned());
        put_ok(reply);
    } else {
        put_error(reply, NAME_ERROR);
    }
}

pub(super) const NAME_ERROR: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

fn set_info(client: &Client, what: &[u8], value: &[u8], reply: &mut BytesMut) {
    let text = String::from_utf8_lossy(value).into_owned();
    match what.to_ascii_lowercase().as_slice() {
        b"lib-name" | b"lib-ver" if !printable(value) => {
            let what = String::from_utf8_lossy(what);
            put_error(
                reply,
                &format!("ERR {what} cannot contain spaces, newlines or special characters."),
            );
        }
        b"lib-name" => {
            client.update(|s| s.lib_name = text);
            put_ok(reply);
        }
        b"lib-ver" => {
            client.update(|s| s.lib_ver = text);
            put_ok(reply);
        }
        _ => {
            let what = String::from_utf8_lossy(what);
            put_error(reply, &format!("ERR Unrecognized option '{what}'"));
        }
    }
}

/// A text for people: a verbatim string in RESP3.
fn put_text(out: &mut BytesMut, text: &[u8], resp3: bool) {
    if resp3 {
        out.extend_from_slice(format!("={}\r\ntxt:", text.len() + 4).as_bytes());
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    } else {
        put_bulk(out, text);
    }
}

fn list(worker: &Worker, index: usize, args: &[&[u8]], fields: &str, reply: &mut BytesMut) {
    let session = &worker.sessions[index];
    let me = session.client.id;
    let all = worker.shared.registry.of_backend(session.backend);
    let ids: Vec<i64> = args.iter().skip(3).filter_map(|a| number(a)).collect();
    // Redis 6.0 knows neither.
    let by_id = fields.contains(" laddr=");
    // Valkey 8.1 takes the options of CLIENT KILL.
    let filters = fields.contains(" capa=");
    let chosen: Vec<Arc<Client>> = match upper(args, 2).as_slice() {
        b"" if args.len() == 2 => all,
        _ if filters && args.len() > 3 => match Filter::read(&args[2..], false) {
            Ok(filter) => all
                .into_iter()
                .filter(|client| filter.fits(client, me, worker.now))
                .collect(),
            Err(error) => return put_error_bytes(reply, &error),
        },
        b"TYPE" if args.len() == 4 => match kind_of(args[3]) {
            Some(kind) => all.into_iter().filter(|c| c.kind() == kind).collect(),
            None => return put_error_bytes(reply, &unknown_kind(args[3])),
        },
        b"ID" if by_id && args.len() > 3 && ids.len() == args.len() - 3 => ids
            .iter()
            .filter_map(|id| all.iter().find(|c| c.id as i64 == *id).cloned())
            .collect(),
        b"ID" if by_id && args.len() > 3 => return put_error(reply, "ERR Invalid client ID"),
        _ => return put_error(reply, "ERR syntax error"),
    };
    let mut text = Vec::new();
    for client in chosen {
        let command = if client.id == me {
            "client|list"
        } else {
            "NULL"
        };
        text.extend(client.line(worker.now, command, fields));
        text.push(b'\n');
    }
    put_text(reply, &text, session.key.resp3);
}

/// The words of CLIENT LIST TYPE; nobody here is a replica.
fn kind_of(word: &[u8]) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Some("normal"),
        b"pubsub" => Some("pubsub"),
        b"master" => Some("master"),
        b"replica" | b"slave" => Some("replica"),
        _ => None,
    }
}

/// To Redis the word ends at a NUL.
fn unknown_kind(word: &[u8]) -> Vec<u8> {
    let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
    [b"ERR Unknown client type '", word, b"'"].concat()
}

/// A number as Redis reads it.
pub(super) fn number(text: &[u8]) -> Option<i64> {
    crate::resp::integer(text)
}

/// What CLIENT KILL looks for.
#[derive(Default)]
struct Filter<'a> {
    ids: Option<Vec<i64>>,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    kind: Option<&'static str>,
    max_age: Option<u64>,
    keep_me: bool,
}

fn kill(worker: &mut Worker, index: usize, args: &[&[u8]], reply: &mut BytesMut) {
    let old_form = args.len() == 3;
    let filter = if old_form {
        Ok(Filter {
            addr: Some(args[2]),
            ..Filter::default()
        })
    } else {
        Filter::read(&args[2..], true)
    };
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => return put_error_bytes(reply, &error),
    };
    let me = worker.sessions[index].client.id;
    let mut killed = 0;
    let mut suicide = false;
    for client in worker
        .shared
        .registry
        .of_backend(worker.sessions[index].backend)
    {
        if !filter.fits(&client, me, worker.now) {
            continue;
        }
        killed += 1;
        if client.id == me {
            suicide = true;
        } else {
            // Nobody sees it from now on. A worker that is gone has ended its clients already.
            worker.shared.registry.remove(client.id);
            let _ = client.worker.send(Message::Kill(client.id));
        }
    }
    match (old_form, killed) {
        (true, 0) => put_error(reply, "ERR No such client"),
        (true, _) => put_ok(reply),
        (false, n) => put_integer(reply, n),
    }
    if suicide {
        worker.sessions[index].finish_now();
    }
}

impl<'a> Filter<'a> {
    fn read(args: &[&'a [u8]], keep_me: bool) -> Result<Filter<'a>, Vec<u8>> {
        let mut filter = Filter {
            keep_me,
            ..Filter::default()
        };
        let mut rest = args;
        while let [option, more @ ..] = rest {
            let option = option.to_ascii_uppercase();
            if option == b"ID" {
                // One, or several since Valkey 8.1; the node has been asked.
                let ids: Vec<i64> = more.iter().map_while(|arg| number(arg)).collect();
                if ids.iter().any(|id| *id < 1) {
                    return Err("ERR client-id should be greater than 0".into());
                }
                rest = &more[ids.len()..];
                filter.ids.get_or_insert_default().extend(ids);
                continue;
            }
            let [value, more @ ..] = more else {
                return Err("ERR syntax error".into());
            };
            rest = more;
            match option.as_slice() {
                b"ADDR" => filter.addr = Some(value),
                b"LADDR" => filter.laddr = Some(value),
                b"USER" => filter.user = Some(value),
                b"TYPE" => {
                    let kind = kind_of(value).ok_or_else(|| unknown_kind(value))?;
                    filter.kind = Some(kind);
                }
                b"MAXAGE" => {
                    let age =
                        number(value).ok_or("ERR maxage is not an integer or out of range")?;
                    let age = u64::try_from(age).ok().filter(|age| *age > 0);
                    filter.max_age = Some(age.ok_or("ERR maxage should be greater than 0")?);
                }
                b"SKIPME" => match value.to_ascii_lowercase().as_slice() {
                    b"yes" => filter.keep_me = true,
                    b"no" => filter.keep_me = false,
                    _ => return Err("ERR syntax error".into()),
                },
                _ => return Err("ERR syntax error".into()),
            }
        }
        Ok(filter)
    }

    fn fits(&self, client: &Client, me: u64, now: Timestamp) -> bool {
        let age = now.since(client.since).as_secs();
        let ids = self.ids.as_ref();
        ids.is_none_or(|ids| ids.contains(&(client.id as i64)))
            && self.addr.is_none_or(|a| a == client.addr.as_bytes())
            && self.laddr.is_none_or(|a| a == client.laddr.as_bytes())
            && self.user.is_none_or(|u| u == client.state().user)
            && self.kind.is_none_or(|k| k == client.kind())
            && self.max_age.is_none_or(|max| age >= max)
            && !(client.id == me && self.keep_me)
    }
}

/// The client's id is ours; the node knows the connection it waits on by another one.
/// `None`: it is no CLIENT UNBLOCK.
pub(super) fn unblock(worker: &Worker, args: &[&[u8]]) -> Option<BytesMut> {
    if upper(args, 1) != b"UNBLOCK" || !(3..=4).contains(&args.len()) {
        return None;
    }
    let waits_on = number(args[2]).map(|id| {
        let client = u64::try_from(id)
            .ok()
            .and_then(|id| worker.shared.registry.get(id));
        match client.map_or(0, |c| c.blocked_on.load(Ordering::Relaxed)) {
            0 => NOBODY.to_vec(),
            id => id.to_string().into_bytes(),
        }
    });
    let mut wire = BytesMut::new();
    let mut translated = args.to_vec();
    if let Some(id) = &waits_on {
        translated[2] = id;
    }
    encode_request(&mut wire, &translated);
    Some(wire)
}

/// Until when CLIENT PAUSE stops all clients; `None` where it stops writes only, or is wrong.
fn pause_of_all(now: Timestamp, args: &[&[u8]]) -> Option<Timestamp> {
    let all = match args {
        [_, _, _] => true,
        [_, _, _, mode] => mode.eq_ignore_ascii_case(b"ALL"),
        _ => false,
    };
    let millis = number(args.get(2)?).filter(|_| all)?;
    let pause = Duration::from_millis(u64::try_from(millis).ok()?);
    Some(now + pause.min(MAX_PAUSE))
}

/// Whether it is a CLIENT PAUSE that stops all clients.
pub(super) fn pauses_all(args: &[&[u8]]) -> bool {
    upper(args, 1) == b"PAUSE" && pause_of_all(Timestamp::default(), args).is_some()
}

/// The node would stop answering everybody, also those who watch it, and that is how a node looks that
/// hangs. So it is asked for a pause of no length, which tells whether the client may, and pointsman
/// stops its own clients.
fn pause(worker: &mut Worker, index: usize, args: &[&[u8]]) -> Result<Step, Park> {
    let until = pause_of_all(worker.now, args).unwrap_or(worker.now);
    let session = &worker.sessions[index];
    let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
    let mut frame = BytesMut::new();
    let mut words = vec![args[0], args[1], b"0"];
    words.extend(args.get(3));
    encode_request(&mut frame, &words);
    worker.push_hook(index, lane, Hook::Pause(until), Replay::Read, &frame);
    Ok(Step::Next)
}

fn reply_mode(session: &mut Session, mode: &[u8]) -> Option<Bytes> {
    session.reply_mode = match mode.to_ascii_uppercase().as_slice() {
        b"ON" => {
            session.reply_mode = ReplyMode::On;
            return Some(Bytes::from_static(b"+OK\r\n"));
        }
        b"OFF" => ReplyMode::Off,
        b"SKIP" if session.reply_mode == ReplyMode::On => ReplyMode::SkipNext,
        b"SKIP" => session.reply_mode,
        _ => return Some(Bytes::from_static(b"-ERR syntax error\r\n")),
    };
    None
}

/// State of the connection itself, which needs a connection of its own.
fn no_touch(worker: &mut Worker, index: usize, args: &[&[u8]], frame: &[u8]) -> Result<Step, Park> {
    let lane = worker.pin(index)?;
    if let Some(sticky) = Sticky::of(args, frame) {
        worker.push_hook(index, lane, Hook::Sticky(sticky), Replay::Read, frame);
    }
    Ok(Step::Next)
}

/// Invalidations for another connection, which may be on another worker.
pub(super) fn redirects(args: &[&[u8]]) -> bool {
    upper(args, 1) == b"TRACKING" && args.iter().any(|a| a.eq_ignore_ascii_case(b"REDIRECT"))
}

impl Sticky {
    /// What a CLIENT NO-TOUCH leaves behind.
    pub(super) fn of(args: &[&[u8]], frame: &[u8]) -> Option<Sticky> {
        if upper(args, 1) != b"NO-TOUCH" {
            return None;
        }
        Some(Sticky {
            frame: Bytes::copy_from_slice(frame),
            off: args.get(2)?.eq_ignore_ascii_case(b"OFF"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_say_what_is_wrong() {
        let read = |args: &[&'static [u8]]| Filter::read(args, true);
        assert!(read(&[b"ID", b"0"]).is_err());
        assert!(read(&[b"ADDR"]).is_err());
        assert!(read(&[b"TYPE", b"nonsense"]).is_err());
        let filter = read(&[b"id", b"7", b"8", b"skipme", b"no"]).unwrap_or_default();
        assert_eq!((filter.ids, filter.keep_me), (Some(vec![7, 8]), false));
    }
}
