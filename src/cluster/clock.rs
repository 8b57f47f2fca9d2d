//! The wall clock, which is asked only where there is no other way.

use std::time::{SystemTime, UNIX_EPOCH};

/// Certificates and records of ours are never older; a clock before it was not set.
const FLOOR: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// Seconds since 1970, as the machine believes.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(elapsed).unwrap_or(i64::MAX)
}

/// Whether a time can be true.
pub(crate) fn plausible(now: i64) -> bool {
    now >= FLOOR
}
