//! One replicated primary: a few servers on free loopback ports in a directory of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::server::{Data, Persistence, Server, ServerOptions};
use super::{LabError, Scratch, until};
use crate::topology::NodeId;

/// How long replicas may take to be in sync.
pub const SYNC: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many replicas follow the primary.
    pub replicas: usize,
    /// The server's program.
    pub program: PathBuf,
    /// What every node keeps on its disk.
    pub persistence: Persistence,
    /// `requirepass` and `masterauth` of every node.
    pub password: Option<String>,
    /// Lines for the configuration file of every node.
    pub config: Vec<String>,
    /// Lines for the configuration file of one node, by its number; node 0 is the first primary.
    pub node_config: BTreeMap<usize, Vec<String>>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            replicas: 2,
            program: Server::program(),
            persistence: Persistence::None,
            password: None,
            config: Vec::new(),
            node_config: BTreeMap::new(),
        }
    }
}

impl ClusterOptions {
    /// Adds a line to the configuration file of one node.
    pub fn node_line(mut self, node: usize, line: impl Into<String>) -> Self {
        self.node_config.entry(node).or_default().push(line.into());
        self
    }
}

/// The servers. Dropping it ends them and removes their directory.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    password: Option<String>,
    /// After `nodes`: a process must be gone before its directory is.
    scratch: Scratch,
}

impl Cluster {
    /// Starts node 0 as primary and the others as its replicas; returns when all are in sync.
    pub async fn start(options: ClusterOptions) -> Result<Cluster, LabError> {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            password: options.password.clone(),
            scratch: Scratch::new()?,
        };
        for number in 0..=options.replicas {
            let mut config = options.config.clone();
            config.extend(
                options
                    .node_config
                    .get(&number)
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
            let server = ServerOptions {
                program: options.program.clone(),
                persistence: options.persistence,
                password: options.password.clone(),
                priority: 100,
                replica_of: cluster.nodes.first().map(Server::id),
                config,
            };
            let directory = cluster.scratch.path().join(format!("node-{number}"));
            cluster.nodes.push(Server::start(directory, server).await?);
        }
        cluster.in_sync(SYNC).await?;
        Ok(cluster)
    }

    /// Node `number`; 0 was started as primary.
    pub fn node(&self, number: usize) -> &Server {
        &self.nodes[number]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The node with this address.
    pub fn find(&self, id: &NodeId) -> Option<&Server> {
        self.nodes.iter().find(|node| node.id() == *id)
    }

    /// The password of every node.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Where everything is kept while the cluster lives.
    pub fn directory(&self) -> &Scratch {
        &self.scratch
    }

    /// `host:port` of every node, as a configuration names them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.id().as_str().to_owned())
            .collect()
    }

