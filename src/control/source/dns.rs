//! The nodes that names in the DNS stand for: A and AAAA of a host with a fixed port, or SRV. Asked again
//! on a timer (sooner where a record's TTL is shorter), and at once when the core asks for early probes.
//!
//! Every answer is a whole: what it names no more is no node any more. A name that can not be resolved,
//! or to nothing, keeps the nodes of its last good answer.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::resolver::{Answer, Resolver, Trouble};
use super::{Boxed, Source};
use crate::metrics::{LookupMetrics, LookupResult};
use crate::topology::NodeId;

/// Between two lookups at least, however urgent; doubled up to [`PATIENT`] while they show nothing new.
const URGENT: Duration = Duration::from_millis(25);

/// See [`URGENT`].
const PATIENT: Duration = Duration::from_millis(100);

/// A shorter TTL is no reason to ask more often than this.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Nodes at most; what a name stands for beyond that is not looked at.
const MOST: usize = 256;

/// Which names, and whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// At least one; the order of the nodes follows it.
    pub names: Vec<DnsName>,
    /// The servers to ask, in place of those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Between two lookups at most.
    pub refresh: Duration,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsName {
    /// Its A and AAAA records are nodes with this port.
    Host {
        /// The name.
        name: String,
        /// The port of every node.
        port: u16,
    },
    /// Its SRV records name hosts and ports.
    Service {
        /// The name, for example `_redis._tcp.example.internal`.
        name: String,
    },
}

impl DnsName {
    fn name(&self) -> &str {
        match self {
            DnsName::Host { name, .. } | DnsName::Service { name } => name,
        }
    }
}

/// See the head of the file.
pub struct DnsSource {
    known: watch::Receiver<Known>,
    told: Vec<NodeId>,
    hurry: Arc<Notify>,
    task: AbortHandle,
}

/// What the lookups found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    nodes: Vec<NodeId>,
    trouble: Option<String>,
}

impl DnsSource {
    /// Begins to look; needs a runtime. `backend` is named in the log.
    pub fn new(settings: DnsSettings, backend: Arc<str>) -> Self {
        let (found, known) = watch::channel(Known::default());
        let hurry = Arc::new(Notify::new());
        let lookups = Lookups {
            resolver: Resolver::new(settings.resolvers.clone()),
            last: vec![Vec::new(); settings.names.len()],
            addresses: HashMap::new(),
            asked: HashSet::new(),
            troubled: vec![false; settings.names.len()],
            settings,
            metrics: LookupMetrics::new(&backend),
            backend,
            found,
            hurry: hurry.clone(),
        };
        DnsSource {
            known,
            told: Vec::new(),
            hurry,
            task: tokio::spawn(lookups.run()).abort_handle(),
        }
    }
}

