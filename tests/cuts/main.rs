//! Several monitors and sidecars on hosts of their own, with a real etcd, and a network that is cut:
//! network namespaces, real nodes, a judge of what clients got. Needs root, etcd, `ip`, `iptables` and
//! `nsenter`; where it may not it says NOT RUN.

mod hosts;
#[path = "../support/namespace.rs"]
mod namespace;

use hosts::{EVERYBODY, Hosts, MONITORS, is_mine};
use pointsman::lab::{Kind, Traffic, Verdict};
use pointsman::topology::{Fault, Gate};
use rustix::process::Signal;

/// Kinds of which every single write can be found again.
const WRITERS: [Kind; 3] = [Kind::Setter, Kind::Counter, Kind::Appender];

fn written(traffic: &Traffic) -> u64 {
    WRITERS.iter().map(|kind| traffic.acknowledged(*kind)).sum()
}

/// No error that the promise forbids, nothing doubled, out of order or wrong.
fn assert_the_promise_was_kept(verdict: &Verdict) {
    assert_eq!(verdict.total().broken(), 0, "{verdict}");
    assert_eq!(verdict.forbidden_errors(), 0, "{verdict}");
}

fn assert_nothing_lost(verdict: &Verdict) {
    assert_the_promise_was_kept(verdict);
    assert_eq!(verdict.total().lost, 0, "{verdict}");
}

fn assert_no_error_at_all(verdict: &Verdict) {
    assert_nothing_lost(verdict);
    assert_eq!(verdict.total().all_errors(), 0, "{verdict}");
}

/// Host 1 is cut off from the others, which have another primary by now: clients on it, clients elsewhere,
/// and how much those on it had written before.
async fn cut_off(keys: &str) -> (Hosts, [Traffic; 2], u64) {
    let hosts = Hosts::start(keys).await;
    let beside = hosts.traffic("sidecar-1", &WRITERS).await;
    let healthy = hosts.traffic("sidecar-4", &Kind::ALL).await;
    let before = written(&beside);
    hosts.isolate(&[1]);
    let majority = ["monitor-2", "monitor-3", "sidecar-4"];
    hosts.moved(&majority, Some(1)).await;
    (hosts, [beside, healthy], before)
}

#[tokio::test]
async fn what_is_written_to_a_primary_that_was_cut_off_is_lost_and_counted() {
    if !is_mine("what_is_written_to_a_primary_that_was_cut_off_is_lost_and_counted") {
        return;
    }
    let (hosts, [beside, healthy], before) = cut_off("").await;
    hosts.progress(&healthy, 50).await;
    for name in ["monitor-1", "sidecar-1"] {
        hosts.says(name, "the authority can not be used").await;
    }
    let promoted = written(&beside);
    hosts.progress(&beside, 50).await;
    let alone = written(&beside) - promoted;
    hosts.heal();
    hosts.moved(&EVERYBODY, Some(1)).await;
    hosts.in_sync().await;
    let after = written(&beside);
    // The old primary was read when it took no more writes; by the monitor that decided, which puts it into
    // its report, unless that one could not read the record for a second more than another.
    let bytes = hosts.bytes_told().await;
    assert!(bytes > alone, "{bytes} bytes for {alone} writes");
    let done = hosts.done(&MONITORS).await;
    assert_eq!(done.len(), 1, "{done:#?}");
    assert_eq!(done[0].fault, Fault::Unacked);
    hosts.progress(&beside, 20).await;
    let verdict = hosts.judged(beside).await;
    assert_the_promise_was_kept(&verdict);
    let lost = verdict.total().lost;
    assert!(
        (alone..=after - before).contains(&lost),
        "{alone} {before} {after}\n{verdict}"
    );
    assert_nothing_lost(&hosts.judged(healthy).await);
}

