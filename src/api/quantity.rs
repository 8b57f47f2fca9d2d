//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a billionth, printed in upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;
/// Amounts beyond what fits are held at upstream's largest quantity.
const CAP: i128 = i64::MAX as i128 * NANO;
/// Longest text that is parsed.
const TEXT_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Which family of suffixes the text used; printing keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// Equality and order are by amount only.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn from_value(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * MILLI, format: Format::DecimalSi }
    }

    /// Bytes, printed with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, suffix) = split(text)?;
        let (format, base, exponent) = suffix_scale(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = scaled(number, base, exponent)?;
        Ok(Self { nanos, format })
    }

    /// A JSON string or number.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        clamp(round_up(self.nanos, NANO))
    }

    /// Thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        clamp(round_up(self.nanos, MILLI))
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it has a fraction of the unit.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The canonical text.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let big = self.nanos.abs() >= 1024 * NANO;
        match self.format {
            Format::BinarySi if big && self.is_whole() => binary_text(self.nanos / NANO),
            Format::BinarySi | Format::DecimalSi => decimal_text(self.nanos, false),
            Format::DecimalExponent => decimal_text(self.nanos, true),
        }
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.canonical())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(serde::de::Error::custom)
    }
}

fn split(text: &str) -> Result<(&str, &str), QuantityError> {
    if text.is_empty() || text.len() > TEXT_MAX {
        return Err(QuantityError::Format);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = text.split_at(text.len() - unsigned.len() + digits);
    let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let exponent = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let points = number.bytes().filter(|&b| b == b'.').count();
    match digits - points.min(digits) {
        0 => Err(QuantityError::Format),
        _ if points > 1 => Err(QuantityError::Format),
        _ => Ok((number, suffix)),
    }
}

fn suffix_scale(suffix: &str) -> Option<(Format, u32, i32)> {
    let found = match suffix {
        "" => (Format::DecimalSi, 10, 0),
        "n" => (Format::DecimalSi, 10, -9),
        "u" => (Format::DecimalSi, 10, -6),
        "m" => (Format::DecimalSi, 10, -3),
        "k" => (Format::DecimalSi, 10, 3),
        "M" => (Format::DecimalSi, 10, 6),
        "G" => (Format::DecimalSi, 10, 9),
        "T" => (Format::DecimalSi, 10, 12),
        "P" => (Format::DecimalSi, 10, 15),
        "E" => (Format::DecimalSi, 10, 18),
        "Ki" => (Format::BinarySi, 2, 10),
        "Mi" => (Format::BinarySi, 2, 20),
        "Gi" => (Format::BinarySi, 2, 30),
        "Ti" => (Format::BinarySi, 2, 40),
        "Pi" => (Format::BinarySi, 2, 50),
        "Ei" => (Format::BinarySi, 2, 60),
        other => {
            let exponent = other.strip_prefix(['e', 'E'])?;
            (Format::DecimalExponent, 10, exponent.parse::<i32>().ok()?)
        }
    };
    Some(found)
}

/// The number times its scale in billionths, rounded away from zero.
fn scaled(number: &str, base: u32, exponent: i32) -> Result<i128, QuantityError> {
    let negative = number.starts_with('-');
    let unsigned = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    // What lies beyond this many digits is beyond a billionth or beyond the cap.
    let fraction_digits = i32::try_from(fraction.len()).map_err(|_| QuantityError::Number)?;
    let power = match base {
        2 => 9,
        _ => exponent.saturating_add(9),
    };
    let shift = power.saturating_sub(fraction_digits);
    let magnitude = match digits.parse::<i128>() {
        Ok(mantissa) => shifted(mantissa, shift),
        Err(_) => shifted_long(digits, shift)?,
    };
    let magnitude = match base {
        2 => magnitude.checked_mul(1_i128 << exponent.clamp(0, 60)).unwrap_or(CAP),
        _ => magnitude,
    };
    Ok(if negative { -magnitude } else { magnitude })
}

fn shifted(mantissa: i128, shift: i32) -> i128 {
    if shift >= 0 {
        let factor = 10_i128.checked_pow(shift.unsigned_abs());
        return factor.and_then(|f| mantissa.checked_mul(f)).unwrap_or(CAP);
    }
    match 10_i128.checked_pow(shift.unsigned_abs()) {
        Some(divisor) => round_up(mantissa, divisor),
        None => 1,
    }
}

/// For more digits than an i128 holds: drop those that the shift takes away, or give up at the cap.
fn shifted_long(digits: &str, shift: i32) -> Result<i128, QuantityError> {
    let dropped = usize::try_from(-i64::from(shift)).unwrap_or(0);
    let kept = digits.get(..digits.len().saturating_sub(dropped)).unwrap_or_default();
    if dropped == 0 || kept.len() > 38 {
        return Ok(CAP);
    }
    let kept: i128 =
        if kept.is_empty() { 0 } else { kept.parse().map_err(|_| QuantityError::Number)? };
    Ok(kept.saturating_add(1))
}

fn round_up(amount: i128, unit: i128) -> i128 {
    let whole = amount / unit;
    match amount % unit {
        0 => whole,
        rest if rest > 0 => whole + 1,
        _ => whole - 1,
    }
}

fn clamp(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

fn binary_text(mut amount: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut step = 0;
    while amount % 1024 == 0 && step + 1 < SUFFIXES.len() {
        amount /= 1024;
        step += 1;
    }
    format!("{amount}{}", SUFFIXES[step])
}

fn decimal_text(nanos: i128, exponent_form: bool) -> String {
    const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let (mut amount, mut step) = (nanos, 0);
    while amount % 1000 == 0 && step + 1 < SUFFIXES.len() {
        amount /= 1000;
        step += 1;
    }
    match (exponent_form, step) {
        (false, _) => format!("{amount}{}", SUFFIXES[step]),
        (true, 3) => format!("{amount}"),
        (true, _) => format!("{amount}e{}", step as i32 * 3 - 9),
    }
}
