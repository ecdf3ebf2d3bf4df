//! RESP2 on one node connection: `redis-protocol` decodes, bounded by what a node may send us.

use bytes::BytesMut;
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BytesFrame;
use tokio_util::codec::{Decoder, Encoder};

use crate::resp::ReplyScanner;

/// Longest reply that is read, bytes. CLIENT LIST of a node with a hundred thousand clients fits.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// Most `*` in one array reply: decoding is recursive, and a peer may not choose the depth.
const MAX_ARRAYS: usize = 256;

/// Commands out, replies in.
#[derive(Debug, Default)]
pub(super) struct NodeCodec {
    scanner: ReplyScanner,
    resp: Resp2,
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the peer does not speak RESP")]
    NotResp,
}

impl Encoder<Command> for NodeCodec {
    type Error = CodecError;

    fn encode(&mut self, command: Command, out: &mut BytesMut) -> Result<(), CodecError> {
        self.resp
            .encode(command.0, out)
            .map_err(|_| CodecError::NotResp)
    }
}

impl Decoder for NodeCodec {
    type Item = BytesFrame;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<BytesFrame>, CodecError> {
        let end = match self.scanner.scan(input) {
            Ok(Some(end)) => end,
            Ok(None) if input.len() <= MAX_REPLY => return Ok(None),
            Ok(None) | Err(_) => return Err(CodecError::NotResp),
        };
        let mut frame = input.split_to(end);
        let nested = frame.first() == Some(&b'*')
            && frame.iter().filter(|b| **b == b'*').count() > MAX_ARRAYS;
        if nested {
            return Err(CodecError::NotResp);
        }
        match self.resp.decode(&mut frame) {
            Ok(Some(reply)) => Ok(Some(reply)),
            Ok(None) | Err(_) => Err(CodecError::NotResp),
        }
    }
}

/// One command, as the array of strings that it is on the wire. Has no `Debug`: it may hold a
/// password.
#[derive(Clone)]
pub(super) struct Command(BytesFrame);

impl Command {
    /// Arguments are bytes, because passwords are.
    pub(super) fn new<A: AsRef<[u8]>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments
            .into_iter()
            .map(|argument| BytesFrame::BulkString(argument.as_ref().to_vec().into()));
        Command(BytesFrame::Array(arguments.collect()))
    }

    /// The command's first two words, for logs; never an argument that might be secret.
    pub(super) fn name(&self) -> String {
        let BytesFrame::Array(words) = &self.0 else {
            return String::new();
        };
        let words = words.iter().take(2).map(|word| match word {
            BytesFrame::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        });
        let words: Vec<String> = words.collect();
        match words.first().map(String::as_str) {
            Some("AUTH") => "AUTH".to_owned(),
            _ => words.join(" "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<BytesFrame>, CodecError> {
        NodeCodec::default().decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn replies_are_found_one_by_one_at_every_split_point() {
        let bytes = b"+OK\r\n$5\r\nhello\r\n*2\r\n:1\r\n-ERR no\r\n";
        for split in 0..bytes.len() {
            let mut codec = NodeCodec::default();
            let mut input = BytesMut::from(&bytes[..split]);
            let mut found = Vec::new();
            while let Some(reply) = codec.decode(&mut input).expect("resp") {
                found.push(reply);
            }
            input.extend_from_slice(&bytes[split..]);
            while let Some(reply) = codec.decode(&mut input).expect("resp") {
                found.push(reply);
            }
            assert_eq!(found.len(), 3, "split at {split}");
        }
    }

    #[test]
    fn a_peer_that_is_not_redis_is_found_out() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"\x15\x03\x01\x00\x02\x02P",
            b"$abc\r\n",
        ] {
            assert!(matches!(decode(bytes), Err(CodecError::NotResp)));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut bytes = b"*1\r\n".repeat(100_000);
        bytes.extend_from_slice(b":1\r\n");
        assert!(matches!(decode(&bytes), Err(CodecError::NotResp)));
    }

    #[test]
    fn the_name_of_a_command_shows_no_password() {
        assert_eq!(Command::new(["AUTH", "secret"]).name(), "AUTH");
        let command = Command::new(["CONFIG", "SET", "masterauth", "secret"]);
        assert_eq!(command.name(), "CONFIG SET");
    }
}
