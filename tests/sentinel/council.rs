//! What happens to the sentinels.

use std::time::Duration;

use pointsman::lab::{
    Cluster, ClusterOptions, Kind, Pointsman, PointsmanOptions, SentinelOptions, Sentinels, Server,
};
use pointsman::topology::NodeId;
use tokio::task::JoinSet;

use crate::support::{
    Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    assert_the_promise_was_kept, becomes_true, clients, let_pass, relay, write_until_ok,
};
use crate::{A_WHILE, scene, sentinels, sentinels_are, status};

/// Traffic that must see no error, and whose pauses count.
async fn calm_traffic(scene: &mut Scene) {
    let options = clients(scene, &[Kind::Reader, Kind::Setter, Kind::Counter]);
    scene.traffic_of(options).await;
}

async fn assert_undisturbed(scene: &mut Scene) {
    scene.progress(50).await;
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(1));
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn one_sentinel_of_three_is_not_missed() {
    let mut scene = scene().await;
    scene.expect_log("-sentinel");
    scene.traffic().await;
    sentinels(&scene).all()[0].kill();
    scene.kill_primary().await;
    scene.failed_over().await;
    scene.progress(20).await;
    assert_the_promise_was_kept(&scene.judged().await);
    scene.nothing_else_happened().await;
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn without_a_majority_of_sentinels_traffic_goes_on_and_that_is_told() {
    let mut scene = scene().await;
    calm_traffic(&mut scene).await;
    for sentinel in &sentinels(&scene).all()[..2] {
        sentinel.kill();
    }
    becomes_true("the complaint", async || {
        let why = status(&scene.shard.pointsman).await?.undecided;
        match why.as_deref() {
            Some(why) if why.contains("1 of 3 sentinels can be asked") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let dead = sentinels(&scene).all()[0].id();
    let up = format!("pointsman_sentinel_up{{backend=\"main\",sentinel=\"{dead}\"}}");
    assert_eq!(scene.shard.pointsman.metric(&up).await.unwrap(), Some(0.0));
    let_pass(A_WHILE).await;
    assert_undisturbed(&mut scene).await;
    // A new process finds one sentinel, and nodes that all agree with it.
    scene.shard.pointsman.restart().unwrap();
    scene.shard.pointsman.ready().await.unwrap();
    let mut client = scene.client().await;
    write_until_ok(&mut client, "key", "value").await;
}

#[tokio::test]
async fn a_start_with_one_sentinel_believes_it_only_if_all_nodes_agree() {
    let scene = scene().await;
    for sentinel in &sentinels(&scene).all()[..2] {
        sentinel.kill();
    }
    // What it would not see: a replica that is cut off.
    let replica = scene.node(2).id();
    scene.node(2).kill();
    scene.shard.pointsman.restart().unwrap();
    becomes_true("the reason to wait", async || {
        let status = status(&scene.shard.pointsman).await?;
        let why = status.undecided.unwrap_or_default();
        match status.nodes.len() == 3 && why.contains("1 of 3 sentinels can be asked") {
            true => Ok(()),
            false => Err(format!("{replica} {why}")),
        }
    })
    .await;
    let_pass(A_WHILE).await;
    let topology = scene.shard.pointsman.topology().await.unwrap();
    assert!(topology.open_primary().is_none(), "{topology:?}");
    let primary = scene.node(0);
    scene
        .node(2)
        .restart_as_replica(primary, pointsman::lab::Data::Empty)
        .unwrap();
    scene.shard.pointsman.ready().await.unwrap();
}

#[tokio::test]
async fn every_listed_sentinel_may_be_replaced() {
    let mut scene = scene().await;
    scene.expect_log("-sentinel");
    scene.expect_log("can be asked");
    calm_traffic(&mut scene).await;
    let primary = scene.primary().await.id();
    let group = scene.shard.sentinels.as_mut().expect("sentinels run");
    let old: Vec<_> = group.all().iter().map(|s| s.id()).collect();
    for _ in 0..3 {
        group.add(&primary).await.unwrap();
    }
    group.ready(2).await.unwrap();
    sentinels_are(&scene.shard.pointsman, |known| {
        known.iter().filter(|s| s.primary.is_some()).count() == 6
    })
    .await;
    let group = sentinels(&scene);
    group.all()[..3].iter().for_each(|sentinel| sentinel.kill());
    // As the operator does it, so that Sentinel itself forgets them.
    for sentinel in &group.all()[3..] {
        let reset = sentinel.cli(&["SENTINEL", "RESET", "mymaster"]).await;
        reset.unwrap();
    }
    group.ready(2).await.unwrap();
    // pointsman forgets them after ten seconds.
    becomes_true("three sentinels that agree", async || {
        match status(&scene.shard.pointsman).await?.undecided {
            None => Ok(()),
            Some(why) => Err(why),
        }
    })
    .await;
    let answering = |known: &[pointsman::failover::SentinelStatus]| {
        let up = known.iter().filter(|s| s.primary.is_some());
        up.filter(|s| !old.contains(&s.sentinel)).count() == 3
    };
    sentinels_are(&scene.shard.pointsman, answering).await;
    let reply = sentinels(&scene).failover().await.unwrap();
    assert!(reply.is_ok(), "{reply}");
    scene.failed_over().await;
    assert_undisturbed(&mut scene).await;
}

#[tokio::test]
async fn a_sentinel_that_flaps_holds_a_tenth_of_the_time() {
    let mut scene = scene().await;
    calm_traffic(&mut scene).await;
    // It waits a millisecond for an answer: whenever the primary stands still for two of its turns (of at most
    // 100 ms) it doubts, and trusts again.
    let flapping = &sentinels(&scene).all()[0];
    let set = [
        "SENTINEL",
        "SET",
        "mymaster",
        "down-after-milliseconds",
        "1",
    ];
    assert!(flapping.cli(&set).await.unwrap().is_ok());
    let closed = "pointsman_requests_held_total{backend=\"main\"}";
    let primary = scene.shard.primary().await.unwrap();
    let doubt = async || {
        primary.stop();
        let_pass(Duration::from_millis(150)).await;
        primary.cont();
        let_pass(Duration::from_millis(1850)).await;
    };
    becomes_true("a hold", async || {
        doubt().await;
        match scene.shard.pointsman.metric(closed).await.unwrap() {
            Some(held) if held > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for _ in 0..4 {
        doubt().await;
    }
    let (history, verdict) = scene.history().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    assert_pause_below(&verdict, Duration::from_millis(900));
    // Of each client's time, what operations longer than 50 ms took.
    for client in &history.clients {
        let long = client.operations.iter().map(|o| o.ended - o.started);
        let held: Duration = long.filter(|t| *t > Duration::from_millis(50)).sum();
        let first = client.operations.first().expect("it worked").started;
        let last = client.operations.last().expect("it worked").ended;
        assert!(held < (last - first) / 4, "{held:?} of {:?}", last - first);
    }
    scene.nothing_else_happened().await;
}

#[tokio::test]
async fn a_sentinel_in_tilt_mode_is_asked_for_nothing() {
    let mut scene = scene().await;
    scene.expect_log("-sentinel");
    calm_traffic(&mut scene).await;
    // The one that would be asked first: of those that agree, the lowest id.
    let mut named = Vec::new();
    for sentinel in sentinels(&scene).all() {
        let id = sentinel.cli(&["SENTINEL", "MYID"]).await.unwrap();
        named.push((id.text().expect("an id").to_owned(), sentinel));
    }
    let tilted = named.iter().min_by_key(|(id, _)| id).expect("three").1;
    let id = tilted.id();
    tilted.stop();
    // It distrusts itself when two seconds passed between two of its turns.
    let_pass(Duration::from_millis(2500)).await;
    tilted.cont();
    becomes_true("TILT mode", async || {
        match tilted.info_field("sentinel_tilt").await {
            Ok(tilt) if tilt == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let is_tilted = |s: &pointsman::failover::SentinelStatus| {
        s.sentinel == id && s.note.as_ref().is_some_and(|note| note.contains("TILT"))
    };
    sentinels_are(&scene.shard.pointsman, |known| {
        known.iter().any(is_tilted) && known.iter().all(|s| s.primary.is_some())
    })
    .await;
    // Its configuration counts all the same, and another one does the work.
    let moved = scene.shard.pointsman.switchover(None).await.unwrap();
    moved.unwrap_or_else(|why| panic!("{why}\n{}", scene.shard.pointsman.log_tail()));
    scene.failed_over().await;
    assert_undisturbed(&mut scene).await;
}

/// Where nodes and sentinels are reached from outside; they listen elsewhere.
const OUTSIDE: &str = "127.0.0.4";

/// What a NAT does for one of them.
async fn let_in(relays: &mut JoinSet<()>, server: &Server) {
    let outside = format!("{OUTSIDE}:{}", server.port());
    relay(relays, outside.parse().unwrap(), server.port()).await;
}

#[tokio::test]
async fn nodes_and_sentinels_behind_a_nat_are_reached_where_they_announce() {
    let options = ClusterOptions {
        config: vec![format!("replica-announce-ip {OUTSIDE}")],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let mut relays = JoinSet::new();
    for node in cluster.nodes() {
        let_in(&mut relays, node).await;
    }
    let options = SentinelOptions {
        count: 1,
        host: OUTSIDE.into(),
        config: vec![format!("sentinel announce-ip {OUTSIDE}")],
        ..SentinelOptions::default()
    };
    let mut group = Sentinels::start(options, &cluster).await.unwrap();
    let_in(&mut relays, &group.all()[0]).await;
    for _ in 0..2 {
        let another = group.add(&cluster.node(0).id()).await.unwrap();
        let_in(&mut relays, another).await;
    }
    group.ready(2).await.unwrap();
    // The others are learned.
    let pointsman = beside(format!(
        "source = {{ kind = \"sentinel\", sentinels = [\"{OUTSIDE}:{}\"], master = \"mymaster\" }}",
        group.all()[0].port()
    ));
    let outside = |id: &NodeId| id.as_str().starts_with(OUTSIDE);
    sentinels_are(&pointsman, |known| {
        known.len() == 3
            && known
                .iter()
                .all(|s| outside(&s.sentinel) && s.primary.is_some())
    })
    .await;
    pointsman.ready().await.unwrap();
    let topology = pointsman.topology().await.unwrap();
    assert!(topology.replicas.iter().all(outside), "{topology:?}");
    let mut client = pointsman.client(None).await.unwrap();
    cluster.node(0).kill();
    let report = pointsman.failover(1, crate::support::SOON).await.unwrap();
    let to = report.to.expect("a new primary");
    assert!(outside(&to), "{to}");
    write_until_ok(&mut client, "key", "value").await;
}

/// Another pointsman.
fn beside(source: String) -> Pointsman {
    let options = PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        source: Some(source),
        ..PointsmanOptions::in_front_of(Vec::new())
    };
    Pointsman::start(&options).unwrap()
}

#[tokio::test]
async fn a_sentinel_of_another_cluster_under_the_same_name_is_outvoted() {
    let mut scene = scene().await;
    let options = ClusterOptions {
        replicas: 1,
        ..ClusterOptions::default()
    };
    let other = Cluster::start(options).await.unwrap();
    let strangers = SentinelOptions::default();
    let strangers = Sentinels::start(strangers, &other).await.unwrap();
    // Its configuration is newer than that of our cluster.
    assert!(strangers.failover().await.unwrap().is_ok());
    becomes_true("a newer configuration of the stranger", async || {
        let master = pointsman::lab::sentinels::master(&strangers.all()[0]).await;
        match master.unwrap().get("config-epoch").map(String::as_str) {
            Some("0") | None => Err(String::new()),
            Some(_) => Ok(()),
        }
    })
    .await;
    let mut listed = vec![strangers.addresses()[0].clone()];
    listed.extend(sentinels(&scene).addresses());
    let source = format!(
        "source = {{ kind = \"sentinel\", sentinels = {listed:?}, master = \"mymaster\" }}"
    );
    let pointsman = beside(source);
    pointsman.ready().await.unwrap();
    let primary = pointsman.topology().await.unwrap().primary.unwrap().node;
    assert_eq!(primary, scene.node(0).id());
    assert!(sentinels(&scene).failover().await.unwrap().is_ok());
    scene.failed_over().await;
    let report = pointsman.failover(1, crate::support::SOON).await.unwrap();
    assert_eq!(report.to, Some(scene.primary().await.id()));
}

/// What docs/sentinel.md lists.
const RIGHTS: &str = "+auth +client|setname +psubscribe +sentinel|myid +sentinel|masters \
                      +sentinel|master +sentinel|replicas +sentinel|sentinels \
                      +sentinel|get-master-addr-by-name +sentinel|failover";

#[tokio::test]
async fn a_user_with_the_documented_rights_is_enough() {
    let documented = std::fs::read_to_string("docs/sentinel.md").unwrap();
    let words = |text: &str| text.replace(['`', '\n'], " ");
    for right in RIGHTS.split_whitespace() {
        assert!(words(&documented).contains(right), "{right}");
    }
    let scene = scene().await;
    let user = [
        "ACL",
        "SETUSER",
        "pm",
        "on",
        ">secret",
        "resetchannels",
        "&*",
    ];
    let user: Vec<&str> = user.into_iter().chain(RIGHTS.split_whitespace()).collect();
    for sentinel in sentinels(&scene).all() {
        let made = sentinel.cli(&user).await.unwrap();
        assert!(made.is_ok(), "{made}");
    }
    let addresses = sentinels(&scene).addresses();
    let pointsman = beside(format!(
        "source = {{ kind = \"sentinel\", sentinels = {addresses:?}, master = \"mymaster\", \
         username = \"pm\", password = \"secret\" }}"
    ));
    pointsman.ready().await.unwrap();
    let moved = pointsman.switchover(None).await.unwrap();
    let report = moved.unwrap_or_else(|why| panic!("{why}\n{}", pointsman.log_tail()));
    assert_eq!(report.from, Some(scene.node(0).id()));
    let heard = |(_, seen): &(_, String)| seen.contains("+selected-slave");
    assert!(report.evidence.iter().any(heard), "{report:?}");
}

#[tokio::test]
async fn a_name_or_password_that_is_wrong_is_said() {
    let scene = scene().await;
    let addresses = sentinels(&scene).addresses();
    let wrong_name = format!(
        "source = {{ kind = \"sentinel\", sentinels = {addresses:?}, master = \"cache\" }}"
    );
    let wrong_password = format!(
        "source = {{ kind = \"sentinel\", sentinels = {addresses:?}, master = \"mymaster\", \
         username = \"nobody\", password = \"wrong\" }}"
    );
    let no_sentinel = format!(
        "source = {{ kind = \"sentinel\", sentinels = [\"{}\"], master = \"mymaster\" }}",
        scene.node(0).id()
    );
    for (source, expected) in [
        (
            wrong_name,
            "knows no master named `cache` (it knows mymaster)",
        ),
        (wrong_password, "refuses our credentials: WRONGPASS"),
        (no_sentinel, "is not a sentinel"),
    ] {
        let pointsman = beside(source);
        becomes_true("the reason", async || {
            let (status, body) = pointsman::lab::http::get(&pointsman.admin(), "/readyz")
                .await
                .map_err(|e| e.to_string())?;
            match status == 503 && body.contains(expected) && pointsman.log().contains(expected) {
                true => Ok(()),
                false => Err(format!("{status} {body}\n{}", pointsman.log())),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn sentinels_that_forget_the_name_or_change_their_password_disturb_nobody() {
    let mut scene = scene().await;
    calm_traffic(&mut scene).await;
    let group = sentinels(&scene);
    for sentinel in group.all() {
        let removed = sentinel.cli(&["SENTINEL", "REMOVE", "mymaster"]).await;
        assert!(removed.unwrap().is_ok());
    }
    let all = |words: &'static str| {
        move |known: &[pointsman::failover::SentinelStatus]| {
            let says = |s: &pointsman::failover::SentinelStatus| {
                s.note.as_ref().is_some_and(|note| note.contains(words))
            };
            known.len() == 3 && known.iter().all(says)
        }
    };
    sentinels_are(&scene.shard.pointsman, all("it knows none")).await;
    for sentinel in group.all() {
        let mut client = sentinel.client().await.unwrap();
        for command in [
            &["ACL", "SETUSER", "default", "on", ">secret"][..],
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
            &["CLIENT", "KILL", "TYPE", "pubsub"],
        ] {
            client.call(command).await.unwrap();
        }
    }
    sentinels_are(&scene.shard.pointsman, all("refuses our credentials")).await;
    let_pass(A_WHILE).await;
    assert_undisturbed(&mut scene).await;
}
