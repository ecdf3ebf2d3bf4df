//! Asks this host's node, on one connection, whether it is a primary, and notices at once when that
//! connection ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::agent::Event;
use super::duty::NodeSays;
use crate::clock;
use crate::resp::reply::{elements, error_code, payload};
use crate::resp::{Credentials, ReplyScanner, encode_request};
use crate::topology::NodeId;

/// Pause before a node that is not there is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// INFO of one section is a few kilobytes; this is for a port where something else listens.
const REPLY_MAX: usize = 1024 * 1024;

/// The node beside the agent.
pub(super) struct Local {
    pub(super) node: NodeId,
    pub(super) auth: Option<Credentials>,
    /// How often it is asked while nothing happens.
    pub(super) interval: Duration,
    /// It is asked at once when this is notified.
    pub(super) now: Arc<Notify>,
    /// A node that does not answer for this long is tried anew.
    pub(super) limit: Duration,
}

impl Local {
    /// Runs until nobody listens any more.
    pub(super) async fn run(self, events: mpsc::Sender<Event>) {
        loop {
            let asked = clock::now();
            let event = match self.talk(&events).await {
                // By CLIENT KILL, or by the end of the process: then the next connect is refused.
                Lost::Ended => continue,
                Lost::Down(why) => Event::Node(NodeSays::Down(why), asked),
                Lost::Silent(why) => Event::NodeSilent(why),
            };
            if events.send(event).await.is_err() {
                return;
            }
            sleep(RETRY).await;
        }
    }

    /// One connection, until it fails.
    async fn talk(&self, events: &mpsc::Sender<Event>) -> Lost {
        let mut connection = match timeout(self.limit, Connection::open(&self.node)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Lost::Down(error),
            Err(_) => return Lost::Silent(NO_ANSWER.to_owned()),
        };
        if let Some(auth) = &self.auth
            && let Err(why) = within(self.limit, connection.log_in(auth)).await
        {
            return Lost::Silent(why);
        }
        let mut answered = false;
        loop {
            let asked = clock::now();
            let says = match within(self.limit, connection.says()).await {
                Ok(says) => says,
                Err(_) if answered => return Lost::Ended,
                Err(why) => return Lost::Silent(why),
            };
            answered = true;
            if events.send(Event::Node(says, asked)).await.is_err() {
                return Lost::Silent("nobody listens".to_owned());
            }
            tokio::select! {
                () = sleep(self.interval) => {}
                () = self.now.notified() => {}
                () = connection.ended() => return Lost::Ended,
            }
        }
    }
}

/// How a connection ended.
enum Lost {
    /// It had answered, and does so no more.
    Ended,
    /// The node is not there: it can not be connected to.
    Down(String),
    /// It, or its host, says nothing of use: it hangs, or a script keeps it busy.
    Silent(String),
}

const NO_ANSWER: &str = "does not answer";

async fn within<T>(
    limit: Duration,
    doing: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(limit, doing).await {
        Ok(done) => done,
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

/// Ends every client of `node` that connected to `address`, by the node itself (Redis 6.2), and
/// returns how many. For kernels that can not do it.
///
/// # Errors
/// Why not, for people.
pub async fn end_clients(
    node: &NodeId,
    auth: Option<&Credentials>,
    address: IpAddr,
) -> Result<u64, String> {
    let mut connection = Connection::open(node).await?;
    if let Some(auth) = auth {
        connection.log_in(auth).await?;
    }
    let port = node.host_port().map_or(0, |(_, port)| port);
    let local = SocketAddr::new(address, port).to_string();
    connection
        .send(&[&[b"CLIENT", b"KILL", b"LADDR", local.as_bytes()]])
        .await?;
    let reply = connection.reply().await?;
    let ended = payload(&reply).and_then(crate::resp::integer);
    Ok(ended.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

const NOT_REDIS: &str = "what answers is not a Redis node";

fn text(error: std::io::Error) -> String {
    error.to_string()
}

struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

impl Connection {
    async fn open(node: &NodeId) -> Result<Connection, String> {
        let address = node.host_port().ok_or("it has no port")?;
        let stream = TcpStream::connect(address).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        Ok(Connection {
            stream,
            input: BytesMut::new(),
        })
    }

    async fn log_in(&mut self, auth: &Credentials) -> Result<(), String> {
        let user = auth.username.as_ref().map(|user| user.as_bytes());
        let words: Vec<&[u8]> = [Some(&b"AUTH"[..]), user, Some(auth.password())]
            .into_iter()
            .flatten()
            .collect();
        self.send(&[&words]).await?;
        self.reply().await?;
        Ok(())
    }

    async fn says(&mut self) -> Result<NodeSays, String> {
        self.send(&[&[b"ROLE"], &[b"INFO", b"server"]]).await?;
        let role = self.reply().await?;
        let info = self.reply().await?;
        let word = elements(&role).next().and_then(payload);
        match word {
            Some(b"master") => Ok(NodeSays::Primary {
                run_id: run_id(&info).ok_or("INFO has no run_id")?,
            }),
            Some(b"slave") => Ok(NodeSays::Replica),
            _ => Err(NOT_REDIS.to_owned()),
        }
    }

    async fn send(&mut self, requests: &[&[&[u8]]]) -> Result<(), String> {
        let mut out = BytesMut::new();
        for request in requests {
            encode_request(&mut out, request);
        }
        self.stream.write_all(&out).await.map_err(text)
    }

    /// The next reply; an error reply is an error.
    async fn reply(&mut self) -> Result<BytesMut, String> {
        let mut scanner = ReplyScanner::default();
        loop {
            match scanner.scan(&self.input) {
                Ok(Some(len)) => {
                    let frame = self.input.split_to(len);
                    return match error_code(&frame) {
                        Some(_) => Err(String::from_utf8_lossy(&frame).trim_end().to_owned()),
                        None => Ok(frame),
                    };
                }
                Ok(None) if self.input.len() < REPLY_MAX => {}
                Ok(None) | Err(_) => return Err(NOT_REDIS.to_owned()),
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(text(error)),
            }
        }
    }

    /// Waits for the end of a connection on which nothing is awaited; what comes unasked ends it too.
    async fn ended(&mut self) {
        let _ = self.stream.read_buf(&mut self.input).await;
    }
}

fn run_id(info: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(payload(info)?).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(line.trim_end().into())
}
