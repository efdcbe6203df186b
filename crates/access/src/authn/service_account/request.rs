//! TokenRequest: issuing a token for an account.

use jiff::Timestamp;
use mainstay_base::clock::rfc3339_seconds;
use serde_json::{Value, json};

use super::Keys;
use super::claims::{Claims, Private, Reference};
use crate::hooks::World;
use crate::status::{ApiError, ApiResult, Cause};

/// What a request without a time gets.
const DEFAULT_SECONDS: i64 = 3_600;
/// The shortest time that is given, as upstream has it.
const SHORTEST_SECONDS: i64 = 600;
/// The longest time that is given: no token outlives a day, whoever asks.
const LONGEST_SECONDS: i64 = 86_400;

/// What tokens are issued with.
#[derive(Debug, Clone, Copy)]
pub struct Issuing<'a> {
    /// The issuer's URL.
    pub issuer: &'a str,
    /// The audiences of tokens that ask for none.
    pub audiences: &'a [String],
    /// The time.
    pub now: Timestamp,
}

fn invalid(field: &str, message: &str) -> ApiError {
    let cause = Cause::new("FieldValueInvalid", field, message);
    ApiError::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause])
}

/// Answers a create of `serviceaccounts/token`: the TokenRequest with its status filled.
///
/// # Errors
/// 404 when the account or the object to bind to is missing, 409 when its uid is another, 422 for a malformed
/// request.
pub fn issue(
    keys: &Keys,
    issuing: &Issuing<'_>,
    world: &dyn World,
    (namespace, account): (&str, &str),
    mut request: Value,
) -> ApiResult<Value> {
    let stored = world
        .get("core/serviceaccounts", namespace, account)
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", account))?;
    let spec = &request["spec"];
    let seconds = seconds(spec)?;
    let asked = spec["audiences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut aud: Vec<String> = asked
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect();
    if aud.is_empty() {
        aud = issuing.audiences.to_vec();
    }
    let mut private = Private {
        namespace: namespace.into(),
        serviceaccount: Reference {
            name: account.into(),
            uid: stored.uid().into_owned(),
        },
        ..Private::default()
    };
    bind(&mut private, &spec["boundObjectRef"], world)?;
    let now = issuing.now.as_second();
    let claims = Claims {
        sub: mainstay_policy::rbac::service_account_user(namespace, account),
        iss: issuing.issuer.into(),
        jti: mainstay_base::ids::new_uid(),
        iat: now,
        nbf: now,
        exp: now + seconds,
        aud: aud.clone(),
        private,
    };
    let token = keys.sign(&claims).map_err(ApiError::internal)?;
    let end = Timestamp::from_second(claims.exp).map_err(ApiError::internal)?;
    request["spec"]["audiences"] = json!(aud);
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["status"] = json!({"token": token, "expirationTimestamp": rfc3339_seconds(end)});
    Ok(request)
}

fn seconds(spec: &Value) -> ApiResult<i64> {
    let asked = match &spec["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        value => value
            .as_i64()
            .ok_or_else(|| invalid("spec.expirationSeconds", "must be a whole number"))?,
    };
    if asked < SHORTEST_SECONDS {
        return Err(invalid(
            "spec.expirationSeconds",
            "may not specify a duration less than 10 minutes",
        ));
    }
    if asked > 1 << 32 {
        return Err(invalid(
            "spec.expirationSeconds",
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    Ok(asked.min(LONGEST_SECONDS))
}

/// Binds the token to the object the request names.
fn bind(private: &mut Private, to: &Value, world: &dyn World) -> ApiResult<()> {
    if to.is_null() {
        return Ok(());
    }
    let text = |field: &str| to[field].as_str().unwrap_or_default();
    let (resource, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pods", private.namespace.as_str()),
        ("v1", "Secret") => ("secrets", private.namespace.as_str()),
        ("v1", "Node") => ("nodes", ""),
        _ => {
            let why = "cannot bind token to object: only Pod, Secret and Node of v1 are supported";
            return Err(ApiError::bad_request(why));
        }
    };
    let name = text("name");
    let object = world
        .get(&format!("core/{resource}"), namespace, name)
        .ok_or_else(|| ApiError::not_found("", resource, name))?;
    let uid = object.uid().into_owned();
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record ({uid})",
            text("uid")
        );
        return Err(ApiError::conflict("", resource, name, why));
    }
    let account = &private.serviceaccount.name;
    if resource == "pods" && object.scalar("spec.serviceAccountName") != account.as_str() {
        let why = format!(
            "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
        );
        return Err(ApiError::bad_request(why));
    }
    let reference = Some(Reference {
        name: name.into(),
        uid,
    });
    match resource {
        "pods" => {
            private.pod = reference;
            private.node = node_of(&object.scalar("spec.nodeName"), world);
        }
        "secrets" => private.secret = reference,
        _ => private.node = reference,
    }
    Ok(())
}

fn node_of(name: &str, world: &dyn World) -> Option<Reference> {
    let node = world.get("core/nodes", "", name).filter(|_| !name.is_empty())?;
    Some(Reference {
        name: name.into(),
        uid: node.uid().into_owned(),
    })
}
