//! Turns to start things: when many pods come at once, a few start at a time and run soon, rather than all of them late.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Starts under way at once for each processor: more only wait for each other in the runtime and the kernel.
const FOR_EACH_PROCESSOR: usize = 4;
/// Longest wait for a turn: starts that hang in the runtime hold up nobody for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns of one node.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Turns {
    /// As many as so many processors carry.
    pub fn new(processors: i64) -> Self {
        let processors = usize::try_from(processors).unwrap_or(1).max(1);
        Turns(Semaphore::new(processors * FOR_EACH_PROCESSOR))
    }

    /// Waits for a turn.
    pub async fn take(&self) -> Turn<'_> {
        let mut turn = Turn {
            of: self,
            permit: None,
        };
        turn.resume().await;
        turn
    }
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    of: &'a Turns,
    permit: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// Lets others start while this one waits for something else.
    pub fn pause(&mut self) {
        self.permit = None;
    }

    /// Waits for a turn again, if this one was paused.
    pub async fn resume(&mut self) {
        if self.permit.is_none() {
            let permit = tokio::time::timeout(PATIENCE, self.of.0.acquire()).await;
            self.permit = permit.ok().and_then(Result::ok);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_pauses_lets_others_start_and_nobody_waits_for_ever() {
        let turns = Turns::new(1);
        let mut held = Vec::new();
        for _ in 0..FOR_EACH_PROCESSOR {
            held.push(turns.take().await);
        }
        assert_eq!(turns.0.available_permits(), 0);
        held[0].pause();
        let other = turns.take().await;
        assert!(other.permit.is_some());
        held[0].resume().await;
        assert!(held[0].permit.is_none(), "it went on without a turn");
    }
}
