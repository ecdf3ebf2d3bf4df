//! The turns of a session: write what waits, read what came, cut it into requests.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::dispatch::Step;
use super::entry::{Entry, Kind, SessionRef};
use super::intake::Came;
use super::queue::LARGE;
use super::session::{Life, Park};
use super::worker::Worker;
use crate::resp::command::{lookup, replay};
use crate::resp::{
    Limits, ProtocolError, Replay, Request, RequestScanner, Special, put_error_bytes,
};
use crate::topology::Gate;

/// Bytes of requests that are one entry at most: what has to be looked through when it is taken apart.
const MAX_RUN: usize = 16 * 1024;

/// What is read behind a command that waits at the node, bytes: it is looked through again and again when that
/// is answered.
const MAX_AHEAD: usize = 1024 * 1024;

/// Reads in one turn, so that one busy client does not keep the others waiting.
const READS_PER_TURN: usize = 4;

impl Worker {
    /// Does what can be done for a session now.
    pub(super) fn session_turn(&mut self, index: usize) {
        let mut reads = 0;
        loop {
            if self.sessions[index].life == Life::Killed || self.write_session(index).is_err() {
                return self.end_session(index);
            }
            if self.sessions[index].park != Park::No {
                if self.may_go_on(index) {
                    self.sessions[index].park = Park::No;
                    self.process_input(index);
                    continue;
                }
                if !self.reads_ahead(index) {
                    break;
                }
            }
            let session = &mut self.sessions[index];
            if session.life != Life::Open || !session.socket.is_readable() {
                break;
            }
            if reads == READS_PER_TURN {
                self.again.extend(session.socket.again());
                break;
            }
            reads += 1;
            if !self.read_session(index) {
                self.sessions[index].life = Life::Left;
            }
        }
        if self.sessions[index].life != Life::Open && self.is_over(index) {
            self.end_session(index);
        }
    }

    /// Requests of a session that is parked stay where they are. But Redis reads on behind the command that a client
    /// waits in, and so sees it leave: whether that is to be done now.
    #[cold]
    fn reads_ahead(&mut self, index: usize) -> bool {
        if let Park::Starved(backend) = self.sessions[index].park {
            self.list_starved(index, backend);
        }
        if !self.waits_at_node(index) {
            return false;
        }
        if self.sessions[index].socket.has_ended() {
            self.leave_node(index);
        }
        self.sessions[index].input.as_slice().len() < MAX_AHEAD
    }

    /// Whether nothing is left to do for the session.
    #[cold]
    fn is_over(&mut self, index: usize) -> bool {
        let session = &self.sessions[index];
        let written = session.out.is_empty();
        // Who knocks has asked nothing yet.
        let answered = session.inflight == 0 || session.knocking;
        let idle = answered && session.park == Park::No;
        let pin = session.pin.as_ref();
        match session.life {
            Life::Open => false,
            Life::Killed => true,
            // Nothing is read any more: nothing else tells that it left.
            Life::Finishing if session.socket.has_ended() && self.waits_at_node(index) => {
                self.sessions[index].life = Life::Left;
                self.leave_node(index);
                false
            }
            Life::Finishing => idle && written,
            // To who listens there may always be something to write.
            Life::Left if idle => written || pin.is_some_and(|pin| pin.subscribed() || pin.monitor),
            Life::Left => {
                if self.waits_at_node(index) {
                    self.leave_node(index);
                }
                false
            }
        }
    }

    /// Whether the reply that comes next is one that the node may keep back for ever.
    fn waits_at_node(&self, index: usize) -> bool {
        let Some(pin) = &self.sessions[index].pin else {
            return false;
        };
        // What is ours before it is answered at once.
        let mut of_client = self.lanes[pin.lane].queue.iter();
        let next = of_client.find(|entry| entry.session.is_some());
        next.is_some_and(Entry::blocks)
    }

    /// The client left while it waits: the node must not give it an element any more, nor may one get
    /// lost that is on its way. So the node is told in the same words, by closing our side behind what
    /// the client asked for; the session ends when the node has closed its own, or where there is no node.
    fn leave_node(&mut self, index: usize) {
        if let Some(pin) = &self.sessions[index].pin {
            self.lanes[pin.lane].leave();
        }
    }

    fn end_session(&mut self, index: usize) {
        let serial = self.sessions[index].serial;
        self.remove_session(SessionRef { index, serial });
        self.shared.clients.left(self.index);
    }

    /// Writes replies as far as the kernel takes them.
    fn write_session(&mut self, index: usize) -> std::io::Result<()> {
        let session = &mut self.sessions[index];
        if !session.out.is_empty() {
            let written = session.flush(&mut self.spares)?;
            self.backends[session.backend].turn.sent += written as u64;
        }
        Ok(())
    }

