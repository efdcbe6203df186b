//! When an ended container may start again: at once the first time, then after 10, 20, 40.. seconds.

use std::collections::HashMap;
use std::time::Duration;

/// The wait after the second failure.
const INITIAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Entry {
    wait: Duration,
    counted_from: i64,
}

/// Restart back-off of the containers of one pod. Times are nanoseconds since the epoch.
#[derive(Debug)]
pub struct RestartBackoff {
    initial: Duration,
    entries: HashMap<String, Entry>,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self::starting_at(INITIAL)
    }
}

impl RestartBackoff {
    /// A back-off whose first wait is `initial`.
    pub fn starting_at(initial: Duration) -> Self {
        RestartBackoff {
            initial,
            entries: HashMap::new(),
        }
    }

    /// Tells how long a container that ended at `finished_at` must still wait, and counts the start if it need not.
    /// `run` is how long it ran.
    ///
    /// # Errors
    /// The whole wait that applies, and what is left of it.
    pub fn start(
        &mut self,
        name: &str,
        finished_at: i64,
        run: Duration,
        now: i64,
        max: Duration,
    ) -> Result<(), (Duration, Duration)> {
        let initial = self.initial.min(max);
        let next = match self.entries.get(name) {
            None => initial,
            Some(_) if run > 2 * max => initial,
            Some(entry) if entry.counted_from == finished_at => entry.wait,
            Some(entry) => {
                let since = Duration::from_nanos(now.saturating_sub(finished_at).max(0) as u64);
                if since < entry.wait {
                    return Err((entry.wait, entry.wait - since));
                }
                (entry.wait * 2).min(max)
            }
        };
        let entry = Entry {
            wait: next,
            counted_from: finished_at,
        };
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a container end at once again and again; returns the delay before each restart.
    fn delays(times: usize) -> Vec<u64> {
        let mut backoff = RestartBackoff::default();
        let (mut now, mut out) = (0i64, Vec::new());
        for _ in 0..times {
            let finished = now;
            let max = Duration::from_secs(300);
            if let Err((_, left)) = backoff.start("c", finished, Duration::ZERO, now, max) {
                now += left.as_nanos() as i64;
                backoff
                    .start("c", finished, Duration::ZERO, now, max)
                    .expect("the wait is over");
            }
            out.push(((now - finished) / 1_000_000_000) as u64);
            now += 1;
        }
        out
    }

    #[test]
    fn the_first_restart_is_immediate_and_waits_double_up_to_five_minutes() {
        assert_eq!(delays(8), [0, 10, 20, 40, 80, 160, 300, 300]);
    }
}
