//! One fault: traffic before, during and after it, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::history::Kind;
use super::super::server::Data;
use super::super::{
    LabError, Pointsman, Serving, Shard, Traffic, TrafficOptions, Verdict, Way, judge,
};
use super::screen::{Screen, bars, grouped, millis};
use super::tables;
use crate::clock;
use crate::topology::{FailoverReport, Timestamp};

/// How often the moving block is drawn, and the width of one bar.
const FRAME: Duration = Duration::from_millis(100);

/// Bars in a row.
const WIDTH: usize = 32;

/// Time between two operations of one client: traffic a person can follow.
pub(super) const PACE: Duration = Duration::from_millis(1);

/// How long a report may take after the fault.
pub(super) const REPORT: Duration = Duration::from_secs(15);

/// After which time the operator acts, where nobody else does.
const NOTICED: Duration = Duration::from_secs(1);

/// How long the nodes may take to be in sync again.
const HEALED: Duration = Duration::from_secs(20);

/// What happens to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Switchover,
    Kill,
    Hang,
    RestartEmpty,
    /// Of a cluster.
    Handover,
    Reshard,
}

/// What came of it.
pub(super) struct ActOutcome {
    pub(super) fault: Fault,
    pub(super) verdict: Verdict,
}

impl Fault {
    /// Those that this way survives without a loss that asynchronous replication does not explain.
    pub(super) fn all(way: Way) -> Vec<Fault> {
        let mut all = vec![Fault::Switchover, Fault::Kill, Fault::Hang];
        match way {
            Way::Cluster => return vec![Fault::Handover, Fault::Kill, Fault::Hang, Fault::Reshard],
            Way::Embedded | Way::Vip | Way::Etcd | Way::Consul | Way::Zookeeper => {
                all.push(Fault::RestartEmpty);
            }
            // Nobody promotes another before it is back.
            Way::Dns | Way::Follow => {}
            // Sentinel keeps a primary that is back before it was missed, with or without its data.
            Way::Sentinel => {}
        }
        all
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Switchover => "planned switchover",
            Fault::Kill => "kill -9",
            Fault::Hang => "hang (SIGSTOP)",
            Fault::RestartEmpty => "empty restart",
            Fault::Handover => "CLUSTER FAILOVER",
            Fault::Reshard => "live reshard",
        }
    }

    fn sentence(self, way: Way) -> &'static str {
        match self {
            Fault::Switchover if way == Way::Dns => {
                "The operator promotes another node and moves the name."
            }
            Fault::Switchover if way.by_hand() => "The operator promotes another node.",
            Fault::Kill if way.by_hand() => {
                "The primary's process is killed; a second later an operator promotes another."
            }
            Fault::Hang if way.by_hand() => {
                "The primary hangs; a second later an operator promotes another."
            }
            Fault::Switchover => "The operator moves the primary to another node.",
            Fault::Kill => "The primary's process is killed; later it comes back, empty.",
            Fault::Hang => "The primary hangs; when it wakes up it still believes to be primary.",
            Fault::RestartEmpty => "The primary is killed and back at once, without its data.",
            Fault::Handover => "A replica takes over from its primary, as the operator told it.",
            Fault::Reshard => "Hash slots that the clients use move to another shard.",
        }
    }

    /// Whether acknowledged writes that had not reached a replica may be gone: replication is
    /// asynchronous.
    pub(super) fn may_lose(self) -> bool {
        !self.is_planned()
    }

    /// Whether nothing breaks.
    pub(super) fn is_planned(self) -> bool {
        matches!(self, Fault::Switchover | Fault::Handover | Fault::Reshard)
    }
}

