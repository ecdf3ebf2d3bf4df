//! A backend that is a cluster. Each of its shards is a backend of its own to the worker, with a topology, lanes
//! and everything else as any; *home* is the cluster's own index, a connection to some primary for what is
//! about no key.
//!
//! A session's requests with keys travel over the shared lanes of their shards and are answered in the
//! session's order (`parts.rs`). What needs a connection of its own gets it at one shard. Where the map of the
//! slots changes, a session lets be answered what is on its way before it sends on: what came later never
//! overtakes what was sent elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::BackendPlan;
use super::cluster_command;
use super::dispatch::{Step, Unit};
use super::lane::{Entry, Kind, SessionRef, own_error};
use super::parts::{Joining, Order, Part, Sort};
use super::pin::Watch;
use super::scans::Iteration;
use super::session::{Park, ReplyMode};
use super::worker::{Backend, Worker, follow_gaps, follow_topology};
use crate::clock;
use crate::resp::command::{Channels, Join, Patience, Reach, patience, reach, refused, replay};
use crate::resp::{
    Command, Limits, OwnError, Replay, Request, RequestScanner, Special, encode_request, key_slot,
};
use crate::topology::{ClusterMap, Gate, TopologyReader};

/// A SCAN cursor of ours: the node's, and in the lowest bits the number of the shard.
const SHARD_BITS: u32 = 10;

/// Channels in several slots could part at any time.
const ONE_SLOT: &str =
    "all shard channels of a connection must be in one hash slot: use another connection";

const CROSS_SLOT: &[u8] = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n";

/// The cluster as a worker sees it.
pub(super) struct ClusterBackend {
    pub(super) map: Arc<ClusterMap>,
    /// The worker's backend of each shard, by the shard's number.
    pub(super) shards: Vec<usize>,
}

/// What a session of a cluster has besides.
#[derive(Default)]
pub(super) struct ClusterSession {
    pub(super) order: Order,
    /// The shared lane of each shard that it has used, for the session's present key.
    lanes: Vec<Option<usize>>,
    /// The map by which the requests on their way were sent.
    generation: u64,
    /// Requests of it that wait for the cluster to settle.
    pub(super) detained: u32,
    /// Where requests were sent on to that were refused elsewhere, and which of them was the last one.
    away: Vec<Away>,
    /// Where a connection of its own is to be made.
    pub(super) aim: Option<usize>,
    /// The shard that its last request with a key went to.
    last: Option<u16>,
}

/// See [`ClusterSession::away`].
struct Away {
    slot: Option<u16>,
    place: u64,
    lane: usize,
}

impl ClusterSession {
    /// Whether a request that was refused may go to `lane`: nothing of its slot that came before it is on
    /// another way. If so, it is noted.
    pub(super) fn may_follow(&mut self, slot: Option<u16>, place: u64, lane: usize) -> bool {
        self.settle_away();
        let next = place == self.order.first();
        let apart = |away: &Away| away.slot == slot && (away.lane != lane || away.place > place);
        let may = next || self.detained == 0 && !self.away.iter().any(apart);
        if may {
            self.went(slot, place, lane);
        }
        may
    }

    /// It goes to `lane`.
    pub(super) fn went(&mut self, slot: Option<u16>, place: u64, lane: usize) {
        self.away.retain(|away| away.slot != slot);
        self.away.push(Away { slot, place, lane });
    }

    /// Forgets what is answered.
    fn settle_away(&mut self) {
        let first = self.order.first();
        self.away.retain(|away| away.place >= first);
    }

    /// Whether the lane is its lane at a shard.
    pub(super) fn uses(&self, lane: usize) -> bool {
        self.lanes.contains(&Some(lane))
    }
}

/// Follows the map of a cluster.
pub(super) async fn follow_cluster(worker: Rc<RefCell<Worker>>, backend: usize) {
    let reader = worker.borrow().backends[backend].plan.cluster.clone();
    let Some(mut reader) = reader else { return };
    let mut map = reader.current();
    loop {
        let new = worker.borrow_mut().map_changed(backend, map);
        for shard in new {
            tokio::task::spawn_local(follow_topology(worker.clone(), shard));
            tokio::task::spawn_local(follow_gaps(worker.clone(), shard));
        }
        match reader.changed().await {
            Ok(next) => map = next,
            Err(_) => return,
        }
    }
}

