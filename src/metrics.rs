//! Every metric: its name, its labels, its handles. Handles are made once and kept; nothing is
//! looked up by name while requests flow. `docs/metrics.md` is compared with [`ALL`] by a test.
//!
//! Adding one: a row in [`ALL`], a handle in the struct of its plane, a row in `docs/metrics.md`.

mod label;

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

pub use label::{
    ConnectFailure, DeclineReason, DnsResult, FailoverEnd, LookupResult, PublicationOutcome,
    PublisherKind, RedirectKind, RejectReason, RequestOutcome, SentinelDrop, SwapResult,
    UpstreamKind, VipDrop,
};

use crate::topology::{Epoch, FailoverReport, Fault, Gate, NodeId, Outcome};

/// What kind of series a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets; the upper bounds, in the unit of the name.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word Prometheus uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// One metric of this program.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name; the unit is its suffix.
    pub name: &'static str,
    /// Kind of series.
    pub kind: Kind,
    /// Names of its labels, in alphabetical order.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
}

/// Short stalls matter as much as long ones: half a millisecond to half a minute.
const HOLD_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A switchover takes tens of milliseconds, a hang seconds, a dead cluster minutes.
const FAILOVER_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 120.0,
];

macro_rules! names {
    ($($konst:ident = $name:literal, $kind:expr, $labels:expr, $help:literal;)*) => {
        $(const $konst: &str = $name;)*
        /// Every metric of this program.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, labels: &$labels, help: $help },)*
        ];
    };
}

