//! An operator's warm connection, and how to read what a node answers on it.

use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;

use super::codec::Command;
use super::node::{Access, Connection, info_commands, needs_no_password, reply_failure};
use crate::failover::ProbeError;
use crate::resp::info::{NodeInfo, parse};

/// The warm connection and what the node said on it.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) version: (u16, u16, u16),
}

/// Why an operation was not done.
pub(super) enum Failed {
    Refused(String),
    Lost(ProbeError),
}

impl From<ProbeError> for Failed {
    fn from(error: ProbeError) -> Self {
        Failed::Lost(error)
    }
}

/// Connects and logs in.
pub(super) async fn open(access: &Access, limit: Duration) -> Result<Line, ProbeError> {
    let mut connection = access.open(limit).await?;
    let mut commands = access.handshake();
    let logging_in = access.credentials.is_some();
    let before = commands.len();
    commands.extend(info_commands(None));
    let mut replies = connection.request(commands).await?;
    if let (true, Some(BytesFrame::Error(why))) = (logging_in, replies.first())
        && !needs_no_password(why)
    {
        return Err(reply_failure(why));
    }
    match read_info(&replies.split_off(before)) {
        Ok(info) => Ok(Line {
            connection,
            version: info.version,
        }),
        Err(Failed::Refused(why)) => Err(reply_failure(&why)),
        Err(Failed::Lost(error)) => Err(error),
    }
}

/// Reads the replies to [`info_commands`].
pub(super) fn read_info(replies: &[BytesFrame]) -> Result<NodeInfo, Failed> {
    let mut text = Vec::new();
    for reply in replies {
        match reply {
            BytesFrame::BulkString(part) => {
                text.extend_from_slice(part);
                text.push(b'\n');
            }
            BytesFrame::Error(why) => return Err(Failed::Refused(why.to_string())),
            _ => return Err(Failed::Lost(ProbeError::NotRedis)),
        }
    }
    parse(&text).map_err(|_| Failed::Lost(ProbeError::NotRedis))
}

/// CONFIG GET of one name.
pub(super) fn config_get(name: &str) -> Command {
    Command::new(["CONFIG", "GET", name])
}

/// The value in an answer to CONFIG GET of one name; `None` when it was refused or is not known.
pub(super) fn config_value(reply: &BytesFrame) -> Option<Vec<u8>> {
    match reply {
        BytesFrame::Array(pair) => match pair.get(1) {
            Some(BytesFrame::BulkString(value)) => Some(value.to_vec()),
            _ => None,
        },
        _ => None,
    }
}
