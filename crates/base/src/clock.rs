//! Time as an argument: library code asks a [`Clock`], never the operating system.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// A source of wall-clock and monotonic time.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Wall-clock time (UTC).
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed point; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The clock that is passed around.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Makes a clock whose monotonic time starts at zero now.
    #[allow(clippy::disallowed_methods)]
    pub fn new() -> Self {
        SystemClock {
            start: std::time::Instant::now(),
        }
    }

    /// Makes the clock in the form that is passed around.
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that a test sets and advances by hand; both times move together.
#[derive(Debug)]
pub struct FakeClock {
    start: Timestamp,
    passed: Mutex<Duration>,
}

impl FakeClock {
    /// Makes a clock that stands at `start`.
    pub fn at(start: Timestamp) -> Arc<Self> {
        Arc::new(FakeClock {
            start,
            passed: Mutex::new(Duration::ZERO),
        })
    }

    /// Makes a clock that stands at 2026-01-01T00:00:00Z.
    pub fn new() -> Arc<Self> {
        Self::at(Timestamp::from_second(1_767_225_600).expect("a constant inside the range"))
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        *self.passed.lock() += by;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.monotonic()).unwrap_or(SignedDuration::MAX);
        self.start.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        *self.passed.lock()
    }
}

/// Formats a time as Kubernetes does in `metav1.Time`: RFC 3339 in UTC with whole seconds.
pub fn rfc3339_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Formats a time as Kubernetes does in `metav1.MicroTime`: RFC 3339 in UTC with six decimals.
pub fn rfc3339_micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_clock_moves_both_times() {
        let clock = FakeClock::new();
        clock.advance(Duration::from_millis(61_500));
        assert_eq!(rfc3339_seconds(clock.now()), "2026-01-01T00:01:01Z");
        assert_eq!(rfc3339_micros(clock.now()), "2026-01-01T00:01:01.500000Z");
        assert_eq!(clock.monotonic(), Duration::from_millis(61_500));
    }

    #[test]
    fn system_clock_is_monotonic() {
        let clock = SystemClock::new();
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
