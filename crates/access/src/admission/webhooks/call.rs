//! Asking one webhook: AdmissionReview there, verdict and patch back; failures follow the hook's policy.

use std::time::Duration;

use base64::Engine as _;
use mainstay_objects::patch::json_patch;
use serde_json::{Value, json};

use super::matching::{Hook, request};
use super::text;
use crate::admission::items;
use crate::hooks::{Review, World};
use crate::outbound::Endpoint;
use crate::status::{ApiError, ApiResult};

/// What a hook that gives no time gets, in seconds.
const DEFAULT_SECONDS: u64 = 10;
/// The longest a hook may take, in seconds.
const LONGEST_SECONDS: u64 = 30;
/// The longest warning that is passed on, in bytes.
const WARNING_BYTES: usize = 256;

/// What becomes of the object.
pub(super) enum Answer {
    /// It stays as it is.
    Unchanged,
    /// The hook changed it.
    Patched(Value),
}

/// Asks a hook.
pub(super) async fn ask(hook: &Hook, review: &mut Review, world: &dyn World) -> ApiResult<Answer> {
    let name = text(&hook.value, "name").to_string();
    if review.dry_run && !matches!(text(&hook.value, "sideEffects"), "None" | "NoneOnDryRun") {
        let why = format!("admission webhook \"{name}\" does not support dry run");
        return Err(ApiError::bad_request(why));
    }
    match answer(hook, review, world).await {
        Ok(response) => verdict(&name, &response, review),
        Err(why) if hook.value["failurePolicy"] == "Ignore" => {
            tracing::warn!(
                webhook = name,
                configuration = hook.configuration,
                why,
                "webhook failed and is ignored"
            );
            Ok(Answer::Unchanged)
        }
        Err(why) => Err(ApiError::internal(format!(
            "failed calling webhook \"{name}\": {why}"
        ))),
    }
}

async fn answer(hook: &Hook, review: &Review, world: &dyn World) -> Result<Value, String> {
    let endpoint = endpoint(&hook.value["clientConfig"], world)?;
    let version = items(&hook.value["admissionReviewVersions"]).filter_map(Value::as_str);
    let version = version
        .into_iter()
        .find(|version| matches!(*version, "v1" | "v1beta1"))
        .unwrap_or("v1");
    let uid = mainstay_base::ids::new_uid();
    let body = json!({
        "apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
        "request": request(review, &uid),
    });
    let seconds = hook.value["timeoutSeconds"]
        .as_u64()
        .unwrap_or(DEFAULT_SECONDS)
        .clamp(1, LONGEST_SECONDS);
    let answer = endpoint.post(&body, Duration::from_secs(seconds)).await;
    let answer = answer.map_err(|error| mainstay_base::error::chain(&error))?;
    let response = answer["response"].clone();
    if response.is_null() {
        return Err("the answer holds no response".into());
    }
    if text(&response, "uid") != uid {
        return Err("the answer is for another request".into());
    }
    Ok(response)
}

/// Finds where to call: the URL, or the Service's first ready endpoint, else its cluster address.
fn endpoint(config: &Value, world: &dyn World) -> Result<Endpoint, String> {
    let bundle = Endpoint::decode_bundle(text(config, "caBundle"));
    let make = |url: &str| Endpoint::new(url, &bundle).map_err(|error| error.to_string());
    if let Some(url) = config["url"].as_str() {
        return make(url);
    }
    let service = &config["service"];
    let (namespace, name) = (text(service, "namespace"), text(service, "name"));
    let port = service["port"].as_i64().unwrap_or(443);
    let path = text(service, "path").trim_start_matches('/');
    let endpoint = make(&format!("https://{name}.{namespace}.svc:{port}/{path}"))?;
    let address = service_address(namespace, name, port, world)
        .ok_or_else(|| format!("service {namespace}/{name} has no endpoint for port {port}"))?;
    Ok(endpoint.at(address))
}

fn service_address(namespace: &str, name: &str, port: i64, world: &dyn World) -> Option<String> {
    let service = world.get("core/services", namespace, name)?.value();
    let wanted = items(&service["spec"]["ports"]).find(|own| own["port"].as_i64() == Some(port))?;
    let slices = world.list("discovery.k8s.io/endpointslices", Some(namespace));
    let own = slices
        .iter()
        .filter(|slice| slice.label("kubernetes.io/service-name").as_deref() == Some(name));
    let ready = own
        .map(|slice| slice.value())
        .find_map(|slice| ready_address(&slice, text(wanted, "name")));
    ready.or_else(|| match text(&service["spec"], "clusterIP") {
        "" | "None" => None,
        address => Some(format!("{address}:{port}")),
    })
}

fn ready_address(slice: &Value, port_name: &str) -> Option<String> {
    let port = items(&slice["ports"]).find(|port| text(port, "name") == port_name)?["port"].as_i64()?;
    let mut ready = items(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let address = ready.find_map(|endpoint| endpoint["addresses"][0].as_str())?;
    Some(match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    })
}

fn verdict(name: &str, response: &Value, review: &mut Review) -> ApiResult<Answer> {
    for warning in items(&response["warnings"]).filter_map(Value::as_str) {
        let cut = warning
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| *at >= WARNING_BYTES)
            .unwrap_or(warning.len());
        review.warnings.push(warning[..cut].to_string());
    }
    if response["allowed"] != true {
        return Err(denied(name, &response["status"]));
    }
    let Some(patch) = response["patch"].as_str() else {
        return Ok(Answer::Unchanged);
    };
    patched(patch, &review.object)
        .map(Answer::Patched)
        .map_err(|why| {
            ApiError::internal(format!(
                "webhook \"{name}\" sent a patch that cannot be applied: {why}"
            ))
        })
}

fn patched(patch: &str, object: &Value) -> Result<Value, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .map_err(|error| error.to_string())?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let mut object = object.clone();
    json_patch(&mut object, &patch).map_err(|error| error.to_string())?;
    Ok(object)
}

/// The refusal in upstream's words, with the code the webhook chose.
fn denied(name: &str, status: &Value) -> ApiError {
    let said = [text(status, "message"), text(status, "reason")]
        .into_iter()
        .find(|said| !said.is_empty());
    let message = match said {
        Some(said) => format!("admission webhook \"{name}\" denied the request: {said}"),
        None => format!("admission webhook \"{name}\" denied the request without explanation"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code
        .and_then(|code| http::StatusCode::from_u16(code).ok())
        .filter(|code| code.as_u16() >= 400);
    ApiError::new(code.unwrap_or(http::StatusCode::FORBIDDEN), "Forbidden", message)
}
