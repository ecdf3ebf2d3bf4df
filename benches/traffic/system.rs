//! What is measured: Redis itself, and the proxies before it.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use pointsman::lab::{Port, Scratch, until};

use super::process::{Cpus, Process, file_limit, is_installed};

/// A way from the client to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Nothing in between.
    Direct,
    /// This program, authority "follow".
    Pointsman,
    /// HAProxy in tcp mode, one thread.
    Haproxy,
    /// HAProxy in tcp mode, one thread, with splice.
    HaproxySplice,
    /// nginx with its stream module, one process.
    Nginx,
    /// twemproxy (nutcracker).
    Twemproxy,
    /// The least that a multiplexer can cost: `floor.rs`.
    Floor,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Direct,
        Kind::Pointsman,
        Kind::Haproxy,
        Kind::HaproxySplice,
        Kind::Nginx,
        Kind::Twemproxy,
        Kind::Floor,
    ];

    /// Other proxies.
    pub const PEERS: [Kind; 4] = [
        Kind::Haproxy,
        Kind::HaproxySplice,
        Kind::Nginx,
        Kind::Twemproxy,
    ];

    /// Whether it can hold so many connections besides its clients': some need two descriptors for each, and
    /// six with splice.
    pub fn can_hold(self, connections: usize) -> bool {
        let each = match self {
            Kind::Haproxy | Kind::Nginx => 2,
            Kind::HaproxySplice => 6,
            _ => 1,
        };
        (connections + OTHERS) * each < file_limit()
    }
}

/// Connections of a proxy that are not idle ones, and room.
const OTHERS: usize = 600;
/// Connections of one proxy at most.
const MOST: usize = 12_000;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Direct => "direct",
            Kind::Pointsman => "pointsman",
            Kind::Haproxy => "haproxy",
            Kind::HaproxySplice => "splice",
            Kind::Nginx => "nginx",
            Kind::Twemproxy => "twemproxy",
            Kind::Floor => "floor",
        })
    }
}

/// Why there is nothing to measure.
#[derive(Debug)]
pub enum StartError {
    NotInstalled(&'static str),
    Failed(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for StartError {
    fn from(error: E) -> Self {
        StartError::Failed(error.into())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NotInstalled(program) => write!(f, "{program} is not installed"),
            StartError::Failed(error) => error.fmt(f),
        }
    }
}

/// The one redis-server behind everything.
pub struct Redis {
    process: Process,
    port: Port,
}

impl Redis {
    pub fn start(scratch: &Scratch) -> Result<Redis, Box<dyn Error>> {
        let port = Port::pick()?;
        let mut program = Command::new("redis-server");
        program
            .args(["--port", &port.number().to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--maxclients", "12000"])
            .arg("--dir")
            .arg(scratch.path());
        let log = scratch.path().join("redis.log");
        let mut process = Process::start(program, &log)?;
        wait_for("redis-server", port.number(), &mut process, &log)?;
        Ok(Redis { process, port })
    }

    pub fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        self.process.cpu_seconds()
    }

    pub fn place(&self, cpus: Option<Cpus>) -> Result<(), Box<dyn Error>> {
        self.process.place(cpus.map(|cpus| cpus.rest))
    }

    pub fn resident_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.process.resident_bytes()
    }
}

/// One way to Redis, running.
pub struct System {
    pub kind: Kind,
    /// Where clients connect.
    pub port: u16,
    /// `None`: there is no proxy.
    proxy: Option<(Process, Port)>,
    /// What the proxy occupied when it had answered its first request; nothing where there is none.
    pub started: Occupied,
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Occupied {
    /// Nobody else's: without the pages of the program and its libraries, which the kernel shares and may drop.
    pub own: u64,
    /// With those.
    pub resident: u64,
}

impl System {
    pub fn start(kind: Kind, redis: &Redis, scratch: &Scratch) -> Result<System, StartError> {
        if kind == Kind::Direct {
            return Ok(System {
                kind,
                port: redis.port.number(),
                proxy: None,
                started: Occupied::default(),
            });
        }
        let port = Port::pick()?;
        let directory = scratch.path();
        let target = redis.port.number();
        let program = match kind {
            Kind::Pointsman => pointsman(directory, port.number(), target)?,
            Kind::Haproxy => haproxy(directory, port.number(), target, "")?,
            Kind::HaproxySplice => {
                haproxy(directory, port.number(), target, "  option splice-auto\n")?
            }
            Kind::Nginx => nginx(directory, port.number(), target)?,
            Kind::Floor => floor(port.number(), target)?,
            Kind::Direct | Kind::Twemproxy => twemproxy(directory, port.number(), target)?,
        };
        let log = directory.join(format!("{kind}.log"));
        let mut process = Process::start(program, &log)?;
        wait_for(&kind.to_string(), port.number(), &mut process, &log)?;
        Ok(System {
            kind,
            port: port.number(),
            started: Occupied {
                own: process.own_bytes()?,
                resident: process.resident_bytes()?,
            },
            proxy: Some((process, port)),
        })
    }

    /// Of the proxy; 0 where there is none.
    pub fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        self.proxy
            .as_ref()
            .map_or(Ok(0.0), |(process, _)| process.cpu_seconds())
    }

    pub fn place(&self, cpus: Option<Cpus>) -> Result<(), Box<dyn Error>> {
        self.proxy.as_ref().map_or(Ok(()), |(process, _)| {
            process.place(cpus.map(|cpus| cpus.proxy))
        })
    }

    /// Of the proxy, at most so far; 0 where there is none.
    pub fn peak_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.proxy
            .as_ref()
            .map_or(Ok(0), |(process, _)| process.peak_bytes())
    }

    /// Of the proxy; 0 where there is none.
    pub fn resident_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.proxy
            .as_ref()
            .map_or(Ok(0), |(process, _)| process.resident_bytes())
    }
}

