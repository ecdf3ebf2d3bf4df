//! Six servers in three shards, and pointsman in front of them.

use std::time::Duration;

use pointsman::lab::{
    Client, Pointsman, PointsmanOptions, Protocol, Server, Sharded, ShardedOptions, Traffic,
    TrafficOptions, Value, Verdict, judge,
};
use pointsman::resp::key_slot;
use pointsman::topology::NodeId;

/// For what should take a moment.
pub const SOON: Duration = Duration::from_secs(30);

/// What any failover of a shard logs at level WARN.
const EXPECTED: &[&str] = &[];

pub struct Scene {
    pub pointsman: Pointsman,
    pub cluster: Sharded,
    traffic: Option<Traffic>,
}

impl Scene {
    /// Where no primary is replaced, however busy the machine is.
    pub async fn start() -> Scene {
        Scene::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut PointsmanOptions)) -> Scene {
        Scene::behind(ShardedOptions::default().patient(), change).await
    }

    /// Where the cluster replaces a primary soon.
    pub async fn brittle() -> Scene {
        Scene::behind(ShardedOptions::default(), |_| {}).await
    }

    /// Where a replica is told to take over: when it fails, nobody votes for it again for twice that long, and it
    /// does not ask for twice that again.
    pub async fn for_a_handover() -> Scene {
        Scene::for_a_handover_with(|_| {}).await
    }

    pub async fn for_a_handover_with(change: impl FnOnce(&mut PointsmanOptions)) -> Scene {
        let cluster = ShardedOptions {
            node_timeout: Duration::from_secs(5),
            ..ShardedOptions::default()
        };
        Scene::behind(cluster, change).await
    }

    /// With a password at every node.
    pub async fn locked(password: &str) -> Scene {
        let cluster = ShardedOptions {
            password: Some(password.to_owned()),
            ..ShardedOptions::default().patient()
        };
        let give = |options: &mut PointsmanOptions| options.password = Some(password.to_owned());
        Scene::behind(cluster, give).await
    }

    /// pointsman listens, and none of its nodes does.
    pub async fn start_while_all_nodes_are_down() -> Scene {
        let cluster = Sharded::start(ShardedOptions::default().patient());
        let cluster = cluster.await.unwrap();
        cluster.nodes().iter().for_each(Server::kill);
        let pointsman = Pointsman::start(&options(&cluster)).unwrap();
        let connects = async || match pointsman.client(None).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        let connected = pointsman::lab::until("a connection", SOON, connects);
        connected.await.unwrap();
        Scene {
            pointsman,
            cluster,
            traffic: None,
        }
    }

    async fn behind(cluster: ShardedOptions, change: impl FnOnce(&mut PointsmanOptions)) -> Scene {
        let cluster = Sharded::start(cluster).await.unwrap();
        let mut options = options(&cluster);
        change(&mut options);
        let pointsman = Pointsman::start_ready(&options).await.unwrap();
        Scene {
            pointsman,
            cluster,
            traffic: None,
        }
    }

    pub async fn client(&self) -> Client {
        self.pointsman.client(None).await.unwrap()
    }

    pub async fn client3(&self) -> Client {
        Client::open(&self.pointsman.address(), Protocol::Resp3, None)
            .await
            .unwrap()
    }

    /// One client of every kind.
    pub async fn traffic(&mut self) {
        self.traffic_of(TrafficOptions::every_kind(self.pointsman.address()))
            .await;
    }

    pub async fn traffic_of(&mut self, options: TrafficOptions) {
        self.traffic = Some(Traffic::start(options).await.unwrap());
        self.progress(20).await;
    }

    pub async fn progress(&self, more: u64) {
        let traffic = self.traffic.as_ref().expect("traffic was started");
        if let Err(error) = traffic.progress(more, SOON).await {
            panic!("{error}\n{}", self.pointsman.log_tail());
        }
    }

    /// Ends the traffic and judges. The last state is read through pointsman, for it is on several nodes.
    pub async fn judged(&mut self) -> Verdict {
        let traffic = self.traffic.take().expect("traffic was started");
        let mut client = self.client().await;
        judge(&traffic.stop(&mut client).await.unwrap())
    }

    /// The node that answers what is about no key.
    pub async fn home(&self) -> NodeId {
        let topology = self.pointsman.topology().await.unwrap();
        topology.primary.expect("there is one").node
    }

    /// The node that serves this key.
    pub async fn node_of(&self, key: &str) -> usize {
        let slot = key_slot(key.as_bytes());
        self.cluster.primary_of(slot).await.unwrap()
    }

    pub fn assert_log_is_clean(&self) {
        let lines = self.pointsman.unexpected_log_lines(EXPECTED);
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

/// pointsman in front of this cluster.
fn options(cluster: &Sharded) -> PointsmanOptions {
    PointsmanOptions {
        program: Some(env!("CARGO_BIN_EXE_pointsman").into()),
        cluster: true,
        proxy: "workers = 1".into(),
        // Two are enough to find the others.
        ..PointsmanOptions::in_front_of(cluster.addresses()[..2].to_vec())
    }
}

/// Whether the server is older than that, and says so.
pub fn older_than(needed: (u16, u16), what: &str) -> bool {
    let (_, version) = Server::version().expect("it tells its version");
    let old = version < needed;
    if old {
        eprintln!("NOT RUN: {what} needs Redis {needed:?}, this is {version:?}");
    }
    old
}

/// Sends a request written as words and returns the reply as text.
pub async fn ask(client: &mut Client, request: &str) -> String {
    send(client, request).await;
    hear(client).await
}

pub async fn send(client: &mut Client, request: &str) {
    let words: Vec<&str> = request.split(' ').collect();
    client.send(&words).await.expect("sent");
}

pub async fn hear(client: &mut Client) -> String {
    match tokio::time::timeout(SOON, client.receive()).await {
        Ok(Ok(value)) => show(&value),
        Ok(Err(error)) => format!("!{error}"),
        Err(_) => "!nothing came".to_owned(),
    }
}

pub async fn message(client: &mut Client) -> String {
    match tokio::time::timeout(SOON, client.message()).await {
        Ok(Ok(value)) => show(&value),
        Ok(Err(error)) => format!("!{error}"),
        Err(_) => "!nothing came".to_owned(),
    }
}

/// A reply as redis-cli would print it, in one line.
fn show(value: &Value) -> String {
    match (value.items(), value.number(), value.text()) {
        (Some(items), _, _) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        (_, _, Some(text)) => text.to_owned(),
        (_, Some(number), _) => number.to_string(),
        _ => value.to_string(),
    }
}
