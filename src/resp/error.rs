//! What makes a byte stream not RESP.

/// Bytes that are not RESP. `Display` is the text that Redis sends after `-ERR `, as far as it is text: see
/// [`ProtocolError::words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments of a request is no number, or above the limit.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The line that should hold the number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkLine,
    /// An argument of a request is not introduced by `$`.
    #[error("Protocol error: expected '$', got '{}'", Shown(*.0))]
    ExpectedBulk(u8),
    /// The length of a string is no number, negative, or above the limit.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// The line that should hold the length of a string does not end.
    #[error("Protocol error: too big bulk count string")]
    BulkLine,
    /// A string is not followed by CR LF. (Redis takes any two bytes there. We pass requests of
    /// many clients over one connection, so what another server might read in another way is
    /// refused here.)
    #[error("Protocol error: expected CRLF after bulk string")]
    BulkEnd,
    /// An inline request is longer than the limit.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// An inline request has an open quote, or text right after a closing one.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A reply begins with a byte that introduces no type.
    #[error("Protocol error: unexpected reply type '{}'", Shown(*.0))]
    ReplyType(u8),
    /// The length of an array, set, map, push or attribute is no number or absurd.
    #[error("Protocol error: invalid aggregate length")]
    AggregateLength,
    /// A reply of unknown length (`$?`, `*?`), which no server sends.
    #[error("Protocol error: streamed replies are not supported")]
    Streamed,
    /// A reply's line (simple string, error, number) does not end.
    #[error("Protocol error: too big reply line")]
    ReplyLine,
}

impl ProtocolError {
    /// What Redis sends after `-ERR `: the text, but for a byte that is no text.
    pub fn words(self) -> Vec<u8> {
        match self {
            ProtocolError::ExpectedBulk(got @ 0x80..) => {
                [b"Protocol error: expected '$', got '", &[got][..], b"'"].concat()
            }
            other => other.to_string().into_bytes(),
        }
    }
}

/// A byte as Redis prints it in an error reply: line ends would end the reply.
struct Shown(u8);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            b'\r' | b'\n' => f.write_str(" "),
            byte if byte.is_ascii() => write!(f, "{}", byte as char),
            byte => write!(f, "\\x{byte:02x}"),
        }
    }
}
