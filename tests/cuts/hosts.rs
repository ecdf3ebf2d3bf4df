//! Hosts of the test's own: network namespaces on one switch, which can lose packets in one direction or
//! in both. Hosts 1 to 3 each have a node, a member of an etcd and a monitor; a sidecar is on host 1 and
//! on host 4, and its clients reach it over a unix socket, whatever becomes of the network. The test
//! itself sits at a desk that is wired to every host, and looks on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use data_encoding::BASE64;
use pointsman::control::StoreKind;
use pointsman::failover::RecordPhase;
use pointsman::lab::namespace::{HOSTS, add_cable, add_host, on};
use pointsman::lab::{
    self, Address, Client, Engine, Kind, LabError, Protocol, Traffic, TrafficOptions, Value,
    Verdict, http, judge, until,
};
use pointsman::topology::{FailoverReport, Fault, Gate, Outcome, Topology};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::namespace::{self, run};

/// For what should take a moment, and a failover that waits for a tenure and a lease.
pub const SOON: Duration = Duration::from_secs(30);

/// All that decide.
pub const MONITORS: [&str; 3] = ["monitor-1", "monitor-2", "monitor-3"];

/// All that listen to the record.
pub const EVERYBODY: [&str; 5] = [
    "monitor-1",
    "monitor-2",
    "monitor-3",
    "sidecar-1",
    "sidecar-4",
];

/// As `is_mine` of `namespace`, with two switches.
pub fn is_mine(name: &str) -> bool {
    if let Some(what) = Engine::missing(StoreKind::Etcd) {
        eprintln!("NOT RUN: {name} needs {what}; scripts/setup.sh test gets it");
        return false;
    }
    let mine = namespace::is_mine(name, HOSTS);
    if mine {
        sh("ip link add wire type bridge && ip link set wire up && \
            ip link add desk type bridge && ip link set desk up && \
            ip addr add 10.78.0.254/24 dev desk");
    }
    mine
}

fn sh(script: &str) {
    run("sh", &["-ec", script]);
}

/// Everything that runs; dropping it ends it.
pub struct Hosts {
    directory: TempDir,
    /// More keys of `authority`.
    keys: String,
    children: BTreeMap<String, Child>,
}

impl Hosts {
    /// Starts it all; the node of host 1 is primary. `keys` are further ones of `authority`.
    pub async fn start(keys: &str) -> Hosts {
        let mut hosts = Hosts {
            directory: TempDir::new().unwrap(),
            keys: keys.to_owned(),
            children: BTreeMap::new(),
        };
        for host in 1..=4 {
            add(host);
        }
        for host in 1..=3 {
            hosts.start_etcd(host);
            hosts.start_node(host);
            // A replica that finds nobody at its first try waits for long.
            hosts
                .becomes("a node", async || hosts.ask(host, &["PING"]).await)
                .await;
        }
        for host in 1..=3 {
            hosts
                .becomes("two others of etcd", async || hosts.leader().await)
                .await;
            hosts.start_monitor(host, &[]);
        }
        hosts.moved(&MONITORS, None).await;
        for host in [1, 4] {
            hosts.start_sidecar(host);
        }
        assert_eq!(hosts.moved(&EVERYBODY, None).await, 1);
        // Without a write the first offset is told after ten seconds.
        hosts.ask(1, &["SET", "start", "x"]).await.unwrap();
        hosts.in_sync().await;
        hosts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    // ---- processes ----

    fn spawn(&mut self, name: &str, environment: &[(&str, &str)], words: &[&str]) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let child = on(host_of(name))
            .args(words)
            .env_remove("POINTSMAN_LOG")
            .envs(environment.iter().copied())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.insert(name.to_owned(), child);
    }

    fn start_etcd(&mut self, host: usize) {
        let peer = |host: usize| format!("http://10.77.0.{host}:2380");
        let cluster: Vec<String> = (1..=3).map(|h| format!("m{h}={}", peer(h))).collect();
        let client = format!("http://10.77.0.{host}:2379");
        let both = format!("{client},http://10.78.0.{host}:2379");
        let (name, data) = (format!("m{host}"), format!("etcd-data-{host}"));
        let words = [
            &["etcd", "--name", &name, "--data-dir", &data][..],
            &["--listen-client-urls", &both],
            &["--advertise-client-urls", &client],
            &["--listen-peer-urls", &peer(host)],
            &["--initial-advertise-peer-urls", &peer(host)],
            &["--initial-cluster", &cluster.join(",")],
            &["--heartbeat-interval", "50", "--election-timeout", "500"],
        ];
        self.spawn(&format!("etcd-{host}"), &[], &words.concat());
    }

