//! `pointsman run` with nodes that are down: it starts, waits, says for what, and stops cleanly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running program; killed when dropped.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
    lines: Vec<Value>,
    directory: tempfile::TempDir,
}

impl Running {
    /// One backend whose only node is a port that nobody listens on.
    fn start(extra: &str) -> Running {
        Running::start_with_files("$(ulimit -Hn)", extra)
    }

    /// As `start`, with this limit of open files.
    fn start_with_files(limit: &str, extra: &str) -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let here = directory.path().display();
        let node = unused_port();
        let text = format!(
            r#"
[admin]
bind = "127.0.0.1:0"
[log]
format = "json"
[[listener]]
bind = "127.0.0.1:0"
backend = "main"
[[listener]]
bind = "unix:{here}/redis.sock"
mode = "0600"
backend = "main"
[backend.main]
source = {{ kind = "static", nodes = ["{node}"] }}
{extra}
"#
        );
        let file = directory.path().join("pointsman.toml");
        std::fs::write(&file, text).expect("a file");
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "ulimit -n {limit} && exec \"$0\" run --config \"$1\""
            ))
            .arg(env!("CARGO_BIN_EXE_pointsman"))
            .arg(&file)
            .env_remove("POINTSMAN_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        Running {
            child,
            log,
            lines: Vec::new(),
            directory,
        }
    }

    /// Reads the log until a line with this message; the end of the log fails the test. The time
    /// limit is the test runner's.
    fn logged(&mut self, message: &str) -> Value {
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).expect("a log");
            assert!(read > 0, "no `{message}` in {:#?}", self.lines);
            let line: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a log line: {line}"));
            self.lines.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }

    fn admin(&mut self) -> SocketAddr {
        let line = self.logged("the admin server listens");
        address(line["admin"].as_str().expect("an address"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it lives");
    }

    fn ended(mut self) -> (ExitStatus, tempfile::TempDir, Vec<Value>) {
        let status = self.child.wait().expect("our child");
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("a log");
        let lines = rest.lines().filter_map(|l| serde_json::from_str(l).ok());
        self.lines.extend(lines);
        let lines = std::mem::take(&mut self.lines);
        let directory = tempfile::tempdir().expect("a directory");
        (
            status,
            std::mem::replace(&mut self.directory, directory),
            lines,
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A port that was free a moment ago.
fn unused_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
}

fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn it_starts_while_nodes_are_down_and_says_what_it_waits_for() {
    let mut running = Running::start("");
    let serving = running.logged("serving");
    assert_eq!(serving["backend"], "main");
    let admin = running.admin();
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(admin, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("waiting_for"), "{ready}");
    let waits = running.logged("requests wait");
    assert!(waits["waiting_for"].as_str().is_some_and(|w| !w.is_empty()));

    let status = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["status", "--admin", &admin.to_string()])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(
        text.contains("NOT ready") && text.contains("waits for: "),
        "{text}"
    );
}

#[test]
fn a_signal_stops_it_with_0_and_removes_its_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = Running::start("[proxy]\ndrain_timeout = \"60s\"");
        running.admin();
        let socket: PathBuf = running.directory.path().join("redis.sock");
        // Without a request on its way there is nothing to wait for.
        let _idle = UnixStream::connect(&socket).expect("it listens");
        let begin = pointsman::clock::now();
        running.signal(signal);
        let (status, _directory, lines) = running.ended();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        let time = pointsman::clock::now().since(begin);
        assert!(time < Duration::from_secs(30), "it took {time:?}");
        assert!(!socket.exists());
        let alarms: Vec<_> = lines
            .iter()
            .filter(|l| l["level"] == "WARN" || l["level"] == "ERROR")
            // The node is down, and the core says so.
            .filter(|l| l["event"] != "undecided")
            .collect();
        assert!(alarms.is_empty(), "{alarms:#?}");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing_and_is_whole_when_it_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, admin) = (directory.path().join("pointsman.toml"), unused_port());
    let text = format!(
        "[admin]\nbind = \"{admin}\"\n[log]\nformat = \"json\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\nbackend = \"main\"\n\
         [backend.main]\nsource = {{ kind = \"static\", nodes = [\"127.0.0.1:1\"] }}\n"
    );
    std::fs::write(&file, text).expect("a file");
    let (mut log, mut full) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&full, 4096).expect("a size");
    let size = rustix::pipe::fcntl_getpipe_size(&full).expect("a size");
    full.write_all(&vec![b'\n'; size]).expect("it fits");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["run", "--config"])
        .arg(&file)
        .env_remove("POINTSMAN_LOG")
        .stderr(full)
        .spawn()
        .expect("the program starts");
    let begin = pointsman::clock::now();
    while TcpStream::connect(admin).is_err() {
        let waited = pointsman::clock::now().since(begin);
        assert!(waited < Duration::from_secs(20), "it does not start");
        std::thread::yield_now();
    }
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).expect("a log");
        text
    });
    kill_process(pid, Signal::TERM).expect("it lives");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    let text = reader.join().expect("read");
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect();
    let message = |line: Option<&Value>| line.map(|l| l["message"].clone());
    assert_eq!(message(lines.first()), Some("starting".into()), "{text}");
    assert_eq!(message(lines.last()), Some("stopped".into()), "{text}");
}

