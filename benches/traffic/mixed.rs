//! A load of many commands, as an application has it: each client sends its next request when it has the
//! reply to the last one.

use std::error::Error;
use std::time::Duration;

use bytes::BytesMut;
use pointsman::clock;
use pointsman::resp::encode_request;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags};

use super::connection::Connection;
use super::load::Latency;

/// Of a hundred requests, how many are of which kind.
const SHARES: [(u64, Kind); 9] = [
    (60, Kind::Get),
    (20, Kind::Set),
    (5, Kind::Incr),
    (5, Kind::Mget),
    (2, Kind::Lpush),
    (2, Kind::Lpop),
    (2, Kind::Hset),
    (2, Kind::Hgetall),
    (2, Kind::Zadd),
];

#[derive(Clone, Copy)]
enum Kind {
    Get,
    Set,
    Incr,
    Mget,
    Lpush,
    Lpop,
    Hset,
    Hgetall,
    Zadd,
}

/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends `requests` over `clients` connections to `port`, with values of `size` bytes.
pub fn run(port: u16, clients: u32, requests: u64, size: u32) -> Result<Latency, Box<dyn Error>> {
    let poller = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for index in 0..clients {
        connections.push(Connection::open(port, &poller, index)?);
    }
    let mut source = Source {
        value: vec![b'x'; size as usize],
        state: 1,
        frame: BytesMut::new(),
    };
    let start = clock::now();
    let mut sent = 0;
    for connection in &mut connections {
        connection.send(source.next(), clock::now())?;
        sent += 1;
    }
    let mut latencies = Vec::with_capacity(requests as usize);
    let mut events = Vec::with_capacity(256);
    let patience = Timespec {
        tv_sec: LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    while (latencies.len() as u64) < sent {
        events.clear();
        epoll::wait(&poller, spare_capacity(&mut events), Some(&patience))?;
        if events.is_empty() {
            return Err(format!("no reply for {LIMIT:?}").into());
        }
        for event in &events {
            let connection = &mut connections[event.data.u64() as usize];
            let before = latencies.len();
            connection.read(&mut latencies)?;
            if latencies.len() > before && sent < requests {
                connection.send(source.next(), clock::now())?;
                sent += 1;
            }
        }
    }
    Ok(Latency::of(latencies, clock::now().since(start)))
}

/// Makes requests, the same ones in every run.
struct Source {
    value: Vec<u8>,
    state: u64,
    frame: BytesMut,
}

impl Source {
    /// Knuth's linear congruential generator; the upper bits are good enough for a load.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn name(&mut self, kind: &str, bound: u64) -> Vec<u8> {
        format!("{kind}:{:012}", self.below(bound)).into_bytes()
    }

    fn next(&mut self) -> &[u8] {
        let mut left = self.below(100);
        let of = |(share, kind): &(u64, Kind)| match left.checked_sub(*share) {
            Some(rest) => {
                left = rest;
                None
            }
            None => Some(*kind),
        };
        let kind = SHARES.iter().find_map(of).unwrap_or(Kind::Get);
        let words: Vec<Vec<u8>> = match kind {
            Kind::Get => vec![b"GET".into(), self.name("key", 10_000)],
            Kind::Set => vec![b"SET".into(), self.name("key", 10_000), self.value.clone()],
            Kind::Incr => vec![b"INCR".into(), self.name("counter", 1_000)],
            Kind::Mget => {
                let mut words = vec![b"MGET".to_vec()];
                words.extend((0..5).map(|_| self.name("key", 10_000)));
                words
            }
            Kind::Lpush => vec![b"LPUSH".into(), self.name("list", 100), self.value.clone()],
            Kind::Lpop => vec![b"LPOP".into(), self.name("list", 100)],
            Kind::Hset => {
                let (key, field) = (self.name("hash", 1_000), self.name("field", 10));
                vec![b"HSET".into(), key, field, self.value.clone()]
            }
            Kind::Hgetall => vec![b"HGETALL".into(), self.name("hash", 1_000)],
            Kind::Zadd => {
                let (key, member) = (self.name("zset", 1_000), self.name("member", 100));
                let score = self.below(1_000_000).to_string().into_bytes();
                vec![b"ZADD".into(), key, score, member]
            }
        };
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.frame.clear();
        encode_request(&mut self.frame, &words);
        &self.frame
    }
}
