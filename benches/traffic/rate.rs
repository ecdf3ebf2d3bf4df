//! A load of a fixed rate: every request has its moment, whether or not the one before was answered, and
//! its latency counts from that moment. A load that waits for replies would leave out just those
//! requests that a slow moment would have hit.

use std::error::Error;
use std::time::Duration;

use pointsman::clock;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags};

use super::connection::Connection;
use super::load::Latency;

/// Sends `requests` GETs over `clients` connections to `port`, `per_second` of them.
pub fn run(
    port: u16,
    clients: u32,
    requests: u64,
    per_second: f64,
) -> Result<Latency, Box<dyn Error>> {
    let poller = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for index in 0..clients {
        connections.push(Connection::open(port, &poller, index)?);
    }
    let every = Duration::from_secs_f64(1.0 / per_second);
    let start = clock::now();
    let limit = every * u32::try_from(requests)? + Duration::from_secs(30);
    let (mut sent, mut latencies) = (0, Vec::with_capacity(requests as usize));
    let mut events = Vec::with_capacity(256);
    while (latencies.len() as u64) < requests {
        let now = clock::now();
        if now.since(start) > limit {
            return Err("the fixed rate load was not answered in time".into());
        }
        while sent < requests && start + every * sent as u32 <= now {
            let connection = &mut connections[sent as usize % clients as usize];
            let key = format!("key:{:012}", sent % 10_000);
            let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
            connection.send(request.as_bytes(), start + every * sent as u32)?;
            sent += 1;
        }
        events.clear();
        // Never asleep while a request may become due: the kernel's timers are too coarse for that.
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: if sent < requests { 0 } else { 1_000_000 },
        };
        epoll::wait(&poller, spare_capacity(&mut events), Some(&patience))?;
        for event in &events {
            connections[event.data.u64() as usize].read(&mut latencies)?;
        }
    }
    Ok(Latency::of(latencies, clock::now().since(start)))
}
