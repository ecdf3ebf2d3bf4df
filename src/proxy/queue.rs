//! Bytes on their way to a socket: appended at the tail, written from anywhere, dropped at the head.
//! Small pieces are gathered into chunks; a large one is kept as it is.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::RangeInclusive;

use bytes::Bytes;

/// A piece of at least this many bytes is kept as a chunk of its own when it is owned already.
pub(super) const LARGE: usize = 16 * 1024;

const CHUNK: usize = 16 * 1024;
const MAX_SPARES: usize = 64;
/// Buffers of large frames that are kept, each and all together, bytes.
const SPARE_FRAME: RangeInclusive<usize> = 4 * CHUNK..=4 * 1024 * 1024;
const SPARE_FRAMES: usize = 16 * 1024 * 1024;

/// Empty buffers of one worker, so that an idle session or lane holds none, and that a large frame is read to memory
/// that is there already: new memory costs a page fault for every 4 KB.
#[derive(Default)]
pub(super) struct Spares {
    chunks: Vec<Vec<u8>>,
    /// For large frames; the last was used last.
    frames: Vec<Vec<u8>>,
    /// Bytes of those.
    frames_size: usize,
    /// The fewest there were since [`Spares::release_unused`].
    unused: usize,
}

impl Spares {
    #[inline]
    fn take(&mut self) -> Vec<u8> {
        self.chunks
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    #[inline]
    fn give(&mut self, mut buffer: Vec<u8>) {
        let ours = buffer.capacity() >= CHUNK && buffer.capacity() <= 2 * CHUNK;
        if ours && self.chunks.len() < MAX_SPARES {
            buffer.clear();
            self.chunks.push(buffer);
        }
    }

    /// A buffer for a frame of `size` bytes and little more: what is read behind the frame has to be copied.
    pub(super) fn take_frame(&mut self, size: usize) -> Option<Vec<u8>> {
        let sizes = self.frames.iter().map(Vec::capacity).enumerate();
        let near = sizes.filter(|(_, found)| (size..=size + size / 4).contains(found));
        // Of equal ones the last, which may still be in the processor's cache.
        let (index, found) = near.max_by_key(|(_, found)| Reverse(*found))?;
        self.frames_size -= found;
        let frame = self.frames.remove(index);
        self.unused = self.unused.min(self.frames.len());
        Some(frame)
    }

    /// Takes back what nobody needs any more, instead of the oldest ones where it is too much.
    pub(super) fn give_frame(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if SPARE_FRAME.contains(&size) {
            buffer.clear();
            self.frames_size += size;
            self.frames.push(buffer);
            while self.frames_size > SPARE_FRAMES {
                self.frames_size -= self.frames.remove(0).capacity();
                // The oldest are those that were not needed.
                self.unused = self.unused.saturating_sub(1);
            }
        }
    }

    /// The same, where this is all that is left of it.
    fn give_bytes(&mut self, bytes: Bytes) {
        if let Ok(mut bytes) = bytes.try_into_mut() {
            // Nothing has to be moved to the front then.
            bytes.clear();
            self.give_frame(bytes.into());
        }
    }

    /// Frees the buffers of large frames that were not needed since the last call.
    pub(super) fn release_unused(&mut self) {
        let freed = self.frames.drain(..self.unused);
        self.frames_size -= freed.map(|frame| frame.capacity()).sum::<usize>();
        self.unused = self.frames.len();
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
            match self.chunks.pop_front() {
                Some(Chunk::Gathered(buffer)) => spares.give(buffer),
                Some(Chunk::Large(bytes)) => spares.give_bytes(bytes),
                None => return,
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
    fn a_large_piece_gives_its_memory_back_when_it_is_done_with() {
        let (mut queue, mut spares) = (ByteQueue::default(), Spares::default());
        let frame = vec![b'x'; 100_000];
        let place = frame.as_ptr();
        let bytes = Bytes::from(frame);
        queue.push_owned(bytes.slice(10..90_000), &mut spares);
        drop(bytes);
        queue.consume(89_990, &mut spares);
        let again = spares.take_frame(90_000);
        assert_eq!(
            again.map(|buffer| (buffer.as_ptr(), buffer.len(), buffer.capacity())),
            Some((place, 0, 100_000))
        );
    }

    #[test]
    fn a_large_piece_that_somebody_else_holds_is_left_alone() {
        let (mut queue, mut spares) = (ByteQueue::default(), Spares::default());
        let bytes = Bytes::from(vec![b'x'; 100_000]);
        queue.push_owned(bytes.clone(), &mut spares);
        queue.consume(100_000, &mut spares);
        assert!(spares.take_frame(100_000).is_none());
        assert!(bytes.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn the_smallest_buffer_that_fits_is_taken() {
        for (size, taken) in [
            (180_000, Some(200_000)),
            (200_000, Some(200_000)),
            (250_000, Some(300_000)),
            // It would be read to far behind the frame.
            (120_000, None),
            (301_000, None),
        ] {
            let mut spares = Spares::default();
            for size in [300_000, 100_000, 200_000, 210_000] {
                spares.give_frame(Vec::with_capacity(size));
            }
            let buffer = spares.take_frame(size);
            assert_eq!(buffer.map(|b| b.capacity()), taken, "{size}");
        }
    }

    #[test]
    fn only_what_was_not_needed_for_a_while_is_freed() {
        let mut spares = Spares::default();
        for _ in 0..3 {
            spares.give_frame(Vec::with_capacity(100_000));
        }
        spares.release_unused();
        let two = [(); 2].map(|()| spares.take_frame(100_000));
        two.into_iter().flatten().for_each(|b| spares.give_frame(b));
        spares.release_unused();
        assert_eq!(spares.frames.len(), 2);
        spares.release_unused();
        assert!(spares.frames.is_empty());
    }

    #[test]
    fn unused_ones_that_had_to_go_for_a_larger_one_are_not_freed_again() {
        let mut spares = Spares::default();
        for _ in 0..16 {
            spares.give_frame(Vec::with_capacity(1024 * 1024));
        }
        spares.release_unused();
        spares.give_frame(Vec::with_capacity(4 * 1024 * 1024));
        spares.release_unused();
        spares.release_unused();
        assert_eq!((spares.frames_size, spares.frames.len()), (0, 0));
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let mut spares = Spares::default();
        for size in [CHUNK, 5 * 1024 * 1024] {
            spares.give_frame(Vec::with_capacity(size));
            assert_eq!(spares.frames_size, 0);
        }
        for _ in 0..100 {
            spares.give_frame(Vec::with_capacity(1024 * 1024));
        }
        assert_eq!(spares.frames_size, SPARE_FRAMES);
        // The oldest had to go.
        spares.give_frame(Vec::with_capacity(2 * 1024 * 1024));
        assert_eq!(spares.frames_size, SPARE_FRAMES);
        assert!(spares.take_frame(2 * 1024 * 1024).is_some());
        spares.release_unused();
        spares.release_unused();
        assert_eq!((spares.frames_size, spares.frames.len()), (0, 0));
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
