//! Properties of the scanners: where the bytes are cut makes no difference, another decoder finds
//! the same ends, and no bytes make them panic.

use bytes::BytesMut;
use pointsman::resp::reply::{self, ReplyKind};
use pointsman::resp::request::rewrite_inline;
use pointsman::resp::{Limits, ProtocolError, ReplyScanner, RequestScanner, encode_request};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode as decode_resp2;
use redis_protocol::resp3::decode::complete::decode as decode_resp3;

/// Requests as a list of arguments each, or the error that ended the stream.
type Requests = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Feeds `bytes` in pieces that end at `cuts` and at the end; collects what is found.
fn requests(bytes: &[u8], cuts: &[usize], limits: &Limits) -> Requests {
    let mut scanner = RequestScanner::default();
    let mut found = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        loop {
            match scanner.scan(&bytes[start..end], limits) {
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
                Ok(Some(request)) => {
                    assert!(request.len > 0 && request.len <= end - start);
                    let frame = &bytes[start..start + request.len];
                    start += request.len;
                    found.push(arguments(&request, frame));
                }
            }
        }
    }
    (found, None)
}

fn arguments(request: &pointsman::resp::Request, frame: &[u8]) -> Vec<Vec<u8>> {
    if request.inline {
        let rewritten = rewrite_inline(frame).expect("the scanner saw that it can be split");
        let again = RequestScanner::default()
            .scan(&rewritten, &Limits::default())
            .expect("what we write is a request")
            .expect("and complete");
        assert_eq!(again.len, rewritten.len());
        assert_eq!(again.argc, request.argc);
        return arguments(&again, &rewritten);
    }
    let args: Vec<Vec<u8>> = request.args(frame).map(<[u8]>::to_vec).collect();
    assert_eq!(args.len(), request.argc);
    for (i, arg) in args.iter().enumerate() {
        assert_eq!(request.arg(frame, i), Some(&arg[..]));
    }
    args
}

/// Replies, or the error that ended the stream.
fn replies(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<ProtocolError>) {
    let mut scanner = ReplyScanner::default();
    let mut found = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        loop {
            match scanner.scan(&bytes[start..end]) {
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
                Ok(Some(len)) => {
                    assert!(len > 0 && len <= end - start);
                    found.push(bytes[start..start + len].to_vec());
                    start += len;
                }
            }
        }
    }
    (found, None)
}

/// Every way to cut once, every byte alone, and not at all.
fn all_cuts(len: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..=len)
        .map(|cut| vec![cut])
        .chain([Vec::new(), (0..=len).collect()])
}

fn args() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let arg = prop_oneof![
        4 => vec(any::<u8>(), 0..12),
        1 => vec(prop::sample::select(b"\r\n$*01 ".to_vec()), 0..8),
        1 => vec(any::<u8>(), 95..130),
    ];
    vec(arg, 1..7)
}

