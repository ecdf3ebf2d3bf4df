//! The pure core where somebody else decides: operators' hands in every order, old primaries that return,
//! and a start in the middle of it all. History decides, never who answers first.

mod failover_world;

use std::time::Duration;

use failover_world::world::{MS, World, story};
use failover_world::{Disk, ModelNode, node_id};
use pointsman::failover::{
    Action, Authority, Event, Machine, NodeOp, Observation, Policy, ProbeError,
};
use pointsman::topology::{Gate, NodeId, Timestamp};

fn world(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, nodes, 1, Authority::Follows, Policy::default());
    assert!(
        world.run_while(1000 * MS, |w| w.serving().is_none()),
        "{}",
        story(&world)
    );
    world.run_for(300 * MS);
    world
}

fn promote(world: &mut World, node: usize) {
    world.operate(node, &NodeOp::Promote);
}

fn repoint(world: &mut World, node: usize, to: usize) {
    world.operate(node, &NodeOp::Repoint { to: node_id(to) });
}

fn restart(world: &mut World, node: usize, disk: Disk) {
    let now = world.now;
    world.nodes[node].restart(disk, None, 0, now);
}

/// Runs until `node` serves; the time that took.
fn until_serving(world: &mut World, node: usize, limit: u64) -> u64 {
    let began = world.now;
    let serves = world.run_while(limit, |w| w.serving() != Some(node));
    assert!(serves, "{}", story(world));
    world.now - began
}

/// Lets time pass in which `node` serves, all the time.
fn goes_on_serving(world: &mut World, node: usize, span: u64) {
    let moved = world.run_while(span, |w| w.serving() == Some(node));
    assert!(!moved, "{:?} serves\n{}", world.serving(), story(world));
    assert!(world.violation.is_none(), "{}", story(world));
}

/// Lets time pass in which nobody serves any more.
fn nobody_serves(world: &mut World, span: u64) {
    let noticed = world.run_while(100 * MS, |w| w.serving().is_some());
    assert!(noticed, "{}", story(world));
    let opened = world.run_while(span, |w| w.serving().is_none());
    assert!(!opened, "{:?} serves\n{}", world.serving(), story(world));
    assert!(world.violation.is_none(), "{}", story(world));
}

fn undecided(world: &World) -> String {
    let status = world.monitors[0].machine.status(Timestamp::default());
    status.undecided.unwrap_or_default()
}

fn told(world: &World, text: &str) -> usize {
    let is = |line: &&String| line.contains("Emit") && line.contains(text);
    world.trace.iter().filter(is).count()
}

/// One thing that a hand does.
#[derive(Clone, Copy, Debug)]
enum Hand {
    Promote,
    RepointSibling,
    DemoteOld,
    KillOld,
}

const ORDERS: &[[Hand; 3]] = &[
    [Hand::Promote, Hand::RepointSibling, Hand::DemoteOld],
    [Hand::Promote, Hand::RepointSibling, Hand::KillOld],
    [Hand::Promote, Hand::DemoteOld, Hand::RepointSibling],
    [Hand::Promote, Hand::KillOld, Hand::RepointSibling],
    [Hand::RepointSibling, Hand::Promote, Hand::DemoteOld],
    [Hand::RepointSibling, Hand::Promote, Hand::KillOld],
    [Hand::RepointSibling, Hand::DemoteOld, Hand::Promote],
    [Hand::RepointSibling, Hand::KillOld, Hand::Promote],
    [Hand::DemoteOld, Hand::Promote, Hand::RepointSibling],
    [Hand::DemoteOld, Hand::RepointSibling, Hand::Promote],
    [Hand::KillOld, Hand::Promote, Hand::RepointSibling],
    [Hand::KillOld, Hand::RepointSibling, Hand::Promote],
];

