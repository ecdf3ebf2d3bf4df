//! What is measured: kinds of traffic, and where the processes run.

use super::process::{Cpus, file_limit};

/// One kind of traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub name: &'static str,
    pub command: &'static str,
    pub clients: u32,
    /// Requests that each client sends at once.
    pub pipeline: u32,
    /// Bytes of a value.
    pub size: u32,
    /// Requests of one measurement, for `--scale 1`.
    pub requests: u64,
    pub place: Place,
    /// Connections that do nothing meanwhile: see [`Scenario::idle`].
    idle: usize,
    /// Requests are sent at a fixed rate, this share of what direct Redis did in the scenario "p1-get",
    /// instead of as fast as replies come.
    pub rate: Option<f64>,
}

impl Scenario {
    /// Connections that do nothing meanwhile, as many as can be had. Pointsman takes half as many clients as it
    /// may open files: each might need a connection of its own.
    pub fn idle(&self) -> usize {
        self.idle.min(file_limit() / 2 - 300)
    }
}

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the kernel puts them.
    Anywhere,
    /// Proxy, Redis and load together on CPU 0.
    OneCore,
    /// The proxy alone on CPU 0, Redis and load on CPU 1.
    ProxyAlone,
}

impl Place {
    pub fn cpus(self) -> Option<Cpus> {
        match self {
            Place::Anywhere => None,
            Place::OneCore => Some(Cpus { proxy: 0, rest: 0 }),
            Place::ProxyAlone => Some(Cpus { proxy: 0, rest: 1 }),
        }
    }
}

const fn plain(name: &'static str, command: &'static str, clients: u32, pipeline: u32) -> Scenario {
    Scenario {
        name,
        command,
        clients,
        pipeline,
        size: 64,
        requests: match pipeline {
            1 => 100_000,
            _ => 600_000,
        },
        place: Place::Anywhere,
        idle: 0,
        rate: None,
    }
}

const fn sized(name: &'static str, command: &'static str, size: u32, requests: u64) -> Scenario {
    Scenario {
        size,
        requests,
        ..plain(name, command, 50, 1)
    }
}

/// The scenario of many commands: `mixed.rs`.
pub const MIXED: &str = "mixed";

/// Everything that is judged. SET comes before GET of the same size, which then finds what it asks for.
pub const ALL: [Scenario; 18] = [
    plain("p1-set", "set", 50, 1),
    plain("p1-get", "get", 50, 1),
    plain("p16-set", "set", 50, 16),
    plain("p16-get", "get", 50, 16),
    plain("p64-set", "set", 50, 64),
    plain("p64-get", "get", 50, 64),
    plain(MIXED, MIXED, 50, 1),
    plain("many-get", "get", 500, 1),
    Scenario {
        requests: 10_000,
        ..plain("one-get", "get", 1, 1)
    },
    Scenario {
        place: Place::OneCore,
        ..plain("core-set", "set", 50, 1)
    },
    Scenario {
        place: Place::OneCore,
        ..plain("core-get", "get", 50, 1)
    },
    Scenario {
        place: Place::ProxyAlone,
        ..plain("alone-get", "get", 50, 1)
    },
    Scenario {
        rate: Some(0.4),
        ..plain("rate-get", "get", 50, 1)
    },
    Scenario {
        idle: 10_000,
        ..plain("idle-get", "get", 50, 1)
    },
    sized("16k-set", "set", 16 * 1024, 40_000),
    sized("16k-get", "get", 16 * 1024, 40_000),
    Scenario {
        clients: 10,
        ..sized("1m-set", "set", 1024 * 1024, 1_000)
    },
    Scenario {
        clients: 10,
        ..sized("1m-get", "get", 1024 * 1024, 1_000)
    },
];
