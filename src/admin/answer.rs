//! The JSON bodies of the admin server. The commands read the same types.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failover::{Health, Status};
use crate::topology::{Epoch, FailoverReport, Gate, NodeId, Primary, Topology};

/// `GET /readyz`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadyAnswer {
    /// Whether every backend has a primary that gets requests, and the program is not stopping.
    pub ready: bool,
    /// The program stops.
    pub stopping: bool,
    /// Each backend.
    pub backends: Vec<BackendReady>,
}

/// A backend in [`ReadyAnswer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendReady {
    /// Its name.
    pub backend: Arc<str>,
    /// Whether it has a primary that gets requests.
    pub ready: bool,
    /// If not, what it waits for, in words.
    pub waiting_for: Option<String>,
}

/// `GET /api/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// As in [`ReadyAnswer`].
    pub ready: bool,
    /// As in [`ReadyAnswer`].
    pub stopping: bool,
    /// Each backend.
    pub backends: Vec<BackendAnswer>,
}

/// A backend in [`StatusAnswer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendAnswer {
    /// Its name.
    pub backend: Arc<str>,
    /// Whether it has a primary that gets requests.
    pub ready: bool,
    /// If not, what it waits for, in words.
    pub waiting_for: Option<String>,
    /// Kind of its authority.
    pub authority: String,
    /// Addresses of its listeners.
    pub listeners: Vec<String>,
    /// What is published.
    pub topology: Arc<Topology>,
    /// What the core knows; `None` when the control plane does not answer.
    pub status: Option<Status>,
    /// The newest report.
    pub last_report: Option<FailoverReport>,
}

/// `GET /api/primary`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrimaryAnswer {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Kind of its authority. The epochs of `follow` are this process's own.
    pub authority: String,
    /// Changes with every publication; what `unlike` of the next question should be.
    pub generation: u64,
    /// Grows with every change of primary.
    pub epoch: Epoch,
    /// Whether requests may flow to it.
    pub gate: Gate,
    /// The published primary.
    pub primary: Option<Primary>,
    /// Every other known node.
    pub replicas: Vec<NodeId>,
}

/// Body of `POST /api/switchover`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    /// Name of the backend.
    pub backend: String,
    /// The node that shall take over; left out: the best one.
    #[serde(default)]
    pub to: Option<NodeId>,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What is wrong, for people.
    pub error: String,
    /// The report of a switchover that was started and given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<FailoverReport>>,
}

/// What a backend without an open primary waits for; `None` when it has one.
pub fn waiting_for(topology: &Topology, status: Option<&Status>) -> Option<String> {
    if topology.open_primary().is_some() {
        return None;
    }
    let Some(status) = status else {
        return Some("an answer of the control plane".to_owned());
    };
    let mut words = match (&status.undecided, status.step.as_str()) {
        (Some(reason), _) => reason.clone(),
        (None, "") => status.phase.replace('_', " "),
        (None, step) => format!("{}: {step}", status.phase.replace('_', " ")),
    };
    let down: Vec<String> = status
        .nodes
        .iter()
        .filter(|n| !matches!(n.health, Health::Up | Health::Unasked))
        .map(|n| format!("{} {}", n.node, health_words(n.health)))
        .collect();
    if !down.is_empty() {
        words = format!("{words} ({})", down.join(", "));
    }
    Some(words)
}

/// A node's health as a verb phrase.
pub fn health_words(health: Health) -> &'static str {
    match health {
        Health::Unknown => "was not reached yet",
        Health::Unasked => "is not asked from here",
        Health::Up => "answers",
        Health::Suspect => "stopped answering",
        Health::Refused => "refuses connections",
        Health::Unacked => "is unreachable",
        Health::Silent => "hangs",
        Health::ErrorReply => "answers with errors",
        Health::Reborn => "restarted as another process",
        Health::Denied => "refuses our credentials",
        Health::Full => "has too many clients",
        Health::NotRedis => "is not Redis",
        Health::Unresolved => "can not be found",
    }
}