impl Drop for DnsSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for DnsSource {
    fn next(&mut self) -> Boxed<'_, Vec<NodeId>> {
        Box::pin(async move {
            loop {
                let nodes = self.known.borrow_and_update().nodes.clone();
                if nodes != self.told && !nodes.is_empty() {
                    self.told.clone_from(&nodes);
                    return nodes;
                }
                if self.known.changed().await.is_err() {
                    // The task ends with this value only.
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn look_again(&mut self) {
        self.hurry.notify_one();
    }

    fn trouble(&self) -> Option<String> {
        self.known.borrow().trouble.clone()
    }

    fn is_all(&self) -> bool {
        true
    }
}

/// The task that looks names up.
struct Lookups {
    settings: DnsSettings,
    resolver: Resolver,
    /// The nodes of each name's last good answer.
    last: Vec<Vec<NodeId>>,
    /// The last addresses of each host, for when only one of two questions is answered.
    addresses: HashMap<(String, RecordType), Vec<IpAddr>>,
    /// The hosts of this look.
    asked: HashSet<String>,
    /// The names whose trouble was told.
    troubled: Vec<bool>,
    metrics: LookupMetrics,
    backend: Arc<str>,
    found: watch::Sender<Known>,
    hurry: Arc<Notify>,
}

/// What one name stands for now.
struct Found<T> {
    found: Vec<T>,
    /// How long it may be believed.
    ttl: Duration,
    /// What could not be asked all the same.
    trouble: Option<Trouble>,
}

impl Lookups {
    async fn run(mut self) {
        let mut pause = URGENT;
        loop {
            let (changed, ttl) = self.look().await;
            pause = match changed {
                true => URGENT,
                false => (pause * 2).min(PATIENT),
            };
            // A lookup is one of many, so even the most urgent one waits for a moment.
            sleep(pause).await;
            let rest = self.settings.refresh.min(ttl.max(SHORTEST_TTL));
            tokio::select! {
                () = sleep(rest.saturating_sub(pause)) => pause = URGENT,
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Asks for every name. Whether the set changed, and how long the answers may be believed.
    async fn look(&mut self) -> (bool, Duration) {
        let mut ttl = Duration::MAX;
        let mut troubles = Vec::new();
        self.resolver.prepare();
        self.asked.clear();
        for index in 0..self.settings.names.len() {
            let name = self.settings.names[index].clone();
            let trouble = match self.nodes_of(&name).await {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    self.last[index] = found.found;
                    found.trouble
                }
                Err(trouble) => Some(trouble),
            };
            let result = trouble.as_ref().map(|trouble| trouble.result);
            self.metrics.ended(result.unwrap_or(LookupResult::Answered));
            let why = trouble.map(|trouble| trouble.why);
            self.tell(index, why.as_deref());
            troubles.extend(why);
        }
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in self.last.iter().flatten() {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        if nodes.len() > MOST {
            troubles.push(format!(
                "only {MOST} of {} nodes are looked at",
                nodes.len()
            ));
            nodes.truncate(MOST);
        }
        if troubles.is_empty() {
            let asked = &self.asked;
            self.addresses.retain(|(host, _), _| asked.contains(host));
        }
        let known = Known {
            nodes,
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
        };
        let mut changed = false;
        self.found.send_if_modified(|before| {
            changed = before.nodes != known.nodes;
            let differs = *before != known;
            *before = known;
            differs
        });
        (changed, ttl)
    }

    /// Tells the beginning and the end of trouble with a name, once.
    fn tell(&mut self, index: usize, trouble: Option<&str>) {
        let (backend, name) = (&*self.backend, self.settings.names[index].name());
        let before = std::mem::replace(&mut self.troubled[index], trouble.is_some());
        match trouble {
            Some(why) if !before && self.last[index].is_empty() => {
                tracing::warn!(backend, name, why, "a name stands for no node yet");
            }
            Some(why) if !before => {
                tracing::warn!(
                    backend,
                    name,
                    why,
                    "a name can not be resolved, the last answer counts"
                );
            }
            None if before => tracing::info!(backend, name, "a name is resolved again"),
            _ => {}
        }
    }

    async fn nodes_of(&mut self, name: &DnsName) -> Result<Found<NodeId>, Trouble> {
        match name {
            DnsName::Host { name, port } => {
                let hosts = self.addresses_of(name).await?;
                let node = |ip: &IpAddr| NodeId::new(SocketAddr::new(*ip, *port).to_string());
                Ok(Found {
                    found: hosts.found.iter().map(node).collect(),
                    ttl: hosts.ttl,
                    trouble: hosts.trouble,
                })
            }
            DnsName::Service { name } => self.services_of(name).await,
        }
    }

    /// The hosts behind SRV records, in the order of priority, weight and name.
    async fn services_of(&mut self, name: &str) -> Result<Found<NodeId>, Trouble> {
        let answer = self.resolver.ask(name, RecordType::SRV).await?;
        let mut targets: Vec<_> = answer
            .data
            .iter()
            .filter_map(|data| match data {
                RData::SRV(srv) if !srv.target.is_root() => Some((
                    srv.priority,
                    std::cmp::Reverse(srv.weight),
                    srv.target.to_string(),
                    srv.port,
                )),
                _ => None,
            })
            .collect();
        targets.sort();
        let mut all = Found {
            found: Vec::new(),
            ttl: answer.ttl,
            trouble: None,
        };
        for (_, _, target, port) in targets {
            match self.addresses_of(&target).await {
                Ok(hosts) => {
                    all.ttl = all.ttl.min(hosts.ttl);
                    all.trouble = all.trouble.or(hosts.trouble);
                    let nodes = hosts.found.into_iter().map(|ip| SocketAddr::new(ip, port));
                    all.found
                        .extend(nodes.map(|node| NodeId::new(node.to_string())));
                }
                Err(why) => {
                    // A service whose host can not be asked now is where it was.
                    let before = self.remembered(&target);
                    let nodes = before.into_iter().map(|ip| SocketAddr::new(ip, port));
                    all.found
                        .extend(nodes.map(|node| NodeId::new(node.to_string())));
                    all.trouble.get_or_insert(why);
                }
            }
        }
        match (all.found.is_empty(), all.trouble) {
            (true, Some(why)) => Err(why),
            (true, None) => Err(nothing(format!("{name} has no SRV record"))),
            (false, trouble) => Ok(Found { trouble, ..all }),
        }
    }

    fn remembered(&self, host: &str) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.addresses.get(&(host.to_owned(), kind)))
            .flatten()
            .copied()
            .collect()
    }

    /// The addresses of a host, IPv4 first. Of two questions one may stay without an answer; then its
    /// last one counts.
    async fn addresses_of(&mut self, host: &str) -> Result<Found<IpAddr>, Trouble> {
        self.asked.insert(host.to_owned());
        let (four, six) = tokio::join!(
            self.resolver.ask(host, RecordType::A),
            self.resolver.ask(host, RecordType::AAAA),
        );
        if let (Err(why), Err(_)) = (&four, &six) {
            return Err(why.clone());
        }
        let mut all = Found {
            found: Vec::new(),
            ttl: Duration::MAX,
            trouble: None,
        };
        let mut fresh = Vec::new();
        for (kind, answer) in [(RecordType::A, four), (RecordType::AAAA, six)] {
            let key = (host.to_owned(), kind);
            match answer {
                Ok(answer) => {
                    all.ttl = all.ttl.min(answer.ttl);
                    let mut found = addresses(&answer);
                    found.sort();
                    all.found.extend(&found);
                    fresh.push((key, found));
                }
                Err(why) => {
                    all.found
                        .extend(self.addresses.get(&key).into_iter().flatten());
                    all.trouble = Some(why);
                }
            }
        }
        if all.found.is_empty() {
            let none = || nothing(format!("{host} has no address"));
            return Err(all.trouble.unwrap_or_else(none));
        }
        self.addresses.extend(fresh);
        Ok(all)
    }
}

fn nothing(why: String) -> Trouble {
    Trouble {
        result: LookupResult::NoAddress,
        why,
    }
}

fn addresses(answer: &Answer) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    answer.data.iter().filter_map(address).collect()
}
