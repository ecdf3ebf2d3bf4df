//! The core in a virtual world: one test for each promise, and seeded chaos.
//!
//! A failure prints its seed, step and trace. Replay it with `SIM_SEED=<seed>`; widen with
//! `SIM_SEEDS=<count>` and `SIM_STEPS=<count>`.

mod failover_world;

use std::time::Duration;

use failover_world::seeds::{self, Failure};
use failover_world::world::{MS, Rng, World, story};
use failover_world::{Disk, node_id};
use pointsman::failover::{Authority, Decline, Event, Health, NodeOp, Panel, Policy};
use pointsman::topology::{BytesLost, Fault, Gate, Outcome};

/// Several monitors share the record; the world gives each a domain of its own.
fn shared(view_lease: Option<Duration>) -> Authority {
    Authority::Shares(Panel {
        domain: "".into(),
        domains: 0,
        carries: true,
        view_lease,
    })
}

fn calm_world() -> World {
    let mut world = World::new(7, 3, 1, Authority::Decides, Policy::default());
    assert!(
        world.run_while(1000 * MS, |w| w.serving().is_none()),
        "{}",
        story(&world)
    );
    world.run_for(300 * MS);
    world
}

/// Runs until another node than `old` serves; the time that took.
fn until_moved(world: &mut World, old: usize, limit: u64) -> u64 {
    let began = world.now;
    let moved = world.run_while(limit, |w| w.serving().is_none_or(|n| n == old));
    assert!(moved, "{}", story(world));
    world.now - began
}

fn settle(world: &mut World, limit: u64) {
    let settled = world.run_while(limit, |w| w.is_settled().is_err());
    assert!(settled, "{:?}\n{}", world.is_settled(), story(world));
    assert!(world.violation.is_none(), "{}", story(world));
}

#[test]
fn a_killed_primary_is_replaced_within_60_ms() {
    let mut world = calm_world();
    world.kill(0);
    let took = until_moved(&mut world, 0, 1000 * MS);
    assert!(took < 60 * MS, "{} ms\n{}", took / MS, story(&world));
    let report = world.last_report().expect("a report");
    assert_eq!(report.fault, Fault::Refused);
    assert_eq!(report.outcome, Outcome::Done);
    world.heal();
    settle(&mut world, 5000 * MS);
}

#[test]
fn a_stopped_primary_is_replaced_in_about_a_second_and_demoted_when_it_wakes() {
    let mut world = calm_world();
    world.stop(0);
    let took = until_moved(&mut world, 0, 3000 * MS);
    assert!(
        (900 * MS..1400 * MS).contains(&took),
        "{} ms\n{}",
        took / MS,
        story(&world)
    );
    assert_eq!(world.last_report().map(|r| r.fault), Some(Fault::Silent));
    world.run_for(5000 * MS);
    world.cont(0);
    settle(&mut world, 5000 * MS);
    assert_ne!(world.serving(), Some(0));
    assert_eq!(world.done_reports(), 1);
}

#[test]
fn a_stall_of_300_ms_causes_no_failover() {
    let mut world = calm_world();
    world.stop(0);
    world.run_for(300 * MS);
    world.cont(0);
    world.run_for(3000 * MS);
    settle(&mut world, 1000 * MS);
    assert_eq!(world.serving(), Some(0));
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert_eq!(
        world.gates.len(),
        2,
        "the gate stays open: {}",
        story(&world)
    );
}

#[test]
fn a_long_fork_stretches_the_silence_allowed() {
    let mut world = calm_world();
    world.nodes[0].fork_usec = 700_000;
    world.run_for(300 * MS);
    world.stop(0);
    world.run_for(1800 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    world.cont(0);
    settle(&mut world, 2000 * MS);
    assert_eq!(world.serving(), Some(0));
}

#[test]
fn a_lost_host_is_replaced_in_half_a_second() {
    let mut world = calm_world();
    world.monitor_cuts.insert((0, 0));
    world.node_cuts.insert((0, 1));
    world.node_cuts.insert((0, 2));
    let took = until_moved(&mut world, 0, 2000 * MS);
    assert!(
        (400 * MS..900 * MS).contains(&took),
        "{} ms\n{}",
        took / MS,
        story(&world)
    );
    assert_eq!(world.last_report().map(|r| r.fault), Some(Fault::Unacked));
    world.heal();
    settle(&mut world, 5000 * MS);
    assert_ne!(world.serving(), Some(0));
}

#[test]
fn a_replica_that_still_receives_vetoes_the_verdict() {
    let mut world = World::new(3, 3, 1, Authority::Decides, Policy::default());
    assert!(world.run_while(1000 * MS, |w| w.serving().is_none()));
    // The monitor is cut off, the writes of clients elsewhere go on.
    world.monitor_cuts.insert((0, 0));
    for id in 0..1000 {
        let now = world.now;
        world.nodes[0].write(1_000_000 + id, now);
        world.run_for(5 * MS);
    }
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert_eq!(world.declined, [Decline::Vetoed]);
    world.monitor_cuts.clear();
    settle(&mut world, 1000 * MS);
    assert_eq!(world.serving(), Some(0));
}

#[test]
fn a_primary_that_restarts_empty_empties_nobody() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 1, Authority::Decides, Policy::default());
        assert!(world.run_while(1000 * MS, |w| w.serving().is_none()));
        world.run_for(300 * MS + seed * 7 * MS);
        world.kill(0);
        world.run_for(seed * MS);
        let now = world.now;
        world.nodes[0].restart(Disk::Empty, None, 0, now);
        let took = until_moved(&mut world, 0, 1000 * MS);
        assert!(
            took < 150 * MS,
            "seed {seed}: {} ms\n{}",
            took / MS,
            story(&world)
        );
        settle(&mut world, 5000 * MS);
        let serving = world.serving().expect("somebody serves");
        assert!(
            world.nodes[serving].log.len() > 50,
            "seed {seed}\n{}",
            story(&world)
        );
    }
}

