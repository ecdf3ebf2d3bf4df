//! Which way a request goes: the shared lane, a lane of the session's own, or no lane at all.

use bytes::{Bytes, BytesMut};

use super::client_command;
use super::entry::{Entry, Kind, SessionRef};
use super::hook::{DISCARD, Hook, Sticky, WAIT_CHANNEL, note_offset};
use super::identity::{self, Change};
use super::pin::{Effect, POISON, Tx, Watch};
use super::scans::Iteration;
use super::session::{Park, ReplyMode};
use super::tracking::Tracking;
use super::worker::Worker;
use crate::resp::command::{Channels, Patience, lookup, patience, refused, replay};
use crate::resp::request::rewrite_inline;
use crate::resp::{Command, Limits, OwnError, Replay, Request, Special};
use crate::topology::Gate;

/// What became of a request.
pub(super) enum Step {
    /// It is on its way, or answered.
    Next,
    /// The same, together with so many bytes behind it.
    Took(usize),
    /// Its turn has not come: look at it again later.
    Park(Park),
    /// Nothing behind it is looked at.
    Stop,
}

/// A MULTI ... EXEC is sent as a unit when it arrived whole and is not larger.
const MAX_UNIT_COMMANDS: u32 = 1024;

impl Worker {
    /// `frame` is the request, `rest` what was read behind it.
    pub(super) fn dispatch(
        &mut self,
        index: usize,
        request: &Request,
        frame: &[u8],
        rest: &[u8],
    ) -> Step {
        if request.argc == 0 {
            return self.dispatch_nothing(index);
        }
        if request.inline {
            return self.dispatch_inline(index, frame);
        }
        let session = &self.sessions[index];
        let backend = &self.backends[session.backend];
        if session.moving {
            return Step::Park(Park::Drained);
        }
        if session.inflight >= session.window {
            return Step::Park(Park::Crowded);
        }
        if backend.bytes >= backend.plan.settings.hold_bytes {
            return Step::Park(Park::Starved(session.backend));
        }
        if session.out.len() > self.settings.client_reply_high_water {
            return Step::Park(Park::Slow);
        }
        let command = request.arg(frame, 0).and_then(lookup);
        let special = command.map_or(Special::None, |c| c.special);
        if session.cluster.is_some() {
            let step = self.dispatch_cluster(index, command, special, request, frame, rest);
            if special != Special::Client && step.is_ok() {
                self.end_caching(index);
            }
            return step.unwrap_or_else(Step::Park);
        }
        if session.pin.is_none() && special == Special::None {
            let (lane, replay) = (session.lane, replay(command, request, frame));
            self.push(index, lane, Kind::Plain, replay, frame);
            return Step::Next;
        }
        match self.dispatch_special(index, command, special, request, frame, rest) {
            Ok(step) => step,
            Err(park) => Step::Park(park),
        }
    }

    /// What is no request at all still uses up a CLIENT REPLY SKIP, but in Redis 8.
    fn dispatch_nothing(&mut self, index: usize) -> Step {
        let session = &mut self.sessions[index];
        if session.moving {
            return Step::Park(Park::Drained);
        }
        let version = self.backends[session.backend].version;
        let uses_up = version.is_none_or(|version| version < (8, 0));
        if uses_up && session.reply_mode == ReplyMode::SkipNext {
            session.reply_mode = ReplyMode::On;
        }
        Step::Next
    }

    fn dispatch_inline(&mut self, index: usize, line: &[u8]) -> Step {
        let Ok(frame) = rewrite_inline(line) else {
            return Step::Next;
        };
        let mut scanner = crate::resp::RequestScanner::default();
        match scanner.scan(&frame, &Limits::DEFAULT) {
            Ok(Some(request)) => match self.dispatch(index, &request, &frame, &[]) {
                Step::Took(_) => Step::Next,
                step => step,
            },
            _ => Step::Next,
        }
    }

