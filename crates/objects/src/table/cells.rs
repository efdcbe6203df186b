//! Cells that take more than one field.

mod devices;
mod events;
mod network;

pub(super) use devices::{claim_state, taint_age};
pub(super) use events::{
    event_count, event_field, event_message, event_object, event_source, first_seen, last_seen,
};
pub(super) use network::{
    class_parameters, endpoints, external_address, external_ip, ingress_hosts, ingress_ports, internal_ip,
    load_balancer, pod_selector, service_ports, slice_endpoints, slice_ports,
};

use mainstay_semantics::selector::LabelSelector;
use serde_json::Value;

const NONE: &str = "<none>";

const UNKNOWN: &str = "<unknown>";

pub(super) fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A value as text; nothing for an absent one.
pub(super) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(super) fn count(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(entries)) => entries.len(),
        _ => 0,
    }
}

pub(super) fn parse_time(value: Option<&Value>) -> Option<jiff::Timestamp> {
    value?.as_str()?.parse().ok()
}

pub(super) fn age(value: Option<&Value>, now: jiff::Timestamp) -> String {
    parse_time(value).map_or_else(|| UNKNOWN.to_owned(), |since| elapsed(since, now))
}

/// A duration as kubectl shows ages: two units at most, fewer the older.
pub(super) fn elapsed(since: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second() - since.as_second();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: i64, unit: &str, small: i64, below: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{below}"),
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..=119 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn joined(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(",")
}

fn or_none(text: String) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

fn template(object: &Value) -> &'static str {
    match object.pointer("/spec/jobTemplate") {
        Some(_) => "/spec/jobTemplate/spec/template/spec/containers",
        None => "/spec/template/spec/containers",
    }
}

pub(super) fn containers(object: &Value, _now: jiff::Timestamp) -> Value {
    joined(
        list(object, template(object))
            .iter()
            .map(|container| text_at(container, "/name").to_owned()),
    )
    .into()
}

pub(super) fn images(object: &Value, _now: jiff::Timestamp) -> Value {
    joined(
        list(object, template(object))
            .iter()
            .map(|container| text_at(container, "/image").to_owned()),
    )
    .into()
}

/// Label selectors of workloads, plain maps of Services.
pub(super) fn selector(object: &Value, _now: jiff::Timestamp) -> Value {
    let selector = match object.pointer("/spec/jobTemplate") {
        Some(template) => template.pointer("/spec/selector"),
        None => object.pointer("/spec/selector"),
    };
    match selector {
        Some(Value::Object(entries))
            if entries.contains_key("matchLabels") || entries.contains_key("matchExpressions") =>
        {
            formatted(selector)
        }
        Some(Value::Object(entries)) => or_none(joined(
            entries
                .iter()
                .map(|(key, value)| format!("{key}={}", shown(Some(value)))),
        )),
        _ => NONE.into(),
    }
}

fn formatted(selector: Option<&Value>) -> Value {
    let parsed: Option<LabelSelector> =
        selector.and_then(|selector| serde_json::from_value(selector.clone()).ok());
    LabelSelector::formatted(parsed.as_ref()).into()
}

pub(super) fn config_data(map: &Value, _now: jiff::Timestamp) -> Value {
    (count(map.get("data")) + count(map.get("binaryData"))).into()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == kind)
}

pub(super) fn node_status(node: &Value, _now: jiff::Timestamp) -> Value {
    let mut parts = vec![
        match condition(node, "Ready").map(|ready| text_at(ready, "/status")) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        },
    ];
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        parts.push("SchedulingDisabled");
    }
    parts.join(",").into()
}

pub(super) fn node_roles(node: &Value, _now: jiff::Timestamp) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, value)| {
        let role = key
            .strip_prefix("node-role.kubernetes.io/")
            .filter(|role| !role.is_empty());
        role.or_else(|| {
            value
                .as_str()
                .filter(|role| key == "kubernetes.io/role" && !role.is_empty())
        })
        .map(str::to_owned)
    });
    or_none(joined(roles))
}

