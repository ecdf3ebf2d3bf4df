//! The configuration: every error at its place, all at once, and files that agree with the code.

use std::path::Path;

use pointsman::admin::{AdminSettings, AllowRemote};
use pointsman::config::{Bind, Config, ConfigErrors, VipConfig};
use pointsman::control::source::DnsName;
use pointsman::control::{AuthoritySettings, PublisherSettings, Role, SourceSettings};
use pointsman::failover::Policy;
use pointsman::proxy::{BackendSettings, Settings};
use pointsman::resp::Credentials;
use pointsman::sentinel::{Answer, SentinelSettings};
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

/// `MINIMAL` with this table as its source.
fn with_source(source: &str) -> String {
    let (before, _) = MINIMAL.split_once("source").expect("a source");
    format!("{before}source = {{ {source} }}\n")
}

#[test]
fn names_in_the_dns_are_hosts_or_services() {
    let settings = |source: &str| match &good(&with_source(source)).backends[0].source {
        SourceSettings::Dns(settings) => settings.clone(),
        other => panic!("{other:?}"),
    };
    let host = |name: &str, port| DnsName::Host {
        name: name.to_owned(),
        port,
    };
    let bare = settings("kind = \"dns\", name = \"redis.internal:6379\"");
    assert_eq!(bare.names, [host("redis.internal", 6379)]);
    assert_eq!((bare.resolvers.len(), bare.refresh.as_secs()), (0, 1));
    let full = settings(
        "kind = \"dns\", names = [\"a:1\", \"b.:2\"], refresh = \"10s\", resolvers = [\"10.0.0.53\", \
         \"[::1]:5353\"]",
    );
    assert_eq!(full.names, [host("a", 1), host("b.", 2)]);
    let resolvers: Vec<String> = full.resolvers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["10.0.0.53:53", "[::1]:5353"]);
    assert_eq!(full.refresh.as_secs(), 10);
    let srv = settings("kind = \"dns\", name = \"_redis._tcp.internal\", record = \"srv\"");
    let name = "_redis._tcp.internal".to_owned();
    assert_eq!(srv.names, [DnsName::Service { name }]);

    for (source, message, hint) in [
        ("", "`name` is missing", "redis.example.internal:6379"),
        (
            "name = \"redis.internal\"",
            "not a node's address",
            "redis.internal:6379",
        ),
        (
            "name = \"10.0.0.1:6379\"",
            "an address, not a name",
            "static",
        ),
        (
            "name = \"a:1\", names = [\"b:1\"]",
            "do not go together",
            "`names`",
        ),
        ("names = []", "`names` is empty", "redis.example"),
        ("names = [\"a:1\", \"a:1\"]", "twice", "remove"),
        ("name = \"a:1\", record = \"srv\"", "names a port", "\"a\""),
        (
            "name = \"a b\", record = \"srv\"",
            "not a name",
            "_redis._tcp",
        ),
        (
            "name = \"a:1\", record = \"txt\"",
            "no record `txt`",
            "address, srv",
        ),
        (
            "name = \"a:1\", refresh = \"0s\"",
            "longer than zero",
            "500ms",
        ),
        (
            "name = \"a:1\", resolvers = [\"dns.internal\"]",
            "DNS server",
            "127.0.0.1:5353",
        ),
        (
            "name = \"a:1\", port = 1",
            "unknown key `port`",
            "resolvers",
        ),
    ] {
        let text = with_source(&format!("kind = \"dns\", {source}"));
        let (line, got_message, got_hint) = only_error(&text.replace("\", }", "\" }"));
        assert!(got_message.contains(message), "{source}: {got_message}");
        assert!(got_hint.contains(hint), "{source}: {got_hint}");
        assert_eq!(line, 7);
    }
}

