//! The life of a lane: wait for a primary, connect, write and read until the connection ends, decide
//! what is sent again, and begin anew.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::cluster::restored;
use super::dial::{Dial, DialError, Dialed, dial};
use super::entry::{Entry, Kind};
use super::hook::Hook;
use super::intake::Intake;
use super::lane::Upstream;
use super::replies::LaneEnd;
use super::socket::Token;
use super::worker::Worker;
use crate::clock;
use crate::resp::{ReplyScanner, Signal};
use crate::topology::{Epoch, Evidence, EvidenceKind, Gate};

/// Pause after a failed connect; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long a new connection lets subscribers go first.
const SUBSCRIBERS_FIRST: Duration = Duration::from_millis(200);

/// See the module.
pub(super) async fn run(worker: Rc<RefCell<Worker>>, lane: usize) {
    loop {
        let next = poll_fn(|cx| worker.borrow_mut().next_dial(lane, cx)).await;
        let Some((what, epoch)) = next else { break };
        let dialed = tokio::select! {
            biased;
            dialed = dial(&what) => dialed,
            () = poll_fn(|cx| worker.borrow_mut().dial_is_stale(lane, epoch, cx)) => continue,
        };
        match dialed {
            Ok(dialed) => {
                if !worker.borrow_mut().lane_up(lane, &what, epoch, dialed) {
                    wait(&worker, lane, epoch, FIRST_PAUSE).await;
                    continue;
                }
                let end = poll_fn(|cx| worker.borrow_mut().lane_ends(lane, cx)).await;
                let pause = worker.borrow_mut().lane_down(lane, end);
                wait(&worker, lane, epoch, pause).await;
            }
            Err(error) => {
                let pause = worker.borrow_mut().dial_failed(lane, &what, &error);
                wait(&worker, lane, epoch, pause).await;
            }
        }
    }
    worker.borrow_mut().remove_lane(lane);
}

/// A pause that ends early when there is something new.
async fn wait(worker: &Rc<RefCell<Worker>>, lane: usize, epoch: Epoch, pause: Duration) {
    if !pause.is_zero() {
        let stale = poll_fn(|cx| worker.borrow_mut().dial_is_stale(lane, epoch, cx));
        // Either way it is time to look again.
        let _ = tokio::time::timeout(pause, stale).await;
    }
}

impl Worker {
    /// Ready when there is a primary to connect to and a reason to; `None`: the lane ends.
    fn next_dial(&mut self, lane: usize, cx: &mut Context<'_>) -> Poll<Option<(Dial, Epoch)>> {
        self.now = clock::now();
        let state = &mut self.lanes[lane];
        state.task_runs(cx.waker());
        if state.close {
            return Poll::Ready(None);
        }
        if state.leaving && state.queue.is_empty() {
            return Poll::Pending;
        }
        let wanted = !state.queue.is_empty()
            || (!state.denied && (state.users > 0 || state.owner.is_some()));
        let tracking = restored(&self.sessions, &state.key);
        let backend = &self.backends[state.backend];
        let Some(primary) = backend.topology.open_primary() else {
            self.give_up_if_left(lane);
            self.settle();
            return Poll::Pending;
        };
        if !wanted {
            return Poll::Pending;
        }
        let what = Dial {
            primary: primary.clone(),
            key: state.key.clone(),
            pinned: state.pinned,
            tracking,
            own: backend.plan.credentials.clone(),
            scripts: backend.shared.scripts.missing_on(&primary.run_id),
            timeout: backend.plan.settings.connect_timeout,
        };
        Poll::Ready(Some((what, backend.topology.epoch)))
    }