names! {
    BUILD_INFO = "pointsman_build_info", Kind::Gauge, ["version"],
        "Always 1; the label says which version runs.";
    REQUESTS = "pointsman_requests_total", Kind::Counter, ["backend", "outcome"],
        "Requests of clients, by how they ended.";
    REQUESTS_HELD = "pointsman_requests_held", Kind::Gauge, ["backend"],
        "Requests that wait for a primary now.";
    REQUESTS_HELD_TOTAL = "pointsman_requests_held_total", Kind::Counter, ["backend"],
        "Requests that had to wait for a primary.";
    REDIRECTED = "pointsman_requests_redirected_total", Kind::Counter, ["backend", "kind"],
        "Requests to a cluster that a node did not take and that were sent on or again.";
    SLOT_MAPS = "pointsman_slot_map_changes_total", Kind::Counter, ["backend"],
        "Times the known places of a cluster's hash slots changed.";
    REQUESTS_REPLAYED = "pointsman_requests_replayed_total", Kind::Counter, ["backend"],
        "Requests that had been sent and were sent again after an upstream was lost.";
    HOLD_DURATION = "pointsman_hold_duration_seconds", Kind::Histogram(HOLD_BUCKETS), ["backend"],
        "How long held requests waited.";
    CLIENT_CONNECTIONS = "pointsman_client_connections", Kind::Gauge, ["backend"],
        "Connections of clients that are open now.";
    CLIENT_OPENED = "pointsman_client_connections_opened_total", Kind::Counter, ["backend"],
        "Connections of clients that were accepted.";
    CLIENT_REJECTED = "pointsman_client_connections_rejected_total", Kind::Counter,
        ["backend", "reason"],
        "Connections of clients that were closed at once, or not accepted.";
    CLIENT_RECEIVED = "pointsman_client_received_bytes_total", Kind::Counter, ["backend"],
        "Bytes read from clients.";
    CLIENT_SENT = "pointsman_client_sent_bytes_total", Kind::Counter, ["backend"],
        "Bytes written to clients.";
    SESSIONS_PINNED = "pointsman_sessions_pinned", Kind::Gauge, ["backend"],
        "Sessions that hold an upstream of their own now.";
    SUBSCRIPTION_GAPS = "pointsman_subscription_gaps_total", Kind::Counter, ["backend"],
        "Times a subscribed session was subscribed again after its upstream was lost; messages \
         published in between did not reach it.";
    WORKERS_BATCH = "pointsman_workers_batch_scheduled", Kind::Gauge, [],
        "Worker threads that let the threads which send to them run first now.";
    UPSTREAM_CONNECTIONS = "pointsman_upstream_connections", Kind::Gauge, ["backend", "kind"],
        "Connections to the primary that carry requests now.";
    UPSTREAM_FAILURES = "pointsman_upstream_connect_failures_total", Kind::Counter,
        ["backend", "reason"],
        "Connects to the primary that gave no usable connection.";
    NODE_UP = "pointsman_node_up", Kind::Gauge, ["backend", "node"],
        "1 when the last probe of the node was answered by INFO, else 0.";
    REPLICA_LAG = "pointsman_replica_lag_bytes", Kind::Gauge, ["backend", "node"],
        "Bytes of the replication stream the replica has not received, as last seen.";
    SENTINEL_UP = "pointsman_sentinel_up", Kind::Gauge, ["backend", "sentinel"],
        "1 when the sentinel answers and knows the master, else 0.";
    EPOCH = "pointsman_topology_epoch", Kind::Gauge, ["backend"],
        "Epoch of the published topology; grows by one with each change of primary.";
    GATE_OPEN = "pointsman_gate_open", Kind::Gauge, ["backend"],
        "1 when requests may flow to the primary, 0 when they are held.";
    FAILOVERS = "pointsman_failovers_total", Kind::Counter, ["backend", "fault", "outcome"],
        "Failovers and switchovers that ended.";
    FAILOVER_DURATION = "pointsman_failover_duration_seconds",
        Kind::Histogram(FAILOVER_BUCKETS), ["backend"],
        "From the closing of the gate to its opening, for changes of primary that succeeded.";
    FAILOVER_DECLINED = "pointsman_failover_declined_total", Kind::Counter, ["backend", "reason"],
        "Times a failover seemed needed and was not done.";
    AUTHORITY_ATTEMPTS = "pointsman_authority_swaps_total", Kind::Counter, ["backend", "outcome"],
        "Compare-and-swaps of the authority's record.";
    PUBLICATIONS = "pointsman_publications_total", Kind::Counter,
        ["backend", "outcome", "publisher"],
        "Tries to tell others who is primary, by how they ended.";
    EVIDENCE_DROPPED = "pointsman_evidence_dropped_total", Kind::Counter, ["backend"],
        "Pieces of evidence from real requests that were dropped because the channel was full.";
    SENTINEL_CLIENTS = "pointsman_sentinel_clients", Kind::Gauge, [],
        "Connections to the Sentinel answers that are open now.";
    SENTINEL_DROPPED = "pointsman_sentinel_clients_dropped_total", Kind::Counter, ["reason"],
        "Clients of the Sentinel answers that were not accepted or disconnected.";
    VIP_HELD = "pointsman_vip_held", Kind::Gauge, ["address"],
        "1 while this host has the address.";
    VIP_CONFLICT = "pointsman_vip_conflict", Kind::Gauge, ["address"],
        "1 while another host answers for an address that belongs here.";
    VIP_TAKEN = "pointsman_vip_taken_total", Kind::Counter, ["address"],
        "Times this host took the address.";
    VIP_DROPPED = "pointsman_vip_dropped_total", Kind::Counter, ["address", "reason"],
        "Times this host dropped the address.";
    VIP_FAILURES = "pointsman_vip_failures_total", Kind::Counter, ["address"],
        "Times this host could not do what was due with the address or its interface.";
    VIP_CONNECTIONS_ENDED = "pointsman_vip_connections_ended_total", Kind::Counter, ["address"],
        "Connections to the address that were ended when this host dropped it.";
    VIP_POINTSMAN_UP = "pointsman_vip_pointsman_up", Kind::Gauge, ["pointsman"],
        "1 when the pointsman answered the agent's last question, else 0.";
    DNS_LOOKUPS = "pointsman_dns_lookups_total", Kind::Counter, ["backend", "result"],
        "Lookups of names that stand for nodes, by what came of them.";
    DNS_QUERIES = "pointsman_dns_queries_total", Kind::Counter, ["result"],
        "Questions to the built-in DNS server, by how they were answered.";
    LOG_DROPPED = "pointsman_log_lines_dropped_total", Kind::Counter, [],
        "Lines of the log that were dropped because standard error was not read fast enough.";
}

