//! Exponential back-off with jitter, as plain arithmetic: the caller waits.

use std::time::Duration;

use fastrand::Rng;

/// How waits grow between tries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// What a wait is multiplied with after each failure.
    pub factor: f64,
    /// Up to this share of the wait is added at random (0.0 to 1.0).
    pub jitter: f64,
}

impl Backoff {
    /// The default for controllers: 50 ms doubling up to 60 s, 10 % jitter.
    pub const CONTROLLER: Backoff = Backoff {
        initial: Duration::from_millis(50),
        max: Duration::from_secs(60),
        factor: 2.0,
        jitter: 0.1,
    };

    /// Tells the wait after `failures` failures in a row (0 gives zero).
    pub fn delay(&self, failures: u32, rng: &mut Rng) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let grown = self.initial.as_secs_f64() * self.factor.powi(failures as i32 - 1);
        let capped = grown.min(self.max.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 + self.jitter * rng.f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let plain = Backoff {
            jitter: 0.0,
            ..Backoff::CONTROLLER
        };
        let mut rng = Rng::with_seed(1);
        let delays: Vec<u128> = [0, 1, 2, 5, 40]
            .iter()
            .map(|n| plain.delay(*n, &mut rng).as_millis())
            .collect();
        assert_eq!(delays, [0, 50, 100, 800, 60_000]);
    }

    #[test]
    fn jitter_only_adds() {
        let mut rng = Rng::with_seed(1);
        let delay = Backoff::CONTROLLER.delay(1, &mut rng);
        assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(55));
    }
}