#[test]
fn names_in_the_dns_can_only_be_followed() {
    let text = with_source("kind = \"dns\", name = \"redis.internal:6379\"");
    good(&format!("{text}authority = {{ kind = \"follow\" }}\n"));
    let (line, message, hint) = only_error(&format!(
        "{text}authority = {{ kind = \"embedded\", state = \"/tmp/pointsman-test.json\" }}\n"
    ));
    assert!(message.contains("can only follow"), "{message}");
    assert!(hint.contains("kind = \"follow\""), "{hint}");
    assert_eq!(line, 8);
}

#[test]
fn a_coordinator_is_checked() {
    for (keys, what, hint) in [
        ("", "`endpoints` is missing", "endpoints = ["),
        (", endpoints = []", "`endpoints` is empty", "for example"),
        (
            ", endpoints = [\"http://a:1\"]",
            "is not host:port",
            "without http://",
        ),
        (
            ", endpoints = [\"a:1\"], prefix = \"p/\"",
            "can not be a prefix",
            "begin with a slash",
        ),
        (
            ", endpoints = [\"a:1\"], tls = { ca_file = \"/nonexistent\" }",
            "can not read /nonexistent",
            "check the path",
        ),
        (
            ", endpoints = [\"a:1\"], tls = { key_file = \"/nonexistent\" }",
            "belong together",
            "give both",
        ),
        (
            ", endpoints = [\"a:1\"], role = \"boss\"",
            "there is no role `boss`",
            "both, monitor, proxy",
        ),
        (
            ", endpoints = [\"a:1\"], monitors = 0",
            "must be a number from 1 to 99",
            "monitors = 1",
        ),
        (
            ", endpoints = [\"a:1\"], domain = \"zone a\"",
            "can not be the name of a failure domain",
            "without spaces",
        ),
        (
            ", endpoints = [\"a:1\"], view_lease = \"100ms\"",
            "is too short",
            "1s or more",
        ),
    ] {
        for kind in ["consul", "etcd", "zookeeper"] {
            refused_in_backend(
                &format!("authority = {{ kind = \"{kind}\"{keys} }}"),
                what,
                hint,
            );
        }
    }
    refused_in_backend(
        "authority = { kind = \"consul\", endpoints = [\"a:1\"], auth = { password_env = \"X\" } }",
        "Consul has no users",
        "token_file",
    );
    refused_in_backend(
        "authority = { kind = \"zookeeper\", endpoints = [\"a:1\"], auth = { password_env = \"PATH\" } }",
        "has a name",
        "username",
    );
    refused_in_backend(
        "authority = { kind = \"zookeeper\", endpoints = [\"a:1\"], tls = {} }",
        "needs ca_file",
        "look at `tls`",
    );
    refused_with(
        "[backend.primary]\nsource = { kind = \"static\", nodes = [\"a:1\"] }\n\
         authority = { kind = \"etcd\", endpoints = [\"a:1\"] }\n",
        "can not be called `primary`",
        "take another one",
    );
    refused_in_backend(
        "publishers = [{ kind = \"kv\", store = \"etcd\", endpoints = [\"a:1\"] }]",
        "`dns_update` and `kv` need",
        "a coordinator",
    );
    refused_in_backend(
        "publishers = [{ kind = \"kv\", store = \"redis\" }]",
        "there is no store `redis`",
        "etcd",
    );
}

