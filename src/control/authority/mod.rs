//! Who may decide: the seam, its contract, and what every implementation promises.
//!
//! 1. [`Authority::load`] returns what is stored and the version that the next swap is conditional
//!    on; version 0 and no record mean that nothing is stored.
//! 2. [`Authority::swap`] stores the record only if the stored version is the expected one, and
//!    then under a greater version. Of two swaps with the same expected version at most one is done.
//! 3. `Done` means stored for good: it survives the end of this process and of the machine.
//! 4. `Lost` means that this swap changed nothing, and says what is stored instead.
//! 5. `Unavailable` means that this swap changed nothing and that the authority can not be used at
//!    present; what was stored before is intact.
//! 6. `Unknown` means that it may or may not be stored; only a later `load` tells.
//! 7. [`Authority::changed`] is ready when what is stored, or anybody's opinion, may have changed since
//!    the last `load`, whoever changed it; it may be ready too often, never too seldom. Where nobody
//!    else can change it, it is never ready.
//! 8. [`Authority::opine`] replaces this monitor's opinion; every `load` that begins afterwards, by
//!    anybody, returns it. Opinions change neither the record nor its version.
//! 9. What can not be understood (another format, another backend, damaged) is an error that says
//!    so; it is never overwritten and never taken for "nothing is stored".
//!
//! `tests/contract` holds every implementation to it.

mod embedded;
mod follow;
mod roster;
mod shared;

use std::pin::Pin;

pub use embedded::{EmbeddedAuthority, StateError};
pub use follow::FollowAuthority;
pub use roster::{Roster, SharedRoster};
pub use shared::SharedAuthority;

use crate::failover::{Opinion, Record, Version};

/// A future that a trait object can return.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps the record of one backend. The head of this file is its contract.
pub trait Authority: Send {
    /// Reads what is stored.
    fn load(&mut self) -> Boxed<'_, Result<Loaded, AuthorityError>>;

    /// Compare-and-swap.
    fn swap(&mut self, expected: Version, record: Record) -> Boxed<'_, Swap>;

    /// Waits for a change. Cancel safe.
    fn changed(&mut self) -> Boxed<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Tells the other monitors what this one sees.
    fn opine(&mut self, _: Opinion) -> Boxed<'_, Result<(), AuthorityError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// `None`: nothing yet.
    pub record: Option<Record>,
    /// What the next swap is conditional on.
    pub version: Version,
    /// The last opinion of each monitor, this one's as well; empty where there is one only.
    pub opinions: Vec<Opinion>,
}

/// How a swap ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Swap {
    /// Stored, under this version.
    Done(Version),
    /// Not stored, because something else is.
    Lost(Loaded),
    /// It may or may not be stored.
    Unknown(String),
    /// Not stored, and nothing else was changed.
    Unavailable(String),
}

/// Why the authority could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(pub String);
