//! redis-rs: every feature once, then rounds of work over a failover (see tests/clients.rs).

use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use pointsman_clients::{Saw, port};
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use redis::{AsyncCommands, AsyncConnectionConfig, Client, RedisResult, Script};

async fn connect(
    options: &str,
    config: AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    // Its own bound of a reply, 500 ms, is less than a pause under load.
    let config = config.set_response_timeout(Some(Duration::from_secs(15)));
    let client = Client::open(format!("redis://127.0.0.1:{}/{options}", port()))?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn client() -> RedisResult<MultiplexedConnection> {
    connect("", AsyncConnectionConfig::new()).await
}

async fn cached() -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_cache_config(CacheConfig::new());
    connect("?protocol=resp3", config).await
}

async fn handshake() -> RedisResult<bool> {
    let mut ok = true;
    for protocol in ["", "?protocol=resp3"] {
        let mut c = connect(protocol, AsyncConnectionConfig::new()).await?;
        let info: String = redis::cmd("CLIENT").arg("INFO").query_async(&mut c).await?;
        ok &= info.contains("lib-name=redis-rs") || !info.contains("lib-name=");
    }
    Ok(ok)
}

async fn pipeline() -> RedisResult<bool> {
    let mut pipe = redis::pipe();
    for n in 0..1000 {
        pipe.set(format!("p{n}"), n).ignore().get(format!("p{n}"));
    }
    let values: Vec<i32> = pipe.query_async(&mut client().await?).await?;
    Ok(values == (0..1000).collect::<Vec<_>>())
}

async fn transaction() -> RedisResult<bool> {
    let (mut c, mut other) = (client().await?, client().await?);
    redis::cmd("WATCH").arg("t").exec_async(&mut c).await?;
    let _: () = other.set("t", 7).await?;
    let lost: Option<Vec<i32>> = redis::pipe()
        .atomic()
        .incr("t", 1)
        .query_async(&mut c)
        .await?;
    let won: Vec<i32> = redis::pipe()
        .atomic()
        .incr("t", 1)
        .incr("t", 1)
        .query_async(&mut c)
        .await?;
    Ok(lost.is_none() && won == [8, 9])
}

async fn pubsub() -> RedisResult<bool> {
    let mut subscriber = Client::open(("127.0.0.1", port()))?
        .get_async_pubsub()
        .await?;
    subscriber.subscribe("a").await?;
    subscriber.psubscribe("p*").await?;
    let mut c = client().await?;
    let heard: (i32, i32) = (c.publish("a", "1").await?, c.publish("px", "2").await?);
    let messages: Vec<String> = subscriber
        .on_message()
        .take(2)
        .map(|m| m.get_payload().expect("text"))
        .collect()
        .await;
    Ok(heard == (1, 1) && messages == ["1", "2"])
}

async fn blocking() -> RedisResult<bool> {
    let (mut c, mut other) = (client().await?, client().await?);
    let none: Option<(String, String)> = c.blpop("empty", 0.1).await?;
    let pushed = async { other.rpush::<_, _, i32>("queue", "x").await };
    let (popped, pushed) = tokio::join!(c.blpop::<_, (String, String)>("queue", 10.0), pushed);
    Ok(none.is_none() && pushed? == 1 && popped?.1 == "x")
}

async fn scripts() -> RedisResult<bool> {
    let mut c = client().await?;
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut c).await?;
    let said: Vec<String> = Script::new("return {KEYS[1], ARGV[1]}")
        .key("k")
        .arg("v")
        .invoke_async(&mut c)
        .await?;
    Ok(said == ["k", "v"])
}

async fn large() -> RedisResult<bool> {
    let (mut c, value) = (client().await?, "x".repeat(3_000_000));
    let _: () = c.set("large", &value).await?;
    Ok(c.get::<_, String>("large").await? == value)
}

