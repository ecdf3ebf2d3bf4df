//! `[backend.NAME]`: where the nodes are, who decides, whom to tell. (`auth` has a file of its own.)

use std::path::PathBuf;

use super::address::Bind;
use super::authority::{self, same_file};
use super::listener::ReadListener;
use super::section::{Bound, Item, Section};
use super::{Backend, auth, publisher, source};
use crate::control::{AuthoritySettings, SourceSettings};
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
    let source = section
        .require(
            "source",
            "for example source = { kind = \"static\", nodes = [\"10.0.0.1:6379\"] }",
        )
        .and_then(|item| source::read(&item));
    let is_cluster = matches!(source, Some((SourceSettings::Cluster { .. }, _)));
    let unnamed = match is_cluster {
        true => AuthoritySettings::Cluster,
        false => AuthoritySettings::Follow,
    };
    let authority = section
        .get("authority")
        .map_or(Some((unnamed, None)), |item| authority::read(&item));
    check_cluster(&section, source.is_some(), is_cluster, &authority);
    let credentials = section.get("auth").and_then(|item| auth::read(&item));
    let failover = failover(&section);
    let requests = requests(&section, &failover);
    let publishers = section
        .get("publishers")
        .map(|item| publisher::read_all(&item))
        .unwrap_or_default();
    section.finish();

    let (source, nodes) = source.unzip();
    let (authority, state) = authority.unzip();
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
        if !listeners.iter().any(|l| l.listener.backend == index) {
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

fn is_node(bind: &Bind, node: &NodeId) -> bool {
    matches!(bind, Bind::Tcp(address) if address.to_string() == node.as_str())
}
