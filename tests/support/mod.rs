//! Sentences for tests with real servers; the laboratory does the work.

pub mod bind;
pub mod disk;
pub mod namespace;
pub mod network;
pub mod programs;

use std::net::SocketAddr;
use std::time::Duration;

use pointsman::clock;
use pointsman::lab::{
    Client, ClusterOptions, Data, History, Kind, Persistence, Pointsman, Server, Shard,
    ShardOptions, Traffic, TrafficOptions, Value, Verdict, http, judge, until,
};
use pointsman::topology::{FailoverReport, NodeId, Timestamp};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// For what should take a moment.
pub const SOON: Duration = Duration::from_secs(20);
/// A sentinel that stood still for two seconds, as on a busy disk, rests for thirty (TILT) before it acts.
const REST: Duration = Duration::from_secs(60);

/// Log lines of level WARN that any failover makes, or the return of a node after it.
pub const FAILOVER_WORDS: &[&str] = &[
    "\"event\":\"+sdown\"",
    "\"event\":\"+odown\"",
    "\"event\":\"+switch-master\"",
    "\"event\":\"+failover",
    "\"event\":\"-failover",
    "\"event\":\"+try-failover\"",
    "\"event\":\"+reboot\"",
    "\"event\":\"+convert-to-slave\"",
    "\"event\":\"diverged\"",
    "which may hold newer data",
];

/// Servers, pointsman, traffic; and at the end the judgement of log and history.
pub struct Scene {
    pub shard: Shard,
    traffic: Option<Traffic>,
    /// Further texts that may stand in WARN lines.
    expected: Vec<String>,
    /// Reports already handed out.
    reports: usize,
}

impl Scene {
    /// One primary, two replicas, every setting at its default.
    pub async fn start() -> Scene {
        Scene::with(ShardOptions::default()).await
    }

    /// With these settings.
    pub async fn with(options: ShardOptions) -> Scene {
        let options = ShardOptions {
            program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
            ..options
        };
        Scene::of(Shard::start(options).await.unwrap())
    }

    /// With what runs already.
    pub fn of(shard: Shard) -> Scene {
        Scene {
            shard,
            traffic: None,
            expected: Vec::new(),
            reports: 0,
        }
    }

    /// With these servers.
    pub async fn with_cluster(cluster: ClusterOptions) -> Scene {
        Scene::with(ShardOptions {
            cluster,
            ..ShardOptions::default()
        })
        .await
    }

    /// The test expects log lines of level WARN with this text.
    pub fn expect_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Lets clients of every kind work from now on.
    pub async fn traffic(&mut self) {
        self.traffic_of(TrafficOptions::every_kind(self.shard.address()))
            .await;
    }

    /// Lets these clients work from now on.
    pub async fn traffic_of(&mut self, options: TrafficOptions) {
        let password = self.shard.cluster.password().map(str::to_owned);
        let options = TrafficOptions {
            password: options.password.clone().or(password),
            ..options
        };
        self.traffic = Some(Traffic::start(options).await.unwrap());
        self.progress(20).await;
    }

    /// Waits until every kind of client got `more` further answers.
    pub async fn progress(&self, more: u64) {
        let traffic = self.traffic.as_ref().expect("traffic was started");
        if let Err(error) = traffic.progress(more, SOON).await {
            panic!("{error}\n{}", self.shard.pointsman.log_tail());
        }
    }

    /// Ends the traffic, reads what is left and judges.
    pub async fn judged(&mut self) -> Verdict {
        let (_, verdict) = self.history().await;
        verdict
    }

    /// As [`Scene::judged`], with the history.
    pub async fn history(&mut self) -> (History, Verdict) {
        let traffic = self.traffic.take().expect("traffic was started");
        let mut primary = self.primary().await.client().await.unwrap();
        let history = traffic.stop(&mut primary).await.unwrap();
        let verdict = judge(&history);
        (history, verdict)
    }

    /// The node that pointsman sends requests to.
    pub async fn primary(&self) -> &Server {
        self.shard.primary().await.unwrap()
    }

