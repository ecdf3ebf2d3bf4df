//! Where a request goes in a cluster: by its first key, to a shard that we choose, or to all of them.

use crate::resp::request::Request;

use super::refine::is_one_of;

/// Which shards a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The one that serves the hash slot of this argument. All other keys must be in the same slot: the
    /// node sees to that.
    Key(usize),
    /// Any: it has no key.
    Any,
    /// Every one.
    All(Join),
    /// Its keys may be in several slots: a request for each, and one reply. They are every so many
    /// arguments behind the name.
    Split {
        /// From one key to the next.
        step: usize,
        /// How the replies become one.
        join: Join,
    },
    /// SCAN: one shard after the other.
    Scan,
    /// The number of this argument is the hash slot itself.
    Slot(usize),
}

/// How the replies of several shards become one. An error of any of them is the reply, but for [`Join::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The sum.
    Sum,
    /// An array of the elements in the order of the keys.
    Gather,
    /// All elements, in no order.
    Concat,
    /// Where all say the same: the first.
    First,
    /// One that is not null.
    NotNull,
    /// Element by element the smallest number.
    Least,
    /// `OK` when all have answered, whatever they say.
    Done,
}

/// Commands without a key, in the order of the alphabet. What is not here and nowhere below has its first
/// key behind the name; a test compares that with what a real server says.
const KEYLESS: &[&str] = &[
    "ACL",
    "ASKING",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT",
    "COMMAND",
    "COMMANDLOG",
    "DISCARD",
    "ECHO",
    "EXEC",
    "FAILOVER",
    "FT.INFO",
    "FT.SEARCH",
    "FT._LIST",
    "HELLO",
    "HOST:",
    "HOTKEYS",
    "INFO",
    "LASTSAVE",
    "LATENCY",
    "LOLWUT",
    "MODULE",
    "MONITOR",
    "MULTI",
    "PFSELFTEST",
    "PING",
    "POST",
    "PSUBSCRIBE",
    "PSYNC",
    "PUBLISH",
    "PUBSUB",
    "PUNSUBSCRIBE",
    "QUIT",
    "READONLY",
    "READWRITE",
    "REPLCONF",
    "REPLICAOF",
    "RESET",
    "ROLE",
    "SAVE",
    "SELECT",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG",
    "SUBSCRIBE",
    "SWAPDB",
    "SYNC",
    "TIME",
    "TS.MGET",
    "TS.MRANGE",
    "TS.MREVRANGE",
    "TS.QUERYINDEX",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WAITAOF",
];

/// Longest name that is compared, bytes.
const MAX_NAME: usize = 24;

/// Where `request` goes. A request without the arguments that it needs goes anywhere: the node has the
/// words for what is wrong.
pub fn reach(request: &Request, frame: &[u8]) -> Reach {
    let Some(name) = request.arg(frame, 0) else {
        return Reach::Any;
    };
    let mut upper = [0; MAX_NAME];
    let Some(upper) = upper.get_mut(..name.len()) else {
        return key_at(request, 1);
    };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    let arg = |at| request.arg(frame, at);
    let sub = |words: &[&str]| arg(1).is_some_and(|word| is_one_of(word, words));
    match &*upper {
        // What is most of the traffic comes first.
        b"GET" | b"SET" => key_at(request, 1),
        b"MGET" => split(request, 1, Join::Gather),
        b"MSET" if request.argc % 2 == 1 => split(request, 2, Join::First),
        b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" => split(request, 1, Join::Sum),
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" | b"BLMPOP"
        | b"BZMPOP" => counted(request, frame, 2),
        b"ZUNION" | b"ZINTER" | b"ZDIFF" | b"ZINTERCARD" | b"SINTERCARD" | b"LMPOP" | b"ZMPOP"
        | b"MSETEX" => counted(request, frame, 1),
        b"XREAD" | b"XREADGROUP" => {
            let streams = request
                .args(frame)
                .skip(1)
                .position(|word| word.eq_ignore_ascii_case(b"STREAMS"));
            streams.map_or(Reach::Any, |at| key_at(request, at + 2))
        }
        b"BITOP" | b"OBJECT" | b"XINFO" | b"XGROUP" | b"PFDEBUG" | b"XCFGSET" => key_at(request, 2),
        b"MEMORY" if sub(&["USAGE"]) => key_at(request, 2),
        b"DEBUG" if sub(&["OBJECT", "SDSLEN", "LISTPACK", "QUICKLIST", "HTSTATS-KEY"]) => {
            key_at(request, 2)
        }
        b"MEMORY" | b"DEBUG" => Reach::Any,
        b"STRALGO" => counted_words(request, frame, b"KEYS"),
        b"MIGRATE" => match arg(3) {
            Some(b"") => counted_words(request, frame, b"KEYS"),
            _ => key_at(request, 3),
        },
        b"SCAN" => Reach::Scan,
        b"DBSIZE" => Reach::All(Join::Sum),
        b"FLUSHALL" | b"FLUSHDB" => Reach::All(Join::First),
        b"KEYS" => Reach::All(Join::Concat),
        b"RANDOMKEY" => Reach::All(Join::NotNull),
        b"SCRIPT" if sub(&["LOAD", "FLUSH"]) => Reach::All(Join::First),
        b"SCRIPT" if sub(&["EXISTS"]) => Reach::All(Join::Least),
        b"FUNCTION" if sub(&["LOAD", "DELETE", "FLUSH", "RESTORE"]) => Reach::All(Join::First),
        b"CONFIG" if sub(&["SET", "RESETSTAT", "REWRITE"]) => Reach::All(Join::First),
        b"SCRIPT" | b"FUNCTION" | b"CONFIG" => Reach::Any,
        b"CLUSTER" if sub(&["COUNTKEYSINSLOT", "GETKEYSINSLOT"]) && request.argc > 2 => {
            Reach::Slot(2)
        }
        b"CLUSTER" => Reach::Any,
        name if KEYLESS
            .binary_search_by(|other| other.as_bytes().cmp(name))
            .is_ok() =>
        {
            Reach::Any
        }
        _ => key_at(request, 1),
    }
}