#[test]
fn the_order_of_an_operators_acts_and_of_the_answers_changes_nothing() {
    for order in ORDERS {
        for seed in 0..40 {
            let mut world = world(seed, 3);
            let mut moves = 0;
            let mut serving = world.serving();
            for hand in order {
                let pause = match world.rng.below(3) {
                    0 => 0,
                    1 => world.rng.below(30 * MS),
                    _ => world.rng.below(3000 * MS),
                };
                let end = world.now + pause;
                while world.now < end {
                    world.run_for(MS.min(end - world.now));
                    if let Some(now) = world.serving().filter(|now| Some(*now) != serving) {
                        (moves, serving) = (moves + 1, Some(now));
                    }
                }
                match hand {
                    Hand::Promote => promote(&mut world, 1),
                    Hand::RepointSibling => repoint(&mut world, 2, 1),
                    Hand::DemoteOld => repoint(&mut world, 0, 1),
                    Hand::KillOld => world.kill(0),
                }
            }
            let took = until_serving(&mut world, 1, 5000 * MS);
            assert!(took < 150 * MS, "{order:?} {seed}: {} ms", took / MS);
            goes_on_serving(&mut world, 1, 2000 * MS);
            let moved = moves + u32::from(serving != Some(1));
            assert_eq!(moved, 1, "{order:?} {seed}\n{}", story(&world));
        }
    }
}

#[test]
fn in_a_pair_a_promotion_is_a_move_and_the_old_one_is_the_past() {
    let mut world = world(1, 2);
    promote(&mut world, 1);
    let took = until_serving(&mut world, 1, 1000 * MS);
    assert!(took < 120 * MS, "{} ms\n{}", took / MS, story(&world));
    goes_on_serving(&mut world, 1, 30_000 * MS);
    let why = undecided(&world);
    assert!(
        why.contains("node:7000 (no replica, an earlier part"),
        "{why}"
    );
    assert_eq!(told(&world, "other primaries"), 1);
    // Whatever it comes back as.
    for disk in [Disk::Saved, Disk::Data, Disk::Empty] {
        world.kill(0);
        world.run_for(500 * MS);
        restart(&mut world, 0, disk);
        goes_on_serving(&mut world, 1, 15_000 * MS);
    }
}

#[test]
fn a_move_closes_the_gate_and_waits_for_what_is_on_its_way() {
    let mut world = world(1, 2);
    promote(&mut world, 1);
    until_serving(&mut world, 1, 1000 * MS);
    let [.., (closed, _, Gate::Closed), (opened, _, Gate::Open)] = world.gates[..] else {
        panic!("{:?}", world.gates);
    };
    assert!(
        opened > closed && opened - closed < 5 * MS,
        "{}",
        story(&world)
    );
    let report = world.last_report().expect("a report");
    assert_eq!(report.phases.first().map(|p| &*p.phase), Some("drain"));
    assert!(report.pause > Duration::ZERO);
}

#[test]
fn a_worker_that_never_obeys_delays_the_move_for_the_drain_time_only() {
    let mut world = world(1, 2);
    world.noise.slow_workers = 100;
    promote(&mut world, 1);
    let took = until_serving(&mut world, 1, 2000 * MS);
    assert!((200 * MS..350 * MS).contains(&took), "{} ms", took / MS);
}

#[test]
fn a_detached_copy_is_no_move_while_the_primary_has_replicas() {
    let mut world = world(1, 3);
    promote(&mut world, 1);
    goes_on_serving(&mut world, 0, 20_000 * MS);
    let why = undecided(&world);
    assert!(
        why.contains("node:7001 (no replica, left its history)"),
        "{why}"
    );
    assert_eq!(told(&world, "other primaries"), 1);
    // The primary's last replica ends: the copy is as old as it was.
    world.kill(2);
    goes_on_serving(&mut world, 0, 20_000 * MS);
    // And it stays a copy while a node holds what was followed.
    restart_replica(&mut world, 2, 0);
    world.run_for(3000 * MS);
    world.kill(0);
    nobody_serves(&mut world, 20_000 * MS);
    assert!(
        undecided(&world).contains("node:7002 holds the data"),
        "{}",
        undecided(&world)
    );
    promote(&mut world, 2);
    until_serving(&mut world, 2, 300 * MS);
}

#[test]
fn a_copy_with_a_replica_of_its_own_is_a_copy() {
    let mut world = world(1, 4);
    promote(&mut world, 1);
    repoint(&mut world, 3, 1);
    // As many replicas as the followed one: that was a move.
    until_serving(&mut world, 1, 3000 * MS);
    // The other way round: the one that is followed has more, for long, and then loses all of them.
    let mut world = self::world(1, 5);
    promote(&mut world, 1);
    goes_on_serving(&mut world, 0, 12_000 * MS);
    repoint(&mut world, 4, 1);
    goes_on_serving(&mut world, 0, 5000 * MS);
    world.kill(2);
    world.kill(3);
    goes_on_serving(&mut world, 0, 20_000 * MS);
}

