//! A Redis Cluster of three shards on free loopback ports. (`cluster.rs` is one replicated primary.)

use std::path::PathBuf;
use std::time::Duration;

use super::server::{Server, ServerOptions};
use super::{LabError, Port, Scratch, until};
use crate::clock;
use crate::topology::{NodeId, Timestamp};

/// How long the cluster may take to form, or to settle again.
pub const SETTLE: Duration = Duration::from_secs(40);

/// The nodes give a CLUSTER FAILOVER up after five seconds, which a busy machine may need.
const HANDING_OVER: Duration = Duration::from_secs(6);

/// The port for other nodes is so much above that for clients; before Redis 7 nobody can choose it.
const BUS: u16 = 10_000;

/// Shards of the cluster.
pub const SHARDS: usize = 3;

/// `cluster-node-timeout` where a primary is to be replaced soon.
pub const NODE_TIMEOUT: Duration = Duration::from_millis(2000);

/// The same where none is: a busy machine may keep a node waiting for seconds.
pub const PATIENT_NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug)]
pub struct ShardedOptions {
    /// The server's program.
    pub program: PathBuf,
    /// `requirepass` and `masterauth` of every node.
    pub password: Option<String>,
    /// `cluster-node-timeout` of every node.
    pub node_timeout: Duration,
}

impl Default for ShardedOptions {
    fn default() -> Self {
        ShardedOptions {
            program: Server::program(),
            password: None,
            node_timeout: NODE_TIMEOUT,
        }
    }
}

impl ShardedOptions {
    /// For work that needs no failover.
    pub fn patient(self) -> Self {
        ShardedOptions {
            node_timeout: PATIENT_NODE_TIMEOUT,
            ..self
        }
    }
}

/// The servers: first the primaries, then a replica of each, then nodes without slots. Dropping it ends
/// them.
#[derive(Debug)]
pub struct Sharded {
    nodes: Vec<Server>,
    names: Vec<String>,
    /// Kept as long as the nodes: their ports for each other.
    bus: Vec<Port>,
    scratch: Scratch,
    options: ShardedOptions,
}

impl Sharded {
    /// Starts three primaries and a replica of each; returns when the cluster says that it is well.
    pub async fn start(options: ShardedOptions) -> Result<Sharded, LabError> {
        let mut cluster = Sharded {
            options,
            nodes: Vec::new(),
            names: Vec::new(),
            bus: Vec::new(),
            scratch: Scratch::new()?,
        };
        for _ in 0..2 * SHARDS {
            cluster.add().await?;
        }
        for (number, node) in cluster.nodes[..SHARDS].iter().enumerate() {
            let epoch = (number + 1).to_string();
            ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
            let slots = 16_384 * number / SHARDS..16_384 * (number + 1) / SHARDS;
            let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
            let mut request = vec!["CLUSTER", "ADDSLOTS"];
            request.extend(slots.iter().map(String::as_str));
            ok(node, &request).await?;
        }
        for number in 1..2 * SHARDS {
            cluster.meet(number).await?;
        }
        for number in SHARDS..2 * SHARDS {
            cluster.replicate(number, number - SHARDS).await?;
        }
        cluster.settled().await?;
        Ok(cluster)
    }

    /// Starts a node that belongs to no cluster yet; returns its number.
    pub async fn add(&mut self) -> Result<usize, LabError> {
        let (port, bus) = Port::pick_two(BUS)?;
        let config = vec![
            "cluster-enabled yes".to_owned(),
            format!(
                "cluster-node-timeout {}",
                self.options.node_timeout.as_millis()
            ),
            "cluster-config-file nodes.conf".to_owned(),
        ];
        let options = ServerOptions {
            program: self.options.program.clone(),
            password: self.options.password.clone(),
            config,
            ..ServerOptions::default()
        };
        let number = self.nodes.len();
        let directory = self.scratch.path().join(format!("node-{number}"));
        let node = Server::start_at(port, directory, options).await?;
        let name = node.cli(&["CLUSTER", "MYID"]).await?;
        self.names.push(name.text().unwrap_or_default().to_owned());
        self.nodes.push(node);
        self.bus.push(bus);
        Ok(number)
    }

