//! The command line: what is asked for, which function does it, which exit code says how it went.
//!
//! Answers go to standard output; errors, warnings and the log to standard error.

mod check;
mod client;
mod demo;
mod failovers;
mod run;
mod service;
mod status;
mod switchover;
mod vip_agent;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Everything went well.
const OK: u8 = 0;
/// It was tried and did not work.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong (clap uses the same number).
const BAD_USAGE: u8 = 2;

const LONG_ABOUT: &str = "\
A failover-aware proxy for Redis and Valkey.

Applications connect to pointsman with any ordinary client. When the primary dies, hangs
or is moved on purpose, their connections, sessions and requests survive: they see a
short pause and nothing else.";

const EXAMPLES: &str = "\
Examples:
  pointsman demo                                  see it work on this machine
  pointsman check --config /etc/pointsman.toml    all errors of a configuration at once
  pointsman run --config /etc/pointsman.toml      serve, in the foreground
  pointsman status                                who is primary, how every node does
  pointsman switchover main --to 10.0.0.2:6379    move the primary, no error for clients
  pointsman failovers main                        what happened, step by step

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";

#[derive(Parser)]
#[command(name = "pointsman", version, about, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve clients, in the foreground, until SIGTERM or SIGINT
    #[command(after_help = run::HELP)]
    Run(ConfigArgs),
    /// Read a configuration and report every error at once
    #[command(after_help = check::HELP)]
    Check(ConfigArgs),
    /// Show backends, primaries and nodes of a running pointsman
    #[command(after_help = status::HELP)]
    Status(AdminArgs),
    /// Move the primary of a backend to another node, without an error for clients
    #[command(after_help = switchover::HELP)]
    Switchover(switchover::SwitchoverArgs),
    /// Show what happened in each failover and switchover
    #[command(after_help = failovers::HELP)]
    Failovers(failovers::FailoversArgs),
    /// Give this host a virtual address while its node is the primary
    #[command(after_help = vip_agent::HELP)]
    VipAgent(ConfigArgs),
    /// See it work: real servers, ordinary clients, faults, all on this machine
    #[command(after_help = demo::HELP)]
    Demo(crate::lab::demo::DemoOptions),
}

#[derive(Args)]
struct ConfigArgs {
    /// The TOML file; config/pointsman.toml in the sources holds every key with its default
    #[arg(short, long, value_name = "FILE", env = "POINTSMAN_CONFIG")]
    config: PathBuf,
}

#[derive(Args)]
struct AdminArgs {
    /// Where the running pointsman has its admin server: `bind` of its admin section
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:9121",
        env = "POINTSMAN_ADMIN"
    )]
    admin: String,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Reads the arguments of this process, does what they say, and says how it went.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
        Command::Switchover(args) => switchover::switchover(&args),
        Command::Failovers(args) => failovers::failovers(&args),
        Command::VipAgent(args) => vip_agent::vip_agent(&args),
        Command::Demo(options) => demo::demo(&options),
    };
    ExitCode::from(code)
}

/// Prints an error as every command prints it.
fn complain(error: impl std::fmt::Display) {
    eprintln!("pointsman: {error}");
}

/// Prints to standard output; a reader that went away (`| head`) is not an error.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints a value as JSON for programs.
fn print_json(value: &impl serde::Serialize) -> u8 {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            print(&format!("{text}\n"));
            OK
        }
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
