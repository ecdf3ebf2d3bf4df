//! `source = { kind = "dns", ... }` of a backend: the names that stand for its nodes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::address;
use super::section::{Item, Section};
use crate::control::source::{DnsName, DnsSettings};

/// Between two lookups.
const REFRESH: Duration = Duration::from_secs(1);

/// Servers are asked at this port where none is given (RFC 1035).
const DNS_PORT: u16 = 53;

const EXAMPLE: &str = "for example name = \"redis.example.internal:6379\"";

const SERVICE_EXAMPLE: &str = "for example name = \"_redis._tcp.example.internal\"";

/// What kind of record names stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    Address,
    Srv,
}

pub(super) fn read(section: Section<'_>) -> Option<DnsSettings> {
    let record = match section.get("record") {
        None => Some(Record::Address),
        Some(item) => match item.string()? {
            "address" => Some(Record::Address),
            "srv" => Some(Record::Srv),
            other => {
                item.fail(
                    format!("there is no record `{other}`"),
                    "one of: address, srv",
                );
                None
            }
        },
    };
    let items = match (section.get("name"), section.get("names")) {
        (Some(one), None) => vec![one],
        (None, Some(several)) => {
            let items = several.list().unwrap_or_default();
            if items.is_empty() && several.value.get_ref().is_array() {
                several.fail("`names` is empty", EXAMPLE);
            }
            items
        }
        (Some(_), Some(several)) => {
            several.fail(
                "`name` and `names` do not go together",
                "put all of them in `names`",
            );
            Vec::new()
        }
        (None, None) => {
            section.require("name", EXAMPLE);
            Vec::new()
        }
    };
    let refresh = match section.get("refresh") {
        Some(item) => item.duration(),
        None => Some(REFRESH),
    };
    let servers = section.get("resolvers");
    section.finish();
    let record = record?;
    let mut names = Vec::new();
    for item in items {
        match item.string().and_then(|text| name(&item, text, record)) {
            Some(name) if names.contains(&name) => {
                item.fail("the name is there twice", "remove one")
            }
            name => names.extend(name),
        }
    }
    let servers = servers.map(|item| item.list().unwrap_or_default());
    let resolvers = servers.unwrap_or_default();
    Some(DnsSettings {
        names,
        resolvers: resolvers.iter().filter_map(resolver).collect(),
        refresh: refresh?,
    })
}

fn name(item: &Item<'_>, text: &str, record: Record) -> Option<DnsName> {
    let host = match record {
        Record::Srv => {
            if text.contains(':') {
                let host = text.split(':').next().unwrap_or_default();
                item.fail(
                    format!("`{text}` names a port, and so does an SRV record"),
                    format!("write \"{host}\""),
                );
                return None;
            }
            if address::node(&format!("{text}:1")).is_err() {
                item.fail(format!("`{text}` is not a name"), SERVICE_EXAMPLE);
                return None;
            }
            return Some(DnsName::Service {
                name: text.to_owned(),
            });
        }
        Record::Address => match address::node(text) {
            Ok(node) => node,
            Err(error) => {
                item.fail(error.message, error.hint);
                return None;
            }
        },
    };
    let (name, port) = host.host_port()?;
    if name.parse::<IpAddr>().is_ok() {
        item.fail(
            format!("{name} is an address, not a name"),
            "addresses are written source = { kind = \"static\", nodes = [...] }",
        );
        return None;
    }
    Some(DnsName::Host {
        name: name.to_owned(),
        port,
    })
}

fn resolver(item: &Item<'_>) -> Option<SocketAddr> {
    let text = item.string()?;
    let alone = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
    match text.parse().or(alone) {
        Ok(address) => Some(address),
        Err(_) => {
            item.fail(
                format!("`{text}` is not the address of a DNS server"),
                "an IP address, with a port where that is not 53: \"127.0.0.1:5353\"",
            );
            None
        }
    }
}
