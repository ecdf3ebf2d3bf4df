//! A network of our own: a switch, hosts with a node and a vip agent each, and the pointsman on a host
//! too. Whoever made it is a machine on the same switch, and talks to the address as any client.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::namespace::{self, inside, on, run};
use super::{Address, Client, LabError, Protocol, Scratch, Value, http, until};
use crate::admin::StatusAnswer;
use crate::failover::{NodeRole, NodeStatus};
use crate::topology::{FailoverReport, Topology};
use crate::vip::VipStatus;

/// For what should take a moment.
const SOON: Duration = Duration::from_secs(20);

/// The host that the pointsman runs on.
pub const MONITOR: usize = 10;

/// Everything that runs; dropping it ends it.
#[derive(Debug)]
pub struct Lan {
    scratch: Scratch,
    program: PathBuf,
    server: PathBuf,
    vip: IpAddr,
    children: Vec<(String, Child)>,
}

/// Makes the switch. Only inside of [`namespace::HOSTS`].
pub fn make_switch() -> Result<(), LabError> {
    // A fixed address: its own changes with the ports, and hosts would know an old one.
    let switch = ["br0", "address", "02:00:00:00:00:fe", "type", "bridge"];
    run("ip", &[&["link", "add"], &switch[..]].concat())?;
    run("ip", &["addr", "add", "10.77.0.254/24", "dev", "br0"])?;
    let six = ["addr", "add", "fd77::254/64", "dev", "br0", "nodad"];
    run("ip", &six)?;
    run("ip", &["link", "set", "br0", "up"])
}

impl Lan {
    /// Three nodes, the pointsman, and an agent on each of the nodes' hosts; returns when the address
    /// is on the first of them.
    pub async fn start(program: PathBuf, server: PathBuf, vip: IpAddr) -> Result<Lan, LabError> {
        let mut lan = Lan::without_agents(program, server, vip).await?;
        for host in 1..=3 {
            lan.start_agent(host, "")?;
        }
        lan.has_it(1, SOON).await?;
        Ok(lan)
    }

    /// As [`Lan::start`], without the agents.
    pub async fn without_agents(
        program: PathBuf,
        server: PathBuf,
        vip: IpAddr,
    ) -> Result<Lan, LabError> {
        let mut lan = Lan {
            scratch: Scratch::new()?,
            program,
            server,
            vip,
            children: Vec::new(),
        };
        for host in 1..=3 {
            lan.add_host(host)?;
            lan.start_node(host)?;
            // A replica that finds nobody at its first try waits for long.
            until("a node", SOON, async || {
                let asked = lan.ask(host, &["PING"]).await;
                asked.map(|_| ()).map_err(|e| e.to_string())
            })
            .await?;
        }
        lan.add_host(MONITOR)?;
        lan.start_pointsman()?;
        lan.primary_is(1, SOON).await?;
        // Without a write the first offset is told after ten seconds.
        lan.ask(1, &["SET", "start", "x"]).await?;
        lan.two_may_be_promoted().await?;
        Ok(lan)
    }

    /// As the pointsman sees them: it promotes none that it has not seen in sync.
    pub async fn two_may_be_promoted(&self) -> Result<(), LabError> {
        until("replicas in sync", SOON, async || {
            let got = http::get(&self.admin(), "/api/status").await;
            let (_, text) = got.map_err(|e| e.to_string())?;
            let answer: StatusAnswer = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let backend = answer.backends.first().ok_or("no backend")?;
            let status = backend.status.as_ref().ok_or("no status")?;
            let fit = |node: &NodeStatus| {
                let follows = node.role == Some(NodeRole::Replica) && node.link_up == Some(true);
                follows && node.not_promotable.is_none()
            };
            match status.nodes.iter().filter(|node| fit(node)).count() {
                2 => Ok(()),
                _ => Err(text),
            }
        })
        .await
    }

    /// A host on the switch.
    pub fn add_host(&mut self, host: usize) -> Result<(), LabError> {
        namespace::add_host(host)?;
        namespace::add_cable(host, "eth0", "br0", &format!("10.77.0.{host}/24"))?;
        let six = format!("fd77::{host}/64");
        inside(host, &["ip", "addr", "add", &six, "dev", "eth0", "nodad"])?;
        // What happens to its addresses, each line with the time.
        let log = File::create(self.path(&format!("addresses-{host}")));
        let watch = on(host)
            .args(["ip", "-ts", "-o", "monitor", "address"])
            .stdout(log.map_err(LabError::io("open a log"))?)
            .stderr(Stdio::null())
            .spawn();
        let watch = watch.map_err(LabError::io("watch addresses"))?;
        self.children.push((format!("watch-{host}"), watch));
        Ok(())
    }