#[test]
fn a_monitor_needs_no_listener_and_a_sidecar_no_source() {
    let store = "kind = \"etcd\", endpoints = [\"a:1\"]";
    let source = "source = { kind = \"static\", nodes = [\"10.0.0.1:6379\"] }";
    let listener = "[[listener]]\nbind = \"127.0.0.1:6379\"\nbackend = \"main\"";
    let read = |text: &str| Config::parse(Path::new("test.toml"), text);
    let monitor =
        format!("[backend.main]\n{source}\nauthority = {{ {store}, role = \"monitor\" }}");
    let config = read(&monitor).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let error = read(&format!("{listener}\n{monitor}")).unwrap_err();
    assert!(
        error.to_string().contains("it carries no requests"),
        "{error}"
    );

    let sidecar =
        format!("{listener}\n[backend.main]\nauthority = {{ {store}, role = \"proxy\" }}");
    let config = read(&sidecar).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let error = read(&format!("{sidecar}\n{source}")).unwrap_err();
    assert!(error.to_string().contains("from the record"), "{error}");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for kind in ["etcd", "consul", "zookeeper"] {
        refused(
            "\"static\"",
            &format!("\"{kind}\""),
            "is not in this version",
            "static",
        );
    }
    refused_in_backend(
        "publishers = [{ kind = \"dns_server\" }]",
        "no publisher",
        "[dns_server]",
    );
    refused_in_backend(
        "publishers = [{ kind = \"sentinel\" }]",
        "no publisher",
        "[sentinel]",
    );
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

const EMBEDDED: &str =
    "authority = { kind = \"embedded\", state = \"/tmp/pointsman-test.json\" }\n";

/// A backend with a publisher `dns_update`, one part of it replaced.
fn dns_update(from: &str, to: &str) -> String {
    let publisher = "publishers = [{ kind = \"dns_update\", server = \"10.0.0.53:53\", zone = \
                     \"internal\", name = \"redis.internal.\", key_name = \"pointsman\", key = \
                     \"c2VjcmV0\" }]";
    assert!(publisher.contains(from));
    format!("{EMBEDDED}{}", publisher.replace(from, to))
}

#[test]
fn a_name_in_a_zone_needs_a_server_a_zone_and_a_key() {
    let config = good(&format!("{MINIMAL}{}", dns_update("", "")));
    let [PublisherSettings::DnsUpdate(settings)] = &config.backends[0].publishers[..] else {
        panic!("{:?}", config.backends[0].publishers);
    };
    // Names are fully qualified, with and without a dot at the end.
    assert_eq!(settings.zone.to_ascii(), "internal.");
    assert_eq!(settings.name.to_ascii(), "redis.internal.");
    assert_eq!(settings.key.name.to_ascii(), "pointsman.");
    assert_eq!(settings.key.secret, b"secret");
    assert!((settings.timeout.as_secs(), settings.srv) == (5, false));
    assert_eq!(settings.refresh.as_secs(), 30);
    assert!(
        config.warnings[0]
            .message
            .contains("in the configuration itself")
    );
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("115, 101, 99") && !shown.contains("secret:"),
        "{shown}"
    );

    for (from, to, message, hint) in [
        (
            "server = \"10.0.0.53:53\", ",
            "",
            "`server` is missing",
            "10.0.0.53:53",
        ),
        (
            "zone = \"internal\", ",
            "",
            "`zone` is missing",
            "internal.",
        ),
        (
            "name = \"redis.internal.\", ",
            "",
            "`name` is missing",
            "redis.internal.",
        ),
        (
            "10.0.0.53:53",
            "10.0.0.53",
            "not the address of a server",
            ":53",
        ),
        (
            "\"internal\"",
            "\"a..b\"",
            "`a..b` is not a domain name",
            "redis.internal.",
        ),
        (
            "redis.internal.",
            "redis.example.",
            "is not in the zone internal.",
            "redis.internal.",
        ),
        (
            "key_name = \"pointsman\", ",
            "",
            "`key_name` is missing",
            "the server",
        ),
        (", key = \"c2VjcmV0\"", "", "has no key", "key_file"),
        (
            "c2VjcmV0",
            "no base64!",
            "not a key in base64",
            "tsig-keygen",
        ),
        (
            "key = ",
            "key_env = \"NO_SUCH\", key = ",
            "given twice",
            "one of the two",
        ),
        (
            "key = \"c2VjcmV0\"",
            "key_env = \"NO_SUCH\"",
            "NO_SUCH is not set",
            "key_file",
        ),
        (
            "key = \"c2VjcmV0\"",
            "key_file = \"/no-such\"",
            "key file /no-such",
            "check the path",
        ),
        (
            "key = ",
            "key_algorithm = \"hmac-md5\", key = ",
            "`hmac-md5`",
            "hmac-sha256",
        ),
        ("key = ", "srv = \"yes\", key = ", "true or false", ""),
        (
            "key = ",
            "refresh = \"0s\", key = ",
            "longer than zero",
            "500ms",
        ),
        ("key = ", "ttl = 5, key = ", "unknown key `ttl`", ""),
    ] {
        let text = dns_update(from, to);
        refused_in_backend(&text, message, hint);
    }
    // Two backends would take the name from each other.
    let both = format!(
        "{MINIMAL}{}\n[[listener]]\nbind = \"127.0.0.1:6401\"\nbackend = \"b\"\n[backend.b]\nsource = {{ kind = \
         \"static\", nodes = [\"c:1\", \"d:1\"] }}\n{}",
        dns_update("", ""),
        dns_update("", "").replace("pointsman-test", "pointsman-other"),
    );
    let (_, message, hint) = only_error(&both);
    assert!(message.contains("redis.internal. too"), "{message}");
    assert!(hint.contains("of its own"), "{hint}");
    // Epochs that begin anew at each start would never be published again.
    let followed = dns_update("", "").replace(EMBEDDED, "");
    refused_in_backend(&followed, "counts from one again", "embedded");
}

