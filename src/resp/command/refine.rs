//! What the arguments of a request change about its command.

use crate::resp::request::{Args, Request};

use super::{Command, Replay};

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

/// Why a subcommand can not be carried; for whole commands see [`super::Special::Refused`].
pub fn refused(command: &Command, request: &Request, frame: &[u8]) -> Option<&'static str> {
    const BUS: &[&str] = &[
        "ADDSLOTS",
        "ADDSLOTSRANGE",
        "BUMPEPOCH",
        "DELSLOTS",
        "DELSLOTSRANGE",
        "FAILOVER",
        "FLUSHSLOTS",
        "FORGET",
        "MEET",
        "MIGRATESLOTS",
        "CANCELSLOTMIGRATIONS",
        "MIGRATION",
        "SYNCSLOTS",
        "REPLICATE",
        "RESET",
        "SAVECONFIG",
        "SET-CONFIG-EPOCH",
        "SETSLOT",
    ];
    match command.special {
        super::Special::Refused(reason) => return Some(reason),
        _ if command.name == "CLUSTER" => {}
        _ => return None,
    }
    is_one_of(request.arg(frame, 1)?, BUS)
        .then_some("the membership of a cluster can not be changed through pointsman")
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