impl Worker {
    /// Returns the backends of shards that are new.
    fn map_changed(&mut self, backend: usize, map: Arc<ClusterMap>) -> Vec<usize> {
        self.now = clock::now();
        let mut new = Vec::new();
        let known = self.backends[backend]
            .cluster
            .as_ref()
            .map_or(0, |c| c.shards.len());
        for (number, topology) in map.shards.iter().enumerate().skip(known) {
            new.push(self.add_shard(backend, number as u16, topology));
        }
        if let Some(cluster) = &mut self.backends[backend].cluster {
            cluster.shards.extend(&new);
            cluster.map = map;
        }
        self.reroute(backend);
        self.settle();
        new
    }

    fn add_shard(&mut self, cluster: usize, number: u16, topology: &TopologyReader) -> usize {
        let home = &self.backends[cluster];
        let shared = self.shared.shard(cluster, number, &home.shared);
        let plan = BackendPlan {
            topology: topology.clone(),
            cluster: None,
            ..home.plan.clone()
        };
        let mut shard = Backend::new(plan, shared);
        shard.shard_of = Some(cluster);
        self.backends.push(shard);
        self.backends.len() - 1
    }

    /// What waits at a shard that has lost both its primary and the slot goes where the slot is now.
    fn reroute(&mut self, backend: usize) {
        let Some(cluster) = &self.backends[backend].cluster else {
            return;
        };
        let mut lost = Vec::new();
        for (index, lane) in &self.lanes {
            let Some(number) = cluster.shards.iter().position(|b| *b == lane.backend) else {
                continue;
            };
            let elsewhere = |entry: &Entry| match &entry.kind {
                Kind::Part(part) => part.slot.is_some_and(|slot| {
                    cluster
                        .map
                        .shard_of(slot)
                        .is_some_and(|n| usize::from(n) != number)
                }),
                _ => false,
            };
            if lane.upstream.is_none() && lane.queue.iter().any(elsewhere) {
                lost.push(index);
            }
        }
        for lane in lost {
            while let Some((entry, bytes)) = self.lanes[lane].pop_with_bytes(&mut self.spares) {
                let of = self.lanes[lane].backend;
                self.backends[of].bytes -= entry.len;
                self.detain(entry, bytes);
            }
        }
        self.release_detained();
    }

    /// A request with its shard: `None`: nobody knows who serves its slot.
    pub(super) fn shard_backend(&self, cluster: usize, slot: u16) -> Option<(u16, usize)> {
        let cluster = self.backends[cluster].cluster.as_ref()?;
        let number = cluster.map.shard_of(slot)?;
        Some((number, *cluster.shards.get(usize::from(number))?))
    }

    /// The session's shared lane at a shard.
    pub(super) fn lane_at(&mut self, index: usize, number: u16, backend: usize) -> usize {
        let session = &self.sessions[index];
        let at = usize::from(number);
        let known = session
            .cluster
            .as_ref()
            .and_then(|c| c.lanes.get(at))
            .copied()
            .flatten();
        if let Some(lane) = known {
            return lane;
        }
        let key = session.key.clone();
        let lane = self.shared_lane(backend, &key);
        if let Some(cluster) = &mut self.sessions[index].cluster {
            if cluster.lanes.len() <= at {
                cluster.lanes.resize(at + 1, None);
            }
            cluster.lanes[at] = Some(lane);
        }
        lane
    }

    /// The session is somebody else from now on, or gone.
    pub(super) fn leave_shards(&mut self, index: usize) {
        let Some(cluster) = &mut self.sessions[index].cluster else {
            return;
        };
        for lane in std::mem::take(&mut cluster.lanes).into_iter().flatten() {
            self.leave_lane(lane);
        }
    }

    pub(super) fn slot_lane(&mut self, index: usize, slot: Option<u16>) -> usize {
        let backend = self.sessions[index].backend;
        match slot.and_then(|slot| self.shard_backend(backend, slot)) {
            Some((number, shard)) => {
                if let Some(cluster) = &mut self.sessions[index].cluster {
                    cluster.last = Some(number);
                }
                self.lane_at(index, number, shard)
            }
            None => self.sessions[index].lane,
        }
    }

