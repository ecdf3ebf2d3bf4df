//! The failover bench: what twenty ordinary clients see of a fault, over many repetitions.
//!
//! `cargo bench --bench failover -- --repetitions 30 --fault kill`
//! `cargo bench --bench failover -- --repetitions 30 --way sentinel`
//! `cargo bench --bench failover -- --repetitions 30 --way cluster` (see `cluster.rs`)
//! `cargo bench --bench failover -- --repetitions 30 --way dns`
//! `cargo bench --bench failover -- --repetitions 30 --way etcd --fault cut`
//!
//! One primary and two replicas on loopback, every setting at its default, each client with one
//! request in flight. The clients run in one thread of this process. A repetition is: traffic, the
//! fault, its failover, more traffic, the judgement of every client's history; then the broken node
//! is repaired and the next repetition begins, in front of whoever is primary now.
//!
//! What is cut off by `cut` is the primary's node, from everybody: no packet reaches its port or leaves
//! it, no matter whose. Everything else is as on other hosts: the replicas, every pointsman, the servers
//! that keep the record, the sentinels and the clients reach one another. This needs a network of the
//! bench's own, in which it starts itself again (see `lab::namespace`).

mod cluster;
mod seen;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pointsman::clock;
use pointsman::lab::namespace::{self, NETWORK};
use pointsman::lab::{
    Data, ErrorClass, Finder, Kind, LabError, Server, Shard, ShardOptions, Traffic, TrafficOptions,
    Verdict, Way, judge,
};
use pointsman::topology::{BytesLost, FailoverReport, Outcome, Timestamp};

use seen::{RoleWatch, ServedWatch};

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
    /// Who decides
    #[arg(long, value_enum, default_value_t = Way::Embedded)]
    way: Way,
    /// Which clients, where there are others than those of pointsman
    #[arg(long, value_enum, default_value_t = WhoChoice::Both)]
    clients: WhoChoice,
    /// What happens to the primary
    #[arg(long, value_enum, default_value_t = Choice::All)]
    fault: Choice,
    /// How long a hanging primary hangs, or one that is cut off stays so, seconds
    #[arg(long, default_value_t = 5)]
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
    /// Every packet to and from the primary is dropped, as if its host were gone
    Cut,
    /// An operator promotes another, and moves the name where there is one
    ByHand,
    All,
}

/// Whose clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Ordinary ones, which connect to pointsman.
    Pointsman,
    /// Those that look for the primary by themselves.
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhoChoice {
    Pointsman,
    Plain,
    Both,
}

impl Arguments {
    /// The faults whose figures are promised for this way.
    fn faults(&self) -> Vec<Choice> {
        match (self.fault, self.way) {
            (Choice::All, Way::Embedded) => Choice::EACH.to_vec(),
            (Choice::All, Way::Cluster) => vec![Choice::Kill, Choice::Switchover],
            (Choice::All, way) if way.by_hand() => vec![Choice::ByHand],
            (Choice::All, way) => {
                let mut faults = vec![Choice::Kill, Choice::Switchover, Choice::Hang];
                faults.extend(way.coordinator().map(|_| Choice::Cut));
                faults
            }
            (one, _) => vec![one],
        }
    }

    fn who(&self) -> Vec<Who> {
        match (self.way, self.clients) {
            (_, WhoChoice::Pointsman) => vec![Who::Pointsman],
            (way, _) if way != Way::Sentinel => vec![Who::Pointsman],
            (_, WhoChoice::Plain) => vec![Who::Plain],
            (_, WhoChoice::Both) => vec![Who::Pointsman, Who::Plain],
        }
    }
}

/// The promised figures of one fault.
struct Goal {
    name: &'static str,
    /// Of the pause; `None` where most of it is not pointsman's.
    pause: Option<Figures>,
    /// From `role:master` of the new primary until every client is served.
    after_role: Option<Duration>,
    /// From the changed answer until a request was served by the new primary, median.
    after_hand: Option<Duration>,
    failover: bool,
}

struct Figures {
    median: Duration,
    worst: Duration,
}

