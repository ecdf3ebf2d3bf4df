//! The way back: replies are cut at their ends and given to whom they belong to, in order.

use bytes::Bytes;

use super::entry::{Entry, Kind, SessionRef, may_replay};
use super::hook::Hook;
use super::identity;
use super::intake::{Came, Intake};
use super::lane::Draining;
use super::queue::LARGE;
use super::redirects::Redirect;
use super::session::{Life, Park, ReplyMode};
use super::worker::Worker;
use crate::resp::reply::{error_code, first_element, signal};
use crate::resp::{Replay, Signal};
use crate::topology::{Evidence, EvidenceKind};

/// Why a lane's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// EOF, RST or another error of the connection.
    Lost,
    /// The node sent something that is no reply, or a reply nobody awaits.
    Garbage,
    /// The node said "look again", and every reply that was on its way has come.
    Signal,
    /// Another epoch began.
    Retired,
    /// The lane itself ends.
    Closed,
}

/// Reads from one node in one turn.
const READS_PER_TURN: usize = 4;

impl Worker {
    /// Reads what came and gives it out.
    pub(super) fn read_lane(&mut self, lane: usize) -> Result<(), LaneEnd> {
        for _ in 0..READS_PER_TURN {
            let state = &mut self.lanes[lane];
            let backend = state.backend;
            let gone = state.retire || state.close;
            let Some(upstream) = &mut state.upstream else {
                return Ok(());
            };
            // What another epoch's primary says late is nobody's reply.
            if gone || upstream.end.is_some() || !upstream.socket.is_readable() {
                return Ok(());
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let least = upstream.scanner.least_len();
            let (input, socket) = (&mut upstream.input, &mut upstream.socket);
            let came = input.read(socket, &mut scratch, least, &mut self.spares);
            let result = match came {
                Ok(Came::End) | Err(_) => Err(LaneEnd::Lost),
                Ok(Came::Nothing) => Ok(()),
                Ok(Came::Scratch { len, .. }) => {
                    let cut = self.cut_replies(lane, &scratch[..len], None);
                    cut.map(|cut| self.keep(lane, |input| input.keep(&scratch[cut..len])))
                }
                Ok(Came::Kept(_)) => self.cut_input(lane),
            };
            self.scratch = scratch;
            result?;
            self.backends[backend].plan.evidence.replied(self.now);
            self.obey(backend);
            self.feed_starved(backend);
        }
        if let Some(upstream) = &mut self.lanes[lane].upstream
            && upstream.socket.is_readable()
        {
            self.again.extend(upstream.socket.again());
        }
        Ok(())
    }

    /// Gives out what grew in a buffer of its own.
    fn cut_input(&mut self, lane: usize) -> Result<(), LaneEnd> {
        let Some(upstream) = &mut self.lanes[lane].upstream else {
            return Ok(());
        };
        // A large reply that is not complete is only looked at where it has grown.
        let mut ahead = upstream.scanner.clone();
        if matches!(ahead.scan(upstream.input.as_slice()), Ok(None)) {
            upstream.scanner = ahead;
            return Ok(());
        }
        // Large replies are passed on as they are, without a copy.
        let input = upstream.input.take();
        let cut = self.cut_replies(lane, &input, Some(&input))?;
        self.keep(lane, |intake| intake.put_back(input, cut));
        Ok(())
    }

    fn keep(&mut self, lane: usize, how: impl FnOnce(&mut Intake)) {
        if let Some(upstream) = &mut self.lanes[lane].upstream {
            how(&mut upstream.input);
        }
    }

    /// Cuts `data` at the ends of replies; returns how much of it was given out. `owner` is the same
    /// bytes where they may be kept.
    fn cut_replies(
        &mut self,
        lane: usize,
        data: &[u8],
        owner: Option<&Bytes>,
    ) -> Result<usize, LaneEnd> {
        let Some(upstream) = &mut self.lanes[lane].upstream else {
            return Ok(data.len());
        };
        let mut scanner = std::mem::take(&mut upstream.scanner);
        let mut run = Run::default();
        let mut at = 0;
        let result = loop {
            match scanner.scan(&data[at..]) {
                Ok(Some(n)) => {
                    let end = at + n;
                    if matches!(data[at], b'-' | b'>') {
                        // More must be thought of.
                    } else if run.left > 0 {
                        run.left -= 1;
                        run.count += 1;
                        at = end;
                        if run.left == 0 {
                            self.lanes[lane].pop_answered();
                        }
                        continue;
                    } else if let Some((of, left)) = self.take_plain(lane) {
                        if run.session != of {
                            self.give(&run, &data[run.start..at], owner);
                            run = Run {
                                session: of,
                                start: at,
                                ..Run::default()
                            };
                        }
                        run.count += 1;
                        run.left = left;
                        at = end;
                        continue;
                    }
                    self.end_run(lane, &mut run, &data[..at], owner);
                    let frame = &data[at..end];
                    let owned = owner.filter(|_| n >= LARGE).map(|o| o.slice_ref(frame));
                    at = end;
                    if let Err(end) = self.on_reply(lane, frame, owned.as_ref()) {
                        break Err(end);
                    }
                }
                Ok(None) => break Ok(at),
                Err(_) => break Err(LaneEnd::Garbage),
            }
        };
        self.end_run(lane, &mut run, &data[..at], owner);
        if let Some(upstream) = &mut self.lanes[lane].upstream {
            upstream.scanner = scanner;
        }
        result
    }

    /// Takes the first entry off when a reply is all it waits for and is its client's as it is; of several
    /// plain requests it only takes the first one's reply. Returns whose it is, and how many replies are left
    /// of it; `None` where more must be thought of.
    #[inline]
    fn take_plain(&mut self, lane: usize) -> Option<(Option<SessionRef>, u32)> {
        let state = &mut self.lanes[lane];
        if state.pinned || state.sent == 0 {
            return None;
        }
        let head = state.queue.front()?;
        if !matches!(head.kind, Kind::Plain)
            || head.replies != 1 && !head.is_run()
            || head.mute
            || state.upstream.as_ref()?.draining.is_some()
            || matches!(state.queue.get(1), Some(next) if matches!(next.kind, Kind::Local(_)))
        {
            return None;
        }
        if head.replay != Replay::Read {
            state.signal_since = None;
        }
        let (of, left) = (head.session, head.replies - 1);
        if left == 0 {
            state.pop_answered();
        }
        Some((of, left))
    }

    /// Gives out what is left of a run, whose replies end where `data` does, and makes the lane's log
    /// match its queue again.
    #[inline]
    fn end_run(&mut self, lane: usize, run: &mut Run, data: &[u8], owner: Option<&Bytes>) {
        self.give(run, &data[run.start.min(data.len())..], owner);
        let state = &mut self.lanes[lane];
        if run.left > 0 {
            state.answer_head(run.left);
        }
        *run = Run::default();
        self.backends[state.backend].bytes -= state.drop_answered(&mut self.spares);
    }

    /// The replies of one session's requests side by side.
    #[inline]
    fn give(&mut self, run: &Run, frames: &[u8], owner: Option<&Bytes>) {
        let Some(of) = run.session else { return };
        let Some(session) = of.find(&mut self.sessions) else {
            return;
        };
        self.backends[session.backend].turn.replied += u64::from(run.count);
        session.inflight -= run.count;
        session.learn(run.count, frames.len());
        match owner {
            Some(owner) if frames.len() >= LARGE => {
                let frames = owner.slice_ref(frames);
                session.out.push_owned(frames, &mut self.spares);
            }
            _ => session.out.push(frames, &mut self.spares),
        }
        self.got_replies(of.index);
    }

    /// A session has more to write, and perhaps may go on.
    #[inline]
    pub(super) fn got_replies(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(index);
        }
        if session.park != Park::No || session.life != Life::Open {
            self.wake_session(index);
        }
    }

