//! Cells of device claims and device taints.

use super::{count, elapsed, parse_time};
use serde_json::Value;

/// `pending`, or `allocated` and perhaps `reserved`; `deleted` besides while it goes.
pub(in crate::table) fn claim_state(claim: &Value, _now: jiff::Timestamp) -> Value {
    let is = |pointer: &str| claim.pointer(pointer).is_some_and(|value| !value.is_null());
    let (deleted, allocated) = (is("/metadata/deletionTimestamp"), is("/status/allocation"));
    let reserved = allocated && count(claim.pointer("/status/reservedFor")) > 0;
    let states = [
        ("deleted", deleted),
        ("pending", !deleted && !allocated),
        ("allocated", allocated),
        ("reserved", reserved),
    ];
    let holding: Vec<&str> = states
        .iter()
        .filter(|state| state.1)
        .map(|state| state.0)
        .collect();
    holding.join(",").into()
}

pub(in crate::table) fn taint_age(rule: &Value, now: jiff::Timestamp) -> Value {
    let added = parse_time(rule.pointer("/spec/taint/timeAdded"));
    added.map_or_else(String::new, |added| elapsed(added, now)).into()
}
