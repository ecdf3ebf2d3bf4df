//! Cursors of SCAN and its kin. A cursor is a place in the hash table of one process and means nothing
//! to another one. So it is remembered which process issued it: sent to another, the iteration begins
//! anew. That is what SCAN promises all the same: everything is seen, and some of it twice.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::resp::{Limits, Request, RequestScanner, encode_request};

/// Cursors remembered; of older ones nothing is known, and they are passed on as they are.
const MAX_CURSORS: usize = 10_000;

/// The cursors of one backend, shared by its workers.
#[derive(Default)]
pub(super) struct Scans(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// `run_id` of the process that issued it, and when.
    issued: HashMap<u64, (Arc<str>, u64)>,
    order: VecDeque<(u64, u64)>,
    last: u64,
}

/// What is iterated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iteration {
    /// Database, command and key.
    of: u64,
    /// The argument that is the cursor.
    at: usize,
}

impl Iteration {
    pub(super) fn new(db: u32, request: &Request, frame: &[u8]) -> Option<Iteration> {
        let name = request.arg(frame, 0)?.to_ascii_uppercase();
        let at = if name == b"SCAN" { 1 } else { 2 };
        let key = request.arg(frame, 1).filter(|_| at == 2);
        request.arg(frame, at)?;
        let mut hasher = DefaultHasher::new();
        (db, name, key).hash(&mut hasher);
        let of = hasher.finish();
        Some(Iteration { of, at })
    }

    fn place(&self, cursor: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.of, cursor).hash(&mut hasher);
        hasher.finish()
    }

    /// The request from the beginning of the iteration.
    pub(super) fn anew(&self, frame: &[u8]) -> Option<Bytes> {
        let request = RequestScanner::default()
            .scan(frame, &Limits::default())
            .ok()??;
        let mut args: Vec<&[u8]> = request.args(frame).collect();
        *args.get_mut(self.at)? = b"0";
        let mut again = BytesMut::with_capacity(frame.len());
        encode_request(&mut again, &args);
        Some(again.freeze())
    }
}

impl Scans {
    /// A process issued this cursor.
    pub(super) fn issued(&self, iteration: Iteration, cursor: &[u8], run_id: &Arc<str>) {
        if cursor == b"0" {
            return;
        }
        let place = iteration.place(cursor);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last += 1;
        let turn = inner.last;
        inner.issued.insert(place, (run_id.clone(), turn));
        inner.order.push_back((place, turn));
        while inner.order.len() > MAX_CURSORS
            && let Some((place, turn)) = inner.order.pop_front()
        {
            if inner.issued.get(&place).is_some_and(|(_, t)| *t == turn) {
                inner.issued.remove(&place);
            }
        }
    }

    /// Whether the cursor in this request may mean something to the process `run_id`.
    pub(super) fn fits(
        &self,
        iteration: Iteration,
        request: &Request,
        frame: &[u8],
        run_id: Option<&Arc<str>>,
    ) -> bool {
        let cursor = request.arg(frame, iteration.at).unwrap_or(b"0");
        let place = iteration.place(cursor);
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = inner.issued.get(&place);
        issued.is_none_or(|(by, _)| Some(by) == run_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&[u8]]) -> (Request, BytesMut) {
        let mut frame = BytesMut::new();
        encode_request(&mut frame, words);
        let request = RequestScanner::default().scan(&frame, &Limits::default());
        (request.unwrap().unwrap(), frame)
    }

    #[test]
    fn a_cursor_fits_the_process_that_issued_it() {
        let (scans, a, b) = (Scans::default(), Arc::from("a"), Arc::from("b"));
        let (next, frame) = request(&[b"hscan", b"h", b"17", b"COUNT", b"5"]);
        let iteration = Iteration::new(0, &next, &frame).unwrap();
        let fits = |run_id| scans.fits(iteration, &next, &frame, run_id);
        assert!(fits(Some(&a)) && fits(None), "nothing is known of it");
        scans.issued(iteration, b"17", &a);
        assert!(fits(Some(&a)) && !fits(Some(&b)) && !fits(None));
        let (other, other_frame) = request(&[b"HSCAN", b"other", b"17"]);
        let elsewhere = Iteration::new(0, &other, &other_frame).unwrap();
        assert!(scans.fits(elsewhere, &other, &other_frame, Some(&b)));
        let (_, expected) = request(&[b"hscan", b"h", b"0", b"COUNT", b"5"]);
        assert_eq!(iteration.anew(&frame).unwrap(), expected);
    }

    #[test]
    fn so_many_cursors_are_remembered_and_no_more() {
        let (scans, a) = (Scans::default(), Arc::from("a"));
        let (next, frame) = request(&[b"SCAN", b"1"]);
        let iteration = Iteration::new(0, &next, &frame).unwrap();
        for cursor in 1..=2 * MAX_CURSORS {
            scans.issued(iteration, cursor.to_string().as_bytes(), &a);
        }
        assert_eq!(scans.0.lock().unwrap().issued.len(), MAX_CURSORS);
        assert!(scans.fits(iteration, &next, &frame, None), "forgotten");
    }
}
