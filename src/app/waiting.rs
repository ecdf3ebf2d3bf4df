//! Says in the log for what each backend waits while it has no primary.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Admin, Backend, waiting_for};

/// Long enough for an ordinary start not to be mentioned.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs until it is aborted.
pub(super) async fn tell(admin: Arc<Admin>) {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..admin.backends.len() {
        let admin = admin.clone();
        tasks.spawn(async move { tell_one(&admin.backends[index]).await });
    }
    while tasks.join_next().await.is_some() {}
}

async fn tell_one(backend: &Backend) {
    let mut topology = backend.topology.clone();
    let mut said: Option<String> = None;
    loop {
        // Either something changes, or it has been long enough to look; both end in a look.
        match tokio::time::timeout(PATIENCE, topology.changed()).await {
            Ok(Err(_)) => return,
            Ok(Ok(now)) if now.open_primary().is_none() => continue,
            Ok(Ok(_)) | Err(_) => {}
        }
        let now = topology.current();
        if let Some(primary) = now.open_primary() {
            if said.take().is_some() {
                tracing::info!(backend = %backend.name, primary = %primary.node, "requests flow");
            }
            continue;
        }
        let status = backend.operator.status().await;
        let reason = waiting_for(&now, status.as_ref());
        if reason != said {
            let waiting_for = reason.as_deref().unwrap_or_default();
            tracing::info!(backend = %backend.name, waiting_for, "requests wait");
            said = reason;
        }
    }
}