fn texts(object: &Value, pointer: &str) -> Vec<String> {
    list(object, pointer)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

pub(super) fn ready_of_wanted(object: &Value, _now: jiff::Timestamp) -> Value {
    format!(
        "{}/{}",
        number(object, "/status/readyReplicas"),
        number(object, "/spec/replicas")
    )
    .into()
}

pub(super) fn node_selector(set: &Value, _now: jiff::Timestamp) -> Value {
    let entries = set
        .pointer("/spec/template/spec/nodeSelector")
        .and_then(Value::as_object);
    or_none(joined(
        entries
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", shown(Some(value)))),
    ))
}

pub(super) fn controller(revision: &Value, _now: jiff::Timestamp) -> Value {
    let owner = list(revision, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true);
    let Some(owner) = owner else { return NONE.into() };
    let (group, _) = text_at(owner, "/apiVersion").split_once('/').unwrap_or(("", ""));
    let kind = text_at(owner, "/kind").to_lowercase();
    let kind = if group.is_empty() {
        kind
    } else {
        format!("{kind}.{group}")
    };
    format!("{kind}/{}", text_at(owner, "/name")).into()
}

pub(super) fn job_status(job: &Value, _now: jiff::Timestamp) -> Value {
    let is = |kind: &str| condition(job, kind).is_some_and(|condition| condition["status"] == "True");
    let state = [("Complete", "Complete"), ("Failed", "Failed")]
        .into_iter()
        .find(|(kind, _)| is(kind))
        .map(|(_, state)| state);
    let later = || match () {
        () if job.pointer("/metadata/deletionTimestamp").is_some() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    state.unwrap_or_else(later).into()
}

pub(super) fn job_completions(job: &Value, _now: jiff::Timestamp) -> Value {
    let done = number(job, "/status/succeeded");
    match (
        job.pointer("/spec/completions").and_then(Value::as_i64),
        number(job, "/spec/parallelism"),
    ) {
        (Some(wanted), _) => format!("{done}/{wanted}").into(),
        (None, parallelism) if parallelism > 1 => format!("{done}/1 of {parallelism}").into(),
        _ => format!("{done}/1").into(),
    }
}

pub(super) fn job_duration(job: &Value, now: jiff::Timestamp) -> Value {
    let Some(start) = parse_time(job.pointer("/status/startTime")) else {
        return "".into();
    };
    let end = parse_time(job.pointer("/status/completionTime")).or_else(|| {
        let failed = condition(job, "Failed").filter(|failed| failed["status"] == "True")?;
        parse_time(failed.get("lastTransitionTime"))
    });
    elapsed(start, end.unwrap_or(now)).into()
}

fn flag(object: &Value, pointer: &str) -> &'static str {
    if object.pointer(pointer) == Some(&Value::Bool(true)) {
        "True"
    } else {
        "False"
    }
}

pub(super) fn suspended(job: &Value, _now: jiff::Timestamp) -> Value {
    flag(job, "/spec/suspend").into()
}

pub(super) fn last_schedule(job: &Value, now: jiff::Timestamp) -> Value {
    match job.pointer("/status/lastScheduleTime") {
        None => NONE.into(),
        time => age(time, now).into(),
    }
}

pub(super) fn scale_target(autoscaler: &Value, _now: jiff::Timestamp) -> Value {
    let target = |key: &str| text_at(autoscaler, &format!("/spec/scaleTargetRef/{key}")).to_owned();
    format!("{}/{}", target("kind"), target("name")).into()
}

/// `cpu: 40%/80%` for each metric, current over wanted.
pub(super) fn scale_metrics(autoscaler: &Value, _now: jiff::Timestamp) -> Value {
    let current = list(autoscaler, "/status/currentMetrics");
    let parts = list(autoscaler, "/spec/metrics")
        .iter()
        .enumerate()
        .map(|(index, metric)| {
            let source = metric.as_object().and_then(|metric| {
                metric
                    .iter()
                    .find(|(key, _)| *key != "type")
                    .map(|(_, source)| source)
            });
            let source = source.unwrap_or(&Value::Null);
            let name = match text_at(source, "/name") {
                "" => text_at(source, "/metric/name"),
                name => name,
            };
            let target = source.get("target").unwrap_or(&Value::Null);
            let now = current.get(index).and_then(|metric| {
                metric
                    .as_object()?
                    .iter()
                    .find(|(key, _)| *key != "type")
                    .and_then(|(_, source)| source.get("current"))
            });
            let show = |amount: Option<&Value>| {
                let amount = amount.unwrap_or(&Value::Null);
                match amount.get("averageUtilization") {
                    Some(percent) => format!("{percent}%"),
                    None => shown(amount.get("averageValue").or_else(|| amount.get("value"))),
                }
            };
            let now = match show(now) {
                text if text.is_empty() => UNKNOWN.to_owned(),
                text => text,
            };
            format!("{name}: {now}/{}", show(Some(target)))
        });
    or_none(parts.collect::<Vec<_>>().join(", "))
}

fn modes(object: &Value, pointer: &str) -> Value {
    let short = |mode: &str| {
        Some(match mode {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            _ => return None,
        })
    };
    joined(
        texts(object, pointer)
            .iter()
            .filter_map(|mode| short(mode))
            .map(str::to_owned),
    )
    .into()
}

pub(super) fn access_modes(volume: &Value, _now: jiff::Timestamp) -> Value {
    modes(volume, "/spec/accessModes")
}

/// A claim shows modes once a volume is bound.
pub(super) fn bound_access_modes(claim: &Value, _now: jiff::Timestamp) -> Value {
    modes(claim, "/status/accessModes")
}

pub(super) fn volume_status(volume: &Value, _now: jiff::Timestamp) -> Value {
    match volume.pointer("/metadata/deletionTimestamp") {
        Some(_) => "Terminating".into(),
        None => text_at(volume, "/status/phase").into(),
    }
}

pub(super) fn volume_claim(volume: &Value, _now: jiff::Timestamp) -> Value {
    match volume.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text_at(claim, "/namespace"), text_at(claim, "/name")).into(),
        None => "".into(),
    }
}

