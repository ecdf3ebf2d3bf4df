//! A run: plain requests that one client sent side by side, all of one class, as one entry of a lane instead
//! of many. Whatever is not about all of them, as an error reply, a half write or a lost connection, takes it
//! apart first; where its requests end is looked for again then.

use bytes::Bytes;

use super::entry::{Entry, Kind};
use super::lane::Lane;
use crate::resp::{Limits, RequestScanner};

impl Entry {
    /// See the module.
    #[inline]
    pub(super) fn is_run(&self) -> bool {
        self.replies > 1 && self.session.is_some() && matches!(self.kind, Kind::Plain)
    }

    /// Requests that it stands for.
    pub(super) fn requests(&self) -> u32 {
        if self.is_run() { self.replies } else { 1 }
    }

    /// Every request of a run for itself.
    pub(super) fn each(self, bytes: &[Bytes]) -> Vec<(Entry, Vec<Bytes>)> {
        let bytes = match bytes {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        let mut each = Vec::with_capacity(self.replies as usize);
        let mut at = 0;
        for _ in 0..self.replies {
            let (_, len) = whole_requests(&bytes[at..], 1);
            let mut entry = Entry {
                kind: Kind::Plain,
                ..self
            };
            (entry.replies, entry.len) = (1, len);
            each.push((entry, vec![bytes.slice(at..at + len)]));
            at += len;
        }
        debug_assert_eq!(at, bytes.len());
        each
    }
}

impl Lane {
    /// Of a run that the kernel took a part of, the whole requests are sent, and may run.
    #[cold]
    pub(super) fn part_half_written(&mut self) {
        let taken = self.written - self.sent_bytes;
        let Some(entry) = self.queue.get(self.sent).filter(|entry| entry.is_run()) else {
            return;
        };
        let bytes = self.log.copy(self.sent_bytes, taken.min(entry.len));
        let (requests, len) = whole_requests(&bytes, entry.replies);
        if requests > 0 {
            self.part(self.sent, requests, len);
            self.sent_bytes += len;
            self.sent += 1;
        }
    }

    /// Parts a run behind its first `requests`, which have `len` bytes.
    fn part(&mut self, position: usize, requests: u32, len: usize) {
        let Some(entry) = self.queue.get_mut(position) else {
            return;
        };
        let mut rest = Entry {
            kind: Kind::Plain,
            ..*entry
        };
        rest.replies -= requests;
        rest.len -= len;
        (entry.replies, entry.len) = (requests, len);
        self.queue.insert(position + 1, rest);
    }

    /// Makes a request of its own of the first one of a run at the head, for what is not about all of them.
    pub(super) fn part_head(&mut self) {
        debug_assert_eq!(self.answered, 0);
        let Some(head) = self.queue.front().filter(|head| head.is_run()) else {
            return;
        };
        let piece = self.log.first_piece();
        let mut first = whole_requests(&piece[..piece.len().min(head.len)], 1);
        if first.0 == 0 {
            first = whole_requests(&self.log.copy(0, head.len), 1);
        }
        self.part(0, first.0, first.1);
        self.sent += usize::from(self.sent > 0);
    }

