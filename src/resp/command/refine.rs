//! What the arguments of a request change about its command.

use crate::resp::request::{Args, Request};

use super::{Command, Replay, Special};

/// How arguments change a command's replay class.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refine {
    /// They do not.
    No,
    /// SET: idempotent with nothing but a time to live.
    Set,
    /// GETEX: without options it is GET.
    Getex,
    /// BITFIELD: a read with nothing but GET.
    Bitfield,
    /// A read unless one of these words is among the arguments from this one on.
    Unless(&'static [&'static str], usize),
    /// Overwrites the key that is this argument with something made of the keys behind it: may
    /// run again unless it is one of them.
    Destination(usize),
    /// COPY: with REPLACE it overwrites.
    CopyReplace,
    /// RESTORE: with REPLACE it overwrites.
    RestoreReplace,
    /// A command with subcommands: those that read, those that are idempotent.
    Sub(&'static [&'static str], &'static [&'static str]),
}

/// How `request` may be replayed: the table's class, refined by its arguments. `Never` for an
/// unknown command and for a request that is inline (rewrite it first).
#[inline]
pub fn replay(command: Option<&Command>, request: &Request, frame: &[u8]) -> Replay {
    match command {
        None => Replay::Never,
        Some(command) => match command.refine {
            Refine::No => command.replay,
            refine => refined(refine, request, frame),
        },
    }
}

/// Why `request` can not be carried, commands refused as a whole ([`Special::Refused`]) included.
/// Of CLUSTER only what reads is carried: new servers bring new ways to change who belongs to it.
pub fn refused(command: &Command, request: &Request, frame: &[u8]) -> Option<&'static str> {
    match command.special {
        Special::Refused(reason) => Some(reason),
        Special::Cluster if request.argc > 1 => (replay(Some(command), request, frame)
            != Replay::Read)
            .then_some("a cluster can not be changed through pointsman"),
        Special::Script => request
            .arg(frame, 1)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"DEBUG"))
            .then_some("the debugger of scripts can not be carried through pointsman"),
        _ => None,
    }
}

fn refined(refine: Refine, request: &Request, frame: &[u8]) -> Replay {
    let read_if = |yes| if yes { Replay::Read } else { Replay::Never };
    let idempotent_if = |yes| {
        if yes {
            Replay::Idempotent
        } else {
            Replay::Never
        }
    };
    if request.inline {
        return Replay::Never;
    }
    match refine {
        Refine::No => Replay::Never,
        Refine::Set => idempotent_if(set_only_sets(request, frame)),
        Refine::Getex => read_if(request.argc == 2),
        Refine::Bitfield => read_if(bitfield_only_gets(request.args(frame))),
        Refine::Unless(words, from) => read_if(
            !request
                .args(frame)
                .skip(from)
                .any(|arg| is_one_of(arg, words)),
        ),
        Refine::Destination(at) => idempotent_if(destination_is_no_source(request, frame, at)),
        Refine::CopyReplace => idempotent_if(
            request.arg(frame, 1) != request.arg(frame, 2)
                && request
                    .args(frame)
                    .skip(3)
                    .any(|arg| arg.eq_ignore_ascii_case(b"REPLACE")),
        ),
        Refine::RestoreReplace => idempotent_if(
            request
                .args(frame)
                .skip(4)
                .any(|arg| arg.eq_ignore_ascii_case(b"REPLACE")),
        ),
        Refine::Sub(reads, idempotent) => match request.arg(frame, 1) {
            Some(sub) if is_one_of(sub, reads) => Replay::Read,
            Some(sub) => idempotent_if(is_one_of(sub, idempotent)),
            None => Replay::Never,
        },
    }
}

/// SET key value, with a time to live or KEEPTTL at most. NX, XX, IFEQ, IFNE, IFDEQ, IFDNE and GET
/// make the reply depend on what was there; a word we do not know might.
fn set_only_sets(request: &Request, frame: &[u8]) -> bool {
    if request.argc == 3 {
        return true;
    }
    let mut options = request.args(frame).skip(3);
    while let Some(option) = options.next() {
        if is_one_of(option, &["EX", "PX", "EXAT", "PXAT"]) {
            if options.next().is_none() {
                return false;
            }
        } else if !option.eq_ignore_ascii_case(b"KEEPTTL") {
            return false;
        }
    }
    true
}

fn bitfield_only_gets(args: Args<'_>) -> bool {
    let mut rest = args.skip(2);
    while let Some(word) = rest.next() {
        if !word.eq_ignore_ascii_case(b"GET") || rest.nth(1).is_none() {
            return false;
        }
    }
    true
}

/// Careful where a weight or an option happens to look like the destination: then it says no.
fn destination_is_no_source(request: &Request, frame: &[u8], at: usize) -> bool {
    match request.arg(frame, at) {
        None => false,
        Some(destination) => !request
            .args(frame)
            .skip(at + 1)
            .any(|arg| arg == destination),
    }
}

