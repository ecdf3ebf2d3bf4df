//! An agent beside each node: it gives this host a virtual address while the node here is the
//! published primary, for clients that do not connect through pointsman.
//!
//! ```text
//!   monitor  one task a pointsman: who is published ─┐
//!   local    the node here: is it a primary          ├─ events ─> agent ─> duty: does it belong here?
//!   wire     does another host answer for it (frame) ┘              │
//!   start    checks, tidies up, begins to ask              kernel, wire: take, renew,
//!                                                          announce, drop, end connections
//! ```
//!
//! Two hosts never have the address as long as they hear each other: one that shall take it asks
//! until nobody answers any more. One that hears nobody drops it after a lease, and one whose agent
//! is gone loses it by the kernel's hand, because the address has a lifetime.

mod admin;
mod agent;
mod duty;
mod frame;
mod kernel;
mod local;
mod monitor;
mod settings;
mod start;
mod status;
mod wire;

pub use admin::serve;
pub use agent::Agent;
pub use local::end_clients;
pub use settings::VipSettings;
pub use start::AgentError;
pub use status::{PointsmanState, VipState, VipStatus};
