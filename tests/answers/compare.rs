//! The same requests to a real Sentinel and to pointsman, about the same nodes.

use std::collections::BTreeMap;

use pointsman::lab::{Client, Protocol, Value};

use crate::rig::{Answering, NAME, RealSentinel, connect};

/// Fields of Sentinel that pointsman does not know, and leaves out.
const NOT_CLAIMED: &[&str] = &["role-reported-time"];

/// Fields whose values must be the same; the others are times, or settings of each program.
const SAME: &[&str] = &[
    "name",
    "ip",
    "port",
    "runid",
    "flags",
    "link-pending-commands",
    "link-refcount",
    "role-reported",
    "num-slaves",
    "num-other-sentinels",
    "quorum",
    "parallel-syncs",
    "master-link-down-time",
    "master-link-status",
    "master-host",
    "master-port",
    "slave-priority",
    "replica-announced",
];

struct Both {
    answering: Answering,
    sentinel: RealSentinel,
}

impl Both {
    async fn start() -> Both {
        let answering = Answering::start().await;
        let sentinel = RealSentinel::start("127.0.0.1", answering.scene.node(0), "");
        sentinel.knows(2, 0).await;
        Both {
            answering,
            sentinel,
        }
    }

    /// A client of each, the real one first.
    async fn clients(&self, protocol: Protocol) -> [Client; 2] {
        let mut clients = [
            connect(&self.sentinel.address()).await,
            self.answering.client().await,
        ];
        if protocol == Protocol::Resp3 {
            for client in &mut clients {
                client.hello(protocol).await.expect("it speaks RESP3");
            }
        }
        clients
    }
}

/// The fields of one instance and their order, which only RESP2 has.
fn fields(value: &Value) -> (Vec<String>, BTreeMap<String, String>) {
    let text = |value: &Value| value.text().expect("a string").to_owned();
    let pairs: Vec<(String, String)> = match value {
        Value::Array(items) => items
            .chunks(2)
            .map(|pair| (text(&pair[0]), text(&pair[1])))
            .collect(),
        Value::Map(pairs) => pairs.iter().map(|(k, v)| (text(k), text(v))).collect(),
        other => panic!("not an instance: {other}"),
    };
    let names = pairs.iter().map(|(name, _)| name.clone()).collect();
    (names, pairs.into_iter().collect())
}

/// Ours has the real one's fields in its order and, where both must know, its values.
fn assert_same_instance(real: &Value, ours: &Value) {
    let (mut real_names, real_values) = fields(real);
    let (mut our_names, our_values) = fields(ours);
    real_names.retain(|name| !NOT_CLAIMED.contains(&name.as_str()));
    if matches!(real, Value::Map(_)) {
        real_names.sort();
        our_names.sort();
    }
    assert_eq!(real_names, our_names);
    for name in SAME {
        assert_eq!(real_values.get(*name), our_values.get(*name), "{name}");
    }
    for (name, value) in &our_values {
        let number = |values: &BTreeMap<String, String>| values[name].parse::<i64>().is_ok();
        assert_eq!(number(&real_values), number(&our_values), "{name}: {value}");
    }
}

fn sorted(value: &Value) -> Vec<Value> {
    let mut items = value.items().expect("an array").to_vec();
    items.sort_by_key(|item| fields(item).1["name"].clone());
    items
}

#[tokio::test]
async fn instances_have_the_fields_of_a_real_sentinel() {
    let both = Both::start().await;
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let [mut real, mut ours] = both.clients(protocol).await;
        for request in [&["SENTINEL", "MASTER", NAME][..], &["sentinel", "masters"]] {
            let real = real.call(request).await.expect("answered");
            let ours = ours.call(request).await.expect("answered");
            match request.len() {
                3 => assert_same_instance(&real, &ours),
                _ => {
                    let (real, ours) = (sorted(&real), sorted(&ours));
                    assert_eq!((real.len(), ours.len()), (1, 1));
                    assert_same_instance(&real[0], &ours[0]);
                }
            }
        }
        for what in ["REPLICAS", "SLAVES"] {
            let request = ["SENTINEL", what, NAME];
            let real = sorted(&real.call(&request).await.expect("answered"));
            let ours = sorted(&ours.call(&request).await.expect("answered"));
            assert_eq!((real.len(), ours.len()), (2, 2));
            for (real, ours) in real.iter().zip(&ours) {
                assert_same_instance(real, ours);
            }
        }
    }
}

