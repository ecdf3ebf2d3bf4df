//! What happens to the primary.

use std::time::Duration;

use pointsman::lab::{ClusterOptions, Kind, SentinelOptions};
use pointsman::topology::{Fault, Outcome};

use crate::support::{
    Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    assert_the_promise_was_kept, becomes_true, clients, lasts, let_pass,
};
use crate::{A_WHILE, scene, scene_with, sentinels, status, with};

/// On a busy machine Sentinel takes a node for lost that only was not heard for a second, and fails over
/// once more. Where the number of failovers counts, it waits longer.
const PATIENT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_killed_primary_is_replaced_by_sentinel_and_nobody_sees_an_error() {
    let mut scene = scene().await;
    scene.traffic().await;
    let old = scene.primary().await.id();
    scene.kill_primary().await;
    let report = scene.failed_over().await;
    assert_eq!(
        (report.fault, report.outcome),
        (Fault::Followed, Outcome::Done)
    );
    assert_eq!(report.from, Some(old));
    scene.progress(50).await;
    assert_the_promise_was_kept(&scene.judged().await);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_failover_that_somebody_asks_sentinel_for_loses_nothing() {
    let mut scene = scene().await;
    scene.traffic().await;
    let old = scene.primary().await.id();
    let reply = sentinels(&scene).failover().await.unwrap();
    assert!(reply.is_ok(), "{reply}");
    let report = scene.failed_over().await;
    assert_eq!(report.outcome, Outcome::Done);
    // The old primary goes on as a primary for ten seconds, and gets nothing.
    becomes_true("a replica of the old primary", async || {
        match scene.shard.cluster.who_is_primary().await.len() {
            1 => Ok(()),
            count => Err(format!("{count} primaries")),
        }
    })
    .await;
    assert_ne!(scene.primary().await.id(), old);
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_primary_that_wakes_up_gets_nothing_although_it_says_master() {
    let mut scene = scene().await;
    scene.traffic().await;
    let old = scene.stop_primary().await;
    let stopped = crate::support::now();
    scene.failed_over().await;
    scene.progress(20).await;
    let left = Duration::from_secs(5).saturating_sub(crate::support::now() - stopped);
    lasts(left).await;
    scene.node(old).cont();
    let mut two = false;
    becomes_true("a replica of the old primary", async || {
        let primaries = scene.shard.cluster.who_is_primary().await.len();
        two |= primaries == 2;
        match primaries {
            1 => Ok(()),
            count => Err(format!("{count} primaries")),
        }
    })
    .await;
    assert!(two, "nobody saw two primaries: the test proves nothing");
    scene.progress(20).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_switchover_asks_sentinel() {
    let mut scene = scene().await;
    let to = scene.replica().await.id();
    let refused = scene.shard.pointsman.switchover(Some(&to)).await.unwrap();
    let refused = refused.expect_err("Sentinel chooses itself");
    assert!(refused.contains("Sentinel chooses"), "{refused}");
    scene.traffic().await;
    let report = scene.switchover(None).await;
    assert_eq!(
        (report.fault, report.outcome),
        (Fault::Switchover, Outcome::Done)
    );
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.assert_log_is_clean();
}

/// Nobody may be promoted.
async fn without_candidates() -> Scene {
    let cluster = ClusterOptions {
        config: vec!["replica-priority 0".into()],
        ..ClusterOptions::default()
    };
    with(cluster, SentinelOptions::default()).await
}

#[tokio::test]
async fn a_switchover_that_sentinel_refuses_changes_nothing() {
    let mut scene = without_candidates().await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    let refused = scene.shard.pointsman.switchover(None).await.unwrap();
    let refused = refused.expect_err("nobody can be promoted");
    assert!(refused.contains("NOGOODSLAVE"), "{refused}");
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(1));
}

#[tokio::test]
async fn a_failover_that_is_given_up_lets_traffic_go_on_at_the_old_primary() {
    let mut scene = without_candidates().await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    let old = scene.stop_primary().await;
    // Long enough for +odown, +try-failover and -failover-abort-no-good-slave.
    lasts(A_WHILE).await;
    scene.node(old).cont();
    scene.progress(50).await;
    assert_eq!(scene.primary().await.id(), scene.node(old).id());
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn a_promotion_that_never_comes_holds_no_longer_than_the_failover_may_last() {
    let mut scene = scene_with(SentinelOptions {
        failover_timeout: Duration::from_secs(2),
        ..SentinelOptions::default()
    })
    .await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
    let primary = scene.primary().await.id();
    let others = scene.shard.cluster.nodes().iter();
    let others: Vec<_> = others.filter(|n| n.id() != primary).collect();
    others.iter().for_each(|node| node.stop());
    let reply = sentinels(&scene).failover().await.unwrap();
    assert!(reply.is_ok(), "{reply}");
    let note = async || {
        let status = status(&scene.shard.pointsman).await?;
        Ok::<_, String>(status.sentinels.into_iter().find_map(|s| s.note))
    };
    becomes_true("a hold", async || {
        note().await?.map(|_| ()).ok_or("no note".to_owned())
    })
    .await;
    becomes_true("an end of the hold", async || match note().await? {
        None => Ok(()),
        Some(note) => Err(note),
    })
    .await;
    scene.progress(50).await;
    // Now they find REPLICAOF NO ONE in their sockets: promotions of a failover that was given up.
    others.iter().for_each(|node| node.cont());
    let_pass(A_WHILE).await;
    assert_eq!(scene.primary().await.id(), primary);
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_pause_below(&verdict, Duration::from_millis(3500));
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn three_failovers_in_a_row() {
    let mut scene = scene_with(SentinelOptions {
        down_after: PATIENT,
        ..SentinelOptions::default()
    })
    .await;
    scene.traffic().await;
    for _ in 0..3 {
        let node = scene.kill_primary().await;
        scene.failed_over().await;
        scene.progress(20).await;
        let primary = scene.primary().await;
        let node = scene.node(node);
        node.restart_as_replica(primary, pointsman::lab::Data::Empty)
            .unwrap();
        scene.in_sync().await;
        sentinels(&scene).ready(2).await.unwrap();
    }
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

/// A failover of nodes that Sentinel calls by `host`.
async fn fails_over_at(host: &str, as_shown: &str, names: &[&str]) {
    let cluster = ClusterOptions {
        password: Some("nodes".into()),
        config: vec![
            // What Sentinel hears of a replica.
            format!("replica-announce-ip {host}"),
            "bind 127.0.0.1 -::1".into(),
        ],
        ..ClusterOptions::default()
    };
    let sentinels = SentinelOptions {
        password: Some("sentinels".into()),
        host: host.into(),
        config: names.iter().map(|line| (*line).to_owned()).collect(),
        ..SentinelOptions::default()
    };
    let scene = &mut with(cluster, sentinels).await;
    let topology = scene.shard.pointsman.topology().await.unwrap();
    let primary = topology.primary.expect("a primary").node;
    assert!(primary.as_str().starts_with(as_shown), "{primary}");
    let mut client = scene.client().await;
    scene.node(0).kill();
    let to = scene.failed_over().await.to.expect("a new primary");
    assert!(to.as_str().starts_with(as_shown), "{to}");
    crate::support::write_until_ok(&mut client, "key", "value").await;
}

#[tokio::test]
async fn nodes_that_have_names_and_passwords() {
    let names = [
        "sentinel resolve-hostnames yes",
        "sentinel announce-hostnames yes",
    ];
    fails_over_at("localhost", "localhost:", &names).await;
}

#[tokio::test]
async fn nodes_that_have_ipv6_addresses() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("NOT RUN: this machine has no IPv6");
        return;
    }
    fails_over_at("::1", "[::1]:", &["bind 127.0.0.1 ::1"]).await;
}
