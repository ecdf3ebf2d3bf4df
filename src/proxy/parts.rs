//! Requests to a cluster: each has a place in its session's order of replies, so that requests to different
//! shards may be answered in any order, and one request may be asked of several shards in parts.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::entry::{Entry, SessionRef};
use super::scans::Iteration;
use super::session::Session;
use super::worker::Worker;
use crate::resp::command::Join;
use crate::resp::reply::{elements, payload};
use crate::resp::{put_array, put_integer, put_null};

/// A request, or the part of it that one shard is asked.
pub(super) struct Part {
    /// Its place in the session's order, see [`Order`].
    pub(super) place: u64,
    /// Which of several parts it is.
    pub(super) piece: u16,
    /// The hash slot of its keys; `None`: it has none.
    pub(super) slot: Option<u16>,
    /// How often it was sent elsewhere.
    pub(super) redirects: u8,
    /// ASKING stands before it.
    pub(super) asking: bool,
    /// The CLIENT CACHING that stands before it, or nothing.
    pub(super) caching: &'static [u8],
    pub(super) sort: Sort,
}

/// What a part is beyond a request with one reply.
pub(super) enum Sort {
    Plain,
    /// MULTI ... EXEC with so many replies; those that came.
    Unit(u32, BytesMut),
    /// SCAN and its kin; of SCAN itself, the shard that is iterated.
    Scan(Iteration, Option<u16>),
}

impl Part {
    /// Replies to what stands before it, which nobody sees.
    pub(super) fn eaten(&self) -> u32 {
        u32::from(self.asking) + u32::from(!self.caching.is_empty())
    }

    /// Replies of the node, those included.
    pub(super) fn replies(&self) -> u32 {
        let own = match self.sort {
            Sort::Unit(replies, _) => replies,
            _ => 1,
        };
        own + self.eaten()
    }
}

/// The places of a session's requests, in the order in which they came.
#[derive(Default)]
pub(super) struct Order {
    places: VecDeque<Place>,
    /// Number of the first place.
    first: u64,
}

struct Place {
    state: State,
    /// Nobody sees the reply.
    mute: bool,
}

enum State {
    Awaited,
    Joining(Box<Joining>),
    Done(Bytes),
}

/// One reply that is made of several.
pub(super) struct Joining {
    pub(super) join: Join,
    pub(super) pieces: Vec<Bytes>,
    /// Replies that have not come.
    pub(super) missing: usize,
    /// [`Join::Gather`]: for each key the part that it is in.
    pub(super) order: Vec<u16>,
    pub(super) resp3: bool,
}

impl Order {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The place that is answered next.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The place of the next request that begins.
    pub(super) fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Whether a reply, or a part of one, has come and waits for its turn; what messages that wait for theirs
    /// take in memory.
    pub(super) fn waiting(&self) -> (bool, usize) {
        let (mut holds, mut messages) = (false, 0);
        for place in &self.places {
            match &place.state {
                State::Awaited => {}
                State::Joining(joining) => holds |= joining.missing < joining.pieces.len(),
                State::Done(reply) if reply.starts_with(b">") => {
                    messages += reply.len() + size_of::<Place>();
                }
                State::Done(_) => holds = true,
            }
        }
        (holds, messages)
    }

    /// Drops the messages that wait for their turn.
    pub(super) fn drop_messages(&mut self) {
        for place in &mut self.places {
            if matches!(&place.state, State::Done(reply) if reply.starts_with(b">")) {
                place.state = State::Done(Bytes::new());
                place.mute = true;
            }
        }
    }

    /// The place of a request that begins.
    pub(super) fn take(&mut self, mute: bool) -> u64 {
        self.add(State::Awaited, mute)
    }

    /// The same for a request in parts.
    pub(super) fn join(&mut self, joining: Joining, mute: bool) -> u64 {
        self.add(State::Joining(Box::new(joining)), mute)
    }

    /// A reply of our own, or a message.
    pub(super) fn answer(&mut self, reply: &[u8]) {
        self.add(State::Done(Bytes::copy_from_slice(reply)), false);
    }

    fn add(&mut self, state: State, mute: bool) -> u64 {
        self.places.push_back(Place { state, mute });
        self.first + self.places.len() as u64 - 1
    }

