//! File descriptors: as many as the system lets us have, and never all of them for clients. Without
//! one left, no node could be probed and no failover done.

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

/// How many clients fit into `limit` in the worst case, that each has a pinned upstream.
pub(super) fn clients_that_fit(limit: u64) -> u64 {
    let reserve = RESERVE.min(limit / 4);
    ((limit - reserve) / 2).max(1)
}

/// How many of `limit` those may take who only ask who is primary.
pub(super) fn share_of_asking(limit: u64) -> u64 {
    (limit / 8).max(1).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_asks_takes_little() {
        for (limit, share) in [(1_024, 128), (80_000, 10_000), (4, 1), (0, 0)] {
            assert_eq!(share_of_asking(limit), share);
        }
    }

    #[test]
    fn each_client_may_need_two_and_some_are_left_for_us() {
        for (limit, clients) in [(64, 24), (1_024, 384), (20_256, 10_000), (0, 1)] {
            assert_eq!(clients_that_fit(limit), clients);
        }
    }
}
