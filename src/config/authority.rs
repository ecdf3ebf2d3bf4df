//! `authority` of a backend: who decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::kind::with_kind;
use super::section::{Item, Section};
use super::store;
use crate::control::{AuthoritySettings, Role, SharedSettings, SourceSettings};

const KINDS: &[&str] = &[
    "cluster",
    "consul",
    "embedded",
    "etcd",
    "follow",
    "sentinel",
    "zookeeper",
];

/// More failure domains than anybody has.
const MONITORS_MOST: i64 = 99;

const DOMAIN_MAX: usize = 64;

const VIEW_LEASE_LEAST: Duration = Duration::from_secs(1);

/// An authority, and the state file with its place where it has one.
pub(super) type ReadAuthority<'d> = (AuthoritySettings, Option<(PathBuf, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadAuthority<'d>> {
    let (section, kind) = with_kind(item, "authority", KINDS, &[])?;
    match kind {
        "cluster" => {
            section.finish();
            Some((AuthoritySettings::Cluster, None))
        }
        "embedded" => embedded(section),
        "consul" | "etcd" | "zookeeper" => {
            let shared = shared(&section, kind);
            section.finish();
            Some((AuthoritySettings::Shared(Box::new(shared?)), None))
        }
        "sentinel" => {
            section.finish();
            Some((AuthoritySettings::Sentinel, None))
        }
        _ => {
            section.finish();
            Some((AuthoritySettings::Follow, None))
        }
    }
}

/// A record that several pointsman share.
fn shared(section: &Section<'_>, kind: &str) -> Option<SharedSettings> {
    let store = store::read(section, kind);
    let role = match section.get("role") {
        None => Some(Role::Both),
        Some(item) => role(&item),
    };
    let domain = match section.get("domain") {
        None => Some(host_name()),
        Some(item) => domain(&item),
    };
    let monitors = match section.get("monitors") {
        None => Some(1),
        Some(item) => item.integer(1, MONITORS_MOST),
    };
    let view_lease = match section.get("view_lease") {
        None => Some(None),
        Some(item) => view_lease(&item).map(Some),
    };
    Some(SharedSettings {
        store: store?,
        role: role?,
        domain: domain?,
        monitors: u32::try_from(monitors?).ok()?,
        view_lease: view_lease?,
    })
}

fn role(item: &Item<'_>) -> Option<Role> {
    match item.string()? {
        "both" => Some(Role::Both),
        "monitor" => Some(Role::Monitor),
        "proxy" => Some(Role::Proxy),
        other => {
            item.fail(
                format!("there is no role `{other}`"),
                "one of: both, monitor, proxy",
            );
            None
        }
    }
}

fn domain(item: &Item<'_>) -> Option<Arc<str>> {
    let text = item.string()?;
    let fits = text.bytes().all(|b| b.is_ascii_graphic());
    if text.is_empty() || text.len() > DOMAIN_MAX || !fits {
        item.fail(
            format!("`{text}` can not be the name of a failure domain"),
            format!("at most {DOMAIN_MAX} letters, digits and signs, without spaces"),
        );
        return None;
    }
    Some(text.into())
}

fn view_lease(item: &Item<'_>) -> Option<Duration> {
    let lease = item.duration()?;
    if lease < VIEW_LEASE_LEAST {
        item.fail(
            "`view_lease` is too short: reading the record takes its time",
            "1s or more",
        );
        return None;
    }
    Some(lease)
}

/// Monitors on different hosts fail apart from one another, as far as we know.
fn host_name() -> Arc<str> {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned().into()
}

/// Where Sentinel is the source it decides too, whether or not the file says so; nowhere else can it.
pub(super) fn of_source(
    item: Option<&Item<'_>>,
    source: Option<&SourceSettings>,
    authority: AuthoritySettings,
) -> Option<AuthoritySettings> {
    let led = matches!(source?, SourceSettings::Sentinel(_));
    match (item, led, &authority) {
        (None, true, _) => Some(AuthoritySettings::Sentinel),
        (Some(item), true, other) if *other != AuthoritySettings::Sentinel => {
            item.fail(
                format!("the source is Sentinel, which decides already: `{}` would be a second authority", other.kind()),
                "remove `authority`, or write { kind = \"sentinel\" }",
            );
            None
        }
        (Some(item), false, AuthoritySettings::Sentinel) => {
            item.fail(
                "the authority `sentinel` needs Sentinel as the source",
                "source = { kind = \"sentinel\", sentinels = [\"10.0.0.1:26379\"], master = \"mymaster\" }",
            );
            None
        }
        _ => Some(authority),
    }
}

fn embedded<'d>(section: Section<'d>) -> Option<ReadAuthority<'d>> {
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
    let authority = AuthoritySettings::Embedded {
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

/// Whether two paths name the same file, as far as can be seen before it exists.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    let whole = |p: &Path| {
        let directory = directory_of(p).canonicalize().ok()?;
        Some(directory.join(p.file_name()?))
    };
    a == b || whole(a).is_some_and(|a| Some(a) == whole(b))
}
