//! Whom we tell about a new primary: the seam, its contract, and the task that keeps telling.
//!
//! 1. [`Publisher::publish`] is idempotent: the same announcement twice is as good as once.
//! 2. An announcement with an older epoch than one that was published is not published, and that is
//!    [`PublishError::Older`].
//! 3. It is bounded in time by the publisher itself.
//! 4. `Ok` means that whoever asks now learns the new primary.
//!
//! Telling never holds up a failover: each publisher has a task, and of several announcements that
//! wait only the newest is told.
//!
//! What changed while no monitor ran is told too: a monitor that finds a primary serving announces it
//! without a predecessor. Whoever wants to hear of changes only says so by [`Publisher::only_changes`].

mod dns_update;
mod hook;
mod kv;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub use dns_update::{DnsUpdatePublisher, DnsUpdateSettings, TsigKey};
pub use hook::HookPublisher;
pub use kv::KvPublisher;

use super::authority::Boxed;
use crate::metrics::{PublicationMetrics, PublicationOutcome, PublisherKind};
use crate::topology::{Epoch, NodeId};

/// Pause before the second try; it doubles up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);

const RETRY_MOST: Duration = Duration::from_secs(60);

/// How long the news of an epoch that somebody else published may take to arrive here.
const OVERTAKEN: Duration = Duration::from_secs(10);

/// Tells one kind of audience. The head of this file is its contract.
pub trait Publisher: Send {
    /// For logs.
    fn name(&self) -> String;

    /// For metrics.
    fn kind(&self) -> PublisherKind;

    /// Tells that `announcement.to` is primary.
    fn publish(&mut self, announcement: Announcement) -> Boxed<'_, Result<(), PublishError>>;

    /// Whether announcements without a predecessor are left out.
    fn only_changes(&self) -> bool {
        false
    }

    /// After which time the same is published again, where others may change what was published.
    fn refresh(&self) -> Option<Duration> {
        None
    }
}

/// Who is primary, to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Epoch in which it serves.
    pub epoch: Epoch,
    /// Primary before; `None` where the monitor found `to` serving and changed nothing.
    pub from: Option<NodeId>,
    /// Primary now.
    pub to: NodeId,
    /// Whether the operator asked for it.
    pub planned: bool,
    /// Whether this monitor made the change; else it saw that somebody did.
    pub decided: bool,
}

/// Why an announcement was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A newer one was published before.
    #[error("epoch {0} was published already")]
    Older(Epoch),
    /// It failed; trying again may help.
    #[error("{0}")]
    Failed(String),
}

/// The newest announcements.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    newest: Option<Announcement>,
    /// The newest one with a predecessor.
    change: Option<Announcement>,
}

impl News {
    /// Takes the place of what was not told yet.
    pub(super) fn add(&mut self, announcement: Announcement) {
        if announcement.from.is_some() {
            self.change = Some(announcement.clone());
        }
        self.newest = Some(announcement);
    }
}

/// Publishes what appears in `news` until its sender is gone, and tries again what failed.
pub(super) async fn keep_telling(
    mut publisher: Box<dyn Publisher>,
    backend: Arc<str>,
    mut news: watch::Receiver<News>,
) {
    let metrics = PublicationMetrics::new(&backend, publisher.kind());
    let mut pause = RETRY_FIRST;
    let mut told: Option<Epoch> = None;
    // What is published, until somebody publishes something newer.
    let mut stands: Option<Announcement> = None;
    loop {
        let News { newest, change } = news.borrow_and_update().clone();
        let wanted = match publisher.only_changes() {
            true => change,
            false => newest,
        };
        let due = wanted.filter(|wanted| told.is_none_or(|told| wanted.epoch > told));
        let announcement = match (due, stands.clone().zip(publisher.refresh())) {
            (Some(announcement), _) => announcement,
            (None, None) => match news.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            },
            (None, Some((announcement, refresh))) => match timeout(refresh, news.changed()).await {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => return,
                Err(_) => announcement,
            },
        };
        let epoch = announcement.epoch;
        let published = publisher.publish(announcement.clone()).await;
        metrics.ended(match published {
            Ok(()) => PublicationOutcome::Done,
            Err(PublishError::Older(_)) => PublicationOutcome::Older,
            Err(PublishError::Failed(_)) => PublicationOutcome::Failed,
        });
        match published {
            Ok(()) => {
                if told != Some(epoch) {
                    tracing::info!(publisher = publisher.name(), %epoch, "the primary is published");
                }
                told = Some(epoch);
                stands = Some(announcement);
                pause = RETRY_FIRST;
            }
            Err(PublishError::Older(published)) => {
                told = Some(epoch);
                stands = None;
                pause = RETRY_FIRST;
                // Where several monitors decide, the news of that epoch is on its way here as well.
                match timeout(OVERTAKEN, news.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::warn!(publisher = publisher.name(), %epoch, %published,
                            "a newer epoch was published by somebody, and nobody here knows of it");
                    }
                }
            }
            Err(PublishError::Failed(why)) => {
                match told == Some(epoch) {
                    true => tracing::warn!(publisher = publisher.name(), %epoch, why,
                        "whether the primary is still published could not be seen"),
                    false => tracing::warn!(publisher = publisher.name(), %epoch, why,
                        retry_in = ?pause, "the new primary was not published"),
                }
                tokio::select! {
                    () = sleep(pause) => pause = (pause * 2).min(RETRY_MOST),
                    changed = news.changed() => match changed {
                        Ok(()) => pause = RETRY_FIRST,
                        Err(_) => return,
                    },
                }
            }
        }
    }
}
