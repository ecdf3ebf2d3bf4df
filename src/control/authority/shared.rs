//! The record of several monitors, in a coordinator: `<prefix>/<backend>/record`, and beside it an
//! `opinion:<monitor>` of each monitor. All values are JSON.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Authority, AuthorityError, Boxed, Loaded, Swap};
use crate::clock;
use crate::control::store::{self, Entry, Store, StoreError, StoreSettings, Write};
use crate::failover::{Opinion, Record, Version};
use crate::topology::Timestamp;

const RECORD: &str = "record";

const OPINION: &str = "opinion:";

/// What stays the same for so long was left by a pointsman that is gone: it is removed.
const KEPT: Duration = Duration::from_secs(600);

/// See the head of the file.
pub struct SharedAuthority {
    store: Box<dyn Store>,
    backend: Arc<str>,
    opinions: Leavings,
}

/// Version of each entry, and when it was first seen.
#[derive(Default)]
pub(super) struct Leavings(HashMap<String, (u64, Timestamp)>);

impl SharedAuthority {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// Certificates that can not be used.
    pub fn new(settings: &StoreSettings, backend: Arc<str>) -> Result<Self, AuthorityError> {
        let store = store::open(settings, &backend).map_err(unavailable)?;
        Ok(SharedAuthority {
            store,
            backend,
            opinions: Leavings::default(),
        })
    }

    async fn read(&mut self) -> Result<Loaded, AuthorityError> {
        let entries = self.store.read().await.map_err(unavailable)?;
        let mut loaded = Loaded::default();
        for entry in &entries {
            if entry.name == RECORD {
                loaded.record = Some(self.understand(entry)?);
                loaded.version = Version(entry.version);
            } else if entry.name.starts_with(OPINION)
                && let Ok(opinion) = serde_json::from_slice(&entry.value)
            {
                loaded.opinions.push(opinion);
            }
        }
        let opinions = entries.iter().filter(|e| e.name.starts_with(OPINION));
        for name in self.opinions.of(opinions) {
            // Somebody will try again.
            let _ = self.store.delete(name).await;
        }
        Ok(loaded)
    }

    fn understand(&self, entry: &Entry) -> Result<Record, AuthorityError> {
        let refused = |why: String| AuthorityError(format!("the stored record is {why}"));
        if entry.value.is_empty() {
            return Err(refused("empty".to_owned()));
        }
        let value: serde_json::Value = serde_json::from_slice(&entry.value)
            .map_err(|error| refused(format!("no record of pointsman: {error}")))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format.is_some_and(|format| format > u64::from(Record::FORMAT)) {
            return Err(refused("one of a newer pointsman".to_owned()));
        }
        let record: Record = serde_json::from_value(value)
            .map_err(|error| refused(format!("no record of pointsman: {error}")))?;
        if record.backend != self.backend {
            return Err(refused(format!("that of backend `{}`", record.backend)));
        }
        Ok(record)
    }

    async fn write(&mut self, expected: Version, record: &Record) -> Swap {
        let value = match serde_json::to_vec(record) {
            Ok(value) => value,
            Err(error) => {
                return Swap::Unavailable(format!("the record can not be written: {error}"));
            }
        };
        match self.store.swap(RECORD, expected.0, value).await {
            Write::Done(version) => Swap::Done(Version(version)),
            Write::Unknown(why) => Swap::Unknown(why),
            Write::Unavailable(why) => Swap::Unavailable(why),
            Write::Conflict => match self.read().await {
                Ok(stored) => Swap::Lost(stored),
                Err(error) => Swap::Unavailable(error.0),
            },
        }
    }
}

impl Leavings {
    /// Those of `entries` that stayed the same for too long.
    pub(super) fn of<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> Vec<&'e str> {
        let now = clock::now();
        let mut before = std::mem::take(&mut self.0);
        let mut left = Vec::new();
        for entry in entries {
            let seen = before.remove(&entry.name);
            let seen = seen.filter(|(version, _)| *version == entry.version);
            let (_, since) = seen.unwrap_or((entry.version, now));
            if now - since > KEPT {
                left.push(&*entry.name);
            }
            self.0.insert(entry.name.clone(), (entry.version, since));
        }
        left
    }
}

impl Authority for SharedAuthority {
    fn load(&mut self) -> Boxed<'_, Result<Loaded, AuthorityError>> {
        Box::pin(self.read())
    }

    fn swap(&mut self, expected: Version, record: Record) -> Boxed<'_, Swap> {
        Box::pin(async move { self.write(expected, &record).await })
    }

    fn changed(&mut self) -> Boxed<'_, ()> {
        self.store.changed()
    }

    fn opine(&mut self, opinion: Opinion) -> Boxed<'_, Result<(), AuthorityError>> {
        Box::pin(async move {
            let name = format!("{OPINION}{}", opinion.monitor);
            let value = serde_json::to_vec(&opinion).map_err(|e| AuthorityError(e.to_string()))?;
            self.store.put(&name, value).await.map_err(unavailable)
        })
    }
}

pub(super) fn unavailable(error: StoreError) -> AuthorityError {
    AuthorityError(error.0)
}
