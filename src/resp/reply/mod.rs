//! Finds replies in what a node sends, and tells what they mean to a proxy.

mod scanner;

pub use scanner::ReplyScanner;

/// What sort of reply a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// A simple string, such as `+OK`.
    Simple,
    /// An error.
    Error,
    /// RESP3: not the answer to a request.
    Push,
    /// Anything else.
    Other,
}

/// An error that means "look again": the node is not, or not yet, the one to ask. None of them ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `-READONLY`: it is a replica.
    ReadOnly,
    /// `-LOADING`: it reads its data set from disk.
    Loading,
    /// `-MASTERDOWN`: a replica that lost its primary and must not serve stale data.
    MasterDown,
    /// `-CLUSTERDOWN`
    ClusterDown,
    /// `-MOVED slot host:port`: another node of the cluster serves the slot.
    Moved,
    /// `-ASK slot host:port`: the slot is on its way to that node.
    Ask,
    /// `-TRYAGAIN`: the keys of a request are on their way between two nodes.
    TryAgain,
    /// `-UNBLOCKED`: it was blocked and the node became a replica.
    Unblocked,
    /// `-REDIRECT host:port`: a replica of Valkey names its primary.
    Redirect,
    /// `-NOREPLICAS`: too few replicas are attached to accept a write.
    NoReplicas,
}

/// What sort of reply `frame` is; an attribute before it is passed over.
#[inline]
pub fn kind(frame: &[u8]) -> ReplyKind {
    match frame.first() {
        Some(b'+') => ReplyKind::Simple,
        Some(b'-' | b'!') => ReplyKind::Error,
        Some(b'>') => ReplyKind::Push,
        Some(b'|') => kind_behind_attribute(frame),
        _ => ReplyKind::Other,
    }
}

#[cold]
fn kind_behind_attribute(frame: &[u8]) -> ReplyKind {
    match value(frame) {
        Some(value) if value.first() != Some(&b'|') => kind(value),
        _ => ReplyKind::Other,
    }
}

/// The "look again" error that `frame` is; `None` for every other reply, errors that belong to the
/// client included. Costs one comparison for what is no error.
#[inline]
pub fn signal(frame: &[u8]) -> Option<Signal> {
    if frame.first() != Some(&b'-') {
        return None;
    }
    signal_of_error(frame)
}

#[cold]
fn signal_of_error(frame: &[u8]) -> Option<Signal> {
    Some(match error_code(frame)? {
        b"READONLY" => Signal::ReadOnly,
        b"LOADING" => Signal::Loading,
        b"MASTERDOWN" => Signal::MasterDown,
        b"CLUSTERDOWN" => Signal::ClusterDown,
        b"MOVED" => Signal::Moved,
        b"ASK" => Signal::Ask,
        b"TRYAGAIN" => Signal::TryAgain,
        b"UNBLOCKED" => Signal::Unblocked,
        b"REDIRECT" => Signal::Redirect,
        b"NOREPLICAS" => Signal::NoReplicas,
        _ => return None,
    })
}

/// The first word of an error, for example `WRONGTYPE`; `None` for what is no error.
pub fn error_code(frame: &[u8]) -> Option<&[u8]> {
    let text = match frame.first()? {
        b'-' | b'!' => payload(frame)?,
        _ => return None,
    };
    text.split(|&byte| byte == b' ').next()
}

/// The bytes of a string, error or number: what stands between its length or type and its end.
/// `None` for null and for aggregates. A verbatim string keeps its four bytes of format.
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    match frame.first()? {
        b'+' | b'-' | b':' | b'#' | b',' | b'(' => frame.get(1..)?.strip_suffix(b"\r\n"),
        b'$' | b'=' | b'!' => {
            let lf = memchr::memchr(b'\n', frame)?;
            frame.get(lf + 1..)?.strip_suffix(b"\r\n")
        }
        _ => None,
    }
}

/// The first element of an array or push as bytes: `message`, `subscribe`, `invalidate`. `None`
/// where there is none, or it is no string.
#[inline]
pub fn first_element(frame: &[u8]) -> Option<&[u8]> {
    payload(elements(frame).next()?)
}

/// The frames of the direct children of an array, set, push or map (key, value, key, value...), an
/// attribute together with the child it belongs to, a push alone. Empty for anything else.
pub fn elements(frame: &[u8]) -> Elements<'_> {
    let frame = value(frame).unwrap_or_default();
    let rest = match frame.first() {
        Some(b'*' | b'~' | b'>' | b'%') => memchr::memchr(b'\n', frame)
            .and_then(|lf| frame.get(lf + 1..))
            .unwrap_or_default(),
        _ => &[],
    };
    Elements { rest }
}

/// See [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match ReplyScanner::default().scan(self.rest) {
            Ok(Some(len)) => {
                let (element, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                Some(element)
            }
            _ => {
                self.rest = &[];
                None
            }
        }
    }
}

