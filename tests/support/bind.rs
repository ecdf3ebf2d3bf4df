//! A real BIND with one zone, and its own tools to ask and change it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pointsman::lab::{Port, Scratch, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::SOON;

/// The zone.
pub const ZONE: &str = "redis.test.";

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1";

/// The secret of every key, in base64.
pub const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBwb2ludHNtYW4=";

/// `named` with [`ZONE`]. The key `pointsman.` may update what lies at and below `main.redis.test.`, and
/// below `wide.redis.test.`; the key `reader.` nothing. Dropping it ends the process.
pub struct Bind {
    port: Port,
    scratch: Scratch,
    process: Mutex<Option<Child>>,
}

/// Whether this machine has BIND and its tools; says NOT RUN when not.
pub fn is_here() -> bool {
    let has = |program: &str| {
        let found = command(program).arg("-V").output();
        found.is_ok()
    };
    let here = ["named", "dig", "nsupdate"].into_iter().all(has);
    if !here {
        eprintln!(
            "NOT RUN: named, dig or nsupdate is missing; scripts/setup.sh test installs them"
        );
    }
    here
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

impl Bind {
    /// Starts it and waits until it answers.
    pub async fn start() -> Bind {
        let bind = Bind {
            port: Port::pick().expect("a port"),
            scratch: Scratch::new().expect("a directory"),
            process: Mutex::new(None),
        };
        let zone = format!(
            "$TTL 60\n@ SOA ns.{ZONE} hostmaster.{ZONE} 1 60 60 60 0\n@ NS ns.{ZONE}\nns A {ADDRESS}\n"
        );
        bind.write("zone", &zone);
        bind.write("named.conf", &bind.config());
        bind.write("key", &format!("{SECRET}\n"));
        bind.restart().await;
        bind
    }

    fn config(&self) -> String {
        let key = |name: &str| {
            format!("key \"{name}\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n")
        };
        format!(
            "options {{\n directory \"{directory}\";\n listen-on port {port} {{ {ADDRESS}; }};\n \
             listen-on-v6 {{ none; }};\n pid-file none;\n session-keyfile none;\n recursion no;\n \
             dnssec-validation no;\n notify no;\n}};\ncontrols {{ }};\n{}{}zone \"{ZONE}\" {{\n type \
             primary;\n file \"zone\";\n update-policy {{\n grant pointsman. subdomain main.{ZONE} A AAAA \
             CNAME SRV TXT;\n grant pointsman. subdomain wide.{ZONE} ANY;\n }};\n}};\n",
            key("pointsman."),
            key("reader."),
            directory = self.directory().display(),
            port = self.port.number(),
        )
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory().join(name), text).expect("written");
    }

    fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// `host:port`.
    pub fn server(&self) -> String {
        format!("{ADDRESS}:{}", self.port.number())
    }

    /// A file with the secret.
    pub fn key_file(&self) -> String {
        self.directory().join("key").display().to_string()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it with what it had, and waits until it answers.
    pub async fn restart(&self) {
        self.kill();
        let log = File::create(self.directory().join("log")).expect("a log");
        let child = command("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(self.directory().join("named.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *self.process() = Some(child.expect("named starts"));
        let answers = until("an answer of BIND", SOON, async || {
            match self.dig(&["+short", ZONE, "SOA"]) {
                text if text.contains("hostmaster") => Ok(()),
                text => Err(format!("{text}\n{}", self.log_tail())),
            }
        });
        answers.await.unwrap_or_else(|error| panic!("{error}"));
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.directory().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What `dig` prints.
    pub fn dig(&self, arguments: &[&str]) -> String {
        dig(ADDRESS, self.port.number(), arguments)
    }

    /// The data of a name's records of one type, sorted.
    pub fn records(&self, name: &str, kind: &str) -> Vec<String> {
        records(ADDRESS, self.port.number(), name, kind)
    }

    /// Changes the zone by hand: commands of `nsupdate`, such as `update delete NAME`.
    pub fn update(&self, commands: &str) {
        let text = format!(
            "server {ADDRESS} {}\nzone {ZONE}\nkey hmac-sha256:pointsman. {SECRET}\n{commands}\nsend\n",
            self.port.number()
        );
        self.write("update", &text);
        let file = self.directory().join("update");
        let Output { status, stderr, .. } =
            command("nsupdate").arg(file).output().expect("nsupdate");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `dig` prints when it asks this server.
pub fn dig(address: &str, port: u16, arguments: &[&str]) -> String {
    let output = command("dig")
        .args([&format!("@{address}"), "-p", &port.to_string()])
        .args(["+time=3", "+tries=1", "+nocookie"])
        .args(arguments)
        .output()
        .expect("dig");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The data of a name's records of one type, sorted.
pub fn records(address: &str, port: u16, name: &str, kind: &str) -> Vec<String> {
    let text = dig(address, port, &["+short", name, kind]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Passes on what it hears, but waits for leave before each message to the server after the first one
/// of a connection.
pub async fn hesitant_relay(server: String) -> (String, mpsc::Receiver<oneshot::Sender<()>>) {
    let listener = TcpListener::bind((ADDRESS, 0)).await.expect("a listener");
    let address = listener.local_addr().expect("bound").to_string();
    let (asks, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server");
            // The test is over, or the publisher has given up.
            let _ = relay(client, server, &asks).await;
        }
    });
    (address, asked)
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    asks: &mpsc::Sender<oneshot::Sender<()>>,
) -> std::io::Result<()> {
    let mut first = true;
    loop {
        let question = message(&mut client).await?;
        if !std::mem::take(&mut first) {
            let (leave, given) = oneshot::channel();
            asks.send(leave).await.map_err(std::io::Error::other)?;
            given.await.map_err(std::io::Error::other)?;
        }
        server.write_all(&question).await?;
        let answer = message(&mut server).await?;
        client.write_all(&answer).await?;
    }
}

/// One message with its length before it.
pub async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.resize(2 + usize::from(length), 0);
    stream.read_exact(&mut bytes[2..]).await?;
    Ok(bytes)
}
