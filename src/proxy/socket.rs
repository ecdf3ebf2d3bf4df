//! A connection of a client or to a node, and the poller that tells which ones are ready.
//!
//! A worker polls its sockets itself instead of giving each to the runtime: one look tells everything
//! that is ready, so that all requests of a turn are known before the first is written, and a request
//! costs no task (docs/decisions/0033).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Events taken at one look.
const EVENTS: usize = 256;
const READ: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);
const READ_AND_WRITE: EventFlags = READ.union(EventFlags::OUT);
const ENDED: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);

/// Whose socket it is; comes back with every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Index of the session, and the low bits of its serial number: the index may be another
    /// session's by now.
    Session(u32, u32),
    /// The same of a lane, and of its connection.
    Upstream(u32, u32),
}

impl Token {
    const SERIAL: u64 = 0x7fff_ffff;
    const UPSTREAM: u64 = 1 << 63;

    pub(super) fn session(index: usize, serial: u64) -> Self {
        Token::Session(index as u32, (serial & Self::SERIAL) as u32)
    }

    pub(super) fn upstream(index: usize, serial: u64) -> Self {
        Token::Upstream(index as u32, (serial & Self::SERIAL) as u32)
    }

    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Token::Session(index, serial) => u64::from(serial) << 32 | u64::from(index),
            Token::Upstream(index, serial) => {
                Self::UPSTREAM | u64::from(serial) << 32 | u64::from(index)
            }
        })
    }

    fn of(event: &Event) -> Self {
        let data = event.data.u64();
        let (index, serial) = (data as u32, (data >> 32 & Self::SERIAL) as u32);
        if data & Self::UPSTREAM == 0 {
            Token::Session(index, serial)
        } else {
            Token::Upstream(index, serial)
        }
    }
}

