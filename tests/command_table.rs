//! The command table against what a real server says about its commands, and the replay classes
//! against what a real server does.

mod redis;

use std::collections::BTreeSet;

use bytes::BytesMut;
use pointsman::resp::command::{self, Reach, Special};
use pointsman::resp::{Limits, Replay, RequestScanner, encode_request, reply};

use redis::{Server, version};

/// What COMMAND says about one command.
struct Described {
    name: String,
    flags: BTreeSet<String>,
    subcommands: Vec<Described>,
}

fn described(frame: &[u8]) -> Described {
    let fields: Vec<&[u8]> = reply::elements(frame).collect();
    let text = |frame: &[u8]| {
        let payload = reply::payload(frame).expect("a string");
        String::from_utf8(payload.to_vec())
            .expect("text")
            .to_uppercase()
    };
    let subcommands = fields.get(9).copied().unwrap_or_default();
    Described {
        name: text(fields[0]).replace('|', " "),
        flags: reply::elements(fields[2]).map(text).collect(),
        subcommands: reply::elements(subcommands).map(described).collect(),
    }
}

fn class(line: &str) -> Replay {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let mut frame = BytesMut::new();
    encode_request(&mut frame, &args);
    let scanned = RequestScanner::default().scan(&frame, &Limits::default());
    let request = scanned.expect("valid").expect("complete");
    command::replay(command::lookup(args[0]), &request, &frame)
}

/// Commands that a server calls `noscript` and that need nothing of the session all the same: they
/// are about the server, not the connection. Functions live in the data set, unlike scripts.
const NOSCRIPT_BUT_PLAIN: &[&str] = &[
    "BGREWRITEAOF",
    "BGSAVE",
    "FCALL",
    "FCALL_RO",
    "ROLE",
    "SAVE",
    "SHUTDOWN",
];

/// `pubsub` commands that do not change the connection.
const PUBSUB_BUT_PLAIN: &[&str] = &["PUBLISH", "SPUBLISH"];

/// What they are depends on their subcommands, and old servers do not list those; the last two are no
/// commands at all.
const CONTAINERS: &[&str] = &[
    "ACL", "CONFIG", "LATENCY", "MEMORY", "MODULE", "OBJECT", "PUBSUB", "XINFO", "POST", "HOST:",
];