    pub(super) fn dispatch_special(
        &mut self,
        index: usize,
        command: Option<&'static Command>,
        special: Special,
        request: &Request,
        frame: &[u8],
        rest: &[u8],
    ) -> Result<Step, Park> {
        match special {
            Special::CrossProtocol => {
                self.sessions[index].kill();
                return Ok(Step::Stop);
            }
            Special::Quit if self.sessions[index].inflight > 0 => return Err(Park::Drained),
            Special::Quit => {
                self.reply_local(index, b"+OK\r\n");
                self.sessions[index].finish();
                return Ok(Step::Stop);
            }
            // Older servers do not know it and say so.
            Special::Reset if request.argc == 1 && self.knows_reset(index) => {
                return self.ask_to_reset(index, frame).map(|()| Step::Next);
            }
            _ => {}
        }
        if let Some(reason) = command.and_then(|c| refused(c, request, frame)) {
            self.refuse_queued(index, reason);
            return Ok(Step::Next);
        }
        let class = replay(command, request, frame);
        if let Some(pin) = &self.sessions[index].pin {
            if pin.tx.is_some() {
                return self.dispatch_queued(index, special, request, frame, class);
            }
            let resp2_subscriber = pin.subscribed() && !self.sessions[index].key.resp3;
            let lane = pin.lane;
            if resp2_subscriber
                && !matches!(special, Special::Subscribe(_) | Special::Unsubscribe(_))
            {
                if special != Special::None && self.sessions[index].inflight > 0 {
                    // An UNSUBSCRIBE on its way may make it something else.
                    return Err(Park::Drained);
                }
                // Only PING is allowed there: the node has the words for everything else.
                self.push(index, lane, Kind::Plain, class, frame);
                return Ok(Step::Next);
            }
        }
        match special {
            Special::Multi => self.multi(index, frame, rest),
            Special::Watch => {
                let lane = self.pin(index)?;
                self.push_hook(index, lane, Hook::Watch, Replay::Read, frame);
                Ok(Step::Next)
            }
            Special::Unwatch if self.sessions[index].pin.is_some() => {
                let lane = self.pin(index)?;
                self.push_hook(index, lane, Hook::Unwatch, Replay::Read, frame);
                Ok(Step::Next)
            }
            Special::Blocking(_) => self.blocking(index, special, request, frame, class),
            Special::Subscribe(kind) => self.subscribe(index, kind, request, frame),
            Special::Unsubscribe(kind) => self.unsubscribe(index, kind, request, frame),
            Special::Monitor => self.monitor(index, request, frame),
            Special::Client => client_command::client(self, index, request, frame),
            Special::Hello | Special::Auth | Special::Select => {
                identity::identity(self, index, special, request, frame)
            }
            Special::Wait => self.wait(index, frame),
            Special::Scan => Ok(self.scan(index, request, frame, class)),
            Special::Pin | Special::Function | Special::Reset => {
                let lane = self.pin(index)?;
                if let Some(pin) = &mut self.sessions[index].pin {
                    pin.tainted = true;
                }
                self.push(index, lane, Kind::Plain, class, frame);
                Ok(Step::Next)
            }
            other => {
                self.remember_script(index, other, request, frame);
                let session = &self.sessions[index];
                let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
                self.push(index, lane, Kind::Plain, class, frame);
                Ok(Step::Next)
            }
        }
    }

