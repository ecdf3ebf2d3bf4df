//! Sessions with a control plane that says what the test wants, and clients that mean no good.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use pointsman::admin::{self, Operator};
use pointsman::failover::{Health, NodeRole, NodeStatus, Status};
use pointsman::lab::{Address, Client, ClientError, Value, until};
use pointsman::resp::Credentials;
use pointsman::sentinel::{Answer, Backend, Sentinel, SentinelSettings, Session, Step, serve};
use pointsman::topology::{
    Epoch, FailoverReport, Gate, NodeId, Notice, Primary, Topology, TopologyWriter, channel,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

use crate::rig::{NAME, texts};
use crate::support::{SOON, ask, now};

/// A control plane in some phase.
struct Script {
    phase: Mutex<&'static str>,
    /// How often its status was asked.
    questions: AtomicU64,
}

fn node(name: &str, role: NodeRole) -> NodeStatus {
    NodeStatus {
        node: NodeId::new(name),
        role: Some(role),
        health: Health::Up,
        run_id: Some("r".into()),
        follows: (role == NodeRole::Replica).then(|| NodeId::new("10.0.0.1:6379")),
        priority: Some(100),
        announced: true,
        offset: Some(7),
        lag_bytes: None,
        link_up: Some(true),
        last_seen: Some(Duration::from_millis(5)),
        not_promotable: None,
        repointing: None,
        lacks: None,
    }
}

impl Operator for Script {
    fn status(&self) -> admin::Answer<'_, Option<Status>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let status = Status {
            sentinels: Vec::new(),
            shards: Vec::new(),
            backend: NAME.into(),
            phase: (*self.phase.lock().expect("no panic")).to_owned(),
            step: String::new(),
            epoch: Epoch(1),
            gate: Gate::Open,
            primary: Some(NodeId::new("10.0.0.1:6379")),
            undecided: None,
            nodes: vec![
                node("10.0.0.1:6379", NodeRole::Primary),
                node("10.0.0.2:6379", NodeRole::Replica),
            ],
        };
        Box::pin(async move { Some(status) })
    }

    fn reports(&self) -> Vec<FailoverReport> {
        Vec::new()
    }

    fn switchover(&self, _to: Option<NodeId>) -> admin::Answer<'_, Result<FailoverReport, String>> {
        Box::pin(async { Err("asked".to_owned()) })
    }
}

/// The answers of one backend without any node.
struct Scripted {
    sentinel: Arc<Sentinel>,
    writer: TopologyWriter,
    script: Arc<Script>,
    notices: broadcast::Sender<Notice>,
}

impl Scripted {
    fn new(settings: SentinelSettings) -> Scripted {
        Scripted::with(settings, None)
    }

    fn with(settings: SentinelSettings, listener: Option<SocketAddr>) -> Scripted {
        let (writer, topology) = channel(Topology::unknown(NAME), 1);
        let (notices, heard) = broadcast::channel(16);
        let script = Arc::new(Script {
            phase: Mutex::new("serving"),
            questions: AtomicU64::new(0),
        });
        let backend = Backend {
            name: NAME.into(),
            topology,
            operator: script.clone(),
            notices: heard,
            listener,
            down_after: Duration::from_secs(1),
            switchover_timeout: Duration::from_secs(1),
            parallel_syncs: 1,
        };
        Scripted {
            sentinel: Arc::new(Sentinel::new(settings, "test", vec![backend])),
            writer,
            script,
            notices,
        }
    }

    async fn serving(settings: SentinelSettings) -> (Scripted, String) {
        let scripted = Scripted::new(settings);
        let address = scripted.serve().await;
        (scripted, address)
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        // Ends with the test's runtime.
        tokio::spawn(serve(listener, self.sentinel.clone()));
        address
    }

    fn publish(&self, epoch: u64, gate: Gate, primary: Option<&str>, replicas: &[String]) {
        let mut next = Topology::unknown(NAME);
        next.epoch = Epoch(epoch);
        next.gate = gate;
        next.primary = primary.map(|primary| Primary {
            node: NodeId::new(primary),
            run_id: format!("run-{primary}").into(),
            repl_id: "h".into(),
        });
        next.replicas = replicas.iter().map(|r| NodeId::new(r.as_str())).collect();
        self.writer.publish(next);
    }

