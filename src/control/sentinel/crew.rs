//! Which sentinels are watched and which nodes they name: the listed ones, and those they tell of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as newest};
use tokio::task::{AbortHandle, JoinSet};

use super::super::node::Access;
use super::reply::Answer;
use super::watch::{Report, Watch};
use super::{SentinelAccess, SentinelSettings};
use crate::clock;
use crate::failover::{AskOutcome, Event, OpId, SentinelNews};
use crate::resp::Credentials;
use crate::topology::{NodeId, Timestamp};

/// Sentinels watched at most; further ones are not watched.
const MOST: usize = 64;

/// A node or sentinel that nobody names for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Reports that wait for the crew; it empties this queue all the time.
const REPORTS: usize = 256;

/// What is asked of the crew.
#[derive(Debug)]
pub(super) enum Errand {
    Consult,
    Failover {
        op: OpId,
        sentinel: NodeId,
        timeout: Duration,
    },
}

/// See the head of the file.
pub(super) struct Crew {
    settings: SentinelSettings,
    access: SentinelAccess,
    told: mpsc::Sender<Event>,
    nodes_in: newest::Sender<Vec<NodeId>>,
    /// In the order in which they were first named, and when that was last.
    nodes: Vec<(NodeId, Timestamp)>,
    watched: HashMap<NodeId, Watched>,
    reports_in: mpsc::Sender<(NodeId, Report)>,
    reports: mpsc::Receiver<(NodeId, Report)>,
    tasks: JoinSet<()>,
    answered_at: Timestamp,
}

/// A sentinel that is watched.
struct Watched {
    watch: Watch,
    caller: mpsc::Sender<()>,
    tasks: [AbortHandle; 2],
    listed: bool,
    /// Whether it answered or failed.
    tried: bool,
    failing: bool,
    id: Option<Arc<str>>,
    named_at: Timestamp,
}

impl Crew {
    pub(super) fn new(
        settings: SentinelSettings,
        access: SentinelAccess,
        told: mpsc::Sender<Event>,
        nodes_in: newest::Sender<Vec<NodeId>>,
    ) -> Crew {
        let (reports_in, reports) = mpsc::channel(REPORTS);
        Crew {
            settings,
            access,
            told,
            nodes_in,
            nodes: Vec::new(),
            watched: HashMap::new(),
            reports_in,
            reports,
            tasks: JoinSet::new(),
            answered_at: clock::now(),
        }
    }