/// Every socket of one worker.
#[derive(Clone)]
pub(super) struct Poller(Rc<OwnedFd>);

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Poller(Rc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Its readiness as the runtime sees it: readable when a socket is ready. Only within a runtime.
    // Deprecated because a type may lie about its descriptor; this one owns it, and it never changes. The
    // way that is left is an unsafe one.
    #[allow(deprecated)]
    pub(super) fn watched(&self) -> io::Result<AsyncFd<Poller>> {
        AsyncFd::with_interest(self.clone(), Interest::READABLE)
    }

    /// Watches a connection from now on.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub(super) fn add(&self, fd: OwnedFd, token: Token) -> io::Result<Socket> {
        epoll::add(&*self.0, &fd, token.data(), READ)?;
        Ok(Socket {
            fd,
            poller: self.clone(),
            token,
            // Data may have come before: the kernel says so at the next look.
            readable: false,
            writable: true,
            ended: false,
            again: false,
        })
    }

    /// Adds to `ready` what is ready and was not told yet; whether there may be more.
    pub(super) fn take(&self, ready: &mut Vec<Event>) -> io::Result<bool> {
        ready.reserve_exact(EVENTS - ready.len());
        match epoll::wait(&*self.0, spare_capacity(ready), Some(&Timespec::default())) {
            Ok(found) => Ok(found == EVENTS),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// See the module. Non-blocking; closed when dropped, which also ends its polling.
pub(super) struct Socket {
    fd: OwnedFd,
    poller: Poller,
    token: Token,
    readable: bool,
    writable: bool,
    /// The peer closed its side, or the connection broke: reading goes on until that shows.
    ended: bool,
    /// It is in the worker's list of sockets with more to read.
    again: bool,
}

impl Socket {
    /// Takes note of an event.
    pub(super) fn note(&mut self, event: &Event) {
        let flags = event.flags;
        self.readable |= flags.intersects(EventFlags::IN | ENDED);
        self.ended |= flags.intersects(ENDED);
        if !self.writable && flags.intersects(EventFlags::OUT | ENDED) {
            self.writable = true;
            // An error would show again when the socket is used.
            let _ = epoll::modify(&*self.poller.0, &self.fd, self.token.data(), READ);
        }
    }

    /// Its token, to be looked at again in the next turn; `None` where that was asked for already.
    pub(super) fn again(&mut self) -> Option<Token> {
        (!std::mem::replace(&mut self.again, true)).then_some(self.token)
    }

    /// It is being looked at.
    pub(super) fn looked_at(&mut self) {
        self.again = false;
    }

    /// Whose events these are.
    pub(super) fn token_of(event: &Event) -> Token {
        Token::of(event)
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// Whether reading may find something.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the peer closed its side, as far as events told.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the kernel may take bytes.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads once; `None`: there is nothing now. 0: the peer closed its side.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let wanted = into.len();
        let read = recv(&self.fd, into, RecvFlags::empty());
        self.was_read(read.map(|(_, n)| n), wanted)
    }

    /// The same, to the spare capacity of `into`.
    pub(super) fn read_more(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let wanted = into.capacity() - into.len();
        let read = recv(&self.fd, spare_capacity(into), RecvFlags::empty());
        self.was_read(read.map(|(_, n)| n), wanted)
    }

    #[inline]
    fn was_read(&mut self, read: Result<usize, Errno>, wanted: usize) -> io::Result<Option<usize>> {
        match read {
            Ok(n) => {
                // Less than was wanted: there is no more, and the next bytes come with an event.
                self.readable = n == wanted || self.ended;
                Ok(Some(n))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes our side: nothing more is written, replies may still come.
    pub(super) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(&self.fd, Shutdown::Write)?)
    }

    /// Writes once; `None`: the kernel takes nothing now, and an event tells when it does.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let written = match slices {
            [one] => send(&self.fd, one, SendFlags::NOSIGNAL),
            many => sendmsg(
                &self.fd,
                many,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            ),
        };
        match written {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN) => {
                self.writable = false;
                epoll::modify(&*self.poller.0, &self.fd, self.token.data(), READ_AND_WRITE)?;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(Some(0)),
            Err(error) => {
                // What the peer said before it broke the connection can still be read.
                self.readable = true;
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        for token in [
            Token::session(0, 1),
            Token::session(u32::MAX as usize, u64::MAX),
            Token::upstream(7, 0),
            Token::upstream(u32::MAX as usize, 1 << 31 | 5),
        ] {
            let event = Event {
                flags: EventFlags::IN,
                data: token.data(),
            };
            assert_eq!(Token::of(&event), token);
        }
    }

    #[test]
    fn an_end_behind_data_is_not_missed() -> io::Result<()> {
        let (ours, peer) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let poller = Poller::new()?;
        let mut socket = poller.add(ours.into(), Token::session(0, 1))?;
        io::Write::write_all(&mut &peer, b"abc")?;
        drop(peer);
        let mut ready = Vec::new();
        poller.take(&mut ready)?;
        ready.iter().for_each(|event| socket.note(event));
        assert_eq!(socket.read(&mut [0; 16])?, Some(3));
        assert!(socket.is_readable());
        assert_eq!(socket.read(&mut [0; 16])?, Some(0));
        Ok(())
    }

    #[test]
    fn room_to_write_is_told_when_it_was_asked_for() -> io::Result<()> {
        let (ours, peer) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let poller = Poller::new()?;
        let mut socket = poller.add(ours.into(), Token::upstream(3, 9))?;
        let block = vec![0; 64 * 1024];
        let mut written = 0;
        while let Some(n) = socket.write(&[IoSlice::new(&block)])? {
            written += n;
        }
        assert!(!socket.is_writable());
        let mut all = vec![0; written];
        io::Read::read_exact(&mut &peer, &mut all)?;
        let mut ready = Vec::new();
        poller.take(&mut ready)?;
        for event in &ready {
            assert_eq!(Socket::token_of(event), Token::upstream(3, 9));
            socket.note(event);
        }
        assert!(socket.is_writable());
        Ok(())
    }
}
