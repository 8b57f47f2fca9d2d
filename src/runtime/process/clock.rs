//! The wall clock, in the one unit the protocol uses.

use crate::protocol::Nanos;

/// Nanoseconds since the epoch.
pub(super) fn now() -> Nanos {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
