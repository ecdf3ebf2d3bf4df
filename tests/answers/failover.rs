//! What clients are told over a failover, beside what a real Sentinel tells.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman::lab::{Client, Cluster, ClusterOptions, Protocol, ShardOptions, Value, until};
use pointsman::topology::{NodeId, Timestamp};

use crate::rig::{Answering, NAME, RealSentinel, connect, texts};
use crate::support::{SOON, ask, now};

/// What a subscriber hears, with the time.
struct Listener {
    client: Client,
    heard: Vec<(String, String, Timestamp)>,
}

impl Listener {
    async fn to(address: &str) -> Listener {
        let mut client = connect(address).await;
        let confirmed = ask(&mut client, &["PSUBSCRIBE", "*"]).await;
        assert_eq!(texts(&confirmed), ["psubscribe", "*"]);
        Listener {
            client,
            heard: Vec::new(),
        }
    }

    /// Listens until a message on this channel; returns its payload.
    async fn hears(&mut self, channel: &str) -> String {
        loop {
            let message = tokio::time::timeout(SOON, self.client.message()).await;
            let Ok(message) = message else {
                panic!("no {channel} in {:#?}", self.heard);
            };
            let [_, _, name, payload] = &texts(&message.expect("a message"))[..] else {
                panic!("not a message");
            };
            self.heard.push((name.clone(), payload.clone(), now()));
            if name == channel {
                return payload.clone();
            }
        }
    }

    fn channels(&self) -> Vec<&str> {
        self.heard.iter().map(|(name, ..)| name.as_str()).collect()
    }

    /// One payload of each channel, ports as words.
    fn forms(&self, ports: &BTreeMap<String, &str>) -> BTreeMap<String, String> {
        let word = |word: &str| {
            let mut word = word.to_owned();
            for (port, name) in ports {
                word = word.replace(port.as_str(), name);
            }
            word
        };
        let forms = self.heard.iter();
        forms
            .map(|(name, payload, _)| (name.clone(), word(payload)))
            .collect()
    }
}

/// The ports of a cluster after a failover: the old primary, the new one and the other replica.
fn ports<'n>(cluster: &Cluster, new: u16) -> BTreeMap<String, &'n str> {
    let nodes = cluster.nodes().iter().enumerate();
    nodes
        .map(|(number, node)| {
            let word = match number {
                0 => "OLD",
                _ if node.port() == new => "NEW",
                _ => "OTHER",
            };
            (node.port().to_string(), word)
        })
        .collect()
}

fn new_port(switched: &str) -> u16 {
    let last = switched.split(' ').next_back();
    last.and_then(|port| port.parse().ok()).expect("a port")
}

#[tokio::test]
async fn messages_of_a_failover_have_the_form_of_a_real_sentinels() {
    let real = async {
        let cluster = Cluster::start(ClusterOptions::default())
            .await
            .expect("servers");
        let sentinel = RealSentinel::start("127.0.0.1", cluster.node(0), "");
        sentinel.knows(2, 0).await;
        let mut listener = Listener::to(&sentinel.address()).await;
        cluster.node(0).kill();
        let switched = listener.hears("+switch-master").await;
        listener.hears("+slave").await;
        listener.hears("+slave").await;
        listener.forms(&ports(&cluster, new_port(&switched)))
    };
    let ours = async {
        let mut answering = Answering::start().await;
        let mut listener = Listener::to(&answering.port.address()).await;
        let killed = now();
        answering.scene.kill_primary().await;
        let switched = listener.hears("+switch-master").await;
        println!("+switch-master {:?} after kill -9", now() - killed);
        assert_eq!(
            answering.handed_out().await,
            ["127.0.0.1", &new_port(&switched).to_string()]
        );
        listener.hears("+slave").await;
        listener.hears("+slave").await;
        listener.hears("+slave-reconf-done").await;
        answering.scene.failed_over().await;
        answering.scene.assert_log_is_clean();
        let order: Vec<&str> = listener.channels();
        println!("{order:?}");
        let place = |channel: &str| order.iter().position(|c| *c == channel);
        for pair in [
            "+sdown",
            "+try-failover",
            "+odown",
            "+selected-slave",
            "+promoted-slave",
            "+switch-master",
            "+slave",
        ]
        .windows(2)
        {
            assert!(place(pair[0]).is_some(), "no {} in {order:?}", pair[0]);
            assert!(place(pair[0]) < place(pair[1]), "{pair:?} in {order:?}");
        }
        listener.forms(&ports(&answering.scene.shard.cluster, new_port(&switched)))
    };
    let (real, ours) = tokio::join!(real, ours);
    println!("{real:#?}\n{ours:#?}");
    for (channel, form) in &ours {
        if channel == "+slave" {
            // The last of two, in no order.
            continue;
        }
        if let Some(wanted) = real.get(channel) {
            // Sentinel makes the siblings follow before it switches, pointsman after.
            let wanted = match channel.starts_with("+slave-reconf") {
                true => wanted.replace("OLD", "NEW"),
                false => wanted.clone(),
            };
            assert_eq!(*form, wanted, "{channel}");
        }
    }
    for channel in [
        "+sdown",
        "+odown",
        "+selected-slave",
        "+promoted-slave",
        "+switch-master",
        "+slave",
    ] {
        assert!(
            ours.contains_key(channel) && real.contains_key(channel),
            "{channel}"
        );
    }
}

