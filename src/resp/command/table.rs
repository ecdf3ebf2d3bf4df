//! The command table: Redis up to 8 and Valkey up to 9, and the reads of the usual modules.
//!
//! A command that is not here travels like any other and is never replayed. A test compares the
//! table with what a real server says about its commands.

use super::BlockingTimeout::{FirstSeconds, LastSeconds, OptionMillis};
use super::Channels::{Pattern, Plain, Sharded};
use super::refine::Refine;
use super::{Command, Replay, Special};

const fn row(name: &'static str, replay: Replay, special: Special, refine: Refine) -> Command {
    Command {
        name,
        replay,
        special,
        refine,
    }
}

const fn read(name: &'static str) -> Command {
    row(name, Replay::Read, Special::None, Refine::No)
}

/// Overwrites what it touches and answers the same again.
const fn idempotent(name: &'static str) -> Command {
    row(name, Replay::Idempotent, Special::None, Refine::No)
}

const fn never(name: &'static str) -> Command {
    row(name, Replay::Never, Special::None, Refine::No)
}

/// Its arguments decide; `Never` until they were looked at.
const fn refined(name: &'static str, refine: Refine) -> Command {
    row(name, Replay::Never, Special::None, refine)
}

const fn special(name: &'static str, special: Special) -> Command {
    row(name, Replay::Never, special, Refine::No)
}

const REPLICATION: Special =
    Special::Refused("replication between servers can not be carried through pointsman");
const ROLES: Special =
    Special::Refused("who is primary is decided by pointsman: use `pointsman switchover`");

