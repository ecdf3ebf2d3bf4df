//! Where node addresses are learned: the seam and its contract.
//!
//! 1. [`Source::next`] returns the full set of nodes, not a difference: at once for the first time,
//!    then again whenever it changed.
//! 2. The set is never empty because something could not be asked; then nothing is returned.
//! 3. The order is the operator's, and stays.
//!
//! A source says where nodes are, never who is primary.

mod discovery;
mod fixed;

pub(super) use discovery::{Discovery, address};
pub use fixed::StaticSource;

use super::authority::Boxed;
use crate::topology::NodeId;

/// Says where the nodes of one backend are. The head of this file is its contract.
pub trait Source: Send {
    /// The next full set of nodes. Cancel safe.
    fn next(&mut self) -> Boxed<'_, Vec<NodeId>>;
}
