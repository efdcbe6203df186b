//! Services give back the memory that only their start needed.

use std::time::Duration;

/// When a service has done what only its start needs, and how often it looks again for what it seldom needs.
const STARTED: Duration = Duration::from_secs(3);
const SELDOM: Duration = Duration::from_secs(300);

/// Keeps a service as small as its work, for as long as it runs.
pub fn keep_small() {
    tokio::spawn(async {
        let mut pause = STARTED;
        loop {
            tokio::time::sleep(pause).await;
            pause = SELDOM;
            let done = tokio::task::spawn_blocking(mainstay_host::memory::release_unused).await;
            if let Ok(Err(error)) = done {
                tracing::debug!(%error, "memory that only the start needed is kept");
                return;
            }
        }
    });
}
