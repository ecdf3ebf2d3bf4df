//! The admin server over HTTP, with neither plane running.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use pointsman::admin::{
    Admin, AdminSettings, AllowRemote, Answer, Backend, Operator, ReadyAnswer, StatusAnswer, serve,
};
use pointsman::failover::{Health, NodeStatus, Status};
use pointsman::topology::{
    BytesLost, Epoch, FailoverReport, Fault, Gate, NodeId, Outcome, Primary, RequestCounts,
    Topology, TopologyWriter, channel,
};
use serde_json::{Value, json};

/// A control plane that says what it was told to say.
struct Script {
    answers: bool,
    switchover: Result<Outcome, String>,
    hangs: bool,
    asked: Mutex<Vec<Option<NodeId>>>,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            answers: true,
            switchover: Ok(Outcome::Done),
            hangs: false,
            asked: Mutex::default(),
        }
    }
}

fn report(outcome: Outcome) -> FailoverReport {
    FailoverReport {
        backend: "main".to_owned(),
        shard: None,
        epoch: Epoch(2),
        fault: Fault::Switchover,
        outcome,
        from: Some(NodeId::new("a:1")),
        to: Some(NodeId::new("b:1")),
        evidence: Vec::new(),
        phases: Vec::new(),
        pause: Duration::from_millis(17),
        requests: RequestCounts::default(),
        bytes_lost: BytesLost::Unknown,
        passed_over: Vec::new(),
        unix_millis: 1,
    }
}

impl Operator for Script {
    fn status(&self) -> Answer<'_, Option<Status>> {
        let node = |name: &str, health| NodeStatus {
            node: NodeId::new(name),
            role: None,
            health,
            run_id: None,
            follows: None,
            priority: None,
            announced: true,
            offset: None,
            lag_bytes: None,
            link_up: None,
            last_seen: None,
            not_promotable: None,
            repointing: None,
            lacks: None,
        };
        let status = Status {
            backend: "main".into(),
            phase: "learning".to_owned(),
            step: "nobody says that it is primary".to_owned(),
            epoch: Epoch(0),
            gate: Gate::Closed,
            primary: None,
            undecided: None,
            nodes: vec![node("a:1", Health::Refused), node("b:1", Health::Up)],
            sentinels: Vec::new(),
            shards: Vec::new(),
        };
        Box::pin(async move { self.answers.then_some(status) })
    }

    fn reports(&self) -> Vec<FailoverReport> {
        vec![report(Outcome::Done)]
    }

    fn switchover(&self, to: Option<NodeId>) -> Answer<'_, Result<FailoverReport, String>> {
        self.asked.lock().expect("no panic").push(to);
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            self.switchover.clone().map(report)
        })
    }
}

struct Running {
    address: SocketAddr,
    writer: TopologyWriter,
    script: Arc<Script>,
    admin: Arc<Admin>,
}

impl Running {
    fn start(script: Script, allow_remote: AllowRemote) -> Running {
        let (writer, topology) = channel(Topology::unknown("main"), 1);
        let script = Arc::new(script);
        let admin = Arc::new(Admin {
            settings: AdminSettings {
                allow_remote,
                ..AdminSettings::default()
            },
            backends: vec![Backend {
                name: "main".into(),
                authority: "embedded",
                listeners: vec!["127.0.0.1:6379".to_owned()],
                topology,
                operator: script.clone(),
            }],
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            started: pointsman::clock::now(),
            switchover_timeout: Duration::from_millis(100),
            stopping: AtomicBool::new(false),
        });
        // The wildcard address, so that a peer can be another machine: see `remote`.
        let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        listener.set_nonblocking(true).expect("a socket");
        let shared = admin.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                    serve(listener, shared).await;
                });
        });
        Running {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            writer,
            script,
            admin,
        }
    }

    fn publish(&self, gate: Gate) {
        let mut next = Topology::unknown("main");
        next.epoch = Epoch(1);
        next.gate = gate;
        next.primary = Some(Primary {
            node: NodeId::new("a:1"),
            run_id: "run".into(),
            repl_id: "repl".into(),
        });
        self.writer.publish(next);
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
    }

    fn post(&self, to: SocketAddr, path: &str, headers: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.ask(to, &(head + body))
    }

    fn switchover(&self, body: &Value) -> (u16, Value) {
        let json = "content-type: application/json\r\n";
        let (code, body) = self.post(self.address, "/api/switchover", json, &body.to_string());
        (
            code,
            serde_json::from_str(&body).expect("every answer is JSON"),
        )
    }

    fn ask(&self, to: SocketAddr, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(to).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let code = head.split(' ').nth(1).expect("a status").parse();
        (code.expect("a number"), body.to_owned())
    }

    /// The server by an address that is not loopback, where this machine has one.
    fn remote(&self) -> Option<SocketAddr> {
        // No packet is sent: connecting a datagram socket only chooses the source address.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback()).then(|| SocketAddr::new(ip, self.address.port()))
    }
}

