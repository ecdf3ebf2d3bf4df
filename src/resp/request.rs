//! Finds requests in what a client sends.
//!
//! A request is scanned once and not decoded: the scanner tells where it ends and where its first
//! arguments are. Rules, limits and error texts are those of Redis (`processMultibulkBuffer`,
//! `processInlineBuffer` and `sdssplitargs` there), with the exception named at
//! [`ProtocolError::BulkEnd`].

use super::error::ProtocolError;
use super::inline;
use super::number::{self, Line, MAX_LINE};

pub use super::inline::rewrite_inline;

/// Arguments whose place a [`Request`] knows without a walk over the frame.
const SPANS: usize = 4;

/// Bounds on a request. The defaults are those of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments of one request. Redis 6 takes 1,048,576; Redis 7 more, but a request that only
    /// some servers take must not travel over a shared connection.
    pub max_args: usize,
    /// Bytes of one argument, `proto-max-bulk-len` of Redis.
    pub max_bulk: usize,
    /// Bytes of an inline request.
    pub max_inline: usize,
}

impl Limits {
    /// Those of Redis.
    pub const DEFAULT: Limits = Limits {
        max_args: 1024 * 1024,
        max_bulk: 512 * 1024 * 1024,
        max_inline: MAX_LINE,
    };

    /// Those of Redis for who must log in and has not.
    pub const OF_STRANGERS: Limits = Limits {
        max_args: 10,
        max_bulk: 16 * 1024,
        ..Limits::DEFAULT
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

/// Place of an argument, bytes from the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

/// Finds requests in a client's byte stream. Remembers how far it got in an incomplete request, so
/// that a large one that arrives in small pieces is not scanned twice.
#[derive(Clone, Debug, Default)]
pub struct RequestScanner {
    /// Offset of the next line with a length. May lie beyond the bytes received: behind an argument
    /// that is not complete yet. 0: nothing of the frame was scanned.
    pos: usize,
    /// How far the end of the present line has been looked for.
    searched: usize,
    /// Arguments declared.
    argc: u32,
    /// Arguments whose length line was read.
    seen: u32,
    spans: [Span; SPANS],
}

/// One request: its place in the buffer and the places of its first arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of the whole frame.
    pub len: usize,
    /// Arguments, the command's name included. 0: an empty line or `*0`, which gets no reply.
    pub argc: usize,
    /// Whether it is a line of text instead of RESP. Its arguments can not be read in place, for
    /// they may be quoted: see [`rewrite_inline`].
    pub inline: bool,
    spans: [Span; SPANS],
    /// Spans that are set.
    spanned: u8,
}

impl RequestScanner {
    /// Looks for the end of the request that begins at the start of `buf`. `Ok(None)`: it is not
    /// complete; call again with the same bytes and more. `Ok(Some(_))`: the frame is
    /// `buf[..request.len]`, and the scanner is ready for the next one.
    ///
    /// # Errors
    /// The bytes are no request; nothing behind them can be one either.
    // Passing a request back through memory costs more than finding it.
    #[inline(always)]
    pub fn scan(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        if self.pos == 0
            && self.searched == 0
            && let Some(request) = scan_common(buf)
        {
            return Ok(Some(request));
        }
        self.scan_any(buf, limits)
    }

    fn scan_any(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        if self.pos == 0 {
            match buf.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return self.scan_inline(buf, limits),
            }
            let (declared, after) = match number::line(buf, 0, &mut self.searched) {
                Line::Number(number, after) => (number, after),
                Line::Invalid => return Err(ProtocolError::MultibulkLength),
                Line::Incomplete => return Ok(None),
                Line::TooLong => return Err(ProtocolError::MultibulkLine),
            };
            if declared <= 0 {
                *self = RequestScanner::default();
                return Ok(Some(Request::empty(after, false)));
            }
            self.argc = match u32::try_from(declared) {
                Ok(argc) if argc as usize <= limits.max_args => argc,
                _ => return Err(ProtocolError::MultibulkLength),
            };
            self.pos = after;
        }
        self.scan_args(buf, limits)
    }

    /// Bytes that the present, incomplete request has at least, as far as its lengths were read:
    /// for a bound on its size before it has arrived. Never allocate from it.
    pub fn least_len(&self) -> usize {
        self.pos.max(self.searched)
    }