impl Choice {
    const EACH: [Choice; 6] = [
        Choice::Kill,
        Choice::Hang,
        Choice::Stall,
        Choice::Switchover,
        Choice::RestartEmpty,
        Choice::Cut,
    ];

    fn goal(self, way: Way) -> Goal {
        let shared = way.coordinator().is_some();
        let (name, median, worst, failover) = match self {
            Choice::Kill if shared => ("kill -9", 150, 300, true),
            Choice::Switchover if shared => ("switchover", 50, 100, true),
            Choice::Switchover if way == Way::Cluster => ("CLUSTER FAILOVER", 300, 500, true),
            Choice::Kill => ("kill -9", 100, 300, true),
            Choice::Hang => ("SIGSTOP, then SIGCONT", 1500, 2500, true),
            Choice::Stall => ("SIGSTOP 300 ms", 400, 500, false),
            Choice::Switchover if way == Way::Sentinel => ("SENTINEL FAILOVER", 300, 500, true),
            Choice::Switchover => ("switchover", 20, 60, true),
            Choice::RestartEmpty => ("kill, empty restart", 150, 500, true),
            Choice::Cut => ("cut off silently", 1000, 2000, true),
            Choice::ByHand if way == Way::Dns => ("the name is moved", 0, 0, true),
            Choice::ByHand => ("moved by hand", 0, 0, true),
            Choice::All => ("all", 0, 0, true),
        };
        // The seconds without an answer and the election are theirs; a hand's own steps take longer than ours.
        let elects = matches!(way, Way::Sentinel | Way::Cluster);
        let ours = !elects || way == Way::Sentinel && self == Choice::Switchover;
        let ours = ours && self != Choice::ByHand;
        let after_hand = (self == Choice::ByHand).then_some(Duration::from_millis(100));
        Goal {
            name,
            pause: ours.then_some(Figures {
                median: Duration::from_millis(median),
                worst: Duration::from_millis(worst),
            }),
            after_role: elects.then_some(Duration::from_millis(100)),
            after_hand,
            failover,
        }
    }
}

/// What the repetitions of one fault saw together.
#[derive(Default)]
struct Sum {
    repetitions: usize,
    /// Begun anew.
    disturbed: usize,
    pauses: Vec<Duration>,
    after_role: Vec<Duration>,
    after_hand: Vec<Duration>,
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
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), LabError> {
    let faults = allowed(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(LabError::io("start the bench"))?;
    runtime.block_on(bench(arguments, &faults))
}

/// The faults that this machine allows. For the one that needs a network of its own this process starts
/// again there.
fn allowed(arguments: &Arguments) -> Result<Vec<Choice>, LabError> {
    let mut faults = arguments.faults();
    if !faults.contains(&Choice::Cut) || NETWORK.entered()? {
        return Ok(faults);
    }
    let Some(why) = NETWORK.refused() else {
        return Err(NETWORK.enter());
    };
    let not_run = format!("NOT RUN: --fault cut needs leave for: {NETWORK}\n{why}");
    if arguments.fault == Choice::Cut {
        return Err(LabError::Unexpected(not_run));
    }
    eprintln!("{not_run}");
    faults.retain(|fault| *fault != Choice::Cut);
    Ok(faults)
}

async fn bench(arguments: &Arguments, faults: &[Choice]) -> Result<(), LabError> {
    if faults
        .iter()
        .any(|fault| (*fault == Choice::ByHand) != arguments.way.by_hand())
    {
        let why = "where an operator decides the fault is `by-hand`, and nowhere else";
        return Err(LabError::Unexpected(why.into()));
    }
    if arguments.way == Way::Vip {
        let why = "clients of a virtual address do not connect through pointsman: see tests/vip";
        return Err(LabError::Unexpected(why.into()));
    }
    if let Some(what) = arguments.way.missing() {
        let why = format!("{what} is missing on this machine: scripts/setup.sh test installs it");
        return Err(LabError::Unexpected(why));
    }
    println!(
        "\n{}; 20 clients with one request in flight each, {} repetitions\n\n\
         {:<22} {:<9} {:>9} {:>7} {:>8} {:>17} {:>17} {:>17} {:>6} {:>14} {:>8} {:>10}",
        arguments.way.name(),
        arguments.repetitions,
        "fault",
        "clients",
        "requests",
        "errors",
        "unknown",
        "median (goal)",
        "worst (goal)",
        "after role (goal)",
        "lost",
        "reported",
        "doubled",
        "failovers"
    );
    for fault in faults.iter().copied() {
        for who in arguments.who() {
            run(arguments, fault, who).await?;
        }
    }
    println!(
        "\nmedian, worst: the longest time one client was without an answer; after role: from the \
         moment a replica\nsays role:master until every client had an answer, worst; errors: every \
         error but \"outcome unknown\" of a\nrequest that may not run twice; lost: acknowledged by a \
         primary that was replaced, counted by the clients;\nreported: what pointsman says of it, in \
         bytes of the replication stream; doubled: also wrong replies and\nwrong order"
    );
    if arguments.way == Way::Cluster {
        println!(
            "after role: here, from the moment when the nodes themselves take writes for every slot again"
        );
    }
    if arguments.way == Way::Sentinel {
        println!(
            "plain: clients that ask Sentinel, check ROLE, and do so again after an error, without \
             pointsman"
        );
    }
    Ok(())
}

/// All repetitions of one fault.
async fn run(arguments: &Arguments, fault: Choice, who: Who) -> Result<(), LabError> {
    if arguments.way == Way::Cluster {
        return cluster::run(arguments, fault).await;
    }
    // A new shard for each fault: one fault's leftovers are not the next one's problem.
    let shard = Shard::start(ShardOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        ..arguments.way.options()
    })
    .await?;
    let mut sum = Sum::default();
    while sum.repetitions < arguments.repetitions {
        let repetition = repeat(&shard, fault, who, arguments).await;
        let repetition = repetition.map_err(|error| {
            LabError::Unexpected(format!("{error}\n{}", shard.pointsman.log_tail()))
        })?;
        let Some(seen) = repetition else {
            sum.disturbed += 1;
            continue;
        };
        seen.print(arguments);
        sum.add(&seen);
    }
    sum.print(&fault.goal(arguments.way), who);
    Ok(())
}

