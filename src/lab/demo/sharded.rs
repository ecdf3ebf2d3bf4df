//! The demo where a Redis Cluster serves: three primaries, a replica of each, and pointsman in front of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::server::Data;
use super::super::sharded::SETTLE;
use super::super::{
    LabError, Pointsman, PointsmanOptions, Sharded, ShardedOptions, Way, judge, until,
};
use super::act::{ActOutcome, Fault, REPORT, Stage, announce, start_traffic};
use super::screen::Screen;
use super::{DemoOptions, FaultChoice, tables, version};
use crate::resp::key_slot;

/// Hash slots that move in one act.
const MOVED: usize = 100;

/// The slot whose primary is broken.
const SLOT: u16 = 0;

/// Everything that runs; pointsman ends first.
struct Scene {
    pointsman: Pointsman,
    cluster: Sharded,
}

pub(super) async fn show(options: &DemoOptions, screen: &mut Screen) -> Result<bool, LabError> {
    let faults = match options.fault {
        FaultChoice::Switchover => vec![Fault::Handover],
        FaultChoice::Kill => vec![Fault::Kill],
        FaultChoice::Hang => vec![Fault::Hang],
        FaultChoice::Reshard => vec![Fault::Reshard],
        FaultChoice::All => Fault::all(options.way),
        FaultChoice::RestartEmpty => {
            let why = "a cluster keeps a primary that is back before it was missed: there is no failover to show";
            return Err(LabError::Unexpected(why.into()));
        }
    };
    screen.say("  Starting a cluster of three primaries, a replica of each, and pointsman in front of them ...");
    let cluster = Sharded::start(ShardedOptions {
        program: options.server.clone(),
        ..ShardedOptions::default()
    })
    .await?;
    let pointsman = Pointsman::start_ready(&PointsmanOptions {
        cluster: true,
        ..PointsmanOptions::in_front_of(cluster.addresses())
    })
    .await?;
    let scene = Scene { pointsman, cluster };
    introduce(&scene, screen).await?;
    let time = Duration::from_secs(options.seconds);
    let mut outcomes = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{} of {}", number + 1, faults.len());
        outcomes.push(play(&scene, screen, *fault, &title, time).await?);
    }
    let alarms = scene
        .pointsman
        .unexpected_log_lines(&["\"level\":\"WARN\""]);
    let kept = tables::summary(screen, &outcomes, &alarms, true);
    if options.keep {
        keep(&scene, screen).await?;
    }
    Ok(kept)
}

async fn introduce(scene: &Scene, screen: &mut Screen) -> Result<(), LabError> {
    let version = version(scene.cluster.node(0)).await?;
    screen.say("");
    let half = scene.cluster.nodes().len() / 2;
    for (number, node) in scene.cluster.nodes().iter().enumerate() {
        let role = if number < half { "primary" } else { "replica" };
        let shard = number % half;
        screen.say(&format!(
            "    shard {shard}  {role}  {}   {version}",
            node.id()
        ));
    }
    let port = scene.pointsman.port();
    screen.say(&format!(
        "    pointsman        127.0.0.1:{port}   every setting at its default"
    ));
    screen.say("");
    screen.say("    The clients know nothing of clusters. cluster-node-timeout is 2 s: that, and its election, is");
    screen.say("    how long the cluster itself needs to replace a primary.");
    Ok(())
}