    /// One reply came; `owned` is the same bytes where they can be kept without a copy.
    fn on_reply(
        &mut self,
        lane: usize,
        frame: &[u8],
        owned: Option<&Bytes>,
    ) -> Result<(), LaneEnd> {
        let state = &self.lanes[lane];
        if (state.pinned || frame[0] == b'>') && self.out_of_band(lane, frame) {
            return Ok(());
        }
        self.settle_head(lane);
        let state = &mut self.lanes[lane];
        if state.sent == 0 {
            return Err(self.answered_early(lane, frame));
        }
        state.part_head();
        if frame[0] == b'-'
            && matches!(state.queue.front(), Some(head) if identity::swallowed(&head.kind, frame))
        {
            self.on_reply(lane, identity::WRONG_PASSWORD, None)?;
            return self.on_reply(lane, frame, owned);
        }
        if matches!(state.queue.front(), Some(head) if matches!(head.kind, Kind::Part(_))) {
            let result = self.on_part_reply(lane, frame, owned);
            self.settle_head(lane);
            return result;
        }
        let draining = state
            .upstream
            .as_ref()
            .is_some_and(|u| u.draining.is_some());
        if draining || (frame[0] == b'-' && self.means_look_again(lane, frame)) {
            return self.gather_proof(lane, frame);
        }
        let state = &mut self.lanes[lane];
        let Some(head) = state.queue.front() else {
            return Err(LaneEnd::Garbage);
        };
        let plain = matches!(head.kind, Kind::Plain) && head.replies == 1;
        if plain {
            if frame[0] != b'-' && head.replay != Replay::Read {
                state.signal_since = None;
            }
            let Some(entry) = self.pop_entry(lane) else {
                return Ok(());
            };
            if let Some(session) = entry.session {
                self.backends[self.lanes[lane].backend].turn.replied += 1;
                self.finish_request(session, frame, owned, entry.mute);
                self.was_read_apart(lane, session);
                if breaks_off(frame) {
                    self.cut_off(session);
                }
            } else if frame[0] == b'-'
                && let Some(Kind::Hook(next)) =
                    self.lanes[lane].queue.front_mut().map(|e| &mut e.kind)
                && let Hook::Wait { blind, .. } = &mut **next
            {
                *blind = true;
            }
        } else {
            self.on_special_reply(lane, frame);
        }
        self.settle_head(lane);
        Ok(())
    }