    /// Until the driver is gone.
    pub(super) async fn run(mut self, mut errands: mpsc::Receiver<Errand>) {
        let listed = self.settings.sentinels.clone();
        for sentinel in &listed {
            self.watch(sentinel.address.clone(), sentinel.credentials.clone(), true);
        }
        let listed = listed.into_iter().map(|s| s.address).collect();
        if self.told.send(Event::Sentinels { listed }).await.is_err() {
            return;
        }
        loop {
            let going_on = tokio::select! {
                biased;
                Some((sentinel, report)) = self.reports.recv() => self.reported(sentinel, report).await,
                errand = errands.recv() => match errand {
                    Some(errand) => {
                        self.run_errand(errand);
                        true
                    }
                    None => false,
                },
            };
            if !going_on {
                return;
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn watch(&mut self, address: NodeId, credentials: Option<Credentials>, listed: bool) {
        let watch = Watch {
            access: Access {
                node: address.clone(),
                credentials,
                mark: self.access.mark.clone(),
                unacked_after: self.access.unacked_after,
            },
            master: self.settings.master.clone(),
            reports: self.reports_in.clone(),
        };
        let (caller, calls) = mpsc::channel(1);
        let tasks = [
            self.tasks.spawn(watch.clone().ask(calls)),
            self.tasks.spawn(watch.clone().listen(caller.clone())),
        ];
        let watched = Watched {
            watch,
            caller,
            tasks,
            listed,
            tried: false,
            failing: false,
            id: None,
            named_at: clock::now(),
        };
        self.watched.insert(address, watched);
    }

    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Consult => {
                for watched in self.watched.values() {
                    // One call that is pending is enough.
                    let _ = watched.caller.try_send(());
                }
            }
            Errand::Failover {
                op,
                sentinel,
                timeout,
            } => {
                let watch = self.watched.get(&sentinel).map(|w| w.watch.clone());
                let told = self.told.clone();
                self.tasks.spawn(async move {
                    let outcome = match watch {
                        Some(watch) => watch.failover(timeout).await,
                        None => AskOutcome::Refused(format!("{sentinel} is not watched any more")),
                    };
                    // Nobody waits for it when the driver is gone.
                    let _ = told.send(Event::FailoverAsked { op, outcome }).await;
                });
            }
        }
    }

    /// Whether the driver still listens.
    async fn reported(&mut self, sentinel: NodeId, report: Report) -> bool {
        let Some(watched) = self.watched.get_mut(&sentinel) else {
            return true;
        };
        let news = match report {
            Report::Announced(event) => SentinelNews::Announced(event),
            Report::Failed(why) => {
                watched.tried = true;
                watched.failing = true;
                SentinelNews::Failed(why)
            }
            Report::Answered(answer) => {
                watched.tried = true;
                watched.failing = false;
                watched.id = Some(answer.statement.id.clone());
                self.name_nodes(&answer);
                if !self.name_peers(&answer).await {
                    return false;
                }
                SentinelNews::Stated(Box::new(answer.statement))
            }
        };
        self.told
            .send(Event::Sentinel { sentinel, news })
            .await
            .is_ok()
    }

    /// Tells the source of nodes that are new, or that nobody names any more.
    fn name_nodes(&mut self, answer: &Answer) {
        let now = clock::now();
        if now - self.answered_at > FORGOTTEN_AFTER / 2 {
            // Nobody was there to name them.
            self.nodes.iter_mut().for_each(|(_, at)| *at = now);
        }
        self.answered_at = now;
        for node in &answer.nodes {
            match self.nodes.iter_mut().find(|(known, _)| known == node) {
                Some((_, at)) => *at = now,
                None => self.nodes.push((node.clone(), now)),
            }
        }
        self.nodes.retain(|(_, at)| now - *at < FORGOTTEN_AFTER);
        let nodes: Vec<NodeId> = self.nodes.iter().map(|(node, _)| node.clone()).collect();
        self.nodes_in.send_if_modified(|before| {
            let changed = *before != nodes;
            *before = nodes;
            changed
        });
    }

    /// Watches sentinels that are new; forgets those that nobody names. Whether the driver still
    /// listens.
    async fn name_peers(&mut self, answer: &Answer) -> bool {
        let now = clock::now();
        // Before every listed one was tried, one that is named may be a listed one by another name.
        let all_tried = self.watched.values().all(|w| w.tried || !w.listed);
        for (id, address) in &answer.peers {
            let mut known = false;
            for (at, watched) in &mut self.watched {
                if at == address || watched.id.as_ref() == Some(id) {
                    watched.named_at = now;
                    known = true;
                }
            }
            if !known && all_tried && self.watched.len() < MOST {
                let (sentinel, by) = (address, &answer.statement.id);
                tracing::info!(%sentinel, %by, "a sentinel was discovered");
                self.watch(address.clone(), self.settings.credentials.clone(), false);
            }
        }
        let gone = |w: &Watched| !w.listed && w.failing && now - w.named_at >= FORGOTTEN_AFTER;
        let gone: Vec<NodeId> = self
            .watched
            .iter()
            .filter(|(_, w)| gone(w))
            .map(|(address, _)| address.clone())
            .collect();
        for sentinel in gone {
            if let Some(watched) = self.watched.remove(&sentinel) {
                watched.tasks.iter().for_each(AbortHandle::abort);
            }
            if self
                .told
                .send(Event::SentinelGone { sentinel })
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }
}
