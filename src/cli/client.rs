//! Asks the admin server of a running pointsman.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::admin::ErrorAnswer;

/// Long enough for another machine, short enough for a person.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The server bounds a switchover itself; this is for a server that hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Reports are small; this is for a port where something else listens.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "can not reach a pointsman at {admin}: {reason}\n    \
         hint: is it running? --admin ADDR names another address ([admin] bind)"
    )]
    Unreachable { admin: String, reason: String },
    #[error("{admin} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent { admin: String },
    #[error(
        "what answers at {admin} is not the admin server of a pointsman: {reason}\n    \
         hint: --admin is the address of [admin] bind, not of a listener"
    )]
    NotPointsman { admin: String, reason: String },
    /// The server says no; `error` is its reason.
    #[error("{}", .answer.error)]
    Refused { answer: Box<ErrorAnswer> },
}

/// `GET path`
pub(super) fn get<T: DeserializeOwned>(admin: &str, path: &str) -> Result<T, ClientError> {
    block_on(admin, Method::GET, path, Bytes::new())
}

/// `POST path` with a JSON body
pub(super) fn post<T: DeserializeOwned>(
    admin: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    block_on(admin, Method::POST, path, body.into())
}

fn block_on<T: DeserializeOwned>(
    admin: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, ClientError> {
    let admin = admin.trim_start_matches("http://").trim_end_matches('/');
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| unreachable(admin, e))?;
    runtime.block_on(async {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(admin));
        let stream = match connect.await {
            Ok(connected) => connected.map_err(|e| unreachable(admin, e))?,
            Err(_) => return Err(unreachable(admin, "no answer")),
        };
        let exchange = exchange(admin, stream, method, path, body);
        let (status, bytes) = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| ClientError::Silent {
                admin: admin.to_owned(),
            })??;
        read(admin, status, &bytes)
    })
}

async fn exchange(
    admin: &str,
    stream: TcpStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), ClientError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, admin)
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::USER_AGENT,
            concat!("pointsman/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(body))
        .map_err(|e| not_pointsman(admin, e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| not_pointsman(admin, e))?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| not_pointsman(admin, e))?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|e| not_pointsman(admin, e))?
        .to_bytes();
    connection.abort();
    Ok((status, bytes))
}

fn read<T: DeserializeOwned>(
    admin: &str,
    status: StatusCode,
    bytes: &[u8],
) -> Result<T, ClientError> {
    if status.is_success() {
        return serde_json::from_slice(bytes).map_err(|e| not_pointsman(admin, e));
    }
    match serde_json::from_slice(bytes) {
        Ok(answer) => Err(ClientError::Refused {
            answer: Box::new(answer),
        }),
        Err(_) => Err(not_pointsman(admin, format!("HTTP status {status}"))),
    }
}

fn unreachable(admin: &str, reason: impl ToString) -> ClientError {
    ClientError::Unreachable {
        admin: admin.to_owned(),
        reason: reason.to_string(),
    }
}

fn not_pointsman(admin: &str, reason: impl ToString) -> ClientError {
    ClientError::NotPointsman {
        admin: admin.to_owned(),
        reason: reason.to_string(),
    }
}
