//! Clients of every kind while the primary changes, judged by what they recorded.

use std::time::Duration;

use pointsman::lab::{Protocol, Traffic, TrafficOptions, Verdict, judge};
use pointsman::topology::Gate;

use crate::plane::{PATIENCE, Plane};

async fn start(plane: &Plane, protocol: Protocol) -> Traffic {
    let options = TrafficOptions {
        protocol,
        ..TrafficOptions::every_kind(plane.address())
    };
    let traffic = Traffic::start(options).await.expect("clients connect");
    progress(&traffic).await;
    traffic
}

async fn progress(traffic: &Traffic) {
    let progress = traffic.progress(50, PATIENCE).await;
    progress.unwrap_or_else(|error| panic!("{error}"));
}

async fn judged(plane: &Plane, traffic: Traffic, primary: usize) -> Verdict {
    let mut primary = plane.node(primary).client().await.expect("it lives");
    judge(&traffic.stop(&mut primary).await.expect("it answers"))
}

#[tokio::test]
async fn nobody_notices_the_data_plane() {
    let plane = Plane::start(0).await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let traffic = start(&plane, protocol).await;
        let verdict = judged(&plane, traffic, 0).await;
        let total = verdict.total();
        let clean = (total.all_errors(), total.lost, total.broken(), total.gaps);
        assert_eq!(clean, (0, 0, 0, 0), "{verdict}");
    }
}

#[tokio::test]
async fn a_killed_primary_costs_nobody_more_than_an_unknown_outcome() {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let plane = Plane::start(1).await;
        let traffic = start(&plane, protocol).await;
        plane.node(0).kill();
        plane.promote(2, 1).await;
        progress(&traffic).await;
        let verdict = judged(&plane, traffic, 1).await;

        assert_eq!(verdict.total().broken(), 0, "{verdict}");
        assert_eq!(verdict.forbidden_errors(), 0, "{verdict}");
    }
}

#[tokio::test]
async fn a_stopped_primary_reaches_nobody_when_it_wakes_up() {
    let plane = Plane::start(1).await;
    let traffic = start(&plane, Protocol::Resp2).await;
    plane.node(0).stop();
    // Nothing is to be seen of requests that pile up at a process that hangs: only time helps.
    tokio::time::sleep(Duration::from_millis(200)).await;
    plane.promote(2, 1).await;
    progress(&traffic).await;
    plane.node(0).cont();
    progress(&traffic).await;
    let verdict = judged(&plane, traffic, 1).await;
    assert_eq!(verdict.total().broken(), 0, "{verdict}");
    assert_eq!(verdict.forbidden_errors(), 0, "{verdict}");
}

#[tokio::test]
async fn a_drained_change_of_primary_costs_nobody_anything() {
    let plane = Plane::start(1).await;
    let traffic = start(&plane, Protocol::Resp2).await;
    let generation = plane.gate(Gate::Closed);
    plane.obeyed(generation).await;
    plane.cluster.in_sync(PATIENCE).await.expect("in sync");
    plane.promote(2, 1).await;
    progress(&traffic).await;
    let verdict = judged(&plane, traffic, 1).await;
    let total = verdict.total();
    let clean = (total.all_errors(), total.lost, total.broken());
    assert_eq!(clean, (0, 0, 0), "{verdict}");
}
