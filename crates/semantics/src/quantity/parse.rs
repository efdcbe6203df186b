//! Text to quantity: the split into sign, digits and suffix, and upstream's rule for when a spelling is kept.

use super::{Format, NANO, ParseError, Quantity, divide_away_from_zero, shift};

/// Digits that always fit a 64-bit amount.
const SAFE_DIGITS: i64 = 18;
/// The same with room for a binary factor.
const SAFE_BINARY_DIGITS: i64 = 15;
/// Larger exponents are refused: no resource needs them and each digit costs memory when printed.
const MAX_EXPONENT: i64 = 100_000;

struct Parts<'a> {
    positive: bool,
    /// Digits before the point without leading zeros, at least "0".
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

pub(super) fn parse(text: &str) -> Result<Quantity, ParseError> {
    if text == "0" {
        return Ok(Quantity::zero());
    }
    let parts = split(text)?;
    let (base, exponent, format) = suffix(parts.suffix).ok_or(ParseError::Suffix)?;
    match small(text, &parts, base, exponent, format)? {
        Some(quantity) => Ok(quantity),
        None => wide(&parts, base, exponent, format),
    }
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Format);
    }
    let positive = !text.starts_with('-');
    let rest = text
        .strip_prefix(['-', '+'])
        .unwrap_or(text)
        .trim_start_matches('0');
    let (whole, rest) = digits(rest);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    Ok(Parts {
        positive,
        whole,
        fraction,
        suffix,
    })
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Base, exponent and format that a suffix stands for.
fn suffix(text: &str) -> Option<(u32, i32, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSI));
    let binary = |exponent| Some((2, exponent, Format::BinarySI));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i64 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
            let exponent = (exponent.abs() <= MAX_EXPONENT).then_some(exponent)?;
            Some((10, i32::try_from(exponent).ok()?, Format::DecimalExponent))
        }
    }
}

/// Amounts that upstream holds in 64 bits; `None` sends the text to the wide form.
fn small(
    text: &str,
    parts: &Parts<'_>,
    base: u32,
    exponent: i32,
    format: Format,
) -> Result<Option<Quantity>, ParseError> {
    let count = (parts.whole.len() + parts.fraction.len()) as i64;
    let (room, factor, scale) = match (base, parts.fraction.is_empty()) {
        (10, _) => (SAFE_DIGITS - count, 1i128, i64::from(exponent)),
        (_, true) => {
            let binary_digits = i64::from(exponent) * 3 / 10;
            (
                SAFE_BINARY_DIGITS - count - binary_digits - 1,
                1i128 << exponent,
                0,
            )
        }
        (_, false) => return Ok(None),
    };
    let scale = scale - parts.fraction.len() as i64;
    if room < 0 || scale < i64::from(NANO) {
        return Ok(None);
    }
    let scale = i32::try_from(scale).map_err(|_| ParseError::Suffix)?;
    let shifted = format!("{}{}", parts.whole, parts.fraction);
    let digits: i128 = shifted.parse().map_err(|_| ParseError::Numeric)?;
    let magnitude = digits * factor;
    let value = if parts.positive { magnitude } else { -magnitude };
    let keeps_spelling = match format {
        Format::BinarySI => digits & 7 != 0,
        _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
    };
    let mut quantity = Quantity::from_parts(value, scale, format, false);
    quantity.spelling = keeps_spelling.then(|| text.into());
    Ok(Some(quantity))
}

/// Everything else: rounded up to whole nanos, binary amounts capped at `i64::MAX`.
fn wide(parts: &Parts<'_>, base: u32, exponent: i32, format: Format) -> Result<Quantity, ParseError> {
    // Digits past 38 cannot change a value rounded up to nanos, except that they are not all zero.
    let binary = base == 2;
    let whole = parts.whole.parse::<i128>().ok().and_then(|whole| {
        let nanos = i64::from(if binary { 0 } else { exponent }) - i64::from(NANO);
        decimal_nanos(whole, parts.fraction, nanos)
    });
    let nanos = match (whole, binary) {
        (Some(nanos), false) => Some(nanos),
        (Some(_), true) => binary_nanos(parts.whole, parts.fraction, exponent),
        (None, _) => None,
    };
    let cap = i128::from(i64::MAX);
    let (magnitude, scale) = match nanos {
        Some(nanos) if !binary || nanos <= cap * 1_000_000_000 => (nanos, NANO),
        _ if binary => (cap, 0),
        _ => unrounded(parts, exponent).ok_or(ParseError::Numeric)?,
    };
    let fraction_only = binary && scale == NANO && magnitude > 0 && magnitude < 1_000_000_000;
    let format = if fraction_only { Format::DecimalSI } else { format };
    let value = if parts.positive { magnitude } else { -magnitude };
    Ok(Quantity::from_parts(value, scale, format, true))
}

/// Decimals too large to be held in nanos: digits and exponent as given, where no rounding is needed.
fn unrounded(parts: &Parts<'_>, exponent: i32) -> Option<(i128, i32)> {
    let scale = exponent.checked_sub(i32::try_from(parts.fraction.len()).ok()?)?;
    let digits = format!("{}{}", parts.whole, parts.fraction).parse().ok()?;
    (scale >= NANO).then_some((digits, scale))
}

/// `whole.fraction × 10^places`, rounded up to an integer.
fn decimal_nanos(whole: i128, fraction: &str, places: i64) -> Option<i128> {
    let used = fraction.len().min(usize::try_from(places.max(0)).ok()?);
    let (kept, cut) = fraction.split_at(used);
    let mut value = shift(whole, i32::try_from(kept.len()).ok()?)?;
    if !kept.is_empty() {
        value = value.checked_add(kept.parse().ok()?)?;
    }
    let rest = places - kept.len() as i64;
    let inexact = cut.bytes().any(|b| b != b'0');
    if rest >= 0 {
        let scaled = shift(value, i32::try_from(rest).ok()?)?;
        return if inexact {
            scaled.checked_add(1)
        } else {
            Some(scaled)
        };
    }
    let step = i32::try_from(-rest).ok().and_then(|by| shift(1, by));
    let rounded = match step {
        Some(step) => divide_away_from_zero(value, step),
        None => value.signum(),
    };
    let exact = step.is_some_and(|step| value % step == 0);
    if inexact && exact {
        rounded.checked_add(1)
    } else {
        Some(rounded)
    }
}

/// `whole.fraction × 2^exponent` in nanos, rounded up; `None` past the cap.
fn binary_nanos(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    let whole: i128 = whole.parse().ok()?;
    let units = whole.checked_mul(1i128 << exponent)?.checked_mul(1_000_000_000)?;
    let mut nanos = units;
    // Each fraction digit is at most 9 × 2^60 × 10^9 / 10^place: sum exactly over a common denominator of 10^18,
    // with what lies below it only asked for "is there anything".
    let places = fraction.len().min(18);
    let (kept, cut) = fraction.split_at(places);
    if !kept.is_empty() {
        let numerator = kept.parse::<i128>().ok()?;
        let denominator = shift(1, i32::try_from(places).ok()?)?;
        let scaled = (1i128 << exponent) * 1_000_000_000;
        let (high, low) = (scaled / denominator, scaled % denominator);
        let product_low = numerator.checked_mul(low)?;
        nanos = nanos.checked_add(numerator.checked_mul(high)?)?;
        nanos = nanos.checked_add(divide_away_from_zero(product_low, denominator))?;
        let inexact = cut.bytes().any(|b| b != b'0');
        if inexact && product_low % denominator == 0 {
            nanos = nanos.checked_add(1)?;
        }
    }
    Some(nanos)
}
