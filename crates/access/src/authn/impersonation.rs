//! Impersonation: acting as another user, each part of whose identity the real user must be allowed to take on.

use std::collections::BTreeMap;

use http::HeaderMap;

use crate::authz::attributes;
use crate::hooks::{Authorize, Decision};
use crate::status::{ApiError, ApiResult};
use crate::user::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, UserInfo};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_string()
}

fn read(headers: &HeaderMap) -> ApiResult<Option<Wanted>> {
    let groups = headers.get_all("impersonate-group").iter();
    let mut wanted = Wanted {
        name: text(headers, "impersonate-user"),
        uid: text(headers, "impersonate-uid"),
        groups: groups
            .filter_map(|value| value.to_str().ok())
            .map(str::to_string)
            .collect(),
        extra: BTreeMap::new(),
    };
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            let value = value.to_str().unwrap_or_default().to_string();
            wanted.extra.entry(percent_decoded(key)).or_default().push(value);
        }
    }
    if wanted == Wanted::default() {
        return Ok(None);
    }
    if wanted.name.is_empty() {
        return Err(ApiError::bad_request(
            "requested impersonation of a group, uid or extra without impersonating a user",
        ));
    }
    Ok(Some(wanted))
}

/// Decodes `%xx`; what is malformed stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).to_lowercase()
}

/// Tells the user to act as, or `None` when the headers ask for nobody.
///
/// # Errors
/// 400 for headers without a user, 403 naming the part that may not be taken on.
pub async fn impersonate(
    headers: &HeaderMap,
    real: &UserInfo,
    authorizer: &dyn Authorize,
) -> ApiResult<Option<UserInfo>> {
    let Some(wanted) = read(headers)? else {
        return Ok(None);
    };
    let account = mainstay_policy::rbac::split_service_account(&wanted.name);
    match account {
        Some((namespace, name)) => {
            check(real, authorizer, ("", "serviceaccounts", ""), namespace, name).await?
        }
        None => check(real, authorizer, ("", "users", ""), "", &wanted.name).await?,
    }
    for group in &wanted.groups {
        check(real, authorizer, ("", "groups", ""), "", group).await?;
    }
    if !wanted.uid.is_empty() {
        check(
            real,
            authorizer,
            ("authentication.k8s.io", "uids", ""),
            "",
            &wanted.uid,
        )
        .await?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check(
                real,
                authorizer,
                ("authentication.k8s.io", "userextras", key),
                "",
                value,
            )
            .await?;
        }
    }
    Ok(Some(resulting(wanted)))
}

async fn check(
    real: &UserInfo,
    authorizer: &dyn Authorize,
    what: (&str, &str, &str),
    namespace: &str,
    name: &str,
) -> ApiResult<()> {
    match authorizer
        .authorize(&attributes(real, "impersonate", what, (namespace, name)))
        .await
    {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            let why = format!(
                "User \"{}\" cannot impersonate resource \"{}\" in API group \"{}\" {}{}",
                real.name,
                what.1,
                what.0,
                if namespace.is_empty() {
                    "at the cluster scope".into()
                } else {
                    format!("in the namespace \"{namespace}\"")
                },
                if reason.is_empty() {
                    String::new()
                } else {
                    format!(": {reason}")
                },
            );
            Err(ApiError::forbidden(what.0, what.1, name, why))
        }
    }
}

/// Adds the groups that the identity brings by itself.
fn resulting(wanted: Wanted) -> UserInfo {
    let mut groups = wanted.groups;
    let account = mainstay_policy::rbac::split_service_account(&wanted.name);
    if let (true, Some((namespace, _))) = (groups.is_empty(), account) {
        groups = super::service_account::groups(namespace);
    }
    let anonymous = wanted.name == USER_ANONYMOUS;
    let implied = if anonymous {
        GROUP_UNAUTHENTICATED
    } else {
        GROUP_AUTHENTICATED
    };
    let named = groups
        .iter()
        .any(|group| group == GROUP_AUTHENTICATED || group == GROUP_UNAUTHENTICATED);
    if !named {
        groups.push(implied.into());
    }
    UserInfo {
        name: wanted.name,
        uid: wanted.uid,
        groups,
        extra: wanted.extra,
    }
}
