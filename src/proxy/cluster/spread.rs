//! A request that goes to one shard, to those of its keys, or to all.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::super::dispatch::Step;
use super::super::entry::{Entry, Kind, SessionRef};
use super::super::parts::{Joining, Part, Sort};
use super::super::scans::Iteration;
use super::super::session::{Park, ReplyMode};
use super::super::worker::Worker;
use crate::resp::command::{Join, Reach};
use crate::resp::{Replay, Request, Special, encode_request, key_slot};
use crate::topology::Gate;

/// What cannot wait in the lane of a shard, while there is none.
pub(super) const NO_SHARD: &str = "no shard of the cluster is known yet";

impl Worker {
    pub(super) fn send_parts(
        &mut self,
        index: usize,
        (reach, slot): (Reach, Option<u16>),
        class: Replay,
        special: Special,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        match reach {
            Reach::Split { step, join } => self.split(index, step, join, class, request, frame),
            Reach::All(join) => return self.ask_all_shards(index, join, class, frame),
            Reach::Scan => return self.scan_shards(index, class, request, frame),
            _ => {
                let lane = self.slot_lane(index, slot);
                self.has_room(lane)?;
                let iteration = match special {
                    Special::Scan => Iteration::new(0, request, frame),
                    _ => None,
                };
                let place = self.take_place(index);
                let sort = iteration.map_or(Sort::Plain, |iteration| Sort::Scan(iteration, None));
                let anew = self.begun_anew(lane, &sort, frame);
                let frame = anew.as_deref().unwrap_or(frame);
                self.send(index, lane, part(place, 0, slot, sort), class, frame);
            }
        }
        Ok(Step::Next)
    }

    /// One request for each hash slot: a node takes no others together, also where it serves both.
    fn split(
        &mut self,
        index: usize,
        step: usize,
        join: Join,
        class: Replay,
        request: &Request,
        frame: &[u8],
    ) {
        let args: Vec<&[u8]> = request.args(frame).collect();
        let mut groups: Vec<(u16, Vec<&[u8]>)> = Vec::new();
        let (mut known, mut order) = (HashMap::new(), Vec::new());
        for one in args[1..].chunks(step) {
            let slot = key_slot(one[0]);
            let at = *known.entry(slot).or_insert_with(|| {
                groups.push((slot, vec![args[0]]));
                groups.len() - 1
            });
            groups[at].1.extend_from_slice(one);
            order.push(at as u16);
        }
        if let [(slot, _)] = groups[..] {
            let lane = self.slot_lane(index, Some(slot));
            let place = self.take_place(index);
            return self.send(
                index,
                lane,
                part(place, 0, Some(slot), Sort::Plain),
                class,
                frame,
            );
        }
        let place = self.take_joined_place(index, join, groups.len(), order);
        for (piece, (slot, args)) in groups.into_iter().enumerate() {
            let mut frame = BytesMut::new();
            encode_request(&mut frame, &args);
            let lane = self.slot_lane(index, Some(slot));
            let part = part(place, piece as u16, Some(slot), Sort::Plain);
            self.send(index, lane, part, class, &frame);
        }
    }

    /// The shards that serve a slot, with their backends.
    pub(super) fn serving(&self, index: usize) -> Vec<(u16, usize)> {
        let Some(cluster) = &self.backends[self.sessions[index].backend].cluster else {
            return Vec::new();
        };
        let mut numbers: Vec<u16> = cluster.map.slots.iter().flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let shard = |number: u16| Some((number, *cluster.shards.get(usize::from(number))?));
        numbers.into_iter().filter_map(shard).collect()
    }

    fn ask_all_shards(
        &mut self,
        index: usize,
        join: Join,
        class: Replay,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let mut shards = self.serving(index);
        if shards.is_empty() {
            self.refuse(index, NO_SHARD);
            return Ok(Step::Next);
        }
        if join == Join::NotNull {
            let turn = self.now.as_millis() as usize % shards.len();
            shards.rotate_left(turn);
        }
        let place = self.take_joined_place(index, join, shards.len(), Vec::new());
        for (piece, (number, backend)) in shards.into_iter().enumerate() {
            let lane = self.lane_at(index, number, backend);
            self.send(
                index,
                lane,
                part(place, piece as u16, None, Sort::Plain),
                class,
                frame,
            );
        }
        Ok(Step::Next)
    }

    pub(super) fn has_room(&self, lane: usize) -> Result<(), Park> {
        let at = self.lanes[lane].backend;
        let backend = &self.backends[at];
        match backend.bytes < backend.plan.settings.hold_bytes {
            true => Ok(()),
            false => Err(Park::Starved(at)),
        }
    }

    pub(super) fn take_place(&mut self, index: usize) -> u64 {
        let mute = self.mute(index);
        let session = &mut self.sessions[index];
        session.inflight += 1;
        session.cluster.as_mut().map_or(0, |c| c.order.take(mute))
    }

    fn take_joined_place(
        &mut self,
        index: usize,
        join: Join,
        pieces: usize,
        order: Vec<u16>,
    ) -> u64 {
        let mute = self.mute(index);
        let session = &mut self.sessions[index];
        session.inflight += 1;
        let joining = Joining {
            join,
            missing: pieces,
            pieces: vec![Bytes::new(); pieces],
            order,
            resp3: session.key.resp3,
        };
        session
            .cluster
            .as_mut()
            .map_or(0, |c| c.order.join(joining, mute))
    }

    fn mute(&mut self, index: usize) -> bool {
        let session = &mut self.sessions[index];
        match session.reply_mode {
            ReplyMode::On => false,
            ReplyMode::Off => true,
            ReplyMode::SkipNext => {
                session.reply_mode = ReplyMode::On;
                true
            }
        }
    }

    pub(super) fn send(
        &mut self,
        index: usize,
        lane: usize,
        mut part: Part,
        class: Replay,
        frame: &[u8],
    ) {
        let session = &self.sessions[index];
        let serial = session.serial;
        let of = SessionRef { index, serial };
        let caching = session.cluster.as_ref().and_then(|c| c.caching());
        let cached;
        let frame = match caching {
            // It may begin anew elsewhere, which is for one command only.
            Some(_) if matches!(part.sort, Sort::Scan(..)) => {
                self.forget_behind(of, part.place);
                frame
            }
            Some(words) => {
                part.caching = words;
                cached = [words, frame].concat();
                &cached
            }
            None => frame,
        };
        let mut entry = Entry::new(of, frame.len(), class, self.now, Kind::Plain);
        entry.replies = part.replies();
        entry.skip = part.eaten();
        entry.kind = Kind::Part(Box::new(part));
        self.push_entry(lane, entry, frame);
    }

    pub(in crate::proxy) fn push_entry(&mut self, lane: usize, entry: Entry, frame: &[u8]) {
        let state = &mut self.lanes[lane];
        let backend = &mut self.backends[state.backend];
        if state.upstream.is_none() || backend.topology.gate == Gate::Closed {
            backend.turn.held += 1;
        }
        backend.bytes += frame.len();
        state.push(entry, frame, &mut self.spares);
        self.ask_to_write(lane);
    }
}

pub(super) fn part(place: u64, piece: u16, slot: Option<u16>, sort: Sort) -> Part {
    Part {
        place,
        piece,
        slot,
        redirects: 0,
        asking: false,
        caching: b"",
        sort,
    }
}