    #[inline]
    fn scan_args(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        loop {
            if self.pos > buf.len() {
                return Ok(None);
            }
            if self.seen > 0 && buf.get(self.pos - 2..self.pos) != Some(b"\r\n") {
                return Err(ProtocolError::BulkEnd);
            }
            if self.seen == self.argc {
                return Ok(Some(self.finish()));
            }
            let Some(&kind) = buf.get(self.pos) else {
                return Ok(None);
            };
            let line = number::line(buf, self.pos, &mut self.searched);
            let (declared, after) = match line {
                Line::Incomplete => return Ok(None),
                Line::TooLong => return Err(ProtocolError::BulkLine),
                _ if kind != b'$' => return Err(ProtocolError::ExpectedBulk(kind)),
                Line::Number(number, after) => (number, after),
                Line::Invalid => return Err(ProtocolError::BulkLength),
            };
            let len = match usize::try_from(declared) {
                Ok(len) if len <= limits.max_bulk => len,
                _ => return Err(ProtocolError::BulkLength),
            };
            if let Some(span) = self.spans.get_mut(self.seen as usize) {
                // Beyond 4 GiB there is no span; such an argument is found by a walk.
                if let (Ok(start), Ok(len)) = (u32::try_from(after), u32::try_from(len)) {
                    *span = Span { start, len };
                }
            }
            self.seen += 1;
            self.pos = after + len + 2;
        }
    }

    #[inline]
    fn finish(&mut self) -> Request {
        let known = (self.argc as usize).min(SPANS);
        // An argument never begins at offset 0, so that marks a span that was too far away.
        let spanned = self.spans[..known]
            .iter()
            .position(|span| span.start == 0)
            .unwrap_or(known);
        let request = Request {
            len: self.pos,
            argc: self.argc as usize,
            inline: false,
            spans: self.spans,
            spanned: spanned as u8,
        };
        *self = RequestScanner::default();
        request
    }

    #[cold]
    fn scan_inline(
        &mut self,
        buf: &[u8],
        limits: &Limits,
    ) -> Result<Option<Request>, ProtocolError> {
        let begin = self.searched.min(buf.len());
        // To Redis the buffer ends at a NUL: what stands behind one is never found.
        let found = memchr::memchr2(b'\n', 0, &buf[begin..]).map(|at| begin + at);
        let Some(newline) = found.filter(|at| buf[*at] == b'\n') else {
            self.searched = found.unwrap_or(buf.len());
            return if buf.len() > limits.max_inline {
                Err(ProtocolError::InlineLine)
            } else {
                Ok(None)
            };
        };
        if newline > limits.max_inline {
            return Err(ProtocolError::InlineLine);
        }
        let argc = inline::split(&buf[..newline], |_| {})?;
        *self = RequestScanner::default();
        Ok(Some(Request {
            argc,
            ..Request::empty(newline + 1, true)
        }))
    }
}

/// A request of up to nine short arguments that came whole, as nearly all do. `None`: look closer.
#[inline(always)]
fn scan_common(buf: &[u8]) -> Option<Request> {
    let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = *buf else {
        return None;
    };
    let argc = usize::from(count - b'0');
    let mut spans = [Span::default(); SPANS];
    let mut at = 4;
    for i in 0..argc {
        let (start, end) = number::short_bulk(buf, at)?;
        if let Some(span) = spans.get_mut(i) {
            // Nine arguments of less than 1000 bytes.
            let (start, len) = (start as u32, (end - start) as u32);
            *span = Span { start, len };
        }
        at = end + 2;
    }
    Some(Request {
        len: at,
        argc,
        inline: false,
        spans,
        spanned: argc.min(SPANS) as u8,
    })
}

impl Request {
    fn empty(len: usize, inline: bool) -> Self {
        Request {
            len,
            argc: 0,
            inline,
            spans: [Span::default(); SPANS],
            spanned: 0,
        }
    }

    /// Argument `i` (0 is the command's name) of `frame`, the bytes this request was found in. The
    /// first four at once, a later one by a walk over those before it. `None` when there is no such
    /// argument, and for inline requests.
    #[inline]
    pub fn arg<'a>(&self, frame: &'a [u8], i: usize) -> Option<&'a [u8]> {
        if i < usize::from(self.spanned) {
            let Span { start, len } = self.spans[i];
            return frame.get(start as usize..start as usize + len as usize);
        }
        self.args(frame).nth(i)
    }

    /// All arguments of `frame` in order; none for inline requests.
    pub fn args<'a>(&self, frame: &'a [u8]) -> Args<'a> {
        let left = if self.inline { 0 } else { self.argc };
        let pos = memchr::memchr(b'\n', frame).map_or(frame.len(), |lf| lf + 1);
        Args { frame, pos, left }
    }
}

