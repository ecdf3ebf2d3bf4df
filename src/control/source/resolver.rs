//! Questions to the DNS: over UDP, over TCP where the answer does not fit, bounded in time, and every one
//! of them asked: nothing is cached, and `/etc/resolv.conf` is read again whenever it changed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

use crate::metrics::LookupResult;

/// Where the system says whom to ask (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// For one question to one server, however patient resolv.conf is.
const QUESTION: Duration = Duration::from_secs(1);

/// For a question to all servers.
const LIMIT: Duration = Duration::from_secs(3);

/// See the head of the file.
pub(super) struct Resolver {
    /// Empty: those of the system.
    servers: Vec<SocketAddr>,
    /// What `inner` was made of.
    conf: Vec<u8>,
    inner: Result<TokioResolver, String>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// What kind.
    pub(super) result: LookupResult,
    /// For people.
    pub(super) why: String,
}

/// What a server said.
pub(super) struct Answer {
    /// Of the records that were asked for; empty when the name has none.
    pub(super) data: Vec<RData>,
    /// The shortest of the records' times to live.
    pub(super) ttl: Duration,
}

impl Resolver {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Resolver {
            servers,
            conf: Vec::new(),
            inner: Err("no server was asked yet".to_owned()),
        }
    }

    /// Makes it ready for the questions of one look.
    pub(super) fn prepare(&mut self) {
        let conf = match self.servers.is_empty() {
            true => std::fs::read(Path::new(RESOLV_CONF)).unwrap_or_default(),
            false => Vec::new(),
        };
        if self.inner.is_err() || conf != self.conf {
            self.inner = self.make(&conf);
            self.conf = conf;
        }
    }

    fn make(&self, conf: &[u8]) -> Result<TokioResolver, String> {
        let (config, system) = match self.servers.is_empty() {
            true => system_conf::parse_resolv_conf(conf)
                .map_err(|error| format!("{RESOLV_CONF}: {error}"))?,
            false => {
                let servers = self.servers.iter().map(server).collect();
                (
                    ResolverConfig::from_name_servers(servers),
                    ResolverOpts::default(),
                )
            }
        };
        let mut options = system;
        options.timeout = options.timeout.min(QUESTION);
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| error.to_string())
    }

    /// Asks for the records of one type. That a name does not exist, or has none of that type, is an
    /// answer.
    ///
    /// # Errors
    /// Nobody could answer.
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, Trouble> {
        let resolver = self.inner.as_ref().map_err(|why| Trouble {
            result: LookupResult::Failed,
            why: why.clone(),
        })?;
        let lookup = tokio::time::timeout(LIMIT, resolver.lookup(name, kind)).await;
        let failed = |result, why: String| {
            let why = format!("{name} {kind}: {why}");
            Err(Trouble { result, why })
        };
        match lookup {
            Err(_) => failed(
                LookupResult::Timeout,
                "no server answered in time".to_owned(),
            ),
            Ok(Ok(answer)) => {
                let records = answer.answers().iter();
                let ttl = records.clone().map(|record| record.ttl).min().unwrap_or(0);
                let wanted = records.filter(|record| record.record_type() == kind);
                Ok(Answer {
                    data: wanted.map(|record| record.data.clone()).collect(),
                    ttl: Duration::from_secs(ttl.into()),
                })
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if matches!(
                    none.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                Ok(Answer {
                    data: Vec::new(),
                    // Most hosts have addresses of one family; that the other has none bounds nothing.
                    ttl: Duration::MAX,
                })
            }
            Ok(Err(error)) => failed(result(&error), error.to_string()),
        }
    }
}

fn result(error: &NetError) -> LookupResult {
    let code = match error {
        NetError::Timeout => return LookupResult::Timeout,
        NetError::Dns(DnsError::ResponseCode(code)) => *code,
        NetError::Dns(DnsError::NoRecordsFound(none)) => none.response_code,
        _ => return LookupResult::Failed,
    };
    match code {
        ResponseCode::ServFail => LookupResult::Servfail,
        _ => LookupResult::Failed,
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::new(
        address.ip(),
        true,
        vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
    );
    for connection in &mut config.connections {
        connection.port = address.port();
    }
    config
}
