//! The data plane alone, in front of real servers; the test plays the control plane.

use std::sync::Arc;
use std::time::Duration;

use pointsman::lab::{Address, Client, Cluster, ClusterOptions, Server};
use pointsman::proxy::{self, BackendPlan, BackendSettings, ListenerPlan, Proxy, Settings, Socket};
use pointsman::topology::{
    Epoch, EvidenceReceiver, Gate, Primary, Topology, TopologyWriter, channel, evidence_channel,
};

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Plane {
    pub cluster: Cluster,
    /// Runs as long as this lives.
    _proxy: Proxy,
    pub evidence: EvidenceReceiver,
    writer: TopologyWriter,
    address: Address,
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

    pub async fn with(options: ClusterOptions, settings: BackendSettings) -> Plane {
        let cluster = Cluster::start(options).await.expect("servers start");
        let (writer, reader) = channel(Topology::unknown("main"), 1);
        let (sender, evidence) = evidence_channel(64);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        let proxy = proxy::start(proxy::Plan {
            settings: Settings {
                workers: 1,
                ..Settings::default()
            },
            backends: vec![BackendPlan {
                name: Arc::from("main"),
                topology: reader,
                cluster: None,
                evidence: sender,
                credentials: None,
                settings,
            }],
            listeners: vec![ListenerPlan {
                backend: 0,
                socket: Socket::Tcp(listener),
            }],
        })
        .expect("the data plane starts");
        let plane = Plane {
            cluster,
            _proxy: proxy,
            evidence,
            writer,
            address,
        };
        plane.publish(1, 0, Gate::Open).await;
        plane
    }

    pub fn node(&self, number: usize) -> &Server {
        self.cluster.node(number)
    }

    /// Where clients connect.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// A client connected through the data plane.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address)
            .await
            .expect("pointsman accepts")
    }

    /// Publishes `node` as primary as it is now.
    pub async fn publish(&self, epoch: u64, node: usize, gate: Gate) -> u64 {
        let server = self.node(node);
        let (run_id, repl_id) = (
            server.info_field("run_id").await,
            server.info_field("master_replid").await,
        );
        let primary = Primary {
            node: server.id(),
            run_id: run_id.expect("INFO answers").into(),
            repl_id: repl_id.expect("INFO answers").into(),
        };
        self.writer.publish(Topology {
            epoch: Epoch(epoch),
            gate,
            primary: Some(primary),
            ..Topology::unknown("main")
        })
    }

    /// Closes or opens the gate of what is published.
    pub fn gate(&self, gate: Gate) -> u64 {
        self.writer.publish(Topology {
            gate,
            ..Topology::clone(&self.writer.current())
        })
    }

    /// Waits until the worker obeys `generation`.
    pub async fn obeyed(&self, generation: u64) {
        tokio::time::timeout(PATIENCE, self.writer.obeyed(generation))
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