    fn start_node(&mut self, host: usize) {
        let file = self.path(&format!("redis-{host}.conf"));
        let data = self.path(&format!("data-{host}"));
        fs::create_dir_all(&data).unwrap();
        let follows = if host == 1 {
            ""
        } else {
            "replicaof 10.77.0.1 6379\n"
        };
        let text = format!(
            "bind * -::*\nport 6379\nprotected-mode no\nsave \"\"\ndir {}\n\
             repl-diskless-sync-delay 0\n{follows}",
            data.display()
        );
        fs::write(&file, text).unwrap();
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let words = [&program, file.to_str().unwrap()];
        self.spawn(&format!("redis-{host}"), &[], &words);
    }

    /// Starts a process that was killed, with what it had on its disk.
    pub fn start_again(&mut self, name: &str) {
        let host = host_of(name);
        match name.split_once('-').unwrap().0 {
            "etcd" => self.start_etcd(host),
            "redis" => {
                let file = self.path(&format!("redis-{host}.conf"));
                let program =
                    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
                let words = [&program, file.to_str().unwrap()];
                self.spawn(name, &[], &words);
            }
            "monitor" => self.start_monitor(host, &[]),
            _ => panic!("{name}"),
        }
    }

    /// Starts a monitor.
    pub fn start_monitor(&mut self, host: usize, environment: &[(&str, &str)]) {
        let nodes = "source = { kind = \"static\", nodes = [\"10.77.0.1:6379\", \
                     \"10.77.0.2:6379\", \"10.77.0.3:6379\"] }\n";
        self.start_pointsman(&format!("monitor-{host}"), "both", nodes, environment);
    }

    fn start_sidecar(&mut self, host: usize) {
        self.start_pointsman(&format!("sidecar-{host}"), "proxy", "", &[]);
    }

    fn start_pointsman(
        &mut self,
        name: &str,
        role: &str,
        source: &str,
        environment: &[(&str, &str)],
    ) {
        let host = host_of(name);
        let text = format!(
            "[admin]\nbind = \"{}\"\nallow_remote = \"all\"\n[log]\nformat = \"json\"\n\
             [[listener]]\nbind = \"unix:{}\"\nbackend = \"main\"\n\
             [backend.main]\n{source}authority = {{ kind = \"etcd\", endpoints = \
             [\"10.77.0.1:2379\", \"10.77.0.2:2379\", \"10.77.0.3:2379\"], role = \"{role}\", \
             domain = \"host{host}\", monitors = 3{} }}\n\
             [backend.main.requests]\nhold_timeout = \"60s\"\n",
            admin(name),
            self.path(&format!("{name}.sock")).display(),
            self.keys,
        );
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        let program = env!("CARGO_BIN_EXE_pointsman");
        let words = [program, "run", "--config", file.to_str().unwrap()];
        self.spawn(name, environment, &words);
    }

    /// A monitor is started again, with a wall clock that [`Hosts::wall_clock`] moves. `false`, and NOT
    /// RUN is said, when this machine has nothing that could do that.
    pub fn bend_clock(&mut self, host: usize) -> bool {
        let arch = std::env::consts::ARCH;
        let library = format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1");
        if !PathBuf::from(&library).exists() {
            eprintln!("NOT RUN: clocks that jump need libfaketime; scripts/setup.sh test gets it");
            return false;
        }
        self.kill(&format!("monitor-{host}"));
        self.wall_clock("+0");
        let file = self.path("clock");
        let environment = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            // A kernel's monotonic clock does not jump.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        self.start_monitor(host, &environment);
        true
    }

