//! The sentinels of a cluster: the same program as its servers, started with `--sentinel`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Cluster, LabError, Scratch, Server, Value, until};
use crate::topology::NodeId;

/// What the sentinels call the cluster.
pub const MASTER: &str = "mymaster";

/// How long they may take to find each other and the replicas.
const READY: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug)]
pub struct SentinelOptions {
    /// How many.
    pub count: usize,
    /// How many must agree that the primary is down.
    pub quorum: usize,
    /// `down-after-milliseconds`
    pub down_after: Duration,
    /// `failover-timeout`
    pub failover_timeout: Duration,
    /// What the sentinels call the machine of the servers.
    pub host: String,
    /// `requirepass` of the sentinels themselves.
    pub password: Option<String>,
    /// Further lines of every sentinel's configuration.
    pub config: Vec<String>,
}

impl Default for SentinelOptions {
    /// Three, of which two must agree; a second without an answer; everything else as Redis has it.
    fn default() -> Self {
        SentinelOptions {
            count: 3,
            quorum: 2,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(180),
            host: "127.0.0.1".into(),
            password: None,
            config: Vec::new(),
        }
    }
}

/// Running sentinels. Dropping it ends them and removes their directory.
#[derive(Debug)]
pub struct Sentinels {
    sentinels: Vec<Server>,
    options: SentinelOptions,
    program: PathBuf,
    node_password: Option<String>,
    /// After `sentinels`: a process must be gone before its directory is.
    scratch: Scratch,
}

impl Sentinels {
    /// Starts them in front of a cluster whose node 0 is primary; returns when all know all.
    pub async fn start(options: SentinelOptions, cluster: &Cluster) -> Result<Sentinels, LabError> {
        let mut sentinels = Sentinels {
            sentinels: Vec::new(),
            program: cluster.node(0).own_program().to_owned(),
            node_password: cluster.password().map(str::to_owned),
            scratch: Scratch::new()?,
            options,
        };
        let primary = cluster.node(0).id();
        for _ in 0..sentinels.options.count {
            sentinels.add(&primary).await?;
        }
        sentinels.ready(cluster.nodes().len() - 1).await?;
        Ok(sentinels)
    }

    /// Starts another one, which is told that `primary` is the primary.
    pub async fn add(&mut self, primary: &NodeId) -> Result<&Server, LabError> {
        let number = self.sentinels.len();
        let directory = self.scratch.path().join(format!("sentinel-{number}"));
        let lines = self.lines(MASTER, primary);
        let password = self.options.password.clone();
        let started = Server::start_sentinel(directory, self.program.clone(), password, &lines);
        self.sentinels.push(started.await?);
        Ok(&self.sentinels[number])
    }

    fn lines(&self, master: &str, primary: &NodeId) -> Vec<String> {
        let options = &self.options;
        let port = primary.host_port().map_or(0, |(_, port)| port);
        let (host, quorum) = (&options.host, options.quorum);
        // First of all what decides how names are read.
        let mut lines = options.config.clone();
        lines.extend([
            format!("sentinel monitor {master} {host} {port} {quorum}"),
            format!(
                "sentinel down-after-milliseconds {master} {}",
                options.down_after.as_millis()
            ),
            format!(
                "sentinel failover-timeout {master} {}",
                options.failover_timeout.as_millis()
            ),
        ]);
        if let Some(password) = &self.node_password {
            lines.push(format!("sentinel auth-pass {master} {password}"));
        }
        if let Some(password) = &options.password {
            lines.push(format!("sentinel sentinel-pass {password}"));
        }
        lines
    }

    /// All of them, dead ones too.
    pub fn all(&self) -> &[Server] {
        &self.sentinels
    }

    /// Waits until all that live know each other and the replicas, and none is in a failover.
    pub async fn ready(&self, replicas: usize) -> Result<(), LabError> {
        let alive = || self.sentinels.iter().filter(|s| s.pid().is_some());
        let others = alive().count() - 1;
        until("sentinels that know everything", READY, async || {
            for sentinel in alive() {
                let master = master(sentinel).await.map_err(|e| e.to_string())?;
                let is = |name: &str, value: String| master.get(name) == Some(&value);
                let calm = is("flags", "master".into());
                let knows = is("num-other-sentinels", others.to_string())
                    && is("num-slaves", replicas.to_string());
                if !calm || !knows {
                    return Err(format!("{}: {master:?}", sentinel.id()));
                }
                let known = sentinel.cli(&["SENTINEL", "REPLICAS", MASTER]).await;
                let known = known.map_err(|e| e.to_string())?;
                for replica in known.items().unwrap_or_default() {
                    let fields = fields(replica);
                    let field = |name: &str| fields.get(name).map_or("", String::as_str);
                    if field("flags") != "slave" {
                        return Err(format!("{}: {fields:?}", sentinel.id()));
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// `SENTINEL FAILOVER`, asked of the first one that lives.
    pub async fn failover(&self) -> Result<Value, LabError> {
        let alive = self.sentinels.iter().find(|s| s.pid().is_some());
        let sentinel = alive.ok_or_else(|| LabError::Unexpected("no sentinel lives".into()))?;
        sentinel.cli(&["SENTINEL", "FAILOVER", MASTER]).await
    }

    /// `host:port` of every one, as a configuration names them.
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.sentinels.iter().map(Server::id);
        addresses.map(|id| id.as_str().to_owned()).collect()
    }

    /// `source = ...` of a pointsman that listens to them.
    pub fn source_line(&self) -> String {
        let password = match &self.options.password {
            Some(password) => format!(", password = {password:?}"),
            None => String::new(),
        };
        format!(
            "source = {{ kind = \"sentinel\", sentinels = {:?}, master = \"{MASTER}\"{password} }}",
            self.addresses()
        )
    }
}

/// What a sentinel says of the primary.
pub async fn master(sentinel: &Server) -> Result<BTreeMap<String, String>, LabError> {
    let reply = sentinel.cli(&["SENTINEL", "MASTER", MASTER]).await?;
    Ok(fields(&reply))
}

fn fields(reply: &Value) -> BTreeMap<String, String> {
    let items = reply.items().unwrap_or_default();
    let text = |value: &Value| value.text().unwrap_or_default().to_owned();
    let pairs = items.chunks_exact(2);
    pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}
