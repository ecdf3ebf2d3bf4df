//! The data plane: listeners, sessions, lanes and upstreams.

mod settings;

pub use settings::{BackendSettings, Retry, Settings};