    fn may_go_on(&self, index: usize) -> bool {
        let session = &self.sessions[index];
        match session.park {
            Park::No => true,
            Park::Drained => session.inflight == 0,
            Park::Crowded => session.inflight <= session.window / 2,
            Park::Starved(backend) => {
                let backend = &self.backends[backend];
                backend.bytes < backend.plan.settings.hold_bytes
            }
            Park::Slow => session.out.len() <= self.settings.client_reply_high_water / 2,
        }
    }

    /// Reads once and processes it, but for a parked session; false when the client will send nothing more.
    fn read_session(&mut self, index: usize) -> bool {
        let session = &mut self.sessions[index];
        let mut scratch = std::mem::take(&mut self.scratch);
        let least = session.scanner.least_len();
        let (input, socket) = (&mut session.input, &mut session.socket);
        let came = input.read(socket, &mut scratch, least, &mut self.spares);
        let parked = session.park != Park::No;
        let more = match came {
            Ok(Came::End) | Err(_) => false,
            Ok(Came::Nothing) => true,
            Ok(Came::Scratch { len, new }) => {
                self.backends[session.backend].turn.received += new as u64;
                let done = match parked {
                    true => 0,
                    false => self.process(index, &scratch[..len], None),
                };
                self.sessions[index].input.keep(&scratch[done..len]);
                true
            }
            Ok(Came::Kept(new)) => {
                self.backends[session.backend].turn.received += new as u64;
                if !parked {
                    self.process_input(index);
                }
                true
            }
        };
        self.scratch = scratch;
        more
    }

    /// Processes what was read before.
    fn process_input(&mut self, index: usize) {
        let limits = self.limits_of(index);
        let session = &mut self.sessions[index];
        // A large request that is not complete is only looked at where it has grown.
        let mut ahead = session.scanner.clone();
        let incomplete = matches!(ahead.scan(session.input.as_slice(), limits), Ok(None));
        if incomplete && ahead.least_len() <= self.settings.max_request_bytes {
            session.scanner = ahead;
            return;
        }
        // Large requests are passed on as they are, without a copy.
        let input = session.input.take();
        let done = self.process(index, &input, Some(&input));
        self.sessions[index].input.put_back(input, done);
    }

    /// Cuts `data` into requests and sends each its way; returns how much of it is done with. `owner`
    /// is the same bytes where they may be kept.
    fn process(&mut self, index: usize, data: &[u8], owner: Option<&Bytes>) -> usize {
        self.sessions[index]
            .client
            .last_request
            .store(self.now.as_millis(), Ordering::Relaxed);
        let mut run = Run::default();
        let mut at = 0;
        loop {
            let next = self.cut_run(index, data, &mut at, &mut run);
            if run.count > 0 {
                self.queue_run(index, &run, &data[at - run.len..at], owner);
                run = Run::default();
            }
            match next {
                Next::Nothing => return at,
                Next::Plain(first, end) => {
                    run = first;
                    at = end;
                }
                Next::Other(request) => {
                    let end = at + request.len;
                    match self.dispatch(index, &request, &data[at..end], &data[end..]) {
                        Step::Next => at = end,
                        Step::Took(more) => at = end + more,
                        Step::Park(why) => {
                            self.park(index, why);
                            return at;
                        }
                        Step::Stop => return data.len(),
                    }
                }
                // In its turn: what is before it may wait at the node.
                Next::Invalid(_) if self.sessions[index].inflight > 0 => {
                    self.sessions[index].scanner = RequestScanner::default();
                    self.park(index, Park::Drained);
                    return at;
                }
                Next::Invalid(error) => {
                    self.refuse_stream(index, &error);
                    return data.len();
                }
            }
        }
    }

    /// Cuts requests from `data[*at..]` for as long as they need nothing but their replies and fit into the run.
    #[inline]
    fn cut_run(&mut self, index: usize, data: &[u8], at: &mut usize, run: &mut Run) -> Next {
        let limits = self.limits_of(index);
        let session = &mut self.sessions[index];
        let backend = &self.backends[session.backend];
        let may_go = backend.bytes < backend.plan.settings.hold_bytes
            && session.out.len() <= self.settings.client_reply_high_water;
        let room = if may_go { session.plain_room() } else { 0 };
        while *at < data.len() {
            let request = match session.scanner.scan(&data[*at..], limits) {
                Ok(Some(request)) => request,
                Ok(None) if session.scanner.least_len() > self.settings.max_request_bytes => {
                    return Next::Invalid("Protocol error: request too large".into());
                }
                Ok(None) => return Next::Nothing,
                Err(error) if *limits == Limits::OF_STRANGERS => {
                    return Next::Invalid(told_to_strangers(error, &data[*at..]));
                }
                Err(error) => return Next::Invalid(error.words()),
            };
            if run.count >= room || request.inline || request.argc == 0 {
                return Next::Other(request);
            }
            let end = *at + request.len;
            let frame = &data[*at..end];
            let command = request.arg(frame, 0).and_then(lookup);
            if command.is_some_and(|command| command.special != Special::None) {
                return Next::Other(request);
            }
            let replay = replay(command, &request, frame);
            let len = run.len + request.len;
            if run.count > 0 && (run.replay != replay || len > MAX_RUN) {
                let (count, len) = (1, request.len);
                return Next::Plain(Run { count, len, replay }, end);
            }
            (run.count, run.len, run.replay) = (run.count + 1, len, replay);
            *at = end;
        }
        Next::Nothing
    }