pub(super) static COMMANDS: &[Command] = &[
    // Strings
    read("GET"),
    refined("SET", Refine::Set),
    refined("GETEX", Refine::Getex),
    read("MGET"),
    idempotent("MSET"),
    read("STRLEN"),
    read("GETRANGE"),
    read("SUBSTR"),
    read("LCS"),
    // Redis 6 only.
    read("STRALGO"),
    read("DIGEST"),
    idempotent("SETEX"),
    idempotent("PSETEX"),
    never("SETNX"),
    never("MSETNX"),
    never("MSETEX"),
    never("SETRANGE"),
    never("APPEND"),
    never("INCR"),
    never("DECR"),
    never("INCRBY"),
    never("DECRBY"),
    never("INCRBYFLOAT"),
    never("GETSET"),
    never("GETDEL"),
    never("DELEX"),
    never("DELIFEQ"),
    // Bits
    read("GETBIT"),
    read("BITCOUNT"),
    read("BITPOS"),
    read("BITFIELD_RO"),
    refined("BITFIELD", Refine::Bitfield),
    never("SETBIT"),
    refined("BITOP", Refine::Destination(2)),
    // Keys
    read("EXISTS"),
    read("TYPE"),
    read("TTL"),
    read("PTTL"),
    read("EXPIRETIME"),
    read("PEXPIRETIME"),
    read("KEYS"),
    row("SCAN", Replay::Read, Special::Scan, Refine::No),
    read("RANDOMKEY"),
    read("DBSIZE"),
    read("DUMP"),
    read("TOUCH"),
    read("SORT_RO"),
    refined("SORT", Refine::Unless(&["STORE"], 2)),
    refined("COPY", Refine::CopyReplace),
    refined("RESTORE", Refine::RestoreReplace),
    refined("RESTORE-ASKING", Refine::RestoreReplace),
    never("DEL"),
    never("UNLINK"),
    never("RENAME"),
    never("RENAMENX"),
    never("MOVE"),
    never("MIGRATE"),
    never("EXPIRE"),
    never("PEXPIRE"),
    never("EXPIREAT"),
    never("PEXPIREAT"),
    never("PERSIST"),
    refined(
        "OBJECT",
        Refine::Sub(&["ENCODING", "FREQ", "IDLETIME", "REFCOUNT", "HELP"], &[]),
    ),
    // Hashes
    read("HGET"),
    read("HMGET"),
    read("HGETALL"),
    read("HKEYS"),
    read("HVALS"),
    read("HLEN"),
    read("HEXISTS"),
    read("HSTRLEN"),
    row("HSCAN", Replay::Read, Special::Scan, Refine::No),
    read("HRANDFIELD"),
    read("HTTL"),
    read("HPTTL"),
    read("HEXPIRETIME"),
    read("HPEXPIRETIME"),
    idempotent("HMSET"),
    never("HSET"),
    never("HSETNX"),
    never("HSETEX"),
    never("HGETEX"),
    never("HGETDEL"),
    never("HDEL"),
    never("HINCRBY"),
    never("HINCRBYFLOAT"),
    never("HEXPIRE"),
    never("HPEXPIRE"),
    never("HEXPIREAT"),
    never("HPEXPIREAT"),
    never("HPERSIST"),
    // Lists
    read("LRANGE"),
    read("LLEN"),
    read("LINDEX"),
    read("LPOS"),
    never("LSET"),
    never("LPUSH"),
    never("RPUSH"),
    never("LPUSHX"),
    never("RPUSHX"),
    never("LPOP"),
    never("RPOP"),
    never("LREM"),
    never("LTRIM"),
    never("LINSERT"),
    never("LMOVE"),
    never("RPOPLPUSH"),
    never("LMPOP"),
    special("BLPOP", Special::Blocking(LastSeconds)),
    special("BRPOP", Special::Blocking(LastSeconds)),
    special("BLMOVE", Special::Blocking(LastSeconds)),
    special("BRPOPLPUSH", Special::Blocking(LastSeconds)),
    special("BLMPOP", Special::Blocking(FirstSeconds)),
    // Sets
    read("SMEMBERS"),
    read("SISMEMBER"),
    read("SMISMEMBER"),
    read("SCARD"),
    read("SRANDMEMBER"),
    read("SINTER"),
    read("SINTERCARD"),
    read("SUNION"),
    read("SDIFF"),
    row("SSCAN", Replay::Read, Special::Scan, Refine::No),
    never("SADD"),
    never("SREM"),
    never("SPOP"),
    never("SMOVE"),
    refined("SINTERSTORE", Refine::Destination(1)),
    refined("SUNIONSTORE", Refine::Destination(1)),
    refined("SDIFFSTORE", Refine::Destination(1)),
    // Sorted sets
    read("ZRANGE"),
    read("ZRANGEBYSCORE"),
    read("ZRANGEBYLEX"),
    read("ZREVRANGE"),
    read("ZREVRANGEBYSCORE"),
    read("ZREVRANGEBYLEX"),
    read("ZSCORE"),
    read("ZMSCORE"),
    read("ZRANK"),
    read("ZREVRANK"),
    read("ZCARD"),
    read("ZCOUNT"),
    read("ZLEXCOUNT"),
    row("ZSCAN", Replay::Read, Special::Scan, Refine::No),
    read("ZRANDMEMBER"),
    read("ZINTER"),
    read("ZINTERCARD"),
    read("ZUNION"),
    read("ZDIFF"),
    never("ZADD"),
    never("ZINCRBY"),
    never("ZREM"),
    never("ZREMRANGEBYRANK"),
    never("ZREMRANGEBYSCORE"),
    never("ZREMRANGEBYLEX"),
    never("ZPOPMIN"),
    never("ZPOPMAX"),
    never("ZMPOP"),
    refined("ZINTERSTORE", Refine::Destination(1)),
    refined("ZUNIONSTORE", Refine::Destination(1)),
    refined("ZDIFFSTORE", Refine::Destination(1)),
    refined("ZRANGESTORE", Refine::Destination(1)),
    special("BZPOPMIN", Special::Blocking(LastSeconds)),
    special("BZPOPMAX", Special::Blocking(LastSeconds)),
    special("BZMPOP", Special::Blocking(FirstSeconds)),
    // Places
    read("GEODIST"),
    read("GEOHASH"),
    read("GEOPOS"),
    read("GEOSEARCH"),
    read("GEORADIUS_RO"),
    read("GEORADIUSBYMEMBER_RO"),
    refined("GEORADIUS", Refine::Unless(&["STORE", "STOREDIST"], 6)),
    refined(
        "GEORADIUSBYMEMBER",
        Refine::Unless(&["STORE", "STOREDIST"], 5),
    ),
    refined("GEOSEARCHSTORE", Refine::Destination(1)),
    never("GEOADD"),
    // Cardinality estimates
    read("PFCOUNT"),
    idempotent("PFMERGE"),
    never("PFADD"),
    never("PFDEBUG"),
    never("PFSELFTEST"),
    // Streams
    read("XRANGE"),
    read("XREVRANGE"),
    read("XLEN"),
    read("XPENDING"),
    row(
        "XREAD",
        Replay::Read,
        Special::Blocking(OptionMillis),
        Refine::No,
    ),
    special("XREADGROUP", Special::Blocking(OptionMillis)),
    refined(
        "XINFO",
        Refine::Sub(&["STREAM", "GROUPS", "CONSUMERS", "HELP"], &[]),
    ),
    refined("XGROUP", Refine::Sub(&["HELP"], &[])),
    never("XADD"),
    never("XDEL"),
    never("XDELEX"),
    never("XACK"),
    never("XACKDEL"),
    never("XCLAIM"),
    never("XAUTOCLAIM"),
    never("XTRIM"),
    never("XSETID"),
    never("XCFGSET"),
    // Vector sets
    read("VSIM"),
    read("VCARD"),
    read("VDIM"),
    read("VEMB"),
    read("VINFO"),
    read("VLINKS"),
    read("VGETATTR"),
    read("VISMEMBER"),
    read("VRANDMEMBER"),
    read("VRANGE"),
    never("VADD"),
    never("VREM"),
    never("VSETATTR"),
    // Scripts and functions
    special("EVAL", Special::Eval),
    special("EVALSHA", Special::EvalSha),
    row("EVAL_RO", Replay::Read, Special::Eval, Refine::No),
    row("EVALSHA_RO", Replay::Read, Special::EvalSha, Refine::No),
    row(
        "SCRIPT",
        Replay::Never,
        Special::Script,
        Refine::Sub(&["EXISTS", "SHOW", "HELP"], &["LOAD"]),
    ),
    never("FCALL"),
    read("FCALL_RO"),
    row(
        "FUNCTION",
        Replay::Never,
        Special::Function,
        Refine::Sub(&["LIST", "DUMP", "STATS", "HELP"], &[]),
    ),
    // Transactions
    special("MULTI", Special::Multi),
    special("EXEC", Special::Exec),
    special("DISCARD", Special::Discard),
    special("WATCH", Special::Watch),
    special("UNWATCH", Special::Unwatch),
    // Channels
    special("SUBSCRIBE", Special::Subscribe(Plain)),
    special("PSUBSCRIBE", Special::Subscribe(Pattern)),
    special("SSUBSCRIBE", Special::Subscribe(Sharded)),
    special("UNSUBSCRIBE", Special::Unsubscribe(Plain)),
    special("PUNSUBSCRIBE", Special::Unsubscribe(Pattern)),
    special("SUNSUBSCRIBE", Special::Unsubscribe(Sharded)),
    never("PUBLISH"),
    never("SPUBLISH"),
    read("PUBSUB"),
    // Connection
    read("PING"),
    read("ECHO"),
    special("CLIENT", Special::Client),
    special("HELLO", Special::Hello),
    special("AUTH", Special::Auth),
    special("SELECT", Special::Select),
    special("RESET", Special::Reset),
    special("QUIT", Special::Quit),
    special("POST", Special::CrossProtocol),
    special("HOST:", Special::CrossProtocol),
    // Server
    read("INFO"),
    read("TIME"),
    read("ROLE"),
    read("LASTSAVE"),
    read("LOLWUT"),
    read("COMMAND"),
    refined("CONFIG", Refine::Sub(&["GET", "HELP"], &[])),
    refined(
        "MEMORY",
        Refine::Sub(&["USAGE", "STATS", "DOCTOR", "MALLOC-STATS", "HELP"], &[]),
    ),
    refined(
        "LATENCY",
        Refine::Sub(
            &["LATEST", "HISTORY", "DOCTOR", "GRAPH", "HISTOGRAM", "HELP"],
            &[],
        ),
    ),
    refined("SLOWLOG", Refine::Sub(&["GET", "LEN", "HELP"], &[])),
    refined("COMMANDLOG", Refine::Sub(&["GET", "LEN", "HELP"], &[])),
    refined("HOTKEYS", Refine::Sub(&["GET", "HELP"], &[])),
    refined("MODULE", Refine::Sub(&["LIST", "HELP"], &[])),
    refined(
        "ACL",
        Refine::Sub(
            &[
                "WHOAMI", "LIST", "USERS", "GETUSER", "CAT", "GENPASS", "DRYRUN", "HELP",
            ],
            &[],
        ),
    ),
    special("WAIT", Special::Wait),
    special("WAITAOF", Special::Wait),
    special("MONITOR", Special::Monitor),
    special("DEBUG", Special::Pin),
    never("FLUSHALL"),
    never("FLUSHDB"),
    never("SWAPDB"),
    never("SAVE"),
    never("BGSAVE"),
    never("BGREWRITEAOF"),
    never("SHUTDOWN"),
    special("SYNC", REPLICATION),
    special("PSYNC", REPLICATION),
    special("REPLCONF", REPLICATION),
    special("SLAVEOF", ROLES),
    special("REPLICAOF", ROLES),
    special("FAILOVER", ROLES),
    // Cluster
    row(
        "CLUSTER",
        Replay::Never,
        Special::Cluster,
        Refine::Sub(
            &[
                "INFO",
                "NODES",
                "SLOTS",
                "SHARDS",
                "LINKS",
                "KEYSLOT",
                "MYID",
                "MYSHARDID",
                "REPLICAS",
                "SLAVES",
                "COUNTKEYSINSLOT",
                "GETKEYSINSLOT",
                "COUNT-FAILURE-REPORTS",
                "SLOT-STATS",
                "GETSLOTMIGRATIONS",
                "HELP",
            ],
            &[],
        ),
    ),
    never("ASKING"),
    // Valkey keeps it as state of the connection, which others share.
    row("READONLY", Replay::Read, Special::Pin, Refine::No),
    row("READWRITE", Replay::Read, Special::Pin, Refine::No),
    // Reads of modules
    read("JSON.GET"),
    read("JSON.MGET"),
    read("JSON.TYPE"),
    read("JSON.STRLEN"),
    read("JSON.OBJKEYS"),
    read("JSON.OBJLEN"),
    read("JSON.ARRLEN"),
    read("JSON.ARRINDEX"),
    read("JSON.RESP"),
    read("FT.SEARCH"),
    read("FT.INFO"),
    read("FT._LIST"),
    read("BF.EXISTS"),
    read("BF.MEXISTS"),
    read("BF.CARD"),
    read("BF.INFO"),
    read("CF.EXISTS"),
    read("CF.MEXISTS"),
    read("CF.COUNT"),
    read("CF.INFO"),
    read("CMS.QUERY"),
    read("CMS.INFO"),
    read("TOPK.QUERY"),
    read("TOPK.LIST"),
    read("TOPK.INFO"),
    read("TS.GET"),
    read("TS.MGET"),
    read("TS.RANGE"),
    read("TS.REVRANGE"),
    read("TS.MRANGE"),
    read("TS.MREVRANGE"),
    read("TS.INFO"),
    read("TS.QUERYINDEX"),
];

