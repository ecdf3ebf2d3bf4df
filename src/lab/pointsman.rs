//! The program itself as a child process, with a configuration in a directory of its own, and a
//! judge of what it logged.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use super::client::{Address, Client, Protocol};
use super::{LabError, Port, Scratch, http, until};
use crate::admin::StatusAnswer;
use crate::topology::{Epoch, FailoverReport, NodeId, Topology};

/// How long it may take to be ready, or to end.
pub const START: Duration = Duration::from_secs(20);

/// Bound of one question to its admin server; a switchover answers when it is over.
const ASK: Duration = Duration::from_secs(15);

/// Name of the only backend.
pub const BACKEND: &str = "main";

/// How it is configured.
#[derive(Clone, Debug)]
pub struct PointsmanOptions {
    /// The program; `None` for the one that is running (`pointsman demo`).
    pub program: Option<PathBuf>,
    /// The nodes, as in the configuration.
    pub nodes: Vec<String>,
    /// What it logs in to the nodes with.
    pub password: Option<String>,
    /// The nodes are a Redis Cluster.
    pub cluster: bool,
    /// `follow` instead of `embedded`.
    pub follow: bool,
    /// The lines `source = ...` and `authority = ...`, instead of those that follow from `nodes` and
    /// `follow`.
    pub source: Option<String>,
    /// Another `authority` than these two: its table.
    pub authority: Option<String>,
    /// Where the record is; `None`: beside the configuration.
    pub state: Option<PathBuf>,
    /// Further lines of `[backend.main]`.
    pub backend: String,
    /// Lines of `[backend.main.failover]`.
    pub failover: String,
    /// Lines of `[backend.main.requests]`.
    pub requests: String,
    /// Lines of `[proxy]`.
    pub proxy: String,
    /// Further tables.
    pub tables: String,
    /// `log.level`.
    pub log_level: String,
}

impl PointsmanOptions {
    /// Every setting at its default, in front of these nodes.
    pub fn in_front_of(nodes: Vec<String>) -> Self {
        PointsmanOptions {
            program: None,
            nodes,
            password: None,
            cluster: false,
            follow: false,
            source: None,
            authority: None,
            state: None,
            backend: String::new(),
            failover: String::new(),
            requests: String::new(),
            proxy: String::new(),
            tables: String::new(),
            log_level: "info".into(),
        }
    }
}

/// See [`Pointsman::serving`].
#[derive(Clone, Debug)]
pub struct Serving {
    /// `None`: requests wait.
    pub primary: Option<NodeId>,
    /// Of the shard, where there are several.
    pub epoch: Epoch,
}

/// A running pointsman. Its process may be dead or stopped; configuration, record and log stay.
/// Dropping it kills the process.
#[derive(Debug)]
pub struct Pointsman {
    program: PathBuf,
    port: Port,
    admin: Port,
    process: Mutex<Option<Child>>,
    state: Option<PathBuf>,
    scratch: Scratch,
}

