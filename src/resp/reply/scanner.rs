//! The scanner.

use crate::resp::error::ProtocolError;
use crate::resp::number::{self, Line};

/// Longest string in a reply, bytes: far above any `proto-max-bulk-len`, and below what would
/// overflow a sum.
const MAX_BULK: i64 = 1 << 40;

/// Most elements of one aggregate.
const MAX_ELEMENTS: i64 = 1 << 32;

/// Longest line of a simple string, error or number, bytes.
const MAX_REPLY_LINE: usize = 16 * 1024 * 1024;

/// Finds the end of a reply, RESP2 or RESP3, nested to any depth. An attribute belongs to the reply
/// behind it, and so does a push inside of an array: Redis before 7.2 puts a message there that a command
/// of the same EXEC caused, and does not count it as an element. Remembers how far it got in an incomplete
/// reply. Allocates nothing and checks no more than it must: that lengths are numbers and that lines and
/// strings end with CR LF.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    /// Offset of the next value. May lie beyond the bytes received: behind a string that is not
    /// complete yet.
    pos: usize,
    /// How far the end of the present line has been looked for.
    searched: usize,
    /// Values still to come, less one; so that 0 is right for a new frame.
    pending: u64,
    /// Whether a string ends at `pos`.
    after_bulk: bool,
}

impl ReplyScanner {
    /// Looks for the end of the reply that begins at the start of `buf`. `Ok(None)`: it is not
    /// complete; call again with the same bytes and more. `Ok(Some(len))`: the frame is
    /// `buf[..len]`, and the scanner is ready for the next one.
    ///
    /// # Errors
    /// The bytes are no reply; the connection is of no use any more.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.pos == 0
            && self.pending == 0
            && self.searched == 0
            && let Some(len) = scan_common(buf)
        {
            return Ok(Some(len));
        }
        self.scan_any(buf)
    }

    fn scan_any(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        loop {
            if self.pos > buf.len() {
                return Ok(None);
            }
            if self.after_bulk {
                if buf.get(self.pos - 2..self.pos) != Some(b"\r\n") {
                    return Err(ProtocolError::BulkEnd);
                }
                self.after_bulk = false;
                if self.value_done() {
                    return Ok(Some(self.finish()));
                }
            }
            let Some(&kind) = buf.get(self.pos) else {
                return Ok(None);
            };
            let complete = match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.skip_line(buf)?,
                b'$' | b'=' | b'!' => self.skip_bulk(buf, kind)?,
                b'*' | b'~' | b'>' | b'%' | b'|' => self.enter(buf, kind)?,
                b';' | b'.' => return Err(ProtocolError::Streamed),
                other => return Err(ProtocolError::ReplyType(other)),
            };
            match complete {
                Step::Incomplete => return Ok(None),
                Step::Entered => {}
                Step::Value if self.value_done() => return Ok(Some(self.finish())),
                Step::Value => {}
            }
        }
    }

    /// Bytes that the present, incomplete reply has at least, as far as its lengths were read. Never
    /// allocate from it.
    pub fn least_len(&self) -> usize {
        self.pos.max(self.searched)
    }

    /// One value was passed; whether it was the last one.
    #[inline]
    fn value_done(&mut self) -> bool {
        match self.pending.checked_sub(1) {
            Some(pending) => {
                self.pending = pending;
                false
            }
            None => true,
        }
    }

    #[inline]
    fn finish(&mut self) -> usize {
        let len = self.pos;
        *self = ReplyScanner::default();
        len
    }

    #[inline]
    fn skip_line(&mut self, buf: &[u8]) -> Result<Step, ProtocolError> {
        let mut from = self.searched.max(self.pos);
        while let Some(found) = buf.get(from..).and_then(|rest| memchr::memchr(b'\r', rest)) {
            let cr = from + found;
            match buf.get(cr + 1) {
                Some(b'\n') => {
                    self.pos = cr + 2;
                    return Ok(Step::Value);
                }
                Some(_) => from = cr + 1,
                None => {
                    self.searched = cr;
                    return Ok(Step::Incomplete);
                }
            }
        }
        self.searched = buf.len();
        if buf.len() - self.pos > MAX_REPLY_LINE {
            return Err(ProtocolError::ReplyLine);
        }
        Ok(Step::Incomplete)
    }

    #[inline]
    fn skip_bulk(&mut self, buf: &[u8], kind: u8) -> Result<Step, ProtocolError> {
        match number::line(buf, self.pos, &mut self.searched) {
            Line::Number(len @ 0..=MAX_BULK, after) => {
                self.pos = after + len as usize + 2;
                self.after_bulk = true;
                Ok(Step::Entered)
            }
            Line::Number(-1, after) if kind == b'$' => {
                self.pos = after;
                Ok(Step::Value)
            }
            Line::Invalid if buf.get(self.pos + 1) == Some(&b'?') => Err(ProtocolError::Streamed),
            Line::Number(..) | Line::Invalid => Err(ProtocolError::BulkLength),
            Line::Incomplete => Ok(Step::Incomplete),
            Line::TooLong => Err(ProtocolError::BulkLine),
        }
    }

    #[inline]
    fn enter(&mut self, buf: &[u8], kind: u8) -> Result<Step, ProtocolError> {
        let (elements, after) = match number::line(buf, self.pos, &mut self.searched) {
            Line::Number(-1, after) if kind == b'*' => {
                self.pos = after;
                return Ok(Step::Value);
            }
            Line::Number(elements @ 0..=MAX_ELEMENTS, after) => (elements as u64, after),
            Line::Invalid if buf.get(self.pos + 1) == Some(&b'?') => {
                return Err(ProtocolError::Streamed);
            }
            Line::Incomplete => return Ok(Step::Incomplete),
            Line::Number(..) | Line::Invalid | Line::TooLong => {
                return Err(ProtocolError::AggregateLength);
            }
        };
        let nested = self.pos > 0;
        self.pos = after;
        // The pairs of an attribute are values to pass before the value it belongs to.
        let values = match kind {
            b'%' | b'|' => elements * 2,
            _ => elements,
        };
        self.pending = self
            .pending
            .checked_add(values)
            .ok_or(ProtocolError::AggregateLength)?;
        // The aggregate itself is a value too; an attribute is not, nor is a push inside of another.
        Ok(match kind {
            b'|' => Step::Entered,
            b'>' if nested => Step::Entered,
            _ => Step::Value,
        })
    }
}

/// The replies that are most of the traffic, where they came whole: `+OK`, a short string, nothing, a small
/// number. `None`: look closer.
#[inline]
fn scan_common(buf: &[u8]) -> Option<usize> {
    match *buf {
        [b'$', b'-', b'1', b'\r', b'\n', ..] | [b'+', b'O', b'K', b'\r', b'\n', ..] => Some(5),
        [b'$', ..] => number::short_bulk(buf, 0).map(|(_, end)| end + 2),
        [b':', b'0'..=b'9', b'\r', b'\n', ..] => Some(4),
        _ => None,
    }
}

/// How far one step of the scan got.
enum Step {
    /// More bytes are needed.
    Incomplete,
    /// Something was passed that is not a whole value yet.
    Entered,
    /// A value was passed.
    Value,
}