#[test]
fn who_asks_for_the_primary_waits_for_another_one() {
    let running = Running::start(Script::default(), AllowRemote::None);
    let ask = |query: &str| {
        let (code, body) = running.get(&format!("/api/primary?{query}"));
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        (code, answer)
    };
    let (code, first) = ask("backend=main");
    assert_eq!(code, 200);
    assert_eq!(first["primary"], Value::Null);
    assert_eq!(first["authority"], "embedded");

    // Nothing changes: the same again, when the time is over.
    let (_, same) = ask("backend=main&unlike=0&wait_ms=1");
    assert_eq!(same, first);

    // Something changes while it waits: at once. A wait that the change does not end would take ten
    // seconds, which is as long as the test listens.
    let (_, news) = std::thread::scope(|threads| {
        let waiting = threads.spawn(|| ask("backend=main&unlike=0"));
        running.publish(Gate::Open);
        waiting.join().expect("no panic")
    });
    assert_eq!(news["primary"]["node"], "a:1");
    assert_eq!(
        (&news["epoch"], &news["generation"]),
        (&json!(1), &json!(1))
    );

    // Of one that has started again the generation is older, and it is news all the same.
    assert_eq!(ask("backend=main&unlike=7").1, news);
    assert_eq!(ask("backend=other").0, 404);
    assert_eq!(ask("unlike=0").0, 400);
}

#[test]
fn it_lives_as_soon_as_it_listens_and_is_ready_when_requests_flow() {
    let running = Running::start(Script::default(), AllowRemote::None);
    assert_eq!(running.get("/livez"), (200, "ok\n".to_owned()));

    let (code, body) = running.get("/readyz");
    let answer: ReadyAnswer = serde_json::from_str(&body).expect("JSON");
    assert_eq!(code, 503);
    assert_eq!(
        answer.backends[0].waiting_for.as_deref(),
        Some("learning: nobody says that it is primary (a:1 refuses connections)")
    );

    running.publish(Gate::Open);
    let (code, body) = running.get("/readyz");
    assert_eq!(code, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON"),
        json!({"ready": true, "stopping": false, "backends": [
            {"backend": "main", "ready": true, "waiting_for": null}
        ]})
    );

    running.publish(Gate::Closed);
    assert_eq!(running.get("/readyz").0, 503);
    running.publish(Gate::Open);
    running.admin.stop();
    assert_eq!(running.get("/readyz").0, 503);
    assert_eq!(running.get("/livez").0, 200);
}

#[test]
fn a_control_plane_that_does_not_answer_is_said() {
    let silent = Script {
        answers: false,
        ..Script::default()
    };
    let running = Running::start(silent, AllowRemote::None);
    let (code, body) = running.get("/readyz");
    assert_eq!(code, 503);
    assert!(body.contains("an answer of the control plane"), "{body}");
}

