//! Follows a Redis Cluster: asks every node what it knows, and publishes the picture that
//! [`ClusterPicture`] makes of it. Nothing is decided here, and nothing is changed in the cluster.
//!
//! A task a node asks CLUSTER NODES and INFO: now and then, often while a primary is lost, and at once when
//! the data plane saw that something is not where it was.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::codec::Command;
use super::gauges::Gauges;
use super::handle::Question;
use super::line::{Failed, read_info};
use super::node::{Access, Connection, info_commands};
use super::reports::{Reports, RequestCounter, between};
use crate::clock;
use crate::failover::{
    ClusterPicture, ClusterView, Health, NodeRole, NodeStatus, ProbeError, Status,
};
use crate::metrics::ClusterMetrics;
use crate::resp::cluster_nodes::parse_cluster_nodes;
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{
    ClusterMap, ClusterWriter, Epoch, Evidence, EvidenceReceiver, FailoverReport, Gate, NodeId,
    Notice, Primary, RequestCounts, Timestamp, Topology, TopologyReader, TopologyWriter, channel,
};

/// Between two questions to a node while all is well.
const CALM: Duration = Duration::from_millis(500);
/// The same while the primary of a slot does not answer: what adds to the cluster's own election.
const ALARMED: Duration = Duration::from_millis(15);
/// Between two questions at least, whatever the data plane sees.
const LEAST: Duration = Duration::from_millis(3);
/// A node that takes longer to connect to or to answer does not answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// What became of requests is counted until this long after a change, and from a reading before it that is
/// at least so old.
const COUNTED_FOR: Duration = Duration::from_secs(1);
const COUNTED_BEFORE: Duration = Duration::from_millis(200);

/// What following a cluster needs.
pub(super) struct Follower {
    pub(super) backend: Arc<str>,
    pub(super) seeds: Vec<NodeId>,
    /// Address and mark are those of each node's task.
    pub(super) access: Access,
    pub(super) workers: usize,
    /// The shard that answers what is about no key.
    pub(super) home: TopologyWriter,
    pub(super) map: ClusterWriter,
    pub(super) evidence: EvidenceReceiver,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) counter: RequestCounter,
    pub(super) reports: Reports,
    /// Nobody may listen.
    pub(super) notices: broadcast::Sender<Notice>,
}

type Answered = Result<(ClusterView, NodeInfo), ProbeError>;
/// With the time of the question, or of the first one of several that were not answered.
type Answer = (NodeId, Timestamp, Answered);

/// What a node answered last.
#[derive(Default)]
struct Asked {
    error: Option<ProbeError>,
    /// What it said when it answered, and when that was.
    said: Option<(NodeInfo, Timestamp)>,
}

/// A kept report whose requests are still counted.
struct Counting {
    number: u64,
    before: RequestCounts,
    until: Timestamp,
}

struct State {
    follower: Follower,
    picture: ClusterPicture,
    /// The shards' topologies, by number.
    writers: Vec<(TopologyWriter, TopologyReader)>,
    /// Where the nodes said last that they are.
    known: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, Asked>,
    gauges: Gauges,
    metrics: ClusterMetrics,
    /// The last two readings of the counters while all was well.
    steady: [(Timestamp, RequestCounts); 2],
    counting: VecDeque<Counting>,
    /// Number of the last report.
    reported: u64,
    pace: watch::Sender<Duration>,
    /// Told when everybody is to be asked at once.
    hurry: watch::Sender<u64>,
    answers: mpsc::Sender<Answer>,
    tasks: JoinSet<()>,
    running: HashMap<NodeId, tokio::task::AbortHandle>,
}

/// Follows until `stop`.
pub(super) async fn follow(follower: Follower, stop: CancellationToken) {
    let (answers, mut inbox) = mpsc::channel(256);
    let mut state = State {
        picture: ClusterPicture::default(),
        writers: Vec::new(),
        known: BTreeSet::new(),
        nodes: BTreeMap::new(),
        gauges: Gauges::new(&follower.backend),
        metrics: ClusterMetrics::new(&follower.backend),
        steady: [(clock::now(), (follower.counter)()); 2],
        counting: VecDeque::new(),
        reported: 0,
        pace: watch::channel(ALARMED).0,
        hurry: watch::channel(0).0,
        answers,
        tasks: JoinSet::new(),
        running: HashMap::new(),
        follower,
    };
    state.ask_all();
    loop {
        let due = state.counting.front().map(|counting| counting.until);
        let pause = due.map_or(CALM, |due| due.since(clock::now()));
        tokio::select! {
            () = stop.cancelled() => break,
            Some((node, asked, answer)) = inbox.recv() => state.answered(node, asked, answer),
            Some(Evidence { node, kind }) = state.follower.evidence.recv() => {
                state.picture.suspected(&node, kind, clock::now());
                state.hurry.send_modify(|turn| *turn += 1);
            }
            Some(question) = state.follower.questions.recv() => state.reply(question),
            () = sleep(pause) => state.complete(clock::now()),
        }
    }
    state.complete(Timestamp::from_start(Duration::MAX));
}

