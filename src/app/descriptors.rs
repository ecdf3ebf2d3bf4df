//! File descriptors: as many as the system lets us have, and a warning when they do not suffice.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the log, runtimes, probes, the admin server and shared upstreams.
const RESERVE: u64 = 256;

/// Raises the soft limit of open files to the hard one and returns what is in force; `None` means
/// no limit.
pub(super) fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    }
}

/// How many clients fit into `limit`; each pinned upstream takes the place of one.
pub(super) fn clients_that_fit(limit: u64) -> u64 {
    limit.saturating_sub(RESERVE)
}
