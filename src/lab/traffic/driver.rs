//! What every kind of client has in common: one connection, the log, the live counters, the pace.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::Finder;
use super::super::client::{Client, ClientError};
use super::super::history::{ErrorClass, Operation, Outcome};
use super::super::value::Value;
use crate::clock;
use crate::topology::Timestamp;

/// Counters of one kind, for a display while the run goes on. Written by the clients of that kind,
/// read by whoever shows them.
#[derive(Debug, Default)]
pub struct LiveKind {
    /// Operations acknowledged since the start.
    pub acknowledged: AtomicU64,
    /// Operations failed since the start, without those below.
    pub errors: AtomicU64,
    /// Operations whose outcome is unknown since the start.
    pub unknown: AtomicU64,
    /// The longest operation since somebody last took this value with `swap(0)`, microseconds.
    pub slowest_micros: AtomicU64,
    /// What the last failed operation got, empty when none failed.
    pub last_failure: Mutex<String>,
}

/// Between two attempts of a client that looks for the primary by itself.
const FIND_PAUSE: Duration = Duration::from_millis(20);

/// Shared with whoever stops the run, so that a client that hangs still leaves its history.
#[derive(Debug, Default)]
pub(super) struct Log {
    operations: Vec<Operation>,
    outstanding: VecDeque<(Timestamp, u64)>,
}

/// Drives one client.
pub(super) struct Driver {
    pub(super) client: Client,
    /// How it connects again, if it does.
    pub(super) finder: Option<Finder>,
    pub(super) live: Arc<LiveKind>,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) stop: Arc<AtomicBool>,
    /// Time between the ends of two operations; zero for as fast as possible.
    pub(super) pace: Duration,
    /// False once the connection is gone.
    pub(super) connected: bool,
}

impl Log {
    /// The history; what never got an answer failed at `now`.
    pub(super) fn finish(&mut self, now: Timestamp) -> Vec<Operation> {
        let mut operations = std::mem::take(&mut self.operations);
        operations.extend(
            self.outstanding
                .drain(..)
                .map(|(started, token)| Operation {
                    token,
                    started,
                    ended: now,
                    outcome: Outcome::Failed(
                        ErrorClass::Unanswered,
                        "no answer until the end".into(),
                    ),
                }),
        );
        operations
    }
}

pub(super) fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Waits for the next turn; false when the run is over or the connection is gone.
    pub(super) async fn turn(&mut self) -> bool {
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
        if let Some(finder) = self.finder.clone() {
            self.find_again(&finder).await;
        }
        self.connected && !self.stop.load(Ordering::Relaxed)
    }

    /// Connects again until that worked or the run is over.
    async fn find_again(&mut self, finder: &Finder) {
        while !self.connected && !self.stop.load(Ordering::Relaxed) {
            match finder.find().await {
                Ok(client) => {
                    self.client = client;
                    self.connected = true;
                }
                Err(_) => tokio::time::sleep(FIND_PAUSE).await,
            }
        }
    }

    /// One request, one reply. `read` judges a reply that is not an error.
    pub(super) async fn perform(
        &mut self,
        token: u64,
        request: &[&str],
        read: impl FnOnce(&Value) -> Outcome,
    ) {
        self.begin(token);
        self.client.queue(request);
        let reply = self.exchange().await;
        self.end(reply, read);
    }

    /// Notes that an operation starts now.
    pub(super) fn begin(&mut self, token: u64) {
        locked(&self.log)
            .outstanding
            .push_back((clock::now(), token));
    }

    /// Writes what was queued and waits for one reply.
    pub(super) async fn exchange(&mut self) -> Result<Value, ClientError> {
        self.client.flush().await?;
        self.client.receive().await
    }

    /// Notes that the oldest operation on its way ended with `reply`.
    pub(super) fn end(
        &mut self,
        reply: Result<Value, ClientError>,
        read: impl FnOnce(&Value) -> Outcome,
    ) {
        match reply {
            Ok(Value::Error(text)) => {
                // Such a client looks for the primary anew when it finds itself at a replica.
                let lost = self.finder.is_some() && text.starts_with("READONLY");
                self.connected &= !lost;
                self.finish(failed(&text));
            }
            Ok(value) => self.finish(read(&value)),
            Err(error) => self.hang_up(&error),
        }
    }

    /// Notes how the oldest operation on its way ended.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        let now = clock::now();
        let mut log = locked(&self.log);
        let Some((started, token)) = log.outstanding.pop_front() else {
            return;
        };
        match &outcome {
            Outcome::Done(_) => self.live.acknowledged.fetch_add(1, Ordering::Relaxed),
            Outcome::Nothing => 0,
            Outcome::Wrong(text) | Outcome::Failed(_, text) => {
                let mut last = self.live.last_failure.lock();
                if let Ok(last) = &mut last {
                    **last = text.to_string();
                }
                let counter = match &outcome {
                    Outcome::Failed(ErrorClass::Unknown, _) => &self.live.unknown,
                    _ => &self.live.errors,
                };
                counter.fetch_add(1, Ordering::Relaxed)
            }
        };
        let micros = now.since(started).as_micros() as u64;
        self.live
            .slowest_micros
            .fetch_max(micros, Ordering::Relaxed);
        log.operations.push(Operation {
            token,
            started,
            ended: now,
            outcome,
        });
    }

    /// The connection is gone, and with it everything on its way.
    pub(super) fn hang_up(&mut self, error: &ClientError) {
        self.connected = false;
        let class = match error {
            ClientError::Protocol(_) => ErrorClass::Other,
            _ => ErrorClass::Closed,
        };
        let waiting = locked(&self.log).outstanding.len();
        for _ in 0..waiting {
            self.finish(Outcome::Failed(class, error.to_string().into()));
        }
    }
}

/// The outcome that an error reply means.
pub(super) fn failed(text: &str) -> Outcome {
    Outcome::Failed(ErrorClass::of(text), text.into())
}

/// The outcome of a reply that must be an integer or a string that holds one.
pub(super) fn number(reply: &Value) -> Outcome {
    match reply.number() {
        Some(number) if number >= 0 => Outcome::Done(number as u64),
        _ => wrong(reply),
    }
}

/// The outcome of a reply that must be +OK.
pub(super) fn ok(reply: &Value) -> Outcome {
    match reply.is_ok() {
        true => Outcome::Done(0),
        false => wrong(reply),
    }
}

pub(super) fn wrong(reply: &Value) -> Outcome {
    Outcome::Wrong(reply.to_string().into())
}
