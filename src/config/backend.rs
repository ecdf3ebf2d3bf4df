//! `[backend.NAME]`: where the nodes are, who decides, whom to tell. (`auth` has a file of its own.)

use std::path::PathBuf;

use super::address::Bind;
use super::authority::{self, same_file};
use super::listener::ReadListener;
use super::section::{Bound, Item, Section};
use super::{Backend, auth, publisher, source};
use crate::control::{AuthoritySettings, PublisherSettings, Role, SourceSettings};
use crate::failover::Policy;
use crate::proxy::BackendSettings;
use crate::topology::NodeId;

const FAILOVER_BOUNDS: &[Bound] = &[
    ("refused_confirmations", 1, 100),
    ("fork_factor", 0, 100),
    ("max_lag_bytes", 0, 1 << 40),
    ("parallel_full_syncs", 1, 1000),
];

const REQUEST_BOUNDS: &[Bound] = &[("hold_bytes", 64 * 1024, 1 << 40)];

/// Names stand in metrics, addresses of pages and command lines.
const NAME_MAX: usize = 64;

/// A backend as far as it could be read. Its name counts even when the rest is wrong, so that
/// listeners that name it get no error on top.
pub(super) struct ReadBackend<'d> {
    pub(super) name: String,
    /// `None` when something necessary is missing or wrong.
    pub(super) backend: Option<Backend>,
    header: Item<'d>,
    nodes: Vec<(NodeId, Item<'d>)>,
    state: Option<(PathBuf, Item<'d>)>,
}

impl ReadBackend<'_> {
    /// Whether it decides and carries nothing.
    pub(super) fn is_monitor(&self) -> bool {
        let backend = self.backend.as_ref();
        backend.is_some_and(|backend| backend.authority.role() == Some(Role::Monitor))
    }
}

/// Reads every backend.
pub(super) fn read_all<'d>(root: &Section<'d>) -> Vec<ReadBackend<'d>> {
    const EXAMPLE: &str = "for example:\n        [backend.main]\n        source = { kind = \
                           \"static\", nodes = [\"10.0.0.1:6379\", \"10.0.0.2:6379\"] }";
    let Some(item) = root.get("backend") else {
        root.fail("no backend: there would be nothing to connect to", EXAMPLE);
        return Vec::new();
    };
    if item.value.get_ref().is_array() {
        item.fail(
            "a backend has a name",
            "write [backend.NAME] with single brackets",
        );
        return Vec::new();
    }
    let Some(section) = item.section("[backend]") else {
        return Vec::new();
    };
    let items = section.all();
    if items.is_empty() {
        section.fail("no backend: there would be nothing to connect to", EXAMPLE);
    }
    items.into_iter().filter_map(read_one).collect()
}

