//! The pure core: events in, actions out. No socket, clock, task, random, lock, log or metric call;
//! time is an argument. That is what lets it be simulated, model-checked and replayed.

mod action;
mod event;
mod policy;
mod record;

pub use action::{Action, NodeOp, OpId, View};
pub use event::{Event, NodeOpOutcome, Observation, ProbeError, SwapOutcome};
pub use policy::Policy;
pub use record::{Record, RecordPhase, Version};