    /// The reply to a part came.
    fn put(&mut self, place: u64, piece: u16, reply: Bytes) {
        let at = place.wrapping_sub(self.first) as usize;
        let Some(place) = self.places.get_mut(at) else {
            return;
        };
        match &mut place.state {
            State::Joining(joining) => {
                let space = joining.pieces.get_mut(usize::from(piece));
                if let Some(space) = space.filter(|space| space.is_empty()) {
                    *space = reply;
                    joining.missing -= 1;
                }
                if joining.missing == 0 {
                    place.state = State::Done(joining.joined());
                }
            }
            state => *state = State::Done(reply),
        }
    }

    /// Takes the first place, if it is this one and awaits just one reply that is seen.
    fn is_next(&mut self, place: u64) -> bool {
        let next = place == self.first
            && self
                .places
                .front()
                .is_some_and(|p| matches!(p.state, State::Awaited) && !p.mute);
        if next {
            self.places.pop_front();
            self.first += 1;
        }
        next
    }

    /// The next reply whose turn has come; `None` in it: nobody sees it.
    fn next(&mut self) -> Option<Option<Bytes>> {
        if !matches!(self.places.front()?.state, State::Done(_)) {
            return None;
        }
        let place = self.places.pop_front()?;
        self.first += 1;
        match place.state {
            State::Done(reply) if !place.mute => Some(Some(reply)),
            _ => Some(None),
        }
    }
}

impl Joining {
    fn joined(&mut self) -> Bytes {
        let pieces = std::mem::take(&mut self.pieces);
        if self.join == Join::Done {
            return Bytes::from_static(b"+OK\r\n");
        }
        if let Some(error) = pieces.iter().find(|piece| piece.starts_with(b"-")) {
            return error.clone();
        }
        let number = |frame: &[u8]| payload(frame).and_then(crate::resp::integer).unwrap_or(0);
        let mut out = BytesMut::new();
        match self.join {
            Join::First | Join::Done => return pieces.into_iter().next().unwrap_or_default(),
            Join::Sum => put_integer(&mut out, pieces.iter().map(|piece| number(piece)).sum()),
            Join::NotNull => {
                let null = |piece: &Bytes| piece.starts_with(b"$-1") || piece.starts_with(b"_");
                match pieces.into_iter().find(|piece| !null(piece)) {
                    Some(found) => return found,
                    None => put_null(&mut out, self.resp3),
                }
            }
            Join::Concat => {
                let all: Vec<&[u8]> = pieces.iter().flat_map(|piece| elements(piece)).collect();
                put_array(&mut out, all.len());
                all.into_iter().for_each(|one| out.extend_from_slice(one));
            }
            Join::Least => {
                let mut least: Vec<i64> = Vec::new();
                for piece in &pieces {
                    for (at, element) in elements(piece).enumerate() {
                        match least.get_mut(at) {
                            Some(known) => *known = number(element).min(*known),
                            None => least.push(number(element)),
                        }
                    }
                }
                put_array(&mut out, least.len());
                least.into_iter().for_each(|n| put_integer(&mut out, n));
            }
            Join::Gather => {
                let mut parts: Vec<_> = pieces.iter().map(|piece| elements(piece)).collect();
                put_array(&mut out, self.order.len());
                for piece in &self.order {
                    match parts.get_mut(usize::from(*piece)).and_then(Iterator::next) {
                        Some(element) => out.extend_from_slice(element),
                        None => put_null(&mut out, self.resp3),
                    }
                }
            }
        }
        out.freeze()
    }
}

impl Worker {
    /// The reply to a part: it goes to the client when everything before it went.
    pub(super) fn finish_part(
        &mut self,
        of: SessionRef,
        part: &Part,
        frame: &[u8],
        owned: Option<&Bytes>,
    ) {
        let Some(session) = self
            .sessions
            .get_mut(of.index)
            .filter(|session| session.serial == of.serial)
        else {
            return;
        };
        let Some(cluster) = &mut session.cluster else {
            return;
        };
        let (mut count, mut bytes) = (0, 0);
        if cluster.order.is_next(part.place) {
            // Nothing is before it, so that it needs no copy of its own.
            (count, bytes) = (1, frame.len());
            match owned {
                Some(owned) => session.out.push_owned(owned.clone(), &mut self.spares),
                None => session.out.push(frame, &mut self.spares),
            }
        } else {
            let reply = owned.map_or_else(|| Bytes::copy_from_slice(frame), Bytes::clone);
            cluster.order.put(part.place, part.piece, reply);
        }
        while let Some(reply) = cluster.order.next() {
            count += 1;
            if let Some(reply) = reply {
                bytes += reply.len();
                session.out.push_owned(reply, &mut self.spares);
            }
        }
        if count == 0 {
            return;
        }
        session.inflight -= count;
        session.learn(count, bytes);
        self.backends[session.backend].turn.replied += u64::from(count);
        let (pinned, detained) = (session.pin.is_some(), cluster_detains(session));
        self.got_replies(of.index);
        if detained {
            self.release_detained_of(of);
        }
        if pinned {
            self.settle_pin(of);
        }
    }

