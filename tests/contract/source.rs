//! The contract of `control::source`.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use pointsman::control;
use pointsman::control::sentinel::{ListedSentinel, SentinelAccess, SentinelSettings};
use pointsman::control::source::{DnsName, DnsSettings, DnsSource, Source, StaticSource};
use pointsman::failover::{Event, SentinelNews};
use pointsman::lab::{Cluster, ClusterOptions, SentinelOptions, Sentinels, Server, ServerOptions};
use pointsman::topology::NodeId;

use crate::support::bind::{self, Bind};

/// Sentinel looks for new replicas every ten seconds.
const SOON: Duration = Duration::from_secs(30);

async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn static_1_and_3_the_full_set_at_once_in_order_then_silence() {
    let nodes = vec![NodeId::new("b:1"), NodeId::new("a:1")];
    let mut source = StaticSource::new(nodes.clone());
    drop(source.next());
    assert_eq!(ready(source.next()).await, Some(nodes));
    assert_eq!(ready(source.next()).await, None);
}

/// The nodes of `wide.redis.test`, looked up every hour or when somebody is in a hurry.
fn dns(bind: &Bind) -> DnsSource {
    let settings = DnsSettings {
        names: vec![DnsName::Host {
            name: "wide.redis.test.".to_owned(),
            port: 1,
        }],
        resolvers: vec![bind.server().parse().expect("an address")],
        refresh: Duration::from_secs(3600),
    };
    DnsSource::new(settings, "main".into())
}

async fn next(source: &mut DnsSource) -> Vec<NodeId> {
    let next = tokio::time::timeout(SOON, source.next()).await;
    next.expect("a set of nodes")
}

fn at(hosts: impl IntoIterator<Item = u8>) -> Vec<NodeId> {
    let node = |host: u8| NodeId::new(format!("127.0.0.{host}:1"));
    hosts.into_iter().map(node).collect()
}

/// Asks again and again until the source says what is wrong with this text in it.
async fn troubled(source: &mut DnsSource, text: &str) {
    let said = pointsman::lab::until("trouble", SOON, async || {
        source.look_again();
        match source.trouble() {
            Some(why) if why.contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    said.await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn dns_1_3_and_4_the_full_set_in_a_fixed_order_and_again_when_it_changed() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let add = |host: u8| format!("update add wide.redis.test. 3600 A 127.0.0.{host}\n");
    bind.update(&format!("{}{}{}", add(9), add(10), add(2)));
    let mut source = dns(&bind);
    drop(source.next());
    assert_eq!(next(&mut source).await, at([2, 9, 10]));
    assert_eq!(ready(source.next()).await, None);
    bind.update("update delete wide.redis.test. A 127.0.0.9");
    source.look_again();
    assert_eq!(next(&mut source).await, at([2, 10]));
    // More than fits into one packet: over TCP.
    let many: String = (1..=100).map(add).collect();
    bind.update(&many);
    source.look_again();
    assert_eq!(next(&mut source).await, at(1..=100));
}

#[tokio::test]
async fn dns_2_and_5_the_last_good_answer_stays_and_the_trouble_is_told() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let mut source = dns(&bind);
    troubled(&mut source, "has no address").await;
    bind.update("update add wide.redis.test. 3600 A 127.0.0.2");
    source.look_again();
    assert_eq!(next(&mut source).await, at([2]));
    assert_eq!(source.trouble(), None);
    bind.update("update delete wide.redis.test. A");
    troubled(&mut source, "has no address").await;
    bind.break_zone().await;
    troubled(&mut source, "Server Failure").await;
    bind.kill();
    troubled(&mut source, "").await;
    bind.mend_zone().await;
    bind.stop();
    troubled(&mut source, "in time").await;
    bind.cont();
    assert_eq!(ready(source.next()).await, None);
    // Only one of the two families changes.
    bind.update("update add wide.redis.test. 3600 AAAA ::2");
    source.look_again();
    assert_eq!(next(&mut source).await, [NodeId::new("[::2]:1")]);
}

#[tokio::test]
async fn dns_2_a_name_that_is_gone_keeps_its_nodes_beside_others_that_are_not() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let name = |name: &str| DnsName::Host {
        name: name.to_owned(),
        port: 1,
    };
    bind.update("update add wide.redis.test. 3600 A 127.0.0.2");
    bind.update("update add b.wide.redis.test. 3600 A 127.0.0.3");
    let settings = DnsSettings {
        names: vec![name("wide.redis.test."), name("b.wide.redis.test.")],
        resolvers: vec![bind.server().parse().expect("an address")],
        refresh: Duration::from_secs(3600),
    };
    let mut source = DnsSource::new(settings, "main".into());
    assert_eq!(next(&mut source).await, at([2, 3]));
    bind.update("update delete b.wide.redis.test. A");
    troubled(&mut source, "b.wide.redis.test. has no address").await;
    assert_eq!(ready(source.next()).await, None);
    bind.update(
        "update delete wide.redis.test. A 127.0.0.2\nupdate add wide.redis.test. 3600 A 127.0.0.4",
    );
    source.look_again();
    assert_eq!(next(&mut source).await, at([4, 3]));
}

#[tokio::test]
async fn dns_1_a_short_ttl_is_reason_enough_to_ask_again() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    bind.update("update add wide.redis.test. 1 A 127.0.0.2");
    let mut source = dns(&bind);
    assert_eq!(next(&mut source).await, at([2]));
    bind.update("update delete wide.redis.test. A\nupdate add wide.redis.test. 3600 A 127.0.0.3");
    assert_eq!(next(&mut source).await, at([3]));
}