async fn play(
    scene: &Scene,
    screen: &mut Screen,
    fault: Fault,
    title: &str,
    time: Duration,
) -> Result<ActOutcome, LabError> {
    let (cluster, pointsman) = (&scene.cluster, &scene.pointsman);
    announce(screen, Way::Cluster, fault, title);
    let earlier = pointsman.failovers().await?.len();
    let traffic = start_traffic(pointsman).await?;
    let mut stage = Stage::new(pointsman, screen, &traffic);
    stage.watch(time.mul_f64(0.3)).await?;

    let victim = cluster.primary_of(SLOT).await?;
    let (node, heir) = (cluster.node(victim), cluster.node(cluster.partner(victim)));
    match fault {
        Fault::Handover => {
            stage.note(&format!("CLUSTER FAILOVER at {}", heir.id()));
            let number = cluster.partner(victim);
            stage
                .watch_until(cluster.hand_over(number), Duration::ZERO)
                .await?;
        }
        Fault::Reshard => reshard(cluster, &mut stage, victim).await?,
        Fault::Hang => {
            stage.note(&format!("{} of {}", fault.name(), node.id()));
            node.stop();
        }
        _ => {
            stage.note(&format!("{} of {}", fault.name(), node.id()));
            node.kill();
        }
    }
    if fault != Fault::Reshard {
        let report = pointsman.failover(earlier + 1, 2 * REPORT);
        stage.watch_until(report, time.mul_f64(0.35)).await?;
    }
    match fault {
        Fault::Kill => {
            stage.note(&format!("{} comes back", node.id()));
            node.restart_now(Data::Kept)?;
        }
        Fault::Hang => {
            stage.note(&format!("{} wakes up", node.id()));
            node.cont();
        }
        _ => {}
    }
    let healed = async {
        is_replica_again(cluster, fault, victim).await?;
        cluster.settled().await
    };
    stage.watch_until(healed, time.mul_f64(0.35)).await?;
    // The last state is at several nodes: pointsman reads it.
    let verdict = judge(&traffic.stop(&mut pointsman.client(None).await?).await?);
    let outcome = ActOutcome { fault, verdict };
    for report in &pointsman.failovers().await?[earlier..] {
        tables::report(screen, report);
    }
    tables::clients(screen, &outcome);
    Ok(outcome)
}

/// Waits until the former primary, if there was another one, is a replica.
async fn is_replica_again(cluster: &Sharded, fault: Fault, number: usize) -> Result<(), LabError> {
    if fault == Fault::Reshard {
        return Ok(());
    }
    until(
        "the former primary as a replica",
        SETTLE,
        async || match cluster.node(number).is_primary().await {
            Ok(false) => Ok(()),
            Ok(true) => Err("it is a primary".into()),
            Err(error) => Err(error.to_string()),
        },
    )
    .await
}

/// Moves slots that the clients use from one shard to the next one, as redis-cli does it.
async fn reshard(cluster: &Sharded, stage: &mut Stage<'_>, from: usize) -> Result<(), LabError> {
    let keys = cluster.node(from).cli(&["KEYS", "lab:*"]).await?;
    let keys = keys.items().unwrap_or_default().iter();
    // Those of the clients with one key each first.
    let of = |key: &str| (key.contains(":setter:"), key_slot(key.as_bytes()));
    let slots: BTreeSet<(bool, u16)> = keys.filter_map(|key| key.text().map(of)).collect();
    let slots: BTreeSet<u16> = slots
        .into_iter()
        .map(|(_, slot)| slot)
        .take(MOVED)
        .collect();
    let to = cluster.primary_of(SLOT + 16_384 / 2).await?;
    let (source, target) = (cluster.node(from).id(), cluster.node(to).id());
    stage.note(&format!(
        "{} hash slots begin to move from {source} to {target}",
        slots.len()
    ));
    let moves = async {
        for slot in &slots {
            cluster.move_slot(*slot, from, to).await?;
        }
        Ok(())
    };
    stage.watch_until(moves, Duration::ZERO).await?;
    stage.note("all of them are there");
    Ok(())
}

/// Leaves everything running until the process is asked to stop.
async fn keep(scene: &Scene, screen: &mut Screen) -> Result<(), LabError> {
    let port = scene.pointsman.port();
    let admin = scene.pointsman.admin();
    let victim = scene.cluster.primary_of(SLOT).await?;
    let pid = scene.cluster.node(victim).pid().unwrap_or_default();
    let heir = scene.cluster.node(scene.cluster.partner(victim)).port();
    super::left_running(
        screen,
        &[
            ("an ordinary client", format!("redis-cli -p {port}")),
            (
                "one that writes for ever",
                format!("redis-cli -p {port} -r -1 -i 0.1 incr tries"),
            ),
            ("kill the primary of slot 0", format!("kill -9 {pid}")),
            (
                "or let its replica take over",
                format!("redis-cli -p {heir} cluster failover"),
            ),
            ("who serves", format!("pointsman status --admin {admin}")),
            (
                "what happened",
                format!("pointsman failovers --admin {admin}"),
            ),
        ],
    );
    std::future::pending().await
}
