//! The plain current address under a plain key, for applications that watch it. Beside it, under
//! `<key>.epoch`, the epoch it belongs to.

use std::sync::Arc;

use super::{Announcement, Boxed, PublishError, Publisher};
use crate::control::store::{self, Entry, Store, StoreError, StoreSettings, Write};
use crate::metrics::PublisherKind;
use crate::topology::Epoch;

/// Below the prefix; the backends' records have directories beside it.
const DIRECTORY: &str = "primary";

/// Tries of one announcement while others write too.
const TRIES: usize = 8;

/// See the head of the file.
pub struct KvPublisher {
    /// Opened when it is needed for the first time.
    store: Option<Box<dyn Store>>,
    settings: StoreSettings,
    /// `None`: the backend's name.
    key: Option<Arc<str>>,
}

impl KvPublisher {
    /// Writes `<prefix>/primary/<key>`; the key is the backend's name where none is given.
    pub fn new(settings: StoreSettings, key: Option<Arc<str>>) -> Self {
        KvPublisher {
            store: None,
            settings,
            key,
        }
    }

    /// The epoch is stored before the address and read in the same moment or after it (a store reads
    /// `redis` before `redis.epoch`): whoever sees an address also sees its epoch, and whoever finds
    /// the address's version changed reads again, and then finds the newer epoch.
    async fn tell(&mut self, announcement: &Announcement) -> Result<(), PublishError> {
        let name = self.key.clone().unwrap_or(announcement.backend.clone());
        let epoch_name = format!("{name}.epoch");
        let failed = |error: StoreError| PublishError::Failed(error.0);
        let store = match &mut self.store {
            Some(store) => store,
            none => none.insert(store::open(&self.settings, DIRECTORY).map_err(failed)?),
        };
        for _ in 0..TRIES {
            let entries = store.read().await.map_err(failed)?;
            let found = |name: &str| entries.iter().find(|entry| entry.name == name);
            let stored = match found(&epoch_name) {
                None => None,
                Some(entry) => Some(epoch(entry)?),
            };
            if let Some(stored) = stored.filter(|stored| *stored > announcement.epoch) {
                return Err(PublishError::Older(stored));
            }
            if stored != Some(announcement.epoch) {
                let version = found(&epoch_name).map_or(0, |entry| entry.version);
                let value = announcement.epoch.0.to_string();
                match store.swap(&epoch_name, version, value.into()).await {
                    // The address is read after this.
                    Write::Done(_) | Write::Conflict => continue,
                    Write::Unknown(why) | Write::Unavailable(why) => {
                        return Err(PublishError::Failed(why));
                    }
                }
            }
            let address = announcement.to.as_str().as_bytes();
            if found(&name).is_some_and(|entry| entry.value == address) {
                return Ok(());
            }
            let version = found(&name).map_or(0, |entry| entry.version);
            match store.swap(&name, version, address.to_vec()).await {
                Write::Done(_) => return Ok(()),
                Write::Conflict => {}
                Write::Unknown(why) | Write::Unavailable(why) => {
                    return Err(PublishError::Failed(why));
                }
            }
        }
        Err(PublishError::Failed(format!(
            "others write {}/{DIRECTORY}/{name} all the time",
            self.settings.prefix
        )))
    }
}

fn epoch(entry: &Entry) -> Result<Epoch, PublishError> {
    let text = std::str::from_utf8(&entry.value).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.map(Epoch).ok_or_else(|| {
        PublishError::Failed(format!(
            "the key {} holds no epoch: somebody else uses it",
            entry.name
        ))
    })
}

impl Publisher for KvPublisher {
    fn name(&self) -> String {
        format!("kv in {}", self.settings.kind.name())
    }

    fn kind(&self) -> PublisherKind {
        PublisherKind::Kv
    }

    fn publish(&mut self, announcement: Announcement) -> Boxed<'_, Result<(), PublishError>> {
        Box::pin(async move { self.tell(&announcement).await })
    }
}