#[test]
fn status_topology_and_reports_are_json() {
    let running = Running::start(Script::default(), AllowRemote::None);
    running.publish(Gate::Open);
    let (code, body) = running.get("/api/status");
    assert_eq!(code, 200);
    let status: StatusAnswer = serde_json::from_str(&body).expect("the commands can read it");
    assert!(status.ready);
    assert_eq!(status.backends[0].topology.epoch, Epoch(1));
    assert_eq!(status.backends[0].authority, "embedded");
    assert_eq!(status.backends[0].last_report, Some(report(Outcome::Done)));

    let (_, body) = running.get("/api/topology");
    let topology: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(topology[0]["primary"]["node"], "a:1");
    assert_eq!(topology[0]["gate"], "open");

    let (_, body) = running.get("/api/failovers?backend=main");
    let reports: Vec<FailoverReport> = serde_json::from_str(&body).expect("JSON");
    assert_eq!(reports, [report(Outcome::Done)]);
    let (code, body) = running.get("/api/failovers?backend=mian");
    assert_eq!(code, 404);
    assert!(body.contains("no backend `mian`; there is: main"), "{body}");
    assert_eq!(running.get("/api/failovers?bakend=main").0, 400);
}

#[test]
fn unknown_paths_and_methods_say_where_to_look() {
    let running = Running::start(Script::default(), AllowRemote::None);
    let (code, body) = running.get("/api/nothing");
    assert_eq!(code, 404);
    assert!(body.contains("GET / lists the paths"), "{body}");
    let (code, body) = running.get("/api/switchover");
    assert_eq!(code, 405);
    assert!(body.contains("another method"), "{body}");
    let (code, body) = running.get("/");
    assert_eq!(code, 200);
    assert!(body.contains("POST /api/switchover"), "{body}");
    let (code, _) = running.get("/metrics");
    assert_eq!(code, 200);
}

#[test]
fn a_switchover_answers_with_its_report() {
    let running = Running::start(Script::default(), AllowRemote::None);
    let (code, body) = running.switchover(&json!({"backend": "main", "to": "b:1"}));
    assert_eq!((code, &body["to"]), (200, &json!("b:1")));
    running.switchover(&json!({"backend": "main"}));
    assert_eq!(
        *running.script.asked.lock().expect("no panic"),
        [Some(NodeId::new("b:1")), None]
    );
}

#[test]
fn a_switchover_that_does_not_happen_says_why() {
    let refused = Script {
        switchover: Err("the authority is `follow`".to_owned()),
        ..Script::default()
    };
    let running = Running::start(refused, AllowRemote::None);
    let (code, body) = running.switchover(&json!({"backend": "main"}));
    assert_eq!(
        (code, body),
        (409, json!({"error": "the authority is `follow`"}))
    );

    let aborted = Script {
        switchover: Ok(Outcome::Aborted("b:1 lags".to_owned())),
        ..Script::default()
    };
    let running = Running::start(aborted, AllowRemote::None);
    let (code, body) = running.switchover(&json!({"backend": "main"}));
    assert_eq!((code, &body["error"]), (409, &json!("b:1 lags")));
    assert_eq!(body["report"]["epoch"], 2);

    let hangs = Script {
        hangs: true,
        ..Script::default()
    };
    let running = Running::start(hangs, AllowRemote::None);
    let (code, body) = running.switchover(&json!({"backend": "main"}));
    assert_eq!(code, 504);
    assert!(
        body["error"].to_string().contains("still running"),
        "{body}"
    );
}

#[test]
fn wrong_bodies_are_refused_and_nothing_is_started() {
    let running = Running::start(Script::default(), AllowRemote::None);
    assert_eq!(running.switchover(&json!({"backend": "mian"})).0, 404);
    assert_eq!(
        running.switchover(&json!({"backend": "main", "too": 1})).0,
        422
    );
    let post = |headers: &str, body: &str| {
        running
            .post(running.address, "/api/switchover", headers, body)
            .0
    };
    let json = "content-type: application/json\r\n";
    assert_eq!(post(json, "{"), 400);
    assert_eq!(post(json, &format!("\"{}\"", "x".repeat(20_000))), 413);
    let body = json!({"backend": "main"}).to_string();
    assert_eq!(post("", &body), 415);
    let page = format!("{json}origin: http://evil.example\r\n");
    assert_eq!(post(&page, &body), 403);
    assert!(running.script.asked.lock().expect("no panic").is_empty());
}

