//! Names in the DNS say where the nodes are: a real BIND, changed by `nsupdate`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pointsman::lab::{
    Cluster, ClusterOptions, Kind, Pointsman, PointsmanOptions, Server, Shard, until,
};
use pointsman::topology::NodeId;
use tokio::task::JoinSet;

use crate::support::bind::{self, Bind};
use crate::support::{
    SOON, Scene, assert_no_acknowledged_write_lost, assert_no_error_at_all, assert_pause_below,
    becomes_true, clients, let_pass, now, relay, status_says, write_until_ok,
};

/// The names that tests may change.
const HOST: &str = "wide.redis.test.";
const SERVICE: &str = "_redis._tcp.wide.redis.test.";

/// `update` commands: the service stands for these nodes.
fn services(nodes: &[&Server]) -> String {
    let add = |node: &&Server| {
        format!(
            "update add {SERVICE} 0 SRV 1 1 {} ns.redis.test.\n",
            node.port()
        )
    };
    let all: String = nodes.iter().map(add).collect();
    format!("update delete {SERVICE} SRV\n{all}")
}

/// The same for the host.
fn addresses(all: &[&str]) -> String {
    let add = |ip: &&str| {
        let kind = if ip.contains(':') { "AAAA" } else { "A" };
        format!("update add {HOST} 0 {kind} {ip}\n")
    };
    let all: String = all.iter().map(add).collect();
    format!("update delete {HOST} A\nupdate delete {HOST} AAAA\n{all}")
}

fn service(bind: &Bind) -> String {
    let name = SERVICE.trim_end_matches('.');
    format!(
        "{{ kind = \"dns\", name = {name:?}, record = \"srv\", resolvers = [{:?}] }}",
        bind.server()
    )
}

fn options(source: String) -> PointsmanOptions {
    PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        source: Some(format!(
            "source = {source}\nauthority = {{ kind = \"follow\" }}"
        )),
        follow: true,
        ..PointsmanOptions::in_front_of(Vec::new())
    }
}

/// One primary and two replicas; the service stands for those of the given numbers.
async fn scene(bind: &Bind, named: &[usize]) -> Scene {
    scene_with(bind, named, &service(bind), 0).await
}

/// The same with this source, and records of this TTL.
async fn scene_with(bind: &Bind, named: &[usize], source: &str, ttl: u32) -> Scene {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let nodes: Vec<&Server> = named.iter().map(|n| cluster.node(*n)).collect();
    bind.update(&services(&nodes).replace(" 0 SRV", &format!(" {ttl} SRV")));
    let options = options(source.to_owned());
    let pointsman = Pointsman::start_ready(&options).await.unwrap();
    Scene::of(Shard {
        pointsman,
        cluster,
        sentinels: None,
        monitors: Vec::new(),
        engine: None,
        dns: None,
    })
}

async fn promote(node: &Server) {
    node.cli(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
}

/// Waits until requests flow to this node; how long that took.
async fn serves(pointsman: &Pointsman, id: &NodeId) -> Duration {
    let began = now();
    let flows = until("requests flow there", SOON, async || {
        let topology = pointsman.topology().await.map_err(|e| e.to_string())?;
        match topology.open_primary() {
            Some(primary) if primary.node == *id => Ok(()),
            _ => Err(format!("{topology:?}\n{}", pointsman.log_tail())),
        }
    });
    flows.await.unwrap_or_else(|error| panic!("{error}"));
    now() - began
}

#[tokio::test]
async fn a_name_that_moves_while_the_old_primary_lives_is_followed() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let mut scene = scene(&bind, &[0]).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    // Promoted alone: the name decides, and says the old one.
    promote(scene.node(1)).await;
    let_pass(Duration::from_secs(2)).await;
    scene.nothing_else_happened().await;
    bind.update(&services(&[scene.node(1)]));
    let took = serves(&scene.shard.pointsman, &scene.node(1).id()).await;
    assert!(scene.node(0).is_primary().await.unwrap());
    scene.progress(50).await;
    let report = scene.failed_over().await;
    scene.nothing_else_happened().await;
    let verdict = scene.judged().await;
    println!(
        "moved after {took:?}, longest pause {:?}, the gate was closed for {:?}",
        verdict.total().longest_pause,
        report.pause
    );
    assert_no_error_at_all(&verdict);
    assert_pause_below(&verdict, Duration::from_secs(1));
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_name_that_moves_before_its_node_is_primary_is_waited_for() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let mut scene = scene(&bind, &[0]).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    bind.update(&services(&[scene.node(1)]));
    let says = "is not a node of this backend any more; no node says that it is primary";
    status_says(&scene.shard.pointsman, says).await;
    // Nothing was written to the old one since; now it loses nothing.
    scene.shard.cluster.in_sync(SOON).await.unwrap();
    promote(scene.node(1)).await;
    let took = serves(&scene.shard.pointsman, &scene.node(1).id()).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    println!("moved {took:?} after the promotion");
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.expect_log("undecided");
    scene.assert_log_is_clean();
}

