//! The core where Sentinel decides, in a virtual world with model sentinels: late, lost and
//! contradictory announcements, failovers that are given up, sentinels that die or are deaf.
//!
//! A failure prints its seed, step and trace. Replay it with `SIM_SEED=<seed>`; widen with
//! `SIM_SEEDS=<count>` and `SIM_STEPS=<count>`.

mod failover_world;

use std::time::Duration;

use failover_world::seeds::{self, Failure};
use failover_world::world::{self, MS, Rng, World};
use failover_world::{Disk, node_id};
use pointsman::failover::{Authority, Event, Policy, SentinelEvent, Stage};
use pointsman::topology::{Fault, Gate, Outcome};

fn world_of(seed: u64) -> World {
    World::new(seed, 3, 1, Authority::Sentinel, Policy::default()).with_sentinels(3)
}

fn calm_world() -> World {
    let mut world = world_of(7);
    let begun = world.run_while(3000 * MS, |w| w.serving().is_none());
    assert!(begun, "{}", story(&world));
    world.run_for(2000 * MS);
    world
}

fn story(world: &World) -> String {
    let sentinels = &world.council.sentinels;
    let status = world.monitors[0].machine.status(Default::default());
    format!("{}\n{sentinels:?}\n{status:?}", world::story(world))
}

/// Runs until another node than `old` serves; the time that took.
fn until_moved(world: &mut World, old: usize, limit: u64) -> u64 {
    let began = world.now;
    let moved = world.run_while(limit, |w| w.serving().is_none_or(|n| n == old));
    assert!(moved, "{}", story(world));
    world.now - began
}

fn settle(world: &mut World) {
    let settled = world.run_while(30_000 * MS, |w| w.is_settled().is_err());
    assert!(settled, "{:?}\n{}", world.is_settled(), story(world));
    assert!(world.violation.is_none(), "{}", story(world));
}

fn assert_nothing_lost(world: &World) {
    let serving = world.serving().expect("somebody serves");
    for (id, ..) in &world.acknowledged {
        let kept = world.nodes[serving].log.contains(id);
        assert!(kept, "write {id} is lost\n{}", story(world));
    }
}

/// How long the gate was closed since `from`.
fn closed_since(world: &World, from: u64) -> u64 {
    let mut closed = None;
    let mut sum = 0;
    for (at, _, gate) in world.gates.iter().filter(|(at, ..)| *at >= from) {
        match gate {
            Gate::Closed => closed = Some(*at),
            Gate::Open => sum += closed.take().map_or(0, |since| at - since),
        }
    }
    sum + closed.map_or(0, |since| world.now - since)
}

#[test]
fn a_failover_that_was_asked_for_loses_nothing_and_ends_with_the_promotion() {
    let mut world = calm_world();
    assert!(world.begin_failover(1));
    let promoted = world.run_while(2000 * MS, |w| w.council.promotions.is_empty());
    assert!(promoted, "{}", story(&world));
    let took = until_moved(&mut world, 0, 1000 * MS);
    assert!(took < 20 * MS, "{} ms\n{}", took / MS, story(&world));
    let report = world.last_report().expect("a report");
    assert_eq!(
        (report.fault, &report.outcome),
        (Fault::Followed, &Outcome::Done)
    );
    // The old primary says for seconds that it is one.
    world.run_for(2000 * MS);
    settle(&mut world);
    assert_nothing_lost(&world);
    assert_eq!(world.done_reports(), 1);
}

#[test]
fn a_killed_primary_is_replaced_as_soon_as_sentinel_promoted_somebody() {
    let mut world = calm_world();
    world.kill(0);
    let promoted = world.run_while(5000 * MS, |w| w.council.promotions.is_empty());
    assert!(promoted, "{}", story(&world));
    let took = until_moved(&mut world, 0, 1000 * MS);
    assert!(took < 20 * MS, "{} ms\n{}", took / MS, story(&world));
    world.heal();
    settle(&mut world);
}

#[test]
fn announcements_that_are_lost_cost_time_and_nothing_else() {
    let mut world = calm_world();
    world.council.lost = 100;
    world.kill(0);
    let took = until_moved(&mut world, 0, 8000 * MS);
    assert!(took < 4000 * MS, "{} ms\n{}", took / MS, story(&world));
    world.heal();
    settle(&mut world);
}

#[test]
fn an_old_primary_that_wakes_up_gets_nothing() {
    let mut world = calm_world();
    world.stop(0);
    until_moved(&mut world, 0, 5000 * MS);
    // Before any sentinel names the new one, and long before they get to the old one.
    world.cont(0);
    world.run_for(2000 * MS);
    assert_ne!(world.serving(), Some(0), "{}", story(&world));
    settle(&mut world);
    assert_ne!(world.serving(), Some(0));
    assert_eq!(world.done_reports(), 1);
}

