//! Where those who carry requests tell the monitors that they are there: the seam, its contract, and what
//! keeps it. It is asked beside the authority, so that neither waits for the other.
//!
//! 1. [`Roster::attend`] replaces this pointsman's presence, [`Roster::leave`] removes it; every
//!    [`Roster::roll`] that begins after either has ended, by anybody, shows it. A reading of the record that
//!    begins after an `attend` has ended shows every swap that had ended before a `roll` without it began.
//! 2. Presences change neither the record nor its version, and no `changed` of an authority is ready because
//!    of them: a hundred sidecars must not wake one another.
//! 3. An error of `attend` or `leave` means that it may or may not have been done. What can not be
//!    understood is an error of `roll`: somebody is there, and nobody knows what it obeys.

use std::sync::Arc;

use super::shared::{Leavings, unavailable};
use super::{AuthorityError, Boxed};
use crate::control::store::{self, Entry, Store, StoreSettings};
use crate::failover::Presence;

/// No backend's name has a colon.
const PRESENT: &str = ":present";

/// The head of this file is its contract.
pub trait Roster: Send {
    /// Tells the monitors that this pointsman carries requests, and what it obeys.
    fn attend(&mut self, presence: Presence) -> Boxed<'_, Result<(), AuthorityError>>;

    /// This presence is no more.
    fn leave(&mut self, presence: Presence) -> Boxed<'_, Result<(), AuthorityError>>;

    /// Everybody's last presence; those of the dead stay for a while.
    fn roll(&mut self) -> Boxed<'_, Result<Vec<Presence>, AuthorityError>>;
}

/// In a coordinator: `<prefix>/<backend>:present/<name>` for each. Nobody watches it.
pub struct SharedRoster {
    store: Box<dyn Store>,
    left: Leavings,
}

impl SharedRoster {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// Certificates that can not be used.
    pub fn new(settings: &StoreSettings, backend: &Arc<str>) -> Result<Self, AuthorityError> {
        let directory = format!("{backend}{PRESENT}");
        Ok(SharedRoster {
            store: store::open(settings, &directory).map_err(unavailable)?,
            left: Leavings::default(),
        })
    }

    async fn read(&mut self) -> Result<Vec<Presence>, AuthorityError> {
        let entries = self.store.read().await.map_err(unavailable)?;
        let understood = |entry: &Entry| {
            let foreign = |error| AuthorityError(format!("{}: {error}", entry.name));
            serde_json::from_slice(&entry.value).map_err(foreign)
        };
        let roll = entries.iter().map(understood).collect();
        for name in self.left.of(entries.iter()) {
            // Nobody comes back under the name of a life that ended. What fails is tried again.
            let _ = self.store.delete(name).await;
        }
        roll
    }
}

impl Roster for SharedRoster {
    fn attend(&mut self, presence: Presence) -> Boxed<'_, Result<(), AuthorityError>> {
        Box::pin(async move {
            let name = presence.name();
            let value = serde_json::to_vec(&presence).map_err(|e| AuthorityError(e.to_string()))?;
            self.store.put(&name, value).await.map_err(unavailable)
        })
    }

    fn leave(&mut self, presence: Presence) -> Boxed<'_, Result<(), AuthorityError>> {
        Box::pin(async move {
            let name = presence.name();
            self.store.delete(&name).await.map_err(unavailable)
        })
    }

    fn roll(&mut self) -> Boxed<'_, Result<Vec<Presence>, AuthorityError>> {
        Box::pin(self.read())
    }
}