#[tokio::test]
async fn in_strict_mode_nothing_is_written_to_two_primaries() {
    if !is_mine("in_strict_mode_nothing_is_written_to_two_primaries") {
        return;
    }
    let (hosts, [beside, healthy], before) = cut_off(", view_lease = \"1s\"").await;
    for name in ["monitor-1", "sidecar-1"] {
        assert_eq!(hosts.topology(name).await.unwrap().gate, Gate::Closed);
        hosts.says(name, "requests wait").await;
    }
    let closed = written(&beside);
    hosts.progress(&healthy, 100).await;
    assert_eq!(written(&beside), closed);
    hosts.heal();
    hosts.moved(&EVERYBODY, Some(1)).await;
    hosts.progress(&beside, 50).await;
    hosts.in_sync().await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 1);
    let verdict = hosts.judged(beside).await;
    assert_the_promise_was_kept(&verdict);
    // What the old primary acknowledged within the lease, and had nobody to replicate to.
    let (total, most) = (verdict.total(), closed - before);
    assert!(total.lost <= most, "at most {most}\n{verdict}");
    let stopped = total.pause_began;
    let verdict = hosts.judged(healthy).await;
    assert_nothing_lost(&verdict);
    let total = verdict.total();
    let began = total.pause_began + total.longest_pause;
    assert!(stopped < began, "{stopped:?} {began:?}\n{verdict}");
}

#[tokio::test]
async fn what_concerns_one_monitor_alone_or_only_the_record_moves_nothing() {
    if !is_mine("what_concerns_one_monitor_alone_or_only_the_record_moves_nothing") {
        return;
    }
    let mut hosts = Hosts::start("").await;
    hosts.bend_clock(2);
    hosts.moved(&EVERYBODY, None).await;
    let traffic = hosts.traffic("sidecar-4", &Kind::ALL).await;

    // One monitor is cut off from everything.
    hosts.isolate(&[3]);
    hosts
        .says("monitor-3", "the authority can not be used")
        .await;
    hosts.wall_clock("+1h");
    hosts.progress(&traffic, 50).await;
    hosts.heal();
    hosts.moved(&EVERYBODY, None).await;

    // And from every node but the one beside it, which would be there to be promoted.
    hosts.lose_nodes(3);
    let said = "2 of 3 failure domains must see the primary as lost; host3 does";
    hosts.says("monitor-3", said).await;
    hosts.wall_clock("-1h");
    hosts.progress(&traffic, 50).await;
    hosts.heal();
    hosts.moved(&EVERYBODY, None).await;

    // The record is deleted, as by a lease that ended.
    hosts.delete_record().await;
    hosts
        .becomes("a new record", async || hosts.record_serves().await)
        .await;
    let before = hosts.readings().await;
    hosts.progress(&traffic, 200).await;
    let readings = hosts.readings().await - before;
    assert!(readings < 200, "{readings} readings meanwhile");

    assert_eq!(hosts.moved(&EVERYBODY, None).await, 1);
    assert_eq!(hosts.done(&MONITORS).await, []);
    assert_no_error_at_all(&hosts.judged(traffic).await);
}

#[tokio::test]
async fn a_failover_that_etcd_delays_happens_once() {
    if !is_mine("a_failover_that_etcd_delays_happens_once") {
        return;
    }
    let mut hosts = Hosts::start("").await;
    let bent = hosts.bend_clock(2);
    hosts.moved(&EVERYBODY, None).await;
    let traffic = hosts.traffic("sidecar-4", &Kind::ALL).await;

    // Nobody reaches it, and a clock jumps.
    hosts.close_etcd();
    for name in EVERYBODY {
        hosts.says(name, "the authority can not be used").await;
    }
    hosts.progress(&traffic, 50).await;
    hosts.kill("redis-1");
    hosts.wall_clock("+1h");
    for name in MONITORS {
        hosts
            .says(name, "\"step\":\"looking at the primary\"")
            .await;
    }
    hosts.wall_clock("-1h");
    assert_eq!(hosts.done(&MONITORS).await, []);
    hosts.heal();
    let second = hosts.moved(&EVERYBODY, Some(1)).await;
    hosts.start_again("redis-1");
    hosts.in_sync().await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 1);

    // Its leader dies with the primary.
    let leader = format!("etcd-{}", hosts.leader().await.unwrap());
    let old = format!("redis-{second}");
    hosts.kill(&leader);
    hosts.kill(&old);
    let third = hosts.moved(&EVERYBODY, Some(second)).await;
    hosts.start_again(&leader);
    hosts.start_again(&old);
    hosts.in_sync().await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 2);

    // Both hang, and go on later.
    let leader = hosts
        .becomes("a leader", async || hosts.leader().await)
        .await;
    let (leader, old) = (format!("etcd-{leader}"), format!("redis-{third}"));
    hosts.signal(&leader, Signal::STOP);
    hosts.signal(&old, Signal::STOP);
    hosts.moved(&EVERYBODY, Some(third)).await;
    hosts.progress(&traffic, 50).await;
    hosts.signal(&old, Signal::CONT);
    hosts.signal(&leader, Signal::CONT);
    hosts.in_sync().await;
    hosts.progress(&traffic, 50).await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 3);
    assert!(!bent || hosts.saw_a_jump("monitor-2"));
    assert_the_promise_was_kept(&hosts.judged(traffic).await);
}

