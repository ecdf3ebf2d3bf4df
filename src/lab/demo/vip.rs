//! `--with vip`: hosts of their own on one switch, an address that is always on the primary's, and
//! ordinary clients that connect to it, and again whenever they were cut off.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;

use super::super::history::Kind;
use super::super::namespace::HOSTS;
use super::super::{Finder, LabError, Lan, Traffic, TrafficOptions, judge, lan, until};
use super::act::{ActOutcome, Fault};
use super::screen::{Screen, grouped};
use super::{DemoOptions, FaultChoice, tables};
use crate::clock;
use crate::topology::Timestamp;
use crate::vip::VipState;

/// The address that moves.
const ADDRESS: &str = "10.77.0.100";

/// How often is looked where the address is.
const FRAME: Duration = Duration::from_millis(100);

/// Time between two operations of one client: traffic a person can follow.
const PACE: Duration = Duration::from_millis(1);

/// For what should take a moment.
const SOON: Duration = Duration::from_secs(20);

/// Runs this process again in namespaces of its own, where it may make a network; returns there.
pub(super) fn enter() -> Result<(), LabError> {
    if HOSTS.entered()? {
        return lan::make_switch();
    }
    for program in ["unshare", "nsenter", "ip", "iptables"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(LabError::Unexpected(format!(
                "{program} is missing on this machine: scripts/setup.sh test installs it"
            )));
        }
    }
    if let Some(why) = HOSTS.refused() {
        return Err(LabError::Unexpected(format!(
            "a virtual address needs a network of its own, and this user may not make one here: {why}\n\
             Run it as root, outside of a container or in one that is privileged (it takes \
             CAP_NET_ADMIN and CAP_SYS_ADMIN); nothing of this machine's own network is touched."
        )));
    }
    Err(HOSTS.enter())
}

/// As `show` of `demo`.
pub(super) async fn show(options: &DemoOptions, screen: &mut Screen) -> Result<bool, LabError> {
    screen.say("");
    screen.say(
        "  Starting a switch, one primary, two replicas and a vip agent on hosts of their own, and \
         pointsman ...",
    );
    let program = std::env::current_exe().map_err(LabError::io("find this program"))?;
    let vip = ADDRESS
        .parse()
        .map_err(|error| LabError::Unexpected(format!("{ADDRESS}: {error}")))?;
    let mut lan = Lan::start(program, options.server.clone(), vip).await?;
    screen.say("");
    for host in 1..=3 {
        let role = if host == 1 { "primary" } else { "replica" };
        screen.say(&format!(
            "    {role}    10.77.0.{host}:6379, with a vip agent"
        ));
    }
    screen.say(&format!(
        "    address    {ADDRESS}, on the primary's host; the clients connect to it"
    ));
    screen.say(&format!(
        "    pointsman  {}   tells the agents who is primary",
        lan.admin()
    ));
    let faults = match options.fault {
        FaultChoice::Switchover => vec![Fault::Switchover],
        FaultChoice::Kill => vec![Fault::Kill],
        FaultChoice::Hang => vec![Fault::Hang],
        FaultChoice::RestartEmpty | FaultChoice::Reshard | FaultChoice::All => {
            vec![Fault::Switchover, Fault::Kill, Fault::Hang]
        }
    };
    let time = Duration::from_secs(options.seconds);
    let mut outcomes = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{} of {}", number + 1, faults.len());
        outcomes.push(play(&mut lan, screen, *fault, &title, time).await?);
    }
    let kept = tables::summary(screen, &outcomes, &[], false);
    if options.keep {
        keep(screen);
        std::future::pending::<()>().await;
    }
    Ok(kept)
}

