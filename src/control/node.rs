//! One RESP connection to one node: resolve, connect, log in, send, receive. What a failure means
//! as evidence is said here, in one place, with the words of [`ProbeError`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use redis_protocol::resp2::types::BytesFrame;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use super::codec::{CodecError, Command, NodeCodec};
use crate::failover::ProbeError;
use crate::resp::Credentials;
use crate::topology::NodeId;

/// A name lookup that takes longer counts as unresolved.
const LOOKUP_LIMIT: Duration = Duration::from_secs(1);

/// With this, and the user timeout, a peer that acknowledged everything and then vanished is
/// noticed although we wait for it. The kernel counts in whole seconds.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// The kernel counts its user timeout from the first repetition and looks only when it is about to
/// repeat again, that is some 400 ms after the bytes were sent. With this part of `unacked_after` it
/// gives up then (measured with the default of 500 ms: 550 ms after the cut, and 1000 ms with the
/// whole). Too early does no harm: the core wants the whole time to pass, and a host that lives
/// answers the next connect.
const USER_TIMEOUT_SHARE: u32 = 10;

/// How to get into one node.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its address; the name is resolved at every connect.
    pub node: NodeId,
    /// With what pointsman logs in.
    pub credentials: Option<Credentials>,
    /// Set by CLIENT SETNAME, so that monitors find each other.
    pub mark: Arc<str>,
    /// Sent bytes that the peer's kernel does not acknowledge for about this long end the connection.
    pub unacked_after: Duration,
}

/// An open connection.
pub(super) struct Connection {
    framed: Framed<TcpStream, NodeCodec>,
}

impl Access {
    /// Resolves the name and returns every address, in the resolver's order.
    ///
    /// # Errors
    /// [`ProbeError::Unresolved`].
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, ProbeError> {
        let (host, port) = self.node.host_port().ok_or(ProbeError::Unresolved)?;
        // getaddrinfo runs on a blocking thread, not on this one; literals are not looked up.
        match timeout(LOOKUP_LIMIT, lookup_host((host, port))).await {
            Ok(Ok(found)) => {
                let found: Vec<SocketAddr> = found.collect();
                match found.is_empty() {
                    true => Err(ProbeError::Unresolved),
                    false => Ok(found),
                }
            }
            Ok(Err(_)) | Err(_) => Err(ProbeError::Unresolved),
        }
    }

    /// Tries the addresses one after the other, each at most its share of `limit`.
    ///
    /// # Errors
    /// Where addresses fail in different ways, the one that proves least: that the host is silent
    /// rather than that nobody listens.
    pub(super) async fn connect(
        &self,
        addresses: &[SocketAddr],
        limit: Duration,
    ) -> Result<Connection, ProbeError> {
        let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut worst = None;
        for address in addresses {
            let failed = match timeout(share, self.connect_one(*address)).await {
                Ok(Ok(stream)) => {
                    return Ok(Connection {
                        framed: Framed::new(stream, NodeCodec::default()),
                    });
                }
                Ok(Err(error)) => connect_failure(&self.node, &error),
                Err(_) => ProbeError::Unacked,
            };
            worst = match (worst, failed) {
                (None, failed) | (Some(ProbeError::Refused), failed) => Some(failed),
                (Some(worst), _) => Some(worst),
            };
        }
        Err(worst.unwrap_or(ProbeError::Unresolved))
    }

    /// Resolves and connects, both bounded by `limit`.
    ///
    /// # Errors
    /// As [`Access::resolve`] and [`Access::connect`].
    pub(super) async fn open(&self, limit: Duration) -> Result<Connection, ProbeError> {
        let addresses = self.resolve().await?;
        self.connect(&addresses, limit).await
    }

    async fn connect_one(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE),
        )?;
        options.set_tcp_user_timeout(Some(self.unacked_after / USER_TIMEOUT_SHARE))?;
        let stream = socket.connect(address).await?;
        if stream.local_addr()? == stream.peer_addr()? {
            // TCP connects a socket to itself when the kernel happens to pick the very port that
            // nobody listens on.
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    /// The commands that open every connection, and what their replies mean.
    pub(super) fn handshake(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        commands.extend(self.credentials.as_ref().map(auth));
        commands.push(Command::new(["CLIENT", "SETNAME", &self.mark]));
        // Redis 7 and later; an error of older ones is of no matter.
        commands.push(Command::new(["CLIENT", "NO-EVICT", "on"]));
        commands
    }
}

/// AUTH with these credentials.
pub(super) fn auth(credentials: &Credentials) -> Command {
    let user = credentials.username.as_ref().map(|user| user.as_bytes());
    Command::new(
        [Some(&b"AUTH"[..]), user, Some(credentials.password())]
            .into_iter()
            .flatten(),
    )
}

