//! Replies on which the state of their session depends.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::hook::{BLIND, Hook, Transition};
use super::identity;
use super::lane::{Kind, SessionRef, own_error};
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
        self.backends[backend].turn.replied += 1;
        let mut reply = Bytes::copy_from_slice(frame);
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
            Hook::Tracking(tracking) => self.on_tracking(of, tracking, frame[0] != b'-'),
            hook => {
                if let Some(session) = self.session(of) {
                    session.client.blocked_on.store(0, Ordering::Relaxed);
                    match hook {
                        Hook::HelloId if frame[0] != b'-' => {
                            reply = identity::with_client_id(frame, session.client.id);
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
                        Hook::Wait { blind: true } if frame[0] != b'-' => {
                            reply = own_error(OwnError::NotExecuted(BLIND));
                        }
                        _ => {}
                    }
                    let select = session
                        .pin
                        .as_mut()
                        .and_then(|pin| pin.answered(hook, &bytes, frame));
                    if let Some(pin) = &session.pin {
                        let (queued, monitor) = (pin.tx.as_ref().map(|tx| tx.queued), pin.monitor);
                        session
                            .client
                            .update(|s| (s.queued, s.monitor) = (queued, monitor));
                    }
                    if let Some(db) = select {
                        self.move_to_db(of, db);
                    }
                }
            }
        }
        self.finish_request(of, &reply, Some(&reply), entry.mute);
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
                reply = identity::with_client_id(frame, session.client.id);
                if let Some(name) = name {
                    session.client.update(|s| s.name = name);
                }
            }
            let left = session.lane;
            session.lane = to.lane;
            session.key = to.key;
            let (db, resp3) = (session.key.db, session.key.resp3);
            let user = session.key.user.as_ref().map_or_else(
                || "default".to_owned(),
                |login| {
                    let user = login.user.as_deref().unwrap_or(b"default");
                    String::from_utf8_lossy(user).into_owned()
                },
            );
            session
                .client
                .update(|s| (s.db, s.resp3, s.user) = (db, resp3, user));
            let pinned = session.pin.as_ref().map(|pin| pin.lane);
            let key = session.key.clone();
            if let Some(pinned) = pinned {
                self.lanes[pinned].key = key;
            }
            self.leave_lane(left);
        }
        reply
    }

    /// A SELECT inside of MULTI took effect.
    fn move_to_db(&mut self, of: SessionRef, db: u32) {
        let Some(session) = self.session(of) else {
            return;
        };
        let mut key = session.key.clone();
        key.db = db;
        let (backend, left) = (session.backend, session.lane);
        let lane = self.shared_lane(backend, &key);
        let session = &mut self.sessions[of.index];
        session.lane = lane;
        session.key = key;
        session.client.update(|s| s.db = db);
        self.leave_lane(left);
    }

    /// (P|S)(UN)SUBSCRIBE: one acknowledgement a channel.
    pub(super) fn on_acknowledgement(&mut self, lane: usize, frame: &[u8]) {
        let failed = frame[0] == b'-';
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
            if word.starts_with(b"un") || word[1..].starts_with(b"un") {
                pin.set(kind).remove(channel);
            } else {
                pin.set(kind).insert(Bytes::copy_from_slice(channel));
            }
            let counts = pin.channels.each_ref().map(|set| set.len());
            session
                .client
                .update(|s| [s.channels, s.patterns, s.shard_channels] = counts);
        }
        if !eaten && !mute {
            self.deliver(of, frame);
        }
        if done {
            self.pop_entry(lane);
            self.finish_request(of, &[], None, true);
        }
    }
}
