//! Namespaces of a process's own, where it may do what would hurt this machine: cut the network, lay out
//! hosts, fill a disk. A program gets there by starting itself again.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::LabError;

/// Set in the process that runs inside, to what it is inside of.
const INSIDE: &str = "POINTSMAN_LAB_INSIDE";

/// A network, in which packets can be dropped without a word.
pub const NETWORK: Namespaces = Namespaces {
    kind: "-rn",
    first: "ip link set lo up",
    trial: "iptables -A INPUT -p tcp --dport 1 -j DROP",
};

/// The same, with a place for hosts that have a network each (see [`add_host`]), and for switches.
pub const HOSTS: Namespaces = Namespaces {
    kind: "-rnm",
    first: "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up",
    trial: "ip netns add a && ip link add br0 type bridge && \
            iptables -A INPUT -p tcp --dport 1 -j DROP && \
            nsenter --net=/run/netns/a ip link set lo up",
};

/// Which ones, and what has to work in them. Shown as the command that tries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// As for `unshare`.
    pub kind: &'static str,
    /// What makes them ready, in a shell.
    pub first: &'static str,
    /// What is done there later, in a shell.
    pub trial: &'static str,
}

impl Namespaces {
    /// Whether this process is inside.
    fn is_here(&self) -> bool {
        std::env::var_os(INSIDE).is_some_and(|kind| kind == self.kind)
    }

    /// Whether this process is inside; if it is, they are made ready. To be asked once.
    pub fn entered(&self) -> Result<bool, LabError> {
        let here = self.is_here();
        if here {
            run("sh", &["-ec", self.first])?;
        }
        Ok(here)
    }

    /// Why this machine does not allow it, if it does not.
    pub fn refused(&self) -> Option<String> {
        let script = format!("{} && {}", self.first, self.trial);
        let tried = Command::new("unshare")
            .args([self.kind, "sh", "-c", &script])
            .output();
        match tried {
            Ok(tried) if tried.status.success() => None,
            Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// This program, to be started inside.
    pub fn this_program(&self) -> Result<Command, LabError> {
        let program = std::env::current_exe().map_err(LabError::io("find this program"))?;
        let mut command = Command::new("unshare");
        command.arg(self.kind).arg(program).env(INSIDE, self.kind);
        Ok(command)
    }

    /// Starts this program again inside, with its arguments and in its own place. Returns only what was in
    /// the way.
    pub fn enter(&self) -> LabError {
        match self.this_program() {
            Ok(mut command) => {
                let failed = command.args(std::env::args_os().skip(1)).exec();
                LabError::io("run unshare")(failed)
            }
            Err(error) => error,
        }
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespaces { kind, first, trial } = self;
        write!(f, "unshare {kind} sh -c '{first} && {trial}'")
    }
}

/// From now on no packet reaches or leaves this port: no refusal, no reset, silence. Only inside of
/// [`NETWORK`]. What the port is sent is lost first: nobody gets an answer that the replicas do not get.
pub fn cut(port: u16) -> Result<(), LabError> {
    let port = port.to_string();
    for end in ["--dport", "--sport"] {
        iptables(&["-A", "INPUT", "-p", "tcp", end, &port, "-j", "DROP"])?;
    }
    Ok(())
}

/// Every packet goes through again.
pub fn heal() -> Result<(), LabError> {
    iptables(&["-F", "INPUT"])
}

/// Never the machine's own.
fn iptables(words: &[&str]) -> Result<(), LabError> {
    if !NETWORK.is_here() {
        let why = "packets are dropped in a network of our own only";
        return Err(LabError::Unexpected(why.into()));
    }
    run("iptables", words)
}

/// A host: a network that nothing leads to yet. Only inside of [`HOSTS`].
pub fn add_host(host: usize) -> Result<(), LabError> {
    run("ip", &["netns", "add", &name(host)])?;
    inside(host, &["ip", "link", "set", "lo", "up"])
}

/// A cable from a host, which calls its end `device` and gets this address on it, to a switch.
pub fn add_cable(host: usize, device: &str, switch: &str, address: &str) -> Result<(), LabError> {
    let (host_name, far) = (name(host), cable(host, device));
    let peer = ["peer", "name", device, "netns", &host_name];
    run(
        "ip",
        &[&["link", "add", &far, "type", "veth"], &peer[..]].concat(),
    )?;
    run("ip", &["link", "set", &far, "master", switch, "up"])?;
    inside(host, &["ip", "link", "set", device, "up"])?;
    inside(host, &["ip", "addr", "add", address, "dev", device])
}

/// What the end of a cable at the switch is called.
pub fn cable(host: usize, device: &str) -> String {
    format!("{device}-{host}")
}

/// A program on a host; its words follow.
pub fn on(host: usize) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(network_of(host));
    command
}

/// Runs a program on a host; it must succeed.
pub fn inside(host: usize, words: &[&str]) -> Result<(), LabError> {
    run("nsenter", &[&[&*network_of(host)], words].concat())
}

fn name(host: usize) -> String {
    format!("h{host}")
}

fn network_of(host: usize) -> String {
    format!("--net=/run/netns/{}", name(host))
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), LabError> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(LabError::io(format!("run {program}")))?;
    let why = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!(
            "{program} {}: {why}",
            arguments.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_the_machine_itself_are_left_alone() {
        // Would do nothing, and succeed.
        let refused = iptables(&["--version"]).unwrap_err();
        assert!(refused.to_string().contains("our own"), "{refused}");
    }

    #[test]
    fn who_is_refused_is_told_why() {
        let never = Namespaces {
            kind: "-rn",
            first: "true",
            trial: "echo never >&2; false",
        };
        // Where not even `unshare` is allowed, it has its own words for that.
        let why = never.refused().unwrap();
        assert!(!why.is_empty());
    }
}
