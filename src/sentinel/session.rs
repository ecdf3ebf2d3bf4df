//! One client: what it sent, who it is, what it listens to. No I/O, so that any bytes can be tried.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::news::Message;
use super::{Sentinel, command, glob};
use crate::clock;
use crate::resp::request::rewrite_inline;
use crate::resp::{
    Credentials, Limits, ProtocolError, RequestScanner, put_array, put_bulk, put_error,
    put_integer, put_map, put_null, put_ok, put_push, put_simple,
};

/// No request of a Sentinel client comes near these.
const LIMITS: Limits = Limits {
    max_args: 256,
    max_bulk: 16 * 1024,
    max_inline: 16 * 1024,
};

/// Bytes of one request.
const REQUEST_MAX: usize = 64 * 1024;

/// Channels and patterns of one client; each is compared with every message.
const SUBSCRIPTIONS_MAX: usize = 128;

/// Bytes of a channel's name or a pattern; Sentinel's channels have far fewer.
const NAME_MAX: usize = 128;

/// The version of Redis whose Sentinel is spoken here, for clients that look.
const SPOKEN: &str = "7.0.0";

/// What became of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was answered; there may be more.
    Done,
    /// There is no complete one.
    Incomplete,
    /// It was the last one: close when the reply is written.
    Close,
}

/// See the head of the file.
pub struct Session {
    pub(super) sentinel: Arc<Sentinel>,
    pub(super) peer: SocketAddr,
    /// Where it reached us.
    pub(super) local: SocketAddr,
    pub(super) resp3: bool,
    id: u64,
    logged_in: bool,
    name: Bytes,
    scanner: RequestScanner,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

impl Session {
    /// A client at `peer` that connected to `local`.
    pub fn new(sentinel: Arc<Sentinel>, peer: SocketAddr, local: SocketAddr) -> Session {
        Session {
            id: sentinel.next_client(),
            logged_in: sentinel.settings.auth.is_none(),
            sentinel,
            peer,
            local,
            resp3: false,
            name: Bytes::new(),
            scanner: RequestScanner::default(),
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
        }
    }

    /// Takes the next request off `input` and appends its reply to `out`.
    pub async fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Step {
        match self.request(input) {
            Ok(Some(args)) if args.is_empty() => Step::Done,
            Ok(Some(args)) => self.answer(&args, out).await,
            Ok(None) if input.len().max(self.scanner.least_len()) > REQUEST_MAX => {
                put_error(out, "ERR Protocol error: too big request");
                Step::Close
            }
            Ok(None) => Step::Incomplete,
            Err(error) => {
                put_error(out, &format!("ERR {error}"));
                Step::Close
            }
        }
    }

    fn request(&mut self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(request) = self.scanner.scan(input, &LIMITS)? else {
            return Ok(None);
        };
        let frame = input.split_to(request.len).freeze();
        if request.argc == 0 {
            return Ok(Some(Vec::new()));
        }
        if !request.inline {
            let args = request.args(&frame).map(|arg| frame.slice_ref(arg));
            return Ok(Some(args.collect()));
        }
        let frame = rewrite_inline(&frame)?.freeze();
        let rewritten = RequestScanner::default().scan(&frame, &LIMITS)?;
        Ok(rewritten.map(|r| r.args(&frame).map(|arg| frame.slice_ref(arg)).collect()))
    }

