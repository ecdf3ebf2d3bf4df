//! Real traffic against Redis directly, through pointsman, through other proxies where they are installed,
//! and through a floor, in turns within one run, so that the figures can be compared with each other. They
//! can not be compared with those of another machine. At the end stands whether each goal is reached.
//!
//! `cargo bench --bench traffic -- --help`

mod connection;
mod floor;
mod goals;
mod load;
mod mixed;
mod process;
mod rate;
mod scenario;
mod system;
mod table;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpStream;

use clap::Parser;
use pointsman::lab::Scratch;

use goals::{Bound, Round};
use load::Measured;
use scenario::Scenario;
use system::{Kind, Redis, System};
use table::{Judgement, median};

/// Measures requests per second, latency, CPU and memory, and judges them as ratios.
#[derive(Debug, Parser)]
#[command(name = "traffic", bin_name = "cargo bench --bench traffic --")]
struct Options {
    /// Rounds; in each, every system takes its turn with every scenario. Medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Multiplies the number of requests of every measurement.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Scenarios, by their names or the beginnings of them, with commas between; all where none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What to measure; one that is not installed is left out, and said so.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    systems: Vec<Kind>,
    /// Print the names of the scenarios and end.
    #[arg(long)]
    list: bool,
    /// Be the floor: serve this port with the node at that one.
    #[arg(long, hide = true, num_args = 2, value_names = ["PORT", "NODE"])]
    floor: Option<Vec<u16>>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is running, and what was found so far.
struct Bench {
    redis: Redis,
    systems: Vec<System>,
    /// Requests per second of each system with "p1-get", by round.
    closed_loop: BTreeMap<(Kind, usize), f64>,
    /// Requests per second of each system right before the idle connections are opened, by round.
    without_idle: BTreeMap<(Kind, usize), f64>,
    /// Bytes for an idle connection.
    idle: BTreeMap<Kind, Vec<f64>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if let Some([port, target]) = options.floor.as_deref() {
        return Ok(floor::run(*port, *target)?);
    }
    if options.list {
        scenario::ALL.iter().for_each(|s| println!("{}", s.name));
        return Ok(());
    }
    if !options.bench {
        eprintln!("run this with: cargo bench --bench traffic");
        return Ok(());
    }
    process::raise_file_limit();
    let scratch = Scratch::new()?;
    let redis = Redis::start(&scratch)?;
    let mut systems = Vec::new();
    for &kind in &options.systems {
        match System::start(kind, &redis, &scratch) {
            Ok(system) => systems.push(system),
            Err(system::StartError::NotInstalled(program)) => {
                println!("{kind}: not measured, {program} is not installed");
            }
            Err(error) => return Err(format!("{kind}: {error}").into()),
        }
    }
    let mut bench = Bench {
        redis,
        systems,
        closed_loop: BTreeMap::new(),
        without_idle: BTreeMap::new(),
        idle: BTreeMap::new(),
    };
    println!(
        "{} rounds; CPU: seconds for a million requests",
        options.rounds
    );
    let mut judgement = Judgement::default();
    let chosen = scenario::ALL.iter().filter(|scenario| {
        let wanted = |only: &String| scenario.name.starts_with(only.as_str());
        options.only.is_empty() || options.only.iter().any(wanted)
    });
    for scenario in chosen {
        let rounds = bench.run(scenario, &options)?;
        table::print_scenario(scenario, &rounds);
        judgement.add(scenario, &rounds);
        if scenario.idle() > 0 {
            bench.judge_idle(scenario, &rounds, &mut judgement);
        }
    }
    bench.judge_memory(&mut judgement)?;
    judgement.print();
    Ok(())
}

impl Bench {
    fn run(
        &mut self,
        scenario: &Scenario,
        options: &Options,
    ) -> Result<Vec<Round>, Box<dyn Error>> {
        let cpus = scenario.place.cpus();
        self.redis.place(cpus)?;
        for system in &self.systems {
            system.place(cpus)?;
        }
        let requests = (scenario.requests as f64 * options.scale).max(100.0) as u64;
        let mut rounds = Vec::new();
        for number in 0..options.rounds as usize {
            let mut round = Round::default();
            for turn in 0..self.systems.len() {
                // Nobody always comes first, or always after the same one.
                let at = (turn + number) % self.systems.len();
                if !self.systems[at].kind.can_hold(scenario.idle()) {
                    continue;
                }
                let measured = self.measure(scenario, requests, at, number)?;
                round.add(self.systems[at].kind, measured);
            }
            rounds.push(round);
        }
        Ok(rounds)
    }

