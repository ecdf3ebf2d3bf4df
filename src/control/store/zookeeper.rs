//! ZooKeeper (its Programmer's Guide). Reads come behind a `sync`, which makes them linearizable.
//!
//! A node's own version begins anew when it was deleted and made again; the transaction that changed
//! it last (`mzxid`) does not. That is the version we show; the other one is kept beside it for
//! the conditional write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, Error, SessionState, Stat, TlsOptions,
};

use super::{Boxed, Entry, LOOK, Store, StoreError, StoreSettings, Watch, Write};
use crate::resp::Credentials;

/// Of no importance to us: no node of ours ends with the session.
const SESSION: Duration = Duration::from_secs(6);

/// See the head of the file.
pub(super) struct ZooKeeper {
    cluster: String,
    /// Without a slash at its end.
    directory: String,
    timeout: Duration,
    credentials: Option<Credentials>,
    tls: Option<TlsOptions>,
    session: Option<Client>,
    /// `mzxid` and version of what was read or written last.
    versions: HashMap<String, (i64, i32)>,
    watch: Watch,
}

impl ZooKeeper {
    pub(super) fn new(settings: &StoreSettings, directory: &str) -> Result<ZooKeeper, StoreError> {
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
                let unusable = |error: Error| StoreError(format!("the certificates: {error}"));
                let mut options = TlsOptions::new();
                if let Some(ca) = &tls.ca {
                    options = options.with_pem_ca(&text(ca)).map_err(unusable)?;
                }
                if let Some((certificate, key)) = &tls.identity {
                    options = options
                        .with_pem_identity(&text(certificate), &text(key))
                        .map_err(unusable)?;
                }
                Some(options)
            }
        };
        Ok(ZooKeeper {
            cluster: settings.endpoints.join(","),
            directory: format!("{}/{directory}", settings.prefix),
            timeout: settings.timeout,
            credentials: settings.credentials.clone(),
            tls,
            session: None,
            versions: HashMap::new(),
            watch: Watch::default(),
        })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    fn acls(&self) -> Acls<'static> {
        match self.credentials.is_some() {
            true => Acls::creator_all(),
            false => Acls::anyone_all(),
        }
    }

    /// The session, a new one where the last one has ended.
    async fn session(&mut self) -> Result<Client, Error> {
        if let Some(client) = &self.session
            && !client.state().is_terminated()
        {
            return Ok(client.clone());
        }
        let mut connector = Client::connector()
            .with_session_timeout(SESSION)
            .with_connection_timeout(self.timeout / 2);
        if let Some(credentials) = &self.credentials {
            let user = credentials.username.as_deref().unwrap_or_default();
            let secret = [user.as_bytes(), b":", credentials.password()].concat();
            connector = connector.with_auth("digest", &secret);
        }
        let client = match self.tls.clone() {
            Some(tls) => {
                connector
                    .with_tls(tls)
                    .secure_connect(&self.cluster)
                    .await?
            }
            None => connector.connect(&self.cluster).await?,
        };
        self.session = Some(client.clone());
        Ok(client)
    }

    async fn read_all(&mut self) -> Result<Vec<Entry>, Error> {
        let client = self.session().await?;
        client.sync("/").await?;
        let names = match client.list_children(&self.directory).await {
            Err(Error::NoNode) => return Ok(Vec::new()),
            names => names?,
        };
        let mut entries = Vec::new();
        for name in names {
            let (value, stat) = match client.get_data(&self.path(&name)).await {
                // Deleted since.
                Err(Error::NoNode) => continue,
                found => found?,
            };
            let version = self.remember(&name, &stat);
            entries.push(Entry {
                name,
                value,
                version,
            });
        }
        Ok(entries)
    }

    fn remember(&mut self, name: &str, stat: &Stat) -> u64 {
        self.versions
            .insert(name.to_owned(), (stat.mzxid, stat.version));
        u64::try_from(stat.mzxid).unwrap_or_default()
    }

    async fn create(&mut self, client: &Client, name: &str, value: &[u8]) -> Result<u64, Error> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        let made = client.create(&self.path(name), value, &options).await;
        let (stat, _) = match made {
            Err(Error::NoNode) => {
                client.mkdir(&self.directory, &options).await?;
                client.create(&self.path(name), value, &options).await?
            }
            made => made?,
        };
        Ok(self.remember(name, &stat))
    }

    async fn try_swap(&mut self, name: &str, expected: u64, value: &[u8]) -> Result<Write, Error> {
        let client = self.session().await?;
        if expected == 0 {
            return match self.create(&client, name, value).await {
                Err(Error::NodeExists) => Ok(Write::Conflict),
                made => Ok(Write::Done(made?)),
            };
        }
        let known = self.versions.get(name).copied();
        let Some((_, version)) = known.filter(|(mzxid, _)| u64::try_from(*mzxid) == Ok(expected))
        else {
            return Ok(Write::Conflict);
        };
        match client
            .set_data(&self.path(name), value, Some(version))
            .await
        {
            Err(Error::BadVersion | Error::NoNode) => Ok(Write::Conflict),
            done => Ok(Write::Done(self.remember(name, &done?))),
        }
    }

    async fn try_put(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        let client = self.session().await?;
        let done = match client.set_data(&self.path(name), value, None).await {
            Err(Error::NoNode) => self.create(&client, name, value).await.map(|_| ()),
            done => done.map(|stat| {
                self.remember(name, &stat);
            }),
        };
        match done {
            // Somebody else made it meanwhile.
            Err(Error::NodeExists) => client
                .set_data(&self.path(name), value, None)
                .await
                .map(|_| ()),
            done => done,
        }
    }

    fn error(&self, error: &Error) -> StoreError {
        StoreError(format!("ZooKeeper ({}): {error}", self.cluster))
    }

    fn silent(&self) -> String {
        format!("ZooKeeper ({}) does not answer", self.cluster)
    }
}

