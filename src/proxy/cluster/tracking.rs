//! CLIENT TRACKING in front of a cluster. Every node must know what this client has read there, so its requests
//! travel over connections of its own: one at each shard that it uses, with BCAST one at every shard. Their lanes
//! are as any, but that CLIENT TRACKING is said first on each new connection.
//!
//! An invalidation must not reach the client before the reply that it is about. The node keeps that order on each
//! connection; a reply that waits here for those of other shards is not overtaken either, for the message then
//! gets a place behind it. Where a message may have been lost, or a key was read where nobody will hear of its
//! changes, the client is told to forget everything.

use bytes::Bytes;
use slab::Slab;

use super::super::dispatch::Step;
use super::super::entry::{Kind, SessionRef};
use super::super::hook::Hook;
use super::super::lane::LaneKey;
use super::super::parts::{Joining, Sort};
use super::super::session::{Park, ReplyMode, Session};
use super::super::tracking::{Tracked, Tracking};
use super::super::worker::Worker;
use super::ClusterSession;
use super::spread::{NO_SHARD, part};
use crate::resp::command::Join;
use crate::resp::reply::first_element;
use crate::resp::{Replay, Request};
use crate::topology::ClusterMap;

/// Tells a client to forget everything.
const FORGET: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";
const CACHING_YES: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";
const CACHING_NO: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$2\r\nNO\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Bytes of invalidations that wait for their turn; one that stands for all takes the place of more.
const MAX_WAITING: usize = 256 * 1024;

/// The tracking of a session, over all shards.
#[derive(Default)]
pub(in crate::proxy) struct Tracker {
    pub(in crate::proxy) said: Tracked,
    /// CLIENT CACHING, which is said right before the next command, at its shard.
    caching: Option<&'static [u8]>,
    /// The place of the newest message in the session's order that stands for all.
    forgets: Option<u64>,
}

impl Tracker {
    /// What is to be said to the node for CLIENT CACHING with this word, where the node would take it.
    fn caching_of(&self, word: &[u8]) -> Option<&'static [u8]> {
        if word.eq_ignore_ascii_case(b"YES") && self.said.says(b"OPTIN") {
            return Some(CACHING_YES);
        }
        (word.eq_ignore_ascii_case(b"NO") && self.said.says(b"OPTOUT")).then_some(CACHING_NO)
    }
}

impl ClusterSession {
    pub(super) fn caching(&self) -> Option<&'static [u8]> {
        self.tracker.as_ref()?.caching
    }
}

/// What a new connection of this key is told before anything else.
pub(in crate::proxy) fn restored(sessions: &Slab<Session>, key: &LaneKey) -> Vec<Bytes> {
    let session = key
        .tracks_for
        .and_then(|of| sessions.get(of.index).filter(|s| s.serial == of.serial));
    let tracker = session.and_then(|s| s.cluster.as_ref()?.tracker.as_ref());
    tracker.map_or(Vec::new(), |tracker| tracker.said.restore(None))
}

/// Whether a slot has left its shard.
pub(super) fn has_moved(old: &ClusterMap, new: &ClusterMap) -> bool {
    let mut slots = old.slots.iter().zip(&new.slots);
    slots.any(|(old, new)| old.is_some() && old != new)
}

impl Worker {
    /// CLIENT TRACKING: said to one shard, which judges. The others hear of it with their connections.
    pub(in crate::proxy) fn track(
        &mut self,
        index: usize,
        tracking: Tracking,
    ) -> Result<Step, Park> {
        if tracking.target.is_some() {
            let reason = "CLIENT TRACKING with REDIRECT is not carried to a cluster: use RESP3";
            self.refuse(index, reason);
            return Ok(Step::Next);
        }
        let session = &self.sessions[index];
        if session.inflight > 0 {
            return Err(Park::Drained);
        }
        let frame = tracking.frame(None);
        if session.key.tracks_for.is_none() {
            if tracking.off {
                let lane = session.lane;
                self.push(index, lane, Kind::Plain, Replay::Read, &frame);
                return Ok(Step::Next);
            }
            self.leave_shards(index);
            let session = &mut self.sessions[index];
            let serial = session.serial;
            session.key.tracks_for = Some(SessionRef { index, serial });
            if let Some(cluster) = &mut session.cluster {
                cluster.tracker = Some(Box::default());
            }
        }
        let Some(lane) = self.tracking_lane(index) else {
            self.untrack(index);
            self.refuse(index, NO_SHARD);
            return Ok(Step::Next);
        };
        self.sessions[index].moving = true;
        let hook = Hook::Tracking(tracking);
        self.push_hook(index, lane, hook, Replay::Read, &frame);
        Ok(Step::Next)
    }

