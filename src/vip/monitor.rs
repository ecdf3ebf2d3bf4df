//! Asks one pointsman who is primary, again and again. Each question waits at the other end for a
//! change, so a move is known a network's way after it was published.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agent::{Event, News};
use crate::admin::{ErrorAnswer, PrimaryAnswer};
use crate::clock;

/// The answer is a few hundred bytes; this is for a port where something else listens.
const ANSWER_MAX: usize = 64 * 1024;

/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(200);

/// One pointsman.
pub(super) struct Monitor {
    /// Which of the configured ones.
    pub(super) index: usize,
    /// Its admin address.
    pub(super) address: Arc<str>,
    pub(super) backend: Arc<str>,
    /// How long a question waits for a change.
    pub(super) wait: Duration,
}

impl Monitor {
    /// Runs until nobody listens any more.
    pub(super) async fn run(self, events: mpsc::Sender<Event>) {
        loop {
            let error = self.talk(&events).await;
            let gone = events.send(self.event(Err(error))).await;
            if gone.is_err() {
                return;
            }
            sleep(RETRY).await;
        }
    }

    /// One connection, until it fails.
    async fn talk(&self, events: &mpsc::Sender<Event>) -> String {
        // Whatever drives the connection ends with it.
        let mut driver = JoinSet::new();
        let opened = timeout(self.wait, self.open(&mut driver)).await;
        let mut sender = match opened {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => return error,
            Err(_) => return "does not answer".to_owned(),
        };
        let mut known = None;
        loop {
            let asked = clock::now();
            // Twice: once for the wait at the other end, once for the way.
            let answer = match timeout(self.wait * 2, self.ask(&mut sender, known)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return error,
                Err(_) => return "does not answer".to_owned(),
            };
            known = Some(answer.generation);
            let event = self.event(Ok(News { answer, asked }));
            if events.send(event).await.is_err() {
                return String::new();
            }
        }
    }

    fn event(&self, said: Result<News, String>) -> Event {
        Event::Monitor(self.index, said)
    }

    async fn open(&self, driver: &mut JoinSet<()>) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(&*self.address)
            .await
            .map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        driver.spawn(async move {
            // Its error is told to the one who asks.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn ask(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        known: Option<u64>,
    ) -> Result<PrimaryAnswer, String> {
        let mut path = format!("/api/primary?backend={}", self.backend);
        if let Some(generation) = known {
            path.push_str(&format!(
                "&unlike={generation}&wait_ms={}",
                self.wait.as_millis()
            ));
        }
        let request = Request::get(path)
            .header(header::HOST, &*self.address)
            .header(
                header::USER_AGENT,
                concat!("pointsman-vip-agent/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|e| e.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|e| format!("is not the admin server of a pointsman: {e}"));
        }
        Err(match serde_json::from_slice::<ErrorAnswer>(&body) {
            Ok(answer) => answer.error,
            Err(_) => format!("is not the admin server of a pointsman: HTTP status {status}"),
        })
    }
}
