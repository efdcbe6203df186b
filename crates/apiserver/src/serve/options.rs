//! Request options: list, get, create, update, patch and delete options, checked as upstream does.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use mainstay_access::query::Query;
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// How a list's or watch's resourceVersion is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Not said.
    Unset,
    /// That revision or later.
    NotOlderThan,
    /// Exactly that revision.
    Exact,
}

/// Options of lists and watches.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// `None` = not given.
    pub revision: Option<u64>,
    /// How `revision` is meant.
    pub matching: Match,
    /// 0 = all.
    pub limit: usize,
    /// The page to go on from.
    pub continues: Option<Continue>,
    /// Watches: end after this many seconds.
    pub timeout_seconds: Option<u64>,
    /// Watches: whether bookmarks may be sent.
    pub bookmarks: bool,
    /// Watches: whether the present objects are sent first, with an end mark.
    pub send_initial: Option<bool>,
}

/// A continue token: where the next page starts and the revision it is read at; 0 = the present, for a list whose
/// own revision is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    #[serde(rename = "rv")]
    pub revision: u64,
    #[serde(rename = "ns")]
    pub namespace: String,
    #[serde(rename = "n")]
    pub name: String,
}

impl Continue {
    /// Prints the token.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> ApiResult<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid: the token does not decode"))
    }
}

impl ListOptions {
    /// Reads and checks the options of a list or watch.
    ///
    /// # Errors
    /// 400 or 422 as upstream.
    pub fn parse(query: &Query, watch: bool) -> ApiResult<Self> {
        let revision = revision(query)?;
        let send_initial = query.boolean("sendInitialEvents");
        let causes = match_causes(query, watch, revision, send_initial);
        if !causes.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", causes));
        }
        let continues = query
            .text("continue")
            .filter(|_| !watch)
            .map(Continue::decode)
            .transpose()?;
        if continues.is_some() && revision.is_some_and(|revision| revision > 0) {
            let message = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(message));
        }
        Ok(ListOptions {
            revision,
            matching: match query.get("resourceVersionMatch") {
                Some("Exact") => Match::Exact,
                Some("NotOlderThan") => Match::NotOlderThan,
                _ => Match::Unset,
            },
            limit: number(query, "limit")?.unwrap_or(0).max(0) as usize,
            continues,
            timeout_seconds: number(query, "timeoutSeconds")?.map(|seconds| seconds.max(0) as u64),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial,
        })
    }
}

/// Reads `resourceVersion`.
///
/// # Errors
/// 400 when it is not a number.
pub fn revision(query: &Query) -> ApiResult<Option<u64>> {
    let Some(text) = query.text("resourceVersion") else {
        return Ok(None);
    };
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("invalid resource version: {text:?}")))
}

fn number(query: &Query, key: &str) -> ApiResult<Option<i64>> {
    let parsed = query.text(key).map(str::parse).transpose();
    parsed.map_err(|_| ApiError::bad_request(format!("the query parameter {key} is not a number")))
}

fn match_causes(query: &Query, watch: bool, revision: Option<u64>, send_initial: Option<bool>) -> Vec<Cause> {
    let matching = query.text("resourceVersionMatch");
    let field = "resourceVersionMatch";
    let forbidden = |text: &str| Cause::new("FieldValueForbidden", field, format!("Forbidden: {text}"));
    if !watch && send_initial.is_some() {
        let text = "Forbidden: sendInitialEvents is forbidden for list";
        return vec![Cause::new("FieldValueForbidden", "sendInitialEvents", text)];
    }
    match (matching, send_initial) {
        (None, Some(_)) => vec![forbidden(
            "resourceVersionMatch is forbidden unless it is NotOlderThan",
        )],
        (None, None) => Vec::new(),
        (Some("NotOlderThan"), Some(_)) => Vec::new(),
        (Some(_), Some(_)) => vec![forbidden("sendInitialEvents requires NotOlderThan")],
        (Some(_), None) if watch => {
            vec![forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )]
        }
        (Some(_), None) if revision.is_none() => {
            vec![forbidden(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )]
        }
        (Some(_), None) if query.text("continue").is_some() => {
            vec![forbidden(
                "resourceVersionMatch is forbidden when continue is provided",
            )]
        }
        (Some("Exact"), None) if revision == Some(0) => {
            vec![forbidden(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            )]
        }
        (Some("Exact" | "NotOlderThan"), None) => Vec::new(),
        (Some(other), None) => vec![not_supported(field, other, &["Exact", "NotOlderThan"])],
    }
}

fn not_supported(field: &str, value: &str, known: &[&str]) -> Cause {
    let known: Vec<String> = known.iter().map(|value| format!("{value:?}")).collect();
    let message = format!(
        "Unsupported value: {value:?}: supported values: {}",
        known.join(", ")
    );
    Cause::new("FieldValueNotSupported", field, message)
}

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    Warn,
    /// Refuse.
    Strict,
}

/// Options of writes.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Store nothing.
    pub dry_run: bool,
    /// About unknown fields.
    pub validation: FieldValidation,
    /// Who owns the fields; empty = from the User-Agent.
    pub manager: String,
    /// Server-side apply: take fields from others.
    pub force: bool,
}

