//! fred: every feature once, then rounds of work over a failover (see tests/clients.rs).

use std::rc::Rc;
use std::time::Duration;

use fred::clients::{Client, Pool, SubscriberClient};
use fred::prelude::*;
use fred::types::RespVersion;
use fred::types::scripts::Script;
use pointsman_clients::{Saw, port};

type Done = Result<bool, Error>;

fn builder(version: RespVersion) -> Builder {
    let config = Config {
        version,
        server: ServerConfig::new_centralized("127.0.0.1", port()),
        ..Config::default()
    };
    // No reconnect policy: a closed connection is an error.
    Builder::from_config(config)
}

async fn client(version: RespVersion) -> Result<Client, Error> {
    let client = builder(version).build()?;
    client.init().await?;
    Ok(client)
}

async fn handshake() -> Done {
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        let c = client(version).await?;
        c.ping::<String>(None).await?;
        c.client_setname("me").await?;
        if c.client_getname::<String>().await? != "me" {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn pool() -> Done {
    let pool: Pool = builder(RespVersion::RESP2).build_pool(4)?;
    pool.init().await?;
    let all = (0..200).map(|_| pool.incr::<i64, _>("pool"));
    futures::future::try_join_all(all).await?;
    Ok(pool.get::<i64, _>("pool").await? == 200)
}

async fn pipeline() -> Done {
    let c = client(RespVersion::RESP3).await?;
    let pipeline = c.pipeline();
    for n in 0..1000 {
        let _: () = pipeline.set(format!("p{n}"), n, None, None, false).await?;
        let _: () = pipeline.get(format!("p{n}")).await?;
    }
    let values: Vec<String> = pipeline.all().await?;
    Ok(values.len() == 2000 && values[1999] == "999")
}

async fn transaction() -> Done {
    let c = client(RespVersion::RESP3).await?;
    let _: () = c.set("t", 7, None, None, false).await?;
    let multi = c.multi();
    let _: () = multi.incr("t").await?;
    let _: () = multi.incr("t").await?;
    let values: Vec<i64> = multi.exec(true).await?;
    Ok(values == [8, 9])
}

async fn pubsub() -> Done {
    let subscriber: SubscriberClient = builder(RespVersion::RESP3).build_subscriber_client()?;
    subscriber.init().await?;
    let mut messages = subscriber.message_rx();
    subscriber.subscribe("a").await?;
    subscriber.psubscribe("p*").await?;
    let c = client(RespVersion::RESP2).await?;
    c.publish::<i64, _, _>("a", "1").await?;
    c.publish::<i64, _, _>("px", "2").await?;
    let mut heard = Vec::new();
    for _ in 0..2 {
        let message = tokio::time::timeout(Duration::from_secs(5), messages.recv()).await;
        heard.push(
            message
                .ok()
                .and_then(Result::ok)
                .and_then(|m| m.value.as_string()),
        );
    }
    Ok(heard == [Some("1".to_owned()), Some("2".to_owned())])
}

/// fred calls it an error that nothing came in time.
fn popped(result: Result<(String, String), Error>) -> Result<Option<(String, String)>, Error> {
    match result {
        Err(error) if *error.kind() == ErrorKind::Timeout => Ok(None),
        other => other.map(Some),
    }
}

async fn blocking() -> Done {
    let (c, other) = (
        client(RespVersion::RESP3).await?,
        client(RespVersion::RESP2).await?,
    );
    let none = popped(c.blpop::<(String, String), _>("empty", 0.1).await)?;
    let (element, pushed) = tokio::join!(
        c.blpop::<(String, String), _>("queue", 10.0),
        other.rpush::<i64, _, _>("queue", "x")
    );
    Ok(none.is_none() && pushed? == 1 && element?.1 == "x")
}

async fn scripts() -> Done {
    let c = client(RespVersion::RESP3).await?;
    let script = Script::from_lua("return {KEYS[1], ARGV[1]}");
    script.load(&c).await?;
    let said: Vec<String> = script.evalsha(&c, "k", "v").await?;
    Ok(said == ["k", "v"])
}

async fn large() -> Done {
    let (c, value) = (client(RespVersion::RESP3).await?, "x".repeat(3_000_000));
    let _: () = c.set("large", value.as_str(), None, None, false).await?;
    Ok(c.get::<String, _>("large").await? == value)
}

/// A client that tracks, and the invalidations it gets.
async fn cache() -> Done {
    let (c, writer) = (
        client(RespVersion::RESP3).await?,
        client(RespVersion::RESP2).await?,
    );
    let mut invalidations = c.invalidation_rx();
    c.start_tracking(Vec::<String>::new(), false, false, false, false)
        .await?;
    let _: Option<String> = c.get("cached").await?;
    let _: () = writer.set("cached", "new", None, None, false).await?;
    let told = tokio::time::timeout(Duration::from_secs(5), invalidations.recv()).await;
    Ok(matches!(told, Ok(Ok(_))))
}

async fn round(saw: &Saw, c: &Client, blocked: &Client, script: &Script, who: usize, n: usize) {
    let (key, value) = (format!("key-{who}"), format!("key-{who}-{n}"));
    let (key, value) = (key.as_str(), value.as_str());
    saw.note(
        "set",
        c.set::<(), _, _>(key, value, None, None, false).await,
    );
    let got = saw
        .note("get", c.get::<Option<String>, _>(key).await)
        .flatten();
    if got
        .as_ref()
        .is_some_and(|got| !got.starts_with(&format!("{key}-")))
    {
        saw.complain("get", format!("somebody else's value {got:?}"));
    }
    saw.note("incr", c.incr::<i64, _>(format!("n-{who}")).await);
    let pipeline = c.pipeline();
    saw.note(
        "pipeline",
        pipeline
            .set::<(), _, _>(key, value, None, None, false)
            .await,
    );
    saw.note("pipeline", pipeline.get::<(), _>(key).await);
    saw.note("pipeline", pipeline.all::<Vec<String>>().await);
    let multi = c.multi();
    saw.note(
        "exec",
        multi.set::<(), _, _>(key, value, None, None, false).await,
    );
    saw.note("exec", multi.incr::<(), _>(format!("m-{who}")).await);
    saw.note("exec", multi.exec::<(String, i64)>(true).await);
    saw.note(
        "script",
        script.evalsha::<Vec<String>, _, _, _>(c, key, value).await,
    );
    saw.note(
        "push",
        c.rpush::<i64, _, _>(format!("q-{who}"), value).await,
    );
    saw.note(
        "blpop",
        popped(
            blocked
                .blpop::<(String, String), _>(format!("q-{who}"), 1.0)
                .await,
        ),
    );
    saw.note("publish", c.publish::<i64, _, _>("news", value).await);
    if n.is_multiple_of(20) {
        let key = format!("big-{who}");
        saw.note(
            "large",
            c.set::<(), _, _>(&key, "x".repeat(1_000_000), None, None, false)
                .await,
        );
        saw.note("large", c.get::<Option<String>, _>(&key).await);
    }
}

async fn work(saw: Rc<Saw>, c: Client, who: usize) {
    let blocked = client(RespVersion::RESP3).await.expect("a connection");
    let script = Script::from_lua("return {KEYS[1], ARGV[1]}");
    script.load(&c).await.expect("loaded");
    let (mut n, mut after) = (0, 0);
    while after < 20 {
        round(&saw, &c, &blocked, &script, who, n).await;
        n += 1;
        after += u32::from(saw.round());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let saw = Rc::new(Saw::default());
    saw.feature("handshake", handshake().await);
    saw.feature("pool", pool().await);
    saw.feature("pipeline", pipeline().await);
    saw.feature("transaction", transaction().await);
    saw.feature("pubsub", pubsub().await);
    saw.feature("blocking", blocking().await);
    saw.feature("scripts", scripts().await);
    saw.feature("large", large().await);
    saw.feature("cache", cache().await);
    let listener = builder(RespVersion::RESP3)
        .build_subscriber_client()
        .expect("a client");
    listener.init().await.expect("a connection");
    let mut messages = listener.message_rx();
    listener.subscribe("news").await.expect("subscribed");
    let c = client(RespVersion::RESP3).await.expect("a connection");
    let mut lost = c.error_rx();
    let workers = futures::future::join_all((0..4).map(|who| work(saw.clone(), c.clone(), who)));
    let listen = async {
        while messages.recv().await.is_ok() {
            saw.message();
        }
    };
    let watch = async {
        while let Ok(error) = lost.recv().await {
            saw.complain("connection", format!("{error:?}"));
        }
    };
    tokio::select! {
        _ = async { tokio::join!(workers, saw.asked_to_stop()) } => {}
        _ = async { tokio::join!(listen, watch) } => {}
    }
    saw.print("fred 10");
}