    fn on_special_reply(&mut self, lane: usize, frame: &[u8]) {
        let Some(head) = self.lanes[lane].queue.front_mut() else {
            return;
        };
        match &mut head.kind {
            Kind::Unit(replies) => {
                replies.extend_from_slice(frame);
                head.replies -= 1;
                if head.replies == 0
                    && let Some(Entry {
                        session: Some(of),
                        kind: Kind::Unit(replies),
                        mute,
                        ..
                    }) = self.pop_entry(lane)
                {
                    let replies = replies.freeze();
                    self.backends[self.lanes[lane].backend].turn.replied += 1;
                    self.finish_request(of, &replies, Some(&replies), mute);
                }
            }
            Kind::Hook(hook) => match **hook {
                Hook::Subscription { .. } => self.on_acknowledgement(lane, frame),
                Hook::Again => self.hears_again(lane, frame),
                _ => self.on_hook_reply(lane, frame),
            },
            Kind::Plain | Kind::Local(_) | Kind::Part(_) => {
                head.replies -= 1;
                if head.replies == 0 {
                    self.pop_entry(lane);
                }
            }
        }
    }

    /// Messages, invalidations and MONITOR lines: they answer no request.
    fn out_of_band(&mut self, lane: usize, frame: &[u8]) -> bool {
        let speaks = self.speaks_when_silent(lane);
        let state = &self.lanes[lane];
        if let Some(of) = state.key.tracks_for {
            self.on_invalidation(of, frame, speaks);
            return true;
        }
        let Some(of) = state.owner else {
            return frame[0] == b'>';
        };
        let subscription_next = state.sent > 0
            && matches!(state.queue.front(), Some(e) if e.replies > 0 && e.expects_acknowledgement());
        let Some(session) = self.session(of) else {
            return frame[0] == b'>';
        };
        let heard = speaks || session.reply_mode != ReplyMode::Off;
        let Some(pin) = &session.pin else {
            return frame[0] == b'>';
        };
        let word = || first_element(frame).unwrap_or_default();
        let acknowledgement = |word: &[u8]| word.ends_with(b"subscribe");
        let message = match frame[0] {
            b'>' => !(subscription_next && acknowledgement(word())),
            b'*' => pin.subscribed() && matches!(word(), b"message" | b"pmessage" | b"smessage"),
            b'+' => pin.monitor && frame.get(1).is_some_and(u8::is_ascii_digit),
            _ => false,
        };
        // The slot of its channel has moved, and the lane follows.
        let moved = frame[0] != b'+' && !subscription_next && word() == b"sunsubscribe";
        if moved && self.backends[self.lanes[lane].backend].in_cluster() {
            let state = &mut self.lanes[lane];
            state.retire = true;
            state.wake_task();
            return true;
        }
        if message && word() == b"tracking-redir-broken" {
            self.redirection_broken(of);
        } else if message {
            if heard {
                self.deliver(of, frame);
            }
            self.drop_if_deaf(of);
        }
        message
    }

