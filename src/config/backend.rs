//! `[backend.NAME]`: where the nodes are, who decides, whom to tell. (`auth` has a file of its own.)

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{self, Bind};
use super::listener::ReadListener;
use super::problem::did_you_mean;
use super::section::{Bound, Item, Section};
use super::{Authority, Backend, Publisher, Source, auth};
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

/// A hook that hangs must not keep the next one waiting for long.
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Names stand in metrics, addresses of pages and command lines.
const NAME_MAX: usize = 64;

/// Kinds that the design names and this version does not have.
const LATER_SOURCES: &[&str] = &["sentinel", "dns", "etcd", "consul", "zookeeper", "cluster"];
const LATER_AUTHORITIES: &[&str] = &["etcd", "consul", "zookeeper", "sentinel", "cluster"];
const LATER_PUBLISHERS: &[&str] = &["dns_update", "dns_server", "kv", "vip", "sentinel"];

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
    let nodes = section
        .require(
            "source",
            "for example source = { kind = \"static\", nodes = [\"10.0.0.1:6379\"] }",
        )
        .map(|item| source(&item))
        .unwrap_or_default();
    let authority = section
        .get("authority")
        .map_or(Some((Authority::Follow, None)), |item| authority(&item));
    let credentials = section.get("auth").and_then(|item| auth::read(&item));
    let failover = failover(&section);
    let requests = requests(&section, &failover);
    let publishers = section
        .get("publishers")
        .map(|item| publishers(&item))
        .unwrap_or_default();
    section.finish();

    let (authority, state) = match authority {
        Some((authority, state)) => (Some(authority), state),
        None => (None, None),
    };
    let backend = authority.map(|authority| Backend {
        name: name.as_str().into(),
        source: Source::Static {
            nodes: nodes.iter().map(|(node, _)| node.clone()).collect(),
        },
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
        nodes,
        state,
    })
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

/// The table behind `source`, `authority` or a publisher, and its `kind`.
fn with_kind<'d>(
    item: &Item<'d>,
    what: &str,
    kinds: &[&str],
    later: &[&str],
) -> Option<(Section<'d>, &'d str)> {
    if let Some(kind) = item.value.get_ref().as_str() {
        item.fail(
            format!("{} must be a table, not a string", item.name()),
            format!("write {{ kind = \"{kind}\" }}"),
        );
        return None;
    }
    let section = item.section(item.name())?;
    let hint = format!("one of: {}", kinds.join(", "));
    let kind_item = section.require("kind", &hint)?;
    let kind = kind_item.string()?;
    if kinds.contains(&kind) {
        return Some((section, kind));
    }
    if later.contains(&kind) {
        kind_item.fail(
            format!("the {what} `{kind}` is not in this version of pointsman"),
            hint,
        );
    } else {
        kind_item.fail(
            format!("there is no {what} `{kind}`"),
            did_you_mean(kind, kinds.iter().copied()).unwrap_or(hint),
        );
    }
    None
}

fn source<'d>(item: &Item<'d>) -> Vec<(NodeId, Item<'d>)> {
    let Some((section, _)) = with_kind(item, "source", &["static"], LATER_SOURCES) else {
        return Vec::new();
    };
    let hint = "for example nodes = [\"10.0.0.1:6379\", \"10.0.0.2:6379\"]";
    let list = section.require("nodes", hint);
    section.finish();
    let Some(list) = list else { return Vec::new() };
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
    nodes
}

type ReadAuthority<'d> = (Authority, Option<(PathBuf, Item<'d>)>);

fn authority<'d>(item: &Item<'d>) -> Option<ReadAuthority<'d>> {
    let kinds = ["embedded", "follow"];
    let (section, kind) = with_kind(item, "authority", &kinds, LATER_AUTHORITIES)?;
    if kind == "follow" {
        section.finish();
        return Some((Authority::Follow, None));
    }
    let state = section.require(
        "state",
        "for example state = \"/var/lib/pointsman/main.json\"",
    );
    section.finish();
    let state = state?;
    let path = PathBuf::from(state.string()?);
    let directory = directory_of(&path);
    if !directory.is_dir() {
        state.fail(
            format!("the directory {} does not exist", directory.display()),
            "create it, writable for the user pointsman runs as",
        );
    } else if path.is_dir() || path.as_os_str().is_empty() {
        state.fail(
            format!("{} is a directory", path.display()),
            "name a file in it, for example \"main.json\"",
        );
    }
    let authority = Authority::Embedded {
        state: path.clone(),
    };
    Some((authority, Some((path, state))))
}

/// The directory a file is in; that of a bare name is the current one.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
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

fn publishers(item: &Item<'_>) -> Vec<Publisher> {
    let items = item.list().unwrap_or_default();
    items.iter().filter_map(publisher).collect()
}

fn publisher(item: &Item<'_>) -> Option<Publisher> {
    let (section, _) = with_kind(item, "publisher", &["hook"], LATER_PUBLISHERS)?;
    let program = section.require("program", "the absolute path of a program");
    let timeout = section.get("timeout");
    section.finish();
    let timeout = match timeout {
        Some(item) => item.duration()?,
        None => HOOK_TIMEOUT,
    };
    let program = program?;
    let path = PathBuf::from(program.string()?);
    if !path.is_absolute() {
        program.fail(
            format!(
                "the path of the program must be absolute, not `{}`",
                path.display()
            ),
            "for example \"/usr/local/bin/on-switch\"",
        );
        return None;
    }
    match std::fs::metadata(&path) {
        Err(error) => program.fail(
            format!("the program {} can not be used: {error}", path.display()),
            "check the path and its permissions",
        ),
        Ok(data) if !data.is_file() || data.permissions().mode() & 0o111 == 0 => program.fail(
            format!("{} is not an executable file", path.display()),
            format!("chmod +x {}", path.display()),
        ),
        Ok(_) => {}
    }
    Some(Publisher::Hook {
        program: path,
        timeout,
    })
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

fn same_file(a: &Path, b: &Path) -> bool {
    let whole = |p: &Path| {
        let directory = directory_of(p).canonicalize().ok()?;
        Some(directory.join(p.file_name()?))
    };
    a == b || whole(a).is_some_and(|a| Some(a) == whole(b))
}

fn is_node(bind: &Bind, node: &NodeId) -> bool {
    matches!(bind, Bind::Tcp(address) if address.to_string() == node.as_str())
}
