//! CLIENT and its subcommands. The client's connection is ours, so they are about our clients and are
//! answered here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::dispatch::Step;
use super::hook::Hook;
use super::lane::Kind;
use super::registry::Client;
use super::session::{Park, ReplyMode};
use super::tracking;
use super::worker::{Message, Worker};
use crate::resp::{
    Replay, Request, encode_request, put_bulk, put_error, put_integer, put_null, put_ok,
};
use crate::topology::Timestamp;

/// No CLIENT PAUSE is longer than a year.
const MAX_PAUSE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// CLIENT and its subcommands.
pub(super) fn client(
    worker: &mut Worker,
    index: usize,
    request: &Request,
    frame: &[u8],
) -> Result<Step, Park> {
    let args: Vec<&[u8]> = request.args(frame).collect();
    let word = args
        .get(1)
        .map(|w| w.to_ascii_uppercase())
        .unwrap_or_default();
    let mut reply = BytesMut::new();
    let session = &mut worker.sessions[index];
    let resp3 = session.key.resp3;
    match (word.as_slice(), args.len()) {
        (b"ID", 2) => put_integer(&mut reply, session.client.id as i64),
        (b"GETNAME", 2) => match session.client.state().name {
            name if name.is_empty() => put_null(&mut reply, resp3),
            name => put_bulk(&mut reply, name.as_bytes()),
        },
        (b"SETNAME", 3) => set_name(&session.client, args[2], &mut reply),
        (b"SETINFO", 4) => set_info(&session.client, args[2], args[3], &mut reply),
        (b"INFO", 2) => {
            let line = session.client.line(worker.now, "client|info") + "\n";
            put_text(&mut reply, &line, resp3);
        }
        (b"LIST", _) => list(worker, index, &args, &mut reply),
        (b"KILL", 3..) => return Ok(kill(worker, index, &args)),
        (b"UNBLOCK", 3..=4) => return Ok(unblock(worker, index, &args)),
        (b"REPLY", 3) => return Ok(reply_mode(worker, index, args[2])),
        (b"NO-EVICT", 3) => match args[2].to_ascii_uppercase().as_slice() {
            b"ON" | b"OFF" => put_ok(&mut reply),
            _ => put_error(&mut reply, "ERR syntax error"),
        },
        (b"TRACKING", 3..) => return tracking::tracking(worker, index, &args),
        (b"NO-TOUCH", 3..) => return no_touch(worker, index, &args, frame),
        (b"TRACKINGINFO" | b"GETREDIR" | b"CACHING", _) => {
            let session = &worker.sessions[index];
            let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
            let hook = match word.as_slice() {
                b"CACHING" => Hook::Caching,
                _ => Hook::Target,
            };
            worker.push_hook(index, lane, hook, Replay::Read, frame);
            return Ok(Step::Next);
        }
        (b"PAUSE", 3..) if pause_of_all(worker.now, &args).is_some() => {
            return pause(worker, index, &args);
        }
        _ => {
            // PAUSE WRITE, UNPAUSE, HELP and what we do not know: never over a shared connection.
            let lane = worker.pin(index)?;
            if let Some(pin) = &mut worker.sessions[index].pin {
                pin.tainted = true;
            }
            worker.push(index, lane, Kind::Plain, Replay::Never, frame);
            return Ok(Step::Next);
        }
    }
    worker.reply_local(index, &reply);
    Ok(Step::Next)
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
    let what = what.to_ascii_lowercase();
    match what.as_slice() {
        b"lib-name" | b"lib-ver" if !printable(value) => {
            let what = String::from_utf8_lossy(&what);
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
        other => {
            let other = String::from_utf8_lossy(other);
            put_error(reply, &format!("ERR Unrecognized option '{other}'"));
        }
    }
}

/// A text for people: a verbatim string in RESP3.
fn put_text(out: &mut BytesMut, text: &str, resp3: bool) {
    if resp3 {
        out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
    } else {
        put_bulk(out, text.as_bytes());
    }
}

fn list(worker: &Worker, index: usize, args: &[&[u8]], reply: &mut BytesMut) {
    let session = &worker.sessions[index];
    let me = session.client.id;
    let all = worker.shared.registry.of_backend(session.backend);
    let upper = |i: usize| {
        args.get(i)
            .map(|a| a.to_ascii_uppercase())
            .unwrap_or_default()
    };
    let ids: Vec<u64> = args.iter().skip(3).filter_map(|a| number(a)).collect();
    let chosen: Vec<Arc<Client>> = match upper(2).as_slice() {
        b"" => all,
        b"TYPE" if args.len() == 4 => match kind_of(args[3]) {
            Some(kind) => all.into_iter().filter(|c| c.kind() == kind).collect(),
            None => {
                let kind = String::from_utf8_lossy(args[3]);
                return put_error(reply, &format!("ERR Unknown client type '{kind}'"));
            }
        },
        b"ID" if args.len() > 3 && ids.len() == args.len() - 3 => {
            all.into_iter().filter(|c| ids.contains(&c.id)).collect()
        }
        b"ID" if args.len() > 3 => return put_error(reply, "ERR Invalid client ID"),
        _ => return put_error(reply, "ERR syntax error"),
    };
    let mut text = String::new();
    for client in chosen {
        let command = if client.id == me {
            "client|list"
        } else {
            "NULL"
        };
        text += &client.line(worker.now, command);
        text.push('\n');
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

pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What CLIENT KILL looks for.
#[derive(Default)]
struct KillFilter<'a> {
    id: Option<u64>,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    kind: Option<&'static str>,
    max_age: Option<u64>,
    keep_me: bool,
}

fn kill(worker: &mut Worker, index: usize, args: &[&[u8]]) -> Step {
    let old_form = args.len() == 3;
    let filter = if old_form {
        Ok(KillFilter {
            addr: Some(args[2]),
            ..KillFilter::default()
        })
    } else {
        kill_filter(&args[2..])
    };
    let mut reply = BytesMut::new();
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => {
            put_error(&mut reply, &error);
            worker.reply_local(index, &reply);
            return Step::Next;
        }
    };
    let me = worker.sessions[index].client.id;
    let mut killed = 0;
    let mut suicide = false;
    for client in worker
        .shared
        .registry
        .of_backend(worker.sessions[index].backend)
    {
        let age = worker.now.since(client.since).as_secs();
        let matches = filter.id.is_none_or(|id| id == client.id)
            && filter.addr.is_none_or(|a| a == client.addr.as_bytes())
            && filter.laddr.is_none_or(|a| a == client.laddr.as_bytes())
            && filter
                .user
                .is_none_or(|u| u == client.state().user.as_bytes())
            && filter.kind.is_none_or(|k| k == client.kind())
            && filter.max_age.is_none_or(|max| age >= max);
        if !matches || (client.id == me && filter.keep_me) {
            continue;
        }
        killed += 1;
        if client.id == me {
            suicide = true;
        } else {
            // A worker that is gone has ended its clients already.
            let _ = client.worker.send(Message::Kill(client.id));
        }
    }
    match (old_form, killed) {
        (true, 0) => put_error(&mut reply, "ERR No such client"),
        (true, _) => put_ok(&mut reply),
        (false, n) => put_integer(&mut reply, n),
    }
    worker.reply_local(index, &reply);
    if suicide {
        worker.sessions[index].finish();
        return Step::Stop;
    }
    Step::Next
}

fn kill_filter<'a>(args: &[&'a [u8]]) -> Result<KillFilter<'a>, String> {
    let mut filter = KillFilter {
        keep_me: true,
        ..KillFilter::default()
    };
    for pair in args.chunks(2) {
        let [option, value] = pair else {
            return Err("ERR syntax error".into());
        };
        let positive = || number(value).filter(|n| *n > 0);
        match option.to_ascii_uppercase().as_slice() {
            b"ID" => {
                filter.id = Some(positive().ok_or("ERR client-id should be greater than 0")?);
            }
            b"ADDR" => filter.addr = Some(value),
            b"LADDR" => filter.laddr = Some(value),
            b"USER" => filter.user = Some(value),
            b"TYPE" => {
                let unknown = || {
                    format!(
                        "ERR Unknown client type '{}'",
                        String::from_utf8_lossy(value)
                    )
                };
                filter.kind = Some(kind_of(value).ok_or_else(unknown)?);
            }
            b"MAXAGE" => {
                filter.max_age =
                    Some(positive().ok_or("ERR maxage is not an integer or out of range")?);
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

/// The client's id is ours; the node knows the connection it waits on by another one.
fn unblock(worker: &mut Worker, index: usize, args: &[&[u8]]) -> Step {
    let mut reply = BytesMut::new();
    let mode = args.get(3).map(|m| m.to_ascii_uppercase());
    let id = number(args[2]);
    match (id, mode.as_deref()) {
        (Some(id), None | Some(b"TIMEOUT" | b"ERROR")) => {
            let client = worker.shared.registry.get(id);
            let waits_on = client.map_or(0, |c| c.blocked_on.load(Ordering::Relaxed));
            if waits_on != 0 {
                let waits_on = waits_on.to_string();
                let mode = mode.as_deref().unwrap_or(b"TIMEOUT");
                let mut request = BytesMut::new();
                encode_request(
                    &mut request,
                    &[b"CLIENT", b"UNBLOCK", waits_on.as_bytes(), mode],
                );
                let session = &worker.sessions[index];
                let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
                worker.push(index, lane, Kind::Plain, Replay::Never, &request);
                return Step::Next;
            }
            put_integer(&mut reply, 0);
        }
        (None, _) => put_error(&mut reply, "ERR value is not an integer or out of range"),
        _ => put_error(
            &mut reply,
            "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
        ),
    }
    worker.reply_local(index, &reply);
    Step::Next
}

/// Until when CLIENT PAUSE stops all clients; `None` where it stops writes only, or is wrong.
fn pause_of_all(now: Timestamp, args: &[&[u8]]) -> Option<Timestamp> {
    let all = match args {
        [_, _, _] => true,
        [_, _, _, mode] => mode.eq_ignore_ascii_case(b"ALL"),
        _ => false,
    };
    let millis = number(args[2]).filter(|millis| all && i64::try_from(*millis).is_ok())?;
    Some(now + Duration::from_millis(millis).min(MAX_PAUSE))
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

fn reply_mode(worker: &mut Worker, index: usize, mode: &[u8]) -> Step {
    let session = &mut worker.sessions[index];
    match mode.to_ascii_uppercase().as_slice() {
        b"ON" => {
            session.reply_mode = ReplyMode::On;
            worker.reply_local(index, b"+OK\r\n");
        }
        b"OFF" => session.reply_mode = ReplyMode::Off,
        b"SKIP" if session.reply_mode == ReplyMode::On => {
            session.reply_mode = ReplyMode::SkipNext;
        }
        b"SKIP" => {}
        _ => worker.reply_local(index, b"-ERR syntax error\r\n"),
    }
    Step::Next
}

/// State of the connection itself, which needs a connection of its own.
fn no_touch(worker: &mut Worker, index: usize, args: &[&[u8]], frame: &[u8]) -> Result<Step, Park> {
    let lane = worker.pin(index)?;
    let hook = Hook::Sticky {
        frame: Bytes::copy_from_slice(frame),
        word: "NO-TOUCH",
        off: args[2].eq_ignore_ascii_case(b"OFF"),
    };
    worker.push_hook(index, lane, hook, Replay::Read, frame);
    Ok(Step::Next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_filters_say_what_is_wrong() {
        assert!(kill_filter(&[b"ID", b"0"]).is_err());
        assert!(kill_filter(&[b"ID"]).is_err());
        assert!(kill_filter(&[b"TYPE", b"nonsense"]).is_err());
        let filter = kill_filter(&[b"id", b"7", b"skipme", b"no"]).unwrap_or_default();
        assert_eq!((filter.id, filter.keep_me), (Some(7), false));
    }
}
