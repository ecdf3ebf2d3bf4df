//! The way of a request through a session, a lane and back, with a real server at the end.
//!
//! `cargo bench --bench session`. Each figure includes the server's own time: compare `pointsman/...`
//! with `direct/...` of the same run.

use std::io::{Read, Write};
use std::net::TcpStream;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::lab::{Cluster, ClusterOptions, DataPlane};
use pointsman::proxy::BackendSettings;
use pointsman::topology::Gate;

/// A data plane in front of one server.
struct Scene {
    cluster: Cluster,
    plane: DataPlane,
}

impl Scene {
    async fn start() -> Scene {
        let options = ClusterOptions {
            replicas: 0,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options).await.expect("redis-server starts");
        let plane = DataPlane::start(BackendSettings::default()).expect("the data plane starts");
        let published = plane.publish(1, cluster.node(0), Gate::Open).await;
        published.expect("INFO answers");
        Scene { cluster, plane }
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
        let direct = scene.cluster.node(0).id().to_string();
        for (way, address) in [("direct", &direct), ("pointsman", &scene.plane.address)] {
            let mut stream = TcpStream::connect(address).expect("connected");
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