impl WriteOptions {
    /// Reads and checks the options of a create, update or patch; `kind` is `CreateOptions` and so on.
    ///
    /// # Errors
    /// 422 as upstream.
    pub fn parse(query: &Query, kind: &str, apply: bool) -> ApiResult<Self> {
        let mut causes = Vec::new();
        let dry_run: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if let Some(bad) = dry_run.iter().find(|value| **value != "All") {
            causes.push(not_supported("dryRun", bad, &["All"]));
        }
        let validation = match query.get("fieldValidation").unwrap_or_default() {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.push(not_supported(
                    "fieldValidation",
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        let manager = query.get("fieldManager").unwrap_or_default().to_string();
        let force = query.boolean("force");
        if kind == "PatchOptions" && apply && manager.is_empty() {
            let text = "Required value: is required for apply patch";
            causes.push(Cause::new("FieldValueRequired", "fieldManager", text));
        }
        if kind == "PatchOptions" && !apply && force.is_some() {
            let text = "Forbidden: may not be specified for non-apply patch";
            causes.push(Cause::new("FieldValueForbidden", "force", text));
        }
        if manager.len() > 128 {
            let text = "Too long: may not be more than 128 bytes";
            causes.push(Cause::new("FieldValueTooLong", "fieldManager", text));
        }
        match causes.is_empty() {
            true => Ok(WriteOptions {
                dry_run: !dry_run.is_empty(),
                validation,
                manager,
                force: force == Some(true),
            }),
            false => Err(ApiError::invalid("meta.k8s.io", kind, "", causes)),
        }
    }
}

/// What happens to an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay and lose the owner.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// Options of deletes.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Store nothing.
    pub dry_run: bool,
    /// `None` = the kind's default.
    pub grace_seconds: Option<i64>,
    /// `None` = the kind's default.
    pub propagation: Option<Propagation>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub resource_version: Option<String>,
    /// As given, for admission.
    pub raw: Value,
}

impl DeleteOptions {
    /// Reads and checks the options of a delete: the body's, else the query's.
    ///
    /// # Errors
    /// 400 or 422 as upstream.
    pub fn parse(query: &Query, body: &Value) -> ApiResult<Self> {
        let mut causes = Vec::new();
        let pick = |key: &str| match &body[key] {
            Value::Null => query.text(key).map(str::to_string),
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let policy = pick("propagationPolicy");
        let orphan = pick("orphanDependents");
        if policy.is_some() && orphan.is_some() {
            let text = "Invalid value: orphanDependents and propagationPolicy cannot be both set";
            causes.push(Cause::new("FieldValueInvalid", "propagationPolicy", text));
        }
        let propagation = match policy.as_deref() {
            None => orphan.map(|text| {
                if text == "true" {
                    Propagation::Orphan
                } else {
                    Propagation::Background
                }
            }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                causes.push(not_supported(
                    "propagationPolicy",
                    other,
                    &["Background", "Foreground", "Orphan"],
                ));
                None
            }
        };
        let mut dry_run: Vec<String> = query.all("dryRun").map(str::to_string).collect();
        dry_run.extend(
            body["dryRun"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_string)),
        );
        if let Some(bad) = dry_run.iter().find(|value| *value != "All" && !value.is_empty()) {
            causes.push(not_supported("dryRun", bad, &["All"]));
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", causes));
        }
        let grace = pick("gracePeriodSeconds")
            .map(|text| text.parse::<i64>())
            .transpose();
        Ok(DeleteOptions {
            dry_run: dry_run.iter().any(|value| value == "All"),
            grace_seconds: grace.map_err(|_| ApiError::bad_request("gracePeriodSeconds is not a number"))?,
            propagation,
            uid: body["preconditions"]["uid"].as_str().map(str::to_string),
            resource_version: body["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_string),
            raw: body.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str, watch: bool) -> String {
        match ListOptions::parse(&Query::parse(query), watch) {
            Ok(_) => "ok".into(),
            Err(error) => format!(
                "{} {}",
                error.code,
                error.details.map_or(String::new(), |d| d.causes[0].field.clone())
            ),
        }
    }

    #[test]
    fn list_options_are_checked_as_upstream_does() {
        assert_eq!(
            refused("resourceVersion=0&resourceVersionMatch=Exact", false),
            "422 resourceVersionMatch"
        );
        assert_eq!(
            refused("resourceVersionMatch=NotOlderThan", false),
            "422 resourceVersionMatch"
        );
        assert_eq!(refused("sendInitialEvents=true", false), "422 sendInitialEvents");
        assert_eq!(
            refused("sendInitialEvents=true", true),
            "422 resourceVersionMatch"
        );
        assert_eq!(
            refused("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true),
            "ok"
        );
        assert_eq!(
            refused("resourceVersion=5&resourceVersionMatch=NotOlderThan", true),
            "422 resourceVersionMatch"
        );
        assert_eq!(refused("limit=-1", false), "ok");
    }

    #[test]
    fn continue_tokens_survive_the_way() {
        let token = Continue {
            revision: 7,
            namespace: "a".into(),
            name: "b".into(),
        };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("garbage").unwrap_err().code, 400);
    }
}
