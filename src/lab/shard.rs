//! One primary with its replicas, and the pointsman in front of them.

use std::path::PathBuf;
use std::time::Duration;

use super::pointsman::{Pointsman, PointsmanOptions};
use super::{
    Address, Bind, Client, Cluster, ClusterOptions, Engine, LabError, SentinelOptions, Sentinels,
    Server, hand, until,
};
use crate::control::StoreKind;
use crate::topology::{FailoverReport, Fault};

/// How many share a record.
const MONITORS: usize = 3;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct ShardOptions {
    /// The servers.
    pub cluster: ClusterOptions,
    /// The `pointsman` program; `None` for the one that is running.
    pub program: Option<PathBuf>,
    /// `authority = follow` instead of `embedded`.
    pub follow: bool,
    /// Sentinels of the servers, which decide.
    pub sentinels: Option<SentinelOptions>,
    /// Another `authority` than these two: its table.
    pub authority: Option<String>,
    /// Where three pointsman share a record, and on how many servers it is.
    pub coordinator: Option<(StoreKind, usize)>,
    /// A name in the DNS says who is primary, and pointsman follows it.
    pub dns: bool,
    /// Where the record is; `None`: beside the configuration.
    pub state: Option<PathBuf>,
    /// Further lines of `[backend.main]`.
    pub backend: String,
    /// Lines of `[backend.main.failover]`.
    pub failover: String,
    /// Lines of `[backend.main.requests]`.
    pub requests: String,
    /// Lines of `[proxy]`.
    pub proxy: String,
    /// Further tables.
    pub tables: String,
    /// `log.level`, `info` when empty.
    pub log_level: String,
}

/// Everything that runs. Dropping it ends it: pointsman first, so that nothing fails over while
/// the servers go.
#[derive(Debug)]
pub struct Shard {
    /// The program under test.
    pub pointsman: Pointsman,
    /// Who decides, where it is Sentinel.
    pub sentinels: Option<Sentinels>,
    /// The two that decide together with `pointsman`, where the record is shared.
    pub monitors: Vec<Pointsman>,
    /// Where they keep it.
    pub engine: Option<Engine>,
    /// Who knows the name of the primary, where a name says who it is.
    pub dns: Option<Bind>,
    /// The servers.
    pub cluster: Cluster,
}

impl Shard {
    /// Starts the servers, waits until they are in sync, starts pointsman, waits until it is ready.
    pub async fn start(options: ShardOptions) -> Result<Shard, LabError> {
        let cluster = Cluster::start(options.cluster.clone()).await?;
        let sentinels = match &options.sentinels {
            Some(sentinels) => Some(Sentinels::start(sentinels.clone(), &cluster).await?),
            None => None,
        };
        let mut settings = options.in_front_of(&cluster);
        settings.source = sentinels.as_ref().map(Sentinels::source_line);
        let dns = match options.dns {
            true => Some(Bind::start().await?),
            false => None,
        };
        if let Some(dns) = &dns {
            hand::name(dns, cluster.node(0)).await?;
            settings.source = Some(format!(
                "source = {{ kind = \"dns\", name = {:?}, record = \"srv\", resolvers = [{:?}] }}\n\
                 authority = {{ kind = \"follow\" }}",
                hand::service().trim_end_matches('.'),
                dns.server(),
            ));
        }
        let engine = match options.coordinator {
            Some((kind, members)) => Some((kind, Engine::start(kind, members).await?)),
            None => None,
        };
        let mut monitors = Vec::new();
        if let Some((kind, engine)) = &engine {
            for domain in (0..MONITORS).rev() {
                settings.authority = Some(format!(
                    "{{ kind = \"{}\", endpoints = {:?}, domain = \"host{domain}\", monitors = \
                     {MONITORS} }}",
                    kind.name(),
                    engine.endpoints(),
                ));
                if domain > 0 {
                    monitors.push(Pointsman::start_ready(&settings).await?);
                }
            }
        }
        let pointsman = Pointsman::start_ready(&settings).await?;
        Ok(Shard {
            pointsman,
            sentinels,
            monitors,
            engine: engine.map(|(_, engine)| engine),
            dns,
            cluster,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> Address {
        self.pointsman.address()
    }

    /// A connection through pointsman.
    pub async fn client(&self) -> Result<Client, LabError> {
        self.pointsman.client(self.cluster.password()).await
    }

    /// The node that pointsman sends requests to, as it says itself.
    pub async fn primary(&self) -> Result<&Server, LabError> {
        until("a published primary", Duration::from_secs(20), async || {
            let topology = self.pointsman.topology().await.map_err(|e| e.to_string())?;
            let primary = topology.primary.as_ref().ok_or("none is published")?;
            let node = self.cluster.find(&primary.node);
            node.ok_or_else(|| format!("{} is none of ours", primary.node))
        })
        .await
    }

    /// Waits until pointsman's primary is not `node`.
    pub async fn primary_is_not(
        &self,
        node: &Server,
        limit: Duration,
    ) -> Result<&Server, LabError> {
        until("another primary", limit, async || {
            let topology = self.pointsman.topology().await.map_err(|e| e.to_string())?;
            let primary = topology.open_primary().ok_or("none is published")?;
            match self.cluster.find(&primary.node) {
                Some(other) if other.id() != node.id() => Ok(other),
                _ => Err(format!(
                    "still {}\n{}",
                    node.id(),
                    self.pointsman.log_tail()
                )),
            }
        })
        .await
    }

    /// The reports of whoever decided, oldest first.
    pub async fn failovers(&self) -> Result<Vec<FailoverReport>, LabError> {
        let mut reports = self.pointsman.failovers().await?;
        for monitor in &self.monitors {
            reports.extend(monitor.failovers().await?);
        }
        // Where several decide, those who did not have a report of what they saw.
        if !self.monitors.is_empty() {
            reports.retain(|report| report.fault != Fault::Followed);
        }
        reports.sort_by_key(|report| report.unix_millis);
        Ok(reports)
    }

    /// Waits for the report with this number, counted from one.
    pub async fn failover(
        &self,
        number: usize,
        limit: Duration,
    ) -> Result<FailoverReport, LabError> {
        until("the failover's report", limit, async || {
            let mut reports = self.failovers().await.map_err(|e| e.to_string())?;
            match reports.len() >= number {
                true => Ok(reports.swap_remove(number - 1)),
                false => Err(format!("{} reports", reports.len())),
            }
        })
        .await
    }

    /// The number of a node.
    pub fn number_of(&self, node: &Server) -> usize {
        let is = |other: &Server| other.id() == node.id();
        self.cluster
            .nodes()
            .iter()
            .position(is)
            .unwrap_or(usize::MAX)
    }
}

impl ShardOptions {
    /// The configuration of a pointsman in front of these servers.
    pub fn in_front_of(&self, cluster: &Cluster) -> PointsmanOptions {
        PointsmanOptions {
            program: self.program.clone(),
            password: cluster.password().map(str::to_owned),
            follow: self.follow,
            authority: self.authority.clone(),
            state: self.state.clone(),
            backend: self.backend.clone(),
            failover: self.failover.clone(),
            requests: self.requests.clone(),
            proxy: self.proxy.clone(),
            tables: self.tables.clone(),
            log_level: match self.log_level.as_str() {
                "" => "info".into(),
                level => level.into(),
            },
            ..PointsmanOptions::in_front_of(cluster.addresses())
        }
    }
}