/// Plays one act and prints it.
pub(super) async fn play(
    shard: &Shard,
    way: Way,
    screen: &mut Screen,
    fault: Fault,
    title: &str,
    time: Duration,
) -> Result<ActOutcome, LabError> {
    announce(screen, way, fault, title);
    let earlier = shard.failovers().await?.len();
    let traffic = start_traffic(&shard.pointsman).await?;
    let mut stage = Stage::new(&shard.pointsman, screen, &traffic);
    stage.watch(time.mul_f64(0.3)).await?;

    let node = shard.primary().await?;
    stage.note(&format!("{} of {}", fault.name(), node.id()));
    match fault {
        Fault::Switchover if way.by_hand() => {
            let (moved, watched) = tokio::join!(shard.move_by_hand(), stage.watch(FRAME * 3));
            watched?;
            moved?;
        }
        Fault::Switchover => {
            // Asked for on the side, so that the block moves meanwhile.
            let asked = async { shard.pointsman.switchover(None).await };
            let (answer, watched) = tokio::join!(asked, stage.watch(FRAME * 3));
            watched?;
            answer?.map_err(LabError::Unexpected)?;
        }
        Fault::Kill => node.kill(),
        Fault::Hang => node.stop(),
        Fault::RestartEmpty => node.restart_now(Data::Empty)?,
        // See `sharded.rs`.
        Fault::Handover | Fault::Reshard => {}
    }
    if way.by_hand() && fault != Fault::Switchover {
        stage.watch(NOTICED).await?;
        let moved = shard.replace_by_hand(node).await?;
        let name = match way {
            Way::Dns => " and moves the name",
            _ => "",
        };
        let to = moved.to.id();
        stage.note(&format!("the operator promotes {to}{name}"));
    }
    let report = shard.failover(earlier + 1, REPORT);
    let report = stage.watch_until(report, time.mul_f64(0.35)).await?;
    match fault {
        Fault::Kill => {
            stage.note(&format!("{} comes back", node.id()));
            node.restart_now(Data::Empty)?;
        }
        Fault::Hang => {
            stage.note(&format!("{} wakes up", node.id()));
            node.cont();
        }
        Fault::Switchover | Fault::RestartEmpty | Fault::Handover | Fault::Reshard => {}
    }
    let healing = async {
        if way.by_hand() && fault != Fault::Switchover {
            node.ready().await?;
            shard.demote_by_hand(node).await?;
        }
        is_follower(shard, &report).await
    };
    stage.watch_until(healing, time.mul_f64(0.35)).await?;
    let mut primary = shard.primary().await?.client().await?;
    let verdict = judge(&traffic.stop(&mut primary).await?);
    shard.cluster.in_sync(HEALED).await?;
    if let Some(sentinels) = &shard.sentinels {
        sentinels.ready(shard.cluster.nodes().len() - 1).await?;
    }
    let outcome = ActOutcome { fault, verdict };
    // Once more: what became of the requests is filled in after the gate opened.
    tables::report(screen, &shard.failovers().await?.swap_remove(earlier));
    tables::clients(screen, &outcome);
    Ok(outcome)
}

pub(super) fn announce(screen: &mut Screen, way: Way, fault: Fault, title: &str) {
    screen.say("");
    let head = screen.bold(&format!("  {title}: {}", fault.name()));
    screen.say(&format!("{head}  {}", screen.dim(fault.sentence(way))));
    screen.say("");
}

pub(super) async fn start_traffic(pointsman: &Pointsman) -> Result<Traffic, LabError> {
    Traffic::start(TrafficOptions {
        clients: clients(),
        pace: PACE,
        ..TrafficOptions::every_kind(pointsman.address())
    })
    .await
}

/// Waits until the former primary follows the new one.
async fn is_follower(shard: &Shard, report: &FailoverReport) -> Result<(), LabError> {
    let Some(node) = report.from.as_ref().and_then(|id| shard.cluster.find(id)) else {
        return Ok(());
    };
    super::super::until(
        "the former primary as a replica",
        HEALED,
        async || match node.is_primary().await {
            Ok(false) => Ok(()),
            Ok(true) => Err("it is a primary".into()),
            Err(error) => Err(error.to_string()),
        },
    )
    .await
}

fn clients() -> Vec<(Kind, usize)> {
    let several = |kind| match kind {
        Kind::Reader | Kind::Setter | Kind::Counter => 3,
        Kind::Watcher => 2,
        Kind::Pipeline => 0,
        _ => 1,
    };
    let all = Kind::ALL.iter().map(|kind| (*kind, several(*kind)));
    all.filter(|(_, count)| *count > 0).collect()
}

/// Failed operations, and those whose outcome is unknown.
type Errors = BTreeMap<Kind, (u64, u64)>;

/// One row of the moving block.
#[derive(Default)]
struct Row {
    /// Operations per frame, newest last.
    rates: VecDeque<u64>,
    acknowledged: u64,
    slowest: Duration,
}

