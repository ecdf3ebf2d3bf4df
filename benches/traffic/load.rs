//! The load: redis-benchmark, and connections that do nothing.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::process::command;
use super::scenario::Scenario;

/// What redis-benchmark says; latencies in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub latency: Latency,
    /// CPU seconds of Redis for a million requests.
    pub redis_cpu: f64,
    /// CPU seconds of the proxy for a million requests.
    pub proxy_cpu: f64,
}

/// Runs redis-benchmark against `port`.
pub fn run(scenario: &Scenario, requests: u64, port: u16) -> Result<Latency, Box<dyn Error>> {
    // Large values go to few keys, or Redis would hold gigabytes.
    let keys = if scenario.size > 1024 { 100 } else { 10_000 };
    let output = command(
        "redis-benchmark",
        scenario.place.cpus().map(|cpus| cpus.rest),
    )
    .args(["-h", "127.0.0.1", "-p", &port.to_string()])
    .args(["-t", scenario.command, "--precision", "3"])
    .args(["-r", &keys.to_string()])
    .args(["-c", &scenario.clients.to_string()])
    .args(["-n", &requests.to_string()])
    .args(["-P", &scenario.pipeline.to_string()])
    .args(["-d", &scenario.size.to_string()])
    .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("redis-benchmark failed: {error}{text}").into());
    }
    parse(&text).ok_or_else(|| format!("redis-benchmark printed:\n{text}").into())
}

/// Reads the report of redis-benchmark for one command.
fn parse(text: &str) -> Option<Latency> {
    // Progress is printed on one line with carriage returns.
    let mut lines = text.split(['\n', '\r']).map(str::trim);
    let mut p999 = None;
    let mut per_second = None;
    while let Some(line) = lines.next() {
        if let Some((percent, rest)) = line.split_once("% <= ") {
            // The steps halve what is left, so that the first from 99.9 on is 99.902.
            if p999.is_none() && percent.parse::<f64>().is_ok_and(|percent| percent >= 99.9) {
                p999 = rest.split(' ').next()?.parse().ok();
            }
        } else if let Some(rest) = line.strip_prefix("throughput summary:") {
            per_second = rest.split_whitespace().next()?.parse().ok();
        } else if line.starts_with("latency summary") {
            let values = lines.nth(1)?;
            let values: Vec<f64> = values
                .split_whitespace()
                .filter_map(|value| value.parse().ok())
                .collect();
            let [_, _, p50, _, p99, max] = values[..] else {
                return None;
            };
            return Some(Latency {
                per_second: per_second?,
                p50,
                p99,
                p999: p999?,
                max,
            });
        }
    }
    None
}

/// Connections that have asked once and then stay open.
pub fn open_idle(port: u16, count: usize) -> Result<Vec<TcpStream>, Box<dyn Error>> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$6\r\nabsent\r\n")?;
        stream.read_exact(&mut [0; 5])?;
        connections.push(stream);
    }
    Ok(connections)
}