    fn measure(
        &mut self,
        scenario: &Scenario,
        requests: u64,
        at: usize,
        round: usize,
    ) -> Result<Measured, Box<dyn Error>> {
        let system_kind = self.systems[at].kind;
        let idle = match scenario.idle() {
            0 => Vec::new(),
            count => {
                let alone = load::run(scenario, requests, self.systems[at].port)?;
                self.without_idle
                    .insert((system_kind, round), alone.per_second);
                self.open_idle(at, count)?
            }
        };
        let before = (self.redis.cpu_seconds()?, self.systems[at].cpu_seconds()?);
        let latency = match scenario.rate {
            None if scenario.command == scenario::MIXED => mixed::run(
                self.systems[at].port,
                scenario.clients,
                requests,
                scenario.size,
            )?,
            None => load::run(scenario, requests, self.systems[at].port)?,
            Some(share) => {
                let direct = self.closed_loop.get(&(Kind::Direct, round));
                let direct = direct.ok_or("a fixed rate needs --only p1-get,rate-get")?;
                rate::run(
                    self.systems[at].port,
                    scenario.clients,
                    requests,
                    direct * share,
                )?
            }
        };
        let after = (self.redis.cpu_seconds()?, self.systems[at].cpu_seconds()?);
        drop(idle);
        if scenario.name == "p1-get" {
            self.closed_loop
                .insert((system_kind, round), latency.per_second);
        }
        let millions = requests as f64 / 1e6;
        Ok(Measured {
            latency,
            redis_cpu: (after.0 - before.0) / millions,
            proxy_cpu: (after.1 - before.1) / millions,
        })
    }

    /// Opens connections that do nothing, and notes what each costs the process they lead to.
    fn open_idle(&mut self, at: usize, count: usize) -> Result<Vec<TcpStream>, Box<dyn Error>> {
        let system = &self.systems[at];
        let resident = || match system.kind {
            Kind::Direct => self.redis.resident_bytes(),
            _ => system.resident_bytes(),
        };
        let before = resident()?;
        let connections = load::open_idle(system.port, count)?;
        let each = (resident()? as f64 - before as f64) / count as f64;
        self.idle.entry(system.kind).or_default().push(each);
        Ok(connections)
    }

    fn judge_idle(&self, scenario: &Scenario, rounds: &[Round], judgement: &mut Judgement) {
        let ratios = rounds.iter().enumerate().filter_map(|(number, round)| {
            let busy = round.of(Kind::Pointsman)?.latency.per_second;
            Some(busy / self.without_idle.get(&(Kind::Pointsman, number))?)
        });
        let ratio = median(ratios.collect());
        judgement.one(
            scenario.name,
            "requests/s : without idle ones",
            Bound::AtLeast(0.95),
            ratio,
        );
        // Later rounds find memory that earlier ones freed: the first is the dearest.
        let first = self.idle.get(&Kind::Pointsman).and_then(|all| all.first());
        judgement.one(
            scenario.name,
            "bytes of an idle connection",
            Bound::AtMost(2048.0),
            first.copied(),
        );
    }

    fn judge_memory(&self, judgement: &mut Judgement) -> Result<(), Box<dyn Error>> {
        let mut each = Vec::new();
        for system in &self.systems {
            if system.kind != Kind::Direct {
                let idle = self.idle.get(&system.kind).and_then(|all| all.first());
                each.push(table::Memory {
                    kind: system.kind,
                    started: system.started,
                    idle: idle.copied(),
                    peak: system.peak_bytes()?,
                });
            }
        }
        table::print_memory(&each);
        if let Some(own) = each.iter().find(|memory| memory.kind == Kind::Pointsman) {
            let megabytes = own.started.own as f64 / 1e6;
            let base = "its own memory at the start, MB";
            judgement.one("all", base, Bound::AtMost(8.0), Some(megabytes));
        }
        Ok(())
    }
}
