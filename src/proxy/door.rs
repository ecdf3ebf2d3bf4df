//! Whether a client that says no AUTH is let in: Redis decides that when it connects, and lets it stay when
//! the default user is given a password afterwards. Clients that say no AUTH share a connection of ours, whose
//! own beginning may be long ago. So the node is asked again for each of them, with RESET on a connection kept
//! for that, which makes it as good as new; and those who came before and after a change share nothing.
//!
//! Where everybody has to say AUTH, nobody asks: the shared connection is refused like any other, and what the
//! node decides later holds for it at once.

use super::entry::{Entry, Kind, SessionRef};
use super::hook::Hook;
use super::lane::LaneKey;
use super::worker::Worker;
use crate::resp::Replay;
use crate::topology::Gate;

const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// The first version that has RESET.
const HAS_RESET: (u16, u16) = (6, 2);
/// The key of the connection on which the node is asked: nobody else is in this era.
const ASKING: u32 = u32::MAX;

/// What a backend's node was seen to do with those who say no AUTH.
#[derive(Default)]
pub(super) struct Door {
    open: Option<bool>,
    /// How often that changed: those who come now.
    pub(super) era: u32,
}

impl Door {
    pub(super) fn seen(&mut self, open: bool) {
        if self.open.replace(open).is_some_and(|was| was != open) {
            self.era = (self.era + 1) % ASKING;
        }
    }

    /// Whether those who came in this era, and said no AUTH, are strangers to the node.
    #[inline]
    pub(super) fn shut(&self, era: u32) -> bool {
        self.open == Some(false) && self.era == era
    }
}

impl Worker {
    /// A client came: its requests wait until the node has said whether it is let in. Where the shared
    /// connection is not there the client need not ask: it will be younger than the client.
    pub(super) fn knock(&mut self, index: usize) {
        let session = &self.sessions[index];
        let (backend, serial) = (session.backend, session.serial);
        let state = &self.backends[backend];
        if state.door.open != Some(true)
            || state.version.is_none_or(|version| version < HAS_RESET)
            || state.topology.gate == Gate::Closed
            || self.lanes[session.lane].upstream.is_none()
        {
            return;
        }
        let lane = self.shared_lane(backend, &LaneKey::initial(ASKING));
        self.push_internal(lane, RESET);
        let session = &mut self.sessions[index];
        (session.moving, session.knocking, session.inflight) = (true, true, 1);
        let kind = Kind::Hook(Box::new(Hook::Door));
        let of = SessionRef { index, serial };
        let mut entry = Entry::new(of, PING.len(), Replay::Read, self.now, kind);
        entry.mute = true;
        self.backends[backend].bytes += PING.len();
        self.lanes[lane].push(entry, PING, &mut self.spares);
        self.ask_to_write(lane);
        self.leave_lane(lane);
        self.settle();
    }

    pub(super) fn door_answered(&mut self, of: SessionRef, frame: &[u8]) {
        let Some(session) = self.session(of) else {
            return;
        };
        (session.moving, session.knocking) = (false, false);
        let (backend, present) = (session.backend, session.key.era);
        let door = &mut self.backends[backend].door;
        door.seen(!frame.starts_with(b"-NOAUTH"));
        if door.era != present {
            let key = LaneKey::initial(door.era);
            let lane = self.shared_lane(backend, &key);
            self.move_to(of.index, key, lane);
        }
        self.finish_request(of, &[], None, true);
    }
}
