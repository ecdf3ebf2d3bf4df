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

fn secret(item: &Item<'_>) -> Option<Vec<u8>> {
    let text = item.string()?;
    let secret = match item.key.as_str() {
        "password_file" => from_file(item, Path::new(text))?,
        "password_env" => from_environment(item, text)?,
        _ => {
            item.warn(
                "the password stands in the configuration itself",
                "move it to a file (password_file) or the environment (password_env)",
            );
            text.as_bytes().to_vec()
        }
    };
    if secret.is_empty() {
        item.fail("the password is empty", "remove `auth` when there is none");
        return None;
    }
    Some(secret)
}

/// The file's bytes without the line end that editors add.
fn from_file(item: &Item<'_>, path: &Path) -> Option<Vec<u8>> {
    let mut secret = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            item.fail(
                format!("can not read the password file {}: {error}", path.display()),
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

fn from_environment(item: &Item<'_>, variable: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    match std::env::var_os(variable) {
        Some(value) => Some(value.into_vec()),
        None => {
            item.fail(
                format!("the environment variable {variable} is not set"),
                "set it for the service, or use password_file",
            );
            None
        }
    }
}
