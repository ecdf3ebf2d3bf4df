//! The same steps on both sides, one at a time, and what they answered.

use pointsman::clock;
use pointsman::lab::{Address, Cluster, ClusterOptions, DataPlane};
use pointsman::proxy::BackendSettings;
use pointsman::topology::{Gate, Timestamp};

use crate::arguments::{SHORT, SHORT_MILLIS, USERS};
use crate::mask::{self, Mask, Names};
use crate::sequence::{Act, CONNECTIONS, Step};
use crate::side::{Control, Event, PATIENCE, Side};

/// A server by itself, and a server behind pointsman.
pub struct Comparison {
    direct: Side,
    proxied: Side,
    plane: DataPlane,
    /// A sequence is running, or ended badly.
    in_use: bool,
    _kept: (Cluster, Cluster),
}

/// Where the two differ.
#[derive(Debug)]
pub struct Difference {
    /// Number of the step.
    pub step: usize,
    pub what: String,
}

impl Comparison {
    pub fn start() -> Comparison {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let start = || {
            // Nothing that depends on how fast the machine is.
            let config = ["slowlog-log-slower-than -1", "latency-monitor-threshold 0"];
            let options = ClusterOptions {
                replicas: 0,
                config: config.map(str::to_owned).to_vec(),
                ..ClusterOptions::default()
            };
            runtime
                .block_on(Cluster::start(options))
                .expect("a server starts")
        };
        let (alone, behind) = (start(), start());
        let server = |cluster: &Cluster| match cluster.node(0).address() {
            Address::Tcp(address) => address,
            other => panic!("a server listens on TCP, not on {other:?}"),
        };
        for server in [server(&alone), server(&behind)] {
            // Else FLUSHALL is answered once a thread is done with it, since 7.4. 6.0 does not know it.
            Control::open(&server).ask(&["CONFIG", "SET", "lazyfree-lazy-user-flush", "yes"]);
        }
        let plane = DataPlane::start(BackendSettings::default()).expect("the data plane starts");
        runtime
            .block_on(plane.publish(1, behind.node(0), Gate::Open))
            .expect("INFO answers");
        Comparison {
            direct: Side::new(server(&alone), &server(&alone)),
            proxied: Side::new(plane.address.clone(), &server(&behind)),
            plane,
            in_use: false,
            _kept: (alone, behind),
        }
    }

    pub fn control(&mut self) -> &mut Control {
        &mut self.direct.control
    }

