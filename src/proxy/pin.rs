//! A session's own upstream, and the state of that connection as values, so that it can be set up
//! again on another node without the client noticing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::entry::{Entry, Kind, SessionRef};
use super::hook::{Hook, Sticky};
use super::identity::Change;
use super::redirects::ASKING;
use super::registry::OwnUpstream;
use super::session::{Park, Session};
use super::tracking::{Tracked, Tracking};
use super::worker::Worker;
use crate::resp::command::Channels;
use crate::resp::encode_request;
use crate::topology::Timestamp;

/// Clean connections kept for the next session that needs one, of each kind.
const MAX_IDLE: usize = 32;

/// See the module.
pub(super) struct Pin {
    pub(super) lane: usize,
    pub(super) tx: Option<Tx>,
    pub(super) watch: Watch,
    pub(super) channels: [BTreeSet<Bytes>; 3],
    pub(super) monitor: bool,
    pub(super) tracking: Tracked,
    /// CLIENT NO-TOUCH as it was said, to say it again.
    pub(super) sticky: Option<Bytes>,
    /// Of a cluster: the hash slot that its transaction or WATCH is about.
    pub(super) bound: Option<u16>,
    /// The connection can not be given to another session afterwards.
    pub(super) tainted: bool,
}

/// An open MULTI.
#[derive(Default)]
pub(super) struct Tx {
    /// MULTI and the commands that were acknowledged with +QUEUED (or refused), as sent.
    pub(super) acknowledged: BytesMut,
    pub(super) count: u32,
    /// What the commands mean that are not acknowledged yet.
    pub(super) sent: VecDeque<Option<Effect>>,
    /// Those that were answered with +QUEUED.
    pub(super) queued: usize,
    /// What they mean for the session, each with its place among them.
    pub(super) effects: Vec<(usize, Effect)>,
    /// Whether every queued command only reads.
    pub(super) writes: bool,
    /// EXEC or DISCARD is on its way.
    pub(super) ending: bool,
}

/// What a queued command means for the session when EXEC has run it.
pub(super) enum Effect {
    /// AUTH, SELECT or HELLO.
    Identity(Change),
    /// A CLIENT subcommand that we answer.
    Client(Bytes),
    /// CLIENT TRACKING.
    Tracking(Tracking),
    /// CLIENT NO-TOUCH.
    Sticky(Sticky),
}

/// A request that no node knows: EXEC must answer -EXECABORT behind it, as behind any command that
/// was refused.
pub(super) const POISON: &[u8] = b"*1\r\n$17\r\nPOINTSMAN.REFUSED\r\n";

impl Tx {
    /// Makes EXEC fail on this connection's successors as well.
    pub(super) fn poison(&mut self) {
        self.acknowledged.extend_from_slice(POISON);
        self.count += 1;
    }
}

/// WATCH over a change of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    None,
    Held,
    /// The connection that watched is gone: EXEC answers nil, a legal lost race.
    Lost,
}

impl Pin {
    pub(super) fn new(lane: usize) -> Self {
        Pin {
            lane,
            tx: None,
            watch: Watch::None,
            channels: Default::default(),
            monitor: false,
            tracking: Tracked::default(),
            sticky: None,
            bound: None,
            tainted: false,
        }
    }

    pub(super) fn subscribed(&self) -> bool {
        self.channels.iter().any(|set| !set.is_empty())
    }

    /// Whether the connection has no state that the session still needs.
    pub(super) fn clean(&self) -> bool {
        self.tx.is_none()
            && self.watch == Watch::None
            && !self.subscribed()
            && !self.monitor
            && self.sticky.is_none()
            && !self.tracking.on()
    }

    /// What the reply to a request on this connection means for it; what the commands of a transaction
    /// that ran mean for the session.
    pub(super) fn answered(
        &mut self,
        hook: Hook,
        request: &[Bytes],
        reply: &[u8],
    ) -> Vec<(usize, Effect)> {
        let ok = reply[0] != b'-';
        match hook {
            Hook::Multi if !ok => self.tx = None,
            Hook::Multi | Hook::Queued => {
                if let Some(tx) = &mut self.tx {
                    if matches!(hook, Hook::Queued) {
                        let effect = tx.sent.pop_front().flatten();
                        if reply.starts_with(b"+QUEUED") {
                            tx.effects.extend(effect.map(|effect| (tx.queued, effect)));
                            tx.queued += 1;
                        }
                    }
                    request
                        .iter()
                        .for_each(|piece| tx.acknowledged.extend_from_slice(piece));
                    tx.count += 1;
                }
            }
            hook if hook.ends_transaction() && leaves_open(reply) => {
                if let Some(tx) = &mut self.tx {
                    tx.ending = false;
                }
            }
            Hook::Exec { .. } | Hook::ExecLost | Hook::Discard => {
                let tx = self.tx.take();
                self.watch = Watch::None;
                let ran = reply[0] == b'*' && matches!(hook, Hook::Exec { .. });
                return tx.filter(|_| ran).map(|tx| tx.effects).unwrap_or_default();
            }
            Hook::Watch if ok && self.watch == Watch::None => self.watch = Watch::Held,
            Hook::Unwatch if ok => self.watch = Watch::None,
            Hook::Monitor if ok => self.monitor = true,
            Hook::Caching if ok => self.tracking.caching(request.concat().into()),
            Hook::Sticky(sticky) if ok => self.stick(sticky),
            _ => {}
        }
        Vec::new()
    }

