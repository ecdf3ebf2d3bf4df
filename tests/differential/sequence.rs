//! A sequence of steps for some connections, made from a seed.

use std::collections::VecDeque;
use std::fmt;

use crate::arguments::{
    self, CHANNELS, KEYS, PASSWORDS, RULES, Request, SCRIPTS, SHORT, SHORT_MILLIS, USERS,
};
use crate::random::Random;
use crate::side::Traits;
use crate::table::Command;

/// Connections of a sequence.
pub const CONNECTIONS: usize = 4;
/// Of these, that close their side together with their last requests when the sequence ends.
const LAST_PERCENT: usize = 40;

/// What is done at once.
#[derive(Clone)]
pub struct Step {
    pub connection: usize,
    pub act: Act,
}

#[derive(Clone)]
pub enum Act {
    /// Requests in one go, in pieces that end where `cuts` says (modulo the length).
    Send {
        requests: Vec<Request>,
        form: Form,
        cuts: Cuts,
    },
    /// Bytes that may be no request.
    Raw(Vec<u8>),
    /// Nothing more will be sent.
    HalfClose,
    Close,
    /// The last requests, what may be no request behind them, and nothing more: all of it at once.
    Last {
        requests: Vec<Request>,
        tail: Vec<u8>,
        form: Form,
        cuts: Cuts,
    },
}

impl Act {
    pub fn requests(&self) -> Option<&Vec<Request>> {
        match self {
            Act::Send { requests, .. } | Act::Last { requests, .. } => Some(requests),
            _ => None,
        }
    }