    /// A node that pointsman does not send requests to.
    pub async fn replica(&self) -> &Server {
        let primary = self.primary().await.id();
        let other = self
            .shard
            .cluster
            .nodes()
            .iter()
            .find(|node| node.id() != primary);
        other.expect("there are replicas")
    }

    /// Node `number`; 0 was started as primary.
    pub fn node(&self, number: usize) -> &Server {
        self.shard.cluster.node(number)
    }

    /// Kills the primary; returns its number.
    pub async fn kill_primary(&self) -> usize {
        let primary = self.primary().await;
        primary.kill();
        self.shard.number_of(primary)
    }

    /// Makes the primary hang; returns its number.
    pub async fn stop_primary(&self) -> usize {
        let primary = self.primary().await;
        primary.stop();
        self.shard.number_of(primary)
    }

    /// Waits until node `number` follows the primary.
    pub async fn becomes_a_replica(&self, number: usize) {
        let follows = self.shard.cluster.becomes_a_replica(number, SOON).await;
        follows.unwrap_or_else(|error| panic!("{error}\n{}", self.shard.pointsman.log_tail()));
    }

    /// A connection through pointsman.
    pub async fn client(&self) -> Client {
        self.shard.client().await.unwrap()
    }

    /// Waits for the next report.
    pub async fn failed_over(&mut self) -> FailoverReport {
        self.reports += 1;
        match self.shard.pointsman.failover(self.reports, REST).await {
            Ok(report) => report,
            Err(error) => panic!("{error}"),
        }
    }

    /// No failover happened that the test has not asked for.
    pub async fn nothing_else_happened(&self) {
        let reports = self.shard.pointsman.failovers().await.unwrap();
        assert_eq!(reports.len(), self.reports, "{reports:#?}");
    }

    /// Waits until every node follows the one primary with the same offset.
    pub async fn in_sync(&self) {
        if let Err(error) = self.shard.cluster.in_sync(SOON).await {
            panic!("{error}\n{}", self.shard.pointsman.log_tail());
        }
    }