    fn phase(&self, phase: &'static str) {
        *self.script.phase.lock().expect("no panic") = phase;
    }
}

async fn client(address: &str) -> Client {
    let address = Address::Tcp(address.to_owned());
    Client::connect(&address).await.expect("it listens")
}

/// What a session without a socket answers.
async fn told(session: &mut Session, request: &str) -> String {
    let (mut input, mut out) = (BytesMut::from(request.as_bytes()), BytesMut::new());
    while session.step(&mut input, &mut out).await == Step::Done {}
    String::from_utf8_lossy(&out).into_owned()
}

fn session(scripted: &Scripted, peer: &str) -> Session {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Session::new(
        scripted.sentinel.clone(),
        address(peer),
        address("10.0.0.5:26379"),
    )
}

#[tokio::test]
async fn flags_say_how_the_primary_is() {
    let (scripted, address) = Scripted::serving(SentinelSettings::default()).await;
    let mut asking = client(&address).await;
    let mut flags = async || {
        let master = texts(&ask(&mut asking, &["SENTINEL", "MASTER", NAME]).await);
        let nil = ask(&mut asking, &["SENTINEL", "get-master-addr-by-name", NAME]).await;
        (master[3].clone(), master[9].clone(), nil == Value::Null)
    };
    let state = |ip: &str, flags: &str, nil| (ip.to_owned(), flags.to_owned(), nil);
    assert_eq!(
        flags().await,
        state("?", "s_down,o_down,master,disconnected", true)
    );

    let (a, b) = ("10.0.0.1:6379", "10.0.0.2:6379");
    scripted.publish(1, Gate::Open, Some(a), &[b.to_owned()]);
    assert_eq!(flags().await, state("10.0.0.1", "master", false));
    scripted.publish(1, Gate::Closed, Some(a), &[b.to_owned()]);
    assert_eq!(flags().await, state("10.0.0.1", "s_down,master", false));
    scripted.phase("switching_over");
    scripted.publish(1, Gate::Closed, Some(a), &[b.to_owned()]);
    assert_eq!(
        flags().await,
        state("10.0.0.1", "master,failover_in_progress", false)
    );
    // While another one is made primary, nobody shall connect to the old one.
    scripted.phase("failing_over");
    scripted.publish(2, Gate::Closed, None, &[a.to_owned(), b.to_owned()]);
    let lost = "s_down,o_down,master,failover_in_progress";
    assert_eq!(flags().await, state("10.0.0.1", lost, true));
    scripted.phase("serving");
    scripted.publish(2, Gate::Open, Some(b), &[a.to_owned()]);
    assert_eq!(flags().await, state("10.0.0.2", "master", false));
}

/// A session with these settings whose client came to `local`, and what publishes for it.
fn at(answer: Answer, listener: Option<&str>, local: &str) -> (Scripted, Session) {
    let settings = SentinelSettings {
        answer,
        ..SentinelSettings::default()
    };
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let scripted = Scripted::with(settings, listener.map(address));
    let peer = address("127.0.0.1:1");
    let session = Session::new(scripted.sentinel.clone(), peer, address(local));
    (scripted, session)
}

