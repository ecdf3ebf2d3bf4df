//! `authority` of a backend: who decides.

use std::path::{Path, PathBuf};

use super::kind::with_kind;
use super::section::{Item, Section};
use crate::control::AuthoritySettings;

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["etcd", "consul", "zookeeper", "sentinel"];

/// An authority, and the state file with its place where it has one.
pub(super) type ReadAuthority<'d> = (AuthoritySettings, Option<(PathBuf, Item<'d>)>);

pub(super) fn read<'d>(item: &Item<'d>) -> Option<ReadAuthority<'d>> {
    let (section, kind) = with_kind(item, "authority", &["cluster", "embedded", "follow"], LATER)?;
    match kind {
        "cluster" => {
            section.finish();
            Some((AuthoritySettings::Cluster, None))
        }
        "embedded" => embedded(section),
        _ => {
            section.finish();
            Some((AuthoritySettings::Follow, None))
        }
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