    /// A command after MULTI on a lane of the session's own.
    fn dispatch_queued(
        &mut self,
        index: usize,
        special: Special,
        request: &Request,
        frame: &[u8],
        class: Replay,
    ) -> Result<Step, Park> {
        let unblock = match special {
            Special::Client => {
                client_command::unblock(self, &request.args(frame).collect::<Vec<_>>())
            }
            _ => None,
        };
        let Some(pin) = &mut self.sessions[index].pin else {
            return Ok(Step::Next);
        };
        let (lane, watch) = (pin.lane, pin.watch);
        let Some(tx) = &mut pin.tx else {
            return Ok(Step::Next);
        };
        if tx.ending {
            return Err(Park::Drained);
        }
        match special {
            Special::Exec => {
                tx.ending = true;
                let class = if tx.writes {
                    Replay::Never
                } else {
                    Replay::Read
                };
                match watch {
                    Watch::Lost => {
                        self.push_hook(index, lane, Hook::ExecLost, Replay::Read, DISCARD)
                    }
                    _ => {
                        let hook = Hook::Exec {
                            watched: watch == Watch::Held,
                        };
                        self.push_hook(index, lane, hook, class, frame);
                    }
                }
            }
            Special::Discard => {
                tx.ending = true;
                self.push_hook(index, lane, Hook::Discard, Replay::Read, frame);
            }
            _ if not_in_transactions(special, request, frame) => {
                self.refuse_queued(index, "this command is not carried inside MULTI");
            }
            _ => {
                tx.writes |= class != Replay::Read;
                let (effect, wire) = effect(special, request, frame);
                tx.sent.push_back(effect);
                // What is about keys leaves nothing on the connection.
                pin.tainted |= !matches!(
                    special,
                    Special::None
                        | Special::Blocking(_)
                        | Special::Eval
                        | Special::EvalSha
                        | Special::Scan
                );
                self.remember_script(index, special, request, frame);
                let wire = wire.or(unblock);
                let wire = wire.as_deref().unwrap_or(frame);
                self.push_hook(index, lane, Hook::Queued, Replay::Read, wire);
            }
        }
        Ok(Step::Next)
    }

    fn multi(&mut self, index: usize, frame: &[u8], rest: &[u8]) -> Result<Step, Park> {
        if self.sessions[index].pin.is_none()
            && let Some(unit) = self.unit(index, rest)
        {
            let lane = self.sessions[index].lane;
            let mut bytes = BytesMut::with_capacity(frame.len() + unit.len);
            bytes.extend_from_slice(frame);
            bytes.extend_from_slice(&rest[..unit.len]);
            self.push(index, lane, Kind::Unit(BytesMut::new()), unit.class, &bytes);
            if let Some(entry) = self.lanes[lane].queue.back_mut() {
                entry.replies = unit.commands + 1;
            }
            return Ok(Step::Took(unit.len));
        }
        let lane = self.pin(index)?;
        let session = &mut self.sessions[index];
        // It may be refused: then what stands behind it is not queued.
        session.moving = true;
        if let Some(pin) = &mut session.pin {
            pin.tx = Some(Tx::default());
        }
        self.push_hook(index, lane, Hook::Multi, Replay::Read, frame);
        Ok(Step::Next)
    }

    /// Looks for EXEC behind a MULTI: a transaction that arrived whole needs no connection of its own.
    /// Nothing else ends it for certain: DISCARD may be forbidden to the user.
    pub(super) fn unit(&mut self, index: usize, rest: &[u8]) -> Option<Unit> {
        if self.sessions[index].reply_mode != ReplyMode::On {
            return None;
        }
        let mut scanner = crate::resp::RequestScanner::default();
        let mut unit = Unit {
            len: 0,
            commands: 0,
            class: Replay::Read,
        };
        let mut bodies = Vec::new();
        while unit.commands < MAX_UNIT_COMMANDS {
            let frame = &rest[unit.len..];
            let request = scanner.scan(frame, self.limits_of(index)).ok()??;
            if request.inline || request.argc == 0 {
                return None;
            }
            let command = request.arg(frame, 0).and_then(lookup);
            if command.is_some_and(|c| refused(c, &request, frame).is_some()) {
                return None;
            }
            let special = command.map_or(Special::None, |c| c.special);
            let start = unit.len;
            unit.len += request.len;
            unit.commands += 1;
            match special {
                Special::Exec if request.argc == 1 => {
                    for (special, request, start) in bodies {
                        self.remember_script(index, special, &request, &rest[start..]);
                    }
                    return Some(unit);
                }
                // A blocking command would block everybody if MULTI were refused.
                Special::None | Special::EvalSha | Special::Scan => {}
                Special::Eval => bodies.push((special, request.clone(), start)),
                _ => return None,
            }
            match replay(command, &request, frame) {
                Replay::Never => unit.class = Replay::Never,
                Replay::Idempotent if unit.class == Replay::Read => unit.class = Replay::Idempotent,
                _ => {}
            }
        }
        None
    }