#[test]
fn a_copy_that_was_there_at_the_start_is_no_news() {
    let mut world = world(1, 3);
    promote(&mut world, 1);
    world.run_for(1000 * MS);
    world.restart_monitor(0);
    until_serving(&mut world, 0, 1000 * MS);
    world.kill(2);
    goes_on_serving(&mut world, 0, 20_000 * MS);
}

fn restart_replica(world: &mut World, node: usize, of: usize) {
    let now = world.now;
    world.nodes[node].restart(Disk::Saved, Some(of), 0, now);
}

#[test]
fn an_operator_who_takes_half_an_hour_is_followed_all_the_same() {
    let mut world = world(1, 4);
    promote(&mut world, 1);
    goes_on_serving(&mut world, 0, 60_000 * MS);
    repoint(&mut world, 2, 1);
    goes_on_serving(&mut world, 0, 60_000 * MS);
    repoint(&mut world, 3, 1);
    until_serving(&mut world, 1, 3000 * MS);
    goes_on_serving(&mut world, 1, 20_000 * MS);
}

#[test]
fn a_restart_of_the_old_primary_does_not_undo_a_promotion() {
    for disk in [Disk::Saved, Disk::Data, Disk::Empty] {
        for first in [true, false] {
            let mut world = world(1, 2);
            world.kill(0);
            world.run_for(200 * MS);
            if first {
                restart(&mut world, 0, disk);
                world.run_for(100 * MS);
                promote(&mut world, 1);
            } else {
                promote(&mut world, 1);
                world.run_for(100 * MS);
                restart(&mut world, 0, disk);
            }
            until_serving(&mut world, 1, 300 * MS);
            goes_on_serving(&mut world, 1, 20_000 * MS);
        }
    }
}

#[test]
fn a_restart_of_the_primary_makes_no_old_copy_news() {
    for disk in [Disk::Saved, Disk::Data] {
        let mut world = world(1, 3);
        promote(&mut world, 1);
        goes_on_serving(&mut world, 0, 15_000 * MS);
        world.kill(2);
        world.run_for(1000 * MS);
        world.kill(0);
        restart(&mut world, 0, disk);
        until_serving(&mut world, 0, 300 * MS);
        goes_on_serving(&mut world, 0, 20_000 * MS);
    }
}

#[test]
fn an_old_primary_that_returns_empty_never_wins() {
    let mut world = world(1, 3);
    world.kill(0);
    world.run_for(300 * MS);
    promote(&mut world, 1);
    until_serving(&mut world, 1, 1000 * MS);
    // The other replica was never told, and copies the emptiness.
    restart(&mut world, 0, Disk::Empty);
    goes_on_serving(&mut world, 1, 20_000 * MS);
    assert_eq!(world.nodes[2].master, Some(0));
    assert!(undecided(&world).contains("node:7000 (1 replica, another history)"));
    // Not even when the one that is followed ends, as long as somebody holds its data.
    repoint(&mut world, 2, 1);
    world.run_for(3000 * MS);
    world.kill(1);
    nobody_serves(&mut world, 20_000 * MS);
}

#[test]
fn a_primary_that_restarts_empty_is_not_believed_before_somebody_decides() {
    let mut world = world(1, 3);
    world.kill(0);
    restart(&mut world, 0, Disk::Empty);
    nobody_serves(&mut world, 500 * MS);
    let why = undecided(&world);
    assert!(why.contains("node:7000 has restarted empty"), "{why}");
    promote(&mut world, 2);
    until_serving(&mut world, 2, 200 * MS);
    goes_on_serving(&mut world, 2, 10_000 * MS);
}

#[test]
fn an_empty_primary_whose_replicas_follow_it_is_what_there_is() {
    let mut world = world(1, 3);
    world.kill(0);
    restart(&mut world, 0, Disk::Empty);
    until_serving(&mut world, 0, 5000 * MS);
    assert!(world.violation.is_none(), "{}", story(&world));
}

/// Nothing passes between `those` and the rest of the world any more, for two seconds so far.
fn cut_off(world: &mut World, those: &[usize], rest: &[usize]) {
    for here in those {
        world.monitor_cuts.insert((0, *here));
        for there in rest {
            world.node_cuts.insert((*there.min(here), *there.max(here)));
        }
    }
    world.run_for(2000 * MS);
}

