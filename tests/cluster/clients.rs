//! Clients that know clusters see one node, and work with it. `scripts/clients.sh` installs the libraries.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::scene::{SOON, Scene};

/// Where `scripts/clients.sh` installs.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    match std::env::var_os("POINTSMAN_CLIENTS") {
        Some(cache) => cache.into(),
        None => std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(home, PathBuf::from)
            .join("pointsman/clients"),
    }
}

async fn run(scene: &Scene, command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(2 * SOON, output).await;
    let output = output.expect("it ends in time").expect("it starts");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{out}{err}\n{}",
        scene.pointsman.log_tail()
    );
    out.trim_end().to_owned()
}

#[tokio::test]
async fn redis_cli_follows_no_redirection_because_there_is_none() {
    let scene = Scene::start().await;
    let port = scene.pointsman.port().to_string();
    for key in ["foo", "bar", "qux"] {
        let mut set = Command::new("redis-cli");
        set.args(["-c", "-p", &port, "SET", key, "v"]);
        assert_eq!(run(&scene, &mut set).await, "OK");
    }
    let mut check = Command::new("redis-cli");
    check.args(["-p", &port, "CLUSTER", "NODES"]);
    assert!(run(&scene, &mut check).await.ends_with("connected 0-16383"));
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn libraries_work_with_a_cluster_of_one_node() {
    let scene = Scene::start().await;
    let cache = cache();
    let file = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/clients")
            .join(name)
    };
    let port = scene.pointsman.port().to_string();
    for (name, interpreter, installed) in [
        (
            "redis_py_cluster.py",
            cache.join("python/bin/python"),
            "python/pin",
        ),
        ("ioredis_cluster.js", "node".into(), "node/pin"),
        ("node_redis_cluster.js", "node".into(), "node/pin"),
    ] {
        if !cache.join(installed).exists() {
            eprintln!("NOT RUN: {name} needs its library; see what scripts/clients.sh says");
            continue;
        }
        let mut command = Command::new(interpreter);
        command
            .arg(file(name))
            .arg(&port)
            .env("NODE_PATH", cache.join("node/node_modules"));
        assert_eq!(run(&scene, &mut command).await, "ok", "{name}");
    }
    scene.assert_log_is_clean();
}
