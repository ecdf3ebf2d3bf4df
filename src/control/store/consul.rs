//! Consul, through its HTTP interface (Consul's documentation, "KV Store", "Transactions",
//! "Blocking Queries").
//!
//! Reads are `consistent`. Swaps are transactions of one `cas`, because their answer has the new
//! index; `PUT ?cas=` does not say it.

use std::sync::Arc;

use data_encoding::BASE64;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::http::{Answer, Http, Request};
use super::{
    Boxed, Entry, Failure, LOOK, Store, StoreError, StoreSettings, WATCH_RETRY, Watch, Write,
};
use crate::topology::Timestamp;

/// A blocking query answers within its wait, a sixteenth of that, and a round trip.
const WATCH_SLACK: u32 = 3;

/// Any name: it is asked for to see whether we may.
const PROBE: &str = "record";

/// See the head of the file.
pub(super) struct Consul {
    http: Http,
    token: Option<Arc<str>>,
    /// Without the slash that Consul's keys do not begin with.
    directory: String,
    watch: Watch,
}

impl Consul {
    pub(super) fn new(settings: &StoreSettings, directory: &str) -> Result<Consul, StoreError> {
        let token = settings.credentials.as_ref().map(|credentials| {
            String::from_utf8_lossy(credentials.password())
                .into_owned()
                .into()
        });
        let directory = format!("{}/{directory}/", settings.prefix);
        Ok(Consul {
            http: Http::new(settings)?,
            token,
            directory: directory.trim_start_matches('/').to_owned(),
            watch: Watch::default(),
        })
    }

    async fn ask(
        &mut self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        repeatable: bool,
        end: Timestamp,
    ) -> Result<Answer, Failure> {
        let request = Request {
            method,
            target,
            header: self.token.as_deref().map(|token| ("x-consul-token", token)),
            body,
            repeatable,
        };
        self.http.ask(&request, end).await
    }

    async fn read_all(&mut self) -> Result<Vec<Entry>, Failure> {
        let end = self.http.end();
        let target = format!("/v1/kv/{}?recurse&consistent", self.directory);
        let answer = self
            .ask(Method::GET, &target, Vec::new(), true, end)
            .await?;
        if answer.status == StatusCode::NOT_FOUND && answer.body.is_empty() {
            return self.really_empty(end).await.map(|()| Vec::new());
        }
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        let found: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|_| foreign())?;
        let entries = found.iter().map(|entry| self.entry(entry));
        entries.collect::<Option<_>>().ok_or_else(foreign)
    }

    /// A list leaves out what the token may not read; a single key says so.
    async fn really_empty(&mut self, end: Timestamp) -> Result<(), Failure> {
        let target = format!("/v1/kv/{}{PROBE}?consistent", self.directory);
        let answer = self
            .ask(Method::GET, &target, Vec::new(), true, end)
            .await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::OK => Ok(()),
            _ => Err(refused(&answer)),
        }
    }

    fn entry(&self, entry: &Value) -> Option<Entry> {
        let value = match entry.get("Value")? {
            Value::Null => Vec::new(),
            value => BASE64.decode(value.as_str()?.as_bytes()).ok()?,
        };
        let name = entry.get("Key")?.as_str()?;
        Some(Entry {
            name: name.strip_prefix(&self.directory)?.to_owned(),
            value,
            version: entry.get("ModifyIndex")?.as_u64()?,
        })
    }

    async fn try_swap(
        &mut self,
        name: &str,
        expected: u64,
        value: &[u8],
    ) -> Result<Write, Failure> {
        let transaction = json!([{ "KV": {
            "Verb": "cas",
            "Key": format!("{}{name}", self.directory),
            "Value": BASE64.encode(value),
            "Index": expected,
        }}]);
        let body = transaction.to_string().into_bytes();
        let end = self.http.end();
        let answer = self.ask(Method::PUT, "/v1/txn", body, false, end).await?;
        // The transaction was rolled back.
        if answer.status == StatusCode::CONFLICT {
            let said = String::from_utf8_lossy(&answer.body);
            return match said.contains("Permission denied") {
                true => Err(Failure::Nothing(
                    "Consul refuses: Permission denied".to_owned(),
                )),
                false => Ok(Write::Conflict),
            };
        }
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        let answer: Value = serde_json::from_slice(&answer.body).map_err(|_| foreign())?;
        let index = answer.pointer("/Results/0/KV/ModifyIndex");
        let index = index.and_then(Value::as_u64).ok_or_else(foreign)?;
        Ok(Write::Done(index))
    }

    async fn simple(&mut self, method: Method, name: &str, body: Vec<u8>) -> Result<(), Failure> {
        let target = format!("/v1/kv/{}{}", self.directory, escaped(name));
        let end = self.http.end();
        let answer = self.ask(method, &target, body, true, end).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(refused(&answer)),
        }
    }
}