    /// The same for an entry that is done with.
    pub(super) fn finish_entry(&mut self, entry: Entry, reply: Bytes) {
        if let (Some(of), super::entry::Kind::Part(part)) = (entry.session, entry.kind) {
            self.finish_part(of, &part, &reply, Some(&reply));
        }
    }
}

fn cluster_detains(session: &Session) -> bool {
    session.cluster.as_ref().is_some_and(|c| c.detained > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(join: Join, order: &[u16], pieces: &[&'static [u8]]) -> Bytes {
        let pieces: Vec<Bytes> = pieces.iter().map(|p| Bytes::from_static(p)).collect();
        let order = order.to_vec();
        let mut joining = Joining {
            join,
            missing: pieces.len(),
            pieces,
            order,
            resp3: false,
        };
        joining.joined()
    }

    #[test]
    fn replies_become_one() {
        assert_eq!(joined(Join::Sum, &[], &[b":2\r\n", b":40\r\n"]), ":42\r\n");
        assert_eq!(
            joined(Join::Sum, &[], &[b":2\r\n", b"-ERR x\r\n"]),
            "-ERR x\r\n"
        );
        assert_eq!(
            joined(
                Join::Gather,
                &[1, 0, 1],
                &[b"*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\nb\r\n$-1\r\n"]
            ),
            "*3\r\n$1\r\nb\r\n$1\r\na\r\n$-1\r\n"
        );
        assert_eq!(
            joined(Join::Concat, &[], &[b"*0\r\n", b"*1\r\n:1\r\n"]),
            "*1\r\n:1\r\n"
        );
        assert_eq!(
            joined(
                Join::Least,
                &[],
                &[b"*2\r\n:1\r\n:1\r\n", b"*2\r\n:0\r\n:1\r\n"]
            ),
            "*2\r\n:0\r\n:1\r\n"
        );
        assert_eq!(
            joined(Join::NotNull, &[], &[b"$-1\r\n", b"$1\r\na\r\n"]),
            "$1\r\na\r\n"
        );
        assert_eq!(joined(Join::NotNull, &[], &[b"$-1\r\n"]), "$-1\r\n");
    }

    #[test]
    fn what_has_come_and_waits_is_seen_and_messages_are_not_replies() {
        let mut order = Order::default();
        let (a, b) = (order.take(false), order.take(false));
        assert_eq!(order.waiting(), (false, 0));
        order.answer(b">message");
        assert!(!order.waiting().0 && order.waiting().1 > 8);
        order.put(b, 0, Bytes::from_static(b"b"));
        assert!(order.waiting().0);
        order.drop_messages();
        assert_eq!(order.waiting(), (true, 0));
        order.put(a, 0, Bytes::from_static(b"a"));
        let left: Vec<_> = std::iter::from_fn(|| order.next()).collect();
        let reply = |text: &'static [u8]| Some(Bytes::from_static(text));
        assert_eq!(left, [reply(b"a"), reply(b"b"), None]);
    }

    #[test]
    fn a_part_of_a_reply_waits_for_the_others() {
        let mut order = Order::default();
        let joining = Joining {
            join: Join::Done,
            missing: 2,
            pieces: vec![Bytes::new(); 2],
            order: Vec::new(),
            resp3: true,
        };
        let place = order.join(joining, false);
        assert!(!order.waiting().0);
        order.put(place, 1, Bytes::from_static(b"+PONG\r\n"));
        assert!(order.waiting().0);
        order.put(place, 0, Bytes::from_static(b"-ERR x\r\n"));
        assert_eq!(order.next(), Some(Some(Bytes::from_static(b"+OK\r\n"))));
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests() {
        let mut order = Order::default();
        let (a, b, c) = (order.take(false), order.take(true), order.take(false));
        order.put(c, 0, Bytes::from_static(b"c"));
        order.put(b, 0, Bytes::from_static(b"b"));
        assert_eq!(order.next(), None);
        order.put(a, 0, Bytes::from_static(b"a"));
        assert_eq!(order.next(), Some(Some(Bytes::from_static(b"a"))));
        assert_eq!(order.next(), Some(None), "nobody sees it");
        assert_eq!(order.next(), Some(Some(Bytes::from_static(b"c"))));
        assert_eq!((order.next(), order.len()), (None, 0));
    }
}
