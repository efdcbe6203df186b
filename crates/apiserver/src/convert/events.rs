//! Core v1 Events (stored) and events.k8s.io/v1 Events: the same facts under other names.

use serde_json::{Map, Value};

/// (core, events.k8s.io) names of fields that only change their name.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Core → events.k8s.io.
pub fn to_new(event: &mut Value) {
    rename(event, |(core, new)| (core, new));
}

/// events.k8s.io → core.
pub fn to_core(event: &mut Value) {
    rename(event, |(core, new)| (new, core));
}

fn rename(
    event: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map): Option<&mut Map<String, Value>> = event.as_object_mut() else {
        return;
    };
    for (from, to) in RENAMED.map(direction) {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
