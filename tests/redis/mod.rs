//! A server for tests of the codec, reached over a unix socket with bytes of the test's choice.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::BytesMut;
use pointsman::lab;
use pointsman::resp::info::ServerKind;
use pointsman::resp::{ReplyScanner, encode_request};

/// A server of this test's own, reached over a unix socket; ends with the value.
pub struct Server {
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts it; returns when it accepts connections.
    pub fn start() -> Server {
        // Before Redis 7 everybody may use DEBUG.
        let settings: &[&str] = match version().1 >= (7, 0) {
            true => &["--enable-debug-command", "yes"],
            false => &[],
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut process = Command::new(lab::Server::program())
            .args(["--port", "0", "--save", ""])
            .args(["--dir", path(directory.path())])
            .args(["--unixsocket", path(&directory.path().join("socket"))])
            .args(settings)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server is installed");
        let log = BufReader::new(process.stdout.take().expect("piped"));
        let ready = log.lines().map_while(Result::ok).any(|line| {
            line.to_ascii_lowercase()
                .contains("ready to accept connections")
        });
        assert!(ready, "the server ended before it was ready");
        Server { process, directory }
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.directory.path().join("socket")).expect("it listens");
        let timeout = Some(Duration::from_secs(10));
        stream.set_read_timeout(timeout).expect("a socket option");
        Client {
            stream,
            received: Vec::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Of the server that the tests run on.
pub fn version() -> (ServerKind, (u16, u16)) {
    static VERSION: LazyLock<(ServerKind, (u16, u16))> =
        LazyLock::new(|| lab::Server::version().expect("the server tells its version"));
    *VERSION
}

/// One connection.
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    /// Sends one request, words separated by blanks, and reads its reply.
    pub fn ask(&mut self, line: &str) -> Vec<u8> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = BytesMut::new();
        encode_request(&mut frame, &args);
        self.stream.write_all(&frame).expect("it reads");
        self.reply()
    }

    /// Sends these bytes and nothing more; returns the replies until the server closes.
    pub fn send_all(mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        // A server that has seen an error may close before it has read everything.
        let _ = self.stream.write_all(bytes);
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut replies = Vec::new();
        while let Some(reply) = self.next() {
            replies.push(reply);
        }
        replies
    }

    fn reply(&mut self) -> Vec<u8> {
        self.next().expect("it closed the connection")
    }

    /// The next reply; `None` when the server has closed.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut scanner = ReplyScanner::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let found = scanner.scan(&self.received);
            if let Some(len) = found.expect("a server sends RESP") {
                return Some(self.received.drain(..len).collect());
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("it answers in time: {error}"),
            }
        }
    }
}
