//! Opens an upstream: the name is resolved anew, every address is tried, and one round trip makes
//! sure that the node is the primary of the topology before any request reaches it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use super::lane::{LaneKey, Login};
use crate::clock;
use crate::metrics::ConnectFailure;
use crate::resp::{Credentials, ReplyScanner, encode_request};
use crate::topology::{EvidenceKind, Primary};

/// A node is near when it takes less than this to connect to.
const NEAR: Duration = Duration::from_micros(150);

/// What to open.
pub(super) struct Dial {
    pub(super) primary: Primary,
    pub(super) key: LaneKey,
    /// Whether the node's id of this connection is wanted (CLIENT UNBLOCK).
    pub(super) pinned: bool,
    /// CLIENT TRACKING as it was said, for a connection that is only for that.
    pub(super) tracking: Vec<Bytes>,
    /// pointsman's own credentials, for nodes that do not let the client's user run INFO.
    pub(super) own: Option<Credentials>,
    /// Script bodies the node does not know yet.
    pub(super) scripts: Vec<Bytes>,
    /// Bound of everything together.
    pub(super) timeout: Duration,
}

/// An open and verified connection.
pub(super) struct Dialed {
    pub(super) stream: TcpStream,
    pub(super) client_id: u64,
    /// The node answers so quickly that waiting for a reply costs nothing.
    pub(super) near: bool,
    /// The server's version, as it said in INFO; `None`: it did not tell this user.
    pub(super) version: Option<(u16, u16)>,
    /// It did not ask for AUTH.
    pub(super) let_in: bool,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0} does not resolve: {1}")]
    Unresolved(String, io::Error),
    #[error("connect failed: {0}")]
    Connect(io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connection lost in the handshake: {0}")]
    Lost(io::Error),
    #[error("the node is no primary")]
    NotPrimary,
    #[error("the node is another process than the published primary (run id {0})")]
    Reborn(String),
    #[error("the node is loading its data")]
    Loading,
    #[error("the node has too many clients")]
    MaxClients,
    #[error("the node does not speak RESP")]
    NotRedis,
    /// The node refused the client's AUTH, HELLO or SELECT: its own words, for the client.
    #[error("the node refused: {}", String::from_utf8_lossy(.0))]
    Denied(Bytes),
}

impl DialError {
    /// What the control plane should hear of it.
    pub(super) fn evidence(&self) -> Option<EvidenceKind> {
        match self {
            DialError::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                Some(EvidenceKind::ConnectRefused)
            }
            DialError::Connect(_) => Some(EvidenceKind::ConnectTimeout),
            DialError::Lost(_) => Some(EvidenceKind::ConnectionLost),
            DialError::NotPrimary => Some(EvidenceKind::NotPrimary),
            DialError::Reborn(_) => Some(EvidenceKind::Reborn),
            DialError::Loading => Some(EvidenceKind::Loading),
            DialError::Unresolved(..)
            // The kernel answered and Redis did not: probes tell how long that has been so.
            | DialError::Timeout(_)
            | DialError::MaxClients
            | DialError::NotRedis
            | DialError::Denied(_) => None,
        }
    }

    /// For metrics.
    pub(super) fn reason(&self) -> ConnectFailure {
        match self {
            DialError::Unresolved(..) => ConnectFailure::Unresolved,
            DialError::Connect(e) => match e.kind() {
                io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::Other => ConnectFailure::Local,
                _ => ConnectFailure::Timeout,
            },
            DialError::Timeout(_) => ConnectFailure::Timeout,
            DialError::Lost(_) => ConnectFailure::Lost,
            DialError::NotPrimary | DialError::Reborn(_) => ConnectFailure::NotPrimary,
            DialError::Loading => ConnectFailure::Loading,
            DialError::MaxClients => ConnectFailure::MaxClients,
            DialError::NotRedis => ConnectFailure::Protocol,
            DialError::Denied(_) => ConnectFailure::Auth,
        }
    }
}

/// See the module.
pub(super) async fn dial(what: &Dial) -> Result<Dialed, DialError> {
    tokio::time::timeout(what.timeout, dial_unbounded(what))
        .await
        .unwrap_or(Err(DialError::Timeout(what.timeout)))
}

