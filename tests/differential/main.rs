//! A client must not be able to tell pointsman from Redis: sequences of requests made from a seed run
//! against a server and against pointsman in front of another, and every reply must be the same.
//!
//! `DIFF_SEED=n` runs one seed, `DIFF_SEEDS=n` or `DIFF_SEEDS=from..to` that many, `DIFF_STEPS=n` makes
//! them longer. `mask.rs` says what may differ, `exclusion.rs` what is not tried.

mod arguments;
mod comparison;
mod exclusion;
mod mask;
mod random;
mod sequence;
mod shrink;
mod side;
mod table;
mod value;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use comparison::Comparison;

const SEEDS: Range<u64> = 0..1000;
const STEPS: usize = 60;
const THREADS: usize = 2;
/// Differences after which nothing more is tried.
const ENOUGH: usize = 5;

#[test]
fn nobody_can_tell_pointsman_from_the_server() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match (number("DIFF_SEED"), std::env::var("DIFF_SEEDS").ok()) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(text)) => match text.split_once("..") {
            Some((from, to)) => from.parse().expect("a seed")..to.parse().expect("a seed"),
            None => 0..text.parse().expect("a number of seeds"),
        },
        (None, None) => SEEDS,
    };
    let steps = number("DIFF_STEPS").map_or(STEPS, |steps| steps as usize);
    let (next, differences) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min((seeds.end - seeds.start) as usize) {
            scope.spawn(|| {
                let mut comparison = Comparison::start();
                let table = table::read(comparison.control());
                let traits = comparison.control().traits();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = differences.lock().expect("no panic").len() >= ENOUGH;
                    if seed >= seeds.end || enough {
                        return;
                    }
                    let sequence = sequence::sequence(seed, steps, &table, traits);
                    let running = Running(seed, &sequence);
                    let result = comparison.run(&sequence);
                    drop(running);
                    if let Err(difference) = result {
                        let report = shrink::report(&mut comparison, seed, sequence, difference);
                        differences.lock().expect("no panic").push(report);
                    }
                }
            });
        }
    });
    let differences = differences.into_inner().expect("no panic");
    assert!(differences.is_empty(), "\n{}", differences.join("\n\n"));
}

/// Says what ran when the comparison itself broke: a server that ends is nobody's reply.
struct Running<'a>(u64, &'a [sequence::Step]);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps: Vec<String> = self.1.iter().map(|step| format!("  {step}\n")).collect();
            eprintln!("DIFF_SEED={} was running:\n{}", self.0, steps.concat());
        }
    }
}
