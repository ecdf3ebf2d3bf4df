//! One loop for each kind of client.

use super::super::client::ClientError;
use super::super::history::{Kind, Outcome};
use super::super::value::Value;
use super::driver::{Driver, failed, number, ok, wrong};

/// Tells poppers and subscribers that the run is over.
pub(super) const END: &str = "end";

/// Increments one key and answers its new value.
const SCRIPT: &str = "return redis.call('INCR', KEYS[1])";

/// What a client works on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Prefix of the keys that only this client uses.
    pub(super) own: String,
    /// Prefix of the keys that its group shares.
    pub(super) shared: String,
    /// How many keys a setter or a reader uses.
    pub(super) ring: usize,
    /// How many requests a pipelined client writes at once.
    pub(super) depth: usize,
}

impl Place {
    pub(super) fn slot(&self, slot: usize) -> String {
        format!("{}:{slot}", self.own)
    }

    pub(super) fn counter(&self) -> String {
        format!("{}:count", self.own)
    }

    /// Both halves of a transaction; one hash tag, so that they would share a slot of a cluster.
    pub(super) fn pair(&self) -> [String; 2] {
        [format!("{{{}}}:a", self.own), format!("{{{}}}:b", self.own)]
    }

    pub(super) fn list(&self) -> String {
        format!("{}:list", self.own)
    }

    /// What a reader's key holds from the start.
    pub(super) fn value(&self, slot: usize) -> String {
        format!("value-of-{}:{slot}", self.own)
    }
}

/// Prepares what the client needs before traffic starts: a reader's keys, a subscription, a script.
pub(super) async fn prepare(
    kind: Kind,
    driver: &mut Driver,
    place: &Place,
) -> Result<(), ClientError> {
    let client = &mut driver.client;
    match kind {
        Kind::Reader => {
            for slot in 0..place.ring {
                client.queue(&["SET", &place.slot(slot), &place.value(slot)]);
            }
            client.flush().await?;
            for _ in 0..place.ring {
                let reply = client.receive().await?;
                if !reply.is_ok() {
                    return Err(ClientError::Unexpected(format!("SET: {reply}")));
                }
            }
        }
        Kind::Subscriber => {
            client.send(&["SUBSCRIBE", &place.shared]).await?;
            let reply = client.message().await?;
            if reply.items().and_then(|items| items.first()?.text()) != Some("subscribe") {
                return Err(ClientError::Unexpected(format!("SUBSCRIBE: {reply}")));
            }
        }
        Kind::Script => {
            let reply = client.call(&["SCRIPT", "LOAD", SCRIPT]).await?;
            if reply.text().is_none() {
                return Err(ClientError::Unexpected(format!("SCRIPT LOAD: {reply}")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Runs one client until the run is over or its connection is gone.
pub(super) async fn run(kind: Kind, mut driver: Driver, place: Place) {
    let driver = &mut driver;
    match kind {
        Kind::Reader => read(driver, &place).await,
        Kind::Setter => set(driver, &place).await,
        Kind::Counter => count(driver, &place).await,
        Kind::Appender => push(driver, &place.list()).await,
        Kind::Pusher => push(driver, &place.shared).await,
        Kind::Popper => pop(driver, &place.shared).await,
        Kind::Publisher => publish(driver, &place.shared).await,
        Kind::Subscriber => listen(driver, &place.shared).await,
        Kind::Transaction => transact(driver, &place).await,
        Kind::Watcher => watch(driver, &place.shared).await,
        Kind::Script => script(driver, &place).await,
        Kind::Pipeline => pipeline(driver, &place).await,
    }
}

async fn read(driver: &mut Driver, place: &Place) {
    let mut turn = 0;
    while driver.turn().await {
        let slot = turn % place.ring;
        turn += 1;
        let expected = place.value(slot);
        let read = |reply: &Value| match reply.text() {
            Some(text) if text == expected => Outcome::Done(0),
            _ => wrong(reply),
        };
        driver.perform(0, &["GET", &place.slot(slot)], read).await;
    }
}

async fn set(driver: &mut Driver, place: &Place) {
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        let key = place.slot(token as usize % place.ring);
        driver
            .perform(token, &["SET", &key, &token.to_string()], ok)
            .await;
    }
}

async fn count(driver: &mut Driver, place: &Place) {
    let key = place.counter();
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver.perform(token, &["INCR", &key], number).await;
    }
}

async fn push(driver: &mut Driver, key: &str) {
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver
            .perform(token, &["RPUSH", key, &token.to_string()], number)
            .await;
    }
}

async fn pop(driver: &mut Driver, key: &str) {
    // Not paced and not ended by the flag: it empties the queue up to the end mark.
    let mut ended = false;
    while driver.connected && !ended {
        let read = |reply: &Value| match (reply, reply.items()) {
            (Value::Null, _) => Outcome::Nothing,
            (_, Some([name, item])) if name.text() == Some(key) => match item.text() {
                Some(END) => {
                    ended = true;
                    Outcome::Nothing
                }
                _ => number(item),
            },
            _ => wrong(reply),
        };
        driver.perform(0, &["BLPOP", key, "5"], read).await;
    }
}

async fn publish(driver: &mut Driver, channel: &str) {
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver
            .perform(token, &["PUBLISH", channel, &token.to_string()], number)
            .await;
    }
}

async fn listen(driver: &mut Driver, channel: &str) {
    let mut ended = false;
    while driver.connected && !ended {
        driver.begin(0);
        let message = driver.client.message().await;
        driver.end(message, |message| match message.items() {
            Some([word, from, text])
                if word.text() == Some("message") && from.text() == Some(channel) =>
            {
                ended = text.text() == Some(END);
                match ended {
                    true => Outcome::Nothing,
                    false => number(text),
                }
            }
            _ => wrong(message),
        });
    }
}

async fn transact(driver: &mut Driver, place: &Place) {
    let [a, b] = place.pair();
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver.begin(token);
        let requests: [&[&str]; 4] = [&["MULTI"], &["INCR", &a], &["INCR", &b], &["EXEC"]];
        let at_once = token % 2 == 0;
        let result = block(driver, &requests, at_once).await;
        settle(driver, result, |reply| match reply.items() {
            Some([Value::Integer(a), Value::Integer(b)]) if a == b => Outcome::Done(*a as u64),
            _ => wrong(reply),
        });
    }
}

async fn watch(driver: &mut Driver, key: &str) {
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver.begin(token);
        let current = async {
            let watched = driver.client.call(&["WATCH", key]).await?;
            if !watched.is_ok() {
                return Ok(Err(watched));
            }
            Ok::<_, ClientError>(match driver.client.call(&["GET", key]).await? {
                Value::Null => Ok(0),
                value => value.number().ok_or(value),
            })
        };
        let next = match current.await {
            Ok(Ok(current)) => current + 1,
            Ok(Err(reply)) => {
                driver.end(Ok(reply), wrong);
                continue;
            }
            Err(error) => {
                driver.hang_up(&error);
                continue;
            }
        };
        let value = next.to_string();
        let requests: [&[&str]; 3] = [&["MULTI"], &["SET", key, &value], &["EXEC"]];
        let result = block(driver, &requests, false).await;
        settle(driver, result, |reply| match (reply, reply.items()) {
            (Value::Null, _) => Outcome::Nothing,
            (_, Some([done])) if done.is_ok() => Outcome::Done(next as u64),
            _ => wrong(reply),
        });
    }
}

