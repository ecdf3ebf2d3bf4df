//! Sentinel's questions answered by pointsman: compared with a real Sentinel, over failovers, with
//! ordinary client libraries, with any bytes; and the hook, called as Sentinel calls its script.

mod clients;
mod compare;
mod failover;
mod hook;
mod rig;
mod session;

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;
