//! Watches one node: a task and a connection of its own, so that a node that hangs delays no other.
//! It reports what it sees and concludes nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::codec::Command;
use super::line::{config_get, config_value};
use super::node::{Access, Connection, info_commands, needs_no_password, reply_failure};
use crate::clock;
use crate::failover::{Observation, Policy, ProbeError};
use crate::resp::info::{NodeInfo, parse};
use crate::topology::{NodeId, Timestamp};

/// A node that answers but is of no use (wrong password, not Redis, too many clients) is asked
/// this often; asked at the usual pace it would fill its log.
const UNUSABLE_PAUSE: Duration = Duration::from_secs(1);

/// The kernel repeats an unanswered SYN only after a second. So that a host that returns is heard
/// sooner, a connect is given up and made anew after the probe's own time limit; but every so many
/// tries it gets this long, or `unacked_after` if that is longer, for hosts that are far away.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// See [`CONNECT_LIMIT`].
const PATIENT_EVERY: u32 = 4;

/// INFO requests on their way at most: one by the clock, and one for each of a few early calls.
const MAX_AWAITED: usize = 3;

/// Pause between two looks at who is connected to a node.
const MARKS_PAUSE: Duration = Duration::from_secs(5);

/// The same while another monitor's mark is there, so that its end is seen soon.
const MARKED_PAUSE: Duration = Duration::from_secs(1);

/// CLIENT LIST costs the node about a microsecond for each client: the pause grows with them.
const MARKS_PAUSE_PER_CLIENT: Duration = Duration::from_millis(10);

/// A setting that is each node's own, and whose loss in a failover nobody would notice.
const NOTIFIES: &str = "notify-keyspace-events";

/// Pause between two looks at a setting that a failover might lose.
const SETTINGS_PAUSE: Duration = Duration::from_secs(2);

/// A mark whose connection was idle longer than this many seconds is a dead monitor's.
const MARK_IDLE_LIMIT: u64 = 10;

/// What a probe reports.
#[derive(Debug)]
pub enum Sighting {
    /// A probe ended or keeps failing.
    Observed(Observation),
    /// A foreign mark on the node's connections; `None` when there is none.
    Mark(Option<Arc<str>>),
    /// The node's `notify-keyspace-events`.
    Notifies(Arc<str>),
}

/// Asks a probe to look now.
#[derive(Clone, Debug)]
pub struct ProbeCaller(mpsc::Sender<()>);

impl ProbeCaller {
    /// Never waits; a call that is already pending is enough.
    pub fn probe_now(&self) {
        let _ = self.0.try_send(());
    }
}

/// One node's probe.
pub struct Probe {
    access: Access,
    policy: Policy,
    /// Marks that begin so are other monitors', if they are not ours. `None`: do not look.
    mark_prefix: Option<Arc<str>>,
    calls: mpsc::Receiver<()>,
    out: mpsc::Sender<(NodeId, Sighting)>,
    /// Connects in a row that failed.
    failed_connects: u32,
}

/// The driver is gone.
struct Stopped;

/// What the next reply answers.
enum Awaited {
    Auth,
    /// CLIENT SETNAME and the like: the reply is of no matter.
    Nothing,
    /// INFO, with what is still missing of it.
    Info {
        sent: Timestamp,
        last: bool,
    },
    Marks,
    /// CONFIG GET notify-keyspace-events.
    Notifies,
}

/// A connection and what is on its way on it.
struct Watch {
    connection: Connection,
    awaited: VecDeque<Awaited>,
    text: Vec<u8>,
    version: Option<(u16, u16, u16)>,
    /// Whether it ever answered INFO.
    answered: bool,
    marks_due: Timestamp,
    /// `None`: the node does not tell us.
    settings_due: Option<Timestamp>,
}

impl Probe {
    /// `mark_prefix`: marks that begin so and are not ours are reported; `None`: none
    /// are looked for.
    pub fn new(
        access: Access,
        policy: Policy,
        mark_prefix: Option<Arc<str>>,
        out: mpsc::Sender<(NodeId, Sighting)>,
    ) -> (Probe, ProbeCaller) {
        let (caller, calls) = mpsc::channel(1);
        let probe = Probe {
            access,
            policy,
            mark_prefix,
            calls,
            out,
            failed_connects: 0,
        };
        (probe, ProbeCaller(caller))
    }

    /// Runs until the driver is gone or the task is dropped.
    pub async fn run(mut self) {
        let mut ticks = interval(self.policy.probe_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.once(&mut ticks).await.is_ok() {}
    }

    /// One connection, from connect to its end.
    async fn once(&mut self, ticks: &mut Interval) -> Result<(), Stopped> {
        let (failed, answered) = match self.connect(ticks).await? {
            Ok(connection) => {
                self.failed_connects = 0;
                self.watch(connection, ticks).await?
            }
            Err(failed) => (failed, false),
        };
        self.report(Observation::Failed(failed.clone())).await?;
        match failed {
            // What came after the end is the more telling observation: at once.
            ProbeError::ConnectionLost | ProbeError::Unacked if answered => Ok(()),
            ProbeError::Auth(_) | ProbeError::NotRedis | ProbeError::MaxClients => {
                self.pause(UNUSABLE_PAUSE).await
            }
            _ => self.pause(self.policy.probe_interval).await,
        }
    }

    async fn pause(&mut self, pause: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            call = self.calls.recv() => call.ok_or(Stopped),
        }
    }

