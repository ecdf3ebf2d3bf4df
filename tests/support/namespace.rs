//! A test that runs again in namespaces of its own, where it may do what would hurt this machine.

use std::process::Command;

/// Set in the process that runs inside.
const INSIDE: &str = "POINTSMAN_TEST_INSIDE";

/// Runs the test named `name` (its full path) again inside new namespaces: `kind` as for `unshare`.
///
/// `true` inside: the test goes on. `false` outside: the test has run in the child, which passed, or
/// `probe` says that this machine does not allow it, which is said on standard error.
pub fn is_mine(name: &str, kind: &str, probe: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let allowed = Command::new("unshare")
        .args([kind, "sh", "-c", probe])
        .output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("NOT RUN: {name} needs leave for: unshare {kind} sh -c '{probe}'");
        return false;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new("unshare")
        .arg(kind)
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare worked a moment ago");
    assert!(status.success(), "{name} failed in namespaces of its own");
    false
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}
