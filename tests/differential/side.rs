//! One of the two that are compared: connections of clients, and a connection to the server itself.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use pointsman::clock;
use pointsman::resp::encode_request;
use pointsman::topology::Timestamp;

use crate::arguments::Request;
use crate::sequence::{Act, CONNECTIONS, Cuts, Form, Step};
use crate::value::Value;

/// How long something may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// The id of a connection that is not there. Not 0: Redis 6.0 takes that for everybody.
const NOBODY: i64 = 99_999_999;

/// What a client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Reply(Value),
    /// Behind it the connection was closed.
    HalfAReply(Vec<u8>),
    Closed,
}

pub struct Side {
    /// Where clients connect.
    address: String,
    /// To the server itself.
    pub control: Control,
    connections: [Option<Connection>; CONNECTIONS],
    /// Ids of the connections, the newest of each, as templates of arguments name them.
    ids: [i64; CONNECTIONS],
    addresses: [String; CONNECTIONS],
    /// Every id and address of this sequence, and which connection it was.
    pub names: BTreeMap<String, String>,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    events: Vec<Event>,
    closed: bool,
}

impl Side {
    pub fn new(address: String, server: &str) -> Side {
        Side {
            address,
            control: Control::open(server),
            connections: Default::default(),
            ids: [NOBODY; CONNECTIONS],
            addresses: Default::default(),
            names: BTreeMap::new(),
        }
    }

    /// Forgets the scripts of the last sequence: pointsman would load them again.
    pub fn flush_scripts(&self) {
        Control::open(&self.address).ask(&["SCRIPT", "FLUSH"]);
    }

    /// Forgets the connections of the last sequence.
    pub fn clear(&mut self) {
        self.connections = Default::default();
        self.ids = [NOBODY; CONNECTIONS];
        self.names.clear();
    }

