//! Replies on which the state of their session depends.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::entry::{Entry, Kind, SessionRef, own_error};
use super::hook::{BLIND, Hook, Transition};
use super::identity::with_client_id;
use super::lane::LaneKey;
use super::pin::Effect;
use super::tracking;
use super::worker::Worker;
use crate::resp::OwnError;
use crate::resp::reply::{elements, first_element, payload};

impl Worker {
    /// A reply on which the session's state depends.
    pub(super) fn on_hook_reply(&mut self, lane: usize, frame: &[u8]) {
        let state = &mut self.lanes[lane];
        let backend = state.backend;
        let Some((entry, bytes)) = state.pop_with_bytes(&mut self.spares) else {
            return;
        };
        self.backends[backend].bytes -= entry.len;
        let (Some(of), Kind::Hook(hook)) = (entry.session, entry.kind) else {
            return;
        };
        match *hook {
            Hook::Door => return self.door_answered(of, frame),
            Hook::Reset => return self.reset_answered(of, entry.mute),
            _ => {}
        }
        self.backends[backend].turn.replied += 1;
        let state = &self.lanes[lane];
        // Another one may stand behind it.
        let waits_on = match state.queue.iter().any(Entry::blocks) {
            true => state.upstream.as_ref().map_or(0, |u| u.client_id),
            false => 0,
        };
        if entry.mute && matches!(*hook, Hook::Exec { .. }) && self.speaks_when_silent(lane) {
            // What stands in a reply that nobody sees, and answers nothing, is heard all the same.
            for push in elements(frame).filter(|element| element[0] == b'>') {
                self.deliver(of, push);
            }
        }
        let mut reply = Bytes::copy_from_slice(frame);
        let reads = frame[0] != b'-' && hook.reads(entry.replay);
        match *hook {
            Hook::Transition(transition) => {
                reply = self.on_transition(of, transition, frame);
            }
            Hook::Scan(iteration) if frame[0] != b'-' => {
                let run_id = self.lanes[lane].upstream.as_ref().map(|u| &u.run_id);
                if let (Some(cursor), Some(run_id)) = (first_element(frame), run_id) {
                    let scans = &self.backends[backend].shared.scans;
                    scans.issued(iteration, cursor, run_id);
                }
            }
            Hook::Pause(until) if frame[0] != b'-' => {
                let paused = &self.backends[backend].shared.paused_until;
                paused.fetch_max(until.as_millis(), Ordering::Relaxed);
            }
            Hook::Tracking(tracking) if self.backends[backend].in_cluster() => {
                let ok = frame[0] != b'-';
                self.on_cluster_tracking(lane, of, tracking, ok);
                if ok && self.answers_when_it_listens(of, entry.mute) {
                    return self.finish_request(of, &[], None, true);
                }
            }
            Hook::Tracking(tracking) => self.on_tracking(of, tracking, frame[0] != b'-'),
            Hook::Client(request) => return self.on_client(of, &request, frame, entry.mute),
            hook => {
                if let Some(session) = self.session(of) {
                    session.client.blocked_on.store(waits_on, Ordering::Relaxed);
                    session.moving &= !matches!(hook, Hook::Multi);
                    match hook {
                        Hook::HelloId if frame[0] != b'-' => {
                            reply = with_client_id(frame, session.client.id);
                        }
                        Hook::Target if frame[0] != b'-' => {
                            let target = session.pin.as_ref().and_then(|p| p.tracking.target);
                            if let Some(target) = target {
                                reply = tracking::with_target(frame, target);
                            }
                        }
                        Hook::ExecLost => {
                            let resp3 = session.key.resp3;
                            let nil: &[u8] = if resp3 { b"_\r\n" } else { b"*-1\r\n" };
                            reply = Bytes::from_static(nil);
                        }
                        Hook::Wait { blind: true, .. } if frame[0] != b'-' => {
                            reply = own_error(OwnError::NotExecuted(BLIND));
                        }
                        _ => {}
                    }
                    let effects = session
                        .pin
                        .as_mut()
                        .map(|pin| pin.answered(hook, &bytes, frame))
                        .unwrap_or_default();
                    if !effects.is_empty() {
                        reply = self.on_transaction(of, effects, frame);
                    }
                    if let Some(session) = self.session(of)
                        && let Some(pin) = &session.pin
                    {
                        // A MULTI that is on its way has not begun.
                        let begun = pin.tx.as_ref().filter(|_| !session.moving);
                        let queued = begun.map(|tx| tx.queued);
                        session.show();
                        session.client.update(|s| s.queued = queued);
                    }
                }
            }
        }
        self.finish_request(of, &reply, Some(&reply), entry.mute);
        if reads {
            self.was_read_apart(lane, of);
        }
    }