    /// [`Worker::dispatch`] for a session of a cluster, when nothing of the session is in its way.
    pub(super) fn dispatch_cluster(
        &mut self,
        index: usize,
        command: Option<&'static Command>,
        special: Special,
        request: &Request,
        frame: &[u8],
        rest: &[u8],
    ) -> Result<Step, Park> {
        self.adopt_map(index)?;
        let reach = reach(request, frame);
        let slot = slot_of(reach, request, frame);
        let session = &self.sessions[index];
        let ordered = session.cluster.as_ref().map_or(0, |c| c.order.len());
        let alone = session.inflight as usize > ordered;
        let resp2_subscriber =
            !session.key.resp3 && session.pin.as_ref().is_some_and(|pin| pin.subscribed());
        let queues = session.pin.as_ref().is_some_and(|pin| pin.tx.is_some());
        if !queues && !resp2_subscriber {
            if let Some(reason) = command.and_then(|c| refused(c, request, frame)) {
                self.refuse(index, reason);
                return Ok(Step::Next);
            }
            let session = &self.sessions[index];
            if let Some(answer) =
                cluster_command::answer(&session.client, session.key.resp3, request, frame)
            {
                if alone && session.pin.is_none() {
                    return Err(Park::Drained);
                }
                self.reply_local(index, &answer);
                return Ok(Step::Next);
            }
            let plain = match special {
                Special::None
                | Special::Eval
                | Special::EvalSha
                | Special::Script
                | Special::Scan
                | Special::Cluster => true,
                Special::Blocking(_) => patience(special, request, frame) == Patience::None,
                _ => false,
            };
            // What a WATCH is about is asked for where it is watched.
            let here = |slot: Option<u16>| {
                let watching = session.pin.as_ref().filter(|p| p.watch != Watch::None);
                slot.is_some() && watching.is_some_and(|pin| pin.bound == slot)
            };
            if plain && !here(slot) {
                if alone {
                    return Err(Park::Drained);
                }
                self.note_script(index, special, request, frame);
                let class = replay(command, request, frame);
                return self.send_parts(index, (reach, slot), class, special, request, frame);
            }
            if special == Special::Multi
                && session.pin.is_none()
                && let Some(unit) = self.unit(index, rest)
            {
                if alone {
                    return Err(Park::Drained);
                }
                return Ok(self.send_unit(index, frame, rest, &unit));
            }
        }
        // Everything else has the connection to itself, or the session a connection.
        if ordered > 0 || alone && self.sessions[index].pin.is_none() {
            return Err(Park::Drained);
        }
        if let Some(reason) = not_in_a_cluster(special, request, frame) {
            self.refuse_queued(index, reason);
            return Ok(Step::Next);
        }
        let slot = match special {
            Special::Wait => None,
            _ => slot,
        };
        let aim = match special {
            Special::Wait => self.last_shard(index),
            _ => slot
                .and_then(|slot| self.shard_backend(self.sessions[index].backend, slot))
                .map(|(_, b)| b),
        };
        if let Some(aim) = aim
            && let Some(step) = self.bind(index, special, slot, aim)?
        {
            return Ok(step);
        }
        if let Some(cluster) = &mut self.sessions[index].cluster {
            cluster.aim = aim;
        }
        let step = self.dispatch_special(index, command, special, request, frame, rest);
        if let Some(session) = self.sessions.get_mut(index) {
            if let Some(cluster) = &mut session.cluster {
                cluster.aim = None;
            }
            if let Some(pin) = &mut session.pin {
                pin.bound = pin.bound.or(slot);
            }
        }
        step
    }

    /// A new map is obeyed when nothing is on its way by an older one.
    fn adopt_map(&mut self, index: usize) -> Result<(), Park> {
        let session = &self.sessions[index];
        let generation = self.backends[session.backend]
            .cluster
            .as_ref()
            .map_or(0, |c| c.map.generation);
        let busy = session.inflight > 0;
        let Some(cluster) = &mut self.sessions[index].cluster else {
            return Ok(());
        };
        cluster.settle_away();
        // Nor does anything new go where a request was refused, until that is answered.
        if cluster.detained > 0
            || !cluster.away.is_empty()
            || cluster.generation != generation && cluster.order.len() > 0 && busy
        {
            return Err(Park::Drained);
        }
        cluster.generation = generation;
        Ok(())
    }