#[test]
fn a_switchover_loses_nothing_and_pauses_for_milliseconds() {
    let mut world = calm_world();
    world.deliver(
        0,
        Event::SwitchoverRequested {
            request: 1,
            to: Some(node_id(2)),
        },
    );
    until_moved(&mut world, 0, 1000 * MS);
    assert_eq!(world.serving(), Some(2));
    let report = world.last_report().expect("a report").clone();
    assert_eq!(
        (report.fault, report.outcome),
        (Fault::Switchover, Outcome::Done)
    );
    assert!(
        report.pause < Duration::from_millis(20),
        "{:?}\n{}",
        report.pause,
        story(&world)
    );
    settle(&mut world, 3000 * MS);
    for (id, ..) in &world.acknowledged {
        assert!(
            world.nodes[2].log.contains(id),
            "write {id} is lost\n{}",
            story(&world)
        );
    }
}

#[test]
fn a_switchover_is_refused_with_a_reason() {
    for (to, prepare, expected) in [
        (0, None, "primary already"),
        (1, Some(1u32), "full resync"),
        (1, Some(2), "does not answer"),
        (9, None, "not a node"),
    ] {
        let mut world = calm_world();
        match prepare {
            Some(1) => {
                world.timing.transfer = 2000 * MS;
                let now = world.now;
                world.nodes[1].restart(Disk::Data, Some(0), 0, now);
                world.run_for(300 * MS);
            }
            Some(_) => {
                world.kill(1);
                world.run_for(300 * MS);
            }
            None => {}
        }
        world.deliver(
            0,
            Event::SwitchoverRequested {
                request: 5,
                to: Some(node_id(to)),
            },
        );
        let answered = world.run_while(3000 * MS, |w| w.reports.is_empty());
        assert!(answered, "{}", story(&world));
        match &world.reports[0].1.outcome {
            Outcome::Aborted(why) => assert!(why.contains(expected), "{why}"),
            Outcome::Done => panic!("{}", story(&world)),
        }
        assert_eq!(world.reports[0].2, Some(5));
        assert_eq!(world.serving(), Some(0));
        assert_eq!(world.gates.last().map(|g| g.2), Some(Gate::Open));
    }
}

#[test]
fn a_switchover_whose_target_refuses_is_undone() {
    let mut world = calm_world();
    world.nodes[1].stubborn = true;
    world.deliver(
        0,
        Event::SwitchoverRequested {
            request: 1,
            to: Some(node_id(1)),
        },
    );
    assert!(
        world.run_while(3000 * MS, |w| w.reports.is_empty()),
        "{}",
        story(&world)
    );
    assert!(matches!(world.reports[0].1.outcome, Outcome::Aborted(_)));
    settle(&mut world, 1000 * MS);
    assert_eq!(world.serving(), Some(0));
    world.run_for(100 * MS);
    assert_eq!(world.nodes[0].paused_until, 0, "unpaused");
    // And the next failover works.
    world.kill(0);
    until_moved(&mut world, 0, 1000 * MS);
}

#[test]
fn a_second_failover_right_after_the_first() {
    let mut world = calm_world();
    world.kill(0);
    until_moved(&mut world, 0, 1000 * MS);
    let second = world.serving().expect("serving");
    world.run_for(20 * MS);
    world.kill(second);
    let took = until_moved(&mut world, second, 1000 * MS);
    assert!(took < 200 * MS, "{} ms\n{}", took / MS, story(&world));
    world.heal();
    settle(&mut world, 5000 * MS);
}

#[test]
fn a_candidate_that_dies_is_followed_by_the_next() {
    let mut world = calm_world();
    world.kill(0);
    world.run_for(4 * MS);
    world.kill(1);
    let took = until_moved(&mut world, 0, 3000 * MS);
    assert_eq!(world.serving(), Some(2), "{}", story(&world));
    assert!(took < 500 * MS, "{} ms\n{}", took / MS, story(&world));
}

#[test]
fn a_sibling_with_more_data_is_waited_for_while_it_is_slow() {
    let mut world = calm_world();
    world.node_cuts.insert((0, 2));
    world.run_for(400 * MS);
    assert!(world.nodes[1].offset > world.nodes[2].offset);
    world.slow.insert(1, 250 * MS);
    world.kill(0);
    let took = until_moved(&mut world, 0, 3000 * MS);
    assert_eq!(world.serving(), Some(1), "{}", story(&world));
    assert!(took < 1000 * MS, "{} ms\n{}", took / MS, story(&world));
}

#[test]
fn a_sibling_with_more_data_that_is_gone_is_not_waited_for() {
    let mut world = calm_world();
    world.node_cuts.insert((0, 2));
    world.run_for(400 * MS);
    world.kill(0);
    world.kill(1);
    let took = until_moved(&mut world, 0, 3000 * MS);
    assert_eq!(world.serving(), Some(2), "{}", story(&world));
    // The verdict alone needs 400 ms when two nodes end at once.
    assert!(took < 600 * MS, "{} ms\n{}", took / MS, story(&world));
}