#[test]
fn a_failover_that_is_given_up_opens_the_gate_at_once() {
    let mut world = calm_world();
    world.nodes[1].priority = 0;
    world.nodes[2].priority = 0;
    world.run_for(300 * MS);
    let from = world.now;
    assert!(world.begin_failover(0));
    world.run_for(5000 * MS);
    let closed = closed_since(&world, from);
    assert!(
        (50 * MS..300 * MS).contains(&closed),
        "{} ms\n{}",
        closed / MS,
        story(&world)
    );
    assert_eq!(world.serving(), Some(0));
    assert!(world.reports.is_empty());
    assert_nothing_lost(&world);
}

#[test]
fn a_leader_that_announces_and_does_nothing_holds_as_long_as_its_failover_may_last() {
    let mut world = calm_world();
    let from = world.now;
    let primary = node_id(0);
    world.announce(
        0,
        SentinelEvent::Doubts {
            stage: Stage::Chosen,
            primary: primary.clone(),
            replica: Some(node_id(1)),
        },
    );
    world.run_for(20_000 * MS);
    let closed = closed_since(&world, from);
    // And a moment in which its leader may still take the promotion.
    assert!(
        (3300 * MS..3600 * MS).contains(&closed),
        "{} ms",
        closed / MS
    );
    assert_eq!(world.serving(), Some(0));
}

#[test]
fn a_sentinel_that_flaps_holds_a_tenth_of_the_time() {
    let mut world = calm_world();
    let from = world.now;
    let primary = node_id(0);
    for _ in 0..200 {
        let doubts = SentinelEvent::Doubts {
            stage: Stage::Objective,
            primary: primary.clone(),
            replica: None,
        };
        world.announce(2, doubts);
        world.run_for(70 * MS);
        let primary = primary.clone();
        world.announce(2, SentinelEvent::Trusts { primary });
        world.run_for(30 * MS);
    }
    let closed = closed_since(&world, from);
    let all = world.now - from;
    assert!(closed > 0, "it was listened to");
    assert!(closed < all / 7, "{} of {} ms", closed / MS, all / MS);
    assert_eq!(world.serving(), Some(0));
}

#[test]
fn what_a_sentinel_says_that_nobody_believes_holds_nothing() {
    let mut world = calm_world();
    // It names another primary in a newer epoch, as one of another cluster does from the beginning.
    world.council.sentinels[2].deaf = true;
    world.council.sentinels[2].epoch = 99;
    world.council.sentinels[2].primary = 1;
    for sentinel in 0..2 {
        world.council.sentinels[sentinel].deaf = true;
    }
    world.run_for(10_000 * MS);
    let from = world.now;
    world.announce(
        2,
        SentinelEvent::Doubts {
            stage: Stage::Chosen,
            primary: node_id(1),
            replica: Some(node_id(2)),
        },
    );
    world.run_for(5000 * MS);
    assert_eq!(closed_since(&world, from), 0, "{}", story(&world));
    assert_eq!(world.serving(), Some(0), "{}", story(&world));
}

#[test]
fn a_sentinel_that_fell_behind_is_not_believed() {
    let mut world = calm_world();
    world.council.sentinels[0].deaf = true;
    assert!(world.begin_failover(1));
    until_moved(&mut world, 0, 3000 * MS);
    world.run_for(3000 * MS);
    assert_eq!(world.council.sentinels[0].primary, 0, "it fell behind");
    // Only it is left.
    world.kill_sentinel(1);
    world.kill_sentinel(2);
    world.run_for(1500 * MS);
    assert_ne!(world.serving(), Some(0), "{}", story(&world));
    assert!(world.violation.is_none(), "{}", story(&world));
}

#[test]
fn without_a_majority_traffic_goes_on() {
    let mut world = calm_world();
    let from = world.now;
    world.kill_sentinel(0);
    world.kill_sentinel(1);
    world.run_for(5000 * MS);
    assert_eq!(world.serving(), Some(0));
    assert_eq!(closed_since(&world, from), 0, "{}", story(&world));
    let why = world.monitors[0]
        .machine
        .status(Default::default())
        .undecided;
    let why = why.unwrap_or_default();
    assert!(why.contains("1 of 3 sentinels can be asked"), "{why}");
}

#[test]
fn a_leader_that_ends_after_the_promotion_leaves_no_two_primaries() {
    for (kill_primary, seed) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let mut world = world_of(seed);
        assert!(world.run_while(3000 * MS, |w| w.serving().is_none()));
        world.run_for(2000 * MS);
        if kill_primary {
            world.kill(0);
        } else {
            assert!(world.begin_failover(1));
        }
        let promoted = world.run_while(6000 * MS, |w| w.council.promotions.is_empty());
        assert!(promoted, "{}", story(&world));
        world.run_for(10 * MS);
        let leader = (0..3).find(|n| world.council.sentinels[*n].is_leading());
        world.kill_sentinel(leader.expect("a leader"));
        world.run_for(200 * MS);
        if kill_primary {
            // The promoted one is all there is.
            assert_ne!(world.serving(), None, "{}", story(&world));
        }
        world.run_for(10_000 * MS);
        world.heal();
        settle(&mut world);
    }
}

