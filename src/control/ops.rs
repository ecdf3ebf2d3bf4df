//! Acts on one node over a warm connection of its own, one operation after the other. Every
//! operation ends as done, refused, unknown or unreachable; a reply is believed only with the ROLE
//! or INFO that was read behind it on the same connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::codec::Command;
use super::line::{Failed, Line, config_get, config_value, open, read_info};
use super::node::{Access, auth, info_commands};
use super::transaction::{self, Ended, Step};
use crate::clock;
use crate::failover::{NodeOp, NodeOpOutcome, OpId, ProbeError};
use crate::resp::Credentials;
use crate::resp::info::{NodeInfo, Role, RoleReply, parse_role};
use crate::topology::{NodeId, Timestamp};

/// A primary that demands this many replicas accepts no write. A fence demands so many and those that
/// the node demanded before: it is known as one, and so is what it replaced, whoever set it.
/// Where `min-replicas-max-lag` is 0 no demand counts: the fence sets it, and demands twice as many to
/// say so.
const FENCE: u64 = 65_535;

/// `min-replicas-max-lag` of a fence, where the node has none: seconds, the server's own default.
const FENCE_LAG: u64 = 10;

/// Bound of opening the warm connection while nothing waits for it.
const WARM_LIMIT: Duration = Duration::from_secs(1);

/// CLIENT PAUSE for writes only came with Redis 6.2.
const PAUSES_WRITES: (u16, u16, u16) = (6, 2, 0);

/// Pause between two tries to open the warm connection while nothing waits for it.
const WARM_PAUSE: Duration = Duration::from_secs(1);

/// CONFIG REWRITE comes this long after the operation: it stops the node while its disk works, and
/// just then clients that were held are being served.
const REWRITE_PAUSE: Duration = Duration::from_millis(500);

/// Bound of CONFIG REWRITE, which waits for the node's disk.
const REWRITE_LIMIT: Duration = Duration::from_secs(5);

/// Operations that wait for one node; the core asks for few.
pub(super) const QUEUE: usize = 64;

/// One operation.
#[derive(Debug)]
pub struct Order {
    /// Names the answer.
    pub op: OpId,
    /// What to do.
    pub what: NodeOp,
    /// After this long without an answer the outcome is unknown.
    pub timeout: Duration,
    /// When it was decided. What a process that slept did not begin within `timeout` is not begun any
    /// more: somebody else may have decided since.
    pub decided: Timestamp,
}

/// With what replicas log in to their primary, as far as one of the backend's nodes said.
/// Shared by the backend's operators.
pub type SharedReplicationAuth = Arc<Mutex<Option<Credentials>>>;

/// One node's operator.
pub struct Operator {
    access: Access,
    shared_auth: SharedReplicationAuth,
    out: mpsc::Sender<(OpId, NodeOpOutcome)>,
    line: Option<Line>,
    /// When a pause ends that the node does not end by itself.
    unpause_at: Option<Timestamp>,
    /// When it is too late to begin the present operation.
    until: Timestamp,
    /// Whether the present operation's commands may have reached the node.
    sent: bool,
    /// Whether the node's configuration file is to be rewritten after the answer.
    rewrite_due: bool,
}

/// What is read from a node before it is changed.
struct Learned {
    role: Option<RoleReply>,
    /// `min-replicas-to-write` without a fence; `None`: may not be read or changed.
    min_replicas: Option<u64>,
    /// Whether a fence is set.
    fenced: bool,
    /// Whether `min-replicas-max-lag` is 0 without a fence.
    ignores_lag: bool,
    /// With what the node logs in to its primary; `None`: it has nothing, or we may not read it.
    replication_auth: Option<Credentials>,
    /// Whether `replication_auth` could be read at all.
    readable: bool,
}

impl Operator {
    /// Nothing is opened before [`Operator::run`].
    pub fn new(
        access: Access,
        shared_auth: SharedReplicationAuth,
        out: mpsc::Sender<(OpId, NodeOpOutcome)>,
    ) -> Self {
        Operator {
            access,
            shared_auth,
            out,
            line: None,
            unpause_at: None,
            until: Timestamp::default(),
            sent: false,
            rewrite_due: false,
        }
    }

