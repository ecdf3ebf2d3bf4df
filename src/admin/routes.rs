//! One function for each path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::answer::waiting_for;
use super::{
    Admin, AllowRemote, Backend, BackendAnswer, BackendReady, ErrorAnswer, PrimaryAnswer,
    ReadyAnswer, StatusAnswer, SwitchoverRequest,
};
use crate::clock;
use crate::failover::Status;
use crate::topology::{FailoverReport, Outcome, Topology};

/// A switchover's body is two short strings.
const BODY_MAX: usize = 16 * 1024;

/// The control plane answers a question in microseconds; this bounds a sick one.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait of `/api/primary`.
const PRIMARY_WAIT: Duration = Duration::from_secs(10);

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

pub(super) fn router(admin: Arc<Admin>) -> Router {
    let router = Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/topology", get(topology))
        .route("/api/primary", get(primary))
        .route("/api/failovers", get(failovers))
        .route("/api/switchover", post(switchover))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX));
    permit(router, admin.settings.allow_remote).with_state(admin)
}

/// Puts the rules of `allow_remote` around every path of the router.
pub fn permit<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    allow_remote: AllowRemote,
) -> Router<S> {
    router.layer(middleware::from_fn_with_state(allow_remote, permitted))
}

/// Refuses what `allow_remote` does not allow, and every web page that makes a browser post here.
async fn permitted(
    State(allow_remote): State<AllowRemote>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let changes = request.method() != Method::GET && request.method() != Method::HEAD;
    let local = peer.ip().to_canonical().is_loopback();
    let allowed = match allow_remote {
        AllowRemote::None => local,
        AllowRemote::Read => local || !changes,
        AllowRemote::All => true,
    };
    if !allowed {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            "not allowed from another machine; see allow_remote in [admin] of the configuration",
        ));
    }
    if changes && request.headers().contains_key(header::ORIGIN) {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            "not allowed from a web page",
        ));
    }
    Ok(next.run(request).await)
}

async fn index() -> &'static str {
    concat!(
        "pointsman ",
        env!("CARGO_PKG_VERSION"),
        "\n\n\
         GET  /livez          the process runs\n\
         GET  /readyz         every backend has a primary, or what it waits for\n\
         GET  /metrics        for Prometheus\n\
         GET  /api/status     backends, nodes, phases\n\
         GET  /api/topology   what the data plane obeys\n\
         GET  /api/primary    ?backend=NAME; &unlike=GENERATION waits for a change, at most 10 s\n\
         GET  /api/failovers  reports; ?backend=NAME\n\
         POST /api/switchover {\"backend\": \"NAME\", \"to\": \"host:port\"}\n"
    )
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.render()).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let mut backends = Vec::with_capacity(admin.backends.len());
    for backend in &admin.backends {
        let topology = backend.topology.current();
        // The usual case needs no question to the control plane.
        let waiting_for = match topology.open_primary() {
            Some(_) => None,
            None => waiting_for(&topology, status_of(backend).await.as_ref()),
        };
        backends.push(BackendReady {
            backend: backend.name.clone(),
            ready: waiting_for.is_none(),
            waiting_for,
        });
    }
    let stopping = admin.is_stopping();
    let ready = !stopping && backends.iter().all(|b| b.ready);
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let answer = ReadyAnswer {
        ready,
        stopping,
        backends,
    };
    (code, Json(answer)).into_response()
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<StatusAnswer> {
    let mut backends = Vec::with_capacity(admin.backends.len());
    for backend in &admin.backends {
        let topology = backend.topology.current();
        let status = status_of(backend).await;
        let waiting_for = waiting_for(&topology, status.as_ref());
        backends.push(BackendAnswer {
            backend: backend.name.clone(),
            ready: waiting_for.is_none(),
            waiting_for,
            authority: backend.authority.to_owned(),
            listeners: backend.listeners.clone(),
            topology,
            status,
            last_report: backend.operator.reports().pop(),
        });
    }
    let stopping = admin.is_stopping();
    Json(StatusAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: clock::now().since(admin.started).as_secs(),
        ready: !stopping && backends.iter().all(|b| b.ready),
        stopping,
        backends,
    })
}

async fn status_of(backend: &Backend) -> Option<Status> {
    let answer = tokio::time::timeout(STATUS_TIMEOUT, backend.operator.status()).await;
    answer.ok().flatten()
}