fn key_at(request: &Request, at: usize) -> Reach {
    match at < request.argc {
        true => Reach::Key(at),
        false => Reach::Any,
    }
}

fn split(request: &Request, step: usize, join: Join) -> Reach {
    match request.argc {
        0 | 1 => Reach::Any,
        argc if argc == 1 + step => Reach::Key(1),
        _ => Reach::Split { step, join },
    }
}

/// The keys stand behind their number.
fn counted(request: &Request, frame: &[u8], at: usize) -> Reach {
    let number = request.arg(frame, at).and_then(crate::resp::integer);
    match number {
        Some(n) if n > 0 => key_at(request, at + 1),
        _ => Reach::Any,
    }
}

/// The keys stand behind a word.
fn counted_words(request: &Request, frame: &[u8], word: &[u8]) -> Reach {
    let found = request
        .args(frame)
        .skip(1)
        .position(|arg| arg.eq_ignore_ascii_case(word));
    found.map_or(Reach::Any, |at| key_at(request, at + 2))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::resp::{Limits, RequestScanner, encode_request};

    fn reach_of(line: &str) -> Reach {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        let request = RequestScanner::default()
            .scan(&frame, &Limits::default())
            .unwrap()
            .unwrap();
        reach(&request, &frame)
    }

    #[test]
    fn the_names_are_in_order() {
        assert!(KEYLESS.is_sorted());
    }

    #[test]
    fn keys_are_found_where_each_command_has_them() {
        for (line, expected) in [
            ("get k", Reach::Key(1)),
            ("SET k v", Reach::Key(1)),
            ("nonsense k", Reach::Key(1)),
            ("GET", Reach::Any),
            ("EVAL s 2 a b", Reach::Key(3)),
            ("EVAL s 0 a", Reach::Any),
            ("EVAL s x a", Reach::Any),
            ("ZUNION 2 a b", Reach::Key(2)),
            ("BLMPOP 0 1 l LEFT", Reach::Key(3)),
            ("XREAD COUNT 2 STREAMS s $", Reach::Key(4)),
            ("XREADGROUP GROUP g c STREAMS s >", Reach::Key(5)),
            ("BITOP AND d a", Reach::Key(2)),
            ("OBJECT HELP", Reach::Any),
            ("OBJECT ENCODING k", Reach::Key(2)),
            ("MEMORY USAGE k", Reach::Key(2)),
            ("MEMORY STATS", Reach::Any),
            ("MIGRATE h 1 k 0 10", Reach::Key(3)),
            ("PING", Reach::Any),
            ("PUBLISH c m", Reach::Any),
            ("SPUBLISH c m", Reach::Key(1)),
            ("DEL a", Reach::Key(1)),
            ("MSET a 1", Reach::Key(1)),
            ("MSET a 1 b", Reach::Key(1)),
            ("SCAN 0", Reach::Scan),
            ("HSCAN h 0", Reach::Key(1)),
            ("DBSIZE", Reach::All(Join::Sum)),
            ("script load x", Reach::All(Join::First)),
            ("SCRIPT KILL", Reach::Any),
            ("CLUSTER COUNTKEYSINSLOT 7", Reach::Slot(2)),
        ] {
            assert_eq!(reach_of(line), expected, "{line}");
        }
        let split = |step, join| Reach::Split { step, join };
        assert_eq!(reach_of("mget a b"), split(1, Join::Gather));
        assert_eq!(reach_of("MSET a 1 b 2"), split(2, Join::First));
        assert_eq!(reach_of("EXISTS a a"), split(1, Join::Sum));
    }
}
