//! Compares a scenario's outcome with the outcomes a table accepts.
//!
//! Compared: growth, deleted nodes, final sizes, and why nodes stay. With `scoreBy: count` names may differ
//! (the peer breaks ties by chance), so totals and the numbers of each reason are compared instead.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Tells how the outcome differs from each accepted one; `None` when it equals one of them.
pub fn difference(outcome: &Value, expect: &Value, score_by: &str) -> Option<String> {
    let view = if score_by == "count" { totals } else { exact };
    let ours = view(outcome);
    let accepted: Vec<Value> = expect.as_array().into_iter().flatten().map(view).collect();
    if accepted.contains(&ours) {
        return None;
    }
    let first = accepted.first().cloned().unwrap_or(Value::Null);
    Some(format!("expected {first}, came {ours}"))
}

fn exact(outcome: &Value) -> Value {
    let step = |step: &Value| {
        let reasons: BTreeMap<&String, Value> = step["unremovable"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(node, why)| (node, json!([why["reason"], why["podReason"]])))
            .collect();
        json!({"increase": step["increase"], "deleted": step["deleted"], "stays": reasons})
    };
    let steps: Vec<Value> = outcome["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(step)
        .collect();
    json!({"steps": steps, "finalTarget": outcome["finalTarget"]})
}

fn totals(outcome: &Value) -> Value {
    let sum = |map: &Value| -> u64 {
        map.as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, count)| count.as_u64())
            .sum()
    };
    let step = |step: &Value| {
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for (_, why) in step["unremovable"].as_object().into_iter().flatten() {
            *reasons
                .entry(format!("{} {}", why["reason"], why["podReason"]))
                .or_default() += 1;
        }
        let deleted = step["deleted"].as_array().map_or(0, Vec::len);
        json!({"increase": sum(&step["increase"]), "deleted": deleted, "stays": reasons})
    };
    let steps: Vec<Value> = outcome["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(step)
        .collect();
    json!({"steps": steps, "finalTarget": sum(&outcome["finalTarget"])})
}
