//! One `redis-server` or `valkey-server` process, as a server or as a sentinel, with a directory, a port and a configuration file
//! that outlive the process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Address, Client, Protocol};
use super::{LabError, Port, Value, until};
use crate::resp::info::ServerKind;
use crate::topology::NodeId;

/// How long a process may take to start, to load its data or to end.
pub const START: Duration = Duration::from_secs(20);

/// Bound of one command given through [`Server::cli`].
pub const COMMAND: Duration = Duration::from_secs(10);

/// What a node keeps on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: after a restart it is empty.
    #[default]
    None,
    /// A snapshot at every orderly end.
    Rdb,
    /// Every write, before it is answered.
    Aof,
}

/// What happens to the data when a node starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It finds what it had written to its disk.
    Kept,
    /// It finds nothing, as in a new container.
    Empty,
}

/// How a node is configured.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The server's program.
    pub program: PathBuf,
    /// What it keeps on its disk.
    pub persistence: Persistence,
    /// `requirepass` and `masterauth`.
    pub password: Option<String>,
    /// `replica-priority`; 0 means never promote.
    pub priority: u32,
    /// The address it follows from its start.
    pub replica_of: Option<NodeId>,
    /// Further lines of its configuration file; a later line overrides an earlier one.
    pub config: Vec<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            program: Server::program(),
            persistence: Persistence::None,
            password: None,
            priority: 100,
            replica_of: None,
            config: Vec::new(),
        }
    }
}

