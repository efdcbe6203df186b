//! A work queue of keys: a key waits at most once, is never worked on twice at the same time, and can be
//! added for later.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The queue. Bounded by the number of distinct keys, since a key is held once.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    working: HashSet<K>,
    again: HashSet<K>,
    later: BTreeSet<(Instant, u64)>,
    later_key: HashMap<u64, K>,
    later_of: HashMap<K, (Instant, u64)>,
    next_id: u64,
    closed: bool,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: BTreeSet::new(),
            later_key: HashMap::new(),
            later_of: HashMap::new(),
            next_id: 0,
            closed: false,
        };
        Queue {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn push(&mut self, key: K) {
        if self.working.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn forget_later(&mut self, key: &K) {
        if let Some(entry) = self.later_of.remove(key) {
            self.later.remove(&entry);
            self.later_key.remove(&entry.1);
        }
    }

    /// Moves due keys to the ready queue and tells when the next one is due.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.later.first().copied() {
            if entry.0 > now {
                return Some(entry.0);
            }
            self.later.remove(&entry);
            if let Some(key) = self.later_key.remove(&entry.1) {
                self.later_of.remove(&key);
                self.push(key);
            }
        }
        None
    }

    fn pop(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    fn lock(&self) -> parking_lot::MutexGuard<'_, State<K>> {
        self.state.lock()
    }

    /// Adds a key to be worked on now; a key that is being worked on comes again afterwards.
    pub fn add(&self, key: K) {
        self.lock().push(key);
        self.changed.notify_one();
    }

    /// Adds a key to be worked on after a delay; of two delays of one key the earlier holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.lock();
        if state.later_of.get(&key).is_some_and(|(known, _)| *known <= due) {
            return;
        }
        state.forget_later(&key);
        let id = state.next_id;
        state.next_id += 1;
        state.later.insert((due, id));
        state.later_key.insert(id, key.clone());
        state.later_of.insert(key, (due, id));
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the next key; waits for one. None after [`Queue::close`].
    pub async fn next(&self) -> Option<K> {
        loop {
            let due = {
                let mut state = self.lock();
                if state.closed {
                    self.changed.notify_one();
                    return None;
                }
                let due = state.promote(Instant::now());
                if let Some(key) = state.pop() {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                due
            };
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Says that work on a key is over; a key that was added meanwhile becomes ready.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.again.remove(key) {
            state.push(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Tells how many keys are ready (not those for later).
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    /// Ends the queue: every waiter and later caller of [`Queue::next`] gets none.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_worked_on_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_work_comes_again_only_after_it() {
        let queue = Queue::default();
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.depth(), 0);
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_holds() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        queue.done(&"a");
        assert!(
            tokio::time::timeout(Duration::from_secs(120), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn close_wakes_every_waiter() {
        let queue: std::sync::Arc<Queue<u8>> = Default::default();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let q = queue.clone();
                    async move { q.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for waiter in waiters {
            assert_eq!(waiter.await.expect("no panic"), None);
        }
    }
}
