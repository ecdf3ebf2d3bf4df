//! Wiring: the only place that knows every module. `Config -> App::build -> App::run(shutdown)`.
//!
//! Each plane makes threads of its own: `worker-N` and `accept` for the data plane, `control` for
//! probes and decisions. The thread that calls [`App::run`] has the admin server, the DNS server and the
//! signals.

mod bind;
mod descriptors;
mod operate;
mod waiting;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

pub use bind::BindError;

use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{Backend, Bind, Config};
use crate::control::{self, ClusterParts, Control, ControlHandle, SourceSettings};
use crate::names::{self, Names, NamesSettings};
use crate::proxy::{self, Proxy, Socket};
use crate::sentinel::{self, Sentinel, SentinelSettings};
use crate::topology::{
    ClusterReader, EvidenceReceiver, EvidenceSender, Topology, TopologyReader, TopologyWriter,
    channel, cluster_channel, evidence_channel,
};

use bind::{Bound, SocketFile};

/// Evidence is news about one primary; what does not fit repeats what is in it.
const EVIDENCE_CAPACITY: usize = 1024;

/// What a switchover may take beyond the times of its policy before the answer is "still running".
const SWITCHOVER_SLACK: Duration = Duration::from_secs(10);

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port or path can not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The control plane can not start.
    #[error(transparent)]
    Control(#[from] control::StartError),
    /// Threads or sockets could not be made.
    #[error("can not start: {0}")]
    Io(#[from] io::Error),
}

/// A program that has every port it needs and does not serve yet.
pub struct App {
    config: Config,
    metrics: PrometheusHandle,
    admin: std::net::TcpListener,
    /// Where `[sentinel]` is configured.
    sentinel: Option<std::net::TcpListener>,
    /// Where the DNS server listens, if there is one.
    names: Option<(std::net::UdpSocket, std::net::TcpListener)>,
    /// In the order of the configuration.
    listeners: Vec<Bound>,
    backends: Vec<Parts>,
}

/// The ends of what the planes share about one backend.
struct Parts {
    writer: TopologyWriter,
    reader: TopologyReader,
    evidence: EvidenceSender,
    evidence_end: EvidenceReceiver,
    /// Of a cluster.
    cluster: Option<(ClusterParts, ClusterReader)>,
}

impl App {
    /// Takes every port and opens every file; nothing is sent or accepted yet.
    ///
    /// # Errors
    /// The first port or path that can not be had.
    pub fn build(mut config: Config, metrics: PrometheusHandle) -> Result<App, StartError> {
        if let Some(limit) = descriptors::raise_limit() {
            let asking = config.sentinel.as_mut().map_or(0, |s| fit_asking(s, limit));
            config.proxy.max_clients = fitting(config.proxy.max_clients, limit - asking);
        }
        let admin = bind::tcp(config.admin.bind)
            .map_err(|e| bind::error(&Bind::Tcp(config.admin.bind), e))?;
        let sentinel = match &config.sentinel {
            Some(sentinel) => Some(
                bind::tcp(sentinel.bind).map_err(|e| bind::error(&Bind::Tcp(sentinel.bind), e))?,
            ),
            None => None,
        };
        let listeners = config
            .listeners
            .iter()
            .map(|listener| bind::bind(&listener.bind))
            .collect::<Result<_, _>>()?;
        let names = config
            .dns_server
            .as_ref()
            .map(|names| bind::dns(names.bind).map_err(|e| bind::error(&Bind::Tcp(names.bind), e)));
        let names = names.transpose()?;
        let workers = config.proxy.worker_count();
        let backends = config
            .backends
            .iter()
            .map(|backend| Parts::new(backend, workers))
            .collect();
        Ok(App {
            config,
            metrics,
            admin,
            sentinel,
            names,
            listeners,
            backends,
        })
    }

    /// Serves until `shutdown` is ready, then answers what is on its way and ends.
    ///
    /// # Errors
    /// A thread or socket could not be made. Nodes that are down are no error.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let App {
            config,
            metrics,
            admin,
            sentinel,
            names: dns,
            listeners,
            backends,
        } = self;
        let started = clock::now();
        let names: Vec<String> = listeners.iter().map(Bound::name).collect();
        let (plan, files) = plan(&config, &backends, listeners);
        let proxy = proxy::start(plan)?;

        let monitor = operate::monitor_name();
        let mut readers = Vec::new();
        let mut controls = Vec::new();
        for (index, (backend, parts)) in config.backends.iter().zip(backends).enumerate() {
            let Parts {
                writer,
                reader,
                evidence_end,
                cluster,
                ..
            } = parts;
            let cluster = cluster.map(|(parts, _)| parts);
            readers.push(reader);
            let requests = proxy.counter(index);
            let control =
                operate::control_of(backend, &monitor, (writer, cluster), evidence_end, requests);
            controls.push(control);
        }
        let dns = match (&config.dns_server, dns) {
            (Some(settings), Some(sockets)) => {
                Some(dns_server(settings, &config, &readers, sockets)?)
            }
            _ => None,
        };
        let control = Control::start(controls)?;
        let answers = match sentinel {
            Some(listener) => {
                let readers = readers.iter().cloned().zip(control.handles());
                Some(answers(&config, &monitor, &names, listener, readers)?)
            }
            None => None,
        };
        let serving = readers
            .into_iter()
            .zip(control.handles())
            .enumerate()
            .map(|(index, (reader, handle))| served(&config, index, &names, reader, handle.clone()))
            .collect();
        let admin_listener = TcpListener::from_std(admin)?;
        tracing::info!(admin = %admin_listener.local_addr()?, "the admin server listens");
        let admin = Arc::new(Admin {
            settings: config.admin,
            switchover_timeout: switchover_timeout(&config),
            backends: serving,
            metrics,
            started,
            stopping: AtomicBool::new(false),
        });
        let server = tokio::spawn(admin::serve(admin_listener, admin.clone()));
        let waiting = tokio::spawn(waiting::tell(admin.clone()));

        shutdown.await;

        admin.stop();
        waiting.abort();
        // New clients find no socket instead of one that nobody accepts from.
        drop(files);
        end(proxy, control).await;
        server.abort();
        if let Some(answers) = answers {
            answers.abort();
        }
        if let Some(dns) = dns {
            dns.abort();
        }
        Ok(())
    }
}