    /// Runs until the driver is gone or the task is dropped. An order goes before warming up and
    /// before rewriting a file.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut pause = Duration::ZERO;
        loop {
            let unpause_in = self.unpause_at.map(|at| at.since(clock::now()));
            let order = match &mut self.line {
                Some(line) => tokio::select! {
                    biased;
                    // Nothing is due: whatever comes means that the connection is of no use.
                    _ = line.connection.receive() => {
                        self.line = None;
                        continue;
                    }
                    order = orders.recv() => order,
                    () = sleep(unpause_in.unwrap_or_default()), if unpause_in.is_some() => {
                        self.end_pause().await;
                        continue;
                    }
                    () = sleep(REWRITE_PAUSE), if self.rewrite_due => {
                        self.rewrite_due = false;
                        self.rewrite().await;
                        continue;
                    }
                },
                None => tokio::select! {
                    biased;
                    order = orders.recv() => {
                        self.line = None;
                        order
                    }
                    () = self.warm_up(pause) => {
                        pause = WARM_PAUSE;
                        continue;
                    }
                },
            };
            let Some(order) = order else { return };
            let outcome = self.perform(&order).await;
            if self.line.is_none() {
                // It was warm: the next order wants it warm again.
                pause = Duration::ZERO;
            }
            if self.out.send((order.op, outcome)).await.is_err() {
                return;
            }
        }
    }

    /// Opens the connection before it is needed. When it is dropped half-way, so is the connection.
    async fn warm_up(&mut self, pause: Duration) {
        sleep(pause).await;
        let opened = timeout(WARM_LIMIT, open(&self.access, WARM_LIMIT)).await;
        let Ok(Ok(line)) = opened else { return };
        self.line = Some(line);
        let learned = timeout(WARM_LIMIT, self.learn()).await;
        if !matches!(learned, Ok(Ok(_))) {
            self.line = None;
        }
    }

    async fn perform(&mut self, order: &Order) -> NodeOpOutcome {
        self.sent = false;
        self.until = order.decided + order.timeout;
        let done = timeout(order.timeout, self.attempt(&order.what, order.timeout)).await;
        let failed = match done {
            Ok(Ok(info)) => return NodeOpOutcome::Done(Box::new(info)),
            Ok(Err(failed)) => failed,
            // Replies may still come: nothing can be asked on this connection any more.
            Err(_) => {
                self.line = None;
                Failed::Lost(ProbeError::Silent)
            }
        };
        match failed {
            Failed::Refused(why) => NodeOpOutcome::Refused(why),
            Failed::Lost(error) => {
                self.line = None;
                match self.sent {
                    true => NodeOpOutcome::Unknown(format!("no answer: {error:?}")),
                    false => NodeOpOutcome::Unreachable(error),
                }
            }
        }
    }

    async fn attempt(&mut self, what: &NodeOp, limit: Duration) -> Result<NodeInfo, Failed> {
        if self.line.is_none() {
            self.line = Some(open(&self.access, limit).await?);
        }
        match what {
            NodeOp::Inspect => self.inspect().await,
            NodeOp::Fence => self.fence().await,
            NodeOp::Unfence => self.unfence().await,
            NodeOp::Promote => self.promote().await,
            NodeOp::Repoint { to } => self.repoint(to).await,
            NodeOp::Pause { duration } => self.pause(*duration).await,
            NodeOp::Unpause => self.unpause().await,
            NodeOp::CheckAuth { as_replica_of } => self.check_auth(as_replica_of, limit).await,
        }
    }

    fn line(&mut self) -> Result<&mut Line, Failed> {
        self.line
            .as_mut()
            .ok_or(Failed::Lost(ProbeError::ConnectionLost))
    }

    /// The next commands change the node, if it is not too late for that.
    fn begin(&mut self) -> Result<(), Failed> {
        if clock::now() >= self.until {
            return Err(Failed::Lost(ProbeError::Silent));
        }
        self.sent = true;
        Ok(())
    }

    /// Sends `commands` with INFO behind them, in one write. That INFO is refused says nothing of the
    /// commands before it.
    async fn request(
        &mut self,
        mut commands: Vec<Command>,
    ) -> Result<(Vec<BytesFrame>, Result<NodeInfo, Failed>), Failed> {
        let asked = commands.len();
        let line = self.line()?;
        commands.extend(info_commands(Some(line.version)));
        let mut replies = line.connection.request(commands).await?;
        let info = read_info(&replies.split_off(asked));
        Ok((replies, info))
    }

    async fn inspect(&mut self) -> Result<NodeInfo, Failed> {
        self.request(Vec::new()).await?.1
    }

    async fn learn(&mut self) -> Result<Learned, Failed> {
        let asked = vec![
            Command::new(["ROLE"]),
            config_get("min-replicas-to-write"),
            config_get("min-replicas-max-lag"),
            config_get("masterauth"),
            config_get("masteruser"),
        ];
        let replies = self.line()?.connection.request(asked).await?;
        let [role, min_replicas, max_lag, password, user] = &replies[..] else {
            return Err(Failed::Lost(ProbeError::NotRedis));
        };
        let min_replicas = config_number(min_replicas);
        let fenced = min_replicas.is_some_and(|set| set >= FENCE);
        let raised = min_replicas.is_some_and(|set| set >= FENCE * 2);
        let password = config_value(password);
        let user = config_value(user).filter(|user| !user.is_empty());
        let readable = password.is_some();
        let replication_auth = password.filter(|p| !p.is_empty()).map(|password| {
            let user = user.map(|user| String::from_utf8_lossy(&user).as_ref().into());
            Credentials::new(user, password)
        });
        if let Some(auth) = &replication_auth {
            let mut shared = self
                .shared_auth
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *shared = Some(auth.clone());
        }
        Ok(Learned {
            role: parse_role(role).ok(),
            min_replicas: min_replicas
                .map(|set| set - FENCE * (u64::from(fenced) + u64::from(raised))),
            fenced,
            ignores_lag: raised || config_number(max_lag) == Some(0),
            replication_auth,
            readable,
        })
    }

    async fn fence(&mut self) -> Result<NodeInfo, Failed> {
        let learned = self.learn().await?;
        let fence = fence_settings(&learned);
        let settings = fence.len();
        let kills = ["normal", "pubsub"].map(|kind| Command::new(["CLIENT", "KILL", "TYPE", kind]));
        self.begin()?;
        let commands = fence.into_iter().chain(kills).collect();
        let (replies, info) = self.request(commands).await?;
        let (set, killed) = replies.split_at(settings.min(replies.len()));
        for reply in killed {
            if let BytesFrame::Error(why) = reply {
                tracing::warn!(node = %self.access.node, %why, "clients of a fenced node were not closed");
            }
        }
        unrefused(set, info)
    }

    async fn unfence(&mut self) -> Result<NodeInfo, Failed> {
        let learned = self.learn().await?;
        let Some(own) = learned.min_replicas.filter(|_| learned.fenced) else {
            return self.inspect().await;
        };
        let info = self.set(own_settings(&learned)).await?;
        tracing::info!(node = %self.access.node, own, "a fence that came too late was taken off");
        Ok(info)
    }

    async fn promote(&mut self) -> Result<NodeInfo, Failed> {
        let learned = self.learn().await?;
        let mut steps = Vec::new();
        steps.extend(own_settings(&learned).into_iter().map(Step::optional));
        steps.push(Step::required(Command::new(["REPLICAOF", "NO", "ONE"])));
        let (role, info) = self.transact(steps).await?;
        match (role, info.role) {
            (RoleReply::Primary { .. }, Role::Primary) => {
                self.unpause_at = None;
                self.rewrite_due = true;
                Ok(info)
            }
            _ => Err(Failed::Refused("ROLE still says replica".to_owned())),
        }
    }

    async fn repoint(&mut self, to: &NodeId) -> Result<NodeInfo, Failed> {
        let (host, port) = to
            .host_port()
            .ok_or_else(|| Failed::Refused(format!("{to} has no port")))?;
        let learned = self.learn().await?;
        let was_primary = !matches!(learned.role, Some(RoleReply::Replica { .. }));
        let mut steps = Vec::new();
        if let Some(auth) = self.missing_auth(&learned) {
            if let Some(user) = &auth.username {
                steps.push(Step::optional(Command::new([
                    b"CONFIG",
                    b"SET" as &[u8],
                    b"masteruser",
                    user.as_bytes(),
                ])));
            }
            steps.push(Step::optional(Command::new([
                b"CONFIG",
                b"SET" as &[u8],
                b"masterauth",
                auth.password(),
            ])));
        }
        steps.push(Step::required(Command::new([
            "REPLICAOF",
            host,
            &port.to_string(),
        ])));
        steps.extend(own_settings(&learned).into_iter().map(Step::optional));
        if was_primary {
            // A pause would hold back the stream of the new primary too.
            if self.line()?.version >= PAUSES_WRITES {
                steps.push(Step::optional(Command::new(["CLIENT", "UNPAUSE"])));
            }
            steps.push(Step::optional(Command::new([
                "CLIENT", "KILL", "TYPE", "normal",
            ])));
            steps.push(Step::optional(Command::new([
                "CLIENT", "KILL", "TYPE", "pubsub",
            ])));
        }
        let (role, info) = self.transact(steps).await?;
        match role {
            RoleReply::Replica {
                host: h, port: p, ..
            } if (&*h, p) == (host, port) => {
                self.unpause_at = None;
                self.rewrite_due = true;
                Ok(info)
            }
            other => Err(Failed::Refused(format!("ROLE says {other:?}"))),
        }
    }

    /// With what the node shall log in to its primary, when it has nothing of its own.
    fn missing_auth(&self, learned: &Learned) -> Option<Credentials> {
        if learned.replication_auth.is_some() || !learned.readable {
            return None;
        }
        let shared = self
            .shared_auth
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.clone().or_else(|| self.access.credentials.clone())
    }

    /// Runs `steps` as one MULTI, with ROLE and INFO behind it in the same write. When the node
    /// refuses to queue an optional step, it is left out.
    async fn transact(&mut self, mut steps: Vec<Step>) -> Result<(RoleReply, NodeInfo), Failed> {
        loop {
            let mut commands = transaction::commands(&steps);
            commands.push(Command::new(["ROLE"]));
            self.begin()?;
            let (mut replies, info) = self.request(commands).await?;
            let role = replies.pop();
            match transaction::ended(&steps, &replies) {
                Ended::Done { failed } => {
                    for (command, why) in failed {
                        tracing::warn!(node = %self.access.node, command, why,
                            "a part of an operation on a node failed");
                    }
                    let role = role.as_ref().map(parse_role);
                    return match role {
                        Some(Ok(role)) => Ok((role, unseen(info)?)),
                        _ => Err(Failed::Lost(ProbeError::NotRedis)),
                    };
                }
                Ended::Refused(why) => return Err(Failed::Refused(why)),
                Ended::Without { refused, why } => {
                    tracing::warn!(node = %self.access.node, command = refused.join(", "), why,
                        "a node refuses a part of an operation; it is done without");
                    steps.retain(|step| !refused.contains(&step.name()));
                }
            }
        }
    }

    /// Writes the new role to the node's own configuration file. A failure is only logged: the node
    /// serves, and is told again when it restarts with an old file. Not a part of the transaction,
    /// because clients wait for the transaction and it would wait for the node's disk.
    async fn rewrite(&mut self) {
        let Some(line) = &mut self.line else { return };
        let asked = vec![Command::new(["CONFIG", "REWRITE"])];
        let why = match timeout(REWRITE_LIMIT, line.connection.request(asked)).await {
            Ok(Ok(replies)) => match replies.first() {
                Some(BytesFrame::Error(why)) => why.to_string(),
                _ => return,
            },
            Ok(Err(error)) => format!("{error:?}"),
            Err(_) => "no answer in time".to_owned(),
        };
        if !why.starts_with("ERR") {
            self.line = None;
        }
        tracing::info!(node = %self.access.node, why, "a node's configuration file was not rewritten");
    }

    async fn pause(&mut self, duration: Duration) -> Result<NodeInfo, Failed> {
        if self.line()?.version < PAUSES_WRITES {
            return self.refuse_writes(duration).await;
        }
        let millis = duration.as_millis().to_string();
        self.set(vec![Command::new(["CLIENT", "PAUSE", &millis, "WRITE"])])
            .await
    }

    /// Instead of a pause: who bypasses us gets an error for his writes until the pause is over.
    async fn refuse_writes(&mut self, duration: Duration) -> Result<NodeInfo, Failed> {
        let learned = self.learn().await?;
        if learned.min_replicas.is_none() {
            let why = "before Redis 6.2 writes are held off by CONFIG SET, which is refused";
            return Err(Failed::Refused(why.to_owned()));
        }
        self.unpause_at = Some(clock::now() + duration);
        self.set(fence_settings(&learned)).await
    }

    async fn unpause(&mut self) -> Result<NodeInfo, Failed> {
        if self.line()?.version >= PAUSES_WRITES {
            return self.set(vec![Command::new(["CLIENT", "UNPAUSE"])]).await;
        }
        // What an earlier run of this program left is ended as well.
        let own = own_settings(&self.learn().await?);
        if own.is_empty() {
            return self.inspect().await;
        }
        let info = self.set(own).await?;
        self.unpause_at = None;
        Ok(info)
    }

    /// Ends a pause whose time is over; tried again on the next connection.
    async fn end_pause(&mut self) {
        self.until = clock::now() + WARM_LIMIT;
        match timeout(WARM_LIMIT, self.unpause()).await {
            Ok(Ok(_)) => {}
            Ok(Err(Failed::Refused(why))) => {
                tracing::warn!(node = %self.access.node, why, "a node refuses to take writes again");
                self.unpause_at = None;
            }
            Ok(Err(Failed::Lost(_))) | Err(_) => self.line = None,
        }
    }

    /// Sends commands of which each must succeed.
    async fn set(&mut self, commands: Vec<Command>) -> Result<NodeInfo, Failed> {
        self.begin()?;
        let (replies, info) = self.request(commands).await?;
        unrefused(&replies, info)
    }

    async fn check_auth(&mut self, other: &NodeId, limit: Duration) -> Result<NodeInfo, Failed> {
        let learned = self.learn().await?;
        let info = self.inspect().await?;
        let credentials = self.missing_auth(&learned).or(learned.replication_auth);
        let credentials = credentials.or_else(|| match learned.readable {
            true => None,
            // We may not read what the node would use: ours is the best guess.
            false => self.access.credentials.clone(),
        });
        let access = Access {
            node: other.clone(),
            credentials: None,
            ..self.access.clone()
        };
        let refused = |why: String| Failed::Refused(format!("{other}: {why}"));
        let mut connection = access
            .open(limit)
            .await
            .map_err(|error| refused(format!("can not be reached: {error:?}")))?;
        let mut commands: Vec<Command> = credentials.iter().map(auth).collect();
        commands.push(Command::new(["PING"]));
        commands.push(Command::new(["REPLCONF", "capa", "psync2"]));
        let replies = connection
            .request(commands)
            .await
            .map_err(|error| refused(format!("does not answer: {error:?}")))?;
        for reply in replies {
            if let BytesFrame::Error(why) = reply {
                return Err(refused(why.to_string()));
            }
        }
        Ok(info)
    }
}

