//! The numbered contracts of the control plane's seams, run for every implementation. The numbers
//! in the names are those at the heads of `control::authority` and `control::publisher`.

mod authority;
mod publisher;
mod shared;
mod source;
