//! `pointsman demo`: everything on one machine, faults one after the other, and what the clients
//! saw of them.
//!
//! `act` is one fault from its traffic to its verdict, `sharded` the same where a cluster serves, `screen` what
//! moves while it happens, `tables` what stays.

mod act;
mod screen;
mod sharded;
mod tables;
mod vip;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::hand;
use super::server::Server;
use super::{Address, ClusterOptions, LabError, Sentinels, Shard, ShardOptions, Way};
use act::Fault;
use screen::Screen;

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// How long the traffic of each fault runs, seconds
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(4..=3600))]
    pub seconds: u64,
    /// What happens to the primary
    #[arg(long, value_enum, default_value_t = FaultChoice::All)]
    pub fault: FaultChoice,
    /// Who decides that a replica becomes primary
    #[arg(long = "with", value_enum, default_value_t = Way::Embedded)]
    pub way: Way,
    /// Leave everything running afterwards, to play with it by hand, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// The server's program, for example a valkey-server
    #[arg(
        long,
        env = "REDIS_SERVER",
        default_value = "redis-server",
        value_name = "PROGRAM"
    )]
    pub server: PathBuf,
}

/// See [`DemoOptions::fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FaultChoice {
    /// The operator moves the primary to another node
    Switchover,
    /// Its process is killed
    Kill,
    /// It hangs, and wakes up when another node is primary
    Hang,
    /// It is killed and started again at once without its data
    RestartEmpty,
    /// Of a cluster: hash slots move to another shard
    Reshard,
    /// One after the other
    All,
}

