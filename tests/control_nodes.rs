//! Probes and node operations against real servers: every kind of failure is told apart, and every
//! operation does what its documentation says.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use pointsman::clock;
use pointsman::control::{
    Access, Operator, Order, Probe, ProbeCaller, SharedReplicationAuth, Sighting,
};
use pointsman::failover::{NodeOp, NodeOpOutcome, Observation, OpId, Policy, ProbeError};
use pointsman::lab::{Cluster, ClusterOptions, Data, Server, until};
use pointsman::resp::Credentials;
use pointsman::resp::info::{NodeInfo, Role};
use pointsman::topology::{NodeId, Timestamp};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(15);

fn access(node: NodeId, password: Option<&str>) -> Access {
    Access {
        node,
        credentials: password.map(|p| Credentials::new(None, p.as_bytes().to_vec())),
        mark: "pointsman-monitor:test".into(),
        unacked_after: Policy::default().unacked_after,
    }
}

/// A running probe.
struct Probing {
    sightings: mpsc::Receiver<(NodeId, Sighting)>,
    caller: ProbeCaller,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probing {
    fn start(access: Access) -> Probing {
        let (out, sightings) = mpsc::channel(1024);
        let prefix = Some("pointsman-monitor:".into());
        let (probe, caller) = Probe::new(access, Policy::default(), prefix, out);
        let task = tokio::spawn(probe.run());
        Probing {
            sightings,
            caller,
            task,
        }
    }

    async fn next(&mut self) -> Sighting {
        let next = tokio::time::timeout(LIMIT, self.sightings.recv()).await;
        next.expect("in time").expect("the probe runs").1
    }

    async fn observation(&mut self) -> Observation {
        loop {
            if let Sighting::Observed(observation) = self.next().await {
                return observation;
            }
        }
    }

    async fn mark(&mut self) -> Option<std::sync::Arc<str>> {
        loop {
            if let Sighting::Mark(who) = self.next().await {
                return who;
            }
        }
    }

    /// The next failure; answers before it do not count.
    async fn failure(&mut self) -> ProbeError {
        loop {
            if let Observation::Failed(error) = self.observation().await {
                return error;
            }
        }
    }

    async fn info(&mut self) -> NodeInfo {
        loop {
            if let Observation::Info(info) = self.observation().await {
                return *info;
            }
        }
    }
}

async fn servers(options: ClusterOptions) -> Cluster {
    Cluster::start(options).await.expect("servers")
}

async fn one() -> Cluster {
    servers(ClusterOptions {
        replicas: 0,
        ..ClusterOptions::default()
    })
    .await
}

#[tokio::test]
async fn a_killed_process_is_seen_at_once_and_its_return_too() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut probing = Probing::start(access(node.id(), None));
    let info = probing.info().await;
    assert_eq!(info.role, Role::Primary);
    let start = clock::now();
    node.kill();
    assert_eq!(probing.failure().await, ProbeError::ConnectionLost);
    let seen = clock::now() - start;
    assert_eq!(probing.failure().await, ProbeError::Refused);
    let refused = clock::now() - start;
    probing.caller.probe_now();
    assert_eq!(probing.failure().await, ProbeError::Refused);
    let confirmed = clock::now() - start;
    println!("kill -9: end seen after {seen:?}, refused {refused:?}, again {confirmed:?}");
    node.restart(Data::Empty).await.expect("starts");
    assert_ne!(probing.info().await.run_id, info.run_id);
}

#[tokio::test]
async fn a_stopped_process_is_silent_and_its_late_answer_counts() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut probing = Probing::start(access(node.id(), None));
    probing.info().await;
    node.stop();
    for _ in 0..8 {
        assert_eq!(probing.failure().await, ProbeError::Silent);
    }
    node.cont();
    // The same connection answers: no other failure comes before the answer.
    while let Observation::Failed(error) = probing.observation().await {
        assert_eq!(error, ProbeError::Silent);
    }
    // And a process that is stopped before the first connect is silent too.
    node.stop();
    let mut late = Probing::start(access(node.id(), None));
    assert_eq!(late.failure().await, ProbeError::Silent);
    assert_eq!(late.failure().await, ProbeError::Silent);
    node.cont();
    late.info().await;
}