    async fn report(&self, observation: Observation) -> Result<(), Stopped> {
        self.send(Sighting::Observed(observation)).await
    }

    async fn send(&self, sighting: Sighting) -> Result<(), Stopped> {
        let message = (self.access.node.clone(), sighting);
        self.out.send(message).await.map_err(|_| Stopped)
    }

    /// Connects; while the peer's kernel does not answer, says so again and again.
    async fn connect(
        &mut self,
        ticks: &mut Interval,
    ) -> Result<Result<Connection, ProbeError>, Stopped> {
        let addresses: Vec<SocketAddr> = match self.access.resolve().await {
            Ok(addresses) => addresses,
            Err(failed) => return Ok(Err(failed)),
        };
        let begun = clock::now();
        self.failed_connects = self.failed_connects.wrapping_add(1);
        let limit = match self.failed_connects.is_multiple_of(PATIENT_EVERY) {
            true => CONNECT_LIMIT.max(self.policy.unacked_after),
            false => self.policy.probe_timeout(),
        };
        let access = self.access.clone();
        let connect = access.connect(&addresses, limit);
        tokio::pin!(connect);
        loop {
            tokio::select! {
                biased;
                result = &mut connect => return Ok(result),
                _ = ticks.tick() => {
                    if clock::now() - begun >= self.policy.probe_timeout() {
                        self.report(Observation::Failed(ProbeError::Unacked)).await?;
                    }
                }
            }
        }
    }

    /// Probes over `connection` until it ends; why it ended, and whether it ever answered.
    async fn watch(
        &mut self,
        connection: Connection,
        ticks: &mut Interval,
    ) -> Result<(ProbeError, bool), Stopped> {
        let mut watch = Watch::new(connection);
        let mut outcome = watch.begin(&self.access).await;
        ticks.reset();
        loop {
            if let Err(failed) = outcome {
                return Ok((failed, watch.answered));
            }
            outcome = tokio::select! {
                biased;
                reply = watch.connection.receive() => match reply {
                    Ok(reply) => match watch.take(reply, self.mark_prefix.as_deref(), &self.access) {
                        Ok(Some(sighting)) => {
                            self.send(sighting).await?;
                            Ok(())
                        }
                        Ok(None) => Ok(()),
                        Err(failed) => Err(failed),
                    },
                    Err(failed) => Err(failed),
                },
                call = self.calls.recv() => {
                    call.ok_or(Stopped)?;
                    watch.ask(self.mark_prefix.is_some()).await
                }
                _ = ticks.tick() => match watch.oldest() {
                    None => watch.ask(self.mark_prefix.is_some()).await,
                    Some(sent) => {
                        if clock::now() - sent >= self.policy.probe_timeout() {
                            self.report(Observation::Failed(ProbeError::Silent)).await?;
                        }
                        Ok(())
                    }
                },
            };
        }
    }
}

impl Watch {
    fn new(connection: Connection) -> Self {
        Watch {
            connection,
            awaited: VecDeque::new(),
            text: Vec::new(),
            version: None,
            answered: false,
            marks_due: clock::now(),
            settings_due: Some(clock::now()),
        }
    }

    /// Logs in and asks for the first time, all in one write.
    async fn begin(&mut self, access: &Access) -> Result<(), ProbeError> {
        let mut commands = access.handshake();
        for _ in 0..commands.len() {
            self.awaited.push_back(Awaited::Nothing);
        }
        if access.credentials.is_some() {
            self.awaited[0] = Awaited::Auth;
        }
        self.push_info(&mut commands);
        self.connection.send(commands).await
    }

    fn push_info(&mut self, commands: &mut Vec<Command>) {
        let asked = info_commands(self.version);
        let sent = clock::now();
        for number in 1..=asked.len() {
            let last = number == asked.len();
            self.awaited.push_back(Awaited::Info { sent, last });
        }
        commands.extend(asked);
    }

    /// Asks for INFO once more, unless enough is on its way.
    async fn ask(&mut self, marks_wanted: bool) -> Result<(), ProbeError> {
        let asked = |a: &&Awaited| matches!(a, Awaited::Info { last: true, .. });
        if self.awaited.iter().filter(asked).count() >= MAX_AWAITED {
            return Ok(());
        }
        let mut commands = Vec::new();
        self.push_info(&mut commands);
        let now = clock::now();
        if marks_wanted && now >= self.marks_due {
            self.marks_due = now + MARKS_PAUSE;
            self.awaited.push_back(Awaited::Marks);
            commands.push(Command::new(["CLIENT", "LIST"]));
        }
        if self.answered && self.settings_due.is_some_and(|due| now >= due) {
            self.settings_due = Some(now + SETTINGS_PAUSE);
            self.awaited.push_back(Awaited::Notifies);
            commands.push(config_get(NOTIFIES));
        }
        self.connection.send(commands).await
    }

