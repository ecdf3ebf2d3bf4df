//! Requests out of the table: right ones made of small pools, so that commands meet each other's keys,
//! and wrong ones.

use crate::exclusion;
use crate::random::Random;
use crate::table::{Argument, Command};

pub type Request = Vec<Vec<u8>>;

pub const KEYS: &[&str] = &["a", "b", "c", "l", "h", "s", "z", "x", "{a}1", "missing"];
const VALUES: &[&str] = &[
    "",
    "v",
    "7",
    "-3",
    "1.5",
    "abc",
    "hello world",
    "\r\n\0\u{1}",
    "x\"y'",
];
const MEMBERS: &[&str] = &["m", "n", "o", "1", "2", "f"];
const INTEGERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "-1",
    "10",
    "100",
    "x",
    "9223372036854775807",
    "1.5",
    "",
];
const DOUBLES: &[&str] = &["0", "1", "-2.5", "3", "inf", "-inf", "nan", "x", "1e300"];
pub const CHANNELS: &[&str] = &["ch1", "ch2", "ch3"];
const PATTERNS: &[&str] = &["*", "ch*", "a*", "?", "[a-c]", "nothing*"];
/// Far enough away not to pass while a sequence runs, or passed long ago.
const TIMES: &[&str] = &["100000", "4102444800", "0", "-1", "x"];
/// Seconds that something may wait; [`SHORT`] is waited out.
pub const TIMEOUTS: &[&str] = &["0", "1000", SHORT, SHORT, "-1", "x"];
pub const SHORT: &str = "0.013";
pub const SHORT_MILLIS: &str = "13";
const STREAM_IDS: &[&str] = &[
    "0", "$", ">", "1-1", "2-1", "3-3", "5", "-", "+", "(1-1", "x",
];
pub const USERS: &[&str] = &["alice", "bob", "nobody"];
pub const PASSWORDS: &[&str] = &["pw", "wrong", ""];
/// None takes a password away: Redis lets those who are logged in go on, pointsman cannot log in for them
/// again.
pub const RULES: &[&str] = &[
    "on",
    ">pw",
    "~*",
    "~a*",
    "&*",
    "&ch1",
    "+@all",
    "-@all",
    "+get",
    "-get",
    "+@read",
    "-@write",
    "+client",
    "resetkeys",
    "resetchannels",
    "+select|0",
    "%R~a",
    "nonsense",
];
pub const SCRIPTS: &[&str] = &[
    "return 1",
    "return {1,'a',{2},false}",
    "return redis.call('SET',KEYS[1],ARGV[1])",
    "return redis.call('GET',KEYS[1])",
    "return redis.pcall('INCR',KEYS[1])",
    "return redis.error_reply('MY error')",
    "return redis.status_reply('FINE')",
    "return redis.call('nothing')",
    "error('failed')",
    "syntax error",
    "redis.setresp(3); return redis.call('HGETALL','h')",
    "return redis.call('SELECT','3')",
    "return {double=1.5}",
];
const LIBRARIES: &[&str] = &[
    "#!lua name=lib1\nredis.register_function('f1', function(keys, args) return redis.call('SET', keys[1], args[1]) end)",
    "#!lua name=lib2\nredis.register_function{function_name='f2', callback=function(keys, args) return {#keys, args[1]} end, flags={'no-writes'}}",
    "#!lua name=bad\nnonsense",
    "no shebang",
];
const WORDS: &[&str] = &[
    "HELP", "YES", "NO", "ON", "OFF", "LEFT", "get", "set", "client", "string", "nonsense",
];

/// Makes requests of the table.
pub struct Arguments<'a> {
    random: &'a mut Random,
    out: Request,
    /// The number of keys that NUMKEYS announced.
    keys: Option<usize>,
}

/// A request of this command, most of the time a right one.
pub fn request(random: &mut Random, command: &Command) -> Request {
    loop {
        let mut arguments = Arguments {
            out: command
                .words
                .iter()
                .map(|w| w.clone().into_bytes())
                .collect(),
            random,
            keys: None,
        };
        match &command.arguments {
            Some(list) if !list.is_empty() || command.arity.abs() <= command.words.len() as i64 => {
                list.iter().for_each(|argument| arguments.add(argument));
            }
            _ => arguments.add_any(command.arity),
        }
        if arguments.random.percent(12) {
            arguments.spoil(command.words.len());
        }
        let request = std::mem::take(&mut arguments.out);
        if !exclusion::excludes(&request) {
            return request;
        }
    }
}

