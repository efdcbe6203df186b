//! Whether something that stays wrong is worth another line in the log: at once when it begins, then at growing
//! intervals, so that an API server that is away for an hour leaves room for what else happens.

use std::time::Duration;

use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;

/// Time from the first line to the second; doubles.
const FIRST: Duration = Duration::from_secs(10);
/// Longest time between two lines.
const LONGEST: Duration = Duration::from_secs(600);

/// One thing that may go wrong again and again.
#[derive(Debug)]
pub struct Repeated {
    clock: SharedClock,
    said: Mutex<Option<Said>>,
}

#[derive(Debug)]
struct Said {
    at: Duration,
    pause: Duration,
    failures: u64,
}

impl Repeated {
    /// Something that has not gone wrong yet.
    pub fn new(clock: SharedClock) -> Self {
        Repeated {
            clock,
            said: Mutex::default(),
        }
    }

    /// It went wrong: how often by now, if that is to be said.
    pub fn fails(&self) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut said = self.said.lock();
        let Some(said) = said.as_mut() else {
            *said = Some(Said {
                at: now,
                pause: FIRST,
                failures: 1,
            });
            return Some(1);
        };
        said.failures += 1;
        if now.saturating_sub(said.at) < said.pause {
            return None;
        }
        said.at = now;
        said.pause = (said.pause * 2).min(LONGEST);
        Some(said.failures)
    }

    /// How often it went wrong since it last went well.
    pub fn failures(&self) -> u32 {
        let said = self.said.lock();
        said.as_ref()
            .map_or(0, |said| u32::try_from(said.failures).unwrap_or(u32::MAX))
    }

    /// It went well: how often it had gone wrong, if it had.
    pub fn works(&self) -> Option<u64> {
        self.said.lock().take().map(|said| said.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::clock::FakeClock;

    #[test]
    fn an_hour_of_failures_is_a_dozen_lines() {
        let clock = FakeClock::new();
        let repeated = Repeated::new(clock.clone());
        let mut lines = Vec::new();
        for second in 0..3600 {
            if repeated.fails().is_some() {
                lines.push(second);
            }
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(lines, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
        assert_eq!(repeated.failures(), 3600);
        assert_eq!((repeated.works(), repeated.works()), (Some(3600), None));
        assert_eq!(repeated.failures(), 0);
        assert_eq!(repeated.fails(), Some(1));
    }
}
