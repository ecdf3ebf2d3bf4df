//! A test that runs again in namespaces of its own, where it may do what would hurt this machine.

use pointsman::lab::namespace::{self, Namespaces};

/// Runs the test named `name` (its full path) again inside new namespaces.
///
/// `true` inside: the test goes on. `false` outside: the test has run in the child, which passed, or this
/// machine does not allow it, which is said on standard error.
pub fn is_mine(name: &str, namespaces: Namespaces) -> bool {
    if namespaces.entered().unwrap() {
        return true;
    }
    if let Some(why) = namespaces.refused() {
        eprintln!("NOT RUN: {name} needs leave for: {namespaces}\n{why}");
        return false;
    }
    let status = namespaces
        .this_program()
        .unwrap()
        .args(["--exact", name, "--nocapture"])
        .status()
        .expect("unshare worked a moment ago");
    assert!(status.success(), "{name} failed in namespaces of its own");
    false
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    namespace::run(program, arguments).unwrap_or_else(|error| panic!("{error}"));
}