    /// Waits until every node but the primary follows the primary, however far behind.
    pub async fn all_follow(&self) {
        becomes_true("every other node a follower", async || {
            let primary = self.primary().await;
            for node in self.shard.cluster.nodes() {
                let info = node.info().await.map_err(|e| e.to_string())?;
                let field = |name: &str| info.get(name).cloned().unwrap_or_default();
                let follows = field("master_port") == primary.port().to_string()
                    && field("master_link_status") == "up";
                if node.id() != primary.id() && !follows {
                    return Err(format!("{} does not follow {}", node.id(), primary.id()));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Moves the primary on purpose.
    pub async fn switchover(&mut self, to: Option<NodeId>) -> FailoverReport {
        self.reports += 1;
        match self.shard.pointsman.switchover(to.as_ref()).await.unwrap() {
            Ok(report) => report,
            Err(text) => panic!("{text}\n{}", self.shard.pointsman.log_tail()),
        }
    }

    /// Judges the log: a failover's own lines are expected, and what the test said.
    pub fn assert_log_is_clean(&self) {
        let expected = self.expected.iter().map(String::as_str);
        let expected: Vec<&str> = FAILOVER_WORDS.iter().copied().chain(expected).collect();
        let lines = self.shard.pointsman.unexpected_log_lines(&expected);
        assert!(
            lines.is_empty(),
            "unexpected in the log:\n{}",
            lines.join("\n")
        );
    }
}

/// Waits until `check` is true.
pub async fn becomes_true(what: &str, mut check: impl AsyncFnMut() -> Result<(), String>) {
    if let Err(error) = until(what, SOON, async || check().await).await {
        panic!("{error}");
    }
}

/// Waits until the status holds this text.
pub async fn status_says(pointsman: &Pointsman, text: &str) {
    becomes_true("a status that says so", async || {
        match http::get(&pointsman.admin(), "/api/status").await {
            Ok((200, status)) if status.contains(text) => Ok(()),
            other => Err(format!("{other:?}\n{}", pointsman.log_tail())),
        }
    })
    .await;
}

/// Sets a key again and again until it is acknowledged.
pub async fn write_until_ok(client: &mut Client, key: &str, value: &str) {
    becomes_true("an acknowledged write", async || {
        match client.call(&["SET", key, value]).await {
            Ok(reply) if reply.is_ok() => Ok(()),
            Ok(reply) => Err(reply.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// The reply's text.
pub async fn get(client: &mut Client, key: &str) -> Option<String> {
    let reply = client.call(&["GET", key]).await.unwrap();
    reply.text().map(str::to_owned)
}

/// Runs a command that must not fail and returns its reply.
pub async fn ask(client: &mut Client, request: &[&str]) -> Value {
    match client.call_within(SOON, request).await {
        Ok(Value::Error(text)) => panic!("{request:?}: -{text}"),
        Ok(reply) => reply,
        Err(error) => panic!("{request:?}: {error}"),
    }
}

/// The clients saw no error that the promise forbids, and nothing broken.
pub fn assert_the_promise_was_kept(verdict: &Verdict) {
    assert_eq!(verdict.total().broken(), 0, "{verdict}");
    assert_eq!(verdict.forbidden_errors(), 0, "{verdict}");
}

/// The clients saw no error at all, and nothing broken.
pub fn assert_no_error_at_all(verdict: &Verdict) {
    assert_eq!(verdict.total().broken(), 0, "{verdict}");
    assert_eq!(verdict.total().all_errors(), 0, "{verdict}");
}

/// Nothing that was acknowledged is gone.
pub fn assert_no_acknowledged_write_lost(verdict: &Verdict) {
    assert_eq!(verdict.total().lost, 0, "{verdict}");
}

/// No client waited longer than `limit`.
pub fn assert_pause_below(verdict: &Verdict, limit: Duration) {
    assert!(verdict.total().longest_pause < limit, "{verdict}");
}

/// Options for some clients of the given kinds.
pub fn clients(scene: &Scene, kinds: &[Kind]) -> TrafficOptions {
    TrafficOptions {
        clients: kinds.iter().map(|kind| (*kind, 1)).collect(),
        ..TrafficOptions::every_kind(scene.shard.address())
    }
}

/// Kills the node and starts it again at once, empty.
pub fn restart_empty(node: &Server) {
    node.restart_now(Data::Empty).unwrap();
}

/// Nodes that keep snapshots, and take no write when one fails.
pub fn with_snapshots() -> ClusterOptions {
    ClusterOptions {
        persistence: Persistence::Rdb,
        ..ClusterOptions::default()
    }
}

/// Makes every snapshot of a node fail, as a full disk does: its file can not be replaced.
pub async fn snapshots_fail(node: &Server) {
    let _ = std::fs::remove_file(node.directory().join("dump.rdb"));
    std::fs::create_dir(node.directory().join("dump.rdb")).unwrap();
    becomes_true("a failed snapshot", async || {
        // Refused while another child of the server runs, such as one that feeds a replica.
        node.cli(&["BGSAVE"]).await.map_err(|e| e.to_string())?;
        match node.info_field("rdb_last_bgsave_status").await.as_deref() {
            Ok("err") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The end of [`snapshots_fail`].
pub fn snapshots_work(node: &Server) {
    std::fs::remove_dir(node.directory().join("dump.rdb")).unwrap();
}

/// Lets `time` pass while the traffic goes on. For what must *not* happen within a time, there is
/// nothing else to wait for.
pub async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The fault lasts this long: its length is what the test is about.
pub async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Now.
pub fn now() -> Timestamp {
    clock::now()
}

/// Passes everything on that comes to `address`.
pub async fn relay(relays: &mut JoinSet<()>, address: SocketAddr, to: u16) {
    let listener = TcpListener::bind(address).await.unwrap();
    relays.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                    // Either side may end it.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
}
