//! Home moves to another primary: the old one did not answer for a while, or is no primary any more. It may
//! answer yet, and what is about no key it answers as well as any. So what was sent there and may not be sent
//! twice waits for its reply, or for the end of the connection; all the rest goes to the new home.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::entry::{Entry, Kind, may_replay};
use super::super::hook::Hook;
use super::super::redirects::ready;
use super::super::worker::Worker;

impl Worker {
    /// Leaves at the lane's node what only that node can answer; false: it keeps nothing of the kind.
    pub(in crate::proxy) fn leave_behind(&mut self, lane: usize) -> bool {
        let state = &self.lanes[lane];
        let backend = state.backend;
        let retry = self.backends[backend].plan.settings.retry;
        // What a session's state depends on is asked again as ever: the rest of it is on pinned lanes.
        let again = |entry: &Entry| match entry.kind {
            Kind::Hook(_) | Kind::Local(_) => true,
            _ => may_replay(entry.replay, retry),
        };
        let ends = state
            .upstream
            .as_ref()
            .is_none_or(|u| u.draining.is_some() || u.end.is_some());
        let mut sent = state.queue.iter().take(state.sent);
        if state.pinned || state.retire || ends || !sent.any(|entry| !again(entry)) {
            return false;
        }
        let next = self.replace_lane(lane);
        let mut awaited = self.lanes[lane].sent;
        let mut left = Vec::new();
        // Of each session the last place that stays.
        let mut stays: HashMap<usize, u64> = HashMap::new();
        while let Some((mut entry, bytes)) = self.lanes[lane].pop_with_bytes(&mut self.spares) {
            self.backends[backend].bytes -= entry.len;
            let was_sent = awaited > 0;
            awaited = awaited.saturating_sub(1);
            let of = entry.session.filter(|of| self.session(*of).is_some());
            match of {
                Some(of) if was_sent && !again(&entry) => {
                    if let Kind::Part(part) = &entry.kind {
                        stays.insert(of.index, part.place);
                    }
                    left.push((entry, bytes));
                    continue;
                }
                // Its reply comes all the same.
                _ if was_sent => {
                    let eats = Entry::internal(0, entry.replies, entry.since);
                    left.push((eats, Vec::new()));
                }
                _ => {}
            }
            let Some(of) = of else { continue };
            if was_sent {
                entry.resent = true;
                entry.reset_part();
                self.backends[backend].turn.replayed += 1;
            }
            match stays.contains_key(&of.index) && matches!(entry.kind, Kind::Part(_)) {
                true => self.detain(entry, bytes),
                false => self.go_on((lane, next), entry, bytes),
            }
        }
        let state = &mut self.lanes[lane];
        state.prepend(left, &mut self.spares);
        state.wrote(state.log.len());
        self.backends[backend].bytes += state.log.len();
        for (index, place) in stays {
            if let Some(cluster) = &mut self.sessions[index].cluster {
                cluster.went(None, place, lane);
            }
        }
        self.settle_head(next);
        true
    }

    /// Another lane takes the place of a shared one.
    fn replace_lane(&mut self, lane: usize) -> usize {
        self.forget_lane(lane);
        let (backend, key) = (self.lanes[lane].backend, self.lanes[lane].key.clone());
        let next = self.shared_lane(backend, &key);
        let mut users = 0;
        for (_, session) in self.sessions.iter_mut().filter(|(_, s)| s.lane == lane) {
            session.lane = next;
            users += 1;
        }
        // One was counted for ourselves.
        self.lanes[next].users = self.lanes[next].users + users - 1;
        self.lanes[lane].users -= users;
        next
    }

    /// A request goes from one lane to the other, and so does the session that it leads to the first.
    fn go_on(&mut self, (from, to): (usize, usize), mut entry: Entry, bytes: Vec<Bytes>) {
        if let Kind::Hook(hook) = &mut entry.kind
            && let Hook::Transition(transition) = &mut **hook
            && transition.lane == from
        {
            transition.lane = to;
            self.lanes[to].users += 1;
            self.lanes[from].users -= 1;
        }
        let frame = ready(&mut entry, bytes, false);
        self.push_entry(to, entry, &frame);
    }
}