/// What one repetition showed.
struct Seen {
    verdict: Verdict,
    reports: Vec<FailoverReport>,
    fault_at: Timestamp,
    gap: Duration,
    after_role: Option<Duration>,
    after_hand: Option<Duration>,
}

/// The clients of every repetition.
const CLIENTS: [(Kind, usize); 4] = [
    (Kind::Reader, 8),
    (Kind::Setter, 6),
    (Kind::Counter, 3),
    (Kind::Appender, 3),
];

/// One repetition; `None` when Sentinel had another failover by itself before the fault: with a second
/// of patience it sometimes misses the node that it promoted, whose connections it has cut.
async fn repeat(
    shard: &Shard,
    fault: Choice,
    who: Who,
    arguments: &Arguments,
) -> Result<Option<Seen>, LabError> {
    if let Some(sentinels) = &shard.sentinels {
        one_primary(shard).await?;
        shard.cluster.in_sync(SOON).await?;
        sentinels.ready(shard.cluster.nodes().len() - 1).await?;
    }
    shard.cluster.in_sync(SOON).await?;
    let node = shard.primary().await?;
    let earlier = shard.failovers().await?.len();
    let finder = shard
        .sentinels
        .as_ref()
        .map(|s| Finder::new(s.addresses(), None));
    let traffic = Traffic::start(TrafficOptions {
        clients: CLIENTS.to_vec(),
        finder: finder.clone().filter(|_| who == Who::Plain),
        ..TrafficOptions::every_kind(shard.address())
    })
    .await?;
    traffic.progress(10, SOON).await?;
    tokio::time::sleep(BEFORE).await;
    if shard.cluster.who_is_primary().await != [shard.number_of(node)] {
        return Ok(None);
    }
    let role = RoleWatch::start(&shard.cluster, node);
    let served = match fault {
        Choice::ByHand => Some(ServedWatch::start(&shard.cluster, node).await?),
        _ => None,
    };
    let mut hand_at = None;
    let fault_at = clock::now();
    match (fault, &shard.sentinels) {
        (Choice::ByHand, _) => hand_at = Some(shard.move_by_hand().await?.at),
        (Choice::Switchover, Some(sentinels)) => {
            let answer = sentinels.failover().await?;
            if !answer.is_ok() {
                return Err(LabError::Unexpected(answer.to_string()));
            }
        }
        (Choice::Switchover, None) => {
            let answer = shard.pointsman.switchover(None).await?;
            answer.map_err(LabError::Unexpected)?;
        }
        (Choice::Stall, _) => {
            node.stop();
            tokio::time::sleep(Duration::from_millis(300)).await;
            node.cont();
        }
        (Choice::Hang, _) => node.stop(),
        (Choice::Kill, _) => node.kill(),
        (Choice::Cut, _) => {
            let port = node.port();
            aside(move || namespace::cut(port)).await?;
        }
        (Choice::RestartEmpty | Choice::All, _) => node.restart_now(Data::Empty)?,
    }
    let changes = fault.goal(arguments.way).failover;
    if changes {
        let report = shard.failover(earlier + 1, SOON).await?;
        if report.outcome != Outcome::Done {
            return Err(LabError::Unexpected(format!("aborted: {report:?}")));
        }
    }
    if matches!(fault, Choice::Hang | Choice::Cut) {
        let hangs = Duration::from_secs(arguments.hang_seconds);
        let rest = match arguments.way {
            Way::Dns
            | Way::Embedded
            | Way::Follow
            | Way::Vip
            | Way::Etcd
            | Way::Consul
            | Way::Zookeeper
            | Way::Cluster => hangs,
            Way::Sentinel => hangs.saturating_sub(clock::now() - fault_at),
        };
        if who == Who::Pointsman {
            traffic.progress(10, SOON).await?;
        }
        tokio::time::sleep(rest).await;
        match fault {
            Choice::Cut => aside(namespace::heal).await?,
            _ => node.cont(),
        }
    }
    if who == Who::Plain && changes && fault != Choice::Kill {
        // They stay where they are until Sentinel gets to the old primary.
        shard.cluster.primary().await?;
    }
    traffic.progress(10, SOON).await?;
    tokio::time::sleep(AFTER).await;
    let mut primary = shard.primary().await?.client().await?;
    let history = traffic.stop(&mut primary).await?;
    let mut reports = shard.failovers().await?;
    reports.drain(..earlier);
    repair(shard, fault, node).await?;
    let flushed = primary.call(&["FLUSHALL"]).await;
    flushed.map_err(LabError::client("empty the data set"))?;
    Ok(Some(Seen {
        verdict: judge(&history),
        reports,
        fault_at,
        gap: seen::longest_gap(&history),
        after_role: role.seen().and_then(|at| seen::all_served(&history, at)),
        after_hand: hand_at
            .zip(served.and_then(|served| served.seen()))
            .map(|(hand, served)| served.since(hand)),
    }))
}

