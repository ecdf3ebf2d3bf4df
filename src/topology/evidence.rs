//! What the data plane saw, told to the control plane: bounded, lossy, never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::{NodeId, Timestamp};

/// One thing a worker saw on an upstream that carries client requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The node it was seen on.
    pub node: NodeId,
    /// What was seen.
    pub kind: EvidenceKind,
}

/// The kinds of evidence real requests give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvidenceKind {
    /// An established upstream ended with EOF or RST.
    ConnectionLost,
    /// A new connect was refused by the peer's kernel.
    ConnectRefused,
    /// A new connect got no answer in time, or the host or network was unreachable.
    ConnectTimeout,
    /// The node answered, but not as primary: -READONLY, -MASTERDOWN, -REDIRECT, or ROLE says
    /// replica.
    NotPrimary,
    /// The node answers as primary with a `run_id` other than the published one.
    Reborn,
    /// -LOADING.
    Loading,
    /// -MOVED, -ASK, -CLUSTERDOWN: the slots of a cluster are not where they were.
    Moved,
}

/// Held by every worker. Clones share the counters.
#[derive(Clone, Debug)]
pub struct EvidenceSender {
    sender: mpsc::Sender<Evidence>,
    shared: Arc<Shared>,
}

/// Held by the control plane of one backend.
#[derive(Debug)]
pub struct EvidenceReceiver {
    receiver: mpsc::Receiver<Evidence>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// [`Timestamp::as_millis`] of the newest reply any worker got from the primary's epoch.
    last_reply: AtomicU64,
}

/// A channel that keeps `capacity` pieces of evidence; more are dropped and counted.
pub fn evidence_channel(capacity: usize) -> (EvidenceSender, EvidenceReceiver) {
    let (sender, receiver) = mpsc::channel(capacity);
    let shared = Arc::new(Shared::default());
    (
        EvidenceSender {
            sender,
            shared: shared.clone(),
        },
        EvidenceReceiver { receiver, shared },
    )
}

impl EvidenceSender {
    /// Never blocks: when the channel is full the evidence is dropped and counted.
    pub fn send(&self, evidence: Evidence) {
        if self.sender.try_send(evidence).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the published primary answered a client's request at `at`.
    pub fn replied(&self, at: Timestamp) {
        self.shared
            .last_reply
            .store(at.as_millis(), Ordering::Relaxed);
    }
}

impl EvidenceReceiver {
    /// Waits for the next piece; `None` when every sender is gone.
    pub async fn recv(&mut self) -> Option<Evidence> {
        self.receiver.recv().await
    }

    /// When the published primary last answered a client's request, in [`Timestamp::as_millis`];
    /// 0 when it never did.
    pub fn last_reply_millis(&self) -> u64 {
        self.shared.last_reply.load(Ordering::Relaxed)
    }

    /// How many pieces were dropped because the channel was full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}