impl Arguments<'_> {
    fn push(&mut self, word: impl Into<Vec<u8>>) {
        self.out.push(word.into());
    }

    fn add(&mut self, argument: &Argument) {
        if argument.optional && self.random.percent(65) {
            return;
        }
        let mut repeat = match argument.multiple {
            true => 1 + self.random.below(3),
            false => 1,
        };
        if argument.multiple
            && argument.kind == "key"
            && let Some(keys) = self.keys.take()
        {
            repeat = keys;
        }
        for round in 0..repeat {
            if let Some(token) = &argument.token
                && (round == 0 || argument.multiple_token)
                && argument.kind != "pure-token"
                && !token.is_empty()
            {
                self.push(token.clone());
            }
            match argument.kind.as_str() {
                "pure-token" => self.push(argument.token.clone().unwrap_or_default()),
                "oneof" => {
                    let child = self.random.below(argument.children.len().max(1));
                    if let Some(child) = argument.children.get(child) {
                        let child = Argument {
                            optional: false,
                            ..child.clone()
                        };
                        self.add(&child);
                    }
                }
                "block" => argument.children.iter().for_each(|child| self.add(child)),
                _ => self.add_value(argument),
            }
        }
    }

    fn add_value(&mut self, argument: &Argument) {
        let name = argument.name.as_str();
        let blocks = argument.token.as_deref() == Some("BLOCK");
        if name == "numkeys" {
            let keys = 1 + self.random.below(3);
            self.keys = Some(keys);
            if self.random.percent(92) {
                return self.push(keys.to_string());
            }
        }
        if name == "client-id" {
            let connection = self.random.below(crate::sequence::CONNECTIONS);
            return self.push(format!("{{id:{connection}}}"));
        }
        if name == "ip:port" {
            let connection = self.random.below(crate::sequence::CONNECTIONS);
            return self.push(format!("{{addr:{connection}}}"));
        }
        if name == "sha1" {
            let script = self.random.word(SCRIPTS);
            return self.push(sha1(script));
        }
        let pool: &[&str] = match (name, argument.kind.as_str()) {
            (_, _) if blocks => &["0", "100000", SHORT_MILLIS, "-1", "x"],
            ("timeout", _) => TIMEOUTS,
            ("cursor", _) => &["0", "0", "0", "x"],
            ("pattern", _) if argument.token.as_deref() == Some("BY") => &["w_*", "h->*", "*"],
            ("pattern", _) if argument.token.as_deref() == Some("GET") => &["#", "*", "h->*"],
            ("channel" | "shardchannel", _) => CHANNELS,
            ("id" | "last-id" | "max_deleted_entry_id", _) => STREAM_IDS,
            ("start" | "end", "string") => STREAM_IDS,
            ("min" | "max" | "stop", "string") => &[
                "-", "+", "[a", "(n", "[z", "0", "(1", "-inf", "+inf", "x", "-1",
            ],
            ("username", _) => USERS,
            ("password", _) => PASSWORDS,
            ("rule", _) => RULES,
            ("index" | "index1" | "index2" | "db" | "destination-db", "integer") => {
                &["0", "1", "1", "15", "16", "-1", "x"]
            }
            ("script", _) => SCRIPTS,
            ("function-code", _) => LIBRARIES,
            ("function", _) => &["f1", "f2", "f3"],
            ("library-name" | "library-name-pattern", _) => &["lib1", "lib2", "*"],
            ("group" | "groupname", _) => &["g1", "g2"],
            ("consumer" | "consumername", _) => &["c1", "c2"],
            ("command" | "command-name", _) => &["get", "set", "client|list", "nonsense"],
            ("parameter", _) => &["maxmemory", "appendonly", "list-max-*", "nonsense"],
            ("category" | "categoryname", _) => &["read", "connection", "nonsense"],
            ("operation", _) => &["AND", "OR", "XOR", "NOT", "x"],
            ("encoding", _) => &["u8", "i16", "u63", "i64", "u64", "x"],
            ("type", _) => &["string", "list", "hash", "nonsense"],
            ("protover", _) => &["2", "3", "3", "1", "4", "x"],
            ("clientname" | "connection-name", _) => &["name", "", "with space"],
            ("yes/no", _) => &["yes", "no", "x"],
            ("section", _) => &["server", "clients", "everything", "nonsense"],
            ("subcommand", _) => &["GETREG", "ENCODING", "x"],
            ("message", _) => &["hello", "", "a b"],
            ("bits", _) => &["8", "0", "x"],
            ("frequency", _) => &["5", "x"],
            ("member" | "field" | "element" | "member1" | "member2", _) => MEMBERS,
            ("min-idle-time", _) => &["0", "100000", "x"],
            ("numreplicas", _) => &["0", "0", "-1", "x"],
            ("longitude" | "latitude", _) => &["1.5", "2", "13.4", "200", "x"],
            (n, _) if n.contains("seconds") || n == "ms" || n == "ttl" => TIMES,
            (_, "unix-time") => TIMES,
            (_, "key") => KEYS,
            (_, "integer") => INTEGERS,
            (_, "double") => DOUBLES,
            (_, "pattern") => PATTERNS,
            _ => VALUES,
        };
        let word = self.random.word(pool);
        self.push(word);
    }

    /// Without documentation: as many as the arity says.
    fn add_any(&mut self, arity: i64) {
        let mut count = usize::try_from(arity.abs())
            .unwrap_or(1)
            .saturating_sub(self.out.len());
        if arity < 0 {
            count += self.random.below(4);
        }
        for _ in 0..count {
            self.add_junk();
        }
    }

    fn add_junk(&mut self) {
        let pools = [KEYS, KEYS, VALUES, INTEGERS, WORDS, MEMBERS];
        let pool = *self.random.pick(&pools);
        let word = self.random.word(pool);
        self.push(word);
    }

    fn spoil(&mut self, words: usize) {
        match self.random.below(6) {
            0 if self.out.len() > 1 => {
                let at = 1 + self.random.below(self.out.len() - 1);
                self.out.remove(at);
            }
            1 => self.add_junk(),
            2 if self.out.len() > words => {
                self.add_junk();
                let at = words + self.random.below(self.out.len() - words);
                self.out.swap_remove(at);
            }
            3 => self.out.truncate(words),
            4 => {
                let name = self.out[0].to_ascii_uppercase();
                self.out[0] = name;
            }
            _ => {
                let at = self.random.below(words.min(2));
                self.out[at] = b"nonsense".to_vec();
            }
        }
    }
}

/// The name of a script.
pub fn sha1(script: &str) -> String {
    use sha1::Digest;
    let hash: [u8; 20] = sha1::Sha1::digest(script).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
