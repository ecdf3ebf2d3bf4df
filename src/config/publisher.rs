//! `publishers` of a backend: whom to tell about a new primary.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::with_kind;
use super::section::{Item, Section};
use crate::control::PublisherSettings;

/// A hook that hangs must not keep the next one waiting for long.
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Kinds that the design names and this version does not have.
const LATER: &[&str] = &["dns_update", "kv"];

pub(super) fn read_all(item: &Item<'_>) -> Vec<PublisherSettings> {
    let items = item.list().unwrap_or_default();
    items.iter().filter_map(publisher).collect()
}

fn publisher(item: &Item<'_>) -> Option<PublisherSettings> {
    let (section, _) = with_kind(item, "publisher", &["hook"], LATER)?;
    hook(section)
}

/// A program, called as Sentinel calls `client-reconfig-script`.
fn hook(section: Section<'_>) -> Option<PublisherSettings> {
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
    Some(PublisherSettings::Hook {
        program: path,
        timeout,
    })
}
