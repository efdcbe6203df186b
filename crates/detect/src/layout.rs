//! Reads timestamps by Go's reference-time layouts (`Jan _2 15:04:05`), as filelog configurations give them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;

/// Go's layout words and what they are in strptime, longest first.
const WORDS: &[(&str, &str)] = &[
    ("January", "%B"),
    ("Monday", "%A"),
    ("Z07:00", "%:z"),
    ("-07:00", "%:z"),
    ("-0700", "%z"),
    ("2006", "%Y"),
    ("Jan", "%b"),
    ("Mon", "%a"),
    ("15", "%H"),
    ("01", "%m"),
    ("02", "%d"),
    ("_2", "%e"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S%.f"),
    ("PM", "%p"),
];

/// Translates a layout; what is no layout word stands for itself.
fn translate(layout: &str) -> String {
    let (mut rest, mut format) = (layout, String::new());
    while let Some(letter) = rest.chars().next() {
        if let Some((word, meaning)) = WORDS.iter().find(|(word, _)| rest.starts_with(word)) {
            format.push_str(meaning);
            rest = &rest[word.len()..];
            continue;
        }
        if letter == '%' {
            format.push('%');
        }
        format.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    format
}

/// Reads `text` by `layout`. Without a zone it is UTC; without a year it is the one that puts it nearest before
/// (at most a day after) `now`.
pub fn parse(layout: &str, text: &str, now: Timestamp) -> Option<Timestamp> {
    let format = translate(layout);
    // Go accepts `Z` where the layout says `Z07:00`.
    let text = match text.strip_suffix('Z') {
        Some(head) if layout.contains("Z07:00") => format!("{head}+00:00"),
        _ => text.to_string(),
    };
    if layout.contains("2006") {
        return read(&format, &text);
    }
    let year = now.to_zoned(jiff::tz::TimeZone::UTC).year();
    let dated = |year: i16| read(&format!("%Y {format}"), &format!("{year} {text}"));
    let limit = now.checked_add(jiff::SignedDuration::from_hours(24)).ok()?;
    dated(year).filter(|at| *at <= limit).or_else(|| dated(year - 1))
}

fn read(format: &str, text: &str) -> Option<Timestamp> {
    let parsed = BrokenDownTime::parse(format, text).ok()?;
    if parsed.offset().is_some() {
        return parsed.to_timestamp().ok();
    }
    let civil: DateTime = parsed.to_datetime().ok()?;
    civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_without_a_year_lie_in_the_past() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let at = parse("Jan _2 15:04:05", "Dec 31 23:59:00", now).map(|at| at.to_string());
        assert_eq!(at.as_deref(), Some("2025-12-31T23:59:00Z"));
        let at = parse("Jan _2 15:04:05", "Jan  1 00:09:00", now).map(|at| at.to_string());
        assert_eq!(at.as_deref(), Some("2026-01-01T00:09:00Z"));
    }

    #[test]
    fn iso_stamps_with_zone_and_fraction() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let layout = "2006-01-02T15:04:05Z07:00";
        let read = |text| parse(layout, text, now).map(|at| at.to_string());
        assert_eq!(
            read("2026-01-01T00:00:01.123Z").as_deref(),
            Some("2026-01-01T00:00:01.123Z")
        );
        assert_eq!(
            read("2026-01-01T05:00:01+05:00").as_deref(),
            Some("2026-01-01T00:00:01Z")
        );
        assert_eq!(read("yesterday"), None);
    }
}
