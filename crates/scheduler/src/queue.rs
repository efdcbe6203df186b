//! The scheduling queue: pods to try now, pods that rest after a failure, pods that wait for the cluster to change.
//!
//! Pure: times are [`Duration`]s of a monotonic clock that the caller passes in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mainstay_placement::Pod;

/// The shortest and longest rest after a failed try, as upstream's defaults.
pub const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// See [`INITIAL_BACKOFF`].
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Pods without any event are tried again after this time, in case an event was missed.
pub const FLUSH_AFTER: Duration = Duration::from_secs(300);

/// Where a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Resting(Duration),
    Waiting(Duration),
    InFlight,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    arrival: u64,
    place: Place,
    /// Value of the move counter when the pod was taken.
    taken_at_move: u64,
}

/// The order of the active part: priority, then arrival.
type Rank = (std::cmp::Reverse<i32>, u64, Arc<str>);

/// The queue, by pod uid.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Rank>,
    resting: BTreeSet<(Duration, Arc<str>)>,
    waiting: usize,
    arrivals: u64,
    moves: u64,
    backoff: Option<(Duration, Duration)>,
}

impl Queue {
    /// Makes a queue with other rests than the default.
    pub fn with_backoff(initial: Duration, max: Duration) -> Self {
        Queue {
            backoff: Some((initial, max)),
            ..Queue::default()
        }
    }

    /// Adds a pod to try, or replaces a known one: a changed pod is tried at once.
    pub fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid.clone();
        if let Some(entry) = self.entries.get(&uid) {
            let same = entry.pod.shape == pod.shape;
            if same || entry.place == Place::InFlight {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.pod = pod;
                }
                return;
            }
        }
        self.remove(&uid);
        self.arrivals += 1;
        let entry = Entry {
            pod,
            attempts: 0,
            arrival: self.arrivals,
            place: Place::Active,
            taken_at_move: 0,
        };
        self.active.insert(rank(&entry));
        self.entries.insert(uid, entry);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.detach(&entry);
        }
    }

    /// Takes the next pod to try: the highest priority, then the longest wait.
    pub fn next(&mut self, now: Duration) -> Option<Arc<Pod>> {
        self.wake_rested(now);
        let (_, _, uid) = self.active.pop_first()?;
        let moves = self.moves;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        entry.taken_at_move = moves;
        Some(entry.pod.clone())
    }

    /// Reports that a pod found no place: it waits for an event; if one came meanwhile it only rests.
    pub fn unschedulable(&mut self, uid: &str, now: Duration) {
        let missed_event = self
            .entries
            .get(uid)
            .is_some_and(|entry| entry.taken_at_move != self.moves);
        if missed_event {
            return self.rest(uid, now);
        }
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Waiting(now);
            self.waiting += 1;
        }
    }

    /// Reports that a try failed for a passing reason: the pod rests, longer each time.
    pub fn rest(&mut self, uid: &str, now: Duration) {
        let Some(attempts) = self.entries.get(uid).map(|entry| entry.attempts) else {
            return;
        };
        let until = now + self.backoff(attempts);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Resting(until);
            self.resting.insert((until, entry.pod.uid.clone()));
        }
    }

    /// Tells the queue that the cluster changed: waiting pods that `affected` accepts are tried again.
    pub fn cluster_changed(&mut self, now: Duration, affected: impl Fn(&Pod) -> bool) {
        self.moves += 1;
        if self.waiting == 0 {
            return;
        }
        let due: Vec<Arc<str>> = self
            .entries
            .values()
            .filter(|entry| matches!(entry.place, Place::Waiting(_)) && affected(&entry.pod))
            .map(|entry| entry.pod.uid.clone())
            .collect();
        due.iter().for_each(|uid| self.retry(uid, now));
    }

    /// Tries pods again that waited very long without an event.
    pub fn flush(&mut self, now: Duration) {
        let old = |entry: &&Entry| matches!(entry.place, Place::Waiting(since) if since + FLUSH_AFTER <= now);
        let due: Vec<Arc<str>> = self
            .entries
            .values()
            .filter(old)
            .map(|entry| entry.pod.uid.clone())
            .collect();
        due.iter().for_each(|uid| self.retry(uid, now));
    }

    /// When the next resting pod is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// How many pods are active, resting and waiting.
    pub fn lengths(&self) -> (usize, usize, usize) {
        (self.active.len(), self.resting.len(), self.waiting)
    }

    /// Moves a waiting pod on: its rest counts from when it began to wait.
    fn retry(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        let Place::Waiting(since) = entry.place else {
            return;
        };
        self.waiting -= 1;
        let until = since + self.backoff(entry.attempts);
        let uid = entry.pod.uid.clone();
        let place = if until <= now {
            Place::Active
        } else {
            Place::Resting(until)
        };
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = place;
            match place {
                Place::Resting(until) => drop(self.resting.insert((until, uid))),
                _ => drop(self.active.insert(rank(entry))),
            }
        }
    }

    fn wake_rested(&mut self, now: Duration) {
        while self.resting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, uid)) = self.resting.pop_first() else {
                return;
            };
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.place = Place::Active;
                self.active.insert(rank(entry));
            }
        }
    }

    fn detach(&mut self, entry: &Entry) {
        match entry.place {
            Place::Active => drop(self.active.remove(&rank(entry))),
            Place::Resting(until) => drop(self.resting.remove(&(until, entry.pod.uid.clone()))),
            Place::Waiting(_) => self.waiting -= 1,
            Place::InFlight => {}
        }
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let (initial, max) = self.backoff.unwrap_or((INITIAL_BACKOFF, MAX_BACKOFF));
        initial
            .saturating_mul(1 << attempts.saturating_sub(1).min(16))
            .min(max)
    }
}