#[test]
fn offsets_that_never_stand_still_end_no_failover() {
    let mut world = calm_world();
    world.stop(0);
    let choosing = |w: &World| w.monitors[0].machine.status(Default::default()).step == "choosing";
    assert!(
        world.run_while(3000 * MS, |w| !choosing(w)),
        "{}",
        story(&world)
    );
    let began = world.now;
    while world.serving().is_none_or(|node| node == 0) {
        // Somebody who can not be fenced goes on writing.
        world.nodes[2].offset += 1;
        world.run_for(MS);
        assert!(world.now - began < 2000 * MS, "{}", story(&world));
    }
    let report = world.last_report().expect("a report");
    let noted = report
        .evidence
        .iter()
        .any(|(_, text)| text.contains("do not stand still"));
    assert!(noted, "{}", story(&world));
}

#[test]
fn priority_zero_is_never_promoted_and_the_reason_is_told() {
    let mut world = calm_world();
    world.nodes[1].priority = 0;
    world.nodes[2].priority = 0;
    world.run_for(300 * MS);
    world.kill(0);
    world.run_for(5000 * MS);
    assert!(world.reports.is_empty());
    let status = world.monitors[0].machine.status(Default::default());
    assert!(
        status
            .undecided
            .is_some_and(|why| why.contains("replica-priority is 0"))
    );
    assert_eq!(world.declined, [Decline::NoCandidate]);
    // It comes back as it was.
    let now = world.now;
    world.nodes[0].restart(Disk::Saved, None, 0, now);
    settle(&mut world, 8000 * MS);
    assert_eq!(world.serving(), Some(0));
}

#[test]
fn after_everybody_was_down_the_newest_history_wins_in_every_order() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut world = calm_world();
        // Node 2 falls behind, then everybody ends.
        world.kill(2);
        world.run_for(500 * MS);
        world.clients = false;
        world.run_for(50 * MS);
        let newest = world.nodes[0].log.len();
        world.kill(0);
        world.kill(1);
        world.run_for(2000 * MS);
        for node in order {
            let master = world.nodes[node].master;
            let now = world.now;
            world.nodes[node].restart(Disk::Saved, master, 0, now);
            world.run_for(700 * MS);
        }
        settle(&mut world, 15_000 * MS);
        let serving = world.serving().expect("serving");
        assert_eq!(
            world.nodes[serving].log.len(),
            newest,
            "{order:?}\n{}",
            story(&world)
        );
    }
}

#[test]
fn a_monitor_that_ends_at_any_moment_of_a_failover_resumes_it() {
    for moment in 0..40 {
        let mut world = calm_world();
        world.kill(0);
        world.run_for(moment * MS / 2);
        world.restart_monitor(0);
        until_moved(&mut world, 0, 5000 * MS);
        world.heal();
        settle(&mut world, 8000 * MS);
    }
}

#[test]
fn a_monitor_that_ends_at_any_moment_of_a_switchover_resumes_it() {
    for moment in 0..40 {
        let mut world = calm_world();
        world.deliver(
            0,
            Event::SwitchoverRequested {
                request: 1,
                to: None,
            },
        );
        world.run_for(moment * MS / 2);
        world.restart_monitor(0);
        settle(&mut world, 8000 * MS);
        let serving = world.serving().expect("serving");
        for (id, ..) in &world.acknowledged {
            assert!(
                world.nodes[serving].log.contains(id),
                "moment {moment}\n{}",
                story(&world)
            );
        }
    }
}

