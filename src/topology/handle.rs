//! One writer, many readers: the snapshot is swapped whole, and readers say when they obey it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::Topology;

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Topology>,
    /// One per worker: the generation it obeys completely.
    obeyed: Vec<AtomicU64>,
    obeyed_changed: Notify,
}

/// The only way to change a backend's topology; not `Clone`, held by its control plane.
#[derive(Debug)]
pub struct TopologyWriter {
    shared: Arc<Shared>,
    generation: watch::Sender<u64>,
}

/// Reads a backend's topology; every worker and the admin server hold one.
#[derive(Clone, Debug)]
pub struct TopologyReader {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
}

/// A topology that is `initial` until the first publication, read by `workers` workers.
pub fn channel(initial: Topology, workers: usize) -> (TopologyWriter, TopologyReader) {
    let (sender, receiver) = watch::channel(initial.generation);
    let shared = Arc::new(Shared {
        current: ArcSwap::from_pointee(initial),
        obeyed: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        obeyed_changed: Notify::new(),
    });
    let writer = TopologyWriter {
        shared: shared.clone(),
        generation: sender,
    };
    (
        writer,
        TopologyReader {
            shared,
            generation: receiver,
        },
    )
}

impl TopologyWriter {
    /// Publishes `next` with the next generation number and returns that number.
    ///
    /// # Panics
    /// When `next` has an older epoch than the published one (I2): that is a bug of the caller.
    pub fn publish(&self, mut next: Topology) -> u64 {
        let current = self.shared.current.load();
        assert!(
            next.epoch >= current.epoch,
            "published epochs never go back (I2)"
        );
        next.generation = current.generation + 1;
        let generation = next.generation;
        self.shared.current.store(Arc::new(next));
        self.generation.send_replace(generation);
        generation
    }

    /// The newest published snapshot.
    pub fn current(&self) -> Arc<Topology> {
        self.shared.current.load_full()
    }

    /// Waits until every worker obeys `generation` or a later one (see
    /// [`TopologyReader::obey`]). Cancel safe.
    pub async fn obeyed(&self, generation: u64) {
        loop {
            let changed = self.shared.obeyed_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_obeyed(generation) {
                return;
            }
            changed.await;
        }
    }

    /// Whether every worker obeys `generation` or a later one by now.
    pub fn is_obeyed(&self, generation: u64) -> bool {
        let obeyed = &self.shared.obeyed;
        obeyed
            .iter()
            .all(|o| o.load(Ordering::Acquire) >= generation)
    }
}

impl TopologyReader {
    /// The newest published snapshot.
    pub fn current(&self) -> Arc<Topology> {
        self.shared.current.load_full()
    }

    /// The newest snapshot where it is newer than `known`; costs no more than a look where it is not.
    pub fn newer_than(&self, known: &Topology) -> Option<Arc<Topology>> {
        let current = self.shared.current.load();
        (current.generation > known.generation).then(|| Arc::clone(&current))
    }

    /// Waits for a publication this reader has not seen. `Err` when the writer is gone.
    pub async fn changed(&mut self) -> Result<Arc<Topology>, watch::error::RecvError> {
        self.generation.changed().await?;
        Ok(self.current())
    }

    /// Worker `worker` says that it obeys `generation` completely: with the gate closed it has no
    /// request on its way (written and unanswered) to the primary, except those that wait there by
    /// their nature (blocking commands, subscriptions); and it has no upstream of an older epoch.
    pub fn obey(&self, worker: usize, generation: u64) {
        self.shared.obeyed[worker].store(generation, Ordering::Release);
        self.shared.obeyed_changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Epoch;

    #[test]
    fn a_publication_is_seen_by_every_reader_with_a_growing_generation() {
        let (writer, reader) = channel(Topology::unknown("main"), 1);
        let mut next = Topology::unknown("main");
        next.epoch = Epoch(1);
        assert_eq!(writer.publish(next.clone()), 1);
        assert_eq!(writer.publish(next), 2);
        assert_eq!(reader.current().generation, 2);
        assert_eq!(reader.current().epoch, Epoch(1));
        let known = Topology::unknown("main");
        let newer = reader.newer_than(&known).map(|newer| newer.generation);
        assert_eq!(newer, Some(2));
        assert!(reader.newer_than(&reader.current()).is_none());
    }

    #[test]
    #[should_panic(expected = "I2")]
    fn an_older_epoch_is_never_published() {
        let (writer, _reader) = channel(Topology::unknown("main"), 1);
        let mut next = Topology::unknown("main");
        next.epoch = Epoch(2);
        writer.publish(next.clone());
        next.epoch = Epoch(1);
        writer.publish(next);
    }

    #[tokio::test]
    async fn obeyed_waits_for_every_worker() {
        let (writer, reader) = channel(Topology::unknown("main"), 2);
        let generation = writer.publish(Topology::unknown("main"));
        reader.obey(0, generation);
        assert!(!writer.is_obeyed(generation));
        let mut waiting = Box::pin(writer.obeyed(generation));
        assert!(futures_now(waiting.as_mut()).await.is_none());
        reader.obey(1, generation);
        waiting.await;
        assert!(writer.is_obeyed(generation));
    }

    /// Polls once.
    async fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
