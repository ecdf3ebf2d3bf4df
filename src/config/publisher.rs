//! `publishers` of a backend: whom to tell about a new primary.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

use super::address;
use super::auth::{from_environment, from_file};
use super::kind::with_kind;
use super::section::{Item, Section};
use super::store;
use crate::control::PublisherSettings;
use crate::control::publisher::{DnsUpdateSettings, TsigKey};

/// A hook that hangs must not keep the next one waiting for long.
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a DNS server may take for one answer.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at what was published.
const DNS_REFRESH: Duration = Duration::from_secs(30);

/// Those of RFC 8945 that are recommended, or stronger.
const TSIG_ALGORITHMS: &[(&str, TsigAlgorithm)] = &[
    ("hmac-sha256", TsigAlgorithm::HmacSha256),
    ("hmac-sha384", TsigAlgorithm::HmacSha384),
    ("hmac-sha512", TsigAlgorithm::HmacSha512),
];

const KINDS: &[&str] = &["dns_update", "hook", "kv"];

pub(super) fn read_all(item: &Item<'_>) -> Vec<PublisherSettings> {
    let items = item.list().unwrap_or_default();
    items.iter().filter_map(publisher).collect()
}

fn publisher(item: &Item<'_>) -> Option<PublisherSettings> {
    let table = item.value.get_ref().as_table();
    let kind = table.and_then(|table| table.get("kind")?.get_ref().as_str());
    if kind == Some("dns_server") {
        item.fail(
            "the built-in DNS server is one for all backends, and no publisher of one",
            "write [dns_server] with `bind` and `zone` at the top of the file",
        );
        return None;
    }
    if kind == Some("sentinel") {
        item.fail(
            "the Sentinel answers are for all backends, and no publisher of one",
            "write [sentinel] at the top of the file",
        );
        return None;
    }
    let (section, kind) = with_kind(item, "publisher", KINDS, &[])?;
    match kind {
        "dns_update" => dns_update(section),
        "kv" => kv(section),
        _ => hook(section),
    }
}

/// A plain key in etcd, Consul or ZooKeeper.
fn kv(section: Section<'_>) -> Option<PublisherSettings> {
    let hint = "one of: consul, etcd, zookeeper";
    let store = section.require("store", hint).and_then(|item| {
        let kind = item.string()?;
        if !matches!(kind, "consul" | "etcd" | "zookeeper") {
            item.fail(format!("there is no store `{kind}`"), hint);
            return None;
        }
        store::read(&section, kind)
    });
    let key = section.get("key").map(|item| {
        let text = item.string()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || !text.bytes().all(plain) {
            item.fail(
                format!("`{text}` can not be a key"),
                "letters, digits, `-`, `_` and `.`; `prefix` says where it is",
            );
            return None;
        }
        Some(text.into())
    });
    section.finish();
    let key = match key {
        Some(key) => Some(key?),
        None => None,
    };
    Some(PublisherSettings::Kv { store: store?, key })
}

/// A name in a zone that some DNS server has.
fn dns_update(section: Section<'_>) -> Option<PublisherSettings> {
    let server = section.require("server", "for example server = \"10.0.0.53:53\"");
    let zone = section.require("zone", "for example zone = \"internal.\"");
    let name = section.require("name", "for example name = \"redis.internal.\"");
    let srv = section.get("srv");
    let timeout = section.get("timeout");
    let refresh = section.get("refresh");
    let key = tsig_key(&section);
    section.finish();
    let srv = match srv {
        Some(item) => item.boolean()?,
        None => false,
    };
    let timeout = match timeout {
        Some(item) => item.duration()?,
        None => DNS_TIMEOUT,
    };
    let refresh = match refresh {
        Some(item) => item.duration()?,
        None => DNS_REFRESH,
    };
    let server = server.and_then(|item| {
        let text = item.string()?;
        let hint = "its address or name and a port, for example \"10.0.0.53:53\"";
        if address::node(text).is_err() {
            item.fail(format!("`{text}` is not the address of a server"), hint);
            return None;
        }
        Some(text.to_owned())
    });
    let zone = zone.and_then(|item| domain(&item));
    let name = name.and_then(|item| Some((domain(&item)?, item)));
    let (zone, (name, item)) = zone.zip(name)?;
    if !zone.zone_of(&name) {
        item.fail(
            format!("the name {name} is not in the zone {zone}"),
            format!("for example \"redis.{zone}\""),
        );
        return None;
    }
    Some(PublisherSettings::DnsUpdate(Box::new(DnsUpdateSettings {
        server: server?,
        zone,
        name,
        key: key?,
        srv,
        timeout,
        refresh,
    })))
}

/// A domain name; it is fully qualified with and without a dot at its end.
pub(super) fn domain(item: &Item<'_>) -> Option<Name> {
    let text = item.string()?;
    match Name::from_ascii(text) {
        Ok(mut name) if !name.is_root() => {
            name.set_fqdn(true);
            Some(name)
        }
        _ => {
            item.fail(
                format!("`{text}` is not a domain name"),
                "for example \"redis.internal.\"",
            );
            None
        }
    }
}

fn tsig_key(section: &Section<'_>) -> Option<TsigKey> {
    let algorithm = section.get("key_algorithm");
    let secrets: Vec<Item<'_>> = ["key_file", "key_env", "key"]
        .into_iter()
        .filter_map(|key| section.get(key))
        .collect();
    let name = section.require("key_name", "as the server calls the key");
    let secret = match secrets.as_slice() {
        [] => {
            section.fail(
                format!("{} has no key", section.title()),
                "one of: key_file = \"/run/secrets/tsig\", key_env = \"TSIG_KEY\"; in base64",
            );
            None
        }
        [one] => tsig_secret(one),
        [_, second, ..] => {
            second.fail("the key is given twice", "keep one of the two");
            None
        }
    };
    let algorithm = match algorithm {
        Some(item) => tsig_algorithm(&item)?,
        None => TsigAlgorithm::HmacSha256,
    };
    Some(TsigKey {
        name: domain(&name?)?,
        algorithm,
        secret: secret?,
    })
}

fn tsig_algorithm(item: &Item<'_>) -> Option<TsigAlgorithm> {
    let text = item.string()?;
    let found = TSIG_ALGORITHMS.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        let names: Vec<&str> = TSIG_ALGORITHMS.iter().map(|(name, _)| *name).collect();
        item.fail(
            format!("there is no key algorithm `{text}`"),
            format!("one of: {}", names.join(", ")),
        );
    }
    found.map(|(_, algorithm)| algorithm.clone())
}

/// Errors never hold the secret.
fn tsig_secret(item: &Item<'_>) -> Option<Vec<u8>> {
    let text = item.string()?;
    let encoded = match item.key.as_str() {
        "key_file" => from_file(item, std::path::Path::new(text))?,
        "key_env" => from_environment(item, text)?,
        _ => {
            item.warn(
                "the key stands in the configuration itself",
                "move it to a file (key_file) or the environment (key_env)",
            );
            text.as_bytes().to_vec()
        }
    };
    match BASE64.decode(encoded.trim_ascii()) {
        Ok(secret) if !secret.is_empty() => Some(secret),
        _ => {
            item.fail(
                format!("{} is not a key in base64", item.name()),
                "what stands behind `secret` in the server's key, for example of `tsig-keygen`",
            );
            None
        }
    }
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
