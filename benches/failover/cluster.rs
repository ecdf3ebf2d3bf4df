//! The same in front of a Redis Cluster of three shards, of which one loses its primary, each in its turn.
//!
//! Most of the pause is the cluster's: `cluster-node-timeout`, then an election, then every node has to hear of it.
//! Its end is seen at the nodes themselves: when all three primaries take a write again. What a client waits
//! after that is pointsman's.

use std::time::Duration;

use pointsman::clock;
use pointsman::lab::sharded::SHARDS;
use pointsman::lab::{
    Data, LabError, Pointsman, PointsmanOptions, Sharded, ShardedOptions, Traffic, TrafficOptions,
    Way, judge,
};
use pointsman::resp::key_slot;

use super::seen::{self, WriteWatch};
use super::{AFTER, Arguments, BEFORE, Choice, SOON, Seen, Sum, Who, millis};

pub(crate) async fn run(arguments: &Arguments, fault: Choice) -> Result<(), LabError> {
    if !matches!(fault, Choice::Kill | Choice::Switchover) {
        let why = "of a cluster: --fault kill, switchover (CLUSTER FAILOVER) or all";
        return Err(LabError::Unexpected(why.into()));
    }
    let cluster = Sharded::start(ShardedOptions::default()).await?;
    let pointsman = Pointsman::start_ready(&PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        cluster: true,
        ..PointsmanOptions::in_front_of(cluster.addresses())
    })
    .await?;
    let (mut sum, mut elections) = (Sum::default(), Vec::new());
    while sum.repetitions < arguments.repetitions {
        let shard = sum.repetitions % SHARDS;
        let repetition = repeat(&cluster, &pointsman, fault, shard).await;
        let (seen, election) = repetition
            .map_err(|error| LabError::Unexpected(format!("{error}\n{}", pointsman.log_tail())))?;
        seen.print(arguments);
        sum.add(&seen);
        elections.push(election);
    }
    sum.print(&fault.goal(Way::Cluster), Who::Pointsman);
    elections.sort_unstable();
    let median = elections.get(elections.len() / 2).copied();
    println!(
        "    the cluster itself needed: median {} ms, worst {} ms",
        millis(median.unwrap_or_default()),
        millis(elections.last().copied().unwrap_or_default()),
    );
    Ok(())
}

/// One repetition, and how long the cluster itself needed.
async fn repeat(
    cluster: &Sharded,
    pointsman: &Pointsman,
    fault: Choice,
    shard: usize,
) -> Result<(Seen, Duration), LabError> {
    cluster.settled().await?;
    let mut primaries = Vec::new();
    for shard in 0..SHARDS {
        let slot = 16_384 * shard / SHARDS;
        primaries.push(cluster.primary_of(slot as u16).await?);
    }
    let victim = primaries[shard];
    let heir = cluster.partner(victim);
    let earlier = pointsman.failovers().await?.len();
    let traffic = Traffic::start(TrafficOptions {
        clients: super::CLIENTS.to_vec(),
        ..TrafficOptions::every_kind(pointsman.address())
    })
    .await?;
    traffic.progress(10, SOON).await?;
    tokio::time::sleep(BEFORE).await;
    primaries[shard] = heir;
    let watched = primaries.into_iter().enumerate();
    let watched = watched.map(|(shard, node)| (node, key_in(shard)));
    let watch = WriteWatch::start(cluster, watched.collect());
    let fault_at = clock::now();
    match fault {
        Choice::Switchover => cluster.hand_over(heir).await?,
        _ => cluster.node(victim).kill(),
    }
    pointsman.failover(earlier + 1, SOON).await?;
    traffic.progress(10, SOON).await?;
    tokio::time::sleep(AFTER).await;
    let elected = watch.all_taken();
    let elected = elected.ok_or_else(|| LabError::Unexpected("no election".into()))?;
    let mut client = pointsman.client(None).await?;
    let history = traffic.stop(&mut client).await?;
    let mut reports = pointsman.failovers().await?;
    reports.drain(..earlier);
    drop(watch);
    if fault == Choice::Kill {
        cluster.node(victim).restart(Data::Kept).await?;
    }
    cluster.settled().await?;
    let flushed = client.call(&["FLUSHALL"]).await;
    flushed.map_err(LabError::client("empty the data set"))?;
    let seen = Seen {
        verdict: judge(&history),
        reports,
        fault_at,
        gap: seen::longest_gap(&history),
        after_hand: None,
        after_role: seen::all_served(&history, elected),
    };
    Ok((seen, elected - fault_at))
}

/// A key of the shard that had this number at the start.
fn key_in(shard: usize) -> String {
    let is_there = |key: &String| {
        let slot = usize::from(key_slot(key.as_bytes()));
        (16_384 * shard / SHARDS..16_384 * (shard + 1) / SHARDS).contains(&slot)
    };
    let mut keys = (0..).map(|number| format!("watch:{number}"));
    keys.find(is_there).unwrap_or_default()
}
