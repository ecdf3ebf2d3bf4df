//! Where node addresses are learned: the seam and its contract.
//!
//! 1. [`Source::next`] returns the full set of nodes, not a difference: as soon as it is known for the
//!    first time, then again whenever it changed.
//! 2. The set is never empty because something could not be asked; then nothing is returned.
//! 3. The order is the operator's, and stays.
//! 4. [`Source::look_again`] never waits; a source that asks somebody asks again soon.
//! 5. [`Source::trouble`] says for what a source waits, or why its last answer may be an old one.
//!
//! A source says where nodes are, never who is primary.

mod discovery;
mod dns;
mod fixed;
mod record;
mod resolver;

pub(super) use discovery::{Discovery, address};
pub use dns::{DnsName, DnsSettings, DnsSource};
pub use fixed::StaticSource;
pub use record::RecordSource;

use super::authority::Boxed;
use crate::topology::NodeId;

/// Says where the nodes of one backend are. The head of this file is its contract.
pub trait Source: Send {
    /// The next full set of nodes. Cancel safe.
    fn next(&mut self) -> Boxed<'_, Vec<NodeId>>;

    /// The set may have changed: look now and not at the next turn.
    fn look_again(&mut self) {}

    /// What is wrong, for people.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Whether the set is all there is: replicas that nodes list are no nodes of the backend.
    fn is_all(&self) -> bool {
        false
    }
}