impl State {
    fn answered(&mut self, node: NodeId, at: Timestamp, answer: Answered) {
        let now = clock::now();
        let asked = self.nodes.entry(node.clone()).or_default();
        let news = match answer {
            Ok((view, info)) => {
                *asked = Asked {
                    error: None,
                    said: Some((info, now)),
                };
                self.picture.heard(view, now)
            }
            Err(error) => {
                tracing::debug!(backend = %self.follower.backend, %node, ?error, "no answer");
                let news = self.picture.lost(&node, &error, at);
                asked.error = Some(error);
                news
            }
        };
        let up = self.nodes[&node].error.is_none();
        let lag = up.then(|| self.lag(&node).unwrap_or(0));
        self.gauges.asked(&node, lag);
        let [_, newest] = self.steady;
        if self.picture.is_whole() && now - newest.0 >= COUNTED_BEFORE {
            self.steady = [newest, (now, (self.follower.counter)())];
            self.gauges
                .evidence_dropped(self.follower.evidence.dropped());
        }
        if news {
            self.ask_all();
            self.publish();
            for report in self.picture.take_reports() {
                self.report(report, now);
            }
            let pace = match self.picture.is_whole() {
                true => CALM,
                false => ALARMED,
            };
            self.pace
                .send_if_modified(|now| std::mem::replace(now, pace) != pace);
        }
    }

    /// A task for each node that somebody knows, and none for others.
    fn ask_all(&mut self) {
        let said = self.picture.addresses();
        if !said.is_empty() {
            self.known = said;
        }
        let mut wanted = self.known.clone();
        // The names of the file only as long as the nodes themselves do not answer.
        if !wanted.iter().any(|node| self.picture.knows(node)) {
            wanted.extend(self.follower.seeds.iter().cloned());
        }
        let mut gone = Vec::new();
        self.running.retain(|node, task| {
            let keep = wanted.contains(node);
            if !keep {
                task.abort();
                gone.push(node.clone());
            }
            keep
        });
        for node in gone {
            self.picture.forget(&node);
        }
        self.nodes.retain(|node, _| wanted.contains(node));
        for node in wanted {
            if self.running.contains_key(&node) {
                continue;
            }
            let access = Access {
                node: node.clone(),
                ..self.follower.access.clone()
            };
            let (pace, hurry) = (self.pace.subscribe(), self.hurry.subscribe());
            let task = self
                .tasks
                .spawn(ask(access, pace, hurry, self.answers.clone()));
            self.running.insert(node, task);
        }
    }

    fn publish(&mut self) {
        let backend = self.follower.backend.clone();
        for number in 0..self.picture.shards().len() {
            let shard = &self.picture.shards()[number];
            if self.writers.len() == number {
                let unknown = Topology::unknown(backend.clone());
                self.writers.push(channel(unknown, self.follower.workers));
            }
            let writer = &self.writers[number].0;
            let (now, primary) = (writer.current(), &shard.primary);
            let next = topology(&backend, shard.epoch, primary, &shard.replicas);
            if next.primary != now.primary || next.replicas != now.replicas {
                if next.primary != now.primary {
                    let name = |p: &Option<Primary>| p.as_ref().map(|p| p.node.to_string());
                    let (from, to) = (name(&now.primary), name(primary));
                    tracing::info!(event = "+switch-master", %backend, shard = number,
                        epoch = %shard.epoch, ?from, ?to, "a shard has a new primary");
                }
                writer.publish(next);
            }
        }
        self.publish_map();
        self.publish_home(&backend);
        let gate = match self.picture.is_whole() {
            true => Gate::Open,
            false => Gate::Closed,
        };
        let epoch = self.follower.home.current().epoch;
        self.gauges.published(epoch, gate);
    }

