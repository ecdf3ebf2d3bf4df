//! Real traffic against Redis directly, through pointsman, and through other proxies where they are
//! installed, in turns within one run, so that the figures can be compared with each other. They
//! can not be compared with those of another machine.
//!
//! `cargo bench --bench traffic -- --help`

mod floor;
mod load;
mod process;
mod system;
mod table;

use std::error::Error;

use clap::Parser;
use pointsman::lab::Scratch;

use load::{Load, Measured};
use system::{Kind, System};
use table::Results;

/// Measures requests per second, latency, CPU and memory, and prints them as ratios to direct Redis.
#[derive(Debug, Parser)]
#[command(name = "traffic", bin_name = "cargo bench --bench traffic --")]
struct Options {
    /// Rounds; in each, every system takes its turn with every load. Medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests of one measurement without pipelining; four times as many with it.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..))]
    requests: u64,
    /// Client connections.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Requests that each client sends at once; several values with commas between.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    pipeline: Vec<u32>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 64)]
    size: u32,
    /// What to measure; one that is not installed is left out, and said so.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    systems: Vec<Kind>,
    /// The proxy alone on CPU 0, Redis and the load on CPU 1, for direct Redis as well.
    #[arg(long)]
    pin: bool,
    /// Idle connections whose memory is measured; 0 to leave that out.
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Be the floor: serve this port with the node at that one.
    #[arg(long, hide = true, num_args = 2, value_names = ["PORT", "NODE"])]
    floor: Option<Vec<u16>>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if let Some([port, target]) = options.floor.as_deref() {
        return Ok(floor::run(*port, *target)?);
    }
    if !options.bench {
        eprintln!("run this with: cargo bench --bench traffic");
        return Ok(());
    }
    process::raise_file_limit();
    let scratch = Scratch::new()?;
    let cpus = options.pin.then_some(process::Cpus { proxy: 0, rest: 1 });
    let redis = system::Redis::start(&scratch, cpus)?;
    let mut systems = Vec::new();
    for &kind in &options.systems {
        match System::start(kind, &redis, &scratch, cpus) {
            Ok(system) => systems.push(system),
            Err(system::StartError::NotInstalled(program)) => {
                println!("{kind}: not measured, {program} is not installed");
            }
            Err(error) => return Err(format!("{kind}: {error}").into()),
        }
    }
    println!(
        "{} clients, values of {} bytes, {} rounds, {}",
        options.clients,
        options.size,
        options.rounds,
        if options.pin {
            "proxy on CPU 0, Redis and load on CPU 1"
        } else {
            "CPUs shared by all"
        }
    );
    let mut results = Results::default();
    for load in loads(&options) {
        for round in 0..options.rounds as usize {
            for turn in 0..systems.len() {
                // Nobody always comes first, or always after the same one.
                let system = &systems[(turn + round) % systems.len()];
                let measured = measure(&load, system, &redis, cpus)?;
                results.add(&load, system.kind, measured);
            }
        }
        results.print_load(&load);
    }
    if options.idle > 0 {
        table::print_idle(&idle(&systems, &redis, options.idle)?);
    }
    Ok(())
}

fn loads(options: &Options) -> Vec<Load> {
    let mut loads = Vec::new();
    for &pipeline in &options.pipeline {
        // SET first: then GET finds what it asks for.
        for command in ["set", "get"] {
            loads.push(Load {
                command,
                clients: options.clients,
                pipeline,
                size: options.size,
                requests: options.requests * if pipeline > 1 { 4 } else { 1 },
            });
        }
    }
    loads
}

fn measure(
    load: &Load,
    system: &System,
    redis: &system::Redis,
    cpus: Option<process::Cpus>,
) -> Result<Measured, Box<dyn Error>> {
    let before = (redis.cpu_seconds()?, system.cpu_seconds()?);
    let latency = load.run(system.port, cpus.map(|cpus| cpus.rest))?;
    let after = (redis.cpu_seconds()?, system.cpu_seconds()?);
    let millions = load.requests as f64 / 1e6;
    Ok(Measured {
        latency,
        redis_cpu: (after.0 - before.0) / millions,
        proxy_cpu: (after.1 - before.1) / millions,
    })
}

/// Bytes of memory for each idle connection, in the process that clients connect to.
fn idle(
    systems: &[System],
    redis: &system::Redis,
    count: usize,
) -> Result<Vec<(Kind, f64)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for system in systems {
        let resident = || match system.kind {
            Kind::Direct => redis.resident_bytes(),
            _ => system.resident_bytes(),
        };
        // The first connections pay for what all share.
        drop(load::open_idle(system.port, 50)?);
        let before = resident()?;
        let connections = load::open_idle(system.port, count)?;
        let after = resident()?;
        drop(connections);
        found.push((system.kind, (after as f64 - before as f64) / count as f64));
    }
    Ok(found)
}
