//! A primary or a replica as Sentinel describes it: flags, and fields in Sentinel's order. A field that
//! is not known here is left out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{Answer, Backend, Sentinel};
use crate::failover::{Health, NodeRole, NodeStatus, Status};
use crate::resp::{put_bulk, put_map};
use crate::topology::{NodeId, Primary, Topology};

/// Fields and their values.
pub(super) type Fields = Vec<(&'static str, String)>;

/// What Sentinel says for a host it does not know.
const UNKNOWN_HOST: &str = "?";

/// How a backend's primary is, in Sentinel's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It may be used.
    Serving,
    /// It is being moved on purpose.
    Moving,
    /// It is doubted: nobody writes to it until that is cleared up.
    Doubted,
    /// It is lost, and another one is being made primary.
    Lost,
    /// None was found yet.
    Unknown,
}

impl Condition {
    /// `known`: there was a primary before. While another one is being made, none is published.
    pub(super) fn of(topology: &Topology, known: bool, status: Option<&Status>) -> Condition {
        if topology.open_primary().is_some() {
            return Condition::Serving;
        }
        match status.map(|status| status.phase.as_str()) {
            _ if !known => Condition::Unknown,
            Some("switching_over") => Condition::Moving,
            Some("failing_over") => Condition::Lost,
            _ => Condition::Doubted,
        }
    }

    /// Whether Sentinel would call it subjectively down.
    pub(super) fn is_down(self) -> bool {
        !matches!(self, Condition::Serving | Condition::Moving)
    }

    fn flags(self) -> &'static str {
        match self {
            Condition::Serving => "master",
            Condition::Moving => "master,failover_in_progress",
            Condition::Doubted => "s_down,master",
            Condition::Lost => "s_down,o_down,master,failover_in_progress",
            Condition::Unknown => "s_down,o_down,master,disconnected",
        }
    }

    /// As INFO has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Condition::Serving | Condition::Moving => "ok",
            Condition::Doubted => "sdown",
            Condition::Lost | Condition::Unknown => "odown",
        }
    }
}

/// Whether a replica should be left alone.
pub(super) fn is_down(node: &NodeStatus) -> bool {
    match node.health {
        // One that says that it is a primary, and is not the published one, holds other data.
        Health::Up | Health::Suspect => node.role == Some(NodeRole::Primary),
        // No judgement yet; `disconnected` says so.
        Health::Unknown | Health::Unasked => false,
        _ => true,
    }
}

fn replica_flags(node: &NodeStatus) -> String {
    let apart = matches!(
        node.health,
        Health::Unknown | Health::Refused | Health::Unacked | Health::Unresolved
    );
    let words = [
        (is_down(node), "s_down"),
        (true, "slave"),
        (apart, "disconnected"),
    ];
    let set: Vec<&str> = words.iter().filter(|w| w.0).map(|w| w.1).collect();
    set.join(",")
}

/// One backend at one moment, for a client that reached us at a certain address.
pub(super) struct View<'b> {
    backend: &'b Backend,
    topology: Arc<Topology>,
    /// The published primary; while there is none, the one before.
    pub(super) primary: Option<Primary>,
    pub(super) status: Option<Arc<Status>>,
    answer: Answer,
    reached: IpAddr,
}

