//! Checking tokens: signature, issuer, times, audience, and that everything the token names still exists.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;

use super::claims::{Claims, Reference};
use super::{Keys, groups};
use crate::authn::certificate::CREDENTIAL_ID;
use crate::authn::{Known, TokenMethod};
use crate::hooks::World;
use crate::object::Object;
use crate::sha256::sha256;
use crate::user::UserInfo;

/// Verified signatures remembered at most: some megabytes, and enough for the pods of a large cluster.
const REMEMBERED: usize = 20_000;
/// How long after a bound pod's deletion its tokens still hold, so that it can end in order.
const DELETION_GRACE_SECONDS: i64 = 60;

/// Tells service accounts by their tokens.
pub struct ServiceAccountTokens {
    keys: Arc<Keys>,
    issuer: String,
    world: Arc<dyn World>,
    clock: SharedClock,
    /// Claims by the token's digest: signatures cost more than everything else together.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccountTokens {
    /// Makes the method.
    pub fn new(
        keys: Arc<Keys>,
        issuer: impl Into<String>,
        world: Arc<dyn World>,
        clock: SharedClock,
    ) -> Self {
        ServiceAccountTokens {
            keys,
            issuer: issuer.into(),
            world,
            clock,
            verified: Mutex::default(),
        }
    }

    /// Forgets remembered signatures; call it when keys were replaced.
    pub fn forget(&self) {
        self.verified.lock().clear();
    }

    fn claims(&self, token: &str) -> Result<Arc<Claims>, String> {
        let digest = sha256(token);
        if let Some(known) = self.verified.lock().get(&digest) {
            return Ok(known.clone());
        }
        let claims = Arc::new(self.keys.verify::<Claims>(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Ok(claims)
    }

    fn check(&self, claims: &Claims) -> Result<UserInfo, String> {
        let now = self.clock.now();
        let seconds = now.as_second();
        if seconds >= claims.exp {
            return Err("the token has expired".into());
        }
        if seconds < claims.nbf {
            return Err("the token is not valid yet".into());
        }
        let (private, namespace) = (&claims.private, &claims.private.namespace);
        let same = |resource: &str, namespace: &str, reference: &Reference| {
            let found = self.world.get(resource, namespace, &reference.name);
            found.filter(|object| object.uid() == reference.uid)
        };
        same("core/serviceaccounts", namespace, &private.serviceaccount)
            .ok_or("the service account is gone")?;
        if let Some(pod) = &private.pod {
            let pod = same("core/pods", namespace, pod).ok_or("the pod the token is bound to is gone")?;
            alive(&pod, now)?;
        }
        if let Some(secret) = &private.secret {
            let secret =
                same("core/secrets", namespace, secret).ok_or("the secret the token is bound to is gone")?;
            alive(&secret, now)?;
        }
        if let (Some(node), None) = (&private.node, &private.pod) {
            same("core/nodes", "", node).ok_or("the node the token is bound to is gone")?;
        }
        Ok(user(claims))
    }
}

/// Refuses objects whose deletion is longer ago than the grace.
fn alive(object: &Object, now: Timestamp) -> Result<(), String> {
    let deleted = object.scalar("metadata.deletionTimestamp");
    let Ok(deleted) = deleted.parse::<Timestamp>() else {
        return Ok(());
    };
    if now.as_second() > deleted.as_second() + DELETION_GRACE_SECONDS {
        return Err("what the token is bound to is being deleted".into());
    }
    Ok(())
}

fn user(claims: &Claims) -> UserInfo {
    let private = &claims.private;
    let mut user = UserInfo {
        name: mainstay_policy::rbac::service_account_user(&private.namespace, &private.serviceaccount.name),
        uid: private.serviceaccount.uid.clone(),
        groups: groups(&private.namespace),
        ..UserInfo::default()
    };
    user.extra
        .insert(CREDENTIAL_ID.into(), vec![format!("JTI={}", claims.jti)]);
    for (what, reference) in [("pod", &private.pod), ("node", &private.node)] {
        if let Some(reference) = reference {
            let key = |part: &str| format!("authentication.kubernetes.io/{what}-{part}");
            user.extra.insert(key("name"), vec![reference.name.clone()]);
            user.extra.insert(key("uid"), vec![reference.uid.clone()]);
        }
    }
    user
}

/// Reads the issuer without checking anything: whether the token is meant for this method at all.
fn issuer_of(token: &str) -> Option<String> {
    use base64::Engine as _;
    let mut parts = token.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims["iss"].as_str().map(str::to_string)
}

#[async_trait]
impl TokenMethod for ServiceAccountTokens {
    async fn tell(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String> {
        if issuer_of(token).as_ref() != Some(&self.issuer) {
            return Ok(None);
        }
        let claims = self.claims(token)?;
        let shared: Vec<String> = claims
            .aud
            .iter()
            .filter(|aud| audiences.contains(aud))
            .cloned()
            .collect();
        if shared.is_empty() {
            return Err("the token is for other audiences".into());
        }
        let user = self.check(&claims)?;
        Ok(Some(Known {
            user,
            audiences: shared,
        }))
    }
}
