//! Ordinary client libraries, unmodified, through pointsman: every feature once, and work that goes
//! on while the primary is killed. The programs are in `tests/clients/`. Each prints `ready` when it
//! works, goes on for twenty rounds after the end of its input, and prints what it saw as one line of
//! JSON. `scripts/clients.sh` installs the libraries.

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;

use std::path::Path;
use std::process::Stdio;

use pointsman::lab::Scratch;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use support::Scene;
use support::programs::{PATIENCE, Running, file, program, rust};

/// Work whose outcome a client may be told to be unknown: it would show if it ran twice.
const MAY_BE_UNKNOWN: &[&str] = &["incr", "exec", "script", "push", "publish"];

/// How libraries show it. redis-rs has these words for every error that stands in the place of EXEC's
/// reply, whoever made it.
const OUTCOME_UNKNOWN: &[&str] = &[
    "outcome unknown",
    "Invalid response when parsing multi response",
];

/// What a program prints at its end.
#[derive(Debug, Deserialize)]
struct Saw {
    client: String,
    features: Vec<String>,
    /// Features that the library does not offer with this server.
    #[serde(default)]
    skipped: Vec<String>,
    rounds: u64,
    /// Rounds after the failover.
    after: u64,
    /// Published messages that came after the failover.
    messages_after: u64,
    /// What was done, and the error.
    errors: Vec<(String, String)>,
}

/// Runs a program over a failover and judges what it saw.
async fn survives(command: Command, features: &[&str]) {
    let mut scene = Scene::start().await;
    // Nine programs at once keep a small machine busy.
    scene.expect_log("gate-not-obeyed");
    let mut running = Running::start(command, &[&scene.shard.pointsman.port().to_string()]);
    assert_eq!(running.line().await, "ready");
    scene.primary().await.kill();
    scene.failed_over().await;
    drop(running.child.stdin.take());
    let last = running.line().await;
    let saw: Saw = serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last}"));
    assert!(running.child.wait().await.expect("it ends").success());

    assert_eq!(saw.features, features, "{saw:#?}");
    assert!(saw.after >= 20 && saw.rounds > saw.after, "{saw:#?}");
    assert!(saw.messages_after > 0, "{saw:#?}");
    let forbidden = |(what, error): &&(String, String)| {
        !(OUTCOME_UNKNOWN.iter().any(|words| error.contains(words))
            && MAY_BE_UNKNOWN.contains(&what.as_str()))
    };
    let forbidden: Vec<_> = saw.errors.iter().filter(forbidden).collect();
    assert!(forbidden.is_empty(), "{}: {forbidden:#?}", saw.client);
    eprintln!(
        "{}: {} rounds, {} unknown",
        saw.client,
        saw.rounds,
        saw.errors.len()
    );
    if !saw.skipped.is_empty() {
        eprintln!(
            "NOT RUN: {}: {:?} with this server",
            saw.client, saw.skipped
        );
    }
    scene.assert_log_is_clean();
}

const ALL: &[&str] = &[
    "handshake",
    "pool",
    "pipeline",
    "transaction",
    "pubsub",
    "blocking",
    "scripts",
    "large",
    "cache",
];

#[tokio::test]
async fn redis_py() {
    if let Some(command) = program("redis_py.py") {
        survives(command, ALL).await;
    }
}

#[tokio::test]
async fn redis_py_asyncio() {
    if let Some(command) = program("redis_py_async.py") {
        survives(command, &ALL[..8]).await;
    }
}

#[tokio::test]
async fn ioredis() {
    if let Some(command) = program("ioredis.js") {
        survives(command, &ALL[..8]).await;
    }
}

#[tokio::test]
async fn node_redis() {
    if let Some(command) = program("node_redis.js") {
        survives(command, ALL).await;
    }
}

#[tokio::test]
async fn hiredis() {
    if !Path::new("/usr/include/hiredis/hiredis.h").exists() {
        eprintln!("NOT RUN: hiredis.c needs libhiredis-dev; see what scripts/clients.sh says");
        return;
    }
    let scratch = Scratch::new().unwrap();
    let program = scratch.path().join("hiredis");
    let mut compiler = Command::new("cc");
    compiler
        .arg("-o")
        .arg(&program)
        .arg(file("hiredis.c"))
        .arg("-lhiredis");
    let compiled = compiler.status().await.expect("there is a C compiler");
    assert!(compiled.success());
    let features: Vec<&str> = ALL[..8].iter().copied().filter(|f| *f != "pool").collect();
    survives(Command::new(program), &features).await;
}

#[tokio::test]
async fn redis_rs() {
    if let Some(command) = rust("redis_rs") {
        let features: Vec<&str> = ALL.iter().copied().filter(|f| *f != "pool").collect();
        survives(command, &features).await;
    }
}

#[tokio::test]
async fn fred() {
    if let Some(command) = rust("fred") {
        survives(command, ALL).await;
    }
}

fn redis_cli(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command
        .arg("-p")
        .arg(scene.shard.pointsman.port().to_string())
        .args(arguments);
    command
}

/// What redis-cli prints when it reads these lines.
async fn typed(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-cli is installed");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("it ends in time").expect("it ran");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn redis_cli_does_what_it_does_without_pointsman() {
    let scene = Scene::start().await;
    let direct = scene.primary().await.port().to_string();
    let input = "SET k 1\nINCR k\nMULTI\nINCR k\nGET k\nEXEC\nSELECT 2\nGET k\nNONSENSE\nHSET h a 1\nHGETALL h\n\
                 EVAL \"return {1,2,{3}}\" 0\nOBJECT ENCODING h\nDEL h\nLRANGE none 0 -1\nQUIT\nPING\n";
    for protocol in ["-2", "-3"] {
        let through = typed(redis_cli(&scene, &[protocol]), input).await;
        scene.primary().await.cli(&["FLUSHALL"]).await.unwrap();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &direct, protocol]);
        assert_eq!(through, typed(command, input).await);
        scene.primary().await.cli(&["FLUSHALL"]).await.unwrap();
    }
    let pipe = "SET a 1\r\nSET b 2\r\nINCR a\r\n";
    let piped = typed(redis_cli(&scene, &["--pipe"]), pipe).await;
    assert!(piped.contains("errors: 0, replies: 3"), "{piped}");
    let scanned = typed(redis_cli(&scene, &["--scan"]), "").await;
    assert_eq!(scanned.lines().count(), 2, "{scanned}");
    let keys = typed(redis_cli(&scene, &["--bigkeys"]), "").await;
    assert!(keys.contains("Sampled 2 keys"), "{keys}");
}

#[tokio::test]
async fn redis_benchmark_notices_no_failover() {
    let mut scene = Scene::start().await;
    let mut command = Command::new("redis-benchmark");
    command
        .args(["-t", "set,get,mset", "-n", "60000", "-P", "8", "-q", "-p"])
        .arg(scene.shard.pointsman.port().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let benchmark = command.spawn().expect("redis-benchmark is installed");
    let port = scene.primary().await;
    support::becomes_true("benchmark traffic", async || {
        let done = port.info_field("total_commands_processed").await;
        match done.map(|n| n.parse::<u64>()) {
            Ok(Ok(20_000..)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    scene.primary().await.kill();
    scene.failed_over().await;
    let output = tokio::time::timeout(PATIENCE, benchmark.wait_with_output()).await;
    let output = output.expect("it ends in time").expect("it ran");
    let words = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}\n{complaints}");
    assert_eq!(words.matches("requests per second").count(), 3, "{words}");
    assert!(!complaints.to_lowercase().contains("error"), "{complaints}");
}