    fn publish_map(&self) {
        let shards = self.picture.shards();
        let mut map = ClusterMap::unknown();
        map.slots = self.picture.slots().into();
        map.shards = self
            .writers
            .iter()
            .map(|(_, reader)| reader.clone())
            .collect();
        for (number, shard) in shards.iter().enumerate() {
            let number = number as u16;
            map.primaries
                .extend(shard.addresses.iter().map(|node| (node.clone(), number)));
        }
        let now = self.follower.map.current();
        let same = now.slots == map.slots
            && now.shards.len() == map.shards.len()
            && now.primaries == map.primaries;
        if !same {
            self.follower.map.publish(map);
            self.metrics.map_changes.increment(1);
        }
    }

    /// A shard has a new primary.
    fn report(&mut self, mut report: FailoverReport, now: Timestamp) {
        report.backend = self.follower.backend.to_string();
        let unix = clock::unix_time().saturating_sub(report.pause);
        report.unix_millis = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let before = self.steady[0].1;
        report.requests = between(before, (self.follower.counter)());
        self.gauges.ended(&report);
        self.reported += 1;
        let _ = self.follower.notices.send(Notice {
            event: "+switch-master",
            node: report.to.clone(),
        });
        self.counting.push_back(Counting {
            number: self.reported,
            before,
            until: now + COUNTED_FOR,
        });
        self.follower.reports.keep(self.reported, report);
    }

    /// Fills in what became of the clients' requests, and logs the reports that are done.
    fn complete(&mut self, now: Timestamp) {
        while self.counting.front().is_some_and(|c| c.until <= now)
            && let Some(counting) = self.counting.pop_front()
        {
            let requests = between(counting.before, (self.follower.counter)());
            let reports = &self.follower.reports;
            let Some(report) = reports.complete(counting.number, requests) else {
                continue;
            };
            match serde_json::to_string(&report) {
                Ok(report) => {
                    tracing::info!(backend = %self.follower.backend, report, "failover report");
                }
                Err(error) => tracing::warn!(%error, "a failover report can not be written"),
            }
        }
    }

    /// How many bytes a node is behind its primary; `None`: it is not known, or is one itself.
    fn lag(&self, node: &NodeId) -> Option<u64> {
        let said = |node: &NodeId| self.nodes.get(node)?.said.as_ref().map(|(info, _)| info);
        let shards = self.picture.shards();
        let shard = shards.iter().find(|s| s.replicas.contains(node))?;
        let head = said(&shard.primary.as_ref()?.node)?.offset;
        Some(head.saturating_sub(said(node)?.offset))
    }

    fn publish_home(&self, backend: &Arc<str>) {
        let Some(home) = self.picture.home() else {
            return;
        };
        let shards = self.picture.shards();
        let now = self.follower.home.current();
        let primary = &shards[usize::from(home)].primary;
        let others = shards.iter().enumerate().flat_map(|(number, shard)| {
            let other = shard
                .primary
                .as_ref()
                .filter(|_| number != usize::from(home));
            other
                .map(|p| p.node.clone())
                .into_iter()
                .chain(shard.replicas.clone())
        });
        let others: Vec<NodeId> = others.collect();
        if *primary != now.primary {
            self.follower
                .home
                .publish(topology(backend, now.epoch.next(), primary, &others));
        } else if others != now.replicas {
            self.follower
                .home
                .publish(topology(backend, now.epoch, primary, &others));
        }
    }

    fn reply(&self, question: Question) {
        match question {
            Question::Status(answer) => {
                // Who asked has gone when it fails.
                let _ = answer.send(self.status());
            }
            // The handle refuses it.
            Question::Switchover { .. } => {}
        }
    }