/// What another client writes is seen through the cache, soon.
async fn cache_follows(c: &mut MultiplexedConnection, value: &str) -> RedisResult<bool> {
    let _: () = client().await?.set("cached", value).await?;
    for _ in 0..500 {
        if c.get::<_, String>("cached").await? == value {
            return Ok(true);
        }
        // The pace of looking; 500 looks are the deadline.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(false)
}

async fn cache() -> RedisResult<bool> {
    let mut c = cached().await?;
    Ok(cache_follows(&mut c, "1").await? && cache_follows(&mut c, "2").await?)
}

async fn round(
    saw: &Saw,
    c: &mut MultiplexedConnection,
    blocked: &mut MultiplexedConnection,
    who: usize,
    n: usize,
) {
    let (key, value) = (format!("key-{who}"), format!("key-{who}-{n}"));
    saw.note("set", c.set::<_, _, ()>(&key, &value).await);
    let got = saw
        .note("get", c.get::<_, Option<String>>(&key).await)
        .flatten();
    if got
        .as_ref()
        .is_some_and(|got| !got.starts_with(&format!("{key}-")))
    {
        saw.complain("get", format!("somebody else's value {got:?}"));
    }
    saw.note("incr", c.incr::<_, _, i64>(format!("n-{who}"), 1).await);
    let mut pipe = redis::pipe();
    saw.note(
        "pipeline",
        pipe.set(&key, &value)
            .get(&key)
            .query_async::<(String, String)>(c)
            .await,
    );
    let mut exec = redis::pipe();
    exec.atomic().set(&key, &value).incr(format!("m-{who}"), 1);
    saw.note("exec", exec.query_async::<(String, i64)>(c).await);
    let script = Script::new("return ARGV[1]");
    saw.note(
        "script",
        script.key(&key).arg(n).invoke_async::<String>(c).await,
    );
    saw.note(
        "push",
        c.rpush::<_, _, i64>(format!("q-{who}"), &value).await,
    );
    saw.note(
        "blpop",
        blocked
            .blpop::<_, Option<(String, String)>>(format!("q-{who}"), 1.0)
            .await,
    );
    saw.note("publish", c.publish::<_, _, i64>("news", &value).await);
    if n.is_multiple_of(20) {
        let key = format!("big-{who}");
        saw.note(
            "large",
            c.set::<_, _, ()>(&key, "x".repeat(1_000_000)).await,
        );
        saw.note("large", c.get::<_, Option<String>>(&key).await);
    }
}

async fn work(saw: Rc<Saw>, mut c: MultiplexedConnection, who: usize) {
    let mut blocked = client().await.expect("a connection");
    let mut with_cache = cached().await.expect("a connection");
    let (mut n, mut after) = (0, 0);
    while after < 20 {
        round(&saw, &mut c, &mut blocked, who, n).await;
        if who == 0 && n % 10 == 0 {
            let fresh = cache_follows(&mut with_cache, &format!("value-{n}")).await;
            if saw.note("cache", fresh) == Some(false) {
                saw.complain("cache", "it is stale".into());
            }
        }
        n += 1;
        after += u32::from(saw.round());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let saw = Rc::new(Saw::default());
    saw.feature("handshake", handshake().await);
    saw.feature("pipeline", pipeline().await);
    saw.feature("transaction", transaction().await);
    saw.feature("pubsub", pubsub().await);
    saw.feature("blocking", blocking().await);
    saw.feature("scripts", scripts().await);
    saw.feature("large", large().await);
    saw.feature("cache", cache().await);
    let listening = Client::open(("127.0.0.1", port())).expect("an address");
    let mut subscriber = listening.get_async_pubsub().await.expect("a connection");
    subscriber.subscribe("news").await.expect("subscribed");
    let c = client().await.expect("a connection");
    let workers = futures::future::join_all((0..4).map(|who| work(saw.clone(), c.clone(), who)));
    let listen = async {
        let mut messages = subscriber.on_message();
        while messages.next().await.is_some() {
            saw.message();
        }
        saw.complain("listen", "the connection was closed".into());
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = async { tokio::join!(workers, saw.asked_to_stop()) } => {}
        () = listen => {}
    }
    saw.print("redis-rs 1");
}
