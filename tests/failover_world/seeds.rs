//! Runs many seeds on all processors, and tells which of them failed and how to see that again.

use super::world::World;

/// The world where it ended, the step, and what was wrong.
pub type Failure = Box<(World, u64, String)>;

/// One seed: `run(seed, steps, tracing)`.
pub trait Run: Fn(u64, u64, bool) -> Result<World, Failure> + Sync {}

impl<F: Fn(u64, u64, bool) -> Result<World, Failure> + Sync> Run for F {}

/// `SIM_SEED`, or `SIM_SEEDS` of them (`usual`), each of `SIM_STEPS` steps (16). Panics when one fails, and
/// tells the story of the first.
pub fn run_all(usual: u64, run: impl Run, story: impl Fn(&World) -> String) {
    let steps = variable("SIM_STEPS").unwrap_or(16);
    let seeds = match variable("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SIM_SEEDS").unwrap_or(usual),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let run_share = |worker| {
        let (mut done, mut failed) = (0, Vec::new());
        for seed in seeds.clone().filter(|seed| seed % threads == worker) {
            match run(seed, steps, false) {
                Ok(world) => done += world.done_reports(),
                Err(failure) => failed.push((seed, failure.1, failure.2)),
            }
        }
        (done, failed)
    };
    let (mut done, mut failed) = (0, Vec::new());
    std::thread::scope(|scope| {
        let run_share = &run_share;
        let spawn = |worker| scope.spawn(move || run_share(worker));
        let workers: Vec<_> = (0..threads).map(spawn).collect();
        for worker in workers {
            let (d, f) = worker.join().expect("a worker");
            done += d;
            failed.extend(f);
        }
    });
    failed.sort_unstable();
    if let Some((seed, ..)) = failed.first()
        && let Err(failure) = run(*seed, steps, true)
    {
        println!("{}", story(&failure.0));
    }
    let failed: Vec<String> = failed
        .into_iter()
        .map(|(seed, step, why)| format!("SIM_SEED={seed} step {step}: {why:.300}"))
        .collect();
    assert!(
        failed.is_empty(),
        "{} seeds failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    println!("{done} changes of primary");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
