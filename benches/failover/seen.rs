//! Measured beside the clients: when a replica became primary, and how long each client then waited.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pointsman::clock;
use pointsman::lab::{Cluster, History, LabError, Outcome, Server};
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
