//! The numbered contracts of the control plane's seams, run for every implementation. The numbers
//! in the names are those at the heads of `control::authority` and `control::publisher`.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "not every test file uses every sentence")]
mod support;

mod authority;
mod dns_update;
mod publisher;
mod shared;
mod source;