#[test]
fn a_primary_cut_off_with_replicas_of_its_own_is_the_past_when_it_returns() {
    let mut world = world(1, 5);
    cut_off(&mut world, &[0, 3, 4], &[1, 2]);
    assert_eq!(world.serving(), None);
    promote(&mut world, 1);
    repoint(&mut world, 2, 1);
    until_serving(&mut world, 1, 3000 * MS);
    world.run_for(2000 * MS);
    world.mend();
    goes_on_serving(&mut world, 1, 20_000 * MS);
    let why = undecided(&world);
    assert!(
        why.contains("node:7000 (2 replicas, an earlier part"),
        "{why}"
    );
    assert_eq!(told(&world, "other primaries"), 1);
}

#[test]
fn of_two_that_were_promoted_the_one_with_the_replicas_wins() {
    for seed in 0..20 {
        let mut world = world(seed, 4);
        world.kill(0);
        world.run_for(seed * 10 * MS);
        promote(&mut world, 1);
        world.run_for(seed % 7 * 20 * MS);
        promote(&mut world, 2);
        repoint(&mut world, 3, 2);
        until_serving(&mut world, 2, 3000 * MS);
        goes_on_serving(&mut world, 2, 5000 * MS);
    }
}

#[test]
fn of_two_that_were_promoted_without_replicas_the_first_stays() {
    let mut world = world(1, 3);
    world.kill(0);
    world.run_for(100 * MS);
    promote(&mut world, 1);
    until_serving(&mut world, 1, 300 * MS);
    promote(&mut world, 2);
    goes_on_serving(&mut world, 1, 20_000 * MS);
}

#[test]
fn the_past_with_its_replicas_is_what_there_is_when_nobody_else_is_left() {
    let mut world = world(1, 5);
    cut_off(&mut world, &[0, 3, 4], &[1, 2]);
    promote(&mut world, 1);
    repoint(&mut world, 2, 1);
    until_serving(&mut world, 1, 3000 * MS);
    world.mend();
    goes_on_serving(&mut world, 1, 3000 * MS);
    world.kill(2);
    world.kill(1);
    let took = until_serving(&mut world, 0, 3000 * MS);
    assert!(took < 300 * MS, "{} ms\n{}", took / MS, story(&world));
}

#[test]
fn a_stranger_is_believed_only_when_the_missing_had_time_to_return() {
    let mut world = world(1, 2);
    world.kill(0);
    promote(&mut world, 1);
    until_serving(&mut world, 1, 1000 * MS);
    restart(&mut world, 0, Disk::Data);
    world.run_for(500 * MS);
    world.kill(1);
    nobody_serves(&mut world, 2800 * MS);
    assert!(
        undecided(&world).contains("waiting for node:7001"),
        "{}",
        undecided(&world)
    );
    until_serving(&mut world, 0, 500 * MS);
}

// ---- the start ----

/// Every order of these.
fn orders(count: usize) -> Vec<Vec<usize>> {
    match count {
        0 => vec![Vec::new()],
        _ => orders(count - 1)
            .into_iter()
            .flat_map(|order| {
                (0..count).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, count - 1);
                    longer
                })
            })
            .collect(),
    }
}

/// Whom a monitor follows that starts now and hears the nodes in this order, a millisecond apart; and
/// why nobody.
fn found(nodes: &[ModelNode], order: &[usize], now: u64) -> Result<NodeId, String> {
    let members = (0..nodes.len()).map(node_id).collect();
    let mut machine = Machine::new("main", "me", members, Policy::default(), Authority::Follows);
    let at = |ms: u64| Timestamp::from_start(Duration::from_millis(ms));
    let mut actions = machine.handle(Event::Tick, at(0));
    for (ms, node) in (1..).zip(order) {
        let heard = match nodes[*node].running {
            true => Observation::Info(Box::new(nodes[*node].info(now, nodes))),
            false => Observation::Failed(ProbeError::Refused),
        };
        let event = Event::Observed {
            node: node_id(*node),
            observation: heard,
        };
        actions.extend(machine.handle(event, at(ms)));
    }
    let open = actions.iter().rev().find_map(|action| match action {
        Action::Publish { view, .. } if view.gate == Gate::Open => view.primary.clone(),
        _ => None,
    });
    let published = |a: &&Action| matches!(a, Action::Publish { .. });
    assert!(
        actions.iter().filter(published).count() <= 1,
        "{actions:#?}"
    );
    let why = machine.status(at(100)).undecided.unwrap_or_default();
    open.map(|primary| primary.node).ok_or(why)
}