/// Sends MULTI, the commands and EXEC, and returns EXEC's reply, or the error that made it fail.
async fn block(
    driver: &mut Driver,
    requests: &[&[&str]],
    at_once: bool,
) -> Result<Value, ClientError> {
    let mut replies = Vec::with_capacity(requests.len());
    if at_once {
        for request in requests {
            driver.client.queue(request);
        }
        driver.client.flush().await?;
        for _ in requests {
            replies.push(driver.client.receive().await?);
        }
    } else {
        for request in requests {
            replies.push(driver.client.call(request).await?);
        }
    }
    let exec = replies.pop().unwrap_or(Value::Null);
    let expected = std::iter::once("OK").chain(std::iter::repeat("QUEUED"));
    for (reply, expected) in replies.into_iter().zip(expected) {
        match reply {
            // EXEC's own error decides unless it only says that this one made it fail.
            Value::Error(text) => {
                let aborted = matches!(&exec, Value::Error(e) if e.starts_with("EXECABORT"));
                return Ok(if aborted { Value::Error(text) } else { exec });
            }
            Value::Simple(text) if text == expected => {}
            other => {
                return Err(ClientError::Protocol(format!(
                    "+{expected} expected, got {other}"
                )));
            }
        }
    }
    Ok(exec)
}

fn settle(
    driver: &mut Driver,
    result: Result<Value, ClientError>,
    read: impl FnOnce(&Value) -> Outcome,
) {
    match result {
        Err(ClientError::Protocol(text)) => driver.finish(Outcome::Wrong(text.into())),
        result => driver.end(result, read),
    }
}

async fn script(driver: &mut Driver, place: &Place) {
    let key = place.counter();
    let sha = match driver.client.call(&["SCRIPT", "LOAD", SCRIPT]).await {
        Ok(Value::Bulk(sha)) => String::from_utf8_lossy(&sha).into_owned(),
        Ok(other) => {
            driver.begin(0);
            driver.finish(failed(&other.to_string()));
            return;
        }
        Err(error) => {
            driver.begin(0);
            driver.hang_up(&error);
            return;
        }
    };
    let mut token = 0;
    while driver.turn().await {
        token += 1;
        driver
            .perform(token, &["EVALSHA", &sha, "1", &key], number)
            .await;
    }
}

async fn pipeline(driver: &mut Driver, place: &Place) {
    let key = place.counter();
    let mut token = 0;
    while driver.turn().await {
        for _ in 0..place.depth {
            token += 1;
            driver.begin(token);
            driver.client.queue(&["INCR", &key]);
        }
        if let Err(error) = driver.client.flush().await {
            driver.hang_up(&error);
            continue;
        }
        for _ in 0..place.depth {
            let reply = driver.client.receive().await;
            driver.end(reply, number);
            if !driver.connected {
                break;
            }
        }
    }
}
