//! Bytes on their way to a socket: appended at the tail, written from anywhere, dropped at the head.
//! Small pieces are gathered into chunks; a large one is kept as it is.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// A piece of at least this many bytes is kept as a chunk of its own when it is owned already.
pub(super) const LARGE: usize = 16 * 1024;

const CHUNK: usize = 16 * 1024;
const MAX_SPARES: usize = 64;

/// Empty buffers of one worker, so that an idle session or lane holds none.
#[derive(Default)]
pub(super) struct Spares(Vec<Vec<u8>>);

impl Spares {
    #[inline]
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    #[inline]
    fn give(&mut self, mut buffer: Vec<u8>) {
        let ours = buffer.capacity() >= CHUNK && buffer.capacity() <= 2 * CHUNK;
        if ours && self.0.len() < MAX_SPARES {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

enum Chunk {
    Gathered(Vec<u8>),
    Large(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Gathered(bytes) => bytes,
            Chunk::Large(bytes) => bytes,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct ByteQueue {
    /// Everything before the tail; most of the time that is nothing.
    chunks: VecDeque<Chunk>,
    /// Where small pieces are gathered.
    tail: Vec<u8>,
    /// Bytes of the first chunk (or of the tail) that were dropped already.
    head: usize,
    len: usize,
}

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.len += bytes.len();
        if self.tail.capacity() - self.tail.len() >= bytes.len() {
            self.tail.extend_from_slice(bytes);
        } else {
            self.push_more(bytes, spares);
        }
    }

    /// The same where the tail has no room for all of it.
    fn push_more(&mut self, mut bytes: &[u8], spares: &mut Spares) {
        if bytes.len() > 4 * CHUNK {
            self.end_tail(spares);
            self.chunks
                .push_back(Chunk::Large(Bytes::copy_from_slice(bytes)));
            return;
        }
        if self.tail.capacity() == 0 {
            self.tail = spares.take();
        }
        loop {
            let room = self.tail.capacity() - self.tail.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.tail.extend_from_slice(now);
            bytes = later;
            if bytes.is_empty() {
                return;
            }
            self.end_tail(spares);
            self.tail = spares.take();
        }
    }

    /// What comes next goes behind the tail.
    fn end_tail(&mut self, spares: &mut Spares) {
        let tail = std::mem::take(&mut self.tail);
        if tail.is_empty() {
            spares.give(tail);
        } else {
            self.chunks.push_back(Chunk::Gathered(tail));
        }
    }

    /// Appends `bytes` without copying them when they are large.
    pub(super) fn push_owned(&mut self, bytes: Bytes, spares: &mut Spares) {
        if bytes.len() < LARGE {
            self.push(&bytes, spares);
        } else {
            self.len += bytes.len();
            self.end_tail(spares);
            self.chunks.push_back(Chunk::Large(bytes));
        }
    }

    /// Everything, where it is in one piece.
    #[inline]
    pub(super) fn only(&self) -> Option<&[u8]> {
        self.chunks.is_empty().then(|| &self.tail[self.head..])
    }

    /// Fills `out` with what follows the first `from` bytes; returns how many slices it filled.
    pub(super) fn slices<'a>(&'a self, from: usize, out: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.head + from;
        let mut filled = 0;
        let pieces = self.chunks.iter().map(Chunk::as_slice);
        for bytes in pieces.chain([self.tail.as_slice()]) {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            if filled == out.len() {
                break;
            }
            out[filled] = IoSlice::new(&bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// What stands at the head in one piece.
    pub(super) fn first_piece(&self) -> &[u8] {
        let first = self.chunks.front().map_or(&self.tail[..], Chunk::as_slice);
        &first[self.head..]
    }

    /// A copy of `len` bytes that follow the first `from`.
    pub(super) fn copy(&self, from: usize, len: usize) -> Vec<u8> {
        let (mut skip, mut copy) = (self.head + from, Vec::with_capacity(len));
        let pieces = self.chunks.iter().map(Chunk::as_slice);
        for bytes in pieces.chain([self.tail.as_slice()]) {
            let piece = &bytes[skip.min(bytes.len())..];
            skip -= bytes.len() - piece.len();
            copy.extend_from_slice(&piece[..piece.len().min(len - copy.len())]);
        }
        copy
    }

    /// Drops the first `n` bytes.
    #[inline]
    pub(super) fn consume(&mut self, n: usize, spares: &mut Spares) {
        debug_assert!(n <= self.len);
        self.len -= n;
        self.head += n;
        if self.len == 0 && self.chunks.is_empty() {
            self.head = 0;
            spares.give(std::mem::take(&mut self.tail));
        } else if !self.chunks.is_empty() {
            self.drop_chunks(spares);
        }
    }

    fn drop_chunks(&mut self, spares: &mut Spares) {
        while let Some(first) = self.chunks.front() {
            let size = first.as_slice().len();
            if self.head < size {
                return;
            }
            self.head -= size;
            if let Some(Chunk::Gathered(buffer)) = self.chunks.pop_front() {
                spares.give(buffer);
            }
        }
        if self.len == 0 {
            self.head = 0;
            spares.give(std::mem::take(&mut self.tail));
        }
    }

    /// Takes the first `n` bytes out; large pieces are not copied.
    pub(super) fn split(&mut self, n: usize, spares: &mut Spares) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut left = n;
        while left > 0 {
            let (bytes, large) = match self.chunks.front() {
                Some(Chunk::Large(bytes)) => (bytes.as_ref(), Some(bytes)),
                Some(Chunk::Gathered(bytes)) => (bytes.as_slice(), None),
                None => (self.tail.as_slice(), None),
            };
            let take = (bytes.len() - self.head).min(left);
            if take == 0 {
                break;
            }
            let range = self.head..self.head + take;
            pieces.push(match large {
                Some(large) => large.slice(range),
                None => Bytes::copy_from_slice(&bytes[range]),
            });
            left -= take;
            self.consume(take, spares);
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &ByteQueue, from: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = queue.slices(from, &mut slices);
        slices[..filled]
            .iter()
            .flat_map(|s| s.iter().copied())
            .collect()
    }

    #[test]
    fn keeps_order_over_gathered_and_large_pieces() {
        let (mut queue, mut spares) = (ByteQueue::default(), Spares::default());
        queue.push(b"abc", &mut spares);
        queue.push_owned(Bytes::from(vec![b'x'; LARGE]), &mut spares);
        queue.push(b"def", &mut spares);
        assert_eq!(queue.len(), LARGE + 6);
        assert_eq!(&contents(&queue, LARGE + 3), b"def");
        queue.consume(2, &mut spares);
        assert_eq!(contents(&queue, 0)[..2], *b"cx");
        queue.consume(LARGE + 1, &mut spares);
        assert_eq!(contents(&queue, 0), b"def");
        queue.consume(3, &mut spares);
        assert!(queue.is_empty() && queue.chunks.is_empty() && queue.tail.capacity() == 0);
    }

    #[test]
    fn split_takes_from_the_head() {
        let (mut queue, mut spares) = (ByteQueue::default(), Spares::default());
        queue.push(b"abcdef", &mut spares);
        assert_eq!(queue.split(4, &mut spares).concat(), b"abcd");
        assert_eq!(contents(&queue, 0), b"ef");
    }

    #[test]
    fn any_mix_of_pushes_and_consumes_gives_the_same_bytes() {
        let (mut queue, mut spares) = (ByteQueue::default(), Spares::default());
        let (mut expected, mut seed) = (Vec::new(), 7u64);
        for step in 0..2_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let size = (seed >> 33) as usize % 40_000;
            if seed >> 63 == 0 {
                let bytes = vec![step as u8; size];
                expected.extend_from_slice(&bytes);
                queue.push(&bytes, &mut spares);
            } else {
                let n = size.min(queue.len());
                queue.consume(n, &mut spares);
                expected.drain(..n);
            }
            assert_eq!(queue.len(), expected.len());
        }
        let pieces = queue.split(expected.len(), &mut spares);
        assert_eq!(pieces.concat(), expected);
    }
}
