//! Namespaces of a process's own, where it may do what would hurt this machine. A program gets there by
//! starting itself again.

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

/// Which ones, and what has to work in them. Shown as the command that tries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// As for `unshare`.
    kind: &'static str,
    /// What makes them ready, in a shell.
    first: &'static str,
    /// What is done there later, in a shell.
    trial: &'static str,
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