/// Runs programs without keeping the clients waiting, which are in this thread.
async fn aside(
    work: impl FnOnce() -> Result<(), LabError> + Send + 'static,
) -> Result<(), LabError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(LabError::Unexpected(error.to_string())))
}

/// Makes every other node a replica that a failover of Sentinel's own left as a primary.
async fn one_primary(shard: &Shard) -> Result<(), LabError> {
    let primary = shard.primary().await?;
    let port = primary.port().to_string();
    for number in shard.cluster.who_is_primary().await {
        let node = shard.cluster.node(number);
        if node.id() != primary.id() {
            node.cli(&["REPLICAOF", "127.0.0.1", &port]).await?;
        }
    }
    Ok(())
}

/// Makes the broken node a replica. Sentinel would do that too, after ten seconds.
async fn repair(shard: &Shard, fault: Choice, node: &Server) -> Result<(), LabError> {
    let primary = shard.primary().await?;
    match (fault, &shard.sentinels) {
        (Choice::Kill, None) => node.restart_now(Data::Empty)?,
        (Choice::Kill, Some(_)) => node.restart_as_replica(primary, Data::Empty)?,
        (_, Some(_)) if node.id() != primary.id() => {
            let port = primary.port().to_string();
            node.cli(&["REPLICAOF", "127.0.0.1", &port]).await?;
        }
        _ => {}
    }
    Ok(())
}