#[tokio::test]
async fn the_address_that_is_handed_out_can_be_reached() {
    let ask = format!("SENTINEL get-master-addr-by-name {NAME}\r\n");
    let array = |ip: &str, port: u16| {
        let port = port.to_string();
        format!(
            "*2\r\n${}\r\n{ip}\r\n${}\r\n{port}\r\n",
            ip.len(),
            port.len()
        )
    };
    for (listener, local, ip) in [
        ("10.1.1.1:7000", "10.0.0.5:26379", "10.1.1.1"),
        // One that listens everywhere is reached where the client reached us.
        ("0.0.0.0:7000", "10.0.0.5:26379", "10.0.0.5"),
        ("[::]:7000", "[::ffff:10.0.0.5]:26379", "10.0.0.5"),
        ("[::]:7000", "[fd00::5]:26379", "fd00::5"),
    ] {
        // Also while there is no primary: requests wait at the listener.
        let (_scripted, mut session) = at(Answer::Proxy, Some(listener), local);
        assert_eq!(
            told(&mut session, &ask).await,
            array(ip, 7000),
            "{listener} {local}"
        );
    }
    // IPv6 without brackets, as Sentinel has it.
    let (scripted, mut session) = at(Answer::Node, None, "10.0.0.5:26379");
    scripted.publish(1, Gate::Open, Some("[fd00::1]:6379"), &[]);
    assert_eq!(told(&mut session, &ask).await, array("fd00::1", 6379));
    let info = told(&mut session, "INFO sentinel\r\n").await;
    assert!(info.contains("status=ok,address=fd00::1:6379,"), "{info}");
}

#[tokio::test]
async fn news_come_the_moment_they_are_published() {
    let scripted = Scripted::new(SentinelSettings::default());
    let nodes = ["10.0.0.1:6379".to_owned(), "10.0.0.2:6379".to_owned()];
    scripted.publish(1, Gate::Open, Some(&nodes[1]), &[]);
    let address = scripted.serve().await;
    let mut subscriber = client(&address).await;
    ask(&mut subscriber, &["SUBSCRIBE", "+switch-master", "+reboot"]).await;
    subscriber.message().await.expect("the second confirmation");
    let mut asking = client(&address).await;
    let mut took = Vec::new();
    for epoch in 2..200 {
        let to = &nodes[epoch as usize % 2];
        let published = now();
        scripted.publish(epoch, Gate::Open, Some(to), &[]);
        let message = async {
            let message = tokio::time::timeout(SOON, subscriber.message()).await;
            (
                message.expect("in time").expect("a message"),
                now() - published,
            )
        };
        let answer = async {
            let request = ["SENTINEL", "get-master-addr-by-name", NAME];
            (ask(&mut asking, &request).await, now() - published)
        };
        let ((message, told), (answer, answered)) = tokio::join!(message, answer);
        let ends = texts(&message)[2].ends_with(&to.replace(':', " "));
        assert!(ends, "{message}");
        // The first answer after the publication is the new one already.
        assert_eq!(texts(&answer).join(":"), **to);
        took.push((told.max(answered), epoch, told, answered));
    }
    took.sort();
    let shown = [
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
    ];
    println!(
        "median, 99th percentile and slowest of {}: {shown:?}",
        took.len()
    );
    assert!(took[took.len() - 1].0 < Duration::from_secs(1));
}

#[tokio::test]
async fn a_doubt_that_passes_and_a_restart_are_told() {
    let (scripted, address) = Scripted::serving(SentinelSettings::default()).await;
    let a = "10.0.0.1:6379";
    scripted.publish(1, Gate::Open, Some(a), &[]);
    let mut subscriber = client(&address).await;
    ask(&mut subscriber, &["PSUBSCRIBE", "*"]).await;
    let mut hears = async |channel: &str, payload: &str| {
        let message = tokio::time::timeout(SOON, subscriber.message()).await;
        let message = message.expect("in time").expect("a message");
        assert_eq!(texts(&message)[2..], [channel, payload]);
    };
    let master = "master main 10.0.0.1 6379";
    scripted.publish(1, Gate::Closed, Some(a), &[]);
    hears("+sdown", master).await;
    let notice = Notice {
        event: "+odown",
        node: Some(NodeId::new(a)),
    };
    scripted.notices.send(notice).expect("heard");
    hears("+odown", &format!("{master} #quorum 1/1")).await;
    scripted.publish(1, Gate::Open, Some(a), &[]);
    hears("-odown", master).await;
    hears("-sdown", master).await;
    // What is only in our own words is not told.
    let ours = Notice {
        event: "diverged",
        node: None,
    };
    scripted.notices.send(ours).expect("heard");
    let mut next = (*scripted.writer.current()).clone();
    next.epoch = Epoch(2);
    next.primary.as_mut().expect("one").run_id = "another".into();
    scripted.writer.publish(next);
    hears("+reboot", master).await;
}