    /// The node answered in the place of a CLIENT subcommand.
    fn on_client(&mut self, of: SessionRef, request: &[u8], frame: &[u8], mute: bool) {
        let Some(session) = self.session(of) else {
            return;
        };
        session.moving = false;
        let reply = match frame[0] {
            b'-' => Some(Bytes::copy_from_slice(frame)),
            _ => self.answer_client(of.index, request, frame),
        };
        match reply {
            Some(reply) => self.finish_request(of, &reply, Some(&reply), mute),
            None => self.finish_request(of, &[], None, true),
        }
    }

    /// AUTH, SELECT or HELLO was answered on the lane it leads to.
    fn on_transition(&mut self, of: SessionRef, to: Transition, frame: &[u8]) -> Bytes {
        let Some(session) = self.session(of) else {
            self.leave_lane(to.lane);
            return Bytes::new();
        };
        session.moving = false;
        let mut reply = Bytes::copy_from_slice(frame);
        if frame[0] == b'-' {
            self.leave_lane(to.lane);
        } else {
            if let Some(name) = to.hello {
                reply = with_client_id(frame, session.client.id);
                if let Some(name) = name {
                    session.client.update(|s| s.name = name);
                }
            }
            self.move_to(of.index, to.key, to.lane);
        }
        reply
    }

    /// EXEC has run commands that concern the session: the reply with our answers in it.
    fn on_transaction(
        &mut self,
        of: SessionRef,
        effects: Vec<(usize, Effect)>,
        frame: &[u8],
    ) -> Bytes {
        let head = memchr::memchr(b'\n', frame).map_or(frame.len(), |lf| lf + 1);
        let mut out = BytesMut::from(&frame[..head]);
        let mut effects = effects.into_iter().peekable();
        let mut next = 0;
        for reply in elements(frame) {
            if reply[0] == b'>' {
                // A message that one of the commands caused: it answers none.
                out.extend_from_slice(reply);
                continue;
            }
            let at = next;
            next += 1;
            let effect = effects.next_if(|(place, _)| *place == at);
            let Some((_, effect)) = effect.filter(|_| reply[0] != b'-') else {
                out.extend_from_slice(reply);
                continue;
            };
            match effect {
                Effect::Client(request) => {
                    let own = self.answer_client(of.index, &request, reply);
                    out.extend_from_slice(own.as_deref().unwrap_or(reply));
                }
                Effect::Tracking(tracking) => {
                    out.extend_from_slice(reply);
                    self.on_tracking(of, tracking, true);
                }
                Effect::Sticky(sticky) => {
                    out.extend_from_slice(reply);
                    let session = &mut self.sessions[of.index];
                    if let Some(pin) = &mut session.pin {
                        pin.stick(sticky);
                    }
                    session.show();
                }
                Effect::Identity(change) => {
                    let session = &self.sessions[of.index];
                    match change.hello {
                        true => out.extend_from_slice(&with_client_id(reply, session.client.id)),
                        false => out.extend_from_slice(reply),
                    }
                    if let Some(name) = change.name.clone() {
                        session.client.update(|s| s.name = name);
                    }
                    let key = change.of(&session.key);
                    let backend = session.backend;
                    let lane = self.shared_lane(backend, &key.shared());
                    self.move_to(of.index, key, lane);
                }
            }
        }
        out.freeze()
    }

