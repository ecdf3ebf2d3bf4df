//! `authority` of a backend: who decides.

use std::path::{Path, PathBuf};

use super::kind::with_kind;
use super::section::{Item, Section};
use crate::control::{AuthoritySettings, SourceSettings};

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["etcd", "consul", "zookeeper", "cluster"];

/// An authority, and the state file with its place where it has one.
pub(super) type ReadAuthority<'d> = (AuthoritySettings, Option<(PathBuf, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadAuthority<'d>> {
    let kinds = &["embedded", "follow", "sentinel"];
    let (section, kind) = with_kind(item, "authority", kinds, LATER)?;
    match kind {
        "embedded" => embedded(section),
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