/// Tells the installed recorder the help text and unit of every metric, and sets `build_info`.
pub fn describe() {
    for metric in ALL {
        let unit = match metric.name {
            n if n.contains("_seconds") => Unit::Seconds,
            n if n.contains("_bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    log_dropped(0);
}

/// So many lines of the log were dropped since the last call. Not by a kept handle: the log begins
/// before the recorder.
pub fn log_dropped(lines: u64) {
    counter!(LOG_DROPPED).increment(lines);
}

/// Worker threads under `SCHED_BATCH`: `increment` when one begins, `decrement` when it gives that up.
pub fn workers_batch_scheduled() -> Gauge {
    gauge!(WORKERS_BATCH)
}

/// Handles of one backend in the data plane. Each worker makes its own copy; all copies add to the
/// same series, so a worker should add what one turn of its loop brought, not each request.
#[derive(Clone)]
pub struct WorkerMetrics {
    requests: Vec<Counter>,
    rejected: Vec<Counter>,
    upstreams: Vec<Gauge>,
    connect_failures: Vec<Counter>,
    /// Requests that wait for a primary now: `increment` when one begins to wait, `decrement` when
    /// it goes on or gets its error.
    pub held: Gauge,
    /// Requests that began to wait.
    pub held_total: Counter,
    /// Requests sent again.
    pub replayed: Counter,
    /// Open client connections.
    pub clients: Gauge,
    /// Accepted client connections.
    pub clients_opened: Counter,
    /// Bytes read from clients.
    pub bytes_received: Counter,
    /// Bytes written to clients.
    pub bytes_sent: Counter,
    /// Sessions with a pinned upstream.
    pub sessions_pinned: Gauge,
    /// Subscriptions made again after a loss.
    pub subscription_gaps: Counter,
    hold_duration: Histogram,
}

impl WorkerMetrics {
    /// Registers every series of `backend`, so that all exist, at zero, from the start.
    pub fn new(backend: &str) -> Self {
        let b = || backend.to_owned();
        WorkerMetrics {
            requests: each(
                RequestOutcome::ALL,
                |o| counter!(REQUESTS, "backend" => b(), "outcome" => o.as_str()),
            ),
            rejected: each(
                RejectReason::ALL,
                |r| counter!(CLIENT_REJECTED, "backend" => b(), "reason" => r.as_str()),
            ),
            upstreams: each(
                UpstreamKind::ALL,
                |k| gauge!(UPSTREAM_CONNECTIONS, "backend" => b(), "kind" => k.as_str()),
            ),
            connect_failures: each(
                ConnectFailure::ALL,
                |r| counter!(UPSTREAM_FAILURES, "backend" => b(), "reason" => r.as_str()),
            ),
            held: gauge!(REQUESTS_HELD, "backend" => b()),
            held_total: counter!(REQUESTS_HELD_TOTAL, "backend" => b()),
            replayed: counter!(REQUESTS_REPLAYED, "backend" => b()),
            clients: gauge!(CLIENT_CONNECTIONS, "backend" => b()),
            clients_opened: counter!(CLIENT_OPENED, "backend" => b()),
            bytes_received: counter!(CLIENT_RECEIVED, "backend" => b()),
            bytes_sent: counter!(CLIENT_SENT, "backend" => b()),
            sessions_pinned: gauge!(SESSIONS_PINNED, "backend" => b()),
            subscription_gaps: counter!(SUBSCRIPTION_GAPS, "backend" => b()),
            hold_duration: histogram!(HOLD_DURATION, "backend" => b()),
        }
    }

    /// `count` requests ended with `outcome`.
    pub fn requests(&self, outcome: RequestOutcome, count: u64) {
        self.requests[outcome as usize].increment(count);
    }

    /// A client was not served.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].increment(1);
    }

    /// The gauge of open upstreams of this kind.
    pub fn upstreams(&self, kind: UpstreamKind) -> &Gauge {
        &self.upstreams[kind as usize]
    }

    /// A connect to the primary failed.
    pub fn connect_failed(&self, reason: ConnectFailure) {
        self.connect_failures[reason as usize].increment(1);
    }

    /// A held request went on, or got its error, after `waited`.
    pub fn hold_ended(&self, waited: Duration) {
        self.hold_duration.record(waited.as_secs_f64());
    }
}

/// What there is besides where the backend is a cluster.
#[derive(Clone)]
pub struct ClusterMetrics {
    redirected: Vec<Counter>,
    /// The known places of the slots changed.
    pub map_changes: Counter,
}

impl ClusterMetrics {
    /// Registers every series of `backend`, so that all exist, at zero, from the start.
    pub fn new(backend: &str) -> Self {
        let b = || backend.to_owned();
        ClusterMetrics {
            redirected: each(
                RedirectKind::ALL,
                |k| counter!(REDIRECTED, "backend" => b(), "kind" => k.as_str()),
            ),
            map_changes: counter!(SLOT_MAPS, "backend" => b()),
        }
    }

    /// `count` requests were sent on or again.
    pub fn redirected(&self, kind: RedirectKind, count: u64) {
        self.redirected[kind as usize].increment(count);
    }
}

/// Handles of one backend in the control plane.
pub struct ControlMetrics {
    backend: String,
    nodes: HashMap<NodeId, Gauge>,
    lags: HashMap<NodeId, Gauge>,
    sentinels: HashMap<NodeId, Gauge>,
    epoch: Gauge,
    gate_open: Gauge,
    failover_duration: Histogram,
    declined: Vec<Counter>,
    swaps: Vec<Counter>,
    evidence_dropped: Counter,
}

impl ControlMetrics {
    /// Registers the series of `backend`, so that all exist, at zero, from the start.
    pub fn new(backend: &str) -> Self {
        let b = || backend.to_owned();
        for fault in Fault::ALL {
            for end in FailoverEnd::ALL {
                failovers(backend, *fault, *end).increment(0);
            }
        }
        ControlMetrics {
            backend: b(),
            nodes: HashMap::new(),
            lags: HashMap::new(),
            sentinels: HashMap::new(),
            epoch: gauge!(EPOCH, "backend" => b()),
            gate_open: gauge!(GATE_OPEN, "backend" => b()),
            failover_duration: histogram!(FAILOVER_DURATION, "backend" => b()),
            declined: each(
                DeclineReason::ALL,
                |r| counter!(FAILOVER_DECLINED, "backend" => b(), "reason" => r.as_str()),
            ),
            swaps: each(
                SwapResult::ALL,
                |r| counter!(AUTHORITY_ATTEMPTS, "backend" => b(), "outcome" => r.as_str()),
            ),
            evidence_dropped: counter!(EVIDENCE_DROPPED, "backend" => b()),
        }
    }

    /// Whether the last probe of `node` was answered by INFO.
    pub fn node_up(&mut self, node: &NodeId, up: bool) {
        let backend = &self.backend;
        self.nodes
            .entry(node.clone())
            .or_insert_with(
                || gauge!(NODE_UP, "backend" => backend.clone(), "node" => node.to_string()),
            )
            .set(f64::from(u8::from(up)));
    }

    /// How far `node` is behind the primary, bytes; 0 for the primary itself.
    pub fn replica_lag(&mut self, node: &NodeId, bytes: u64) {
        let backend = &self.backend;
        self.lags
            .entry(node.clone())
            .or_insert_with(
                || gauge!(REPLICA_LAG, "backend" => backend.clone(), "node" => node.to_string()),
            )
            .set(bytes as f64);
    }

    /// Whether `sentinel` answers and knows the master.
    pub fn sentinel_up(&mut self, sentinel: &NodeId, up: bool) {
        let backend = &self.backend;
        self.sentinels
            .entry(sentinel.clone())
            .or_insert_with(|| {
                let (backend, sentinel) = (backend.clone(), sentinel.to_string());
                gauge!(SENTINEL_UP, "backend" => backend, "sentinel" => sentinel)
            })
            .set(f64::from(u8::from(up)));
    }

    /// What was just published.
    pub fn published(&self, epoch: Epoch, gate: Gate) {
        self.epoch.set(epoch.0 as f64);
        self.gate_open.set(match gate {
            Gate::Open => 1.0,
            Gate::Closed => 0.0,
        });
    }

    /// A failover or switchover ended.
    pub fn failover_ended(&self, report: &FailoverReport) {
        let end = match report.outcome {
            Outcome::Done => {
                self.failover_duration.record(report.pause.as_secs_f64());
                FailoverEnd::Done
            }
            Outcome::Aborted(_) => FailoverEnd::Aborted,
        };
        failovers(&self.backend, report.fault, end).increment(1);
    }

    /// A failover seemed needed and was not done.
    pub fn declined(&self, reason: DeclineReason) {
        self.declined[reason as usize].increment(1);
    }

    /// A compare-and-swap of the record ended.
    pub fn swap_ended(&self, result: SwapResult) {
        self.swaps[result as usize].increment(1);
    }

    /// Pieces of evidence dropped since the start
    /// ([`crate::topology::EvidenceReceiver::dropped`]).
    pub fn evidence_dropped(&self, since_start: u64) {
        self.evidence_dropped.absolute(since_start);
    }
}

/// Handles of a source that looks names up.
pub struct LookupMetrics {
    lookups: Vec<Counter>,
}

impl LookupMetrics {
    /// Registers every series of `backend`, so that all exist, at zero, from the start.
    pub fn new(backend: &str) -> Self {
        LookupMetrics {
            lookups: each(
                LookupResult::ALL,
                |r| counter!(DNS_LOOKUPS, "backend" => backend.to_owned(), "result" => r.as_str()),
            ),
        }
    }

    /// A name was looked up.
    pub fn ended(&self, result: LookupResult) {
        self.lookups[result as usize].increment(1);
    }
}

/// Handles of a publisher. Several of one kind add to the same series.
pub struct PublicationMetrics {
    outcomes: Vec<Counter>,
}

impl PublicationMetrics {
    /// Registers every series of this kind, so that all exist, at zero, from the start.
    pub fn new(backend: &str, publisher: PublisherKind) -> Self {
        PublicationMetrics {
            outcomes: each(PublicationOutcome::ALL, |o| {
                counter!(PUBLICATIONS, "backend" => backend.to_owned(), "outcome" => o.as_str(),
                    "publisher" => publisher.as_str())
            }),
        }
    }

    /// It was tried.
    pub fn ended(&self, outcome: PublicationOutcome) {
        self.outcomes[outcome as usize].increment(1);
    }
}

/// Handles of the built-in DNS server.
pub struct DnsMetrics {
    queries: Vec<Counter>,
}

impl DnsMetrics {
    /// Registers every series, so that all exist, at zero, from the start.
    #[allow(clippy::new_without_default, reason = "it registers something")]
    pub fn new() -> Self {
        DnsMetrics {
            queries: each(
                DnsResult::ALL,
                |r| counter!(DNS_QUERIES, "result" => r.as_str()),
            ),
        }
    }

    /// A question was answered.
    pub fn answered(&self, result: DnsResult) {
        self.queries[result as usize].increment(1);
    }
}

fn failovers(backend: &str, fault: Fault, end: FailoverEnd) -> Counter {
    counter!(
        FAILOVERS,
        "backend" => backend.to_owned(),
        "fault" => fault.as_str(),
        "outcome" => end.as_str(),
    )
}

/// What the Sentinel answers count.
#[derive(Clone, Debug)]
pub struct SentinelMetrics {
    clients: Gauge,
    dropped: Vec<Counter>,
}

impl SentinelMetrics {
    /// Registers every series.
    pub fn register() -> Self {
        SentinelMetrics {
            clients: gauge!(SENTINEL_CLIENTS),
            dropped: each(
                SentinelDrop::ALL,
                |reason| counter!(SENTINEL_DROPPED, "reason" => reason.as_str()),
            ),
        }
    }

    /// So many are connected.
    pub fn clients(&self, count: usize) {
        self.clients.set(count as f64);
    }

    /// One was not accepted or disconnected.
    pub fn dropped(&self, reason: SentinelDrop) {
        self.dropped[reason as usize].increment(1);
    }
}

/// Handles of the agent for one address.
pub struct VipMetrics {
    /// Whether the address is here.
    pub held: Gauge,
    /// Whether another host answers for it.
    pub conflict: Gauge,
    /// Times it was taken.
    pub taken: Counter,
    /// Times the host could not do what was due.
    pub failures: Counter,
    /// Connections that were ended.
    pub connections_ended: Counter,
    dropped: Vec<Counter>,
    pointsmen: Vec<Gauge>,
}

impl VipMetrics {
    /// Registers every series, so that all exist, at zero, from the start.
    pub fn new(address: &str, pointsmen: &[std::sync::Arc<str>]) -> Self {
        let a = || address.to_owned();
        VipMetrics {
            held: gauge!(VIP_HELD, "address" => a()),
            conflict: gauge!(VIP_CONFLICT, "address" => a()),
            taken: counter!(VIP_TAKEN, "address" => a()),
            failures: counter!(VIP_FAILURES, "address" => a()),
            connections_ended: counter!(VIP_CONNECTIONS_ENDED, "address" => a()),
            dropped: each(
                VipDrop::ALL,
                |r| counter!(VIP_DROPPED, "address" => a(), "reason" => r.as_str()),
            ),
            pointsmen: pointsmen
                .iter()
                .map(|p| gauge!(VIP_POINTSMAN_UP, "pointsman" => p.to_string()))
                .collect(),
        }
    }

    /// The address was dropped.
    pub fn dropped(&self, reason: VipDrop) {
        self.dropped[reason as usize].increment(1);
    }

    /// Whether that one of the pointsmen answered.
    pub fn pointsman_up(&self, index: usize, up: bool) {
        self.pointsmen[index].set(f64::from(u8::from(up)));
    }
}

fn each<L: Copy, H>(values: &[L], make: impl Fn(L) -> H) -> Vec<H> {
    values.iter().map(|v| make(*v)).collect()
}