    /// Ready when another epoch began, the gate closed, or the lane ends.
    fn dial_is_stale(&mut self, lane: usize, epoch: Epoch, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut self.lanes[lane];
        state.task_runs(cx.waker());
        let topology = &self.backends[state.backend].topology;
        if state.close || topology.epoch != epoch || topology.gate == Gate::Closed {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// The connection is there and verified; false when another epoch began meanwhile.
    fn lane_up(&mut self, lane: usize, what: &Dial, epoch: Epoch, dialed: Dialed) -> bool {
        self.now = clock::now();
        let (client_id, near, version) = (dialed.client_id, dialed.near, dialed.version);
        let let_in = dialed.let_in;
        let watched = dialed
            .stream
            .into_std()
            .and_then(|stream| self.watch(stream.into(), |serial| Token::upstream(lane, serial)));
        let socket = match watched {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection to the primary can not be watched");
                return false;
            }
        };
        let state = &mut self.lanes[lane];
        let backend = &mut self.backends[state.backend];
        let primary = backend.topology.primary.as_ref();
        // A pinned lane may be at another shard of a cluster by now.
        let same = primary.is_some_and(|primary| primary.run_id == what.primary.run_id);
        if backend.topology.epoch != epoch || !same || state.close {
            return false;
        }
        if what.tracking != restored(&self.sessions, &state.key) {
            return false;
        }
        let kind = state.upstream_kind();
        backend.metrics.upstreams(kind).increment(1);
        backend.shared.scripts.loaded(&what.primary.run_id);
        backend.version = version.or(backend.version);
        if state.key.user.is_none() {
            backend.door.seen(let_in);
        }
        state.failures = 0;
        state.retire = false;
        state.denied = false;
        state.served = true;
        state.upstream = Some(Upstream {
            socket,
            epoch,
            since: self.now,
            run_id: what.primary.run_id.clone(),
            input: Intake::default(),
            scanner: ReplyScanner::default(),
            client_id,
            near,
            finished: false,
            end: None,
            draining: None,
        });
        if let Some(of) = state.owner {
            let blocked = state.queue.iter().any(Entry::blocks);
            let resp3 = state.key.resp3;
            let mut flush = false;
            if let Some(session) = self.session(of) {
                if blocked {
                    let id = &session.client.blocked_on;
                    id.store(client_id, std::sync::atomic::Ordering::Relaxed);
                }
                flush = resp3
                    && session
                        .pin
                        .as_ref()
                        .is_some_and(|p| p.tracking.on() && p.tracking.target.is_none());
            }
            if flush {
                // Invalidations of the meantime are lost: the client must forget what it cached.
                self.deliver(of, b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
        }
        self.own_lane_up(lane);
        self.hold_ends(lane);
        self.ask_to_write(lane);
        self.settle();
        true
    }

    /// Ready when the connection ends, another epoch began, or the lane ends.
    fn lane_ends(&mut self, lane: usize, cx: &mut Context<'_>) -> Poll<LaneEnd> {
        let state = &mut self.lanes[lane];
        state.task_runs(cx.waker());
        if state.close {
            return Poll::Ready(LaneEnd::Closed);
        }
        if state.retire {
            return Poll::Ready(LaneEnd::Retired);
        }
        match state
            .upstream
            .as_mut()
            .and_then(|upstream| upstream.end.take())
        {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
    }

    /// The connection is of no use any more; the lane's task sees to it.
    fn end_lane(&mut self, lane: usize, end: LaneEnd) {
        let state = &mut self.lanes[lane];
        if let Some(upstream) = &mut state.upstream {
            upstream.end = Some(end);
            state.wake_task();
        }
    }

    /// Asks for the lane to be written at the end of this turn, or for a connection where there is none.
    #[inline]
    pub(super) fn ask_to_write(&mut self, lane: usize) {
        let state = &mut self.lanes[lane];
        if state.upstream.is_none() {
            state.wake_task();
        } else if !state.write_asked {
            state.write_asked = true;
            self.to_write.push(lane);
        }
    }

    /// Writes every lane that has something to write, each once.
    pub(super) fn write_lanes(&mut self) {
        let mut lanes = std::mem::take(&mut self.to_write);
        for lane in lanes.drain(..) {
            let Some(state) = self.lanes.get_mut(lane) else {
                continue;
            };
            state.write_asked = false;
            if self.write_lane(lane).is_err() {
                // Why the node closed it may have come before.
                let end = self.read_lane(lane).err();
                self.end_lane(lane, end.unwrap_or(LaneEnd::Lost));
            }
        }
        lanes.append(&mut self.to_write);
        self.to_write = lanes;
    }

    /// An event came for its connection.
    pub(super) fn lane_turn(&mut self, lane: usize) {
        if let Err(end) = self.read_lane(lane) {
            self.end_lane(lane, end);
        }
        if self.lanes[lane].has_unwritten() || self.lanes[lane].aiming {
            self.ask_to_write(lane);
        }
    }

    /// Writes what the gate lets through and the kernel takes.
    fn write_lane(&mut self, lane: usize) -> io::Result<()> {
        let state = &mut self.lanes[lane];
        let topology = &self.backends[state.backend].topology;
        let Some(upstream) = &state.upstream else {
            return Ok(());
        };
        let open = topology.gate == Gate::Open && upstream.epoch == topology.epoch;
        let open = open && !self.backends[state.backend].shared.paused(self.now);
        if !open
            || upstream.draining.is_some()
            || upstream.end.is_some()
            || upstream.finished
            || state.retire
            || state.close
            || !(state.has_unwritten() || state.aiming)
            || state.may_wait()
        {
            return Ok(());
        }
        let gaps = &self.backends[state.backend].shared.gaps;
        let early = self.now.since(upstream.since) < SUBSCRIBERS_FIRST;
        if early && !state.gap && gaps.open.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        if state.aiming && !self.take_aim(lane) {
            return Ok(());
        }
        let state = &mut self.lanes[lane];
        while state.has_unwritten() {
            let Some(upstream) = &mut state.upstream else {
                break;
            };
            if !upstream.socket.is_writable() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = state.log.slices(state.written, &mut slices);
            if let Some(n) = upstream.socket.write(&slices[..filled])? {
                state.wrote(n);
            }
        }
        if state.leaving {
            state.finish();
        }
        Ok(())
    }

    /// The connection is gone: what may be sent again stays, the rest gets its error in its turn.
    /// Returns how long to wait before the next connect.
    fn lane_down(&mut self, lane: usize, end: LaneEnd) -> Duration {
        self.now = clock::now();
        let state = &mut self.lanes[lane];
        let index = state.backend;
        let backend = &mut self.backends[index];
        let kind = state.upstream_kind();
        backend.metrics.upstreams(kind).decrement(1);
        if end == LaneEnd::Lost
            && !state.leaving
            && let Some(upstream) = &state.upstream
            && let Some(primary) = &backend.topology.primary
            && primary.run_id == upstream.run_id
        {
            let kind = EvidenceKind::ConnectionLost;
            backend.plan.evidence.send(Evidence {
                node: primary.node.clone(),
                kind,
            });
        }
        if end == LaneEnd::Garbage {
            tracing::error!(
                backend = %backend.plan.name,
                "the node sent what nobody asked for; the connection was dropped"
            );
        }
        let signal = state
            .upstream
            .as_ref()
            .and_then(|u| u.draining.as_ref())
            .map(|d| d.signal);
        // All that its client waited for came: what stands behind that goes on, on another connection.
        let goes_on = state.sent == 0 && state.upstream.as_ref().is_some_and(|u| u.finished);
        state.leaving &= !goes_on;
        let goes_on = state.owner.filter(|_| goes_on);
        let before = state.log.len();
        // With the gate closed they were counted when it closed, or when they came.
        let unsent = match backend.topology.gate {
            Gate::Open => state.unsent(),
            Gate::Closed => 0,
        };
        let sessions = &self.sessions;
        let alive = |of: super::entry::SessionRef| {
            sessions
                .get(of.index)
                .is_some_and(|s| s.serial == of.serial)
        };
        let retry = backend.plan.settings.retry;
        let losses = state.lose(retry, self.now, alive, &mut self.spares);
        backend.bytes = backend.bytes + state.log.len() - before;
        backend.turn.replayed += losses.replayed;
        backend.turn.unknown += losses.unknown;
        backend.turn.held += losses.replayed + unsent;
        state.retire = false;
        let pinned = state.pinned;
        for hook in losses.orphans {
            self.orphaned(hook);
        }
        for (entry, reply) in losses.answered {
            self.finish_entry(entry, reply);
        }
        if let Some(of) = self.lanes[lane].key.tracks_for {
            self.forget(of);
        }
        let moves_to = self.lanes[lane].moves_to.take();
        if let Some((to, _)) = moves_to {
            self.move_lane(lane, to);
        }
        if pinned {
            let asks = moves_to.is_some_and(|(_, asks)| asks);
            self.restore_pin(lane, asks);
        }
        self.give_up_if_left(lane);
        if let Some(of) = goes_on.filter(|of| self.session(*of).is_some()) {
            self.wake_session(of.index);
        }
        self.settle_head(lane);
        self.settle();
        self.obey(index);
        match (end, signal) {
            _ if moves_to.is_some() => Duration::ZERO,
            (
                LaneEnd::Signal,
                Some(Signal::NoReplicas | Signal::ClusterDown | Signal::TryAgain | Signal::Ask),
            ) => Duration::from_millis(20),
            (LaneEnd::Signal | LaneEnd::Garbage, _) => FIRST_PAUSE,
            _ => Duration::ZERO,
        }
    }

    /// Returns how long to wait before the next try.
    fn dial_failed(&mut self, lane: usize, what: &Dial, error: &DialError) -> Duration {
        self.now = clock::now();
        let state = &mut self.lanes[lane];
        let backend = &mut self.backends[state.backend];
        backend.metrics.connect_failed(error.reason());
        tracing::debug!(
            backend = %backend.plan.name,
            node = %what.primary.node,
            error = %error,
            "connect to the primary failed"
        );
        if let Some(kind) = error.evidence() {
            let node = what.primary.node.clone();
            backend.plan.evidence.send(Evidence { node, kind });
        }
        if let DialError::Denied(reply) = error {
            state.denied = true;
            let reply = reply.clone();
            if reply.starts_with(b"-WRONGPASS") && (state.served || !state.pinned) {
                self.log_out(lane);
            }
            self.fail_entries(lane, |_| true, |_| reply.clone());
            self.cut_off_if_bare(lane);
            self.settle();
            return Duration::ZERO;
        }
        let pause = FIRST_PAUSE * 2u32.saturating_pow(state.failures.min(10));
        state.failures += 1;
        self.give_up_if_left(lane);
        self.settle();
        pause.min(LONGEST_PAUSE)
    }

    /// The node does not let a session in whose connection had state: without it, it is not what its client
    /// believes. Nor would the client be connected any more if its connection had been its own.
    fn cut_off_if_bare(&mut self, lane: usize) {
        let owner = self.lanes[lane].owner;
        if let Some(of) = owner
            && let Some(session) = self.session(of)
            && session.pin.as_ref().is_some_and(|pin| !pin.clean())
        {
            session.kill();
            self.wake_session(of.index);
        }
    }

    /// The node knows this user, or this password, no more: its clients are cut off, as the node itself
    /// did it with those who are connected to it directly.
    fn log_out(&mut self, lane: usize) {
        let owner = self.lanes[lane].owner;
        let mut out = Vec::new();
        for (index, session) in &mut self.sessions {
            let owns = owner.is_some_and(|of| of.index == index && of.serial == session.serial);
            let at_shard = session.cluster.as_ref().is_some_and(|c| c.uses(lane));
            if owns || session.lane == lane || at_shard {
                session.kill();
                out.push(index);
            }
        }
        out.into_iter().for_each(|index| self.wake_session(index));
    }

    /// Requests that waited too long get an error that says whether they ran.
    pub(super) fn expire(&mut self, lane: usize) {
        if self.lanes[lane].upstream.is_some() {
            self.lanes[lane].retire = true;
            self.lanes[lane].wake_task();
            return;
        }
        let timeout = self.backends[self.lanes[lane].backend]
            .plan
            .settings
            .hold_timeout;
        let now = self.now;
        let reason = format!("there was no primary to send it to for {timeout:?}");
        let late = |entry: &Entry| now.since(entry.since) >= timeout;
        let pinned = self.lanes[lane].pinned;
        if pinned {
            self.drop_restoring(lane);
        }
        self.fail_entries(lane, late, |entry| entry.too_late(&reason));
        if pinned {
            // Without what failed the state is another one.
            self.restore_pin(lane, false);
        }
    }

    /// Answers the first entries, as long as `which` holds, with an error.
    fn fail_entries(
        &mut self,
        lane: usize,
        which: impl Fn(&Entry) -> bool,
        reply: impl Fn(&Entry) -> Bytes,
    ) {
        while self.lanes[lane].queue.front().is_some_and(&which) {
            self.lanes[lane].part_head();
            let Some(entry) = self.pop_entry(lane) else {
                break;
            };
            let error = reply(&entry);
            let Some(of) = entry.session else { continue };
            self.backends[self.lanes[lane].backend].turn.failed(&error);
            let mut error = entry.refused(error);
            if let Kind::Part(_) = entry.kind {
                self.finish_entry(entry, error);
                continue;
            }
            match entry.kind {
                Kind::Local(own) => error = own,
                Kind::Hook(hook) => self.abandon(of, *hook),
                Kind::Plain | Kind::Unit(_) | Kind::Part(_) => {}
            }
            self.finish_request(of, &error, Some(&error), entry.mute);
        }
        self.settle_head(lane);
    }

    /// A request that would have changed the session's state got an error instead.
    fn abandon(&mut self, of: super::entry::SessionRef, hook: Hook) {
        let ends = hook.ends_transaction();
        if let Hook::Transition(_) = hook {
            self.orphaned(hook);
            if let Some(session) = self.session(of) {
                session.moving = false;
            }
            return;
        }
        let Some(session) = self.session(of) else {
            return;
        };
        if let Hook::Client(_) | Hook::Door | Hook::Reset = hook {
            (session.moving, session.knocking) = (false, false);
        }
        if let Hook::Tracking(_) = hook
            && session.cluster.is_some()
        {
            session.moving = false;
            return self.untrack(of.index);
        }
        if let Hook::Tracking(tracking) = hook {
            return self.on_tracking(of, tracking, false);
        }
        let Some(pin) = &mut session.pin else { return };
        match hook {
            Hook::Multi => {
                pin.tx = None;
                session.moving = false;
            }
            Hook::Queued => {
                if let Some(tx) = &mut pin.tx {
                    tx.sent.pop_front();
                    tx.poison();
                }
            }
            _ if ends => {
                pin.tx = None;
                pin.watch = super::pin::Watch::None;
            }
            _ => {}
        }
    }

    /// There is no connection, and nobody awaits one where the client has left.
    fn give_up_if_left(&mut self, lane: usize) {
        if !self.lanes[lane].leaving {
            return;
        }
        while let Some(entry) = self.pop_entry(lane) {
            let Some(of) = entry.session else { continue };
            self.backends[self.lanes[lane].backend].turn.abandoned += 1;
            if let Kind::Hook(hook) = entry.kind {
                self.orphaned(*hook);
            }
            if let Some(session) = self.session(of) {
                session.finish_now();
            }
            self.finish_request(of, &[], None, true);
        }
    }

    /// A request is given up: the lane an AUTH, SELECT or HELLO led to has a user less.
    fn orphaned(&mut self, hook: Hook) {
        if let Hook::Transition(transition) = hook {
            self.leave_lane(transition.lane);
        }
    }

    fn remove_lane(&mut self, lane: usize) {
        self.forget_lane(lane);
        let state = &self.lanes[lane];
        let backend = state.backend;
        let unread = state.log.len();
        self.backends[backend].bytes -= unread;
        self.close_gap(lane);
        for entry in self.lanes.remove(lane).queue {
            if let Kind::Hook(hook) = entry.kind {
                self.orphaned(*hook);
            }
        }
        self.obey(backend);
    }

    /// A client is gone: what it still waits for is eaten when it comes.
    pub(super) fn remove_session(&mut self, of: super::entry::SessionRef) {
        self.now = clock::now();
        if self.session(of).is_none() {
            return;
        }
        self.unpin(of.index);
        self.leave_shards(of.index);
        let session = self.sessions.remove(of.index);
        session.client.update(|s| s.trackers.clear());
        let backend = &mut self.backends[session.backend];
        let knocks = u32::from(session.knocking);
        backend.turn.abandoned += u64::from(session.inflight - knocks);
        backend.metrics.clients.decrement(1);
        self.shared.registry.remove(session.client.id);
        self.leave_lane(session.lane);
    }
}