fn pointsman(directory: &Path, port: u16, target: u16) -> Result<Command, StartError> {
    let admin = Port::pick()?.number();
    let config = write(
        directory.join("pointsman.toml"),
        &format!(
            "[admin]\nbind = \"127.0.0.1:{admin}\"\n\n\
             [proxy]\nmax_clients = 12000\n\n\
             [[listener]]\nbind = \"127.0.0.1:{port}\"\nbackend = \"main\"\n\n\
             [backend.main]\n\
             source = {{ kind = \"static\", nodes = [\"127.0.0.1:{target}\"] }}\n\
             authority = {{ kind = \"follow\" }}\n"
        ),
    )?;
    let mut program = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    program.arg("run").arg("--config").arg(config);
    Ok(program)
}

fn haproxy(directory: &Path, port: u16, target: u16, options: &str) -> Result<Command, StartError> {
    installed("haproxy")?;
    // With splice each connection needs a pipe each way.
    let each = if options.is_empty() { 2 } else { 6 };
    let connections = (file_limit() / each - 100).min(MOST);
    let config = write(
        directory.join(format!("haproxy-{port}.cfg")),
        &format!(
            "global\n  nbthread 1\n  maxconn {connections}\n\
             defaults\n  mode tcp\n{options}  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             listen redis\n  bind 127.0.0.1:{port}\n  server redis 127.0.0.1:{target}\n"
        ),
    )?;
    let mut program = Command::new("haproxy");
    program.arg("-db").arg("-f").arg(config);
    Ok(program)
}

fn nginx(directory: &Path, port: u16, target: u16) -> Result<Command, StartError> {
    installed("nginx")?;
    // Debian has it as a module of its own.
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = match Path::new(module).is_file() {
        true => format!("load_module {module};\n"),
        false => String::new(),
    };
    let connections = file_limit().min(2 * MOST);
    let config = write(
        directory.join("nginx.conf"),
        &format!(
            "{load}daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
             events {{ worker_connections {connections}; }}\n\
             stream {{\n  server {{\n    listen 127.0.0.1:{port};\n    proxy_pass 127.0.0.1:{target};\n    \
             proxy_timeout 1h;\n    tcp_nodelay on;\n  }}\n}}\n"
        ),
    )?;
    let mut program = Command::new("nginx");
    program.arg("-p").arg(directory).arg("-c").arg(config);
    Ok(program)
}

fn twemproxy(directory: &Path, port: u16, target: u16) -> Result<Command, StartError> {
    installed("nutcracker")?;
    let config = write(
        directory.join("nutcracker.yml"),
        &format!(
            "redis:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  \
             distribution: modula\n  servers:\n   - 127.0.0.1:{target}:1\n"
        ),
    )?;
    let statistics = Port::pick()?.number().to_string();
    let mut program = Command::new("nutcracker");
    program
        .arg("--conf-file")
        .arg(config)
        .args(["--stats-addr", "127.0.0.1", "--stats-port", &statistics])
        .arg("--output")
        .arg(directory.join("nutcracker.log"))
        .arg("--pid-file")
        .arg(directory.join("nutcracker.pid"));
    Ok(program)
}

fn floor(port: u16, target: u16) -> Result<Command, StartError> {
    let mut program = Command::new(std::env::current_exe()?);
    program.args(["--floor", &port.to_string(), &target.to_string()]);
    Ok(program)
}

fn installed(program: &'static str) -> Result<(), StartError> {
    if is_installed(program) {
        Ok(())
    } else {
        Err(StartError::NotInstalled(program))
    }
}

fn write(path: PathBuf, text: &str) -> std::io::Result<PathBuf> {
    fs::write(&path, text)?;
    Ok(path)
}

/// Waits until a GET is answered, or the process ends, or 10 seconds have passed.
fn wait_for(
    name: &str,
    port: u16,
    process: &mut Process,
    log: &Path,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let waited = runtime.block_on(until(
        &format!("an answer of {name}"),
        Duration::from_secs(10),
        async || match process.ended() {
            Some(status) => Ok(Err(format!("{name} ended: {status}"))),
            None => answers(port).map(Ok).map_err(|error| error.to_string()),
        },
    ));
    let outcome = match waited {
        Ok(outcome) => outcome,
        Err(late) => Err(late.to_string()),
    };
    outcome.map_err(|error| {
        let log = fs::read_to_string(log).unwrap_or_default();
        format!("{error}\n{log}").into()
    })
}

fn answers(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nready\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    if &answer == b"$-1\r\n" {
        Ok(())
    } else {
        Err(std::io::Error::other(format!(
            "answered {}",
            answer.escape_ascii()
        )))
    }
}
