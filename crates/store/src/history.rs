//! The recent revisions of one keyspace: a ring bounded by bytes and age, from which watches and reads of the past
//! are served. Invariant: every revision above the floor that touched a resource is present.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Event, Key, Prefix, Revision};

/// What a kept revision costs besides its superseded values: the ring slot, the event, the key's handles.
const EVENT_BYTES: usize = 160;
/// Volatile revisions get this fraction of the bytes.
const VOLATILE_SHARE: usize = 8;

#[derive(Debug)]
struct Kept {
    revision: Revision,
    at: Duration,
    bytes: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct History {
    ring: VecDeque<Kept>,
    volatile: VecDeque<u64>,
    bytes: usize,
    volatile_bytes: usize,
    floor: u64,
    volatile_floors: HashMap<Arc<str>, u64>,
    max_bytes: usize,
    max_age: Duration,
}

/// What a watcher finds in the ring.
#[derive(Debug)]
pub(crate) enum Scan {
    /// The watcher was too slow.
    Compacted(u64),
    /// Matching revisions, and the revision up to which everything was looked at.
    Found(Vec<Revision>, u64),
}

impl History {
    pub(crate) fn new(floor: u64, max_bytes: usize, max_age: Duration) -> Self {
        History {
            ring: VecDeque::new(),
            volatile: VecDeque::new(),
            bytes: 0,
            volatile_bytes: 0,
            floor,
            volatile_floors: HashMap::new(),
            max_bytes,
            max_age,
        }
    }

    /// Adds the next revision and forgets what is over the bounds.
    pub(crate) fn push(&mut self, revision: Revision, volatile: bool, at: Duration) {
        let superseded = |event: &Event| event.prev.as_ref().map_or(0, |bytes| bytes.len()) + EVENT_BYTES;
        let bytes = revision.events.iter().map(superseded).sum();
        self.bytes += bytes;
        if volatile {
            self.volatile_bytes += bytes;
            self.volatile.push_back(revision.revision);
        }
        self.ring.push_back(Kept { revision, at, bytes });
        while self.volatile_bytes > self.max_bytes / VOLATILE_SHARE {
            self.forget_oldest_volatile();
        }
        self.trim(at);
    }

