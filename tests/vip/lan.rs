//! The laboratory's network, and what a test says about it. What fails there fails the test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use pointsman::lab::lan::{self, MONITOR};
use pointsman::lab::namespace::{HOSTS, cable, inside, on};
use pointsman::lab::{Client, LabError, Protocol, Server, http, until};
use pointsman::vip::VipStatus;
use rustix::process::Signal;

use super::namespace::{self, run};

/// For what should take a moment.
pub const SOON: Duration = Duration::from_secs(20);

/// The default of the agent.
pub const LEASE: Duration = Duration::from_secs(3);

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

/// A host that is none of ours.
pub const STRANGER: usize = 66;

/// As `is_mine` of `namespace`, with a network and a place for more of them.
pub fn is_mine(name: &str) -> bool {
    let mine = namespace::is_mine(name, HOSTS);
    if mine {
        lan::make_switch().unwrap();
    }
    mine
}

/// See [`lan::Lan`].
pub struct Lan(lan::Lan);

impl Deref for Lan {
    type Target = lan::Lan;

    fn deref(&self) -> &lan::Lan {
        &self.0
    }
}

impl DerefMut for Lan {
    fn deref_mut(&mut self) -> &mut lan::Lan {
        &mut self.0
    }
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
        let (server, vip) = (Server::program(), vip.parse().unwrap());
        let lan = lan::Lan::without_agents(PROGRAM.into(), server, vip).await;
        Lan(lan.unwrap())
    }

    /// A host on the switch.
    pub fn add_host(&mut self, host: usize) {
        self.0.add_host(host).unwrap();
    }

    /// Runs a program on a host; it must succeed.
    pub fn inside(&self, host: usize, words: &[&str]) {
        inside(host, words).unwrap();
    }

    /// Starts the pointsman, or starts it again.
    pub fn start_pointsman(&mut self) {
        self.0.start_pointsman().unwrap();
    }

    /// Writes the file of an agent; `more` are further lines of `[vip_agent]`.
    pub fn agent_file(&self, host: usize, more: &str) -> String {
        self.0.agent_file(host, more).unwrap()
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, host: usize, more: &str) {
        self.0.start_agent(host, more).unwrap();
    }

    /// Starts an agent with this file.
    pub fn start_agent_with(&mut self, host: usize, file: &str) {
        self.0.start_agent_with(host, file).unwrap();
    }

    /// Runs a command of pointsman on a host and returns its exit code and what it said.
    pub fn command(&self, host: usize, before: &[&str], words: &[&str]) -> (i32, String) {
        let output = on(host)
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
        self.0.signal(name, signal).unwrap();
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, name: &str) {
        self.0.kill(name).unwrap();
    }

    /// SIGTERM; returns when the process is gone, with its exit code.
    pub async fn terminate(&mut self, name: &str) -> Option<i32> {
        self.signal(name, Signal::TERM);
        let mut child = self.take(name).unwrap();
        let status = until("the end of a process", SOON, async || {
            child.try_wait().unwrap().ok_or_else(|| "it runs".into())
        });
        status.await.unwrap().code()
    }

    /// Waits until a process has logged this.
    pub async fn logs(&self, name: &str, text: &str) {
        let logged = until(text, SOON, async || match self.log(name).contains(text) {
            true => Ok(()),
            false => Err(String::new()),
        });
        self.check(logged.await);
    }

    /// A connection to the address that moves.
    pub async fn client(&self) -> Result<Client, String> {
        let address = self.address();
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

    /// Moves the primary on purpose.
    pub async fn switchover(&self, host: usize) {
        self.0.switchover(Some(host)).await.unwrap();
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
        self.0.has_it_now(host).unwrap()
    }

    /// Waits until the host has the address.
    pub async fn has_it(&self, host: usize, limit: Duration) {
        self.check(self.0.has_it(host, limit).await);
    }

    /// Waits until the host has the address no more.
    pub async fn lost_it(&self, host: usize, limit: Duration) {
        self.check(self.0.lost_it(host, limit).await);
    }

    /// The Ethernet address of a host.
    pub fn mac(&self, host: usize) -> String {
        let output = on(host)
            .args(["ip", "-o", "link", "show", "dev", "eth0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        word_after(&text, "link/ether").expect("it has one")
    }

    /// Where the test's own kernel believes the address to be.
    pub fn neighbour(&self) -> Option<String> {
        let vip = self.vip().to_string();
        let output = Command::new("ip")
            .args(["neigh", "show", &vip, "dev", "br0"])
            .output()
            .unwrap();
        word_after(&String::from_utf8(output.stdout).unwrap(), "lladdr")
    }

    /// Cuts the cable of a host.
    pub fn unplug(&self, host: usize) {
        run("ip", &["link", "set", &cable(host, "eth0"), "down"]);
    }

    /// Mends it.
    pub fn plug(&self, host: usize) {
        run("ip", &["link", "set", &cable(host, "eth0"), "up"]);
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
            .filter(|l| l.contains(&format!(" {}/", self.vip())))
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
            let logs: Vec<String> = agents
                .chain([self.log(&format!("pointsman-{MONITOR}"))])
                .collect();
            panic!("{error}\n{}", logs.join("\n"))
        })
    }
}

fn word_after(text: &str, mark: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == mark)?;
    words.next().map(str::to_owned)
}
