//! The configuration: every error at its place, all at once, and files that agree with the code.

use std::path::Path;

use pointsman::admin::{AdminSettings, AllowRemote};
use pointsman::config::{Bind, Config, ConfigErrors};
use pointsman::control::{AuthoritySettings, PublisherSettings, SourceSettings};
use pointsman::failover::Policy;
use pointsman::proxy::{BackendSettings, Settings};
use pointsman::telemetry::LogSettings;

const MINIMAL: &str = r#"
[[listener]]
bind = "127.0.0.1:6400"
backend = "main"

[backend.main]
source = { kind = "static", nodes = ["10.0.0.1:6379", "10.0.0.2:6379"] }
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("test.toml"), text)
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\nin:\n{text}"))
}

/// The only error of `text`: its line, message and hint.
#[track_caller]
fn only_error(text: &str) -> (usize, String, String) {
    let errors = parse(text).expect_err("an error was expected").0;
    assert_eq!(errors.len(), 1, "{}", ConfigErrors(errors.clone()));
    let error = &errors[0];
    let (line, _) = error.position.expect("errors in a text have a position");
    (
        line,
        error.message.clone(),
        error.hint.clone().unwrap_or_default(),
    )
}

/// `MINIMAL` with one thing replaced gives one error with these words.
#[track_caller]
fn refused(from: &str, to: &str, message: &str, hint: &str) {
    assert!(MINIMAL.contains(from));
    let text = MINIMAL.replace(from, to);
    let (_, got_message, got_hint) = only_error(&text);
    assert!(got_message.contains(message), "{got_message}");
    assert!(got_hint.contains(hint), "{got_hint}");
}

/// `MINIMAL` with this appended gives one error with these words.
#[track_caller]
fn refused_with(extra: &str, message: &str, hint: &str) {
    refused(
        "\n\n[backend",
        &format!("\n\n{extra}\n[backend"),
        message,
        hint,
    );
}

/// `[backend.main]` of `MINIMAL` with this line appended gives one error with these words.
#[track_caller]
fn refused_in_backend(extra: &str, message: &str, hint: &str) {
    let (_, got_message, got_hint) = only_error(&format!("{MINIMAL}{extra}"));
    assert!(got_message.contains(message), "{got_message}");
    assert!(got_hint.contains(hint), "{got_hint}");
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good(MINIMAL);
    assert_eq!(config.admin, AdminSettings::default());
    assert_eq!(config.log, LogSettings::default());
    assert_eq!(config.proxy, Settings::default());
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:6400");
    let backend = config.backend("main").expect("it is there");
    assert_eq!(backend.authority, AuthoritySettings::Follow);
    assert_eq!(backend.failover, Policy::default());
    assert_eq!(backend.requests, BackendSettings::default());
    assert_eq!(backend.publishers, []);
    assert_eq!(backend.auth, None);
    assert_eq!(config.warnings, []);
}

#[test]
fn everything_can_be_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    std::fs::write(directory.path().join("secret"), "geheim\n").expect("a file");
    let config = good(&format!(
        r#"
[admin]
bind = "0.0.0.0:9999"
allow_remote = "read"
[log]
format = "json"
level = "info,pointsman::proxy=debug"
[proxy]
workers = 3
[[listener]]
bind = "127.0.0.1:6400"
backend = "a.1"
[[listener]]
bind = "unix:{dir}/redis.sock"
mode = "0600"
backend = "b"
[backend."a.1"]
source = {{ kind = "static", nodes = ["redis-0.redis:6379", "[::1]:6379"] }}
auth = {{ username = "app", password_file = "{dir}/secret" }}
publishers = [{{ kind = "hook", program = "/bin/sh", timeout = "3s" }}]
[backend.b]
source = {{ kind = "static", nodes = ["10.0.0.1:6379", "10.0.0.2:6379"] }}
authority = {{ kind = "embedded", state = "{dir}/b.json" }}
[backend.b.failover]
silent_after = "2s"
[backend.b.requests]
retry = "reads"
"#
    ));
    assert_eq!(config.admin.allow_remote, AllowRemote::Read);
    assert_eq!(config.proxy.workers, 3);
    assert_eq!(config.backends[0].name.as_ref(), "a.1");
    let auth = config.backends[0].auth.as_ref().expect("it is there");
    assert_eq!(auth.username.as_deref(), Some("app"));
    assert_eq!(auth.password(), b"geheim");
    assert!(matches!(
        &config.backends[0].publishers[..],
        [PublisherSettings::Hook { timeout, .. }] if timeout.as_secs() == 3
    ));
    assert!(matches!(
        config.listeners[1].bind,
        Bind::Unix { mode: 0o600, .. }
    ));
    assert_eq!(config.listeners[1].backend, 1);
    assert_eq!(config.backends[1].failover.silent_after.as_secs(), 2);
    assert_eq!(config.warnings, []);
}