    /// Connects if the connection is not there.
    pub fn open(&mut self, at: usize) {
        if self.connections[at].as_ref().is_some_and(|c| !c.closed) {
            return;
        }
        let stream = TcpStream::connect(&self.address).expect("it accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        let address = stream.local_addr().expect("connected").to_string();
        let mut connection = Connection {
            stream,
            input: Vec::new(),
            events: Vec::new(),
            closed: false,
        };
        connection.write(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n");
        connection.wait(1, clock::now() + PATIENCE);
        let id = match connection.events.pop() {
            Some(Event::Reply(reply)) => reply.number().unwrap_or(0),
            _ => 0,
        };
        let name = format!("#{at}.{}", self.names.len());
        self.names.insert(id.to_string(), name.clone());
        self.names.insert(address.clone(), name);
        self.ids[at] = id;
        self.addresses[at] = address;
        self.connections[at] = Some(connection);
    }

    /// Does what the step says and returns whether complete requests may have been sent.
    pub fn act(&mut self, step: &Step) {
        let bytes = match &step.act {
            Act::Send { requests, form, .. } => self.encode(requests, *form),
            Act::Last {
                requests,
                tail,
                form,
                ..
            } => [self.encode(requests, *form), tail.clone()].concat(),
            Act::Raw(bytes) => bytes.clone(),
            Act::HalfClose | Act::Close => Vec::new(),
        };
        let Some(connection) = &mut self.connections[step.connection] else {
            return;
        };
        match &step.act {
            Act::Send { cuts, .. } | Act::Last { cuts, .. } => {
                let mut places: Vec<usize> = match cuts {
                    Cuts::None => Vec::new(),
                    Cuts::EveryByte => (1..bytes.len()).collect(),
                    Cuts::At(places) => places.iter().map(|p| p % bytes.len()).collect(),
                };
                places.extend([0, bytes.len()]);
                places.sort_unstable();
                for ends in places.windows(2) {
                    connection.write(&bytes[ends[0]..ends[1]]);
                }
                if let Act::Last { .. } = step.act {
                    connection.half_close();
                }
            }
            Act::Raw(_) => connection.write(&bytes),
            Act::HalfClose => connection.half_close(),
            Act::Close => self.connections[step.connection] = None,
        }
    }

    fn encode(&self, requests: &[Request], form: Form) -> Vec<u8> {
        let mut out = BytesMut::new();
        for request in requests {
            let args: Vec<Vec<u8>> = request.iter().map(|arg| self.filled_in(arg)).collect();
            if form == Form::Inline {
                for (at, arg) in args.iter().enumerate() {
                    let quoted = arg
                        .iter()
                        .map(|byte| format!("\\x{byte:02x}"))
                        .collect::<String>();
                    let plain = !arg.is_empty() && arg.iter().all(|b| b.is_ascii_alphanumeric());
                    let blank: &[u8] = if at == 0 { b"" } else { b" " };
                    out.extend_from_slice(blank);
                    match plain {
                        true => out.extend_from_slice(arg),
                        false => out.extend_from_slice(format!("\"{quoted}\"").as_bytes()),
                    }
                }
                out.extend_from_slice(b"\r\n");
            } else {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                encode_request(&mut out, &args);
            }
        }
        out.to_vec()
    }

    /// `{id:n}` and `{addr:n}` stand for what connection `n` has on this side.
    fn filled_in(&self, arg: &[u8]) -> Vec<u8> {
        let number = |prefix: &[u8]| {
            let digits = arg.strip_prefix(prefix)?.strip_suffix(b"}")?;
            std::str::from_utf8(digits).ok()?.parse::<usize>().ok()
        };
        if let Some(at) = number(b"{id:") {
            return self.ids[at].to_string().into_bytes();
        }
        if let Some(at) = number(b"{addr:") {
            return self.addresses[at].clone().into_bytes();
        }
        arg.to_vec()
    }

    /// Reads what is there.
    pub fn drain(&mut self) {
        self.connections
            .iter_mut()
            .flatten()
            .for_each(Connection::drain);
    }

    /// Waits until each connection has at least so many events.
    pub fn wait(&mut self, counts: [usize; CONNECTIONS], until: Timestamp) {
        for (connection, count) in self.connections.iter_mut().zip(counts) {
            if let Some(connection) = connection {
                connection.wait(count, until);
            }
        }
    }

    /// Waits until this connection is closed.
    pub fn wait_for_end(&mut self, at: usize, until: Timestamp) {
        if let Some(connection) = &mut self.connections[at] {
            connection.wait(usize::MAX, until);
        }
    }

    pub fn counts(&self) -> [usize; CONNECTIONS] {
        self.connections
            .each_ref()
            .map(|c| c.as_ref().map_or(0, |c| c.events.len()))
    }

    /// The events since the last call.
    pub fn events(&mut self) -> [Vec<Event>; CONNECTIONS] {
        self.connections.each_mut().map(|c| {
            c.as_mut()
                .map(|c| std::mem::take(&mut c.events))
                .unwrap_or_default()
        })
    }

    pub fn id(&self, connection: usize) -> i64 {
        self.ids[connection]
    }
}

impl Connection {
    fn write(&mut self, bytes: &[u8]) {
        // Closed by the other side: reading tells.
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.write_all(bytes);
    }

    fn half_close(&mut self) {
        // The other side may have closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn drain(&mut self) {
        let _ = self.stream.set_nonblocking(true);
        while self.read() {}
    }

    fn wait(&mut self, count: usize, until: Timestamp) {
        let _ = self.stream.set_nonblocking(false);
        while self.events.len() < count && !self.closed {
            let left = until.since(clock::now());
            if left.is_zero() {
                return;
            }
            let _ = self.stream.set_read_timeout(Some(left));
            if !self.read() {
                return;
            }
        }
    }

    /// Reads once; false when nothing came.
    fn read(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                false
            }
            Ok(0) | Err(_) => {
                self.closed = true;
                if !self.input.is_empty() {
                    let half = std::mem::take(&mut self.input);
                    self.events.push(Event::HalfAReply(half));
                }
                self.events.push(Event::Closed);
                false
            }
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                while let Some((value, len)) = Value::parse(&self.input) {
                    self.input.drain(..len);
                    self.events.push(Event::Reply(value));
                }
                true
            }
        }
    }
}