    /// Numbers of the nodes that live and say that they are primaries.
    pub async fn who_is_primary(&self) -> Vec<usize> {
        let mut primaries = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let answer = tokio::time::timeout(Duration::from_millis(500), node.is_primary());
            if matches!(answer.await, Ok(Ok(true))) {
                primaries.push(number);
            }
        }
        primaries
    }

    /// The only node that says it is primary, once there is exactly one.
    pub async fn primary(&self) -> Result<&Server, LabError> {
        until("exactly one primary", SYNC, async || {
            match self.who_is_primary().await.as_slice() {
                [one] => Ok(&self.nodes[*one]),
                others => Err(format!("primaries: {others:?}")),
            }
        })
        .await
    }

    /// How far the history of each node goes, bytes; `None` for those that do not answer.
    pub async fn offsets(&self) -> Vec<Option<u64>> {
        let mut offsets = Vec::new();
        for node in &self.nodes {
            let answer = tokio::time::timeout(Duration::from_millis(500), node.offset());
            offsets.push(answer.await.ok().and_then(Result::ok));
        }
        offsets
    }

    /// Waits until there is one primary and every other node follows it and has caught up.
    pub async fn in_sync(&self, limit: Duration) -> Result<(), LabError> {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.these_in_sync(&all, limit).await
    }

    /// As [`Cluster::in_sync`], looking only at `members`.
    ///
    /// Offsets alone prove nothing: a primary begins to stream to a replica after a full sync only when
    /// the replica's first acknowledgement came, up to a second later. So a message goes through the
    /// stream, and they have to have it.
    pub async fn these_in_sync(&self, members: &[usize], limit: Duration) -> Result<(), LabError> {
        let caught_up = || {
            until("replicas in sync", limit, async || {
                self.caught_up(members).await
            })
        };
        let primary = caught_up().await?;
        self.nodes[primary]
            .cli(&["PUBLISH", "lab:in-sync", ""])
            .await?;
        caught_up().await?;
        Ok(())
    }

    /// Waits until node `number` is a replica of the only primary, with its link up.
    pub async fn becomes_a_replica(&self, number: usize, limit: Duration) -> Result<(), LabError> {
        until("a replica", limit, async || {
            let [primary] = self.who_is_primary().await[..] else {
                return Err("not exactly one primary".to_owned());
            };
            let port = self.nodes[primary].port().to_string();
            let info = self.nodes[number].info().await.map_err(|e| e.to_string())?;
            let is = |name: &str, value: &str| info.get(name).is_some_and(|v| v == value);
            match is("role", "slave") && is("master_port", &port) && is("master_link_status", "up")
            {
                true => Ok(()),
                false => Err(format!("{info:?}")),
            }
        })
        .await
    }

    /// The number of the primary that every other member follows and has caught up with: it has what the
    /// primary had before it was asked, which is all where nobody writes.
    async fn caught_up(&self, members: &[usize]) -> Result<usize, String> {
        let mut primary = None;
        for number in members {
            let node = &self.nodes[*number];
            let info = node.info().await.map_err(|e| e.to_string())?;
            if info.get("role").is_some_and(|role| role == "master")
                && primary
                    .replace((*number, number_in(&info, "master_repl_offset")?))
                    .is_some()
            {
                return Err("two primaries".into());
            }
        }
        let (primary, offset) = primary.ok_or("no primary")?;
        let port = self.nodes[primary].port().to_string();
        for number in members.iter().filter(|number| **number != primary) {
            let node = &self.nodes[*number];
            let info = node.info().await.map_err(|e| e.to_string())?;
            let is = |name: &str, value: &str| info.get(name).is_some_and(|v| v == value);
            let at = number_in(&info, "slave_repl_offset").unwrap_or(0);
            let linked = is("master_link_status", "up") && is("master_port", &port);
            if !linked || at < offset {
                return Err(format!(
                    "node {number} is at {at}, linked: {linked}; the primary is {port} at {offset}"
                ));
            }
        }
        Ok(primary)
    }

    /// Kills every process and starts nothing again.
    pub fn kill_all(&self) {
        for node in &self.nodes {
            node.kill();
        }
    }

    /// Starts a killed node again, without waiting for it.
    pub fn revive(&self, number: usize, data: Data) -> Result<(), LabError> {
        self.nodes[number].restart_now(data)
    }
}

fn number_in(info: &BTreeMap<String, String>, field: &str) -> Result<u64, String> {
    let number = info.get(field).and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("no {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_starts_in_sync_and_leaves_nothing_behind() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        assert_eq!(cluster.who_is_primary().await, [0]);
        let reply = cluster.node(0).cli(&["SET", "k", "v"]).await.unwrap();
        assert!(reply.is_ok());
        cluster.in_sync(SYNC).await.unwrap();
        let reply = cluster.node(2).cli(&["GET", "k"]).await.unwrap();
        assert_eq!(reply.text(), Some("v"));

        let path = cluster.directory().path().to_owned();
        let pid = cluster.node(1).pid().unwrap();
        drop(cluster);
        assert!(!path.exists());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn an_empty_restart_is_empty_and_a_kept_one_is_not() {
        let options = ClusterOptions {
            replicas: 0,
            persistence: Persistence::Rdb,
            password: Some("secret".into()),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options).await.unwrap();
        let node = cluster.node(0);
        node.cli(&["SET", "k", "v"]).await.unwrap();
        node.terminate().await.unwrap();
        node.restart(Data::Kept).await.unwrap();
        assert_eq!(node.cli(&["GET", "k"]).await.unwrap().text(), Some("v"));
        node.restart(Data::Empty).await.unwrap();
        assert_eq!(node.cli(&["DBSIZE"]).await.unwrap().number(), Some(0));
    }
}
