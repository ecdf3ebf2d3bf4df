//! Measured beside the clients: when a replica became primary, and how long each client then waited.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pointsman::clock;
use pointsman::lab::{Cluster, History, LabError, Outcome, Server, Sharded};
use pointsman::topology::Timestamp;
use tokio::task::JoinHandle;

/// Between two looks at a node.
const LOOK: Duration = Duration::from_millis(1);

/// Looks at every node but the primary until one says `role:master`.
pub(crate) struct RoleWatch {
    seen: Arc<Mutex<Option<Timestamp>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl RoleWatch {
    pub(crate) fn start(cluster: &Cluster, primary: &Server) -> RoleWatch {
        let seen: Arc<Mutex<Option<Timestamp>>> = Arc::default();
        let others = cluster.nodes().iter().filter(|n| n.id() != primary.id());
        let tasks = others
            .map(|node| {
                let (address, seen) = (node.address(), seen.clone());
                tokio::spawn(async move {
                    loop {
                        let Ok(mut client) = pointsman::lab::Client::connect(&address).await else {
                            tokio::time::sleep(LOOK).await;
                            continue;
                        };
                        // Sentinel cuts every connection when it promotes a node.
                        while let Ok(role) = client.call(&["ROLE"]).await {
                            let first = role.items().and_then(|items| items.first()?.text());
                            if first == Some("master") {
                                let now = clock::now();
                                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                                seen.get_or_insert(now);
                                return;
                            }
                            tokio::time::sleep(LOOK).await;
                        }
                    }
                })
            })
            .collect();
        RoleWatch { seen, tasks }
    }

    pub(crate) fn seen(&self) -> Option<Timestamp> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RoleWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Writes to some nodes of a cluster itself, each a key of its shard, and notes when it was taken again for
/// the first time after it was refused last.
pub(crate) struct WriteWatch {
    taken: Vec<Arc<Mutex<Option<Timestamp>>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl WriteWatch {
    /// `nodes`: numbers, each with a key.
    pub(crate) fn start(cluster: &Sharded, nodes: Vec<(usize, String)>) -> WriteWatch {
        let (mut all, mut tasks) = (Vec::new(), Vec::new());
        for (number, key) in nodes {
            let taken: Arc<Mutex<Option<Timestamp>>> = Arc::default();
            all.push(taken.clone());
            let address = cluster.node(number).address();
            tasks.push(tokio::spawn(async move {
                loop {
                    let Ok(mut client) = pointsman::lab::Client::connect(&address).await else {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    };
                    while let Ok(reply) = client.call(&["SET", &key, ""]).await {
                        {
                            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                            match reply.is_ok() {
                                true => drop(taken.get_or_insert_with(clock::now)),
                                false => *taken = None,
                            }
                        }
                        tokio::time::sleep(LOOK).await;
                    }
                }
            }));
        }
        WriteWatch { taken: all, tasks }
    }

    /// When all of them took writes again; `None`: not yet.
    pub(crate) fn all_taken(&self) -> Option<Timestamp> {
        let taken = self.taken.iter();
        let taken = taken.map(|taken| *taken.lock().unwrap_or_else(PoisonError::into_inner));
        taken.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl Drop for WriteWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Looks at every node but the primary until one has answered a GET, which replication does not bring.
pub(crate) struct ServedWatch {
    seen: Arc<Mutex<Option<Timestamp>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl ServedWatch {
    pub(crate) async fn start(
        cluster: &Cluster,
        primary: &Server,
    ) -> Result<ServedWatch, LabError> {
        let seen: Arc<Mutex<Option<Timestamp>>> = Arc::default();
        let mut tasks = Vec::new();
        for node in cluster.nodes().iter().filter(|n| n.id() != primary.id()) {
            let mut client = node.client().await?;
            let reset = client.call(&["CONFIG", "RESETSTAT"]).await;
            reset.map_err(LabError::client("reset the statistics"))?;
            let seen = seen.clone();
            tasks.push(tokio::spawn(async move {
                while let Ok(info) = client.call(&["INFO", "commandstats"]).await {
                    if info
                        .text()
                        .is_some_and(|text| text.contains("cmdstat_get:"))
                    {
                        let now = clock::now();
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.get_or_insert(now);
                        return;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }));
        }
        Ok(ServedWatch { seen, tasks })
    }

    pub(crate) fn seen(&self) -> Option<Timestamp> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServedWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// How long after `at` the last client got its first acknowledged answer.
pub(crate) fn all_served(history: &History, at: Timestamp) -> Option<Duration> {
    let first = |client: &pointsman::lab::history::ClientHistory| {
        let done = client.operations.iter();
        let done = done.filter(|o| matches!(o.outcome, Outcome::Done(_)) && o.ended >= at);
        done.map(|o| o.ended - at).min()
    };
    let waits: Vec<Option<Duration>> = history.clients.iter().map(first).collect();
    waits
        .into_iter()
        .max_by_key(|w| w.unwrap_or(Duration::MAX))?
}

/// The longest time that one client was without an acknowledged answer; for clients that connect again
/// this counts the time in which they look for the primary.
pub(crate) fn longest_gap(history: &History) -> Duration {
    let gap = |client: &pointsman::lab::history::ClientHistory| {
        let done = client.operations.iter();
        let mut ends: Vec<Timestamp> = done
            .filter(|o| matches!(o.outcome, Outcome::Done(_)))
            .map(|o| o.ended)
            .collect();
        ends.sort_unstable();
        let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    };
    history.clients.iter().map(gap).max().unwrap_or_default()
}