    /// The session is somebody else, or elsewhere, from now on.
    pub(super) fn move_to(&mut self, index: usize, key: LaneKey, lane: usize) {
        self.leave_shards(index);
        let session = &mut self.sessions[index];
        let left = std::mem::replace(&mut session.lane, lane);
        session.key = key.clone();
        let login = key.user.as_ref().and_then(|login| login.user.clone());
        let user = login.unwrap_or(Bytes::from_static(b"default"));
        session
            .client
            .update(|s| (s.db, s.resp3, s.user) = (key.db, key.resp3, user));
        if let Some(pin) = &session.pin {
            self.lanes[pin.lane].key = key.shared();
        }
        // Its user was let in: whatever the lane was told before, it is to connect, so that it hears
        // when the user is deleted.
        self.lanes[lane].denied = false;
        self.lanes[lane].wake_task();
        self.leave_lane(left);
        self.listen(index);
    }

    /// CLIENT REPLY OFF is about replies; an acknowledgement is a message. Before 6.2 it is about messages, too.
    pub(super) fn speaks_when_silent(&self, lane: usize) -> bool {
        let version = self.backends[self.lanes[lane].backend].version;
        version.is_none_or(|version| version >= (6, 2))
    }

    /// What a client listens to was said again for it. Who may not hear it any more is cut off, as the node does
    /// it with those who are connected to it directly.
    pub(super) fn hears_again(&mut self, lane: usize, frame: &[u8]) {
        self.pop_entry(lane);
        if frame[0] == b'-'
            && let Some(of) = self.lanes[lane].owner
            && let Some(session) = self.session(of)
        {
            tracing::info!(
                client = session.client.id,
                error = %String::from_utf8_lossy(frame).trim_end(),
                "subscriber dropped: it may not subscribe any more"
            );
            session.kill();
            self.wake_session(of.index);
        }
    }

    /// (P|S)(UN)SUBSCRIBE: one acknowledgement a channel.
    pub(super) fn on_acknowledgement(&mut self, lane: usize, frame: &[u8]) {
        let failed = frame[0] == b'-';
        let speaks = self.speaks_when_silent(lane);
        let Some(head) = self.lanes[lane].queue.front_mut() else {
            return;
        };
        let Some(of) = head.session else { return };
        let Kind::Hook(hook) = &mut head.kind else {
            return;
        };
        let Hook::Subscription { kind, acknowledged } = &mut **hook else {
            return;
        };
        let kind = *kind;
        head.replies = if failed { 0 } else { head.replies - 1 };
        let eaten = !failed && head.skip > 0;
        if eaten {
            head.skip -= 1;
        } else {
            *acknowledged += 1;
        }
        let (done, mute) = (head.replies == 0, head.mute);
        let mut parts = elements(frame);
        let word = parts.next().and_then(payload);
        let channel = parts.next().and_then(payload);
        if let (Some(word), Some(channel), Some(session)) = (word, channel, self.session(of))
            && let Some(pin) = &mut session.pin
        {
            if word.starts_with(b"un") || word.get(1..).is_some_and(|w| w.starts_with(b"un")) {
                pin.set(kind).remove(channel);
            } else {
                pin.set(kind).insert(Bytes::copy_from_slice(channel));
            }
            let counts = pin.channels.each_ref().map(|set| set.len());
            session
                .client
                .update(|s| [s.channels, s.patterns, s.shard_channels] = counts);
        }
        if !(eaten || mute && (failed || !speaks)) {
            self.deliver(of, frame);
        }
        if done {
            self.pop_entry(lane);
            self.finish_request(of, &[], None, true);
        }
    }
}
