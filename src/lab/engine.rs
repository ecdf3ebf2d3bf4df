//! Real coordinators for the laboratory: etcd, Consul, ZooKeeper, one server or three.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::net::TcpStream;

use super::{LabError, Port, Scratch, until};
use crate::control::authority::{Authority, SharedAuthority};
use crate::control::{StoreKind, StoreSettings};

/// A Java program needs its time, on a busy machine more.
const START: Duration = Duration::from_secs(60);

/// Debian's.
const ZOOKEEPER: &str = "/usr/share/java/zookeeper.jar";

/// Where Consul's servers talk to one another.
const CONSUL: &str = "127.0.0.2";

/// What is started.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which one.
    pub kind: StoreKind,
    /// Servers: 1 or 3.
    pub members: usize,
    /// Further arguments for each server; for ZooKeeper further lines of its file.
    pub extra: Vec<String>,
}

/// A coordinator. Its servers end when this is dropped.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    members: Vec<Member>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Member {
    /// For clients; for the other servers, two of them.
    ports: [Port; 4],
    process: Option<Child>,
}

impl Engine {
    /// Starts it; returns when every server takes connections.
    pub async fn start(kind: StoreKind, members: usize) -> Result<Engine, LabError> {
        Engine::with(EngineOptions {
            kind,
            members,
            extra: Vec::new(),
        })
        .await
    }

    /// The same with more settings.
    pub async fn with(options: EngineOptions) -> Result<Engine, LabError> {
        let members = (0..options.members)
            .map(|_| {
                let pick = Port::pick;
                Ok(Member {
                    ports: [pick()?, pick()?, pick()?, pick()?],
                    process: None,
                })
            })
            .collect::<Result<_, LabError>>()?;
        let mut engine = Engine {
            options,
            members,
            scratch: Scratch::new()?,
        };
        for member in 0..engine.members.len() {
            engine.spawn(member)?;
        }
        for member in 0..engine.members.len() {
            engine.ready(member).await?;
        }
        // Logins and certificates are known to whoever asked for them.
        if engine.options.extra.is_empty() {
            engine.usable().await?;
        }
        Ok(engine)
    }

    /// The program that this machine lacks for it, if it does.
    pub fn missing(kind: StoreKind) -> Option<String> {
        let runs = |program: PathBuf, argument: &str| {
            let mut command = Command::new(program);
            let quiet = command
                .arg(argument)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            quiet.status().is_ok_and(|status| status.success())
        };
        let here = match kind {
            StoreKind::Etcd => runs("etcd".into(), "--version"),
            StoreKind::Consul => runs(consul_program(), "--version"),
            StoreKind::ZooKeeper => {
                runs("java".into(), "-version") && PathBuf::from(ZOOKEEPER).exists()
            }
        };
        (!here).then(|| kind.name().to_owned())
    }