    /// CLIENT TRACKING was answered on `lane`.
    pub(in crate::proxy) fn on_cluster_tracking(
        &mut self,
        lane: usize,
        of: SessionRef,
        tracking: Tracking,
        ok: bool,
    ) {
        let Some(session) = self.session(of) else {
            return;
        };
        session.moving = false;
        let Some(cluster) = &mut session.cluster else {
            return;
        };
        if ok && let Some(tracker) = &mut cluster.tracker {
            tracker.said.answered(tracking);
            tracker.caching = None;
            let others = cluster.lanes.iter().flatten().filter(|l| **l != lane);
            for other in others.copied().collect::<Vec<_>>() {
                let state = &mut self.lanes[other];
                state.retire = state.upstream.is_some();
                state.wake_task();
            }
        }
        self.untrack(of.index);
        self.sessions[of.index].show();
        self.listen(of.index);
    }

    /// Unless tracking is on the session travels with others again.
    pub(in crate::proxy) fn untrack(&mut self, index: usize) {
        let cluster = self.sessions[index].cluster.as_ref();
        let tracker = cluster.and_then(|cluster| cluster.tracker.as_ref());
        if tracker.is_none_or(|tracker| tracker.said.on()) {
            return;
        }
        self.leave_shards(index);
        let session = &mut self.sessions[index];
        session.key.tracks_for = None;
        if let Some(cluster) = &mut session.cluster {
            cluster.tracker = None;
        }
    }

    /// BCAST is about keys that nobody has asked for here: it needs a connection to every shard.
    pub(in crate::proxy) fn listen(&mut self, index: usize) {
        if !self.broadcasts(index) {
            return;
        }
        let cluster = self.backends[self.sessions[index].backend].cluster.as_ref();
        let shards = cluster.map_or(Vec::new(), |cluster| cluster.shards.clone());
        for (number, backend) in shards.into_iter().enumerate() {
            self.lane_at(index, number as u16, backend);
        }
    }

    fn broadcasts(&self, index: usize) -> bool {
        let cluster = self.sessions[index].cluster.as_ref();
        let tracker = cluster.and_then(|cluster| cluster.tracker.as_ref());
        tracker.is_some_and(|tracker| tracker.said.broadcasts())
    }

    /// Whether the reply to a CLIENT TRACKING comes when every shard that can be reached listens.
    pub(in crate::proxy) fn answers_when_it_listens(&mut self, of: SessionRef, mute: bool) -> bool {
        if self.session(of).is_none() || !self.broadcasts(of.index) {
            return false;
        }
        let shards = self.serving(of.index);
        let session = &mut self.sessions[of.index];
        let Some(cluster) = session.cluster.as_mut().filter(|_| !shards.is_empty()) else {
            return false;
        };
        let joining = Joining {
            join: Join::Done,
            missing: shards.len(),
            pieces: vec![Bytes::new(); shards.len()],
            order: Vec::new(),
            resp3: session.key.resp3,
        };
        let place = cluster.order.join(joining, mute);
        session.inflight += 1;
        for (piece, (number, backend)) in shards.into_iter().enumerate() {
            let lane = self.lane_at(of.index, number, backend);
            let part = part(place, piece as u16, None, Sort::Plain);
            self.send(of.index, lane, part, Replay::Read, PING);
        }
        true
    }

    /// Where a session that tracks asks what is about no key, and keys that nobody is known to serve.
    pub(super) fn tracking_lane(&mut self, index: usize) -> Option<usize> {
        let session = &self.sessions[index];
        session.key.tracks_for?;
        let cluster = session.cluster.as_ref()?;
        let shards = &self.backends[session.backend].cluster.as_ref()?.shards;
        let used = |number: &u16| matches!(cluster.lanes.get(usize::from(*number)), Some(Some(_)));
        let all = 0..shards.len() as u16;
        let last = cluster.last.into_iter();
        let mut numbers = last.chain(all.clone().filter(used)).chain(all);
        let serves = |number: &u16| {
            let backend = shards.get(usize::from(*number));
            backend.is_some_and(|backend| self.backends[*backend].topology.primary.is_some())
        };
        let number = numbers.clone().find(serves).or_else(|| numbers.next())?;
        let backend = *shards.get(usize::from(number))?;
        Some(self.lane_at(index, number, backend))
    }

