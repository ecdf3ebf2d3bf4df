//! CLIENT TRACKING. The node knows a connection by its own id of it, and keeps the state of tracking
//! in it: both are put right whenever a connection is another one than before.
//!
//! With REDIRECT two connections are concerned, perhaps of two workers: the tracking one, and the one
//! that gets the invalidations, its *target*. The target stays on an upstream of its own as long as
//! somebody redirects to it. When one of the two upstreams is new, the tracking lane is *aimed* anew:
//! it lets everything be answered that was written, waits a moment for the target's upstream, says
//! CLIENT TRACKING again with the new id, and has the target told to forget everything.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::dispatch::Step;
use super::entry::{Entry, Kind, SessionRef};
use super::hook::Hook;
use super::registry::OwnUpstream;
use super::session::Park;
use super::worker::{Message, Worker};
use crate::resp::{
    Replay, encode_request, put_array, put_bulk, put_error, put_integer, put_null, put_push,
};

/// How long a tracking lane with a new upstream waits for the upstream of its target.
const TARGET_FIRST: Duration = Duration::from_millis(200);

const NO_SUCH_CLIENT: &str = "ERR The client ID you want redirect to does not exist";
/// Where invalidations go in RESP2.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// A CLIENT TRACKING, in the words of the client.
#[derive(Debug)]
pub(super) struct Tracking {
    /// Without REDIRECT and its id.
    args: Vec<Bytes>,
    /// Whom the client redirects to: pointsman's id.
    pub(super) target: Option<u64>,
    pub(super) off: bool,
    bcast: bool,
}

/// The tracking of a session, as its node has it or should have it.
#[derive(Default)]
pub(super) struct Tracked {
    /// What was said. Prefixes add up, so that there may be many; everything else is as in the last.
    said: Vec<Vec<Bytes>>,
    pub(super) target: Option<u64>,
    /// Whom it is about to redirect to: the node has not answered.
    pub(super) asked: Option<u64>,
    /// The node's id of the target, as it was said on the present upstream.
    aimed_at: Option<u64>,
    /// Nothing was said on the present upstream.
    fresh: bool,
    /// A CLIENT CACHING that was answered, while it is valid: for the next command.
    caching: Option<Caching>,
}

struct Caching {
    frame: Bytes,
    /// Its own reply was given out.
    used: bool,
}

impl Tracking {
    /// A CLIENT TRACKING of which the node alone judges; `None`: something else, or wrong.
    pub(super) fn of(args: &[&[u8]]) -> Option<Tracking> {
        let tracks = args.len() > 2 && args[1].eq_ignore_ascii_case(b"TRACKING");
        let tracking = tracks.then(|| Tracking::read(args))?.ok()?;
        tracking.target.is_none().then_some(tracking)
    }

    /// Reads `CLIENT TRACKING ON|OFF ...`; what it cannot explain is left to the node.
    fn read(args: &[&[u8]]) -> Result<Tracking, &'static str> {
        let mut tracking = Tracking {
            args: args[..3]
                .iter()
                .map(|a| Bytes::copy_from_slice(a))
                .collect(),
            target: None,
            off: args[2].eq_ignore_ascii_case(b"OFF"),
            bcast: false,
        };
        let mut rest = args[3..].iter();
        while let Some(word) = rest.next() {
            let mut keep = |arg: &[u8]| tracking.args.push(Bytes::copy_from_slice(arg));
            if word.eq_ignore_ascii_case(b"REDIRECT") {
                let id = rest.next().ok_or("ERR syntax error")?;
                if tracking.target.is_some() {
                    return Err("ERR A client can only redirect to a single other client");
                }
                let id = std::str::from_utf8(id)
                    .ok()
                    .and_then(|id| id.parse::<i64>().ok());
                let id = id.ok_or("ERR value is not an integer or out of range")?;
                tracking.target = Some(u64::try_from(id).map_err(|_| NO_SUCH_CLIENT)?);
                continue;
            }
            keep(word);
            if word.eq_ignore_ascii_case(b"PREFIX") {
                rest.next().into_iter().for_each(|prefix| keep(prefix));
            }
            tracking.bcast |= word.eq_ignore_ascii_case(b"BCAST");
        }
        Ok(tracking)
    }

    /// As the node must hear it: with its own id of the target.
    pub(super) fn frame(&self, node_id: Option<u64>) -> Bytes {
        frame(&self.args, node_id)
    }
}