    /// Of the run at the head all but the last `left` are answered.
    pub(super) fn answer_head(&mut self, left: u32) {
        let Some(head) = self.queue.front_mut() else {
            return;
        };
        let bytes = self.log.copy(self.answered, head.len);
        let (_, len) = whole_requests(&bytes, head.replies - left);
        head.replies = left;
        head.len -= len;
        self.answered += len;
    }
}

/// Whole requests at the start of `bytes`, at most `most`, and how long they are. They were requests when
/// they came.
fn whole_requests(bytes: &[u8], most: u32) -> (u32, usize) {
    let mut scanner = RequestScanner::default();
    let (mut count, mut at) = (0, 0);
    while count < most
        && let Ok(Some(request)) = scanner.scan(&bytes[at..], &Limits::default())
    {
        at += request.len;
        count += 1;
    }
    (count, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::proxy::entry::SessionRef;
    use crate::proxy::lane::LaneKey;
    use crate::proxy::queue::Spares;
    use crate::proxy::settings::Retry;
    use crate::resp::Replay;

    const CLIENT: SessionRef = SessionRef {
        index: 1,
        serial: 1,
    };

    /// A lane beside the requests on it, each with its bytes.
    struct Scene {
        lane: Lane,
        spares: Spares,
        requests: Vec<Vec<u8>>,
        written: usize,
        seed: u64,
    }

    impl Scene {
        fn random(&mut self, below: usize) -> usize {
            let factor = 6_364_136_223_846_793_005;
            self.seed = self.seed.wrapping_mul(factor).wrapping_add(1);
            (self.seed >> 33) as usize % below
        }

        fn push(&mut self) {
            let count = 1 + self.random(20);
            let mut bytes = Vec::new();
            for _ in 0..count {
                let size = [3, 70, 900, 9_000][self.random(4)];
                let request = format!("*2\r\n$4\r\nINCR\r\n${size}\r\n{}\r\n", "k".repeat(size));
                bytes.extend_from_slice(request.as_bytes());
                self.requests.push(request.into_bytes());
            }
            let now = clock::now();
            let mut entry = Entry::new(CLIENT, bytes.len(), Replay::Never, now, Kind::Plain);
            entry.replies = count as u32;
            self.lane.push(entry, &bytes, &mut self.spares);
        }

        fn write(&mut self) {
            let left = self.lane.log.len() - self.lane.written;
            let n = self.random(left + 1);
            self.lane.wrote(n);
            self.written += n;
        }

        /// Whole requests that were written.
        fn sent(&self) -> usize {
            let mut end = 0;
            let ends = self.requests.iter().map(|request| {
                end += request.len();
                end
            });
            ends.take_while(|end| *end <= self.written).count()
        }

        fn answered(&mut self, request: usize) {
            for request in self.requests.drain(..request) {
                self.written -= request.len();
            }
            let bytes: usize = self.requests.iter().map(Vec::len).sum();
            assert_eq!(self.lane.log.len(), bytes);
            assert_eq!(self.lane.written, self.written);
            assert_eq!(self.lane.requests(), self.requests.len() as u64);
        }

        /// As replies do that need nothing but to be passed on.
        fn answer(&mut self) {
            let sent = self.sent();
            let count = self.random(sent + 1);
            let mut left = count as u32;
            while left > 0 {
                let replies = self.lane.queue[0].replies;
                if replies > left {
                    self.lane.answer_head(replies - left);
                } else {
                    self.lane.pop_answered();
                }
                left -= left.min(replies);
            }
            self.lane.drop_answered(&mut self.spares);
            self.answered(count);
        }

        /// As an error reply does.
        fn answer_one(&mut self) {
            if self.sent() == 0 {
                return;
            }
            self.lane.part_head();
            let entry = self.lane.pop(&mut self.spares).unwrap();
            assert_eq!((entry.replies, entry.len), (1, self.requests[0].len()));
            self.answered(1);
        }
    }

    #[test]
    fn a_run_is_the_same_as_its_requests_one_by_one() {
        for seed in 0..200 {
            let mut scene = Scene {
                lane: Lane::new(0, LaneKey::initial(0), None, clock::now()),
                spares: Spares::default(),
                requests: Vec::new(),
                written: 0,
                seed,
            };
            for _ in 0..100 {
                match scene.random(4) {
                    0 => scene.push(),
                    1 => scene.write(),
                    2 => scene.answer(),
                    _ => scene.answer_one(),
                }
                let unsent = scene.requests.len() - scene.sent();
                assert_eq!(scene.lane.unsent(), unsent as u64, "seed {seed}");
            }
            // What was sent may have run, to the last whole request; the rest is sent again as it is.
            let sent = scene.sent();
            let Scene {
                mut lane,
                requests,
                mut spares,
                ..
            } = scene;
            let losses = lane.lose(Retry::Idempotent, clock::now(), |_| true, &mut spares);
            assert_eq!(losses.unknown, sent as u64, "seed {seed}");
            let local = lane.queue.iter().take_while(|entry| entry.replies == 0);
            assert_eq!(local.count(), sent, "seed {seed}");
            let kept = lane.log.copy(0, lane.log.len());
            assert_eq!(kept, requests[sent..].concat(), "seed {seed}");
            let waiting: u32 = lane.queue.iter().skip(sent).map(Entry::requests).sum();
            assert_eq!(waiting as usize, requests.len() - sent, "seed {seed}");
        }
    }
}