/// What only some versions do.
#[derive(Clone, Copy)]
pub struct Traits {
    /// Since 7.2 a failing AUTH is not answered while replies before it wait to be written, not even
    /// within the reply to EXEC: nobody can use that, and pointsman always answers.
    pub swallows: bool,
    /// It knows RESET.
    pub resets: bool,
    /// Redis 8 looks at a broken request behind one that waited only when more bytes come.
    pub overlooks: bool,
}

/// A connection to the server itself.
pub struct Control {
    connection: Connection,
    id: String,
}

impl Control {
    pub fn open(server: &str) -> Control {
        let stream = TcpStream::connect(server).expect("the server accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        let connection = Connection {
            stream,
            input: Vec::new(),
            events: Vec::new(),
            closed: false,
        };
        let mut control = Control {
            connection,
            id: String::new(),
        };
        control.id = control.ask(&["CLIENT", "ID"]).text();
        control
    }

    pub fn ask(&mut self, request: &[&str]) -> Value {
        let mut frame = BytesMut::new();
        let args: Vec<&[u8]> = request.iter().map(|arg| arg.as_bytes()).collect();
        encode_request(&mut frame, &args);
        self.connection.write(&frame);
        self.connection.wait(1, clock::now() + PATIENCE);
        match self.connection.events.pop() {
            Some(Event::Reply(reply)) => reply,
            other => panic!("the server answered {request:?} with {other:?}"),
        }
    }

    /// Everything that was sent before has been done, and what it led to has been written: Redis
    /// looks at sockets in the order in which they became readable, and writes before it looks again.
    pub fn barrier(&mut self) {
        self.ask(&["PING"]);
        self.ask(&["PING"]);
    }

    pub fn traits(&mut self) -> Traits {
        let info = self.ask(&["INFO", "server"]).text();
        let version = info.lines().find_map(|l| l.strip_prefix("redis_version:"));
        let mut parts = version.into_iter().flat_map(|v| v.split('.'));
        let mut next = || parts.next().and_then(|p| p.parse::<u32>().ok());
        let version = (next(), next());
        Traits {
            swallows: version >= (Some(7), Some(2)),
            overlooks: version >= (Some(8), Some(0)),
            resets: version >= (Some(6), Some(2)),
        }
    }

    /// Who is connected, without this connection.
    pub fn clients(&mut self) -> Vec<BTreeMap<String, String>> {
        let list = self.ask(&["CLIENT", "LIST"]).text();
        list.lines()
            .map(|line| {
                line.split(' ')
                    .filter_map(|field| field.split_once('='))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect::<BTreeMap<_, _>>()
            })
            .filter(|client| client["id"] != self.id)
            .collect()
    }

    /// Flags of clients that are in a transaction, blocked, listen, monitor, track or touch nothing.
    pub fn engaged(&mut self) -> Vec<String> {
        let clients = self.clients().into_iter();
        let flags = clients.filter_map(|mut client| client.remove("flags"));
        flags
            .filter(|flags| flags.contains(['x', 'b', 'P', 'O', 't', 'T']))
            .collect()
    }

    /// How often each command ran, was refused or failed.
    pub fn ran(&mut self) -> BTreeMap<String, String> {
        let info = self.ask(&["INFO", "commandstats"]).text();
        info.lines()
            .filter_map(|line| {
                let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
                let figures: Vec<&str> = figures
                    .split(',')
                    .filter(|figure| !figure.contains("usec"))
                    .collect();
                Some((name.to_owned(), figures.join(",")))
            })
            .filter(|(name, _)| !OWN.contains(&name.split('|').next().unwrap_or_default()))
            .collect()
    }
}

/// Commands that pointsman answers itself, or asks for itself, or that the comparison asks for. SPUBLISH
/// goes before WAIT; what somebody listens to, and a MULTI, is said again on a new connection.
const OWN: &[&str] = &[
    "ping",
    "info",
    "client",
    "auth",
    "hello",
    "select",
    "reset",
    "quit",
    "command",
    "acl",
    "config",
    "script",
    "spublish",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "multi",
];
