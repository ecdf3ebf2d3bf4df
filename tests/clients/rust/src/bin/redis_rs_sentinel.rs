//! redis-rs in Sentinel mode: finds primary and replicas through pointsman, and goes on over a failover (see
//! tests/answers/clients.rs). Arguments: port of the Sentinel answers, their password or an empty one.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{AsyncCommands, RedisResult};
use tokio::io::AsyncReadExt;

/// A connection that is made anew when it broke.
struct Found {
    client: SentinelClient,
    connection: Option<MultiplexedConnection>,
}

impl Found {
    fn new(url: &str, kind: SentinelServerType) -> Found {
        let client = SentinelClient::build(vec![url], "main".to_owned(), None, kind);
        Found {
            client: client.expect("valid settings"),
            connection: None,
        }
    }

    /// Work that a failover may disturb: again until it is done, as an application would.
    async fn until<T>(
        &mut self,
        work: impl AsyncFn(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> T {
        let begin = Instant::now();
        loop {
            let done = async {
                if self.connection.is_none() {
                    self.connection = Some(self.client.get_async_connection().await?);
                }
                work(self.connection.as_mut().expect("made above")).await
            };
            match done.await {
                Ok(value) => return value,
                Err(error) if begin.elapsed() > Duration::from_secs(20) => panic!("{error}"),
                Err(_) => self.connection = None,
            }
            // The pace of trying; 20 seconds are the deadline.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn address(&mut self) -> String {
        let info: String = self
            .until(async |c| redis::cmd("INFO").arg("server").query_async(c).await)
            .await;
        let port = info.lines().find_map(|line| line.strip_prefix("tcp_port:"));
        format!("127.0.0.1:{}", port.expect("INFO has it").trim())
    }

    async fn reads(&mut self, value: u64) {
        let begin = Instant::now();
        while self
            .until(async |c| c.get::<_, Option<u64>>("key").await)
            .await
            != Some(value)
        {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "the replica did not get it"
            );
            // The pace of trying; 20 seconds are the deadline.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().expect("a port");
    let url = match arguments.next().as_deref() {
        None | Some("") => format!("redis://127.0.0.1:{port}"),
        Some(password) => format!("redis://:{password}@127.0.0.1:{port}"),
    };
    let mut primary = Found::new(&url, SentinelServerType::Master);
    let mut replica = Found::new(&url, SentinelServerType::Replica);
    primary
        .until(async |c| c.set::<_, _, ()>("key", 0).await)
        .await;
    replica.reads(0).await;
    let (before, read_from) = (primary.address().await, replica.address().await);
    let asked = redis::Client::open(url).expect("a valid address");
    let mut news = asked.get_async_pubsub().await.expect("it listens");
    news.subscribe("+switch-master").await.expect("subscribed");
    println!("ready");
    let (stopping, rounds) = (Cell::new(false), Cell::new(0));
    let work = async {
        while !stopping.get() {
            rounds.set(rounds.get() + 1);
            primary
                .until(async |c| c.set::<_, _, ()>("key", rounds.get()).await)
                .await;
        }
    };
    let stop = async {
        tokio::io::stdin()
            .read_to_end(&mut Vec::new())
            .await
            .expect("it can be read");
        stopping.set(true);
    };
    tokio::join!(work, stop);
    replica.reads(rounds.get()).await;
    let message = tokio::time::timeout(Duration::from_secs(5), async {
        news.on_message().next().await
    })
    .await;
    let message = message
        .ok()
        .flatten()
        .and_then(|m| m.get_payload::<String>().ok());
    let saw = serde_json::json!({
        "client": "redis-rs 1.8",
        "before": before,
        "after": primary.address().await,
        "replica": read_from,
        "message": message,
        "rounds": rounds.get(),
        "errors": [],
    });
    println!("{saw}");
}
