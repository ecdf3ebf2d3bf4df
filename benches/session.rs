//! The way of a request through a session, a lane and back, with a real server at the end.
//!
//! `cargo bench --bench session`. Each figure includes the server's own time: compare `pointsman/...`
//! with `direct/...` of the same run.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::lab::{Cluster, ClusterOptions};
use pointsman::proxy::{self, BackendPlan, BackendSettings, ListenerPlan, Proxy, Settings, Socket};
use pointsman::topology::{Epoch, Gate, NodeId, Primary, Topology, channel, evidence_channel};

/// A data plane in front of one server, and the port it listens on.
struct Scene {
    cluster: Cluster,
    port: u16,
    /// Runs as long as this lives.
    _proxy: Proxy,
}

impl Scene {
    async fn start() -> Scene {
        let options = ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options).await.expect("redis-server starts");
        let node = cluster.node(0);
        let run_id = node.info_field("run_id").await.expect("INFO answers");
        let (writer, reader) = channel(Topology::unknown("bench"), 1);
        let (evidence, _) = evidence_channel(16);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let port = listener.local_addr().expect("an address").port();
        let proxy = proxy::start(proxy::Plan {
            settings: Settings {
                workers: 1,
                ..Settings::default()
            },
            backends: vec![BackendPlan {
                name: Arc::from("bench"),
                topology: reader,
                cluster: None,
                evidence,
                credentials: None,
                settings: BackendSettings::default(),
            }],
            listeners: vec![ListenerPlan {
                backend: 0,
                socket: Socket::Tcp(listener),
            }],
        })
        .expect("the data plane starts");
        writer.publish(Topology {
            epoch: Epoch(1),
            gate: Gate::Open,
            primary: Some(Primary {
                node: NodeId::new(node.id().as_str()),
                run_id: run_id.into(),
                repl_id: Arc::from(""),
            }),
            ..Topology::unknown("bench")
        });
        Scene {
            cluster,
            port,
            _proxy: proxy,
        }
    }
}

/// Sends `request` and waits for as many bytes as its replies have.
fn exchange(stream: &mut TcpStream, request: &[u8], reply: &mut [u8]) {
    stream.write_all(request).expect("sent");
    stream.read_exact(reply).expect("answered");
}

fn measure(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let scene = runtime.block_on(Scene::start());
    let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let unit = b"*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n";
    let unit_reply = b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n".len();
    let cases: [(&str, Vec<u8>, usize, u64); 3] = [
        ("one GET", get.to_vec(), 5, 1),
        ("64 GETs in one write", get.repeat(64), 5 * 64, 64),
        (
            "MULTI, GET, EXEC in one write",
            unit.to_vec(),
            unit_reply,
            3,
        ),
    ];
    for (name, request, reply, requests) in cases {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(requests));
        for (way, port) in [
            ("direct", scene.cluster.node(0).port()),
            ("pointsman", scene.port),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
            stream.set_nodelay(true).expect("no delay");
            let mut buffer = vec![0; reply];
            group.bench_function(way, |b| {
                b.iter(|| exchange(&mut stream, &request, &mut buffer))
            });
        }
        group.finish();
    }
}

criterion_group!(benches, measure);
criterion_main!(benches);