    /// A client that does not read its messages is dropped, as Redis does it.
    pub(super) fn drop_if_deaf(&mut self, of: SessionRef) {
        let limit = self.settings.subscriber_reply_limit;
        if let Some(session) = self.session(of)
            && session.out.len() > limit
        {
            tracing::warn!(
                client = session.client.id,
                address = session.client.addr,
                limit_bytes = limit,
                "subscriber dropped: it does not read its messages"
            );
            session.kill();
            self.wake_session(of.index);
        }
    }

    /// Whether an error means that the node is not the primary (any more), instead of being the
    /// request's own fault. A node that was verified again and repeats it is believed in the end.
    pub(super) fn means_look_again(&mut self, lane: usize, frame: &[u8]) -> bool {
        let in_cluster = self.backends[self.lanes[lane].backend].in_cluster();
        let Some(signal) = look_again_in(frame, in_cluster) else {
            return false;
        };
        let to = self.lane_belongs(lane, frame);
        let redirect = Redirect::read(frame).filter(|_| in_cluster);
        let state = &mut self.lanes[lane];
        let backend = &self.backends[state.backend];
        let patience = match signal {
            Signal::Moved | Signal::Ask | Signal::TryAgain | Signal::ClusterDown => {
                backend.plan.settings.hold_timeout
            }
            _ => backend.plan.settings.noreplicas_timeout,
        };
        let since = *state.signal_since.get_or_insert(self.now);
        let same_primary = state
            .upstream
            .as_ref()
            .is_some_and(|u| u.epoch == backend.topology.epoch)
            && backend.topology.open_primary().is_some();
        if same_primary && self.now.since(since) > patience {
            return false;
        }
        let Some(upstream) = &mut state.upstream else {
            return false;
        };
        let kind = match signal {
            Signal::Loading => EvidenceKind::Loading,
            Signal::Moved | Signal::Ask | Signal::ClusterDown => EvidenceKind::Moved,
            _ => EvidenceKind::NotPrimary,
        };
        if let Some(primary) = &backend.topology.primary
            && signal != Signal::NoReplicas
        {
            backend.plan.evidence.send(Evidence {
                node: primary.node.clone(),
                kind,
            });
        }
        upstream.draining = Some(Draining {
            signal,
            kept: Vec::new(),
        });
        state.moves_to = to;
        if let Some(redirect) = redirect {
            let home = backend.shard_of.unwrap_or(state.backend);
            self.backends[home].turn.redirected[redirect.kind() as usize] += 1;
        }
        true
    }