    fn status(&self) -> Status {
        let home = self.follower.home.current();
        let (whole, now) = (self.picture.is_whole(), clock::now());
        let nodes = self.nodes.iter().map(|(node, asked)| {
            let info = asked.said.as_ref().map(|(info, _)| info);
            let replica = info.filter(|info| info.role == Role::Replica);
            let upstream = replica.and_then(|info| info.upstream.as_ref());
            NodeStatus {
                node: node.clone(),
                role: info.map(|info| match info.role {
                    Role::Primary => NodeRole::Primary,
                    Role::Replica => NodeRole::Replica,
                }),
                health: health(asked.error.as_ref()),
                run_id: info.map(|info| info.run_id.clone()),
                follows: upstream.map(|(host, port)| NodeId::of(host, *port)),
                priority: info.map(|info| info.priority),
                announced: true,
                offset: info.map(|info| info.offset),
                lag_bytes: self.lag(node),
                link_up: replica.map(|info| info.link_up),
                last_seen: asked.said.as_ref().map(|(_, seen)| now.since(*seen)),
                not_promotable: None,
                repointing: None,
                lacks: None,
            }
        });
        Status {
            backend: self.follower.backend.clone(),
            phase: "following".to_owned(),
            step: "the cluster decides".to_owned(),
            epoch: home.epoch,
            gate: home.gate,
            primary: home.primary.as_ref().map(|p| p.node.clone()),
            undecided: (!whole)
                .then(|| "the primary of some hash slots does not answer".to_owned()),
            nodes: nodes.collect(),
            sentinels: Vec::new(),
            shards: self.picture.status(),
        }
    }
}

fn topology(
    backend: &Arc<str>,
    epoch: Epoch,
    primary: &Option<Primary>,
    replicas: &[NodeId],
) -> Topology {
    Topology {
        epoch,
        gate: match primary {
            Some(_) => Gate::Open,
            None => Gate::Closed,
        },
        primary: primary.clone(),
        replicas: replicas.to_vec(),
        ..Topology::unknown(backend.clone())
    }
}

fn health(error: Option<&ProbeError>) -> Health {
    match error {
        None => Health::Up,
        Some(ProbeError::Refused) => Health::Refused,
        Some(ProbeError::Unacked) => Health::Unacked,
        Some(ProbeError::Auth(_)) => Health::Denied,
        Some(ProbeError::MaxClients) => Health::Full,
        Some(ProbeError::NotRedis) => Health::NotRedis,
        Some(ProbeError::Unresolved) => Health::Unresolved,
        Some(ProbeError::ErrorReply(_)) => Health::ErrorReply,
        Some(_) => Health::Silent,
    }
}

/// Asks one node for ever.
async fn ask(
    access: Access,
    mut pace: watch::Receiver<Duration>,
    mut hurry: watch::Receiver<u64>,
    answers: mpsc::Sender<Answer>,
) {
    let mut connection = None;
    let mut unanswered = None;
    loop {
        let asked = *unanswered.get_or_insert_with(clock::now);
        // What comes from now on is news.
        hurry.mark_unchanged();
        let warm = connection.is_some();
        let answer = timeout(2 * PATIENCE, ask_once(&access, &mut connection)).await;
        let answer = answer.unwrap_or(Err(ProbeError::Silent));
        if answer.is_err() {
            connection = None;
            if warm {
                // A connection that was closed says less than a connect that fails.
                continue;
            }
        }
        if answer.is_ok() {
            unanswered = None;
        }
        let answer = (access.node.clone(), asked, answer);
        if answers.send(answer).await.is_err() {
            return;
        }
        sleep(LEAST).await;
        let pause = *pace.borrow_and_update();
        tokio::select! {
            () = sleep(pause) => {}
            _ = pace.changed() => {}
            _ = hurry.changed() => {}
        }
    }
}

async fn ask_once(access: &Access, connection: &mut Option<Connection>) -> Answered {
    let (mut line, mut commands) = match connection.take() {
        Some(line) => (line, Vec::new()),
        None => (access.open(PATIENCE).await?, access.handshake()),
    };
    let greeting = commands.len();
    commands.push(Command::new(["CLUSTER", "NODES"]));
    commands.extend(info_commands(None));
    let mut replies = line.request(commands).await?.split_off(greeting);
    let info: NodeInfo = match read_info(&replies.split_off(1)) {
        Ok(info) => info,
        Err(Failed::Refused(why)) => return Err(super::node::reply_failure(&why)),
        Err(Failed::Lost(error)) => return Err(error),
    };
    let nodes = match replies.first() {
        Some(BytesFrame::BulkString(text)) => parse_cluster_nodes(&String::from_utf8_lossy(text)),
        Some(BytesFrame::Error(why)) => return Err(super::node::reply_failure(why)),
        _ => return Err(ProbeError::NotRedis),
    };
    *connection = Some(line);
    let view = ClusterView {
        node: access.node.clone(),
        run_id: info.run_id.clone(),
        repl_id: info.repl_id.clone(),
        primary: info.role == Role::Primary && !info.loading,
        nodes,
    };
    Ok((view, info))
}