    pub fn requests_mut(&mut self) -> Option<&mut Vec<Request>> {
        match self {
            Act::Send { requests, .. } | Act::Last { requests, .. } => Some(requests),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Resp,
    Inline,
}

#[derive(Clone)]
pub enum Cuts {
    None,
    EveryByte,
    At(Vec<usize>),
}

/// The steps of this seed.
pub fn sequence(seed: u64, length: usize, table: &[Command], traits: Traits) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut plans: [VecDeque<Step>; CONNECTIONS] = Default::default();
    plans[0].extend(prelude());
    let mut steps: Vec<Step> = plans[0].drain(..).collect();
    while steps.len() < length {
        let connection = random.below(CONNECTIONS);
        if plans[connection].is_empty() {
            let mut planner = Planner {
                random: &mut random,
                table,
                connection,
                out: VecDeque::new(),
            };
            planner.plan();
            plans[connection] = planner.out;
        }
        steps.extend(plans[connection].pop_front());
    }
    for connection in 0..CONNECTIONS {
        if random.percent(LAST_PERCENT) {
            let mut planner = Planner {
                random: &mut random,
                table,
                connection,
                out: VecDeque::new(),
            };
            steps.push(planner.last());
        }
    }
    permit(&mut steps, traits);
    steps
}

/// What an earlier step of the connection forbids.
#[derive(Clone, Copy, Default)]
struct Forbidden {
    /// In a transaction: what pointsman refuses there (docs/compatibility.md), and CLIENT KILL, after
    /// which Redis may close without the reply to EXEC.
    transaction: bool,
    /// CLIENT REPLY is off: what ends the connection. Redis keeps it, deaf, until it has something to
    /// write.
    mute: bool,
    /// It listens: rules about users. Redis 7.0 crashes when somebody says that he may not hear himself.
    hears: bool,
    /// It tracks by prefixes: pieces. Invalidations come when the server has nothing more to read.
    broadcasts: bool,
    /// Half of a request was sent: everything but the end.
    torn: bool,
    /// It may wait for long: a short wait behind that would end nobody knows when.
    waiting: bool,
    /// It watches or tracks: when it leaves, what stands behind a command that may wait. That runs on another
    /// upstream, where a WATCH is lost and a cache is dropped.
    rooted: bool,
    /// It said CLIENT NO-TOUCH: that nobody waits. Redis 8.0 and Valkey 8.1 end when who said so serves somebody
    /// (redis#14415, valkey#2347).
    untouching: bool,
}

/// Takes out what would differ on purpose.
pub fn permit(steps: &mut [Step], traits: Traits) {
    let mut forbidden = [Forbidden::default(); CONNECTIONS];
    // The only connection that may send something behind what it waits for: who is served together
    // goes on in an order that nobody has promised.
    let mut first = None;
    for step in steps {
        let connection = step.connection;
        let alone = first.is_none_or(|first| first == connection);
        let untouching = forbidden.iter().any(|other| other.untouching);
        let broadcasts = forbidden.iter().any(|other| other.broadcasts);
        let forbidden = &mut forbidden[connection];
        let last = matches!(step.act, Act::Last { .. });
        if let Act::Last {
            requests,
            tail,
            cuts,
            ..
        } = &mut step.act
        {
            if !alone {
                // Pointsman may take them one after the other, and who is served by one goes on before the next.
                requests.truncate(1);
            }
            forbidden.permit_last(requests, tail, cuts);
        }
        match &mut step.act {
            Act::Send { requests, cuts, .. } | Act::Last { requests, cuts, .. }
                if !forbidden.torn =>
            {
                if !alone || broadcasts {
                    // Who is served goes on between the pieces, or behind them.
                    *cuts = Cuts::None;
                }
                if let Some(kill) = requests.iter().position(interferes) {
                    // Whether the other client does, or is sent, something before is left to chance.
                    *requests = vec![requests.swap_remove(kill)];
                }
                if !last && let Some(end) = requests.iter().position(quits) {
                    // What nobody reads any more resets the connection, replies on their way included.
                    requests.truncate(end + 1);
                }
                // Who leaves is not served any more.
                if !(alone || last)
                    && let Some(wait) = requests.iter().position(waits_long)
                {
                    requests.truncate(wait + 1);
                }
                if forbidden.waiting && !(alone || last) {
                    requests.clear();
                }
                let first_waits = first.is_some() || requests.iter().any(waits_long);
                let mut first = true;
                requests.retain(|request| {
                    let alone =
                        std::mem::take(&mut first) && !forbidden.transaction && !forbidden.waiting;
                    let swallowed = traits.swallows && !alone && authenticates(request);
                    let waits = (untouching || forbidden.untouching) && waits_long(request);
                    let untouches = first_waits && leaves_untouched(request);
                    !swallowed && !waits && !untouches && forbidden.permits(request, traits)
                });
                for (at, request) in requests.iter_mut().enumerate() {
                    forbidden.shorten(request, at == 0);
                }
                if requests.is_empty() {
                    requests.push(words("PING"));
                }
                if last {
                    *forbidden = Forbidden::default();
                }
            }
            Act::Raw(bytes)
                if !(forbidden.torn || forbidden.mute || forbidden.waiting && traits.overlooks) =>
            {
                forbidden.torn = !bytes.ends_with(b"\n");
            }
            Act::HalfClose => *forbidden = Forbidden::default(),
            _ => {
                step.act = Act::Close;
                *forbidden = Forbidden::default();
            }
        }
        if forbidden.waiting {
            first = first.or(Some(connection));
        } else if first == Some(connection) {
            first = None;
        }
    }
}

impl Forbidden {
    /// Takes out what would differ where the connection closes its side behind it.
    fn permit_last(&self, requests: &mut Vec<Request>, tail: &mut Vec<u8>, cuts: &mut Cuts) {
        // The end of a short wait and that of the connection would race.
        for arg in requests.iter_mut().flatten().filter(|arg| short(arg)) {
            *arg = b"0".to_vec();
        }
        // Of a reply that is not written in one go (64 KB) Redis drops the rest when it sees the end.
        requests.retain(|request| !is(&request[0], "COMMAND"));
        if requests.iter().any(blocks) {
            requests.retain(|request| !roots(request));
        }
        if self.rooted
            && let Some(wait) = requests.iter().position(blocks)
        {
            requests.truncate(wait + 1);
        }
        if requests.iter().any(interferes) {
            // It may end itself.
            tail.clear();
        }
        if requests.iter().any(quits) {
            // What comes later than that resets the connection.
            *cuts = Cuts::None;
        }
    }

    /// At once, and seen by everybody.
    fn may_kill(&self) -> bool {
        !self.mute && !self.transaction && !self.waiting
    }

