//! Client libraries in their Sentinel mode, unmodified. The programs are in `tests/clients/`. Each
//! finds the primary, writes, reads from a replica, prints `ready`, writes on until the end of its
//! input, and prints what it saw as one line of JSON.

use pointsman::lab::{Data, ShardOptions};
use serde::Deserialize;
use tokio::process::Command;

use crate::rig::{Answering, NAME};
use crate::support::ask;
use crate::support::programs::{Running, program, rust};

/// What a program prints at its end.
#[derive(Debug, Deserialize)]
struct Saw {
    client: String,
    /// Where it found the primary before the failover and after it.
    before: String,
    after: String,
    /// Where it read from.
    replica: String,
    /// `+switch-master`.
    message: Option<String>,
    rounds: u64,
    /// What its writes met with.
    errors: Vec<String>,
}

const PASSWORD: &str = "sesam";

/// How the primary changes.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    /// `kill -9`, and the answers ask for no password.
    Kill,
    /// SENTINEL FAILOVER, and they do.
    Planned,
}

/// Lets a program work over a failover and judges what it saw.
async fn finds_its_way(command: Command, change: Change) {
    let password = match change {
        Change::Kill => "",
        Change::Planned => PASSWORD,
    };
    let lines = match password {
        "" => String::new(),
        secret => format!("auth = {{ password = \"{secret}\" }}"),
    };
    let (old, new, replicas, saw) =
        over_a_failover(command, change, &lines, &[password, "5"]).await;
    assert_eq!((&saw.before, &saw.after), (&old, &new), "{saw:?}");
    assert!(replicas.contains(&saw.replica), "{saw:?}");
    let spaced = |node: &str| node.replace(':', " ");
    let message = format!("{NAME} {} {}", spaced(&old), spaced(&new));
    assert_eq!(saw.message, Some(message));
}

/// The primary before and after, the replicas before, and what the program saw.
async fn over_a_failover(
    command: Command,
    change: Change,
    lines: &str,
    arguments: &[&str],
) -> (String, String, [String; 2], Saw) {
    let mut answering = Answering::with(lines, ShardOptions::default()).await;
    answering.scene.expect_log("doubtful configuration");
    let port = answering.port.number().to_string();
    let arguments: Vec<&str> = [&*port].iter().chain(arguments).copied().collect();
    let mut running = Running::start(command, &arguments);
    assert_eq!(running.line().await, "ready");
    let old = answering.scene.node(0).id();
    match change {
        Change::Kill => _ = answering.scene.kill_primary().await,
        Change::Planned => {
            let mut client = answering.client().await;
            if lines.contains(PASSWORD) {
                ask(&mut client, &["AUTH", PASSWORD]).await;
            }
            ask(&mut client, &["SENTINEL", "FAILOVER", NAME]).await;
        }
    }
    let report = answering.scene.failed_over().await;
    let new = report.to.expect("a new primary");
    if change == Change::Kill {
        let restarted = answering.scene.node(0).restart_now(Data::Empty);
        restarted.expect("restarted");
    }
    answering.scene.becomes_a_replica(0).await;
    drop(running.child.stdin.take());
    let last = running.line().await;
    let saw: Saw = serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last}"));
    assert!(running.child.wait().await.expect("it ends").success());
    println!("{}: {} rounds", saw.client, saw.rounds);
    answering.scene.assert_log_is_clean();
    let replicas = [1, 2].map(|n| answering.scene.node(n).id().to_string());
    (old.to_string(), new.to_string(), replicas, saw)
}

#[tokio::test]
async fn a_client_with_a_proxy_answer_stays_where_it_is() {
    if let Some(command) = program("redis_py_sentinel.py") {
        let answer = "answer = \"proxy\"";
        let (old, new, replicas, saw) =
            over_a_failover(command, Change::Kill, answer, &["", "0"]).await;
        assert_eq!(saw.before, saw.after);
        assert!(saw.before != old && saw.before != new, "{saw:?}");
        assert!(replicas.contains(&saw.replica), "{saw:?}");
        assert_eq!(saw.message, None);
        // Its writes were held, none failed.
        assert!(saw.errors.is_empty(), "{saw:?}");
    }
}

#[tokio::test]
async fn redis_py() {
    for change in [Change::Kill, Change::Planned] {
        if let Some(command) = program("redis_py_sentinel.py") {
            finds_its_way(command, change).await;
        }
    }
}

#[tokio::test]
async fn ioredis() {
    for change in [Change::Kill, Change::Planned] {
        if let Some(command) = program("ioredis_sentinel.js") {
            finds_its_way(command, change).await;
        }
    }
}

#[tokio::test]
async fn node_redis() {
    for change in [Change::Kill, Change::Planned] {
        if let Some(command) = program("node_redis_sentinel.js") {
            finds_its_way(command, change).await;
        }
    }
}

#[tokio::test]
async fn redis_rs() {
    for change in [Change::Kill, Change::Planned] {
        if let Some(command) = rust("redis_rs_sentinel") {
            finds_its_way(command, change).await;
        }
    }
}

/// redis-cli is no Sentinel client, but it is what people look with.
#[tokio::test]
async fn redis_cli() {
    let lines = format!("auth = {{ password = \"{PASSWORD}\" }}");
    let answering = Answering::with(&lines, ShardOptions::default()).await;
    let port = answering.port.number().to_string();
    let primary = answering.scene.node(0).port();
    let says = async |arguments: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["--no-auth-warning", "-a", PASSWORD, "-p", &port]);
        let output = command.args(arguments).output().await;
        String::from_utf8(output.expect("redis-cli is installed").stdout).expect("text")
    };
    for protocol in ["-2", "-3"] {
        let address = [protocol, "SENTINEL", "get-master-addr-by-name", NAME];
        assert_eq!(says(&address).await, format!("127.0.0.1\n{primary}\n"));
        let replicas = says(&[protocol, "SENTINEL", "replicas", NAME]).await;
        assert_eq!(
            replicas.matches("master-link-status").count(),
            2,
            "{replicas}"
        );
        let quorum = says(&[protocol, "SENTINEL", "ckquorum", NAME]).await;
        assert!(quorum.starts_with("OK 1 usable Sentinels"), "{quorum}");
    }
    let unknown = says(&["SENTINEL", "master", "nobody"]).await;
    assert_eq!(unknown, "ERR No such master with that name\n\n");
    assert_eq!(says(&["SENTINEL", "failover", NAME]).await, "OK\n");
    let moved = says(&["SENTINEL", "get-master-addr-by-name", NAME]).await;
    assert_ne!(moved, format!("127.0.0.1\n{primary}\n"));
}
