//! Services give back the memory that only their start, or a burst of work, needed.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mainstay_host::memory::{give_back_free, processor_time, release_unused, resident_of_files};
use tokio::runtime::Runtime;

/// How often a service looks at itself.
const LOOK: Duration = Duration::from_millis(500);
/// Looks after which threads give back what they hold free.
const ROUND: u32 = 32;
/// What a service at rest uses of a processor between two looks, at most.
const REST: Duration = Duration::from_millis(15);
/// Less of the program's pages than this is not worth giving back.
const WORTH: usize = 512 << 10;

/// Rounds so far.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The round in which this thread last gave back.
    static GAVE_BACK: Cell<u32> = const { Cell::new(0) };
}

/// A runtime whose threads give back what they do not use.
pub fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_park(before_rest)
        .enable_all()
        .build()
}

/// What a runtime's thread does before it rests: once a round it gives back what its work left free. A thread holds on to that
/// otherwise until it works again.
fn before_rest() {
    let round = ROUNDS.load(Ordering::Relaxed);
    if GAVE_BACK.replace(round) != round {
        give_back_free();
    }
}

/// Keeps a service as small as its work, for as long as it runs.
pub fn keep_small() {
    tokio::spawn(async {
        let mut pages = Pages::default();
        for look in 1_u32.. {
            tokio::time::sleep(LOOK).await;
            if look.is_multiple_of(ROUND) {
                ROUNDS.fetch_add(1, Ordering::Relaxed);
            }
            if let Err(error) = pages.look().await {
                tracing::debug!(%error, "pages of the program that are not used stay mapped");
                return;
            }
        }
    });
}

/// The program's pages. What a service does seldom (its start, a heartbeat, an answer) maps far more of them than what it does
/// all the time. They are the page cache's and cost nothing, but count as the service's; at rest it gives them back.
#[derive(Default)]
struct Pages {
    /// Bytes mapped when they were last given back.
    least: usize,
    seen: usize,
    used: Duration,
}

impl Pages {
    async fn look(&mut self) -> std::io::Result<()> {
        let (mapped, used) = (resident_of_files()?, processor_time());
        if self.rests(mapped, used) {
            let done =
                tokio::task::spawn_blocking(|| release_unused().and_then(|_| resident_of_files())).await;
            self.least = done.map_err(std::io::Error::other)??;
        }
        Ok(())
    }

    /// Whether there is something to give back, and since the last look nothing was mapped and little was done: who is at
    /// work would only map it again.
    fn rests(&mut self, mapped: usize, used: Duration) -> bool {
        let quiet = mapped == self.seen && used.saturating_sub(self.used) <= REST;
        (self.seen, self.used) = (mapped, used);
        quiet && mapped > self.least + WORTH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_given_back_at_rest_only() {
        let mut pages = Pages {
            least: 5 << 20,
            ..Pages::default()
        };
        let millis = Duration::from_millis;
        for (mapped, used, gives) in [
            (20, 500, false),
            // Mapped more since the last look.
            (25, 510, false),
            // Nothing new, but at work.
            (25, 900, false),
            (25, 905, true),
            // Not worth it.
            (5, 910, false),
            (5, 915, false),
        ] {
            assert_eq!(pages.rests(mapped << 20, millis(used)), gives, "{mapped} {used}");
        }
    }
}