/// Bytes that look like RESP often enough to get far.
fn nearly_resp() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => prop::sample::select(vec![
            "*1\r\n", "*2\r\n", "*0\r\n", "*-1\r\n", "$0\r\n\r\n", "$1\r\na\r\n", "$3\r\nGET\r\n",
            "PING\r\n", "\r\n", "\n", "+OK\r\n", "-ERR x\r\n", ":1\r\n", "%1\r\n", "|1\r\n", "~1\r\n",
            ">1\r\n", "_\r\n", "=5\r\ntxt:a\r\n", "set k \"a\\x41\" 'b'\r\n", "$?\r\n", "*?\r\n",
            "*99999999999999999999\r\n", "$-1\r\n", "$536870912\r\n", "\"\n", "*1048576\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(prop::sample::select(b"*$+-:%|~>_#,(!=;.?0123456789\r\n \"'\\x".to_vec()), 0..6),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// One RESP3 reply as bytes, of any type and nested.
fn resp3() -> impl Strategy<Value = Vec<u8>> {
    let line = |kind: char| {
        "[a-zA-Z0-9 ]{0,12}".prop_map(move |text| format!("{kind}{text}\r\n").into_bytes())
    };
    let bulk = |kind: char| {
        vec(any::<u8>(), 0..20).prop_map(move |data| {
            let head = format!("{kind}{}\r\n", data.len());
            [head.as_bytes(), &data, b"\r\n"].concat()
        })
    };
    let leaf = prop_oneof![
        line('+'),
        line('-'),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        any::<i32>().prop_map(|n| format!(",{n}.5\r\n").into_bytes()),
        any::<u64>().prop_map(|n| format!("({n}123456789\r\n").into_bytes()),
        any::<bool>().prop_map(|b| format!("#{}\r\n", if b { 't' } else { 'f' }).into_bytes()),
        Just(b"_\r\n".to_vec()),
        bulk('$'),
        "[a-z]{0,9}".prop_map(|text| format!("!{}\r\n{text}\r\n", text.len()).into_bytes()),
        "[a-z]{0,9}".prop_map(|text| format!("={}\r\ntxt:{text}\r\n", text.len() + 4).into_bytes()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let list = |kind: char, inner: BoxedStrategy<Vec<u8>>| {
            vec(inner, 0..5).prop_map(move |children| {
                let head = format!("{kind}{}\r\n", children.len());
                [head.into_bytes(), children.concat()].concat()
            })
        };
        let map = |inner: BoxedStrategy<Vec<u8>>| {
            vec(inner, 0..4).prop_map(|values| {
                let mut out = format!("%{}\r\n", values.len()).into_bytes();
                for (i, value) in values.iter().enumerate() {
                    out.extend_from_slice(format!("+key{i}\r\n").as_bytes());
                    out.extend_from_slice(value);
                }
                out
            })
        };
        let inner = inner.boxed();
        let attribute = (map(inner.clone()), inner.clone()).prop_map(|(mut head, value)| {
            head[0] = b'|';
            [head, value].concat()
        });
        prop_oneof![
            3 => list('*', inner.clone()),
            1 => list('~', inner.clone()),
            2 => map(inner),
            1 => attribute,
        ]
    })
}

/// One RESP2 reply as bytes.
fn resp2() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "[a-zA-Z0-9 ]{0,12}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
        "[A-Z]{1,12} [a-z ]{0,12}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        Just(b"$-1\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        vec(any::<u8>(), 0..200).prop_map(|data| {
            [format!("${}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()
        }),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        vec(inner, 0..5).prop_map(|children| {
            [
                format!("*{}\r\n", children.len()).into_bytes(),
                children.concat(),
            ]
            .concat()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_out_as_they_went_in_wherever_they_are_cut(list in vec(args(), 1..4)) {
        let mut bytes = BytesMut::new();
        for args in &list {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            encode_request(&mut bytes, &args);
        }
        for cuts in all_cuts(bytes.len()) {
            let (found, error) = requests(&bytes, &cuts, &Limits::default());
            prop_assert_eq!(error, None);
            prop_assert_eq!(&found, &list);
        }
    }

    #[test]
    fn cuts_make_no_difference_to_a_client_that_sends_nearly_resp(bytes in nearly_resp()) {
        let limits = Limits { max_args: 3, max_bulk: 5, max_inline: 40 };
        for limits in [Limits::default(), limits] {
            let expected = requests(&bytes, &[], &limits);
            for cuts in all_cuts(bytes.len()) {
                prop_assert_eq!(requests(&bytes, &cuts, &limits), expected.clone(), "{:?}", cuts);
            }
        }
    }

    #[test]
    fn cuts_make_no_difference_to_a_node_that_sends_nearly_resp(bytes in nearly_resp()) {
        let expected = replies(&bytes, &[]);
        for cuts in all_cuts(bytes.len()) {
            prop_assert_eq!(replies(&bytes, &cuts), expected.clone(), "{:?}", cuts);
        }
        for frame in &expected.0 {
            look_at(frame);
        }
        look_at(&bytes);
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(bytes in vec(any::<u8>(), 0..64)) {
        for cuts in all_cuts(bytes.len()) {
            requests(&bytes, &cuts, &Limits::default());
            replies(&bytes, &cuts);
        }
        look_at(&bytes);
    }

    #[test]
    fn resp2_replies_end_where_another_decoder_ends_them(frames in vec(resp2(), 1..4)) {
        let bytes = frames.concat();
        for cuts in all_cuts(bytes.len()) {
            prop_assert_eq!(replies(&bytes, &cuts), (frames.clone(), None));
        }
        let (_, len) = decode_resp2(&bytes).expect("valid").expect("complete");
        prop_assert_eq!(len, frames[0].len());
    }

    #[test]
    fn resp3_replies_end_where_another_decoder_ends_them(frames in vec(resp3(), 1..4)) {
        let bytes = frames.concat();
        for cuts in all_cuts(bytes.len()) {
            prop_assert_eq!(replies(&bytes, &cuts), (frames.clone(), None));
        }
        // The other decoder knows neither attributes before every type nor aggregates in sets.
        match decode_resp3(&bytes) {
            Ok(decoded) => prop_assert_eq!(decoded.expect("complete").1, frames[0].len()),
            Err(error) => prop_assert!(bytes.contains(&b'|') || bytes.contains(&b'~'), "{}", error),
        }
        for frame in &frames {
            look_at(frame);
        }
    }

    #[test]
    fn the_children_of_a_reply_are_the_reply(children in vec(resp3(), 0..5), kind in 0..3usize) {
        let head = format!("{}{}\r\n", ["*", ">", "~"][kind], children.len());
        let frame = [head.into_bytes(), children.concat()].concat();
        prop_assert_eq!(reply::elements(&frame).collect::<Vec<_>>(), children);
        prop_assert_eq!(reply::kind(&frame) == ReplyKind::Push, kind == 1);
    }
}

/// Everything that looks into a reply, on bytes that need not be one.
fn look_at(frame: &[u8]) {
    reply::kind(frame);
    reply::signal(frame);
    reply::error_code(frame);
    reply::first_element(frame);
    reply::payload(frame);
    reply::elements(frame).for_each(drop);
}