    /// The backend of the shard that the session's last request with a key went to.
    fn last_shard(&self, index: usize) -> Option<usize> {
        let session = &self.sessions[index];
        let number = session.cluster.as_ref()?.last?;
        let cluster = self.backends[session.backend].cluster.as_ref()?;
        cluster.shards.get(usize::from(number)).copied()
    }

    /// The session's own connection must be at the shard `aim`. Some step: it can not be there.
    fn bind(
        &mut self,
        index: usize,
        special: Special,
        slot: Option<u16>,
        aim: usize,
    ) -> Result<Option<Step>, Park> {
        let session = &mut self.sessions[index];
        let busy = session.inflight > 0;
        let Some(pin) = &mut session.pin else {
            return Ok(None);
        };
        let listens = !pin.channels[Channels::Sharded as usize].is_empty();
        let open = pin.tx.is_some() || pin.watch != Watch::None || listens;
        if !busy && !open {
            pin.bound = None;
        }
        let lane = pin.lane;
        let about_shard_channels = matches!(
            special,
            Special::Subscribe(Channels::Sharded) | Special::Unsubscribe(Channels::Sharded)
        );
        if about_shard_channels && listens && pin.bound != slot {
            self.refuse_queued(index, ONE_SLOT);
            return Ok(Some(Step::Next));
        }
        // Where the slot has moved, the node says so and the lane follows.
        if self.lanes[lane].backend == aim || slot.is_some() && pin.bound == slot {
            return Ok(None);
        }
        if pin.bound.is_some() && open && !listens {
            self.refuse_with(index, CROSS_SLOT);
            return Ok(Some(Step::Next));
        }
        if busy {
            return Err(Park::Drained);
        }
        if pin.subscribed() || pin.monitor {
            self.refuse_queued(
                index,
                "the subscriptions of this connection are at another shard: use another connection",
            );
            return Ok(Some(Step::Next));
        }
        self.move_lane(lane, aim);
        Ok(None)
    }

    /// A pinned lane goes on at another shard.
    pub(super) fn move_lane(&mut self, lane: usize, to: usize) {
        let state = &mut self.lanes[lane];
        let (from, bytes) = (std::mem::replace(&mut state.backend, to), state.log.len());
        state.retire = state.upstream.is_some();
        state.wake_task();
        self.backends[from].bytes -= bytes;
        self.backends[to].bytes += bytes;
    }

    fn send_parts(
        &mut self,
        index: usize,
        (reach, slot): (Reach, Option<u16>),
        class: Replay,
        special: Special,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        match reach {
            Reach::Split { step, join } => self.split(index, step, join, class, request, frame),
            Reach::All(join) => return self.ask_all_shards(index, join, class, frame),
            Reach::Scan => return self.scan_shards(index, class, request, frame),
            _ => {
                let lane = self.slot_lane(index, slot);
                self.has_room(lane)?;
                let iteration = match special {
                    Special::Scan => Iteration::new(0, request, frame),
                    _ => None,
                };
                let place = self.take_place(index);
                let sort = iteration.map_or(Sort::Plain, |iteration| Sort::Scan(iteration, None));
                let anew = self.begun_anew(lane, &sort, frame);
                let frame = anew.as_deref().unwrap_or(frame);
                self.send(index, lane, part(place, 0, slot, sort), class, frame);
            }
        }
        Ok(Step::Next)
    }