/// Starts the built-in DNS server.
fn dns_server(
    settings: &NamesSettings,
    config: &Config,
    readers: &[TopologyReader],
    (udp, tcp): (std::net::UdpSocket, std::net::TcpListener),
) -> Result<tokio::task::JoinHandle<()>, StartError> {
    let sockets = names::Sockets {
        udp: UdpSocket::from_std(udp)?,
        tcp: TcpListener::from_std(tcp)?,
    };
    let backends = config.backends.iter().map(|backend| backend.name.clone());
    let backends = backends.zip(readers.iter().cloned()).collect();
    let names = Names::new(settings.clone(), backends).map_err(io::Error::other)?;
    let address = sockets.udp.local_addr()?;
    tracing::info!(%address, zone = %settings.zone, "the DNS server answers");
    Ok(tokio::spawn(names::serve(sockets, names)))
}

/// Answers what is on its way, then releases what the authority holds.
async fn end(proxy: Proxy, control: Control) {
    let cut_off = proxy.drain().await;
    if cut_off > 0 {
        tracing::warn!(
            clients = cut_off,
            "clients were cut off: drain_timeout is over"
        );
    }
    control.stop().await;
}

impl Parts {
    fn new(backend: &Backend, workers: usize) -> Parts {
        let (writer, reader) = channel(Topology::unknown(backend.name.clone()), workers);
        let (evidence, evidence_end) = evidence_channel(EVIDENCE_CAPACITY);
        let cluster = matches!(backend.source, SourceSettings::Cluster { .. }).then(|| {
            let (map, reader) = cluster_channel();
            (ClusterParts { map, workers }, reader)
        });
        Parts {
            cluster,
            writer,
            reader,
            evidence,
            evidence_end,
        }
    }
}

/// What the data plane needs, and the socket files that vanish when the program stops.
fn plan(
    config: &Config,
    backends: &[Parts],
    listeners: Vec<Bound>,
) -> (proxy::Plan, Vec<SocketFile>) {
    let mut files = Vec::new();
    let mut sockets = Vec::new();
    for (listener, bound) in config.listeners.iter().zip(listeners) {
        let socket = match bound {
            Bound::Tcp(socket) => Socket::Tcp(socket),
            Bound::Unix(socket, file) => {
                files.push(file);
                Socket::Unix(socket)
            }
        };
        sockets.push(proxy::ListenerPlan {
            backend: listener.backend,
            socket,
        });
    }
    let backends = config.backends.iter().zip(backends);
    let plan = proxy::Plan {
        settings: config.proxy.clone(),
        backends: backends
            .map(|(backend, parts)| proxy::BackendPlan {
                name: backend.name.clone(),
                topology: parts.reader.clone(),
                cluster: parts.cluster.as_ref().map(|(_, reader)| reader.clone()),
                evidence: parts.evidence.clone(),
                credentials: backend.auth.clone(),
                settings: backend.requests.clone(),
            })
            .collect(),
        listeners: sockets,
    };
    (plan, files)
}

