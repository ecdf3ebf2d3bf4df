//! What came on a connection and is no whole frame yet. Nothing, most of the time: frames are cut out of
//! the worker's scratch buffer, and only a frame that is larger than that grows in a buffer of its own.

use std::io;

use bytes::Bytes;

use super::queue::{LARGE, Spares};
use super::socket::Socket;

/// Room for one read at least.
const MIN_READ: usize = 4 * 1024;
/// Room that is made for a frame of which little came yet.
const MAX_GUESS: usize = 64 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Intake(Vec<u8>);

/// What one read brought.
pub(super) enum Came {
    /// Nothing at present.
    Nothing,
    /// The peer sends nothing more.
    End,
    /// `new` bytes; they and what came before are the first `len` of the scratch buffer.
    Scratch {
        /// See above.
        len: usize,
        /// See above.
        new: usize,
    },
    /// So many bytes, behind what came before.
    Kept(usize),
}

impl Intake {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Reads once. `least` is what the present frame has at least, as far as is known.
    #[inline]
    pub(super) fn read(
        &mut self,
        socket: &mut Socket,
        scratch: &mut [u8],
        least: usize,
        spares: &mut Spares,
    ) -> io::Result<Came> {
        let before = self.0.len();
        if before < LARGE && least <= scratch.len() {
            let came = socket.read(&mut scratch[before..])?;
            return Ok(match came {
                None => Came::Nothing,
                Some(0) => Came::End,
                Some(new) => {
                    if before > 0 {
                        scratch[..before].copy_from_slice(&self.0);
                        self.0 = Vec::new();
                    }
                    let len = before + new;
                    Came::Scratch { len, new }
                }
            });
        }
        make_room(&mut self.0, least, spares);
        Ok(match socket.read_more(&mut self.0)? {
            None => Came::Nothing,
            Some(0) => Came::End,
            Some(new) => Came::Kept(new),
        })
    }

    /// Keeps what is left of the scratch buffer.
    #[inline]
    pub(super) fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.0.extend_from_slice(rest);
        }
    }

    /// Takes everything out, as bytes that may be kept without a copy.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }

    /// Puts back what is left of [`Intake::take`] behind the first `done` bytes.
    pub(super) fn put_back(&mut self, all: Bytes, done: usize) {
        self.0 = match done {
            0 => all.into(),
            _ => all[done..].to_vec(),
        };
    }
}

/// Makes room behind a part of a frame of at least `least` bytes: for all that is missing, but never for
/// much more than came already, because a length that was only declared costs its sender nothing. Where there is a
/// spare buffer for all of it, that is taken.
fn make_room(buffer: &mut Vec<u8>, least: usize, spares: &mut Spares) {
    let missing = least.saturating_sub(buffer.len());
    if buffer.capacity() - buffer.len() >= missing.clamp(1, MIN_READ) {
        return;
    }
    // Where it is not known how much is missing the buffer grows by its share, or many small pieces would
    // be copied over and over.
    let room = match missing > MIN_READ {
        true => missing,
        false => (buffer.len() / 2).max(MIN_READ),
    };
    if let Some(mut spare) = spares.take_frame(buffer.len() + room) {
        spare.extend_from_slice(buffer);
        *buffer = spare;
        return;
    }
    let most = buffer.len().max(MAX_GUESS);
    // No small rest, for which it would have to grow once more.
    let most = if room <= most + MAX_GUESS { room } else { most };
    buffer.reserve_exact(room.min(most));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_what_is_missing_and_for_no_lie() {
        let mut spares = Spares::default();
        let mut buffer = vec![0; 100];
        make_room(&mut buffer, 512 * 1024 * 1024, &mut spares);
        assert!(buffer.capacity() <= 100 + MAX_GUESS);
        let mut buffer = vec![0; MAX_GUESS];
        make_room(&mut buffer, 2 * MAX_GUESS + 5, &mut spares);
        assert_eq!(buffer.capacity(), 2 * MAX_GUESS + 5);
        let mut buffer = vec![0; 1 << 20];
        make_room(&mut buffer, (1 << 20) + 5000, &mut spares);
        assert_eq!(buffer.capacity(), (1 << 20) + 5000);
        let mut buffer = vec![0; 1 << 20];
        make_room(&mut buffer, 0, &mut spares);
        assert!(buffer.capacity() - buffer.len() >= (1 << 20) / 2);
    }

    #[test]
    fn a_spare_buffer_is_used_before_new_memory() {
        let mut spares = Spares::default();
        spares.give_frame(Vec::with_capacity(1_200_000));
        let mut buffer = vec![7; 70_000];
        make_room(&mut buffer, 1 << 20, &mut spares);
        assert_eq!((buffer.len(), buffer.capacity()), (70_000, 1_200_000));
        assert!(buffer.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_left_comes_back_without_a_copy_when_nothing_was_done() {
        let mut intake = Intake(vec![7; 100_000]);
        let place = intake.as_slice().as_ptr();
        let all = intake.take();
        intake.put_back(all, 0);
        assert_eq!(
            (intake.0.len(), intake.as_slice().as_ptr()),
            (100_000, place)
        );
        let all = intake.take();
        intake.put_back(all, 99_999);
        assert_eq!(intake.as_slice(), [7]);
    }
}
