//! `[dns_server]`: the built-in DNS server.

use super::ReadAdmin;
use super::address::{self, Bind};
use super::backend::ReadBackend;
use super::listener::ReadListener;
use super::publisher::domain;
use super::section::{Item, Section};
use crate::names::{NamesSettings, check};

/// `[dns_server]` and, for messages, where its parts stand.
pub(super) struct ReadNames<'d> {
    pub(super) settings: NamesSettings,
    bind: Item<'d>,
    zone: Item<'d>,
}

pub(super) fn read<'d>(root: &Section<'d>) -> Option<ReadNames<'d>> {
    let section = root.get("dns_server")?.section("[dns_server]")?;
    let bind = section.require("bind", "for example bind = \"10.0.0.9:53\"");
    let zone = section.require("zone", "for example zone = \"redis.internal.\"");
    section.finish();
    let (bind, zone) = bind.zip(zone)?;
    let (address, origin) = (address(&bind), domain(&zone));
    Some(ReadNames {
        settings: NamesSettings {
            bind: address?,
            zone: origin?,
        },
        bind,
        zone,
    })
}

fn address(item: &Item<'_>) -> Option<std::net::SocketAddr> {
    match address::bind(item.string()?) {
        Ok(Bind::Tcp(address)) => Some(address),
        Ok(Bind::Unix { .. }) => {
            item.fail("DNS has no unix sockets", "for example \"127.0.0.1:5353\"");
            None
        }
        Err(error) => {
            item.fail(error.message, error.hint);
            None
        }
    }
}

/// Its address must be free, and every backend needs names of its own.
pub(super) fn check_against(
    names: &ReadNames<'_>,
    admin: &ReadAdmin<'_>,
    listeners: &[ReadListener<'_>],
    backends: &[ReadBackend<'_>],
) {
    let bind = Bind::Tcp(names.settings.bind);
    let admin = Bind::Tcp(admin.settings.bind);
    let taken = listeners.iter().map(|l| &l.listener.bind).chain([&admin]);
    if let Some(other) = taken.into_iter().find(|other| other.collides(&bind)) {
        names.bind.fail(
            format!("{bind} is taken by a listener or the admin server, on {other}"),
            "the DNS server needs an address of its own",
        );
    }
    let all: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
    if let Err(taken) = check(&names.settings.zone, &all) {
        names.zone.fail(taken.to_string(), "rename the backend");
    }
}
