//! The failover bench: what twenty ordinary clients see of a fault, over many repetitions.
//!
//! `cargo bench --bench failover -- --repetitions 30 --fault kill`
//!
//! One primary and two replicas on loopback, every setting at its default, each client with one
//! request in flight. The clients run in one thread of this process. A repetition is: traffic, the
//! fault, its failover, more traffic, the judgement of every client's history; then the broken node
//! is repaired and the next repetition begins, in front of whoever is primary now.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pointsman::clock;
use pointsman::lab::{
    Data, ErrorClass, Kind, LabError, Shard, ShardOptions, Traffic, TrafficOptions, Verdict, judge,
};
use pointsman::topology::{BytesLost, FailoverReport, Outcome, Timestamp};

/// For what should take a moment.
const SOON: Duration = Duration::from_secs(30);

/// Traffic before a fault.
const BEFORE: Duration = Duration::from_millis(300);

/// Traffic after everything is over.
const AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Parser)]
#[command(about = "What clients see of a failover")]
struct Arguments {
    /// Repetitions of each fault
    #[arg(long, default_value_t = 10)]
    repetitions: usize,
    /// What happens to the primary
    #[arg(long, value_enum, default_value_t = Choice::All)]
    fault: Choice,
    /// How long a hanging primary hangs, seconds
    #[arg(long, default_value_t = 4)]
    hang_seconds: u64,
    /// Show what every repetition saw
    #[arg(long)]
    verbose: bool,
    /// Show what a repetition was made of when its pause was longer than so many milliseconds
    #[arg(long, value_name = "MS")]
    slower: Option<u64>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    Kill,
    Hang,
    Stall,
    Switchover,
    RestartEmpty,
    All,
}

/// The promised figures of one fault.
struct Goal {
    name: &'static str,
    median: Duration,
    worst: Duration,
    failover: bool,
}

impl Choice {
    const EACH: [Choice; 5] = [
        Choice::Kill,
        Choice::Hang,
        Choice::Stall,
        Choice::Switchover,
        Choice::RestartEmpty,
    ];

    fn goal(self) -> Goal {
        let (name, median, worst, failover) = match self {
            Choice::Kill => ("kill -9", 100, 300, true),
            Choice::Hang => ("SIGSTOP, then SIGCONT", 1500, 2500, true),
            Choice::Stall => ("SIGSTOP 300 ms", 400, 500, false),
            Choice::Switchover => ("switchover", 20, 60, true),
            Choice::RestartEmpty => ("kill, empty restart", 150, 500, true),
            Choice::All => ("all", 0, 0, true),
        };
        Goal {
            name,
            median: Duration::from_millis(median),
            worst: Duration::from_millis(worst),
            failover,
        }
    }
}