    async fn answer(&mut self, args: &[Bytes], out: &mut BytesMut) -> Step {
        let command = word(&args[0]);
        if !self.logged_in && !matches!(&*command, "auth" | "hello" | "quit" | "reset") {
            put_error(out, "NOAUTH Authentication required.");
            return Step::Done;
        }
        if self.is_subscribed() && !self.resp3 && !allowed_in_subscription(&command) {
            let text = format!(
                "ERR Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / \
                 QUIT / RESET are allowed in this context"
            );
            put_error(out, &text);
            return Step::Done;
        }
        match (&*command, &args[1..]) {
            ("ping", rest) if rest.len() <= 1 => self.ping(rest.first(), out),
            ("hello", rest) => self.hello(rest, out),
            ("auth", [password]) => self.auth_command(None, password, out),
            ("auth", [user, password]) => self.auth_command(Some(user), password, out),
            ("client", [sub, rest @ ..]) => self.client(sub, rest, out),
            ("command", rest) => command_command(rest, self.resp3, out),
            ("info", rest) => self.info(rest, out).await,
            ("role", []) => self.role(out),
            ("sentinel", [sub, rest @ ..]) => command::sentinel(self, sub, rest, out).await,
            ("subscribe", names @ [_, ..]) => self.subscribe(Kind::Channel, names, out),
            ("psubscribe", names @ [_, ..]) => self.subscribe(Kind::Pattern, names, out),
            ("unsubscribe", names) => self.unsubscribe(Kind::Channel, names, out),
            ("punsubscribe", names) => self.unsubscribe(Kind::Pattern, names, out),
            ("reset", []) => {
                self.resp3 = false;
                self.logged_in = self.sentinel.settings.auth.is_none();
                self.name = Bytes::new();
                self.channels.clear();
                self.patterns.clear();
                put_simple(out, "RESET");
            }
            ("quit", _) => {
                put_ok(out);
                return Step::Close;
            }
            (known, _) if KNOWN.contains(&known) => put_arity(out, known),
            _ => put_error(out, &unknown(args)),
        }
        Step::Done
    }

    fn ping(&self, message: Option<&Bytes>, out: &mut BytesMut) {
        if self.is_subscribed() && !self.resp3 {
            put_array(out, 2);
            put_bulk(out, b"pong");
            return put_bulk(out, message.map_or(b"", |m| m));
        }
        match message {
            Some(message) => put_bulk(out, message),
            None => put_simple(out, "PONG"),
        }
    }

    /// HELLO [protocol [AUTH user password] [SETNAME name]]
    fn hello(&mut self, args: &[Bytes], out: &mut BytesMut) {
        let mut protocol = self.resp3;
        let mut rest = args;
        if let [version, after @ ..] = args {
            protocol = match &version[..] {
                b"2" => false,
                b"3" => true,
                other if crate::resp::integer(other).is_none() => {
                    let text = "ERR Protocol version is not an integer or out of range";
                    return put_error(out, text);
                }
                _ => return put_error(out, "NOPROTO unsupported protocol version"),
            };
            rest = after;
        }
        let mut name = None;
        let mut logged_in = self.logged_in;
        while let [option, after @ ..] = rest {
            match (&*word(option), after) {
                ("auth", [user, password, after @ ..]) => {
                    if !self.admits(Some(user), password) {
                        return put_error(out, WRONG_PASSWORD);
                    }
                    logged_in = true;
                    rest = after;
                }
                ("setname", [given, after @ ..]) => {
                    if !is_name(given) {
                        return put_error(out, BAD_NAME);
                    }
                    name = Some(given.clone());
                    rest = after;
                }
                _ => {
                    let option = shown(option);
                    return put_error(out, &format!("ERR Syntax error in HELLO option '{option}'"));
                }
            }
        }
        if !logged_in {
            let text = "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                        the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
                        client and select the RESP protocol version at the same time";
            return put_error(out, text);
        }
        self.logged_in = true;
        self.resp3 = protocol;
        if let Some(name) = name {
            self.name = Bytes::copy_from_slice(&name);
        }
        self.greet(out);
    }