pub(super) fn is_one_of(word: &[u8], words: &[&str]) -> bool {
    words
        .iter()
        .any(|other| word.eq_ignore_ascii_case(other.as_bytes()))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::resp::command::lookup;
    use crate::resp::{Limits, RequestScanner, encode_request};

    fn request(line: &str) -> (Request, BytesMut) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        let request = RequestScanner::default()
            .scan(&frame, &Limits::default())
            .unwrap()
            .unwrap();
        (request, frame)
    }

    fn class(line: &str) -> Replay {
        let (request, frame) = request(line);
        replay(lookup(request.arg(&frame, 0).unwrap()), &request, &frame)
    }

    #[test]
    fn what_overwrites_may_run_again() {
        for line in [
            "set k v",
            "SET k NX",
            "SET k v EX 10",
            "SET k v px 10 keepttl",
            "SET k v EXAT 1700000000",
            "SETEX k 10 v",
            "PSETEX k 10 v",
            "MSET a 1 b 2",
            "HMSET h f v",
            "PFMERGE d a b",
            "SUNIONSTORE d a b",
            "SDIFFSTORE d a b",
            "BITOP XOR d a b",
            "ZUNIONSTORE d 2 a b",
            "ZRANGESTORE d s 0 -1",
            "GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 km",
            "COPY a b REPLACE",
            "RESTORE k 0 payload replace",
            "SCRIPT LOAD body",
        ] {
            assert_eq!(class(line), Replay::Idempotent, "{line}");
        }
    }

    #[test]
    fn what_would_show_when_run_twice_never_runs_twice() {
        for line in [
            "SET k v NX",
            "SET k v XX",
            "SET k v GET",
            "SET k v EX 10 NX",
            "SET k v IFEQ old",
            "SET k v EX",
            "SET k v whatever",
            "SETNX k v",
            "HSET h f v",
            "DEL k",
            "SADD s m",
            "EXPIRE k 10",
            "LSET l 0 v",
            "INCR k",
            "GETEX k EX 10",
            "GETEX k PERSIST",
            "SDIFFSTORE d a d",
            "BITOP XOR d d a",
            "ZUNIONSTORE d 2 d a",
            "COPY a b",
            "COPY a a REPLACE",
            "RESTORE k 0 payload",
            "SORT l STORE d",
            "SORT l LIMIT 0 1 store d",
            "GEORADIUS g 1 1 1 km STORE d",
            "GEORADIUSBYMEMBER g m 1 km STOREDIST d",
            "BITFIELD k GET u8 0 INCRBY u8 0 1",
            "BITFIELD k GET u8",
            "XADD s * f v",
            "XREADGROUP GROUP g c STREAMS s >",
            "EVAL return 0",
            "FCALL f 0",
            "CONFIG SET a b",
            "CONFIG",
            "SCRIPT FLUSH",
            "FLUSHALL",
            "PUBLISH c m",
            "XGROUP CREATE s g $",
            "nonsense a b",
        ] {
            assert_eq!(class(line), Replay::Never, "{line}");
        }
    }

    #[test]
    fn reads_are_reads() {
        for line in [
            "get k",
            "GETEX k",
            "SORT l",
            "SORT l BY w GET # LIMIT 0 10",
            "GEORADIUS g 1 1 1 km ASC",
            "BITFIELD k GET u8 0 GET u8 8",
            "XINFO STREAM s",
            "OBJECT encoding k",
            "MEMORY USAGE k",
            "CONFIG GET a",
            "COMMAND DOCS get",
            "PUBSUB CHANNELS",
            "EVAL_RO return 0",
            "FCALL_RO f 0",
            "XREAD BLOCK 0 STREAMS s $",
            "SCRIPT EXISTS abc",
        ] {
            assert_eq!(class(line), Replay::Read, "{line}");
        }
    }

    #[test]
    fn an_inline_request_is_never_replayed_before_it_is_rewritten() {
        let frame = b"SET k v\r\n";
        let request = RequestScanner::default()
            .scan(frame, &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!(replay(lookup(b"SET"), &request, frame), Replay::Never);
    }

    #[test]
    fn replication_and_membership_are_refused() {
        for (line, expected) in [
            ("REPLICAOF NO ONE", true),
            ("PSYNC ? -1", true),
            ("CLUSTER MEET h 1", true),
            ("CLUSTER failover", true),
            ("SCRIPT debug YES", true),
            ("SCRIPT FLUSH", false),
            ("CLUSTER INFO", false),
            ("CLUSTER", false),
            ("GET k", false),
        ] {
            let (request, frame) = request(line);
            let command = lookup(request.arg(&frame, 0).unwrap()).unwrap();
            let reason = refused(command, &request, &frame);
            assert_eq!(reason.is_some(), expected, "{line}");
        }
    }
}
