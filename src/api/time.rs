//! The API's two timestamp formats.

use jiff::Timestamp;

/// `metav1.Time`: whole seconds, UTC.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: six digits of fraction, UTC.
pub fn rfc3339_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Either format, with any offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whole seconds from `then` until `now`; negative when `then` is later.
pub fn seconds_between(then: Timestamp, now: Timestamp) -> i64 {
    now.as_second() - then.as_second()
}
