//! A backend that is a cluster. Each of its shards is a backend of its own to the worker, with a topology, lanes
//! and everything else as any; *home* is the cluster's own index, a connection to some primary for what is
//! about no key.
//!
//! A session's requests with keys travel over the shared lanes of their shards and are answered in the
//! session's order (`parts.rs`; `dispatch`, `spread` and `scan` say where to). What needs a connection of its own gets it at one shard;
//! who tracks, one at each (`tracking`). Where the map of the
//! slots changes, a session lets be answered what is on its way before it sends on: what came later never
//! overtakes what was sent elsewhere.

mod dispatch;
mod home;
mod scan;
mod spread;
mod tracking;

pub(super) use tracking::restored;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::BackendPlan;
use super::entry::{Entry, Kind};
use super::parts::Order;
use super::session::Park;
use super::worker::{Backend, Worker, follow_gaps, follow_topology};
use crate::clock;
use crate::metrics::ClusterMetrics;
use crate::topology::{ClusterMap, TopologyReader};
use tracking::{Tracker, has_moved};

/// The cluster as a worker sees it.
pub(super) struct ClusterBackend {
    pub(super) map: Arc<ClusterMap>,
    pub(super) metrics: ClusterMetrics,
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
    /// CLIENT TRACKING, while it is on.
    pub(super) tracker: Option<Box<Tracker>>,
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
        let mut moved = false;
        if let Some(cluster) = &mut self.backends[backend].cluster {
            cluster.shards.extend(&new);
            moved = has_moved(&cluster.map, &map);
            cluster.map = map;
        }
        self.reroute(backend);
        self.tell_trackers(backend, moved);
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
            None => self
                .tracking_lane(index)
                .unwrap_or(self.sessions[index].lane),
        }
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

    /// A pinned lane goes on at another shard.
    pub(super) fn move_lane(&mut self, lane: usize, to: usize) {
        // Others wait for it where it was.
        self.close_gap(lane);
        let state = &mut self.lanes[lane];
        let (from, bytes) = (std::mem::replace(&mut state.backend, to), state.log.len());
        state.retire = state.upstream.is_some();
        state.wake_task();
        self.backends[from].bytes -= bytes;
        self.backends[to].bytes += bytes;
    }
}
