//! Kubernetes quantities: parsing, canonical text, rounding and arithmetic, equal to `resource.Quantity` of apimachinery.
//!
//! A quantity is `value × 10^scale` with a preferred format. What surprises: a text that is canonical enough keeps its
//! spelling (`+1`, `01`, `1.500`); fractions are kept down to nano and round away from zero; binary quantities are
//! capped at `i64::MAX`. Unlike Go, conversions that do not fit into `i64` saturate instead of wrapping or giving 0.

mod parse;
mod text;

use std::cmp::Ordering;
use std::fmt;

/// Preferred notation of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `500m`, `1k`, `2M`.
    DecimalSI,
    /// `1Ki`, `512Mi`.
    BinarySI,
    /// `1e3`.
    DecimalExponent,
}

/// Why a text is no quantity; the texts are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of a resource. Compares and hashes by value, not by spelling.
#[derive(Debug, Clone)]
pub struct Quantity {
    value: i128,
    /// Exponent of ten.
    scale: i32,
    format: Format,
    /// Upstream holds this amount as an arbitrary-precision decimal; then `as_i64` refuses.
    wide: bool,
    /// The client's spelling where upstream keeps it.
    spelling: Option<Box<str>>,
}

const NANO: i32 = -9;

impl Quantity {
    /// Parses a quantity as a client writes it.
    ///
    /// # Errors
    /// Says which part is malformed; a decimal of more than 29 digits before the point is `Numeric`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Parses the JSON forms upstream accepts: string, number, null (zero).
    pub fn from_json(value: &serde_json::Value) -> Result<Self, ParseError> {
        match value {
            serde_json::Value::Null => Ok(Self::zero()),
            serde_json::Value::String(text) => Self::parse(text.trim()),
            serde_json::Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(ParseError::Format),
        }
    }

    /// `value` in whole units.
    pub fn new(value: i64, format: Format) -> Self {
        Self::from_parts(i128::from(value), 0, format, false)
    }

