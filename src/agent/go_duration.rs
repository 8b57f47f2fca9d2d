//! Durations written the way Go's `time.Duration` prints them, which is what users of kubectl read in messages.

use std::time::Duration;

/// `10s`, `1m20s`, `5m0s`, `1.5s`, `12ms`.
pub(crate) fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", fraction(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", fraction(nanos, 1_000_000));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

fn fraction(value: u128, unit: u128) -> String {
    let rest = value % unit;
    if rest == 0 {
        return (value / unit).to_string();
    }
    let digits = unit.ilog10() as usize;
    let tail = format!("{rest:0digits$}");
    format!("{}.{}", value / unit, tail.trim_end_matches('0'))
}