#[test]
fn the_dns_server_needs_an_address_and_names_that_are_free() {
    let table =
        |bind: &str, zone: &str| format!("[dns_server]\nbind = \"{bind}\"\nzone = \"{zone}\"\n");
    let text = table("127.0.0.1:5353", "redis.internal");
    let config = good(&MINIMAL.replace("\n\n[backend", &format!("\n\n{text}\n[backend")));
    let settings = config.dns_server.expect("it is there");
    assert_eq!(settings.zone.to_ascii(), "redis.internal.");
    assert_eq!(settings.bind.port(), 5353);
    assert_eq!(good(MINIMAL).dns_server, None);
    let free = "127.0.0.1:5353";
    for (bind, zone, message, hint) in [
        ("127.0.0.1:6400", "a.b", "taken by a listener", "of its own"),
        ("127.0.0.1:9121", "a.b", "the admin server", "of its own"),
        ("unix:/tmp/dns", "a.b", "no unix sockets", "5353"),
        ("localhost:53", "a.b", "not an address", "127.0.0.1:53"),
        (free, ".", "`.` is not a domain name", "redis.internal."),
    ] {
        refused_with(&table(bind, zone), message, hint);
    }
    refused_with(
        "[dns_server]\nzone = \"a.b\"\n",
        "`bind` is missing",
        "10.0.0.9:53",
    );
    refused_with(
        &format!("{}ttl = 5\n", table(free, "a.b")),
        "unknown key `ttl`",
        "",
    );
    let clash = MINIMAL.replace("main", "ns");
    let clash = clash.replace("\n\n[backend", &format!("\n\n{text}\n[backend"));
    let (_, message, hint) = only_error(&clash);
    assert!(message.contains("ns.redis.internal."), "{message}");
    assert!(hint.contains("rename"), "{hint}");
}

#[test]
fn sentinel_answers_are_off_unless_asked_for() {
    assert_eq!(good(MINIMAL).sentinel, None);
    let with = |table: &str| good(&format!("[sentinel]\n{table}\n{MINIMAL}"));
    assert_eq!(with("").sentinel, Some(SentinelSettings::default()));
    let set = with(
        "bind = \"0.0.0.0:26380\"\nmax_clients = 5\nauth = { username = \"app\", password = \"s\" }",
    );
    let sentinel = set.sentinel.expect("it is there");
    assert_eq!(sentinel.bind.to_string(), "0.0.0.0:26380");
    assert_eq!((sentinel.max_clients, sentinel.answer), (5, Answer::Node));
    let auth = sentinel.auth.expect("it is there");
    assert_eq!(
        (auth.username.as_deref(), auth.password()),
        (Some("app"), &b"s"[..])
    );
    // A password in the file itself.
    assert_eq!(set.warnings.len(), 1);
}

