//! A cluster of several shards: which shard serves which hash slot. Each shard has a [`super::Topology`] of
//! its own, with one primary a snapshot (I1); this value only says whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::{NodeId, TopologyReader};

/// Hash slots of a cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
pub const HASH_SLOTS: usize = 16_384;

/// Immutable snapshot: where each hash slot is.
#[derive(Clone, Debug)]
pub struct ClusterMap {
    /// Grows by one with every publication; set by [`ClusterWriter::publish`].
    pub generation: u64,
    /// For each hash slot the number of its shard; `None`: nobody serves it.
    pub slots: Box<[Option<u16>]>,
    /// By number. A number never means another shard: one that is gone keeps its place.
    pub shards: Vec<TopologyReader>,
    /// The shard whose primary is at this address, by every name the cluster has for it.
    pub primaries: HashMap<NodeId, u16>,
}

impl ClusterMap {
    /// What is known before the first node has answered.
    pub fn unknown() -> Self {
        ClusterMap {
            generation: 0,
            slots: vec![None; HASH_SLOTS].into(),
            shards: Vec::new(),
            primaries: HashMap::new(),
        }
    }

    /// The shard of a hash slot.
    pub fn shard_of(&self, slot: u16) -> Option<u16> {
        self.slots.get(usize::from(slot)).copied().flatten()
    }
}

/// The only way to change a cluster's map; held by its control plane.
#[derive(Debug)]
pub struct ClusterWriter(watch::Sender<Arc<ClusterMap>>);

/// Reads a cluster's map; every worker holds one.
#[derive(Clone, Debug)]
pub struct ClusterReader(watch::Receiver<Arc<ClusterMap>>);

/// A map of which nothing is known until the first publication.
pub fn cluster_channel() -> (ClusterWriter, ClusterReader) {
    let (sender, receiver) = watch::channel(Arc::new(ClusterMap::unknown()));
    (ClusterWriter(sender), ClusterReader(receiver))
}

impl ClusterWriter {
    /// Publishes `next` with the next generation number.
    pub fn publish(&self, mut next: ClusterMap) {
        next.generation = self.0.borrow().generation + 1;
        self.0.send_replace(Arc::new(next));
    }

    /// The newest published map.
    pub fn current(&self) -> Arc<ClusterMap> {
        self.0.borrow().clone()
    }
}

impl ClusterReader {
    /// The newest published map.
    pub fn current(&self) -> Arc<ClusterMap> {
        self.0.borrow().clone()
    }

    /// Waits for a publication this reader has not seen. `Err` when the writer is gone.
    pub async fn changed(&mut self) -> Result<Arc<ClusterMap>, watch::error::RecvError> {
        self.0.changed().await?;
        Ok(self.0.borrow_and_update().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_map_is_seen_by_every_reader_with_a_growing_generation() {
        let (writer, mut reader) = cluster_channel();
        assert_eq!(reader.current().shard_of(0), None);
        let mut map = ClusterMap::unknown();
        map.slots[7] = Some(3);
        writer.publish(map.clone());
        writer.publish(map);
        let seen = reader.changed().await.expect("the writer lives");
        assert_eq!((seen.generation, seen.shard_of(7)), (2, Some(3)));
    }
}