async fn topology(State(admin): State<Arc<Admin>>) -> Json<Vec<Arc<Topology>>> {
    Json(
        admin
            .backends
            .iter()
            .map(|b| b.topology.current())
            .collect(),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrimaryQuery {
    backend: String,
    /// The generation that is known already: the answer waits for another one.
    unlike: Option<u64>,
    /// How long it waits at most.
    wait_ms: Option<u64>,
}

/// Answers at once where something else is published than the asker knows, else when that happens,
/// at the latest after a while. Unlike, not newer: a pointsman that started again counts from 0.
async fn primary(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<PrimaryQuery>, QueryRejection>,
) -> Result<Json<PrimaryAnswer>, Refusal> {
    let Query(query) = query.map_err(|e| refusal(StatusCode::BAD_REQUEST, e.body_text()))?;
    let backend = find(&admin, &query.backend)?;
    let mut reader = backend.topology.clone();
    let changed = async {
        while query.unlike == Some(reader.current().generation) {
            if reader.changed().await.is_err() {
                // The control plane has stopped: nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    };
    let wait = query.wait_ms.map_or(PRIMARY_WAIT, Duration::from_millis);
    let _ = tokio::time::timeout(wait.min(PRIMARY_WAIT), changed).await;
    let topology = reader.current();
    Ok(Json(PrimaryAnswer {
        backend: topology.backend.clone(),
        authority: backend.authority.to_owned(),
        generation: topology.generation,
        epoch: topology.epoch,
        gate: topology.gate,
        primary: topology.primary.clone(),
        replicas: topology.replicas.clone(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailoversQuery {
    backend: Option<String>,
}

async fn failovers(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<FailoversQuery>, QueryRejection>,
) -> Result<Json<Vec<FailoverReport>>, Refusal> {
    let Query(query) = query.map_err(|e| refusal(StatusCode::BAD_REQUEST, e.body_text()))?;
    let mut reports = Vec::new();
    match query.backend {
        Some(name) => reports.extend(find(&admin, &name)?.operator.reports()),
        None => {
            for backend in &admin.backends {
                reports.extend(backend.operator.reports());
            }
        }
    }
    reports.sort_by_key(|r| r.unix_millis);
    Ok(Json(reports))
}

async fn switchover(
    State(admin): State<Arc<Admin>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Json<SwitchoverRequest>, JsonRejection>,
) -> Result<Json<FailoverReport>, Refusal> {
    let Json(request) = body.map_err(|e| refusal(e.status(), e.body_text()))?;
    let backend = find(&admin, &request.backend)?;
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|a| a.to_str().ok());
    tracing::info!(
        backend = %backend.name,
        to = request.to.as_ref().map(tracing::field::display),
        %peer,
        agent,
        "switchover asked for"
    );
    let wanted = backend.operator.switchover(request.to);
    match tokio::time::timeout(admin.switchover_timeout, wanted).await {
        Err(_) => Err(refusal(
            StatusCode::GATEWAY_TIMEOUT,
            "the switchover is still running; its outcome will be in the status and the reports",
        )),
        Ok(Err(reason)) => Err(refusal(StatusCode::CONFLICT, reason)),
        Ok(Ok(report)) => match report.outcome.clone() {
            Outcome::Done => Ok(Json(report)),
            Outcome::Aborted(reason) => Err(Refusal {
                code: StatusCode::CONFLICT,
                answer: ErrorAnswer {
                    error: reason,
                    report: Some(Box::new(report)),
                },
            }),
        },
    }
}

fn find<'a>(admin: &'a Admin, name: &str) -> Result<&'a Backend, Refusal> {
    admin.backend(name).ok_or_else(|| {
        let names: Vec<&str> = admin.backends.iter().map(|b| &*b.name).collect();
        refusal(
            StatusCode::NOT_FOUND,
            format!(
                "there is no backend `{name}`; there is: {}",
                names.join(", ")
            ),
        )
    })
}

async fn not_found() -> Refusal {
    refusal(
        StatusCode::NOT_FOUND,
        "there is nothing here; GET / lists the paths",
    )
}

async fn wrong_method() -> Refusal {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path has another method; GET / lists the paths",
    )
}

/// An answer that is not a success.
struct Refusal {
    code: StatusCode,
    answer: ErrorAnswer,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.code, Json(self.answer)).into_response()
    }
}

fn refusal(code: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        answer: ErrorAnswer {
            error: message.into(),
            report: None,
        },
    }
}
