//! The promise, on real servers: pointsman as a child process in front of real `redis-server`
//! processes, ordinary clients, faults, and a judge of what the clients recorded and of what
//! pointsman logged. One file for each topic.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;

mod candidates;
mod commands;
mod coordinator;
mod crash;
mod demo;
mod disk;
mod dns;
mod dns_server;
mod dns_update;
mod failover;
mod follow;
mod hostile;
mod monitors;
mod network;
mod outage;
mod restart;
mod sessions;
mod switchover;
mod tracking;
mod trouble;