fn frame(args: &[Bytes], node_id: Option<u64>) -> Bytes {
    let mut args: Vec<&[u8]> = args.iter().map(|a| &a[..]).collect();
    let id = node_id.map(|id| id.to_string());
    if let Some(id) = &id {
        args.extend([b"REDIRECT".as_slice(), id.as_bytes()]);
    }
    let mut frame = BytesMut::new();
    encode_request(&mut frame, &args);
    frame.freeze()
}

impl Tracked {
    pub(super) fn on(&self) -> bool {
        !self.said.is_empty()
    }

    /// As others see it: whom it redirects to, 0 for nobody; `None`: it is off.
    pub(super) fn shown(&self) -> Option<u64> {
        self.on().then_some(self.target.unwrap_or(0))
    }

    /// Whether it is on with BCAST.
    pub(super) fn broadcasts(&self) -> bool {
        self.says(b"BCAST")
    }

    /// Whether it is on with this word.
    pub(super) fn says(&self, word: &[u8]) -> bool {
        let said = self.said.iter().flatten();
        said.into_iter().any(|arg| arg.eq_ignore_ascii_case(word))
    }

    /// The node agreed.
    pub(super) fn answered(&mut self, tracking: Tracking) {
        if tracking.off {
            *self = Tracked::default();
            return;
        }
        if !tracking.bcast {
            self.said.clear();
        }
        self.said.retain(|said| *said != tracking.args);
        self.said.push(tracking.args);
        self.target = tracking.target;
    }

    /// CLIENT CACHING was answered with +OK.
    pub(super) fn caching(&mut self, frame: Bytes) {
        self.caching = Some(Caching { frame, used: false });
    }

    /// A request was answered outside of MULTI: a CLIENT CACHING before it is used up.
    pub(super) fn used(&mut self) {
        match &mut self.caching {
            Some(caching) if !caching.used => caching.used = true,
            caching => *caching = None,
        }
    }

    /// The upstream is gone; whether the next one must be aimed.
    pub(super) fn lost(&mut self) -> bool {
        self.aimed_at = None;
        self.fresh = true;
        self.target.is_some()
    }

    /// What sets it again on a new upstream.
    pub(super) fn restore(&self, node_id: Option<u64>) -> Vec<Bytes> {
        let said = self.said.iter().map(|args| frame(args, node_id));
        said.chain(self.caching.iter().map(|c| c.frame.clone()))
            .collect()
    }
}

/// Where a target is.
enum Aim {
    /// The node's id of it.
    At(u64),
    /// It is a client, and has no upstream to this process at present.
    NotYet,
    /// It left.
    Gone,
}

/// CLIENT TRACKING.
pub(super) fn tracking(worker: &mut Worker, index: usize, args: &[&[u8]]) -> Result<Step, Park> {
    let session = &worker.sessions[index];
    let tracking = match Tracking::read(args) {
        Ok(tracking) => tracking,
        Err(words) => return Ok(error(worker, index, words)),
    };
    if worker.sessions[index].cluster.is_some() {
        return worker.track(index, tracking);
    }
    if let Some(target) = tracking.target {
        // Its queue must be empty when the lane is aimed.
        if session.inflight > 0 {
            return Err(Park::Drained);
        }
        let me = session.client.clone();
        let backend = session.backend;
        let target = worker
            .shared
            .registry
            .get(target)
            .filter(|c| c.backend == backend);
        let Some(target) = target else {
            return Ok(error(worker, index, NO_SUCH_CLIENT));
        };
        let accepted = target.change(|state| {
            let own = target.id == me.id || !matches!(state.upstream, OwnUpstream::None);
            if own && !state.trackers.iter().any(|t| t.id == me.id) {
                state.trackers.push(me.clone());
                state.redirected = true;
            }
            own
        });
        if !accepted {
            worker.refuse(
                index,
                "the client to redirect to shares its connection with others; let it subscribe to \
                 __redis__:invalidate first",
            );
            return Ok(Step::Next);
        }
    }
    let lane = worker.pin(index)?;
    if let Some(pin) = &mut worker.sessions[index].pin {
        pin.tainted = true;
        pin.tracking.asked = tracking.target;
    }
    let frame = tracking.frame(tracking.target.map(|_| 0));
    worker.lanes[lane].aiming |= tracking.target.is_some();
    worker.push_hook(index, lane, Hook::Tracking(tracking), Replay::Read, &frame);
    Ok(Step::Next)
}

