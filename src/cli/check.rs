//! `pointsman check`

use super::words::count;
use super::{BAD_USAGE, ConfigArgs, OK, complain, print};
use crate::config::{Config, VipConfig};

pub(super) const HELP: &str = "\
Reads the file, and the secrets and programs it names, as `run` would; opens no port and
connects nowhere. Every error is reported with file, line, column and a hint. Warnings
do not change the exit code.

Exit codes: 0 valid, 2 not valid.

Example:
  pointsman check --config /etc/pointsman.toml";

pub(super) fn check(args: &ConfigArgs) -> u8 {
    if VipConfig::is_meant(&args.config) {
        return match VipConfig::load(&args.config) {
            Err(errors) => {
                complain(errors);
                BAD_USAGE
            }
            Ok(config) => {
                for warning in &config.warnings {
                    eprintln!("warning: {warning}");
                }
                print(&format!(
                    "{}: valid, a vip agent for {}\n",
                    args.config.display(),
                    config.vip.address
                ));
                OK
            }
        };
    }
    match Config::load(&args.config) {
        Err(errors) => {
            complain(errors);
            BAD_USAGE
        }
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            let doubts = match config.warnings.len() {
                0 => String::new(),
                n => format!(", {}", count(n, "warning")),
            };
            print(&format!(
                "{}: valid, {}, {}{doubts}\n",
                args.config.display(),
                count(config.listeners.len(), "listener"),
                count(config.backends.len(), "backend"),
            ));
            OK
        }
    }
}
