//! Quantities as the integers that the kernel and the runtime want.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts by resource name: cpu in thousandths, everything else in bytes or pieces.
pub type Amounts = BTreeMap<String, i64>;

const SUFFIXES: &[(&str, i128)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Nanoths of the quantity in `text`; `None` when it is no quantity.
fn nanos(text: &str) -> Option<i128> {
    const NANO: i128 = 1_000_000_000;
    let (number, scale) = match SUFFIXES.iter().find(|(s, _)| text.ends_with(s)) {
        Some((suffix, factor)) => (&text[..text.len() - suffix.len()], factor * NANO),
        None => match text.char_indices().last() {
            Some((at, 'm')) => (&text[..at], NANO / 1000),
            Some((at, 'u')) => (&text[..at], NANO / 1_000_000),
            Some((at, 'n')) => (&text[..at], 1),
            _ => (text, NANO),
        },
    };
    if let Some((mantissa, exponent)) = number.split_once(['e', 'E']) {
        let value: f64 = format!("{mantissa}e{exponent}").parse().ok()?;
        return Some((value * scale as f64) as i128);
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole: i128 = match whole {
        "" | "-" | "+" => 0,
        digits => digits.parse().ok()?,
    };
    let mut fraction = 0i128;
    if !part.is_empty() {
        let digits: i128 = part.parse().ok()?;
        fraction = digits * scale / 10i128.checked_pow(part.len() as u32)?;
    }
    Some(whole * scale + if negative { -fraction } else { fraction })
}

fn rounded_up(text: &str, unit: i128) -> Option<i64> {
    let nanos = nanos(text)?;
    i64::try_from(nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) > 0)).ok()
}

/// The whole value, rounded up; `None` when the text is no quantity.
pub fn value(text: &str) -> Option<i64> {
    rounded_up(text, 1_000_000_000)
}

/// Thousandths, rounded up; `None` when the text is no quantity.
pub fn milli(text: &str) -> Option<i64> {
    rounded_up(text, 1_000_000)
}

/// The amount of one resource in its unit (see [`Amounts`]); bad text counts as zero: the API server has checked it.
pub fn of(resource: &str, quantity: &Quantity) -> i64 {
    let parsed = match resource {
        "cpu" => milli(&quantity.0),
        _ => value(&quantity.0),
    };
    parsed.unwrap_or(0)
}

/// Amounts of a resource list.
pub fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let entries = list.into_iter().flatten();
    entries.map(|(name, q)| (name.clone(), of(name, q))).collect()
}

/// The canonical text of an amount: cpu as `1500m` or `2`, memory-like in Ki, Mi.. where even, else plain.
pub fn quantity(resource: &str, amount: i64) -> Quantity {
    Quantity(match resource {
        "cpu" if amount % 1000 == 0 => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        _ => amount.to_string(),
    })
}

/// A memory-like amount in Ki when it is a multiple of it: the form in which the kubelet reports capacity.
pub fn kibibytes(amount: i64) -> Quantity {
    Quantity(match amount % 1024 {
        0 if amount > 0 => format!("{}Ki", amount / 1024),
        _ => amount.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up_to_their_unit() {
        let rows = ["100m", "1", "1.5", "128Mi", "1e3", "0.1", "1.1Gi", "500k"];
        let values: Vec<(Option<i64>, Option<i64>)> = rows.iter().map(|t| (value(t), milli(t))).collect();
        assert_eq!(
            values[..6],
            [
                (Some(1), Some(100)),
                (Some(1), Some(1000)),
                (Some(2), Some(1500)),
                (Some(128 << 20), Some(134_217_728_000)),
                (Some(1000), Some(1_000_000)),
                (Some(1), Some(100)),
            ]
        );
        assert_eq!(value("1.1Gi"), Some(1_181_116_007));
        assert_eq!(value("abc"), None);
    }
}
