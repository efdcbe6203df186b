//! Who speaks to the node and whether they may: client certificates or TokenReview, then SubjectAccessReview.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::Shared;

/// How long an accepted token is believed.
const TOKEN_LIFE: Duration = Duration::from_secs(120);
/// How long a permission holds.
const ALLOWED_LIFE: Duration = Duration::from_secs(300);
/// How long a refusal holds.
const DENIED_LIFE: Duration = Duration::from_secs(30);
/// Most remembered answers.
const REMEMBERED: usize = 1024;

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// The user that a verified client certificate names.
pub fn user_of_certificate(chain: Option<&[CertificateDer<'_>]>) -> Option<User> {
    let first = chain?.first()?;
    let (_, certificate) = X509Certificate::from_der(first).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned);
    Some(User {
        name,
        groups: groups.chain(["system:authenticated".to_owned()]).collect(),
    })
}

struct Remembered<V> {
    value: V,
    until: Duration,
}

type Memory<K, V> = Mutex<HashMap<K, Remembered<V>>>;

/// Asks the API server who and whether, and remembers the answers.
pub struct Auth {
    shared: Arc<Shared>,
    tokens: Memory<[u8; 32], Option<User>>,
    verdicts: Memory<(User, String, String), bool>,
}

/// What a path is in the API's terms, most precise first.
fn subresources(path: &str) -> Vec<&'static str> {
    let top = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match top {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Auth {
    /// Makes it with empty memories.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Auth {
            shared: shared.clone(),
            tokens: Mutex::default(),
            verdicts: Mutex::default(),
        }
    }

    fn recall<K: std::hash::Hash + Eq, V: Clone>(&self, memory: &Memory<K, V>, key: &K) -> Option<V> {
        let now = self.shared.clock.monotonic();
        let memory = memory.lock();
        memory.get(key).filter(|r| r.until > now).map(|r| r.value.clone())
    }

    fn remember<K: std::hash::Hash + Eq, V>(&self, memory: &Memory<K, V>, key: K, value: V, life: Duration) {
        let now = self.shared.clock.monotonic();
        let mut memory = memory.lock();
        if memory.len() >= REMEMBERED {
            memory.retain(|_, r| r.until > now);
        }
        if memory.len() < REMEMBERED {
            let until = now + life;
            memory.insert(key, Remembered { value, until });
        }
    }

    /// Tells who sends a request; `None`: nobody known.
    pub async fn authenticate<B>(&self, request: &Request<B>, certificate: Option<User>) -> Option<User> {
        if certificate.is_some() {
            return certificate;
        }
        let authentication = &self.shared.settings.kubelet.authentication;
        let header = request.headers().get(http::header::AUTHORIZATION);
        let token = header
            .and_then(|h| h.to_str().ok())
            .and_then(|h| h.strip_prefix("Bearer "));
        match token {
            Some(token) if authentication.webhook.enabled => self.review(token.trim()).await,
            _ if authentication.anonymous.enabled => Some(User {
                name: "system:anonymous".to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
            }),
            _ => None,
        }
    }

    async fn review(&self, token: &str) -> Option<User> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(known) = self.recall(&self.tokens, &key) {
            return known;
        }
        let review: TokenReview =
            serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).ok()?;
        let api: Api<TokenReview> = Api::all(self.shared.api.client()?);
        let answer = api.create(&PostParams::default(), &review).await.ok()?;
        let status = answer.status.unwrap_or_default();
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .map(|u| User {
                name: u.username.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
            });
        self.remember(&self.tokens, key, user.clone(), TOKEN_LIFE);
        user
    }

    /// Tells whether a user may do this.
    ///
    /// # Errors
    /// The refusal in words.
    pub async fn authorize(&self, user: &User, method: &Method, path: &str) -> Result<(), String> {
        if self.shared.settings.kubelet.authorization.mode == "AlwaysAllow" {
            return Ok(());
        }
        let subresources = subresources(path);
        for subresource in &subresources {
            if self.may(user, verb(method), subresource).await? {
                return Ok(());
            }
        }
        Err(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)={subresources:?})",
            user.name,
            verb(method)
        ))
    }

    async fn may(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, String> {
        let key = (user.clone(), verb.to_owned(), subresource.to_owned());
        if let Some(known) = self.recall(&self.verdicts, &key) {
            return Ok(known);
        }
        let review: SubjectAccessReview = serde_json::from_value(json!({"metadata": {}, "spec": {
            "user": user.name, "groups": user.groups,
            "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource,
                "name": self.shared.settings.node_name()}}}))
        .map_err(|e| e.to_string())?;
        let client = self
            .shared
            .api
            .client()
            .ok_or("the node has not joined a cluster yet")?;
        let api: Api<SubjectAccessReview> = Api::all(client);
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| format!("authorization failed: {e}"))?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        let life = if allowed { ALLOWED_LIFE } else { DENIED_LIFE };
        self.remember(&self.verdicts, key, allowed, life);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_nodes_subresources() {
        let rows = [
            "/stats/summary",
            "/metrics/resource",
            "/pods",
            "/exec/a/b/c",
            "/containerLogs/a/b/c",
        ];
        assert_eq!(
            rows.map(|p| subresources(p).join("|")),
            ["stats", "metrics", "pods|proxy", "proxy", "proxy"]
        );
    }
}
