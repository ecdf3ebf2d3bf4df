//! What is done with fuzzed bytes. Also compiled into tests/fuzz_smoke.rs, so that it runs without
//! a fuzzer too. A function here panics when something is wrong, and else returns nothing.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use pointsman::names::{Names, NamesSettings, Reply, Transport};
use pointsman::resp::command::{self, Special};
use pointsman::resp::info;
use pointsman::resp::request::rewrite_inline;
use pointsman::resp::{Limits, ProtocolError, ReplyScanner, Request, RequestScanner, reply};
use pointsman::topology::{Epoch, Gate, NodeId, Primary, Topology, channel};
use redis_protocol::resp2::decode::decode_bytes;

/// Small bounds, so that short inputs reach them.
const LIMITS: Limits = Limits {
    max_args: 64,
    max_bulk: 4096,
    max_inline: 256,
};

/// The first byte says how the others are cut into pieces; requests must come out the same, whole
/// or in pieces, and nothing that is asked about them may panic.
pub fn requests(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let scan = |piece: usize| {
        let mut scanner = RequestScanner::default();
        pieces(bytes, piece, |buf| match scanner.scan(buf, &LIMITS)? {
            None => Ok(None),
            Some(request) => Ok(Some(request.len)),
        })
    };
    let (ends, _) = same_in_pieces(cut, bytes, scan);
    let mut start = 0;
    for end in ends {
        let frame = &bytes[start..end];
        let scanned = RequestScanner::default().scan(frame, &LIMITS);
        let request = scanned.expect("was valid").expect("was complete");
        assert_eq!(request.len, frame.len());
        look_at_request(&request, frame);
        start = end;
    }
}

/// A packet to the DNS server: what is answered is short, an answer, and one to this packet.
pub fn questions(data: &[u8]) {
    static NAMES: OnceLock<Names> = OnceLock::new();
    let names = NAMES.get_or_init(dns_server);
    for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65535)] {
        match names.answer(data, transport, true) {
            Reply::Now(answer) => {
                assert!(data.len() >= 12 && data[2] & 0x80 == 0, "nobody asked");
                assert!((12..=most).contains(&answer.len()));
                assert_eq!(answer[..2], data[..2]);
                assert_eq!(answer[2] & 0x80, 0x80);
            }
            Reply::Nothing => assert!(data.len() < 12 || data[2] & 0x80 != 0),
            Reply::Wait(_) => panic!("there is a primary"),
        }
    }
}

/// One that has more nodes than fit into a packet.
fn dns_server() -> Names {
    let mut topology = Topology::unknown("main");
    topology.epoch = Epoch(7);
    topology.gate = Gate::Open;
    topology.primary = Some(Primary {
        node: NodeId::new("10.0.0.1:6379"),
        run_id: "r".into(),
        repl_id: "h".into(),
    });
    topology.replicas = (2..200)
        .map(|n| NodeId::new(format!("10.0.0.{n}:6379")))
        .collect();
    let (_, reader) = channel(topology, 0);
    let settings = NamesSettings {
        bind: "127.0.0.1:53".parse().expect("an address"),
        zone: "redis.test.".parse().expect("a name"),
    };
    Names::new(settings, vec![("main".into(), reader)]).expect("names are free")
}

fn look_at_request(request: &Request, frame: &[u8]) {
    if request.inline {
        let rewritten = rewrite_inline(frame).expect("the scanner has split it");
        let scanned = RequestScanner::default().scan(&rewritten, &Limits::default());
        let again = scanned.expect("we wrote it").expect("completely");
        assert_eq!((again.len, again.argc), (rewritten.len(), request.argc));
        if again.argc > 0 {
            look_at_request(&again, &rewritten);
        }
        return;
    }
    assert_eq!(request.args(frame).count(), request.argc);
    for (i, arg) in request.args(frame).enumerate() {
        assert_eq!(request.arg(frame, i), Some(arg));
    }
    let Some(found) = request.arg(frame, 0).and_then(command::lookup) else {
        return;
    };
    command::replay(Some(found), request, frame);
    command::refused(found, request, frame);
    if let Special::Blocking(_) = found.special {
        let patience = command::patience(found.special, request, frame);
        let rest = Duration::from_millis(1500);
        let shorter = command::with_timeout(found.special, request, frame, rest);
        let scanned = RequestScanner::default().scan(&shorter, &Limits::default());
        let again = scanned.expect("we wrote it").expect("completely");
        assert_eq!(again.argc, request.argc);
        if patience != command::Patience::None {
            assert_eq!(
                command::patience(found.special, &again, &shorter),
                command::Patience::For(rest)
            );
        }
    }
}

/// As [`requests`], for what a node sends.
pub fn replies(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let scan = |piece: usize| {
        let mut scanner = ReplyScanner::default();
        pieces(bytes, piece, |buf| scanner.scan(buf))
    };
    let (ends, _) = same_in_pieces(cut, bytes, scan);
    let mut start = 0;
    for end in ends {
        look_at_reply(&bytes[start..end]);
        start = end;
    }
    look_at_reply(bytes);
}

fn look_at_reply(frame: &[u8]) {
    reply::kind(frame);
    reply::signal(frame);
    reply::error_code(frame);
    reply::payload(frame);
    reply::first_element(frame);
    let children: usize = reply::elements(frame).map(<[u8]>::len).sum();
    assert!(children <= frame.len());
}

/// INFO and ROLE as a node might answer them; what is understood is understood the same again.
pub fn info(data: &[u8]) {
    assert_eq!(info::parse(data), info::parse(data));
    // Decoding is recursive: as the control plane does, look at frames of bounded depth only.
    if data.iter().filter(|&&byte| byte == b'*').count() < 256
        && let Ok(Some((frame, _))) = decode_bytes(&Bytes::copy_from_slice(data))
    {
        assert_eq!(info::parse_role(&frame), info::parse_role(&frame));
    }
}

/// Ends of the frames, and the error that ended the stream.
type Found = (Vec<usize>, Option<ProtocolError>);

/// Scans in pieces, whole, and byte by byte; returns what all agree on.
fn same_in_pieces(cut: u8, bytes: &[u8], scan: impl Fn(usize) -> Found) -> Found {
    let whole = scan(bytes.len().max(1));
    assert_eq!(scan(usize::from(cut).max(1)), whole, "pieces of {cut}");
    if bytes.len() < 300 {
        assert_eq!(scan(1), whole, "byte by byte");
    }
    whole
}

/// Shows `scan` the bytes from the start of the present frame to the end of each piece.
fn pieces(
    bytes: &[u8],
    piece: usize,
    mut scan: impl FnMut(&[u8]) -> Result<Option<usize>, ProtocolError>,
) -> Found {
    let mut ends = Vec::new();
    let mut start = 0;
    let mut seen = 0;
    while seen < bytes.len() {
        seen = (seen + piece).min(bytes.len());
        loop {
            match scan(&bytes[start..seen]) {
                Ok(None) => break,
                Err(error) => return (ends, Some(error)),
                Ok(Some(len)) => {
                    assert!(len > 0 && len <= seen - start);
                    start += len;
                    ends.push(start);
                }
            }
        }
    }
    (ends, None)
}