impl<'b> View<'b> {
    /// Asks the control plane.
    pub(super) async fn now(sentinel: &'b Sentinel, index: usize, reached: IpAddr) -> View<'b> {
        let status = sentinel.status(index).await;
        View {
            status,
            ..View::published(sentinel, index, reached)
        }
    }

    /// Only what is published.
    pub(super) fn published(sentinel: &'b Sentinel, index: usize, reached: IpAddr) -> View<'b> {
        let backend = &sentinel.backends[index];
        let topology = backend.topology.current();
        let before = || sentinel.before[index].load().as_deref().cloned();
        View {
            backend,
            primary: topology.primary.clone().or_else(before),
            topology,
            status: None,
            answer: sentinel.settings.answer,
            reached,
        }
    }

    /// Whether the client may connect to the address: while another primary is being made, not to the
    /// one before, which may live and lose what it is told.
    pub(super) fn is_known(&self) -> bool {
        self.answer == Answer::Proxy || self.topology.primary.is_some()
    }

    /// Where the primary is, or was; `None` when there never was one.
    pub(super) fn address(&self) -> Option<(String, u16)> {
        match self.answer {
            Answer::Node => {
                let (host, port) = self.primary.as_ref()?.node.host_port()?;
                Some((host.to_owned(), port))
            }
            Answer::Proxy => {
                let listener = self.backend.listener?;
                // One that listens everywhere is reached where we are.
                let ip = match listener.ip().is_unspecified() {
                    true => self.reached.to_canonical(),
                    false => listener.ip(),
                };
                Some((ip.to_string(), listener.port()))
            }
        }
    }

    /// A client of a listener is held while there is no primary: for it, that is never down.
    pub(super) fn condition(&self) -> Condition {
        match self.answer {
            Answer::Node => self.node_condition(),
            Answer::Proxy => Condition::Serving,
        }
    }

    /// That of the node, whatever is handed out.
    pub(super) fn node_condition(&self) -> Condition {
        Condition::of(
            &self.topology,
            self.primary.is_some(),
            self.status.as_deref(),
        )
    }

    fn primary_status(&self) -> Option<&NodeStatus> {
        let primary = &self.primary.as_ref()?.node;
        let nodes = &self.status.as_ref()?.nodes;
        nodes.iter().find(|node| node.node == *primary)
    }

    /// Every node but the primary that wants to be known.
    pub(super) fn replicas(&self) -> Vec<&NodeStatus> {
        let primary = self.primary.as_ref().map(|p| &p.node);
        let nodes = self.status.iter().flat_map(|status| status.nodes.iter());
        nodes
            .filter(|node| node.announced && Some(&node.node) != primary)
            .collect()
    }

    /// The fields of SENTINEL MASTER.
    pub(super) fn primary_fields(&self) -> Fields {
        let backend = self.backend;
        let condition = self.condition();
        let (ip, port) = self.address().unwrap_or((UNKNOWN_HOST.to_owned(), 0));
        let run_id = self.primary.as_ref().map(|p| p.run_id.to_string());
        let last_seen = self.primary_status().and_then(|node| node.last_seen);
        let mut fields = vec![
            ("name", backend.name.to_string()),
            ("ip", ip),
            ("port", port.to_string()),
            ("runid", run_id.unwrap_or_default()),
            ("flags", condition.flags().to_owned()),
        ];
        fields.extend(link(backend, last_seen, condition.is_down()));
        fields.extend([
            ("role-reported", "master".to_owned()),
            ("config-epoch", self.topology.epoch.to_string()),
            ("num-slaves", self.replicas().len().to_string()),
            ("num-other-sentinels", "0".to_owned()),
            ("quorum", "1".to_owned()),
            ("failover-timeout", millis(backend.switchover_timeout)),
            ("parallel-syncs", backend.parallel_syncs.to_string()),
        ]);
        fields
    }

    /// The fields of one entry of SENTINEL REPLICAS.
    pub(super) fn replica_fields(&self, node: &NodeStatus) -> Fields {
        let split = |node: &NodeId| node.host_port().map(|(host, port)| (host.to_owned(), port));
        let unknown = || (UNKNOWN_HOST.to_owned(), 0);
        let (ip, port) = split(&node.node).unwrap_or_else(unknown);
        let follows = node.follows.as_ref().and_then(split);
        let (master_host, master_port) = follows.unwrap_or_else(unknown);
        let role = match node.role {
            Some(NodeRole::Primary) => "master",
            _ => "slave",
        };
        let link_up = node.link_up == Some(true);
        let mut fields = vec![
            ("name", node.node.to_string()),
            ("ip", ip),
            ("port", port.to_string()),
            (
                "runid",
                node.run_id.as_deref().unwrap_or_default().to_owned(),
            ),
            ("flags", replica_flags(node)),
        ];
        fields.extend(link(self.backend, node.last_seen, is_down(node)));
        fields.push(("role-reported", role.to_owned()));
        if link_up {
            fields.push(("master-link-down-time", "0".to_owned()));
        }
        fields.extend([
            (
                "master-link-status",
                if link_up { "ok" } else { "err" }.to_owned(),
            ),
            ("master-host", master_host),
            ("master-port", master_port.to_string()),
            ("slave-priority", node.priority.unwrap_or(100).to_string()),
            ("slave-repl-offset", node.offset.unwrap_or(0).to_string()),
            ("replica-announced", "1".to_owned()),
        ]);
        fields
    }
}

/// What Sentinel says about its connection to an instance. We probe with INFO, not with PING, so one
/// answer is both.
fn link(backend: &Backend, last_seen: Option<Duration>, down: bool) -> Fields {
    let ago = last_seen.map(millis);
    let mut fields = vec![
        ("link-pending-commands", "0".to_owned()),
        ("link-refcount", "1".to_owned()),
        ("last-ping-sent", "0".to_owned()),
    ];
    let known = |name: &'static str| ago.clone().map(|ago| (name, ago));
    fields.extend(known("last-ok-ping-reply"));
    fields.extend(known("last-ping-reply"));
    if down {
        fields.extend(known("s-down-time"));
    }
    fields.push(("down-after-milliseconds", millis(backend.down_after)));
    fields.extend(known("info-refresh"));
    fields
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// Appends fields as one map; every value is a string, as Sentinel has it.
pub(super) fn put_fields(out: &mut BytesMut, fields: &Fields, resp3: bool) {
    put_map(out, fields.len(), resp3);
    for (name, value) in fields {
        put_bulk(out, name.as_bytes());
        put_bulk(out, value.as_bytes());
    }
}