    /// What a session that tracks asks about its tracking.
    pub(super) fn about_tracking(
        &mut self,
        index: usize,
        alone: bool,
        request: &Request,
        frame: &[u8],
    ) -> Result<Option<Step>, Park> {
        let session = &mut self.sessions[index];
        let cluster = session.cluster.as_mut();
        let Some(tracker) = cluster.and_then(|cluster| cluster.tracker.as_mut()) else {
            return Ok(None);
        };
        let word = request.arg(frame, 1).unwrap_or_default();
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if !(is(b"CACHING") || is(b"TRACKINGINFO") || is(b"GETREDIR")) {
            return Ok(None);
        }
        if alone {
            return Err(Park::Drained);
        }
        if is(b"CACHING") && request.argc == 3 {
            let caching = tracker.caching_of(request.arg(frame, 2).unwrap_or_default());
            if caching.is_some() {
                tracker.caching = caching;
                self.reply_local(index, b"+OK\r\n");
                return Ok(Some(Step::Next));
            }
        }
        // The node has the words. What is to be said before the next command is not about this one.
        let caching = tracker.caching.take();
        let lane = self
            .tracking_lane(index)
            .unwrap_or(self.sessions[index].lane);
        let place = self.take_place(index);
        let part = part(place, 0, None, Sort::Plain);
        self.send(index, lane, part, Replay::Read, frame);
        if let Some(cluster) = &mut self.sessions[index].cluster
            && let Some(tracker) = &mut cluster.tracker
        {
            tracker.caching = caching;
        }
        Ok(Some(Step::Next))
    }

    /// A command took the CLIENT CACHING before it.
    pub(in crate::proxy) fn end_caching(&mut self, index: usize) {
        if let Some(session) = self.sessions.get_mut(index)
            && let Some(cluster) = &mut session.cluster
            && let Some(tracker) = &mut cluster.tracker
        {
            tracker.caching = None;
        }
    }

    /// A message came on a connection that is there for this session.
    pub(in crate::proxy) fn on_invalidation(&mut self, of: SessionRef, frame: &[u8], speaks: bool) {
        let Some(session) = self.session(of) else {
            return;
        };
        let heard = speaks || session.reply_mode != ReplyMode::Off;
        if heard && first_element(frame) == Some(b"invalidate".as_slice()) {
            self.tell(of, frame, None);
        }
    }

    /// Invalidations of one shard may have been lost.
    pub(in crate::proxy) fn forget(&mut self, of: SessionRef) {
        self.tell(of, FORGET, None);
    }

    /// What is answered at `place` may change without anybody hearing of it.
    pub(in crate::proxy) fn forget_behind(&mut self, of: SessionRef, place: u64) {
        self.tell(of, FORGET, Some(place));
    }

    /// A reply came over a pinned lane, which does not track.
    pub(in crate::proxy) fn was_read_apart(&mut self, lane: usize, of: SessionRef) {
        if self.lanes[lane].pinned {
            self.forget(of);
        }
    }

    /// The map of a cluster has changed.
    pub(super) fn tell_trackers(&mut self, backend: usize, moved: bool) {
        let tracking = |(index, session): (usize, &Session)| {
            let serial = session.serial;
            let tracks = session.backend == backend && session.key.tracks_for.is_some();
            tracks.then_some(SessionRef { index, serial })
        };
        let all: Vec<SessionRef> = self.sessions.iter().filter_map(tracking).collect();
        for of in all {
            let cluster = self.sessions[of.index].cluster.as_ref();
            let last = cluster.and_then(|cluster| cluster.order.end().checked_sub(1));
            if moved {
                // What is on its way was sent by the old map.
                self.forget_behind(of, last.unwrap_or(0));
            }
            self.listen(of.index);
        }
    }

    /// Gives the client a message: at once, or behind every reply that has come and waits for its turn, and
    /// behind the one that is awaited at `behind`.
    fn tell(&mut self, of: SessionRef, frame: &[u8], behind: Option<u64>) {
        let Some(session) = of.find(&mut self.sessions) else {
            return;
        };
        let Some(cluster) = session.cluster.as_mut().filter(|_| session.key.resp3) else {
            return;
        };
        let Some(tracker) = cluster.tracker.as_mut().filter(|t| t.said.on()) else {
            return;
        };
        let order = &mut cluster.order;
        let (holds, waiting) = order.waiting();
        let awaited = behind.is_some_and(|place| place >= order.first() && place < order.end());
        if !holds && !awaited {
            self.deliver(of, frame);
            return self.drop_if_deaf(of);
        }
        if tracker.forgets == Some(order.end() - 1) {
            return;
        }
        let mut frame = frame;
        if waiting + frame.len() > MAX_WAITING {
            order.drop_messages();
            frame = FORGET;
        }
        if frame == FORGET {
            tracker.forgets = Some(order.end());
        }
        order.answer(frame);
        session.inflight += 1;
    }
}