/// Plays one act and prints it.
async fn play(
    lan: &mut Lan,
    screen: &mut Screen,
    fault: Fault,
    title: &str,
    time: Duration,
) -> Result<ActOutcome, LabError> {
    screen.say("");
    let head = screen.bold(&format!("  {title}: {}", fault.name()));
    screen.say(&head);
    screen.say("");
    let earlier = lan.failovers().await?.len();
    let address = lan.address();
    let traffic = Traffic::start(TrafficOptions {
        clients: vec![(Kind::Reader, 3), (Kind::Setter, 3), (Kind::Counter, 3)],
        finder: Some(Finder::at(address.clone())),
        pace: PACE,
        ..TrafficOptions::every_kind(address)
    })
    .await?;
    let mut stage = Stage {
        screen,
        traffic: &traffic,
        began: clock::now(),
        host: 0,
        acknowledged: 0,
        told: 0,
    };
    stage.watch(lan, time.mul_f64(0.3)).await;
    let host = stage.host;
    let node = format!("redis-{host}");
    stage.note(&format!("{} of 10.77.0.{host}:6379", fault.name()));
    match fault {
        Fault::Switchover => lan.switchover(None).await?,
        Fault::Kill | Fault::RestartEmpty => lan.kill(&node)?,
        Fault::Hang => lan.signal(&node, Signal::STOP)?,
        // Those of a cluster are not among the faults above.
        Fault::Handover | Fault::Reshard => {}
    }
    stage.watch(lan, time.mul_f64(0.35)).await;
    until("the failover's report", SOON, async || {
        let reports = lan.failovers().await.map_err(|e| e.to_string())?;
        match reports.len() > earlier {
            true => Ok(()),
            false => Err(format!("{} reports", reports.len())),
        }
    })
    .await?;
    match fault {
        Fault::Switchover | Fault::Handover | Fault::Reshard => {}
        Fault::Kill | Fault::RestartEmpty => {
            stage.note(&format!("10.77.0.{host}:6379 comes back"));
            lan.start_node(host)?;
        }
        Fault::Hang => {
            stage.note(&format!("10.77.0.{host}:6379 wakes up"));
            lan.signal(&node, Signal::CONT)?;
        }
    }
    stage.watch(lan, time.mul_f64(0.35)).await;
    traffic.progress(1, SOON).await?;
    lan.two_may_be_promoted().await?;
    let mut primary = lan.client_of(stage.host).await?;
    let verdict = judge(&traffic.stop(&mut primary).await?);
    let outcome = ActOutcome { fault, verdict };
    tables::report(screen, &lan.failovers().await?.swap_remove(earlier));
    tables::clients(screen, &outcome);
    Ok(outcome)
}

struct Stage<'a> {
    screen: &'a mut Screen,
    traffic: &'a Traffic,
    began: Timestamp,
    /// Where the address is.
    host: usize,
    acknowledged: u64,
    /// Whole seconds already told.
    told: u64,
}

impl Stage<'_> {
    /// Shows what happens for as long as `time`.
    async fn watch(&mut self, lan: &Lan, time: Duration) {
        let start = clock::now();
        while clock::now().since(start) < time {
            tokio::time::sleep(FRAME).await;
            for host in 1..=3 {
                let status = lan.status(host).await;
                let held = status.is_ok_and(|status| status.state == VipState::Held);
                if held && self.host != host {
                    let earlier = std::mem::replace(&mut self.host, host);
                    if earlier != 0 {
                        self.note(&format!(
                            "the address is on the host of 10.77.0.{host}:6379"
                        ));
                    }
                }
            }
            self.tell();
        }
    }

    /// A line that stays, with the time since the traffic began.
    fn note(&mut self, text: &str) {
        let time = clock::now().since(self.began).as_secs_f64();
        let line = self.screen.notable(&format!("  {time:6.2} s   {text}"));
        self.screen.say(&line);
    }

    /// One line a second.
    fn tell(&mut self) {
        let time = clock::now().since(self.began);
        if time.as_secs() <= self.told {
            return;
        }
        self.told = time.as_secs();
        let live = || self.traffic.live().values();
        let done: u64 = live().map(|l| l.acknowledged.load(Ordering::Relaxed)).sum();
        let errors: u64 = live().map(|l| l.errors.load(Ordering::Relaxed)).sum();
        let line = format!(
            "  {:6.2} s   {ADDRESS} is on host {}   {} requests/s   {errors} errors",
            time.as_secs_f64(),
            self.host,
            grouped(done - self.acknowledged),
        );
        self.acknowledged = done;
        self.screen.say(&line);
    }
}

fn keep(screen: &mut Screen) {
    let pid = std::process::id();
    screen.say("");
    screen.say(&screen.bold("  Everything is left running. Play with it:"));
    screen.say("");
    for (what, command) in [
        (
            "a shell in that network",
            format!("nsenter --preserve-credentials -U -n -m -t {pid}"),
        ),
        ("there: the address", format!("redis-cli -h {ADDRESS}")),
        (
            "where it is, and why",
            "pointsman status --admin 10.77.0.1:9122".to_owned(),
        ),
        (
            "move the primary",
            "pointsman switchover main --admin 10.77.0.10:9121".to_owned(),
        ),
        (
            "what happened",
            "pointsman failovers --admin 10.77.0.10:9121".to_owned(),
        ),
        (
            "cut a host off",
            "ip link set h1 down     (and h1 up)".to_owned(),
        ),
    ] {
        screen.say(&format!("    {what:<26} {command}"));
    }
    screen.say("");
    screen.say("  Ctrl-C ends and removes all of it.");
}