#[test]
fn sentinel_answers_that_can_not_work_are_refused() {
    refused_with(
        "[sentinel]\nanswer = \"both\"\n",
        "unknown variant `both`",
        "",
    );
    refused_with("[sentinel]\nmax_clients = 0\n", "must be from 1", "");
    refused_with(
        "[sentinel]\nquorum = 2\n",
        "unknown key `quorum`",
        "max_clients",
    );
    refused_with(
        "[sentinel]\nauth = {}\n",
        "has no password",
        "password_file",
    );
    refused_with(
        "[sentinel]\nbind = \"127.0.0.1:6400\"\n",
        "127.0.0.1:6400 is taken already",
        "another `bind`",
    );
    refused_with(
        "[sentinel]\nbind = \"0.0.0.0:9121\"\n",
        "127.0.0.1:9121 is taken already",
        "another `bind`",
    );
    refused_with(
        "[dns_server]\nbind = \"127.0.0.1:5353\"\nzone = \"redis.internal.\"\n[sentinel]\nbind = \"0.0.0.0:5353\"\n",
        "127.0.0.1:5353 is taken already",
        "another `bind`",
    );
    // The listener's address means nothing elsewhere.
    refused_with(
        "[sentinel]\nbind = \"0.0.0.0:26379\"\nanswer = \"proxy\"\n",
        "would be told 127.0.0.1:6400 for `main`",
        "loopback",
    );
    let proxy = "[sentinel]\nanswer = \"proxy\"\n";
    good(&format!("{proxy}{MINIMAL}"));
    let unix = MINIMAL.replace("127.0.0.1:6400", "unix:/tmp/redis.sock");
    let (_, message, _) = only_error(&format!("{proxy}{unix}"));
    assert!(message.contains("`main` has no TCP listener"), "{message}");
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
    // Off, so its keys stand behind a #.
    assert_eq!(config.sentinel, None);
    let sentinel = text.split("# [sentinel]\n").nth(1).expect("it is there");
    let keys = sentinel.lines().take_while(|line| !line.is_empty());
    let keys: Vec<&str> = keys.filter_map(|line| line.strip_prefix("# ")).collect();
    let keys = keys
        .iter()
        .filter(|line| line.split(' ').nth(1) == Some("="));
    let keys: Vec<&str> = keys.copied().collect();
    let uncommented: toml::Table = keys.join("\n").parse().expect("TOML");
    let defaults = toml::Table::try_from(SentinelSettings::default()).expect("a table");
    assert_eq!(uncommented, defaults);
    let minimal = good(MINIMAL);
    let (full, bare) = (&config.backends[0], &minimal.backends[0]);
    assert_eq!(full.authority, bare.authority);
    assert_eq!(full.publishers, bare.publishers);
    assert_eq!(full.auth, bare.auth);
}