impl Store for Consul {
    fn read(&mut self) -> Boxed<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async { self.read_all().await.map_err(Failure::into_error) })
    }

    fn swap<'a>(&'a mut self, name: &'a str, expected: u64, value: Vec<u8>) -> Boxed<'a, Write> {
        Box::pin(async move {
            let swap = self.try_swap(name, expected, &value).await;
            swap.unwrap_or_else(Failure::into_write)
        })
    }

    fn put<'a>(&'a mut self, name: &'a str, value: Vec<u8>) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let done = self.simple(Method::PUT, name, value).await;
            done.map_err(Failure::into_error)
        })
    }

    fn delete<'a>(&'a mut self, name: &'a str) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let done = self.simple(Method::DELETE, name, Vec::new()).await;
            done.map_err(Failure::into_error)
        })
    }

    fn changed(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            let (http, token) = (self.http.clone(), self.token.clone());
            let target = format!(
                "/v1/kv/{}?recurse&consistent&wait={}s",
                self.directory,
                LOOK.as_secs()
            );
            self.watch
                .start(|changed| watch(http, token, target, changed));
            self.watch.changed.notified().await;
        })
    }
}

/// An error answer. Only those that come before anything was handed to the other servers prove that
/// nothing was done.
fn refused(answer: &Answer) -> Failure {
    let said = String::from_utf8_lossy(&answer.body);
    let said = said.lines().next().unwrap_or_default().trim();
    let why = format!("Consul refuses: {said} (HTTP {})", answer.status.as_u16());
    let before = answer.status.is_client_error() || said.contains("No cluster leader");
    match before {
        true => Failure::Nothing(why),
        false => Failure::Perhaps(why),
    }
}

fn foreign() -> Failure {
    Failure::Perhaps("the answer is not that of a Consul".to_owned())
}

/// For a path: our names hold nothing stranger than a colon.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            true => out.push(byte.into()),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Wakes whoever waits each time a blocking query ends: at a change, and every [`LOOK`].
async fn watch(mut http: Http, token: Option<Arc<str>>, target: String, changed: Arc<Notify>) {
    let mut index = 0;
    loop {
        let blocking = format!("{target}&index={index}");
        let request = Request {
            method: Method::GET,
            target: &blocking,
            header: token.as_deref().map(|token| ("x-consul-token", token)),
            body: Vec::new(),
            repeatable: true,
        };
        let seen = match http.follow(&request, LOOK * WATCH_SLACK).await {
            Ok(answer) => {
                let index = answer.headers().get("x-consul-index");
                let index = index.and_then(|index| index.to_str().ok()?.parse::<u64>().ok());
                // Only a connection whose answer was read is used again.
                let _ = timeout(LOOK, answer.bytes()).await;
                index
            }
            Err(_) => None,
        };
        changed.notify_one();
        match seen {
            // It goes back when Consul was restored: begin anew.
            Some(seen) if seen >= index && seen > 0 => index = seen,
            Some(_) => index = 0,
            None => {
                index = 0;
                sleep(WATCH_RETRY).await;
            }
        }
    }
}