    fn shorten(&mut self, request: &mut Request, first: bool) {
        // Nobody would see the end of a wait that is not answered.
        if self.waiting || self.mute || !first {
            request
                .iter_mut()
                .filter(|arg| short(arg))
                .for_each(|arg| *arg = b"x".to_vec());
        }
        self.waiting |= waits_long(request);
    }

    fn permits(&mut self, request: &Request, traits: Traits) -> bool {
        let word = |at: usize| {
            let word = request.get(at).map(|word| word.to_ascii_uppercase());
            word.unwrap_or_default()
        };
        match word(0).as_slice() {
            b"MULTI" if request.len() == 1 => self.transaction = true,
            b"EXEC" | b"DISCARD" if request.len() == 1 => self.transaction = false,
            b"RESET" if request.len() == 1 && traits.resets => {
                (self.transaction, self.mute) = (false, false);
                (self.untouching, self.hears, self.rooted) = (false, false, false);
            }
            b"WATCH" => self.rooted = true,
            b"QUIT" => return !self.mute,
            b"CLIENT" if word(1) == b"REPLY" => {
                if self.transaction {
                    return false;
                }
                // Who listens, in RESP2, may not say it.
                self.mute = word(2) != b"ON" || self.mute && self.hears;
            }
            b"CLIENT" if word(1) == b"TRACKING" => {
                self.rooted = true;
                self.broadcasts |= word(3) == b"BCAST";
            }
            b"CLIENT" if word(1) == b"NO-TOUCH" => self.untouching |= leaves_untouched(request),
            b"CLIENT" if word(1) == b"KILL" => return self.may_kill(),
            b"CLIENT" if word(1) == b"UNBLOCK" => return !self.transaction,
            b"ACL" if word(1) == b"DELUSER" => return self.may_kill(),
            b"ACL" if word(1) == b"SETUSER" => return !self.hears,
            name if name.ends_with(b"SUBSCRIBE") => {
                self.hears = true;
                return !self.transaction;
            }
            _ => {}
        }
        true
    }
}

fn short(arg: &[u8]) -> bool {
    arg == SHORT.as_bytes() || arg == SHORT_MILLIS.as_bytes()
}

/// Whether it ends another client, or what that waits for.
fn interferes(request: &Request) -> bool {
    let victims = [
        ("CLIENT", "KILL"),
        ("CLIENT", "UNBLOCK"),
        ("ACL", "DELUSER"),
    ];
    let [name, word, ..] = request.as_slice() else {
        return false;
    };
    victims
        .iter()
        .any(|(first, second)| is(name, first) && is(word, second))
}

/// WATCH, CLIENT TRACKING.
fn roots(request: &Request) -> bool {
    let tracks = request.get(1).is_some_and(|word| is(word, "TRACKING"));
    is(&request[0], "WATCH") || is(&request[0], "CLIENT") && tracks
}

/// Whether it is of those that may wait.
fn blocks(request: &Request) -> bool {
    let name = request[0].to_ascii_uppercase();
    let names: [&[u8]; 5] = [b"BL", b"BR", b"BZ", b"WAIT", b"XREAD"];
    names.iter().any(|begin| name.starts_with(begin))
}

fn quits(request: &Request) -> bool {
    is(&request[0], "QUIT")
}

/// CLIENT NO-TOUCH ON.
fn leaves_untouched(request: &Request) -> bool {
    let [client, word, on, ..] = request.as_slice() else {
        return false;
    };
    is(client, "CLIENT") && is(word, "NO-TOUCH") && is(on, "ON")
}

/// Whether it may fail to log in.
fn authenticates(request: &Request) -> bool {
    let login = is(&request[0], "HELLO") && request.iter().any(|arg| is(arg, "AUTH"));
    login || is(&request[0], "AUTH")
}

/// Whether it may wait until somebody serves it.
fn waits_long(request: &Request) -> bool {
    let name = request[0].to_ascii_uppercase();
    let starts = |begin: &[u8]| name.starts_with(begin);
    let times: &[&[u8]] = &[b"0", b"1000", b"100000"];
    let timed = request[1..]
        .iter()
        .any(|arg| times.contains(&arg.as_slice()));
    match () {
        () if starts(b"XREAD") => timed && request.iter().any(|arg| is(arg, "BLOCK")),
        () if starts(b"WAIT") => request.len() > 2 && request[1] != b"0",
        () => timed && (starts(b"BL") || starts(b"BR") || starts(b"BZ")),
    }
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn words(line: &str) -> Request {
    line.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

/// Something of every type, so that a short sequence finds it.
fn prelude() -> Vec<Step> {
    let lines = [
        "SET a 5",
        "RPUSH l m n 1 2",
        "HSET h f 1 m v",
        "SADD s m n 1",
        "ZADD z 1 m 2 n 3 o",
        "XADD x 1-1 f v",
        "XGROUP CREATE x g1 0",
    ];
    let requests = lines.into_iter().map(words).collect();
    vec![Step {
        connection: 0,
        act: Act::Send {
            requests,
            form: Form::Resp,
            cuts: Cuts::None,
        },
    }]
}

struct Planner<'a> {
    random: &'a mut Random,
    table: &'a [Command],
    connection: usize,
    out: VecDeque<Step>,
}

impl Planner<'_> {
    fn plan(&mut self) {
        match self.random.below(100) {
            0..42 => {
                let count = 1 + self.random.below(4);
                let requests = (0..count).map(|_| self.any()).collect();
                self.send(requests);
            }
            42..45 => self.messages(),
            45..55 => self.transaction(),
            55..62 => self.subscription(),
            62..68 => self.blocking(),
            68..75 => self.data(),
            75..88 => self.session(),
            88..92 => self.users(),
            92..95 => self.script(),
            95..97 => self.raw(),
            97 => self.act(Act::HalfClose),
            98 => self.act(Act::Close),
            _ => self.line(&["QUIT"]),
        }
    }

    fn act(&mut self, act: Act) {
        self.out.push_back(Step {
            connection: self.connection,
            act,
        });
    }

    fn any(&mut self) -> Request {
        let command = self.random.pick(self.table);
        arguments::request(self.random, command)
    }

    /// In one go, in one of several ways.
    fn send(&mut self, requests: Vec<Request>) {
        let small = requests.iter().flatten().map(Vec::len).sum::<usize>() < 200;
        let cuts = match self.random.below(10) {
            0 if small => Cuts::EveryByte,
            1 | 2 => {
                let count = 1 + self.random.below(4);
                Cuts::At((0..count).map(|_| self.random.below(10_000)).collect())
            }
            _ => Cuts::None,
        };
        let form = if self.random.percent(8) {
            Form::Inline
        } else {
            Form::Resp
        };
        self.act(Act::Send {
            requests,
            form,
            cuts,
        });
    }

    fn line(&mut self, of: &[&'static str]) {
        let line = self.random.word(of);
        self.send(vec![words(line)]);
    }

    fn transaction(&mut self) {
        if self.random.percent(35) {
            let key = self.random.word(KEYS);
            self.send(vec![words(&format!("WATCH {key} a"))]);
        }
        let mut requests = vec![words("MULTI")];
        for _ in 0..self.random.below(5) {
            let request = match self.random.below(4) {
                0 => self.session_line(),
                1 => self.data_line(),
                _ => self.any(),
            };
            requests.push(request);
        }
        requests.push(words(
            self.random
                .word(&["EXEC", "EXEC", "EXEC", "EXEC", "DISCARD", "exec x"]),
        ));
        if self.random.percent(40) {
            requests.push(self.any());
        }
        if self.random.percent(50) {
            self.send(requests);
        } else {
            requests
                .into_iter()
                .for_each(|request| self.send(vec![request]));
        }
    }

    fn subscription(&mut self) {
        let word = self.random.word(&["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"]);
        let channels: &[&str] = if word == "PSUBSCRIBE" {
            &["ch*", "*", "ch1"]
        } else {
            CHANNELS
        };
        let (one, two) = (self.random.word(channels), self.random.word(channels));
        self.send(vec![words(&format!("{word} {one} {two}"))]);
        for _ in 0..self.random.below(5) {
            let request = match self.random.below(6) {
                0 => self.any(),
                1 => self.session_line(),
                2 => words(
                    self.random
                        .word(&["PING", "PING x", "ping", "QUIT", "RESET"]),
                ),
                3 => words(self.random.word(&[
                    "UNSUBSCRIBE",
                    "PUNSUBSCRIBE",
                    "SUNSUBSCRIBE ch1",
                    "UNSUBSCRIBE ch1 ch9",
                ])),
                _ => self.publication(),
            };
            self.send(vec![request]);
        }
        self.line(&[
            "UNSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SUNSUBSCRIBE",
            "RESET",
            "PING",
            "UNSUBSCRIBE nothing",
        ]);
    }

    /// What it does itself is told to it, also within a transaction.
    fn messages(&mut self) {
        let hello = match self.random.below(3) {
            0 => "HELLO 2 AUTH alice pw",
            _ => "HELLO 3 AUTH alice pw",
        };
        let hears = self.random.word(&[
            "SUBSCRIBE ch1 ch2",
            "PSUBSCRIBE ch* a*",
            "SSUBSCRIBE ch1",
            "CLIENT TRACKING on",
        ]);
        self.send(vec![words("ACL SETUSER alice on >pw ~* &* +@all +hello")]);
        self.send(vec![words(hello)]);
        self.send(vec![words(hears)]);
        for _ in 0..self.random.below(3) {
            let mut requests = vec![words("MULTI")];
            for _ in 0..1 + self.random.below(4) {
                let request = match self.random.below(4) {
                    0 => self.publication(),
                    1 => self.session_line(),
                    2 => words(
                        self.random
                            .word(&["GET a", "SET a 5", "CLIENT ID", "HGETALL h"]),
                    ),
                    _ => self.data_line(),
                };
                requests.push(request);
            }
            requests.push(words("EXEC"));
            self.send(requests);
        }
    }

    fn publication(&mut self) -> Request {
        let channel = self.random.word(CHANNELS);
        let word = self.random.word(&["PUBLISH", "PUBLISH", "SPUBLISH"]);
        words(&format!("{word} {channel} message"))
    }

    fn blocking(&mut self) {
        let time = self.random.word(&["0", "0", "1000", SHORT, "x", "-1"]);
        let line = match self.random.below(9) {
            0 => format!("BLPOP l q {time}"),
            1 => format!("BRPOP q {time}"),
            2 => format!("BLMOVE q l LEFT RIGHT {time}"),
            3 => format!("BRPOPLPUSH q l {time}"),
            4 => format!("BLMPOP {time} 2 q r LEFT COUNT 2"),
            5 => format!("BZPOPMIN y {time}"),
            6 => format!("BZMPOP {time} 1 y MAX"),
            7 => "XREAD BLOCK 13 COUNT 1 STREAMS x $".into(),
            _ => "XREAD BLOCK 0 STREAMS q $".into(),
        };
        let mut requests = vec![words(&line)];
        if self.random.percent(30) {
            requests.push(self.any());
        }
        self.send(requests);
    }

    fn data_line(&mut self) -> Request {
        words(self.random.word(&[
            "SET a 5",
            "SET b hello",
            "RPUSH l m n",
            "RPUSH q 1",
            "RPUSH q 1 2 3",
            "LPUSH r x",
            "HSET h f 1 m v",
            "SADD s m n 1",
            "ZADD z 1 m 2 n",
            "ZADD y 1 m",
            "XADD x 9-9 f v",
            "XADD x 10-1 f v",
            "DEL q y",
            "INCR a",
            "GET a",
            "SPOP s 1000",
            "DEL a",
            "FLUSHALL",
            "SWAPDB 0 1",
            "APPEND a 1",
            "EXPIRE a 100000",
            "GET {a}1",
            "MSET a 1 b 2",
            "SORT l ALPHA",
            "PERSIST a",
        ]))
    }

    fn data(&mut self) {
        let mut requests = vec![self.data_line()];
        if self.random.percent(40) {
            requests.push(self.data_line());
        }
        if self.random.percent(20) {
            requests.push(self.publication());
        }
        self.send(requests);
    }

    fn session_line(&mut self) -> Request {
        let other = self.random.below(CONNECTIONS);
        let (user, password) = (self.random.word(USERS), self.random.word(PASSWORDS));
        let line = match self.random.below(12) {
            0 => format!("AUTH {user} {password}"),
            1 => format!("HELLO 3 AUTH {user} {password} SETNAME me"),
            2 => format!(
                "CLIENT UNBLOCK {{id:{other}}} {}",
                self.random.word(&["TIMEOUT", "ERROR", "x", "error"])
            ),
            3 => format!("CLIENT LIST ID {{id:{other}}}"),
            4 => {
                let filter = self.random.word(&["ID", "ADDR"]);
                let value = if filter == "ID" { "id" } else { "addr" };
                let me = self.random.word(&[
                    "",
                    " SKIPME no",
                    " SKIPME yes",
                    " SKIPME x",
                    " USER default",
                    " TYPE normal",
                    " TYPE nothing",
                    " x",
                    " USER nobody",
                ]);
                format!("CLIENT KILL {filter} {{{value}:{other}}}{me}")
            }
            _ => return words(self.random.word(SESSION_LINES)),
        };
        words(&line)
    }

    fn session(&mut self) {
        let mut requests = vec![self.session_line()];
        if self.random.percent(40) {
            requests.push(self.session_line());
        }
        if self.random.percent(30) {
            requests.push(self.any());
        }
        self.send(requests);
    }

    fn users(&mut self) {
        let user = self.random.word(USERS);
        let rules: Vec<&str> = (0..self.random.below(4))
            .map(|_| self.random.word(RULES))
            .collect();
        let base = self.random.word(&[
            "on >pw ~* &* +@all",
            "on >pw ~a* +@read +client +auth",
            "on >pw +@all",
            "",
        ]);
        // Redis 6.0 asks for the right to HELLO, and pointsman needs it for every connection in RESP3.
        let line = format!("ACL SETUSER {user} {base} {} +hello", rules.join(" "));
        let request: Vec<_> = words(&line)
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        self.send(vec![request]);
        match self.random.below(5) {
            0 => self.send(vec![words(&format!("ACL DELUSER {user}"))]),
            1 => self.line(&[
                "ACL SETUSER alice resetchannels",
                "ACL SETUSER alice resetchannels &ch1",
                "ACL SETUSER alice resetchannels &ch* &a*",
            ]),
            2 | 3 => self.send(vec![
                words(&format!("AUTH {user} pw")),
                words("ACL WHOAMI"),
                words("GET a"),
            ]),
            _ => self.send(vec![
                words(&format!("HELLO 3 AUTH {user} pw")),
                words("CLIENT INFO"),
            ]),
        }
    }

    fn script(&mut self) {
        let script = self.random.word(SCRIPTS);
        let key = self.random.word(KEYS);
        let with = |name: &str, body: String| -> Request {
            [
                name.as_bytes().to_vec(),
                body.into_bytes(),
                b"1".to_vec(),
                key.as_bytes().to_vec(),
                b"v".to_vec(),
            ]
            .into()
        };
        let eval = with(
            self.random.word(&["EVAL", "EVAL", "EVAL_RO"]),
            script.to_owned(),
        );
        let evalsha = with("EVALSHA", arguments::sha1(script));
        let load = vec![
            b"SCRIPT".to_vec(),
            b"LOAD".to_vec(),
            script.as_bytes().to_vec(),
        ];
        let requests = match self.random.below(4) {
            0 => vec![evalsha],
            1 => vec![eval, evalsha],
            2 => vec![load, evalsha],
            _ => vec![words("SCRIPT FLUSH"), evalsha],
        };
        self.send(requests);
    }

    fn raw(&mut self) {
        let mut bytes = self.random.pick(RAW).to_vec();
        if self.random.percent(30) {
            bytes = [b"*1\r\n$4\r\nPING\r\n".as_slice(), &bytes].concat();
        }
        let whole = bytes.ends_with(b"\n");
        self.act(Act::Raw(bytes));
        if !whole {
            // Nothing may follow half of a request.
            let half = self.random.percent(50);
            self.act(if half { Act::HalfClose } else { Act::Close });
        }
    }

    /// Whatever it might have gone on with, in one go, and how it ends.
    fn last(&mut self) -> Step {
        for _ in 0..1 + self.random.below(3) {
            match self.random.below(10) {
                0 => self.transaction(),
                1 => self.subscription(),
                2..5 => self.blocking(),
                5 => self.data(),
                6 => self.session(),
                7 => self.messages(),
                8 => self.script(),
                _ => {
                    let request = self.any();
                    self.send(vec![request]);
                }
            }
        }
        let planned = std::mem::take(&mut self.out);
        let sent = planned.iter().filter_map(|step| step.act.requests());
        let mut requests: Vec<Request> = sent.flatten().cloned().collect();
        match self.random.below(20) {
            // More than pointsman takes at once.
            0..2 => requests.resize(requests.len() + 100, words("INCR a")),
            // Large, but written in one go.
            2 => requests.extend([words("SETRANGE b 20000 x"), words("GET b")]),
            3 => requests.push(words("WAIT 1 0")),
            4 => requests.push(words("QUIT")),
            _ => {}
        }
        self.send(requests);
        let tail = match self.random.percent(30) {
            true => self.random.pick(RAW).to_vec(),
            false => Vec::new(),
        };
        let act = match self.out.pop_front().map(|step| step.act) {
            Some(Act::Send {
                requests,
                form,
                cuts,
            }) => Act::Last {
                requests,
                tail,
                form,
                cuts,
            },
            _ => Act::HalfClose,
        };
        Step {
            connection: self.connection,
            act,
        }
    }
}

/// Right and wrong bytes, some of them half of a request.
const RAW: &[&[u8]] = &[
    b"*x\r\n",
    b"*2\r\n$3\r\nGET\r\n:1\r\n",
    b"*1\r\n$-5\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na",
    b"\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"GET \"a\r\n",
    b"SET a 'x y'\r\nGET a\r\n",
    b"*1\r\nPING\r\n",
    b"PING\n",
    b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI",
    b"$4\r\nPING\r\n",
    b"*2147483648\r\n",
    b"GET / HTTP/1.1\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*2\r\n$0\r\n\r\n$1\r\na\r\n",
    b"*1\r\n\xffPING\r\n",
    b"*4\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n$4\r\nTYPE\r\n$4\r\n\xff\xfe\0x\r\n",
    b"PING\r\nECHO a\0b\r\nPING",
];

/// What concerns the connection, right and wrong.
const SESSION_LINES: &[&str] = &[
    "HELLO",
    "HELLO 2",
    "HELLO 3",
    "HELLO 3",
    "HELLO 4",
    "HELLO x",
    "HELLO 3 SETNAME me",
    "HELLO 3 AUTH alice",
    "HELLO 2 nonsense",
    "hello 3",
    "HELLO 3 SETNAME",
    "HELLO 03",
    "SELECT 0",
    "SELECT 1",
    "SELECT 15",
    "SELECT 16",
    "SELECT -1",
    "SELECT x",
    "SELECT",
    "SELECT 1 2",
    "SELECT 01",
    "AUTH",
    "AUTH pw",
    "AUTH default x",
    "AUTH a b c",
    "AUTH nobody pw",
    "RESET",
    "RESET",
    "RESET x",
    "QUIT x",
    "CLIENT",
    "CLIENT ID",
    "CLIENT ID x",
    "CLIENT GETNAME",
    "CLIENT GETNAME x",
    "CLIENT SETNAME",
    "CLIENT SETNAME one",
    "CLIENT SETNAME one two",
    "CLIENT INFO",
    "CLIENT INFO x",
    "CLIENT LIST",
    "CLIENT LIST TYPE normal",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE x",
    "CLIENT LIST TYPE",
    "CLIENT LIST ID",
    "CLIENT LIST ID x",
    "CLIENT LIST x",
    "CLIENT LIST ID 99999999",
    "CLIENT LIST TYPE replica",
    "CLIENT LIST TYPE master",
    "CLIENT KILL",
    "CLIENT KILL x",
    "CLIENT KILL ID",
    "CLIENT KILL ID x",
    "CLIENT KILL ID 99999998",
    "CLIENT KILL TYPE x",
    "CLIENT KILL ID 99999999",
    "CLIENT KILL USER nobody",
    "CLIENT KILL USER alice",
    "CLIENT KILL SKIPME x",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT KILL ADDR 1.2.3.4:5",
    "CLIENT KILL LADDR 1.2.3.4:5",
    "CLIENT KILL MAXAGE x",
    "CLIENT KILL TYPE pubsub",
    "CLIENT KILL ID 1 ID",
    "CLIENT KILL x y",
    "CLIENT KILL MAXAGE 100000",
    "CLIENT REPLY ON",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY x",
    "CLIENT REPLY",
    "CLIENT REPLY ON x",
    "CLIENT REPLY ON",
    "CLIENT REPLY ON",
    "CLIENT UNBLOCK",
    "CLIENT UNBLOCK x",
    "CLIENT UNBLOCK 99999999",
    "CLIENT UNBLOCK 1 x",
    "CLIENT UNBLOCK 1 ERROR x",
    "CLIENT UNBLOCK -1",
    "CLIENT UNBLOCK 99999999999999999999",
    "CLIENT NO-EVICT on",
    "CLIENT NO-EVICT x",
    "CLIENT NO-EVICT",
    "CLIENT NO-EVICT on off",
    "CLIENT NO-TOUCH on",
    "CLIENT NO-TOUCH x",
    "CLIENT NO-TOUCH off",
    "CLIENT NO-TOUCH",
    "CLIENT SETINFO lib-name x",
    "CLIENT SETINFO lib-ver 1.0",
    "CLIENT SETINFO x y",
    "CLIENT SETINFO lib-name",
    "CLIENT SETINFO",
    "CLIENT TRACKING on",
    "CLIENT TRACKING off",
    "CLIENT TRACKING x",
    "CLIENT TRACKING",
    "CLIENT TRACKING on BCAST PREFIX a",
    "CLIENT TRACKING on OPTIN",
    "CLIENT TRACKING on OPTIN OPTOUT",
    "CLIENT TRACKING on NOLOOP",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKINGINFO x",
    "CLIENT GETREDIR",
    "CLIENT GETREDIR x",
    "CLIENT CACHING yes",
    "CLIENT CACHING x",
    "CLIENT CACHING",
    "CLIENT UNPAUSE",
    "CLIENT UNPAUSE x",
    "CLIENT HELP",
    "CLIENT HELP x",
    "CLIENT nonsense",
    "CLIENT nonsense x",
    "CLIENT PAUSE",
    "CLIENT PAUSE x",
    "MULTI",
    "MULTI x",
    "EXEC",
    "DISCARD",
    "EXEC x",
    "WATCH",
    "WATCH a",
    "UNWATCH",
    "UNWATCH x",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "PUBLISH ch1",
    "PING",
    "PING a b",
    "ECHO",
    "ECHO a",
    "nonsense",
    "nonsense a b",
    "READONLY",
    "READWRITE",
    "ASKING",
    "LOLWUT",
    "COMMAND COUNT",
    "WAIT 0 0",
    "WAIT 1 13",
    "WAIT",
    "WAIT x 0",
    "TIME",
    "DBSIZE",
    "CLUSTER INFO",
    "SCRIPT EXISTS x",
    "ACL WHOAMI",
    "ROLE",
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.connection)?;
        match &self.act {
            Act::Send {
                requests,
                form,
                cuts,
            }
            | Act::Last {
                requests,
                form,
                cuts,
                ..
            } => {
                for request in requests {
                    f.write_str(" |")?;
                    for arg in request {
                        match arg.is_empty() || arg.contains(&b' ') {
                            true => write!(f, " \"{}\"", arg.escape_ascii())?,
                            false => write!(f, " {}", arg.escape_ascii())?,
                        }
                    }
                }
                if *form == Form::Inline {
                    f.write_str("  (inline)")?;
                }
                match cuts {
                    Cuts::None => {}
                    Cuts::EveryByte => f.write_str("  (byte by byte)")?,
                    Cuts::At(places) => write!(f, "  (cut at {places:?})")?,
                }
                match &self.act {
                    Act::Last { tail, .. } => {
                        write!(f, " raw \"{}\" half-close", tail.escape_ascii())
                    }
                    _ => Ok(()),
                }
            }
            Act::Raw(bytes) => write!(f, " raw \"{}\"", bytes.escape_ascii()),
            Act::HalfClose => f.write_str(" half-close"),
            Act::Close => f.write_str(" close"),
        }
    }
}
