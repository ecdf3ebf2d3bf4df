//! The numbered contracts of the control plane's seams, run for every implementation. The numbers
//! in the names are those at the heads of `control::authority` and `control::publisher`.

use std::time::Duration;

#[path = "../support/bind.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod bind;

mod authority;
mod dns_update;
mod publisher;
mod shared;
mod source;

/// For what should take a moment.
const SOON: Duration = Duration::from_secs(20);
