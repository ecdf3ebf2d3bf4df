//! `source` of a backend: where its nodes are learned.

use super::address;
use super::dns;
use super::kind::with_kind;
use super::section::{Item, Section};
use crate::control::SourceSettings;
use crate::topology::NodeId;

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["sentinel", "etcd", "consul", "zookeeper", "cluster"];

/// A source, and the nodes that the file itself names.
pub(super) type ReadSource<'d> = (SourceSettings, Vec<(NodeId, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadSource<'d>> {
    let (section, kind) = with_kind(item, "source", &["dns", "static"], LATER)?;
    match kind {
        "dns" => Some((SourceSettings::Dns(dns::read(section)?), Vec::new())),
        _ => fixed(section),
    }
}

/// The nodes are those of the file.
fn fixed<'d>(section: Section<'d>) -> Option<ReadSource<'d>> {
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
    let settings = SourceSettings::Static {
        nodes: nodes.iter().map(|(node, _)| node.clone()).collect(),
    };
    Some((settings, nodes))
}
