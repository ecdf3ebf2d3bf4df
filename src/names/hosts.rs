//! The addresses of nodes that are given by name: looked up when the topology changes and from time to
//! time, so that a question never waits for another one.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::topology::{NodeId, Topology, TopologyReader};

/// Time between two lookups of a name.
const PERIOD: Duration = Duration::from_secs(5);

/// Bound of one lookup.
const LIMIT: Duration = Duration::from_secs(2);

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: ArcSwap<HashMap<Arc<str>, BTreeSet<IpAddr>>>,
}

impl Hosts {
    /// `None`: not known. An address that is given as one is known always.
    pub(super) fn addresses(&self, node: &NodeId) -> Option<BTreeSet<IpAddr>> {
        let (host, _) = node.host_port()?;
        match host.parse() {
            Ok(address) => Some(BTreeSet::from([address])),
            Err(_) => self.known.load().get(host).cloned(),
        }
    }

    /// Looks names up until the topology's writer is gone.
    pub(super) async fn keep(&self, mut topology: TopologyReader) {
        loop {
            let named = named(&topology.current());
            if named.is_empty() {
                match topology.changed().await {
                    Ok(_) => continue,
                    Err(_) => return,
                }
            }
            self.look_up(named).await;
            if let Ok(Err(_)) = timeout(PERIOD, topology.changed()).await {
                return;
            }
        }
    }

    /// A name whose lookup fails keeps the addresses it had.
    async fn look_up(&self, hosts: BTreeSet<Arc<str>>) {
        let mut lookups = JoinSet::new();
        for host in hosts.iter().cloned() {
            lookups.spawn(async move {
                let found = timeout(LIMIT, lookup_host((&*host, 0))).await.ok()?.ok()?;
                let found: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
                Some((host, found)).filter(|(_, found)| !found.is_empty())
            });
        }
        let before = self.known.load();
        let kept = before.iter().filter(|(host, _)| hosts.contains(*host));
        let mut known: HashMap<_, _> = kept.map(|(h, a)| (h.clone(), a.clone())).collect();
        while let Some(found) = lookups.join_next().await {
            if let Ok(Some((host, found))) = found {
                known.insert(host, found);
            }
        }
        self.known.store(Arc::new(known));
    }
}

/// Hosts that are no addresses.
fn named(topology: &Topology) -> BTreeSet<Arc<str>> {
    let primary = topology.primary.iter().map(|primary| &primary.node);
    let nodes = primary.chain(&topology.replicas);
    nodes
        .filter_map(|node| Some(node.host_port()?.0))
        .filter(|host| host.parse::<IpAddr>().is_err())
        .map(Arc::from)
        .collect()
}
