//! `[[listener]]`: where clients connect and which backend they get.

use super::address::{self, Bind};
use super::backend::ReadBackend;
use super::problem::did_you_mean;
use super::section::{Item, Section};
use super::{Listener, ReadAdmin};

/// A listener and, for messages, where its address stands.
pub(super) struct ReadListener<'d> {
    pub(super) listener: Listener,
    pub(super) bind: Item<'d>,
}

/// Reads every listener; the ones with errors are reported and left out.
pub(super) fn read_all<'d>(
    root: &Section<'d>,
    backends: &[ReadBackend<'d>],
) -> Vec<ReadListener<'d>> {
    const EXAMPLE: &str = "for example:\n        [[listener]]\n        bind = \
                           \"127.0.0.1:6379\"\n        backend = \"main\"";
    // Monitors carry no requests.
    let monitors = !backends.is_empty() && backends.iter().all(ReadBackend::is_monitor);
    let Some(item) = root.get("listener") else {
        if monitors {
            return Vec::new();
        }
        root.fail("no listener: clients could not connect", EXAMPLE);
        return Vec::new();
    };
    if item.value.get_ref().is_table() {
        item.fail(
            "there can be several listeners",
            "write [[listener]] with double brackets",
        );
        return Vec::new();
    }
    let items = item.list().unwrap_or_default();
    if items.is_empty() {
        item.fail("no listener: clients could not connect", EXAMPLE);
    }
    let mut listeners: Vec<ReadListener<'d>> = Vec::new();
    for item in items {
        let Some(read) = item
            .section("[[listener]]")
            .and_then(|section| read_one(section, backends))
        else {
            continue;
        };
        let bind = &read.listener.bind;
        if let Some(other) = listeners.iter().find(|l| l.listener.bind.collides(bind)) {
            read.bind.fail(
                format!(
                    "{bind} is taken by another listener, on {}",
                    other.listener.bind
                ),
                "each listener needs an address of its own",
            );
        }
        listeners.push(read);
    }
    listeners
}

fn read_one<'d>(section: Section<'d>, backends: &[ReadBackend<'d>]) -> Option<ReadListener<'d>> {
    let bind_item = section.require("bind", "for example bind = \"127.0.0.1:6379\"");
    let backend_item = section.require("backend", "the NAME of a [backend.NAME]");
    let mode_item = section.get("mode");
    section.finish();

    let bind = bind_item.as_ref().and_then(|item| {
        let text = item.string()?;
        address::bind(text)
            .map_err(|e| item.fail(e.message, e.hint))
            .ok()
    });
    let bind = with_mode(bind, mode_item);
    let backend = backend_item.and_then(|item| backend_index(&item, backends));
    Some(ReadListener {
        listener: Listener {
            bind: bind?,
            backend: backend?,
        },
        bind: bind_item?,
    })
}

fn with_mode(bind: Option<Bind>, item: Option<Item<'_>>) -> Option<Bind> {
    let Some(item) = item else { return bind };
    let mode = item.string().and_then(|text| {
        address::mode(text)
            .map_err(|e| item.fail(e.message, e.hint))
            .ok()
    });
    match bind? {
        Bind::Tcp(_) => {
            item.fail(
                "`mode` belongs to unix sockets",
                "remove it, or bind \"unix:/path\"",
            );
            None
        }
        Bind::Unix { path, .. } => Some(Bind::Unix { path, mode: mode? }),
    }
}

fn backend_index(item: &Item<'_>, backends: &[ReadBackend<'_>]) -> Option<usize> {
    let name = item.string()?;
    let found = backends.iter().position(|b| b.name == name);
    if found.is_none() {
        let names = backends.iter().map(|b| b.name.as_str());
        let hint = did_you_mean(name, names)
            .unwrap_or_else(|| format!("add [backend.{name}], or name one that is there"));
        item.fail(format!("there is no backend `{name}`"), hint);
    }
    found
}

/// The admin server and a listener can not share an address.
pub(super) fn check_against(admin: &ReadAdmin<'_>, listeners: &[ReadListener<'_>]) {
    let admin_bind = Bind::Tcp(admin.settings.bind);
    for read in listeners {
        if read.listener.bind.collides(&admin_bind) {
            read.bind.fail(
                format!(
                    "{} is taken by the admin server, on {admin_bind}",
                    read.listener.bind
                ),
                match admin.bind {
                    Some(_) => "change one of the two",
                    None => "set another `bind` in [admin]; this is its default",
                },
            );
        }
    }
}