#[test]
fn the_documentation_names_every_key_with_its_default() {
    let text = std::fs::read_to_string("docs/config.md").expect("docs/config.md");
    let sentinel = toml::Table::try_from(SentinelSettings::default()).expect("a table");
    for (section, keys) in defaults().into_iter().chain([("sentinel", sentinel)]) {
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
    let here = directory.path().display().to_string();
    std::fs::write(directory.path().join("tsig"), "c2VjcmV0\n").expect("a file");
    for file in [
        "config/static.toml",
        "config/sentinel.toml",
        "config/etcd.toml",
        "config/consul.toml",
        "config/zookeeper.toml",
        "config/dns.toml",
        "config/follow.toml",
        "config/hook.toml",
        "config/dns-publish.toml",
        "config/sentinel-listener.toml",
        "config/monitor.toml",
        "config/sidecar.toml",
    ] {
        let text = std::fs::read_to_string(file).expect(file);
        let text = text.replace("/var/lib/pointsman", &here);
        let text = text.replace("/usr/local/bin/on-switch", "/bin/true");
        let config = good(&text.replace("/etc/pointsman", &here));
        assert_eq!(config.warnings, [], "{file}");
        // Where a record is shared, the example is one of several that agree.
        if let AuthoritySettings::Shared(shared) = &config.backends[0].authority
            && shared.role != Role::Proxy
        {
            assert_eq!(shared.monitors, 3, "{file}");
        }
    }
}

#[test]
fn the_file_of_a_vip_agent_has_its_own_errors_each_at_its_place() {
    let file = "config/vip.toml";
    assert!(VipConfig::is_meant(file) && !VipConfig::is_meant("config/static.toml"));
    let text = std::fs::read_to_string(file).expect(file);
    let config = VipConfig::load(file).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.vip.prefix, 32);
    let without_lease = text.replace("lease =", "# lease =");
    let defaults = VipConfig::parse(Path::new(file), &without_lease);
    assert_eq!(
        defaults.expect("valid").vip,
        config.vip,
        "a default changed"
    );

    for (from, to, message, hint) in [
        (
            "\"10.0.0.100\"",
            "\"10.0.0\"",
            "not an IP address",
            "10.0.0.100",
        ),
        (
            "\"10.0.0.100\"",
            "\"10.0.0.100/33\"",
            "not an IP address",
            "/24",
        ),
        ("\"10.0.0.100\"", "\"127.0.0.1\"", "can not move", "unicast"),
        ("\"10.0.0.100\"", "\"fe80::1\"", "can not move", "unicast"),
        (
            "\"eth0\"",
            "\"an-interface-of-16\"",
            "name of an interface",
            "ip link",
        ),
        (
            "\"10.0.0.1:6379\"",
            "\"10.0.0.1\"",
            "not a node's address",
            "10.0.0.1:6379",
        ),
        ("\"main\"", "\"a b\"", "name of a backend", "NAME"),
        ("[\"10.0.0.10:9121\"]", "[]", "no pointsman", "9121"),
        ("[\"10.0.0.10:9121\"]", "[\"x\"]", "admin server", "9121"),
        ("\"3s\"", "\"10ms\"", "from 1s to 60s", "3s"),
        (
            "interface =",
            "interfaces =",
            "unknown key",
            "did you mean `interface`?",
        ),
        ("bind =", "# bind =", "`bind` is missing", "9122"),
        (
            "[vip_agent]",
            "[vip_agents]",
            "unknown key",
            "did you mean `vip_agent`?",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let wrong = VipConfig::parse(Path::new(file), &text.replacen(from, to, 1));
        let errors = wrong.expect_err(to).0;
        assert_eq!(errors.len(), 1, "{}", ConfigErrors(errors.clone()));
        assert!(errors[0].message.contains(message), "{}", errors[0]);
        let said = errors[0].hint.as_deref().unwrap_or_default();
        assert!(said.contains(hint), "{}", errors[0]);
    }
}

const SENTINEL: &str = r#"
[[listener]]
bind = "127.0.0.1:6400"
backend = "main"

[backend.main]
source = { kind = "sentinel", sentinels = ["s1:26379", "[::1]:26379"], master = "mymaster" }
"#;

#[test]
fn where_sentinel_is_the_source_it_decides() {
    for authority in ["", "authority = { kind = \"sentinel\" }"] {
        let config = good(&format!("{SENTINEL}{authority}\n"));
        let backend = &config.backends[0];
        assert_eq!(backend.authority, AuthoritySettings::Sentinel);
        let SourceSettings::Sentinel(settings) = &backend.source else {
            panic!("{:?}", backend.source)
        };
        assert_eq!(&*settings.master, "mymaster");
        assert_eq!(settings.sentinels.len(), 2);
    }
    for authority in ["follow", "embedded"] {
        let text = format!("{SENTINEL}authority = {{ kind = \"{authority}\", state = \"x\" }}\n");
        let text = match authority {
            "follow" => text.replace(", state = \"x\"", ""),
            _ => text,
        };
        let (_, message, hint) = only_error(&text);
        assert!(message.contains("decides already"), "{message}");
        assert!(hint.contains("remove `authority`"), "{hint}");
    }
    refused_in_backend(
        "authority = { kind = \"sentinel\" }",
        "needs Sentinel as the source",
        "kind = \"sentinel\", sentinels",
    );
}

#[test]
fn every_sentinel_may_have_credentials_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("secret");
    std::fs::write(&file, "one\n").expect("written");
    let of = |text: &str| {
        let text = SENTINEL.replace(
            "\"s1:26379\", \"[::1]:26379\"], master = \"mymaster\"",
            &text.replace("FILE", &file.display().to_string()),
        );
        match good(&text).backends.remove(0).source {
            SourceSettings::Sentinel(settings) => settings,
            other => panic!("{other:?}"),
        }
    };
    let settings = of(
        "{ address = \"s1:1\", username = \"u\", password_file = \"FILE\" }, \"s2:1\"], \
         master = \"m\", password_file = \"FILE\"",
    );
    let user = |n: usize| {
        settings.sentinels[n]
            .credentials
            .as_ref()
            .map(|c| c.username.clone())
    };
    assert_eq!(user(0), Some(Some("u".into())));
    assert_eq!(user(1), Some(None));
    let password = |c: &Option<Credentials>| c.as_ref().map(|c| c.password().to_vec());
    assert_eq!(password(&settings.credentials), Some(b"one".to_vec()));
    let open = of("{ address = \"s1:1\" }, \"s2:1\"], master = \"m\"");
    assert_eq!(open.sentinels[0].credentials, None);
}

