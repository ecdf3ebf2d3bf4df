//! What a command is to a proxy: how its request may be replayed, and whether the session must do
//! something about it.

mod blocking;
mod keys;
mod refine;
mod table;

pub use blocking::{BlockingTimeout, Patience, patience, with_timeout};
pub use keys::{Join, Reach, reach};
pub use refine::{refused, replay};

use refine::Refine;

/// One entry of the command table.
#[derive(Debug)]
pub struct Command {
    /// Name in capital letters.
    pub name: &'static str,
    /// How a request of it may be replayed, before its arguments are looked at: see [`replay`].
    pub replay: Replay,
    /// What the session must do about it.
    pub special: Special,
    /// How its arguments change `replay`.
    refine: Refine,
}

/// What may be done with a request that was sent and not answered when its upstream was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replay {
    /// It changes nothing: send it again.
    Read,
    /// It overwrites what it touches: run twice, or run late, it leaves the same state and gives
    /// the same reply, whatever was done in between. Others might see its effect twice.
    Idempotent,
    /// Running it twice would show.
    Never,
}

/// What the session must do about a command, or [`Special::None`]: forward it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// Nothing; it may travel over a shared upstream.
    None,
    /// A transaction begins.
    Multi,
    /// The queued transaction runs.
    Exec,
    /// The queued transaction is dropped.
    Discard,
    /// Keys are watched on this connection.
    Watch,
    /// No key is watched any more.
    Unwatch,
    /// It may wait in the server for other clients; how long: see [`patience`].
    Blocking(BlockingTimeout),
    /// SUBSCRIBE and its kin.
    Subscribe(Channels),
    /// UNSUBSCRIBE and its kin.
    Unsubscribe(Channels),
    /// Turns the connection into a stream of commands.
    Monitor,
    /// CLIENT and its subcommands.
    Client,
    /// Protocol version, user and name.
    Hello,
    /// User.
    Auth,
    /// Database.
    Select,
    /// All state of the session back to its beginning.
    Reset,
    /// `+OK`, then the connection is closed.
    Quit,
    /// WAIT, WAITAOF: about the writes of this client, and blocking.
    Wait,
    /// SCRIPT and its subcommands: the server's script cache is part of the session.
    Script,
    /// EVAL, EVAL_RO: brings its script along.
    Eval,
    /// EVALSHA, EVALSHA_RO: the script must be in the server's cache.
    EvalSha,
    /// SCAN and its kin: their cursors mean something to one process only.
    Scan,
    /// CLUSTER: of its subcommands those are carried that only read (see [`refused`]).
    Cluster,
    /// Forward it, but never over a shared upstream: it can leave the connection in another state
    /// or answer with something other than one reply.
    Pin,
    /// FUNCTION. Valkey 8.1 repeats an argument of FUNCTION LIST with its line ends in an error: what stands behind
    /// them would be a reply, and somebody else's on a shared connection. What goes to all shards of a cluster (LOAD,
    /// DELETE, FLUSH, RESTORE) repeats nothing.
    Function,
    /// Can not be carried; the text says why. See also [`refused`] for subcommands.
    Refused(&'static str),
    /// `POST` or `Host:`: a browser was made to speak to us. Close without an answer.
    CrossProtocol,
}

/// Which kind of channels a subscription is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channels {
    /// SUBSCRIBE, UNSUBSCRIBE.
    Plain,
    /// PSUBSCRIBE, PUNSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE, SUNSUBSCRIBE.
    Sharded,
}

/// Finds a command by its name in any mixture of capital and small letters. Does not allocate.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    table::find(name)
}

/// Every command of the table, for documentation and tests.
pub fn all() -> &'static [Command] {
    table::COMMANDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_capital_and_small_letters() {
        for command in all() {
            for name in [
                command.name.to_ascii_uppercase(),
                command.name.to_ascii_lowercase(),
            ] {
                let found = lookup(name.as_bytes()).map(|found| found.name);
                assert_eq!(found, Some(command.name));
            }
        }
    }

    #[test]
    fn other_names_are_not_found() {
        for name in ["", "G", "GE", "GETT", "G@T", "get ", "nonsense", "\u{0}GET"] {
            assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(lookup(&[b'x'; 4096]).is_none());
    }
}