fn error(worker: &mut Worker, index: usize, words: &str) -> Step {
    let mut reply = BytesMut::new();
    put_error(&mut reply, words);
    worker.reply_local(index, &reply);
    Step::Next
}

impl Worker {
    /// CLIENT TRACKING was answered.
    pub(super) fn on_tracking(&mut self, of: SessionRef, tracking: Tracking, ok: bool) {
        let Some(session) = self.session(of) else {
            return;
        };
        let me = session.client.clone();
        let Some(pin) = &mut session.pin else { return };
        let (before, asked) = (pin.tracking.target, tracking.target);
        pin.tracking.asked = None;
        if ok {
            let aimed_at = pin.tracking.aimed_at;
            pin.tracking.answered(tracking);
            pin.tracking.aimed_at = asked.and(aimed_at);
        }
        let target = pin.tracking.target;
        session.show();
        for other in [before, asked].into_iter().flatten() {
            if Some(other) != target {
                self.no_longer_redirects(me.id, other);
            }
        }
    }

    /// `client` sends no invalidations to `target` any more.
    pub(super) fn no_longer_redirects(&self, client: u64, target: u64) {
        if let Some(target) = self.shared.registry.get(target) {
            target.update(|s| s.trackers.retain(|t| t.id != client));
        }
    }

    /// The id of the session's target, for replies in which the node names its own.
    pub(super) fn target_of(&self, index: usize) -> Option<u64> {
        self.sessions.get(index)?.pin.as_ref()?.tracking.target
    }

    /// A client's own upstream is there, is gone, or is no longer its own. Those that redirect to it
    /// hear of it when it is there, and when the client leaves.
    pub(super) fn own_upstream(&self, index: usize, upstream: OwnUpstream) -> bool {
        let up = matches!(upstream, OwnUpstream::Up { .. });
        let client = &self.sessions[index].client;
        let (trackers, redirected) = client.change(|s| {
            s.upstream = upstream;
            let trackers = if up { s.trackers.clone() } else { Vec::new() };
            (trackers, s.redirected)
        });
        for tracker in trackers {
            // A worker that is gone has no clients left.
            let _ = tracker.worker.send(Message::Aim(tracker.id));
        }
        redirected
    }

    /// [`Message::Aim`]: the target of this client has a new upstream.
    pub(super) fn aim_again(&mut self, id: u64) {
        let found = self.sessions.iter().find(|(_, s)| s.client.id == id);
        if let Some((_, session)) = found
            && let Some(pin) = &session.pin
            && let Some(target) = pin.tracking.target
        {
            let (lane, aimed_at) = (pin.lane, pin.tracking.aimed_at);
            let aim = self.aim(lane, target);
            self.lanes[lane].aiming |= !matches!(aim, Aim::At(id) if Some(id) == aimed_at);
            self.ask_to_write(lane);
            self.settle();
        }
    }

