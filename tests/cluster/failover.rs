//! A primary of the cluster dies, or hands over.

use std::time::Duration;

use pointsman::lab::sharded::NODE_TIMEOUT;
use pointsman::lab::{ErrorClass, Kind, TrafficOptions, Verdict};
use pointsman::topology::{FailoverReport, Fault, Outcome};

use crate::scene::{SOON, Scene, ask, hear, send};

fn assert_the_promise_was_kept(verdict: &Verdict) {
    let total = verdict.total();
    assert_eq!(verdict.forbidden_errors(), 0, "{verdict}");
    assert_eq!(total.broken(), 0, "{verdict}");
}

fn assert_no_error_at_all(verdict: &Verdict) {
    assert_eq!(verdict.total().all_errors(), 0, "{verdict}");
    assert_the_promise_was_kept(verdict);
}

#[tokio::test]
async fn clients_of_every_kind_ride_through_a_killed_primary() {
    let mut scene = Scene::brittle().await;
    scene.traffic().await;
    let victim = scene.node_of("foo").await;
    scene.cluster.node(victim).kill();
    gate_is_shown(&scene, 0.0).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    assert_ne!(scene.node_of("foo").await, victim);
    let report = the_report(&scene, victim).await;
    // The cluster waits that long before it elects.
    assert!(report.pause > NODE_TIMEOUT / 2, "{report:?}");
    gate_is_shown(&scene, 1.0).await;
    let node = scene.cluster.node(victim).id();
    let up = format!("pointsman_node_up{{backend=\"main\",node=\"{node}\"}}");
    assert_eq!(scene.pointsman.metric(&up).await.unwrap(), Some(0.0));
    scene.assert_log_is_clean();
}

/// The only report: the replica of `victim` took over, and requests waited for it.
async fn the_report(scene: &Scene, victim: usize) -> FailoverReport {
    let counted = async || {
        let mut reports = scene
            .pointsman
            .failovers()
            .await
            .map_err(|e| e.to_string())?;
        match reports.pop() {
            Some(report) if reports.is_empty() && report.requests.held > 0 => Ok(report),
            other => Err(format!("{other:?} after {reports:?}")),
        }
    };
    let report = pointsman::lab::until("a report with its requests", SOON, counted);
    let report = report.await.unwrap();
    assert_eq!(
        (report.fault, &report.outcome),
        (Fault::Followed, &Outcome::Done)
    );
    assert!(report.shard.is_some_and(|shard| shard < 3), "{report:?}");
    assert_eq!(report.from, Some(scene.cluster.node(victim).id()));
    let heir = scene.cluster.partner(victim);
    assert_eq!(report.to, Some(scene.cluster.node(heir).id()));
    assert!(!report.evidence.is_empty(), "{report:?}");
    let count = "pointsman_failovers_total{backend=\"main\",fault=\"followed\",outcome=\"done\"}";
    assert_eq!(scene.pointsman.metric(count).await.unwrap(), Some(1.0));
    report
}