#[test]
fn a_paused_monitor_makes_no_verdict_of_its_own_pause() {
    let mut world = calm_world();
    let resumes = world.now + 5000 * MS;
    world.monitors[0].paused_until = resumes;
    world.run_for(8000 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    settle(&mut world, 1000 * MS);
}

#[test]
fn beside_another_monitor_nothing_is_decided() {
    let mut world = calm_world();
    world.monitors[0].marked = true;
    world.deliver(
        0,
        Event::OtherMonitor {
            who: Some("other".into()),
        },
    );
    world.kill(0);
    world.run_for(3000 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert!(world.violation.is_none(), "{}", story(&world));
    assert_eq!(world.declined, [Decline::OtherMonitor]);
    world.heal();
    settle(&mut world, 8000 * MS);
}

#[test]
fn without_an_authority_traffic_goes_on_and_nothing_is_decided() {
    let mut world = calm_world();
    world.authority_up = false;
    world.run_for(2000 * MS);
    assert_eq!(world.serving(), Some(0));
    world.kill(0);
    world.run_for(3000 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert_eq!(world.declined, [Decline::AuthorityUnavailable]);
    world.authority_up = true;
    until_moved(&mut world, 0, 3000 * MS);
}

#[test]
fn a_record_that_can_be_read_and_not_written_is_not_tried_all_the_time() {
    // The disk is full before the claim, before the commit, and while a switchover is undone.
    let step = |w: &World| w.monitors[0].machine.status(Default::default()).step;
    for stage in ["healthy", "promoting", "undone", "resumed"] {
        let mut world = calm_world();
        match stage {
            "undone" => {
                world.nodes[1].stubborn = true;
                let (request, to) = (1, Some(node_id(1)));
                world.deliver(0, Event::SwitchoverRequested { request, to });
                assert!(world.run_while(500 * MS, |w| step(w) != "promoting"));
            }
            _ => world.kill(0),
        }
        if matches!(stage, "promoting" | "resumed") {
            assert!(world.run_while(500 * MS, |w| step(w) != "promoting"));
        }
        world.authority_full = true;
        if stage == "resumed" {
            world.restart_monitor(0);
        }
        world.run_for(300 * MS);
        let before = world.proposals;
        world.run_for(3000 * MS);
        let tried = world.proposals - before;
        assert!(
            (2..=6).contains(&tried),
            "{stage}: {tried}\n{}",
            story(&world)
        );
        if stage != "undone" {
            let status = world.monitors[0].machine.status(Default::default());
            let why = status.undecided.unwrap_or_default();
            assert!(why.contains("disk is full"), "{stage}: {why}");
        }
        world.authority_full = false;
        world.heal();
        settle(&mut world, 5000 * MS);
    }
}

#[test]
fn a_reason_not_to_decide_is_not_shown_once_it_is_decided() {
    let mut world = calm_world();
    world.nodes[1].priority = 0;
    world.nodes[2].priority = 0;
    world.run_for(300 * MS);
    world.kill(0);
    world.run_for(1000 * MS);
    let status = |w: &World| w.monitors[0].machine.status(Default::default());
    assert!(status(&world).undecided.is_some());
    world.nodes[1].priority = 100;
    let serving = |w: &World| status(w).phase == "serving";
    assert!(world.run_while(1000 * MS, serving), "{}", story(&world));
    assert_eq!(status(&world).undecided, None);
}

#[test]
fn a_former_primary_that_can_not_be_fenced_is_demoted_all_the_same() {
    let mut world = calm_world();
    world.nodes[0].unfenceable = true;
    world.kill(0);
    until_moved(&mut world, 0, 1000 * MS);
    let now = world.now;
    world.nodes[0].restart(Disk::Saved, None, 0, now);
    settle(&mut world, 5000 * MS);
    let told = world
        .trace
        .iter()
        .filter(|l| l.contains("\"-fence\""))
        .count();
    assert_eq!(told, 1, "{}", story(&world));
}

#[test]
fn promotions_whose_answers_are_always_lost_come_to_an_end() {
    let mut world = calm_world();
    world.mute = Some(1);
    world.nodes[2].priority = 200;
    world.run_for(300 * MS);
    world.kill(0);
    let took = until_moved(&mut world, 0, 10_000 * MS);
    assert_eq!(world.serving(), Some(2), "{}", story(&world));
    assert!(took < 4000 * MS, "{} ms", took / MS);
}

#[test]
fn a_follower_believes_role_and_never_acts() {
    let mut world = World::new(1, 3, 1, Authority::Follows, Policy::default());
    assert!(world.run_while(1000 * MS, |w| w.serving().is_none()));
    world.kill(0);
    world.run_for(1000 * MS);
    assert_eq!(world.serving(), None);
    assert_eq!(world.declined, [Decline::FollowOnly]);
    let now = world.now;
    for (node, what) in [
        (2, NodeOp::Promote),
        (1, NodeOp::Repoint { to: node_id(2) }),
    ] {
        world.nodes[node].execute(&what, failover_world::index_of, now);
    }
    let took = until_moved(&mut world, 0, 1000 * MS);
    assert!(took < 100 * MS, "{} ms", took / MS);
    assert_eq!(world.serving(), Some(2));
    // The old one returns as a primary that nobody follows.
    world.nodes[0].restart(Disk::Saved, None, 0, now);
    world.run_for(2000 * MS);
    assert_eq!(world.serving(), Some(2), "{}", story(&world));
    assert!(world.violation.is_none(), "{}", story(&world));
}

#[test]
fn the_bytes_only_the_old_primary_had_are_counted() {
    let mut world = calm_world();
    world.stop(1);
    world.stop(2);
    world.run_for(100 * MS);
    world.node_cuts.insert((0, 1));
    world.node_cuts.insert((0, 2));
    world.cont(1);
    world.cont(2);
    let before = world.nodes[1].offset;
    world.run_for(300 * MS);
    world.monitor_cuts.insert((0, 0));
    until_moved(&mut world, 0, 2000 * MS);
    let only_old = world.nodes[0].offset - before;
    assert!(only_old > 0);
    world.heal();
    settle(&mut world, 5000 * MS);
    let first = world
        .reports
        .first()
        .map(|(_, report, _)| report.bytes_lost);
    assert!(
        matches!(first, Some(BytesLost::AtLeast(bytes)) if bytes > 0 && bytes <= only_old),
        "{first:?}"
    );
    let exact = BytesLost::Exactly(only_old);
    assert_eq!(world.amended, [exact], "{}", story(&world));
}

#[test]
fn of_a_killed_primary_only_a_lower_bound_is_claimed() {
    let mut world = calm_world();
    world.node_cuts.insert((0, 1));
    world.node_cuts.insert((0, 2));
    world.run_for(300 * MS);
    let only_old = world.nodes[0].offset - world.nodes[1].offset;
    world.kill(0);
    until_moved(&mut world, 0, 2000 * MS);
    match world.last_report().map(|report| report.bytes_lost) {
        Some(BytesLost::AtLeast(bytes)) => assert!((1..=only_old).contains(&bytes), "{bytes}"),
        other => panic!("{other:?}"),
    }
    // What it saved at its end is what it had.
    let now = world.now;
    world.nodes[0].restart(Disk::Saved, None, 0, now);
    world.heal();
    settle(&mut world, 5000 * MS);
    assert_eq!(world.amended, [BytesLost::AtLeast(only_old)]);
}

#[test]
fn a_fence_that_comes_late_is_taken_off_the_serving_primary() {
    for (monitors, authority) in [(1, Authority::Decides), (2, shared(None))] {
        let mut world = World::new(7, 3, monitors, authority, Policy::default());
        assert!(world.run_while(1000 * MS, |w| w.is_settled().is_err()));
        world.run_for(300 * MS);
        world.fence_lands(0);
        let healed = world.run_while(700 * MS, |w| w.nodes[0].fenced);
        assert!(healed, "{}", story(&world));
        settle(&mut world, 100 * MS);
        // A look that finds nothing is no reason to look all the time.
        let looks = |w: &World| w.trace.iter().filter(|l| l.contains("Unfence:")).count();
        assert!((1..=monitors).contains(&looks(&world)), "{}", story(&world));
    }
}

#[test]
fn of_two_monitors_that_claim_at_once_one_declines() {
    for seed in 0..10 {
        // Each may decide alone.
        let alone = Authority::Shares(Panel {
            domain: "".into(),
            domains: 1,
            carries: true,
            view_lease: None,
        });
        let mut world = World::new(seed, 3, 2, alone, Policy::default());
        assert!(world.run_while(2000 * MS, |w| w.is_settled().is_err()));
        world.run_for(300 * MS);
        world.kill(0);
        until_moved(&mut world, 0, 1000 * MS);
        let lost = |l: &&String| l.contains("outcome: Lost");
        let lost = world.trace.iter().rev().filter(lost).count();
        // The first record is contended too; that is no failover.
        let declined = world.declined.len();
        assert!(world.declined.iter().all(|why| *why == Decline::SwapLost));
        assert!(declined <= lost, "{}", story(&world));
        if declined > 0 {
            assert_eq!(declined, 1, "{}", story(&world));
            return;
        }
    }
    panic!("no claim was ever contended");
}

/// Three monitors and two sidecars that serve.
fn panel_world(seed: u64, view_lease: Option<Duration>) -> World {
    let mut world = World::new(seed, 3, 3, shared(view_lease), Policy::default());
    world.add_sidecars(2);
    let settled = world.run_while(3000 * MS, |w| w.is_settled().is_err());
    assert!(settled, "{:?}\n{}", world.is_settled(), story(&world));
    world.run_for(300 * MS);
    world
}

/// When the last pointsman sends requests to another node than `old`.
fn until_all_moved(world: &mut World, old: usize, limit: u64) -> u64 {
    let began = world.now;
    let moved = world.run_while(limit, |w| {
        let all = 0..w.monitors.len();
        all.into_iter()
            .any(|m| w.serving_at(m).is_none_or(|n| n == old))
    });
    assert!(moved, "{}", story(world));
    world.now - began
}

#[test]
fn three_monitors_agree_and_their_sidecars_follow_at_once() {
    for seed in 0..10 {
        let mut world = panel_world(seed, None);
        world.kill(0);
        let took = until_all_moved(&mut world, 0, 3000 * MS);
        assert!(took < 250 * MS, "{} ms\n{}", took / MS, story(&world));
        assert!(!world.declined.contains(&Decline::NoMajority));
        world.heal();
        settle(&mut world, 8000 * MS);
    }
}

#[test]
fn a_monitor_that_alone_can_not_reach_the_primary_does_nothing_and_says_why() {
    let mut world = panel_world(1, None);
    // The veto of a replica that still receives is not needed for it.
    world.clients = false;
    world.monitor_cuts.insert((0, 0));
    world.run_for(6000 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert!(world.violation.is_none(), "{}", story(&world));
    let status = world.monitors[0].machine.status(Default::default());
    let why = status.undecided.unwrap_or_default();
    let expected = "2 of 3 failure domains must see the primary as lost; host0 does and host1, \
                    host2 do not";
    assert_eq!(why, expected);
    assert_eq!(world.declined, [Decline::NoMajority]);
    for other in 1..5 {
        assert_eq!(world.serving_at(other), Some(0), "{}", story(&world));
    }
    // A second one: now most see it.
    world.monitor_cuts.insert((1, 0));
    world.monitor_cuts.insert((3, 0));
    world.node_cuts.extend([(0, 1), (0, 2)]);
    until_all_moved(&mut world, 0, 3000 * MS);
}

#[test]
fn what_a_dead_monitor_said_counts_for_nobody() {
    let mut world = panel_world(2, None);
    world.clients = false;
    world.monitor_cuts.insert((2, 0));
    world.run_for(1500 * MS);
    // It says so until its end.
    world.monitors[2].paused_until = world.now + 60_000 * MS;
    world.run_for(3000 * MS);
    world.monitor_cuts.insert((0, 0));
    world.run_for(4000 * MS);
    assert!(world.reports.is_empty(), "{}", story(&world));
    assert_eq!(world.serving_at(1), Some(0));
}

#[test]
fn a_sidecar_goes_on_without_the_authority_and_refuses_a_switchover() {
    let mut world = panel_world(3, None);
    world.authority_up = false;
    world.run_for(5000 * MS);
    for sidecar in [3, 4] {
        assert_eq!(world.serving_at(sidecar), Some(0), "{}", story(&world));
        let status = world.monitors[sidecar].machine.status(Default::default());
        assert!(status.undecided.is_some_and(|why| why.contains("down")));
        // It asks no node, and says nothing about any.
        for node in status.nodes {
            assert_eq!(node.health, Health::Unasked);
            assert_eq!(node.not_promotable, None);
        }
    }
    let (request, to) = (9, None);
    world.deliver(3, Event::SwitchoverRequested { request, to });
    world.run_for(MS);
    let (_, report, asked) = world.reports.last().expect("an answer");
    assert_eq!(*asked, Some(9));
    assert!(matches!(&report.outcome, Outcome::Aborted(why) if why.contains("monitor")));
}

#[test]
fn a_switchover_gives_sidecars_time_and_loses_nothing() {
    for seed in 0..10 {
        let mut world = panel_world(seed, None);
        let (request, to) = (1, Some(node_id(2)));
        world.deliver(1, Event::SwitchoverRequested { request, to });
        // A change that is not told is read a second later.
        until_all_moved(&mut world, 0, 2500 * MS);
        let report = world.last_report().expect("a report");
        assert_eq!(report.outcome, Outcome::Done, "{}", story(&world));
        settle(&mut world, 3000 * MS);
        for (id, ..) in &world.acknowledged {
            assert!(world.nodes[2].log.contains(id), "{}", story(&world));
        }
    }
}

/// Monitor 1 moves the primary from `old`; how long requests waited for it.
fn switch_over(world: &mut World, request: u64, old: usize) -> Duration {
    let to = None;
    world.deliver(1, Event::SwitchoverRequested { request, to });
    let moved = world.run_while(3000 * MS, |w| w.serving_at(1).is_none_or(|n| n == old));
    assert!(moved, "{}", story(world));
    let report = world.last_report().expect("a report");
    assert_eq!(report.outcome, Outcome::Done, "{}", story(world));
    report.pause
}

#[test]
fn a_switchover_goes_on_as_soon_as_everybody_has_acknowledged_it() {
    let patience = Duration::from_millis(250);
    let mut early = 0;
    for seed in 0..20 {
        let mut world = panel_world(seed, None);
        // The record is read in up to 80 ms: no fixed time would do.
        world.noise.slow_store = 80 * MS;
        let pause = switch_over(&mut world, 1, 0);
        assert!(pause < patience * 2, "{pause:?}\n{}", story(&world));
        match pause < patience {
            true => {
                early += 1;
                assert_eq!(world.surprised, 0, "{}", story(&world));
            }
            // Somebody was not told of it, and reads it later.
            false => assert!(world.surprised > 0, "{}", story(&world)),
        }
    }
    assert!(early >= 10, "{early} of 20");
}

#[test]
fn a_sidecar_that_hangs_holds_a_switchover_for_a_moment_and_when_it_is_gone_not_at_all() {
    let mut world = panel_world(1, None);
    world.noise.lost_watches = 0;
    world.every_watch_works = true;
    world.monitors[3].paused_until = u64::MAX;
    let pause = switch_over(&mut world, 1, 0);
    assert!(pause >= Duration::from_millis(250), "{}", story(&world));
    let report = world.last_report().expect("a report");
    let late = "not acknowledged in time by monitor3.0";
    let noted = report.evidence.iter().any(|(_, text)| text == late);
    assert!(noted, "{report:?}");
    world.run_for(30_000 * MS);
    let old = world.serving_at(1).expect("serving");
    let pause = switch_over(&mut world, 2, old);
    assert!(pause < Duration::from_millis(100), "{}", story(&world));
    assert_eq!(world.surprised, 2, "the one that hung, each time");
}

#[test]
fn in_strict_mode_acknowledgements_save_the_wait_for_the_lease() {
    let lease = Duration::from_secs(2);
    for seed in 0..10 {
        let mut world = panel_world(seed, Some(lease));
        world.every_watch_works = true;
        world.kill(0);
        let took = until_all_moved(&mut world, 0, 6000 * MS);
        assert!(took < 300 * MS, "{} ms\n{}", took / MS, story(&world));
        world.heal();
        settle(&mut world, 8000 * MS);
        // One that can not be asked may still forward.
        let old = world.serving().expect("serving");
        world.monitors[4].authority_cut = true;
        world.kill(old);
        let took = until_moved(&mut world, old, 6000 * MS);
        assert!(took > 2000 * MS, "{} ms\n{}", took / MS, story(&world));
        world.heal();
        settle(&mut world, 8000 * MS);
        // One that is gone does not.
        let old = world.serving().expect("serving");
        world.monitors[4].paused_until = u64::MAX;
        world.run_for(30_000 * MS);
        world.kill(old);
        let took = until_moved(&mut world, old, 6000 * MS);
        assert!(took < 300 * MS, "{} ms\n{}", took / MS, story(&world));
        assert!(world.violation.is_none(), "{}", story(&world));
    }
}

/// It comes between the claim and the promotion, or before, or after.
#[test]
fn in_strict_mode_a_sidecar_that_comes_in_the_middle_of_a_failover_obeys_it() {
    for moment in 0..60 {
        let mut world = panel_world(moment, Some(Duration::from_secs(2)));
        // The old primary can still be reached by sidecars, and by nobody else.
        world.monitor_cuts.extend([(0, 0), (1, 0), (2, 0)]);
        world.node_cuts.extend([(0, 1), (0, 2)]);
        world.run_for(470 * MS + moment * MS);
        world.restart_monitor(3);
        world.add_sidecars(1);
        until_moved(&mut world, 0, 6000 * MS);
        world.run_for(1000 * MS);
        assert!(world.violation.is_none(), "{}", story(&world));
        world.heal();
        settle(&mut world, 8000 * MS);
    }
}

#[test]
fn in_strict_mode_whoever_is_not_on_the_roll_carries_nothing() {
    for lease in [None, Some(Duration::from_secs(2))] {
        let mut world = panel_world(5, lease);
        world.roster_closed = true;
        world.add_sidecars(1);
        world.run_for(5000 * MS);
        assert_eq!(world.serving_at(3), Some(0), "{}", story(&world));
        let carries = lease.is_none().then_some(0);
        assert_eq!(world.serving_at(5), carries, "{}", story(&world));
        // From some time on the monitors do not wait for it.
        let told = |l: &String| l.contains("can not be told that this pointsman carries");
        let silent = |w: &World| !w.trace.iter().any(told);
        assert!(world.run_while(16_000 * MS, silent), "{}", story(&world));
        world.run_for(1000 * MS);
        assert_eq!(world.serving_at(3), carries, "{}", story(&world));
        world.roster_closed = false;
        settle(&mut world, 8000 * MS);
        assert_eq!(world.serving_at(3), Some(0));
    }
}

#[test]
fn a_monitor_that_decides_alone_and_is_not_alone_is_told() {
    for (domains, told) in [(1, true), (0, false)] {
        let authority = Authority::Shares(Panel {
            domain: "".into(),
            domains,
            carries: true,
            view_lease: None,
        });
        let mut world = World::new(3, 3, 2, authority, Policy::default());
        world.run_for(3000 * MS);
        settle(&mut world, 3000 * MS);
        let warned = world.trace.iter().any(|l| l.contains("monitors = 1, and"));
        assert_eq!(warned, told, "{}", story(&world));
    }
}

#[test]
fn a_record_that_somebody_deletes_is_written_again() {
    for view_lease in [None, Some(Duration::from_secs(2))] {
        let mut world = panel_world(3, view_lease);
        world.delete_record();
        // At the latest when it is read without a word of a change.
        assert!(
            world.run_while(3000 * MS, |w| w.record.is_none()),
            "{}",
            story(&world)
        );
        settle(&mut world, 3000 * MS);
        assert_eq!(world.serving(), Some(0));
        assert_eq!(world.reports.len(), 0, "{}", story(&world));
        world.kill(0);
        until_all_moved(&mut world, 0, 6000 * MS);
    }
}

#[test]
fn in_strict_mode_a_sidecar_without_the_record_stops_before_another_is_promoted() {
    let lease = Duration::from_secs(2);
    let mut world = panel_world(4, Some(lease));
    // Sidecar 3 is with the old primary, and everything else on the other side.
    world.monitors[3].authority_cut = true;
    world.monitor_cuts.extend([(0, 0), (1, 0), (2, 0), (4, 0)]);
    world.node_cuts.extend([(0, 1), (0, 2)]);
    let moved = world.run_while(6000 * MS, |w| w.serving_at(4).is_none_or(|n| n == 0));
    assert!(moved, "{}", story(&world));
    assert_eq!(world.serving_at(3), None, "{}", story(&world));
    world.run_for(1000 * MS);
    world.heal();
    settle(&mut world, 8000 * MS);
}

#[test]
fn what_is_written_beside_a_cut_off_primary_is_counted_by_the_monitor_that_decided() {
    for seed in 0..10 {
        let mut world = panel_world(seed, None);
        // Monitor 0 and sidecar 3 are with the old primary.
        world.monitors[0].authority_cut = true;
        world.monitors[3].authority_cut = true;
        let cuts = [(1, 0), (2, 0), (4, 0), (0, 1), (0, 2), (3, 1), (3, 2)];
        world.monitor_cuts.extend(cuts);
        world.node_cuts.extend([(0, 1), (0, 2)]);
        let moved = world.run_while(6000 * MS, |w| w.serving_at(4).is_none_or(|n| n == 0));
        assert!(moved, "{}", story(&world));
        world.run_for(500 * MS);
        world.heal();
        settle(&mut world, 8000 * MS);
        let counted = matches!(world.amended[..], [BytesLost::Exactly(bytes)] if bytes > 0);
        assert!(counted, "{:?}\n{}", world.amended, story(&world));
    }
}

// ---- chaos ----

/// One fault or repair, chosen by weight.
fn disturb(world: &mut World, requests: &mut u64) {
    let roll = world.rng.below(100);
    let node = world.rng.below(world.nodes.len() as u64) as usize;
    let monitor = world.rng.below(world.monitors.len() as u64) as usize;
    let primary = world.serving().unwrap_or(node);
    let now = world.now;
    match roll {
        0..14 => world.kill(primary),
        14..20 => world.kill(node),
        20..42 => {
            let disk = match world.rng.below(6) {
                0 => Disk::Empty,
                1 => Disk::Data,
                _ => Disk::Saved,
            };
            let load = world.rng.below(3) * 200 * MS;
            if let Some(down) = world.nodes.iter().position(|n| !n.running) {
                let master = world.nodes[down].master;
                world.log(format!("node {down} restarts with {disk:?}"));
                world.nodes[down].restart(disk, master, load, now);
            }
        }
        42..50 => {
            let stopped = if world.rng.chance(60) { primary } else { node };
            world.stop(stopped);
        }
        50..60 => (0..world.nodes.len()).for_each(|n| world.cont(n)),
        60..65 => {
            world.log(format!("CUT monitor {monitor} from node {node}"));
            world.monitor_cuts.insert((monitor, node));
        }
        65..69 => {
            let other = (node + 1) % world.nodes.len();
            world.log(format!("CUT node {node} from node {other}"));
            world.node_cuts.insert((node.min(other), node.max(other)));
        }
        69..76 => {
            world.log("network healed".to_owned());
            world.mend();
        }
        76..79 if world.rng.chance(50) => {
            let cut = &mut world.monitors[monitor].authority_cut;
            *cut = !*cut;
        }
        76..79 => world.authority_up = !world.authority_up,
        79..84 => world.restart_monitor(monitor),
        84..86 => {
            let span = world.rng.below(4000) * MS;
            world.monitors[monitor].paused_until = now + span;
            world.log(format!("monitor {monitor} is paused for {} ms", span / MS));
        }
        86..95 => {
            *requests += 1;
            let to = world.rng.chance(50).then(|| node_id(node));
            world.deliver(
                monitor,
                Event::SwitchoverRequested {
                    request: *requests,
                    to,
                },
            );
        }
        95..97 => world.nodes[node].stubborn = !world.nodes[node].stubborn,
        97 => world.fence_lands(node),
        _ => world.noise.lost_replies = world.rng.below(2) * 5,
    }
}

/// Where pointsman follows: somebody else changes roles, tidily or not.
fn interfere(world: &mut World) {
    let count = world.nodes.len();
    let to = world.rng.below(count as u64) as usize;
    let repoint = NodeOp::Repoint { to: node_id(to) };
    match world.rng.below(100) {
        // A failover, of which a replica or the old primary may hear nothing.
        0..60 => {
            world.operate(to, &NodeOp::Promote);
            for node in (0..count).filter(|node| *node != to) {
                if world.rng.chance(80) {
                    world.operate(node, &repoint);
                }
            }
        }
        60..80 => world.operate(to, &NodeOp::Promote),
        // A name stands for fewer nodes, or for all again.
        80..90 => {
            let named: Vec<usize> = (0..count).filter(|_| world.rng.chance(60)).collect();
            name(world, &named);
        }
        _ => {
            let node = (to + 1) % count;
            world.operate(node, &repoint);
        }
    }
}

/// From now on these are the nodes; nobody is all.
fn name(world: &mut World, nodes: &[usize]) {
    let all: Vec<usize> = (0..world.nodes.len()).collect();
    let nodes = if nodes.is_empty() { &all } else { nodes };
    let nodes: Vec<_> = nodes.iter().copied().map(node_id).collect();
    world.log(format!("the nodes are {nodes:?}"));
    for monitor in 0..world.monitors.len() {
        let nodes = nodes.clone();
        world.deliver(monitor, Event::Members { nodes });
    }
}

/// Somebody else ends what was begun: the node with the most data is everybody's primary.
fn tidy_up(world: &mut World) {
    let Some(best) = (0..world.nodes.len()).max_by_key(|n| world.nodes[*n].log.len()) else {
        return;
    };
    for _ in 0..3 {
        world.operate(best, &NodeOp::Promote);
        for node in (0..world.nodes.len()).filter(|node| *node != best) {
            world.operate(node, &NodeOp::Repoint { to: node_id(best) });
        }
        world.run_for(1000 * MS);
    }
}

/// Runs one seed; `Err` with the step and the reason.
fn run_seed(seed: u64, steps: u64, tracing: bool) -> Result<World, Failure> {
    let mut chooser = Rng(seed ^ 0xC0FF_EE00);
    let lease = chooser.chance(30).then_some(Duration::from_secs(2));
    let (monitors, authority) = match chooser.below(100) {
        0..35 => (2 + seed as usize % 2, shared(lease)),
        35..55 => (1 + seed as usize % 2, Authority::Follows),
        _ => (1, Authority::Decides),
    };
    let mut world = World::new(seed, 3, monitors, authority.clone(), Policy::default());
    world.tracing = tracing;
    world.noise.duplicates = chooser.below(3) * 5;
    world.noise.lost_replies = chooser.below(2) * 4;
    world.noise.lost_swaps = chooser.below(2) * 10;
    world.noise.slow_workers = chooser.below(2) * 10;
    world.latency = [MS / 10, MS / 2, 2 * MS][chooser.below(3) as usize];
    if chooser.chance(15) {
        world.nodes[2].priority = 0;
    }
    if matches!(authority, Authority::Shares(_)) {
        world.add_sidecars(chooser.below(3) as usize);
        world.noise.lost_watches = chooser.below(3) * 30;
        world.noise.slow_store = chooser.below(2) * 100 * MS;
    }
    let mut requests = 0;
    for step in 0..steps {
        let span = match world.rng.below(4) {
            0 => world.rng.below(5 * MS),
            1 => world.rng.below(60 * MS),
            2 => world.rng.below(400 * MS),
            _ => world.rng.below(2000 * MS),
        };
        world.run_for(span);
        if let Some(why) = world.violation.clone() {
            return Err(Box::new((world, step, why)));
        }
        disturb(&mut world, &mut requests);
        if authority == Authority::Follows && world.rng.chance(50) {
            interfere(&mut world);
        }
    }
    world.heal();
    world.run_for(2500 * MS);
    if authority == Authority::Follows {
        name(&mut world, &[]);
        tidy_up(&mut world);
    }
    if !world.run_while(40_000 * MS, |w| w.is_settled().is_err()) {
        let why = world.violation.clone().or(world.is_settled().err());
        return Err(Box::new((world, steps, why.unwrap_or_default())));
    }
    let unanswered = (1..=requests)
        .filter(|r| !world.answered_requests.contains(r))
        .count() as u64;
    // A monitor that ended took its requests with it.
    let lives: u64 = world.monitors.iter().map(|m| u64::from(m.life)).sum();
    if unanswered > 0 && lives == 0 {
        return Err(Box::new((
            world,
            steps,
            format!("{unanswered} switchover requests were not answered"),
        )));
    }
    Ok(world)
}

#[test]
fn chaos() {
    seeds::run_all(1000, run_seed, story);
}
