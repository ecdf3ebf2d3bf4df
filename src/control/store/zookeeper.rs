//! ZooKeeper (its Programmer's Guide). Reads come behind a `sync`, which makes them linearizable.
//!
//! A node's own version begins anew when it was deleted and made again; the transaction that changed
//! it last (`mzxid`) does not. That is the version we show. The conditional write needs the other one,
//! and proof that it is still the same node: whoever makes a node by `swap` writes the directory in the
//! same transaction, and each later swap is conditional on the directory's version as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, Error, MultiWriteResult, SessionState, Stat, TlsOptions,
};

use super::{Boxed, Entry, LOOK, Store, StoreError, StoreSettings, WATCH_RETRY, Watch, Write};
use crate::clock;
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
    /// At most one attempt. It outlives the call that began it: a server that hangs costs the first
    /// calls their time, not all of them.
    connecting: JoinSet<Result<Client, Error>>,
    /// What was read or written last.
    versions: HashMap<String, Versions>,
    watch: Watch,
}

/// Of one node.
#[derive(Clone, Copy)]
struct Versions {
    /// The one we show.
    mzxid: i64,
    node: i32,
    /// Never of a later moment than `node`.
    directory: i32,
}

impl ZooKeeper {
    pub(super) fn new(settings: &StoreSettings, directory: &str) -> Result<ZooKeeper, StoreError> {
        let tls = match &settings.tls {
            None => None,
            Some(tls) => {
                let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
                let unusable = |error: Error| StoreError(format!("the certificates: {error}"));
                let Some(ca) = &tls.ca else {
                    let why =
                        "ZooKeeper with TLS needs ca_file: whom the system trusts is not asked";
                    return Err(StoreError(why.to_owned()));
                };
                let mut options = TlsOptions::new().with_pem_ca(&text(ca)).map_err(unusable)?;
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
            connecting: JoinSet::new(),
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
        if self.connecting.is_empty() {
            self.connect();
        }
        let Some(Ok(connected)) = self.connecting.join_next().await else {
            return Err(Error::ClientClosed);
        };
        let client = connected?;
        self.session = Some(client.clone());
        Ok(client)
    }

    fn connect(&mut self) {
        let mut connector = Client::connector()
            .with_session_timeout(SESSION)
            .with_connection_timeout(self.timeout / 2);
        if let Some(credentials) = &self.credentials {
            let user = credentials.username.as_deref().unwrap_or_default();
            let secret = [user.as_bytes(), b":", credentials.password()].concat();
            connector = connector.with_auth("digest", &secret);
        }
        let (cluster, tls) = (self.cluster.clone(), self.tls.clone());
        self.connecting.spawn(async move {
            match tls {
                Some(tls) => connector.with_tls(tls).secure_connect(&cluster).await,
                None => connector.connect(&cluster).await,
            }
        });
    }

    async fn read_all(&mut self) -> Result<Vec<Entry>, Error> {
        let client = self.session().await?;
        client.sync("/").await?;
        let (mut names, directory) = match client.get_children(&self.directory).await {
            Err(Error::NoNode) => return Ok(Vec::new()),
            found => found?,
        };
        names.sort_unstable();
        self.versions.clear();
        let mut entries = Vec::new();
        for name in names {
            let (value, stat) = match client.get_data(&self.path(&name)).await {
                // Deleted since.
                Err(Error::NoNode) => continue,
                found => found?,
            };
            let version = self.remember(&name, directory.version, &stat);
            entries.push(Entry {
                name,
                value,
                version,
            });
        }
        Ok(entries)
    }

    fn remember(&mut self, name: &str, directory: i32, stat: &Stat) -> u64 {
        let versions = Versions {
            mzxid: stat.mzxid,
            node: stat.version,
            directory,
        };
        self.versions.insert(name.to_owned(), versions);
        versions.shown()
    }

    /// Makes a node that others swap, and writes the directory.
    async fn create(&mut self, client: &Client, name: &str, value: &[u8]) -> Result<u64, Error> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        let path = self.path(name);
        let mut writer = client.new_multi_writer();
        writer.add_set_data(&self.directory, &[], None)?;
        writer.add_create(&path, value, &options)?;
        let mut made = writer.commit().await?.into_iter();
        // Both were changed by the same transaction; some servers do not say it of the new node.
        let Some(MultiWriteResult::SetData { stat }) = made.next() else {
            return Err(unexpected());
        };
        let versions = Versions {
            mzxid: stat.mzxid,
            node: 0,
            directory: stat.version,
        };
        self.versions.insert(name.to_owned(), versions);
        Ok(versions.shown())
    }

    async fn make_directory(&self, client: &Client) -> Result<(), Error> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        client.mkdir(&self.directory, &options).await
    }