    /// The first node meets another one.
    pub async fn meet(&self, number: usize) -> Result<(), LabError> {
        let port = self.nodes[number].port().to_string();
        let bus = self.bus[number].number().to_string();
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
        ok(&self.nodes[0], &meet).await
    }

    async fn replicate(&self, replica: usize, of: usize) -> Result<(), LabError> {
        until("a replica of a shard", SETTLE, async || {
            let request = ["CLUSTER", "REPLICATE", self.name(of)];
            ok(&self.nodes[replica], &request)
                .await
                .map_err(|e| e.to_string())
        })
        .await
    }

    /// A node.
    pub fn node(&self, number: usize) -> &Server {
        &self.nodes[number]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// What a node is called in the cluster.
    pub fn name(&self, number: usize) -> &str {
        &self.names[number]
    }

    /// The node with this address.
    pub fn find(&self, id: &NodeId) -> Option<&Server> {
        self.nodes.iter().find(|node| node.id() == *id)
    }

    /// The number of the other node of the shard, where there are only those of the start.
    pub fn partner(&self, number: usize) -> usize {
        (number + SHARDS) % (2 * SHARDS)
    }

    /// `host:port` of every node.
    pub fn addresses(&self) -> Vec<String> {
        let ids = self.nodes.iter().map(Server::id);
        ids.map(|id| id.as_str().to_owned()).collect()
    }

    /// Waits until every living node says that the cluster is well and has its primary's data.
    pub async fn settled(&self) -> Result<(), LabError> {
        until("a cluster that is well", SETTLE, async || {
            for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
                let says = async |request: &[&str]| {
                    let reply = node.cli(request).await.map_err(|e| e.to_string())?;
                    Ok::<_, String>(reply.text().unwrap_or_default().to_owned())
                };
                let info = says(&["CLUSTER", "INFO"]).await?;
                let known = format!("cluster_known_nodes:{}", self.nodes.len());
                if !info.contains("cluster_state:ok") || !info.contains(&known) {
                    return Err(format!("{}: {info}", node.id()));
                }
                let replication = says(&["INFO", "replication"]).await?;
                if replication.contains("master_link_status:down") {
                    return Err(format!("{}: {replication}", node.id()));
                }
                if replication.contains("state=online") {
                    self.streams(node).await.map_err(|e| e.to_string())?;
                }
            }
            Ok(())
        })
        .await
    }

    /// A primary begins to stream only when its replica's first acknowledgement came, up to a second after
    /// the link is up: a write goes to it and comes back acknowledged.
    async fn streams(&self, node: &Server) -> Result<(), LabError> {
        let mut client = node.client().await?;
        let failed = || LabError::client(format!("write to {}", node.id()));
        for number in 0..64 {
            let key = format!("lab:settled:{number}");
            if !client
                .call(&["SET", &key, ""])
                .await
                .map_err(failed())?
                .is_ok()
            {
                // Its slot is elsewhere.
                continue;
            }
            let copies = client
                .call(&["WAIT", "1", "2000"])
                .await
                .map_err(failed())?;
            client.call(&["DEL", &key]).await.map_err(failed())?;
            return match copies.number() {
                Some(1..) => Ok(()),
                _ => Err(LabError::Unexpected(format!(
                    "{} does not stream",
                    node.id()
                ))),
            };
        }
        // It serves hardly any slot.
        Ok(())
    }

    /// The number of the living primary that serves a hash slot, by its own word.
    pub async fn primary_of(&self, slot: u16) -> Result<usize, LabError> {
        until("the primary of a hash slot", SETTLE, async || {
            let mut found = None;
            for (number, node) in self.nodes.iter().enumerate() {
                if node.pid().is_none() {
                    continue;
                }
                let reply = node
                    .cli(&["CLUSTER", "NODES"])
                    .await
                    .map_err(|e| e.to_string())?;
                let nodes = crate::resp::cluster_nodes::parse_cluster_nodes(
                    reply.text().unwrap_or_default(),
                );
                let own = nodes.into_iter().find(|node| node.myself && node.primary);
                let serves = |(first, last): &(u16, u16)| (*first..=*last).contains(&slot);
                let claim = own.filter(|own| own.slots.iter().any(serves));
                if let Some(own) = claim
                    && found.is_none_or(|(epoch, _)| own.config_epoch > epoch)
                {
                    found = Some((own.config_epoch, number));
                }
            }
            found
                .map(|(_, number)| number)
                .ok_or_else(|| "nobody".to_owned())
        })
        .await
    }

