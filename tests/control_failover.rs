//! Whole failovers of real servers by the control plane alone: core, driver, probes, operations,
//! record. The data plane is played by a task that obeys at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pointsman::clock;
use pointsman::control::{
    AuthoritySettings, BackendControl, Control, ControlHandle, PublisherSettings, SourceSettings,
};
use pointsman::failover::Policy;
use pointsman::lab::{Cluster, ClusterOptions, Data, Server, until};
use pointsman::resp::Credentials;
use pointsman::topology::{
    EvidenceSender, FailoverReport, Fault, Gate, NodeId, Outcome, RequestCounts, Timestamp,
    Topology, TopologyReader, channel, evidence_channel,
};

const LIMIT: Duration = Duration::from_secs(15);

/// The control plane of one cluster, and who plays the worker.
struct Plane {
    control: Control,
    reader: TopologyReader,
    worker: tokio::task::JoinHandle<()>,
    _evidence: EvidenceSender,
}

impl Plane {
    fn start(cluster: &Cluster, state: &Path, publishers: Vec<PublisherSettings>) -> Plane {
        let nodes = cluster.nodes().iter().map(|node| node.id()).collect();
        Plane::of(cluster, nodes, state, publishers)
    }

    /// With only some of the cluster's nodes in the configuration.
    fn of(
        cluster: &Cluster,
        nodes: Vec<NodeId>,
        state: &Path,
        publishers: Vec<PublisherSettings>,
    ) -> Plane {
        let (writer, reader) = channel(Topology::unknown("main"), 1);
        let (evidence, evidence_end) = evidence_channel(64);
        let control = Control::start(vec![BackendControl {
            backend: "main".into(),
            monitor: format!("test-{}-{}", std::process::id(), state.display()).into(),
            source: SourceSettings::Static { nodes },
            credentials: cluster
                .password()
                .map(|password| Credentials::new(None, password.as_bytes().to_vec())),
            policy: Policy::default(),
            authority: AuthoritySettings::Embedded {
                state: state.to_owned(),
            },
            publishers,
            topology: writer,
            cluster: None,
            evidence: evidence_end,
            requests: Box::new(RequestCounts::default),
        }])
        .expect("started");
        let mut watched = reader.clone();
        let worker = tokio::spawn(async move {
            watched.obey(0, watched.current().generation);
            while let Ok(now) = watched.changed().await {
                watched.obey(0, now.generation);
            }
        });
        Plane {
            control,
            reader,
            worker,
            _evidence: evidence,
        }
    }

    fn handle(&self) -> &ControlHandle {
        &self.control.handles()[0]
    }

    /// Waits until the published topology is as `wanted`.
    async fn until(&self, what: &str, wanted: impl Fn(&Topology) -> bool) -> Arc<Topology> {
        let mut reader = self.reader.clone();
        let look = async {
            loop {
                let now = reader.current();
                if wanted(&now) {
                    return now;
                }
                reader.changed().await.expect("the control plane runs");
            }
        };
        match tokio::time::timeout(LIMIT, look).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{what}: {:?}\n{:?}\n{:?}",
                self.reader.current(),
                self.handle().status().await,
                self.handle().reports()
            ),
        }
    }

    async fn open(&self) -> Arc<Topology> {
        self.until("open", |t| t.gate == Gate::Open && t.primary.is_some())
            .await
    }

    async fn open_after(&self, epoch: u64) -> Arc<Topology> {
        self.until("open in a later epoch", |t| {
            t.gate == Gate::Open && t.epoch.0 > epoch
        })
        .await
    }

    async fn stop(self) {
        self.control.stop().await;
        self.worker
            .await
            .expect("the worker ends with the topology");
    }
}

/// Prints where the time went.
fn show(what: &str, took: Duration, report: &FailoverReport) {
    println!(
        "{what}: gate open again after {took:?}, pause {:?}",
        report.pause
    );
    for (at, text) in &report.evidence {
        println!("   {:>9.3} {text}", at.as_millis() as f64);
    }
    let mut before = None;
    for phase in &report.phases {
        let since = before.map_or(Duration::ZERO, |before| phase.at - before);
        println!("   +{since:>12?} {}", phase.phase);
        before = Some(phase.at);
    }
}

/// Servers, and the control plane that watches them; the sentences are those of the end-to-end tests.
struct Scene {
    plane: Plane,
    cluster: Cluster,
    directory: tempfile::TempDir,
    /// Of the primary that was last waited for.
    epoch: u64,
}

impl Scene {
    /// One primary, two replicas, everything healthy.
    async fn start() -> Scene {
        Scene::with(ClusterOptions::default(), |_| Vec::new()).await
    }

