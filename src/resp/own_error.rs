//! The errors that pointsman itself makes. Each says what became of the request.

use bytes::BytesMut;

use super::write::put_error;

/// An error of pointsman's own, with the reason for a person to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError<'a> {
    /// The request did not run; sending it again is safe.
    #[error("POINTSMAN not executed: {0}")]
    NotExecuted(&'a str),
    /// The request ran; its reply is lost.
    #[error("POINTSMAN executed: reply lost: {0}")]
    Executed(&'a str),
    /// The request may have run or not.
    #[error("POINTSMAN outcome unknown: {0}")]
    Unknown(&'a str),
}

impl OwnError<'_> {
    /// Appends the error reply.
    pub fn put(&self, out: &mut BytesMut) {
        put_error(out, &self.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_what_became_of_the_request() {
        let mut out = BytesMut::new();
        OwnError::NotExecuted("no primary\r\nfor 10s").put(&mut out);
        OwnError::Executed("connection lost").put(&mut out);
        OwnError::Unknown("connection lost").put(&mut out);
        assert_eq!(
            &out[..],
            b"-POINTSMAN not executed: no primary  for 10s\r\n\
              -POINTSMAN executed: reply lost: connection lost\r\n\
              -POINTSMAN outcome unknown: connection lost\r\n"
        );
    }
}
