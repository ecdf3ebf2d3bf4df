//! How to get to a coordinator: the keys that etcd, Consul and ZooKeeper have in common.

use std::path::Path;
use std::time::Duration;

use super::auth;
use super::section::{Item, Section};
use crate::control::{StoreKind, StoreSettings, TlsSettings};

/// Below it the backends have a directory each.
const PREFIX: &str = "/pointsman";

/// A coordinator on the same network answers within a few milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reads them from the table of an authority or a publisher.
pub(super) fn read(section: &Section<'_>, kind: &str) -> Option<StoreSettings> {
    let (kind, example) = match kind {
        "consul" => (StoreKind::Consul, "127.0.0.1:8500"),
        "etcd" => (StoreKind::Etcd, "10.0.0.1:2379"),
        _ => (StoreKind::ZooKeeper, "10.0.0.1:2181"),
    };
    let hint = format!("for example endpoints = [\"{example}\"]");
    let endpoints = section
        .require("endpoints", &hint)
        .and_then(|item| endpoints(&item, &hint));
    let prefix = match section.get("prefix") {
        None => Some(PREFIX.to_owned()),
        Some(item) => prefix(&item),
    };
    let timeout = match section.get("timeout") {
        None => Some(TIMEOUT),
        Some(item) => item.duration(),
    };
    let token = ["token_file", "token_env", "token"]
        .into_iter()
        .find_map(|key| section.get(key).filter(|_| kind == StoreKind::Consul));
    let login = section.get("auth");
    if let (StoreKind::Consul, Some(item)) = (kind, &login) {
        item.fail("Consul has no users", "use token_file or token_env");
        return None;
    }
    let credentials = match (token, login) {
        (Some(item), _) => Some(crate::resp::Credentials::new(None, auth::secret(&item)?)),
        (None, Some(item)) => {
            let credentials = auth::read(&item)?;
            if kind == StoreKind::ZooKeeper && credentials.username.is_none() {
                item.fail(
                    "a ZooKeeper user has a name",
                    "auth = { username = \"...\", password_file = \"...\" }",
                );
                return None;
            }
            Some(credentials)
        }
        (None, None) => None,
    };
    let tls = match section.get("tls") {
        None => None,
        Some(item) => Some(tls(&item)?),
    };
    let settings = StoreSettings {
        kind,
        endpoints: endpoints?,
        prefix: prefix?,
        timeout: timeout?,
        credentials,
        tls,
    };
    if let Err(why) = settings.check() {
        section.fail(why, "look at `tls`");
        return None;
    }
    Some(settings)
}

fn endpoints(item: &Item<'_>, hint: &str) -> Option<Vec<String>> {
    let items = item.list()?;
    if items.is_empty() {
        item.fail("`endpoints` is empty", hint);
        return None;
    }
    let mut endpoints = Vec::new();
    for item in items {
        let text = item.string()?;
        let port = text
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        if port.is_none_or(|port: u16| port == 0) || text.contains('/') {
            item.fail(
                format!("`{text}` is not host:port"),
                format!("without http://; {hint}"),
            );
            return None;
        }
        endpoints.push(text.to_owned());
    }
    Some(endpoints)
}

fn prefix(item: &Item<'_>) -> Option<String> {
    let text = item.string()?;
    let fits = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    match text.strip_prefix('/') {
        Some(path) if path.split('/').all(fits) => Some(text.to_owned()),
        _ => {
            item.fail(
                format!("`{text}` can not be a prefix"),
                "begin with a slash and do not end with one, for example \"/pointsman\"; letters, \
                 digits, `-`, `_` and `.` between slashes",
            );
            None
        }
    }
}

fn tls(item: &Item<'_>) -> Option<TlsSettings> {
    let section = item.section(item.name())?;
    let [ca, certificate, key] = ["ca_file", "cert_file", "key_file"].map(|key| section.get(key));
    section.finish();
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((pem(&certificate)?, pem(&key)?)),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            one.fail(
                "`cert_file` and `key_file` belong together",
                "give both or none",
            );
            return None;
        }
    };
    let ca = match ca {
        Some(item) => Some(pem(&item)?),
        None => None,
    };
    Some(TlsSettings { ca, identity })
}

fn pem(item: &Item<'_>) -> Option<Vec<u8>> {
    let path = item.string()?;
    match std::fs::read(Path::new(path)) {
        Ok(text) if memchr::memmem::find(&text, b"-----BEGIN").is_some() => Some(text),
        Ok(_) => {
            item.fail(
                format!("{path} is not in PEM format"),
                "it has a line with -----BEGIN",
            );
            None
        }
        Err(error) => {
            item.fail(
                format!("can not read {path}: {error}"),
                "check the path and that the user pointsman runs as may read it",
            );
            None
        }
    }
}
