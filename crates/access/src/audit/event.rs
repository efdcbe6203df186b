//! One event as upstream's `audit.k8s.io/v1` Event.

use bytes::Bytes;
use mainstay_base::clock::rfc3339_micros;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Level;
use super::policy::Ruling;
use crate::authz::review::user_info;
use crate::hooks::{AuditStage, Audited};

/// The largest body that is noted, in bytes.
const BODY_BYTES: usize = 100 * 1024;

/// A stage's name in policies and events.
pub(super) fn stage_name(stage: AuditStage) -> &'static str {
    match stage {
        AuditStage::RequestReceived => "RequestReceived",
        AuditStage::ResponseStarted => "ResponseStarted",
        AuditStage::ResponseComplete => "ResponseComplete",
    }
}

/// Makes the line.
pub(super) fn line(event: &Audited<'_>, ruling: &Ruling) -> Value {
    let user = event.impersonator.unwrap_or(event.user);
    let mut line = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{:?}", ruling.level), "auditID": event.id,
        "stage": stage_name(event.stage), "requestURI": event.uri, "verb": event.info.verb, "user": user_info(user),
        "userAgent": event.user_agent,
        "requestReceivedTimestamp": rfc3339_micros(event.received),
        "stageTimestamp": rfc3339_micros(event.reached),
    });
    if event.impersonator.is_some() {
        line["impersonatedUser"] = user_info(event.user);
    }
    if let Some(source) = event.source {
        line["sourceIPs"] = json!([source.ip().to_string()]);
    }
    if event.info.is_resource {
        line["objectRef"] = object_ref(event);
    }
    if event.stage == AuditStage::RequestReceived {
        return line;
    }
    line["responseStatus"] = response_status(event);
    if let Some(allowed) = event.allowed {
        let decision = if allowed { "allow" } else { "forbid" };
        line["annotations"] = json!({"authorization.k8s.io/decision": decision});
    }
    if ruling.level >= Level::Request && !event.request_body.is_empty() {
        line["requestObject"] = body(event, event.request_body, ruling);
    }
    if ruling.level >= Level::RequestResponse && !event.response_body.is_empty() {
        line["responseObject"] = body(event, &joined(event.response_body), ruling);
    }
    line
}

/// The code, and what a Status in the answer says.
fn response_status(event: &Audited<'_>) -> Value {
    let mut status = json!({"metadata": {}, "code": event.code});
    if event.code < 400 {
        return status;
    }
    let told: Value = serde_json::from_slice(&joined(event.response_body)).unwrap_or_default();
    for key in ["status", "message", "reason"] {
        if told[key].is_string() {
            status[key] = told[key].clone();
        }
    }
    status
}

/// The body in one piece; one that is too long to be noted is given as too many bytes.
fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        _ => {
            let length: usize = pieces.iter().map(Bytes::len).sum();
            let wanted = pieces.iter().filter(|_| length <= BODY_BYTES);
            let mut all: Vec<u8> = wanted.flatten().copied().collect();
            all.resize(length.min(BODY_BYTES + 1), b' ');
            all.into()
        }
    }
}

fn object_ref(event: &Audited<'_>) -> Value {
    let info = event.info;
    let name = match info.name.as_str() {
        "" => name_in(event.request_body),
        name => name.to_owned(),
    };
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ];
    let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
    set.map(|(field, value)| (field.to_string(), json!(value)))
        .collect()
}

/// The name in a JSON body: a create has none in its path.
fn name_in(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named {
        metadata: Meta,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Meta {
        name: String,
    }
    let named: Named = serde_json::from_slice(body).unwrap_or_default();
    named.metadata.name
}

/// A body; never that of a secret or a token, whatever the policy says.
fn body(event: &Audited<'_>, bytes: &[u8], ruling: &Ruling) -> Value {
    let secret = event.info.resource == "secrets"
        || event.info.subresource == "token"
        || event.info.resource == "tokenreviews";
    if secret || bytes.len() > BODY_BYTES {
        return json!({"omitted": true});
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
        return json!({"omitted": true});
    };
    if ruling.omits_managed_fields {
        forget_managed_fields(&mut value);
        let items = value.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(forget_managed_fields);
    }
    value
}

fn forget_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}