/// A node. Its process may be dead or stopped; the node stays. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    directory: PathBuf,
    port: Port,
    password: Option<String>,
    /// Started with `--sentinel`.
    is_sentinel: bool,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// `REDIS_SERVER` of the environment, else `redis-server`.
    pub fn program() -> PathBuf {
        std::env::var_os("REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
    }

    /// What that program is, with major and minor version; Valkey counts on from Redis 7.2.
    pub fn version() -> Result<(ServerKind, (u16, u16)), LabError> {
        let said = Command::new(Server::program())
            .arg("--version")
            .output()
            .map_err(LabError::io("ask the server for its version"))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let number = said.split_once("v=").map(|(_, rest)| rest.split('.'));
        let mut parts = number.into_iter().flatten().map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => {
                let kind = match said.starts_with("Valkey") {
                    true => ServerKind::Valkey,
                    false => ServerKind::Redis,
                };
                Ok((kind, (major, minor)))
            }
            _ => Err(LabError::Unexpected(format!("no version: {said}"))),
        }
    }

    /// Makes `directory`, writes the configuration and starts the process; returns when it answers.
    pub async fn start(directory: PathBuf, options: ServerOptions) -> Result<Server, LabError> {
        Server::start_at(Port::pick()?, directory, options).await
    }

    /// The same on this port.
    pub async fn start_at(
        port: Port,
        directory: PathBuf,
        options: ServerOptions,
    ) -> Result<Server, LabError> {
        fs::create_dir_all(&directory)
            .map_err(LabError::io(format!("make {}", directory.display())))?;
        let server = Server {
            port,
            password: options.password.clone(),
            program: options.program.clone(),
            is_sentinel: false,
            process: Mutex::new(None),
            directory,
        };
        server.write_config(&server.config_text(&options))?;
        server.spawn(&[])?;
        server.ready().await?;
        Ok(server)
    }

    /// The same program as a sentinel, with these lines in its configuration.
    pub async fn start_sentinel(
        directory: PathBuf,
        program: PathBuf,
        password: Option<String>,
        lines: &[String],
    ) -> Result<Server, LabError> {
        fs::create_dir_all(&directory)
            .map_err(LabError::io(format!("make {}", directory.display())))?;
        let server = Server {
            port: Port::pick()?,
            password: password.clone(),
            program,
            is_sentinel: true,
            process: Mutex::new(None),
            directory,
        };
        let mut text = server.place();
        text.extend(password.map(|password| format!("requirepass {password}")));
        text.extend(lines.iter().cloned());
        text.push(String::new());
        server.write_config(&text.join("\n"))?;
        server.spawn(&[])?;
        server.ready().await?;
        Ok(server)
    }

    fn write_config(&self, text: &str) -> Result<(), LabError> {
        let config = self.config_file();
        fs::write(&config, text).map_err(LabError::io(format!("write {}", config.display())))
    }

    /// The program that it runs.
    pub fn own_program(&self) -> &Path {
        &self.program
    }

    /// Its address as pointsman's configuration names it.
    pub fn id(&self) -> NodeId {
        NodeId::new(self.port.address())
    }

    /// Its address for clients.
    pub fn address(&self) -> Address {
        Address::Tcp(self.port.address())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its configuration, log and data are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file it was started with; CONFIG REWRITE changes it.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("redis.conf")
    }

    /// The end of its log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.directory.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it hangs, while the kernel goes on acknowledging what it is sent.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on where it was stopped.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM; returns when the process is gone, or says that it did not end.
    pub async fn terminate(&self) -> Result<(), LabError> {
        self.signal(Signal::TERM);
        until("the end of a server", START, async || {
            match self.process().as_mut().map(Child::try_wait) {
                Some(Ok(None)) => Err(self.log_tail()),
                _ => Ok(()),
            }
        })
        .await?;
        self.kill();
        Ok(())
    }

    /// Kills the process if there is one and starts it again; returns when it answers.
    pub async fn restart(&self, data: Data) -> Result<(), LabError> {
        self.restart_now(data)?;
        self.ready().await
    }

    /// As [`Server::restart`], without waiting for the first answer.
    pub fn restart_now(&self, data: Data) -> Result<(), LabError> {
        self.kill();
        if data == Data::Empty {
            self.wipe()?;
        }
        self.spawn(&[])
    }

    /// As [`Server::restart_now`], following `primary` from the first moment.
    pub fn restart_as_replica(&self, primary: &Server, data: Data) -> Result<(), LabError> {
        self.kill();
        if data == Data::Empty {
            self.wipe()?;
        }
        let port = primary.port().to_string();
        self.spawn(&["--replicaof", "127.0.0.1", &port])
    }

    /// Deletes its data files; the configuration stays.
    pub fn wipe(&self) -> Result<(), LabError> {
        for name in ["dump.rdb", "appendonly.aof"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        let _ = fs::remove_dir_all(self.directory.join("appendonlydir"));
        Ok(())
    }

    /// Waits until it answers and has loaded its data.
    pub async fn ready(&self) -> Result<(), LabError> {
        until("the start of a server", START, async || {
            if let Some(Ok(Some(status))) = self.process().as_mut().map(Child::try_wait) {
                return Err(format!("it ended with {status}\n{}", self.log_tail()));
            }
            let info = self.info().await.map_err(|e| e.to_string())?;
            if self.is_sentinel {
                return Ok(());
            }
            match info.get("loading").map(String::as_str) {
                Some("0") => Ok(()),
                _ => Err("it is loading".into()),
            }
        })
        .await
    }

    /// A connection to it, logged in.
    pub async fn client(&self) -> Result<Client, LabError> {
        Client::open(&self.address(), Protocol::Resp2, self.password.as_deref())
            .await
            .map_err(LabError::client(format!("connect to {}", self.id())))
    }

    /// Runs one command on a connection of its own and returns the reply, also an error reply.
    pub async fn cli(&self, request: &[&str]) -> Result<Value, LabError> {
        let what = || format!("{} on {}", request.join(" "), self.id());
        let mut client = self.client().await?;
        client
            .call_within(COMMAND, request)
            .await
            .map_err(LabError::client(what()))
    }

    /// INFO as a map.
    pub async fn info(&self) -> Result<BTreeMap<String, String>, LabError> {
        let reply = self.cli(&["INFO"]).await?;
        let text = reply
            .text()
            .ok_or_else(|| LabError::Unexpected(format!("INFO on {}: {reply}", self.id())))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim_end().to_owned()))
            .collect())
    }

    /// One field of INFO, empty when absent.
    pub async fn info_field(&self, field: &str) -> Result<String, LabError> {
        Ok(self.info().await?.remove(field).unwrap_or_default())
    }

    /// How far its replication history goes, bytes.
    pub async fn offset(&self) -> Result<u64, LabError> {
        let info = self.info().await?;
        let field = match info.get("role").map(String::as_str) {
            Some("slave") => "slave_repl_offset",
            _ => "master_repl_offset",
        };
        Ok(info.get(field).and_then(|v| v.parse().ok()).unwrap_or(0))
    }

    /// Whether it says that it is a primary.
    pub async fn is_primary(&self) -> Result<bool, LabError> {
        Ok(self.info_field("role").await? == "master")
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.process().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn spawn(&self, arguments: &[&str]) -> Result<(), LabError> {
        let output = self.directory.join("output.log");
        let output =
            File::create(&output).map_err(LabError::io(format!("write {}", output.display())))?;
        let child = Command::new(&self.program)
            .arg(self.config_file())
            .args(self.is_sentinel.then_some("--sentinel"))
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stderr(Stdio::from(
                output.try_clone().map_err(LabError::io("copy a file"))?,
            ))
            .stdout(Stdio::from(output))
            .spawn()
            .map_err(LabError::io(format!("start {}", self.program.display())))?;
        *self.process() = Some(child);
        Ok(())
    }

    /// What servers and sentinels have in common.
    fn place(&self) -> Vec<String> {
        vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", self.port.number()),
            format!("dir {}", self.directory.display()),
            "logfile server.log".into(),
            "daemonize no".into(),
            // Without it, other addresses of this machine than 127.0.0.1 are strangers.
            "protected-mode no".into(),
        ]
    }

    fn config_text(&self, options: &ServerOptions) -> String {
        let mut lines = self.place();
        lines.extend([
            "repl-diskless-sync yes".to_owned(),
            "repl-diskless-sync-delay 0".into(),
            format!("replica-priority {}", options.priority),
        ]);
        lines.extend(match options.persistence {
            Persistence::None => vec!["save \"\"".to_owned(), "appendonly no".into()],
            Persistence::Rdb => vec!["save 3600 1".to_owned(), "appendonly no".into()],
            Persistence::Aof => vec![
                "save \"\"".to_owned(),
                "appendonly yes".into(),
                // The default may lose the last two seconds to a SIGKILL: while a background flush
                // runs, nothing is written.
                "appendfsync always".into(),
            ],
        });
        if let Some(password) = &options.password {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("masterauth {password}"));
        }
        if let Some((host, port)) = options.replica_of.as_ref().and_then(NodeId::host_port) {
            lines.push(format!("replicaof {host} {port}"));
        }
        lines.extend(options.config.iter().cloned());
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
