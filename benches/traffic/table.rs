//! Medians, tables and the judgement.

use super::goals::{self, Bound, Round};
use super::load::Measured;
use super::scenario::Scenario;
use super::system::{Kind, Occupied};

/// A line for each system: medians over the rounds. The ratio is the median of the ratios of each round,
/// which a slow moment of the machine changes less than the ratio of the medians.
pub fn print_scenario(scenario: &Scenario, rounds: &[Round]) {
    println!(
        "\n{}: {} clients, pipeline of {}, {} bytes, {:?}, {} idle",
        scenario.name,
        scenario.clients,
        scenario.pipeline,
        scenario.size,
        scenario.place,
        scenario.idle()
    );
    println!(
        "  {:<10} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8}  {:>9} {:>9}",
        "", "req/s", "ratio", "p50 ms", "p99 ms", "p99.9", "max", "proxy CPU", "Redis CPU"
    );
    for kind in Kind::ALL {
        let of = |value: fn(&Measured) -> f64| {
            median(
                rounds
                    .iter()
                    .filter_map(|round| Some(value(round.of(kind)?)))
                    .collect(),
            )
        };
        let Some(rate) = of(|measured| measured.latency.per_second) else {
            continue;
        };
        let ratio = rounds.iter().filter_map(|round| {
            let direct = round.of(Kind::Direct)?.latency.per_second;
            Some(round.of(kind)?.latency.per_second / direct)
        });
        let middle = |value| of(value).unwrap_or(f64::NAN);
        println!(
            "  {:<10} {:>9.0} {:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3}  {:>9.2} {:>9.2}",
            kind.to_string(),
            rate,
            median(ratio.collect()).map_or("-".into(), |ratio| format!("{ratio:.2}")),
            middle(|measured| measured.latency.p50),
            middle(|measured| measured.latency.p99),
            middle(|measured| measured.latency.p999),
            middle(|measured| measured.latency.max),
            middle(|measured| measured.proxy_cpu),
            middle(|measured| measured.redis_cpu),
        );
    }
}

/// Whether each goal is reached.
#[derive(Debug, Default)]
pub struct Judgement(Vec<String>);

impl Judgement {
    pub fn add(&mut self, scenario: &Scenario, rounds: &[Round]) {
        for goal in goals::ALL {
            if scenario.name.starts_with(goal.scenarios) {
                let figures = rounds.iter().filter_map(goal.figure).collect();
                self.one(scenario.name, goal.what, goal.bound, median(figures));
            }
        }
    }

    /// `None`: something that is compared with was not measured.
    pub fn one(&mut self, scenario: &str, what: &str, bound: Bound, figure: Option<f64>) {
        let (sign, limit) = match bound {
            Bound::AtLeast(least) => (">=", least),
            Bound::AtMost(most) => ("<=", most),
        };
        let (figure, word) = match figure {
            Some(figure) if bound.holds(figure) => (format!("{figure:.2}"), "ok"),
            Some(figure) => (format!("{figure:.2}"), "MISSED"),
            None => ("-".into(), "not measured"),
        };
        self.0.push(format!(
            "  {scenario:<10} {what:<30} {figure:>7}  {sign} {limit:<5} {word}"
        ));
    }

    pub fn print(&self) {
        println!("\nGoals");
        self.0.iter().for_each(|line| println!("{line}"));
    }
}

/// Memory of each system: of an idle connection, and the most in this run.
/// What a proxy needed, bytes.
pub struct Memory {
    pub kind: Kind,
    pub started: Occupied,
    /// Of one idle connection, where they were measured.
    pub idle: Option<f64>,
    pub peak: u64,
}

pub fn print_memory(each: &[Memory]) {
    println!("\nMemory      started: own, MB   resident   idle connection, bytes    peak, MB");
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    for memory in each {
        let idle = memory.idle.map_or("-".into(), |idle| format!("{idle:.0}"));
        println!(
            "  {:<10} {:>16.1} {:>10.1} {idle:>24} {:>11.1}",
            memory.kind.to_string(),
            megabytes(memory.started.own),
            megabytes(memory.started.resident),
            megabytes(memory.peak)
        );
    }
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}