#[test]
fn the_table_agrees_with_the_servers_own_description() {
    let server = Server::start();
    let description = server.connect().ask("COMMAND");
    let commands: Vec<Described> = reply::elements(&description).map(described).collect();
    assert!(commands.len() > 200, "COMMAND answered {}", commands.len());
    // Before Redis 7 it told neither subcommands nor which commands block.
    let in_full = version().1 >= (7, 0);
    let mut wrong = Vec::new();
    for described in &commands {
        // Commands of modules carry a dot or this flag; not all of them are ours to know.
        if described.name.contains('.') || described.flags.contains("MODULE") {
            continue;
        }
        if !in_full && CONTAINERS.contains(&described.name.as_str()) {
            continue;
        }
        wrong.extend(disagreements(described, in_full));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where the server finds keys by other means than the place of the first one, as we do.
const KEYS_ELSEWHERE: &[&str] = &[
    // A channel of a shard is no key to COMMAND, and in a slot all the same.
    "SPUBLISH",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    // Old servers do not tell of the subcommands that have one.
    "MEMORY",
    "OBJECT",
    "XGROUP",
    "XINFO",
    "DEBUG",
    "PFDEBUG",
];

#[test]
fn first_keys_are_where_the_server_says() {
    let server = Server::start();
    let mut connection = server.connect();
    let description = connection.ask("COMMAND");
    let mut wrong = Vec::new();
    for frame in reply::elements(&description) {
        let fields: Vec<&[u8]> = reply::elements(frame).collect();
        let name = String::from_utf8_lossy(reply::payload(fields[0]).expect("a name"));
        let name = name.to_uppercase();
        let first = reply::payload(fields[3]).and_then(pointsman::resp::integer);
        let first = first.expect("a number") as usize;
        let flags: Vec<&[u8]> = reply::elements(fields[2])
            .filter_map(reply::payload)
            .collect();
        let movable = flags.contains(&&b"movablekeys"[..]);
        if movable || name.contains('.') || KEYS_ELSEWHERE.contains(&name.as_str()) {
            continue;
        }
        let ours = match reach(&format!("{name} 1 1 1 1 1")) {
            Reach::Key(at) => at,
            Reach::Split { .. } => 1,
            Reach::Any | Reach::All(_) | Reach::Scan | Reach::Slot(_) => 0,
        };
        if ours != first {
            wrong.push(format!("{name}: the server says {first}, we {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn keys_that_move_are_where_the_server_finds_them() {
    let server = Server::start();
    let mut connection = server.connect();
    for line in [
        "EVAL body 1 key arg",
        "EVALSHA sha 1 key arg",
        "ZUNION 1 key",
        "ZINTER 1 key",
        "ZDIFF 1 key",
        "ZUNIONSTORE key 1 a",
        "GEORADIUS key 1 1 1 km",
        "SORT key BY w",
        "XREAD COUNT 1 STREAMS key 0",
        "XREADGROUP GROUP g c STREAMS key >",
        "MIGRATE host 1 key 0 10",
    ] {
        let keys = connection.ask(&format!("COMMAND GETKEYS {line}"));
        // Redis 6.0 does not have all of them.
        if memchr::memmem::find(&keys, b"Invalid command").is_some() {
            continue;
        }
        let Reach::Key(at) = reach(line) else {
            panic!("{line}");
        };
        let ours = line.split(' ').nth(at).map(str::as_bytes);
        // All are in one slot; the order is the server's.
        let found = reply::elements(&keys).any(|key| reply::payload(key) == ours);
        assert!(found, "{line}: {}", String::from_utf8_lossy(&keys));
    }
}

fn reach(line: &str) -> Reach {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let mut frame = BytesMut::new();
    encode_request(&mut frame, &args);
    let scanned = RequestScanner::default().scan(&frame, &Limits::default());
    command::reach(&scanned.expect("valid").expect("complete"), &frame)
}

fn disagreements(described: &Described, in_full: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{}: {what}", described.name));
        }
    };
    let Some(command) = command::lookup(described.name.as_bytes()) else {
        return vec![format!("{}: not in the table", described.name)];
    };
    let flag = |name: &str| described.flags.contains(name);
    check(
        !flag("READONLY") || command.replay == Replay::Read,
        "reads, and is not Read",
    );
    check(
        !flag("WRITE") || command.replay != Replay::Read,
        "writes, and is Read",
    );
    check(
        !flag("ADMIN") || command.replay == Replay::Never,
        "admin, and may be replayed",
    );
    let blocking = matches!(command.special, Special::Blocking(_));
    check(
        !in_full || flag("BLOCKING") == blocking || command.special == Special::Wait,
        "blocking or not",
    );
    check(
        !flag("NOSCRIPT")
            || command.special != Special::None
            || NOSCRIPT_BUT_PLAIN.contains(&command.name),
        "noscript, and the session does nothing about it",
    );
    let subscription = matches!(
        command.special,
        Special::Subscribe(_) | Special::Unsubscribe(_)
    );
    check(
        flag("PUBSUB") == subscription || PUBSUB_BUT_PLAIN.contains(&command.name),
        "a subscription or not",
    );
    for sub in &described.subcommands {
        let class = class(&sub.name);
        if sub.flags.contains("READONLY") && class != Replay::Read {
            wrong.push(format!("{}: reads, and is {class:?}", sub.name));
        }
        let changes = sub.flags.contains("WRITE") || sub.flags.contains("ADMIN");
        // Admin commands that only tell something are named in the table one by one.
        let tells = [
            "GET",
            "LIST",
            "LEN",
            "LATEST",
            "HISTORY",
            "DOCTOR",
            "GRAPH",
            "HISTOGRAM",
            "USERS",
            "GETUSER",
            "DRYRUN",
        ];
        let is_told = tells
            .iter()
            .any(|word| sub.name.ends_with(&format!(" {word}")));
        let bus = sub.name.starts_with("CLUSTER ");
        if changes && class == Replay::Read && !is_told && !bus {
            wrong.push(format!("{}: changes something, and is Read", sub.name));
        }
    }
    wrong
}

/// Fills the database with one key of each kind.
const SEED: &[&str] = &[
    "FLUSHALL",
    "SET string value",
    "SET other another",
    "SET bits abc",
    "RPUSH list 1 2 3",
    "HSET hash f v",
    "SADD set a b c",
    "SADD set2 b c d",
    "ZADD zset 1 a 2 b",
    "ZADD zset2 1 b 2 c",
    "GEOADD geo 13.36 38.11 p 15.08 37.50 q",
    "PFADD hll a b",
    "PFADD hll2 c",
    "XADD stream 1-1 f v",
    "SET dst old",
];

/// Requests that the table lets run again.
const IDEMPOTENT: &[&str] = &[
    "SET string new",
    "SET string new EX 1000",
    "SET string new KEEPTTL",
    "SET hash now-a-string",
    "SET absent x PXAT 99999999999999",
    "SETEX string 1000 new",
    "PSETEX string 100000 new",
    "MSET string 1 other 2 absent 3",
    "HMSET hash f w g x",
    "PFMERGE hll hll2",
    "BITOP XOR dst string bits",
    "SINTERSTORE dst set set2",
    "SUNIONSTORE dst set set2",
    "SDIFFSTORE dst set set2",
    "ZINTERSTORE dst 2 zset zset2",
    "ZUNIONSTORE dst 2 zset zset2 WEIGHTS 2 3",
    "ZDIFFSTORE dst 2 zset zset2",
    "ZRANGESTORE dst zset 0 -1",
    "GEOSEARCHSTORE dst geo FROMMEMBER p BYRADIUS 500 km",
    "COPY string dst REPLACE",
    "SCRIPT LOAD return",
];

/// What another client may have done between the two runs.
const BETWEEN: &[&str] = &[
    "PING",
    "DEL string other hash dst absent hll",
    "SET string between",
    "SET dst between",
    "APPEND string more",
    "HSET hash h z f changed",
    "SADD set zzz",
    "ZADD zset 9 zzz",
    "DEL set zset geo",
    "EXPIRE string 500",
    "SADD dst member",
    "PERSIST string",
];

#[test]
fn running_an_idempotent_request_twice_is_running_it_late() {
    let server = Server::start();
    let mut client = server.connect();
    for request in IDEMPOTENT {
        assert_eq!(class(request), Replay::Idempotent, "{request}");
        for between in BETWEEN {
            let mut run = |steps: &[&str]| {
                for line in SEED {
                    client.ask(line);
                }
                let replies: Vec<Vec<u8>> = steps.iter().map(|step| client.ask(step)).collect();
                (replies.last().cloned(), client.ask("DEBUG DIGEST"))
            };
            let twice = run(&[request, between, request]);
            let late = run(&[between, request]);
            assert_eq!(twice, late, "{request}, with {between} in between");
        }
    }
}

#[test]
fn running_a_read_leaves_no_trace() {
    let server = Server::start();
    let mut client = server.connect();
    for line in SEED {
        client.ask(line);
    }
    let before = client.ask("DEBUG DIGEST");
    for request in [
        "GETEX string",
        "SORT list",
        "SORT list BY nosort GET # LIMIT 0 2 DESC",
        "BITFIELD bits GET u8 0 GET u4 4",
        "GEORADIUS geo 15 37 500 km WITHDIST ASC",
        "GEORADIUSBYMEMBER geo p 500 km",
        "PFCOUNT hll hll2",
        "XREAD COUNT 1 STREAMS stream 0",
        "EVAL_RO return 0",
        "OBJECT ENCODING string",
        "XINFO STREAM stream",
        "TOUCH string",
        "SCAN 0",
    ] {
        assert_eq!(class(request), Replay::Read, "{request}");
        client.ask(request);
        assert_eq!(client.ask("DEBUG DIGEST"), before, "{request}");
    }
}