    /// `value` in thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self::from_parts(i128::from(value), -3, format, false)
    }

    /// Zero, in decimal notation.
    pub fn zero() -> Self {
        Self::new(0, Format::DecimalSI)
    }

    fn from_parts(value: i128, scale: i32, format: Format, wide: bool) -> Self {
        Self {
            value,
            scale,
            format,
            wide,
            spelling: None,
        }
    }

    /// Preferred notation.
    pub fn format(&self) -> Format {
        self.format
    }

    /// True for zero in any notation.
    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// Whole units, rounded away from zero, saturating.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero, saturating.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// Units of `10^scale`, rounded away from zero, saturating.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let wide = self.rescale_away_from_zero(scale);
        i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
    }

    /// The exact integer, where upstream's `AsInt64` has one: `1Pi` and `1.0` have none.
    pub fn as_i64(&self) -> Option<i64> {
        if self.wide || self.scale < 0 {
            return None;
        }
        shift(self.value, self.scale).and_then(|value| i64::try_from(value).ok())
    }

    /// The nearest float, computed as upstream computes it.
    pub fn as_f64(&self) -> f64 {
        match self.scale {
            0 => self.value as f64,
            scale => self.value as f64 * pow10(scale),
        }
    }

    /// Plain decimal digits with as many places as the amount was given with.
    pub fn to_decimal(&self) -> String {
        text::decimal(self.value, self.scale)
    }

    /// True when the amount has no fraction.
    pub fn is_integer(&self) -> bool {
        self.scale >= 0
            || match shift(1, -self.scale) {
                Some(unit) => self.value % unit == 0,
                None => self.value == 0,
            }
    }

    fn rescale_away_from_zero(&self, scale: i32) -> i128 {
        let difference = i64::from(self.scale) - i64::from(scale);
        let limit = if self.value < 0 { i128::MIN } else { i128::MAX };
        let step = i32::try_from(difference.abs()).ok().and_then(|by| shift(1, by));
        match (difference >= 0, step) {
            _ if self.value == 0 => 0,
            (true, Some(step)) => self.value.checked_mul(step).unwrap_or(limit),
            (true, None) => limit,
            (false, Some(step)) => divide_away_from_zero(self.value, step),
            (false, None) => self.value.signum(),
        }
    }

    fn adopt_format(&mut self, other: &Self) {
        if self.is_zero() {
            self.format = other.format;
        }
        self.spelling = None;
    }

    fn accumulate(&mut self, value: i128, scale: i32, wide: bool) {
        let target = self.scale.min(scale);
        let own = shift(self.value, self.scale.saturating_sub(target));
        let other = shift(value, scale.saturating_sub(target));
        self.wide |= wide;
        match (own, other) {
            (Some(a), Some(b)) => {
                self.value = a.saturating_add(b);
                self.scale = target;
            }
            // The two are more than 38 digits apart: the greater one is the sum.
            (Some(_), None) => (self.value, self.scale) = (value, scale),
            _ => {}
        }
        if i64::try_from(self.value).is_err() {
            self.wide = true;
        }
    }

    /// Adds `other`; a zero takes the other's format.
    pub fn add(&mut self, other: &Self) {
        self.adopt_format(other);
        if other.value != 0 {
            self.accumulate(other.value, other.scale, other.wide);
        }
    }

    /// Subtracts `other`; a zero takes the other's format.
    pub fn sub(&mut self, other: &Self) {
        self.adopt_format(other);
        if other.value != 0 {
            self.accumulate(other.value.saturating_neg(), other.scale, other.wide);
        }
    }

    /// Changes the sign.
    pub fn neg(&mut self) {
        self.spelling = None;
        self.value = self.value.saturating_neg();
    }

    /// Multiplies by an integer; false when the result no longer fits upstream's 64-bit form.
    pub fn mul(&mut self, factor: i64) -> bool {
        self.spelling = None;
        self.value = self.value.saturating_mul(i128::from(factor));
        let fits = i64::try_from(self.value).is_ok();
        self.wide |= !fits;
        fits
    }

    /// The canonical text, whatever spelling the client used.
    pub fn canonical(&self) -> String {
        text::canonical(self.value, self.scale, self.format)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::zero()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spelling {
            Some(spelling) => f.write_str(spelling),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
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
        if self.scale == other.scale || self.value.signum() != other.value.signum() || self.value == 0 {
            return if self.scale == other.scale {
                self.value.cmp(&other.value)
            } else {
                self.value.signum().cmp(&other.value.signum())
            };
        }
        let magnitude = compare_magnitude(self, other);
        if self.value < 0 {
            magnitude.reverse()
        } else {
            magnitude
        }
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (value, scale) = text::strip_zeros(self.value, self.scale);
        (value, scale).hash(state);
    }
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(serde::de::Error::custom)
    }
}

/// Both non-zero and of one sign.
fn compare_magnitude(a: &Quantity, b: &Quantity) -> Ordering {
    let digits = |q: &Quantity| q.value.unsigned_abs().to_string();
    let (left, right) = (digits(a), digits(b));
    let top = |text: &str, q: &Quantity| text.len() as i64 + i64::from(q.scale);
    top(&left, a).cmp(&top(&right, b)).then_with(|| {
        // Equal power of ten in front: compare the digits as text.
        left.trim_end_matches('0').cmp(right.trim_end_matches('0'))
    })
}

/// `value × 10^by`, `by >= 0`.
fn shift(value: i128, by: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    let step = 10i128.checked_pow(u32::try_from(by).ok()?)?;
    value.checked_mul(step)
}

fn divide_away_from_zero(value: i128, step: i128) -> i128 {
    let quotient = value / step;
    if value % step == 0 {
        quotient
    } else {
        quotient + value.signum()
    }
}

fn pow10(exponent: i32) -> f64 {
    if exponent < -323 {
        return 0.0;
    }
    let magnitude = 10f64.powi(exponent.abs());
    if exponent < 0 { 1.0 / magnitude } else { magnitude }
}

#[cfg(test)]
mod tests;