#[test]
fn other_machines_may_do_what_the_configuration_allows() {
    let body = json!({"backend": "main"}).to_string();
    for (allow, get, post) in [
        (AllowRemote::None, 403, 403),
        (AllowRemote::Read, 200, 403),
        (AllowRemote::All, 200, 200),
    ] {
        let running = Running::start(Script::default(), allow);
        let Some(remote) = running.remote() else {
            eprintln!("this machine has no address but loopback: nothing to try");
            return;
        };
        let request = "GET /api/topology HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert_eq!(running.ask(remote, request).0, get, "{allow:?}");
        let json = "content-type: application/json\r\n";
        let (code, _) = running.post(remote, "/api/switchover", json, &body);
        assert_eq!(code, post, "{allow:?}");
        assert_eq!(running.get("/api/topology").0, 200);
    }
}

#[test]
fn a_slow_or_oversized_request_harms_nobody() {
    let running = Running::start(Script::default(), AllowRemote::None);
    let _slow: Vec<TcpStream> = (0..32)
        .map(|_| {
            let mut stream = TcpStream::connect(running.address).expect("it listens");
            stream.write_all(b"GET /livez HT").expect("it reads");
            stream
        })
        .collect();
    let huge = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(60_000));
    assert_eq!(running.ask(running.address, &huge).0, 431);
    assert_eq!(running.get("/livez").0, 200);
}

/// What the program prints, and its exit code.
fn command(running: &Running, args: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(args)
        .args(["--admin", &running.address.to_string()])
        .output()
        .expect("the program starts");
    (
        output.status.code().expect("it was not killed"),
        String::from_utf8(output.stdout).expect("UTF-8"),
        String::from_utf8(output.stderr).expect("UTF-8"),
    )
}

#[test]
fn the_commands_show_what_the_server_says() {
    let running = Running::start(Script::default(), AllowRemote::None);
    running.publish(Gate::Open);
    let (code, out, _) = command(&running, &["status"]);
    assert_eq!(code, 0);
    for part in [
        ", ready, up ",
        "backend main: learning (nobody says that it is primary), epoch 1, authority embedded",
        "* a:1",
        "REFUSED",
        "last change: switchover a:1 -> b:1",
    ] {
        assert!(out.contains(part), "no `{part}` in\n{out}");
    }
    let (code, out, _) = command(&running, &["status", "--json"]);
    assert_eq!(code, 0);
    serde_json::from_str::<StatusAnswer>(&out).expect("the same JSON as the server's");

    let (code, out, _) = command(&running, &["failovers", "main", "--last", "1"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("backend main, epoch 2: switchover a:1 -> b:1"),
        "{out}"
    );
    let (code, _, err) = command(&running, &["failovers", "mian"]);
    assert_eq!(code, 1);
    assert!(err.contains("no backend `mian`; there is: main"), "{err}");

    let (code, out, _) = command(&running, &["switchover", "main", "--to", "b:1"]);
    assert_eq!(code, 0);
    assert!(out.contains("clients waited 17 ms"), "{out}");
    assert_eq!(
        *running.script.asked.lock().expect("no panic"),
        [Some(NodeId::new("b:1"))]
    );
}

#[test]
fn a_switchover_that_does_not_happen_fails_the_command() {
    let aborted = Script {
        switchover: Ok(Outcome::Aborted("b:1 lags".to_owned())),
        ..Script::default()
    };
    let running = Running::start(aborted, AllowRemote::None);
    let (code, out, err) = command(&running, &["switchover", "main"]);
    assert_eq!(code, 1);
    assert_eq!(err, "pointsman: no switchover: b:1 lags\n");
    assert!(out.contains("switchover given up"), "{out}");
    let (code, out, err) = command(&running, &["switchover", "main", "--json"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["error"], "b:1 lags");
}
