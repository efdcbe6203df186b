//! Cells of events, old and new form.

use super::{UNKNOWN, elapsed, parse_time, text_at};
use serde_json::Value;

/// The first of several instants that is set.
fn first_age(event: &Value, pointers: &[&str], now: jiff::Timestamp) -> Value {
    let found = pointers
        .iter()
        .find_map(|pointer| parse_time(event.pointer(pointer)));
    found.map_or_else(|| UNKNOWN.into(), |since| elapsed(since, now).into())
}

pub(in crate::table) fn last_seen(event: &Value, now: jiff::Timestamp) -> Value {
    let order = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/firstTimestamp",
    ];
    first_age(event, &order, now)
}

pub(in crate::table) fn first_seen(event: &Value, now: jiff::Timestamp) -> Value {
    first_age(
        event,
        &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"],
        now,
    )
}

fn about<'a>(event: &'a Value, key: &str) -> &'a str {
    let place = if event.get("regarding").is_some() {
        "regarding"
    } else {
        "involvedObject"
    };
    text_at(event, &format!("/{place}/{key}"))
}

pub(in crate::table) fn event_object(event: &Value, _now: jiff::Timestamp) -> Value {
    let kind = about(event, "kind").to_lowercase();
    match about(event, "name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

pub(in crate::table) fn event_field(event: &Value, _now: jiff::Timestamp) -> Value {
    about(event, "fieldPath").into()
}

pub(in crate::table) fn event_source(event: &Value, _now: jiff::Timestamp) -> Value {
    let first = |pointers: [&str; 3]| {
        pointers
            .into_iter()
            .map(|pointer| text_at(event, pointer))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    };
    let component = first(["/source/component", "/reportingComponent", "/reportingController"]);
    let host = first(["/source/host", "/reportingInstance", "/deprecatedSource/host"]);
    if host.is_empty() {
        component.into()
    } else {
        format!("{component}, {host}").into()
    }
}

pub(in crate::table) fn event_message(event: &Value, _now: jiff::Timestamp) -> Value {
    match text_at(event, "/message") {
        "" => text_at(event, "/note").trim().into(),
        message => message.trim().into(),
    }
}

pub(in crate::table) fn event_count(event: &Value, _now: jiff::Timestamp) -> Value {
    let counts = ["/series/count", "/count", "/deprecatedCount"];
    let found = counts
        .iter()
        .find_map(|pointer| event.pointer(pointer).and_then(Value::as_i64));
    found.filter(|count| *count > 0).unwrap_or(1).into()
}