    fn blocking(
        &mut self,
        index: usize,
        special: Special,
        request: &Request,
        frame: &[u8],
        class: Replay,
    ) -> Result<Step, Park> {
        let until = match patience(special, request, frame) {
            Patience::None => {
                let session = &self.sessions[index];
                let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
                self.push(index, lane, Kind::Plain, class, frame);
                return Ok(Step::Next);
            }
            Patience::Forever => None,
            Patience::For(time) => Some(self.now + time),
        };
        let lane = self.pin(index)?;
        self.blocks(index, lane);
        self.push_hook(index, lane, Hook::Blocking { until }, class, frame);
        Ok(Step::Next)
    }

    /// The session waits for the node, so that CLIENT UNBLOCK finds it.
    fn blocks(&self, index: usize, lane: usize) {
        let upstream = self.lanes[lane].upstream.as_ref();
        let id = upstream.map_or(0, |upstream| upstream.client_id);
        let blocked_on = &self.sessions[index].client.blocked_on;
        blocked_on.store(id, std::sync::atomic::Ordering::Relaxed);
    }

    /// Who monitors already gets no reply to another MONITOR.
    fn monitor(&mut self, index: usize, request: &Request, frame: &[u8]) -> Result<Step, Park> {
        let lane = self.pin(index)?;
        let session = &mut self.sessions[index];
        if session.inflight > 0 {
            return Err(Park::Drained);
        }
        if request.argc == 1 && session.pin.as_ref().is_some_and(|pin| pin.monitor) {
            if session.reply_mode == ReplyMode::SkipNext {
                session.reply_mode = ReplyMode::On;
            }
            return Ok(Step::Next);
        }
        self.push_hook(index, lane, Hook::Monitor, Replay::Read, frame);
        Ok(Step::Next)
    }

    fn subscribe(
        &mut self,
        index: usize,
        kind: Channels,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let lane = self.pin(index)?;
        let hook = Hook::Subscription {
            kind,
            acknowledged: 0,
        };
        self.push_hook(index, lane, hook, Replay::Read, frame);
        self.expect_replies(lane, request.argc.saturating_sub(1).max(1));
        Ok(Step::Next)
    }

    fn unsubscribe(
        &mut self,
        index: usize,
        kind: Channels,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let lane = self.pin(index)?;
        let session = &mut self.sessions[index];
        // Without arguments there is one acknowledgement a channel: all must be known by then.
        if request.argc == 1 && session.inflight > 0 {
            return Err(Park::Drained);
        }
        let known = session.pin.as_mut().map_or(0, |pin| pin.set(kind).len());
        let replies = if request.argc == 1 {
            known
        } else {
            request.argc - 1
        };
        let hook = Hook::Subscription {
            kind,
            acknowledged: 0,
        };
        self.push_hook(index, lane, hook, Replay::Read, frame);
        self.expect_replies(lane, replies.max(1));
        Ok(Step::Next)
    }

    fn expect_replies(&mut self, lane: usize, replies: usize) {
        if let Some(entry) = self.lanes[lane].queue.back_mut() {
            entry.replies = u32::try_from(replies).unwrap_or(u32::MAX);
        }
    }

