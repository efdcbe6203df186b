//! What the autoscaler remembers between passes. Serializable, so that a restart loses no timer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A growth that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The group.
    pub group: String,
    /// How many machines.
    pub count: usize,
    /// When.
    pub at: i64,
}

/// A group that rests after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    /// Until when.
    pub until: i64,
    /// How long this rest is.
    pub length: i64,
    /// When the failure was noticed.
    pub since: i64,
}

/// Timers and orders; times are seconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Since when each node is unneeded.
    pub unneeded_since: BTreeMap<String, i64>,
    /// Until when a node that could not go is left alone.
    pub unremovable_until: BTreeMap<String, i64>,
    /// When each node's deletion began.
    pub deleting_since: BTreeMap<String, i64>,
    /// Growth under way.
    pub ordered: Vec<Ordered>,
    /// Groups that rest.
    pub resting: BTreeMap<String, Resting>,
    /// The last scale-up.
    pub last_scale_up: Option<i64>,
    /// The last deletion.
    pub last_deletion: Option<i64>,
    /// The last failed deletion.
    pub last_failure: Option<i64>,
}

impl State {
    /// Tells whether a group rests after a failure.
    pub fn rests(&self, group: &str, now: i64) -> bool {
        self.resting.get(group).is_some_and(|rest| rest.until > now)
    }

    /// Notes a failure of a group: it rests, twice as long as the last time.
    pub fn failed(&mut self, group: &str, now: i64, (first, longest, forget): (i64, i64, i64)) {
        let last = self.resting.get(group).filter(|rest| rest.since + forget > now);
        let length = last.map_or(first, |rest| (rest.length * 2).min(longest));
        self.resting.insert(
            group.to_owned(),
            Resting {
                until: now + length,
                length,
                since: now,
            },
        );
    }
}