/// A backend as the admin server knows it.
fn served(
    config: &Config,
    index: usize,
    names: &[String],
    topology: TopologyReader,
    handle: ControlHandle,
) -> admin::Backend {
    let backend = &config.backends[index];
    let listeners = listeners_of(config, index, names);
    let authority = backend.authority.kind();
    tracing::info!(backend = %backend.name, authority, ?listeners, "serving");
    admin::Backend {
        name: backend.name.clone(),
        authority,
        listeners,
        topology,
        operator: Arc::new(handle),
    }
}

/// Starts to answer as Sentinel does.
fn answers<'h>(
    config: &Config,
    monitor: &str,
    names: &[String],
    listener: std::net::TcpListener,
    parts: impl Iterator<Item = (TopologyReader, &'h ControlHandle)>,
) -> Result<JoinHandle<()>, io::Error> {
    let backends = parts.enumerate().map(|(index, (topology, handle))| {
        let backend = &config.backends[index];
        let policy = &backend.failover;
        sentinel::Backend {
            name: backend.name.clone(),
            topology,
            notices: handle.notices(),
            operator: Arc::new(handle.clone()),
            // The name of a unix socket is no address.
            listener: listeners_of(config, index, names)
                .iter()
                .find_map(|name| name.parse().ok()),
            down_after: policy.silent_after.max(policy.unacked_after),
            switchover_timeout: switchover_timeout(config),
            parallel_syncs: policy.parallel_full_syncs,
        }
    });
    let settings = config.sentinel.clone().unwrap_or_default();
    let sentinel = Arc::new(Sentinel::new(settings, monitor, backends.collect()));
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(sentinel = %listener.local_addr()?, "Sentinel's questions are answered");
    Ok(tokio::spawn(sentinel::serve(listener, sentinel)))
}

fn listeners_of(config: &Config, backend: usize, names: &[String]) -> Vec<String> {
    let all = config.listeners.iter().zip(names);
    all.filter(|(listener, _)| listener.backend == backend)
        .map(|(_, name)| name.clone())
        .collect()
}

/// The longest a switchover can take by its policy, and some.
fn switchover_timeout(config: &Config) -> Duration {
    let longest = config.backends.iter().map(|backend| {
        let policy = &backend.failover;
        policy.drain_timeout + policy.catch_up_timeout + 4 * policy.node_op_timeout
    });
    longest.max().unwrap_or_default() + SWITCHOVER_SLACK
}

/// Those who only ask who is primary get a part of the open files, so that they take none from who
/// works. Returns how many that are.
fn fit_asking(settings: &mut SentinelSettings, limit: u64) -> u64 {
    let share = descriptors::share_of_asking(limit);
    if settings.max_clients as u64 > share {
        tracing::info!(
            max_clients = settings.max_clients,
            lowered_to = share,
            open_files = limit,
            "max_clients in [sentinel] is lowered: it does not fit into the limit of open files"
        );
        settings.max_clients = usize::try_from(share).unwrap_or(usize::MAX);
    }
    settings.max_clients as u64
}

/// `max_clients`, lowered to what the limit of open files allows, as Redis does it.
fn fitting(max_clients: usize, limit: u64) -> usize {
    let fit = usize::try_from(descriptors::clients_that_fit(limit)).unwrap_or(usize::MAX);
    if max_clients <= fit {
        return max_clients;
    }
    const MESSAGE: &str = "max_clients is lowered: it does not fit into the limit of open files";
    // With room for every client, and not for a pinned upstream of each, nobody has to look.
    if max_clients as u64 >= limit {
        tracing::warn!(
            max_clients,
            lowered_to = fit,
            open_files = limit,
            "{MESSAGE}"
        );
    } else {
        tracing::info!(
            max_clients,
            lowered_to = fit,
            open_files = limit,
            "{MESSAGE}"
        );
    }
    fit
}