    /// The reply to HELLO.
    fn greet(&self, out: &mut BytesMut) {
        put_map(out, 6, self.resp3);
        put_bulk(out, b"server");
        put_bulk(out, b"redis");
        put_bulk(out, b"version");
        put_bulk(out, SPOKEN.as_bytes());
        put_bulk(out, b"proto");
        put_integer(out, if self.resp3 { 3 } else { 2 });
        put_bulk(out, b"id");
        put_integer(out, i64::try_from(self.id).unwrap_or(i64::MAX));
        put_bulk(out, b"mode");
        put_bulk(out, b"sentinel");
        put_bulk(out, b"modules");
        put_array(out, 0);
    }

    fn auth_command(&mut self, user: Option<&Bytes>, password: &Bytes, out: &mut BytesMut) {
        if self.sentinel.settings.auth.is_none() && user.is_none() {
            let text = "ERR AUTH <password> called without any password configured for the default \
                        user. Are you sure your configuration is correct?";
            return put_error(out, text);
        }
        match self.admits(user, password) {
            true => {
                self.logged_in = true;
                put_ok(out);
            }
            false => put_error(out, WRONG_PASSWORD),
        }
    }

    fn admits(&self, user: Option<&Bytes>, password: &[u8]) -> bool {
        let given = user.map_or(&b"default"[..], |user| user);
        match &self.sentinel.settings.auth {
            Some(auth) => {
                let wanted = auth.username.as_deref().unwrap_or("default");
                given == wanted.as_bytes() && is_password(auth, password)
            }
            None => given == b"default",
        }
    }

    fn client(&mut self, sub: &Bytes, rest: &[Bytes], out: &mut BytesMut) {
        match (&*word(sub), rest) {
            ("id", []) => put_integer(out, i64::try_from(self.id).unwrap_or(i64::MAX)),
            ("getname", []) if self.name.is_empty() => put_null(out, self.resp3),
            ("getname", []) => put_bulk(out, &self.name),
            ("setname", [name]) if is_name(name) => {
                self.name = Bytes::copy_from_slice(name);
                put_ok(out);
            }
            ("setname", [_]) => put_error(out, BAD_NAME),
            ("setinfo", [_, _]) | ("no-evict" | "no-touch", [_]) => put_ok(out),
            _ => put_unknown_sub(out, "CLIENT", sub),
        }
    }

    fn role(&self, out: &mut BytesMut) {
        put_array(out, 2);
        put_bulk(out, b"sentinel");
        put_array(out, self.sentinel.backends.len());
        for backend in &self.sentinel.backends {
            put_bulk(out, backend.name.as_bytes());
        }
    }

    async fn info(&self, sections: &[Bytes], out: &mut BytesMut) {
        let sections: Vec<String> = sections.iter().map(|s| word(s)).collect();
        let all = ["all", "default", "everything"];
        let wants = |name: &str| {
            let is = |s: &String| s == name || all.contains(&&**s);
            sections.is_empty() || sections.iter().any(is)
        };
        let mut parts = Vec::new();
        if wants("server") {
            let sentinel = &self.sentinel;
            parts.push(format!(
                "# Server\r\nredis_version:{SPOKEN}\r\nredis_mode:sentinel\r\n\
                 pointsman_version:{}\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\n\
                 uptime_in_seconds:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
                sentinel.id,
                self.local.port(),
                clock::now().since(sentinel.started).as_secs(),
            ));
        }
        if wants("sentinel") {
            parts.push(command::info_section(self).await);
        }
        put_bulk(out, parts.join("\r\n").as_bytes());
    }

    /// Whether it gets messages.
    pub fn is_subscribed(&self) -> bool {
        !(self.channels.is_empty() && self.patterns.is_empty())
    }

    /// Appends a message once for its channel and once for each pattern that it listens to.
    pub fn deliver(&self, message: &Message, out: &mut BytesMut) {
        let (channel, payload) = (message.channel.as_bytes(), message.payload.as_bytes());
        if self.channels.contains(channel) {
            put_push(out, 3, self.resp3);
            for part in [b"message", channel, payload] {
                put_bulk(out, part);
            }
        }
        for pattern in self.patterns.iter().filter(|p| glob::matches(p, channel)) {
            put_push(out, 4, self.resp3);
            for part in [b"pmessage", &pattern[..], channel, payload] {
                put_bulk(out, part);
            }
        }
    }

