//! One sentinel: a connection that asks and one that listens, so that no announcement waits behind an
//! answer.

use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::codec::Command;
use super::super::node::{Access, Connection, needs_no_password};
use super::reply::{self, Answer};
use crate::failover::{AskOutcome, ProbeError, SentinelEvent};
use crate::topology::NodeId;

/// Between two questions.
const PERIOD: Duration = Duration::from_secs(1);

/// Bound of a connect, and of an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Before a connection is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The same where trying is of little use: wrong password, no such master.
const RETRY_REFUSED: Duration = Duration::from_secs(1);

/// What was heard of a sentinel.
#[derive(Debug)]
pub(super) enum Report {
    Answered(Box<Answer>),
    Announced(SentinelEvent),
    Failed(Arc<str>),
}

/// Reports, and whose they are.
pub(super) type Reports = mpsc::Sender<(NodeId, Report)>;

/// Why a connection ended.
#[derive(Debug)]
struct Ended {
    why: String,
    retry: Duration,
}

impl Ended {
    fn soon(why: impl Into<String>) -> Ended {
        Ended {
            why: why.into(),
            retry: RETRY,
        }
    }

    fn refused(why: impl Into<String>) -> Ended {
        Ended {
            why: why.into(),
            retry: RETRY_REFUSED,
        }
    }
}

/// How to reach one sentinel, and what to ask it.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) access: Access,
    pub(super) master: Arc<str>,
    pub(super) reports: Reports,
}

impl Watch {
    /// Asks until the crew is gone. `calls`: ask now.
    pub(super) async fn ask(self, mut calls: mpsc::Receiver<()>) {
        loop {
            let Err(ended) = self.questions(&mut calls).await else {
                return;
            };
            if !self.report(Report::Failed(ended.why.into())).await {
                return;
            }
            sleep(ended.retry).await;
        }
    }

    /// Listens until the crew is gone. `asker`: asks at once whenever the subscription was made, for
    /// what was announced before.
    pub(super) async fn listen(self, asker: mpsc::Sender<()>) {
        let mut told = None;
        loop {
            let Err(ended) = self.subscription(&asker).await else {
                return;
            };
            if ended.retry == RETRY_REFUSED && told.as_ref() != Some(&ended.why) {
                let (sentinel, why) = (&self.access.node, &ended.why);
                tracing::warn!(%sentinel, why, "a sentinel's announcements can not be heard");
                told = Some(ended.why);
            }
            sleep(ended.retry).await;
        }
    }

    /// Whether anybody listens.
    async fn report(&self, report: Report) -> bool {
        let report = (self.access.node.clone(), report);
        self.reports.send(report).await.is_ok()
    }

    async fn connect(&self) -> Result<Connection, Ended> {
        let opened = self.access.open(LIMIT).await;
        let mut connection = opened.map_err(|error| Ended::soon(words(&error)))?;
        let commands = self.access.handshake();
        let replies = within(connection.request(commands)).await?;
        match (&self.access.credentials, replies.first()) {
            (Some(_), Some(BytesFrame::Error(text))) if !needs_no_password(text) => {
                Err(denied(text).unwrap_or_else(|| Ended::refused(text.to_string())))
            }
            _ => Ok(connection),
        }
    }

    /// Ends with an error when the connection does, and well when the crew is gone.
    async fn questions(&self, calls: &mut mpsc::Receiver<()>) -> Result<(), Ended> {
        let mut connection = self.connect().await?;
        let id = self.id(&mut connection).await?;
        loop {
            let replies = within(connection.request(reply::questions(&self.master))).await?;
            match reply::answer(&id, &replies) {
                Ok(Some(answer)) => {
                    if !self.report(Report::Answered(Box::new(answer))).await {
                        return Ok(());
                    }
                }
                Ok(None) => continue,
                Err(why) => return Err(self.explain(&mut connection, why).await),
            }
            tokio::select! {
                call = calls.recv() => match call {
                    Some(()) => {}
                    None => return Ok(()),
                },
                () = sleep(PERIOD) => {}
                // Nothing is due: this ends when the connection does.
                lost = connection.receive() => {
                    let why = lost.err().map_or("spoke unasked", |error| words(&error));
                    return Err(Ended::soon(why));
                }
            }
        }
    }