async fn gate_is_shown(scene: &Scene, value: f64) {
    let gate = "pointsman_gate_open{backend=\"main\"}";
    pointsman::lab::until("the gate's gauge", SOON, async || {
        match scene.pointsman.metric(gate).await {
            Ok(Some(now)) if now == value => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn requests_that_may_be_replayed_see_no_error_when_a_primary_is_killed() {
    let mut scene = Scene::brittle().await;
    let options = TrafficOptions {
        clients: vec![(Kind::Reader, 4), (Kind::Setter, 4)],
        ..TrafficOptions::every_kind(scene.pointsman.address())
    };
    scene.traffic_of(options).await;
    for key in ["foo", "bar"] {
        let victim = scene.node_of(key).await;
        scene.cluster.node(victim).kill();
        scene.progress(50).await;
        scene
            .cluster
            .node(victim)
            .restart(pointsman::lab::Data::Kept)
            .await
            .unwrap();
        scene.cluster.settled().await.unwrap();
    }
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    scene.assert_log_is_clean();
}

/// How far from the promised 100 ms a shared, busy test machine may be.
const SLOW_MACHINE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_pause_is_the_clusters_own_election_and_hardly_more() {
    let scene = Scene::brittle().await;
    let mut client = scene.client().await;
    assert_eq!(ask(&mut client, "SET foo 1").await, "OK");
    let victim = scene.node_of("foo").await;
    scene.cluster.node(victim).kill();
    let began = pointsman::clock::now();
    let through = async {
        let reply = ask(&mut client, "SET foo 2").await;
        (reply, pointsman::clock::now())
    };
    // As soon as the replica takes a write itself, the election is over.
    let direct = async {
        let mut replica = scene.cluster.node(victim + 3).client().await.unwrap();
        while !replica.call(&["SET", "foo", "3"]).await.unwrap().is_ok() {
            tokio::task::yield_now().await;
        }
        pointsman::clock::now()
    };
    let ((reply, answered), elected) = tokio::join!(through, direct);
    assert_eq!(reply, "OK");
    let more = answered.since(elected);
    eprintln!("election {:?}, {more:?} more", elected.since(began));
    assert!(more < SLOW_MACHINE, "{more:?} after the election");
}

#[tokio::test]
async fn a_primary_that_hangs_is_replaced_and_reaches_nobody_when_it_wakes_up() {
    let mut scene = Scene::brittle().await;
    scene.traffic().await;
    let victim = scene.node_of("foo").await;
    scene.cluster.node(victim).stop();
    scene.progress(30).await;
    scene.cluster.node(victim).cont();
    scene.cluster.settled().await.unwrap();
    scene.progress(30).await;
    let verdict = scene.judged().await;
    assert_the_promise_was_kept(&verdict);
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn who_asks_about_no_key_is_answered_by_a_node_that_stood_still_or_by_another() {
    let scene = Scene::start().await;
    let (mut waits, mut goes_on) = (scene.client().await, scene.client().await);
    for client in [&mut waits, &mut goes_on] {
        assert_eq!(ask(client, "PUBLISH ch 1").await, "0");
    }
    let home = scene.home().await;
    let node = scene.cluster.find(&home).expect("one of the nodes");
    node.stop();
    // It may have run, as only that node can tell.
    send(&mut waits, "PUBLISH ch 2").await;
    // Answered by pointsman: what came before it is on its way.
    assert_eq!(ask(&mut goes_on, "CLUSTER KEYSLOT foo").await, "12182");
    send(&mut waits, "PUBLISH ch 3").await;
    assert_eq!(ask(&mut goes_on, "PUBLISH ch 4").await, "0");
    assert_ne!(scene.home().await, home);
    assert_eq!(ask(&mut goes_on, "PING").await, "PONG");
    node.cont();
    assert_eq!(hear(&mut waits).await, "0");
    assert_eq!(hear(&mut waits).await, "0");
    assert_eq!(ask(&mut waits, "PUBLISH ch 5").await, "0");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_is_no_part_of_the_order_does_not_shut_its_client_in_when_home_moves() {
    let scene = Scene::start().await;
    let (mut waits, mut goes_on) = (scene.client().await, scene.client().await);
    assert_eq!(ask(&mut goes_on, "PING").await, "PONG");
    let home = scene.home().await;
    let node = scene.cluster.find(&home).expect("one of the nodes");
    node.stop();
    // The first request of its client; only that node can tell whether it ran.
    send(&mut waits, "CLIENT UNBLOCK 1").await;
    assert_eq!(ask(&mut goes_on, "CLUSTER KEYSLOT foo").await, "12182");
    assert_eq!(ask(&mut goes_on, "PUBLISH ch 1").await, "0");
    assert_ne!(scene.home().await, home);
    node.cont();
    assert_eq!(hear(&mut waits).await, "0");
    assert_eq!(ask(&mut waits, "PUBLISH ch 2").await, "0");
    assert_eq!(ask(&mut goes_on, "PUBLISH ch 3").await, "0");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_a_node_took_that_stood_still_and_dies_is_unknown_and_the_rest_goes_on() {
    let scene = Scene::start().await;
    let (mut waits, mut goes_on) = (scene.client().await, scene.client().await);
    for client in [&mut waits, &mut goes_on] {
        assert_eq!(ask(client, "PUBLISH ch 1").await, "0");
    }
    let home = scene.home().await;
    let node = scene.cluster.find(&home).expect("one of the nodes");
    node.stop();
    send(&mut waits, "PUBLISH ch 2").await;
    // Answered by pointsman: what came before it is on its way.
    assert_eq!(ask(&mut goes_on, "CLUSTER KEYSLOT foo").await, "12182");
    assert_eq!(ask(&mut goes_on, "PUBLISH ch 3").await, "0");
    assert_ne!(scene.home().await, home);
    send(&mut waits, "PUBLISH ch 4").await;
    node.kill();
    let reply = hear(&mut waits).await;
    assert!(reply.contains("outcome unknown"), "{reply}");
    assert_eq!(hear(&mut waits).await, "0");
    assert_eq!(ask(&mut waits, "PUBLISH ch 5").await, "0");
}

#[tokio::test]
async fn a_node_that_stands_still_is_not_waited_for_for_ever() {
    let scene = Scene::with(|options| options.requests = "hold_timeout = \"1500ms\"".into()).await;
    let mut client = scene.client().await;
    assert_eq!(ask(&mut client, "PUBLISH ch 1").await, "0");
    let home = scene.home().await;
    scene.cluster.find(&home).expect("one of the nodes").stop();
    let reply = ask(&mut client, "PUBLISH ch 2").await;
    assert!(reply.contains("outcome unknown"), "{reply}");
    assert_eq!(ask(&mut client, "PUBLISH ch 3").await, "0");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_planned_failover_is_no_error_for_what_may_be_sent_again() {
    let mut scene = Scene::for_a_handover().await;
    scene.traffic().await;
    let before = scene.node_of("foo").await;
    let replica = scene.cluster.partner(before);
    scene.cluster.hand_over(replica).await.unwrap();
    pointsman::lab::until("the failover", SOON, async || {
        match scene.node_of("foo").await == replica {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await
    .unwrap();
    scene.progress(50).await;
    let verdict = scene.judged().await;
    let total = verdict.total();
    assert_eq!(
        total.all_errors() - total.errors_of(ErrorClass::Unknown),
        0,
        "{verdict}"
    );
    assert_the_promise_was_kept(&verdict);
    assert_eq!((total.lost, total.broken()), (0, 0), "{verdict}");
    the_report(&scene, before).await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_request_that_finds_no_shard_waits_and_then_says_that_it_did_not_run() {
    let scene = Scene::with(|options| options.requests = "hold_timeout = \"2s\"".into()).await;
    let victim = scene.node_of("foo").await;
    // Its replica is dead as well: nobody takes over.
    scene.cluster.node(victim + 3).kill();
    scene.cluster.node(victim).kill();
    let mut client = scene.client().await;
    let began = pointsman::clock::now();
    let reply = ask(&mut client, "SET foo 1").await;
    assert!(
        reply.contains("not executed") || reply.contains("CLUSTERDOWN"),
        "{reply}"
    );
    let took = pointsman::clock::now().since(began);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_shard_that_holds_as_much_as_it_may_stops_nobody_else() {
    let scene = Scene::with(|options| options.requests = "hold_bytes = 65536".into()).await;
    let (mut full, mut other) = (scene.client().await, scene.client().await);
    let slow = scene.node_of("bar").await;
    assert_eq!(ask(&mut other, "SET foo 1").await, "OK");
    scene.cluster.node(slow).stop();
    let value = "x".repeat(8 * 1024);
    for _ in 0..40 {
        full.send(&["SET", "bar", &value]).await.unwrap();
    }
    for _ in 0..100 {
        assert_eq!(ask(&mut other, "GET foo").await, "1");
    }
    scene.cluster.node(slow).cont();
    for _ in 0..40 {
        assert_eq!(hear(&mut full).await, "OK");
    }
}

#[tokio::test]
async fn what_is_for_every_shard_is_refused_while_none_is_known() {
    let scene = Scene::start_while_all_nodes_are_down().await;
    for request in ["DBSIZE", "SCAN 0", "CLIENT TRACKING ON"] {
        let mut client = scene.client().await;
        let reply = ask(&mut client, request).await;
        assert!(reply.contains("not executed"), "{request}: {reply}");
    }
}
