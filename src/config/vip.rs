//! The file of a vip agent: `[vip_agent]`, `[log]`, and `[admin]` where it shall have a server.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::address::{self, BadAddress};
use super::problem::ConfigErrors;
use super::section::{Item, Section};
use super::{ConfigError, admin, auth, log, read_text, text_of};
use crate::admin::AdminSettings;
use crate::telemetry::LogSettings;
use crate::topology::NodeId;
use crate::vip::VipSettings;

/// The kernel counts lifetimes in seconds.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// Longer ones leave an address for minutes where it does not belong.
const LEASE_MAX: Duration = Duration::from_secs(60);

const LEASE: Duration = Duration::from_secs(3);

/// Linux: `IFNAMSIZ`, one byte for the end.
const INTERFACE_MAX: usize = 15;

/// The configuration of a vip agent that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct VipConfig {
    /// `[admin]`; without it the agent has no server.
    pub admin: Option<AdminSettings>,
    /// `[log]`
    pub log: LogSettings,
    /// `[vip_agent]`
    pub vip: VipSettings,
    /// What is doubtful but allowed.
    pub warnings: Vec<ConfigError>,
}

impl VipConfig {
    /// Whether the file is one of a vip agent rather than of a pointsman.
    pub fn is_meant(path: impl AsRef<Path>) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let (root, _) = toml::de::DeTable::parse_recoverable(&text);
        root.get_ref().get("vip_agent").is_some()
    }

    /// Reads and checks the file, and the secrets it names.
    ///
    /// # Errors
    /// Everything that is wrong with it. When the text is not TOML, only that is reported.
    pub fn load(path: impl AsRef<Path>) -> Result<VipConfig, ConfigErrors> {
        let path = path.as_ref();
        VipConfig::parse(path, &text_of(path)?)
    }

    /// As [`VipConfig::load`], for a text that was read from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<VipConfig, ConfigErrors> {
        let (config, warnings) = read_text(file, text, read)?;
        let mut config = config.expect("whatever is missing was reported");
        config.warnings = warnings;
        Ok(config)
    }
}

fn read(root: Section<'_>) -> Option<VipConfig> {
    let has_admin = root.get("admin").is_some();
    let admin = admin(&root);
    if has_admin && admin.bind.is_none() {
        root.fail(
            "`bind` is missing in [admin]",
            "for example bind = \"127.0.0.1:9122\"; 9121 is the one of a pointsman",
        );
    }
    let log = log(&root);
    let vip = root
        .require(
            "vip_agent",
            "the table [vip_agent] says which address it is",
        )
        .and_then(|item| item.section("[vip_agent]"))
        .and_then(vip);
    root.finish();
    Some(VipConfig {
        admin: has_admin.then_some(admin.settings),
        log,
        vip: vip?,
        warnings: Vec::new(),
    })
}

fn vip(section: Section<'_>) -> Option<VipSettings> {
    let address = section.require("address", "for example address = \"10.0.0.100\"");
    let interface = section.require("interface", "for example interface = \"eth0\"");
    let node = section.require(
        "node",
        "this host's node as the pointsman's configuration names it, for example \"10.0.0.1:6379\"",
    );
    let backend = section.require("backend", "the NAME of a [backend.NAME] of the pointsman");
    let pointsmen = section.require(
        "pointsman",
        "where the pointsman has its admin server, for example [\"10.0.0.1:9121\"]",
    );
    let lease = section.get("lease");
    let auth = section.get("auth").map(|item| auth::read(&item));
    section.finish();

    let address = address.and_then(|item| checked(&item, vip_address));
    let interface = interface.and_then(|item| checked(&item, interface_name));
    let node = node.and_then(|item| checked(&item, address::node));
    let backend: Option<Arc<str>> = backend.and_then(|item| checked(&item, backend_name));
    let pointsmen = pointsmen.and_then(|item| pointsmen_of(&item));
    let lease = match lease {
        Some(item) => lease_of(&item),
        None => Some(LEASE),
    };
    let (address, prefix) = address?;
    Some(VipSettings {
        address,
        prefix,
        interface: interface?,
        node: node?,
        backend: backend?,
        pointsmen: pointsmen?,
        lease: lease?,
        auth: match auth {
            Some(read) => Some(read?),
            None => None,
        },
    })
}

fn checked<T>(item: &Item<'_>, check: impl FnOnce(&str) -> Result<T, BadAddress>) -> Option<T> {
    check(item.string()?)
        .map_err(|e| item.fail(e.message, e.hint))
        .ok()
}

/// `ip` or `ip/prefix`.
fn vip_address(text: &str) -> Result<(IpAddr, u8), BadAddress> {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (text, None),
    };
    let read = ip.parse::<IpAddr>().ok().and_then(|ip| {
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| (1..=whole).contains(p))?,
            None => whole,
        };
        Some((ip, prefix))
    });
    let Some((ip, prefix)) = read else {
        return Err(BadAddress {
            message: format!("`{text}` is not an IP address"),
            hint: "for example \"10.0.0.100\" or \"fd00::100\"; a prefix length may follow, \
                   \"10.0.0.100/24\""
                .to_owned(),
        });
    };
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mapped = ip.to_canonical() != ip;
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || mapped {
        return Err(BadAddress {
            message: format!("`{text}` can not move from host to host"),
            hint: "choose a free unicast address of the hosts' network".to_owned(),
        });
    }
    Ok((ip, prefix))
}

fn interface_name(text: &str) -> Result<String, BadAddress> {
    let fits = !text.is_empty()
        && text.len() <= INTERFACE_MAX
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    match fits {
        true => Ok(text.to_owned()),
        false => Err(BadAddress {
            message: format!("`{text}` can not be the name of an interface"),
            hint: "for example \"eth0\"; `ip link` lists them".to_owned(),
        }),
    }
}

fn backend_name(text: &str) -> Result<Arc<str>, BadAddress> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match !text.is_empty() && text.bytes().all(fits) {
        true => Ok(text.into()),
        false => Err(BadAddress {
            message: format!("`{text}` can not be the name of a backend"),
            hint: "the NAME of a [backend.NAME] of the pointsman".to_owned(),
        }),
    }
}

fn pointsmen_of(item: &Item<'_>) -> Option<Vec<Arc<str>>> {
    let items = item.list()?;
    if items.is_empty() {
        item.fail(
            "no pointsman: the agent would never learn who is primary",
            "for example pointsman = [\"10.0.0.1:9121\"]",
        );
        return None;
    }
    let mut all = Some(Vec::new());
    for item in &items {
        let read: Option<NodeId> = checked(item, |text| {
            address::node(text).map_err(|_| BadAddress {
                message: format!("`{text}` is not the address of an admin server"),
                hint: "host and port, for example \"10.0.0.1:9121\"".to_owned(),
            })
        });
        all = all.zip(read).map(|(mut all, one)| {
            all.push(one.as_str().into());
            all
        });
    }
    all
}

fn lease_of(item: &Item<'_>) -> Option<Duration> {
    let lease = item.duration()?;
    if (LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Some(lease);
    }
    item.fail(
        format!("{} must be from 1s to 60s", item.name()),
        "the default is lease = \"3s\"",
    );
    None
}
