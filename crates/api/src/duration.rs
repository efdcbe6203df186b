//! Durations as Go writes them (`1h30m`, `90s`, `250ms`, `0`), in objects and in schemas.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration that is read and written in Go's form. Negative durations are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: {text:?} (expected for example 1h30m, 90s or 250ms)")]
pub struct NotADuration {
    /// What was given.
    pub text: String,
}

impl GoDuration {
    /// Makes a duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        GoDuration(Duration::from_secs(seconds))
    }
}

/// Units, longest first, in nanoseconds; two-letter units stand before their one-letter tails.
const UNITS: [(&str, f64); 7] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 6e10),
    ("h", 3.6e12),
];

impl FromStr for GoDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let fail = || NotADuration {
            text: text.to_string(),
        };
        if text == "0" {
            return Ok(GoDuration::default());
        }
        let (mut rest, mut nanos) = (text, 0.0_f64);
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(fail)?;
            let number: f64 = rest[..digits].parse().map_err(|_| fail())?;
            rest = &rest[digits..];
            let (unit, factor) = UNITS
                .iter()
                .find(|(unit, _)| rest.starts_with(unit))
                .ok_or_else(fail)?;
            nanos += number * factor;
            rest = &rest[unit.len()..];
        }
        match nanos {
            _ if text.is_empty() || nanos > u64::MAX as f64 => Err(fail()),
            nanos => Ok(GoDuration(Duration::from_nanos(nanos as u64))),
        }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        if seconds == 0 && millis > 0 {
            return write!(out, "{millis}ms");
        }
        if seconds >= 3600 {
            write!(out, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(out, "{}m", seconds / 60 % 60)?;
        }
        match millis {
            0 => write!(out, "{}s", seconds % 60),
            millis => write!(out, "{}.{millis:03}s", seconds % 60),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(0|([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_as_go_does() {
        let rows = [
            ("0", "0s"),
            ("90s", "1m30s"),
            ("1h30m", "1h30m0s"),
            ("250ms", "250ms"),
            ("1.5s", "1.500s"),
        ];
        for (given, printed) in rows {
            assert_eq!(
                given.parse::<GoDuration>().unwrap().to_string(),
                printed,
                "{given}"
            );
        }
        for bad in ["", "5", "m", "-1s", "1x"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
        }
    }
}