pub(super) struct Stage<'a> {
    pointsman: &'a Pointsman,
    screen: &'a mut Screen,
    traffic: &'a Traffic,
    began: Timestamp,
    /// Who served when it was looked last, one for each shard.
    serving: Vec<Serving>,
    rows: BTreeMap<Kind, Row>,
    /// Whole seconds already told to somebody who reads lines instead of a screen.
    told: u64,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        pointsman: &'a Pointsman,
        screen: &'a mut Screen,
        traffic: &'a Traffic,
    ) -> Self {
        Stage {
            pointsman,
            screen,
            traffic,
            began: clock::now(),
            serving: Vec::new(),
            rows: BTreeMap::new(),
            told: 0,
        }
    }

    /// Shows what happens for as long as `time`.
    pub(super) async fn watch(&mut self, time: Duration) -> Result<(), LabError> {
        self.watch_until(async { Ok(()) }, time).await
    }

    /// Shows what happens until `event`, and for as long as `time` at least.
    pub(super) async fn watch_until<T>(
        &mut self,
        event: impl Future<Output = Result<T, LabError>>,
        time: Duration,
    ) -> Result<T, LabError> {
        let start = clock::now();
        let (mut event, mut happened) = (pin!(event), None);
        loop {
            tokio::select! {
                result = &mut event, if happened.is_none() => happened = Some(result?),
                () = tokio::time::sleep(FRAME) => self.frame().await?,
            }
            if clock::now().since(start) >= time
                && let Some(result) = happened.take()
            {
                return Ok(result);
            }
        }
    }

    /// A line that stays, with the time since the traffic began.
    pub(super) fn note(&mut self, text: &str) {
        let time = clock::now().since(self.began).as_secs_f64();
        let line = format!("  {time:6.2} s   {text}");
        let line = self.screen.notable(&line);
        self.screen.say(&line);
    }

    async fn frame(&mut self) -> Result<(), LabError> {
        let serving = self.pointsman.serving().await?;
        for (number, now) in serving.iter().enumerate() {
            let before = self.serving.get(number).map(|before| before.epoch);
            if let Some(node) = &now.primary
                && before.is_some_and(|before| before < now.epoch)
            {
                let of = match serving.len() {
                    1 => String::new(),
                    _ => format!(" of shard {number}"),
                };
                self.note(&format!("{node} is primary{of} now, epoch {}", now.epoch));
            }
        }
        // Those without a primary are compared when they have one.
        for (number, now) in serving.iter().enumerate() {
            match self.serving.get_mut(number) {
                Some(before) if now.primary.is_some() => *before = now.clone(),
                Some(before) => before.primary = None,
                None => self.serving.push(now.clone()),
            }
        }
        let mut errors = BTreeMap::new();
        for (kind, live) in self.traffic.live() {
            let row = self.rows.entry(*kind).or_default();
            let acknowledged = live.acknowledged.load(Ordering::Relaxed);
            row.rates.push_back(acknowledged - row.acknowledged);
            row.acknowledged = acknowledged;
            if row.rates.len() > WIDTH {
                row.rates.pop_front();
            }
            let slowest = Duration::from_micros(live.slowest_micros.load(Ordering::Relaxed));
            row.slowest = row.slowest.max(slowest);
            let failed = live.errors.load(Ordering::Relaxed);
            errors.insert(*kind, (failed, live.unknown.load(Ordering::Relaxed)));
        }
        match self.screen.is_terminal() {
            true => self.draw(&errors),
            false => self.tell(&errors),
        }
        Ok(())
    }

    /// Who serves, in words; the error: some requests wait.
    fn who_serves(&self) -> Result<String, String> {
        let names = self.serving.iter().map(|s| match &s.primary {
            Some(node) => node.to_string(),
            None => "-".to_owned(),
        });
        let names: Vec<String> = names.collect();
        let without = self.serving.iter().position(|s| s.primary.is_none());
        match (&names[..], without) {
            ([one], None) => Ok(format!("primary {one}")),
            ([] | [_], _) => Err("no primary: requests wait".to_owned()),
            (_, None) => Ok(format!("primaries {}", names.join(" "))),
            (_, Some(shard)) => Err(format!("shard {shard} has no primary: its requests wait")),
        }
    }

    fn draw(&mut self, errors: &Errors) {
        let time = clock::now().since(self.began).as_secs_f64();
        let primary = match self.who_serves() {
            Ok(words) => self.screen.good(&words),
            Err(words) => self.screen.notable(&words),
        };
        let mut block = vec![format!("  {time:6.2} s   {primary}")];
        let head = format!(
            "  {:<20} {:>6}  {:<WIDTH$} {:>8} {:>6} {:>7}",
            "clients", "per s", "", "slowest", "errors", "unknown"
        );
        block.push(self.screen.dim(&head));
        for (kind, row) in &self.rows {
            let recent: u64 = row.rates.iter().rev().take(10).sum();
            let highest = row.rates.iter().copied().max().unwrap_or(0);
            let slowest = match kind.waits_for_others() {
                true => "-".to_owned(),
                false => millis(row.slowest),
            };
            let (failed, unknown) = errors.get(kind).copied().unwrap_or_default();
            let failed = match failed {
                0 => format!("{failed:>6}"),
                _ => self.screen.bad(&format!("{failed:>6}")),
            };
            let unknown = match unknown {
                0 => format!("{unknown:>7}"),
                _ => self.screen.notable(&format!("{unknown:>7}")),
            };
            block.push(format!(
                "  {:<20} {:>6}  {:<WIDTH$} {slowest:>8} {failed} {unknown}",
                kind.name(),
                grouped(recent),
                bars(row.rates.iter().copied(), highest),
            ));
        }
        self.screen.show(&block);
    }

    /// One line a second for somebody who reads a file or a pipe.
    fn tell(&mut self, errors: &Errors) {
        let time = clock::now().since(self.began);
        if time.as_secs() <= self.told {
            return;
        }
        self.told = time.as_secs();
        let recent = |row: &Row| row.rates.iter().rev().take(10).sum::<u64>();
        let rate: u64 = self.rows.values().map(recent).sum();
        let primary = self.who_serves().unwrap_or_else(|words| words);
        let line = format!(
            "  {:6.2} s   {primary}   {} requests/s   {} errors   {} unknown",
            time.as_secs_f64(),
            grouped(rate),
            errors.values().map(|(failed, _)| failed).sum::<u64>(),
            errors.values().map(|(_, unknown)| unknown).sum::<u64>(),
        );
        self.screen.say(&line);
    }
}
