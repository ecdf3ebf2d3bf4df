//! A real BIND with one zone, and its own tools to ask and change it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{LabError, Port, Scratch, until};

/// The zone.
pub const ZONE: &str = "redis.test.";

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1";

/// The secret of every key, in base64.
pub const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBwb2ludHNtYW4=";

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// `named` with [`ZONE`]. The key `pointsman.` may update what lies at and below `main.redis.test.`, and
/// below `wide.redis.test.`; the key `reader.` nothing. Dropping it ends the process.
#[derive(Debug)]
pub struct Bind {
    port: Port,
    scratch: Scratch,
    process: Mutex<Option<Child>>,
}

impl Bind {
    /// The program that this machine lacks for it, if it does.
    pub fn missing() -> Option<&'static str> {
        let lacks = |program: &&str| command(program).arg("-V").output().is_err();
        ["named", "dig", "nsupdate"].into_iter().find(lacks)
    }

    /// Starts it and waits until it answers.
    pub async fn start() -> Result<Bind, LabError> {
        let bind = Bind {
            port: Port::pick()?,
            scratch: Scratch::new()?,
            process: Mutex::new(None),
        };
        bind.write("zone", &first_zone())?;
        bind.write("named.conf", &bind.config())?;
        bind.write("key", &format!("{SECRET}\n"))?;
        bind.restart().await?;
        Ok(bind)
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

    fn write(&self, name: &str, text: &str) -> Result<(), LabError> {
        let path = self.directory().join(name);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
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
    pub async fn restart(&self) -> Result<(), LabError> {
        self.spawn()?;
        self.answers("hostmaster").await
    }

    /// Starts it again with a zone that it can not read: every answer is SERVFAIL.
    pub async fn break_zone(&self) -> Result<(), LabError> {
        self.write("zone", "nonsense")?;
        let _ = fs::remove_file(self.directory().join("zone.jnl"));
        self.spawn()?;
        self.answers("SERVFAIL").await
    }

    /// Starts it again with the zone as it was at first.
    pub async fn mend_zone(&self) -> Result<(), LabError> {
        self.write("zone", &first_zone())?;
        self.restart().await
    }

    fn spawn(&self) -> Result<(), LabError> {
        self.kill();
        let log = File::create(self.directory().join("log"));
        let child = command("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(self.directory().join("named.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(LabError::io("open a log"))?)
            .spawn();
        *self.process() = Some(child.map_err(LabError::io("start named"))?);
        Ok(())
    }

    async fn answers(&self, word: &str) -> Result<(), LabError> {
        until("an answer of BIND", START, async || {
            match self.dig(&[ZONE, "SOA"]) {
                text if text.contains(word) => Ok(()),
                text => Err(format!("{text}\n{}", self.log_tail())),
            }
        })
        .await
    }

    /// SIGSTOP: it answers nobody any more.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.process().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// The end of its log, for a person.
    pub fn log_tail(&self) -> String {
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

    /// A question with `dig`, for somebody who plays with it.
    pub fn question(&self, name: &str, kind: &str) -> String {
        let port = self.port.number();
        format!("dig @{ADDRESS} -p {port} +short {name} {kind}")
    }

    /// Changes the zone by hand: commands of `nsupdate`, such as `update delete NAME`. What else runs on
    /// this thread goes on meanwhile.
    pub async fn update(&self, commands: &str) -> Result<(), LabError> {
        let mut nsupdate = tokio::process::Command::from(self.nsupdate(commands)?);
        let done = nsupdate.output().await;
        self.updated(done.map_err(LabError::io("start nsupdate"))?)
    }

    /// As [`Bind::update`], and this thread waits for it.
    pub fn update_now(&self, commands: &str) -> Result<(), LabError> {
        let done = self.nsupdate(commands)?.output();
        self.updated(done.map_err(LabError::io("start nsupdate"))?)
    }

    fn nsupdate(&self, commands: &str) -> Result<Command, LabError> {
        let mut nsupdate = command("nsupdate");
        nsupdate.arg(self.script("update", commands)?);
        Ok(nsupdate)
    }

    /// A file of this name with commands for `nsupdate`, and what it needs besides.
    pub fn script(&self, name: &str, commands: &str) -> Result<PathBuf, LabError> {
        let text = format!(
            "server {ADDRESS} {}\nzone {ZONE}\nkey hmac-sha256:pointsman. {SECRET}\n{commands}\nsend\n",
            self.port.number()
        );
        self.write(name, &text)?;
        Ok(self.directory().join(name))
    }

    fn updated(&self, done: Output) -> Result<(), LabError> {
        let why = String::from_utf8_lossy(&done.stderr);
        match done.status.success() {
            true => Ok(()),
            false => Err(LabError::Unexpected(format!(
                "nsupdate: {why}\n{}",
                self.log_tail()
            ))),
        }
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

fn first_zone() -> String {
    format!(
        "$TTL 60\n@ SOA ns.{ZONE} hostmaster.{ZONE} 1 60 60 60 0\n@ NS ns.{ZONE}\nns A {ADDRESS}\n"
    )
}

/// A program that may be where only root looks.
fn command(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(program))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| program.into()))
}

/// What `dig` prints when it asks this server.
pub fn dig(address: &str, port: u16, arguments: &[&str]) -> String {
    let output = command("dig")
        .args([&format!("@{address}"), "-p", &port.to_string()])
        .args(["+time=3", "+tries=1", "+nocookie"])
        .args(arguments)
        .output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The data of a name's records of one type, sorted.
pub fn records(address: &str, port: u16, name: &str, kind: &str) -> Vec<String> {
    let text = dig(address, port, &["+short", name, kind]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
