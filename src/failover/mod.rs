//! The pure core: events in, actions out. No socket, clock, task, random, lock, log or metric call;
//! time is an argument. That is what lets it be simulated, model-checked and replayed.

mod action;
mod candidate;
mod choice;
mod cluster;
mod commit;
mod core;
mod detector;
mod event;
mod fencing;
mod follow;
mod machine;
mod node;
mod outbox;
mod policy;
mod preflight;
mod record;
mod repoint;
mod report;
mod round;
mod serving;
mod start;
mod status;
mod swap;
mod switchover;
mod unfence;
mod unplanned;

pub use action::{Action, Decline, NodeOp, OpId, View};
pub use cluster::{ClusterPicture, ClusterShard, ClusterView};
pub use event::{Event, NodeOpOutcome, Observation, ProbeError, SwapOutcome};
pub use machine::{Authority, Machine};
pub use policy::Policy;
pub use record::{Ancestor, Opinion, Record, RecordPhase, Version};
pub use status::{Health, NodeRole, NodeStatus, Status};