fn read_one(header: Item<'_>) -> Option<ReadBackend<'_>> {
    let name = header.key.clone();
    if !header.value.get_ref().is_table() {
        header.fail(
            format!("`{name}` is not a backend"),
            "a backend has a name: [backend.NAME]",
        );
        return None;
    }
    check_name(&header);
    let section = header.section(format!("[backend.{name}]"))?;
    let decides = section.get("authority");
    let authority = decides
        .as_ref()
        .map_or(Some((AuthoritySettings::Follow, None)), authority::read);
    let role = authority.as_ref().and_then(|(read, _)| read.role());
    let source = match role {
        Some(Role::Proxy) => source_of_proxy(&section),
        _ => section
            .require(
                "source",
                "for example source = { kind = \"static\", nodes = [\"10.0.0.1:6379\"] }",
            )
            .and_then(|item| source::read(&item)),
    };
    let is_cluster = matches!(source, Some((SourceSettings::Cluster { .. }, _)));
    let authority = match (&decides, is_cluster) {
        (None, true) => Some((AuthoritySettings::Cluster, None)),
        _ => authority,
    };
    check_cluster(&section, source.is_some(), is_cluster, &authority);
    let credentials = section.get("auth").and_then(|item| auth::read(&item));
    let failover = failover(&section);
    let requests = requests(&section, &failover);
    let publisher_item = section.get("publishers");
    let publishers = publisher_item.as_ref().map(publisher::read_all);
    let publishers = publishers.unwrap_or_default();
    section.finish();

    let (source, nodes) = source.unzip();
    let (authority, state) = authority.unzip();
    let authority = authority
        .and_then(|authority| authority::of_source(decides.as_ref(), source.as_ref(), authority));
    if let (Some(SourceSettings::Dns(_)), Some(item), Some(authority)) =
        (&source, &decides, &authority)
        && *authority != AuthoritySettings::Follow
    {
        item.fail(
            "who changes the names decides who is primary, so pointsman can only follow",
            "write authority = { kind = \"follow\" }, or name the nodes: source = { kind = \"static\", \
             ... }",
        );
    }
    if let (Some(authority), Some(item)) = (&authority, publisher_item)
        && !authority.keeps_epochs()
        && publishers.iter().any(PublisherSettings::needs_record)
    {
        item.fail(
            format!(
                "`dns_update` and `kv` need an authority whose epochs go on growing over a \
                 restart, and `{}` counts from one again",
                authority.kind()
            ),
            "use the authority `embedded` or a coordinator, or the built-in DNS server: \
             [dns_server]",
        );
    }
    if name == "primary" && matches!(authority, Some(AuthoritySettings::Shared(_))) {
        header.fail(
            "a backend with a record in a coordinator can not be called `primary`",
            "the publisher `kv` writes below that name: take another one",
        );
    }
    let backend = source.zip(authority).map(|(source, authority)| Backend {
        name: name.as_str().into(),
        source,
        authority,
        auth: credentials,
        failover,
        requests,
        publishers,
    });
    Some(ReadBackend {
        name,
        backend,
        header,
        nodes: nodes.unwrap_or_default(),
        state: state.flatten(),
    })
}

/// The record says where the nodes are.
fn source_of_proxy<'d>(section: &Section<'d>) -> Option<source::ReadSource<'d>> {
    match section.get("source") {
        None => Some((SourceSettings::Record, Vec::new())),
        Some(item) => {
            item.fail(
                "a proxy learns its nodes from the record of its monitors",
                "leave `source` out, or the role `proxy`",
            );
            None
        }
    }
}

/// A cluster decides by itself, and only a cluster does.
fn check_cluster(
    section: &Section<'_>,
    has_source: bool,
    is_cluster: bool,
    authority: &Option<authority::ReadAuthority<'_>>,
) {
    let by_cluster = matches!(authority, Some((AuthoritySettings::Cluster, _)));
    if let Some(item) = section.get("authority")
        && has_source
        && authority.is_some()
        && by_cluster != is_cluster
    {
        match is_cluster {
            true => item.fail(
                "a cluster decides by itself who is primary",
                "leave `authority` out, or write { kind = \"cluster\" }",
            ),
            false => item.fail(
                "the authority `cluster` needs a cluster as source",
                "source = { kind = \"cluster\", nodes = [\"10.0.0.1:6379\"] }",
            ),
        }
    }
    for (key, why) in [
        (
            "failover",
            "a cluster detects and decides by itself: these settings would do nothing",
        ),
        (
            "publishers",
            "of a cluster nothing is published: its nodes tell where the slots are",
        ),
    ] {
        if let Some(item) = section.get(key).filter(|_| is_cluster) {
            item.fail(why, format!("remove `{key}`"));
        }
    }
}

fn check_name(header: &Item<'_>) {
    let name = &header.key;
    let fits = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > NAME_MAX || !fits {
        header.fail(
            format!("`{name}` can not be the name of a backend"),
            format!("letters, digits, `-`, `_` and `.`, at most {NAME_MAX} of them"),
        );
    }
}