#[test]
fn one_sentinel_is_allowed_and_doubtful() {
    let config = good(&SENTINEL.replace(", \"[::1]:26379\"", ""));
    let warning = &config.warnings[0].message;
    assert!(warning.contains("one sentinel is named"), "{warning}");
}

#[test]
fn what_is_wrong_with_sentinels_is_said() {
    for (from, to, message, hint) in [
        (
            ", master = \"mymaster\"",
            "",
            "`master` is missing",
            "mymaster",
        ),
        (
            "\"mymaster\"",
            "\"my master\"",
            "can not be a master name",
            "letters",
        ),
        (
            "\"mymaster\"",
            "\"\"",
            "can not be a master name",
            "letters",
        ),
        ("[\"s1:26379\", \"[::1]:26379\"]", "[]", "is empty", "26379"),
        (
            "\"[::1]:26379\"",
            "\"s1:26379\"",
            "named twice",
            "remove one",
        ),
        ("\"s1:26379\"", "\"s1\"", "not a node's address", "s1:26379"),
        (
            "\"s1:26379\"",
            "{ host = \"s1\" }",
            "`address` is missing",
            "26379",
        ),
        (
            "\"s1:26379\"",
            "{ address = \"s1:1\", username = \"u\" }",
            "a user needs a password",
            "password_file",
        ),
        (
            "master = \"mymaster\"",
            "master = \"mymaster\", password_env = \"POINTSMAN_NO_SUCH\"",
            "POINTSMAN_NO_SUCH is not set",
            "password_file",
        ),
        ("master =", "name =", "`master` is missing", "mymaster"),
    ] {
        let text = SENTINEL.replace(from, to);
        assert_ne!(text, SENTINEL);
        let errors = parse(&text).expect_err("an error was expected").0;
        let fits = |e: &pointsman::config::ConfigError| {
            e.message.contains(message) && e.hint.as_deref().unwrap_or_default().contains(hint)
        };
        assert!(errors.iter().any(fits), "{}", ConfigErrors(errors.clone()));
    }
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