async fn dial_unbounded(what: &Dial) -> Result<Dialed, DialError> {
    let (mut stream, near) = connect(what.primary.node.as_str(), what.timeout).await?;
    let mut script = Script::new(what);
    let mut replies = script.run(&mut stream).await?.into_iter();
    let mut dialed = Dialed {
        stream,
        client_id: 0,
        near,
        version: None,
        let_in: true,
    };
    let mut verified = false;
    let mut hidden = false;
    let mut in_database = false;
    let mut server = String::new();
    for step in script.steps.drain(..) {
        let reply = replies.next().unwrap_or_default();
        if reply.starts_with(b"-LOADING") {
            return Err(DialError::Loading);
        }
        let error = reply.starts_with(b"-");
        dialed.let_in &= !reply.starts_with(b"-NOAUTH");
        match step {
            Step::Database if error && in_database => {}
            Step::Identity | Step::Database if error => return Err(DialError::Denied(reply)),
            Step::EarlyDatabase => in_database = !error,
            Step::Id => dialed.client_id = integer(&reply).unwrap_or(0),
            Step::Server | Step::Replication if denied(&reply) => hidden = true,
            Step::Server => server = String::from_utf8_lossy(&reply).into_owned(),
            Step::Replication => {
                check(
                    &server,
                    &String::from_utf8_lossy(&reply),
                    &what.primary.run_id,
                )?;
                verified = true;
            }
            Step::Identity | Step::Database | Step::Courtesy => {}
        }
    }
    dialed.version = version(&server);
    if hidden && !verified {
        verify_apart(what).await?;
    }
    Ok(dialed)
}

/// The client's user may not run INFO (or has not said AUTH yet, so that it may run nothing at all):
/// asks on a second connection as ourselves.
async fn verify_apart(what: &Dial) -> Result<(), DialError> {
    let (mut stream, _) = connect(what.primary.node.as_str(), what.timeout).await?;
    let mut script = Script::default();
    if let Some(own) = &what.own {
        script.auth(own.username.as_deref().map(str::as_bytes), own.password());
    }
    script.add(Step::Server, &[b"INFO", b"server"]);
    script.add(Step::Replication, &[b"INFO", b"replication"]);
    let replies = script.run(&mut stream).await?;
    let [.., server, replication] = replies.as_slice() else {
        return Err(DialError::NotRedis);
    };
    if denied(server) || denied(replication) {
        // An unauthenticated client on a node with a password: nothing it sends can run.
        return match what.key.user {
            None => Ok(()),
            Some(_) => Err(DialError::Denied(Bytes::from_static(
                b"-POINTSMAN not executed: neither this user nor pointsman's own credentials may run INFO, \
                  so the primary can not be verified\r\n",
            ))),
        };
    }
    check(
        &String::from_utf8_lossy(server),
        &String::from_utf8_lossy(replication),
        &what.primary.run_id,
    )
}

fn denied(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOAUTH")
        || reply.starts_with(b"-NOPERM")
        || reply.starts_with(b"-WRONGPASS")
}

fn check(server: &str, replication: &str, run_id: &Arc<str>) -> Result<(), DialError> {
    let seen = field(server, "run_id:").ok_or(DialError::NotRedis)?;
    if seen != &**run_id {
        return Err(DialError::Reborn(seen.to_owned()));
    }
    match field(replication, "role:") {
        Some("master") => Ok(()),
        Some(_) => Err(DialError::NotPrimary),
        None => Err(DialError::NotRedis),
    }
}