#[test]
fn a_switchover_asks_sentinel_and_is_answered_once() {
    let mut world = calm_world();
    let ask = |request, to| Event::SwitchoverRequested { request, to };
    world.deliver(0, ask(1, Some(node_id(1))));
    world.run_for(10 * MS);
    assert!(matches!(world.reports[0].1.outcome, Outcome::Aborted(_)));
    world.deliver(0, ask(2, None));
    until_moved(&mut world, 0, 3000 * MS);
    let (_, report, request) = world.reports.last().expect("a report").clone();
    assert_eq!(
        (report.fault, report.outcome),
        (Fault::Switchover, Outcome::Done)
    );
    assert_eq!(request, Some(2));
    assert!(
        report.pause < Duration::from_millis(600),
        "{:?}",
        report.pause
    );
    settle(&mut world);
    assert_nothing_lost(&world);
}

#[test]
fn a_primary_that_restarts_in_its_place_is_served_again() {
    let mut world = calm_world();
    world.kill(0);
    world.run_for(300 * MS);
    let now = world.now;
    world.nodes[0].restart(Disk::Saved, None, 0, now);
    world.run_for(200 * MS);
    assert_eq!(world.serving(), Some(0), "{}", story(&world));
    settle(&mut world);
    assert!(world.reports.is_empty(), "{}", story(&world));
}

// ---- chaos ----

fn disturb(world: &mut World, requests: &mut u64) {
    let roll = world.rng.below(100);
    let node = world.rng.below(3) as usize;
    let sentinel = world.rng.below(3) as usize;
    let primary = world.serving().unwrap_or(node);
    let now = world.now;
    match roll {
        0..12 => world.kill(primary),
        12..16 => world.kill(node),
        16..34 => {
            if let Some(down) = world.nodes.iter().position(|n| !n.running) {
                let disk = match world.rng.below(4) {
                    0 => Disk::Empty,
                    _ => Disk::Saved,
                };
                let master = world.nodes[down].master;
                world.log(format!("node {down} restarts with {disk:?}"));
                world.nodes[down].restart(disk, master, 0, now);
            }
        }
        34..42 => world.stop(primary),
        42..52 => (0..3).for_each(|n| world.cont(n)),
        52..56 => {
            world.log(format!("CUT monitor from node {node}"));
            world.monitor_cuts.insert((0, node));
        }
        56..60 => {
            let other = (node + 1) % 3;
            world.node_cuts.insert((node.min(other), node.max(other)));
        }
        60..66 => world.mend(),
        66..72 => world.kill_sentinel(sentinel),
        72..80 => world.council.sentinels[sentinel].alive = true,
        80..83 => {
            let deaf = &mut world.council.sentinels[sentinel].deaf;
            *deaf = !*deaf;
        }
        83..89 => {
            world.begin_failover(sentinel);
        }
        89..93 => {
            *requests += 1;
            let request = *requests;
            world.deliver(0, Event::SwitchoverRequested { request, to: None });
        }
        93..95 => world.restart_monitor(0),
        95..97 => {
            let span = world.rng.below(4000) * MS;
            world.monitors[0].paused_until = now + span;
            world.log(format!("the monitor is paused for {} ms", span / MS));
        }
        _ => {
            let stage =
                [Stage::Subjective, Stage::Claimed, Stage::Chosen][world.rng.below(3) as usize];
            let primary = node_id(world.council.sentinels[sentinel].primary);
            let replica = (stage == Stage::Chosen).then(|| node_id(node));
            let event = SentinelEvent::Doubts {
                stage,
                primary,
                replica,
            };
            world.announce(sentinel, event);
        }
    }
}

fn run_seed(seed: u64, steps: u64, tracing: bool) -> Result<World, Failure> {
    let mut chooser = Rng(seed ^ 0x5E47_1E11);
    let mut world = world_of(seed);
    world.tracing = tracing;
    world.noise.lost_replies = chooser.below(2) * 10;
    world.latency = [MS / 10, MS / 2, 2 * MS][chooser.below(3) as usize];
    world.council.lost = chooser.below(3) * 20;
    let mut requests = 0;
    for step in 0..steps {
        let span = match world.rng.below(4) {
            0 => world.rng.below(5 * MS),
            1 => world.rng.below(100 * MS),
            2 => world.rng.below(700 * MS),
            _ => world.rng.below(3000 * MS),
        };
        world.run_for(span);
        if let Some(why) = world.violation.clone() {
            return Err(Box::new((world, step, why)));
        }
        disturb(&mut world, &mut requests);
    }
    world.heal();
    world.run_for(10_000 * MS);
    if !world.run_while(60_000 * MS, |w| w.is_settled().is_err()) {
        let why = world.violation.clone().or(world.is_settled().err());
        return Err(Box::new((world, steps, why.unwrap_or_default())));
    }
    let unanswered = (1..=requests)
        .filter(|r| !world.answered_requests.contains(r))
        .count();
    if unanswered > 0 && world.monitors[0].life == 0 {
        let why = format!("{unanswered} switchover requests were not answered");
        return Err(Box::new((world, steps, why)));
    }
    Ok(world)
}

#[test]
fn chaos() {
    seeds::run_all(400, run_seed, story);
}
