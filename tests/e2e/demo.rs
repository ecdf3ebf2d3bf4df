//! `pointsman demo` as a person runs it.

use std::process::Stdio;
use std::time::Duration;

use pointsman::control::StoreKind;
use pointsman::lab::{Bind, Engine, Scratch};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// The demo, with a directory of its own for everything temporary.
fn demo(scratch: &Scratch, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn is_empty(scratch: &Scratch) -> bool {
    std::fs::read_dir(scratch.path()).unwrap().next().is_none()
}

#[tokio::test]
async fn it_shows_a_fault_and_says_that_the_promise_was_kept() {
    let scratch = Scratch::new().unwrap();
    let output = demo(&scratch, &["--seconds", "4", "--fault", "kill"]).wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(90), output);
    let output = output.await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{error}");
    for words in [
        "kill -9 of",
        "is primary now, epoch 2",
        "what the clients saw",
        "promote",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert!(text.contains("Every promise was kept"), "{text}");
    // Nobody watches at a terminal, so nothing moves.
    assert!(!text.contains('\x1b'), "{text}");
    assert!(is_empty(&scratch), "something was left behind");
}

/// What it prints with these arguments, when every promise was kept and nothing was left behind.
async fn shown(arguments: &[&str]) -> String {
    let scratch = Scratch::new().unwrap();
    let output = demo(&scratch, arguments).wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(90), output);
    let output = output.await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{error}");
    assert!(text.contains("Every promise was kept"), "{text}");
    assert!(is_empty(&scratch), "something was left behind");
    text
}

#[tokio::test]
async fn with_sentinels_it_shows_what_they_announce() {
    let arguments = [
        "--seconds",
        "4",
        "--fault",
        "switchover",
        "--with",
        "sentinel",
    ];
    let text = shown(&arguments).await;
    for words in ["three sentinels", "+selected-slave"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}

#[tokio::test]
async fn with_etcd_whoever_of_three_decided_reports_it() {
    if Engine::missing(StoreKind::Etcd).is_some() {
        eprintln!("NOT RUN: etcd is missing; scripts/setup.sh test gets it");
        return;
    }
    let arguments = ["--seconds", "4", "--fault", "kill", "--with", "etcd"];
    let text = shown(&arguments).await;
    for words in ["two further monitors", "epoch 2, the process was gone"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}

#[tokio::test]
async fn with_a_name_an_operator_moves_it() {
    if let Some(program) = Bind::missing() {
        eprintln!("NOT RUN: {program} is missing; scripts/setup.sh test installs it");
        return;
    }
    let arguments = ["--seconds", "4", "--fault", "kill", "--with", "dns"];
    let text = shown(&arguments).await;
    for words in [
        "stands for the primary",
        "and moves the name",
        "decided by somebody else",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}

#[tokio::test]
async fn with_an_address_it_shows_where_that_is_or_says_what_it_may_not() {
    let scratch = Scratch::new().unwrap();
    let arguments = ["--seconds", "4", "--fault", "switchover", "--with", "vip"];
    let output = demo(&scratch, &arguments).wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(90), output);
    let output = output.await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    if error.contains("this user may not make one here") || error.contains("is missing") {
        eprintln!("NOT RUN: {error}");
        return;
    }
    assert!(output.status.success(), "{text}{error}");
    for words in [
        "the address is on the host of 10.77.0.",
        "Every promise was kept.",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert!(is_empty(&scratch), "something was left behind");
}

#[tokio::test]
async fn who_may_not_make_a_network_is_told() {
    // Here nobody may, not even root.
    let none = "echo 0 > /proc/sys/user/max_user_namespaces";
    let start = "\"$0\" demo --with vip";
    let program = env!("CARGO_BIN_EXE_pointsman");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Ur", "sh", "-c", script, program]).output()
    };
    if !unshare(none).await.is_ok_and(|done| done.status.success()) {
        eprintln!("NOT RUN: this needs leave for: unshare -Ur sh -c '{none}'");
        return;
    }
    let refused = unshare(&format!("{none} && exec {start}")).await.unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(
        why.contains("Run it as root") || why.contains("is missing"),
        "{why}"
    );
}

#[tokio::test]
async fn it_keeps_everything_running_until_it_is_asked_to_stop() {
    let scratch = Scratch::new().unwrap();
    let arguments = ["--seconds", "4", "--fault", "switchover", "--keep"];
    let mut child = demo(&scratch, &arguments);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = async {
        let mut text = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&line);
            text.push('\n');
            if line.contains("Ctrl-C") {
                return text;
            }
        }
        let mut error = String::new();
        let _ = child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut error)
            .await;
        panic!("it ended: {text}{error}");
    };
    let text = tokio::time::timeout(Duration::from_secs(90), told).await;
    let text = text.expect("it tells what to play with");
    for words in ["redis-cli -p ", "kill -9 ", "pointsman switchover main"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait());
    let status = status.await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    assert!(is_empty(&scratch), "something was left behind");
}
