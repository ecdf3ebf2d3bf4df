//! The pure core: events in, actions out. No socket, clock, task, random, lock, log or metric call;
//! time is an argument. That is what lets it be simulated, model-checked and replayed.

mod action;
mod event;
mod machine;
mod policy;
mod record;
mod status;

pub use action::{Action, NodeOp, OpId, View};
pub use event::{Event, NodeOpOutcome, Observation, ProbeError, SwapOutcome};
pub use machine::{Authority, Machine};
pub use policy::Policy;
pub use record::{Record, RecordPhase, Version};
pub use status::{Health, NodeRole, NodeStatus, Status};