/// Runs the demo; `true` when every promise was kept. Everything it started has ended when it
/// returns, also after Ctrl-C, which is no broken promise.
pub fn run(options: &DemoOptions) -> Result<bool, LabError> {
    if options.way == Way::Vip {
        vip::enter()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start the demo"))?;
    runtime.block_on(async {
        let mut screen = Screen::new();
        let kept = tokio::select! {
            kept = show(options, &mut screen) => kept,
            stopped = asked_to_stop() => stopped.map(|()| true),
        };
        screen.close();
        kept
    })
}

async fn asked_to_stop() -> Result<(), LabError> {
    let listen = |kind| signal(kind).map_err(LabError::io("listen for signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

async fn show(options: &DemoOptions, screen: &mut Screen) -> Result<bool, LabError> {
    let unseen = match options.way {
        Way::Sentinel => Some(
            "Sentinel keeps a primary that is back before it was missed: there is no failover \
                  to show",
        ),
        Way::Dns | Way::Follow => Some(
            "the operator keeps a primary that is back before it was missed: there is nothing to \
                  show",
        ),
        Way::Vip => Some("that one is shown without an address: choose another fault"),
        _ => None,
    };
    if let (FaultChoice::RestartEmpty, Some(why)) = (options.fault, unseen) {
        return Err(LabError::Unexpected(why.into()));
    }
    if options.fault == FaultChoice::Reshard && options.way != Way::Cluster {
        let why = "only a cluster has hash slots: --with cluster";
        return Err(LabError::Unexpected(why.into()));
    }
    if options.way == Way::Vip {
        return vip::show(options, screen).await;
    }
    screen.say("");
    if options.way == Way::Cluster {
        return sharded::show(options, screen).await;
    }
    let others = match options.way {
        Way::Dns => ", a BIND with a name that stands for the primary",
        Way::Embedded | Way::Cluster | Way::Follow | Way::Vip => "",
        Way::Sentinel => ", three sentinels",
        Way::Etcd => ", etcd on three servers, two further monitors",
        Way::Consul => ", Consul, two further monitors",
        Way::Zookeeper => ", ZooKeeper on three servers, two further monitors",
    };
    if let Some(what) = options.way.missing() {
        return Err(LabError::Unexpected(format!(
            "{what} is missing on this machine: scripts/setup.sh test installs it"
        )));
    }
    screen.say(&format!(
        "  Starting one primary, two replicas{others} and pointsman in front of them ..."
    ));
    let shard = Shard::start(ShardOptions {
        cluster: ClusterOptions {
            program: options.server.clone(),
            ..ClusterOptions::default()
        },
        ..options.way.options()
    })
    .await?;
    introduce(&shard, screen).await?;

    let faults = match options.fault {
        FaultChoice::Switchover => vec![Fault::Switchover],
        FaultChoice::Kill => vec![Fault::Kill],
        FaultChoice::Hang => vec![Fault::Hang],
        FaultChoice::RestartEmpty => vec![Fault::RestartEmpty],
        FaultChoice::Reshard | FaultChoice::All => Fault::all(options.way),
    };
    let time = Duration::from_secs(options.seconds);
    let mut outcomes = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        let title = format!("{} of {}", number + 1, faults.len());
        outcomes.push(act::play(&shard, options.way, screen, *fault, &title, time).await?);
    }
    let alarms = shard
        .pointsman
        .unexpected_log_lines(&["\"level\":\"WARN\""]);
    let kept = tables::summary(screen, &outcomes, &alarms, true);
    if options.keep {
        keep(&shard, options.way, screen).await?;
    }
    Ok(kept)
}

async fn introduce(shard: &Shard, screen: &mut Screen) -> Result<(), LabError> {
    let node = shard.primary().await?;
    let version = version(node).await?;
    screen.say("");
    for (number, node) in shard.cluster.nodes().iter().enumerate() {
        let role = if number == 0 { "primary" } else { "replica" };
        screen.say(&format!("    {role}    {}   {version}", node.id()));
    }
    for sentinel in shard.sentinels.iter().flat_map(Sentinels::all) {
        screen.say(&format!("    sentinel   {}", sentinel.id()));
    }
    screen.say(&format!(
        "    pointsman  {}   every setting at its default",
        shard.address()
    ));
    if let Some(dns) = &shard.dns {
        let (server, name) = (dns.server(), hand::service());
        screen.say(&format!(
            "    BIND       {server}   {name} stands for the primary"
        ));
    }
    if shard.sentinels.is_some() {
        screen.say("    The sentinels decide after 1 s without an answer of the primary.");
    }
    Ok(())
}

async fn version(node: &Server) -> Result<String, LabError> {
    let info = node.info().await?;
    let version = ["valkey_version", "redis_version"]
        .iter()
        .find_map(|field| Some(format!("{} {}", &field[..6], info.get(*field)?)));
    Ok(version.unwrap_or_default().replace("redis_", "redis"))
}

/// Leaves everything running until the process is asked to stop.
async fn keep(shard: &Shard, way: Way, screen: &mut Screen) -> Result<(), LabError> {
    let primary: &Server = shard.primary().await?;
    let port = shard.pointsman.port();
    let pid = primary.pid().unwrap_or_default();
    let admin = shard.pointsman.admin();
    let mut lines = vec![
        ("an ordinary client", format!("redis-cli -p {port}")),
        (
            "one that writes for ever",
            format!("redis-cli -p {port} -r -1 -i 0.1 incr tries"),
        ),
        ("kill the primary", format!("kill -9 {pid}")),
        ("or let it hang", format!("kill -STOP {pid}")),
        (
            "who is primary",
            format!("pointsman status --admin {admin}"),
        ),
        (
            "what happened",
            format!("pointsman failovers --admin {admin}"),
        ),
        (
            "the log",
            format!(
                "tail -f {}/pointsman.log",
                shard.pointsman.directory().display()
            ),
        ),
    ];
    let mut others = shard.cluster.nodes().iter();
    let other = others.find(|n| n.id() != primary.id());
    let moving = match other.filter(|_| way.by_hand()) {
        None => format!("pointsman switchover main --admin {admin}"),
        Some(other) => format!("redis-cli -p {} replicaof no one", other.port()),
    };
    lines.push(("move it on purpose", moving));
    if let Some(dns) = &shard.dns {
        if let Some(other) = other {
            let script = hand::name_script(dns, other)?;
            lines.push((
                "and the name to it",
                format!("nsupdate {}", script.display()),
            ));
        }
        let question = dns.question(&hand::service(), "SRV");
        lines.push(("what the name stands for", question.to_string()));
    }
    if let Some(sentinel) = shard.sentinels.iter().flat_map(Sentinels::all).next() {
        let port = sentinel.port();
        let command = format!("redis-cli -p {port} sentinel failover mymaster");
        lines.push(("let Sentinel move it", command));
    }
    if let Address::Unix(path) = shard.pointsman.socket() {
        let command = format!("redis-cli -s {}", path.display());
        lines.push(("a unix socket", command));
    }
    left_running(screen, &lines);
    std::future::pending().await
}

/// What can be done with it.
fn left_running(screen: &mut Screen, lines: &[(&str, String)]) {
    screen.say("");
    screen.say(&screen.bold("  Everything is left running. Play with it:"));
    screen.say("");
    for (what, command) in lines {
        screen.say(&format!("    {what:<28} {command}"));
    }
    screen.say("");
    screen.say("  Ctrl-C ends and removes all of it.");
}
