//! The built-in DNS server: authoritative for one zone, which holds a few names for every backend.
//! It reads the published topology at each question, and everything it says has TTL 0.
//!
//! ```text
//! ZONE                        SOA, NS
//! ns.ZONE                     A, AAAA  where this server listens
//! BACKEND.ZONE                A, AAAA  the primary
//!                             TXT      "pointsman" "epoch=7" "backend=main" "primary=10.0.0.1:6379"
//! _redis._tcp.BACKEND.ZONE    SRV      the primary's port
//! replicas.BACKEND.ZONE       A, AAAA  every other node
//! ```
//!
//! While a backend has no primary that may get requests, a question about it waits as a request would:
//! for [`HOLD`], then it is answered with SERVFAIL. Nobody is sent to a primary that is being replaced.
//!
//! ```text
//! server   UDP and TCP, bounds     question  bytes -> one question, or what is wrong with it
//! zone     which names there are   answer    question and topology -> bytes
//! hosts    addresses of nodes that are given by name, looked up beside the questions
//! ```
//!
//! It runs on the thread of the admin server, never on a worker.

mod answer;
mod hosts;
mod question;
mod server;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;

pub use answer::{Reply, Transport};
pub use server::{Sockets, serve};
pub use zone::{Taken, check};

use crate::metrics::DnsMetrics;
use crate::topology::TopologyReader;
use hosts::Hosts;
use zone::Zone;

/// How long a question waits for a primary. Resolvers ask again after a second or more, and remember
/// SERVFAIL for at least as long (RFC 9520).
pub const HOLD: Duration = Duration::from_secs(1);

/// `[dns_server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesSettings {
    /// Where it listens, UDP and TCP.
    pub bind: SocketAddr,
    /// The zone, fully qualified.
    pub zone: Name,
}

/// One backend as the server knows it.
struct Backend {
    name: Arc<str>,
    topology: TopologyReader,
    hosts: Hosts,
}

/// Everything a question is answered from.
pub struct Names {
    settings: NamesSettings,
    zone: Zone,
    backends: Vec<Backend>,
    metrics: DnsMetrics,
}

impl Names {
    /// # Errors
    /// Two backends want the same name.
    pub fn new(
        settings: NamesSettings,
        backends: Vec<(Arc<str>, TopologyReader)>,
    ) -> Result<Names, Taken> {
        let names: Vec<&str> = backends.iter().map(|(name, _)| &**name).collect();
        let zone = Zone::new(&settings.zone, &names)?;
        let backends = backends.into_iter().map(|(name, topology)| Backend {
            name,
            topology,
            hosts: Hosts::default(),
        });
        Ok(Names {
            zone,
            backends: backends.collect(),
            settings,
            metrics: DnsMetrics::new(),
        })
    }

    /// Waits until the backend has a primary, or [`HOLD`] is over.
    pub async fn settled(&self, backend: usize) {
        let mut topology = self.backends[backend].topology.clone();
        let settled = async {
            while topology.current().open_primary().is_none() {
                if topology.changed().await.is_err() {
                    return;
                }
            }
        };
        // Late is late: whoever asks is told so.
        let _ = tokio::time::timeout(HOLD, settled).await;
    }
}