    /// With these servers, and with publishers that may have files in a directory.
    async fn with(
        options: ClusterOptions,
        publishers: impl FnOnce(&Path) -> Vec<PublisherSettings>,
    ) -> Scene {
        let cluster = Cluster::start(options).await.expect("servers");
        let directory = tempfile::tempdir().expect("directory");
        let publishers = publishers(directory.path());
        let plane = Plane::start(&cluster, &directory.path().join("main.json"), publishers);
        let epoch = plane.open().await.epoch.0;
        plane.settled().await;
        Scene {
            plane,
            cluster,
            directory,
            epoch,
        }
    }

    fn node(&self, number: usize) -> &Server {
        self.cluster.node(number)
    }

    /// Waits until another primary serves; returns it with the report, which is shown.
    async fn failed_over(&mut self, what: &str, since: Timestamp) -> (&Server, FailoverReport) {
        let after = self.plane.open_after(self.epoch).await;
        let took = clock::now() - since;
        self.epoch = after.epoch.0;
        let report = self.plane.report().await;
        show(what, took, &report);
        let primary = after.primary.clone().expect("a primary").node;
        (self.cluster.find(&primary).expect("one of ours"), report)
    }

    async fn switchover(&self, to: &NodeId) -> FailoverReport {
        let report = self.plane.handle().switchover(Some(to.clone())).await;
        let report = report.expect("running");
        assert_eq!(report.outcome, Outcome::Done);
        report
    }

    async fn becomes_a_replica(&self, number: usize) {
        let follows = self.cluster.becomes_a_replica(number, LIMIT).await;
        follows.expect("demoted");
    }

    async fn end(self) {
        self.plane.stop().await;
    }
}