fn failover(section: &Section<'_>) -> Policy {
    let Some(item) = section.get("failover") else {
        return Policy::default();
    };
    let title = format!("{}.failover]", section.title().trim_end_matches(']'));
    let Some(section) = item.section(title) else {
        return Policy::default();
    };
    let policy = section.settings::<Policy>(FAILOVER_BOUNDS);
    for (name, time) in [
        ("unacked_after", policy.unacked_after),
        ("silent_after", policy.silent_after),
    ] {
        if policy.probe_interval >= time {
            item.fail(
                format!("`{name}` must be longer than `probe_interval`"),
                "several probes should fit into it",
            );
        }
    }
    policy
}

fn requests(section: &Section<'_>, policy: &Policy) -> BackendSettings {
    let Some(item) = section.get("requests") else {
        return BackendSettings::default();
    };
    let title = format!("{}.requests]", section.title().trim_end_matches(']'));
    let Some(section) = item.section(title) else {
        return BackendSettings::default();
    };
    let settings = section.settings::<BackendSettings>(REQUEST_BOUNDS);
    if settings.hold_timeout <= policy.silent_after {
        item.warn(
            "`hold_timeout` is not longer than `silent_after`: when the primary hangs, clients \
             get errors before a replica is promoted",
            "make `hold_timeout` a second or more longer",
        );
    }
    settings
}

/// What concerns several backends, or a backend and the listeners.
pub(super) fn check_against(backends: &[ReadBackend<'_>], listeners: &[ReadListener<'_>]) {
    for (index, read) in backends.iter().enumerate() {
        for (node, item) in &read.nodes {
            if let Some(listener) = listeners.iter().find(|l| is_node(&l.listener.bind, node)) {
                item.fail(
                    format!("the node {node} is a listener of this pointsman"),
                    format!(
                        "it would connect to itself; move the listener {} or the node",
                        listener.listener.bind
                    ),
                );
            }
        }
        let served = listeners.iter().any(|l| l.listener.backend == index);
        if read.is_monitor() {
            if served {
                read.header.fail(
                    format!("a listener serves the backend `{}`", read.name),
                    "with the role `monitor` it carries no requests; the role `both` does",
                );
            }
        } else if !served {
            read.header.warn(
                format!("no listener serves the backend `{}`", read.name),
                format!("add a [[listener]] with backend = \"{}\"", read.name),
            );
        }
        if read.state.is_some() && read.nodes.len() == 1 {
            read.header.warn(
                format!("the backend `{}` has one node", read.name),
                "without a replica there is nothing to fail over to",
            );
        }
        for earlier in &backends[..index] {
            check_pair(earlier, read);
            check_names(earlier, read);
        }
    }
}

/// Two embedded authorities must not decide about the same thing.
fn check_pair(earlier: &ReadBackend<'_>, later: &ReadBackend<'_>) {
    let (Some((first, _)), Some((second, item))) = (&earlier.state, &later.state) else {
        return;
    };
    if same_file(first, second) {
        item.fail(
            format!("the backend `{}` has the same state file", earlier.name),
            "each backend needs a file of its own",
        );
    }
    for (node, item) in &later.nodes {
        if earlier.nodes.iter().any(|(other, _)| other == node) {
            item.fail(
                format!(
                    "the node {node} belongs to the backend `{}` too",
                    earlier.name
                ),
                "two authorities would decide about it; use one backend with two listeners",
            );
        }
    }
}

/// Two primaries under one name would replace each other.
fn check_names(earlier: &ReadBackend<'_>, later: &ReadBackend<'_>) {
    let names = |read: &ReadBackend<'_>| -> Vec<_> {
        let publishers = read.backend.iter().flat_map(|backend| &backend.publishers);
        let names = publishers.filter_map(PublisherSettings::dns_name);
        names.cloned().collect()
    };
    let taken = names(earlier);
    if let Some(name) = names(later).iter().find(|name| taken.contains(name)) {
        later.header.fail(
            format!(
                "the backend `{}` publishes the name {name} too",
                earlier.name
            ),
            "each backend needs a name of its own",
        );
    }
}

fn is_node(bind: &Bind, node: &NodeId) -> bool {
    matches!(bind, Bind::Tcp(address) if address.to_string() == node.as_str())
}
