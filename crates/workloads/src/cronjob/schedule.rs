//! Cron schedules: five fields with lists, ranges, steps and names, and the `@` short forms. Rules:
//! <https://en.wikipedia.org/wiki/Cron>; day of month and day of week are alternatives when both are restricted.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Days searched for the next time: the rarest schedule is 29 February.
const HORIZON_DAYS: usize = 9 * 366;

/// A parsed schedule: one bit per allowed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

impl Schedule {
    /// Parses the text; the error names the field.
    pub(super) fn parse(text: &str) -> Result<Schedule, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected 5 fields, found {}", fields.len()));
        };
        let named = |what: &'static str| move |why: String| format!("{what}: {why}");
        let weekdays_set = field(weekdays, 0, 7, &DAYS).map_err(named("day of week"))?;
        Ok(Schedule {
            minutes: field(minutes, 0, 59, &[]).map_err(named("minute"))?,
            hours: field(hours, 0, 23, &[]).map_err(named("hour"))?,
            days: field(days, 1, 31, &[]).map_err(named("day of month"))?,
            months: field(months, 1, 12, &MONTHS).map_err(named("month"))?,
            // Sunday is 0 and 7.
            weekdays: weekdays_set | (weekdays_set >> 7 & 1),
            any_day: days.starts_with(['*', '?']),
            any_weekday: weekdays.starts_with(['*', '?']),
        })
    }

    fn has_day(&self, date: Date) -> bool {
        let of = |set: u64, value: i8| set >> value & 1 == 1;
        let day = of(self.days, date.day());
        let weekday = of(self.weekdays, date.weekday().to_sunday_zero_offset());
        let fits = if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        fits && of(self.months, date.month())
    }

    /// The first time after `after`; times that a clock change skips are left out.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = after.to_zoned(zone.clone()).date();
        for _ in 0..HORIZON_DAYS {
            if self.has_day(date)
                && let Some(time) = self.first_on(date, after, zone)
            {
                return Some(time);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn first_on(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let hours = (0..24i8).filter(|hour| self.hours >> hour & 1 == 1);
        let times = hours.flat_map(|hour| {
            (0..60i8)
                .filter(|minute| self.minutes >> minute & 1 == 1)
                .map(move |minute| (hour, minute))
        });
        times
            .filter_map(|(hour, minute)| {
                zone.to_ambiguous_zoned(date.at(hour, minute, 0, 0))
                    .compatible()
                    .ok()
            })
            .filter(|time| time.date() == date)
            .map(|time| time.timestamp())
            .find(|time| *time > after)
    }

    /// The newest time in (`after`, `now`], and whether more than a hundred were missed.
    pub(super) fn newest(
        &self,
        after: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> (Option<Timestamp>, bool) {
        let (mut newest, mut count, mut at) = (None, 0, after);
        while let Some(next) = self.next(at, zone).filter(|next| *next <= now) {
            newest = Some(next);
            count += 1;
            at = next;
            if count > 100 {
                // Too many to go through one by one: go on from shortly before now.
                at = at.max(now - SignedDuration::from_hours(1));
            }
        }
        (newest, count > 100)
    }
}

fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        set |= part_of(part, least, most, names)?;
    }
    Ok(set)
}

fn part_of(part: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let (range, step) = part
        .split_once('/')
        .map_or((part, None), |(range, step)| (range, Some(step)));
    let number = |text: &str| {
        let name = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
            .map(|at| at as u32 + least);
        let value = name
            .or_else(|| text.parse().ok())
            .ok_or_else(|| format!("{text:?} is no value"))?;
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(format!("{value} is not in {least}-{most}"))
        }
    };
    let (first, last) = match range {
        "*" | "?" => (least, most),
        range => match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_some() => (number(range)?, most),
            None => (number(range)?, number(range)?),
        },
    };
    let step: usize = step.map_or(Ok(1), |step| {
        step.parse().map_err(|_| format!("{step:?} is no step"))
    })?;
    if step == 0 || first > last {
        return Err(format!("{part:?} selects nothing"));
    }
    Ok((first..=last)
        .step_by(step)
        .fold(0, |set, value| set | 1 << value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).expect("a zone");
        let after: Timestamp = after.parse().expect("a time");
        Schedule::parse(schedule)
            .expect("a schedule")
            .next(after, &zone)
            .map_or("never".into(), |next| next.to_string())
    }

    #[test]
    fn next_times() {
        for (schedule, expected) in [
            ("*/15 * * * *", "2026-01-31T10:15:00Z"),
            ("0 9-17/4 * * mon-fri", "2026-02-02T09:00:00Z"),
            ("@monthly", "2026-02-01T00:00:00Z"),
            ("0 0 29 feb *", "2028-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-02-06T00:00:00Z"),
            ("0 0 31 2 *", "never"),
            ("30 8 * * 7", "2026-02-01T08:30:00Z"),
        ] {
            assert_eq!(
                next(schedule, "2026-01-31T10:00:00Z", "UTC"),
                expected,
                "{schedule}"
            );
        }
    }

    #[test]
    fn bad_schedules_name_the_field() {
        let error = |text: &str| Schedule::parse(text).expect_err("a bad schedule");
        assert_eq!(error("* * * *"), "expected 5 fields, found 4");
        assert_eq!(error("60 * * * *"), "minute: 60 is not in 0-59");
        assert_eq!(error("* * * foo *"), "month: \"foo\" is no value");
    }

    #[test]
    fn the_newest_missed_time_counts() {
        let schedule = Schedule::parse("* * * * *").expect("a schedule");
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (newest, many) = schedule.newest(
            time("2026-01-01T00:00:00Z"),
            time("2026-01-03T00:00:30Z"),
            &TimeZone::UTC,
        );
        assert_eq!((newest, many), (Some(time("2026-01-03T00:00:00Z")), true));
    }
}
