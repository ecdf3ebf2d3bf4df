//! How to get to a coordinator.

use std::fmt;
use std::time::Duration;

use crate::resp::Credentials;

/// Which coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// etcd 3.4 or newer, through its JSON gateway.
    Etcd,
    /// Consul 1.8 or newer, through its HTTP interface.
    Consul,
    /// ZooKeeper 3.6 or newer.
    ZooKeeper,
}

impl StoreKind {
    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Etcd => "etcd",
            StoreKind::Consul => "consul",
            StoreKind::ZooKeeper => "zookeeper",
        }
    }
}

/// How to get to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Which one.
    pub kind: StoreKind,
    /// `host:port` of its servers; any one of them is as good as another.
    pub endpoints: Vec<String>,
    /// Everything is kept below this path; begins with `/`, does not end with it.
    pub prefix: String,
    /// Bound of one request to it, other servers included.
    pub timeout: Duration,
    /// User and password for etcd and ZooKeeper (digest); for Consul the password is the token.
    pub credentials: Option<Credentials>,
    /// `None`: without TLS.
    pub tls: Option<TlsSettings>,
}

impl StoreSettings {
    /// Whether the certificates can be used. Connects to nobody.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        super::open(self, "check").map(|_| ()).map_err(|e| e.0)
    }
}

/// PEM texts that were read from files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Who may sign the servers' certificates; `None`: whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}
