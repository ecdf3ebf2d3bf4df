//! How an ordinary client that connects again finds the primary.

use std::time::Duration;

use super::client::{Address, Client, ClientError, Protocol};
use super::sentinels::MASTER;

/// Bound of every step; client libraries wait longer.
const LIMIT: Duration = Duration::from_millis(500);

/// A connect whose SYN was lost would be tried again after a second only.
const SYN: Duration = Duration::from_millis(200);

/// Asks the sentinels one after the other, connects, and wants ROLE to say `master`, as "Guidelines
/// for Redis clients with support for Redis Sentinel" has it. Or connects to where the primary always is.
#[derive(Clone, Debug)]
pub struct Finder {
    place: Place,
    password: Option<String>,
}

#[derive(Clone, Debug)]
enum Place {
    Sentinels(Vec<String>),
    Address(Address),
}

impl Finder {
    /// `sentinels` have no password, the nodes have this one.
    pub fn new(sentinels: Vec<String>, password: Option<String>) -> Finder {
        Finder {
            place: Place::Sentinels(sentinels),
            password,
        }
    }

    /// Whoever is primary has this address.
    pub fn at(address: Address) -> Finder {
        Finder {
            place: Place::Address(address),
            password: None,
        }
    }

    /// A connection to a node that says it is primary.
    pub async fn find(&self) -> Result<Client, ClientError> {
        let found = tokio::time::timeout(LIMIT * 2, self.try_all()).await;
        found.unwrap_or(Err(ClientError::Late(LIMIT * 2)))
    }

    async fn try_all(&self) -> Result<Client, ClientError> {
        let sentinels = match &self.place {
            Place::Sentinels(sentinels) => sentinels,
            Place::Address(address) => {
                let opened = tokio::time::timeout(SYN, self.connect(address.clone())).await;
                return opened.unwrap_or(Err(ClientError::Late(SYN)));
            }
        };
        let mut failed = ClientError::Closed;
        for sentinel in sentinels {
            match self.ask(sentinel).await {
                Ok(address) => return self.connect(address).await,
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn ask(&self, sentinel: &str) -> Result<Address, ClientError> {
        let mut client = Client::connect(&Address::Tcp(sentinel.to_owned())).await?;
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
        let answer = client.call_within(LIMIT, &question).await?;
        match answer.items().unwrap_or_default() {
            [host, port] => {
                let text = |value: &super::Value| value.text().unwrap_or_default().to_owned();
                Ok(Address::Tcp(format!("{}:{}", text(host), text(port))))
            }
            _ => Err(ClientError::Unexpected(answer.to_string())),
        }
    }

    async fn connect(&self, address: Address) -> Result<Client, ClientError> {
        let open = Client::open(&address, Protocol::Resp2, self.password.as_deref());
        let mut client = open.await?;
        let role = client.call_within(LIMIT, &["ROLE"]).await?;
        let first = role.items().and_then(|items| items.first());
        match first.and_then(super::Value::text) {
            Some("master") => Ok(client),
            _ => Err(ClientError::Unexpected(role.to_string())),
        }
    }
}
