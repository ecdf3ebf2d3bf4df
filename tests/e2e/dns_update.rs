//! The publisher `dns_update`: a name in a real BIND follows the primary.

use pointsman::lab::bind::{SECRET, ZONE};
use pointsman::lab::{Cluster, ClusterOptions, Port, Scratch, Server, ShardOptions};
use pointsman::topology::Outcome;

use crate::support::bind::{self, Bind, hesitant_relay};
use crate::support::{SOON, Scene, becomes_true, write_until_ok};

const NAME: &str = "main.redis.test.";
const SERVICE: &str = "_redis._tcp.main.redis.test.";
const MARKER: &str = "_pointsman.main.redis.test.";

/// What the log says when the server does not take an update.
const NOT_PUBLISHED: &str = "the new primary was not published";

async fn publishing_to(server: &Bind) -> Scene {
    publishing(&server.server(), server, "").await
}

/// With something between pointsman and the server, or with more keys.
async fn publishing(address: &str, server: &Bind, keys: &str) -> Scene {
    Scene::with(ShardOptions {
        backend: format!(
            "publishers = [{{ kind = \"dns_update\", server = \"{}\", zone = \"{ZONE}\", name = \
             \"{NAME}\", key_name = \"pointsman.\", key_file = \"{}\", srv = true{keys} }}]",
            address,
            server.key_file()
        ),
        ..ShardOptions::default()
    })
    .await
}

/// Waits until whoever asks is sent to this node.
async fn means(server: &Bind, node: &Server) {
    becomes_true("the name of the primary", async || {
        let port = format!("0 0 {} {NAME}", node.port());
        let found = (server.records(NAME, "A"), server.records(SERVICE, "SRV"));
        match found == (vec!["127.0.0.1".to_owned()], vec![port]) {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    })
    .await;
    let text = server.records(MARKER, "TXT");
    assert!(
        text[0].contains(&format!("primary={}", node.id())),
        "{text:?}"
    );
}

#[tokio::test]
async fn the_name_follows_a_failover_and_a_switchover() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let mut scene = publishing_to(&server).await;
    // Nothing changed yet: the first primary is published as well.
    means(&server, scene.node(0)).await;
    let dead = scene.kill_primary().await;
    let report = scene.failed_over().await;
    assert_eq!(report.outcome, Outcome::Done);
    means(&server, scene.primary().await).await;
    scene
        .node(dead)
        .restart(pointsman::lab::Data::Kept)
        .await
        .unwrap();
    scene.becomes_a_replica(dead).await;
    scene.in_sync().await;
    let report = scene.switchover(Some(scene.node(dead).id())).await;
    assert_eq!(report.outcome, Outcome::Done);
    means(&server, scene.node(dead)).await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn the_name_moves_when_the_old_primary_takes_no_write_and_the_new_one_is_primary() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let (relay, mut asked) = hesitant_relay(server.server()).await;
    let mut scene = publishing(&relay, &server, "").await;
    asked.recv().await.unwrap().send(()).unwrap();
    means(&server, scene.node(0)).await;
    scene.in_sync().await;
    let mut at_the_old = scene.node(0).client().await.unwrap();
    let target = scene.node(1).id();
    let report = scene.switchover(Some(target)).await;
    assert_eq!(report.outcome, Outcome::Done);
    let leave = asked.recv().await.unwrap();
    // The update is on its way and the name still the old one. Requests do not wait for it.
    means(&server, scene.node(0)).await;
    let mut client = scene.client().await;
    write_until_ok(&mut client, "through pointsman", "1").await;
    assert!(scene.node(1).is_primary().await.unwrap());
    // Who was connected there was cut off, and who connects to the old address can not write.
    assert!(at_the_old.call(&["PING"]).await.is_err());
    let refused = scene
        .node(0)
        .cli(&["SET", "at the old address", "1"])
        .await
        .unwrap();
    assert!(refused.to_string().contains("READONLY"), "{refused}");
    leave.send(()).unwrap();
    means(&server, scene.node(1)).await;
    scene.assert_log_is_clean();
}