    /// The versions that go with what we showed, if they are still the present ones.
    async fn versions(
        &mut self,
        client: &Client,
        name: &str,
        expected: u64,
    ) -> Result<Option<Versions>, Error> {
        let known = self.versions.get(name).copied();
        if let Some(known) = known.filter(|known| known.shown() == expected) {
            return Ok(Some(known));
        }
        let Some(directory) = client.check_stat(&self.directory).await? else {
            return Ok(None);
        };
        let Some(stat) = client.check_stat(&self.path(name)).await? else {
            return Ok(None);
        };
        self.remember(name, directory.version, &stat);
        let known = self.versions.get(name).copied();
        Ok(known.filter(|known| known.shown() == expected))
    }

    async fn try_swap(&mut self, name: &str, expected: u64, value: &[u8]) -> Result<Write, Error> {
        let client = self.session().await?;
        if expected == 0 {
            let made = match self.create(&client, name, value).await {
                Err(Error::NoNode) => {
                    self.make_directory(&client).await?;
                    self.create(&client, name, value).await
                }
                made => made,
            };
            return match made {
                Err(Error::NodeExists) => Ok(Write::Conflict),
                made => Ok(Write::Done(made?)),
            };
        }
        let Some(versions) = self.versions(&client, name, expected).await? else {
            return Ok(Write::Conflict);
        };
        let path = self.path(name);
        let mut writer = client.new_multi_writer();
        writer.add_check_version(&self.directory, versions.directory)?;
        writer.add_set_data(&path, value, Some(versions.node))?;
        match writer.commit().await.map_err(Error::from) {
            Err(Error::BadVersion | Error::NoNode) => {
                // The directory's may be another one although the node's is not.
                self.versions.remove(name);
                Ok(Write::Conflict)
            }
            done => match done?.pop() {
                Some(MultiWriteResult::SetData { stat }) => {
                    Ok(Write::Done(self.remember(name, versions.directory, &stat)))
                }
                _ => Err(unexpected()),
            },
        }
    }

    async fn try_put(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        let client = self.session().await?;
        let path = self.path(name);
        let options = CreateMode::Persistent.with_acls(self.acls());
        let made = match client.set_data(&path, value, None).await {
            Err(Error::NoNode) => match client.create(&path, value, &options).await {
                Err(Error::NoNode) => {
                    self.make_directory(&client).await?;
                    client.create(&path, value, &options).await.map(|_| ())
                }
                made => made.map(|_| ()),
            },
            done => return done.map(|_| ()),
        };
        match made {
            // Somebody else made it meanwhile.
            Err(Error::NodeExists) => client.set_data(&path, value, None).await.map(|_| ()),
            made => made,
        }
    }

    fn error(&self, error: &Error) -> StoreError {
        StoreError(format!("ZooKeeper ({}): {error}", self.cluster))
    }

    fn silent(&self) -> String {
        let tls = match self.tls.is_some() {
            true => ", or refuses TLS or a certificate",
            false => "",
        };
        format!("ZooKeeper ({}) does not answer{tls}", self.cluster)
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
            let end = clock::now() + self.timeout;
            // While there is no session nothing is sent.
            match timeout(self.timeout / 2, self.session()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Write::Unavailable(self.error(&error).0),
                Err(_) => return Write::Unavailable(self.silent()),
            }
            let left = end.since(clock::now());
            match timeout(left, self.try_swap(name, expected, &value)).await {
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

impl Versions {
    fn shown(self) -> u64 {
        u64::try_from(self.mzxid).unwrap_or_default()
    }
}

fn unexpected() -> Error {
    Error::UnexpectedError("the answer does not fit the question".to_owned())
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
        sleep(WATCH_RETRY).await;
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
