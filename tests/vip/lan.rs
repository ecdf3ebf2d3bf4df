//! A network of the test's own: a switch, hosts with a node and a vip agent each, and the pointsman on
//! a host too. The test is a machine on the same switch, and talks to the address as any client.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pointsman::admin::StatusAnswer;
use pointsman::failover::{NodeRole, NodeStatus};
use pointsman::lab::{Address, Client, LabError, Protocol, Value, http, until};
use pointsman::topology::Topology;
use pointsman::vip::VipStatus;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::namespace::{self, run};

/// For what should take a moment.
pub const SOON: Duration = Duration::from_secs(20);

/// The default of the agent.
pub const LEASE: Duration = Duration::from_secs(3);

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

/// The host that the pointsman runs on.
const MONITOR: usize = 10;

/// A host that is none of ours.
pub const STRANGER: usize = 66;

/// As `is_mine` of `namespace`, with a network and a place for more of them.
pub fn is_mine(name: &str) -> bool {
    let probe = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add a && \
                 ip link add br0 type bridge && iptables -A INPUT -p tcp --dport 1 -j DROP && \
                 nsenter --net=/run/netns/a ip link set lo up";
    let mine = namespace::is_mine(name, "-rnm", probe);
    if mine {
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        fs::create_dir_all("/run/netns").unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        // A fixed address: its own changes with the ports, and hosts would know an old one.
        let switch = ["br0", "address", "02:00:00:00:00:fe", "type", "bridge"];
        run("ip", &[&["link", "add"], &switch[..]].concat());
        run("ip", &["addr", "add", "10.77.0.254/24", "dev", "br0"]);
        run(
            "ip",
            &["addr", "add", "fd77::254/64", "dev", "br0", "nodad"],
        );
        run("ip", &["link", "set", "br0", "up"]);
    }
    mine
}

/// Everything that runs; dropping it ends it.
pub struct Lan {
    directory: TempDir,
    vip: IpAddr,
    children: Vec<(String, Child)>,
}

impl Lan {
    /// Three nodes, the pointsman, and an agent on each of the nodes' hosts; returns when the address
    /// is on the first of them.
    pub async fn start(vip: &str) -> Lan {
        let mut lan = Lan::without_agents(vip).await;
        for host in 1..=3 {
            lan.start_agent(host, "");
        }
        lan.has_it(1, SOON).await;
        lan
    }