#[tokio::test]
async fn failover_is_refused_while_one_runs_and_to_strangers() {
    let scripted = Scripted::new(SentinelSettings::default());
    let failover = format!("SENTINEL FAILOVER {NAME}\r\n");
    let mut stranger = session(&scripted, "10.0.0.9:1");
    assert!(told(&mut stranger, &failover).await.starts_with("-NOPERM"));
    let mut friend = session(&scripted, "127.0.0.1:1");
    assert_eq!(told(&mut friend, &failover).await, "-ERR asked\r\n");
    scripted.phase("failing_over");
    let running = "-INPROG Failover already in progress\r\n";
    assert_eq!(told(&mut friend, &failover).await, running);

    let protected = Scripted::new(SentinelSettings {
        auth: Some(Credentials::new(None, b"secret".to_vec())),
        ..SentinelSettings::default()
    });
    let mut stranger = session(&protected, "10.0.0.9:1");
    let answers = told(
        &mut stranger,
        &format!("{failover}AUTH secret\r\n{failover}"),
    )
    .await;
    assert_eq!(
        answers,
        "-NOAUTH Authentication required.\r\n+OK\r\n-ERR asked\r\n"
    );
}

#[tokio::test]
async fn what_would_change_the_configuration_is_refused_by_name() {
    let scripted = Scripted::new(SentinelSettings::default());
    let mut session = session(&scripted, "127.0.0.1:1");
    for request in [
        "SET main quorum 2",
        "MONITOR a 1.1.1.1 1 1",
        "REMOVE main",
        "RESET *",
        "FLUSHCONFIG",
        "CONFIG GET *",
        "SIMULATE-FAILURE crash-after-election",
        "DEBUG",
        "INFO-CACHE main",
    ] {
        let answer = told(&mut session, &format!("SENTINEL {request}\r\n")).await;
        let word = request.split(' ').next().expect("one");
        let wanted = format!("-ERR pointsman has no SENTINEL {word}: what is served");
        assert!(answer.starts_with(&wanted), "{answer}");
    }
    let resets = told(
        &mut session,
        "HELLO 3 SETNAME me\r\nRESET\r\nCLIENT GETNAME\r\n",
    )
    .await;
    assert!(resets.ends_with("+RESET\r\n$-1\r\n"), "{resets}");
}

#[tokio::test]
async fn bytes_that_are_no_request_end_the_connection_with_a_reason() {
    let (_scripted, address) = Scripted::serving(SentinelSettings::default()).await;
    let long = "x".repeat(70_000);
    for (bytes, reason) in [
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$536870912\r\n".to_owned(), "invalid bulk length"),
        (
            "*1\r\n$99999999999999999999\r\n".to_owned(),
            "invalid bulk length",
        ),
        ("*1048576\r\n".to_owned(), "invalid multibulk length"),
        ("*2147483648\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\nPING\r\n".to_owned(), "expected '$', got 'P'"),
        ("SENTINEL \"a\r\n".to_owned(), "unbalanced quotes"),
        (long.clone(), "too big inline request"),
        (format!("*1\r\n${long}"), "too big bulk count string"),
        (
            "*200\r\n".to_owned()
                + &"$1000\r\n"
                    .replace("$1000\r\n", &format!("$1000\r\n{}\r\n", "y".repeat(1000)))
                    .repeat(199),
            "too big request",
        ),
    ] {
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        // It may close before it has read everything.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("it closes");
        let answer = String::from_utf8_lossy(&answer);
        // A reset takes the reply with it where bytes were left unread.
        assert!(
            answer.starts_with("-ERR Protocol error: ") && answer.contains(reason)
                || answer.is_empty() && bytes.len() > 60_000,
            "{answer}"
        );
    }
    // A half request is waited for, and the others are served meanwhile.
    let mut half = TcpStream::connect(&address).await.expect("it listens");
    half.write_all(b"*2\r\n$8\r\nSENT").await.expect("sent");
    let mut other = client(&address).await;
    assert_eq!(
        ask(&mut other, &["PING"]).await,
        Value::Simple("PONG".into())
    );
    half.write_all(b"INEL\r\n$4\r\nMYID\r\n")
        .await
        .expect("sent");
    let mut id = [0; 47];
    half.read_exact(&mut id).await.expect("answered");
    assert!(id.starts_with(b"$40\r\n"));
}