#[test]
fn a_second_signal_does_not_wait_for_clients() {
    let mut running = Running::start(
        "[backend.main.requests]\nhold_timeout = \"60s\"\n[proxy]\ndrain_timeout = \"50s\"",
    );
    let serving = running.logged("serving");
    let admin = running.admin();
    let listeners = serving["listeners"].as_str().expect("a list");
    let port = listeners.split('"').nth(1).expect("the first one");
    let mut client = TcpStream::connect(port).expect("it listens");
    client.write_all(b"GET a\r\n").expect("sent");
    // Before it is there, nothing has to be waited for.
    let held = "pointsman_requests_held{backend=\"main\"} 1";
    let begin = pointsman::clock::now();
    while !get(admin, "/metrics").contains(held) {
        let waited = pointsman::clock::now().since(begin);
        assert!(waited < Duration::from_secs(20), "it is not held");
    }
    running.signal(Signal::TERM);
    running.logged("stopping; a second signal ends at once");
    running.signal(Signal::TERM);
    let (status, _directory, lines) = running.ended();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
}

#[test]
fn a_port_in_use_is_said_before_anything_serves() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pointsman.toml");
    let text = format!(
        "[admin]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"{port}\"\nbackend = \"main\"\n\
         [backend.main]\nsource = {{ kind = \"static\", nodes = [\"127.0.0.1:1\"] }}\n"
    );
    std::fs::write(&file, text).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    let message = format!("pointsman: can not listen on {port}: the address is in use");
    assert!(err.contains(&message), "{err}");
    assert!(err.contains("hint: ss -tulnp"), "{err}");
}

/// Runs with this configuration until it gives up; every line must be a JSON object.
fn refused(text: &str, log: Option<&str>) -> (Option<i32>, Vec<Value>) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pointsman.toml");
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(["run", "--config"]).arg(&file);
    match log {
        Some(level) => command.env("POINTSMAN_LOG", level),
        None => command.env_remove("POINTSMAN_LOG"),
    };
    let output = command.output().expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    let lines = err.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|_| panic!("not a log line: {line}\n{err}"))
    });
    (output.status.code(), lines.collect())
}

#[test]
fn who_asked_for_json_gets_json_also_when_it_does_not_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound");
    let good = format!(
        "[admin]\nbind = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[[listener]]\nbind = \"{port}\"\n\
         backend = \"main\"\n[backend.main]\nsource = {{ kind = \"static\", nodes = [\"127.0.0.1:1\"] }}\n"
    );
    let says = |lines: &[Value], word: &str| {
        let last = lines.last().expect("a line");
        assert_eq!(last["level"], "ERROR", "{lines:#?}");
        let error = last["error"].as_str().unwrap_or_default();
        assert!(error.contains(word), "{lines:#?}");
    };
    let (code, lines) = refused(&good, None);
    assert_eq!(code, Some(1));
    says(&lines, "the address is in use");

    let (code, lines) = refused(&good, Some("loud"));
    assert_eq!(code, Some(2));
    says(&lines, "POINTSMAN_LOG is not a log filter");

    let (code, lines) = refused(&good.replace("nodes", "nodez"), None);
    assert_eq!(code, Some(2));
    says(&lines, "nodez");
    let last = lines.last().expect("a line");
    assert_eq!(last["line"], 9, "{last}");
    assert!(
        last["hint"].as_str().is_some_and(|h| h.contains("nodes")),
        "{last}"
    );

    // Not even TOML behind the place where JSON is asked for.
    let (code, lines) = refused(&format!("{good}]]\n"), None);
    assert_eq!(code, Some(2));
    says(&lines, "not TOML");
}

#[test]
fn a_record_that_can_not_be_understood_is_said_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("main.json");
    let file = directory.path().join("pointsman.toml");
    let text = format!(
        "[admin]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nbackend = \
         \"main\"\n[backend.main]\nsource = {{ kind = \"static\", nodes = [\"127.0.0.1:1\", \
         \"127.0.0.1:2\"] }}\nauthority = {{ kind = \"embedded\", state = \"{}\" }}\n",
        state.display()
    );
    std::fs::write(&file, text).expect("a file");
    for (record, word) in [
        ("{", "can not be read as a record"),
        ("{\"format\": 99}", "written by a newer one"),
    ] {
        std::fs::write(&state, record).expect("a file");
        let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["run", "--config"])
            .arg(&file)
            .output()
            .expect("the program starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("main.json") && err.contains(word), "{err}");
    }
}

#[test]
fn clients_do_not_take_the_descriptors_that_pointsman_needs() {
    let mut running = Running::start_with_files("64", "");
    let lowered =
        running.logged("max_clients is lowered: it does not fit into the limit of open files");
    let most = lowered["lowered_to"].as_u64().expect("a number") as usize;
    assert!((1..32).contains(&most), "{lowered}");
    let serving = running.logged("serving");
    let listeners = serving["listeners"].as_str().expect("a list").to_owned();
    let port = address(listeners.split('"').nth(1).expect("the first one"));
    let admin = running.admin();

    let clients: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(port).expect("it listens"))
        .collect();
    // The listener serves in order: when the last one has its answer, all have been placed.
    for mut refused in &clients[most..] {
        let mut answer = String::new();
        refused.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "-ERR max number of clients reached\r\n");
    }
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    drop(clients);
}