/// `frame` without the attributes before it.
fn value(mut frame: &[u8]) -> Option<&[u8]> {
    while frame.first() == Some(&b'|') {
        let lf = memchr::memchr(b'\n', frame)?;
        let pairs: usize = std::str::from_utf8(frame.get(1..lf)?)
            .ok()?
            .trim_end()
            .parse()
            .ok()?;
        frame = frame.get(lf + 1..)?;
        for _ in 0..pairs.checked_mul(2)? {
            let len = ReplyScanner::default().scan(frame).ok()??;
            frame = frame.get(len..)?;
        }
    }
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::ProtocolError;

    fn end(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        ReplyScanner::default().scan(bytes)
    }

    #[test]
    fn every_type_ends_where_it_ends() {
        for frame in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":-5\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n:1\r\n$1\r\na\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(123456789\r\n",
            "!5\r\nERR x\r\n",
            "=7\r\ntxt:abc\r\n",
            "%1\r\n+a\r\n:1\r\n",
            "~1\r\n:1\r\n",
            ">2\r\n+invalidate\r\n_\r\n",
            "%0\r\n",
            "*1\r\n*1\r\n*1\r\n*0\r\n",
            "|1\r\n+ttl\r\n:3600\r\n:5\r\n",
            "*2\r\n|1\r\n+a\r\n*1\r\n:2\r\n:5\r\n:6\r\n",
            "*2\r\n+OK\r\n>2\r\n+message\r\n*1\r\n:5\r\n:1\r\n",
            "*1\r\n>0\r\n*1\r\n>1\r\n+a\r\n+b\r\n",
            "+a\rb\r\n",
        ] {
            let bytes = [frame.as_bytes(), b"+next\r\n"].concat();
            assert_eq!(end(&bytes), Ok(Some(frame.len())), "{frame:?}");
            let mut scanner = ReplyScanner::default();
            for cut in 0..frame.len() {
                assert_eq!(scanner.scan(&bytes[..cut]), Ok(None), "{frame:?} {cut}");
            }
            assert_eq!(scanner.scan(&bytes), Ok(Some(frame.len())), "{frame:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for (frame, error) in [
            ("HTTP/1.1 400\r\n", ProtocolError::ReplyType(b'H')),
            ("$x\r\n", ProtocolError::BulkLength),
            ("$-2\r\n", ProtocolError::BulkLength),
            ("=-1\r\n", ProtocolError::BulkLength),
            ("$99999999999999\r\n", ProtocolError::BulkLength),
            ("$1\r\nabc", ProtocolError::BulkEnd),
            ("*-2\r\n", ProtocolError::AggregateLength),
            ("%-1\r\n", ProtocolError::AggregateLength),
            ("*99999999999\r\n", ProtocolError::AggregateLength),
            ("$?\r\n", ProtocolError::Streamed),
            ("*?\r\n", ProtocolError::Streamed),
            (";1\r\n", ProtocolError::Streamed),
        ] {
            assert_eq!(end(frame.as_bytes()), Err(error), "{frame:?}");
        }
    }

    #[test]
    fn signals_are_told_from_errors_of_the_client() {
        for (frame, expected) in [
            (
                "-READONLY You can't write against a read only replica.\r\n",
                Some(Signal::ReadOnly),
            ),
            (
                "-LOADING Redis is loading the dataset in memory\r\n",
                Some(Signal::Loading),
            ),
            (
                "-MASTERDOWN Link with MASTER is down\r\n",
                Some(Signal::MasterDown),
            ),
            (
                "-CLUSTERDOWN The cluster is down\r\n",
                Some(Signal::ClusterDown),
            ),
            ("-TRYAGAIN Multiple keys\r\n", Some(Signal::TryAgain)),
            ("-UNBLOCKED force unblock\r\n", Some(Signal::Unblocked)),
            ("-REDIRECT 127.0.0.1:6380\r\n", Some(Signal::Redirect)),
            (
                "-NOREPLICAS Not enough good replicas to write.\r\n",
                Some(Signal::NoReplicas),
            ),
            ("-READONLYX\r\n", None),
            ("-ERR READONLY\r\n", None),
            ("-OOM command not allowed\r\n", None),
            ("-\r\n", None),
            ("-", None),
            ("", None),
            ("+READONLY\r\n", None),
            ("$8\r\nREADONLY\r\n", None),
        ] {
            assert_eq!(signal(frame.as_bytes()), expected, "{frame:?}");
        }
    }

    #[test]
    fn kinds_look_behind_attributes() {
        assert_eq!(kind(b"+OK\r\n"), ReplyKind::Simple);
        assert_eq!(kind(b"!3\r\nERR\r\n"), ReplyKind::Error);
        assert_eq!(kind(b">1\r\n+x\r\n"), ReplyKind::Push);
        assert_eq!(
            kind(b"|1\r\n+a\r\n|1\r\n+b\r\n:1\r\n:2\r\n-ERR\r\n"),
            ReplyKind::Error
        );
        assert_eq!(kind(b"|1\r\n+a\r\n"), ReplyKind::Other);
        assert_eq!(kind(b""), ReplyKind::Other);
    }

    #[test]
    fn children_are_read_as_frames() {
        let frame = b">3\r\n$7\r\nmessage\r\n+ch\r\n*1\r\n:1\r\n";
        assert_eq!(first_element(frame), Some(&b"message"[..]));
        let children: Vec<_> = elements(frame).collect();
        assert_eq!(
            children,
            [&b"$7\r\nmessage\r\n"[..], b"+ch\r\n", b"*1\r\n:1\r\n"]
        );
        assert_eq!(first_element(b"*0\r\n"), None);
        assert_eq!(first_element(b"$1\r\na\r\n"), None);
        assert_eq!(first_element(b"*1\r\n_\r\n"), None);
    }
}
