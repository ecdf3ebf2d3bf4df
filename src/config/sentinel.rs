//! `[sentinel]`: answers for clients that know Sentinel. Without the table there are none.

use std::net::SocketAddr;

use super::address::Bind;
use super::backend::ReadBackend;
use super::listener::ReadListener;
use super::section::{Bound, Item, Section};
use super::{ReadAdmin, auth};
use crate::sentinel::{Answer, SentinelSettings};

const BOUNDS: &[Bound] = &[("max_clients", 1, 100_000)];

/// The settings and, for messages, where the table stands.
pub(super) struct ReadSentinel<'d> {
    pub(super) settings: SentinelSettings,
    table: Item<'d>,
}

pub(super) fn read<'d>(root: &Section<'d>) -> Option<ReadSentinel<'d>> {
    let table = root.get("sentinel")?;
    let section = table.section("[sentinel]")?;
    let auth = section.get("auth").and_then(|item| auth::read(&item));
    let settings = SentinelSettings {
        auth,
        ..section.settings::<SentinelSettings>(BOUNDS)
    };
    Some(ReadSentinel { settings, table })
}

/// Its address is its own, and the addresses that it hands out can be reached by who reads them.
pub(super) fn check_against(
    sentinel: &ReadSentinel<'_>,
    admin: &ReadAdmin<'_>,
    dns: Option<SocketAddr>,
    listeners: &[ReadListener<'_>],
    backends: &[ReadBackend<'_>],
) {
    let ReadSentinel { settings, table } = sentinel;
    let bind = Bind::Tcp(settings.bind);
    let admin_bind = Bind::Tcp(admin.settings.bind);
    let dns = dns.map(Bind::Tcp);
    let others = listeners.iter().map(|l| &l.listener.bind);
    if let Some(other) = others
        .chain([&admin_bind])
        .chain(&dns)
        .find(|other| other.collides(&bind))
    {
        table.fail(
            format!("the Sentinel answers can not listen on {bind}: {other} is taken already"),
            "set another `bind` in [sentinel]",
        );
    }
    if settings.answer == Answer::Node {
        return;
    }
    for (index, backend) in backends.iter().enumerate() {
        let mut binds = listeners.iter().map(|l| &l.listener);
        let first = binds.find_map(|l| match &l.bind {
            Bind::Tcp(address) if l.backend == index => Some(address),
            _ => None,
        });
        let name = &backend.name;
        match first {
            None => table.fail(
                format!(
                    "the backend `{name}` has no TCP listener whose address could be handed out"
                ),
                "add one, or set answer = \"node\" in [sentinel]",
            ),
            Some(address) if address.ip().is_loopback() && !settings.bind.ip().is_loopback() => {
                table.fail(
                    format!(
                        "clients on other machines would be told {address} for `{name}`, which they \
                         can not reach"
                    ),
                    "bind [sentinel] to a loopback address, or that listener to one that they reach",
                );
            }
            Some(_) => {}
        }
    }
}
