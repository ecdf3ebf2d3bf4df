//! The program as an operator runs it: what it prints where, and its exit codes.

use std::path::Path;
use std::process::{Command, Output};

use pointsman::lab::{Shard, ShardOptions};
use pointsman::topology::FailoverReport;

fn pointsman(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(args)
        .env_remove("POINTSMAN_ADMIN")
        .env_remove("POINTSMAN_CONFIG")
        .env_remove("POINTSMAN_LOG")
        .output()
        .expect("the program starts")
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(args: &[&str]) -> Said {
    let output = pointsman(args);
    Said {
        code: output.status.code().expect("it was not killed"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn written(directory: &Path, text: &str) -> String {
    let file = directory.join("pointsman.toml");
    std::fs::write(&file, text).expect("a file");
    file.display().to_string()
}

/// As in the image, which holds pointsman only.
#[test]
fn a_coordinator_without_tls_needs_no_certificates_of_the_system() {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["check", "--config", "config/etcd.toml"])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn help_is_documentation() {
    let said = said(&["--help"]);
    assert_eq!(said.code, 0);
    for word in [
        "run",
        "check",
        "status",
        "switchover",
        "failovers",
        "demo",
        "vip-agent",
        "Examples:",
        "Exit codes",
    ] {
        assert!(said.out.contains(word), "no {word} in\n{}", said.out);
    }
    for command in [
        "run",
        "check",
        "status",
        "switchover",
        "failovers",
        "demo",
        "vip-agent",
    ] {
        let said = self::said(&[command, "--help"]);
        assert_eq!(said.code, 0, "{command}");
        assert!(said.out.contains("Example"), "{command}:\n{}", said.out);
    }
    let version = self::said(&["--version"]);
    assert_eq!(
        version.out,
        format!("pointsman {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &[][..],
        &["chekc"],
        &["run"],
        &["check", "--config"],
        &["status", "--jsn"],
        &["switchover"],
    ] {
        assert_eq!(said(args).code, 2, "{args:?}");
    }
    assert!(said(&["chekc"]).err.contains("'check'"));
}

#[test]
fn a_valid_configuration_is_said_to_be_valid() {
    let said = said(&["check", "--config", "config/pointsman.toml"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(
        said.out,
        "config/pointsman.toml: valid, 1 listener, 1 backend\n"
    );
    assert_eq!(said.err, "");
}

#[test]
fn the_file_of_a_vip_agent_is_checked_as_one() {
    let good = said(&["check", "--config", "config/vip.toml"]);
    assert_eq!((good.code, good.err.as_str()), (0, ""));
    assert!(
        good.out.contains("valid, a vip agent for 10.0.0.100"),
        "{}",
        good.out
    );

    let directory = tempfile::tempdir().expect("a directory");
    let file = written(directory.path(), "[vip_agent]\naddress = \"10.0.0\"\n");
    for command in ["check", "vip-agent"] {
        let wrong = said(&[command, "--config", &file]);
        assert_eq!(wrong.code, 2, "{command}");
        for part in [
            ":2:11: ",
            "not an IP address",
            "`interface` is missing",
            "5 errors",
        ] {
            assert!(wrong.err.contains(part), "{command}: {part}: {}", wrong.err);
        }
    }
}

#[test]
fn errors_of_a_configuration_go_to_standard_error_all_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = written(directory.path(), "[admim]\n[proxy]\nworkers = -1\n");
    for command in ["check", "run"] {
        let said = said(&[command, "--config", &file]);
        assert_eq!(said.code, 2);
        assert_eq!(said.out, "");
        for part in [
            &format!("{file}:1:2: unknown key `admim`"),
            "hint: did you mean `admin`?",
            &format!("{file}:3:11: `workers` in [proxy]"),
            "no listener",
            "no backend",
            "4 errors in the configuration",
        ] {
            assert!(said.err.contains(part), "no `{part}` in\n{}", said.err);
        }
    }
    let missing = said(&["check", "--config", "/no-such-file.toml"]);
    assert_eq!(missing.code, 2);
    assert!(
        missing
            .err
            .contains("/no-such-file.toml: can not read the file")
    );
}

#[test]
fn warnings_do_not_change_the_exit_code_and_hide_the_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = r#"
[[listener]]
bind = "127.0.0.1:6379"
backend = "main"
[backend.main]
source = { kind = "static", nodes = ["10.0.0.1:6379"] }
auth = { password = "geheim" }
"#;
    let said = said(&["check", "--config", &written(directory.path(), text)]);
    assert_eq!(said.code, 0);
    assert!(said.err.contains("warning: "), "{}", said.err);
    assert!(said.out.contains("1 warning"), "{}", said.out);
    assert!(!said.err.contains("geheim"));
}

#[test]
fn nobody_at_the_admin_address_is_said_with_a_hint() {
    // A port that was free a moment ago; nothing listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .to_string();
    for args in [
        vec!["status", "--admin", &port],
        vec!["failovers", "--admin", &port],
        vec!["switchover", "main", "--admin", &port],
    ] {
        let said = said(&args);
        assert_eq!(said.code, 1, "{args:?}");
        assert!(
            said.err.contains("can not reach a pointsman"),
            "{}",
            said.err
        );
        assert!(said.err.contains("hint: is it running?"), "{}", said.err);
        assert_eq!(said.out, "");
    }
}

#[test]
fn something_else_at_the_admin_address_is_said() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let redis = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"-ERR unknown command 'GET'\r\n");
    });
    let said = said(&["status", "--admin", &address]);
    redis.join().expect("no panic");
    assert_eq!(said.code, 1);
    assert!(said.err.contains("is not the admin server"), "{}", said.err);
}

/// With real servers: the commands as an operator uses them one after the other.
#[tokio::test]
async fn an_operator_looks_moves_the_primary_and_looks_again() {
    let shard = Shard::start(ShardOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        ..ShardOptions::default()
    })
    .await
    .expect("servers and a pointsman");
    let admin = shard.pointsman.admin();
    let before = shard.primary().await.expect("a primary").id().to_string();

    let status = said(&["status", "--admin", &admin]);
    assert_eq!(status.code, 0, "{}", status.err);
    assert!(status.out.contains(", ready, up "), "{}", status.out);
    assert!(
        status.out.contains(&format!("* {before}")),
        "{}",
        status.out
    );

    let moved = said(&["switchover", "main", "--json", "--admin", &admin]);
    assert_eq!(moved.code, 0, "{}", moved.out);
    let report: FailoverReport = serde_json::from_str(&moved.out).expect("a report");
    let after = report.to.expect("a node").to_string();
    assert_ne!(after, before);

    let status = said(&["status", "--admin", &admin]);
    let change = format!("last change: switchover {before} -> {after}");
    assert!(status.out.contains(&change), "{}", status.out);
    assert!(status.out.contains(&format!("* {after}")), "{}", status.out);

    let wrong = said(&[
        "switchover",
        "main",
        "--to",
        "127.0.0.1:1",
        "--admin",
        &admin,
    ]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("127.0.0.1:1"), "{}", wrong.err);

    let reports = said(&["failovers", "main", "--admin", &admin]);
    assert_eq!(reports.code, 0);
    assert!(reports.out.contains("[promote]"), "{}", reports.out);
}

#[test]
fn a_log_variable_that_is_no_filter_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["run", "--config", "config/pointsman.toml"])
        .env("POINTSMAN_LOG", "loud")
        .output()
        .expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("POINTSMAN_LOG is not a log filter"), "{err}");
}
