//! The turns of a session: write what waits, read what came, cut it into requests.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

use super::dispatch::Step;
use super::lane::{Entry, SessionRef};
use super::listener::Accepted;
use super::session::{Life, Park};
use super::worker::Worker;
use crate::clock;
use crate::resp::{RequestScanner, put_error};

/// Reads in one turn, so that one busy client does not keep the others waiting.
const READS_PER_TURN: usize = 4;
/// Bytes read of a session whose next request has to wait.
const READ_AHEAD: usize = 16 * 1024;
/// Requests of one session without a reply, above which no more are read.
pub(super) const MAX_INFLIGHT: u32 = 4096;

/// Serves a client until it leaves.
pub(super) fn start(worker: &Rc<RefCell<Worker>>, accepted: Accepted) {
    let clients = worker.borrow().shared.clients.clone();
    let Some(session) = worker.borrow_mut().admit(accepted) else {
        clients.left(worker.borrow().index);
        return;
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        poll_fn(|cx| worker.borrow_mut().poll_session(session, cx)).await;
        let mut worker = worker.borrow_mut();
        worker.remove_session(session);
        clients.left(worker.index);
    });
}

impl Worker {
    fn poll_session(&mut self, of: SessionRef, cx: &mut Context<'_>) -> Poll<()> {
        self.now = clock::now();
        let session = &mut self.sessions[of.index];
        if !session
            .waker
            .as_ref()
            .is_some_and(|w| w.will_wake(cx.waker()))
        {
            session.waker = Some(cx.waker().clone());
        }
        let turn = self.session_turn(of.index, cx);
        self.flush_dirty();
        turn
    }

    fn session_turn(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut reads = 0;
        loop {
            if self.sessions[index].life == Life::Killed {
                return Poll::Ready(());
            }
            if self.write_session(index, cx).is_err() {
                return Poll::Ready(());
            }
            if self.sessions[index].park != Park::No {
                if !self.may_go_on(index) {
                    self.read_ahead(index, cx);
                    return self.end_or_wait(index);
                }
                self.sessions[index].park = Park::No;
                self.process_input(index);
                continue;
            }
            if self.sessions[index].life != Life::Open {
                return self.end_or_wait(index);
            }
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.read_session(index, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => {}
                Poll::Ready(false) => self.client_left(index),
            }
        }
    }

