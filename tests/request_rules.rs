//! What is a request, and what is wrong with it: the scanner and a real server must agree, on
//! streams made by hand and on mutations of them.

mod redis;

use pointsman::resp::info::ServerKind;
use pointsman::resp::request::rewrite_inline;
use pointsman::resp::{Limits, ProtocolError, RequestScanner};

use redis::{Server, version};

/// Streams whose every byte somebody thought about.
const STREAMS: &[&str] = &[
    "*1\r\n$4\r\nPING\r\n",
    "*2\r\n$4\r\nECHO\r\n$5\r\na\r\nb\n\r\n*2\r\n$4\r\necho\r\n$0\r\n\r\n",
    "*0\r\n*-1\r\n*-7\r\nPING\r\n",
    "\r\n\n   \r\nPING\n\t PING \r\n",
    "ECHO \"a b\\n\\x41\\x4g\\\"\\q\"\r\nECHO 'a\\'b\\n'\r\nECHO \"\"\r\nECHO ''\r\n",
    "ECHO a\"b c\"\r\nECHO a'b c' \r\nECHO \"a\\\r\n",
    "ECHO \"a\"b\r\n",
    "ECHO 'a'b\r\n",
    "ECHO \"a\r\n",
    "ECHO a\x0bb\x0c c\r\n",
    "ECHO \x0b\r\n",
    "\x0bECHO a\r\n",
    "ECHO a\rb\r\r\n",
    "PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n",
    "*x\r\n",
    "*\r\n",
    "*01\r\n$4\r\nPING\r\n",
    "*+1\r\n$4\r\nPING\r\n",
    "* 1\r\n$4\r\nPING\r\n",
    "*1 \r\n$4\r\nPING\r\n",
    "*-0\r\n",
    "*-01\r\n",
    "*00\r\n",
    "*99999999999\r\n",
    "*9223372036854775807\r\n",
    "*9223372036854775808\r\n",
    "*-9223372036854775808\r\nPING\r\n",
    "*-9223372036854775809\r\nPING\r\n",
    "*1\r\nPING\r\n",
    "*1\r\n\r\n",
    "*1\r\n\n\r\n",
    "*1\r\n*1\r\n",
    "*1\r\n$-1\r\n",
    "*1\r\n$x\r\n",
    "*1\r\n$\r\n",
    "*1\r\n$04\r\nPING\r\n",
    "*1\r\n$536870913\r\n",
    "*1\r\n$4\r\nPING\r\n$4\r\nPING\r\n",
    "*2\r\n$4\r\nECHO\r\n:5\r\n",
    "*3\r\n$4\r\nECHO\r\n$1\r\na\r\n",
    "PING\r\nECHO a\0b\r\nPING\r\n",
    "\0\r\nPING\r\n",
    "*1\r\n\u{ff}PING\r\n",
    "*1\r\n\u{1}\r\n",
    "*1\r\n$4\r\nPI",
    "*1",
    "PING",
];

/// Whether the server does, on purpose, something else than the scanner with this stream.
fn differs_on_purpose(bytes: &[u8], error: Option<ProtocolError>) -> bool {
    if version().0 == ServerKind::Valkey && has_a_line_of_blanks(bytes) {
        return true;
    }
    let ends_of_lines = bytes
        .windows(2)
        .all(|pair| pair[0] != b'\r' || pair[1] == b'\n');
    match error {
        // The server takes any two bytes behind a string, and any byte behind a CR; to Redis no line goes on
        // behind a NUL.
        Some(ProtocolError::BulkEnd) => true,
        Some(ProtocolError::MultibulkLength | ProtocolError::BulkLength) => {
            !ends_of_lines || bytes.contains(&0)
        }
        Some(ProtocolError::ExpectedBulk(_)) => bytes.contains(&0),
        _ => false,
    }
}

/// Valkey takes the request behind a line of blanks for a line, whatever it is. It never gets such a
/// line from us.
fn has_a_line_of_blanks(bytes: &[u8]) -> bool {
    let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace) && line.len() > 1;
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .any(|line| blank(line) && line != b"\r\n")
}

/// What the scanner makes of a stream: for each request its only argument if it is an ECHO, and the
/// error at the end.
fn scanned(bytes: &[u8]) -> (Vec<Option<Vec<u8>>>, Option<ProtocolError>) {
    let limits = Limits {
        // Redis 7 takes more arguments than we do.
        max_args: match version() {
            (ServerKind::Redis, (..7, _)) => 1024 * 1024,
            _ => i32::MAX as usize,
        },
        ..Limits::default()
    };
    let mut requests = Vec::new();
    let mut rest = bytes.to_vec();
    loop {
        let request = match RequestScanner::default().scan(&rest, &limits) {
            Ok(Some(request)) => request,
            Ok(None) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        };
        let after = rest.split_off(request.len);
        if request.argc == 0 {
            rest = after;
        } else if request.inline {
            rest = [&rewrite_inline(&rest).expect("it was split")[..], &after].concat();
        } else {
            let is_echo = request
                .arg(&rest, 0)
                .expect("a name")
                .eq_ignore_ascii_case(b"ECHO");
            let echoed = (is_echo && request.argc == 2)
                .then(|| request.arg(&rest, 1))
                .flatten();
            requests.push(echoed.map(<[u8]>::to_vec));
            rest = after;
        }
    }
}

fn compare(server: &Server, bytes: &[u8]) {
    let (requests, error) = scanned(bytes);
    if differs_on_purpose(bytes, error) {
        return;
    }
    let replies = server.connect().send_all(bytes);
    let shown = bytes.escape_ascii();
    let expected = requests.len() + usize::from(error.is_some());
    assert_eq!(replies.len(), expected, "{shown}: {error:?}, {replies:?}");
    for (request, reply) in requests.iter().zip(&replies) {
        if let Some(echoed) = request {
            let head = format!("${}\r\n", echoed.len());
            let expected = [head.as_bytes(), echoed, b"\r\n"].concat();
            assert_eq!(reply, &expected, "{shown}");
        }
    }
    if let (Some(error), Some(reply)) = (error, replies.last()) {
        let words = [b"-ERR ", error.words().as_slice(), b"\r\n"].concat();
        assert_eq!(reply, &words, "{shown}");
    }
}

#[test]
fn the_scanner_and_the_server_agree_on_every_stream() {
    let server = Server::start();
    for stream in STREAMS {
        compare(&server, stream.as_bytes());
    }
}

#[test]
fn the_scanner_and_the_server_agree_on_lines_without_end() {
    let server = Server::start();
    let endless = vec![b'1'; 64 * 1024 + 1];
    for head in ["", "*", "*1\r\n$", "*1\r\nx"] {
        compare(&server, &[head.as_bytes(), &endless].concat());
    }
}

#[test]
fn the_scanner_and_the_server_agree_on_mutated_streams() {
    let server = Server::start();
    let words: &[&[u8]] = &[
        b"\r\n", b"\n", b"*", b"$", b"1", b"0", b"-1", b"01", b"\"", b"'", b"\\", b" ", b"\\x4",
        b"*1\r\n", b"$1\r\n", b"ECHO ", b"a",
    ];
    // A linear congruential generator is random enough to choose places and words.
    let mut state: u64 = 20;
    let mut next = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound.max(1)
    };
    for _ in 0..4000 {
        let mut bytes = STREAMS[next(STREAMS.len())].as_bytes().to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len() + 1);
            let end = (at + next(4)).min(bytes.len());
            let word = words[next(words.len())];
            bytes.splice(at..end, word.iter().copied());
        }
        compare(&server, &bytes);
    }
}