    /// The connection is being given up: what was refused, or may run again, is kept for the next
    /// primary; what ran keeps its reply.
    pub(super) fn gather_proof(&mut self, lane: usize, frame: &[u8]) -> Result<(), LaneEnd> {
        let state = &mut self.lanes[lane];
        let retry = self.backends[state.backend].plan.settings.retry;
        let in_cluster = self.backends[state.backend].in_cluster();
        let Some(head) = state.queue.front_mut() else {
            return Err(LaneEnd::Garbage);
        };
        let mut executed = None;
        match &mut head.kind {
            Kind::Unit(replies) => {
                replies.extend_from_slice(frame);
                head.replies -= 1;
                if head.replies > 0 {
                    return Ok(());
                }
                let aborted =
                    look_again(frame).is_some() || error_code(frame) == Some(b"EXECABORT");
                if !aborted && !may_replay(head.replay, retry) {
                    executed = Some(replies.split().freeze());
                }
                head.replies = super::entry::count_replies(replies);
                replies.clear();
            }
            Kind::Plain
                if look_again_in(frame, in_cluster).is_none()
                    && !may_replay(head.replay, retry) =>
            {
                executed = Some(Bytes::copy_from_slice(frame));
            }
            _ => {}
        }
        let Some((mut entry, bytes)) = state.pop_with_bytes(&mut self.spares) else {
            return Err(LaneEnd::Garbage);
        };
        self.backends[state.backend].bytes -= entry.len;
        let pinned = state.pinned;
        entry.resent = true;
        if entry.waits_by_nature() {
            // Until now it did not wait for a primary.
            entry.since = self.now;
        }
        let mut kept = match (executed, entry.session) {
            (Some(reply), Some(of)) => {
                let mut local = Entry::local(of, reply, entry.since);
                local.mute = entry.mute;
                vec![(local, Vec::new())]
            }
            _ => vec![(entry, bytes)],
        };
        while state.sent > 0 && state.queue.front().is_some_and(|e| e.replies == 0) {
            kept.extend(state.pop_with_bytes(&mut self.spares));
        }
        if let Some(draining) = state.upstream.as_mut().and_then(|u| u.draining.as_mut()) {
            draining.kept.append(&mut kept);
        }
        if !state.awaits_reply() || pinned && !state.ends_a_transaction() {
            Err(LaneEnd::Signal)
        } else {
            Ok(())
        }
    }

    /// Local replies whose turn has come.
    pub(super) fn settle_head(&mut self, lane: usize) {
        while let Some(Kind::Local(_)) = self.lanes[lane].queue.front().map(|e| &e.kind) {
            let Some(entry) = self.pop_entry(lane) else {
                return;
            };
            if let (Some(of), Kind::Local(reply)) = (entry.session, entry.kind) {
                self.finish_request(of, &reply, Some(&reply), entry.mute);
            }
        }
    }

    pub(super) fn pop_entry(&mut self, lane: usize) -> Option<Entry> {
        let state = &mut self.lanes[lane];
        let entry = state.pop(&mut self.spares)?;
        self.backends[state.backend].bytes -= entry.len;
        if state.gap && !state.queue.iter().any(|e| e.session.is_none()) {
            self.close_gap(lane);
        }
        Some(entry)
    }