    /// The state of CLIENT NO-TOUCH has changed.
    pub(super) fn stick(&mut self, to: Sticky) {
        self.tainted = true;
        self.sticky = (!to.off).then_some(to.frame);
    }

    pub(super) fn set(&mut self, kind: Channels) -> &mut BTreeSet<Bytes> {
        &mut self.channels[kind as usize]
    }

    /// What is sent on a new connection before everything else.
    fn restore(&self, now: Timestamp, asks: bool) -> Vec<(Entry, Vec<Bytes>)> {
        let mut entries = Vec::new();
        let mut add = |bytes: Bytes, replies: u32, kind: Kind| {
            let mut entry = Entry::internal(bytes.len(), replies, now);
            entry.kind = kind;
            entries.push((entry, vec![bytes]));
        };
        if self.tracking.target.is_none() {
            for frame in self.tracking.restore(None) {
                add(frame, 1, Kind::Plain);
            }
        }
        if let Some(frame) = &self.sticky {
            add(frame.clone(), 1, Kind::Plain);
        }
        let words: [&[u8]; 3] = [b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"];
        for (word, set) in words.into_iter().zip(&self.channels) {
            for channel in set {
                let mut frame = BytesMut::new();
                encode_request(&mut frame, &[word, channel]);
                add(frame.freeze(), 1, Kind::Hook(Box::new(Hook::Again)));
            }
        }
        if self.monitor {
            let frame = Bytes::from_static(b"*1\r\n$7\r\nMONITOR\r\n");
            add(frame, 1, Kind::Hook(Box::new(Hook::Again)));
        }
        if asks {
            // It is valid for the next command, and up to EXEC where that is MULTI.
            add(Bytes::from_static(ASKING), 1, Kind::Plain);
        }
        if let Some(tx) = &self.tx
            && tx.count > 0
        {
            let frame = Bytes::copy_from_slice(&tx.acknowledged);
            add(frame, tx.count, Kind::Plain);
        }
        entries
    }
}

impl Session {
    /// What others may see of its state.
    pub(super) fn show(&self) {
        let pin = self.pin.as_deref();
        let tracked = match &self.cluster {
            Some(cluster) => cluster.tracker.as_ref().map(|tracker| &tracker.said),
            None => pin.map(|pin| &pin.tracking),
        };
        self.client.update(|s| {
            s.monitor = pin.is_some_and(|pin| pin.monitor);
            s.tracking = tracked.and_then(Tracked::shown);
            s.broadcast = tracked.is_some_and(Tracked::broadcasts);
            s.no_touch = pin.is_some_and(|pin| pin.sticky.is_some());
        });
    }
}

/// Whether an EXEC or DISCARD was refused without an end to the transaction.
fn leaves_open(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM") || reply.starts_with(b"-ERR wrong number of arguments")
}

impl Worker {
    /// Gives the session a lane of its own; `Err` when it must wait until what it sent on the shared
    /// lane is answered.
    pub(super) fn pin(&mut self, index: usize) -> Result<usize, Park> {
        let session = &self.sessions[index];
        if let Some(pin) = &session.pin {
            return Ok(pin.lane);
        }
        if session.inflight > 0 {
            return Err(Park::Drained);
        }
        let of = SessionRef {
            index,
            serial: session.serial,
        };
        let aim = session.cluster.as_ref().and_then(|cluster| cluster.aim);
        let (backend, key) = (aim.unwrap_or(session.backend), session.key.shared());
        let idle = self.backends[backend]
            .idle_pinned
            .get_mut(&key)
            .and_then(Vec::pop);
        let lane = match idle {
            Some(lane) => {
                self.lanes[lane].owner = Some(of);
                lane
            }
            None => self.new_lane(backend, key, Some(of)),
        };
        self.sessions[index].pin = Some(Box::new(Pin::new(lane)));
        let upstream = self.upstream_of(lane);
        self.own_upstream(index, upstream);
        self.backends[backend].metrics.sessions_pinned.increment(1);
        Ok(lane)
    }