#[tokio::test]
async fn credentials_that_do_not_fit_are_told_apart_from_death() {
    let cluster = servers(ClusterOptions {
        replicas: 0,
        password: Some("geheim".into()),
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(0).id();
    for wrong in [None, Some("falsch")] {
        let mut probing = Probing::start(access(node.clone(), wrong));
        let failure = probing.failure().await;
        assert!(matches!(failure, ProbeError::Auth(_)), "{failure:?}");
    }
    Probing::start(access(node, Some("geheim"))).info().await;
    // A password that the node does not ask for is no failure.
    let open = one().await;
    let mut probing = Probing::start(access(open.node(0).id(), Some("geheim")));
    assert!(matches!(probing.observation().await, Observation::Info(_)));
}

/// Answers each connection with `words` and keeps it open.
fn impostor(words: &'static [u8]) -> (NodeId, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let node = NodeId::new(listener.local_addr().expect("bound").to_string());
    let thread = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a probe");
        peer.write_all(words).expect("written");
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut peer, &mut rest);
    });
    (node, thread)
}

#[tokio::test]
async fn what_is_not_redis_is_said_to_be_not_redis() {
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..],
        b"220 mail ESMTP\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n",
        b"+OK\r\n+OK\r\n$5\r\nhello\r\n",
        b"$-7\r\n",
    ] {
        let (node, thread) = impostor(words);
        let mut probing = Probing::start(access(node, None));
        assert_eq!(probing.failure().await, ProbeError::NotRedis, "{words:?}");
        drop(probing);
        thread.join().expect("no panic");
    }
}

#[tokio::test]
async fn nobody_listens_no_name_and_no_answer_are_three_things() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("port");
    let node = NodeId::new(closed.local_addr().expect("bound").to_string());
    drop(closed);
    let mut probing = Probing::start(access(node, None));
    assert_eq!(probing.failure().await, ProbeError::Refused);

    let nameless = NodeId::new("no-such-host.invalid:6379");
    let mut probing = Probing::start(access(nameless, None));
    assert_eq!(probing.failure().await, ProbeError::Unresolved);

    // A listener whose queue is full drops SYNs: nothing is acknowledged.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("address");
    socket.bind(&any.into()).expect("bound");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("bound").as_socket().expect("ip");
    let fillers: Vec<_> = (0..3)
        .map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)))
        .collect();
    assert!(fillers.iter().any(Result::is_err), "the queue is full");
    let mut probing = Probing::start(access(NodeId::new(address.to_string()), None));
    assert_eq!(probing.failure().await, ProbeError::Unacked);
}

#[tokio::test]
async fn max_clients_is_said() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut held = node.client().await.expect("connected");
    held.call(&["CONFIG", "SET", "maxclients", "1"])
        .await
        .expect("set");
    let mut probing = Probing::start(access(node.id(), None));
    assert_eq!(probing.failure().await, ProbeError::MaxClients);
    held.call(&["CONFIG", "SET", "maxclients", "100"])
        .await
        .expect("set");
    probing.info().await;
}