#[tokio::test]
async fn a_replica_that_leaves_and_returns_is_told() {
    let answering = Answering::start().await;
    let mut listener = Listener::to(&answering.port.address()).await;
    let replica = answering.scene.node(1);
    let port = replica.port();
    let primary = answering.scene.node(0).port();
    let named = format!("slave 127.0.0.1:{port} 127.0.0.1 {port} @ {NAME} 127.0.0.1 {primary}");
    replica.kill();
    assert_eq!(listener.hears("+sdown").await, named);
    let flags = flags_of(&answering, port).await;
    assert_eq!(flags, "s_down,slave,disconnected");
    replica
        .restart(pointsman::lab::Data::Empty)
        .await
        .expect("restarted");
    assert_eq!(listener.hears("-sdown").await, named);
    assert_eq!(flags_of(&answering, port).await, "slave");
}

async fn flags_of(answering: &Answering, port: u16) -> String {
    let request = ["SENTINEL", "REPLICAS", NAME];
    let replicas = ask(&mut answering.client().await, &request).await;
    let all = replicas.items().expect("an array");
    let found = all
        .iter()
        .map(texts)
        .find(|fields| fields[5] == port.to_string());
    found.expect("it is listed")[9].clone()
}

#[tokio::test]
async fn sentinel_failover_is_a_switchover() {
    let mut answering = Answering::start().await;
    answering.scene.traffic().await;
    let old = answering.handed_out().await;
    let mut listener = Listener::to(&answering.port.address()).await;
    let mut client = answering.client().await;
    let reply = client
        .call_within(SOON, &["SENTINEL", "FAILOVER", NAME])
        .await;
    assert!(reply.as_ref().is_ok_and(Value::is_ok), "{reply:?}");
    let switched = listener.hears("+switch-master").await;
    let new = answering.handed_out().await;
    assert_eq!(
        switched,
        format!("{NAME} {} {}", old.join(" "), new.join(" "))
    );
    assert_ne!(old, new);
    let report = answering.scene.failed_over().await;
    assert_eq!(report.fault, pointsman::topology::Fault::Switchover);
    answering.scene.progress(20).await;
    let verdict = answering.scene.judged().await;
    crate::support::assert_no_error_at_all(&verdict);
    // Nothing was down, so nobody was told so.
    assert!(
        !listener.channels().contains(&"+sdown"),
        "{:?}",
        listener.heard
    );
}