#[test]
fn at_the_start_everybody_is_heard_first_in_every_order() {
    // Promoted by hand; a sibling and the old primary still as they were.
    let mut moved = world(1, 4);
    promote(&mut moved, 1);
    repoint(&mut moved, 2, 1);
    moved.run_for(1000 * MS);
    // One more has replicas: the old one.
    promote(&mut moved, 3);
    moved.run_for(1000 * MS);
    // An old primary that came back without replicas.
    let mut past = world(2, 3);
    past.kill(0);
    promote(&mut past, 1);
    repoint(&mut past, 2, 1);
    past.run_for(2000 * MS);
    restart(&mut past, 0, Disk::Saved);
    past.run_for(500 * MS);
    // A pair, the old one still there.
    let mut pair = world(3, 2);
    promote(&mut pair, 1);
    pair.run_for(3000 * MS);
    for (world, expected) in [(&moved, 1), (&past, 1), (&pair, 1)] {
        for order in orders(world.nodes.len()) {
            let found = found(&world.nodes, &order, world.now);
            assert_eq!(found, Ok(node_id(expected)), "{order:?}\n{}", story(world));
        }
    }
}

#[test]
fn at_the_start_nobody_is_guessed() {
    // Two primaries that have nothing to do with each other.
    let mut strangers = world(1, 2);
    strangers.kill(1);
    restart(&mut strangers, 1, Disk::Data);
    // An empty primary, and a replica that holds data and does not follow it.
    let mut empty = world(2, 2);
    empty.kill(0);
    restart(&mut empty, 0, Disk::Empty);
    for (world, expected) in [
        (&strangers, "one of them has to go"),
        (&empty, "holds data"),
    ] {
        for order in orders(2) {
            let why = found(&world.nodes, &order, world.now).expect_err("nobody");
            assert!(why.contains(expected), "{why}\n{}", story(world));
        }
    }
}

#[test]
fn a_node_that_neither_answers_nor_fails_is_waited_for_a_second_only() {
    let nodes = ModelNode::cluster(3);
    let members = (0..3).map(node_id).collect();
    let mut machine = Machine::new("main", "me", members, Policy::default(), Authority::Follows);
    let opened = |actions: &[Action]| {
        let open =
            |a: &Action| matches!(a, Action::Publish { view, .. } if view.gate == Gate::Open);
        actions.iter().any(open)
    };
    machine.handle(Event::Tick, Timestamp::default());
    for ms in (0..2000).step_by(10) {
        let now = Timestamp::from_start(Duration::from_millis(ms));
        let event = Event::Observed {
            node: node_id(0),
            observation: Observation::Info(Box::new(nodes[0].info(ms * MS, &nodes))),
        };
        if opened(&machine.handle(event, now)) {
            assert!((1000..1100).contains(&ms), "{ms} ms");
            return;
        }
        assert!(
            machine
                .status(now)
                .undecided
                .is_some_and(|why| why.contains("node:7001, node:7002"))
        );
    }
    panic!("never opened");
}

// ---- a set that changes ----

fn members(world: &mut World, nodes: &[usize]) {
    let nodes = nodes.iter().copied().map(node_id).collect();
    world.deliver(0, Event::Members { nodes });
    world.run_for(MS);
}

#[test]
fn a_primary_that_is_taken_out_of_the_set_serves_until_the_new_one_was_heard() {
    for seed in 0..20 {
        let mut world = world(seed, 3);
        members(&mut world, &[0]);
        promote(&mut world, 1);
        goes_on_serving(&mut world, 0, 3000 * MS);
        members(&mut world, &[1]);
        let gates = world.gates.len();
        until_serving(&mut world, 1, 300 * MS);
        let (closed, opened) = (world.gates[gates].0, world.gates[gates + 1].0);
        assert!(opened - closed < 5 * MS, "{}", story(&world));
        // The old one lives, says what it wants, and is nobody.
        goes_on_serving(&mut world, 1, 3000 * MS);
    }
}

