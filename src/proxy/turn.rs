//! The turns of a worker: everything that is ready is read, then everything that has something to write is
//! written, each connection once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use rustix::event::epoll::Event;
use tokio::io::unix::AsyncFd;

use super::socket::{Poller, Socket, Token};
use super::worker::Worker;
use crate::clock;

/// The turns of the worker: each takes all that is ready.
pub(super) async fn serve_sockets(worker: Rc<RefCell<Worker>>, ready: AsyncFd<Poller>) {
    let mut events = Vec::new();
    loop {
        let turn = poll_fn(|cx| {
            let mut worker = worker.borrow_mut();
            let mut guard = match ready.poll_read_ready(cx) {
                Poll::Ready(Ok(guard)) => Some(guard),
                // Only when the runtime ends.
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending if worker.again.is_empty() => {
                    worker.turns_by(cx.waker());
                    return Poll::Pending;
                }
                Poll::Pending => None,
            };
            let more = worker.turn(&mut events);
            if let Some(guard) = guard.as_mut().filter(|_| !more) {
                guard.clear_ready();
            }
            Poll::Ready(Some(more || !worker.again.is_empty()))
        });
        match turn.await {
            None => return,
            // Others of this thread get their turn as well.
            Some(true) => tokio::task::yield_now().await,
            Some(false) => {}
        }
    }
}

impl Worker {
    /// One turn: reads every socket that is ready, then writes every connection that got something,
    /// each once. Returns whether more are ready than were looked at. `events` is empty, and comes back so.
    fn turn(&mut self, events: &mut Vec<Event>) -> bool {
        let more = self.poller.take(events).unwrap_or_else(|error| {
            tracing::error!(%error, "sockets can not be polled");
            false
        });
        self.now = clock::now();
        // Nothing is written in the mind of a topology that is over, however late this thread is.
        for backend in 0..self.backends.len() {
            let state = &self.backends[backend];
            if let Some(newer) = state.plan.topology.newer_than(&state.topology) {
                self.topology_changed(backend, newer);
            }
        }
        // All requests first, so that the replies that come with them find them waiting.
        let mut again = std::mem::take(&mut self.again);
        let mut served = 0;
        for event in events.iter() {
            if let Some(session) = self.session_of(Socket::token_of(event)) {
                self.sessions[session].socket.note(event);
                self.session_turn(session);
                served += 1;
            }
        }
        self.gathering.turn(served);
        for event in events.drain(..) {
            if let Some(lane) = self.lane_of(Socket::token_of(&event))
                && let Some(upstream) = &mut self.lanes[lane].upstream
            {
                upstream.socket.note(&event);
                self.lane_turn(lane);
            }
        }
        for token in again.drain(..) {
            if let Some(session) = self.session_of(token) {
                self.sessions[session].socket.looked_at();
                self.session_turn(session);
            } else if let Some(lane) = self.lane_of(token)
                && let Some(upstream) = &mut self.lanes[lane].upstream
            {
                upstream.socket.looked_at();
                self.lane_turn(lane);
            }
        }
        again.append(&mut self.again);
        self.again = again;
        self.settle();
        more
    }

    /// The task of the turns waits, and is woken where sockets are left for the next one.
    fn turns_by(&mut self, waker: &Waker) {
        if !self.turns.as_ref().is_some_and(|w| w.will_wake(waker)) {
            self.turns = Some(waker.clone());
        }
    }

    fn session_of(&self, token: Token) -> Option<usize> {
        let Token::Session(index, _) = token else {
            return None;
        };
        let session = self.sessions.get(index as usize)?;
        (session.socket.token() == token).then_some(index as usize)
    }

    fn lane_of(&self, token: Token) -> Option<usize> {
        let Token::Upstream(index, _) = token else {
            return None;
        };
        let upstream = self.lanes.get(index as usize)?.upstream.as_ref()?;
        (upstream.socket.token() == token).then_some(index as usize)
    }

    /// The end of every turn, of whichever task: what was queued is written, to the nodes first, so that they
    /// work while the clients are written to.
    pub(super) fn settle(&mut self) {
        loop {
            self.write_lanes();
            self.flush_dirty();
            if self.woken.is_empty() {
                if !self.again.is_empty()
                    && let Some(turns) = &self.turns
                {
                    turns.wake_by_ref();
                }
                return;
            }
            for index in std::mem::take(&mut self.woken) {
                if let Some(session) = self.sessions.get_mut(index)
                    && std::mem::take(&mut session.woken)
                {
                    self.session_turn(index);
                }
            }
        }
    }

    /// The session is looked at again before this turn ends.
    pub(super) fn wake_session(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if !session.woken {
            session.woken = true;
            self.woken.push(index);
        }
    }

    /// Polls a connection from now on, under a serial number that was not used before.
    pub(super) fn watch(
        &mut self,
        fd: OwnedFd,
        token: impl FnOnce(u64) -> Token,
    ) -> io::Result<Socket> {
        self.last_serial += 1;
        self.poller.add(fd, token(self.last_serial))
    }
}
