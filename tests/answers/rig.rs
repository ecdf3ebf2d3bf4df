//! A real Sentinel, and pointsman answering as one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pointsman::lab::{Address, Client, Port, Scratch, Server, ShardOptions, Value, until};

use crate::support::{SOON, Scene, ask};

/// Name of the backend in every scene.
pub const NAME: &str = "main";

/// A scene whose pointsman answers Sentinel's questions.
pub struct Answering {
    pub scene: Scene,
    pub port: Port,
}

impl Answering {
    pub async fn start() -> Answering {
        Answering::with("", ShardOptions::default()).await
    }

    /// With further lines of `[sentinel]`.
    pub async fn with(lines: &str, options: ShardOptions) -> Answering {
        let port = Port::pick().expect("a port");
        let tables = format!("[sentinel]\nbind = \"{}\"\n{lines}\n", port.address());
        let scene = Scene::with(ShardOptions { tables, ..options }).await;
        Answering { scene, port }
    }

    pub async fn client(&self) -> Client {
        connect(&self.port.address()).await
    }

    /// What it hands out for the primary.
    pub async fn handed_out(&self) -> Vec<String> {
        let request = ["SENTINEL", "get-master-addr-by-name", NAME];
        texts(&ask(&mut self.client().await, &request).await)
    }
}

/// A connection that speaks RESP2.
pub async fn connect(address: &str) -> Client {
    let address = Address::Tcp(address.to_owned());
    Client::connect(&address).await.expect("it listens")
}

/// The texts of an array.
pub fn texts(value: &Value) -> Vec<String> {
    let items = value.items().unwrap_or_default();
    items
        .iter()
        .filter_map(Value::text)
        .map(str::to_owned)
        .collect()
}

/// A Sentinel process; it ends with the value.
pub struct RealSentinel {
    process: Child,
    port: Port,
    scratch: Scratch,
}

impl RealSentinel {
    /// Monitors the primary at `host` under [`NAME`], with further lines of its configuration.
    pub fn start(host: &str, primary: &Server, lines: &str) -> RealSentinel {
        let (port, scratch) = (
            Port::pick().expect("a port"),
            Scratch::new().expect("a directory"),
        );
        let file = scratch.path().join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1 ::1\nprotected-mode no\nlogfile sentinel.log\ndir {}\n\
             sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n\
             sentinel monitor {NAME} {host} {} 1\nsentinel down-after-milliseconds {NAME} 400\n\
             sentinel failover-timeout {NAME} 6000\n{lines}\n",
            port.number(),
            scratch.path().display(),
            primary.port(),
        );
        fs::write(&file, text).expect("written");
        let process = Command::new(Server::program())
            .arg(&file)
            .arg("--sentinel")
            .current_dir(scratch.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server is installed");
        RealSentinel {
            process,
            port,
            scratch,
        }
    }

    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Waits until it knows so many replicas and other Sentinels, all of which answer.
    pub async fn knows(&self, replicas: usize, sentinels: usize) {
        let look = until("a Sentinel that knows everybody", SOON, async || {
            let address = Address::Tcp(self.address());
            let mut client = Client::connect(&address).await.map_err(|e| e.to_string())?;
            let count = async |client: &mut Client, what: &str| {
                let reply = client.call(&["SENTINEL", what, NAME]).await;
                let reply = reply.map_err(|e| e.to_string())?;
                let all = reply.items().unwrap_or_default();
                let well = |item: &&Value| {
                    !texts(item)[9].contains("down") && !texts(item)[9].contains("disc")
                };
                Ok::<usize, String>(all.iter().filter(well).count())
            };
            let seen = (
                count(&mut client, "replicas").await?,
                count(&mut client, "sentinels").await?,
            );
            match seen == (replicas, sentinels) {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        });
        look.await
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("sentinel.log")).unwrap_or_default()
    }
}

impl Drop for RealSentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program that notes its arguments, one call a line.
pub struct Recorder {
    scratch: Scratch,
}

impl Recorder {
    /// It runs `script` after it has noted them.
    pub fn new(script: &str) -> Recorder {
        use std::os::unix::fs::PermissionsExt;
        let recorder = Recorder {
            scratch: Scratch::new().expect("a directory"),
        };
        let text = format!(
            "#!/bin/sh\necho \"$#: $*\" >> {}\n{script}\n",
            recorder.heard_file().display()
        );
        fs::write(recorder.program(), text).expect("written");
        fs::set_permissions(recorder.program(), fs::Permissions::from_mode(0o755)).expect("chmod");
        recorder
    }

    pub fn program(&self) -> PathBuf {
        self.directory().join("hook")
    }

    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    fn heard_file(&self) -> PathBuf {
        self.directory().join("heard")
    }

    pub fn heard(&self) -> Vec<String> {
        let text = fs::read_to_string(self.heard_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for so many calls.
    pub async fn called(&self, times: usize) -> Vec<String> {
        let heard = until("a call of the hook", SOON, async || match self.heard() {
            heard if heard.len() >= times => Ok(heard),
            heard => Err(format!("{heard:?}")),
        });
        heard.await.expect("called")
    }
}