#[tokio::test]
async fn replies_are_those_of_a_real_sentinel() {
    let both = Both::start().await;
    let port = both.answering.scene.node(0).port().to_string();
    let requests: &[&[&str]] = &[
        &["PING"],
        &["PING", "hello"],
        &["PING", "a", "b"],
        &["ROLE"],
        &["SENTINEL", "get-master-addr-by-name", NAME],
        &["SENTINEL", "get-master-addr-by-name", "nobody"],
        &["SENTINEL", "get-master-addr-by-name"],
        &["SENTINEL", "SENTINELS", NAME],
        &["SENTINEL", "SENTINELS", "nobody"],
        &["SENTINEL", "MASTER", "nobody"],
        &["SENTINEL", "MASTER"],
        &["SENTINEL", "REPLICAS", "nobody"],
        &["SENTINEL", "SLAVES", "nobody"],
        &["SENTINEL", "FAILOVER", "nobody"],
        &["SENTINEL", "CKQUORUM", NAME],
        &["SENTINEL", "CKQUORUM", "nobody"],
        &["SENTINEL", "PENDING-SCRIPTS"],
        &[
            "SENTINEL",
            "IS-MASTER-DOWN-BY-ADDR",
            "127.0.0.1",
            &port,
            "0",
            "*",
        ],
        &[
            "SENTINEL",
            "IS-MASTER-DOWN-BY-ADDR",
            "10.9.9.9",
            "1",
            "0",
            "*",
        ],
        &["SENTINEL", "NONSENSE"],
        &["SENTINEL"],
        &["NONSENSE", "a", "b"],
        &["GET", "a"],
        &["SELECT", "0"],
        &["AUTH", "wrong"],
        &["AUTH", "nobody", "wrong"],
        &["AUTH"],
        &["HELLO", "4"],
        &["HELLO", "x"],
        &["HELLO", "2", "NONSENSE"],
        &["CLIENT", "SETNAME", "me"],
        &["CLIENT", "GETNAME"],
        &["CLIENT", "SETNAME", "a b"],
        &["CLIENT", "NONSENSE"],
        &["CLIENT"],
        &["SUBSCRIBE"],
        &["UNSUBSCRIBE"],
        &["PUNSUBSCRIBE", "x"],
        &["SUBSCRIBE", "+switch-master"],
        &["PSUBSCRIBE", "[-+]sdown"],
        &["PING"],
        &["PING", "hello"],
        &["UNSUBSCRIBE"],
        &["PUNSUBSCRIBE", "[-+]sdown"],
        &["PING"],
    ];
    let mut different = Vec::new();
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let [mut real, mut ours] = both.clients(protocol).await;
        for request in requests {
            let subscribes = request[0].to_uppercase().contains("SUBSCRIBE") && request.len() > 1
                || *request == ["UNSUBSCRIBE"];
            let mut replies = Vec::new();
            for client in [&mut real, &mut ours] {
                client.send(request).await.expect("sent");
                // A confirmation is out of band in RESP3.
                let reply = match subscribes {
                    true => client.message().await,
                    false => client.receive().await,
                };
                replies.push(reply.expect("answered"));
            }
            if replies[0] != replies[1] {
                let [real, ours] = &replies[..] else {
                    unreachable!()
                };
                different.push(format!("{request:?} {protocol:?}: {real} and {ours}"));
            }
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

#[tokio::test]
async fn hello_and_info_are_like_those_of_a_real_sentinel() {
    let both = Both::start().await;
    let [mut real, mut ours] = both.clients(Protocol::Resp2).await;
    let keys = |reply: &Value| match reply {
        Value::Map(pairs) => {
            let mut keys: Vec<String> = pairs.iter().map(|(k, _)| k.to_string()).collect();
            keys.sort();
            keys
        }
        other => panic!("{other}"),
    };
    let real_hello = real.hello(Protocol::Resp3).await.expect("RESP3");
    let our_hello = ours.hello(Protocol::Resp3).await.expect("RESP3");
    assert_eq!(keys(&real_hello), keys(&our_hello));

    let [mut real, mut ours] = both.clients(Protocol::Resp2).await;
    let info = async |client: &mut Client| {
        let reply = client.call(&["INFO", "sentinel"]).await.expect("answered");
        reply.text().expect("text").to_owned()
    };
    let (real_info, our_info) = (info(&mut real).await, info(&mut ours).await);
    assert!(real_info.starts_with("# Sentinel\r\nsentinel_masters:1\r\n"));
    assert!(
        our_info.starts_with("# Sentinel\r\nsentinel_masters:1\r\n"),
        "{our_info}"
    );
    let line = |text: &str| {
        text.lines()
            .find(|l| l.starts_with("master0:"))
            .map(str::to_owned)
    };
    assert_eq!(line(&real_info), line(&our_info));
    let all = ours.call(&["INFO"]).await.expect("answered");
    let all = all.text().expect("text");
    for part in ["# Server\r\n", "redis_mode:sentinel\r\n", "# Sentinel\r\n"] {
        assert!(all.contains(part), "{all}");
    }
}
