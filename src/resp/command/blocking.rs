//! How long a blocking request waits, and the same request with less time.

use std::time::Duration;

use bytes::BytesMut;

use crate::resp::encode_request;
use crate::resp::request::Request;

use super::Special;

/// Where a blocking command has its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockingTimeout {
    /// The last argument, seconds with a fraction (BLPOP).
    LastSeconds,
    /// The first argument behind the name, seconds with a fraction (BLMPOP).
    FirstSeconds,
    /// The option BLOCK, whole milliseconds; without it the command does not block (XREAD).
    OptionMillis,
}

/// How long a request waits in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: it has no timeout, or none that a server would accept, so that it is answered
    /// at once.
    None,
    /// Until it is served.
    Forever,
    /// So long at most.
    For(Duration),
}

/// How long `request` waits in the server; [`Patience::None`] where `special` is not blocking.
pub fn patience(special: Special, request: &Request, frame: &[u8]) -> Patience {
    let Special::Blocking(kind) = special else {
        return Patience::None;
    };
    let timeout = position(kind, request, frame).and_then(|at| request.arg(frame, at));
    let text = timeout.and_then(|timeout| std::str::from_utf8(timeout).ok());
    let Some(text) = text else {
        return Patience::None;
    };
    let seconds = match kind {
        BlockingTimeout::OptionMillis => text.parse::<i64>().map(|ms| ms as f64 / 1000.0).ok(),
        _ => text.parse::<f64>().ok(),
    };
    match seconds {
        Some(0.0) => Patience::Forever,
        Some(seconds) => match Duration::try_from_secs_f64(seconds) {
            Ok(duration) => Patience::For(duration),
            Err(_) => Patience::None,
        },
        // C reads these, Rust does not; how long it is does not matter.
        None if hexadecimal(text) => Patience::Forever,
        None => Patience::None,
    }
}

fn hexadecimal(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.starts_with("0x") || digits.starts_with("0X")
}

/// The same request with `remaining` as its timeout, whole milliseconds, at least one (0 would mean
/// for ever). A request whose [`patience`] is `None` comes back as it was.
pub fn with_timeout(
    special: Special,
    request: &Request,
    frame: &[u8],
    remaining: Duration,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(frame.len() + 24);
    let at = match special {
        Special::Blocking(kind) => position(kind, request, frame).map(|at| (at, kind)),
        _ => None,
    };
    let Some((at, kind)) = at else {
        out.extend_from_slice(frame);
        return out;
    };
    let millis = remaining.as_millis().max(1);
    let timeout = match kind {
        BlockingTimeout::OptionMillis => millis.to_string(),
        _ => format!("{}.{:03}", millis / 1000, millis % 1000),
    };
    let mut args: Vec<&[u8]> = request.args(frame).collect();
    if let Some(arg) = args.get_mut(at) {
        *arg = timeout.as_bytes();
    }
    encode_request(&mut out, &args);
    out
}

/// Which argument is the timeout.
fn position(kind: BlockingTimeout, request: &Request, frame: &[u8]) -> Option<usize> {
    match kind {
        BlockingTimeout::LastSeconds => (request.argc > 2).then(|| request.argc - 1),
        BlockingTimeout::FirstSeconds => (request.argc > 1).then_some(1),
        BlockingTimeout::OptionMillis => block_option(request, frame),
    }
}

/// The value of BLOCK in XREAD and XREADGROUP: the options before STREAMS, each with its values.
fn block_option(request: &Request, frame: &[u8]) -> Option<usize> {
    let mut found = None;
    let mut args = request.args(frame).enumerate().skip(1);
    while let Some((at, option)) = args.next() {
        if option.eq_ignore_ascii_case(b"STREAMS") {
            break;
        } else if option.eq_ignore_ascii_case(b"BLOCK") {
            args.next()?;
            found = Some(at + 1);
        } else if option.eq_ignore_ascii_case(b"GROUP") {
            args.nth(1)?;
        } else if option.eq_ignore_ascii_case(b"COUNT") || option.eq_ignore_ascii_case(b"CLAIM") {
            args.next()?;
        } else if !option.eq_ignore_ascii_case(b"NOACK") {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::lookup;
    use crate::resp::{Limits, RequestScanner};

    fn parsed(frame: &[u8]) -> (Special, Request) {
        let request = RequestScanner::default()
            .scan(frame, &Limits::default())
            .unwrap()
            .unwrap();
        (
            lookup(request.arg(frame, 0).unwrap()).unwrap().special,
            request,
        )
    }

    fn frame(line: &str) -> BytesMut {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        frame
    }

    #[test]
    fn timeouts_are_found_where_each_command_has_them() {
        let millis = |ms| Patience::For(Duration::from_millis(ms));
        for (line, expected) in [
            ("BLPOP a b 0", Patience::Forever),
            ("BLPOP a b 0.0", Patience::Forever),
            ("BLPOP a 1.5", millis(1500)),
            ("BRPOPLPUSH a b 2", millis(2000)),
            ("BLMOVE a b LEFT RIGHT 2", millis(2000)),
            ("BZPOPMIN z 1", millis(1000)),
            ("BLMPOP 3 1 l LEFT", millis(3000)),
            ("BZMPOP 0 1 z MIN", Patience::Forever),
            ("XREAD COUNT 2 BLOCK 250 STREAMS s $", millis(250)),
            ("XREAD block 0 STREAMS s $", Patience::Forever),
            ("XREAD STREAMS BLOCK 250", Patience::None),
            ("XREAD COUNT BLOCK STREAMS s $", Patience::None),
            (
                "XREADGROUP GROUP BLOCK 9 NOACK BLOCK 5 STREAMS s >",
                millis(5),
            ),
            ("XREADGROUP GROUP g c STREAMS s >", Patience::None),
            ("BLPOP a 0x1p-3", Patience::Forever),
            ("BLPOP a -1", Patience::None),
            ("BLPOP a x", Patience::None),
            ("BLPOP a nan", Patience::None),
            ("BLPOP a inf", Patience::None),
            ("BLPOP a", Patience::None),
            ("BLPOP", Patience::None),
            ("XREAD BLOCK 1.5 STREAMS s $", Patience::None),
            ("XREAD BLOCK -1 STREAMS s $", Patience::None),
            ("GET a", Patience::None),
        ] {
            let frame = frame(line);
            let (special, request) = parsed(&frame);
            assert_eq!(patience(special, &request, &frame), expected, "{line}");
        }
    }

    #[test]
    fn only_the_timeout_is_replaced() {
        for (line, expected) in [
            ("BLPOP a b 10", "BLPOP a b 2.345"),
            ("BLMPOP 10 1 l LEFT", "BLMPOP 2.345 1 l LEFT"),
            (
                "XREAD BLOCK 10000 STREAMS s $",
                "XREAD BLOCK 2345 STREAMS s $",
            ),
            ("XREAD STREAMS s $", "XREAD STREAMS s $"),
            ("GET a", "GET a"),
        ] {
            let before = frame(line);
            let (special, request) = parsed(&before);
            let after = with_timeout(special, &request, &before, Duration::from_micros(2_345_678));
            assert_eq!(after, frame(expected), "{line}");
        }
    }

    #[test]
    fn no_time_left_never_becomes_for_ever() {
        let before = frame("BLPOP a 10");
        let (special, request) = parsed(&before);
        let after = with_timeout(special, &request, &before, Duration::ZERO);
        assert_eq!(after, frame("BLPOP a 0.001"));
    }
}