    /// One request for each hash slot: a node takes no others together, also where it serves both.
    fn split(
        &mut self,
        index: usize,
        step: usize,
        join: Join,
        class: Replay,
        request: &Request,
        frame: &[u8],
    ) {
        let args: Vec<&[u8]> = request.args(frame).collect();
        let mut groups: Vec<(u16, Vec<&[u8]>)> = Vec::new();
        let (mut known, mut order) = (HashMap::new(), Vec::new());
        for one in args[1..].chunks(step) {
            let slot = key_slot(one[0]);
            let at = *known.entry(slot).or_insert_with(|| {
                groups.push((slot, vec![args[0]]));
                groups.len() - 1
            });
            groups[at].1.extend_from_slice(one);
            order.push(at as u16);
        }
        if let [(slot, _)] = groups[..] {
            let lane = self.slot_lane(index, Some(slot));
            let place = self.take_place(index);
            return self.send(
                index,
                lane,
                part(place, 0, Some(slot), Sort::Plain),
                class,
                frame,
            );
        }
        let place = self.take_joined_place(index, join, groups.len(), order);
        for (piece, (slot, args)) in groups.into_iter().enumerate() {
            let mut frame = BytesMut::new();
            encode_request(&mut frame, &args);
            let lane = self.slot_lane(index, Some(slot));
            let part = part(place, piece as u16, Some(slot), Sort::Plain);
            self.send(index, lane, part, class, &frame);
        }
    }

    /// The shards that serve a slot, with their backends.
    fn serving(&self, index: usize) -> Vec<(u16, usize)> {
        let Some(cluster) = &self.backends[self.sessions[index].backend].cluster else {
            return Vec::new();
        };
        let mut numbers: Vec<u16> = cluster.map.slots.iter().flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let shard = |number: u16| Some((number, *cluster.shards.get(usize::from(number))?));
        numbers.into_iter().filter_map(shard).collect()
    }

    fn ask_all_shards(
        &mut self,
        index: usize,
        join: Join,
        class: Replay,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let mut shards = self.serving(index);
        if shards.is_empty() {
            // Nothing is known of the cluster yet.
            return Err(Park::Starved);
        }
        if join == Join::NotNull {
            let turn = self.now.as_millis() as usize % shards.len();
            shards.rotate_left(turn);
        }
        let place = self.take_joined_place(index, join, shards.len(), Vec::new());
        for (piece, (number, backend)) in shards.into_iter().enumerate() {
            let lane = self.lane_at(index, number, backend);
            self.send(
                index,
                lane,
                part(place, piece as u16, None, Sort::Plain),
                class,
                frame,
            );
        }
        Ok(Step::Next)
    }

    /// SCAN: the cursor says which shard comes next.
    fn scan_shards(
        &mut self,
        index: usize,
        class: Replay,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let shards = self.serving(index);
        if shards.is_empty() {
            return Err(Park::Starved);
        }
        let cursor = request
            .arg(frame, 1)
            .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let Some(cursor) = cursor else {
            // The node has the words for it.
            let lane = self.sessions[index].lane;
            let place = self.take_place(index);
            self.send(index, lane, part(place, 0, None, Sort::Plain), class, frame);
            return Ok(Step::Next);
        };
        let (at, inner) = (cursor & ((1 << SHARD_BITS) - 1), cursor >> SHARD_BITS);
        let next = shards.iter().find(|(number, _)| u64::from(*number) >= at);
        let Some((number, backend)) = next.copied() else {
            self.reply_local(index, b"*2\r\n$1\r\n0\r\n*0\r\n");
            return Ok(Step::Next);
        };
        let inner = match u64::from(number) == at {
            true => inner.to_string(),
            false => "0".to_owned(),
        };
        let mut args: Vec<&[u8]> = request.args(frame).collect();
        args[1] = inner.as_bytes();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        let scanned = RequestScanner::default().scan(&frame, &Limits::default());
        let iteration = match scanned {
            Ok(Some(request)) => Iteration::new(0, &request, &frame),
            _ => None,
        };
        let sort = iteration.map_or(Sort::Plain, |iteration| Sort::Scan(iteration, Some(number)));
        let lane = self.lane_at(index, number, backend);
        self.has_room(lane)?;
        let anew = self.begun_anew(lane, &sort, &frame);
        let frame = anew.as_deref().unwrap_or(&frame);
        let place = self.take_place(index);
        self.send(index, lane, part(place, 0, None, sort), class, frame);
        Ok(Step::Next)
    }

