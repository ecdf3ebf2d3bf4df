//! The only place that reads a clock; everything else takes a [`Timestamp`] as an argument.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::topology::Timestamp;

/// Monotonic time since the first call in this process; never jumps with the wall clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    static START: OnceLock<Instant> = OnceLock::new();
    Timestamp::from_start(START.get_or_init(Instant::now).elapsed())
}

/// Wall-clock time since the Unix epoch, for reports that people read and for signatures; never for
/// decisions.
#[allow(clippy::disallowed_methods)]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
