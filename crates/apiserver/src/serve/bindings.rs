//! Binding a pod to a node, by the pod's `binding` subresource or a plain Binding.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::WriteOptions;
use super::{Call, read, write};
use crate::body::Body;
use crate::registry::update::{self, Made};
use crate::registry::{Write, meta_text};
use crate::resources::{Gvk, Resource};
use crate::respond;
use crate::schema;
use crate::server::Server;
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// Answers `POST pods/NAME/binding`.
///
/// # Errors
/// 404, 409 when the pod is bound already, 422 for a target that is no node.
pub async fn bind(server: &Arc<Server>, pods: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let binding = decode(pods, call, &options)?;
    let frame = write::frame(server, pods, call, options);
    let name = frame.name.to_string();
    assign(
        server,
        Write {
            subresource: "binding",
            name: &name,
            ..frame
        },
        &binding,
        call,
    )
    .await
}

/// Answers `POST bindings`.
///
/// # Errors
/// As [`bind`].
pub async fn bind_plain(server: &Arc<Server>, call: &Call) -> ApiResult<Response<Body>> {
    let pods = server
        .catalog()
        .find("", "v1", "pods")
        .cloned()
        .ok_or_else(ApiError::no_resource)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let binding = decode(&pods, call, &options)?;
    let name = meta_text(&binding, "name").to_string();
    let frame = write::frame(server, &pods, call, options);
    assign(
        server,
        Write {
            subresource: "binding",
            name: &name,
            ..frame
        },
        &binding,
        call,
    )
    .await
}

fn decode(pods: &Arc<Resource>, call: &Call, options: &WriteOptions) -> ApiResult<Value> {
    let kind = Gvk {
        group: String::new(),
        version: "v1".into(),
        kind: "Binding".into(),
    };
    let content = crate::negotiate::content(&call.parts.headers)?;
    Ok(schema::decode(pods, &kind, &call.body, content, options.validation)?.value)
}

async fn assign(
    server: &Server,
    write: Write<'_>,
    binding: &Value,
    call: &Call,
) -> ApiResult<Response<Body>> {
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    if !matches!(target["kind"].as_str().unwrap_or_default(), "" | "Node") {
        let text = "Unsupported value: supported values: \"Node\", \"<empty>\"";
        let cause = Cause::new("FieldValueNotSupported", "target.kind", text);
        return Err(ApiError::invalid("", "Binding", write.name, vec![cause]));
    }
    if node.is_empty() {
        let cause = Cause::new("FieldValueRequired", "target.name", "Required value");
        return Err(ApiError::invalid("", "Binding", write.name, vec![cause]));
    }
    let now = mainstay_base::clock::rfc3339_seconds(server.clock.now());
    let change = |old: Option<&Value>| {
        let mut pod = old.cloned().unwrap_or_default();
        refuse(&pod, binding, write.name)?;
        pod["spec"]["nodeName"] = node.into();
        for key in ["annotations", "labels"] {
            for (name, value) in binding["metadata"][key].as_object().into_iter().flatten() {
                pod["metadata"][key][name] = value.clone();
            }
        }
        scheduled(&mut pod, &now);
        Ok(Made {
            object: pod,
            warnings: Vec::new(),
            tracked: false,
        })
    };
    update::update(&write, &change, false).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::encoded(
        StatusCode::CREATED,
        &status,
        read::wanted(call, write.resource)?.format,
    ))
}

fn refuse(pod: &Value, binding: &Value, name: &str) -> ApiResult<()> {
    let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let uid = meta_text(binding, "uid");
    let why = if pod["metadata"]["deletionTimestamp"].is_string() {
        format!("pod {name} is being deleted, cannot be assigned to a host")
    } else if !bound.is_empty() {
        format!("pod {name} is already assigned to node \"{bound}\"")
    } else if pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
    {
        format!("pod {name} has non-empty .spec.schedulingGates")
    } else if !uid.is_empty() && uid != meta_text(pod, "uid") {
        "Precondition failed: UID in precondition does not match".to_string()
    } else {
        return Ok(());
    };
    Err(ApiError::conflict("", "pods/binding", name, why))
}

fn scheduled(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    let generation = pod["metadata"]["generation"].clone();
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("made an array just above");
    list.retain(|other| other["type"] != "PodScheduled");
    let mut condition = condition;
    if !generation.is_null() {
        condition["observedGeneration"] = generation;
    }
    list.push(condition);
}
