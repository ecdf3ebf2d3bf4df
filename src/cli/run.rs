//! `pointsman run`

use super::{BAD_USAGE, ConfigArgs, FAILED, complain};
use crate::config::Config;
use crate::telemetry;

pub(super) const HELP: &str = "\
Serves in the foreground; the log goes to standard error. Nodes may be down at the
start: pointsman waits for them and says so in the log, in `pointsman status` and at
/readyz.

SIGTERM or SIGINT: no new clients, requests on their way are answered ([proxy]
drain_timeout), exit code 0. A second signal: exit at once.

Environment: POINTSMAN_LOG replaces [log] level, for example POINTSMAN_LOG=debug.

Exit codes: 0 stopped by a signal, 1 could not start or failed, 2 wrong usage or
configuration.

Example:
  pointsman run --config /etc/pointsman.toml";

pub(super) fn run(args: &ConfigArgs) -> u8 {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return BAD_USAGE;
        }
    };
    if let Err(error) = telemetry::start_log(&config.log) {
        complain(error);
        return BAD_USAGE;
    }
    FAILED
}