fn quota(quota: &Value, wanted: impl Fn(&str) -> bool) -> Value {
    let hard = quota.pointer("/status/hard").and_then(Value::as_object);
    let used = quota.pointer("/status/used");
    let parts = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| wanted(name))
        .map(|(name, limit)| {
            let used = match shown(used.and_then(|used| used.get(name))) {
                text if text.is_empty() => "0".to_owned(),
                text => text,
            };
            format!("{name}: {used}/{}", shown(Some(limit)))
        });
    parts.collect::<Vec<_>>().join(", ").into()
}

pub(super) fn quota_requests(object: &Value, _now: jiff::Timestamp) -> Value {
    quota(object, |name| !name.starts_with("limits."))
}

pub(super) fn quota_limits(object: &Value, _now: jiff::Timestamp) -> Value {
    quota(object, |name| name.starts_with("limits."))
}

pub(super) fn role(binding: &Value, _now: jiff::Timestamp) -> Value {
    format!(
        "{}/{}",
        text_at(binding, "/roleRef/kind"),
        text_at(binding, "/roleRef/name")
    )
    .into()
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let name = |subject: &Value| match text_at(subject, "/namespace") {
        "" => text_at(subject, "/name").to_owned(),
        namespace => format!("{namespace}/{}", text_at(subject, "/name")),
    };
    let found = list(binding, "/subjects")
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(name);
    found.collect::<Vec<_>>().join(", ").into()
}

pub(super) fn users(binding: &Value, _now: jiff::Timestamp) -> Value {
    subjects(binding, "User")
}

pub(super) fn groups(binding: &Value, _now: jiff::Timestamp) -> Value {
    subjects(binding, "Group")
}

pub(super) fn service_accounts(binding: &Value, _now: jiff::Timestamp) -> Value {
    subjects(binding, "ServiceAccount")
}

pub(super) fn class_name(class: &Value, _now: jiff::Timestamp) -> Value {
    let name = text_at(class, "/metadata/name");
    let annotations = class.pointer("/metadata/annotations");
    let default = annotations.is_some_and(|all| all["storageclass.kubernetes.io/is-default-class"] == "true");
    if default {
        format!("{name} (default)").into()
    } else {
        name.into()
    }
}

pub(super) fn global_default(class: &Value, _now: jiff::Timestamp) -> Value {
    (class.get("globalDefault") == Some(&Value::Bool(true))).into()
}

pub(super) fn requested_duration(request: &Value, _now: jiff::Timestamp) -> Value {
    match request.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
        Some(seconds) => elapsed(jiff::Timestamp::UNIX_EPOCH, at_second(seconds)).into(),
        None => NONE.into(),
    }
}

fn at_second(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
}

pub(super) fn request_condition(request: &Value, _now: jiff::Timestamp) -> Value {
    let mut parts: Vec<&str> = Vec::new();
    for kind in ["Approved", "Denied", "Failed"] {
        if condition(request, kind).is_some() {
            parts.push(kind);
        }
    }
    if parts.is_empty() {
        parts.push("Pending");
    }
    if !text_at(request, "/status/certificate").is_empty() {
        parts.push("Issued");
    }
    parts.join(",").into()
}

pub(super) fn api_service(service: &Value, _now: jiff::Timestamp) -> Value {
    match service.pointer("/spec/service") {
        Some(target) => format!("{}/{}", text_at(target, "/namespace"), text_at(target, "/name")).into(),
        None => "Local".into(),
    }
}

pub(super) fn available(service: &Value, _now: jiff::Timestamp) -> Value {
    match condition(service, "Available") {
        Some(state) if state["status"] == "True" => "True".into(),
        Some(state) => format!("{} ({})", text_at(state, "/status"), text_at(state, "/reason")).into(),
        None => "Unknown".into(),
    }
}
