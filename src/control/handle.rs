//! What others may ask of a backend's control plane.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::reports::Reports;
use crate::failover::Status;
use crate::topology::{FailoverReport, NodeId, Notice};

/// A question to the driver.
#[derive(Debug)]
pub(super) enum Question {
    Status(oneshot::Sender<Status>),
    Switchover {
        to: Option<NodeId>,
        answer: oneshot::Sender<FailoverReport>,
    },
}

/// Asks one backend's control plane. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    pub(super) backend: Arc<str>,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) reports: Reports,
    pub(super) notices: broadcast::Sender<Notice>,
    /// Why no switchover can be asked for.
    pub(super) refuses: Option<&'static str>,
}

impl ControlHandle {
    /// Name of the backend.
    pub fn backend(&self) -> &Arc<str> {
        &self.backend
    }

    /// What is known and why nothing is decided; `None` when the control plane has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.questions.send(Question::Status(answer)).await.ok()?;
        status.await.ok()
    }

    /// The kept reports, oldest first, at most 100.
    pub fn reports(&self) -> Vec<FailoverReport> {
        self.reports.all()
    }

    /// What it says while it works, from now on. Whoever is too slow misses some.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Moves the primary to `to`, or to the best replica. The report's outcome says whether it was
    /// done, and if not, why. Dropping the future does not stop a switchover that has begun.
    ///
    /// # Errors
    /// The control plane has stopped, or has no say in it.
    pub async fn switchover(&self, to: Option<NodeId>) -> Result<FailoverReport, String> {
        if let Some(why) = self.refuses {
            return Err(why.to_owned());
        }
        let stopped = || "the control plane has stopped".to_owned();
        let (answer, report) = oneshot::channel();
        self.questions
            .send(Question::Switchover { to, answer })
            .await
            .map_err(|_| stopped())?;
        report.await.map_err(|_| stopped())
    }
}
