//! Answers to what is asked, not stored: access reviews, token reviews and requests for service account tokens.

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use serde_json::Value;

use mainstay_access::authn::service_account::{Issuing, Keys, issue};
use mainstay_access::authn::{Authenticators, review as authn_review};
use mainstay_access::authz::{Authorizer, may_have_token, node_name, review as authz_review};
use mainstay_access::hooks::{Answer, Ask};
use mainstay_access::status::{ApiError, ApiResult};

/// The built-in answers.
pub struct Answers {
    /// Who may what.
    pub authorizer: Arc<Authorizer>,
    /// Who is who.
    pub authenticators: Arc<Authenticators>,
    /// Signs service account tokens.
    pub keys: Arc<Keys>,
    /// The issuer of service account tokens.
    pub issuer: String,
    /// The time.
    pub clock: SharedClock,
}

#[async_trait]
impl Answer for Answers {
    async fn answer(&self, ask: &Ask<'_>) -> Option<ApiResult<Value>> {
        let info = ask.info;
        let object = ask.object.clone();
        let answer = match (
            info.group.as_str(),
            info.resource.as_str(),
            info.subresource.as_str(),
        ) {
            ("authorization.k8s.io", "subjectaccessreviews", "") => {
                authz_review::subject_access(&self.authorizer, object)
            }
            ("authorization.k8s.io", "localsubjectaccessreviews", "") => {
                authz_review::local_subject_access(&self.authorizer, &info.namespace, object)
            }
            ("authorization.k8s.io", "selfsubjectaccessreviews", "") => {
                authz_review::self_subject_access(&self.authorizer, ask.user, object)
            }
            ("authorization.k8s.io", "selfsubjectrulesreviews", "") => {
                authz_review::self_subject_rules(&self.authorizer, ask.user, object)
            }
            ("authentication.k8s.io", "selfsubjectreviews", "") => {
                Ok(authz_review::self_subject(ask.user, object))
            }
            ("authentication.k8s.io", "tokenreviews", "") => {
                authn_review::token_review(&self.authenticators, object).await
            }
            ("", "serviceaccounts", "token") => self.token(ask, object),
            _ => return None,
        };
        Some(answer)
    }

    /// What other servers check service account tokens with: the issuer's discovery document and its keys.
    fn document(&self, path: &str) -> Option<Value> {
        match path.trim_end_matches('/') {
            "/.well-known/openid-configuration" => Some(Keys::discovery(&self.issuer)),
            "/openid/v1/jwks" => Some(self.keys.jwks()),
            _ => None,
        }
    }
}

impl Answers {
    fn token(&self, ask: &Ask<'_>, request: Value) -> ApiResult<Value> {
        if let Some(node) = node_name(ask.user) {
            may_have_token(node, &ask.info.namespace, &request, ask.world)
                .map_err(|why| ApiError::forbidden("", "serviceaccounts", &ask.info.name, why))?;
        }
        let issuing = Issuing {
            issuer: &self.issuer,
            audiences: self.authenticators.audiences(),
            now: self.clock.now(),
        };
        issue(
            &self.keys,
            &issuing,
            ask.world,
            (&ask.info.namespace, &ask.info.name),
            request,
        )
    }
}