impl Store for ZooKeeper {
    fn read(&mut self) -> Boxed<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async {
            match timeout(self.timeout, self.read_all()).await {
                Ok(Ok(entries)) => Ok(entries),
                Ok(Err(error)) => Err(self.error(&error)),
                Err(_) => Err(StoreError(self.silent())),
            }
        })
    }

    fn swap<'a>(&'a mut self, name: &'a str, expected: u64, value: Vec<u8>) -> Boxed<'a, Write> {
        Box::pin(async move {
            // What fails before this is proof that nothing was sent.
            match timeout(self.timeout / 2, self.session()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Write::Unavailable(self.error(&error).0),
                Err(_) => return Write::Unavailable(self.silent()),
            }
            match timeout(self.timeout / 2, self.try_swap(name, expected, &value)).await {
                Ok(Ok(write)) => write,
                Ok(Err(error)) if refuses(&error) => Write::Unavailable(self.error(&error).0),
                Ok(Err(error)) => Write::Unknown(self.error(&error).0),
                Err(_) => Write::Unknown(self.silent()),
            }
        })
    }

    fn put<'a>(&'a mut self, name: &'a str, value: Vec<u8>) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match timeout(self.timeout, self.try_put(name, &value)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(self.error(&error)),
                Err(_) => Err(StoreError(self.silent())),
            }
        })
    }

    fn delete<'a>(&'a mut self, name: &'a str) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let (path, limit) = (self.path(name), self.timeout);
            let deleting = async {
                let client = self.session().await?;
                client.delete(&path, None).await
            };
            match timeout(limit, deleting).await {
                Ok(Ok(()) | Err(Error::NoNode)) => Ok(()),
                Ok(Err(error)) => Err(self.error(&error)),
                Err(_) => Err(StoreError(self.silent())),
            }
        })
    }

    fn changed(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            let running = self.session.as_ref();
            if let Some(client) = running.filter(|client| !client.state().is_terminated()) {
                let (client, directory) = (client.clone(), self.directory.clone());
                self.watch
                    .start(|changed| watch(client, directory, changed));
            }
            // Without a session there is nothing to watch, but somebody has to look for one.
            let _ = timeout(LOOK, self.watch.changed.notified()).await;
        })
    }
}

/// Whether the server looked at the request and did nothing.
fn refuses(error: &Error) -> bool {
    matches!(
        error,
        Error::NoAuth
            | Error::AuthFailed
            | Error::InvalidAcl
            | Error::NotReadOnly
            | Error::QuotaExceeded
            | Error::Throttled
            | Error::NoHosts
            | Error::Unimplemented
            | Error::BadArguments(_)
    )
}

/// Wakes whoever waits at each event of the directory and of the session, until the session ends.
async fn watch(client: Client, directory: String, changed: Arc<Notify>) {
    let mode = AddWatchMode::PersistentRecursive;
    let Ok(mut watcher) = client.watch(&directory, mode).await else {
        changed.notify_one();
        return;
    };
    // What came before the watch is read now.
    changed.notify_one();
    loop {
        let event = watcher.changed().await;
        changed.notify_one();
        let ended = matches!(
            event.session_state,
            SessionState::AuthFailed | SessionState::Expired | SessionState::Closed
        );
        if ended {
            return;
        }
    }
}