    /// An iteration that another process began is begun anew.
    fn begun_anew(&self, lane: usize, sort: &Sort, frame: &[u8]) -> Option<Bytes> {
        let Sort::Scan(iteration, _) = sort else {
            return None;
        };
        let state = &self.lanes[lane];
        let scans = &self.backends[state.backend].shared.scans;
        let run_id = state.upstream.as_ref().map(|u| &u.run_id);
        let scanned = RequestScanner::default().scan(frame, &Limits::default());
        let fits = scans.fits(*iteration, &scanned.ok()??, frame, run_id);
        (!fits).then(|| iteration.anew(frame)).flatten()
    }

    /// The reply to a SCAN with the cursor as the client must say it.
    pub(super) fn scanned(
        &mut self,
        lane: usize,
        of: SessionRef,
        sort: &Sort,
        reply: Bytes,
    ) -> Bytes {
        let Sort::Scan(iteration, shard) = sort else {
            return reply;
        };
        let mut parts = crate::resp::reply::elements(&reply);
        let cursor = parts.next().and_then(crate::resp::reply::payload);
        let (Some(cursor), Some(keys)) = (cursor, parts.next()) else {
            return reply;
        };
        let state = &self.lanes[lane];
        if let Some(upstream) = &state.upstream {
            let scans = &self.backends[state.backend].shared.scans;
            scans.issued(*iteration, cursor, &upstream.run_id);
        }
        let Some(number) = shard else {
            return reply;
        };
        let cursor = std::str::from_utf8(cursor)
            .ok()
            .and_then(|c| c.parse::<u64>().ok())
            .unwrap_or(0);
        let ours = match cursor {
            0 => {
                let serving = self.session(of).is_some().then(|| self.serving(of.index));
                let mut later = serving.unwrap_or_default().into_iter().map(|(n, _)| n);
                later.find(|n| n > number).map_or(0, u64::from)
            }
            cursor if cursor >> (64 - SHARD_BITS) != 0 => {
                return own_error(OwnError::NotExecuted("the cursor of the node is too large"));
            }
            cursor => cursor << SHARD_BITS | u64::from(*number),
        };
        let mut out = BytesMut::with_capacity(keys.len() + 32);
        crate::resp::put_array(&mut out, 2);
        crate::resp::put_bulk(&mut out, ours.to_string().as_bytes());
        out.extend_from_slice(keys);
        out.freeze()
    }

    /// MULTI ... EXEC that arrived whole goes where its first key is.
    fn send_unit(&mut self, index: usize, frame: &[u8], rest: &[u8], unit: &Unit) -> Step {
        let mut scanner = RequestScanner::default();
        let (mut at, mut slot) = (0, None);
        while slot.is_none() && at < unit.len {
            let Ok(Some(request)) = scanner.scan(&rest[at..], &self.limits) else {
                break;
            };
            let frame = &rest[at..];
            slot = slot_of(reach(&request, frame), &request, frame);
            at += request.len;
        }
        let lane = self.slot_lane(index, slot);
        let place = self.take_place(index);
        let bytes = [frame, &rest[..unit.len]].concat();
        let sort = Sort::Unit(unit.commands + 1, BytesMut::new());
        self.send(index, lane, part(place, 0, slot, sort), unit.class, &bytes);
        Step::Took(unit.len)
    }

    fn has_room(&self, lane: usize) -> Result<(), Park> {
        let backend = &self.backends[self.lanes[lane].backend];
        match backend.bytes < backend.plan.settings.hold_bytes {
            true => Ok(()),
            false => Err(Park::Starved),
        }
    }

    fn take_place(&mut self, index: usize) -> u64 {
        let mute = self.mute(index);
        let session = &mut self.sessions[index];
        session.inflight += 1;
        session.cluster.as_mut().map_or(0, |c| c.order.take(mute))
    }

    fn take_joined_place(
        &mut self,
        index: usize,
        join: Join,
        pieces: usize,
        order: Vec<u16>,
    ) -> u64 {
        let mute = self.mute(index);
        let session = &mut self.sessions[index];
        session.inflight += 1;
        let joining = Joining {
            join,
            missing: pieces,
            pieces: vec![Bytes::new(); pieces],
            order,
            resp3: session.key.resp3,
        };
        session
            .cluster
            .as_mut()
            .map_or(0, |c| c.order.join(joining, mute))
    }

