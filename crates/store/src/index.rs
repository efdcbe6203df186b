//! The live entries of a keyspace: by key for single reads and writes, in order for ranges.
//!
//! Finding a key in an ordered map of many entries reads the texts of some thirty others, each from a place of its own. The
//! order is needed only by ranges, and changes only when a key comes or goes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeBounds;

use crate::model::Key;
use crate::space::Slot;

/// See the module's text. Invariant: both parts have the same keys.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: HashMap<Key, Slot>,
    order: BTreeSet<Key>,
}

impl Index {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        self.slots.get_mut(key)
    }

    /// Sets a slot and returns the one before.
    pub(crate) fn insert(&mut self, key: Key, slot: Slot) -> Option<Slot> {
        match self.slots.entry(key) {
            Entry::Occupied(mut there) => Some(there.insert(slot)),
            Entry::Vacant(free) => {
                self.order.insert(free.key().clone());
                free.insert(slot);
                None
            }
        }
    }

    /// Removes a slot and returns it.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.order.remove(key);
        Some(slot)
    }

    /// Every key, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.order.iter()
    }

    /// The entries within these bounds, in order.
    pub(crate) fn range(&self, bounds: impl RangeBounds<Key>) -> impl Iterator<Item = (&Key, &Slot)> {
        let both = |key| Some((key, self.slots.get(key)?));
        self.order.range(bounds).filter_map(both)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::model::Class;

    fn slot(revision: u64) -> Slot {
        Slot {
            value: Bytes::new(),
            revision,
            class: Class::Durable,
            expires: 0,
            segment: 0,
            log_bytes: 0,
        }
    }

    /// Random changes, beside a plain ordered map.
    #[test]
    fn it_is_an_ordered_map() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for revision in 1..20_000 {
            let (namespace, name) = (rng.u8(..4).to_string(), rng.u8(..60).to_string());
            let key = Key::new("core/pods", &namespace, &name);
            let (ours, expected) = match rng.bool() {
                true => (
                    index.insert(key.clone(), slot(revision)),
                    model.insert(key, revision),
                ),
                false => (index.remove(&key), model.remove(&key)),
            };
            assert_eq!(ours.map(|slot| slot.revision), expected);
            let from = Key::new("core/pods", &rng.u8(..5).to_string(), &rng.u8(..60).to_string());
            assert_eq!(
                index.get(&from).map(|slot| slot.revision),
                model.get(&from).copied()
            );
            let ours = index
                .range(from.clone()..)
                .map(|(key, slot)| (key, slot.revision));
            assert!(ours.eq(model.range(from..).map(|(key, revision)| (key, *revision))));
            assert_eq!(index.is_empty(), model.is_empty());
        }
        assert!(index.keys().eq(model.keys()));
    }
}