#[tokio::test]
async fn kill_9_is_a_short_pause() {
    let mut scene = Scene::start().await;
    let old = scene.node(0).id();
    let start = clock::now();
    scene.node(0).kill();
    let (primary, report) = scene.failed_over("kill -9", start).await;
    assert_ne!(primary.id(), old);
    assert!(primary.is_primary().await.expect("answers"));
    assert_eq!(report.outcome, Outcome::Done);
    assert_eq!(report.fault, Fault::Refused);
    assert!(report.pause < Duration::from_secs(1), "{report:?}");

    // The former primary returns and becomes a replica.
    scene.node(0).restart(Data::Kept).await.expect("starts");
    scene.becomes_a_replica(0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_former_primary_that_refuses_config_set_becomes_a_replica() {
    let rights = "user default on nopass ~* +@all -config";
    let options = ClusterOptions::default().node_line(0, rights);
    let mut scene = Scene::with(options, |_| Vec::new()).await;
    let start = clock::now();
    scene.node(0).kill();
    scene.failed_over("kill -9", start).await;
    scene.node(0).restart(Data::Kept).await.expect("starts");
    scene.becomes_a_replica(0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_switchover_closes_the_gate_for_a_moment() {
    let scene = Scene::start().await;
    for round in 0..4 {
        let target = scene.node(1 + round % 2).id();
        let start = clock::now();
        let report = scene.switchover(&target).await;
        show("switchover", clock::now() - start, &report);
        assert_eq!(report.to.as_ref(), Some(&target));
        assert!(
            report.pause < Duration::from_millis(300),
            "{:?}",
            report.pause
        );
        let now = scene.plane.open().await;
        assert_eq!(now.primary.as_ref().map(|p| &p.node), Some(&target));
        scene.cluster.in_sync(LIMIT).await.expect("in sync");
        scene.plane.settled().await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_hang_is_noticed_and_what_wakes_up_is_demoted() {
    let mut scene = Scene::start().await;
    let start = clock::now();
    scene.node(0).stop();
    let (_, report) = scene.failed_over("SIGSTOP", start).await;
    assert_eq!(report.fault, Fault::Silent);
    scene.node(0).cont();
    scene.becomes_a_replica(0).await;
    scene.end().await;
}

#[tokio::test]
async fn an_empty_restart_empties_nobody() {
    let mut scene = Scene::start().await;
    let filled = scene.node(0).cli(&["SET", "key", "value"]).await;
    filled.expect("written");
    scene.cluster.in_sync(LIMIT).await.expect("in sync");
    let start = clock::now();
    scene.node(0).restart_now(Data::Empty).expect("starts");
    let (primary, _) = scene.failed_over("empty restart", start).await;
    let keys = primary.cli(&["DBSIZE"]).await.expect("answers");
    assert_eq!(keys.number(), Some(1));
    scene.becomes_a_replica(0).await;
    scene.end().await;
}

#[tokio::test]
async fn only_one_of_two_processes_decides_and_the_other_takes_over_when_it_ends() {
    let cluster = Cluster::start(ClusterOptions::default())
        .await
        .expect("servers");
    let directory = tempfile::tempdir().expect("directory");
    let state = directory.path().join("main.json");
    let first = Plane::start(&cluster, &state, Vec::new());
    first.open().await;
    // The lock belongs to the open file, so two in one process are as two processes.
    let second = Plane::start(&cluster, &state, Vec::new());
    let waits = second
        .status_says("another pointsman (process")
        .await
        .undecided;
    println!("the second one: {waits:?}");
    first.stop().await;
    second.open().await;
    second.stop().await;
}

#[tokio::test]
async fn the_mark_of_a_monitor_elsewhere_stops_decisions_until_it_is_gone() {
    let cluster = Cluster::start(ClusterOptions::default())
        .await
        .expect("servers");
    let mut elsewhere = Vec::new();
    for node in cluster.nodes() {
        let mut client = node.client().await.expect("connected");
        let named = client.call(&["CLIENT", "SETNAME", "pointsman-monitor:elsewhere"]);
        named.await.expect("named");
        elsewhere.push(client);
    }
    let directory = tempfile::tempdir().expect("directory");
    let plane = Plane::start(&cluster, &directory.path().join("main.json"), Vec::new());
    let refused = until("a refusal", LIMIT, async || {
        let report = plane.handle().switchover(None).await.expect("running");
        match report.outcome {
            Outcome::Aborted(why) if why.contains("elsewhere") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    refused.await.expect("refused");
    let look = until("a topology", LIMIT, async || {
        let primary = plane.reader.current().primary.clone();
        primary.ok_or_else(String::new)
    });
    let primary = look.await.expect("a primary").node;
    let epoch = plane.reader.current().epoch.0;
    cluster.find(&primary).expect("one of ours").kill();
    plane.status_says("another monitor (elsewhere)").await;
    drop(elsewhere);
    plane.open_after(epoch).await;
    plane.stop().await;
}

#[tokio::test]
async fn with_passwords_a_failover_takes_them_along() {
    let options = ClusterOptions {
        password: Some("geheim".into()),
        ..ClusterOptions::default()
    };
    let options = options.node_line(0, "masterauth \"\"");
    let mut scene = Scene::with(options, |_| Vec::new()).await;
    let start = clock::now();
    scene.node(0).kill();
    scene.failed_over("kill -9 with passwords", start).await;
    scene.node(0).restart(Data::Kept).await.expect("starts");
    scene.becomes_a_replica(0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_replica_that_nobody_configured_is_discovered_and_can_take_over() {
    let cluster = Cluster::start(ClusterOptions::default())
        .await
        .expect("servers");
    let directory = tempfile::tempdir().expect("directory");
    let state = directory.path().join("main.json");
    let known = vec![cluster.node(0).id()];
    let plane = Plane::of(&cluster, known, &state, Vec::new());
    plane.open().await;
    plane.status_says(&cluster.node(1).id().to_string()).await;
    plane.status_says(&cluster.node(2).id().to_string()).await;
    plane.settled().await;
    let report = plane.handle().switchover(Some(cluster.node(2).id())).await;
    assert_eq!(report.expect("running").outcome, Outcome::Done);
    plane.stop().await;
}

#[tokio::test]
async fn the_hook_is_called_as_sentinel_calls_it() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::with(ClusterOptions::default(), |directory| {
        let (program, said) = (directory.join("hook"), directory.join("said"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" $POINTSMAN_CAUSE $POINTSMAN_TO >> {}\n",
            said.display()
        );
        std::fs::write(&program, script).expect("written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("chmod");
        vec![PublisherSettings::Hook {
            program,
            timeout: Duration::from_secs(5),
        }]
    })
    .await;
    let said = scene.directory.path().join("said");
    let target = scene.node(2);
    scene.switchover(&target.id()).await;
    let wanted = format!(
        "main leader start 127.0.0.1 {} 127.0.0.1 {} switchover {}",
        scene.node(0).port(),
        target.port(),
        target.id()
    );
    let found = until("the hook", LIMIT, async || {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        // Once: the primary that was found at the start is no change.
        match text.lines().eq([&wanted]) {
            true => Ok(()),
            false => Err(text),
        }
    });
    found.await.expect("called");
    scene.end().await;
}

#[tokio::test]
async fn a_hook_that_fails_is_called_again_ever_more_slowly() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start(ClusterOptions::default())
        .await
        .expect("servers");
    let directory = tempfile::tempdir().expect("directory");
    let (program, said) = (directory.path().join("hook"), directory.path().join("said"));
    // Three calls fail.
    let script = format!(
        "#!/bin/sh\necho $POINTSMAN_EPOCH $(date +%s%N) >> {0}\n[ $(wc -l < {0}) -gt 3 ]\n",
        said.display()
    );
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let hook = PublisherSettings::Hook {
        program,
        timeout: Duration::from_secs(5),
    };
    let plane = Plane::start(&cluster, &directory.path().join("main.json"), vec![hook]);
    plane.open().await;
    // The epoch and the time of every call.
    let calls = || -> Vec<(u64, Duration)> {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        let call = |line: &str| {
            let (epoch, nanos) = line.split_once(' ')?;
            Some((
                epoch.parse().ok()?,
                Duration::from_nanos(nanos.parse().ok()?),
            ))
        };
        text.lines().filter_map(call).collect()
    };
    let called = async |times: usize| {
        until("the hook", LIMIT, async || match calls() {
            calls if calls.len() >= times => Ok(calls),
            calls => Err(format!("{calls:?}")),
        })
        .await
        .expect("called")
    };
    let mut epochs = Vec::new();
    for (target, times) in [(2, 4), (1, 5)] {
        plane.settled().await;
        let report = plane.handle().switchover(Some(cluster.node(target).id()));
        let report = report.await.expect("running");
        assert_eq!(report.outcome, Outcome::Done);
        epochs.push(report.epoch.0);
        called(times).await;
    }
    let calls = calls();
    let waits: Vec<Duration> = calls.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    for (wait, least) in waits.iter().zip([500, 1000, 2000]) {
        assert!(*wait >= Duration::from_millis(least), "{waits:?}");
    }
    let told: Vec<u64> = calls.iter().map(|(epoch, _)| *epoch).collect();
    let [first, second] = epochs[..] else {
        panic!("{epochs:?}");
    };
    assert_eq!(told, [first, first, first, first, second]);
    plane.stop().await;
}

impl Plane {
    /// Waits until every node is seen as healthy and is promotable or primary.
    async fn settled(&self) {
        let look = until("all nodes healthy", LIMIT, async || {
            let status = self.handle().status().await.expect("running");
            let ready = status.undecided.is_none()
                && status.nodes.len() > 1
                && status.nodes.iter().all(|node| {
                    node.health == pointsman::failover::Health::Up
                        && node.not_promotable.is_none()
                        && node.repointing.is_none()
                });
            match ready {
                true => Ok(()),
                false => Err(format!("{status:?}")),
            }
        });
        look.await.expect("settled");
    }

    /// The newest report; it is kept just after the gate was opened.
    async fn report(&self) -> FailoverReport {
        let look = until("a report", LIMIT, async || {
            self.handle().reports().pop().ok_or_else(String::new)
        });
        look.await.expect("a report")
    }

    async fn status_says(&self, text: &str) -> pointsman::failover::Status {
        until("the status", LIMIT, async || {
            let status = self.handle().status().await.expect("running");
            match format!("{status:?}").contains(text) {
                true => Ok(status),
                false => Err(format!("{status:?}")),
            }
        })
        .await
        .expect("said")
    }
}

#[tokio::test]
async fn a_fence_that_lay_in_the_socket_of_a_hung_primary_is_taken_off() {
    let cluster = Cluster::start(ClusterOptions {
        config: vec!["min-replicas-to-write 1".into()],
        ..ClusterOptions::default()
    })
    .await
    .expect("a cluster");
    let plane = Plane::start(&cluster, &cluster.directory().path().join("state"), vec![]);
    let before = plane.open().await;
    let primary = cluster.node(0);
    let mut late = primary.client().await.expect("connected");
    primary.stop();
    // What a fence sends to a node that demands one replica; executed when the process goes on.
    let fence = late.call(&["CONFIG", "SET", "min-replicas-to-write", "65536"]);
    let (fenced, ()) = tokio::join!(fence, async { primary.cont() });
    fenced.expect("set");
    until("its own value is back", LIMIT, async || {
        let asked = ["CONFIG", "GET", "min-replicas-to-write"];
        let answer = primary.cli(&asked).await.map_err(|e| e.to_string())?;
        let value = answer.items().and_then(|pair| pair.get(1)?.number());
        match value {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("taken off");
    primary
        .cli(&["SET", "key", "value"])
        .await
        .expect("written");
    assert_eq!(
        plane.open().await.epoch,
        before.epoch,
        "it served all the time"
    );
    plane.stop().await;
}
