//! A connection of our own load: requests go out, and each reply is timed.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pointsman::clock;
use pointsman::resp::ReplyScanner;
use pointsman::topology::Timestamp;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::AsFd;

use super::load::Latency;

pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    scanner: ReplyScanner,
    /// When each request without a reply was due.
    due: VecDeque<Timestamp>,
}

impl Connection {
    /// Connects to `port`; `poller` tells of it under `index`.
    pub fn open(port: u16, poller: impl AsFd, index: u32) -> io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = EventData::new_u64(u64::from(index));
        epoll::add(&poller, &stream, data, EventFlags::IN)?;
        Ok(Connection {
            stream,
            input: Vec::new(),
            scanner: ReplyScanner::default(),
            due: VecDeque::new(),
        })
    }

    /// Sends a request that was due then.
    pub fn send(&mut self, request: &[u8], due: Timestamp) -> io::Result<()> {
        self.stream.write_all(request)?;
        self.due.push_back(due);
        Ok(())
    }

    /// Reads what is there and adds a latency for each reply; an error reply ends the load.
    pub fn read(&mut self, latencies: &mut Vec<Duration>) -> Result<(), Box<dyn Error>> {
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
            if self.input[at] == b'-' {
                return Err(self.input[at..at + len].escape_ascii().to_string().into());
            }
            at += len;
            let due = self.due.pop_front().ok_or("a reply to nothing")?;
            latencies.push(now.since(due));
        }
        self.input.drain(..at);
        Ok(())
    }
}

impl Latency {
    /// Of replies that came within `time`.
    pub fn of(mut latencies: Vec<Duration>, time: Duration) -> Latency {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len().saturating_sub(1) as f64 * share) as usize;
            latencies
                .get(index)
                .map_or(f64::NAN, |l| l.as_secs_f64() * 1e3)
        };
        Latency {
            per_second: latencies.len() as f64 / time.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}