    /// [`Message::Forget`]: this client's invalidations were lost for a while.
    pub(super) fn forget_cache(&mut self, id: u64) {
        let found = self.sessions.iter().find(|(_, s)| s.client.id == id);
        let Some((index, session)) = found else {
            return;
        };
        let of = SessionRef {
            index,
            serial: session.serial,
        };
        let mut message = BytesMut::new();
        if session.key.resp3 {
            put_push(&mut message, 2, true);
            put_bulk(&mut message, b"invalidate");
            put_null(&mut message, true);
        } else if session.pin.as_ref().is_some_and(|pin| pin.subscribed()) {
            put_array(&mut message, 3);
            put_bulk(&mut message, b"message");
            put_bulk(&mut message, CHANNEL);
            put_null(&mut message, false);
        }
        self.deliver(of, &message);
        self.settle();
    }

    /// The node could not reach the target. Whether that is news for the client.
    pub(super) fn redirection_broken(&mut self, of: SessionRef) {
        let Some(target) = self.target_of(of.index) else {
            return;
        };
        // A target that is only between two upstreams is aimed at again when it has one.
        if self.shared.registry.get(target).is_none() {
            let mut message = BytesMut::new();
            put_push(&mut message, 2, true);
            put_bulk(&mut message, b"tracking-redir-broken");
            put_integer(&mut message, target as i64);
            self.deliver(of, &message);
        }
    }

    fn aim(&self, lane: usize, target: u64) -> Aim {
        let Some(client) = self.shared.registry.get(target) else {
            return Aim::Gone;
        };
        let upstream = self.lanes[lane].upstream.as_ref();
        client.change(|s| match (&s.upstream, upstream) {
            (OwnUpstream::Up { run_id, id }, Some(mine)) if *run_id == mine.run_id => Aim::At(*id),
            _ => Aim::NotYet,
        })
    }

    /// Puts CLIENT TRACKING with REDIRECT before what is not written yet, and the node's id of the
    /// target into it. Whether the lane may write.
    pub(super) fn take_aim(&mut self, lane: usize) -> bool {
        let state = &self.lanes[lane];
        if !state.aiming {
            return true;
        }
        let (Some(of), Some(upstream)) = (state.owner, &state.upstream) else {
            return true;
        };
        if state.written > 0 {
            return false;
        }
        let patient = self.now.since(upstream.since) < TARGET_FIRST;
        let asked = state.queue.iter().find_map(|e| match &e.kind {
            Kind::Hook(hook) => match &**hook {
                Hook::Tracking(tracking) => tracking.target,
                _ => None,
            },
            _ => None,
        });
        let standing = self.target_of(of.index);
        let aims = [standing, asked].map(|target| target.map(|target| self.aim(lane, target)));
        if patient && aims.iter().any(|aim| matches!(aim, Some(Aim::NotYet))) {
            return false;
        }
        let id = |aim: &Option<Aim>| match aim {
            Some(Aim::At(id)) => Some(*id),
            _ => None,
        };
        let (standing_id, asked_id) = (id(&aims[0]), id(&aims[1]));
        let mut entries = Vec::new();
        let now = self.now;
        let Some(pin) = self.session(of).and_then(|s| s.pin.as_mut()) else {
            return true;
        };
        if pin.tx.is_some() && !pin.tracking.fresh {
            // It would be queued; EXEC is followed by another look.
            return true;
        }
        pin.tracking.fresh = false;
        pin.tracking.aimed_at = asked_id.or(standing_id);
        if standing_id.is_some() {
            for frame in pin.tracking.restore(standing_id) {
                entries.push((Entry::internal(frame.len(), 1, now), vec![frame]));
            }
        }
        let restored = entries.len();
        let spares = &mut self.spares;
        let state = &mut self.lanes[lane];
        state.aiming = false;
        let before = state.log.len();
        while let Some((mut entry, mut bytes)) = state.pop_with_bytes(spares) {
            if let Kind::Hook(hook) = &entry.kind
                && let Hook::Tracking(tracking) = &**hook
                && tracking.target.is_some()
            {
                // The node knows no client 0, and has the words for it.
                bytes = vec![tracking.frame(Some(asked_id.unwrap_or(0)))];
                entry.len = bytes[0].len();
            }
            entries.push((entry, bytes));
        }
        state.prepend(entries, spares);
        let backend = &mut self.backends[state.backend];
        backend.bytes = backend.bytes + state.log.len() - before;
        if let Some(target) = standing {
            if restored > 0 {
                self.tell_to_forget(target);
            } else if matches!(aims[0], Some(Aim::Gone)) && self.sessions[of.index].key.resp3 {
                self.redirection_broken(of);
            }
        }
        true
    }