/// The arguments of one request; see [`Request::args`].
#[derive(Clone, Debug)]
pub struct Args<'a> {
    frame: &'a [u8],
    pos: usize,
    left: usize,
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Line::Number(len, after) = number::line(self.frame, self.pos, &mut 0) else {
            self.left = 0;
            return None;
        };
        let arg = self
            .frame
            .get(after..after.checked_add(usize::try_from(len).ok()?)?);
        match arg {
            Some(arg) => self.pos = after + arg.len() + 2,
            None => self.left = 0,
        }
        arg
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<Request>, ProtocolError> {
        RequestScanner::default().scan(bytes, &Limits::default())
    }

    fn args(bytes: &[u8]) -> Vec<Vec<u8>> {
        let request = scan(bytes).unwrap().unwrap();
        if request.inline {
            let rewritten = rewrite_inline(&bytes[..request.len]).unwrap();
            if request.argc == 0 {
                return Vec::new();
            }
            assert_eq!(scan(&rewritten).unwrap().unwrap().argc, request.argc);
            return args(&rewritten);
        }
        let frame = &bytes[..request.len];
        let args: Vec<_> = request.args(frame).map(<[u8]>::to_vec).collect();
        assert_eq!(args.len(), request.argc);
        for (i, arg) in args.iter().enumerate() {
            assert_eq!(request.arg(frame, i), Some(arg.as_slice()));
        }
        assert_eq!(request.arg(frame, args.len()), None);
        args
    }

    fn error(bytes: &[u8]) -> String {
        scan(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_request_is_found_with_its_arguments() {
        let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\nv\r\n1\r\n*1\r\n$4\r\nPING\r\n";
        let request = scan(bytes).unwrap().unwrap();
        assert_eq!((request.len, request.argc, request.inline), (30, 3, false));
        assert_eq!(args(bytes), [&b"SET"[..], b"k", b"v\r\n1"]);
        let many = b"*6\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n$1\r\nf\r\n";
        assert_eq!(args(many), [&b"a"[..], b"", b"c", b"d", b"e", b"f"]);
    }

    #[test]
    fn every_piece_of_a_request_may_come_alone() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$11\r\nhello\r\nworl\r\n";
        let mut scanner = RequestScanner::default();
        for end in 0..bytes.len() {
            let found = scanner.scan(&bytes[..end], &Limits::default());
            assert_eq!(found, Ok(None), "{end}");
        }
        let request = scanner.scan(bytes, &Limits::default()).unwrap().unwrap();
        assert_eq!(Some(request), scan(bytes).unwrap());
    }

    #[test]
    fn empty_requests_are_skipped() {
        for (bytes, len) in [
            ("*0\r\nx", 4),
            ("*-1\r\n", 5),
            ("*-9\r\n", 5),
            ("\r\n", 2),
            ("\n", 1),
            ("  \r\n", 4),
        ] {
            let request = scan(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!((request.len, request.argc), (len, 0), "{bytes:?}");
        }
    }

    #[test]
    fn inline_requests_are_split_as_redis_splits_them() {
        assert_eq!(args(b"PING\r\n"), [b"PING"]);
        assert_eq!(args(b"  set\tk  v \n"), [&b"set"[..], b"k", b"v"]);
        assert_eq!(
            args(b"set k \"a b\\n\\x41\\x4g\\\"\"\r\n"),
            [&b"set"[..], b"k", b"a b\nAx4g\""]
        );
        assert_eq!(
            args(b"set k 'a\\'b\\n'\r\n"),
            [&b"set"[..], b"k", b"a'b\\n"]
        );
        assert_eq!(args(b"set \"\" ''\r\n"), [&b"set"[..], b"", b""]);
        assert_eq!(args(b"a\"b c\" d\r\n"), [&b"ab c"[..], b"d"]);
        for unbalanced in [
            "\"a\r\n",
            "'a\r\n",
            "\"a\"b\r\n",
            "'a'b\r\n",
            "\"a\\\r\n",
            "\"\\\"\n",
        ] {
            assert_eq!(
                error(unbalanced.as_bytes()),
                "Protocol error: unbalanced quotes in request",
                "{unbalanced:?}"
            );
        }
    }

    #[test]
    fn errors_have_the_texts_of_redis() {
        for (bytes, text) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*\r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*01\r\n", "invalid multibulk length"),
            ("*99999999999999999999\r\n", "invalid multibulk length"),
            ("*1\r\nPING\r\n", "expected '$', got 'P'"),
            ("*1\r\n\r\n", "expected '$', got ' '"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$x\r\n", "invalid bulk length"),
            ("*1\r\n$536870913\r\n", "invalid bulk length"),
            ("*1\r\n$1\r\nabc", "expected CRLF after bulk string"),
        ] {
            assert_eq!(
                error(bytes.as_bytes()),
                format!("Protocol error: {text}"),
                "{bytes:?}"
            );
        }
        let endless = vec![b'1'; MAX_LINE + 1];
        let long = |head: &str| error(&[head.as_bytes(), &endless[..]].concat());
        assert_eq!(long("*"), "Protocol error: too big mbulk count string");
        assert_eq!(long("*1\r\n$"), "Protocol error: too big bulk count string");
        assert_eq!(long(""), "Protocol error: too big inline request");
        assert_eq!(scan(&endless[..MAX_LINE]), Ok(None));
    }

    #[test]
    fn the_scanner_is_small() {
        assert!(size_of::<RequestScanner>() <= 64);
    }
}
