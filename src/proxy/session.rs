//! One client: its connection, its place among the lanes, and the state that Redis would keep for it,
//! as values, so that it can be built up again on another node.

use std::io::{self, IoSlice};
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::lane::LaneKey;
use super::pin::Pin;
use super::queue::{ByteQueue, Spares};
use super::registry::Client;
use crate::resp::RequestScanner;

/// A client's connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why requests of a session are not looked at for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    /// They are.
    No,
    /// The next request goes another way: everything before it must be answered first.
    Drained,
    /// So many requests are on their way that some must be answered first.
    Crowded,
    /// The backend holds as many bytes as it may.
    Starved,
    /// The client does not read its replies.
    Slow,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyMode {
    On,
    Off,
    /// SKIP: the next request gets no reply.
    SkipNext,
}

/// How a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// Nothing more is read; ends when every reply is written.
    Finishing,
    /// The client closed its side: what it asked for is still answered, but for what waits at the node
    /// for something that nobody would take then (an abandoned BLPOP must not eat an element).
    Left,
    /// Ends at its next turn.
    Killed,
}

/// See the module.
pub(super) struct Session {
    pub(super) serial: u64,
    pub(super) backend: usize,
    pub(super) stream: Stream,
    pub(super) client: Arc<Client>,
    /// Which lanes fit this session: its user, database and protocol version.
    pub(super) key: LaneKey,
    /// The shared lane of `key`.
    pub(super) lane: usize,
    /// Its own lane, while its state demands one.
    pub(super) pin: Option<Box<Pin>>,
    /// What was read and is not a complete request, or waits because the session is parked.
    pub(super) input: BytesMut,
    pub(super) scanner: RequestScanner,
    /// Replies that are not written yet.
    pub(super) out: ByteQueue,
    /// Requests without a reply.
    pub(super) inflight: u32,
    pub(super) park: Park,
    pub(super) reply_mode: ReplyMode,
    pub(super) life: Life,
    /// An AUTH, SELECT or HELLO is on its way.
    pub(super) moving: bool,
    /// Whether it is in the worker's list of sessions with something to write.
    pub(super) dirty: bool,
    pub(super) waker: Option<Waker>,
}

impl Session {
    pub(super) fn new(
        serial: u64,
        backend: usize,
        stream: Stream,
        client: Arc<Client>,
        key: LaneKey,
        lane: usize,
    ) -> Self {
        Session {
            serial,
            backend,
            stream,
            client,
            key,
            lane,
            pin: None,
            input: BytesMut::new(),
            scanner: RequestScanner::default(),
            out: ByteQueue::default(),
            inflight: 0,
            park: Park::No,
            reply_mode: ReplyMode::On,
            life: Life::Open,
            moving: false,
            dirty: false,
            waker: None,
        }
    }

    /// Its task looks at it again.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Nothing more is read.
    pub(super) fn finish(&mut self) {
        if self.life == Life::Open {
            self.life = Life::Finishing;
        }
        self.wake();
    }

    /// Nothing more is read, and what was read is forgotten.
    pub(super) fn finish_now(&mut self) {
        self.input.clear();
        self.park = Park::No;
        self.finish();
    }

    /// Ends without waiting for anything.
    pub(super) fn kill(&mut self) {
        self.life = Life::Killed;
        self.wake();
    }

    /// Writes what the kernel takes; whether something is left.
    pub(super) fn flush(&mut self, spares: &mut Spares) -> io::Result<(usize, bool)> {
        let mut written = 0;
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.out.slices(0, &mut slices);
            match self.stream.try_write(&slices[..filled]) {
                Ok(n) => {
                    written += n;
                    self.out.consume(n, spares);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((written, true));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((written, false))
    }
}

impl Stream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (Stream::Tcp(stream), [one]) => stream.try_write(one),
            (Stream::Tcp(stream), _) => stream.try_write_vectored(slices),
            (Stream::Unix(stream), [one]) => stream.try_write(one),
            (Stream::Unix(stream), _) => stream.try_write_vectored(slices),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => StdPin::new(stream).poll_read(cx, into),
            Stream::Unix(stream) => StdPin::new(stream).poll_read(cx, into),
        }
    }

    pub(super) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => tokio_util::io::poll_read_buf(StdPin::new(stream), cx, into),
            Stream::Unix(stream) => tokio_util::io::poll_read_buf(StdPin::new(stream), cx, into),
        }
    }
}
