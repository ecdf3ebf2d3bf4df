//! Where a request of a cluster's client goes: over the shared lanes of its shards, or to the session's own
//! connection.

use bytes::BytesMut;

use super::super::cluster_command;
use super::super::dispatch::{Step, Unit};
use super::super::parts::Sort;
use super::super::pin::Watch;
use super::super::session::Park;
use super::super::worker::Worker;
use super::spread::part;
use crate::resp::command::{Channels, Patience, Reach, patience, reach, refused, replay};
use crate::resp::{Command, Request, RequestScanner, Special, key_slot};

/// Channels in several slots could part at any time.
const ONE_SLOT: &str =
    "all shard channels of a connection must be in one hash slot: use another connection";

const CROSS_SLOT: &[u8] = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n";
impl Worker {
    /// [`Worker::dispatch`] for a session of a cluster, when nothing of the session is in its way.
    pub(in crate::proxy) fn dispatch_cluster(
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
            if special == Special::Client
                && let Some(step) = self.about_tracking(index, alone, request, frame)?
            {
                return Ok(step);
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
                Special::Function => matches!(reach, Reach::All(_)),
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
        if let Some(reason) = self.not_in_a_cluster(index, special, request, frame) {
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

    /// The backend of the shard that the session's last request with a key went to.
    fn last_shard(&self, index: usize) -> Option<usize> {
        let session = &self.sessions[index];
        let number = session.cluster.as_ref()?.last?;
        let cluster = self.backends[session.backend].cluster.as_ref()?;
        cluster.shards.get(usize::from(number)).copied()
    }

    /// MULTI ... EXEC that arrived whole goes where its first key is.
    fn send_unit(&mut self, index: usize, frame: &[u8], rest: &[u8], unit: &Unit) -> Step {
        let mut scanner = RequestScanner::default();
        let (mut at, mut slot) = (0, None);
        while slot.is_none() && at < unit.len {
            let Ok(Some(request)) = scanner.scan(&rest[at..], self.limits_of(index)) else {
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

    /// What needs one connection to all data, or to those of the session together.
    fn not_in_a_cluster(
        &self,
        index: usize,
        special: Special,
        request: &Request,
        frame: &[u8],
    ) -> Option<&'static str> {
        if special != Special::Client {
            return None;
        }
        let session = &self.sessions[index];
        let queues = session.pin.as_ref().is_some_and(|pin| pin.tx.is_some());
        let tracks = session.key.tracks_for.is_some();
        let on = request
            .arg(frame, 2)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"ON"));
        match request.arg(frame, 1)?.to_ascii_uppercase().as_slice() {
            b"TRACKING" if queues => {
                Some("CLIENT TRACKING is not carried inside MULTI to a cluster")
            }
            b"CACHING" | b"TRACKINGINFO" | b"GETREDIR" if queues && tracks => {
                Some("what is about tracking is not carried inside MULTI to a cluster")
            }
            b"NO-TOUCH" if on => {
                Some("CLIENT NO-TOUCH is not carried to a cluster: the keys are on several nodes")
            }
            _ => None,
        }
    }

    /// Answers with an error of the server's; inside of MULTI, EXEC must fail then.
    fn refuse_with(&mut self, index: usize, error: &[u8]) {
        self.reply_local(index, error);
        self.poison(index);
    }

    /// The channel that a message of no effect goes to at `backend`, for WAIT.
    pub(in crate::proxy) fn wait_channel(&self, lane: usize) -> Vec<u8> {
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
