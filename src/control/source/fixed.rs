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
        match self.nodes.take() {
            Some(nodes) => Box::pin(std::future::ready(nodes)),
            None => Box::pin(std::future::pending()),
        }
    }
}