    /// When the oldest unanswered INFO was sent.
    fn oldest(&self) -> Option<Timestamp> {
        self.awaited.iter().find_map(|awaited| match awaited {
            Awaited::Info { sent, .. } => Some(*sent),
            _ => None,
        })
    }

    /// Takes one reply. `Err` ends the connection.
    fn take(
        &mut self,
        reply: BytesFrame,
        mark_prefix: Option<&str>,
        access: &Access,
    ) -> Result<Option<Sighting>, ProbeError> {
        if let BytesFrame::Error(text) = &reply {
            return self.take_error(text);
        }
        match self.awaited.pop_front() {
            None => Err(ProbeError::NotRedis),
            Some(Awaited::Auth | Awaited::Nothing) => Ok(None),
            Some(Awaited::Info { last, .. }) => {
                let BytesFrame::BulkString(part) = &reply else {
                    return Err(ProbeError::NotRedis);
                };
                self.text.extend_from_slice(part);
                if !last {
                    self.text.push(b'\n');
                    return Ok(None);
                }
                let info = self.info()?;
                Ok(Some(Sighting::Observed(Observation::Info(Box::new(info)))))
            }
            Some(Awaited::Marks) => {
                let (BytesFrame::BulkString(list), Some(prefix)) = (&reply, mark_prefix) else {
                    return Ok(None);
                };
                let (clients, who) = foreign_mark(list, prefix, &access.mark);
                let clients = u32::try_from(clients).unwrap_or(u32::MAX);
                let pause = match who {
                    None => MARKS_PAUSE,
                    Some(_) => MARKED_PAUSE,
                };
                let pause = pause + MARKS_PAUSE_PER_CLIENT.saturating_mul(clients);
                self.marks_due = clock::now() + pause;
                Ok(Some(Sighting::Mark(who)))
            }
            Some(Awaited::Notifies) => {
                let flags = config_value(&reply).unwrap_or_default();
                let flags = String::from_utf8_lossy(&flags);
                Ok(Some(Sighting::Notifies(flags.into())))
            }
        }
    }

    fn info(&mut self) -> Result<NodeInfo, ProbeError> {
        let parsed = parse(&self.text).map_err(|_| ProbeError::NotRedis);
        self.text.clear();
        let info = parsed?;
        self.version = Some(info.version);
        self.answered = true;
        Ok(info)
    }

    fn take_error(&mut self, text: &str) -> Result<Option<Sighting>, ProbeError> {
        let failed = reply_failure(text);
        if failed == ProbeError::MaxClients {
            return Err(failed);
        }
        match self.awaited.pop_front() {
            None => Err(failed),
            Some(Awaited::Auth) if needs_no_password(text) => Ok(None),
            Some(Awaited::Nothing | Awaited::Marks) => Ok(None),
            // Each refusal would stand in its ACL LOG.
            Some(Awaited::Notifies) => {
                if matches!(failed, ProbeError::Auth(_)) || text.starts_with("ERR") {
                    self.settings_due = None;
                }
                Ok(None)
            }
            Some(Awaited::Auth) => Err(failed),
            Some(Awaited::Info { last, .. }) => {
                self.text.clear();
                if matches!(failed, ProbeError::Auth(_)) {
                    return Err(failed);
                }
                Ok(last.then_some(Sighting::Observed(Observation::Failed(failed))))
            }
        }
    }
}

/// How many clients CLIENT LIST shows, and the first live mark of another monitor.
fn foreign_mark(list: &[u8], prefix: &str, own: &str) -> (usize, Option<Arc<str>>) {
    let list = String::from_utf8_lossy(list);
    let field = |line: &str, name: &str| {
        line.split(' ')
            .find_map(|item| item.strip_prefix(name).map(str::to_owned))
    };
    let who = list.lines().find_map(|line| {
        let name = field(line, "name=")?;
        let idle: u64 = field(line, "idle=")?.parse().ok()?;
        let foreign = name.starts_with(prefix) && name != own && idle <= MARK_IDLE_LIMIT;
        foreign.then(|| name[prefix.len()..].into())
    });
    (list.lines().count(), who)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_live_mark_of_another_monitor_counts() {
        let list = b"id=3 addr=1.1.1.1:1 name=pointsman-monitor:me age=5 idle=0 flags=N\n\
            id=4 addr=1.1.1.1:2 name=pointsman-monitor:dead age=500 idle=400 flags=N\n\
            id=5 addr=1.1.1.1:3 name= age=1 idle=0 flags=N\n\
            id=6 addr=1.1.1.1:4 name=pointsman-monitor:you age=5 idle=1 flags=N\n";
        let (clients, who) = foreign_mark(list, "pointsman-monitor:", "pointsman-monitor:me");
        assert_eq!((clients, who.as_deref()), (4, Some("you")));
        let (_, who) = foreign_mark(&list[..130], "pointsman-monitor:", "pointsman-monitor:me");
        assert_eq!(who, None);
    }
}
