//! A small, strict client: what it cannot explain is an error, and it never connects again by
//! itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::decode as resp2;
use redis_protocol::resp3::decode::complete as resp3;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::value::Value;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Version of the protocol a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, what a connection speaks until HELLO.
    #[default]
    Resp2,
    /// RESP3.
    Resp3,
}

/// How a connection failed. An error reply is a [`Value`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The other side closed the connection.
    #[error("connection closed by the server")]
    Closed,
    /// The connection broke, or could not be made.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not the protocol that was agreed on.
    #[error("not a reply: {0}")]
    Protocol(String),
    /// Something else came than was asked for.
    #[error("{0}")]
    Unexpected(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    protocol: Protocol,
    input: BytesMut,
    output: BytesMut,
    /// Out-of-band messages that came while a reply was awaited.
    pushes: VecDeque<Value>,
}

impl Client {
    /// Connects; speaks RESP2 until [`Client::hello`].
    pub async fn connect(address: &Address) -> Result<Client, ClientError> {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok(Client {
            stream,
            protocol: Protocol::Resp2,
            input: BytesMut::with_capacity(16 * 1024),
            output: BytesMut::with_capacity(4 * 1024),
            pushes: VecDeque::new(),
        })
    }

    /// Connects, agrees on the protocol and logs in, as an ordinary client library does.
    pub async fn open(
        address: &Address,
        protocol: Protocol,
        password: Option<&str>,
    ) -> Result<Client, ClientError> {
        let mut client = Client::connect(address).await?;
        if let Some(password) = password {
            client.expect_ok(&["AUTH", password]).await?;
        }
        if protocol == Protocol::Resp3 {
            client.hello(Protocol::Resp3).await?;
        }
        Ok(client)
    }

    /// HELLO 2 or 3.
    pub async fn hello(&mut self, protocol: Protocol) -> Result<Value, ClientError> {
        let version = match protocol {
            Protocol::Resp2 => "2",
            Protocol::Resp3 => "3",
        };
        self.send(&["HELLO", version]).await?;
        // The reply comes in the new protocol, and a refusal reads the same in both.
        let before = std::mem::replace(&mut self.protocol, protocol);
        let reply = self.receive().await?;
        if let Value::Error(message) = reply {
            self.protocol = before;
            return Err(ClientError::Unexpected(message));
        }
        Ok(reply)
    }

    /// Sends one request and waits for its reply.
    pub async fn call<A: AsRef<[u8]>>(&mut self, request: &[A]) -> Result<Value, ClientError> {
        self.send(request).await?;
        self.receive().await
    }

    /// As [`Client::call`], for at most `limit`. After a late reply this client is of no use.
    pub async fn call_within<A: AsRef<[u8]>>(
        &mut self,
        limit: Duration,
        request: &[A],
    ) -> Result<Value, ClientError> {
        match tokio::time::timeout(limit, self.call(request)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Late(limit)),
        }
    }

    /// Sends one request whose reply must be +OK.
    pub async fn expect_ok<A: AsRef<[u8]>>(&mut self, request: &[A]) -> Result<(), ClientError> {
        match self.call(request).await? {
            Value::Simple(text) if &text[..] == b"OK" => Ok(()),
            other => Err(ClientError::Unexpected(format!(
                "+OK expected, got {other}"
            ))),
        }
    }

    /// Queues one request without writing it; [`Client::flush`] writes all in one go.
    pub fn queue<A: AsRef<[u8]>>(&mut self, request: &[A]) {
        let out = &mut self.output;
        out.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
        for argument in request {
            let argument = argument.as_ref();
            out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Queues bytes as they are, for malformed and inline requests.
    pub fn queue_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Writes what was queued.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.stream.write_all_buf(&mut self.output).await?;
        Ok(())
    }

    /// Sends one request.
    pub async fn send<A: AsRef<[u8]>>(&mut self, request: &[A]) -> Result<(), ClientError> {
        self.queue(request);
        self.flush().await
    }

    /// The next reply; out-of-band messages are set aside for [`Client::message`].
    pub async fn receive(&mut self) -> Result<Value, ClientError> {
        loop {
            match self.frame().await? {
                push @ Value::Push(_) => self.pushes.push_back(push),
                reply => return Ok(reply),
            }
        }
    }

    /// The next thing that arrives, out of band (RESP3) or not (RESP2 subscriber).
    pub async fn message(&mut self) -> Result<Value, ClientError> {
        match self.pushes.pop_front() {
            Some(push) => Ok(push),
            None => self.frame().await,
        }
    }

    /// Bytes that arrived after the last reply and belong to nothing that was asked for.
    pub fn unread(&self) -> &[u8] {
        &self.input
    }

    /// Waits until the other side closes the connection; whatever comes before is an error.
    pub async fn closed(&mut self) -> Result<(), ClientError> {
        match self.frame().await {
            Err(ClientError::Closed) => Ok(()),
            Err(error) => Err(error),
            Ok(value) => Err(ClientError::Unexpected(format!("still open: {value}"))),
        }
    }

    async fn frame(&mut self) -> Result<Value, ClientError> {
        loop {
            if let Some(value) = self.decode()? {
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ClientError::Closed);
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Value>, ClientError> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let protocol = |e: redis_protocol::error::RedisProtocolError| {
            ClientError::Protocol(e.details().to_string())
        };
        // HELLO is refused with an error line, and AUTH may fail, before the switch to RESP3.
        if self.protocol == Protocol::Resp2 {
            let decoded = resp2::decode_bytes_mut(&mut self.input).map_err(protocol)?;
            return Ok(decoded.map(|(frame, ..)| Value::from(frame)));
        }
        match resp3::decode_bytes_mut(&mut self.input).map_err(protocol)? {
            Some((frame, ..)) => Value::try_from(frame).map(Some),
            None => Ok(None),
        }
    }
}