/// Places of the hash table; a power of two, about four times the number of commands.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 10;

/// Longest name, bytes.
const MAX_NAME: usize = 20;

/// A place of the hash table.
#[derive(Clone, Copy)]
struct Slot {
    /// See [`key`]; 0: free.
    key: u64,
    /// Index into [`COMMANDS`].
    command: u16,
    /// The name's length.
    len: u8,
    /// The key and the length are the whole name: it is short and all letters.
    whole: bool,
}

/// Collisions go to the next place.
static INDEX: [Slot; SLOTS] = index();

const fn index() -> [Slot; SLOTS] {
    assert!(COMMANDS.len() * 3 < SLOTS);
    let free = Slot {
        key: 0,
        command: 0,
        len: 0,
        whole: false,
    };
    let mut index = [free; SLOTS];
    let mut i = 0;
    while i < COMMANDS.len() {
        let name = COMMANDS[i].name.as_bytes();
        assert!(name.len() <= MAX_NAME);
        let mut whole = name.len() <= 8;
        let mut at = 0;
        while at < name.len() {
            whole &= name[at].is_ascii_alphabetic();
            at += 1;
        }
        let mut slot = place(key(name), name.len());
        while index[slot].key != 0 {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = Slot {
            key: key(name),
            command: i as u16,
            len: name.len() as u8,
            whole,
        };
        i += 1;
    }
    index
}

/// The first eight bytes, the same for capital and small letters. Never 0.
#[inline]
const fn key(name: &[u8]) -> u64 {
    let mut key: u64 = 0;
    let mut at = 0;
    while at < name.len() && at < 8 {
        key |= (name[at] as u64) << (8 * at);
        at += 1;
    }
    key | 0x2020_2020_2020_2020
}

#[inline]
const fn place(key: u64, len: usize) -> usize {
    let mixed = (key ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - SLOT_BITS)) as usize
}

#[inline]
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    if name.len() > MAX_NAME {
        return None;
    }
    let key = key(name);
    let mut at = place(key, name.len());
    loop {
        let slot = &INDEX[at];
        if slot.key == 0 {
            return None;
        }
        if slot.key == key && usize::from(slot.len) == name.len() {
            let command = &COMMANDS[usize::from(slot.command)];
            if slot.whole || command.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(command);
            }
        }
        at = (at + 1) % SLOTS;
    }
}
