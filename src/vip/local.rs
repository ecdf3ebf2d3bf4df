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
        let mut connection = match within(self.limit, Connection::open(&self.node)).await {
            Ok(connection) => connection,
            Err(lost) => return lost,
        };
        if let Some(auth) = &self.auth
            && let Err(lost) = within(self.limit, connection.log_in(auth)).await
        {
            return lost;
        }
        loop {
            let asked = clock::now();
            let says = match within(self.limit, connection.says()).await {
                Ok(says) => says,
                Err(lost) => return lost,
            };
            if events.send(Event::Node(says, asked)).await.is_err() {
                return Lost::Silent(String::new());
            }
            tokio::select! {
                () = sleep(self.interval) => {}
                () = self.now.notified() => {}
                ended = connection.ended() => return Lost::Down(ended),
            }
        }
    }
}

/// How a connection ended.
enum Lost {
    /// The node is not there.
    Down(String),
    /// It, or its host, says nothing of use: it hangs, or a script keeps it busy.
    Silent(String),
}

async fn within<T>(
    limit: Duration,
    doing: impl Future<Output = Result<T, Lost>>,
) -> Result<T, Lost> {
    match timeout(limit, doing).await {
        Ok(done) => done,
        Err(_) => Err(Lost::Silent("does not answer".to_owned())),
    }
}

fn down(error: impl ToString) -> Lost {
    Lost::Down(error.to_string())
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
    let ended = tell_to_end(node, auth, address).await;
    ended.map_err(|lost| match lost {
        Lost::Down(why) | Lost::Silent(why) => why,
    })
}

async fn tell_to_end(
    node: &NodeId,
    auth: Option<&Credentials>,
    address: IpAddr,
) -> Result<u64, Lost> {
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

struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

impl Connection {
    async fn open(node: &NodeId) -> Result<Connection, Lost> {
        let address = node.host_port().ok_or_else(|| down("it has no port"))?;
        let stream = TcpStream::connect(address).await.map_err(down)?;
        stream.set_nodelay(true).map_err(down)?;
        Ok(Connection {
            stream,
            input: BytesMut::new(),
        })
    }

    async fn log_in(&mut self, auth: &Credentials) -> Result<(), Lost> {
        let user = auth.username.as_ref().map(|user| user.as_bytes());
        let words: Vec<&[u8]> = [Some(&b"AUTH"[..]), user, Some(auth.password())]
            .into_iter()
            .flatten()
            .collect();
        self.send(&[&words]).await?;
        self.reply().await?;
        Ok(())
    }

    async fn says(&mut self) -> Result<NodeSays, Lost> {
        self.send(&[&[b"ROLE"], &[b"INFO", b"server"]]).await?;
        let role = self.reply().await?;
        let info = self.reply().await?;
        let word = elements(&role).next().and_then(payload);
        match word {
            Some(b"master") => Ok(NodeSays::Primary {
                run_id: run_id(&info).ok_or_else(|| down("INFO has no run_id"))?,
            }),
            Some(b"slave") => Ok(NodeSays::Replica),
            _ => Err(down("what answers is not a Redis node")),
        }
    }

    async fn send(&mut self, requests: &[&[&[u8]]]) -> Result<(), Lost> {
        let mut out = BytesMut::new();
        for request in requests {
            encode_request(&mut out, request);
        }
        self.stream.write_all(&out).await.map_err(down)
    }

    /// The next reply; an error reply is an error.
    async fn reply(&mut self) -> Result<BytesMut, Lost> {
        let mut scanner = ReplyScanner::default();
        loop {
            match scanner.scan(&self.input) {
                Ok(Some(len)) => {
                    let frame = self.input.split_to(len);
                    return match error_code(&frame) {
                        Some(_) => Err(Lost::Silent(
                            String::from_utf8_lossy(&frame).trim_end().to_owned(),
                        )),
                        None => Ok(frame),
                    };
                }
                Ok(None) if self.input.len() < REPLY_MAX => {}
                Ok(None) | Err(_) => return Err(down("what answers is not a Redis node")),
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(down("the connection was closed")),
                Ok(_) => {}
                Err(error) => return Err(down(error)),
            }
        }
    }

    /// Waits for the end of a connection on which nothing is awaited.
    async fn ended(&mut self) -> String {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => "the connection was closed".to_owned(),
            Ok(_) => "it says what nobody asked".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

fn run_id(info: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(payload(info)?).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(line.trim_end().into())
}
