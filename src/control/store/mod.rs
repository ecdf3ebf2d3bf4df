//! Coordinators that keep a few small values for several processes: etcd, Consul, ZooKeeper. The seam
//! under the shared authority and the `kv` publisher, and its contract.
//!
//! A store sees one *directory*: a flat set of names with values.
//!
//! 1. [`Store::read`] returns all of it, no older than the moment it was called (a linearizable read),
//!    or an error; never a part of it and never an empty one because somebody could not be asked.
//!    Of two names the one that sorts first is read first or in the same moment.
//! 2. Each value has a version that grows with every change of the value, and that a value which was
//!    deleted and made again does not have a second time. 0: there is no value. A name belongs either
//!    to `swap` or to `put`.
//! 3. [`Store::swap`] stores only if the version is the expected one. [`Write::Conflict`] and
//!    [`Write::Unavailable`] mean that nothing was stored, [`Write::Unknown`] that nobody can say.
//! 4. [`Store::changed`] is ready after anybody changed something in the directory, and every
//!    [`LOOK`] without that: a watch that died unnoticed costs time, not truth. Cancel safe.
//! 5. Every call ends within [`StoreSettings::timeout`].

mod consul;
mod etcd;
mod http;
mod settings;
mod zookeeper;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use settings::{StoreKind, StoreSettings, TlsSettings};

use super::authority::Boxed;

/// Longest time between two wake-ups of whoever waits for a change.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Pause before a watch that failed is made again.
const WATCH_RETRY: Duration = Duration::from_millis(300);

/// The head of this file is its contract.
pub(super) trait Store: Send {
    /// The whole directory.
    fn read(&mut self) -> Boxed<'_, Result<Vec<Entry>, StoreError>>;

    /// Stores `value` under `name` if its version is `expected`.
    fn swap<'a>(&'a mut self, name: &'a str, expected: u64, value: Vec<u8>) -> Boxed<'a, Write>;

    /// Stores `value` under `name`, whatever is there.
    fn put<'a>(&'a mut self, name: &'a str, value: Vec<u8>) -> Boxed<'a, Result<(), StoreError>>;

    /// Removes `name`; that it is not there is no error.
    fn delete<'a>(&'a mut self, name: &'a str) -> Boxed<'a, Result<(), StoreError>>;

    /// Waits for a change.
    fn changed(&mut self) -> Boxed<'_, ()>;
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without the directory.
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    pub(super) version: u64,
}

/// How a conditional write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Stored, under this version.
    Done(u64),
    /// The version is another one.
    Conflict,
    /// It may or may not be stored.
    Unknown(String),
    /// Not stored: the store refused or was not reached.
    Unavailable(String),
}

/// Why the store could not be used; for the person who runs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct StoreError(pub(super) String);

/// Why one request was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// It changed nothing: refused, or never sent.
    Nothing(String),
    /// It may have been carried out.
    Perhaps(String),
}

impl Failure {
    fn into_write(self) -> Write {
        match self {
            Failure::Nothing(why) => Write::Unavailable(why),
            Failure::Perhaps(why) => Write::Unknown(why),
        }
    }

    fn into_error(self) -> StoreError {
        let (Failure::Nothing(why) | Failure::Perhaps(why)) = self;
        StoreError(why)
    }
}

/// Opens the store; `directory` is below the prefix of the settings. Nothing is connected yet.
///
/// # Errors
/// Certificates that can not be used.
pub(super) fn open(
    settings: &StoreSettings,
    directory: &str,
) -> Result<Box<dyn Store>, StoreError> {
    Ok(match settings.kind {
        StoreKind::Etcd => Box::new(etcd::Etcd::new(settings, directory)?),
        StoreKind::Consul => Box::new(consul::Consul::new(settings, directory)?),
        StoreKind::ZooKeeper => Box::new(zookeeper::ZooKeeper::new(settings, directory)?),
    })
}

/// The watching task of a store, and what it wakes. It ends when this is dropped.
#[derive(Debug, Default)]
struct Watch {
    changed: Arc<Notify>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Watch {
    /// Starts the task when it is asked for the first time: before that there is no runtime.
    fn start<F>(&mut self, task: impl FnOnce(Arc<Notify>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.task.as_ref().is_none_or(|task| task.is_finished()) {
            self.task = Some(tokio::spawn(task(self.changed.clone())));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