fn version(server: &str) -> Option<(u16, u16)> {
    let mut parts = field(server, "redis_version:")?.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn integer(reply: &[u8]) -> Option<u64> {
    std::str::from_utf8(reply.strip_prefix(b":")?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The connection, and whether the node is near.
async fn connect(address: &str, timeout: Duration) -> Result<(TcpStream, bool), DialError> {
    let addresses: Vec<SocketAddr> = match lookup_host(address).await {
        Ok(found) => found.collect(),
        Err(error) => return Err(DialError::Unresolved(address.to_owned(), error)),
    };
    let share = timeout * 3 / 4 / addresses.len().clamp(1, 8) as u32;
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        let began = clock::now();
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let same_host = stream
                    .local_addr()
                    .is_ok_and(|own| own.ip() == address.ip());
                let near = same_host || clock::now().since(began) < NEAR;
                stream.set_nodelay(true).map_err(DialError::Connect)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(Duration::from_secs(15))
                    .with_interval(Duration::from_secs(5));
                SockRef::from(&stream)
                    .set_tcp_keepalive(&keepalive)
                    .map_err(DialError::Connect)?;
                return Ok((stream, near));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(DialError::Connect(last))
}

#[derive(Clone, Copy)]
enum Step {
    /// AUTH, HELLO, CLIENT TRACKING: the client must hear of a refusal.
    Identity,
    /// SELECT: the same, unless it was done before AUTH.
    Database,
    /// SELECT before AUTH: a client keeps its database when it becomes a user who may not SELECT.
    EarlyDatabase,
    /// CLIENT ID.
    Id,
    /// INFO server.
    Server,
    /// INFO replication.
    Replication,
    /// Its failure does no harm.
    Courtesy,
}

/// The handshake: written at once, answered in one round trip, or in two when something comes before AUTH:
/// since Redis 7.2 a failing AUTH is not answered while replies before it wait to be written.
#[derive(Default)]
struct Script {
    steps: Vec<Step>,
    bytes: BytesMut,
    /// Steps, and their bytes, that are answered before the others are written.
    early: (usize, usize),
}

impl Script {
    fn new(what: &Dial) -> Self {
        let mut script = Script::default();
        let db = what.key.db.to_string();
        if let Some(login) = &what.key.user {
            let Login { user, password } = &**login;
            if what.key.db != 0 {
                script.add(Step::EarlyDatabase, &[b"SELECT", db.as_bytes()]);
                script.early = (script.steps.len(), script.bytes.len());
            }
            script.auth(user.as_deref(), password);
        }
        if what.key.resp3 {
            script.add(Step::Identity, &[b"HELLO", b"3"]);
        }
        if what.key.db != 0 {
            script.add(Step::Database, &[b"SELECT", db.as_bytes()]);
        }
        for frame in &what.tracking {
            script.steps.push(Step::Identity);
            script.bytes.extend_from_slice(frame);
        }
        script.add(Step::Courtesy, &[b"CLIENT", b"SETNAME", b"pointsman"]);
        script.add(Step::Courtesy, &[b"CLIENT", b"CAPA", b"redirect"]);
        if what.pinned {
            script.add(Step::Id, &[b"CLIENT", b"ID"]);
        }
        for body in &what.scripts {
            script.add(Step::Courtesy, &[b"SCRIPT", b"LOAD", body]);
        }
        script.add(Step::Server, &[b"INFO", b"server"]);
        script.add(Step::Replication, &[b"INFO", b"replication"]);
        // Answered with -LOADING by a node whose data is not there yet.
        script.add(Step::Courtesy, &[b"PING"]);
        script
    }

    fn auth(&mut self, user: Option<&[u8]>, password: &[u8]) {
        match user {
            Some(user) => self.add(Step::Identity, &[b"AUTH", user, password]),
            None => self.add(Step::Identity, &[b"AUTH", password]),
        }
    }

    fn add(&mut self, step: Step, args: &[&[u8]]) {
        self.steps.push(step);
        encode_request(&mut self.bytes, args);
    }

    async fn run(&self, stream: &mut TcpStream) -> Result<Vec<Bytes>, DialError> {
        let (steps, bytes) = self.early;
        let mut replies = Vec::with_capacity(self.steps.len());
        if steps > 0 {
            ask(stream, &self.bytes[..bytes], steps, &mut replies).await?;
        }
        ask(stream, &self.bytes[bytes..], self.steps.len(), &mut replies).await?;
        Ok(replies)
    }
}

/// Writes requests and reads until there are `count` replies.
async fn ask(
    stream: &mut TcpStream,
    requests: &[u8],
    count: usize,
    replies: &mut Vec<Bytes>,
) -> Result<(), DialError> {
    stream.write_all(requests).await.map_err(DialError::Lost)?;
    let mut scanner = ReplyScanner::default();
    let mut input = BytesMut::with_capacity(8 * 1024);
    while replies.len() < count {
        match scanner.scan(&input) {
            Ok(Some(n)) => {
                let reply = input.split_to(n).freeze();
                if reply.starts_with(b"-ERR max number of clients") {
                    return Err(DialError::MaxClients);
                }
                replies.push(reply);
            }
            Ok(None) => match stream.read_buf(&mut input).await {
                Ok(0) => return Err(DialError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(DialError::Lost(error)),
            },
            Err(_) => return Err(DialError::NotRedis),
        }
    }
    Ok(())
}
