//! The primary is killed, hangs, or restarts empty.

use std::time::Duration;

use pointsman::lab::{Data, ErrorClass, Kind, Protocol, TrafficOptions};
use pointsman::topology::{BytesLost, Fault, Outcome, RequestCounts};

use crate::support::{
    Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    assert_the_promise_was_kept, becomes_true, get, lasts, now, restart_empty, write_until_ok,
};

/// How far from the promised pause a shared, busy test machine may be.
const SLOW_MACHINE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn clients_of_every_kind_ride_through_a_killed_primary() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let primary = scene.primary().await.id();
    scene.kill_primary().await;
    let report = scene.failed_over().await;
    assert_eq!(report.outcome, Outcome::Done);
    assert_eq!(report.fault, Fault::Refused);
    assert_eq!(report.from, Some(primary.clone()));
    assert_ne!(report.to, Some(primary));
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    assert_pause_below(&verdict, SLOW_MACHINE);
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn clients_that_speak_resp3_over_a_unix_socket_ride_through_as_well() {
    let mut scene = Scene::start().await;
    let options = TrafficOptions {
        address: scene.shard.pointsman.socket(),
        protocol: Protocol::Resp3,
        ..TrafficOptions::every_kind(scene.shard.address())
    };
    scene.traffic_of(options).await;
    scene.kill_primary().await;
    scene.failed_over().await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn clients_that_only_read_and_set_see_no_error_and_a_short_pause() {
    let mut scene = Scene::start().await;
    let options = TrafficOptions {
        clients: vec![(Kind::Reader, 10), (Kind::Setter, 10)],
        ..TrafficOptions::every_kind(scene.shard.address())
    };
    scene.traffic_of(options).await;
    scene.kill_primary().await;
    scene.failed_over().await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_pause_below(&verdict, SLOW_MACHINE);
}

#[tokio::test]
async fn a_client_that_waits_keeps_its_connection_and_gets_its_answer() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "before", "1").await;
    scene.in_sync().await;
    scene.kill_primary().await;
    // On the same connection, with the primary dead.
    write_until_ok(&mut client, "after", "2").await;
    assert_eq!(get(&mut client, "before").await.as_deref(), Some("1"));
    assert_eq!(get(&mut client, "after").await.as_deref(), Some("2"));
    scene.failed_over().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn the_old_primary_comes_back_as_a_replica() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let old = scene.kill_primary().await;
    scene.failed_over().await;
    scene.node(old).restart_now(Data::Empty).unwrap();
    scene.becomes_a_replica(old).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.in_sync().await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_primary_that_hangs_is_replaced_and_reaches_nobody_when_it_wakes_up() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let old = scene.stop_primary().await;
    let report = scene.failed_over().await;
    assert_eq!(report.fault, Fault::Silent);
    scene.progress(20).await;
    scene.node(old).cont();
    scene.becomes_a_replica(old).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(2) + SLOW_MACHINE);
    scene.in_sync().await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_only_the_old_primary_had_is_reported_in_bytes() {
    let mut scene = Scene::start().await;
    let old = scene.shard.number_of(scene.primary().await);
    // More than the sockets to two replicas hold that do not read.
    let replicas = [(old + 1) % 3, (old + 2) % 3];
    replicas
        .iter()
        .for_each(|number| scene.node(*number).stop());
    let mut client = scene.client().await;
    let large = "x".repeat(1024 * 1024);
    for number in 0..24 {
        write_until_ok(&mut client, &format!("large:{number}"), &large).await;
    }
    scene.node(old).stop();
    replicas
        .iter()
        .for_each(|number| scene.node(*number).cont());
    scene.failed_over().await;
    assert_eq!(get(&mut client, "large:23").await, None);
    scene.node(old).cont();
    becomes_true("the lost bytes in the report", async || {
        let reports = scene.shard.pointsman.failovers().await.unwrap();
        match reports[0].bytes_lost {
            BytesLost::Exactly(bytes) if bytes > 1024 * 1024 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    scene.in_sync().await;
    assert_eq!(get(&mut client, "large:23").await, None);
}

/// The completed report of the only failover.
async fn counted(scene: &Scene, wanted: impl Fn(&RequestCounts) -> bool) -> RequestCounts {
    let mut last = RequestCounts::default();
    becomes_true("the counts of the clients in the report", async || {
        let reports = scene.shard.pointsman.failovers().await.unwrap();
        last = reports[0].requests;
        match wanted(&last) {
            true => Ok(()),
            false => Err(format!("{last:?}")),
        }
    })
    .await;
    last
}

#[tokio::test]
async fn a_report_counts_the_requests_that_met_a_hanging_primary() {
    let mut scene = Scene::start().await;
    let options = TrafficOptions {
        clients: vec![(Kind::Reader, 4), (Kind::Setter, 3), (Kind::Counter, 2)],
        ..TrafficOptions::every_kind(scene.shard.address())
    };
    scene.traffic_of(options).await;
    // Each client has one request for a process that answers nothing any more. Those that were written to
    // it are sent again, or their outcome is unknown; the others just waited.
    scene.primary().await.stop();
    scene.failed_over().await;
    scene.progress(50).await;
    let total = scene.judged().await.total();
    let unknown = total.errors_of(ErrorClass::Unknown);
    assert_eq!(total.hard_errors(), 0);
    // What those ask next who were told so waits too, if the gate is still closed.
    let all = |seen: &RequestCounts| {
        let written = seen.replayed + seen.unknown;
        (seen.refused, seen.unknown) == (0, unknown)
            && (1..=9).contains(&written)
            && (9 - unknown..=9).contains(&seen.held)
    };
    counted(&scene, all).await;
    assert!(unknown <= 2, "{unknown}");
}

#[tokio::test]
async fn a_report_counts_the_requests_that_a_killed_primary_lost() {
    let mut scene = Scene::start().await;
    let options = TrafficOptions {
        clients: vec![(Kind::Counter, 12), (Kind::Reader, 4)],
        ..TrafficOptions::every_kind(scene.shard.address())
    };
    scene.traffic_of(options).await;
    scene.primary().await.kill();
    scene.failed_over().await;
    scene.progress(50).await;
    let total = scene.judged().await.total();
    let unknown = total.errors_of(ErrorClass::Unknown);
    println!("{unknown} clients do not know");
    let seen = counted(&scene, |seen| seen.unknown == unknown).await;
    assert_eq!(seen.refused, total.hard_errors());
    assert!(seen.held >= seen.replayed && seen.replayed <= 4, "{seen:?}");
}

#[tokio::test]
async fn of_a_killed_primary_the_report_claims_only_what_was_seen() {
    let mut scene = Scene::start().await;
    let old = scene.shard.number_of(scene.primary().await);
    let replicas = [(old + 1) % 3, (old + 2) % 3];
    let mut client = scene.client().await;
    replicas
        .iter()
        .for_each(|number| scene.node(*number).stop());
    let large = "x".repeat(1024 * 1024);
    for number in 0..24 {
        write_until_ok(&mut client, &format!("large:{number}"), &large).await;
    }
    // Saved in the middle: a part of what is lost can be shown by the next process.
    scene.node(old).cli(&["SAVE"]).await.expect("saved");
    let saved = scene.node(old).offset().await.expect("an offset");
    for number in 24..28 {
        write_until_ok(&mut client, &format!("large:{number}"), &large).await;
    }
    let last = scene.node(old).offset().await.expect("an offset");
    scene.node(old).kill();
    replicas
        .iter()
        .for_each(|number| scene.node(*number).cont());
    let report = scene.failed_over().await;
    let new = report.to.expect("a primary");
    let new = scene.shard.cluster.find(&new).expect("one of ours");
    let fork: u64 = new
        .info_field("second_repl_offset")
        .await
        .expect("a field")
        .parse()
        .expect("a number");
    let (all, shown) = (last + 1 - fork, saved + 1 - fork);
    match report.bytes_lost {
        BytesLost::AtLeast(bytes) => assert!(bytes <= all, "{bytes} of {all}"),
        other => panic!("{other:?}"),
    }
    scene.node(old).restart_now(Data::Kept).expect("started");
    scene.in_sync().await;
    becomes_true("the lost bytes in the report", async || {
        let reports = scene.shard.pointsman.failovers().await.unwrap();
        match reports[0].bytes_lost {
            BytesLost::AtLeast(bytes) if (shown..=all).contains(&bytes) => Ok(()),
            other => Err(format!("{other:?}, shown {shown}, lost {all}")),
        }
    })
    .await;
    let told = format!("at least {shown} bytes were only here");
    let log = scene.shard.pointsman.log();
    assert!(log.contains(&told), "{told}");
}

#[tokio::test]
async fn a_stall_of_300_ms_is_a_pause_and_no_failover() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    let primary = scene.primary().await;
    primary.stop();
    lasts(Duration::from_millis(300)).await;
    primary.cont();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_primary_that_restarts_empty_at_once_empties_nobody() {
    let mut scene = Scene::start().await;
    let mut client = scene.client().await;
    for number in 0..100 {
        write_until_ok(&mut client, &format!("kept:{number}"), "x").await;
    }
    scene.in_sync().await;
    scene.traffic().await;
    let primary = scene.primary().await;
    let old = primary.id();
    restart_empty(primary);
    let report = scene.failed_over().await;
    assert_eq!(report.from, Some(old));
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    for number in 0..100 {
        assert_eq!(
            get(&mut client, &format!("kept:{number}")).await.as_deref(),
            Some("x")
        );
    }
    scene.in_sync().await;
    for node in scene.shard.cluster.nodes() {
        assert_eq!(
            node.cli(&["GET", "kept:99"]).await.unwrap().text(),
            Some("x")
        );
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_second_failover_right_after_the_first_is_as_quick() {
    let mut scene = Scene::start().await;
    scene.traffic().await;
    scene.kill_primary().await;
    scene.failed_over().await;
    let began = now();
    scene.kill_primary().await;
    scene.failed_over().await;
    assert!(
        now().since(began) < Duration::from_secs(5),
        "{:?}",
        now().since(began)
    );
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
}

#[tokio::test]
async fn ten_failovers_in_a_row_count_exactly() {
    let mut scene = Scene::start().await;
    let kinds = [Kind::Reader, Kind::Setter, Kind::Counter, Kind::Transaction];
    let options = crate::support::clients(&scene, &kinds);
    scene.traffic_of(options).await;
    for _ in 0..10 {
        let old = scene.kill_primary().await;
        scene.failed_over().await;
        scene.progress(10).await;
        scene.node(old).restart_now(Data::Empty).unwrap();
        scene.all_follow().await;
    }
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.in_sync().await;
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}
