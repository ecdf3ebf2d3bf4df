//! etcd, through the JSON gateway that every server has (etcd's documentation, "gRPC gateway").
//!
//! Reads are linearizable, because `serializable` is left out. A watch begins at the present, and
//! whoever waits is woken when it begins: what came before is read then, so nothing has to be
//! resumed and no compaction can hide anything.

use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::http::{Answer, Http, Request};
use super::{
    Boxed, Entry, Failure, LOOK, Store, StoreError, StoreSettings, WATCH_RETRY, Watch, Write,
};
use crate::resp::Credentials;
use crate::topology::Timestamp;

/// gRPC codes of errors that say that nothing was done: invalid argument, not found, permission
/// denied, failed precondition, unimplemented, unauthenticated.
const REFUSED: &[u64] = &[3, 5, 7, 9, 12, 16];

/// See the head of the file.
pub(super) struct Etcd {
    gateway: Gateway,
    directory: String,
    watch: Watch,
}

/// The requests, each with the token where there is one.
#[derive(Clone)]
struct Gateway {
    http: Http,
    credentials: Option<Credentials>,
    /// Of the last login; the watch and the requests share it.
    token: Arc<Mutex<Option<String>>>,
}

impl Etcd {
    pub(super) fn new(settings: &StoreSettings, directory: &str) -> Result<Etcd, StoreError> {
        Ok(Etcd {
            gateway: Gateway {
                http: Http::new(settings)?,
                credentials: settings.credentials.clone(),
                token: Arc::default(),
            },
            directory: format!("{}/{directory}/", settings.prefix),
            watch: Watch::default(),
        })
    }

    fn key(&self, name: &str) -> String {
        BASE64.encode(format!("{}{name}", self.directory).as_bytes())
    }

    /// The keys of the directory: `range_end` is the first one behind them.
    fn range(&self) -> Value {
        let mut end = self.directory.clone().into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        json!({ "key": BASE64.encode(self.directory.as_bytes()), "range_end": BASE64.encode(&end) })
    }

    async fn read_all(&mut self) -> Result<Vec<Entry>, Failure> {
        let answer = self
            .gateway
            .call("/v3/kv/range", &self.range(), true)
            .await?;
        let Some(found) = answer.get("kvs") else {
            return Ok(Vec::new());
        };
        let entries = found.as_array().into_iter().flatten();
        entries
            .map(|entry| self.entry(entry))
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::Perhaps("the answer is not that of an etcd".to_owned()))
    }

    fn entry(&self, entry: &Value) -> Option<Entry> {
        let bytes = |key: &str| BASE64.decode(entry.get(key)?.as_str()?.as_bytes()).ok();
        let name = String::from_utf8(bytes("key")?).ok()?;
        Some(Entry {
            name: name.strip_prefix(&self.directory)?.to_owned(),
            // An empty value is left out.
            value: bytes("value").unwrap_or_default(),
            version: number(entry.get("mod_revision")?)?,
        })
    }

    async fn try_swap(
        &mut self,
        name: &str,
        expected: u64,
        value: &[u8],
    ) -> Result<Write, Failure> {
        let key = self.key(name);
        let transaction = json!({
            "compare": [{ "target": "MOD", "key": key, "mod_revision": expected.to_string() }],
            "success": [{ "request_put": { "key": key, "value": BASE64.encode(value) } }],
        });
        let answer = self.gateway.call("/v3/kv/txn", &transaction, false).await?;
        let done = answer.get("succeeded").and_then(Value::as_bool);
        let revision = answer.pointer("/header/revision").and_then(number);
        match (done, revision) {
            (Some(true), Some(revision)) => Ok(Write::Done(revision)),
            // `false` is left out.
            (None | Some(false), Some(_)) => Ok(Write::Conflict),
            _ => Err(Failure::Perhaps(
                "the answer is not that of an etcd".to_owned(),
            )),
        }
    }

    fn watched(&mut self) {
        let (gateway, range) = (self.gateway.clone(), self.range());
        self.watch.start(|changed| watch(gateway, range, changed));
    }
}

impl Store for Etcd {
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
            let put = json!({ "key": self.key(name), "value": BASE64.encode(&value) });
            let done = self.gateway.call("/v3/kv/put", &put, true).await;
            done.map(|_| ()).map_err(Failure::into_error)
        })
    }

    fn delete<'a>(&'a mut self, name: &'a str) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let key = json!({ "key": self.key(name) });
            let done = self.gateway.call("/v3/kv/deleterange", &key, true).await;
            done.map(|_| ()).map_err(Failure::into_error)
        })
    }

    fn changed(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.watched();
            self.watch.changed.notified().await;
        })
    }
}