fn rank(entry: &Entry) -> Rank {
    (
        std::cmp::Reverse(entry.pod.shape.priority),
        entry.arrival,
        entry.pod.uid.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_placement::Shape;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(uid: &str, priority: i32) -> Arc<Pod> {
        let shape = Shape {
            priority,
            ..Shape::default()
        };
        Arc::new(Pod {
            uid: uid.into(),
            name: uid.into(),
            shape: Arc::new(shape),
            ..Pod::default()
        })
    }

    fn taken(queue: &mut Queue, now: Duration) -> Option<String> {
        queue.next(now).map(|pod| pod.uid.to_string())
    }

    #[test]
    fn priority_comes_before_arrival() {
        let mut queue = Queue::default();
        [("a", 0), ("b", 0), ("c", 9)]
            .iter()
            .for_each(|(uid, priority)| queue.add(pod(uid, *priority)));
        let order: Vec<String> = std::iter::from_fn(|| taken(&mut queue, SECOND)).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_an_event_and_then_rests() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        taken(&mut queue, SECOND);
        queue.unschedulable("a", SECOND);
        assert_eq!(taken(&mut queue, SECOND * 60), None);
        queue.cluster_changed(SECOND, |_| true);
        assert_eq!(taken(&mut queue, SECOND), None, "it rests a second first");
        assert_eq!(queue.next_due(), Some(SECOND * 2));
        assert_eq!(taken(&mut queue, SECOND * 2).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_try_is_not_lost() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        taken(&mut queue, SECOND);
        queue.cluster_changed(SECOND, |_| true);
        queue.unschedulable("a", SECOND);
        assert_eq!(taken(&mut queue, SECOND * 2).as_deref(), Some("a"));
    }

    #[test]
    fn rests_double_up_to_ten_seconds_and_forgotten_pods_flush() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        let mut now = SECOND;
        let mut rests = Vec::new();
        for _ in 0..6 {
            taken(&mut queue, now);
            queue.rest("a", now);
            let due = queue.next_due().expect("it rests");
            rests.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(rests, [1, 2, 4, 8, 10, 10]);
        taken(&mut queue, now);
        queue.unschedulable("a", now);
        queue.flush(now + FLUSH_AFTER);
        assert!(taken(&mut queue, now + FLUSH_AFTER).is_some());
    }

    #[test]
    fn a_changed_pod_is_tried_at_once_and_a_removed_one_never() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        taken(&mut queue, SECOND);
        queue.unschedulable("a", SECOND);
        queue.add(pod("a", 5));
        assert_eq!(taken(&mut queue, SECOND).as_deref(), Some("a"));
        queue.remove("a");
        queue.unschedulable("a", SECOND);
        assert_eq!(queue.lengths(), (0, 0, 0));
    }
}