    /// `host:port` of each server, for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.ports[0].address()).collect()
    }

    /// SIGSTOP to one server; returns when all its threads stand still.
    pub fn stop(&self, member: usize) {
        self.signal(member, Signal::STOP);
        if let Some(pid) = self.pid(member) {
            // A server that has ended does not answer either.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED);
        }
    }

    /// SIGCONT to one server.
    pub fn cont(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// `kill -9` of one server.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a server that was killed, with its data.
    pub async fn restart(&mut self, member: usize) -> Result<(), LabError> {
        self.spawn(member)?;
        self.ready(member).await
    }

    /// What its servers said last, for a person.
    pub fn log_tail(&self) -> String {
        let tails = (0..self.members.len()).map(|member| {
            let text = fs::read_to_string(self.directory(member).join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        });
        tails.collect::<Vec<_>>().join("\n--\n")
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(pid) = self.pid(member) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    fn pid(&self, member: usize) -> Option<Pid> {
        let process = self.members[member].process.as_ref();
        process.and_then(|process| Pid::from_raw(process.id() as i32))
    }

    fn directory(&self, member: usize) -> PathBuf {
        self.scratch.path().join(format!("{}", member + 1))
    }

    fn spawn(&mut self, member: usize) -> Result<(), LabError> {
        let directory = self.directory(member);
        fs::create_dir_all(&directory)
            .map_err(LabError::io(format!("make {}", directory.display())))?;
        let mut command = match self.options.kind {
            StoreKind::Etcd => self.etcd(member),
            StoreKind::Consul => self.consul(member),
            StoreKind::ZooKeeper => self.zookeeper(member)?,
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))
            .map_err(LabError::io("open a log"))?;
        let name = self.options.kind.name();
        let process = command
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(LabError::io("share a log"))?)
            .stderr(log)
            .spawn()
            .map_err(LabError::io(format!("start {name}")))?;
        self.members[member].process = Some(process);
        Ok(())
    }

    /// Waits until they have elected a leader.
    async fn usable(&self) -> Result<(), LabError> {
        let settings = StoreSettings {
            kind: self.options.kind,
            endpoints: self.endpoints(),
            prefix: "/lab".to_owned(),
            timeout: Duration::from_secs(2),
            credentials: None,
            tls: None,
        };
        let mut authority = SharedAuthority::new(&settings, "ready".into())
            .map_err(|error| LabError::Unexpected(error.0))?;
        until("a leader of the coordinator", START, async || {
            authority.load().await.map(|_| ()).map_err(|error| error.0)
        })
        .await
    }

    async fn ready(&self, member: usize) -> Result<(), LabError> {
        let address = self.members[member].ports[0].address();
        let what = format!("{} at {address}", self.options.kind.name());
        until(&what, START, async || {
            let connected = TcpStream::connect(&address).await;
            connected.map(|_| ()).map_err(|error| error.to_string())
        })
        .await
        .map_err(|error| LabError::Unexpected(format!("{error}\n{}", self.log_tail())))
    }

    fn etcd(&self, member: usize) -> Command {
        let scheme = match self
            .options
            .extra
            .iter()
            .any(|a| a.starts_with("--cert-file"))
        {
            true => "https",
            false => "http",
        };
        let client = format!("{scheme}://{}", self.members[member].ports[0].address());
        let peer = |member: usize| format!("http://{}", self.members[member].ports[1].address());
        let cluster: Vec<String> = (0..self.members.len())
            .map(|member| format!("m{member}={}", peer(member)))
            .collect();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{member}"), "--data-dir", "data"])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(member)])
            .args(["--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.options.extra);
        command
    }

    fn consul(&self, member: usize) -> Command {
        let [http, server, lan, _] = &self.members[member].ports;
        let tls = self.options.extra.iter().any(|a| a.contains("cert_file"));
        let (http, https) = match tls {
            true => (-1, i32::from(http.number())),
            false => (i32::from(http.number()), -1),
        };
        let mut command = Command::new(consul_program());
        command
            .args(["agent", "-server", "-client=127.0.0.1"])
            // The UDP ports of our own address are the marks of the laboratory.
            .args([format!("-bind={CONSUL}"), "-serf-wan-port=-1".to_owned()])
            .args([format!("-node=m{member}"), "-data-dir=data".to_owned()])
            .arg(format!("-bootstrap-expect={}", self.members.len()))
            .arg(format!("-http-port={http}"))
            .arg(format!("-https-port={https}"))
            .arg(format!("-server-port={}", server.number()))
            .arg(format!("-serf-lan-port={}", lan.number()))
            .args(["-dns-port=-1", "-grpc-port=-1", "-disable-host-node-id"])
            .args(["-hcl", "disable_update_check = true"])
            .args(["-hcl", "performance { raft_multiplier = 1 }"])
            .args(&self.options.extra);
        for other in 0..self.members.len() {
            let lan = self.members[other].ports[2].number();
            command.arg(format!("-retry-join={CONSUL}:{lan}"));
        }
        command
    }

    fn zookeeper(&self, member: usize) -> Result<Command, LabError> {
        let directory = self.directory(member);
        let extra = &self.options.extra;
        let port = match extra.iter().any(|line| line.starts_with("ssl.keyStore")) {
            true => "secureClientPort",
            false => "clientPort",
        };
        let mut file = format!(
            "tickTime=200\ninitLimit=50\nsyncLimit=10\ndataDir={0}\n{port}Address=127.0.0.1\n\
             {port}={1}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n",
            directory.display(),
            self.members[member].ports[0].number(),
        );
        if self.members.len() > 1 {
            for (index, other) in self.members.iter().enumerate() {
                let [_, one, two, _] = &other.ports;
                file += &format!(
                    "server.{}=127.0.0.1:{}:{}\n",
                    index + 1,
                    one.number(),
                    two.number()
                );
            }
        }
        for line in extra {
            file += line;
            file += "\n";
        }
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).map_err(LabError::io(format!("write {name}")))
        };
        write("zoo.cfg", &file)?;
        write("myid", &format!("{}\n", member + 1))?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .args(["-cp", "/etc/zookeeper/conf_example:/usr/share/java/*"])
            // Otherwise an election waits up to 5 s for a server that hangs, and 60 s for a message.
            .args([
                "-Dzookeeper.cnxTimeout=500",
                "-Dzookeeper.fastleader.maxNotificationInterval=500",
            ])
            .arg("-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory")
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg("zoo.cfg");
        Ok(command)
    }
}

/// `consul` of the path, or the one that `scripts/servers.sh get consul` fetched.
fn consul_program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let fetched = cache
        .or_else(home)
        .map(|cache| cache.join("pointsman/servers/consul/server"));
    fetched
        .filter(|program| program.exists())
        .unwrap_or_else(|| "consul".into())
}

impl Drop for Engine {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}
