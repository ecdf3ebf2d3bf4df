//! A load of a fixed rate: every request has its moment, whether or not the one before was answered, and
//! its latency counts from that moment. A load that waits for replies would leave out just those
//! requests that a slow moment would have hit.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pointsman::clock;
use pointsman::resp::ReplyScanner;
use pointsman::topology::Timestamp;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::load::Latency;

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    scanner: ReplyScanner,
    /// When each request without a reply was due.
    due: VecDeque<Timestamp>,
}

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
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = EventData::new_u64(u64::from(index));
        epoll::add(&poller, &stream, data, EventFlags::IN)?;
        connections.push(Connection {
            stream,
            input: Vec::new(),
            scanner: ReplyScanner::default(),
            due: VecDeque::new(),
        });
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
            connection.ask(sent, start + every * sent as u32)?;
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
    let seconds = clock::now().since(start).as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() - 1) as f64 * share) as usize;
        latencies[index].as_secs_f64() * 1e3
    };
    Ok(Latency {
        per_second: requests as f64 / seconds,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    })
}

impl Connection {
    fn ask(&mut self, number: u64, due: Timestamp) -> io::Result<()> {
        let key = format!("key:{:012}", number % 10_000);
        let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        self.stream.write_all(request.as_bytes())?;
        self.due.push_back(due);
        Ok(())
    }

    fn read(&mut self, latencies: &mut Vec<Duration>) -> Result<(), Box<dyn Error>> {
        let mut buffer = [0; 16 * 1024];
        let n = match self.stream.read(&mut buffer) {
            Ok(0) => return Err("the connection was closed".into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.input.extend_from_slice(&buffer[..n]);
        let now = clock::now();
        let mut at = 0;
        while let Some(len) = self.scanner.scan(&self.input[at..])? {
            at += len;
            let due = self.due.pop_front().ok_or("a reply to nothing")?;
            latencies.push(now.since(due));
        }
        self.input.drain(..at);
        Ok(())
    }
}
