//! Inline requests: a line of text, as people and health checks send it.

use bytes::BytesMut;

use super::encode_request;
use super::error::ProtocolError;

/// The RESP form of an inline request: `frame` is the line with its end. Scan the result as if the
/// client had sent it.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`], which the scanner has reported already.
pub fn rewrite_inline(frame: &[u8]) -> Result<BytesMut, ProtocolError> {
    let line = frame.strip_suffix(b"\n").unwrap_or(frame);
    let mut args: Vec<Vec<u8>> = Vec::new();
    split(line, |arg| args.push(arg.to_vec()))?;
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let mut out = BytesMut::with_capacity(frame.len() + 16 * (args.len() + 1));
    encode_request(&mut out, &args);
    Ok(out)
}

/// Splits an inline request (without its LF) as Redis does: blanks separate; double quotes know
/// `\n \r \t \b \a \xHH` and `\` before any other byte; single quotes know `\'`; a closing quote
/// ends the argument and must be followed by a blank or the end.
pub(super) fn split(line: &[u8], mut each: impl FnMut(&[u8])) -> Result<usize, ProtocolError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut count = 0;
    let mut arg = Vec::new();
    let mut rest = line;
    loop {
        while let [first, after @ ..] = rest
            && is_space(*first)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(count);
        }
        arg.clear();
        rest = read_inline_arg(rest, &mut arg)?;
        each(&arg);
        count += 1;
    }
}

/// `isspace` of C in its own locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn read_inline_arg<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    #[derive(Clone, Copy)]
    enum Quote {
        None,
        Double,
        Single,
    }
    let mut quote = Quote::None;
    loop {
        let Some((&first, after)) = rest.split_first() else {
            return match quote {
                Quote::None => Ok(rest),
                _ => Err(ProtocolError::UnbalancedQuotes),
            };
        };
        rest = after;
        match (quote, first) {
            (Quote::None, b' ' | b'\t' | b'\r' | b'\n') => return Ok(rest),
            (Quote::None, b'"') => quote = Quote::Double,
            (Quote::None, b'\'') => quote = Quote::Single,
            (Quote::Double, b'"') | (Quote::Single, b'\'') => {
                return match rest.first() {
                    Some(&byte) if !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
                    _ => Ok(rest),
                };
            }
            (Quote::Double, b'\\') => {
                if let [b'x', high, low, after @ ..] = rest
                    && let (Some(high), Some(low)) = (hex(*high), hex(*low))
                {
                    arg.push(high << 4 | low);
                    rest = after;
                } else if let Some((&escaped, after)) = rest.split_first() {
                    arg.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 0x08,
                        b'a' => 0x07,
                        other => other,
                    });
                    rest = after;
                } else {
                    arg.push(b'\\');
                }
            }
            (Quote::Single, b'\\') if rest.first() == Some(&b'\'') => {
                arg.push(b'\'');
                rest = &rest[1..];
            }
            (_, byte) => arg.push(byte),
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}