#[test]
fn a_new_set_without_a_primary_holds_and_says_why() {
    let mut world = world(1, 3);
    members(&mut world, &[0]);
    members(&mut world, &[1, 2]);
    let held = world.run_while(300 * MS, |w| w.serving().is_some());
    assert!(held, "{}", story(&world));
    let why = undecided(&world);
    assert!(
        why.contains("node:7000 is not a node of this backend any more"),
        "{why}"
    );
    assert!(why.contains("node:7001 is a replica"), "{why}");
    nobody_serves(&mut world, 3000 * MS);
    promote(&mut world, 2);
    until_serving(&mut world, 2, 300 * MS);
}

#[test]
fn a_new_set_that_does_not_answer_ends_the_old_one_after_a_second() {
    let nodes = ModelNode::cluster(1);
    let members = vec![node_id(0)];
    let mut machine = Machine::new("main", "me", members, Policy::default(), Authority::Follows);
    let at = |ms: u64| Timestamp::from_start(Duration::from_millis(ms));
    machine.handle(Event::Tick, at(0));
    let event = Event::Observed {
        node: node_id(0),
        observation: Observation::Info(Box::new(nodes[0].info(0, &nodes))),
    };
    machine.handle(event, at(1));
    assert_eq!(machine.status(at(1)).gate, Gate::Open);
    let event = Event::Members {
        nodes: vec![node_id(1)],
    };
    machine.handle(event, at(1));
    let closed = (1..2000).step_by(10).find(|ms| {
        machine.handle(Event::Tick, at(*ms));
        machine.status(at(*ms)).gate == Gate::Closed
    });
    assert!(
        closed.is_some_and(|ms| (1000..1100).contains(&ms)),
        "{closed:?}"
    );
}

#[test]
fn one_process_at_two_addresses_is_no_second_primary() {
    let world = world(1, 2);
    let members = vec![node_id(0), node_id(1), node_id(2)];
    let mut machine = Machine::new("main", "me", members, Policy::default(), Authority::Follows);
    let mut nodes = world.nodes.clone();
    let mut now = Timestamp::default();
    let mut moves = Vec::new();
    machine.handle(Event::Tick, now);
    // Node 1 answers at a second address, which is node 2 here; it is promoted, and much later cut off at
    // the first one.
    for step in 0..1000 {
        if step == 10 {
            let done = nodes[1].execute(&NodeOp::Promote, failover_world::index_of, 0);
            assert!(matches!(done, pointsman::failover::NodeOpOutcome::Done(_)));
            nodes[0].kill();
        }
        for (address, node) in [(0, 0), (1, 1), (2, 1)] {
            now = now + Duration::from_millis(10);
            let cut = address == 1 && step >= 900;
            let observation = match nodes[node].running && !cut {
                true => Observation::Info(Box::new(nodes[node].info(0, &nodes))),
                false => Observation::Failed(ProbeError::Refused),
            };
            let node = node_id(address);
            let mut actions = machine.handle(Event::Observed { node, observation }, now);
            while let Some(action) = actions.pop() {
                match action {
                    Action::Announce { to, .. } => moves.push((step, to)),
                    Action::Publish {
                        op,
                        await_obeyed: true,
                        ..
                    } => actions.extend(machine.handle(Event::Obeyed { op }, now)),
                    _ => {}
                }
            }
        }
        let undecided = machine.status(now).undecided.unwrap_or_default();
        assert!(!undecided.contains("other primaries"), "{undecided}");
    }
    let [.., (before, first), (after, second)] = &moves[..] else {
        panic!("{moves:?}");
    };
    assert!(
        (10..13).contains(before) && (900..903).contains(after),
        "{moves:?}"
    );
    assert_eq!((first, second), (&node_id(1), &node_id(2)), "{moves:?}");
}

#[test]
fn a_lost_connection_is_no_reason_to_follow_a_copy_that_was_detached_just_now() {
    let mut world = world(1, 3);
    promote(&mut world, 1);
    goes_on_serving(&mut world, 0, 2000 * MS);
    for _ in 0..20 {
        let node = node_id(0);
        let kind = pointsman::topology::EvidenceKind::ConnectionLost;
        world.deliver(0, Event::Evidence { node, kind });
        until_serving(&mut world, 0, 50 * MS);
        world.run_for(50 * MS);
    }
    // Nor is a moment of silence.
    world.stop(0);
    goes_on_serving(&mut world, 0, 300 * MS);
    world.cont(0);
    goes_on_serving(&mut world, 0, 1000 * MS);
}
