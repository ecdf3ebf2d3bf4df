//! `pointsman check`

use super::words::count;
use super::{BAD_USAGE, ConfigArgs, OK, complain, print};
use crate::config::{Config, ConfigError, ConfigErrors, VipConfig};

pub(super) const HELP: &str = "\
Reads the file, and the secrets and programs it names, as `run` would; opens no port and
connects nowhere. Every error is reported with file, line, column and a hint. Warnings
do not change the exit code.

Exit codes: 0 valid, 2 not valid.

Example:
  pointsman check --config /etc/pointsman.toml";

pub(super) fn check(args: &ConfigArgs) -> u8 {
    if VipConfig::is_meant(&args.config) {
        return say(args, VipConfig::load(&args.config), |config| {
            let what = format!("a vip agent for {}", config.vip.address);
            (what, config.warnings)
        });
    }
    say(args, Config::load(&args.config), |config| {
        let listeners = count(config.listeners.len(), "listener");
        let backends = count(config.backends.len(), "backend");
        (format!("{listeners}, {backends}"), config.warnings)
    })
}

/// Says everything that is wrong, or what the file is and what is doubtful about it.
fn say<C>(
    args: &ConfigArgs,
    loaded: Result<C, ConfigErrors>,
    describe: impl FnOnce(C) -> (String, Vec<ConfigError>),
) -> u8 {
    let (what, warnings) = match loaded {
        Ok(config) => describe(config),
        Err(errors) => {
            complain(errors);
            return BAD_USAGE;
        }
    };
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let doubts = match warnings.len() {
        0 => String::new(),
        n => format!(", {}", count(n, "warning")),
    };
    print(&format!(
        "{}: valid, {what}{doubts}\n",
        args.config.display()
    ));
    OK
}