#[tokio::test]
async fn packets_lost_in_one_direction_move_the_primary_once() {
    if !is_mine("packets_lost_in_one_direction_move_the_primary_once") {
        return;
    }
    let hosts = Hosts::start("").await;
    let traffic = hosts.traffic("sidecar-4", &Kind::ALL).await;

    // The primary hears everybody, and nobody hears it: clients first, so that none gets an answer that
    // the replicas do not get.
    hosts.lose(&[1], &[4, 2, 3]);
    let second = hosts
        .moved(&["monitor-2", "monitor-3", "sidecar-4"], Some(1))
        .await;
    hosts.progress(&traffic, 200).await;
    hosts.heal();
    assert_eq!(hosts.moved(&EVERYBODY, Some(1)).await, second);
    hosts.in_sync().await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 1);

    // Everybody hears it, and it hears nobody: clients first, for the same reason.
    hosts.lose(&[4, 1, 2, 3], &[second]);
    let deaf = format!("monitor-{second}");
    let others: Vec<&str> = EVERYBODY.into_iter().filter(|name| *name != deaf).collect();
    let third = hosts.moved(&others, Some(second)).await;
    hosts.progress(&traffic, 200).await;
    hosts.heal();
    assert_eq!(hosts.moved(&EVERYBODY, Some(second)).await, third);
    hosts.in_sync().await;
    hosts.progress(&traffic, 50).await;
    assert_eq!(hosts.done(&MONITORS).await.len(), 2);
    assert_nothing_lost(&hosts.judged(traffic).await);
}

#[tokio::test]
async fn a_monitor_that_slept_through_its_own_failover_promotes_nobody() {
    if !is_mine("a_monitor_that_slept_through_its_own_failover_promotes_nobody") {
        return;
    }
    let mut hosts = Hosts::start("").await;
    for host in 1..=3 {
        hosts.kill(MONITORS[host - 1]);
        hosts.start_monitor(host, &[("POINTSMAN_STOP_AT", "before-promote")]);
    }
    hosts.moved(&EVERYBODY, None).await;
    let traffic = hosts.traffic("sidecar-4", &Kind::ALL).await;
    hosts.kill("redis-1");
    // Whoever acts stops where the promotion was decided, and nothing of it was sent.
    let sleeper = hosts.stopped(&MONITORS).await;
    let chosen = hosts.selected(sleeper);
    // The others take another one, and this one goes on as a replica.
    let unfit = ["CONFIG", "SET", "replica-priority", "0"];
    hosts.ask(chosen, &unfit).await.unwrap();
    for name in MONITORS.into_iter().filter(|name| *name != sleeper) {
        hosts.kill(name);
        hosts.start_again(name);
    }
    let awake: Vec<&str> = EVERYBODY
        .into_iter()
        .filter(|name| *name != sleeper)
        .collect();
    let second = hosts.moved(&awake, Some(1)).await;
    hosts.start_again("redis-1");
    hosts.in_sync().await;
    hosts.signal(sleeper, Signal::CONT);
    assert_eq!(hosts.moved(&EVERYBODY, None).await, second);
    hosts.progress(&traffic, 50).await;
    let log = hosts.log(sleeper) + &hosts.log(&format!("redis-{chosen}"));
    assert_eq!(hosts.promotions(chosen), 0, "second is {second}\n{log}");
    assert_eq!(hosts.promotions(second), 1);
    hosts.in_sync().await;
    assert_eq!(hosts.done(&[sleeper]).await, []);
    assert_the_promise_was_kept(&hosts.judged(traffic).await);
}
