//! Rules between the fields of device claims.

use super::{Entries, Errors, list, text};
use crate::error::FieldError;
use crate::path::Path;
use serde_json::Value;

/// A request says exactly what it wants, or names alternatives.
pub(super) fn request(request: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let alternatives = !list(request, "firstAvailable").is_empty();
    let sentence = "exactly one of `exactly` or `firstAvailable` is required";
    match (request.contains_key("exactly"), alternatives) {
        (false, false) => errors.push(FieldError::required(path, sentence)),
        (true, true) => {
            let sentence = format!("{sentence}, but multiple fields are set");
            errors.push(FieldError::invalid(path, &Value::Null, sentence));
        }
        _ => {}
    }
}

/// A count goes with the mode.
pub(super) fn amount(request: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let zero = Value::from(0);
    let count = request.get("count").unwrap_or(&zero);
    let number = count.as_i64().unwrap_or_default();
    let sentence = match text(request, "allocationMode") {
        "All" if number != 0 => "must not be specified when allocationMode is 'All'",
        "ExactCount" if number <= 0 => "must be greater than zero",
        _ => return,
    };
    errors.push(FieldError::invalid(path.field("count"), count, sentence));
}

/// A constraint and a configuration name requests of the claim, or alternatives of them as `request/alternative`.
pub(super) fn claim(claim: &Entries, path: &Path<'_>, errors: &mut Errors) {
    for field in ["constraints", "config"] {
        for (at, part) in list(claim, field).iter().enumerate() {
            let names = part["requests"].as_array().into_iter().flatten();
            for (index, name) in names.enumerate() {
                if !is_requested(claim, name.as_str().unwrap_or_default()) {
                    let (field, requests) = (path.field(field), "requests");
                    let part = field.index(at);
                    let list = part.field(requests);
                    let sentence = "must be the name of a request in the claim or the name of a request and a \
                                    subrequest separated by '/'";
                    errors.push(FieldError::invalid(list.index(index), name, sentence));
                }
            }
        }
    }
}

fn is_requested(claim: &Entries, name: &str) -> bool {
    let (name, alternative) = match name.split_once('/') {
        Some((name, alternative)) => (name, Some(alternative)),
        None => (name, None),
    };
    let mut requests = list(claim, "requests").iter();
    let Some(request) = requests.find(|request| request["name"] == name) else {
        return false;
    };
    let mut alternatives = request["firstAvailable"].as_array().into_iter().flatten();
    alternative.is_none_or(|wanted| alternatives.any(|one| one["name"] == wanted))
}

/// A slice says where its devices can be used in one way.
pub(super) fn slice(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let is_set = |key: &&&str| !matches!(spec.get(**key), None | Some(Value::Bool(false)));
    let ways = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let set: Vec<&&str> = ways.iter().filter(is_set).collect();
    let sentence =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        1 => {}
        0 => errors.push(FieldError::required(path, sentence)),
        _ => {
            let names: Vec<String> = set.iter().map(|name| format!("`{name}`")).collect();
            let given = Value::from(format!("{{{}}}", names.join(", ")));
            errors.push(FieldError::invalid(
                path,
                &given,
                format!("{sentence}, but multiple fields are set"),
            ));
        }
    }
}