#[tokio::test]
async fn a_failover_that_can_not_be_done_is_refused_with_sentinels_words() {
    let alone = ShardOptions {
        cluster: ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        },
        ..ShardOptions::default()
    };
    let alone = Answering::with("", alone).await;
    let reply = alone
        .client()
        .await
        .call(&["SENTINEL", "FAILOVER", NAME])
        .await;
    let wanted = Value::Error("NOGOODSLAVE No suitable replica to promote".to_owned());
    assert_eq!(reply.expect("answered"), wanted);

    let follows = ShardOptions {
        follow: true,
        ..ShardOptions::default()
    };
    let follows = Answering::with("", follows).await;
    let mut client = follows.client().await;
    for (request, word) in [("FAILOVER", "ERR"), ("CKQUORUM", "NOQUORUM")] {
        match client
            .call(&["SENTINEL", request, NAME])
            .await
            .expect("answered")
        {
            Value::Error(text) => assert!(
                text.starts_with(word) && text.contains("somebody else decides"),
                "{text}"
            ),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_proxy_answer_never_moves() {
    let mut answering = Answering::with("answer = \"proxy\"", ShardOptions::default()).await;
    let listener = answering.scene.shard.pointsman.port().to_string();
    assert_eq!(answering.handed_out().await, ["127.0.0.1", &listener]);
    let mut subscriber = answering.client().await;
    ask(&mut subscriber, &["PSUBSCRIBE", "*"]).await;
    let mut client = answering.client().await;
    answering.scene.kill_primary().await;
    // While there is no primary as well: requests to the listener wait, they do not fail.
    until("the failover", SOON, async || {
        let master = ask(&mut client, &["SENTINEL", "MASTER", NAME]).await;
        let fields = texts(&master);
        assert_eq!(
            (&fields[3], &fields[5], &fields[9]),
            (&"127.0.0.1".to_owned(), &listener, &"master".to_owned())
        );
        let reports = answering.scene.shard.pointsman.failovers().await;
        match reports.map(|reports| reports.len()) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("failed over");
    answering.scene.failed_over().await;
    assert_eq!(answering.handed_out().await, ["127.0.0.1", &listener]);
    // The next that the subscriber reads is the answer to its own request.
    assert_eq!(texts(&ask(&mut subscriber, &["PING"]).await), ["pong", ""]);
}

#[tokio::test]
async fn nodes_are_handed_out_as_they_were_named() {
    let cluster = Cluster::start(ClusterOptions::default())
        .await
        .expect("servers");
    let nodes = cluster.nodes().iter();
    let nodes: Vec<String> = nodes.map(|n| format!("localhost:{}", n.port())).collect();
    let port = pointsman::lab::Port::pick().expect("a port");
    let options = pointsman::lab::PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        tables: format!("[sentinel]\nbind = \"{}\"", port.address()),
        ..pointsman::lab::PointsmanOptions::in_front_of(nodes)
    };
    let running = pointsman::lab::Pointsman::start_ready(&options)
        .await
        .expect("ready");
    let mut client = connect(&port.address()).await;
    let address = ask(&mut client, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await;
    assert_eq!(
        texts(&address),
        ["localhost", &cluster.node(0).port().to_string()]
    );
    drop(running);
}

#[tokio::test]
async fn the_wait_for_news_is_short() {
    let answering = Answering::start().await;
    let mut slowest = Duration::ZERO;
    for target in [1, 0, 1] {
        let mut listener = Listener::to(&answering.port.address()).await;
        let mut asking = answering.client().await;
        let mut admin = answering
            .scene
            .shard
            .pointsman
            .topology()
            .await
            .expect("topology");
        let to: NodeId = answering.scene.node(target).id();
        let port = answering.scene.node(target).port().to_string();
        let pointsman = &answering.scene.shard.pointsman;
        // The admin server shows what is published; all three watch from before the switch.
        let published = async {
            while admin.primary.as_ref().is_none_or(|p| p.node != to) {
                admin = pointsman.topology().await.expect("topology");
            }
            now()
        };
        let told = async {
            listener.hears("+switch-master").await;
            now()
        };
        let answered = async {
            loop {
                let request = ["SENTINEL", "get-master-addr-by-name", NAME];
                if texts(&ask(&mut asking, &request).await).get(1) == Some(&port) {
                    return now();
                }
            }
        };
        let asked = pointsman.switchover(Some(&to));
        let (asked, published, told, answered) = tokio::join!(asked, published, told, answered);
        asked.expect("asked").expect("done");
        println!(
            "message {:?}, answer {:?} after the admin server showed it",
            told - published,
            answered - published
        );
        slowest = slowest.max(told - published).max(answered - published);
        answering.scene.in_sync().await;
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[tokio::test]
async fn clients_are_counted() {
    let answering = Answering::with("max_clients = 2", ShardOptions::default()).await;
    let (mut one, mut two) = (answering.client().await, answering.client().await);
    ask(&mut one, &["PING"]).await;
    ask(&mut two, &["PING"]).await;
    let refused = answering.client().await.receive().await.expect("told");
    assert!(matches!(refused, Value::Error(_)), "{refused}");
    let metric = async |name: &str| {
        let value = answering.scene.shard.pointsman.metric(name).await;
        value.expect("there are metrics")
    };
    assert_eq!(metric("pointsman_sentinel_clients").await, Some(2.0));
    let dropped = "pointsman_sentinel_clients_dropped_total{reason=\"max_clients\"}";
    assert_eq!(metric(dropped).await, Some(1.0));
}

#[tokio::test]
async fn resp3_subscribers_get_pushes() {
    let mut answering = Answering::start().await;
    let mut client = answering.client().await;
    client.hello(Protocol::Resp3).await.expect("RESP3");
    client
        .send(&["SUBSCRIBE", "+switch-master"])
        .await
        .expect("sent");
    let confirmed = client.message().await.expect("confirmed");
    assert!(matches!(confirmed, Value::Push(_)), "{confirmed}");
    answering.scene.switchover(None).await;
    let message = tokio::time::timeout(SOON, client.message()).await;
    let message = message.expect("in time").expect("a message");
    assert!(matches!(message, Value::Push(_)), "{message}");
    assert_eq!(texts(&message)[..2], ["message", "+switch-master"]);
    // And it may ask meanwhile.
    assert_eq!(
        ask(&mut client, &["PING"]).await,
        Value::Simple("PONG".into())
    );
}
