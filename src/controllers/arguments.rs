//! Settings by the names that upstream's controller manager has for them.

use std::time::Duration;

use crate::Config;

const NAMES: &str = "node-monitor-grace-period, node-startup-grace-period, node-eviction-rate";

/// An argument that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    #[error("{0:?} is not known to the controllers, expected one of {NAMES}")]
    Unknown(String),
    #[error("{name}={value:?}: expected {expected}")]
    Value { name: String, value: String, expected: &'static str },
}

impl Config {
    /// Takes an argument such as `node-monitor-grace-period=20s`.
    pub fn set(&mut self, argument: &str) -> Result<(), ArgumentError> {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        let wrong = |expected| ArgumentError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let time = || duration(value).ok_or_else(|| wrong("a time such as 40s or 1m30s"));
        let life = &mut self.node_life;
        match name.trim_start_matches('-') {
            "node-monitor-grace-period" => life.monitor_grace = time()?,
            "node-startup-grace-period" => life.startup_grace = time()?,
            "node-eviction-rate" => {
                let rate = value.parse::<f64>().ok().filter(|rate| *rate > 0.0);
                let pause = rate.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
                life.eviction_pause = pause.ok_or_else(|| wrong("nodes a second, above 0"))?;
            }
            _ => return Err(ArgumentError::Unknown(argument.to_owned())),
        }
        Ok(())
    }
}

/// A time made of numbers with units: `1m30s`, `1.5h`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!total.is_zero()).then_some(total)
}