impl Pointsman {
    /// Writes the configuration and starts the process; returns at once.
    pub fn start(options: &PointsmanOptions) -> Result<Pointsman, LabError> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(LabError::io("find this program"))?,
        };
        let pointsman = Pointsman {
            program,
            port: Port::pick()?,
            admin: Port::pick()?,
            process: Mutex::new(None),
            state: options.state.clone(),
            scratch: Scratch::new()?,
        };
        let write = |path: &Path, text: &str| {
            fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
        };
        if let Some(password) = &options.password {
            write(&pointsman.password_file(), password)?;
        }
        write(&pointsman.config_file(), &pointsman.config_text(options))?;
        pointsman.restart()?;
        Ok(pointsman)
    }

    /// As [`Pointsman::start`], and waits until it says that it is ready.
    pub async fn start_ready(options: &PointsmanOptions) -> Result<Pointsman, LabError> {
        let pointsman = Pointsman::start(options)?;
        pointsman.ready().await?;
        Ok(pointsman)
    }

    /// Where clients connect.
    pub fn address(&self) -> Address {
        Address::Tcp(self.port.address())
    }

    /// The unix socket where clients may connect as well.
    pub fn socket(&self) -> Address {
        Address::Unix(self.scratch.path().join("redis.sock"))
    }

    /// The port where clients connect.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `host:port` of the admin server.
    pub fn admin(&self) -> String {
        self.admin.address()
    }

    /// Its configuration.
    pub fn config_file(&self) -> PathBuf {
        self.scratch.path().join("pointsman.toml")
    }

    /// The authority's record.
    pub fn state_file(&self) -> PathBuf {
        let beside = || self.scratch.path().join("main.json");
        self.state.clone().unwrap_or_else(beside)
    }

    /// Where configuration, record and log are.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// Starts it again with the same configuration, ending it first if it lives.
    pub fn restart(&self) -> Result<(), LabError> {
        self.spawn(&[])
    }

    /// As [`Pointsman::restart`], and it ends itself at this point of the next failover or switchover:
    /// `before-promote`, `after-promote`, ...
    pub fn restart_to_crash(&self, point: &str) -> Result<(), LabError> {
        self.spawn(&[("POINTSMAN_CRASH_AT", point)])
    }

    /// As [`Pointsman::restart`], with its clock so many seconds off; `library` is libfaketime.
    pub fn restart_with_clock(&self, library: &str, off: i64) -> Result<(), LabError> {
        self.spawn(&[
            ("LD_PRELOAD", library),
            ("FAKETIME", &format!("{off:+}s")),
            ("DONT_FAKE_MONOTONIC", "1"),
        ])
    }

    fn spawn(&self, environment: &[(&str, &str)]) -> Result<(), LabError> {
        self.kill();
        let path = self.log_file();
        let what = format!("write {}", path.display());
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let log: File = open.map_err(LabError::io(what))?;
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(self.config_file())
            .current_dir(self.scratch.path())
            .env_remove("POINTSMAN_LOG")
            .env_remove("POINTSMAN_CRASH_AT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(LabError::io(format!("start {}", self.program.display())))?;
        *self.process() = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&self) -> Result<(), LabError> {
        until("readiness of pointsman", START, async || {
            if let Some(Ok(Some(status))) = self.process().as_mut().map(Child::try_wait) {
                return Err(format!("it ended with {status}\n{}", self.log_tail()));
            }
            match http::get(&self.admin(), "/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status} {body}\n{}", self.log_tail())),
                Err(error) => Err(format!("{error}\n{}", self.log_tail())),
            }
        })
        .await
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM without waiting.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM; returns how the process ended.
    pub async fn terminate(&self) -> Result<ExitStatus, LabError> {
        self.ask_to_end();
        self.ended().await
    }

    /// Waits for the end of the process.
    pub async fn ended(&self) -> Result<ExitStatus, LabError> {
        let status = until("the end of pointsman", START, async || {
            match self.process().as_mut().map(Child::try_wait) {
                Some(Ok(Some(status))) => Ok(status),
                _ => Err(self.log_tail()),
            }
        });
        let status = status.await?;
        self.kill();
        Ok(status)
    }

    /// A connection through it, logged in with `password` when there is one.
    pub async fn client(&self, password: Option<&str>) -> Result<Client, LabError> {
        Client::open(&self.address(), Protocol::Resp2, password)
            .await
            .map_err(LabError::client("connect to pointsman"))
    }

    /// What it publishes now.
    pub async fn topology(&self) -> Result<Topology, LabError> {
        let all: Vec<Topology> = self.ask("/api/topology").await?;
        let mine = all.into_iter().find(|t| &*t.backend == BACKEND);
        mine.ok_or_else(|| LabError::Unexpected("no topology of the backend".into()))
    }

    /// Who serves now: of a cluster each shard, else the one primary.
    pub async fn serving(&self) -> Result<Vec<Serving>, LabError> {
        let answer: StatusAnswer = self.ask("/api/status").await?;
        let mine = answer.backends.into_iter().find(|b| &*b.backend == BACKEND);
        let mine = mine.ok_or_else(|| LabError::Unexpected("no status of the backend".into()))?;
        let shards = mine.status.map(|status| status.shards).unwrap_or_default();
        if shards.is_empty() {
            return Ok(vec![Serving {
                primary: mine.topology.open_primary().map(|p| p.node.clone()),
                epoch: mine.topology.epoch,
            }]);
        }
        let serving = shards.into_iter().map(|shard| Serving {
            primary: shard.primary.filter(|_| shard.serves),
            epoch: shard.epoch,
        });
        Ok(serving.collect())
    }

    /// The reports of its failovers and switchovers, oldest first.
    pub async fn failovers(&self) -> Result<Vec<FailoverReport>, LabError> {
        let mut reports: Vec<FailoverReport> = self.ask("/api/failovers").await?;
        reports.sort_by_key(|report| report.unix_millis);
        Ok(reports)
    }

    /// Waits for the report number `count` (counted from one since the start of the process).
    pub async fn failover(
        &self,
        count: usize,
        limit: Duration,
    ) -> Result<FailoverReport, LabError> {
        until("a failover report", limit, async || {
            let reports = self.failovers().await.map_err(|e| e.to_string())?;
            reports
                .get(count - 1)
                .cloned()
                .ok_or_else(|| format!("{} reports\n{}", reports.len(), self.log_tail()))
        })
        .await
    }

    /// Asks for a planned switchover and returns its report, or the refusal's text.
    pub async fn switchover(
        &self,
        to: Option<&NodeId>,
    ) -> Result<Result<FailoverReport, String>, LabError> {
        let admin = self.admin();
        let body = serde_json::json!({ "backend": BACKEND, "to": to }).to_string();
        let answer = http::post(&admin, "/api/switchover", &body);
        let (status, text) = within("POST /api/switchover", answer).await?;
        if status != 200 {
            return Ok(Err(text));
        }
        parse("/api/switchover", &text).map(Ok)
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> Result<String, LabError> {
        Ok(within("GET /metrics", http::get(&self.admin(), "/metrics"))
            .await?
            .1)
    }

    /// The value of one sample of `/metrics`; labels are compared as text.
    pub async fn metric(&self, sample: &str) -> Result<Option<f64>, LabError> {
        let text = self.metrics().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(line.and_then(|value| value.trim().parse().ok()))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, LabError> {
        let (status, text) = within(path, http::get(&self.admin(), path)).await?;
        match status {
            200 => parse(path, &text),
            _ => Err(LabError::Unexpected(format!("GET {path}: {status} {text}"))),
        }
    }

    /// Everything it logged, one JSON object a line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The end of its log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Lines of level WARN or ERROR, and lines that are no log lines at all (a panic), that hold
    /// none of the `expected` texts.
    pub fn unexpected_log_lines(&self, expected: &[&str]) -> Vec<String> {
        let log = self.log();
        let alarming = |line: &&str| match serde_json::from_str::<Json>(line) {
            Ok(event) => matches!(event["level"].as_str(), Some("WARN" | "ERROR") | None),
            Err(_) => true,
        };
        let unexpected = |line: &&str| !expected.iter().any(|text| line.contains(text));
        log.lines()
            .filter(alarming)
            .filter(unexpected)
            .map(str::to_owned)
            .collect()
    }

    /// Leaves its directory behind when dropped.
    pub fn keep_directory(&mut self) {
        self.scratch.keep();
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.process().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("pointsman.log")
    }

    fn password_file(&self) -> PathBuf {
        self.scratch.path().join("password")
    }

    fn config_text(&self, options: &PointsmanOptions) -> String {
        let path = |path: PathBuf| format!("{:?}", path.display().to_string());
        let nodes = format!("{:?}", options.nodes);
        let authority = match &options.authority {
            Some(authority) => authority.clone(),
            None if options.cluster => r#"{ kind = "cluster" }"#.to_owned(),
            None if options.follow => r#"{ kind = "follow" }"#.to_owned(),
            None => format!(
                r#"{{ kind = "embedded", state = {} }}"#,
                path(self.state_file())
            ),
        };
        // A proxy learns its nodes from the record.
        let source = match options.nodes.is_empty() {
            true => String::new(),
            false if options.cluster => {
                format!("source = {{ kind = \"cluster\", nodes = {nodes} }}")
            }
            false => format!("source = {{ kind = \"static\", nodes = {nodes} }}"),
        };
        let auth = match options.password {
            Some(_) => format!(
                "auth = {{ password_file = {} }}",
                path(self.password_file())
            ),
            None => String::new(),
        };
        let source = options
            .source
            .clone()
            .unwrap_or_else(|| format!("{source}\nauthority = {authority}"));
        let failover = match options.cluster {
            true => String::new(),
            false => format!("[backend.{BACKEND}.failover]\n{}", options.failover),
        };
        let socket = self.scratch.path().join("redis.sock");
        format!(
            "[admin]\nbind = \"{admin}\"\n\n\
             [log]\nformat = \"json\"\nlevel = \"{level}\"\n\n\
             [proxy]\n{proxy}\n\n\
             [[listener]]\nbind = \"{bind}\"\nbackend = \"{BACKEND}\"\n\n\
             [[listener]]\nbind = \"unix:{socket}\"\nbackend = \"{BACKEND}\"\n\n\
             [backend.{BACKEND}]\n\
             {source}\n{auth}\n{backend}\n\n\
             {failover}\n\n\
             [backend.{BACKEND}.requests]\n{requests}\n\n{tables}\n",
            admin = self.admin.address(),
            level = options.log_level,
            proxy = options.proxy,
            bind = self.port.address(),
            socket = socket.display(),
            backend = options.backend,
            failover = failover,
            requests = options.requests,
            tables = options.tables,
        )
    }
}

impl Drop for Pointsman {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn within<T>(
    what: &str,
    answer: impl Future<Output = Result<T, LabError>>,
) -> Result<T, LabError> {
    match tokio::time::timeout(ASK, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(LabError::Late {
            what: format!("an answer to {what}"),
            limit: ASK,
            state: String::new(),
        }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, text: &str) -> Result<T, LabError> {
    serde_json::from_str(text)
        .map_err(|error| LabError::Unexpected(format!("{path} answered {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_written_is_a_valid_configuration_without_a_warning() {
        let pointsman = Pointsman {
            program: "true".into(),
            port: Port::pick().unwrap(),
            admin: Port::pick().unwrap(),
            process: Mutex::new(None),
            state: None,
            scratch: Scratch::new().unwrap(),
        };
        fs::write(pointsman.password_file(), "secret").unwrap();
        let options = PointsmanOptions {
            password: Some("secret".into()),
            failover: "silent_after = \"2s\"".into(),
            ..PointsmanOptions::in_front_of(vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()])
        };
        let text = pointsman.config_text(&options);
        fs::write(pointsman.config_file(), &text).unwrap();
        let config =
            Config::load(pointsman.config_file()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.listeners.len(), 2);
    }
}
