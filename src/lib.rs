//! A failover-aware proxy for Redis and Valkey.
//!
//! Two planes share one value, the published [`topology::Topology`], and one lossy channel back,
//! evidence. The data plane never waits for the control plane.
//!
//! ```text
//!             main -> app            wiring; the only place that knows every module
//!      ________/   |   \__________
//!  data plane      |          control plane
//!  proxy/   admin/ names/ sentinel/  control/  (I/O shell: probes, authority, promotion, publishing)
//!     \            |             |    \
//!      \           |             |     failover/  (pure core: events in, actions out)
//!       \__________|_____________|______/
//!               topology/   (plain values + one writer, ArcSwap readers)
//!                 resp/     (codec, command table, replies, INFO/ROLE)
//! ```
//!
//! Who may import whom is checked by `tests/layering.rs`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod failover;
pub mod lab;
pub mod metrics;
pub mod names;
pub mod proxy;
pub mod resp;
pub mod scheduling;
pub mod sentinel;
pub mod telemetry;
pub mod topology;
pub mod vip;
