//! Quantity to text: the canonical form (largest suffix without a fraction) and plain decimals.

use super::{Format, shift};

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const MAX_SI_EXPONENT: i32 = 18;

pub(super) fn canonical(value: i128, scale: i32, format: Format) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    match (format, binary_integer(value, scale)) {
        (Format::BinarySI, Some(whole)) => binary(whole),
        (Format::BinarySI, None) => decimal_suffix(value, scale, Format::DecimalSI),
        _ => decimal_suffix(value, scale, format),
    }
}

/// The whole number that binary notation may show: not a fraction and not below 1024.
fn binary_integer(value: i128, scale: i32) -> Option<i128> {
    let (value, scale) = strip_zeros(value, scale);
    let whole = if scale < 0 { None } else { shift(value, scale) }?;
    (whole.unsigned_abs() >= 1024).then_some(whole)
}

fn binary(mut whole: i128) -> String {
    let mut index = 0;
    while whole % 1024 == 0 && index + 1 < BINARY.len() {
        whole /= 1024;
        index += 1;
    }
    format!("{whole}{}", BINARY[index])
}

fn decimal_suffix(value: i128, scale: i32, format: Format) -> String {
    let (mut value, mut exponent) = strip_zeros(value, scale);
    let surplus = match format {
        Format::DecimalSI if exponent > MAX_SI_EXPONENT => exponent - MAX_SI_EXPONENT,
        _ => exponent.rem_euclid(3),
    };
    if let Some(shifted) = shift(value, surplus) {
        value = shifted;
        exponent -= surplus;
    }
    match (format, exponent) {
        (_, 0) => value.to_string(),
        (Format::DecimalSI, _) => match si_suffix(exponent) {
            Some(suffix) => format!("{value}{suffix}"),
            None => format!("{value}e{exponent}"),
        },
        _ => format!("{value}e{exponent}"),
    }
}

fn si_suffix(exponent: i32) -> Option<&'static str> {
    Some(match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => return None,
    })
}

/// Moves trailing zeros from the value into the exponent.
pub(super) fn strip_zeros(mut value: i128, mut scale: i32) -> (i128, i32) {
    if value == 0 {
        return (0, 0);
    }
    while value % 10 == 0 {
        value /= 10;
        scale += 1;
    }
    (value, scale)
}

pub(super) fn decimal(value: i128, scale: i32) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = value.unsigned_abs().to_string();
    if scale >= 0 {
        let zeros = if value == 0 { 0 } else { scale as usize };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let places = scale.unsigned_abs() as usize;
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    format!("{sign}{whole}.{fraction}")
}
