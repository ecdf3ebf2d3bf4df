//! SCAN over all shards, one after the other. Our cursor is the node's, and in the lowest bits the number of
//! the shard.

use bytes::{Bytes, BytesMut};

use super::super::dispatch::Step;
use super::super::entry::{SessionRef, own_error};
use super::super::parts::Sort;
use super::super::scans::Iteration;
use super::super::session::Park;
use super::super::worker::Worker;
use super::spread::{NO_SHARD, part};
use crate::resp::{Limits, OwnError, Replay, Request, RequestScanner, encode_request};

/// Bits of the cursor that hold the number.
const SHARD_BITS: u32 = 10;

impl Worker {
    /// SCAN: the cursor says which shard comes next.
    pub(super) fn scan_shards(
        &mut self,
        index: usize,
        class: Replay,
        request: &Request,
        frame: &[u8],
    ) -> Result<Step, Park> {
        let shards = self.serving(index);
        if shards.is_empty() {
            self.refuse(index, NO_SHARD);
            return Ok(Step::Next);
        }
        let cursor = request
            .arg(frame, 1)
            .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let Some(cursor) = cursor else {
            // The node has the words for it.
            let lane = self.sessions[index].lane;
            let place = self.take_place(index);
            self.send(index, lane, part(place, 0, None, Sort::Plain), class, frame);
            return Ok(Step::Next);
        };
        let (at, inner) = (cursor & ((1 << SHARD_BITS) - 1), cursor >> SHARD_BITS);
        let next = shards.iter().find(|(number, _)| u64::from(*number) >= at);
        let Some((number, backend)) = next.copied() else {
            self.reply_local(index, b"*2\r\n$1\r\n0\r\n*0\r\n");
            return Ok(Step::Next);
        };
        let inner = match u64::from(number) == at {
            true => inner.to_string(),
            false => "0".to_owned(),
        };
        let mut args: Vec<&[u8]> = request.args(frame).collect();
        args[1] = inner.as_bytes();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        let scanned = RequestScanner::default().scan(&frame, &Limits::default());
        let iteration = match scanned {
            Ok(Some(request)) => Iteration::new(0, &request, &frame),
            _ => None,
        };
        let sort = iteration.map_or(Sort::Plain, |iteration| Sort::Scan(iteration, Some(number)));
        let lane = self.lane_at(index, number, backend);
        self.has_room(lane)?;
        let anew = self.begun_anew(lane, &sort, &frame);
        let frame = anew.as_deref().unwrap_or(&frame);
        let place = self.take_place(index);
        self.send(index, lane, part(place, 0, None, sort), class, frame);
        Ok(Step::Next)
    }

    /// An iteration that another process began is begun anew.
    pub(super) fn begun_anew(&self, lane: usize, sort: &Sort, frame: &[u8]) -> Option<Bytes> {
        let Sort::Scan(iteration, _) = sort else {
            return None;
        };
        let state = &self.lanes[lane];
        let scans = &self.backends[state.backend].shared.scans;
        let run_id = state.upstream.as_ref().map(|u| &u.run_id);
        let scanned = RequestScanner::default().scan(frame, &Limits::default());
        let fits = scans.fits(*iteration, &scanned.ok()??, frame, run_id);
        (!fits).then(|| iteration.anew(frame)).flatten()
    }

    /// The reply to a SCAN with the cursor as the client must say it.
    pub(in crate::proxy) fn scanned(
        &mut self,
        lane: usize,
        of: SessionRef,
        sort: &Sort,
        reply: Bytes,
    ) -> Bytes {
        let Sort::Scan(iteration, shard) = sort else {
            return reply;
        };
        let mut parts = crate::resp::reply::elements(&reply);
        let cursor = parts.next().and_then(crate::resp::reply::payload);
        let (Some(cursor), Some(keys)) = (cursor, parts.next()) else {
            return reply;
        };
        let state = &self.lanes[lane];
        if let Some(upstream) = &state.upstream {
            let scans = &self.backends[state.backend].shared.scans;
            scans.issued(*iteration, cursor, &upstream.run_id);
        }
        let Some(number) = shard else {
            return reply;
        };
        let cursor = std::str::from_utf8(cursor)
            .ok()
            .and_then(|c| c.parse::<u64>().ok())
            .unwrap_or(0);
        let ours = match cursor {
            0 => {
                let serving = self.session(of).is_some().then(|| self.serving(of.index));
                let mut later = serving.unwrap_or_default().into_iter().map(|(n, _)| n);
                later.find(|n| n > number).map_or(0, u64::from)
            }
            cursor if cursor >> (64 - SHARD_BITS) != 0 => {
                return own_error(OwnError::NotExecuted("the cursor of the node is too large"));
            }
            cursor => cursor << SHARD_BITS | u64::from(*number),
        };
        let mut out = BytesMut::with_capacity(keys.len() + 32);
        crate::resp::put_array(&mut out, 2);
        crate::resp::put_bulk(&mut out, ours.to_string().as_bytes());
        out.extend_from_slice(keys);
        out.freeze()
    }
}