#[tokio::test]
async fn a_loading_node_and_a_busy_one_say_so() {
    let cluster = servers(ClusterOptions {
        replicas: 0,
        persistence: pointsman::lab::Persistence::Rdb,
        config: vec![
            "key-load-delay 2000".into(),
            // It answers after every 2 MB that it has read.
            "rdbcompression no".into(),
        ],
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(0);
    let fill = "for i=1,1000 do redis.call('SET', i, string.rep('x', 10000)) end";
    node.cli(&["EVAL", fill, "0"]).await.expect("filled");
    node.cli(&["SAVE"]).await.expect("saved");
    let mut probing = Probing::start(access(node.id(), None));
    probing.info().await;
    node.kill();
    assert_eq!(probing.failure().await, ProbeError::ConnectionLost);
    node.restart_now(Data::Kept).expect("starts");
    let mut loading = false;
    while !loading {
        loading = probing.info().await.loading;
    }
    while loading {
        loading = probing.info().await.loading;
    }
    let mut client = node.client().await.expect("connected");
    client
        .call(&["CONFIG", "SET", "lua-time-limit", "50"])
        .await
        .expect("set");
    let script = tokio::spawn(async move {
        // Ends with an error when it is killed.
        let _ = client.call(&["EVAL", "while true do end", "0"]).await;
    });
    loop {
        match probing.failure().await {
            ProbeError::Silent => {}
            other => {
                assert_eq!(other, ProbeError::ErrorReply("BUSY".into()));
                break;
            }
        }
    }
    node.cli(&["SCRIPT", "KILL"]).await.expect("killed");
    probing.info().await;
    script.await.expect("ended");
}

#[tokio::test]
async fn another_monitors_mark_is_seen_and_its_end_too() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut other = node.client().await.expect("connected");
    other
        .call(&["CLIENT", "SETNAME", "pointsman-monitor:other"])
        .await
        .expect("named");
    let mut probing = Probing::start(access(node.id(), None));
    assert_eq!(probing.mark().await.as_deref(), Some("other"));
    drop(other);
    while probing.mark().await.is_some() {}
}

/// A running operator.
struct Operating {
    orders: mpsc::Sender<Order>,
    outcomes: mpsc::Receiver<(OpId, NodeOpOutcome)>,
    task: tokio::task::JoinHandle<()>,
    next: u64,
}

impl Drop for Operating {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operating {
    fn start(access: Access) -> Operating {
        let (orders, orders_end) = mpsc::channel(8);
        let (out, outcomes) = mpsc::channel(8);
        let operator = Operator::new(access, SharedReplicationAuth::default(), out);
        Operating {
            orders,
            outcomes,
            task: tokio::spawn(operator.run(orders_end)),
            next: 0,
        }
    }

    fn on(server: &Server) -> Operating {
        Operating::start(access(server.id(), None))
    }

    async fn within(&mut self, what: NodeOp, timeout: Duration) -> NodeOpOutcome {
        self.decided_at(clock::now(), what, timeout).await
    }

    async fn decided_at(
        &mut self,
        decided: Timestamp,
        what: NodeOp,
        timeout: Duration,
    ) -> NodeOpOutcome {
        self.next += 1;
        let op = OpId(self.next);
        let order = Order {
            op,
            what,
            timeout,
            decided,
        };
        self.orders.send(order).await.expect("running");
        let (answered, outcome) = self.outcomes.recv().await.expect("an outcome");
        assert_eq!(answered, op);
        outcome
    }

    async fn perform(&mut self, what: NodeOp) -> NodeOpOutcome {
        self.within(what, Duration::from_secs(5)).await
    }

    async fn done(&mut self, what: NodeOp) -> NodeInfo {
        match self.perform(what).await {
            NodeOpOutcome::Done(info) => *info,
            other => panic!("{other:?}"),
        }
    }
}

async fn min_replicas(server: &Server) -> Option<i64> {
    let asked = ["CONFIG", "GET", "min-replicas-to-write"];
    let answer = server.cli(&asked).await.expect("answers");
    answer.items()?.get(1)?.number()
}

#[tokio::test]
async fn what_was_decided_too_long_ago_is_not_begun() {
    let start = Timestamp::default();
    let cluster = servers(ClusterOptions::default()).await;
    let replica = cluster.node(1);
    let mut operator = Operating::on(replica);
    let (promote, age) = (NodeOp::Promote, clock::now() - start);
    let late = operator.decided_at(start, promote, age).await;
    assert!(matches!(late, NodeOpOutcome::Unreachable(_)), "{late:?}");
    assert!(!replica.is_primary().await.expect("answers"));
    // And in time it is.
    assert_eq!(operator.done(NodeOp::Promote).await.role, Role::Primary);
}

#[tokio::test]
async fn promote_and_repoint_change_the_roles_and_the_files() {
    let cluster = servers(ClusterOptions {
        config: vec!["min-replicas-to-write 0".into()],
        ..ClusterOptions::default()
    })
    .await;
    let (old, new, sibling) = (cluster.node(0), cluster.node(1), cluster.node(2));
    let mut operator = Operating::on(new);
    let start = clock::now();
    assert_eq!(operator.done(NodeOp::Promote).await.role, Role::Primary);
    println!("promote: {:?}", clock::now() - start);
    assert_eq!(operator.done(NodeOp::Promote).await.role, Role::Primary);
    let to = NodeOp::Repoint { to: new.id() };
    for node in [sibling, old] {
        let mut client = node.client().await.expect("connected");
        let was_primary = node.id() == old.id();
        let mut operator = Operating::on(node);
        let info = operator.done(to.clone()).await;
        assert_eq!(info.role, Role::Replica);
        let (host, port) = new
            .id()
            .host_port()
            .map(|(h, p)| (h.to_owned(), p))
            .expect("port");
        assert_eq!(info.upstream, Some((host.as_str().into(), port)));
        let alive = client.call(&["PING"]).await.is_ok();
        assert_eq!(
            alive, !was_primary,
            "only a former primary's clients are closed"
        );
        assert_eq!(operator.done(to.clone()).await.role, Role::Replica);
        until("the file", LIMIT, async || {
            let text = std::fs::read_to_string(node.config_file()).unwrap_or_default();
            let line = format!("replicaof {host} {port}");
            match text.contains(&line) {
                true => Ok(()),
                false => Err(text),
            }
        })
        .await
        .expect("rewritten");
    }
    cluster.in_sync(LIMIT).await.expect("in sync");
}

#[tokio::test]
async fn a_fence_stops_writes_and_ends_with_the_nodes_own_value() {
    let cluster = servers(ClusterOptions {
        replicas: 1,
        config: vec!["min-replicas-to-write 1".into()],
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(0);
    let mut operator = Operating::on(node);
    operator.done(NodeOp::Fence).await;
    operator.done(NodeOp::Fence).await;
    let refused = node.cli(&["SET", "key", "value"]).await.expect("answers");
    assert!(format!("{refused:?}").contains("NOREPLICAS"), "{refused:?}");
    operator.done(NodeOp::Promote).await;
    assert_eq!(min_replicas(node).await, Some(1));
    // The fence itself says what it replaced: a run that knows nothing of it takes it off.
    operator.done(NodeOp::Fence).await;
    let mut next = Operating::on(node);
    assert!(next.done(NodeOp::Unfence).await.needs_replicas);
    assert_eq!(min_replicas(node).await, Some(1));
    node.cli(&["SET", "key", "value"]).await.expect("written");
    // Nothing is changed where there is none.
    next.done(NodeOp::Unfence).await;
    assert_eq!(min_replicas(node).await, Some(1));
}

#[tokio::test]
async fn a_fence_works_where_lag_is_ignored_and_that_comes_back() {
    let cluster = servers(ClusterOptions {
        replicas: 1,
        config: vec![
            "min-replicas-to-write 1".into(),
            "min-replicas-max-lag 0".into(),
        ],
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(0);
    let lag = async || {
        let asked = ["CONFIG", "GET", "min-replicas-max-lag"];
        let answer = node.cli(&asked).await.expect("answers");
        answer.items()?.get(1)?.number()
    };
    let to = NodeOp::Repoint {
        to: cluster.node(1).id(),
    };
    for lift in [NodeOp::Unfence, NodeOp::Promote, to] {
        let mut operator = Operating::on(node);
        assert!(operator.done(NodeOp::Fence).await.needs_replicas);
        operator.done(NodeOp::Fence).await;
        let refused = node.cli(&["SET", "key", "value"]).await.expect("answers");
        assert!(format!("{refused:?}").contains("NOREPLICAS"), "{refused:?}");
        // Another run, which knows only what the fence itself says.
        Operating::on(node).done(lift).await;
        assert_eq!((min_replicas(node).await, lag().await), (Some(1), Some(0)));
    }
}

#[tokio::test]
async fn a_pause_holds_writes_off_until_it_is_ended_or_over() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut operator = Operating::on(node);
    let mut client = node.client().await.expect("connected");
    // A paused node answers late, an older one with an error until the pause is over.
    let mut write = async || {
        let start = clock::now();
        until("a write", LIMIT, async || {
            match client.call(&["SET", "key", "value"]).await {
                Ok(reply) if reply.is_ok() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .expect("written");
        clock::now() - start
    };
    let long = Duration::from_secs(60);
    operator.done(NodeOp::Pause { duration: long }).await;
    operator.done(NodeOp::Unpause).await;
    assert!(write().await < LIMIT);
    let short = Duration::from_millis(500);
    operator.done(NodeOp::Pause { duration: short }).await;
    let took = write().await;
    assert!(took > short / 2 && took < LIMIT, "{took:?}");
    assert_eq!(min_replicas(node).await, Some(0));
}

#[tokio::test]
async fn a_file_that_can_not_be_rewritten_stops_nothing() {
    let cluster = servers(ClusterOptions {
        replicas: 1,
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(1);
    // A directory in its place: not even root can replace it by a file.
    std::fs::remove_file(node.config_file()).expect("removed");
    std::fs::create_dir(node.config_file()).expect("made");
    let mut operator = Operating::on(node);
    assert_eq!(operator.done(NodeOp::Promote).await.role, Role::Primary);
    assert_eq!(operator.done(NodeOp::Inspect).await.role, Role::Primary);
}

#[tokio::test]
async fn a_former_primary_without_masterauth_gets_one() {
    let cluster = servers(
        ClusterOptions {
            replicas: 1,
            password: Some("geheim".into()),
            ..ClusterOptions::default()
        }
        .node_line(0, "masterauth \"\""),
    )
    .await;
    let with = |server: &Server| access(server.id(), Some("geheim"));
    let (old, new) = (cluster.node(0), cluster.node(1));
    let mut former = Operating::start(with(old));
    let check = NodeOp::CheckAuth {
        as_replica_of: new.id(),
    };
    former.done(check.clone()).await;
    Operating::start(with(new)).done(NodeOp::Promote).await;
    former.done(NodeOp::Repoint { to: new.id() }).await;
    cluster.in_sync(LIMIT).await.expect("logged in");
    // A wrong one is found before it matters, and is not replaced behind the operator's back.
    old.cli(&["CONFIG", "SET", "masterauth", "falsch"])
        .await
        .expect("set");
    match former.perform(check).await {
        NodeOpOutcome::Refused(why) => assert!(why.contains("WRONGPASS"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_with_few_rights_can_still_promote() {
    let rights = "user pointsman on >pw +info +role +ping +multi +exec +replicaof +client";
    let cluster = servers(ClusterOptions {
        replicas: 1,
        config: vec![rights.into()],
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(1);
    let credentials = Credentials::new(Some("pointsman".into()), b"pw".to_vec());
    let mut operator = Operating::start(Access {
        credentials: Some(credentials),
        ..access(node.id(), None)
    });
    assert_eq!(operator.done(NodeOp::Promote).await.role, Role::Primary);
    let fence = operator.perform(NodeOp::Fence).await;
    assert!(matches!(fence, NodeOpOutcome::Refused(_)), "{fence:?}");
}

#[tokio::test]
async fn a_promotion_that_ran_and_can_not_be_seen_is_unknown() {
    let cluster = servers(ClusterOptions {
        replicas: 1,
        ..ClusterOptions::default()
    })
    .await;
    let node = cluster.node(1);
    let mut operator = Operating::on(node);
    operator.done(NodeOp::Inspect).await;
    let rights = ["ACL", "SETUSER", "default", "-info"];
    node.cli(&rights).await.expect("set");
    let outcome = operator.perform(NodeOp::Promote).await;
    assert!(matches!(outcome, NodeOpOutcome::Unknown(_)), "{outcome:?}");
    let role = node.cli(&["ROLE"]).await.expect("answers");
    assert!(format!("{role:?}").contains("master"), "{role:?}");
}

#[tokio::test]
async fn hanging_dead_and_paused_nodes_have_the_right_outcome() {
    let cluster = one().await;
    let node = cluster.node(0);
    let mut operator = Operating::on(node);
    let second = Duration::from_secs(1);
    operator
        .done(NodeOp::Pause {
            duration: second * 60,
        })
        .await;
    operator.done(NodeOp::Unpause).await;
    node.cli(&["SET", "key", "value"])
        .await
        .expect("not paused");
    node.stop();
    let start = clock::now();
    let outcome = operator
        .within(NodeOp::Unpause, Duration::from_millis(300))
        .await;
    // An older node is asked for its own settings first, and that changes nothing.
    match Server::version().expect("a version").1 >= (6, 2) {
        true => assert!(matches!(outcome, NodeOpOutcome::Unknown(_)), "{outcome:?}"),
        false => assert_eq!(outcome, NodeOpOutcome::Unreachable(ProbeError::Silent)),
    }
    assert!(clock::now() - start < second);
    node.cont();
    operator.done(NodeOp::Inspect).await;
    node.kill();
    until("unreachable", LIMIT, async || {
        match operator.perform(NodeOp::Inspect).await {
            NodeOpOutcome::Unreachable(ProbeError::Refused) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("refused");
}