    /// The last reply of a request: `frame` goes to the client unless `mute`.
    pub(super) fn finish_request(
        &mut self,
        of: SessionRef,
        frame: &[u8],
        owned: Option<&Bytes>,
        mute: bool,
    ) {
        let Some(session) = of.find(&mut self.sessions) else {
            return;
        };
        session.inflight -= 1;
        if !mute {
            match owned {
                Some(bytes) => session.out.push_owned(bytes.clone(), &mut self.spares),
                None => session.out.push(frame, &mut self.spares),
            }
        }
        session.learn(1, frame.len());
        let pinned = session.pin.is_some();
        self.got_replies(of.index);
        if pinned {
            self.settle_pin(of);
        }
    }

    /// A reply where none is awaited: the node needs no more of a request than its head to break off.
    fn answered_early(&mut self, lane: usize, frame: &[u8]) -> LaneEnd {
        let state = &self.lanes[lane];
        if state.written == 0 || !breaks_off(frame) {
            return LaneEnd::Garbage;
        }
        let plain = |entry: &Entry| matches!(entry.kind, Kind::Plain) && entry.replies == 1;
        if state.queue.front().is_some_and(plain)
            && let Some(entry) = self.pop_entry(lane)
            && let Some(of) = entry.session
        {
            self.finish_request(of, frame, None, entry.mute);
            self.cut_off(of);
        }
        LaneEnd::Lost
    }

    /// The node has closed the connection because of this client's request, as it would have closed the
    /// client's own.
    fn cut_off(&mut self, of: SessionRef) {
        let Some(session) = of.find(&mut self.sessions) else {
            return;
        };
        let backend = session.backend;
        if let Ok(written) = session.flush(&mut self.spares) {
            self.backends[backend].turn.sent += written as u64;
        }
        session.kill();
        self.wake_session(of.index);
    }

    /// Bytes for a client that answer no request of the log.
    pub(super) fn deliver(&mut self, of: SessionRef, frame: &[u8]) {
        let Some(session) = of.find(&mut self.sessions) else {
            return;
        };
        session.out.push(frame, &mut self.spares);
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(of.index);
        }
    }

    /// There is room for requests again.
    pub(super) fn feed_starved(&mut self, backend: usize) {
        let state = &mut self.backends[backend];
        if state.starved.is_empty() || state.bytes > state.plan.settings.hold_bytes / 2 {
            return;
        }
        for of in std::mem::take(&mut state.starved) {
            if let Some(session) = self.session(of) {
                session.starved = false;
                self.wake_session(of.index);
            }
        }
    }
}

/// Plain replies side by side in what was read, all of one session.
#[derive(Default)]
struct Run {
    /// `None`: of nobody, or of one that left.
    session: Option<SessionRef>,
    start: usize,
    count: u32,
    /// Replies that the entry at the head still waits for.
    left: u32,
}

/// Errors that prove that the request did not run here and may run elsewhere. An -UNBLOCKED by
/// CLIENT UNBLOCK is the client's own.
pub(super) fn look_again(frame: &[u8]) -> Option<Signal> {
    const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of: ";
    if let Some(reason) = frame.strip_prefix(ABORTED) {
        return look_again(&[b"-", reason].concat());
    }
    match signal(frame)? {
        Signal::Unblocked if !contains(frame, b"instance state changed") => None,
        // There is no cluster behind a replicated primary: an answer for the client.
        Signal::ClusterDown | Signal::TryAgain | Signal::Moved | Signal::Ask => None,
        signal => Some(signal),
    }
}

/// The same where the node may be one of a cluster.
pub(super) fn look_again_in(frame: &[u8], cluster: bool) -> Option<Signal> {
    match signal(frame) {
        Some(Signal::ClusterDown | Signal::TryAgain | Signal::Moved | Signal::Ask) if cluster => {
            signal(frame)
        }
        _ => look_again(frame),
    }
}

/// Whether it says that the node takes no such request, and nothing behind it. It may take less than we do
/// (`proto-max-bulk-len`).
fn breaks_off(frame: &[u8]) -> bool {
    frame.starts_with(b"-ERR Protocol error: ") && frame.ends_with(b"bulk length\r\n")
}

fn contains(frame: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(frame, text).is_some()
}