    /// WAIT and WAITAOF are about the writes of one connection. Ours carried other clients' writes as
    /// well, so we wait on a connection of our own, which has taken note of the newest offset: the
    /// client's own writes are before that.
    fn wait(&mut self, index: usize, frame: &[u8]) -> Result<Step, Park> {
        let lane = self.pin(index)?;
        let backend = &self.backends[self.lanes[lane].backend];
        let note = match backend.in_cluster() {
            true => note_offset(backend.version, &self.wait_channel(lane)),
            false => note_offset(backend.version, WAIT_CHANNEL),
        };
        self.push_internal(lane, &note);
        self.blocks(index, lane);
        let hook = Hook::Wait {
            blind: false,
            note: note.freeze(),
        };
        self.push_hook(index, lane, hook, Replay::Never, frame);
        Ok(Step::Next)
    }

    /// An iteration that another process began is begun anew.
    fn scan(&mut self, index: usize, request: &Request, frame: &[u8], class: Replay) -> Step {
        let session = &self.sessions[index];
        let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
        let Some(iteration) = Iteration::new(session.key.db, request, frame) else {
            self.push(index, lane, Kind::Plain, class, frame);
            return Step::Next;
        };
        let scans = &self.backends[session.backend].shared.scans;
        let run_id = self.lanes[lane].upstream.as_ref().map(|u| &u.run_id);
        let anew = match scans.fits(iteration, request, frame, run_id) {
            true => None,
            false => iteration.anew(frame),
        };
        let frame = anew.as_deref().unwrap_or(frame);
        self.push_hook(index, lane, Hook::Scan(iteration), class, frame);
        Step::Next
    }

    pub(super) fn remember_script(
        &mut self,
        index: usize,
        special: Special,
        request: &Request,
        frame: &[u8],
    ) {
        self.remember_script_at(self.sessions[index].backend, special, request, frame);
    }

    pub(super) fn remember_script_at(
        &mut self,
        backend: usize,
        special: Special,
        request: &Request,
        frame: &[u8],
    ) {
        let scripts = &self.backends[backend].shared.scripts;
        let body = match special {
            Special::Eval => request.arg(frame, 1),
            Special::Script => match request.arg(frame, 1) {
                Some(word) if word.eq_ignore_ascii_case(b"LOAD") => request.arg(frame, 2),
                Some(word) if word.eq_ignore_ascii_case(b"FLUSH") => return scripts.forget(),
                _ => None,
            },
            _ => None,
        };
        if let Some(body) = body {
            scripts.remember(body);
        }
    }

    /// Puts a request on a lane.
    pub(super) fn push(
        &mut self,
        index: usize,
        lane: usize,
        kind: Kind,
        replay: Replay,
        frame: &[u8],
    ) {
        let session = &mut self.sessions[index];
        session.inflight += 1;
        let of = SessionRef {
            index,
            serial: session.serial,
        };
        let mut entry = Entry::new(of, frame.len(), replay, self.now, kind);
        match session.reply_mode {
            ReplyMode::On => {}
            ReplyMode::Off => entry.mute = true,
            ReplyMode::SkipNext => {
                entry.mute = true;
                session.reply_mode = ReplyMode::On;
            }
        }
        let state = &mut self.lanes[lane];
        let backend = &mut self.backends[state.backend];
        if state.upstream.is_none() || backend.topology.gate == Gate::Closed {
            backend.turn.held += 1;
        }
        backend.bytes += frame.len();
        state.push(entry, frame, &mut self.spares);
        self.ask_to_write(lane);
    }

    pub(super) fn push_hook(
        &mut self,
        index: usize,
        lane: usize,
        hook: Hook,
        replay: Replay,
        frame: &[u8],
    ) {
        self.push(index, lane, Kind::Hook(Box::new(hook)), replay, frame);
    }

    fn knows_reset(&self, index: usize) -> bool {
        let version = self.backends[self.sessions[index].backend].version;
        version.is_none_or(|version| version >= (6, 2))
    }