#[tokio::test]
async fn a_name_that_moves_after_a_crash_is_seen_at_once() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    // By itself it would be looked up a minute later, when the TTL of its host is over.
    let source = service(&bind).replace("record", "refresh = \"1h\", record");
    let mut scene = scene_with(&bind, &[0], &source, 3600).await;
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    scene.node(0).kill();
    promote(scene.node(1)).await;
    status_says(&scene.shard.pointsman, "does not answer").await;
    bind.update(&services(&[scene.node(1)]));
    let took = serves(&scene.shard.pointsman, &scene.node(1).id()).await;
    scene.progress(50).await;
    let verdict = scene.judged().await;
    println!("moved {took:?} after the answer changed");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
}

#[tokio::test]
async fn of_several_that_are_named_role_decides_and_the_dns_may_be_away() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let mut scene = scene(&bind, &[2, 0, 1]).await;
    assert_eq!(scene.primary().await.id(), scene.node(0).id());
    let options = clients(&scene, &[Kind::Reader, Kind::Setter]);
    scene.traffic_of(options).await;
    // Silence, a zone that can not be read, a name that is gone: the last answer counts.
    bind.stop();
    let why = "the last answer counts";
    logged(&scene, why, 1).await;
    assert!(looked_up(&scene.shard.pointsman, "timeout").await > 0.0);
    scene.progress(50).await;
    bind.cont();
    logged(&scene, "a name is resolved again", 1).await;
    bind.break_zone().await;
    logged(&scene, why, 2).await;
    assert!(looked_up(&scene.shard.pointsman, "servfail").await > 0.0);
    status_says(&scene.shard.pointsman, SERVICE.trim_end_matches('.')).await;
    scene.progress(50).await;
    bind.mend_zone().await;
    let_pass(Duration::from_secs(2)).await;
    scene.progress(50).await;
    // A failover works meanwhile.
    scene.node(0).kill();
    promote(scene.node(1)).await;
    serves(&scene.shard.pointsman, &scene.node(1).id()).await;
    scene.progress(50).await;
    assert_eq!(
        times(&scene, why),
        2,
        "{}",
        scene.shard.pointsman.log_tail()
    );
    let verdict = scene.judged().await;
    assert_no_error_at_all(&verdict);
    assert_no_acknowledged_write_lost(&verdict);
    scene.expect_log(why);
    scene.expect_log("undecided");
    scene.assert_log_is_clean();
}

/// How many lookups ended so.
async fn looked_up(pointsman: &Pointsman, result: &str) -> f64 {
    let series = format!("pointsman_dns_lookups_total{{backend=\"main\",result=\"{result}\"}}");
    pointsman.metric(&series).await.unwrap().expect("it exists")
}

fn times(scene: &Scene, text: &str) -> usize {
    scene.shard.pointsman.log().matches(text).count()
}

async fn logged(scene: &Scene, text: &str, count: usize) {
    becomes_true("a line of the log", async || match times(scene, text) {
        seen if seen >= count => Ok(()),
        seen => Err(format!(
            "{seen} times\n{}",
            scene.shard.pointsman.log_tail()
        )),
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_at_the_start_is_waited_for() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let pointsman = Pointsman::start(&options(service(&bind))).unwrap();
    let mut client = until("a listener", SOON, async || {
        pointsman.client(None).await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    status_says(&pointsman, "has no SRV record").await;
    assert!(looked_up(&pointsman, "no_address").await > 0.0);
    assert_eq!(looked_up(&pointsman, "answered").await, 0.0);
    bind.update(&services(&[cluster.node(0)]));
    write_until_ok(&mut client, "key", "value").await;
    pointsman.ready().await.unwrap();
    let lines = pointsman.unexpected_log_lines(&["stands for no node yet", "undecided"]);
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn addresses_of_both_families_move() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    // One port, many addresses, as with hosts of their own.
    let port = cluster.node(0).port();
    let mut relays = JoinSet::new();
    for (ip, node) in [("127.0.0.2", 0), ("127.0.0.3", 1), ("::1", 2)] {
        let ip: IpAddr = ip.parse().unwrap();
        relay(
            &mut relays,
            SocketAddr::new(ip, port),
            cluster.node(node).port(),
        )
        .await;
    }
    bind.update(&addresses(&["127.0.0.2", "::1"]));
    let source = format!(
        "{{ kind = \"dns\", name = \"{HOST}:{port}\", refresh = \"200ms\", resolvers = [{:?}] }}",
        bind.server()
    );
    let pointsman = Pointsman::start_ready(&options(source)).await.unwrap();
    let mut client = pointsman.client(None).await.unwrap();
    let id = |host: &str| NodeId::new(format!("{host}:{port}"));
    serves(&pointsman, &id("127.0.0.2")).await;
    let topology = pointsman.topology().await.unwrap();
    assert_eq!(topology.replicas, [id("[::1]")], "nobody else is a node");
    write_until_ok(&mut client, "key", "1").await;
    for (node, ip, host) in [(1, "127.0.0.3", "127.0.0.3"), (2, "::1", "[::1]")] {
        promote(cluster.node(node)).await;
        bind.update(&addresses(&[ip]));
        serves(&pointsman, &id(host)).await;
        write_until_ok(&mut client, "key", host).await;
        let reply = cluster.node(node).cli(&["GET", "key"]).await.unwrap();
        assert_eq!(reply.text(), Some(host));
    }
    let lines = pointsman.unexpected_log_lines(&["undecided"]);
    assert!(lines.is_empty(), "{lines:?}");
}
