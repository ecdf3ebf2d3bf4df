//! One question over HTTP, one answer, one connection.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::LabError;

/// GET; returns status and body.
pub async fn get(address: &str, path: &str) -> Result<(u16, String), LabError> {
    exchange(address, Method::GET, path, String::new()).await
}

/// POST of a JSON body; returns status and body.
pub async fn post(address: &str, path: &str, body: &str) -> Result<(u16, String), LabError> {
    exchange(address, Method::POST, path, body.to_owned()).await
}

async fn exchange(
    address: &str,
    method: Method,
    path: &str,
    body: String,
) -> Result<(u16, String), LabError> {
    let what = format!("{method} http://{address}{path}");
    let broken = |error: hyper::Error| LabError::Unexpected(format!("{what}: {error}"));
    let stream = TcpStream::connect(address)
        .await
        .map_err(LabError::io(&what))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| LabError::Unexpected(format!("{what}: {error}")))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection is driven by whoever waits for the answer, and ends with it.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
    .map_err(broken)
}
