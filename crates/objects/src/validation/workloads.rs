//! Rules between fields of controllers of pods.

use super::{Entries, Errors, list, metadata, text};
use crate::error::FieldError;
use crate::path::Path;
use mainstay_semantics::selector::LabelSelector;
use serde_json::{Value, json};

fn object<'a>(entries: &'a Entries, key: &str) -> Option<&'a Entries> {
    entries.get(key).and_then(Value::as_object)
}

pub(super) fn template_metadata(template: &Entries, path: &Path<'_>, errors: &mut Errors) {
    if let Some(meta) = object(template, "metadata") {
        let path = path.field("metadata");
        metadata::labels(meta, &path.field("labels"), errors);
        metadata::annotations(meta, &path.field("annotations"), errors);
    }
}

/// A selector that selects the template's own pods, and a restart policy that fits a controller.
pub(super) fn workload(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("selector");
    let selector = spec.get("selector").unwrap_or(&Value::Null);
    let empty = |value: &Value| {
        value.as_object().is_some_and(|entries| {
            entries.values().all(|part| {
                part.as_object().is_some_and(|o| o.is_empty())
                    || part.as_array().is_some_and(|l| l.is_empty())
            })
        })
    };
    if empty(selector) {
        errors.push(FieldError::invalid(
            at,
            selector,
            "empty selector is invalid for deployment",
        ));
    }
    let labels = spec
        .get("template")
        .and_then(|template| template.pointer("/metadata/labels"));
    let labels = labels.unwrap_or(&Value::Null);
    if let Ok(parsed) = LabelSelector::from_json(selector)
        && !parsed.is_nothing()
        && !empty(selector)
        && !parsed.matches(labels)
    {
        let at = path.field("template");
        let at = at.field("metadata");
        errors.push(FieldError::invalid(
            at.field("labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    let policy = spec
        .get("template")
        .and_then(|template| template.pointer("/spec/restartPolicy"));
    if let Some(policy) = policy.filter(|policy| *policy != "Always") {
        let at = path.field("template");
        let at = at.field("spec");
        errors.push(FieldError::not_supported(
            at.field("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
}

/// The template as a StatefulSet's pods have it: a volume for each claim, in the place of one of the same name.
pub(super) fn with_claims(template: &Value, spec: &Entries) -> Value {
    let mut template = template.clone();
    let names: Vec<&Value> = list(spec, "volumeClaimTemplates")
        .iter()
        .map(|claim| &claim["metadata"]["name"])
        .filter(|name| name.is_string())
        .collect();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return template;
    };
    if names.is_empty() {
        return template;
    }
    let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        let held: Vec<Value> = volumes.iter().map(|volume| volume["name"].clone()).collect();
        let missing = names.into_iter().filter(|name| !held.contains(name));
        volumes.extend(missing.map(|name| json!({"name": name, "emptyDir": {}})));
    }
    template
}

pub(super) fn deployment_strategy(strategy: &Entries, path: &Path<'_>, errors: &mut Errors) {
    if text(strategy, "type") == "Recreate" && strategy.contains_key("rollingUpdate") {
        let sentence = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden(path.field("rollingUpdate"), sentence));
    }
}

pub(super) fn surge_or_unavailable(update: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let zero = |key: &str| update.get(key).is_some_and(|value| value == 0 || value == "0%");
    if zero("maxUnavailable") && zero("maxSurge") {
        let sentence = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            path.field("maxUnavailable"),
            &update["maxUnavailable"],
            sentence,
        ));
    }
}

pub(super) fn job_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let template = path.field("template");
    let at = template.field("spec");
    let policy = spec
        .get("template")
        .and_then(|template| template.pointer("/spec/restartPolicy"));
    if let Some(policy) = policy.filter(|policy| *policy == "Always") {
        errors.push(FieldError::not_supported(
            at.field("restartPolicy"),
            policy,
            &["OnFailure", "Never"],
        ));
    }
    if text(spec, "completionMode") == "Indexed" && !spec.contains_key("completions") {
        let sentence = "when completion mode is Indexed";
        errors.push(FieldError::required(path.field("completions"), sentence));
    }
    let manual = spec.get("manualSelector") == Some(&Value::Bool(true));
    if manual && !spec.contains_key("selector") {
        errors.push(FieldError::required(path.field("selector"), ""));
    }
}

pub(super) fn cron_job_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let schedule = text(spec, "schedule");
    if schedule.contains("TZ") {
        let sentence = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(
            path.field("schedule"),
            &schedule.into(),
            sentence,
        ));
    } else if !schedule.is_empty() && !is_schedule(schedule) {
        let sentence = format!(
            "expected exactly 5 fields, found {}: [{schedule}]",
            schedule.split_whitespace().count()
        );
        errors.push(FieldError::invalid(
            path.field("schedule"),
            &schedule.into(),
            sentence,
        ));
    }
}

/// Five fields of lists, ranges and steps, or an `@` word. Names of months and days are words of three letters.
fn is_schedule(schedule: &str) -> bool {
    if let Some(word) = schedule.strip_prefix('@') {
        let known = [
            "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly",
        ];
        return known.contains(&word)
            || word
                .strip_prefix("every ")
                .is_some_and(|rest| !rest.trim().is_empty());
    }
    const BOUNDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    fields.len() == BOUNDS.len()
        && fields
            .iter()
            .zip(BOUNDS)
            .all(|(field, bounds)| is_schedule_field(field, bounds))
}

fn is_schedule_field(field: &str, (low, high): (u32, u32)) -> bool {
    field.split(',').all(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let place = |text: &str| {
            text.parse::<u32>()
                .is_ok_and(|number| (low..=high).contains(&number))
                || (text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic()))
        };
        let range_fits =
            matches!(range, "*" | "?") || range.split('-').all(place) && range.split('-').count() <= 2;
        range_fits && step.parse::<u32>().is_ok_and(|step| step > 0)
    })
}

pub(super) fn autoscaler(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    let (low, high) = (
        number("minReplicas").unwrap_or(1),
        number("maxReplicas").unwrap_or_default(),
    );
    let value = |key: &str| spec.get(key).cloned().unwrap_or_else(|| 0.into());
    if low < 1 {
        let sentence = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(
            path.field("minReplicas"),
            &value("minReplicas"),
            sentence,
        ));
    }
    if high < 1 {
        let sentence = "must be greater than 0";
        errors.push(FieldError::invalid(
            path.field("maxReplicas"),
            &value("maxReplicas"),
            sentence,
        ));
    } else if high < low {
        let sentence = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(
            path.field("maxReplicas"),
            &value("maxReplicas"),
            sentence,
        ));
    }
}

pub(super) fn disruption_budget(budget: &Entries, _path: &Path<'_>, errors: &mut Errors) {
    let Some(spec) = object(budget, "spec") else {
        return;
    };
    if spec.contains_key("minAvailable") && spec.contains_key("maxUnavailable") {
        let sentence = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(
            "spec",
            &Value::Object(spec.clone()),
            sentence,
        ));
    }
}