/// What the repetitions of one fault saw together.
#[derive(Default)]
struct Sum {
    repetitions: usize,
    pauses: Vec<Duration>,
    errors: BTreeMap<ErrorClass, u64>,
    forbidden: u64,
    lost: u64,
    broken: u64,
    failovers: usize,
    requests: u64,
    /// What the reports say of the loss; `None` without one.
    reported: Option<BytesLost>,
    examples: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(bench(&arguments)),
        Err(error) => Err(LabError::io("start the bench")(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> Result<(), LabError> {
    let faults = match arguments.fault {
        Choice::All => Choice::EACH.to_vec(),
        one => vec![one],
    };
    println!(
        "\n20 clients with one request in flight each, {} repetitions\n\n\
         {:<22} {:>9} {:>7} {:>8} {:>17} {:>17} {:>6} {:>14} {:>8} {:>10}",
        arguments.repetitions,
        "fault",
        "requests",
        "errors",
        "unknown",
        "median (goal)",
        "worst (goal)",
        "lost",
        "reported",
        "doubled",
        "failovers"
    );
    for fault in faults {
        // A new shard for each fault: one fault's leftovers are not the next one's problem.
        let shard = Shard::start(ShardOptions {
            program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
            ..ShardOptions::default()
        })
        .await?;
        let mut sum = Sum::default();
        for _ in 0..arguments.repetitions {
            let repetition = repeat(&shard, fault, arguments).await;
            let (verdict, reports, fault_at) = repetition.map_err(|error| {
                LabError::Unexpected(format!("{error}\n{}", shard.pointsman.log_tail()))
            })?;
            if arguments.verbose {
                println!("{verdict}");
            }
            let pause = verdict.total().longest_pause;
            if arguments
                .slower
                .is_some_and(|limit| pause.as_millis() > limit.into())
            {
                let began = verdict.total().pause_began;
                let when = match began >= fault_at {
                    true => format!("{} ms after", millis(began - fault_at)),
                    false => format!("{} ms before", millis(fault_at - began)),
                };
                println!("    {} ms, begun {when} the fault", millis(pause));
                let fault = clock::unix_time().saturating_sub(clock::now() - fault_at);
                reports
                    .iter()
                    .for_each(|report| print_course(report, fault));
            }
            sum.add(&verdict, &reports);
        }
        sum.print(&fault.goal());
    }
    println!(
        "\nerrors: every error but \"outcome unknown\" of a request that may not run twice; \
         lost: acknowledged\nby a primary that died before a replica had it, counted by the \
         clients; reported: what pointsman says\nof it, in bytes of the replication stream; \
         doubled: also wrong replies and wrong order"
    );
    Ok(())
}

/// One repetition: what the clients saw, the reports of its failovers, and when the fault was.
async fn repeat(
    shard: &Shard,
    fault: Choice,
    arguments: &Arguments,
) -> Result<(Verdict, Vec<FailoverReport>, Timestamp), LabError> {
    shard.cluster.in_sync(SOON).await?;
    let earlier = shard.pointsman.failovers().await?.len();
    let traffic = Traffic::start(TrafficOptions {
        clients: vec![
            (Kind::Reader, 8),
            (Kind::Setter, 6),
            (Kind::Counter, 3),
            (Kind::Appender, 3),
        ],
        ..TrafficOptions::every_kind(shard.address())
    })
    .await?;
    traffic.progress(10, SOON).await?;
    tokio::time::sleep(BEFORE).await;
    let node = shard.primary().await?;
    let fault_at = clock::now();
    match fault {
        Choice::Switchover => {
            let answer = shard.pointsman.switchover(None).await?;
            answer.map_err(LabError::Unexpected)?;
        }
        Choice::Stall => {
            node.stop();
            tokio::time::sleep(Duration::from_millis(300)).await;
            node.cont();
        }
        Choice::Hang => node.stop(),
        Choice::Kill => node.kill(),
        Choice::RestartEmpty | Choice::All => node.restart_now(Data::Empty)?,
    }
    if fault.goal().failover {
        let report = shard.pointsman.failover(earlier + 1, SOON).await?;
        if report.outcome != Outcome::Done {
            return Err(LabError::Unexpected(format!("aborted: {report:?}")));
        }
    }
    traffic.progress(10, SOON).await?;
    if fault == Choice::Hang {
        tokio::time::sleep(Duration::from_secs(arguments.hang_seconds)).await;
        node.cont();
    }
    tokio::time::sleep(AFTER).await;
    let mut primary = shard.primary().await?.client().await?;
    let verdict = judge(&traffic.stop(&mut primary).await?);
    let mut reports = shard.pointsman.failovers().await?;
    reports.drain(..earlier);
    if fault == Choice::Kill {
        node.restart_now(Data::Empty)?;
    }
    let flushed = primary.call(&["FLUSHALL"]).await;
    flushed.map_err(LabError::client("empty the data set"))?;
    Ok((verdict, reports, fault_at))
}

/// What was seen and done, in milliseconds from the fault; that is the wall clock's `fault`.
fn print_course(report: &FailoverReport, fault: Duration) {
    let seen = report.evidence.iter().map(|(at, what)| (*at, what.clone()));
    let done = report
        .phases
        .iter()
        .map(|p| (p.at, format!("[{}]", p.phase)));
    let mut lines: Vec<_> = seen.chain(done).collect();
    lines.sort_by_key(|(at, _)| *at);
    let Some(first) = report.phases.first() else {
        return;
    };
    let first_after = Duration::from_millis(report.unix_millis).saturating_sub(fault);
    println!("      gate closed for {} ms", millis(report.pause));
    for (at, what) in lines {
        let after = (first_after + (at - first.at)).saturating_sub(first.at - at);
        println!("      {:>7} ms  {what}", millis(after));
    }
}

impl Sum {
    fn add(&mut self, verdict: &Verdict, reports: &[FailoverReport]) {
        let total = verdict.total();
        self.repetitions += 1;
        self.pauses.push(total.longest_pause);
        for (class, count) in &total.errors {
            *self.errors.entry(*class).or_default() += count;
        }
        self.forbidden += verdict.forbidden_errors();
        self.lost += total.lost;
        self.broken += total.broken();
        self.failovers += reports.len();
        for report in reports {
            let lost = report.bytes_lost;
            self.reported = Some(self.reported.map_or(lost, |sum| both(sum, lost)));
            if lost == BytesLost::Exactly(0) && total.lost > 0 {
                let count = total.lost;
                let said = format!("{count} acknowledged writes are gone, the report says none");
                self.examples.push(said);
            }
        }
        self.requests += total.acknowledged;
        for example in total.examples {
            if self.examples.len() < 5 && !self.examples.contains(&example) {
                self.examples.push(example);
            }
        }
    }

    fn print(&mut self, goal: &Goal) {
        self.pauses.sort_unstable();
        let median = self.pauses.get(self.pauses.len() / 2);
        let median = median.copied().unwrap_or_default();
        let worst = self.pauses.last().copied().unwrap_or_default();
        let against = |time: Duration, goal: Duration| {
            let mark = if time <= goal { ' ' } else { '!' };
            format!("{mark}{} ms ({})", millis(time), goal.as_millis())
        };
        let unknown = self.errors.get(&ErrorClass::Unknown).copied().unwrap_or(0);
        println!(
            "{:<22} {:>9} {:>7} {unknown:>8} {:>17} {:>17} {:>6} {:>14} {:>8} {:>10}",
            goal.name,
            self.requests,
            self.forbidden,
            against(median, goal.median),
            against(worst, goal.worst),
            self.lost,
            match self.reported {
                Some(BytesLost::Exactly(bytes)) => format!("{bytes} B"),
                Some(BytesLost::AtLeast(bytes)) => format!(">= {bytes} B"),
                Some(BytesLost::Unknown) => "unknown".to_owned(),
                None => "-".to_owned(),
            },
            self.broken,
            self.failovers,
        );
        for (class, count) in &self.errors {
            if *class != ErrorClass::Unknown {
                println!("    {count} x {}", class.name());
            }
        }
        for example in &self.examples {
            println!("    {example}");
        }
        let expected = if goal.failover { self.repetitions } else { 0 };
        if self.failovers != expected {
            println!("    {expected} failovers were expected");
        }
    }
}

/// The sum of two losses.
fn both(one: BytesLost, two: BytesLost) -> BytesLost {
    match (one, two) {
        (BytesLost::Exactly(a), BytesLost::Exactly(b)) => BytesLost::Exactly(a + b),
        (
            BytesLost::Exactly(a) | BytesLost::AtLeast(a),
            BytesLost::Exactly(b) | BytesLost::AtLeast(b),
        ) => BytesLost::AtLeast(a + b),
        _ => BytesLost::Unknown,
    }
}

fn millis(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..100_000 => format!("{:.1}", micros as f64 / 1000.0),
        micros => format!("{}", micros / 1000),
    }
}
