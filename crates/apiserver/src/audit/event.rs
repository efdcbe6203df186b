//! One event as upstream's `audit.k8s.io/v1` Event.

use mainstay_base::clock::rfc3339_micros;
use serde_json::{Value, json};

use super::Level;
use crate::authz::review::user_info;
use crate::hooks::Audited;

/// The largest request body that is noted, in bytes.
const BODY_BYTES: usize = 100 * 1024;

/// When an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A stream began.
    ResponseStarted,
    /// The answer was sent.
    ResponseComplete,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
        }
    }

    pub fn starts(self) -> bool {
        self == Stage::ResponseStarted
    }
}

/// Makes the line.
pub(super) fn line(event: &Audited<'_>, level: Level, stage: Stage) -> Value {
    let user = event.impersonator.unwrap_or(event.user);
    let mut line = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{level:?}"), "auditID": event.id,
        "stage": stage.name(), "requestURI": event.uri, "verb": event.info.verb, "user": user_info(user),
        "userAgent": event.user_agent,
        "responseStatus": {"metadata": {}, "code": event.code},
        "requestReceivedTimestamp": rfc3339_micros(event.received),
        "stageTimestamp": rfc3339_micros(event.answered),
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
    if level >= Level::Request && !event.request_body.is_empty() {
        line["requestObject"] = body(event);
    }
    line
}

fn object_ref(event: &Audited<'_>) -> Value {
    let info = event.info;
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ];
    let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
    set.map(|(field, value)| (field.to_string(), json!(value)))
        .collect()
}

/// The body; never that of a secret or a token, whatever the policy says.
fn body(event: &Audited<'_>) -> Value {
    let secret = event.info.resource == "secrets"
        || event.info.subresource == "token"
        || event.info.resource == "tokenreviews";
    if secret || event.request_body.len() > BODY_BYTES {
        return json!({"omitted": true});
    }
    serde_json::from_slice(event.request_body).unwrap_or_else(|_| json!({"omitted": true}))
}
