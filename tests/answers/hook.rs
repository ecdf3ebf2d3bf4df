//! The hook's arguments, beside those of a real Sentinel's `client-reconfig-script` for the same
//! failover.

use pointsman::lab::{Cluster, ClusterOptions, Pointsman, PointsmanOptions, Server, ShardOptions};

use crate::rig::{RealSentinel, Recorder};
use crate::support::{Scene, becomes_true};

/// Nodes that are known under this host.
async fn cluster(host: &str) -> Cluster {
    let options = ClusterOptions {
        config: vec![
            "bind 127.0.0.1 ::1".to_owned(),
            format!("replica-announce-ip {host}"),
        ],
        ..ClusterOptions::default()
    };
    Cluster::start(options).await.expect("servers")
}

fn hooked(recorder: &Recorder) -> String {
    format!(
        "publishers = [{{ kind = \"hook\", program = {:?} }}]",
        recorder.program()
    )
}

fn pointsman(cluster: &Cluster, host: &str, follow: bool, hook: &Recorder) -> PointsmanOptions {
    let bracketed = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let nodes = cluster.nodes().iter();
    PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        follow,
        backend: hooked(hook),
        ..PointsmanOptions::in_front_of(
            nodes
                .map(|node| format!("{bracketed}:{}", node.port()))
                .collect(),
        )
    }
}

/// A call with the ports of this failover as words, so that calls of two can be compared.
fn in_words(call: &str, old: &Server, new: &Server) -> String {
    let word = |word: &str| match word.parse::<u16>() {
        Ok(port) if port == old.port() => "OLD".to_owned(),
        Ok(port) if port == new.port() => "NEW".to_owned(),
        _ => word.to_owned(),
    };
    call.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// What the scripts of two Sentinels hear of a failover, and what the hook of a pointsman that
/// follows hears of the same one.
async fn by_sentinels(host: &str) -> (Vec<String>, String) {
    let cluster = cluster(host).await;
    let (script, hook) = (Recorder::new(""), Recorder::new(""));
    let old = cluster.node(0);
    let lines = format!(
        "sentinel client-reconfig-script main {}",
        script.program().display()
    );
    let sentinels: Vec<RealSentinel> = (0..2)
        .map(|_| RealSentinel::start(host, old, &lines))
        .collect();
    for sentinel in &sentinels {
        sentinel.knows(2, 1).await;
    }
    let follower = Pointsman::start_ready(&pointsman(&cluster, host, true, &hook))
        .await
        .expect("ready");
    old.kill();
    let mut heard = script.called(2).await;
    heard.sort();
    let told = hook.called(1).await.remove(0);
    let new = promoted(&cluster).await;
    drop(follower);
    let heard = heard.iter().map(|call| in_words(call, old, new));
    (heard.collect(), in_words(&told, old, new))
}

/// What the hook of a pointsman that decides hears of a failover.
async fn by_pointsman(host: &str) -> String {
    let cluster = cluster(host).await;
    let hook = Recorder::new("");
    let decider = Pointsman::start_ready(&pointsman(&cluster, host, false, &hook))
        .await
        .expect("ready");
    let old = cluster.node(0);
    old.kill();
    let told = hook.called(1).await.remove(0);
    let new = promoted(&cluster).await;
    drop(decider);
    in_words(&told, old, new)
}

async fn promoted(cluster: &Cluster) -> &Server {
    cluster.primary().await.expect("one was promoted")
}

async fn hears_what_sentinel_says(host: &str) {
    let (scripts, follower) = by_sentinels(host).await;
    let decider = by_pointsman(host).await;
    let leader = format!("7: main leader start {host} OLD {host} NEW");
    let observer = leader.replace("leader", "observer");
    assert_eq!(
        scripts,
        [leader.clone(), observer.clone()],
        "a real Sentinel"
    );
    assert_eq!(decider, leader);
    assert_eq!(follower, observer);
}

#[tokio::test]
async fn the_hook_hears_what_sentinel_says_with_ipv4() {
    hears_what_sentinel_says("127.0.0.1").await;
}

#[tokio::test]
async fn the_hook_hears_what_sentinel_says_with_ipv6() {
    hears_what_sentinel_says("::1").await;
}

#[tokio::test]
async fn the_hook_hears_what_sentinel_says_with_names() {
    hears_what_sentinel_says("localhost").await;
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_its_children_said_and_called_again() {
    // The first call leaves a child and waits for it.
    let hook =
        Recorder::new("[ -e \"$0.child\" ] && exit 0\nsleep 600 & echo $! > \"$0.child\"\nwait");
    let mut scene = Scene::with(ShardOptions {
        backend: hooked(&hook).replace(" }", ", timeout = \"300ms\" }"),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log("the new primary was not published");
    scene.kill_primary().await;
    scene.failed_over().await;
    let heard = hook.called(2).await;
    assert_eq!(heard[0], heard[1]);
    becomes_true("the word that it was published", async || {
        let log = scene.shard.pointsman.log();
        match log.contains("the primary is published") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    let log = scene.shard.pointsman.log();
    assert!(log.contains("killed after 300ms"), "{log}");
    let child = std::fs::read_to_string(hook.directory().join("hook.child")).expect("it began");
    let state = format!("/proc/{}/stat", child.trim());
    becomes_true("the end of the hook's child", async || {
        // A zombie that nobody has waited for yet is dead too.
        match std::fs::read_to_string(&state) {
            Ok(text) if !text.contains(") Z ") => Err(text),
            _ => Ok(()),
        }
    })
    .await;
    scene.assert_log_is_clean();
}
