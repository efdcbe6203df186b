//! Differential test: random transactions against a plain ordered map that keeps every past state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_store::{Condition, Entry, Error, Key, Op, Prefix, Store, WatchItem};
use proptest::prelude::*;

/// One random step; numbers choose among few keys so that they meet.
#[derive(Debug, Clone)]
pub enum Step {
    Put {
        keys: Vec<u8>,
        value: u8,
    },
    Delete {
        key: u8,
    },
    /// Put only if the key is absent, or has the revision it really has (or a wrong one).
    Guarded {
        key: u8,
        absent: bool,
        wrong: bool,
    },
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (prop::collection::btree_set(0u8..12, 1..4), any::<u8>()).prop_map(|(keys, value)| Step::Put {
            keys: keys.into_iter().collect(),
            value
        }),
        (0u8..12).prop_map(|key| Step::Delete { key }),
        (0u8..12, any::<bool>(), any::<bool>()).prop_map(|(key, absent, wrong)| Step::Guarded {
            key,
            absent,
            wrong
        }),
    ];
    prop::collection::vec(step, 1..60)
}

fn key(number: u8) -> Key {
    let resource = if number.is_multiple_of(2) {
        "core/pods"
    } else {
        "apps/deployments"
    };
    let namespace = if number < 6 { "a" } else { "b" };
    Key::new(resource, namespace, &format!("k{number}"))
}

type State = BTreeMap<Key, (Vec<u8>, u64)>;

/// The reference: all states by revision.
struct Model {
    states: BTreeMap<u64, State>,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last_key_value().expect("the first state").1
    }

    fn holds(&self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| match condition {
            Condition::Absent(key) => !self.now().contains_key(key),
            Condition::Revision(key, revision) => self.now().get(key).is_some_and(|(_, own)| own == revision),
        })
    }

    fn apply(&mut self, revision: u64, ops: &[Op]) {
        let mut state = self.now().clone();
        for op in ops {
            match op {
                Op::Put { key, value, .. } => drop(state.insert(key.clone(), (value.to_vec(), revision))),
                Op::Delete { key } => drop(state.remove(key)),
            }
        }
        self.states.insert(revision, state);
    }
}

fn plan(step: &Step, model: &Model) -> (Vec<Condition>, Vec<Op>) {
    match step {
        Step::Put { keys, value } => (
            vec![],
            keys.iter()
                .map(|number| Op::put(key(*number), vec![*value]))
                .collect(),
        ),
        Step::Delete { key: number } => (vec![], vec![Op::delete(key(*number))]),
        Step::Guarded {
            key: number,
            absent: true,
            ..
        } => (
            vec![Condition::Absent(key(*number))],
            vec![Op::put(key(*number), "new")],
        ),
        Step::Guarded {
            key: number, wrong, ..
        } => {
            let real = model
                .now()
                .get(&key(*number))
                .map_or(7, |(_, revision)| *revision);
            let condition = Condition::Revision(key(*number), if *wrong { real + 1000 } else { real });
            (vec![condition], vec![Op::put(key(*number), "next")])
        }
    }
}

fn flat(entries: Vec<Entry>) -> State {
    entries
        .into_iter()
        .map(|entry| (entry.key, (entry.value.to_vec(), entry.revision)))
        .collect()
}

async fn read_in_pages(store: &dyn Store, at: u64) -> State {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.key.clone());
        let page = store
            .range(&Prefix::All, Some(at), after.as_ref(), 3)
            .await
            .expect("a page");
        entries.extend(page.entries);
        if !page.more {
            return flat(entries);
        }
    }
}

/// Runs the steps on store and model and compares the present, every past and the whole watch.
pub async fn check(store: Arc<dyn Store>, steps: Vec<Step>) {
    let start = store.current().await.expect("a read");
    let mut model = Model {
        states: BTreeMap::from([(start, State::new())]),
    };
    let mut watch = store.watch(Prefix::All, start).await.expect("a watch");
    for step in &steps {
        let (conditions, ops) = plan(step, &model);
        let expected = model.holds(&conditions);
        match store.txn(conditions, ops.clone()).await {
            Ok(revision) => {
                assert!(expected, "{step:?} must conflict");
                model.apply(revision, &ops);
            }
            Err(Error::Conflict { .. }) => assert!(!expected, "{step:?} must not conflict"),
            Err(other) => panic!("{other}"),
        }
    }
    for (revision, state) in &model.states {
        assert_eq!(
            read_in_pages(&*store, *revision).await,
            *state,
            "at revision {revision}"
        );
    }
    let newest = *model.states.last_key_value().expect("the first state").0;
    let mut seen = State::new();
    // Where every step conflicted nothing was written, and a watch would wait for ever.
    let mut at = start;
    while at < newest {
        at = match watch.next().await.expect("the watch works") {
            WatchItem::Compacted(floor) => panic!("compacted {floor}"),
            WatchItem::Progress(revision) => revision,
            WatchItem::Revision(revision) => {
                for event in revision.events.iter() {
                    let before = seen.get(&event.key).map(|(value, _)| value.clone());
                    assert_eq!(event.prev.as_ref().map(|value| value.to_vec()), before);
                    match &event.value {
                        Some(value) => {
                            drop(seen.insert(event.key.clone(), (value.to_vec(), revision.revision)))
                        }
                        None => drop(seen.remove(&event.key)),
                    }
                }
                assert_eq!(
                    seen, model.states[&revision.revision],
                    "watched at {}",
                    revision.revision
                );
                revision.revision
            }
        };
    }
}

#[tokio::test]
async fn where_every_step_conflicts_nothing_is_watched() {
    let step = Step::Guarded {
        key: 0,
        absent: false,
        wrong: false,
    };
    let done = check(super::memory(), vec![step]);
    tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .expect("it ends");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn memory_equals_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(check(super::memory(), steps));
    }
}
