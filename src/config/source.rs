//! `source` of a backend: where its nodes are learned.

use super::dns;
use super::kind::with_kind;
use super::section::{Item, Section};
use super::{address, auth};
use crate::control::SourceSettings;
use crate::control::sentinel::{ListedSentinel, SentinelSettings};
use crate::topology::NodeId;

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["etcd", "consul", "zookeeper"];

/// A source, and the nodes that the file itself names.
pub(super) type ReadSource<'d> = (SourceSettings, Vec<(NodeId, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadSource<'d>> {
    let (section, kind) = with_kind(
        item,
        "source",
        &["cluster", "dns", "sentinel", "static"],
        LATER,
    )?;
    match kind {
        "dns" => Some((SourceSettings::Dns(dns::read(section)?), Vec::new())),
        "sentinel" => sentinel(section).map(|settings| (settings, Vec::new())),
        kind => {
            let named = named(section)?;
            let nodes = named.iter().map(|(node, _)| node.clone()).collect();
            let settings = match kind {
                "cluster" => SourceSettings::Cluster { nodes },
                _ => SourceSettings::Static { nodes },
            };
            Some((settings, named))
        }
    }
}

/// The nodes are those that Sentinel names.
fn sentinel(section: Section<'_>) -> Option<SourceSettings> {
    let hint = "for example sentinels = [\"10.0.0.1:26379\", \"10.0.0.2:26379\", \
                \"10.0.0.3:26379\"]";
    let list = section.require("sentinels", hint);
    let master = section.require("master", "Sentinel's name of it, for example \"mymaster\"");
    let credentials = auth::beside(&section);
    section.finish();
    let wrong = matches!(credentials, auth::Found::Wrong);
    let credentials = credentials.credentials();
    let list = list?;
    let items = list.list().unwrap_or_default();
    if items.is_empty() && list.value.get_ref().is_array() {
        list.fail("`sentinels` is empty", hint);
    }
    let mut sentinels: Vec<ListedSentinel> = Vec::new();
    for item in &items {
        let Some(listed) = listed_sentinel(item) else {
            continue;
        };
        let address = &listed.address;
        if sentinels.iter().any(|other| other.address == *address) {
            item.fail(
                format!("the sentinel {address} is named twice"),
                "remove one",
            );
            continue;
        }
        sentinels.push(ListedSentinel {
            credentials: listed.credentials.or_else(|| credentials.clone()),
            ..listed
        });
    }
    if let ([_], [_]) = (items.as_slice(), sentinels.as_slice()) {
        list.warn(
            "one sentinel is named: pointsman can not start while that one is down",
            "name all of them",
        );
    }
    let master = master?;
    let name = master.string()?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.is_empty() || !name.bytes().all(fits) {
        master.fail(
            format!("`{name}` can not be a master name"),
            "Sentinel allows letters, digits, `.`, `-` and `_`",
        );
        return None;
    }
    (!wrong).then(|| {
        SourceSettings::Sentinel(SentinelSettings {
            master: name.into(),
            sentinels,
            credentials,
        })
    })
}

/// `"host:port"`, or a table with credentials of its own.
fn listed_sentinel(item: &Item<'_>) -> Option<ListedSentinel> {
    let (address, credentials) = match item.value.get_ref().as_table() {
        None => (item.string()?.to_owned(), None),
        Some(_) => {
            let section = item.section("an entry of `sentinels`")?;
            let address = section.require("address", "for example \"10.0.0.1:26379\"");
            let found = auth::beside(&section);
            section.finish();
            if matches!(found, auth::Found::Wrong) {
                return None;
            }
            (address?.string()?.to_owned(), found.credentials())
        }
    };
    match address::node(&address) {
        Ok(address) => Some(ListedSentinel {
            address,
            credentials,
        }),
        Err(error) => {
            item.fail(error.message, error.hint.replace("6379", "26379"));
            None
        }
    }
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
