//! Child processes: pinned to a CPU, measured, and ended with the bench.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The unit of times in /proc/PID/stat: USER_HZ, the same on every Linux we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which CPU takes what.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    pub proxy: u32,
    pub rest: u32,
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// `program`, on one CPU where one is given.
pub fn command(program: impl AsRef<OsStr>, cpu: Option<u32>) -> Command {
    match cpu {
        None => Command::new(program),
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.arg("--cpu-list").arg(cpu.to_string()).arg(program);
            command
        }
    }
}

/// Whether a program can be found.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_file()
        || std::env::split_paths(&paths)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .any(|directory| directory.join(program).is_file())
}

impl Process {
    /// Starts it; what it prints goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> io::Result<Process> {
        let out = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        Ok(Process {
            child: command.spawn()?,
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok()?.map(|status| status.to_string())
    }

    /// CPU time of all its threads so far, seconds: from the scheduler where the kernel counts it,
    /// else in ticks of 10 ms.
    pub fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        let process = format!("/proc/{}", self.child.id());
        let mut nanos = 0;
        for thread in fs::read_dir(format!("{process}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            let ran = text.split(' ').next().and_then(|field| field.parse().ok());
            nanos += ran.unwrap_or(0u64);
        }
        if nanos > 0 {
            return Ok(nanos as f64 / 1e9);
        }
        let text = fs::read_to_string(format!("{process}/stat"))?;
        // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th behind.
        let behind = text.rsplit(')').next().unwrap_or_default();
        let ticks: f64 = behind
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// Runs all its threads on this CPU from now on; `None`: on any.
    pub fn place(&self, cpu: Option<u32>) -> Result<(), Box<dyn Error>> {
        let mut cpus = CpuSet::new();
        match cpu {
            Some(cpu) => cpus.set(cpu as usize),
            None => (0..CpuSet::MAX_CPU.min(256)).for_each(|cpu| cpus.set(cpu)),
        }
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let id: i32 = thread?.file_name().to_string_lossy().parse()?;
            sched_setaffinity(Pid::from_raw(id), &cpus)?;
        }
        Ok(())
    }

    /// Memory it occupies, bytes.
    pub fn resident_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.memory("VmRSS:")
    }

    /// The part of it that is nobody else's.
    pub fn own_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.memory("RssAnon:")
    }

    /// The most memory it ever occupied, bytes.
    pub fn peak_bytes(&self) -> Result<u64, Box<dyn Error>> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64, Box<dyn Error>> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| format!("no {field} the process has ended"))?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many files this user may open.
pub fn file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(1 << 20)
}

/// As many files as this user may open, for us and for what we start; enough for every scenario where that
/// user may say so.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let set = |most| {
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(Resource::Nofile, limit)
    };
    if maximum.is_none_or(|most| most >= ENOUGH_FILES) || set(Some(ENOUGH_FILES)).is_err() {
        let _ = set(maximum);
    }
}

/// Pointsman takes half as many clients as it may open files, and 10,000 do nothing in one scenario.
const ENOUGH_FILES: u64 = 30_000;
