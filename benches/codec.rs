//! Scanning and classifying, which is all that is done to the bytes of a request.
//!
//! `cargo bench --bench codec`

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::resp::{
    Limits, ReplyScanner, RequestScanner, command, encode_request, put_bulk, put_ok, reply,
};

fn encoded(requests: &[&[&[u8]]]) -> BytesMut {
    let mut out = BytesMut::new();
    for request in requests {
        encode_request(&mut out, request);
    }
    out
}

/// Scans all of `bytes` and looks each command up; returns something of each.
fn scan_requests(bytes: &[u8]) -> usize {
    let limits = Limits::default();
    let mut scanner = RequestScanner::default();
    let mut rest = bytes;
    let mut seen = 0;
    while let Ok(Some(request)) = scanner.scan(rest, &limits) {
        let (frame, after) = rest.split_at(request.len);
        let command = request.arg(frame, 0).and_then(command::lookup);
        seen += command::replay(command, &request, frame) as usize + 1;
        rest = after;
    }
    seen
}

fn scan_replies(bytes: &[u8]) -> usize {
    let mut scanner = ReplyScanner::default();
    let mut rest = bytes;
    let mut seen = 0;
    while let Ok(Some(len)) = scanner.scan(rest) {
        seen += usize::from(reply::signal(rest).is_some()) + 1;
        rest = &rest[len..];
    }
    seen
}

fn requests(criterion: &mut Criterion) {
    let value = [b'v'; 64];
    let large = vec![b'v'; 1024 * 1024];
    let get: &[&[u8]] = &[b"GET", b"key:000000000042"];
    let set: &[&[u8]] = &[b"SET", b"key:000000000042", &value];
    let pipeline: Vec<&[&[u8]]> = (0..64)
        .map(|i| if i % 2 == 0 { get } else { set })
        .collect();
    let mut group = criterion.benchmark_group("request");
    for (name, bytes) in [
        ("GET", encoded(&[get])),
        ("SET 64 B", encoded(&[set])),
        ("pipeline of 64", encoded(&pipeline)),
        ("SET 1 MB", encoded(&[&[b"SET", b"k", &large]])),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan_requests(black_box(&bytes))));
    }
    // What a client on a slow line does: every piece of 1,448 bytes is one call.
    let bytes = encoded(&[&[b"SET", b"k", &large]]);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("SET 1 MB in pieces of a segment", |b| {
        b.iter(|| {
            let mut scanner = RequestScanner::default();
            let limits = Limits::default();
            let mut seen = 0;
            for end in (1448..bytes.len()).step_by(1448).chain([bytes.len()]) {
                let found = scanner.scan(black_box(&bytes[..end]), &limits);
                seen += usize::from(matches!(found, Ok(Some(_))));
            }
            seen
        });
    });
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let mut ok = BytesMut::new();
    put_ok(&mut ok);
    let mut bulk = BytesMut::new();
    put_bulk(&mut bulk, &[b'v'; 64]);
    let mut pipeline = BytesMut::new();
    let mut array = BytesMut::from(&b"*100\r\n"[..]);
    for _ in 0..64 {
        put_bulk(&mut pipeline, &[b'v'; 64]);
    }
    for _ in 0..100 {
        put_bulk(&mut array, &[b'v'; 20]);
    }
    let mut large = BytesMut::new();
    put_bulk(&mut large, &vec![b'v'; 1024 * 1024]);
    let mut group = criterion.benchmark_group("reply");
    for (name, bytes) in [
        ("+OK", ok),
        ("64 B", bulk),
        ("pipeline of 64", pipeline),
        ("array of 100", array),
        ("1 MB", large),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan_replies(black_box(&bytes))));
    }
    group.finish();
}

criterion_group! {
    name = codec;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(800));
    targets = requests, replies
}
criterion_main!(codec);