    /// From now on the bent clock is this far from the true one: `+1h`, `-1h`.
    pub fn wall_clock(&self, offset: &str) {
        // Whole, or not at all: it is read all the time.
        let new = self.path("clock-new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, self.path("clock")).unwrap();
    }

    /// Whether a process saw its wall clock jump, as the times in its log say.
    pub fn saw_a_jump(&self, name: &str) -> bool {
        let log = self.log(name);
        let minutes = log.lines().filter_map(|line| {
            let (_, time) = line.split_once("\"timestamp\":\"")?.1.split_once('T')?;
            let minute: i64 = time.get(3..5)?.parse().ok()?;
            Some(time.get(..2)?.parse::<i64>().ok()? * 60 + minute)
        });
        let minutes: Vec<i64> = minutes.collect();
        let far = |pair: &[i64]| (30..1410).contains(&(pair[0] - pair[1]).abs());
        minutes.windows(2).any(far)
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        kill_process(Pid::from_child(&self.children[name]), signal).unwrap();
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.children.remove(name).expect(name);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until one of these processes has been stopped, and tells which.
    pub async fn stopped<'a>(&self, names: &[&'a str]) -> &'a str {
        self.becomes("a process that is stopped", async || {
            let stopped = |name: &&&str| {
                let stat = format!("/proc/{}/stat", self.children[**name].id());
                fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T "))
            };
            names.iter().find(stopped).copied().ok_or_else(String::new)
        })
        .await
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    // ---- the network ----

    /// What `from` sends does not arrive at `to` any more.
    pub fn lose(&self, from: &[usize], to: &[usize]) {
        for receiver in to {
            let drops = from
                .iter()
                .filter(|sender| *sender != receiver)
                .map(|sender| format!("iptables -A INPUT -i eth0 -s 10.77.0.{sender} -j DROP"));
            let drops: Vec<String> = drops.collect();
            inside(*receiver, &drops.join(" && "));
        }
    }

    /// Nothing gets to or from these hosts any more. What others ask of them goes first: nobody gets an
    /// answer from there that the replicas do not get.
    pub fn isolate(&self, hosts: &[usize]) {
        let others: Vec<usize> = (1..=4).filter(|host| !hosts.contains(host)).collect();
        self.lose(&others, hosts);
        self.lose(hosts, &others);
    }

    /// This host reaches no node of another one, and its own reaches none.
    pub fn lose_nodes(&self, host: usize) {
        let rules = ["--sport", "--dport"]
            .map(|end| format!("iptables -A INPUT -i eth0 -p tcp {end} 6379 -j DROP"));
        inside(host, &rules.join(" && "));
    }

    /// No etcd can be asked by anybody, though its members reach one another.
    pub fn close_etcd(&self) {
        for host in 1..=3 {
            let rule = format!("INPUT -p tcp -d 10.77.0.{host} --dport 2379 -j DROP");
            inside(host, &format!("iptables -A {rule}"));
        }
    }

    /// Every packet goes through again.
    pub fn heal(&self) {
        for host in 1..=4 {
            inside(host, "iptables -F INPUT");
        }
    }

    // ---- nodes, from the desk ----

    pub async fn ask(&self, host: usize, request: &[&str]) -> Result<Value, String> {
        let mut client = node(host).await.map_err(|e| e.to_string())?;
        let reply = client.call_within(SOON, request).await;
        reply.map_err(|e| e.to_string())
    }

