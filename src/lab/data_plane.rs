//! The data plane alone, with one worker; whoever starts it plays the control plane.

use std::sync::Arc;

use super::{LabError, Server};
use crate::proxy::{self, BackendPlan, BackendSettings, ListenerPlan, Proxy, Settings, Socket};
use crate::topology::{
    Epoch, EvidenceReceiver, Gate, Primary, Topology, TopologyWriter, channel, evidence_channel,
};

/// See the module. It runs as long as this lives.
pub struct DataPlane {
    /// The workers.
    pub proxy: Proxy,
    /// What they are told.
    pub writer: TopologyWriter,
    /// What they saw; the last 64 pieces.
    pub evidence: EvidenceReceiver,
    /// Where clients connect.
    pub address: String,
}

impl DataPlane {
    /// Listens; no primary is published yet.
    ///
    /// # Errors
    /// No port or no thread could be had.
    pub fn start(settings: BackendSettings) -> Result<DataPlane, LabError> {
        let (writer, reader) = channel(Topology::unknown("main"), 1);
        let (sender, evidence) = evidence_channel(64);
        let listen = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?.to_string();
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(LabError::io("listening on a free port"))?;
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
        .map_err(LabError::io("starting the data plane"))?;
        Ok(DataPlane {
            proxy,
            writer,
            evidence,
            address,
        })
    }

    /// Publishes `server` as primary as it is now; returns the generation.
    ///
    /// # Errors
    /// It does not answer INFO.
    pub async fn publish(&self, epoch: u64, server: &Server, gate: Gate) -> Result<u64, LabError> {
        let primary = Primary {
            node: server.id(),
            run_id: server.info_field("run_id").await?.into(),
            repl_id: server.info_field("master_replid").await?.into(),
        };
        Ok(self.writer.publish(Topology {
            epoch: Epoch(epoch),
            gate,
            primary: Some(primary),
            ..Topology::unknown("main")
        }))
    }
}