    fn subscribe(&mut self, kind: Kind, names: &[Bytes], out: &mut BytesMut) {
        for name in names {
            if self.channels.len() + self.patterns.len() >= SUBSCRIPTIONS_MAX {
                return put_error(out, "ERR too many subscriptions of one client");
            }
            if name.len() > NAME_MAX {
                return put_error(out, "ERR the name of a channel is too long");
            }
            // A copy, so that the request it came in is not kept.
            self.names(kind).insert(Bytes::copy_from_slice(name));
            self.confirm(kind.word(), Some(name), out);
        }
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[Bytes], out: &mut BytesMut) {
        let named: Vec<Bytes> = match names {
            [] => self.names(kind).iter().cloned().collect(),
            names => names.to_vec(),
        };
        if named.is_empty() {
            return self.confirm(kind.undone(), None, out);
        }
        for name in named {
            self.names(kind).remove(&name);
            self.confirm(kind.undone(), Some(&name), out);
        }
    }

    fn names(&mut self, kind: Kind) -> &mut BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    fn confirm(&self, word: &str, name: Option<&Bytes>, out: &mut BytesMut) {
        put_push(out, 3, self.resp3);
        put_bulk(out, word.as_bytes());
        match name {
            Some(name) => put_bulk(out, name),
            None => put_null(out, self.resp3),
        }
        let count = self.channels.len() + self.patterns.len();
        put_integer(out, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// What is subscribed to.
#[derive(Clone, Copy)]
enum Kind {
    Channel,
    Pattern,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Channel => "subscribe",
            Kind::Pattern => "psubscribe",
        }
    }

    fn undone(self) -> &'static str {
        match self {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
        }
    }
}

/// Commands that have a wrong number of arguments when nothing else fits.
const KNOWN: &[&str] = &[
    "ping",
    "auth",
    "client",
    "role",
    "sentinel",
    "subscribe",
    "psubscribe",
    "reset",
];

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn allowed_in_subscription(command: &str) -> bool {
    let allowed = [
        "subscribe",
        "psubscribe",
        "unsubscribe",
        "punsubscribe",
        "ping",
        "quit",
        "reset",
    ];
    allowed.contains(&command)
}

/// COMMAND: nothing can be said about keys here, and clients take that for an answer.
fn command_command(args: &[Bytes], resp3: bool, out: &mut BytesMut) {
    match args.first().map(|sub| word(sub)).as_deref() {
        Some("count") => put_integer(out, 0),
        Some("docs") => put_map(out, 0, resp3),
        _ => put_array(out, 0),
    }
}

/// In lower case, for comparison.
pub(super) fn word(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

/// For an error message: bounded, and text.
fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(128);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(super) fn put_arity(out: &mut BytesMut, command: &str) {
    let text = format!("ERR wrong number of arguments for '{command}' command");
    put_error(out, &text);
}

pub(super) fn put_unknown_sub(out: &mut BytesMut, command: &str, sub: &[u8]) {
    let sub = shown(sub);
    put_error(
        out,
        &format!("ERR unknown subcommand '{sub}'. Try {command} HELP."),
    );
}

fn unknown(args: &[Bytes]) -> String {
    let mut text = format!(
        "ERR unknown command '{}', with args beginning with: ",
        shown(&args[0])
    );
    for arg in &args[1..] {
        if text.len() > 128 {
            break;
        }
        text += &format!("'{}' ", shown(arg));
    }
    text
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Takes as long for a wrong password as for the right one.
fn is_password(auth: &Credentials, given: &[u8]) -> bool {
    let wanted = auth.password();
    let different = wanted
        .iter()
        .zip(given)
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    wanted.len() == given.len() && different == 0
}