impl Connection {
    /// Writes all commands at once.
    ///
    /// # Errors
    /// As [`Connection::receive`]; a node that refuses the connection says why before it closes,
    /// so that is looked for first.
    pub(super) async fn send(&mut self, commands: Vec<Command>) -> Result<(), ProbeError> {
        let Err(failed) = self.write(commands).await else {
            return Ok(());
        };
        match self.framed.next().await {
            Some(Ok(BytesFrame::Error(text))) => Err(reply_failure(&text)),
            _ => Err(io_failure(&failed)),
        }
    }

    async fn write(&mut self, commands: Vec<Command>) -> Result<(), CodecError> {
        for command in commands {
            self.framed.feed(command).await?;
        }
        self.framed.flush().await
    }

    /// Waits for the next reply. Cancel safe. Waits for ever when none is due, until the connection
    /// ends.
    ///
    /// # Errors
    /// `ConnectionLost`, `Unacked` (the kernel gave up) or `NotRedis`.
    pub(super) async fn receive(&mut self) -> Result<BytesFrame, ProbeError> {
        match self.framed.next().await {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(io_failure(&error)),
            None => Err(ProbeError::ConnectionLost),
        }
    }

    /// Sends all commands and waits for all replies.
    ///
    /// # Errors
    /// As [`Connection::receive`]. Error replies are replies.
    pub(super) async fn request(
        &mut self,
        commands: Vec<Command>,
    ) -> Result<Vec<BytesFrame>, ProbeError> {
        let mut replies = Vec::with_capacity(commands.len());
        let awaited = commands.len();
        self.send(commands).await?;
        while replies.len() < awaited {
            replies.push(self.receive().await?);
        }
        Ok(replies)
    }
}

fn connect_failure(node: &NodeId, error: &io::Error) -> ProbeError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ProbeError::Refused,
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => ProbeError::Unacked,
        _ => {
            // Out of descriptors or ports: our trouble, which proves nothing about the node.
            tracing::warn!(%node, %error, "a connection to a node can not be made on this machine");
            ProbeError::Unresolved
        }
    }
}

fn io_failure(error: &CodecError) -> ProbeError {
    match error {
        CodecError::NotResp => ProbeError::NotRedis,
        CodecError::Io(error) => match error.kind() {
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => ProbeError::Unacked,
            _ => ProbeError::ConnectionLost,
        },
    }
}

/// What an error reply says about the node.
pub(super) fn reply_failure(text: &str) -> ProbeError {
    let word = text.split_whitespace().next().unwrap_or_default();
    match word {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ProbeError::Auth(text.into()),
        "ERR" if text.contains("max number of clients") => ProbeError::MaxClients,
        "ERR" if text.contains("invalid password") => ProbeError::Auth(text.into()),
        _ => ProbeError::ErrorReply(word.into()),
    }
}

/// Whether a failed AUTH only says that the node asks for no password: then everything is allowed.
pub(super) fn needs_no_password(text: &str) -> bool {
    text.starts_with("ERR") && text.contains("without any password configured")
        || text.contains("no password is set")
}

/// The INFO commands that give all that [`crate::resp::info::parse`] reads: one where the version
/// takes several sections at once, the default sections while the version is not known.
pub(super) fn info_commands(version: Option<(u16, u16, u16)>) -> Vec<Command> {
    const SECTIONS: [&str; 6] = [
        "server",
        "memory",
        "persistence",
        "stats",
        "replication",
        "keyspace",
    ];
    match version {
        None => vec![Command::new(["INFO"])],
        Some((0..=6, _, _)) => SECTIONS
            .iter()
            .map(|section| Command::new(["INFO", section]))
            .collect(),
        Some(_) => {
            let mut words = vec!["INFO"];
            words.extend(SECTIONS);
            vec![Command::new(words)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_are_told_apart() {
        assert_eq!(
            reply_failure("ERR max number of clients reached"),
            ProbeError::MaxClients
        );
        assert!(matches!(
            reply_failure("WRONGPASS invalid username-password pair"),
            ProbeError::Auth(_)
        ));
        assert_eq!(
            reply_failure("BUSY Redis is busy running a script."),
            ProbeError::ErrorReply("BUSY".into())
        );
    }

    #[test]
    fn a_password_that_nobody_asked_for_is_no_failure() {
        assert!(needs_no_password(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?"
        ));
        assert!(!needs_no_password("WRONGPASS invalid"));
    }

    #[test]
    fn old_versions_are_asked_section_by_section() {
        assert_eq!(info_commands(None).len(), 1);
        assert_eq!(info_commands(Some((6, 2, 1))).len(), 6);
        assert_eq!(info_commands(Some((7, 0, 0))).len(), 1);
    }
}
