//! HTTP to a coordinator that has several servers: tries the next one when one can not be reached.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Method, StatusCode};

use super::{Failure, StoreError, StoreSettings};
use crate::clock;
use crate::topology::Timestamp;

/// A server that is silent must leave time for another one.
const CONNECT_SHARE: u32 = 3;

/// A dead peer of a quiet connection is noticed after about three of these.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Asks one server, and the next one when it is not there.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client,
    /// `http://host:port`
    servers: Vec<String>,
    preferred: usize,
    timeout: Duration,
}

/// What is asked.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: &'a str,
    /// Name and value.
    pub(super) header: Option<(&'static str, &'a str)>,
    pub(super) body: Vec<u8>,
    /// Whether it may be asked again of another server when no answer came.
    pub(super) repeatable: bool,
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Http {
    pub(super) fn new(settings: &StoreSettings) -> Result<Http, StoreError> {
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_keepalive_retries(2)
            .tcp_user_timeout(KEEPALIVE * 3)
            .connect_timeout(settings.timeout / CONNECT_SHARE);
        let mut scheme = "http";
        if let Some(tls) = &settings.tls {
            scheme = "https";
            let unusable = |what: &str, error: reqwest::Error| {
                StoreError(format!("{what} can not be used: {}", root(&error)))
            };
            if let Some(ca) = &tls.ca {
                let certificates = Certificate::from_pem_bundle(ca)
                    .map_err(|error| unusable("the CA's certificate", error))?;
                builder = builder.tls_certs_only(certificates);
            }
            if let Some((certificate, key)) = &tls.identity {
                let both = [certificate.as_slice(), b"\n", key.as_slice()].concat();
                let identity = Identity::from_pem(&both)
                    .map_err(|error| unusable("our certificate or its key", error))?;
                builder = builder.identity(identity);
            }
        } else {
            // Otherwise the system's are read, and a system without any is an error.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| StoreError(format!("no HTTP client: {}", root(&error))))?;
        let servers = settings.endpoints.iter();
        Ok(Http {
            client,
            servers: servers.map(|e| format!("{scheme}://{e}")).collect(),
            preferred: 0,
            timeout: settings.timeout,
        })
    }

    /// When a call that begins now has to be over, whatever it asks.
    pub(super) fn end(&self) -> Timestamp {
        clock::now() + self.timeout
    }

    /// Ends at `end`.
    pub(super) async fn ask(
        &mut self,
        request: &Request<'_>,
        end: Timestamp,
    ) -> Result<Answer, Failure> {
        let mut failure = Failure::Nothing(format!(
            "{} was not asked in time",
            self.servers[self.preferred]
        ));
        for _ in 0..self.servers.len() {
            let left = end.since(clock::now());
            if left.is_zero() {
                break;
            }
            // Somebody else must have time to answer when this one is silent.
            let share = match request.repeatable && self.servers.len() > 1 {
                true => left / 2,
                false => left,
            };
            match self.ask_one(request, share).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.preferred = (self.preferred + 1) % self.servers.len();
                    let sent = matches!(error, Failure::Perhaps(_));
                    failure = error;
                    if sent && !request.repeatable {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// The request to the preferred server.
    fn prepare(&self, request: &Request<'_>) -> reqwest::RequestBuilder {
        let server = &self.servers[self.preferred];
        let url = format!("{server}{}", request.target);
        let sending = self.client.request(request.method.clone(), url);
        let sending = sending.body(request.body.clone());
        match request.header {
            Some((name, value)) => sending.header(name, value),
            None => sending,
        }
    }

    async fn ask_one(&self, request: &Request<'_>, limit: Duration) -> Result<Answer, Failure> {
        let server = &self.servers[self.preferred];
        let failed = |error: reqwest::Error| {
            let why = format!("{server}: {}", root(&error));
            match error.is_connect() || error.is_builder() {
                true => Failure::Nothing(why),
                false => Failure::Perhaps(why),
            }
        };
        let sending = self.prepare(request).timeout(limit);
        let response = sending.send().await.map_err(failed)?;
        let status = response.status();
        let body = response.bytes().await.map_err(failed)?.to_vec();
        Ok(Answer { status, body })
    }

    /// An answer that begins within `limit`, and may go on without end.
    pub(super) async fn follow(
        &mut self,
        request: &Request<'_>,
        limit: Duration,
    ) -> Result<reqwest::Response, StoreError> {
        let server = &self.servers[self.preferred];
        let sent = tokio::time::timeout(limit, self.prepare(request).send()).await;
        let error = match sent {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => root(&error),
            Err(_) => "no answer".to_owned(),
        };
        let error = StoreError(format!("{server}: {error}"));
        self.next_server();
        Err(error)
    }

    /// From now on another server is asked first.
    pub(super) fn next_server(&mut self) {
        self.preferred = (self.preferred + 1) % self.servers.len().max(1);
    }
}

/// The innermost reason: the outer ones only say that there is one.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
