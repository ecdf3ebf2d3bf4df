//! The configuration: one TOML file, read once, checked whole, every error reported at once.
//!
//! `problem` is what is wrong and where, `section` reads one table, `listener` and `backend` know
//! the tables that have no plain defaults; `source`, `authority` and `publisher` the kinds of each;
//! `names` the DNS server. Reading a configuration opens no socket.

mod address;
mod auth;
mod authority;
mod backend;
mod kind;
mod listener;
mod names;
mod problem;
mod publisher;
mod section;
mod source;
mod store;
mod vip;

use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

pub use address::Bind;
pub use problem::{ConfigError, ConfigErrors};
pub use vip::VipConfig;

use problem::Problems;
use section::{Bound, Section};

use crate::admin::AdminSettings;
use crate::control::{AuthoritySettings, PublisherSettings, SourceSettings};
use crate::failover::Policy;
use crate::names::NamesSettings;
use crate::proxy::{BackendSettings, Settings};
use crate::resp::Credentials;
use crate::telemetry::{LogFormat, LogSettings, parse_level};

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[proxy]`
    pub proxy: Settings,
    /// `[dns_server]`; `None`: there is none.
    pub dns_server: Option<NamesSettings>,
    /// `[[listener]]`, in the order of the file; at least one.
    pub listeners: Vec<Listener>,
    /// `[backend.NAME]`, in the order of the file; at least one.
    pub backends: Vec<Backend>,
    /// What is doubtful but allowed.
    pub warnings: Vec<ConfigError>,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where clients connect.
    pub bind: Bind,
    /// Index into [`Config::backends`].
    pub backend: usize,
}

/// One `[backend.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// Where its nodes are learned.
    pub source: SourceSettings,
    /// Who decides that a replica becomes primary.
    pub authority: AuthoritySettings,
    /// With what pointsman logs in to the nodes.
    pub auth: Option<Credentials>,
    /// `[backend.NAME.failover]`
    pub failover: Policy,
    /// `[backend.NAME.requests]`
    pub requests: BackendSettings,
    /// Whom pointsman tells about a new primary.
    pub publishers: Vec<PublisherSettings>,
}

/// Sizes beyond these are typing errors rather than wishes.
const PROXY_BOUNDS: &[Bound] = &[
    ("workers", 0, 1024),
    ("max_clients", 1, 1_000_000),
    ("max_request_bytes", 1024, 1 << 32),
    ("client_reply_high_water", 1024, 1 << 32),
    ("subscriber_reply_limit", 1024, 1 << 32),
];

impl Config {
    /// Reads and checks the file, and the files and variables it names.
    ///
    /// # Errors
    /// Everything that is wrong with it. When the text is not TOML, only that is reported.
    pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigErrors> {
        let path = path.as_ref();
        Config::parse(path, &text_of(path)?)
    }

    /// As [`Config::load`], for a text that was read from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigErrors> {
        let (mut config, warnings) = read_text(file, text, read)?;
        config.warnings = warnings;
        Ok(config)
    }

    /// The format of the log that a file asks for which may be wrong everywhere else.
    pub fn log_format(file: impl AsRef<Path>) -> LogFormat {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let (root, _) = DeTable::parse_recoverable(&text);
        let log = root.get_ref().get("log").map(|log| log.get_ref());
        let format = log.and_then(|log| log.get("format"));
        match format.and_then(|format| format.get_ref().as_str()) {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        }
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|b| &*b.name == name)
    }
}

/// The text of the file.
fn text_of(path: &Path) -> Result<String, ConfigErrors> {
    let unreadable = |message: String| {
        ConfigErrors(vec![ConfigError {
            file: path.to_owned(),
            position: None,
            message,
            hint: None,
        }])
    };
    let bytes =
        std::fs::read(path).map_err(|e| unreadable(format!("can not read the file: {e}")))?;
    String::from_utf8(bytes).map_err(|_| unreadable("the file is not UTF-8 text".to_owned()))
}

/// Reads a text with `read`, and returns what it found and what is doubtful.
fn read_text<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(Section<'_>) -> T,
) -> Result<(T, Vec<ConfigError>), ConfigErrors> {
    let problems = Problems::new(file, text);
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let at = error.span().unwrap_or(0..0);
        problems.error(&at, format!("not TOML: {}", error.message()), None);
    }
    let read = syntax.is_empty().then(|| {
        let whole = 0..text.len();
        read(Section::new(&problems, "the file", whole, root.get_ref()))
    });
    let warnings = problems.into_result()?;
    let read = read.expect("a text with syntax errors was refused above");
    Ok((read, warnings))
}

fn read(root: Section<'_>) -> Config {
    let admin = admin(&root);
    let log = log(&root);
    let proxy = root
        .get("proxy")
        .and_then(|item| item.section("[proxy]"))
        .map(|section| section.settings::<Settings>(PROXY_BOUNDS))
        .unwrap_or_default();
    let backends = backend::read_all(&root);
    let listeners = listener::read_all(&root, &backends);
    listener::check_against(&admin, &listeners);
    backend::check_against(&backends, &listeners);
    let dns_server = names::read(&root);
    if let Some(names) = &dns_server {
        names::check_against(names, &admin, &listeners, &backends);
    }
    root.finish();
    Config {
        admin: admin.settings,
        log,
        proxy,
        dns_server: dns_server.map(|names| names.settings),
        listeners: listeners.into_iter().map(|l| l.listener).collect(),
        backends: backends.into_iter().filter_map(|b| b.backend).collect(),
        warnings: Vec::new(),
    }
}

/// `[admin]` and, for messages, where its address stands.
struct ReadAdmin<'d> {
    settings: AdminSettings,
    bind: Option<section::Item<'d>>,
}

fn admin<'d>(root: &Section<'d>) -> ReadAdmin<'d> {
    let Some(section) = root.get("admin").and_then(|i| i.section("[admin]")) else {
        return ReadAdmin {
            settings: AdminSettings::default(),
            bind: None,
        };
    };
    let bind = section.get("bind");
    let allowed = section.get("allow_remote");
    let settings = section.settings::<AdminSettings>(&[]);
    // Not when allow_remote has a wrong value: that was reported.
    let nobody = allowed.is_none_or(|a| a.value.get_ref().as_str() == Some("none"));
    if let Some(bind) = &bind
        && !settings.bind.ip().is_loopback()
        && nobody
    {
        bind.fail(
            format!(
                "the admin server would be reachable from other machines at {}",
                settings.bind
            ),
            "set allow_remote = \"read\" (metrics, probes and status) or \"all\" (switchover too) \
             in [admin], or bind a loopback address",
        );
    }
    ReadAdmin { settings, bind }
}

fn log(root: &Section<'_>) -> LogSettings {
    let Some(section) = root.get("log").and_then(|i| i.section("[log]")) else {
        return LogSettings::default();
    };
    let level = section.get("level");
    let settings = section.settings::<LogSettings>(&[]);
    if let Some(level) = level
        && let Err(error) = parse_level(&settings.level)
    {
        level.fail(
            format!("{} is not a log filter: {error}", level.name()),
            "error, warn, info, debug or trace; or a list such as \"info,pointsman::proxy=debug\"",
        );
    }
    settings
}
