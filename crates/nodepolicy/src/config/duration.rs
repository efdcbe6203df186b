//! Durations as Go writes them (`1h15m`, `300ms`), the form of `metav1.Duration`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Parses a Go duration; negative ones are clamped to zero, a bare `0` is allowed.
pub fn parse(text: &str) -> Option<Duration> {
    let nanos = nanos(text).ok()?;
    Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// The nanoseconds of a Go duration, which may be negative.
///
/// # Errors
/// When it is none, as Go's `time.ParseDuration` words it.
pub fn nanos(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let digits = rest.find(|c| !numeric(c)).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(numeric).unwrap_or(rest.len());
        let unit = &rest[..end];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let size =
            unit_nanos(unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += number * size;
        rest = &rest[end..];
    }
    match total < i64::MAX as f64 {
        true => Ok(sign * total.round() as i64),
        false => Err(invalid()),
    }
}

fn unit_nanos(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

/// Formats a duration as Go does (`1m30s`, `1.5s`, `200ms`).
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            n if n >= 1_000_000 => ("ms", 1e6),
            n if n >= 1_000 => ("µs", 1e3),
            _ => ("ns", 1.0),
        };
        return format!("{}{unit}", nanos as f64 / size);
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = (nanos - u128::from(hours * 3600 + minutes * 60) * 1_000_000_000) as f64 / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// For `#[serde(deserialize_with)]`: a missing or null value is the default of zero.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_else(|| "0".to_owned());
    parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no duration such as 1m30s")))
}

/// For `#[serde(serialize_with)]`.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_go_there_and_back() {
        let texts = ["10s", "1m30s", "1h0m0s", "200ms", "1.5s", "5m0s", "0s"];
        let back: Vec<String> = texts
            .iter()
            .map(|t| parse(t).map_or("?".into(), format))
            .collect();
        assert_eq!(back, texts);
        let refused = ["10", "10x", "", "x", "1.5.2s"].map(|t| nanos(t).expect_err("no duration"));
        assert_eq!(
            refused,
            [
                "time: missing unit in duration \"10\"",
                "time: unknown unit \"x\" in duration \"10x\"",
                "time: invalid duration \"\"",
                "time: invalid duration \"x\"",
                "time: invalid duration \"1.5.2s\"",
            ]
        );
        assert_eq!(
            (nanos("-1s"), parse("-1s")),
            (Ok(-1_000_000_000), Some(Duration::ZERO))
        );
    }
}