    /// A request of our own, whose reply nobody sees.
    pub(super) fn push_internal(&mut self, lane: usize, frame: &[u8]) {
        let entry = Entry::internal(frame.len(), 1, self.now);
        let state = &mut self.lanes[lane];
        self.backends[state.backend].bytes += frame.len();
        state.push(entry, frame, &mut self.spares);
        self.ask_to_write(lane);
    }

    /// Answers a request ourselves, in its turn.
    pub(super) fn reply_local(&mut self, index: usize, reply: &[u8]) {
        let session = &mut self.sessions[index];
        self.backends[session.backend].turn.local += 1;
        match session.reply_mode {
            ReplyMode::On => {}
            ReplyMode::Off => return,
            ReplyMode::SkipNext => {
                session.reply_mode = ReplyMode::On;
                return;
            }
        }
        if let Some(cluster) = &mut session.cluster
            && cluster.order.len() > 0
        {
            session.inflight += 1;
            return cluster.order.answer(reply);
        }
        let of = SessionRef {
            index,
            serial: session.serial,
        };
        if session.inflight == 0 {
            self.deliver(of, reply);
            return;
        }
        session.inflight += 1;
        let lane = session.pin.as_ref().map_or(session.lane, |pin| pin.lane);
        let entry = Entry::local(of, Bytes::copy_from_slice(reply), self.now);
        self.lanes[lane].push(entry, &[], &mut self.spares);
        self.settle_head(lane);
    }

    /// The same; inside of MULTI, EXEC must fail then.
    pub(super) fn refuse_queued(&mut self, index: usize, reason: &str) {
        self.refuse(index, reason);
        self.poison(index);
    }

    /// A command was refused: the EXEC behind it must fail.
    pub(super) fn poison(&mut self, index: usize) {
        let Some(pin) = &mut self.sessions[index].pin else {
            return;
        };
        let lane = pin.lane;
        if let Some(tx) = pin.tx.as_mut().filter(|tx| !tx.ending) {
            tx.poison();
            self.push_internal(lane, POISON);
        }
    }

    /// Answers with an error that says that the request did not run.
    pub(super) fn refuse(&mut self, index: usize, reason: &str) {
        let mut reply = BytesMut::new();
        OwnError::NotExecuted(reason).put(&mut reply);
        self.reply_local(index, &reply);
    }
}

/// Inside MULTI their replies would not be one element each, or none at all.
fn not_in_transactions(special: Special, request: &Request, frame: &[u8]) -> bool {
    match special {
        Special::Subscribe(_) | Special::Unsubscribe(_) | Special::Monitor => true,
        Special::Client => {
            let args: Vec<&[u8]> = request.args(frame).collect();
            let reply = args.len() == 3 && args[1].eq_ignore_ascii_case(b"REPLY");
            reply || client_command::pauses_all(&args) || client_command::redirects(&args)
        }
        _ => false,
    }
}

/// What a command queued by MULTI means for the session when it has run, and what the node is asked in
/// its place.
fn effect(special: Special, request: &Request, frame: &[u8]) -> (Option<Effect>, Option<BytesMut>) {
    let args: Vec<&[u8]> = request.args(frame).collect();
    match special {
        Special::Select | Special::Auth | Special::Hello => {
            (Change::asked_by(special, &args).map(Effect::Identity), None)
        }
        Special::Client => match client_command::probe(&args) {
            Some(probe) => {
                let effect = Effect::Client(Bytes::copy_from_slice(frame));
                (Some(effect), Some(probe))
            }
            None => {
                let tracking = Tracking::of(&args).map(Effect::Tracking);
                let sticky = || Sticky::of(&args, frame).map(Effect::Sticky);
                (tracking.or_else(sticky), None)
            }
        },
        _ => (None, None),
    }
}

/// A MULTI ... EXEC that arrived whole.
pub(super) struct Unit {
    /// Bytes behind MULTI.
    pub(super) len: usize,
    /// Commands behind MULTI, EXEC included.
    pub(super) commands: u32,
    pub(super) class: Replay,
}
