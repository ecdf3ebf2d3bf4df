//! `auth` of a backend: the secret comes from a file or the environment.

use std::path::Path;

use super::section::{Item, Section};
use crate::resp::Credentials;

const HINT: &str = "one of: password_file = \"/run/secrets/redis\", password_env = \
                    \"REDIS_PASSWORD\"";

/// Reads user and password; errors are reported and never hold the secret.
pub(super) fn read(item: &Item<'_>) -> Option<Credentials> {
    let section = item.section(item.name())?;
    let found = beside(&section);
    section.finish();
    if let Found::Nothing = found {
        item.fail(format!("{} has no password", item.name()), HINT);
    }
    found.credentials()
}

/// User and password among the keys of another table.
pub(super) enum Found {
    Nothing,
    Wrong,
    Credentials(Credentials),
}

impl Found {
    pub(super) fn credentials(self) -> Option<Credentials> {
        match self {
            Found::Credentials(credentials) => Some(credentials),
            Found::Nothing | Found::Wrong => None,
        }
    }
}

/// As [`read`], of a table that has other keys too.
pub(super) fn beside(section: &Section<'_>) -> Found {
    let username = section.get("username");
    let sources: Vec<Item<'_>> = ["password_file", "password_env", "password"]
        .into_iter()
        .filter_map(|key| section.get(key))
        .collect();
    if let (Some(username), []) = (&username, sources.as_slice()) {
        username.fail("a user needs a password", HINT);
        return Found::Wrong;
    }
    if sources.is_empty() {
        return Found::Nothing;
    }
    match given(username.as_ref(), &sources) {
        Some(credentials) => Found::Credentials(credentials),
        None => Found::Wrong,
    }
}

fn given(username: Option<&Item<'_>>, sources: &[Item<'_>]) -> Option<Credentials> {
    let username = match username {
        Some(item) => Some(item.string()?),
        None => None,
    };
    let password = match sources {
        [one] => secret(one)?,
        [_, second, ..] => {
            second.fail("the password is given twice", HINT);
            return None;
        }
        [] => return None,
    };
    Some(Credentials::new(username.map(Into::into), password))
}

/// The secret that a key says where to find: `..._file`, `..._env`, or the value itself.
pub(super) fn secret(item: &Item<'_>) -> Option<Vec<u8>> {
    let text = item.string()?;
    let name = item.key.as_str();
    let name = name.trim_end_matches("_file").trim_end_matches("_env");
    let secret = if item.key.ends_with("_file") {
        from_file(item, Path::new(text))?
    } else if item.key.ends_with("_env") {
        from_environment(item, text)?
    } else {
        item.warn(
            format!("the {name} stands in the configuration itself"),
            format!("move it to a file ({name}_file) or the environment ({name}_env)"),
        );
        text.as_bytes().to_vec()
    };
    if secret.is_empty() {
        item.fail(
            format!("the {name} is empty"),
            format!("leave the {name} out when there is none"),
        );
        return None;
    }
    Some(secret)
}

/// The file's bytes without the line end that editors add.
pub(super) fn from_file(item: &Item<'_>, path: &Path) -> Option<Vec<u8>> {
    let mut secret = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            item.fail(
                format!(
                    "can not read the {} {}: {error}",
                    item.key.replace('_', " "),
                    path.display()
                ),
                "check the path and that the user pointsman runs as may read it",
            );
            return None;
        }
    };
    if secret.ends_with(b"\n") {
        secret.pop();
        if secret.ends_with(b"\r") {
            secret.pop();
        }
    }
    Some(secret)
}

pub(super) fn from_environment(item: &Item<'_>, variable: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    match std::env::var_os(variable) {
        Some(value) => Some(value.into_vec()),
        None => {
            item.fail(
                format!("the environment variable {variable} is not set"),
                format!(
                    "set it for the service, or use {}",
                    item.key.replace("_env", "_file")
                ),
            );
            None
        }
    }
}