impl Gateway {
    /// Logs in where that is necessary, and asks. `repeatable`: it does no harm twice.
    async fn call(&mut self, path: &str, body: &Value, repeatable: bool) -> Result<Value, Failure> {
        let end = self.http.end();
        let token = self.token(end).await?;
        match self
            .ask(path, body, token.as_deref(), repeatable, end)
            .await
        {
            // The server was started anew, or the token is too old: it did nothing.
            Err(Failure::Nothing(why)) if token.is_some() && why.contains("invalid auth token") => {
                self.set_token(None);
                let token = self.token(end).await?;
                self.ask(path, body, token.as_deref(), repeatable, end)
                    .await
            }
            result => result,
        }
    }

    async fn token(&mut self, end: Timestamp) -> Result<Option<String>, Failure> {
        let Some(credentials) = self.credentials.clone() else {
            return Ok(None);
        };
        let known = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if known.is_some() {
            return Ok(known);
        }
        let login = json!({
            "name": credentials.username.as_deref().unwrap_or("root"),
            "password": String::from_utf8_lossy(credentials.password()),
        });
        let path = "/v3/auth/authenticate";
        let answer = self.ask(path, &login, None, true, end).await;
        let answer = match answer {
            // Nobody has to log in here.
            Err(Failure::Nothing(why)) if why.contains("authentication is not enabled") => {
                return Ok(None);
            }
            // The request itself was not sent.
            Err(failure) => return Err(Failure::Nothing(failure.into_error().0)),
            Ok(answer) => answer,
        };
        let token = answer
            .get("token")
            .and_then(Value::as_str)
            .map(str::to_owned);
        self.set_token(token.clone());
        Ok(token)
    }

    fn set_token(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    async fn ask(
        &mut self,
        path: &str,
        body: &Value,
        token: Option<&str>,
        repeatable: bool,
        end: Timestamp,
    ) -> Result<Value, Failure> {
        let request = Request {
            method: Method::POST,
            target: path,
            header: token.map(|token| ("authorization", token)),
            body: body.to_string().into_bytes(),
            repeatable,
        };
        understand(&self.http.ask(&request, end).await?)
    }
}

/// A JSON value, or what the server refused.
fn understand(answer: &Answer) -> Result<Value, Failure> {
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    match value {
        Some(value) if answer.status.is_success() => Ok(value),
        Some(value) => {
            let why = value.get("error").or_else(|| value.get("message"));
            let why = why
                .and_then(Value::as_str)
                .unwrap_or("an error without a text");
            let code = value.get("code").and_then(Value::as_u64);
            let why = format!("etcd refuses: {why}");
            match code.is_some_and(|code| REFUSED.contains(&code)) {
                true => Err(Failure::Nothing(why)),
                false => Err(Failure::Perhaps(why)),
            }
        }
        None if answer.status == StatusCode::NOT_FOUND => Err(Failure::Nothing(
            "the server has no /v3 interface: it is no etcd, or one before 3.4".to_owned(),
        )),
        None => Err(Failure::Perhaps(format!(
            "the answer is not that of an etcd (HTTP {})",
            answer.status.as_u16()
        ))),
    }
}

/// Numbers of 64 bits are strings in the gateway's JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Wakes whoever waits at the beginning of a watch, at each event, and every [`LOOK`].
async fn watch(mut gateway: Gateway, range: Value, changed: Arc<Notify>) {
    let body = json!({ "create_request": range }).to_string().into_bytes();
    loop {
        // Without a token the server says so, and it is tried again.
        let end = gateway.http.end();
        let token = gateway.token(end).await.unwrap_or_default();
        let request = Request {
            method: Method::POST,
            target: "/v3/watch",
            header: token.as_deref().map(|token| ("authorization", token)),
            body: body.clone(),
            repeatable: false,
        };
        if let Ok(mut response) = gateway.http.follow(&request, LOOK).await {
            loop {
                match timeout(LOOK, response.chunk()).await {
                    // Each part is about something that was made, changed or ended.
                    Ok(Ok(Some(part))) => {
                        changed.notify_one();
                        if contains(&part, b"\"canceled\":true") || contains(&part, b"\"error\"") {
                            break;
                        }
                    }
                    Err(_) => changed.notify_one(),
                    Ok(Ok(None) | Err(_)) => break,
                }
            }
        }
        gateway.http.next_server();
        changed.notify_one();
        sleep(WATCH_RETRY).await;
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}