    /// CLUSTER FAILOVER at a replica; returns when it is primary.
    pub async fn hand_over(&self, to: usize) -> Result<(), LabError> {
        let node = &self.nodes[to];
        let mut asked: Option<Timestamp> = None;
        until("a replica that took over", SETTLE, async || {
            if node.is_primary().await.map_err(|e| e.to_string())? {
                return Ok(());
            }
            let now = clock::now();
            if asked.is_none_or(|at| now - at > HANDING_OVER) {
                let request = ["CLUSTER", "FAILOVER"];
                ok(node, &request).await.map_err(|e| e.to_string())?;
                asked = Some(now);
            }
            Err("not yet".to_owned())
        })
        .await
    }

    /// Moves one hash slot with its keys between two primaries, as `redis-cli --cluster reshard` does it.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) -> Result<(), LabError> {
        self.open_slot(slot, from, to).await?;
        while self.move_keys(slot, from, to, 10).await? > 0 {}
        self.close_slot(slot, to).await
    }

    /// From now on keys of the slot may be at either node.
    pub async fn open_slot(&self, slot: u16, from: usize, to: usize) -> Result<(), LabError> {
        let importing = ["IMPORTING", self.name(from)];
        self.set_slot(to, slot, &importing).await?;
        let migrating = ["MIGRATING", self.name(to)];
        self.set_slot(from, slot, &migrating).await
    }

    /// CLUSTER SETSLOT at one node.
    pub async fn set_slot(&self, at: usize, slot: u16, state: &[&str]) -> Result<(), LabError> {
        let text = slot.to_string();
        let request = [&["CLUSTER", "SETSLOT", &text], state].concat();
        patiently(&self.nodes[at], &request).await
    }

    /// Moves some keys of the slot; returns how many.
    pub async fn move_keys(
        &self,
        slot: u16,
        from: usize,
        to: usize,
        most: usize,
    ) -> Result<usize, LabError> {
        let (slot, most) = (slot.to_string(), most.to_string());
        let source = &self.nodes[from];
        let keys = source
            .cli(&["CLUSTER", "GETKEYSINSLOT", &slot, &most])
            .await?;
        let keys: Vec<String> = keys
            .items()
            .unwrap_or_default()
            .iter()
            .filter_map(|key| key.text().map(str::to_owned))
            .collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let port = self.nodes[to].port().to_string();
        let mut request = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        request.extend(keys.iter().map(String::as_str));
        patiently(source, &request).await?;
        Ok(keys.len())
    }

    /// The slot belongs to `to`, as all primaries hear.
    pub async fn close_slot(&self, slot: u16, to: usize) -> Result<(), LabError> {
        let owned = ["NODE", self.name(to)];
        self.set_slot(to, slot, &owned).await?;
        for (number, node) in self.nodes.iter().enumerate() {
            if number != to && node.pid().is_some() && node.is_primary().await? {
                self.set_slot(number, slot, &owned).await?;
            }
        }
        Ok(())
    }
}

/// Again as long as the cluster is too busy: Valkey sets a slot when its replicas have acknowledged it within two
/// seconds, and a node that was not heard of for `cluster-node-timeout` takes the cluster down for a moment.
async fn patiently(node: &Server, request: &[&str]) -> Result<(), LabError> {
    until("an act on a busy cluster", SETTLE, async || {
        match ok(node, request).await {
            Err(LabError::Unexpected(why))
                if why.contains("NOREPLICAS") || why.contains("CLUSTERDOWN") =>
            {
                Err(why)
            }
            done => Ok(done),
        }
    })
    .await?
}

async fn ok(node: &Server, request: &[&str]) -> Result<(), LabError> {
    let reply = node.cli(request).await?;
    match reply.is_ok() || reply.text() == Some("NOKEY") {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!(
            "{} on {}: {reply}",
            request.join(" "),
            node.id()
        ))),
    }
}
