//! Turns for writes that are charged to the same object, a ResourceQuota for example: of those that compute a charge at
//! the same time only one can be stored, so they queue here instead of trying against each other.

use std::hash::{BuildHasher as _, RandomState};

use mainstay_store::Key;
use tokio::sync::{Mutex, MutexGuard};

/// Queues; objects share them by chance, which costs a wait and nothing else.
const QUEUES: usize = 64;

/// The queues, first come, first served.
pub(crate) struct Turns {
    queues: [Mutex<()>; QUEUES],
    hash: RandomState,
}

/// The turn of one write; over when dropped.
pub(super) struct Turn<'a> {
    _held: Vec<MutexGuard<'a, ()>>,
    /// Whether others went first, so that what was computed before is out of date.
    pub(super) waited: bool,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            queues: std::array::from_fn(|_| Mutex::new(())),
            hash: RandomState::new(),
        }
    }
}

impl Turns {
    /// Waits until no other write of this server is charged to any of these objects.
    pub(super) async fn take<'a>(&'a self, keys: impl Iterator<Item = &Key>) -> Turn<'a> {
        let mut numbers: Vec<usize> = keys.map(|key| self.number(key)).collect();
        // Always in this order, so that no two writes wait for each other.
        numbers.sort_unstable();
        numbers.dedup();
        let (mut held, mut waited) = (Vec::with_capacity(numbers.len()), false);
        for number in numbers {
            let queue = &self.queues[number];
            held.push(match queue.try_lock() {
                Ok(guard) => guard,
                Err(_) => {
                    waited = true;
                    queue.lock().await
                }
            });
        }
        Turn { _held: held, waited }
    }

    fn number(&self, key: &Key) -> usize {
        let hash = self.hash.hash_one(key);
        (hash % QUEUES as u64) as usize
    }
}