    /// As [`Lan::start`], without the agents.
    pub async fn without_agents(vip: &str) -> Lan {
        let mut lan = Lan {
            directory: TempDir::new().unwrap(),
            vip: vip.parse().unwrap(),
            children: Vec::new(),
        };
        for host in 1..=3 {
            lan.add_host(host);
            lan.start_node(host);
            // A replica that finds nobody at its first try waits for long.
            until("a node", SOON, async || {
                let asked = lan.ask(host, &["PING"]).await;
                asked.map(|_| ()).map_err(|e| e.to_string())
            })
            .await
            .unwrap();
        }
        lan.add_host(MONITOR);
        lan.start_pointsman();
        let first = lan.primary_is(1, SOON).await;
        // Fewer would be a failover with nobody to take over.
        assert_eq!(first.replicas.len(), 2);
        // Without a write the first offset is told after ten seconds.
        lan.ask(1, &["SET", "start", "x"]).await.unwrap();
        // As the pointsman sees them: it promotes none that it has not seen in sync.
        until("replicas in sync", SOON, async || {
            let got = http::get(&lan.admin(), "/api/status").await;
            let (_, text) = got.map_err(|e| e.to_string())?;
            let answer: StatusAnswer = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let status = answer.backends[0].status.as_ref().ok_or("no status")?;
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
        .unwrap();
        lan
    }

    /// A host on the switch.
    pub fn add_host(&mut self, host: usize) {
        let name = format!("h{host}");
        run("ip", &["netns", "add", &name]);
        let peer = ["peer", "name", "eth0", "netns", &name];
        let mut link = vec!["link", "add", &name, "type", "veth"];
        link.extend(peer);
        run("ip", &link);
        run("ip", &["link", "set", &name, "master", "br0", "up"]);
        self.inside(host, &["ip", "link", "set", "lo", "up"]);
        self.inside(host, &["ip", "link", "set", "eth0", "up"]);
        let four = format!("10.77.0.{host}/24");
        self.inside(host, &["ip", "addr", "add", &four, "dev", "eth0"]);
        let six = format!("fd77::{host}/64");
        self.inside(host, &["ip", "addr", "add", &six, "dev", "eth0", "nodad"]);
        // What happens to its addresses, each line with the time.
        let log = File::create(self.path(&format!("addresses-{host}"))).unwrap();
        let watch = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{name}"))
            .args(["ip", "-ts", "-o", "monitor", "address"])
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push((format!("watch-{host}"), watch));
    }

    /// Runs a program on a host; it must succeed.
    pub fn inside(&self, host: usize, words: &[&str]) {
        let namespace = format!("--net=/run/netns/h{host}");
        let mut all = vec![namespace.as_str()];
        all.extend(words);
        run("nsenter", &all);
    }

    fn spawn(&mut self, host: usize, what: &str, words: &[&str]) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{what}-{host}.log")))
            .unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/h{host}"))
            .args(words)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push((format!("{what}-{host}"), child));
    }

    /// Starts a node; the first one is primary.
    pub fn start_node(&mut self, host: usize) {
        let file = self.path(&format!("redis-{host}.conf"));
        let data = self.path(&format!("data-{host}"));
        fs::create_dir_all(&data).unwrap();
        let mut text = format!(
            "bind * -::*\nport 6379\nprotected-mode no\nsave \"\"\ndir {}\n\
             repl-diskless-sync-delay 0\n",
            data.display()
        );
        if host != 1 {
            text.push_str("replicaof 10.77.0.1 6379\n");
        }
        fs::write(&file, text).unwrap();
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        self.spawn(host, "redis", &[&program, file.to_str().unwrap()]);
    }

    fn admin(&self) -> String {
        format!("10.77.0.{MONITOR}:9121")
    }

    /// Starts the pointsman, or starts it again.
    pub fn start_pointsman(&mut self) {
        let file = self.path("pointsman.toml");
        let text = format!(
            "[admin]\nbind = \"10.77.0.{MONITOR}:9121\"\nallow_remote = \"all\"\n\
             [log]\nformat = \"json\"\n\
             [[listener]]\nbind = \"10.77.0.{MONITOR}:6379\"\nbackend = \"main\"\n\
             [backend.main]\n\
             source = {{ kind = \"static\", nodes = [\"10.77.0.1:6379\", \"10.77.0.2:6379\", \
             \"10.77.0.3:6379\"] }}\n\
             authority = {{ kind = \"embedded\", state = \"{}\" }}\n",
            self.path("record.json").display()
        );
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap().to_owned();
        self.spawn(MONITOR, "pointsman", &[PROGRAM, "run", "--config", &file]);
    }

    /// Writes the file of an agent; `more` are further lines of `[vip_agent]`.
    pub fn agent_file(&self, host: usize, more: &str) -> String {
        let file = self.path(&format!("vip-{host}.toml"));
        let text = format!(
            "[admin]\nbind = \"10.77.0.{host}:9122\"\nallow_remote = \"read\"\n\
             [log]\nformat = \"json\"\n\
             [vip_agent]\naddress = \"{}\"\ninterface = \"eth0\"\nnode = \"10.77.0.{host}:6379\"\n\
             backend = \"main\"\npointsman = [\"10.77.0.{MONITOR}:9121\"]\n{more}\n",
            self.vip
        );
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, host: usize, more: &str) {
        let file = self.agent_file(host, more);
        self.start_agent_with(host, &file);
    }

    /// Starts an agent with this file.
    pub fn start_agent_with(&mut self, host: usize, file: &str) {
        self.spawn(host, "agent", &[PROGRAM, "vip-agent", "--config", file]);
    }

    /// Runs a command of pointsman on a host and returns its exit code and what it said.
    pub fn command(&self, host: usize, before: &[&str], words: &[&str]) -> (i32, String) {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/h{host}"))
            .args(before)
            .arg(PROGRAM)
            .args(words)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }

    /// Sends a signal to a process that was started here, such as `agent-1`.
    pub fn signal(&self, name: &str, signal: Signal) {
        let child = self.child(name);
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, name: &str) {
        let index = self.children.iter().position(|(other, _)| other == name);
        let (_, mut child) = self.children.remove(index.expect(name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns when the process is gone, with its exit code.
    pub async fn terminate(&mut self, name: &str) -> Option<i32> {
        self.signal(name, Signal::TERM);
        let index = self.children.iter().position(|(other, _)| other == name);
        let (_, mut child) = self.children.remove(index.expect(name));
        let status = until("the end of a process", SOON, async || {
            child.try_wait().unwrap().ok_or_else(|| "it runs".into())
        });
        status.await.unwrap().code()
    }

    fn child(&self, name: &str) -> &Child {
        let found = self.children.iter().find(|(other, _)| other == name);
        &found.expect(name).1
    }

    /// What a process has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until a process has logged this.
    pub async fn logs(&self, name: &str, text: &str) {
        let logged = until(text, SOON, async || match self.log(name).contains(text) {
            true => Ok(()),
            false => Err(String::new()),
        });
        self.check(logged.await);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A connection to a node by the address of its host.
    pub async fn ask(&self, host: usize, request: &[&str]) -> Result<Value, LabError> {
        let address = Address::Tcp(format!("10.77.0.{host}:6379"));
        let client = Client::open(&address, Protocol::Resp2, None).await;
        let mut client = client.map_err(LabError::client("connect"))?;
        let reply = client.call_within(SOON, request).await;
        reply.map_err(LabError::client("ask"))
    }

    /// A connection to the address that moves.
    pub async fn client(&self) -> Result<Client, String> {
        let address = Address::Tcp(std::net::SocketAddr::new(self.vip, 6379).to_string());
        let opening = Client::open(&address, Protocol::Resp2, None);
        // A connect whose SYN was lost would try again after a second.
        match tokio::time::timeout(Duration::from_millis(200), opening).await {
            Ok(opened) => opened.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// Waits until a write over the address is acknowledged.
    pub async fn write(&self, key: &str, limit: Duration) {
        let wrote = until("an acknowledged write", limit, async || {
            let mut client = self.client().await?;
            let limit = Duration::from_millis(500);
            match client.call_within(limit, &["SET", key, "x"]).await {
                Ok(reply) if reply.is_ok() => Ok(()),
                Ok(reply) => Err(reply.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        self.check(wrote.await);
    }

    /// Waits until the pointsman publishes the node of that host, with an open gate.
    pub async fn primary_is(&self, host: usize, limit: Duration) -> Topology {
        let admin = self.admin();
        let found = until("a published primary", limit, async || {
            let got = http::get(&admin, "/api/topology").await;
            let (_, text) = got.map_err(|e| e.to_string())?;
            let mut all: Vec<Topology> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let topology = all.remove(0);
            let primary = topology.open_primary().map(|p| p.node.as_str().to_owned());
            match primary.as_deref() == Some(&format!("10.77.0.{host}:6379")) {
                true => Ok(topology),
                false => Err(text),
            }
        });
        self.check(found.await)
    }

    /// Moves the primary on purpose.
    pub async fn switchover(&self, host: usize) {
        let admin = self.admin();
        let body = format!("{{\"backend\": \"main\", \"to\": \"10.77.0.{host}:6379\"}}");
        let (code, text) = http::post(&admin, "/api/switchover", &body).await.unwrap();
        assert_eq!(code, 200, "{text}");
    }

    /// What an agent says about itself.
    pub async fn status(&self, host: usize) -> Result<VipStatus, String> {
        let admin = format!("10.77.0.{host}:9122");
        let got = http::get(&admin, "/api/status").await;
        let (_, text) = got.map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|e| format!("{text}: {e}"))
    }

    /// The value of one series of an agent's metrics.
    pub async fn metric(&self, host: usize, series: &str) -> String {
        let admin = format!("10.77.0.{host}:9122");
        let (_, text) = http::get(&admin, "/metrics").await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no {series} in {text}"))
            .trim()
            .to_owned()
    }

    /// Waits until a status of the agent on that host passes the check.
    pub async fn says(
        &self,
        host: usize,
        what: &str,
        limit: Duration,
        check: impl Fn(&VipStatus) -> bool,
    ) -> VipStatus {
        let said = until(what, limit, async || {
            let status = self.status(host).await?;
            match check(&status) {
                true => Ok(status),
                false => Err(format!("{status:?}")),
            }
        });
        self.check(said.await)
    }

    /// Whether the host has the address, as its kernel says.
    pub fn has_it_now(&self, host: usize) -> bool {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/h{host}"))
            .args(["ip", "-o", "address", "show", "dev", "eth0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains(&format!(" {}/", self.vip))
    }

    /// Waits until the host has the address.
    pub async fn has_it(&self, host: usize, limit: Duration) {
        self.becomes(host, true, limit).await;
    }

    /// Waits until the host has the address no more.
    pub async fn lost_it(&self, host: usize, limit: Duration) {
        self.becomes(host, false, limit).await;
    }

    async fn becomes(&self, host: usize, has: bool, limit: Duration) {
        let what = format!("host {host}: the address is here: {has}");
        let became = until(&what, limit, async || match self.has_it_now(host) == has {
            true => Ok(()),
            false => Err(String::new()),
        });
        self.check(became.await);
    }

    /// The Ethernet address of a host.
    pub fn mac(&self, host: usize) -> String {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/h{host}"))
            .args(["ip", "-o", "link", "show", "dev", "eth0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        word_after(&text, "link/ether").expect("it has one")
    }

    /// Where the test's own kernel believes the address to be.
    pub fn neighbour(&self) -> Option<String> {
        let vip = self.vip.to_string();
        let output = Command::new("ip")
            .args(["neigh", "show", &vip, "dev", "br0"])
            .output()
            .unwrap();
        word_after(&String::from_utf8(output.stdout).unwrap(), "lladdr")
    }

    /// Cuts the cable of a host.
    pub fn unplug(&self, host: usize) {
        run("ip", &["link", "set", &format!("h{host}"), "down"]);
    }

    /// Mends it.
    pub fn plug(&self, host: usize) {
        run("ip", &["link", "set", &format!("h{host}"), "up"]);
    }

    /// At no moment did two of these hosts have the address.
    pub fn assert_never_twice(&self, hosts: &[usize]) {
        let mut spans = Vec::new();
        for host in hosts {
            spans.extend(self.spans(*host));
        }
        spans.sort();
        assert!(spans.len() > 1, "{spans:?}");
        for pair in spans.windows(2) {
            let [(_, until, one), (from, _, other)] = pair else {
                unreachable!()
            };
            assert!(until <= from || one == other, "{spans:#?}");
        }
    }

    /// From when to when a host had the address: sortable times.
    fn spans(&self, host: usize) -> Vec<(String, String, usize)> {
        let text = fs::read_to_string(self.path(&format!("addresses-{host}"))).unwrap();
        let mut spans: Vec<(String, String, usize)> = Vec::new();
        let mut from: Option<String> = None;
        for line in text
            .lines()
            .filter(|l| l.contains(&format!(" {}/", self.vip)))
        {
            let time = line.trim_start_matches('[').split(']').next().unwrap();
            match (line.contains("Deleted"), &from) {
                (false, None) => from = Some(time.to_owned()),
                (false, Some(_)) => {}
                (true, _) => {
                    let from = from.take().unwrap_or_default();
                    spans.push((from, time.to_owned(), host));
                }
            }
        }
        spans.extend(from.map(|from| (from, "9".to_owned(), host)));
        spans
    }

    fn check<T>(&self, result: Result<T, LabError>) -> T {
        result.unwrap_or_else(|error| {
            let agents = (1..=3).map(|host| self.log(&format!("agent-{host}")));
            let logs: Vec<String> = agents.chain([self.log("pointsman-10")]).collect();
            panic!("{error}\n{}", logs.join("\n"))
        })
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

fn word_after(text: &str, mark: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == mark)?;
    words.next().map(str::to_owned)
}
