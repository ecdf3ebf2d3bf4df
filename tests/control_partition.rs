//! A host that vanishes without a word: nothing is acknowledged any more. Needs leave for a network of its
//! own; where there is none it says NOT RUN.

#[path = "support/namespace.rs"]
mod namespace;

use std::process::{Child, Stdio};
use std::time::Duration;

use namespace::{is_mine, run};
use pointsman::clock;
use pointsman::control::{Access, Probe, Sighting};
use pointsman::failover::{Observation, Policy, ProbeError};
use pointsman::lab::Server;
use pointsman::lab::namespace::{HOSTS, add_cable, add_host, inside, on};
use pointsman::topology::NodeId;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(15);

/// The only host on the switch.
const HOST: usize = 1;

const ADDRESS: &str = "10.77.0.1";

/// A host with a server on it.
struct Host(Child);

impl Host {
    fn new() -> Host {
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run("ip", &["addr", "add", "10.77.0.254/24", "dev", "br0"]);
        run("ip", &["link", "set", "br0", "up"]);
        add_host(HOST).unwrap();
        add_cable(HOST, "eth0", "br0", &format!("{ADDRESS}/24")).unwrap();
        let server = on(HOST)
            .arg(Server::program())
            .args(["--port", "6379", "--bind", ADDRESS, "--save", ""])
            .args(["--protected-mode", "no", "--daemonize", "no"])
            .args(["--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn();
        Host(server.unwrap())
    }

    fn cut(&self) {
        inside(HOST, &["iptables", "-I", "INPUT", "-j", "DROP"]).unwrap();
    }

    fn heal(&self) {
        inside(HOST, &["iptables", "-F", "INPUT"]).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // `nsenter` becomes the server, so this is the server.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_vanished_host_is_unacknowledged_within_its_time() {
    if !is_mine("a_vanished_host_is_unacknowledged_within_its_time", HOSTS) {
        return;
    }
    let host = Host::new();
    let policy = Policy::default();
    let limit = policy.unacked_after;
    let access = Access {
        node: NodeId::new(format!("{ADDRESS}:6379")),
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
