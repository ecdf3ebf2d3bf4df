//! The programs in `tests/clients/`, with the libraries that `scripts/clients.sh` installs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Bound of anything that a program does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A file of `tests/clients/`.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Where `scripts/clients.sh` installs.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    match std::env::var_os("POINTSMAN_CLIENTS") {
        Some(cache) => cache.into(),
        None => std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(home, PathBuf::from)
            .join("pointsman/clients"),
    }
}

/// The program in this file, when its library was installed.
pub fn program(name: &str) -> Option<Command> {
    let (interpreter, installed) = match name.rsplit('.').next() {
        Some("py") => (
            cache().join("python/bin/python"),
            cache().join("python/pin"),
        ),
        _ => ("node".into(), cache().join("node/pin")),
    };
    if !installed.exists() {
        eprintln!("NOT RUN: {name} needs its library; see what scripts/clients.sh says");
        return None;
    }
    let mut command = Command::new(interpreter);
    command
        .arg(file(name))
        .env("NODE_PATH", cache().join("node/node_modules"));
    Some(command)
}

/// A program of `tests/clients/` at work.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Its standard input stays open until it is dropped.
    pub fn start(mut command: Command, arguments: &[&str]) -> Running {
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Running { child, lines }
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        match tokio::time::timeout(PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            other => {
                self.child.start_kill().expect("it can be killed");
                let mut words = String::new();
                let mut stderr = self.child.stderr.take().expect("piped");
                stderr.read_to_string(&mut words).await.expect("it is text");
                panic!("the program gave no line: {other:?}\n{words}");
            }
        }
    }
}

/// The program of that name in Rust, when it was built.
pub fn rust(name: &str) -> Option<Command> {
    let program = cache().join("rust/debug").join(name);
    if !program.exists() {
        eprintln!("NOT RUN: {name} was not built; see what scripts/clients.sh says");
        return None;
    }
    Some(Command::new(program))
}
