//! `source` of a backend: where its nodes are learned.

use super::address;
use super::kind::with_kind;
use super::section::{Item, Section};
use crate::control::SourceSettings;
use crate::topology::NodeId;

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["sentinel", "dns", "etcd", "consul", "zookeeper"];

/// A source, and the nodes that the file itself names.
pub(super) type ReadSource<'d> = (SourceSettings, Vec<(NodeId, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadSource<'d>> {
    let (section, kind) = with_kind(item, "source", &["cluster", "static"], LATER)?;
    let named = named(section)?;
    let nodes = named.iter().map(|(node, _)| node.clone()).collect();
    let settings = match kind {
        "cluster" => SourceSettings::Cluster { nodes },
        _ => SourceSettings::Static { nodes },
    };
    Some((settings, named))
}

/// The nodes that the file names.
fn named<'d>(section: Section<'d>) -> Option<Vec<(NodeId, Item<'d>)>> {
    let hint = "for example nodes = [\"10.0.0.1:6379\", \"10.0.0.2:6379\"]";
    let list = section.require("nodes", hint);
    section.finish();
    let list = list?;
    let items = list.list().unwrap_or_default();
    if items.is_empty() && list.value.get_ref().is_array() {
        list.fail("`nodes` is empty", hint);
    }
    let mut nodes: Vec<(NodeId, Item<'d>)> = Vec::new();
    for item in items {
        let Some(text) = item.string() else { continue };
        match address::node(text) {
            Err(error) => item.fail(error.message, error.hint),
            Ok(node) if nodes.iter().any(|(other, _)| *other == node) => {
                item.fail(format!("the node {node} is named twice"), "remove one");
            }
            Ok(node) => nodes.push((node, item)),
        }
    }
    Some(nodes)
}
