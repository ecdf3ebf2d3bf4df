//! The admin server: what is going on, and the one thing an operator may ask for, a switchover.
//!
//! It reads the published topology and asks the control plane through [`Operator`], so it can be
//! tested with neither plane running.
//!
//! ```text
//! server   accepts, bounds connections and time       GET  /metrics /livez /readyz
//! routes   one function for each path                 GET  /api/status /api/topology /api/failovers
//! answer   the JSON bodies, shared with the commands  GET  /api/primary (waits for a change)
//!                                                     POST /api/switchover
//! ```

mod answer;
mod routes;
mod server;
mod settings;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

pub use answer::{
    BackendAnswer, BackendReady, ErrorAnswer, PrimaryAnswer, ReadyAnswer, StatusAnswer,
    SwitchoverRequest, waiting_for,
};
pub use routes::permit;
pub use server::{serve, serve_router};
pub use settings::{AdminSettings, AllowRemote};

use crate::failover::Status;
use crate::topology::{FailoverReport, NodeId, Timestamp, TopologyReader};

/// A future that a trait object can return.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin server asks of the control plane of one backend.
pub trait Operator: Send + Sync {
    /// What the core knows; `None` when the control plane has stopped.
    fn status(&self) -> Answer<'_, Option<Status>>;

    /// The kept reports, oldest first.
    fn reports(&self) -> Vec<FailoverReport>;

    /// Moves the primary to `to`, or to the best replica. `Err` says why nothing was started; a
    /// switchover that was started and given up is a report whose outcome says so.
    fn switchover(&self, to: Option<NodeId>) -> Answer<'_, Result<FailoverReport, String>>;
}

/// One backend as the admin server knows it.
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// Kind of its authority, as in the configuration.
    pub authority: &'static str,
    /// Addresses of its listeners, as they were bound.
    pub listeners: Vec<String>,
    /// What is published.
    pub topology: TopologyReader,
    /// Its control plane.
    pub operator: Arc<dyn Operator>,
}

/// Everything the routes read.
pub struct Admin {
    /// `[admin]` of the configuration.
    pub settings: AdminSettings,
    /// In the order of the configuration.
    pub backends: Vec<Backend>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// When the program started.
    pub started: Timestamp,
    /// A switchover that takes longer is answered with "still running".
    pub switchover_timeout: Duration,
    /// Set once, when the program begins to stop: `/readyz` says so.
    pub stopping: AtomicBool,
}

impl Admin {
    /// From now on `/readyz` says that the program stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|b| &*b.name == name)
    }
}