impl Seen {
    /// As far as it was asked for.
    fn print(&self, arguments: &Arguments) {
        if arguments.verbose {
            println!("{}", self.verdict);
            println!(
                "{} ms, {:?} after role:master",
                millis(self.gap),
                self.after_role
            );
        }
        let slow = arguments.slower.map(Duration::from_millis);
        if slow.is_some_and(|limit| self.gap > limit) {
            self.print_slow();
        }
    }

    fn print_slow(&self) {
        let pause = self.verdict.total().longest_pause;
        let began = self.verdict.total().pause_began;
        let when = match began >= self.fault_at {
            true => format!("{} ms after", millis(began - self.fault_at)),
            false => format!("{} ms before", millis(self.fault_at - began)),
        };
        println!("    {} ms, begun {when} the fault", millis(pause));
        let fault = clock::unix_time().saturating_sub(clock::now() - self.fault_at);
        self.reports
            .iter()
            .for_each(|report| print_course(report, fault));
    }
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
    fn add(&mut self, seen: &Seen) {
        let Seen {
            verdict, reports, ..
        } = seen;
        let total = verdict.total();
        self.repetitions += 1;
        self.pauses.push(seen.gap);
        self.after_role.extend(seen.after_role);
        self.after_hand.extend(seen.after_hand);
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

    fn print(&mut self, goal: &Goal, who: Who) {
        self.pauses.sort_unstable();
        let after_role = self.after_role.iter().max();
        let median = self.pauses.get(self.pauses.len() / 2);
        let median = median.copied().unwrap_or_default();
        let worst = self.pauses.last().copied().unwrap_or_default();
        let against = |time: Duration, goal: Option<Duration>| {
            let mark = if goal.is_some_and(|goal| time > goal) {
                '!'
            } else {
                ' '
            };
            let goal = goal.map_or("-".to_owned(), |goal| goal.as_millis().to_string());
            format!("{mark}{} ms ({goal})", millis(time))
        };
        // Others promised nothing.
        let goal_pause = goal.pause.as_ref().filter(|_| who == Who::Pointsman);
        let goal_after = goal.after_role.filter(|_| who == Who::Pointsman);
        let unknown = self.errors.get(&ErrorClass::Unknown).copied().unwrap_or(0);
        println!(
            "{:<22} {:<9} {:>9} {:>7} {unknown:>8} {:>17} {:>17} {:>17} {:>6} {:>14} {:>8} {:>10}",
            goal.name,
            match who {
                Who::Pointsman => "pointsman",
                Who::Plain => "plain",
            },
            self.requests,
            self.forbidden,
            against(median, goal_pause.map(|g| g.median)),
            against(worst, goal_pause.map(|g| g.worst)),
            after_role.map_or("-".to_owned(), |time| against(*time, goal_after)),
            self.lost,
            match self.reported.filter(|_| who == Who::Pointsman) {
                Some(BytesLost::Exactly(bytes)) => format!("{bytes} B"),
                Some(BytesLost::AtLeast(bytes)) => format!(">= {bytes} B"),
                Some(BytesLost::Unknown) => "unknown".to_owned(),
                None => "-".to_owned(),
            },
            self.broken,
            self.failovers,
        );
        self.after_hand.sort_unstable();
        if let (Some(goal), [.., worst]) = (goal.after_hand, &self.after_hand[..]) {
            let median = self.after_hand[self.after_hand.len() / 2];
            println!(
                "    the first request at the new primary after the answer changed: median {}, worst {} ms",
                against(median, Some(goal)).trim(),
                millis(*worst)
            );
        }
        for (class, count) in &self.errors {
            if *class != ErrorClass::Unknown {
                println!("    {count} x {}", class.name());
            }
        }
        for example in &self.examples {
            println!("    {example}");
        }
        if self.disturbed > 0 {
            let count = self.disturbed;
            println!(
                "    {count} repetitions were begun anew: the sentinels had failed over by themselves"
            );
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
