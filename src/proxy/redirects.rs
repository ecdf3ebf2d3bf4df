//! A node of a cluster says that a request belongs elsewhere: it did not run, and goes there, in its order.
//!
//! Requests of one session for one slot travel over the same lane, are all refused there, and follow each
//! other to the next one. Where the node has only lost its primary's place, the lane keeps them
//! (`Draining`), as it does with any "look again". Where a slot moves so fast that two of them would take different ways, the
//! later one is *detained* until all before it are answered.

use bytes::Bytes;

use super::entry::{Entry, Kind, SessionRef};
use super::parts::Sort;
use super::replies::{LaneEnd, look_again_in};
use super::worker::Worker;
use crate::metrics::RedirectKind;
use crate::resp::ReplyScanner;
use crate::topology::{Evidence, EvidenceKind, NodeId};

/// A request is sent elsewhere so often before it waits for the cluster to settle.
const MAX_REDIRECTS: u8 = 6;

/// What stands before a request for a slot that is on its way to a node.
pub(super) const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Where a node says that a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// For good.
    Moved(String),
    /// This time, with ASKING before it.
    Ask(String),
    /// Here, in a moment.
    TryAgain,
}

impl Redirect {
    pub(super) fn read(frame: &[u8]) -> Option<Redirect> {
        let text = std::str::from_utf8(frame.strip_prefix(b"-")?).ok()?;
        let mut words = text.split_ascii_whitespace();
        match words.next()? {
            "MOVED" => Some(Redirect::Moved(words.nth(1)?.to_owned())),
            "ASK" => Some(Redirect::Ask(words.nth(1)?.to_owned())),
            "TRYAGAIN" => Some(Redirect::TryAgain),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> RedirectKind {
        match self {
            Redirect::Moved(_) => RedirectKind::Moved,
            Redirect::Ask(_) => RedirectKind::Ask,
            Redirect::TryAgain => RedirectKind::TryAgain,
        }
    }
}

impl Worker {
    /// A reply to the first entry of the lane, which is a part.
    pub(super) fn on_part_reply(
        &mut self,
        lane: usize,
        frame: &[u8],
        owned: Option<&Bytes>,
    ) -> Result<(), LaneEnd> {
        let state = &mut self.lanes[lane];
        let draining = state
            .upstream
            .as_ref()
            .is_some_and(|u| u.draining.is_some());
        let Some(head) = state.queue.front_mut() else {
            return Err(LaneEnd::Garbage);
        };
        head.replies -= 1;
        if head.skip > 0 {
            head.skip -= 1;
            if let (b'-', Some(of), place) = (frame[0], head.session, head.place()) {
                self.forget_behind(of, place);
            }
            return Ok(());
        }
        let Kind::Part(part) = &mut head.kind else {
            return Err(LaneEnd::Garbage);
        };
        let mut unit = None;
        if let Sort::Unit(_, came) = &mut part.sort {
            came.extend_from_slice(frame);
            if head.replies > 0 {
                return Ok(());
            }
            unit = Some(came.split().freeze());
        }
        let refusal = match &unit {
            None => Some(Bytes::copy_from_slice(frame)).filter(|_| frame[0] == b'-'),
            Some(all) => refusal_of_unit(all),
        };
        let refusal = refusal.filter(|error| look_again_in(error, true).is_some());
        if let Some(error) = refusal {
            if draining {
                return self.keep_part(lane);
            }
            let redirect = Redirect::read(&error).filter(|to| self.leads_elsewhere(lane, to));
            if let Some(to) = redirect {
                if let Some((entry, bytes)) = self.lanes[lane].pop_with_bytes(&mut self.spares) {
                    let backend = self.lanes[lane].backend;
                    self.backends[backend].bytes -= entry.len;
                    self.redirect(lane, entry, bytes, &to);
                }
                return Ok(());
            }
            if self.means_look_again(lane, &error) {
                return self.keep_part(lane);
            }
        }
        if frame[0] != b'-' {
            self.lanes[lane].signal_since = None;
        }
        let Some(entry) = self.pop_entry(lane) else {
            return Err(LaneEnd::Garbage);
        };
        if let (Some(of), Kind::Part(part)) = (entry.session, entry.kind) {
            let owned = unit.as_ref().or(owned);
            match part.sort {
                Sort::Scan(..) => {
                    let reply = self.scanned(lane, of, &part.sort, Bytes::copy_from_slice(frame));
                    self.finish_part(of, &part, &reply, Some(&reply));
                }
                _ => self.finish_part(of, &part, frame, owned),
            }
        }
        match draining && !self.lanes[lane].awaits_reply() {
            true => Err(LaneEnd::Signal),
            false => Ok(()),
        }
    }

    /// The connection is being given up: a part that was refused is kept for the next one.
    fn keep_part(&mut self, lane: usize) -> Result<(), LaneEnd> {
        let state = &mut self.lanes[lane];
        let Some((mut entry, bytes)) = state.pop_with_bytes(&mut self.spares) else {
            return Err(LaneEnd::Garbage);
        };
        self.backends[state.backend].bytes -= entry.len;
        entry.reset_part();
        if let Some(draining) = state.upstream.as_mut().and_then(|u| u.draining.as_mut()) {
            draining.kept.push((entry, bytes));
        }
        match state.awaits_reply() {
            true => Ok(()),
            false => Err(LaneEnd::Signal),
        }
    }

    /// Whether a redirection is to another shard than the lane's, or to be waited for.
    fn leads_elsewhere(&self, lane: usize, to: &Redirect) -> bool {
        match to {
            Redirect::TryAgain | Redirect::Ask(_) => true,
            Redirect::Moved(_) => {
                let at = self.lanes[lane].backend;
                let home = self.backends[at].shard_of.unwrap_or(at);
                let shard = self.shard_at(home, lane, to);
                shard.is_some_and(|(_, backend)| backend != at)
            }
        }
    }

    /// The shard to which a pinned lane has to move, by what its node says, and whether it has to ask there.
    pub(super) fn lane_belongs(&self, lane: usize, frame: &[u8]) -> Option<(usize, bool)> {
        let state = &self.lanes[lane];
        let to = Redirect::read(frame).filter(|_| state.pinned)?;
        let home = self.backends[state.backend]
            .shard_of
            .unwrap_or(state.backend);
        let (_, backend) = self.shard_at(home, lane, &to)?;
        (backend != state.backend).then_some((backend, matches!(to, Redirect::Ask(_))))
    }

    /// A node said that a request belongs elsewhere. It did not run.
    pub(super) fn redirect(
        &mut self,
        from: usize,
        mut entry: Entry,
        bytes: Vec<Bytes>,
        to: &Redirect,
    ) {
        let backend = &self.backends[self.lanes[from].backend];
        if let Some(primary) = &backend.topology.primary {
            let (node, kind) = (primary.node.clone(), EvidenceKind::Moved);
            backend.plan.evidence.send(Evidence { node, kind });
        }
        let (Some(of), Kind::Part(part)) = (entry.session, &mut entry.kind) else {
            return;
        };
        let Some(session) = self
            .sessions
            .get(of.index)
            .filter(|s| s.serial == of.serial)
        else {
            return;
        };
        let home = session.backend;
        self.backends[home].turn.redirected[to.kind() as usize] += 1;
        part.redirects = part.redirects.saturating_add(1);
        let place = part.place;
        // The map does not say yet that the key is there, and may never say so.
        self.forget_behind(of, place);
        let Kind::Part(part) = &mut entry.kind else {
            return;
        };
        let settled = part.redirects <= MAX_REDIRECTS;
        let target = self.shard_at(home, from, to).filter(|_| settled);
        let Some((number, shard)) = target else {
            return self.detain(entry, bytes);
        };
        let (slot, place) = (part.slot, part.place);
        let lane = self.lane_at(of.index, number, shard);
        let follows = self.sessions[of.index]
            .cluster
            .as_mut()
            .is_some_and(|cluster| cluster.may_follow(slot, place, lane));
        if !follows {
            return self.detain(entry, bytes);
        }
        let frame = ready(&mut entry, bytes, matches!(to, Redirect::Ask(_)));
        self.push_entry(lane, entry, &frame);
    }

    /// The shard whose primary is at the address that a redirection names. ASK may name a node that has handed
    /// over since, some servers for ever: the slot is on its way to that node's shard all the same.
    pub(super) fn shard_at(
        &self,
        cluster: usize,
        from: usize,
        to: &Redirect,
    ) -> Option<(u16, usize)> {
        let (Redirect::Moved(address) | Redirect::Ask(address)) = to else {
            return None;
        };
        let cluster = self.backends[cluster].cluster.as_ref()?;
        let node = match address.strip_prefix(':') {
            // The host of the node that says so.
            Some(port) => {
                let topology = &self.backends[self.lanes[from].backend].topology;
                let node = topology.primary.as_ref()?.node.as_str();
                NodeId::new(format!("{}:{port}", node.rsplit_once(':')?.0))
            }
            None => NodeId::new(bracketed(address)),
        };
        let follows = |shard: &usize| self.backends[*shard].topology.replicas.contains(&node);
        let number = match (cluster.map.primaries.get(&node), to) {
            (Some(number), _) => *number,
            (None, Redirect::Ask(_)) => cluster.shards.iter().position(follows)? as u16,
            (None, _) => return None,
        };
        Some((number, *cluster.shards.get(usize::from(number))?))
    }

    /// Keeps a request until the cluster has settled a little.
    pub(super) fn detain(&mut self, mut entry: Entry, bytes: Vec<Bytes>) {
        let frame = ready(&mut entry, bytes, false);
        if let Some(of) = entry.session
            && let Some(session) = self.session(of)
            && let Some(cluster) = &mut session.cluster
        {
            cluster.detained += 1;
            self.detained.push((entry, frame));
        }
    }

    /// Detained requests are sent again, or get their error.
    pub(super) fn release_detained(&mut self) {
        let mut sessions: Vec<_> = self
            .detained
            .iter()
            .filter_map(|(e, _)| e.session)
            .collect();
        sessions.dedup();
        for of in sessions {
            self.release_detained_of(of);
        }
    }

    /// Those of one session, up to the first that has to wait for an earlier one.
    pub(super) fn release_detained_of(&mut self, of: SessionRef) {
        let mine = |(entry, _): &mut (Entry, Bytes)| entry.session == Some(of);
        let mut mine: Vec<(Entry, Bytes)> = self.detained.extract_if(.., mine).collect();
        mine.sort_by_key(|(entry, _)| entry.place());
        let Some(session) = self.session(of) else {
            return;
        };
        let Some(cluster) = &mut session.cluster else {
            return;
        };
        let (backend, mut next) = (session.backend, cluster.order.first());
        let timeout = self.backends[backend].plan.settings.hold_timeout;
        let mut expired = Vec::new();
        for (mut entry, frame) in mine {
            let place = entry.place();
            let (slot, refused) = match &mut entry.kind {
                Kind::Part(part) => (part.slot, std::mem::take(&mut part.redirects) > 0),
                _ => (None, true),
            };
            // Who was refused for the sake of no slot is not sent anywhere else.
            let late = self.now.since(entry.since) >= timeout || slot.is_none() && refused;
            if !late && place > next {
                self.detained.push((entry, frame));
                continue;
            }
            next = next.max(place + 1);
            let lane = self.slot_lane(of.index, slot);
            if let Some(cluster) = &mut self.sessions[of.index].cluster {
                cluster.detained -= 1;
                cluster.went(slot, place, lane);
            }
            match late {
                true => expired.push(entry),
                false => self.push_entry(lane, entry, &frame),
            }
        }
        for entry in expired {
            let what = match &entry.kind {
                Kind::Part(part) => part.slot.map(|slot| format!("hash slot {slot}")),
                _ => None,
            };
            let what = what.as_deref().unwrap_or("it");
            let error = entry.too_late(&format!("no shard took {what} for {timeout:?}"));
            self.backends[backend].turn.failed(&error);
            let error = entry.refused(error);
            self.finish_entry(entry, error);
        }
    }
}

/// Why a MULTI ... EXEC did not run: the first error of those that mean something to us. `None`: it ran, or
/// its errors are the client's.
fn refusal_of_unit(all: &Bytes) -> Option<Bytes> {
    let mut scanner = ReplyScanner::default();
    let (mut at, mut refusal, mut ran) = (0, None, true);
    while let Ok(Some(len)) = scanner.scan(&all[at..]) {
        let frame = all.slice(at..at + len);
        ran = frame[0] != b'-';
        if refusal.is_none() && look_again_in(&frame, true).is_some() {
            refusal = Some(frame);
        }
        at += len;
    }
    refusal.filter(|_| !ran)
}

/// An entry as it was at first, with ASKING before it or without.
pub(super) fn ready(entry: &mut Entry, bytes: Vec<Bytes>, asking: bool) -> Bytes {
    let mut frame: Bytes = match bytes.len() {
        1 => bytes.into_iter().next().unwrap_or_default(),
        _ => bytes.concat().into(),
    };
    if let Kind::Part(part) = &mut entry.kind {
        if std::mem::replace(&mut part.asking, asking) {
            frame = frame.slice(ASKING.len()..);
        }
        if asking {
            // Both are about the next command only.
            frame = frame.slice(std::mem::take(&mut part.caching).len()..);
            frame = [ASKING, &frame].concat().into();
        }
        entry.reset_part();
    }
    entry.len = frame.len();
    frame
}

/// IPv6 addresses as [`NodeId`] has them.
fn bracketed(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => {
            format!("[{host}]:{port}")
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read() {
        let read = |text: &str| Redirect::read(text.as_bytes());
        assert_eq!(
            read("-MOVED 3999 127.0.0.1:6381\r\n"),
            Some(Redirect::Moved("127.0.0.1:6381".into()))
        );
        assert_eq!(
            read("-ASK 3999 :6381\r\n"),
            Some(Redirect::Ask(":6381".into()))
        );
        assert_eq!(
            read("-TRYAGAIN Multiple keys\r\n"),
            Some(Redirect::TryAgain)
        );
        assert_eq!(read("-MOVED 3999\r\n"), None);
        assert_eq!(read("-ERR MOVED 1 a:1\r\n"), None);
        assert_eq!(bracketed("::1:7000"), "[::1]:7000");
        assert_eq!(bracketed("a:7000"), "a:7000");
    }
}