    /// Writes replies; with the kernel's buffer full, the task is woken when there is room.
    fn write_session(&mut self, index: usize, cx: &mut Context<'_>) -> Result<(), ()> {
        let session = &mut self.sessions[index];
        while !session.out.is_empty() {
            match session.flush(&mut self.spares) {
                Ok((written, left)) => {
                    self.backends[session.backend].turn.sent += written as u64;
                    if !left {
                        break;
                    }
                }
                Err(_) => return Err(()),
            }
            match session.stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn end_or_wait(&mut self, index: usize) -> Poll<()> {
        let session = &self.sessions[index];
        let written = session.out.is_empty();
        let idle = session.inflight == 0 && written && session.park == Park::No;
        match session.life {
            Life::Finishing | Life::Left if idle => Poll::Ready(()),
            Life::Left if written && self.waits_at_node(index) => Poll::Ready(()),
            Life::Killed => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Whether the reply that comes next is one that the node may keep back for ever.
    fn waits_at_node(&self, index: usize) -> bool {
        let pin = self.sessions[index].pin.as_ref();
        pin.and_then(|pin| self.lanes[pin.lane].queue.front())
            .is_some_and(Entry::waits_by_nature)
    }

    fn may_go_on(&self, index: usize) -> bool {
        let session = &self.sessions[index];
        let backend = &self.backends[session.backend];
        match session.park {
            Park::No => true,
            Park::Drained => session.inflight == 0,
            Park::Crowded => session.inflight < MAX_INFLIGHT / 2,
            Park::Starved => backend.bytes < backend.plan.settings.hold_bytes,
            Park::Slow => session.out.len() <= self.settings.client_reply_high_water / 2,
        }
    }

    /// Reads once and processes it; false when the client will send nothing more.
    fn read_session(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<bool> {
        let session = &mut self.sessions[index];
        let backend = session.backend;
        if !session.input.is_empty() {
            session.input.reserve(64 * 1024);
            return match session.stream.poll_read_buf(cx, &mut session.input) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(false),
                Poll::Ready(Ok(n)) => {
                    self.backends[backend].turn.received += n as u64;
                    self.process_input(index);
                    Poll::Ready(true)
                }
            };
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = session.stream.poll_read(cx, &mut buffer);
        let n = buffer.filled().len();
        let progress = match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if n > 0 => {
                self.backends[backend].turn.received += n as u64;
                let data = &scratch[..n];
                let consumed = self.process(index, data);
                self.sessions[index]
                    .input
                    .extend_from_slice(&data[consumed..]);
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
        };
        self.scratch = scratch;
        progress
    }

    /// Reads what stands behind a request that waits for replies: only so is it seen that the client
    /// leaves meanwhile.
    fn read_ahead(&mut self, index: usize, cx: &mut Context<'_>) {
        let session = &mut self.sessions[index];
        let backend = session.backend;
        while session.park == Park::Drained
            && session.life == Life::Open
            && session.input.len() < READ_AHEAD
        {
            session.input.reserve(READ_AHEAD);
            match session.stream.poll_read_buf(cx, &mut session.input) {
                Poll::Pending => return,
                Poll::Ready(Ok(0) | Err(_)) => return self.client_left(index),
                Poll::Ready(Ok(n)) => self.backends[backend].turn.received += n as u64,
            }
        }
    }

    /// Processes what was read before.
    fn process_input(&mut self, index: usize) {
        let mut input = std::mem::take(&mut self.sessions[index].input);
        let consumed = self.process(index, &input);
        input.advance(consumed);
        if !input.is_empty() {
            self.sessions[index].input = input;
        }
    }

    /// Cuts `data` into requests and sends each its way; returns how much of it is done with.
    fn process(&mut self, index: usize, data: &[u8]) -> usize {
        let mut at = 0;
        self.sessions[index]
            .client
            .last_request
            .store(self.now.as_millis(), std::sync::atomic::Ordering::Relaxed);
        while at < data.len() {
            let session = &mut self.sessions[index];
            match session.scanner.scan(&data[at..], &self.limits) {
                Ok(Some(request)) => {
                    let end = at + request.len;
                    match self.dispatch(index, &request, &data[at..end], &data[end..]) {
                        Step::Next => at = end,
                        Step::Took(more) => at = end + more,
                        Step::Park(why) => {
                            self.park(index, why);
                            break;
                        }
                        Step::Stop => return data.len(),
                    }
                }
                Ok(None) if session.scanner.least_len() > self.settings.max_request_bytes => {
                    self.refuse_stream(index, "Protocol error: request too large");
                    return data.len();
                }
                Ok(None) => break,
                Err(_) if session.inflight > 0 => {
                    // Looked at again in its turn: what is before it may wait at the node.
                    session.scanner = RequestScanner::default();
                    self.park(index, Park::Drained);
                    break;
                }
                Err(error) => {
                    self.refuse_stream(index, &error.to_string());
                    return data.len();
                }
            }
        }
        at
    }

    fn park(&mut self, index: usize, why: Park) {
        let session = &mut self.sessions[index];
        session.park = why;
        if why == Park::Starved {
            let of = SessionRef {
                index,
                serial: session.serial,
            };
            self.backends[session.backend].starved.push(of);
        }
    }

    /// The bytes are not RESP: Redis' own words, then the connection is closed.
    fn refuse_stream(&mut self, index: usize, error: &str) {
        tracing::debug!(
            client = self.sessions[index].client.id,
            error,
            "client sent no valid request"
        );
        let mut reply = BytesMut::new();
        put_error(&mut reply, &format!("ERR {error}"));
        self.reply_local(index, &reply);
        self.sessions[index].finish();
    }

    /// The client closed its side.
    fn client_left(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let pin = session.pin.as_ref();
        session.life = match pin.is_some_and(|pin| pin.subscribed() || pin.monitor) {
            true => Life::Killed,
            false => Life::Left,
        };
    }

    /// Writes every session that got a reply in this turn, each once.
    pub(super) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(session) = self.sessions.get_mut(index) else {
                continue;
            };
            session.dirty = false;
            if session.life == Life::Killed {
                session.wake();
                continue;
            }
            match session.flush(&mut self.spares) {
                Ok((written, left)) => {
                    self.backends[session.backend].turn.sent += written as u64;
                    if left || session.park != Park::No || session.life != Life::Open {
                        session.wake();
                    }
                }
                Err(_) => session.kill(),
            }
        }
        self.dirty = dirty;
    }
}