#[test]
fn all_errors_are_reported_at_once_with_line_and_column() {
    let errors = parse(
        r#"[admin]
bind = "nonsense"
[proxy]
max_clients = "many"
drain_timeout = "0s"
max_clientz = 3
[[listener]]
bind = "127.0.0.1:6379"
backend = "mian"
[backend.main]
source = { kind = "static", nodes = ["10.0.0.1:6379", "10.0.0.1:6379"] }
[backend.main.requests]
  retry = "idempotant"
"#,
    )
    .expect_err("seven errors");
    let places: Vec<_> = errors.0.iter().filter_map(|e| e.position).collect();
    assert_eq!(
        places,
        [
            (2, 8),
            (4, 15),
            (5, 17),
            (6, 1),
            (9, 11),
            (11, 55),
            (13, 11)
        ],
        "{errors}"
    );
    let text = errors.to_string();
    for part in [
        "test.toml:6:1: unknown key `max_clientz` in [proxy]\n    hint: did you mean `max_clients`?",
        "test.toml:9:11: there is no backend `mian`\n    hint: did you mean `main`?",
        "test.toml:11:55: the node 10.0.0.1:6379 is named twice",
        "hint: did you mean `idempotent`?",
        "7 errors in the configuration",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_text_that_is_not_toml_says_where() {
    let (line, message, _) = only_error("[proxy]\nworkers = \n");
    assert_eq!(line, 2);
    assert!(message.starts_with("not TOML: "), "{message}");
    let (_, message, _) = only_error(&format!("{MINIMAL}\n[backend.main]\n"));
    assert!(message.contains("duplicate key"), "{message}");
}

#[test]
fn an_unreadable_file_is_one_error() {
    let errors = Config::load("/no-such-file.toml").expect_err("it does not exist");
    assert_eq!(
        errors.0[0].to_string(),
        "/no-such-file.toml: can not read the file: No such file or directory (os error 2)"
    );
}

#[test]
fn necessary_parts_are_asked_for() {
    let errors = parse("").expect_err("there is nothing").to_string();
    assert!(errors.contains("no listener"), "{errors}");
    assert!(errors.contains("no backend"), "{errors}");
    refused(
        "backend = \"main\"\n",
        "",
        "`backend` is missing",
        "[backend.NAME]",
    );
    refused(
        "bind = \"127.0.0.1:6400\"\n",
        "",
        "`bind` is missing",
        "bind =",
    );
    refused("kind = \"static\", ", "", "`kind` is missing", "static");
    refused(
        "[[listener]]",
        "[listener]",
        "several listeners",
        "[[listener]]",
    );
    refused(
        "\"10.0.0.1:6379\", \"10.0.0.2:6379\"",
        "",
        "`nodes` is empty",
        "10.0.0.1",
    );
    refused(
        "nodes",
        "node",
        "unknown key `node`",
        "did you mean `nodes`?",
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for kind in ["sentinel", "dns", "etcd", "consul", "zookeeper"] {
        refused(
            "\"static\"",
            &format!("\"{kind}\""),
            "is not in this version",
            "static",
        );
    }
    for kind in ["etcd", "consul", "zookeeper", "sentinel"] {
        refused_in_backend(
            &format!("authority = {{ kind = \"{kind}\" }}"),
            "is not in this version",
            "cluster, embedded, follow",
        );
    }
    for kind in ["dns_update", "dns_server", "kv", "vip", "sentinel"] {
        refused_in_backend(
            &format!("publishers = [{{ kind = \"{kind}\" }}]"),
            "is not in this version",
            "hook",
        );
    }
    refused_in_backend("exactly_once = true", "not in this version", "remove it");
    refused_in_backend(
        "durability = { wait = 1 }",
        "not in this version",
        "remove it",
    );
    refused_with("[tls]", "not in this version", "remove it");
    refused(
        "\"static\"",
        "\"statik\"",
        "no source `statik`",
        "did you mean `static`?",
    );
    refused_in_backend(
        "authority = \"follow\"",
        "must be a table",
        "{ kind = \"follow\" }",
    );
}

#[test]
fn a_cluster_decides_by_itself() {
    let text = std::fs::read_to_string("config/cluster.toml").expect("config/cluster.toml");
    let config = Config::parse(Path::new("cluster.toml"), &text).expect("valid");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let backend = &config.backends[0];
    assert!(matches!(&backend.source, SourceSettings::Cluster { nodes } if nodes.len() == 3));
    assert_eq!(backend.authority, AuthoritySettings::Cluster);
    let refused = |more: &str, message: &str, hint: &str| {
        let text = format!("{text}{more}\n");
        let errors = Config::parse(Path::new("cluster.toml"), &text).expect_err(more);
        let said = errors.to_string();
        assert!(said.contains(message) && said.contains(hint), "{said}");
    };
    refused(
        "authority = { kind = \"follow\" }",
        "decides by itself",
        "leave `authority` out",
    );
    refused(
        "[backend.main.failover]\nsilent_after = \"2s\"",
        "would do nothing",
        "remove `failover`",
    );
    refused(
        "publishers = []",
        "nothing is published",
        "remove `publishers`",
    );
    let named = format!("{text}authority = {{ kind = \"cluster\" }}\n");
    assert!(Config::parse(Path::new("cluster.toml"), &named).is_ok());
    refused_in_backend(
        "authority = { kind = \"cluster\" }",
        "needs a cluster as source",
        "kind = \"cluster\"",
    );
}

#[test]
fn listeners_need_addresses_of_their_own() {
    let second = |bind: &str| format!("[[listener]]\nbind = \"{bind}\"\nbackend = \"main\"\n");
    refused_with(
        &second("127.0.0.1:6400"),
        "taken by another listener",
        "of its own",
    );
    refused_with(
        &second("0.0.0.0:6400"),
        "taken by another listener",
        "of its own",
    );
    refused_with(
        &second("127.0.0.1:9121"),
        "taken by the admin server",
        "[admin]",
    );
    refused_with(
        &second("localhost:6380"),
        "not an address",
        "127.0.0.1:6380",
    );
    refused(
        "6400\"",
        "6400\"\nmode = \"0660\"",
        "unix sockets",
        "remove",
    );
    refused(
        "127.0.0.1:6400",
        "unix:/tmp/x.sock\"\nmode = \"999",
        "file mode",
        "0660",
    );
    refused(
        "127.0.0.1:6400",
        "10.0.0.1:6379",
        "a listener of this pointsman",
        "itself",
    );
    good(&format!("{}{MINIMAL}", second("127.0.0.2:6400")));
}

#[test]
fn the_admin_server_is_not_open_to_others_by_accident() {
    refused_with(
        "[admin]\nbind = \"0.0.0.0:9121\"",
        "reachable from other machines",
        "allow_remote",
    );
    refused_with(
        "[admin]\nbind = \"0.0.0.0:9121\"\nallow_remote = \"al\"",
        "unknown variant",
        "did you mean `all`?",
    );
    good(&format!(
        "[admin]\nbind = \"0.0.0.0:9121\"\nallow_remote = \"all\"\n{MINIMAL}"
    ));
}

#[test]
fn secrets_come_from_one_readable_place_and_are_never_shown() {
    refused_in_backend("auth = {}", "has no password", "password_file");
    refused_in_backend(
        "auth = { password = \"geheim\", password_env = \"X\" }",
        "given twice",
        "password_file",
    );
    refused_in_backend(
        "auth = { password_file = \"/no-such-file\" }",
        "can not read the password file /no-such-file",
        "check the path",
    );
    refused_in_backend(
        "auth = { password_env = \"POINTSMAN_TEST_NOT_SET\" }",
        "POINTSMAN_TEST_NOT_SET is not set",
        "password_file",
    );
    let config = good(&format!("{MINIMAL}auth = {{ password = \"geheim\" }}"));
    assert!(
        config.warnings[0]
            .message
            .contains("stands in the configuration")
    );
    assert!(!format!("{config:?}").contains("geheim"));
    let twice = format!("{MINIMAL}auth = {{ password = \"geheim\", username = 3, passwort = 1 }}");
    let errors = parse(&twice).expect_err("two errors");
    assert!(!errors.to_string().contains("geheim"), "{errors}");
}

#[test]
fn an_embedded_authority_needs_a_file_of_its_own() {
    refused_in_backend(
        "authority = { kind = \"embedded\" }",
        "`state` is missing",
        "state =",
    );
    refused_in_backend(
        "authority = { kind = \"embedded\", state = \"/no-such-directory/a.json\" }",
        "/no-such-directory does not exist",
        "create it",
    );
    refused_in_backend(
        "authority = { kind = \"embedded\", state = \"/tmp\" }",
        "/tmp is a directory",
        "main.json",
    );
    let two = |nodes: &str, state: &str| {
        format!(
            "[[listener]]\nbind = \"127.0.0.1:6401\"\nbackend = \"other\"\n{MINIMAL}\
             authority = {{ kind = \"embedded\", state = \"/tmp/main.json\" }}\n\
             [backend.other]\nsource = {{ kind = \"static\", nodes = [{nodes}] }}\n\
             authority = {{ kind = \"embedded\", state = \"{state}\" }}\n"
        )
    };
    let (_, message, _) = only_error(&two("\"a:1\", \"b:1\"", "/tmp/../tmp/main.json"));
    assert!(
        message.contains("`main` has the same state file"),
        "{message}"
    );
    let (_, message, _) = only_error(&two("\"10.0.0.1:6379\", \"b:1\"", "/tmp/other.json"));
    assert!(
        message.contains("belongs to the backend `main` too"),
        "{message}"
    );
    good(&two("\"a:1\", \"b:1\"", "/tmp/other.json"));
}

#[test]
fn hooks_are_programs() {
    let hook = |rest: &str| format!("publishers = [{{ kind = \"hook\"{rest} }}]");
    refused_in_backend(&hook(""), "`program` is missing", "absolute path");
    refused_in_backend(
        &hook(", program = \"sh\""),
        "must be absolute",
        "/usr/local",
    );
    refused_in_backend(
        &hook(", program = \"/no-such\""),
        "can not be used",
        "check",
    );
    refused_in_backend(
        &hook(", program = \"/etc/passwd\""),
        "not an executable",
        "chmod",
    );
    refused_in_backend(
        &hook(", program = \"/bin/sh\", timeout = \"0s\""),
        "longer than zero",
        "500ms",
    );
    refused_in_backend(
        &hook(", program = \"/bin/sh\", timeout = 5"),
        "must be a string, not an integer",
        "",
    );
}

#[test]
fn numbers_and_times_have_bounds() {
    refused_with(
        "[proxy]\nmax_clients = 0",
        "from 1 to 1000000, not 0",
        "max_clients = 10000",
    );
    refused_with("[proxy]\nmax_clients = -1", "max_clients", "default");
    refused_with(
        "[proxy]\ndrain_timeout = \"5 parsecs\"",
        "drain_timeout",
        "drain_timeout = \"5s\"",
    );
    refused_with(
        "[proxy]\ndrain_timeout = 5",
        "drain_timeout",
        "drain_timeout = \"5s\"",
    );
    refused_with("[log]\nlevel = \"loud\"", "not a log filter", "debug");
    refused_with(
        "[log]\nformat = \"jason\"",
        "unknown variant",
        "did you mean `json`?",
    );
    refused_in_backend(
        "failover = { parallel_full_syncs = 0 }",
        "from 1 to 1000",
        "parallel_full_syncs = 1",
    );
    refused_in_backend(
        "failover = { probe_interval = \"2s\", silent_after = \"3s\" }",
        "`unacked_after` must be longer than `probe_interval`",
        "several probes",
    );
}

#[test]
fn doubtful_things_are_warnings() {
    let unused = good(&format!(
        "{MINIMAL}\n[backend.other]\nsource = {{ kind = \"static\", nodes = [\"a:1\"] }}\n"
    ));
    assert!(unused.warnings[0].message.contains("no listener serves"));
    let short = good(&format!(
        "{MINIMAL}requests = {{ hold_timeout = \"900ms\" }}"
    ));
    assert!(short.warnings[0].message.contains("`hold_timeout`"));
}

/// Keys of the settings with defaults, by section of the full file.
fn defaults() -> Vec<(&'static str, toml::Table)> {
    fn keys<T: serde::Serialize>(settings: T) -> toml::Table {
        toml::Table::try_from(settings).expect("settings are tables")
    }
    vec![
        ("admin", keys(AdminSettings::default())),
        ("log", keys(LogSettings::default())),
        ("proxy", keys(Settings::default())),
        ("backend.main.failover", keys(Policy::default())),
        ("backend.main.requests", keys(BackendSettings::default())),
    ]
}

#[test]
fn the_full_file_holds_every_key_at_its_default_and_no_other() {
    let file = "config/pointsman.toml";
    let config = Config::load(file).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, []);
    let text = std::fs::read_to_string(file).expect("it was read above");
    let whole: toml::Table = text.parse().expect("it was parsed above");
    for (section, keys) in defaults() {
        let written = section
            .split('.')
            .fold(&toml::Value::Table(whole.clone()), |at, part| {
                at.get(part)
                    .unwrap_or_else(|| panic!("no [{section}] in {file}"))
            })
            .clone();
        assert_eq!(written.as_table(), Some(&keys), "[{section}] in {file}");
    }
    let minimal = good(MINIMAL);
    let (full, bare) = (&config.backends[0], &minimal.backends[0]);
    assert_eq!(full.authority, bare.authority);
    assert_eq!(full.publishers, bare.publishers);
    assert_eq!(full.auth, bare.auth);
}

#[test]
fn the_documentation_names_every_key_with_its_default() {
    let text = std::fs::read_to_string("docs/config.md").expect("docs/config.md");
    for (section, keys) in defaults() {
        let title = format!("## `[{}]`", section.replace("main", "NAME"));
        let (_, after) = text
            .split_once(&title)
            .unwrap_or_else(|| panic!("no `{title}` in docs/config.md"));
        let part = after.split("\n## ").next().unwrap_or(after);
        let rows: Vec<Vec<&str>> = part
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        for (key, value) in &keys {
            let row = rows.iter().find(|row| row[1] == format!("`{key}`"));
            let row = row.unwrap_or_else(|| panic!("`{key}` is missing below {title}"));
            assert_eq!(
                row[3],
                format!("`{value}`"),
                "default of {key} below {title}"
            );
        }
        assert_eq!(
            rows.len(),
            keys.len(),
            "keys below {title} that do not exist"
        );
    }
}

#[test]
fn the_short_files_are_valid_where_their_directories_exist() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = std::fs::read_to_string("config/static.toml").expect("config/static.toml");
    let here = directory.path().display().to_string();
    let config = good(&text.replace("/var/lib/pointsman", &here));
    assert_eq!(config.warnings, []);
}

proptest::proptest! {
    /// Whatever an editor does to the file, it is read or refused with places, never a panic.
    #[test]
    fn a_damaged_file_is_refused_and_never_panics(
        at in 0usize..6000,
        len in 0usize..40,
        put in "[\\PC\n\"\\[\\]{}=.]{0,12}",
    ) {
        let whole = include_str!("../config/pointsman.toml");
        let chars: Vec<char> = whole.chars().collect();
        let at = at.min(chars.len());
        let end = (at + len).min(chars.len());
        let text: String = chars[..at].iter().copied()
            .chain(put.chars())
            .chain(chars[end..].iter().copied())
            .collect();
        if let Err(errors) = parse(&text) {
            proptest::prop_assert!(!errors.0.is_empty());
            for error in errors.0 {
                let (line, column) = error.position.expect("errors in a text have a position");
                proptest::prop_assert!(line <= text.lines().count() + 1 && column >= 1);
            }
        }
    }
}
