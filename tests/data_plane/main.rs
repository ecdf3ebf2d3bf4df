//! The data plane in front of real servers.

mod connection;
mod failover;
mod leaving;
mod outage;
mod plane;
mod scheduling;
mod state;
mod tracking;
mod traffic;
