//! Writes requests and replies.

use bytes::{BufMut, BytesMut};

/// Appends a request of these arguments.
pub fn encode_request(out: &mut BytesMut, args: &[&[u8]]) {
    put_length(out, b'*', args.len());
    for arg in args {
        put_bulk(out, arg);
    }
}

/// Appends `+OK`.
pub fn put_ok(out: &mut BytesMut) {
    out.put_slice(b"+OK\r\n");
}

/// Appends a simple string; line ends in `text` become blanks.
pub fn put_simple(out: &mut BytesMut, text: &str) {
    put_line(out, b'+', text.as_bytes());
}

/// Appends an error; `text` begins with its code, for example `ERR syntax error`. Line ends in it
/// become blanks.
pub fn put_error(out: &mut BytesMut, text: &str) {
    put_error_bytes(out, text.as_bytes());
}

/// The same where it repeats bytes that may be no text.
pub fn put_error_bytes(out: &mut BytesMut, text: &[u8]) {
    put_line(out, b'-', text);
}

/// Appends a string.
pub fn put_bulk(out: &mut BytesMut, bytes: &[u8]) {
    put_length(out, b'$', bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Appends an integer.
pub fn put_integer(out: &mut BytesMut, value: i64) {
    out.put_u8(b':');
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    out.put_slice(b"\r\n");
}

/// Appends the head of an array of `len` elements, which must follow.
pub fn put_array(out: &mut BytesMut, len: usize) {
    put_length(out, b'*', len);
}

/// Appends the head of a map of `pairs` pairs, which must follow as key, value, key, value...:
/// a map in RESP3 (`resp3`), a flat array in RESP2.
pub fn put_map(out: &mut BytesMut, pairs: usize, resp3: bool) {
    if resp3 {
        put_length(out, b'%', pairs);
    } else {
        put_length(out, b'*', pairs * 2);
    }
}

/// Appends the head of a push of `len` elements, which must follow: in RESP2 an array.
pub fn put_push(out: &mut BytesMut, len: usize, resp3: bool) {
    put_length(out, if resp3 { b'>' } else { b'*' }, len);
}

/// Appends a null: in RESP2 the null string.
pub fn put_null(out: &mut BytesMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

fn put_length(out: &mut BytesMut, kind: u8, len: usize) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(len).as_bytes());
    out.put_slice(b"\r\n");
}

fn put_line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    for byte in text {
        out.put_u8(match byte {
            b'\r' | b'\n' => b' ',
            byte => *byte,
        });
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::ReplyScanner;

    #[test]
    fn each_reply_is_one_frame() {
        let writers: [fn(&mut BytesMut); 8] = [
            put_ok,
            |out| put_simple(out, "a\r\nb"),
            |out| put_error(out, "ERR a\nb"),
            |out| put_bulk(out, b"a\r\nb"),
            |out| put_integer(out, i64::MIN),
            |out| put_null(out, true),
            |out| put_null(out, false),
            |out| put_array(out, 0),
        ];
        for write in writers {
            let mut out = BytesMut::new();
            write(&mut out);
            assert_eq!(
                ReplyScanner::default().scan(&out),
                Ok(Some(out.len())),
                "{out:?}"
            );
        }
    }

    #[test]
    fn maps_and_pushes_are_arrays_in_resp2() {
        let mut out = BytesMut::new();
        put_map(&mut out, 2, true);
        put_map(&mut out, 2, false);
        put_push(&mut out, 3, true);
        put_push(&mut out, 3, false);
        assert_eq!(&out[..], b"%2\r\n*4\r\n>3\r\n*3\r\n");
    }
}
