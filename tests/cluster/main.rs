//! A real Redis Cluster behind pointsman, and ordinary clients that know nothing of it.

mod clients;
mod commands;
mod failover;
mod reshard;
mod scene;
mod tracking;
