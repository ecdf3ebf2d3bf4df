//! A reply, the same for both versions of the protocol.

use std::fmt;

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::BytesFrame as Frame3;

use super::client::ClientError;

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(Bytes),
    /// `-ERR ...`, without the dash.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$2`
    Bulk(Bytes),
    /// `*2`
    Array(Vec<Value>),
    /// `%1`, in no particular order.
    Map(Vec<(Value, Value)>),
    /// `~2`, in no particular order.
    Set(Vec<Value>),
    /// `>3`, out of band.
    Push(Vec<Value>),
    /// `,1.5`
    Double(f64),
    /// `#t`
    Boolean(bool),
    /// `$-1`, `*-1` or `_`.
    Null,
}

impl From<Frame2> for Value {
    fn from(frame: Frame2) -> Value {
        match frame {
            Frame2::SimpleString(data) => Value::Simple(data),
            Frame2::Error(data) => Value::Error(data.to_string()),
            Frame2::Integer(number) => Value::Integer(number),
            Frame2::BulkString(data) => Value::Bulk(data),
            Frame2::Array(items) => Value::Array(items.into_iter().map(Value::from).collect()),
            Frame2::Null => Value::Null,
        }
    }
}

impl TryFrom<Frame3> for Value {
    type Error = ClientError;

    fn try_from(frame: Frame3) -> Result<Value, ClientError> {
        fn all(frames: impl IntoIterator<Item = Frame3>) -> Result<Vec<Value>, ClientError> {
            frames.into_iter().map(Value::try_from).collect()
        }
        Ok(match frame {
            Frame3::SimpleString { data, .. } => Value::Simple(data),
            Frame3::SimpleError { data, .. } => Value::Error(data.to_string()),
            Frame3::BlobError { data, .. } => {
                Value::Error(String::from_utf8_lossy(&data).into_owned())
            }
            Frame3::Number { data, .. } => Value::Integer(data),
            Frame3::BlobString { data, .. }
            | Frame3::VerbatimString { data, .. }
            | Frame3::BigNumber { data, .. } => Value::Bulk(data),
            Frame3::Array { data, .. } => Value::Array(all(data)?),
            Frame3::Set { data, .. } => Value::Set(all(data)?),
            Frame3::Push { data, .. } => Value::Push(all(data)?),
            Frame3::Map { data, .. } => Value::Map(
                data.into_iter()
                    .map(|(key, value)| Ok((Value::try_from(key)?, Value::try_from(value)?)))
                    .collect::<Result<_, ClientError>>()?,
            ),
            Frame3::Double { data, .. } => Value::Double(data),
            Frame3::Boolean { data, .. } => Value::Boolean(data),
            Frame3::Null => Value::Null,
            Frame3::Hello { .. } | Frame3::ChunkedString(_) => {
                return Err(ClientError::Protocol("a frame no server sends".into()));
            }
        })
    }
}

impl Value {
    /// The text of a simple or bulk string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Simple(data) | Value::Bulk(data) => std::str::from_utf8(data).ok(),
            _ => None,
        }
    }

    /// The number of an integer reply, or of a string that holds one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    /// The items of an array, set or push.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// Whether it is +OK.
    pub fn is_ok(&self) -> bool {
        matches!(self, Value::Simple(text) if &text[..] == b"OK")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Value]| {
            f.write_str("[")?;
            for (index, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
            }
            f.write_str("]")
        };
        match self {
            Value::Simple(text) => write!(f, "+{}", String::from_utf8_lossy(text)),
            Value::Error(text) => write!(f, "-{text}"),
            Value::Integer(number) => write!(f, ":{number}"),
            Value::Bulk(text) => write!(f, "{:?}", String::from_utf8_lossy(text)),
            Value::Array(items) => list(f, items),
            Value::Set(items) => {
                f.write_str("~")?;
                list(f, items)
            }
            Value::Push(items) => {
                f.write_str(">")?;
                list(f, items)
            }
            Value::Map(pairs) => f.debug_list().entries(pairs).finish(),
            Value::Double(number) => write!(f, ",{number}"),
            Value::Boolean(value) => write!(f, "#{value}"),
            Value::Null => f.write_str("nil"),
        }
    }
}
