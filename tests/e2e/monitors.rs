//! Three monitors that share a record in etcd, and two sidecars that carry requests: one process each.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use pointsman::clock;
use pointsman::control::StoreKind;
use pointsman::lab::{
    Cluster, ClusterOptions, Data, Engine, ErrorClass, Pointsman, PointsmanOptions, Traffic,
    TrafficOptions, Verdict, until,
};
use pointsman::topology::{FailoverReport, Fault, Gate, NodeId, Outcome};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{
    FAILOVER_WORDS, SOON, assert_no_acknowledged_write_lost, assert_the_promise_was_kept,
    becomes_true,
};

fn options(nodes: Vec<String>) -> PointsmanOptions {
    PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        // Two tenures may pass before a failover is at its end.
        requests: "hold_timeout = \"30s\"".to_owned(),
        ..PointsmanOptions::in_front_of(nodes)
    }
}

/// A far network: what comes back from `server` needs so long. Ends with the set.
async fn far_away(network: &mut JoinSet<()>, server: String, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    network.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else {
                continue;
            };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            // Either side may end it.
            connections.spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            });
            connections.spawn(async move {
                let mut bytes = vec![0; 65536];
                while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                    // The distance itself, not a wait for anything.
                    sleep(delay).await;
                    if to_client.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

struct Panel {
    monitors: Vec<Pointsman>,
    sidecars: Vec<Pointsman>,
    cluster: Cluster,
    engine: Engine,
}

impl Panel {
    async fn start() -> Option<Panel> {
        Panel::with("").await
    }

    /// With more keys of `authority`.
    async fn with(keys: &str) -> Option<Panel> {
        Panel::on(StoreKind::Etcd, 3, keys).await
    }

    /// `None`, and NOT RUN is said, when this machine has no such coordinator.
    async fn on(kind: StoreKind, members: usize, keys: &str) -> Option<Panel> {
        if let Some(what) = Engine::missing(kind) {
            eprintln!("NOT RUN: {what} is missing; scripts/setup.sh test gets it");
            return None;
        }
        let engine = Engine::start(kind, members).await.unwrap();
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let options = |nodes: Vec<String>, role: &str, domain: usize| PointsmanOptions {
            authority: Some(format!(
                "{{ kind = \"{}\", endpoints = {:?}, role = \"{role}\", domain = \"host{domain}\", \
                 monitors = 3{keys} }}",
                kind.name(),
                engine.endpoints(),
            )),
            ..options(nodes)
        };
        let monitors: Vec<Pointsman> = (0..3)
            .map(|domain| Pointsman::start(&options(cluster.addresses(), "both", domain)).unwrap())
            .collect();
        for monitor in &monitors {
            monitor.ready().await.unwrap();
        }
        // Now there is a record.
        let sidecars: Vec<Pointsman> = (3..5)
            .map(|domain| Pointsman::start(&options(Vec::new(), "proxy", domain)).unwrap())
            .collect();
        for sidecar in &sidecars {
            sidecar.ready().await.unwrap();
        }
        Some(Panel {
            monitors,
            sidecars,
            cluster,
            engine,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Pointsman> + Clone {
        self.monitors.iter().chain(&self.sidecars)
    }

    /// Waits until each of `pointsmen` sends requests to one and the same node, which is not `old`.
    async fn moved<'a>(
        &self,
        pointsmen: impl Iterator<Item = &'a Pointsman> + Clone,
        old: Option<&NodeId>,
    ) -> NodeId {
        until("one new primary everywhere", SOON, async || {
            let mut found: Option<NodeId> = None;
            for pointsman in pointsmen.clone() {
                let topology = pointsman.topology().await.map_err(|e| e.to_string())?;
                let primary = topology.primary.map(|p| p.node).ok_or("none")?;
                let agrees = found.as_ref().is_none_or(|other| *other == primary);
                if topology.gate != Gate::Open || Some(&primary) == old || !agrees {
                    return Err(format!("{primary}, gate {:?}", topology.gate));
                }
                found = Some(primary);
            }
            found.ok_or_else(|| "nobody".to_owned())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.monitors[0].log_tail()))
    }

    async fn primary(&self) -> NodeId {
        self.moved(self.all(), None).await
    }

    /// Clients of every kind through a sidecar.
    async fn traffic(&self, sidecar: usize) -> Traffic {
        let options = TrafficOptions::every_kind(self.sidecars[sidecar].address());
        let traffic = Traffic::start(options).await.unwrap();
        traffic.progress(50, SOON).await.unwrap();
        traffic
    }

    async fn judged(&self, traffic: Traffic) -> Verdict {
        traffic.progress(50, SOON).await.unwrap();
        let primary = self.primary().await;
        let node = self.cluster.find(&primary).expect("one of ours");
        let mut client = node.client().await.unwrap();
        pointsman::lab::judge(&traffic.stop(&mut client).await.unwrap())
    }

    /// On a busy machine a coordinator may answer late.
    fn assert_logs_are_clean(&self) {
        let late = ["the authority can not be", "the record is being read"];
        let expected: Vec<&str> = FAILOVER_WORDS.iter().chain(&late).copied().collect();
        for pointsman in self.all() {
            let lines = pointsman.unexpected_log_lines(&expected);
            assert!(lines.is_empty(), "{}", lines.join("\n"));
        }
    }
}

async fn a_killed_primary_on(kind: StoreKind, members: usize) {
    let Some(panel) = Panel::on(kind, members, "").await else {
        return;
    };
    let old = panel.primary().await;
    let traffic = panel.traffic(0).await;
    panel.cluster.find(&old).expect("one of ours").kill();
    panel.moved(panel.all(), Some(&old)).await;
    let verdict = panel.judged(traffic).await;
    println!("longest pause {:?}", verdict.total().longest_pause);
    assert_the_promise_was_kept(&verdict);
    let mut done = 0;
    for monitor in &panel.monitors {
        let reports = monitor.failovers().await.unwrap();
        done += reports
            .iter()
            .filter(|r| r.outcome == Outcome::Done && r.fault == Fault::Refused)
            .count();
    }
    assert_eq!(done, 1, "one monitor did it");
    panel.assert_logs_are_clean();
}

#[tokio::test]
async fn a_killed_primary_is_replaced_by_one_of_three_monitors() {
    a_killed_primary_on(StoreKind::Etcd, 3).await;
}

#[tokio::test]
async fn a_killed_primary_is_replaced_with_a_record_in_consul() {
    a_killed_primary_on(StoreKind::Consul, 1).await;
}

#[tokio::test]
async fn a_killed_primary_is_replaced_with_a_record_in_zookeeper() {
    a_killed_primary_on(StoreKind::ZooKeeper, 1).await;
}

#[tokio::test]
async fn a_switchover_loses_nothing_of_a_sidecars_clients() {
    let Some(panel) = Panel::start().await else {
        return;
    };
    let old = panel.primary().await;
    let traffic = panel.traffic(1).await;
    let refused = panel.sidecars[0].switchover(None).await.unwrap();
    let why = refused.expect_err("a sidecar decides nothing");
    assert!(why.contains("ask one that decides"), "{why}");
    let report = panel.monitors[2].switchover(None).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Done);
    println!("pause {:?}", report.pause);
    panel.moved(panel.all(), Some(&old)).await;
    let verdict = panel.judged(traffic).await;
    println!("longest pause {:?}", verdict.total().longest_pause);
    assert_the_promise_was_kept(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_nothing_was_interrupted(&verdict, &report);
    panel.assert_logs_are_clean();
}

/// What was on its way when the gates closed was answered, unless somebody was given up: on a machine so
/// busy that 250 ms are not enough.
fn assert_nothing_was_interrupted(verdict: &Verdict, report: &FailoverReport) {
    if report.pause >= Duration::from_millis(250) {
        return eprintln!("too busy to be judged: {:?}", report.evidence);
    }
    let unknown = verdict.total().errors.get(&ErrorClass::Unknown).copied();
    assert_eq!(unknown, None, "{verdict:?}");
}

/// It hears of everything 3 times 25 ms late: no fixed 20 ms would do.
#[tokio::test]
async fn a_switchover_waits_for_a_sidecar_that_is_slow_to_hear() {
    let Some(mut panel) = Panel::start().await else {
        return;
    };
    let mut network = JoinSet::new();
    let server = panel.engine.endpoints()[0].clone();
    let far = far_away(&mut network, server, Duration::from_millis(25)).await;
    let sidecar = PointsmanOptions {
        authority: Some(format!(
            "{{ kind = \"etcd\", endpoints = [\"{far}\"], role = \"proxy\" }}"
        )),
        ..options(Vec::new())
    };
    let sidecar = Pointsman::start(&sidecar).unwrap();
    sidecar.ready().await.unwrap();
    panel.sidecars.push(sidecar);
    let old = panel.primary().await;
    let traffic = panel.traffic(2).await;
    let report = panel.monitors[0].switchover(None).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Done);
    println!("pause {:?}", report.pause);
    panel.moved(panel.all(), Some(&old)).await;
    let verdict = panel.judged(traffic).await;
    assert_the_promise_was_kept(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_nothing_was_interrupted(&verdict, &report);
    panel.assert_logs_are_clean();
}

#[tokio::test]
async fn one_monitor_of_three_decides_nothing_and_says_what_is_missing() {
    let Some(panel) = Panel::start().await else {
        return;
    };
    let old = panel.primary().await;
    panel.monitors[1].kill();
    panel.monitors[2].stop();
    panel.cluster.find(&old).expect("one of ours").kill();
    becomes_true("the reason in the log", async || {
        let log = panel.monitors[0].log();
        let said = log.contains("2 of 3 failure domains must see the primary as lost");
        said.then_some(()).ok_or_else(|| log.clone())
    })
    .await;
    let topology = panel.sidecars[0].topology().await.unwrap();
    assert_eq!(topology.primary.map(|p| p.node), Some(old.clone()));
    // The stopped one wakes up late; then there are two.
    panel.monitors[2].cont();
    let awake = [&panel.monitors[0], &panel.monitors[2]];
    let awake = awake.into_iter().chain(&panel.sidecars);
    panel.moved(awake, Some(&old)).await;
}

#[tokio::test]
async fn a_failover_that_its_monitor_left_half_done_is_ended_by_another() {
    let Some(panel) = Panel::start().await else {
        return;
    };
    for monitor in &panel.monitors {
        monitor.kill();
    }
    // Whichever of the two acts first ends itself, the other one goes on and ends itself too. The third
    // sleeps meanwhile.
    panel.monitors[0].restart_to_crash("after-claim").unwrap();
    panel.monitors[1].restart_to_crash("after-promote").unwrap();
    panel.monitors[2].restart().unwrap();
    for monitor in &panel.monitors {
        monitor.ready().await.unwrap();
    }
    panel.monitors[2].stop();
    let old = panel.moved(panel.sidecars.iter(), None).await;
    let traffic = panel.traffic(0).await;
    panel.cluster.find(&old).expect("one of ours").kill();
    for monitor in &panel.monitors[..2] {
        let status = monitor.ended().await.unwrap();
        assert_eq!(status.signal(), Some(6), "{status}");
    }
    panel.monitors[2].cont();
    let left = || panel.monitors[2..].iter().chain(&panel.sidecars);
    let primary = panel.moved(left(), Some(&old)).await;
    traffic.progress(50, SOON).await.unwrap();
    let node = panel.cluster.find(&primary).expect("one of ours");
    let verdict = pointsman::lab::judge(
        &traffic
            .stop(&mut node.client().await.unwrap())
            .await
            .unwrap(),
    );
    assert_the_promise_was_kept(&verdict);
}

/// Whichever of three servers hangs, its leader among them, the other two are enough.
#[tokio::test]
async fn a_failover_needs_no_more_than_two_servers_of_three() {
    let Some(panel) = Panel::start().await else {
        return;
    };
    let traffic = panel.traffic(0).await;
    for member in 0..3 {
        panel.cluster.in_sync(SOON).await.unwrap();
        let old = panel.primary().await;
        panel.engine.stop(member);
        let node = panel.cluster.find(&old).expect("one of ours");
        node.kill();
        panel.moved(panel.all(), Some(&old)).await;
        panel.engine.cont(member);
        node.restart_now(Data::Empty).unwrap();
    }
    assert_the_promise_was_kept(&panel.judged(traffic).await);
}

#[tokio::test]
async fn in_strict_mode_requests_wait_while_the_record_can_not_be_confirmed() {
    let Some(panel) = Panel::with(", view_lease = \"2s\"").await else {
        return;
    };
    let old = panel.primary().await;
    let traffic = panel.traffic(0).await;
    for member in 0..3 {
        panel.engine.stop(member);
    }
    for pointsman in panel.all() {
        becomes_true("a closed gate", async || {
            let topology = pointsman.topology().await.map_err(|e| e.to_string())?;
            match topology.gate {
                Gate::Closed => Ok(()),
                Gate::Open => Err("open".to_owned()),
            }
        })
        .await;
    }
    for member in 0..3 {
        panel.engine.cont(member);
    }
    assert_eq!(panel.primary().await, old);
    traffic.progress(50, SOON).await.unwrap();
    // And a killed primary is replaced, after the lease of whoever may not have heard of it.
    panel.cluster.find(&old).expect("one of ours").kill();
    panel.moved(panel.all(), Some(&old)).await;
    assert_the_promise_was_kept(&panel.judged(traffic).await);
}

#[tokio::test]
async fn in_strict_mode_a_failover_is_faster_than_the_lease_of_those_who_acknowledge() {
    let lease = Duration::from_secs(10);
    let Some(panel) = Panel::with(", view_lease = \"10s\"").await else {
        return;
    };
    let old = panel.primary().await;
    let traffic = panel.traffic(0).await;
    let began = clock::now();
    panel.cluster.find(&old).expect("one of ours").kill();
    panel.moved(panel.all(), Some(&old)).await;
    let took = clock::now() - began;
    println!("after {took:?}");
    assert!(took < lease, "{took:?}\n{}", panel.monitors[0].log_tail());
    assert_the_promise_was_kept(&panel.judged(traffic).await);
    // One that leaves in good order is waited for by nobody.
    panel.sidecars[0].ask_to_end();
    panel.sidecars[0].ended().await.unwrap();
    panel
        .cluster
        .find(&old)
        .expect("one of ours")
        .restart_now(Data::Empty)
        .unwrap();
    panel.cluster.in_sync(SOON).await.unwrap();
    let left = || panel.monitors.iter().chain(&panel.sidecars[1..]);
    let old = panel.moved(left(), None).await;
    let began = clock::now();
    panel.cluster.find(&old).expect("one of ours").kill();
    panel.moved(left(), Some(&old)).await;
    let took = clock::now() - began;
    assert!(took < lease, "{took:?}\n{}", panel.monitors[0].log_tail());
}

#[tokio::test]
async fn without_etcd_traffic_goes_on_and_a_failover_waits_for_it() {
    let Some(panel) = Panel::start().await else {
        return;
    };
    let old = panel.primary().await;
    let traffic = panel.traffic(0).await;
    for member in 0..3 {
        panel.engine.stop(member);
    }
    traffic.progress(200, SOON).await.unwrap();
    becomes_true("the reason in the log", async || {
        let said = |p: &Pointsman| p.log().contains("the authority can not be used");
        let all = panel.all().all(said);
        all.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(panel.primary().await, old);
    for member in 0..3 {
        panel.engine.cont(member);
    }
    panel.cluster.find(&old).expect("one of ours").kill();
    panel.moved(panel.all(), Some(&old)).await;
    assert_the_promise_was_kept(&panel.judged(traffic).await);
}