    async fn info(&self, host: usize, field: &str) -> Result<String, String> {
        let reply = self.ask(host, &["INFO", "replication"]).await?;
        let text = reply.text().ok_or_else(|| reply.to_string())?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| *key == field);
        Ok(found.map(|(_, value)| value.to_owned()).unwrap_or_default())
    }

    /// Waits until every node but the published primary follows it and has got what it had.
    pub async fn in_sync(&self) {
        let primary = self.moved(&["sidecar-4"], None).await;
        self.becomes("every other node a replica", async || {
            let goal = self.info(primary, "master_repl_offset").await?;
            let goal: u64 = goal.parse().map_err(|_| goal)?;
            for host in (1..=3).filter(|host| *host != primary) {
                let follows = self.info(host, "master_host").await?;
                let link = self.info(host, "master_link_status").await?;
                let offset = self.info(host, "slave_repl_offset").await?;
                let there = offset.parse().is_ok_and(|offset: u64| offset >= goal);
                if follows != format!("10.77.0.{primary}") || link != "up" || !there {
                    return Err(format!(
                        "{host} follows {follows}, {link}, {offset} of {goal}"
                    ));
                }
            }
            Ok(())
        })
        .await;
    }

    /// How often a node was made a primary.
    pub fn promotions(&self, host: usize) -> usize {
        self.log(&format!("redis-{host}"))
            .matches("MASTER MODE enabled")
            .count()
    }

    /// The host whose node a monitor chose last.
    pub fn selected(&self, monitor: &str) -> usize {
        let log = self.log(monitor);
        let line = log.lines().rfind(|line| line.contains("+selected-slave"));
        let (_, rest) = line.unwrap().split_once("10.77.0.").unwrap();
        rest[..1].parse().unwrap()
    }

    // ---- etcd, from the desk ----

    /// The host whose etcd leads the others.
    pub async fn leader(&self) -> Result<usize, String> {
        for host in 1..=3 {
            let Ok(status) = self.etcd(host, "/v3/maintenance/status", "{}").await else {
                continue;
            };
            if status["leader"] == status["header"]["member_id"] && status["leader"] != "0" {
                return Ok(host);
            }
        }
        Err("nobody leads".to_owned())
    }

    async fn etcd(&self, host: usize, path: &str, body: &str) -> Result<serde_json::Value, String> {
        let address = format!("10.78.0.{host}:2379");
        let asked = tokio::time::timeout(Duration::from_secs(2), http::post(&address, path, body));
        let (code, text) = asked
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        (code == 200).then_some(value).ok_or(text)
    }

    /// How many readings the members of etcd have answered.
    pub async fn readings(&self) -> u64 {
        let mut sum = 0;
        for host in 1..=3 {
            let (_, text) = http::get(&format!("10.78.0.{host}:2379"), "/metrics")
                .await
                .unwrap();
            let series = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",\
                          grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} ";
            let line = text.lines().find_map(|line| line.strip_prefix(series));
            sum += line.map_or(0.0, |value| value.parse().unwrap()) as u64;
        }
        sum
    }

    /// Somebody deletes the record.
    pub async fn delete_record(&self) {
        let body = format!(
            "{{\"key\": \"{}\"}}",
            BASE64.encode(b"/pointsman/main/record")
        );
        let deleted = self.etcd(1, "/v3/kv/deleterange", &body).await.unwrap();
        assert_eq!(deleted["deleted"], "1", "{deleted}");
    }

    /// Whether the record says that somebody serves.
    pub async fn record_serves(&self) -> Result<(), String> {
        let body = format!(
            "{{\"key\": \"{}\"}}",
            BASE64.encode(b"/pointsman/main/record")
        );
        let found = self.etcd(1, "/v3/kv/range", &body).await?;
        let value = found["kvs"][0]["value"].as_str().ok_or("no record")?;
        let record = BASE64.decode(value.as_bytes()).map_err(|e| e.to_string())?;
        let record: pointsman::failover::Record =
            serde_json::from_slice(&record).map_err(|e| e.to_string())?;
        match record.phase {
            RecordPhase::Serving => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    // ---- pointsman, from the desk ----

    pub async fn topology(&self, name: &str) -> Result<Topology, String> {
        let text = get(name, "/api/topology").await?;
        let mut all: Vec<Topology> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        Ok(all.remove(0))
    }

    /// Waits until all of these send requests to one and the same host, which is not `old`.
    pub async fn moved(&self, names: &[&str], old: Option<usize>) -> usize {
        self.becomes("one primary for all", async || {
            let mut found = None;
            for name in names {
                let topology = self.topology(name).await?;
                let primary = topology.primary.as_ref().map(|p| p.node.to_string());
                let primary = primary.ok_or_else(|| format!("{name} has none"))?;
                let (place, _) = primary.split_once(':').ok_or("no port")?;
                let host: usize = host_of(&place.replace('.', "-"));
                if topology.gate != Gate::Open || Some(host) == old {
                    return Err(format!("{name}: host {host}, gate {:?}", topology.gate));
                }
                if *found.get_or_insert(host) != host {
                    return Err(format!("{name}: host {host}, another one {found:?}"));
                }
            }
            found.ok_or_else(|| "nobody".to_owned())
        })
        .await
    }

    /// Waits until the status of a pointsman holds this text.
    pub async fn says(&self, name: &str, text: &str) {
        self.becomes(&format!("{name}: {text}"), async || {
            let status = get(name, "/api/status").await?;
            status.contains(text).then_some(()).ok_or(status)
        })
        .await;
    }

    /// The reports of the failovers and switchovers that these monitors did themselves.
    pub async fn done(&self, names: &[&str]) -> Vec<FailoverReport> {
        let mut done = Vec::new();
        for name in names {
            let all = self.becomes("reports", async || get(name, "/api/failovers").await);
            let all: Vec<FailoverReport> = serde_json::from_str(&all.await).unwrap();
            let own = |r: &FailoverReport| r.outcome == Outcome::Done && r.fault != Fault::Followed;
            done.extend(all.into_iter().filter(own));
        }
        done.sort_by_key(|report| report.epoch);
        done
    }

    /// Waits until a monitor tells how many bytes a former primary had that nobody else has.
    pub async fn bytes_told(&self) -> u64 {
        self.becomes("bytes that were only there", async || {
            let told = MONITORS.iter().find_map(|name| {
                let log = self.log(name);
                let (before, _) = log.split_once(" bytes were only here")?;
                before.rsplit_once('"')?.1.parse().ok()
            });
            told.ok_or_else(String::new)
        })
        .await
    }

    // ---- clients ----

    /// Clients of these kinds on the host of a pointsman, at an ordinary pace.
    pub async fn traffic(&self, name: &str, kinds: &[Kind]) -> Traffic {
        let address = Address::Unix(self.path(&format!("{name}.sock")));
        let options = TrafficOptions {
            clients: kinds.iter().map(|kind| (*kind, 1)).collect(),
            pace: Duration::from_millis(2),
            ..TrafficOptions::every_kind(address)
        };
        let traffic = Traffic::start(options).await.unwrap();
        self.progress(&traffic, 20).await;
        traffic
    }

    /// Waits until every kind of these clients got `more` further answers.
    pub async fn progress(&self, traffic: &Traffic, more: u64) {
        self.check(traffic.progress(more, SOON).await);
    }

    /// Ends clients, reads what is left, and judges.
    pub async fn judged(&self, traffic: Traffic) -> Verdict {
        let primary = self.moved(&EVERYBODY, None).await;
        let history = traffic.stop(&mut node(primary).await.unwrap()).await;
        judge(&self.check(history))
    }

    // ---- waiting ----

    pub async fn becomes<T>(&self, what: &str, check: impl AsyncFnMut() -> Result<T, String>) -> T {
        self.check(until(what, SOON, check).await)
    }

    fn check<T>(&self, result: Result<T, LabError>) -> T {
        result.unwrap_or_else(|error| {
            let mut text = format!("{error}\n");
            for name in EVERYBODY {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(25)..].join("\n");
                text += &format!("--- {name}\n{tail}\n");
            }
            panic!("{text}")
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A host with two cables: `eth0` to the others, and one to the desk.
fn add(host: usize) {
    add_host(host).unwrap();
    add_cable(host, "eth0", "wire", &format!("10.77.0.{host}/24")).unwrap();
    add_cable(host, "desk", "desk", &format!("10.78.0.{host}/24")).unwrap();
}

fn inside(host: usize, script: &str) {
    lab::namespace::inside(host, &["sh", "-ec", script]).unwrap();
}

/// `3` of `monitor-3`.
fn host_of(name: &str) -> usize {
    let (_, host) = name.rsplit_once('-').unwrap();
    host.parse().unwrap()
}

fn admin(name: &str) -> String {
    let port = if name.starts_with("monitor") {
        9121
    } else {
        9122
    };
    format!("10.78.0.{}:{port}", host_of(name))
}

async fn get(name: &str, path: &str) -> Result<String, String> {
    let got = tokio::time::timeout(Duration::from_secs(2), http::get(&admin(name), path)).await;
    let (code, text) = got.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    (code == 200)
        .then_some(text)
        .ok_or_else(|| code.to_string())
}

async fn node(host: usize) -> Result<Client, LabError> {
    let address = Address::Tcp(format!("10.78.0.{host}:6379"));
    let opened = Client::open(&address, Protocol::Resp2, None).await;
    opened.map_err(LabError::client("connect to a node"))
}