    fn mute(&mut self, index: usize) -> bool {
        let session = &mut self.sessions[index];
        match session.reply_mode {
            ReplyMode::On => false,
            ReplyMode::Off => true,
            ReplyMode::SkipNext => {
                session.reply_mode = ReplyMode::On;
                true
            }
        }
    }

    fn send(&mut self, index: usize, lane: usize, part: Part, class: Replay, frame: &[u8]) {
        let serial = self.sessions[index].serial;
        let of = SessionRef { index, serial };
        let mut entry = Entry::new(of, frame.len(), class, self.now, Kind::Plain);
        entry.replies = part.replies();
        entry.skip = u32::from(part.asking);
        entry.kind = Kind::Part(Box::new(part));
        self.push_entry(lane, entry, frame);
    }

    pub(super) fn push_entry(&mut self, lane: usize, entry: Entry, frame: &[u8]) {
        let state = &mut self.lanes[lane];
        let backend = &mut self.backends[state.backend];
        if state.upstream.is_none() || backend.topology.gate == Gate::Closed {
            backend.turn.held += 1;
        }
        backend.bytes += frame.len();
        state.push(entry, frame, &mut self.spares);
        self.ask_to_write(lane);
    }

    /// A body is remembered for every shard: EVALSHA may go to any.
    fn note_script(&mut self, index: usize, special: Special, request: &Request, frame: &[u8]) {
        if !matches!(special, Special::Eval | Special::Script) {
            return;
        }
        let backend = self.sessions[index].backend;
        self.remember_script(index, special, request, frame);
        let shards = self.backends[backend]
            .cluster
            .as_ref()
            .map(|c| c.shards.clone());
        for shard in shards.unwrap_or_default() {
            self.remember_script_at(shard, special, request, frame);
        }
    }

    /// Answers with an error of the server's; inside of MULTI, EXEC must fail then.
    fn refuse_with(&mut self, index: usize, error: &[u8]) {
        self.reply_local(index, error);
        self.poison(index);
    }

    /// The channel that a message of no effect goes to at `backend`, for WAIT.
    pub(super) fn wait_channel(&self, lane: usize) -> Vec<u8> {
        let backend = self.lanes[lane].backend;
        let home = self.backends[backend].shard_of;
        let fits = |channel: &str| {
            let at = home.and_then(|home| self.shard_backend(home, key_slot(channel.as_bytes())));
            at.is_none_or(|(_, shard)| shard == backend)
        };
        let mut names = (0..100_000).map(|n| format!("pointsman:wait{{{n}}}"));
        names
            .find(|name| fits(name))
            .unwrap_or_default()
            .into_bytes()
    }
}

fn part(place: u64, piece: u16, slot: Option<u16>, sort: Sort) -> Part {
    Part {
        place,
        piece,
        slot,
        redirects: 0,
        asking: false,
        sort,
    }
}

/// The hash slot that a request is for; `None`: it is for none.
fn slot_of(reach: Reach, request: &Request, frame: &[u8]) -> Option<u16> {
    match reach {
        Reach::Key(at) => request.arg(frame, at).map(key_slot),
        Reach::Split { .. } => request.arg(frame, 1).map(key_slot),
        Reach::Slot(at) => {
            let slot = request.arg(frame, at).and_then(crate::resp::integer)?;
            u16::try_from(slot).ok().filter(|slot| *slot < 16_384)
        }
        Reach::Any | Reach::All(_) | Reach::Scan => None,
    }
}

/// What needs one connection to all data.
fn not_in_a_cluster(special: Special, request: &Request, frame: &[u8]) -> Option<&'static str> {
    if special != Special::Client {
        return None;
    }
    let word = request.arg(frame, 1)?.to_ascii_uppercase();
    let on = request
        .arg(frame, 2)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"ON"));
    match word.as_slice() {
        b"TRACKING" if on => {
            Some("CLIENT TRACKING is not carried to a cluster: the keys are on several nodes")
        }
        b"NO-TOUCH" if on => {
            Some("CLIENT NO-TOUCH is not carried to a cluster: the keys are on several nodes")
        }
        _ => None,
    }
}
