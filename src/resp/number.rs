//! Decimal numbers as Redis' own parser takes them.

/// A number in decimal as Redis takes it: no plus sign, no leading zero, no space, within i64.
pub fn parse(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits always fit an u64.
        value = value * 10 + u64::from(digit);
    }
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// What stands at a place where a line `<number>CR LF` is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The number, and the offset right after the LF.
    Number(i64, usize),
    /// The line ends, and is no number.
    Invalid,
    /// The line does not end in these bytes.
    Incomplete,
    /// The line is longer than any line may be.
    TooLong,
}

/// The string at `from`, `$<length> CR LF <bytes> CR LF`: where its bytes begin and end. Only where it is
/// here completely and shorter than 1000 bytes, as nearly all are; `None` says nothing.
#[inline(always)]
pub(super) fn short_bulk(buf: &[u8], from: usize) -> Option<(usize, usize)> {
    let digit = |byte: u8| usize::from(byte.wrapping_sub(b'0'));
    let head = buf.get(from..from + 6)?;
    let (len, start) = match *head {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a), from + 4),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', _] => {
            (digit(a) * 10 + digit(b), from + 5)
        }
        [
            b'$',
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            b'\r',
            b'\n',
        ] => (digit(a) * 100 + digit(b) * 10 + digit(c), from + 6),
        _ => return None,
    };
    let end = start + len;
    (buf.get(end..end + 2)? == b"\r\n").then_some((start, end))
}

/// Longest line of a length, bytes, as PROTO_INLINE_MAX_SIZE of Redis.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// Reads the number between `from` and the next CR LF. `line_start` is where the line with its type
/// byte begins; `searched` is how far an earlier call looked for the CR and is kept up to date.
#[inline]
pub(super) fn line(buf: &[u8], line_start: usize, searched: &mut usize) -> Line {
    // Nearly every length has one to three digits, and is there completely.
    let from = line_start + 1;
    let mut value: i64 = 0;
    for at in from..from + 9 {
        match buf.get(at) {
            Some(&digit @ b'0'..=b'9') => {
                if value == 0 && at != from {
                    break;
                }
                value = value * 10 + i64::from(digit - b'0');
            }
            Some(b'\r') if at != from => match buf.get(at + 1) {
                Some(b'\n') => return Line::Number(value, at + 2),
                Some(_) => return Line::Invalid,
                None => break,
            },
            _ => break,
        }
    }
    uncommon_line(buf, line_start, searched)
}

#[cold]
fn uncommon_line(buf: &[u8], line_start: usize, searched: &mut usize) -> Line {
    let from = line_start + 1;
    let begin = (*searched).max(line_start);
    let Some(found) = buf
        .get(begin..)
        .and_then(|rest| memchr::memchr(b'\r', rest))
    else {
        *searched = buf.len();
        return if buf.len() - line_start > MAX_LINE {
            Line::TooLong
        } else {
            Line::Incomplete
        };
    };
    let cr = begin + found;
    *searched = cr;
    if cr - line_start > MAX_LINE {
        return Line::TooLong;
    }
    match buf.get(cr + 1) {
        None => Line::Incomplete,
        Some(b'\n') => match buf.get(from..cr).and_then(parse) {
            Some(number) => Line::Number(number, cr + 2),
            None => Line::Invalid,
        },
        Some(_) => Line::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_redis_takes_for_numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("00", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            ("", None),
            ("-", None),
            ("1 ", None),
            (" 1", None),
            ("1a", None),
        ] {
            assert_eq!(parse(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn a_short_string_is_found_only_where_it_is_whole() {
        for (text, found) in [
            ("$0\r\n\r\n", Some((4, 4))),
            ("$1\r\na\r\n", Some((4, 5))),
            ("$10\r\n0123456789\r\n", Some((5, 15))),
            ("$1\r\na\r", None),
            ("$1\r\nab\r\n", None),
            ("$01\r\na\r\n", None),
            ("$-1\r\n", None),
            ("$x\r\na\r\n", None),
            ("$1\n\na\r\n", None),
            ("*1\r\na\r\n", None),
        ] {
            assert_eq!(short_bulk(text.as_bytes(), 0), found, "{text:?}");
        }
        let long = format!("x$100\r\n{}\r\n", "y".repeat(100));
        assert_eq!(short_bulk(long.as_bytes(), 1), Some((7, 107)));
    }

    #[test]
    fn the_quick_way_and_the_long_way_agree() {
        for text in [
            "$0\r\n",
            "$5\r\n",
            "$123456789\r\n",
            "$1234567890\r\n",
            "$00\r\n",
            "$01\r\n",
            "$\r\n",
            "$-1\r\n",
            "$5\rx",
            "$5\r",
            "$5",
            "$",
            "$5x\r\n",
            "$12345678\r\n",
            "$x\r\n",
        ] {
            let (mut a, mut b) = (0, 0);
            assert_eq!(
                line(text.as_bytes(), 0, &mut a),
                uncommon_line(text.as_bytes(), 0, &mut b),
                "{text:?}"
            );
        }
    }
}
