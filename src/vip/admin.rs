//! The agent's HTTP server: the status and the metrics.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::VipStatus;
use crate::admin::{AllowRemote, permit, serve_router};

#[derive(Clone)]
struct Shown {
    status: watch::Receiver<VipStatus>,
    metrics: PrometheusHandle,
}

/// Serves until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    allow_remote: AllowRemote,
    status: watch::Receiver<VipStatus>,
    metrics: PrometheusHandle,
) {
    let shown = Shown {
        status,
        metrics: metrics.clone(),
    };
    let router = Router::new()
        .route("/", get(index))
        .route("/livez", get(async || "ok\n"))
        .route("/metrics", get(rendered))
        .route("/api/status", get(status_of));
    let router = permit(router, allow_remote).with_state(shown);
    serve_router(listener, router, metrics).await;
}

async fn index() -> &'static str {
    concat!(
        "pointsman vip-agent ",
        env!("CARGO_PKG_VERSION"),
        "\n\n\
         GET  /livez       the process runs\n\
         GET  /metrics     for Prometheus\n\
         GET  /api/status  whether the address is here, and why\n"
    )
}

async fn rendered(State(shown): State<Shown>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shown.metrics.render()).into_response()
}

async fn status_of(State(shown): State<Shown>) -> Json<VipStatus> {
    Json(shown.status.borrow().clone())
}
