//! The data plane alone, in front of real servers; the test plays the control plane.

use std::time::Duration;

use pointsman::lab::{Address, Client, Cluster, ClusterOptions, DataPlane, Server};
use pointsman::proxy::BackendSettings;
use pointsman::topology::{Epoch, EvidenceReceiver, Gate, NodeId, Topology};

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Plane {
    pub cluster: Cluster,
    plane: DataPlane,
}

impl Plane {
    /// One primary with `replicas`, the primary published in epoch 1.
    pub async fn start(replicas: usize) -> Plane {
        Plane::with(
            ClusterOptions {
                replicas,
                ..ClusterOptions::default()
            },
            BackendSettings::default(),
        )
        .await
    }

    /// One node, and a proxy that holds requests no longer than that.
    pub async fn impatient(hold_timeout: Duration) -> Plane {
        let options = ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        };
        let settings = BackendSettings {
            hold_timeout,
            ..BackendSettings::default()
        };
        Plane::with(options, settings).await
    }

    pub async fn with(options: ClusterOptions, settings: BackendSettings) -> Plane {
        let cluster = Cluster::start(options).await.expect("servers start");
        let plane = DataPlane::start(settings).expect("the data plane starts");
        let plane = Plane { cluster, plane };
        plane.publish(1, 0, Gate::Open).await;
        plane
    }

    pub fn node(&self, number: usize) -> &Server {
        self.cluster.node(number)
    }

    /// What the workers saw.
    pub fn evidence(&mut self) -> &mut EvidenceReceiver {
        &mut self.plane.evidence
    }

    /// Where clients connect.
    pub fn address(&self) -> Address {
        Address::Tcp(self.plane.address.clone())
    }

    /// A client connected through the data plane.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address())
            .await
            .expect("pointsman accepts")
    }

    /// Publishes `node` as primary as it is now.
    pub async fn publish(&self, epoch: u64, node: usize, gate: Gate) -> u64 {
        let published = self.plane.publish(epoch, self.node(node), gate).await;
        published.expect("INFO answers")
    }

    /// Publishes the present primary at another address.
    pub fn publish_at(&self, epoch: u64, address: NodeId) {
        let mut topology = Topology::clone(&self.plane.writer.current());
        let primary = topology.primary.as_mut().expect("a primary");
        (topology.epoch, primary.node) = (Epoch(epoch), address);
        self.plane.writer.publish(topology);
    }

    /// Closes or opens the gate of what is published.
    pub fn gate(&self, gate: Gate) -> u64 {
        self.plane.writer.publish(Topology {
            gate,
            ..Topology::clone(&self.plane.writer.current())
        })
    }

    /// Ends the data plane as SIGTERM does; returns how many clients were cut off.
    pub async fn drain(self) -> usize {
        self.plane.proxy.drain().await
    }

    /// Waits until the worker obeys `generation`.
    pub async fn obeyed(&self, generation: u64) {
        tokio::time::timeout(PATIENCE, self.plane.writer.obeyed(generation))
            .await
            .expect("obeyed in time");
    }

    /// Promotes `node` and publishes it in `epoch`.
    pub async fn promote(&self, epoch: u64, node: usize) {
        self.node(node)
            .cli(&["REPLICAOF", "NO", "ONE"])
            .await
            .expect("promoted");
        self.publish(epoch, node, Gate::Open).await;
    }
}

/// Sends a request written as words and returns the reply as text.
pub async fn ask(client: &mut Client, request: &str) -> String {
    send(client, request).await;
    hear(client).await
}

/// Sends a request without waiting for its reply.
pub async fn send(client: &mut Client, request: &str) {
    let words: Vec<&str> = request.split(' ').collect();
    client.send(&words).await.expect("sent");
}

/// The next reply as text.
pub async fn hear(client: &mut Client) -> String {
    match tokio::time::timeout(PATIENCE, client.receive()).await {
        Ok(Ok(value)) => value.to_string(),
        Ok(Err(error)) => format!("!{error}"),
        Err(_) => "!nothing came".to_owned(),
    }
}

/// The next message as text.
pub async fn message(client: &mut Client) -> String {
    match tokio::time::timeout(PATIENCE, client.message()).await {
        Ok(Ok(value)) => value.to_string(),
        Ok(Err(error)) => format!("!{error}"),
        Err(_) => "!nothing came".to_owned(),
    }
}