#[tokio::test]
async fn more_clients_than_allowed_are_told_so() {
    let settings = SentinelSettings {
        max_clients: 2,
        ..SentinelSettings::default()
    };
    let (_scripted, address) = Scripted::serving(settings).await;
    let mut first = client(&address).await;
    let mut second = client(&address).await;
    ask(&mut first, &["PING"]).await;
    ask(&mut second, &["PING"]).await;
    let mut third = client(&address).await;
    let refused = Value::Error("ERR max number of clients reached".to_owned());
    assert_eq!(third.receive().await.expect("told"), refused);
    third.closed().await.expect("closed");
    drop(first);
    until("room for another one", SOON, async || {
        let mut next = client(&address).await;
        match next.call(&["PING"]).await {
            Ok(Value::Simple(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("there is room");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_dropped_and_the_others_are_served() {
    let scripted = Scripted::new(SentinelSettings::default());
    scripted.publish(1, Gate::Open, Some("10.0.0.1:6379"), &[]);
    let address = scripted.serve().await;
    let mut slow = client(&address).await;
    ask(&mut slow, &["PSUBSCRIBE", "*"]).await;
    let mut quick = client(&address).await;
    ask(&mut quick, &["SUBSCRIBE", "+switch-master"]).await;
    let replicas: Vec<String> = (0..200)
        .map(|n| format!("{}-{n}:6379", "r".repeat(200)))
        .collect();
    // Far more than the kernel keeps for the slow one.
    for epoch in 2..400 {
        let primary = format!("10.0.0.{}:6379", epoch % 2);
        scripted.publish(epoch, Gate::Open, Some(&primary), &replicas);
        let message = tokio::time::timeout(SOON, quick.message()).await;
        let message = message.expect("in time").expect("still there");
        assert_eq!(texts(&message)[1], "+switch-master");
    }
    let end = async {
        loop {
            match slow.message().await {
                Ok(_) => {}
                Err(ClientError::Closed | ClientError::Io(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(SOON, end)
        .await
        .expect("it was dropped");
    ask(&mut client(&address).await, &["PING"]).await;
}

#[tokio::test]
async fn one_client_has_a_bounded_number_of_subscriptions() {
    let scripted = Scripted::new(SentinelSettings::default());
    let mut session = session(&scripted, "127.0.0.1:1");
    let many: String = (0..200).map(|n| format!("PSUBSCRIBE p{n}\r\n")).collect();
    let answers = told(&mut session, &many).await;
    assert_eq!(answers.matches("psubscribe").count(), 128);
    assert_eq!(answers.matches("-ERR too many subscriptions").count(), 72);
    let long = format!("PUNSUBSCRIBE\r\nSUBSCRIBE {}\r\n", "x".repeat(129));
    let answers = told(&mut session, &long).await;
    assert!(
        answers.ends_with("-ERR the name of a channel is too long\r\n"),
        "{answers}"
    );
}

#[tokio::test]
async fn however_many_ask_the_control_plane_is_asked_seldom() {
    let scripted = Scripted::new(SentinelSettings::default());
    scripted.publish(1, Gate::Open, Some("10.0.0.1:6379"), &[]);
    let begin = now();
    let many = format!("SENTINEL MASTER {NAME}\r\n").repeat(2_000);
    let tasks = (0..10).map(|_| {
        let mut session = session(&scripted, "10.0.0.9:1");
        let many = many.clone();
        tokio::spawn(async move { told(&mut session, &many).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        let answers = task.await.expect("it ended");
        assert_eq!(answers.matches("role-reported").count(), 2_000);
    }
    let asked = scripted.script.questions.load(Ordering::Relaxed);
    let allowed = (now() - begin).as_millis() / 100 + 1;
    assert!(u128::from(asked) <= allowed, "{asked} of {allowed}");
    assert!(asked > 0);
}
