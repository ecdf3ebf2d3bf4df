//! Accepts connections of the admin server and bounds what each may cost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Admin;
use super::routes::{Peer, router};

/// Prometheus, probes and a few people; more than that waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// A request's head has to arrive within this time, from the first byte or the answer before.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;

/// No connection lives longer; Prometheus and browsers simply make a new one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// The exporter's buffers of observations are folded into buckets this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// When no descriptor is left, wait for one instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until the future is dropped. Connections that are open then are dropped too.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let metrics = admin.metrics.clone();
    serve_router(listener, router(admin), metrics).await;
}

/// As [`serve`], with other paths; [`super::permit`] belongs around them.
pub async fn serve_router(listener: TcpListener, router: Router, metrics: PrometheusHandle) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            _ = upkeep.tick() => metrics.run_upkeep(),
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let router = router.clone().layer(Extension(Peer(peer)));
                    connections.spawn(async move {
                        connection(stream, router).await;
                        drop(slot);
                    });
                }
                Err(error) => wait_after(&error).await,
            },
        }
    }
}

async fn wait_after(error: &io::Error) {
    tracing::warn!(%error, "the admin server can not accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the admin server ended"),
    }
}