    /// Gives the pinned lane back when its state has ended.
    pub(super) fn settle_pin(&mut self, of: SessionRef) {
        let Some(session) = self.session(of) else {
            return;
        };
        let Some(pin) = &mut session.pin else { return };
        if pin.tx.is_none() {
            pin.tracking.used();
        }
        if session.inflight == 0 && pin.clean() && session.client.change(|s| s.trackers.is_empty())
        {
            self.unpin(of.index);
        }
    }

    /// Takes the pinned lane from the session: to the idle ones when it is clean, else it ends.
    pub(super) fn unpin(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let Some(pin) = session.pin.take() else {
            return;
        };
        session
            .client
            .blocked_on
            .store(0, std::sync::atomic::Ordering::Relaxed);
        let me = session.client.clone();
        let redirected = self.own_upstream(index, OwnUpstream::None);
        me.update(|s| s.redirected = false);
        self.sessions[index].show();
        let targets = [pin.tracking.target, pin.tracking.asked];
        for target in targets.into_iter().flatten() {
            self.no_longer_redirects(me.id, target);
        }
        let now = self.now;
        let lane = &mut self.lanes[pin.lane];
        lane.aiming = false;
        let state = &mut self.backends[lane.backend];
        state.metrics.sessions_pinned.decrement(1);
        lane.owner = None;
        lane.idle_since = now;
        let idle = state.idle_pinned.entry(lane.key.clone()).or_default();
        let reusable = pin.clean()
            && !pin.tainted
            && !redirected
            && !lane.leaving
            && lane.queue.is_empty()
            && lane.upstream.is_some()
            && !lane.retire
            && idle.len() < MAX_IDLE;
        if reusable {
            idle.push(pin.lane);
        } else {
            lane.close = true;
            lane.wake_task();
        }
    }

    /// The upstream of a pinned lane is gone: puts what rebuilds the connection's state before what
    /// its session still waits for.
    pub(super) fn restore_pin(&mut self, index: usize, asks: bool) {
        let Some(of) = self.lanes[index].owner else {
            return;
        };
        let now = self.now;
        let ends_queued = self.lanes[index]
            .queue
            .iter()
            .any(|e| matches!(&e.kind, Kind::Hook(hook) if hook.ends_transaction()));
        let Some(session) = self.session(of) else {
            return;
        };
        let Some(pin) = &mut session.pin else { return };
        if pin.tx.as_ref().is_some_and(|tx| tx.ending) && !ends_queued {
            // Its outcome is unknown, and the client is told so: nothing is left of it.
            pin.tx = None;
            pin.watch = Watch::None;
        }
        if pin.watch == Watch::Held {
            pin.watch = Watch::Lost;
        }
        pin.tainted = true;
        let aiming = pin.tracking.lost();
        let gap = pin.subscribed() || pin.monitor;
        let entries = pin.restore(now, asks);
        let lane = &mut self.lanes[index];
        let state = &mut self.backends[lane.backend];
        state.bytes += entries.iter().map(|(e, _)| e.len).sum::<usize>();
        if gap && !lane.gap {
            lane.gap = true;
            state.metrics.subscription_gaps.increment(1);
            state.shared.gaps.open.fetch_add(1, Ordering::Relaxed);
        }
        lane.prepend(entries, &mut self.spares);
        lane.aiming |= aiming;
        self.own_upstream(of.index, OwnUpstream::Down);
        if !gap {
            self.close_gap(index);
        }
    }

    /// Takes back what [`Worker::restore_pin`] put there.
    pub(super) fn drop_restoring(&mut self, lane: usize) {
        let state = &mut self.lanes[lane];
        while state.queue.front().is_some_and(|e| e.session.is_none())
            && let Some(entry) = state.pop(&mut self.spares)
        {
            self.backends[state.backend].bytes -= entry.len;
        }
    }

    /// A pinned lane can serve its session as before: others may redirect to it.
    pub(super) fn own_lane_up(&self, lane: usize) {
        let state = &self.lanes[lane];
        if let Some(of) = state.owner
            && state.upstream.is_some()
            && !state.gap
        {
            self.own_upstream(of.index, self.upstream_of(lane));
        }
    }

    fn upstream_of(&self, lane: usize) -> OwnUpstream {
        match &self.lanes[lane].upstream {
            Some(upstream) => OwnUpstream::Up {
                run_id: upstream.run_id.clone(),
                id: upstream.client_id,
            },
            None => OwnUpstream::Down,
        }
    }

    /// The lane's subscriptions are made again, or nobody wants them any more.
    pub(super) fn close_gap(&mut self, lane: usize) {
        let state = &mut self.lanes[lane];
        if std::mem::take(&mut state.gap) {
            let gaps = &self.backends[state.backend].shared.gaps;
            if gaps.open.fetch_sub(1, Ordering::Relaxed) == 1 {
                gaps.closed.notify_waiters();
            }
            self.own_lane_up(lane);
        }
    }
}
