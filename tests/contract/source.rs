//! The contract of `control::source`.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use pointsman::control;
use pointsman::control::sentinel::{ListedSentinel, SentinelAccess, SentinelSettings};
use pointsman::control::source::{Source, StaticSource};
use pointsman::failover::{Event, SentinelNews};
use pointsman::lab::{Cluster, ClusterOptions, SentinelOptions, Sentinels, Server, ServerOptions};
use pointsman::topology::NodeId;

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

/// The next set, or nothing within `limit`.
async fn next(source: &mut impl Source, limit: Duration) -> Option<Vec<NodeId>> {
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
    let set = next(source, SOON).await.expect("a set");
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
    let grown = next(source, SOON).await.expect("a greater set");
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
    assert_eq!(next(&mut opened.source, Duration::from_secs(1)).await, None);
}