    /// Its own id, by which the others know it.
    async fn id(&self, connection: &mut Connection) -> Result<Arc<str>, Ended> {
        let replies = within(connection.request(vec![Command::new(["SENTINEL", "MYID"])])).await?;
        match replies.first() {
            Some(BytesFrame::Error(text)) => Err(match denied(text) {
                Some(denied) => denied,
                None if text.contains("unknown command") => Ended::refused("is not a sentinel"),
                None => Ended::refused("is older than Redis 6.2"),
            }),
            Some(reply) => match reply::text(reply) {
                Some(id) => Ok(id.into()),
                None => Err(Ended::refused("is not a sentinel")),
            },
            None => Err(Ended::soon(words(&ProbeError::ConnectionLost))),
        }
    }

    /// Why it did not say who is primary.
    async fn explain(&self, connection: &mut Connection, error: String) -> Ended {
        if let Some(denied) = denied(&error) {
            return denied;
        }
        if !error.contains("No such master") {
            return Ended::refused(error);
        }
        let asked = connection.request(vec![Command::new(["SENTINEL", "MASTERS"])]);
        let known = match within(asked).await {
            Ok(replies) => replies.first().map(reply::master_names).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let known = match known.is_empty() {
            true => "it knows none".to_owned(),
            false => format!("it knows {}", known.join(", ")),
        };
        Ended::refused(format!("knows no master named `{}` ({known})", self.master))
    }

    async fn subscription(&self, asker: &mpsc::Sender<()>) -> Result<(), Ended> {
        let mut connection = self.connect().await?;
        let subscribe = Command::new(["PSUBSCRIBE", "*"]);
        let replies = within(connection.request(vec![subscribe])).await?;
        if let Some(BytesFrame::Error(text)) = replies.first() {
            return Err(denied(text).unwrap_or_else(|| Ended::refused(text.to_string())));
        }
        // One call that is pending is enough.
        let _ = asker.try_send(());
        loop {
            let pushed = connection.receive().await;
            let pushed = pushed.map_err(|error| Ended::soon(words(&error)))?;
            let heard = reply::message(&pushed)
                .and_then(|(channel, payload)| reply::event(channel, payload, &self.master));
            if let Some(event) = heard
                && !self.report(Report::Announced(event)).await
            {
                return Ok(());
            }
        }
    }

    /// `SENTINEL FAILOVER` on a connection of its own.
    pub(super) async fn failover(self, limit: Duration) -> AskOutcome {
        let ask = async {
            let mut connection = match self.connect().await {
                Ok(connection) => connection,
                Err(ended) => return AskOutcome::Refused(ended.why),
            };
            let command = Command::new(["SENTINEL", "FAILOVER", &self.master]);
            match connection.request(vec![command]).await {
                Ok(replies) => match replies.first() {
                    Some(BytesFrame::Error(text)) => AskOutcome::Refused(text.to_string()),
                    Some(_) => AskOutcome::Done,
                    None => AskOutcome::Unknown("no answer".to_owned()),
                },
                Err(error) => AskOutcome::Unknown(words(&error).to_owned()),
            }
        };
        let silent = AskOutcome::Unknown("no answer in time".to_owned());
        timeout(limit, ask).await.unwrap_or(silent)
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, ProbeError>>) -> Result<T, Ended> {
    match timeout(LIMIT, asked).await {
        Ok(answered) => answered.map_err(|error| Ended::soon(words(&error))),
        Err(_) => Err(Ended::soon(words(&ProbeError::Silent))),
    }
}

/// Credentials that do not fit.
fn denied(text: &str) -> Option<Ended> {
    let word = text.split(' ').next().unwrap_or_default();
    let denied = matches!(word, "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED")
        || text.contains("invalid password");
    denied.then(|| Ended::refused(format!("refuses our credentials: {text}")))
}

fn words(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::ConnectionLost => "ended the connection",
        ProbeError::Refused => "refuses connections",
        ProbeError::Unacked => "is unreachable",
        ProbeError::Silent => "does not answer",
        ProbeError::Unresolved => "can not be found",
        ProbeError::MaxClients => "has too many clients",
        ProbeError::NotRedis | ProbeError::ErrorReply(_) | ProbeError::Auth(_) => {
            "is not a sentinel"
        }
    }
}