    fn tell_to_forget(&self, target: u64) {
        if let Some(target) = self.shared.registry.get(target) {
            // A worker that is gone has no clients left.
            let _ = target.worker.send(Message::Forget(target.id));
        }
    }
}

/// The node's reply to GETREDIR or TRACKINGINFO with pointsman's id of the target.
pub(super) fn with_target(frame: &[u8], target: u64) -> Bytes {
    const KEY: &[u8] = b"$8\r\nredirect\r\n";
    let at = match frame[0] {
        b':' => 0,
        _ => match memchr::memmem::find(frame, KEY) {
            Some(at) => at + KEY.len(),
            None => return Bytes::copy_from_slice(frame),
        },
    };
    let end = memchr::memchr(b'\n', &frame[at..]).map_or(frame.len(), |n| at + n + 1);
    let mut reply = BytesMut::with_capacity(frame.len() + 20);
    reply.extend_from_slice(&frame[..at]);
    put_integer(&mut reply, target as i64);
    reply.extend_from_slice(&frame[end..]);
    reply.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Tracking, &'static str> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        Tracking::read(&args)
    }

    #[test]
    fn the_redirection_is_taken_out_and_put_back_with_another_id() {
        let tracking = read("CLIENT TRACKING ON BCAST REDIRECT 7 PREFIX redirect NOLOOP").unwrap();
        assert_eq!(
            (tracking.target, tracking.bcast, tracking.off),
            (Some(7), true, false)
        );
        let wire = tracking.frame(Some(42));
        let mut expected = BytesMut::new();
        let words = "CLIENT TRACKING ON BCAST PREFIX redirect NOLOOP REDIRECT 42";
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        encode_request(&mut expected, &words);
        assert_eq!(wire, expected);
    }

    #[test]
    fn what_is_wrong_with_a_redirection_is_said_in_the_words_of_redis() {
        for line in [
            "REDIRECT",
            "REDIRECT x",
            "REDIRECT 1 REDIRECT 2",
            "REDIRECT -1",
        ] {
            assert!(
                read(&format!("CLIENT TRACKING ON {line}")).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn prefixes_add_up_and_everything_else_is_replaced() {
        let mut tracked = Tracked::default();
        for line in ["BCAST PREFIX a", "BCAST PREFIX b", "BCAST PREFIX b"] {
            tracked.answered(read(&format!("CLIENT TRACKING ON {line}")).unwrap());
        }
        assert_eq!(tracked.restore(None).len(), 2);
        tracked.answered(read("CLIENT TRACKING OFF").unwrap());
        assert!(!tracked.on());
        tracked.answered(read("CLIENT TRACKING ON OPTIN").unwrap());
        tracked.answered(read("CLIENT TRACKING ON OPTIN NOLOOP").unwrap());
        assert_eq!(tracked.restore(None).len(), 1);
    }

    #[test]
    fn caching_lasts_for_one_command() {
        let mut tracked = Tracked::default();
        tracked.caching(Bytes::from_static(b"yes"));
        tracked.used();
        assert_eq!(tracked.restore(None).len(), 1);
        tracked.used();
        assert!(tracked.restore(None).is_empty());
    }

    #[test]
    fn the_nodes_id_of_the_target_is_not_shown() {
        assert_eq!(&with_target(b":5\r\n", 77)[..], b":77\r\n");
        let frame = b"%3\r\n$5\r\nflags\r\n~1\r\n$2\r\non\r\n$8\r\nredirect\r\n:5\r\n$8\r\nprefixes\r\n*0\r\n";
        let shown = with_target(frame, 77);
        assert!(shown.ends_with(b"redirect\r\n:77\r\n$8\r\nprefixes\r\n*0\r\n"));
    }
}