    /// Bounds on a request of this session.
    #[inline]
    pub(super) fn limits_of(&self, index: usize) -> &'static Limits {
        let session = &self.sessions[index];
        match session.key.user {
            None if self.backends[session.backend].door.shut(session.key.era) => {
                &Limits::OF_STRANGERS
            }
            _ => &Limits::DEFAULT,
        }
    }

    /// Puts plain requests side by side on the shared lane, as one entry and in one piece.
    #[inline]
    fn queue_run(&mut self, index: usize, run: &Run, bytes: &[u8], owner: Option<&Bytes>) {
        let session = &mut self.sessions[index];
        session.inflight += run.count;
        let backend = &mut self.backends[session.backend];
        let lane = session.lane;
        let state = &mut self.lanes[lane];
        if state.upstream.is_none() || backend.topology.gate == Gate::Closed {
            backend.turn.held += u64::from(run.count);
        }
        backend.bytes += bytes.len();
        let of = SessionRef {
            index,
            serial: session.serial,
        };
        let mut entry = Entry::new(of, bytes.len(), run.replay, self.now, Kind::Plain);
        entry.replies = run.count;
        state.queue.push_back(entry);
        match owner {
            Some(owner) if bytes.len() >= LARGE => {
                state
                    .log
                    .push_owned(owner.slice_ref(bytes), &mut self.spares);
            }
            _ => state.log.push(bytes, &mut self.spares),
        }
        self.ask_to_write(lane);
    }

    fn park(&mut self, index: usize, why: Park) {
        self.sessions[index].park = why;
        if let Park::Starved(backend) = why {
            self.list_starved(index, backend);
        }
    }

    /// The session is woken when there is room for requests again.
    fn list_starved(&mut self, index: usize, backend: usize) {
        let session = &mut self.sessions[index];
        if !std::mem::replace(&mut session.starved, true) {
            let of = SessionRef {
                index,
                serial: session.serial,
            };
            self.backends[backend].starved.push(of);
        }
    }

    /// The bytes are not RESP: Redis' own words, then the connection is closed.
    fn refuse_stream(&mut self, index: usize, error: &[u8]) {
        tracing::debug!(
            client = self.sessions[index].client.id,
            error = %error.escape_ascii(),
            "client sent no valid request"
        );
        let mut reply = BytesMut::new();
        put_error_bytes(&mut reply, &[b"ERR ", error].concat());
        self.reply_local(index, &reply);
        self.sessions[index].finish();
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
                self.wake_session(index);
                continue;
            }
            match session.flush(&mut self.spares) {
                Ok(written) => self.backends[session.backend].turn.sent += written as u64,
                Err(_) => session.kill(),
            }
            if session.park != Park::No || session.life != Life::Open {
                self.wake_session(index);
            }
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }
}

/// What is wrong with a request of somebody who has not logged in, in Redis' words.
#[cold]
fn told_to_strangers(error: ProtocolError, request: &[u8]) -> Vec<u8> {
    match (
        RequestScanner::default().scan(request, &Limits::DEFAULT),
        error,
    ) {
        (Ok(_), ProtocolError::MultibulkLength) => {
            b"Protocol error: unauthenticated multibulk length".into()
        }
        (Ok(_), _) => b"Protocol error: unauthenticated bulk length".into(),
        (Err(error), _) => error.words(),
    }
}

/// Plain requests side by side in what was read, all of the same class.
struct Run {
    count: u32,
    /// Bytes.
    len: usize,
    replay: Replay,
}

impl Default for Run {
    fn default() -> Self {
        Run {
            count: 0,
            len: 0,
            replay: Replay::Read,
        }
    }
}

/// What stands behind a run.
enum Next {
    /// No whole request.
    Nothing,
    /// The first of another run, which ends there.
    Plain(Run, usize),
    /// A request of another sort, or one that must wait.
    Other(Request),
    /// No request; with Redis' words for it.
    Invalid(Vec<u8>),
}
