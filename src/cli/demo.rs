//! `pointsman demo`

use super::{FAILED, OK, complain};
use crate::lab::demo::{DemoOptions, run};

pub(super) const HELP: &str = "\
Needs redis-server (or --server PROGRAM) on this machine. Starts one primary and two
replicas on free ports, pointsman in front of them and several kinds of ordinary
clients, then makes the primary fail in different ways and shows what the clients saw.
Everything it started ends with it.

Exit codes: 0 every promise was kept, 1 not.

Examples:
  pointsman demo
  pointsman demo --fault kill --seconds 20
  pointsman demo --with sentinel               three sentinels decide
  pointsman demo --with cluster                a Redis Cluster of 3 + 3 behind pointsman
  pointsman demo --with dns                    an operator moves a name in a real BIND
  pointsman demo --fault switchover --keep     then play with redis-cli; Ctrl-C ends it";

pub(super) fn demo(options: &DemoOptions) -> u8 {
    match run(options) {
        Ok(true) => OK,
        Ok(false) => FAILED,
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}
