//! Validation of custom resources by schema, with upstream's wording. What an update leaves as it was is not checked
//! again, so that a stricter schema does not lock objects.

use super::schema::{Bounds, Checks, ListType, Schema, Type};
use crate::error::FieldError;
use crate::path::Path;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Checks a value, on updates against the value before.
pub(super) fn validate(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) || (value.is_null() && schema.nullable) {
        return;
    }
    if !fits(schema.kind, value) {
        let wanted = match schema.kind {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::IntOrString | Type::Any => "integer or string",
        };
        errors.push(FieldError::type_invalid(path, value, wanted));
        return;
    }
    if let Some(checks) = &schema.checks {
        check(checks, schema, value, old, path, errors);
    }
    match value {
        Value::Object(entries) => children(schema, entries, old, path, errors),
        Value::Array(items) => elements(schema, items, old, path, errors),
        _ => {}
    }
}

fn fits(kind: Type, value: &Value) -> bool {
    match kind {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Type::IntOrString => value.is_string() || value.is_i64() || value.is_u64(),
    }
}

fn children(
    schema: &Schema,
    entries: &Map<String, Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    for (key, entry) in entries {
        let Some(below) = schema.property(key) else {
            continue;
        };
        let named = schema.properties.contains_key(key.as_str());
        let at = if named { path.field(key) } else { path.key(key) };
        validate(below, entry, old.and_then(|old| old.get(key)), &at, errors);
    }
}

fn elements(
    schema: &Schema,
    items: &[Value],
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let key = |item: &Value| match &schema.list {
        ListType::Set => Some(item.to_string()),
        ListType::Map(keys) => Some(
            keys.iter()
                .map(|key| format!("{}\n", item[key.as_ref()]))
                .collect(),
        ),
        ListType::Atomic => None,
    };
    let mut seen = HashSet::new();
    let before = old
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let at = path.index(index);
        let own = key(item);
        if let Some(own) = own.clone()
            && !seen.insert(own)
        {
            errors.push(FieldError::duplicate(at, item));
        }
        let was = match (&schema.list, own) {
            (ListType::Map(_), Some(own)) => before.iter().find(|other| key(other).as_ref() == Some(&own)),
            _ => before.get(index).filter(|other| *other == item),
        };
        if let Some(below) = schema.items.as_deref() {
            validate(below, item, was, &at, errors);
        }
    }
}

fn check(
    checks: &Checks,
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let before = errors.len();
    if !checks.allowed.is_empty() && !checks.allowed.contains(value) {
        let shown: Vec<String> = checks
            .allowed
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value, &shown));
    }
    match value {
        Value::Number(number) => numbers(checks, number.as_f64().unwrap_or_default(), value, path, errors),
        Value::String(text) => strings(checks, text, value, path, errors),
        Value::Array(items) => {
            bounds(checks.items, items.len(), "items", value, path, errors);
            let mut seen = HashSet::new();
            if checks.unique && !items.iter().all(|item| seen.insert(item.to_string())) {
                errors.push(FieldError::invalid(
                    path,
                    &"array".into(),
                    "should not contain duplicates",
                ));
            }
        }
        Value::Object(entries) => {
            bounds(
                checks.properties,
                entries.len(),
                "properties",
                value,
                path,
                errors,
            );
            let missing = checks
                .required
                .iter()
                .filter(|name| !entries.contains_key(name.as_ref()));
            errors.extend(missing.map(|name| FieldError::required(path.field(name), "")));
        }
        _ => {}
    }
    logic(checks, value, path, errors);
    // Rules run on values that are well formed.
    if errors.len() == before {
        checks
            .rules
            .iter()
            .for_each(|rule| rule.check(schema, value, old, path, errors));
    }
}

fn numbers(checks: &Checks, number: f64, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut fail = |sentence: String| {
        errors.push(FieldError::invalid(
            path,
            value,
            format!("{path} in body should be {sentence}"),
        ))
    };
    match checks.minimum {
        Some((bound, true)) if number <= bound => fail(format!("greater than {bound}")),
        Some((bound, false)) if number < bound => fail(format!("greater than or equal to {bound}")),
        _ => {}
    }
    match checks.maximum {
        Some((bound, true)) if number >= bound => fail(format!("less than {bound}")),
        Some((bound, false)) if number > bound => fail(format!("less than or equal to {bound}")),
        _ => {}
    }
    if let Some(step) = checks
        .multiple_of
        .filter(|step| *step > 0.0 && (number / step).fract() != 0.0)
    {
        fail(format!("a multiple of {step}"));
    }
}

fn strings(checks: &Checks, text: &str, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    bounds(
        checks.length,
        text.chars().count(),
        "chars long",
        value,
        path,
        errors,
    );
    if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        let sentence = format!("{path} in body should match '{pattern}'");
        errors.push(FieldError::invalid(path, value, sentence));
    }
    if let Some(format) = checks
        .format
        .as_deref()
        .filter(|format| !fits_format(format, text))
    {
        let sentence = format!("{path} in body must be of type {format}: {text:?}");
        errors.push(FieldError::invalid(path, value, sentence));
    }
}

fn fits_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => text.parse::<jiff::SignedDuration>().is_ok() || text == "0",
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => crate::names::cidr(text).is_empty(),
        "uuid" => {
            let groups: Vec<usize> = text.split('-').map(str::len).collect();
            groups == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
        }
        "byte" => {
            text.len().is_multiple_of(4)
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        }
        "hostname" => crate::names::dns_subdomain(&text.to_lowercase()).is_empty(),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        "uri" => text.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty()),
        _ => true,
    }
}

fn bounds(
    bounds: Bounds,
    count: usize,
    what: &str,
    value: &Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let shown = |value: &Value| {
        if value.is_string() {
            value.clone()
        } else {
            (count as u64).into()
        }
    };
    if bounds.low.is_some_and(|low| (count as u64) < low) {
        let low = bounds.low.unwrap_or_default();
        let sentence = match what {
            "chars long" => format!("{path} in body should be at least {low} chars long"),
            _ => format!("{path} in body should have at least {low} {what}"),
        };
        errors.push(FieldError::invalid(path, &shown(value), sentence));
    }
    if let Some(high) = bounds.high.filter(|high| count as u64 > *high) {
        let limit = usize::try_from(high).unwrap_or(usize::MAX);
        errors.push(match what {
            "chars long" => FieldError::too_long(path, limit),
            _ => FieldError::too_many(path, count, limit),
        });
    }
}

fn logic(checks: &Checks, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let holds = |schema: &Schema| {
        let mut found = Vec::new();
        validate(schema, value, None, path, &mut found);
        found.is_empty()
    };
    for part in &checks.all_of {
        validate(part, value, None, path, errors);
    }
    if !checks.any_of.is_empty() && !checks.any_of.iter().any(holds) {
        let sentence = format!("{path:} in body must validate at least one schema (anyOf)");
        errors.push(FieldError::invalid(path, &"".into(), sentence));
    }
    if !checks.one_of.is_empty() && checks.one_of.iter().filter(|schema| holds(schema)).count() != 1 {
        let sentence = format!("{path} in body must validate one and only one schema (oneOf)");
        errors.push(FieldError::invalid(path, &"".into(), sentence));
    }
    if checks.not.as_deref().is_some_and(holds) {
        let sentence = format!("{path} in body must not validate the schema (not)");
        errors.push(FieldError::invalid(path, &"".into(), sentence));
    }
}
