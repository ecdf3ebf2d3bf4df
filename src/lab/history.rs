//! What clients did and saw, and what the data set held at the end: values only.

use serde::{Deserialize, Serialize};

use crate::topology::Timestamp;

/// The kinds of ordinary clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// GET of keys whose values name them.
    Reader,
    /// SET of growing numbers over a ring of its own keys.
    Setter,
    /// INCR of its own key.
    Counter,
    /// RPUSH of growing tokens to its own list.
    Appender,
    /// RPUSH of growing tokens to a queue that a popper empties.
    Pusher,
    /// BLPOP from the pusher's queue.
    Popper,
    /// PUBLISH of growing tokens to a channel of its own.
    Publisher,
    /// SUBSCRIBE to the publisher's channel.
    Subscriber,
    /// MULTI, INCR of two own keys, EXEC: one step after the other and all at once, in turns.
    Transaction,
    /// WATCH, GET, MULTI, SET, EXEC on a key shared with the other watchers.
    Watcher,
    /// EVALSHA of a script that increments its own key.
    Script,
    /// Many INCR of its own key written before the first reply is read.
    Pipeline,
}

impl Kind {
    /// Every kind, in the order of tables.
    pub const ALL: [Kind; 12] = [
        Kind::Reader,
        Kind::Setter,
        Kind::Counter,
        Kind::Appender,
        Kind::Pusher,
        Kind::Popper,
        Kind::Publisher,
        Kind::Subscriber,
        Kind::Transaction,
        Kind::Watcher,
        Kind::Script,
        Kind::Pipeline,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Reader => "reads",
            Kind::Setter => "plain writes",
            Kind::Counter => "counters",
            Kind::Appender => "lists",
            Kind::Pusher => "queue, push",
            Kind::Popper => "queue, blocking pop",
            Kind::Publisher => "channel, publish",
            Kind::Subscriber => "channel, subscribe",
            Kind::Transaction => "MULTI/EXEC",
            Kind::Watcher => "WATCH loops",
            Kind::Script => "scripts",
            Kind::Pipeline => "pipelines",
        }
    }

    /// Whether it waits for another client by its nature, so that its waiting is no pause.
    pub fn waits_for_others(self) -> bool {
        matches!(self, Kind::Popper | Kind::Subscriber)
    }

    /// Whether each of its requests may be sent again by pointsman's defaults, so that it must see
    /// no error at all. The others may see "outcome unknown" for the request that was on its way.
    pub fn is_replayable(self) -> bool {
        matches!(
            self,
            Kind::Reader | Kind::Setter | Kind::Popper | Kind::Subscriber
        )
    }
}

/// Classes of failed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// An error that says that the request did not run.
    NotExecuted,
    /// An error that says that it ran and its reply is lost.
    Executed,
    /// An error that says that it may have run.
    Unknown,
    /// Any other error reply.
    Other,
    /// The connection ended.
    Closed,
    /// There was no answer until the end of the run.
    Unanswered,
}

impl ErrorClass {
    /// Every class, in the order of tables.
    pub const ALL: [ErrorClass; 6] = [
        ErrorClass::NotExecuted,
        ErrorClass::Executed,
        ErrorClass::Unknown,
        ErrorClass::Other,
        ErrorClass::Closed,
        ErrorClass::Unanswered,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::NotExecuted => "not executed",
            ErrorClass::Executed => "executed, reply lost",
            ErrorClass::Unknown => "outcome unknown",
            ErrorClass::Other => "other error",
            ErrorClass::Closed => "connection closed",
            ErrorClass::Unanswered => "no answer",
        }
    }

    /// The class of an error reply (without the dash).
    pub fn of(message: &str) -> ErrorClass {
        let message = message.to_ascii_lowercase();
        if message.contains("not executed") {
            ErrorClass::NotExecuted
        } else if message.contains("outcome unknown") {
            ErrorClass::Unknown
        } else if message.contains("executed") && message.contains("reply lost") {
            ErrorClass::Executed
        } else {
            ErrorClass::Other
        }
    }

    /// Whether the request may have taken effect. Redis' own error replies (`Other`) to the
    /// requests used here all prove that they did not run.
    pub fn may_have_run(self) -> bool {
        match self {
            ErrorClass::NotExecuted | ErrorClass::Other => false,
            ErrorClass::Executed
            | ErrorClass::Unknown
            | ErrorClass::Closed
            | ErrorClass::Unanswered => true,
        }
    }
}

/// How one operation ended for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with the number the reply carries: a counter's new value, the token taken
    /// from a queue or received on a channel; 0 where the reply carries none.
    Done(u64),
    /// A legal reply that says that nothing happened: EXEC nil, a pop that timed out.
    Nothing,
    /// A reply that can not belong to this request.
    Wrong(Box<str>),
    /// It failed; the error's text.
    Failed(ErrorClass, Box<str>),
}

/// One operation of one client, in the order in which the client started them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it wrote: grows by one with each operation that writes, 0 where it writes nothing.
    pub token: u64,
    /// When its first byte was handed over.
    pub started: Timestamp,
    /// When its last reply was read, or when it was known that there will be none.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a client's keys held after the run, read from the node that was primary then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Last {
    /// Nothing to compare.
    #[default]
    None,
    /// A counter.
    Number(u64),
    /// The two counters of a transaction client.
    Pair(u64, u64),
    /// A setter's ring; token `n` was written to slot `n % len`.
    Ring(Vec<Option<u64>>),
    /// A list, from head to tail.
    List(Vec<u64>),
}

/// Everything about one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHistory {
    /// What it did.
    pub kind: Kind,
    /// Clients of one group share a queue, a channel or a key.
    pub group: usize,
    /// In the order in which it started them.
    pub operations: Vec<Operation>,
    /// What its keys held at the end.
    pub last: Last,
}

/// Everything about one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The clients, in the order in which they were started.
    pub clients: Vec<ClientHistory>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_an_error_comes_from_its_words() {
        let of = ErrorClass::of;
        assert_eq!(of("ERR not executed: no primary"), ErrorClass::NotExecuted);
        assert_eq!(of("ERR outcome unknown: lost"), ErrorClass::Unknown);
        assert_eq!(of("ERR executed, reply lost"), ErrorClass::Executed);
        assert_eq!(of("READONLY You can't write"), ErrorClass::Other);
    }
}