    fn spawn(&mut self, host: usize, what: &str, words: &[&str]) -> Result<(), LabError> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{what}-{host}.log")))
            .map_err(LabError::io("open a log"))?;
        let child = on(host)
            .args(words)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(LabError::io("share a log"))?)
            .stderr(log)
            .spawn()
            .map_err(LabError::io(format!("start {what}")))?;
        self.children.push((format!("{what}-{host}"), child));
        Ok(())
    }

    /// Starts a node; the first one is primary.
    pub fn start_node(&mut self, host: usize) -> Result<(), LabError> {
        let data = self.path(&format!("data-{host}"));
        fs::create_dir_all(&data).map_err(LabError::io("make a directory"))?;
        let mut text = format!(
            "bind * -::*\nport 6379\nprotected-mode no\nsave \"\"\ndir {}\n\
             repl-diskless-sync-delay 0\n",
            data.display()
        );
        if host != 1 {
            text.push_str("replicaof 10.77.0.1 6379\n");
        }
        let file = self.write(&format!("redis-{host}.conf"), &text)?;
        let server = self.server.display().to_string();
        self.spawn(host, "redis", &[&server, &file])
    }

    /// The admin server of the pointsman.
    pub fn admin(&self) -> String {
        format!("10.77.0.{MONITOR}:9121")
    }

    /// Starts the pointsman, or starts it again.
    pub fn start_pointsman(&mut self) -> Result<(), LabError> {
        let text = format!(
            "[admin]\nbind = \"{}\"\nallow_remote = \"all\"\n\
             [log]\nformat = \"json\"\n\
             [[listener]]\nbind = \"10.77.0.{MONITOR}:6379\"\nbackend = \"main\"\n\
             [backend.main]\n\
             source = {{ kind = \"static\", nodes = [\"10.77.0.1:6379\", \"10.77.0.2:6379\", \
             \"10.77.0.3:6379\"] }}\n\
             authority = {{ kind = \"embedded\", state = \"{}\" }}\n",
            self.admin(),
            self.path("record.json").display()
        );
        let file = self.write("pointsman.toml", &text)?;
        let program = self.program.display().to_string();
        let words = [program.as_str(), "run", "--config", &file];
        self.spawn(MONITOR, "pointsman", &words)
    }

    /// Writes the file of an agent; `more` are further lines of `[vip_agent]`.
    pub fn agent_file(&self, host: usize, more: &str) -> Result<String, LabError> {
        let text = format!(
            "[admin]\nbind = \"10.77.0.{host}:9122\"\nallow_remote = \"read\"\n\
             [log]\nformat = \"json\"\n\
             [vip_agent]\naddress = \"{}\"\ninterface = \"eth0\"\nnode = \"10.77.0.{host}:6379\"\n\
             backend = \"main\"\npointsman = [\"{}\"]\n{more}\n",
            self.vip,
            self.admin(),
        );
        self.write(&format!("vip-{host}.toml"), &text)
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, host: usize, more: &str) -> Result<(), LabError> {
        let file = self.agent_file(host, more)?;
        self.start_agent_with(host, &file)
    }

    /// Starts an agent with this file.
    pub fn start_agent_with(&mut self, host: usize, file: &str) -> Result<(), LabError> {
        let program = self.program.display().to_string();
        self.spawn(host, "agent", &[&program, "vip-agent", "--config", file])
    }

    /// Sends a signal to a process that was started here, such as `agent-1`.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), LabError> {
        let found = self.children.iter().find(|(other, _)| other == name);
        let (_, child) = found.ok_or_else(|| unknown(name))?;
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| LabError::io(format!("signal {name}"))(error.into()))
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, name: &str) -> Result<(), LabError> {
        let mut child = self.take(name)?;
        let done = child.kill().and_then(|()| child.wait());
        done.map(|_| ())
            .map_err(LabError::io(format!("end {name}")))
    }

    /// A process that was started here; nobody else will end it.
    pub fn take(&mut self, name: &str) -> Result<Child, LabError> {
        let index = self.children.iter().position(|(other, _)| other == name);
        Ok(self.children.remove(index.ok_or_else(|| unknown(name))?).1)
    }

    /// What a process has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// A file of this name where everything is kept.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    fn write(&self, name: &str, text: &str) -> Result<String, LabError> {
        let path = self.path(name);
        let shown = path.display().to_string();
        fs::write(&path, text).map_err(LabError::io(format!("write {shown}")))?;
        Ok(shown)
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks a node by the address of its host.
    pub async fn ask(&self, host: usize, request: &[&str]) -> Result<Value, LabError> {
        let mut client = self.client_of(host).await?;
        let reply = client.call_within(SOON, request).await;
        reply.map_err(LabError::client("ask"))
    }

    /// A connection to a node by the address of its host.
    pub async fn client_of(&self, host: usize) -> Result<Client, LabError> {
        let address = Address::Tcp(format!("10.77.0.{host}:6379"));
        let client = Client::open(&address, Protocol::Resp2, None).await;
        client.map_err(LabError::client("connect"))
    }

    /// The address that moves.
    pub fn vip(&self) -> IpAddr {
        self.vip
    }

    /// The same, with the port of the nodes.
    pub fn address(&self) -> Address {
        Address::Tcp(SocketAddr::new(self.vip, 6379).to_string())
    }

    /// Waits until the pointsman publishes the node of that host, with an open gate.
    pub async fn primary_is(&self, host: usize, limit: Duration) -> Result<Topology, LabError> {
        until("a published primary", limit, async || {
            let topology = self.topology().await?;
            let primary = topology.open_primary().map(|p| p.node.as_str().to_owned());
            match primary.as_deref() == Some(&format!("10.77.0.{host}:6379")) {
                true => Ok(topology),
                false => Err(format!("{topology:?}")),
            }
        })
        .await
    }

    async fn topology(&self) -> Result<Topology, String> {
        let got = http::get(&self.admin(), "/api/topology").await;
        let (_, text) = got.map_err(|e| e.to_string())?;
        let all: Vec<Topology> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        all.into_iter().next().ok_or_else(|| "no backend".into())
    }

    /// Moves the primary on purpose, to this host or to the one that the pointsman chooses.
    pub async fn switchover(&self, host: Option<usize>) -> Result<(), LabError> {
        let to = host.map(|host| format!("10.77.0.{host}:6379"));
        let body = serde_json::json!({ "backend": "main", "to": to }).to_string();
        let (code, text) = http::post(&self.admin(), "/api/switchover", &body).await?;
        match code {
            200 => Ok(()),
            _ => Err(LabError::Unexpected(text)),
        }
    }

    /// The reports of the pointsman, oldest first.
    pub async fn failovers(&self) -> Result<Vec<FailoverReport>, LabError> {
        let (_, text) = http::get(&self.admin(), "/api/failovers").await?;
        let mut reports: Vec<FailoverReport> = serde_json::from_str(&text)
            .map_err(|error| LabError::Unexpected(format!("{text}: {error}")))?;
        reports.sort_by_key(|report| report.unix_millis);
        Ok(reports)
    }

    /// What an agent says about itself.
    pub async fn status(&self, host: usize) -> Result<VipStatus, String> {
        let admin = format!("10.77.0.{host}:9122");
        let got = http::get(&admin, "/api/status").await;
        let (_, text) = got.map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|e| format!("{text}: {e}"))
    }

    /// Whether the host has the address, as its kernel says.
    pub fn has_it_now(&self, host: usize) -> Result<bool, LabError> {
        let words = ["ip", "-o", "address", "show", "dev", "eth0"];
        let output = on(host).args(words).output();
        let output = output.map_err(LabError::io("look for the address"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.contains(&format!(" {}/", self.vip)))
    }

    /// Waits until the host has the address.
    pub async fn has_it(&self, host: usize, limit: Duration) -> Result<(), LabError> {
        self.becomes(host, true, limit).await
    }

    /// Waits until the host has the address no more.
    pub async fn lost_it(&self, host: usize, limit: Duration) -> Result<(), LabError> {
        self.becomes(host, false, limit).await
    }

    async fn becomes(&self, host: usize, has: bool, limit: Duration) -> Result<(), LabError> {
        let what = format!("host {host}: the address is here: {has}");
        until(&what, limit, async || match self.has_it_now(host) {
            Ok(now) if now == has => Ok(()),
            Ok(_) => Err(String::new()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn unknown(name: &str) -> LabError {
    LabError::Unexpected(format!("there is no {name}"))
}
