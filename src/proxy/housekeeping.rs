//! What a worker does every few milliseconds whatever happens: requests that waited too long get their
//! error, lanes that nobody uses end, and what was counted is told.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::Entry;
use super::lane::Lane;
use super::worker::Worker;
use crate::clock;
use crate::metrics::{RedirectKind, RequestOutcome};
use crate::topology::Gate;

/// How often held requests are checked for their time limit and idle lanes for theirs.
const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// A lane nobody uses is kept for this long.
const LANE_IDLE: Duration = Duration::from_secs(30);
/// Memory for large frames that nobody needed for this long is freed.
const SPARES_IDLE: Duration = Duration::from_secs(1);

pub(super) async fn housekeeping(worker: Rc<RefCell<Worker>>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut released = clock::now();
    loop {
        interval.tick().await;
        let mut worker = worker.borrow_mut();
        worker.keep_house();
        if worker.now.since(released) >= SPARES_IDLE {
            worker.spares.release_unused();
            released = worker.now;
        }
    }
}

impl Worker {
    fn keep_house(&mut self) {
        self.now = clock::now();
        let mut expired = Vec::new();
        for (index, lane) in &self.lanes {
            if self.is_due(lane) {
                expired.push(index);
            }
        }
        for lane in expired {
            self.expire(lane);
        }
        self.end_idle_lanes();
        self.release_detained();
        self.wake_writers(None);
        for backend in 0..self.backends.len() {
            self.feed_starved(backend);
        }
        self.count();
        self.gathering.look(self.now);
        self.settle();
    }

    /// Whether the lane has waited long enough for what it waits for.
    fn is_due(&self, lane: &Lane) -> bool {
        let backend = &self.backends[lane.backend];
        let epoch = lane.upstream.as_ref().map(|upstream| upstream.epoch);
        // Left at the earlier home of a cluster (`leave_behind`).
        let behind = epoch.is_some_and(|epoch| epoch < backend.topology.epoch);
        let stuck = behind || epoch.is_none() || backend.topology.gate == Gate::Closed;
        let late = |entry: &Entry| {
            self.now.since(entry.since) >= backend.plan.settings.hold_timeout
                && !(entry.waits_by_nature() && lane.sent > 0)
        };
        behind && !lane.awaits_reply() || stuck && lane.first_to_expire().is_some_and(late)
    }

    fn end_idle_lanes(&mut self) {
        let mut ended = Vec::new();
        for (index, lane) in &mut self.lanes {
            let unused = if lane.pinned {
                lane.owner.is_none()
            } else {
                lane.users == 0
            };
            if unused && lane.queue.is_empty() && self.now.since(lane.idle_since) > LANE_IDLE {
                lane.close = true;
                ended.push(index);
            }
        }
        for lane in ended {
            self.forget_lane(lane);
            self.lanes[lane].wake_task();
        }
    }

    /// Nobody finds the lane any more.
    pub(super) fn forget_lane(&mut self, lane: usize) {
        let Lane {
            backend,
            key,
            pinned,
            ..
        } = &self.lanes[lane];
        let state = &mut self.backends[*backend];
        if *pinned {
            if let Some(idle) = state.idle_pinned.get_mut(key) {
                idle.retain(|other| *other != lane);
            }
        } else if state.shared_lanes.get(key) == Some(&lane) {
            state.shared_lanes.remove(key);
        }
    }

    fn count(&mut self) {
        for backend in 0..self.backends.len() {
            let held: u64 = self
                .lanes
                .iter()
                .filter(|(_, l)| l.backend == backend)
                .filter(|(_, l)| {
                    l.upstream.is_none() || self.backends[backend].topology.gate == Gate::Closed
                })
                .map(|(_, l)| l.requests())
                .sum();
            let state = &mut self.backends[backend];
            let turn = std::mem::take(&mut state.turn);
            let metrics = &state.metrics;
            metrics.held.increment(held as f64 - state.held as f64);
            state.held = held;
            metrics.held_total.increment(turn.held);
            metrics.replayed.increment(turn.replayed);
            metrics.requests(RequestOutcome::Replied, turn.replied);
            metrics.requests(RequestOutcome::Local, turn.local);
            metrics.requests(RequestOutcome::Refused, turn.refused);
            metrics.requests(RequestOutcome::Unknown, turn.unknown);
            metrics.requests(RequestOutcome::Abandoned, turn.abandoned);
            metrics.bytes_received.increment(turn.received);
            metrics.bytes_sent.increment(turn.sent);
            if let Some(cluster) = &state.cluster {
                for kind in RedirectKind::ALL {
                    let count = turn.redirected[*kind as usize];
                    cluster.metrics.redirected(*kind, count);
                }
            }
            let counts = &state.shared.counts;
            counts.held.fetch_add(turn.held, Ordering::Relaxed);
            counts.replayed.fetch_add(turn.replayed, Ordering::Relaxed);
            counts.refused.fetch_add(turn.refused, Ordering::Relaxed);
            counts.unknown.fetch_add(turn.unknown, Ordering::Relaxed);
        }
    }

    /// Lanes with something to write look whether they may.
    pub(super) fn wake_writers(&mut self, backend: Option<usize>) {
        let waiting: Vec<usize> = self
            .lanes
            .iter()
            .filter(|(_, lane)| {
                (lane.has_unwritten() || lane.aiming) && backend.is_none_or(|b| b == lane.backend)
            })
            .map(|(index, _)| index)
            .collect();
        for lane in waiting {
            self.ask_to_write(lane);
        }
        self.settle();
    }
}