/// Why a replica is never made writable: step 1 of the classic recipe.
#[tokio::test]
async fn what_is_written_to_a_writable_replica_never_reaches_its_siblings() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    cluster.in_sync(SOON).await.unwrap();
    let (old, new, sibling) = (cluster.node(0), cluster.node(1), cluster.node(2));
    let cli = async |node: &Server, request: &[&str]| {
        let reply = node.cli(request).await.unwrap();
        assert!(!reply.to_string().contains("ERR"), "{request:?}: {reply}");
        reply
    };
    // 1 writable; 2 the name moves and a client writes; 3 the old one's clients are gone; 4 promoted.
    cli(new, &["CONFIG", "SET", "replica-read-only", "no"]).await;
    assert!(cli(new, &["SET", "between", "1"]).await.is_ok());
    old.kill();
    cli(new, &["REPLICAOF", "NO", "ONE"]).await;
    cli(
        sibling,
        &["REPLICAOF", "127.0.0.1", &new.port().to_string()],
    )
    .await;
    assert!(cli(new, &["SET", "after", "1"]).await.is_ok());
    becomes_true("the sibling's copy", async || {
        match sibling.cli(&["GET", "after"]).await.unwrap().text() {
            Some("1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // It resumed, and is in sync by every number; and what was acknowledged in between is not there.
    assert_eq!(new.info_field("sync_partial_ok").await.unwrap(), "1");
    assert_eq!(new.offset().await.unwrap(), sibling.offset().await.unwrap());
    assert_eq!(cli(new, &["GET", "between"]).await.text(), Some("1"));
    assert_eq!(cli(sibling, &["GET", "between"]).await.text(), None);
}

#[tokio::test]
async fn a_change_that_nobody_published_is_published_at_the_next_start() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let mut scene = publishing_to(&server).await;
    means(&server, scene.node(0)).await;
    // It ends itself after the record says who serves, and before anybody is told.
    scene
        .shard
        .pointsman
        .restart_to_crash("after-commit")
        .unwrap();
    scene.shard.pointsman.ready().await.unwrap();
    let dead = scene.kill_primary().await;
    scene.shard.pointsman.ended().await.unwrap();
    means(&server, scene.node(dead)).await;
    scene.expect_log("POINTSMAN_CRASH_AT");
    scene.shard.pointsman.restart().unwrap();
    scene.shard.pointsman.ready().await.unwrap();
    let primary = scene.primary().await;
    assert_ne!(primary.id(), scene.node(dead).id());
    means(&server, primary).await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_server_that_is_down_is_told_when_it_is_back() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let mut scene = publishing_to(&server).await;
    means(&server, scene.node(0)).await;
    server.kill();
    scene.expect_log(NOT_PUBLISHED);
    scene.kill_primary().await;
    scene.failed_over().await;
    becomes_true("a failed update", async || {
        let log = scene.shard.pointsman.log();
        match log.contains(NOT_PUBLISHED) && log.contains("can not connect") {
            true => Ok(()),
            false => Err(scene.shard.pointsman.log_tail()),
        }
    })
    .await;
    server.restart().await;
    means(&server, scene.primary().await).await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn what_somebody_changes_in_the_zone_is_put_right() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    let often = ", refresh = \"300ms\"";
    let mut scene = publishing(&server.server(), &server, often).await;
    scene.expect_log("changed what was published");
    means(&server, scene.node(0)).await;
    server.update(&format!(
        "update delete {NAME} A\nupdate add {NAME} 0 A 10.9.9.9\nupdate delete {SERVICE}"
    ));
    means(&server, scene.node(0)).await;
    let counted =
        "pointsman_publications_total{backend=\"main\",outcome=\"done\",publisher=\"dns_update\"}";
    let count = scene.shard.pointsman.metric(counted).await.unwrap();
    assert!(count >= Some(2.0), "{count:?}");
    scene.assert_log_is_clean();
}

/// Debian's, for the processor of this machine; says NOT RUN without.
fn faketime() -> Option<String> {
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let paths = libraries.map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let found = paths.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("NOT RUN: libfaketime is missing; scripts/setup.sh test installs it");
    }
    Some(found?.display().to_string())
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_with_the_difference() {
    if !bind::is_here() {
        return;
    }
    let Some(library) = faketime() else { return };
    let server = Bind::start().await;
    let mut scene = publishing_to(&server).await;
    means(&server, scene.node(0)).await;
    let marker = server.records(MARKER, "TXT");
    server.update(&format!("update delete {NAME} A"));
    // The server can not be started so: its allocator reads the clock too early for that.
    let pointsman = &scene.shard.pointsman;
    pointsman.restart_with_clock(&library, 1000).unwrap();
    let difference = || {
        let log = pointsman.log();
        let (_, said) = log.split_once("(BADTIME): its clock and ours are ")?;
        said.split_once(" s apart")?.0.parse::<i64>().ok()
    };
    becomes_true("a difference in the log", async || {
        difference().map(|_| ()).ok_or_else(|| pointsman.log_tail())
    })
    .await;
    let apart = difference().unwrap();
    assert!((apart - 1000).abs() <= 30, "{apart}");
    assert_eq!(server.records(NAME, "A"), [""; 0]);
    assert_eq!(server.records(MARKER, "TXT"), marker);
    pointsman.restart().unwrap();
    pointsman.ready().await.unwrap();
    means(&server, scene.node(0)).await;
    scene.expect_log("BADTIME");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn publications_that_fail_are_counted() {
    let nobody = Port::pick().unwrap();
    let scratch = Scratch::new().unwrap();
    let key = scratch.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let nobody = nobody.address();
    let mut scene = Scene::with(ShardOptions {
        backend: format!(
            "publishers = [{{ kind = \"hook\", program = \"/bin/false\" }}, {{ kind = \"kv\", store = \
             \"etcd\", endpoints = [\"{nobody}\"] }}, {{ kind = \"dns_update\", server = \"{nobody}\", zone = \
             \"{ZONE}\", name = \"{NAME}\", key_name = \"pointsman.\", key_file = {key:?} }}]"
        ),
        ..ShardOptions::default()
    })
    .await;
    scene.expect_log(NOT_PUBLISHED);
    // A hook hears of changes only.
    scene.kill_primary().await;
    scene.failed_over().await;
    for publisher in ["dns_update", "hook", "kv"] {
        let failed = format!(
            "pointsman_publications_total{{backend=\"main\",outcome=\"failed\",publisher=\"{publisher}\"}}"
        );
        becomes_true(&failed, async || {
            let count = scene.shard.pointsman.metric(&failed).await;
            match count.map_err(|e| e.to_string())? {
                Some(count) if count > 0.0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn epochs_that_begin_anew_because_the_record_is_lost_are_reported() {
    if !bind::is_here() {
        return;
    }
    let server = Bind::start().await;
    server.update(&format!(
        "update add {MARKER} 0 TXT \"pointsman\" \"epoch=9\" \"backend=main\" \"primary=10.0.0.9:6379\""
    ));
    let mut scene = publishing_to(&server).await;
    let words = "a newer epoch was published by somebody";
    scene.expect_log(words);
    becomes_true("a warning", async || {
        match scene.shard.pointsman.log().contains(words) {
            true => Ok(()),
            false => Err(scene.shard.pointsman.log_tail()),
        }
    })
    .await;
    assert_eq!(server.records(NAME, "A"), [""; 0]);
    scene.assert_log_is_clean();
}
