//! Errors as clients see them: `metav1.Status` with upstream's reasons, codes, details and causes.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// One reason of several why an object was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// For example `FieldValueInvalid`.
    pub reason: String,
    /// What is wrong, in words.
    pub message: String,
    /// The path of the field, for example `spec.containers[0].image`.
    pub field: String,
}

impl Cause {
    /// Makes a cause.
    pub fn new(reason: impl Into<String>, field: impl Into<String>, message: impl Into<String>) -> Self {
        Cause {
            reason: reason.into(),
            field: field.into(),
            message: message.into(),
        }
    }
}

/// What an error is about: `status.details`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource (`configmaps`), or the kind (`ConfigMap`) where upstream says the kind.
    pub kind: String,
    /// The object's uid, where it matters.
    pub uid: String,
    /// Why, one by one.
    pub causes: Vec<Cause>,
    /// When a client should try again, in seconds; 0 = not said.
    pub retry_after_seconds: u32,
}

/// An answer that is not the wanted object. Prints as its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// For example `NotFound`; empty where upstream gives none.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: where a list may go on that has outlived its token.
    pub continues: Option<Box<str>>,
}

/// The result of everything that answers a request.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// Makes an error without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code: code.as_u16(),
            reason,
            message: message.into(),
            details: None,
            continues: None,
        }
    }

    /// Adds details: `group`, `resource or kind`, `name`.
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.into();
        details.kind = kind.into();
        details.name = name.into();
        self
    }

    /// Adds a cause.
    pub fn cause(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 400 BadRequest.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401 Unauthorized.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403 Forbidden about an object.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let whose = qualified(group, resource);
        let message = match name {
            "" => format!("{whose} is forbidden: {why}"),
            _ => format!("{whose} \"{name}\" is forbidden: {why}"),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, resource, name)
    }

    /// 404 NotFound.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(group, resource, name)
    }

    /// 404 for a path or resource that this server does not serve.
    pub fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        let mut error = Self::new(StatusCode::NOT_FOUND, "NotFound", message);
        error.details = Some(Box::default());
        error
    }

    /// 405 MethodNotAllowed.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
        error.details = Some(Box::default());
        error
    }

    /// 409 AlreadyExists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409 Conflict.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(group, resource)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(group, resource, name)
    }

    /// 409 Conflict because somebody else wrote first.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 410 Expired: the wanted revision is no longer there.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 422 Invalid with its causes; the message lists them.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let listed: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let what = match listed.len() {
            1 => listed[0].clone(),
            _ => format!("[{}]", listed.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {what}", qualified(group, kind));
        let mut error =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(group, kind, name);
        error.details.get_or_insert_default().causes = causes;
        error
    }

    /// 429 TooManyRequests.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500 InternalError.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message).cause(Cause::new(
            "",
            "",
            why.to_string(),
        ))
    }

    /// 503 ServiceUnavailable.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// Prints the `metav1.Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(token) = &self.continues {
            status["metadata"]["continue"] = (**token).into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        let texts = [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            map.insert(key.into(), text.as_str().into());
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        let texts = [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            map.insert(key.into(), text.as_str().into());
        }
        Value::Object(map)
    }
}

/// `configmaps`, or `deployments.apps` with a group.
pub fn qualified(group: &str, resource: &str) -> String {
    match group {
        "" => resource.to_string(),
        _ => format!("{resource}.{group}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn status_has_upstreams_shape() {
        let error = ApiError::invalid(
            "",
            "ConfigMap",
            "a",
            vec![Cause::new(
                "FieldValueRequired",
                "metadata.name",
                "Required value: name or generateName is required",
            )],
        );
        expect![[r#"{"apiVersion":"v1","code":422,"details":{"causes":[{"field":"metadata.name","message":"Required value: name or generateName is required","reason":"FieldValueRequired"}],"kind":"ConfigMap","name":"a"},"kind":"Status","message":"ConfigMap \"a\" is invalid: metadata.name: Required value: name or generateName is required","metadata":{},"reason":"Invalid","status":"Failure"}"#]]
        .assert_eq(&error.to_status().to_string());
    }

    #[test]
    fn messages_name_the_group_where_there_is_one() {
        let error = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(error.to_string(), "deployments.apps \"web\" not found");
    }
}