    /// Runs the steps until the sides differ.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Difference> {
        if std::mem::replace(&mut self.in_use, true) {
            // The last sequence left something behind.
            *self = Comparison {
                in_use: true,
                ..Comparison::start()
            };
        }
        let mut masks: [Vec<Mask>; CONNECTIONS] = Default::default();
        let mut result = Ok(());
        for (step, request) in steps.iter().enumerate() {
            result = self
                .step(request, &mut masks)
                .map_err(|what| Difference { step, what });
            if result.is_err() {
                break;
            }
        }
        let left = self.leave();
        self.in_use = left.is_err();
        let step = steps.len().saturating_sub(1);
        result.and(left.map_err(|what| Difference { step, what }))
    }

    /// Every client leaves, then everything is as if nothing had been run.
    fn leave(&mut self) -> Result<(), String> {
        self.direct.clear();
        self.proxied.clear();
        let until = clock::now() + PATIENCE;
        loop {
            let left = tally(&mut self.direct.control);
            let right = Tally {
                // Upstreams stay for the next client.
                connections: self.plane.proxy.clients(),
                ..tally(&mut self.proxied.control)
            };
            let engaged = self.proxied.control.engaged();
            if left == Tally::default() && right == Tally::default() && engaged.is_empty() {
                break;
            }
            if clock::now() > until {
                return Err(format!(
                    "when everybody has left: {left:?} and {right:?}, {engaged:?}\n"
                ));
            }
        }
        for side in [&mut self.direct, &mut self.proxied] {
            let users: Vec<&str> = ["ACL", "DELUSER"]
                .into_iter()
                .chain(USERS.iter().copied())
                .collect();
            side.control.ask(&users);
            side.flush_scripts();
            for request in [
                "ACL LOG RESET",
                "FLUSHALL",
                "FUNCTION FLUSH",
                "CONFIG RESETSTAT",
            ] {
                side.control.ask(&request.split(' ').collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, masks: &mut [Vec<Mask>; CONNECTIONS]) -> Result<(), String> {
        let at = step.connection;
        self.direct.open(at);
        self.proxied.open(at);
        if let Some(requests) = step.act.requests() {
            masks[at].extend(requests.iter().flat_map(|request| mask::of(request)));
            masks[at].sort_unstable();
            masks[at].dedup();
        }
        if let Act::Last { .. } = step.act {
            // What ran by then may differ, where a connection was another one.
            for side in [&mut self.direct, &mut self.proxied] {
                side.control.ask(&["CONFIG", "RESETSTAT"]);
            }
        }
        self.direct.act(step);
        self.settle_direct(step);
        let expected = self.direct.counts();
        let tally_direct = tally(&mut self.direct.control);

        let until = clock::now() + PATIENCE;
        self.proxied.act(step);
        self.proxied.wait(expected, until);
        let mut unsettled = None;
        if self.proxied.counts() == expected {
            let silent = match step.act {
                Act::Send { .. } | Act::Raw(_) => expected[at] == 0,
                Act::Last { .. } => true,
                Act::HalfClose | Act::Close => false,
            };
            unsettled = self.settle_proxied(silent, &tally_direct, until);
        }
        self.proxied.drain();
        self.compare(masks)?;
        if let Some(what) = unsettled {
            return Err(what);
        }
        // What is neither in a transaction nor blocked owes no reply.
        let busy: Vec<i64> = self
            .direct
            .control
            .clients()
            .iter()
            .filter(|client| client["flags"].contains(['x', 'b']) || client["qbuf"] != "0")
            .filter_map(|client| client["id"].parse().ok())
            .collect();
        for (connection, masks) in masks.iter_mut().enumerate() {
            if !busy.contains(&self.direct.id(connection)) {
                masks.clear();
            }
        }
        Ok(())
    }

    /// Everything that the step led to has arrived; short waits are waited out.
    fn settle_direct(&mut self, step: &Step) {
        if let Act::Last { .. } = step.act {
            let until = clock::now() + PATIENCE;
            self.direct.wait_for_end(step.connection, until);
        }
        self.direct.control.barrier();
        let short = waits_shortly(step);
        let id = self.direct.id(step.connection).to_string();
        let until = clock::now() + PATIENCE;
        while short
            && clock::now() < until
            && self
                .direct
                .control
                .clients()
                .iter()
                .any(|client| client["id"] == id && client["flags"].contains('b'))
        {}
        self.direct.control.barrier();
        self.direct.drain();
    }

    /// The server behind pointsman has done what the other one has done; else what is missing. `silent`:
    /// not every request was answered.
    fn settle_proxied(
        &mut self,
        silent: bool,
        tally_direct: &Tally,
        until: Timestamp,
    ) -> Option<String> {
        let open = tally_direct.connections;
        let ran = silent.then(|| self.direct.control.ran());
        loop {
            let mut seen = tally(&mut self.proxied.control);
            seen.connections = self.plane.proxy.clients();
            let ran_there = silent.then(|| self.proxied.control.ran());
            if seen == *tally_direct && ran == ran_there {
                return None;
            }
            if clock::now() >= until {
                let mut what =
                    format!("clients' state: {tally_direct:?} and {seen:?} ({open} open)\n");
                if let (Some(left), Some(right)) = (ran, ran_there) {
                    for (name, figures) in &left {
                        let other = right.get(name);
                        if other != Some(figures) {
                            what += &format!("\n{name}: {figures} and {other:?}");
                        }
                    }
                    for (name, figures) in
                        right.iter().filter(|(name, _)| !left.contains_key(*name))
                    {
                        what += &format!("\n{name}: nothing and {figures}");
                    }
                }
                return Some(what);
            }
        }
    }

    fn compare(&mut self, masks: &[Vec<Mask>; CONNECTIONS]) -> Result<(), String> {
        let (mut direct, mut proxied) = (self.direct.events(), self.proxied.events());
        direct
            .iter_mut()
            .chain(&mut proxied)
            .for_each(|events| mask::order_patterns(events));
        proxied.iter_mut().for_each(mask::forget_farewell);
        let names = Names {
            left: &self.direct.names,
            right: &self.proxied.names,
        };
        let mut what = String::new();
        for connection in 0..CONNECTIONS {
            let (left, right) = (&direct[connection], &proxied[connection]);
            let equal = left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(l, r)| mask::same(l, r, &masks[connection], &names));
            if !equal {
                what += &format!(
                    "connection {connection}:\n  direct   {}\n  proxied  {}\n",
                    shown(left),
                    shown(right)
                );
            }
        }
        if what.is_empty() { Ok(()) } else { Err(what) }
    }
}

/// Whether the step waits for a time that is waited out.
fn waits_shortly(step: &Step) -> bool {
    let Act::Send { requests, .. } = &step.act else {
        return false;
    };
    requests
        .iter()
        .flatten()
        .any(|arg| arg == SHORT.as_bytes() || arg == SHORT_MILLIS.as_bytes())
}

fn shown(events: &[Event]) -> String {
    let shown: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Reply(value) => value.to_string(),
            Event::HalfAReply(bytes) => format!("half \"{}\"", bytes.escape_ascii()),
            Event::Closed => "closed".to_owned(),
        })
        .collect();
    shown.join("  ")
}

/// What a server knows of its clients' state, over all of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    connections: usize,
    blocked: usize,
    subscriptions: usize,
}

fn tally(control: &mut Control) -> Tally {
    let mut tally = Tally::default();
    for client in control.clients() {
        tally.connections += 1;
        tally.blocked += usize::from(client["flags"].contains('b'));
        for field in ["sub", "psub", "ssub"] {
            tally.subscriptions += client.get(field).and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    }
    tally
}