    fn trim(&mut self, now: Duration) {
        while let Some(oldest) = self.ring.front() {
            if self.bytes <= self.max_bytes && now.saturating_sub(oldest.at) <= self.max_age {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.ring.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes;
        self.floor = self.floor.max(oldest.revision.revision);
        if self.volatile.front() == Some(&oldest.revision.revision) {
            self.volatile.pop_front();
            self.volatile_bytes -= oldest.bytes;
        }
    }

    fn forget_oldest_volatile(&mut self) {
        let Some(revision) = self.volatile.pop_front() else {
            return;
        };
        let Ok(index) = self
            .ring
            .binary_search_by_key(&revision, |kept| kept.revision.revision)
        else {
            return;
        };
        let kept = &mut self.ring[index];
        self.bytes -= kept.bytes;
        self.volatile_bytes -= kept.bytes;
        kept.bytes = 0;
        let events = std::mem::replace(&mut kept.revision.events, Arc::from([]));
        for event in events.iter() {
            self.volatile_floors.insert(event.key.resource.clone(), revision);
        }
    }

    /// Forgets everything up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: u64) {
        while self
            .ring
            .front()
            .is_some_and(|oldest| oldest.revision.revision <= revision)
        {
            self.forget_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    /// The lowest revision whose successors are all known for this prefix.
    pub(crate) fn floor(&self, prefix: &Prefix) -> u64 {
        let volatile = self.volatile_floors.iter();
        let touched = volatile.filter(|(resource, _)| prefix.touches(resource));
        touched.map(|(_, floor)| *floor).fold(self.floor, u64::max)
    }

    /// Collects up to `limit` matching revisions after `after`; `newest` is the keyspace's published revision.
    pub(crate) fn scan(&self, prefix: &Prefix, after: u64, newest: u64, limit: usize) -> Scan {
        let floor = self.floor(prefix);
        if after < floor {
            return Scan::Compacted(floor);
        }
        let mut found = Vec::new();
        for kept in self.ring.range(self.first_after(after)..) {
            if let Some(part) = select(&kept.revision, prefix) {
                found.push(part);
            }
            if found.len() == limit {
                return Scan::Found(found, kept.revision.revision);
            }
        }
        Scan::Found(found, newest)
    }

    /// For every key of the prefix that changed after `at`: its value and revision back then (`None` = absent).
    pub(crate) fn undo(&self, prefix: &Prefix, at: u64) -> BTreeMap<Key, Option<(bytes::Bytes, u64)>> {
        let mut past = BTreeMap::new();
        for kept in self.ring.range(self.first_after(at)..) {
            for event in kept
                .revision
                .events
                .iter()
                .filter(|event| prefix.contains(&event.key))
            {
                let before = event.prev.clone().map(|value| (value, event.prev_revision));
                past.entry(event.key.clone()).or_insert(before);
            }
        }
        past
    }

    fn first_after(&self, revision: u64) -> usize {
        self.ring
            .partition_point(|kept| kept.revision.revision <= revision)
    }
}

fn select(revision: &Revision, prefix: &Prefix) -> Option<Revision> {
    let matching = revision
        .events
        .iter()
        .filter(|event| prefix.contains(&event.key))
        .count();
    if matching == 0 {
        return None;
    }
    if matching == revision.events.len() {
        return Some(revision.clone());
    }
    let events = revision
        .events
        .iter()
        .filter(|event| prefix.contains(&event.key))
        .cloned()
        .collect();
    Some(Revision {
        revision: revision.revision,
        events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, resource: &str, prev_bytes: usize) -> Revision {
        let event = Event {
            key: Key::new(resource, "", "a"),
            value: Some("x".into()),
            prev: Some(vec![0; prev_bytes].into()),
            prev_revision: revision - 1,
        };
        Revision {
            revision,
            events: Arc::from([event]),
        }
    }

    fn found(history: &History, prefix: &Prefix, after: u64) -> String {
        match history.scan(prefix, after, 99, 10) {
            Scan::Compacted(floor) => format!("compacted {floor}"),
            Scan::Found(found, upto) => {
                let found: Vec<_> = found.iter().map(|revision| revision.revision).collect();
                format!("{found:?} upto {upto}")
            }
        }
    }

    #[test]
    fn bytes_bound_the_ring_and_slow_readers_are_compacted() {
        let mut history = History::new(1, 1000, Duration::from_secs(60));
        for revision in 2..10 {
            history.push(change(revision, "core/pods", 300), false, Duration::ZERO);
        }
        assert_eq!(found(&history, &Prefix::All, 1), "compacted 7");
        assert_eq!(found(&history, &Prefix::All, 7), "[8, 9] upto 99");
    }

    #[test]
    fn age_bounds_the_ring() {
        let mut history = History::new(1, 10_000, Duration::from_secs(60));
        history.push(change(2, "core/pods", 1), false, Duration::ZERO);
        history.push(change(3, "core/pods", 1), false, Duration::from_secs(61));
        assert_eq!(found(&history, &Prefix::All, 1), "compacted 2");
    }

    #[test]
    fn lease_churn_does_not_push_out_other_history() {
        let mut history = History::new(1, 8000, Duration::from_secs(60));
        history.push(change(2, "core/pods", 10), false, Duration::ZERO);
        for revision in 3..100 {
            history.push(
                change(revision, "coordination.k8s.io/leases", 300),
                true,
                Duration::ZERO,
            );
        }
        let pods = Prefix::Resource("core/pods".into());
        let leases = Prefix::Resource("coordination.k8s.io/leases".into());
        assert_eq!(found(&history, &pods, 1), "[2] upto 99");
        assert_eq!(found(&history, &leases, 1), "compacted 97");
        assert_eq!(found(&history, &leases, 97), "[98, 99] upto 99");
    }
}
