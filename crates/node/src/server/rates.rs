//! Processor time per second, from two readings that somebody asked for: nothing is read in between.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Readings nearer to each other say little: the rate before goes on.
const SHORTEST: Duration = Duration::from_secs(5);
/// What was read longer ago says nothing of now.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Reading {
    at: Duration,
    cpu_nanos: u64,
    rate: Option<u64>,
}

/// The last reading of everything that was asked for lately.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Reading>>);

impl Rates {
    /// Nanoseconds of processor time in each second up to this reading of `what`; `None` at the first. `now` is monotonic.
    pub fn rate(&self, what: &str, now: Duration, cpu_nanos: u64) -> Option<u64> {
        let mut readings = self.0.lock();
        let rate = match readings.get(what) {
            Some(last) => {
                let passed = now.saturating_sub(last.at);
                if passed < SHORTEST {
                    return last.rate;
                }
                let used = cpu_nanos.checked_sub(last.cpu_nanos);
                used.filter(|_| passed <= LONGEST)
                    .map(|used| (used as f64 / passed.as_secs_f64()) as u64)
            }
            None => None,
        };
        let reading = Reading {
            at: now,
            cpu_nanos,
            rate,
        };
        readings.insert(what.to_owned(), reading);
        rate
    }

    /// Forgets what nobody reads any more.
    pub fn tidy(&self, now: Duration) {
        let mut readings = self.0.lock();
        readings.retain(|_, last| now.saturating_sub(last.at) <= LONGEST);
        readings.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_that_are_neither_too_near_nor_too_far() {
        let rates = Rates::default();
        let at = |seconds: u64, nanos: u64| rates.rate("/", Duration::from_secs(seconds), nanos);
        assert_eq!(at(0, 100), None);
        assert_eq!(at(1, 200), None);
        assert_eq!(at(10, 1_100), Some(100));
        assert_eq!(at(11, 9_000), Some(100));
        // The cgroup was made anew.
        assert_eq!(at(20, 5), None);
        assert_eq!(at(1_000, 5_000), None);
        rates.tidy(Duration::from_secs(2_000));
        assert!(rates.0.lock().is_empty());
    }
}
