//! A host that vanishes without a word: nothing is acknowledged any more. Needs root, `ip` and
//! `iptables` for a network namespace of its own; where there is none it says so and ends.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pointsman::clock;
use pointsman::control::{Access, Probe, Sighting};
use pointsman::failover::{Observation, Policy, ProbeError};
use pointsman::topology::NodeId;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(15);

/// A namespace with a server in it, reached over a pair of virtual interfaces.
struct Host {
    name: String,
    network: String,
    server: Option<Child>,
}

fn run(words: &[&str]) -> bool {
    let status = Command::new(words[0])
        .args(&words[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl Host {
    /// `None` where this is not allowed.
    fn new() -> Option<Host> {
        let id = std::process::id();
        // Interface names have at most 15 characters.
        let name = format!("pmc{id}");
        let network = format!("10.{}.{}", 200 + id / 250 % 50, id % 250);
        let mut host = Host {
            name,
            network,
            server: None,
        };
        host.lay_out().then_some(())?;
        let inner = host.inner();
        let server = Command::new("ip")
            .args([
                "netns",
                "exec",
                &host.name,
                "redis-server",
                "--port",
                "6379",
            ])
            .args(["--bind", &inner, "--save", "", "--protected-mode", "no"])
            .args(["--daemonize", "no", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn();
        host.server = server.ok();
        Some(host)
    }

    fn inner(&self) -> String {
        format!("{}.2", self.network)
    }

    fn lay_out(&self) -> bool {
        let (name, outer) = (self.name.as_str(), format!("{}o", self.name));
        let inner = format!("{}i", self.name);
        let mask = |address: String| format!("{address}/30");
        run(&["ip", "netns", "add", name])
            && run(&[
                "ip", "link", "add", &outer, "type", "veth", "peer", "name", &inner,
            ])
            && run(&["ip", "link", "set", &inner, "netns", name])
            && run(&[
                "ip",
                "addr",
                "add",
                &mask(format!("{}.1", self.network)),
                "dev",
                &outer,
            ])
            && run(&["ip", "link", "set", &outer, "up"])
            && self.inside(&["ip", "addr", "add", &mask(self.inner()), "dev", &inner])
            && self.inside(&["ip", "link", "set", &inner, "up"])
            && self.inside(&["iptables", "-L", "-n"])
    }

    fn inside(&self, words: &[&str]) -> bool {
        let mut all = vec!["ip", "netns", "exec", &self.name];
        all.extend(words);
        run(&all)
    }

    fn cut(&self) {
        assert!(self.inside(&["iptables", "-I", "INPUT", "-j", "DROP"]));
    }

    fn heal(&self) {
        assert!(self.inside(&["iptables", "-F", "INPUT"]));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // `ip netns exec` becomes the server, so this is the server.
            let _ = server.kill();
            let _ = server.wait();
        }
        run(&["ip", "link", "del", &format!("{}o", self.name)]);
        run(&["ip", "netns", "del", &self.name]);
    }
}

#[tokio::test]
async fn a_vanished_host_is_unacknowledged_within_its_time() {
    let Some(host) = Host::new() else {
        println!("not run: no network namespace of our own");
        return;
    };
    let policy = Policy::default();
    let limit = policy.unacked_after;
    let access = Access {
        node: NodeId::new(format!("{}:6379", host.inner())),
        credentials: None,
        mark: "pointsman-monitor:test".into(),
        unacked_after: limit,
    };
    let (out, mut sightings) = mpsc::channel(1024);
    let (probe, _caller) = Probe::new(access, policy, None, out);
    let probing = tokio::spawn(probe.run());
    let mut observation = async || loop {
        let next = tokio::time::timeout(LIMIT, sightings.recv()).await;
        match next.expect("in time").expect("the probe runs").1 {
            Sighting::Observed(observation) => break observation,
            Sighting::Mark(_) | Sighting::Notifies(_) => {}
        }
    };
    while !matches!(observation().await, Observation::Info(_)) {}
    host.cut();
    let start = clock::now();
    let unacked = loop {
        match observation().await {
            Observation::Failed(ProbeError::Unacked) => break clock::now() - start,
            // What was on its way; and the kernel has not given up yet.
            Observation::Info(_) | Observation::Failed(ProbeError::Silent) => {}
            other => panic!("{other:?}"),
        }
    };
    println!("unacknowledged after {unacked:?}");
    assert!(unacked >= limit / 2, "{unacked:?}");
    assert!(unacked <= limit * 2, "{unacked:?}");
    for _ in 0..3 {
        let next = observation().await;
        assert_eq!(next, Observation::Failed(ProbeError::Unacked));
    }
    host.heal();
    let healed = clock::now();
    while !matches!(observation().await, Observation::Info(_)) {}
    println!("heard again after {:?}", clock::now() - healed);
    probing.abort();
}
