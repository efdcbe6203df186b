//! The `scale` subresource: an autoscaling/v1 Scale made of, and written back to, replica fields.

use std::sync::Arc;

use http::{Response, StatusCode, header};
use mainstay_semantics::selector::LabelSelector;
use serde_json::{Value, json};

use super::options::WriteOptions;
use super::{Call, read, write};
use crate::body::Body;
use crate::negotiate::{self, Content, unsupported};
use crate::registry::Write;
use crate::registry::update::{self, Made};
use crate::resources::{Gvk, Resource};
use crate::respond;
use crate::schema::{self, ScalePaths};
use crate::server::Server;
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// Answers get, PUT and PATCH of a scale.
///
/// # Errors
/// As upstream.
pub async fn serve(server: &Arc<Server>, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let wanted = read::wanted(call, resource)?;
    let paths = schema::scale_paths(resource);
    let object = match call.info.verb.as_str() {
        "get" => {
            read::reach(server, super::options::revision(&call.query)?).await?;
            let found = read::find(server, resource, call.namespace(resource), &call.info.name)?;
            crate::convert::served(resource, &found)
        }
        _ => change(server, resource, call, &paths).await?,
    };
    Ok(respond::value(
        StatusCode::OK,
        resource,
        scale_of(&object, &paths),
        &wanted,
    ))
}

async fn change(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: &Call,
    paths: &ScalePaths,
) -> ApiResult<Value> {
    let put = call.info.verb == "update";
    let content = negotiate::content(&call.parts.headers)?;
    let kind = if put { "UpdateOptions" } else { "PatchOptions" };
    let options = WriteOptions::parse(&call.query, kind, content == Content::Apply)?;
    if !put && matches!(content, Content::Json | Content::Yaml) {
        return Err(unsupported(call.header(header::CONTENT_TYPE)));
    }
    let write = write::frame(server, resource, call, options);
    let make = |old: Option<&Value>| scaled(&write, content, old, &call.body, paths);
    let written = update::update(&write, &make, false).await?;
    Ok(crate::convert::served(resource, &written.object))
}

fn scaled(
    write: &Write<'_>,
    content: Content,
    old: Option<&Value>,
    body: &[u8],
    paths: &ScalePaths,
) -> ApiResult<Made> {
    let kind = Gvk {
        group: "autoscaling".into(),
        version: "v1".into(),
        kind: "Scale".into(),
    };
    let old = old.cloned().unwrap_or_default();
    let before = scale_of(&old, paths);
    let scale = match content {
        Content::Json | Content::Yaml => {
            schema::decode(write.resource, &kind, body, content, write.options.validation)?.value
        }
        Content::Apply => schema::patch(write.resource, &kind, Content::MergePatch, &before, body)?,
        _ => schema::patch(write.resource, &kind, content, &before, body)?,
    };
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let text = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        let cause = Cause::new("FieldValueInvalid", "spec.replicas", text);
        return Err(ApiError::invalid("autoscaling", "Scale", write.name, vec![cause]));
    }
    let mut object = old;
    *at_mut(&mut object, &paths.spec) = replicas.into();
    let meta = crate::registry::metadata(&mut object);
    match &scale["metadata"]["resourceVersion"] {
        Value::String(revision) if !revision.is_empty() => {
            drop(meta.insert("resourceVersion".into(), revision.as_str().into()))
        }
        _ => drop(meta.remove("resourceVersion")),
    }
    Ok(Made {
        object,
        warnings: Vec::new(),
        tracked: false,
    })
}

fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let meta = &object["metadata"];
    let mut kept = serde_json::Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[key].is_null() {
            kept.insert(key.into(), meta[key].clone());
        }
    }
    let replicas = at(object, &paths.spec).as_i64().unwrap_or(0);
    let mut status = json!({"replicas": at(object, &paths.status).as_i64().unwrap_or(0)});
    let selector = selector_text(at(object, &paths.selector));
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let spec = if replicas == 0 {
        json!({})
    } else {
        json!({"replicas": replicas})
    };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status})
}

/// A selector as text: label selectors, plain maps (ReplicationController) and texts (custom resources).
fn selector_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) if map.contains_key("matchLabels") || map.contains_key("matchExpressions") => {
            LabelSelector::from_json(value)
                .map(|selector| selector.to_string())
                .unwrap_or_default()
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            pairs.join(",")
        }
        _ => String::new(),
    }
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .filter(|part| !part.is_empty())
        .fold(object, |value, part| &value[part])
}

fn at_mut<'a>(object: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.')
        .filter(|part| !part.is_empty())
        .fold(object, |value, part| &mut value[part])
}