#[tokio::test]
async fn dns_3_services_are_ordered_and_one_that_is_nowhere_hides_no_other() {
    if !bind::is_here() {
        return;
    }
    let bind = Bind::start().await;
    let service = |priority: u8, weight: u8, port: u16, host: &str| {
        format!(
            "update add _redis._tcp.wide.redis.test. 3600 SRV {priority} {weight} {port} {host}\n"
        )
    };
    bind.update(&format!(
        "{}{}{}update add b.wide.redis.test. 3600 A 127.0.0.3\n",
        service(2, 1, 7, "ns.redis.test."),
        service(1, 1, 8, "b.wide.redis.test."),
        service(1, 9, 9, "ns.redis.test."),
    ));
    let settings = DnsSettings {
        names: vec![DnsName::Service {
            name: "_redis._tcp.wide.redis.test".to_owned(),
        }],
        resolvers: vec![bind.server().parse().expect("an address")],
        refresh: Duration::from_secs(3600),
    };
    let mut source = DnsSource::new(settings, "main".into());
    let nodes = ["127.0.0.1:9", "127.0.0.3:8", "127.0.0.1:7"].map(NodeId::new);
    assert_eq!(next(&mut source).await, nodes);
    // The server is not asked for other zones.
    bind.update(&service(1, 1, 6, "elsewhere.example."));
    troubled(&mut source, "elsewhere.example").await;
    assert_eq!(ready(source.next()).await, None);
    bind.update("update delete b.wide.redis.test. A");
    source.look_again();
    troubled(&mut source, "b.wide.redis.test").await;
    assert_eq!(ready(source.next()).await, None);
}

/// The next set, or nothing within `limit`.
async fn within(source: &mut impl Source, limit: Duration) -> Option<Vec<NodeId>> {
    tokio::time::timeout(limit, source.next()).await.ok()
}

#[tokio::test]
async fn sentinel_keeps_the_contract() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let options = SentinelOptions::default();
    let sentinels = Sentinels::start(options, &cluster).await.unwrap();
    let listed = sentinels.addresses().into_iter().map(|a| ListedSentinel {
        address: NodeId::new(a),
        credentials: None,
    });
    let settings = SentinelSettings {
        master: "mymaster".into(),
        sentinels: listed.collect(),
        credentials: None,
    };
    let access = SentinelAccess {
        mark: "test".into(),
        unacked_after: Duration::from_millis(500),
    };
    let mut opened = control::sentinel::Sentinels::open(settings, access);
    let source = &mut opened.source;
    // 1: the full set, and a future that was dropped loses nothing.
    drop(source.next());
    let set = within(source, SOON).await.expect("a set");
    let mut sorted = set.clone();
    sorted.sort();
    let mut all: Vec<NodeId> = cluster.nodes().iter().map(|n| n.id()).collect();
    all.sort();
    assert_eq!(sorted, all);
    // 1 and 3: again when it changed, in the same order.
    let directory = cluster.directory().path().join("late");
    let late = ServerOptions {
        replica_of: Some(cluster.node(0).id()),
        ..ServerOptions::default()
    };
    let late = Server::start(directory, late).await.unwrap();
    let grown = within(source, SOON).await.expect("a greater set");
    assert_eq!(grown[..3], set);
    assert_eq!(grown[3..], [late.id()]);
    // 2: what can not be asked empties nothing.
    sentinels.all().iter().for_each(|sentinel| sentinel.kill());
    let told = async {
        while let Some(event) = opened.told.recv().await {
            let failed = |news: &SentinelNews| matches!(news, SentinelNews::Failed(_));
            if matches!(&event, Event::Sentinel { news, .. } if failed(news)) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, told).await.expect("it is told");
    assert_eq!(
        within(&mut opened.source, Duration::from_secs(1)).await,
        None
    );
}
