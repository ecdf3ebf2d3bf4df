//! The nodes that the configuration names.

use super::{Boxed, Source};
use crate::topology::NodeId;

/// A set that never changes.
#[derive(Debug)]
pub struct StaticSource {
    nodes: Option<Vec<NodeId>>,
}

impl StaticSource {
    /// In the order of the configuration.
    pub fn new(nodes: Vec<NodeId>) -> Self {
        StaticSource { nodes: Some(nodes) }
    }
}

impl Source for StaticSource {
    fn next(&mut self) -> Boxed<'_, Vec<NodeId>> {
        // Taken when polled and not before: a future that is dropped unpolled loses nothing.
        Box::pin(async move {
            match self.nodes.take() {
                Some(nodes) => nodes,
                None => std::future::pending().await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_that_was_dropped_loses_nothing() {
        let mut source = StaticSource::new(vec![NodeId::new("a:1")]);
        drop(source.next());
        assert_eq!(source.next().await, [NodeId::new("a:1")]);
    }
}