/// INFO behind commands that ran: they are not undone by its refusal, only unseen.
fn unseen(info: Result<NodeInfo, Failed>) -> Result<NodeInfo, Failed> {
    info.map_err(|failed| match failed {
        Failed::Refused(why) => Failed::Lost(ProbeError::ErrorReply(why.into())),
        lost => lost,
    })
}

/// The first error among `replies`, else the INFO behind them.
fn unrefused(replies: &[BytesFrame], info: Result<NodeInfo, Failed>) -> Result<NodeInfo, Failed> {
    let refusal = replies.iter().find_map(|reply| match reply {
        BytesFrame::Error(why) => Some(why.to_string()),
        _ => None,
    });
    match refusal {
        Some(why) => Err(Failed::Refused(why)),
        None => unseen(info),
    }
}

/// What makes a node accept no write.
fn fence_settings(learned: &Learned) -> Vec<Command> {
    let own = learned.min_replicas.unwrap_or(0);
    let mut settings = Vec::new();
    if learned.ignores_lag {
        // The demand first: it says what is to be undone.
        settings.push(config_set("min-replicas-to-write", FENCE * 2 + own));
        settings.push(config_set("min-replicas-max-lag", FENCE_LAG));
    } else {
        settings.push(config_set("min-replicas-to-write", FENCE + own));
    }
    settings
}

/// The node's own settings, without a fence; none where it does not let us read them.
fn own_settings(learned: &Learned) -> Vec<Command> {
    let Some(own) = learned.min_replicas else {
        return Vec::new();
    };
    let mut settings = Vec::new();
    if learned.fenced && learned.ignores_lag {
        settings.push(config_set("min-replicas-max-lag", 0));
    }
    settings.push(config_set("min-replicas-to-write", own));
    settings
}

fn config_set(name: &str, value: u64) -> Command {
    Command::new(["CONFIG", "SET", name, &value.to_string()])
}

fn config_number(reply: &BytesFrame) -> Option<u64> {
    config_value(reply).and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok())
}
