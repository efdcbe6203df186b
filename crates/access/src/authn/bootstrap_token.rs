//! Bootstrap tokens: `id.secret`, kept as Secrets of type `bootstrap.kubernetes.io/token` in kube-system.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use jiff::Timestamp;
use mainstay_base::clock::SharedClock;
use serde_json::Value;

use super::{Known, TokenMethod};
use crate::hooks::World;
use crate::sha256::sha256;
use crate::user::UserInfo;

const GROUP: &str = "system:bootstrappers";

/// Tells machines that hold a bootstrap token.
pub struct BootstrapTokens {
    world: Arc<dyn World>,
    clock: SharedClock,
}

impl BootstrapTokens {
    /// Makes the method over the server's secrets.
    pub fn new(world: Arc<dyn World>, clock: SharedClock) -> Self {
        BootstrapTokens { world, clock }
    }
}

/// Splits a token of the right shape into id and secret.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let lower = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (id.len() == 6 && secret.len() == 16 && lower(id) && lower(secret)).then_some((id, secret))
}

/// One value of a Secret, decoded.
fn data(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_default();
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap_or_default();
    String::from_utf8(decoded).unwrap_or_default()
}

fn check(secret: &Value, id: &str, token_secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    let refuse = |why: &str| Err(format!("bootstrap token {id}: {why}"));
    if secret["type"] != "bootstrap.kubernetes.io/token" || data(secret, "token-id") != id {
        return refuse("the secret is not a bootstrap token of this id");
    }
    // Compared by digest: the time taken tells nothing about the secret.
    if sha256(data(secret, "token-secret")) != sha256(token_secret) {
        return refuse("the secret does not match");
    }
    if !secret["metadata"]["deletionTimestamp"].is_null() {
        return refuse("the token is being deleted");
    }
    let expiration = data(secret, "expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| end <= now) {
        return refuse("the token has expired");
    }
    if data(secret, "usage-bootstrap-authentication") != "true" {
        return refuse("the token is not meant for authentication");
    }
    let extra = data(secret, "auth-extra-groups");
    let groups: Vec<&str> = extra
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .collect();
    if groups
        .iter()
        .any(|group| !group.starts_with("system:bootstrappers:"))
    {
        return refuse("its groups must start with system:bootstrappers:");
    }
    let mut user = UserInfo {
        name: format!("system:bootstrap:{id}"),
        ..UserInfo::default()
    };
    user.groups.push(GROUP.into());
    user.groups.extend(groups.into_iter().map(str::to_string));
    Ok(user)
}

#[async_trait]
impl TokenMethod for BootstrapTokens {
    async fn tell(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String> {
        let Some((id, token_secret)) = split(token) else {
            return Ok(None);
        };
        let found = self
            .world
            .get("core/secrets", "kube-system", &format!("bootstrap-token-{id}"));
        let secret = found.ok_or_else(|| format!("bootstrap token {id}: no such token"))?;
        let user = check(&secret.value(), id, token_secret, self.clock.now())?;
        Ok(Some(Known {
            user,
            audiences: audiences.to_vec(),
        }))
    }
}
