//! Authentication: client certificates, then bearer tokens, each method in turn; anonymous only on named paths.
//!
//! A request without credentials is anonymous where the configuration allows it and refused elsewhere. A token
//! that no method knows is refused, never taken for anonymous.

pub mod bootstrap_token;
pub mod certificate;
pub mod impersonation;
pub mod review;
pub mod service_account;
pub mod token_file;
pub mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderMap;
use http::request::Parts;

use crate::hooks::{Authenticate, Peer};
use crate::status::{ApiError, ApiResult};
use crate::user::{GROUP_AUTHENTICATED, UserInfo};

/// A user and the audiences of the token that told it; no audiences for credentials that have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub user: UserInfo,
    /// The audiences that both the token and the question name.
    pub audiences: Vec<String>,
}

/// A way to tell a user by a bearer token.
#[async_trait]
pub trait TokenMethod: Send + Sync {
    /// Tells the user; `None` when the token is not of this method's kind.
    ///
    /// # Errors
    /// Why a token of this kind is not valid; for logs, clients only learn that it is not.
    async fn tell(&self, token: &str, audiences: &[String]) -> Result<Option<Known>, String>;
}

/// The chain of methods.
pub struct Authenticators {
    methods: Vec<Arc<dyn TokenMethod>>,
    audiences: Vec<String>,
    anonymous: Vec<String>,
}

impl Authenticators {
    /// Makes a chain that knows client certificates alone. `audiences` are those a token must name to be good for
    /// this server.
    pub fn new(audiences: Vec<String>) -> Self {
        Authenticators {
            methods: Vec::new(),
            audiences,
            anonymous: Vec::new(),
        }
    }

    /// Adds a token method; methods are asked in the order they were added.
    #[must_use]
    pub fn with(mut self, method: Arc<dyn TokenMethod>) -> Self {
        self.methods.push(method);
        self
    }

    /// Lets requests without credentials reach these paths; a trailing `*` matches any rest.
    #[must_use]
    pub fn anonymous_on(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        self.anonymous.extend(paths);
        self
    }

    /// The paths that are open to anonymous users by default: health and version.
    pub fn default_anonymous_paths() -> Vec<String> {
        ["/healthz", "/livez", "/readyz", "/version"]
            .map(String::from)
            .to_vec()
    }

    /// The audiences of this server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn anonymous_allowed(&self, path: &str) -> bool {
        self.anonymous
            .iter()
            .any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == allowed,
            })
    }

    /// Asks each method for the token's user.
    ///
    /// # Errors
    /// The last method's reason, when none knows the token.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<Known, String> {
        let mut why = "no method knows this token".to_string();
        for method in &self.methods {
            match method.tell(token, audiences).await {
                Ok(Some(known)) => return Ok(known),
                Ok(None) => {}
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }
}

#[async_trait]
impl Authenticate for Authenticators {
    async fn authenticate(&self, request: &Parts, peer: &Peer) -> ApiResult<Option<Arc<UserInfo>>> {
        if let Some(leaf) = peer.certificates.first() {
            let user = peer.user.get_or_init(|| certificate::user(leaf).map(Arc::new));
            return user.clone().map(Some).map_err(|reason| refused(&reason));
        }
        let Some(token) = bearer_token(&request.headers)? else {
            let path = request.uri.path();
            let allowed = self.anonymous_allowed(path);
            return Ok(allowed.then(|| Arc::new(UserInfo::anonymous())));
        };
        let known = self
            .token(&token, &self.audiences)
            .await
            .map_err(|reason| refused(&reason))?;
        Ok(Some(Arc::new(authenticated(known.user))))
    }
}

fn refused(reason: &str) -> ApiError {
    tracing::debug!(reason, "credentials refused");
    ApiError::unauthorized()
}

/// Puts the user into the group of all authenticated users.
pub(crate) fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(GROUP_AUTHENTICATED) {
        user.groups.push(GROUP_AUTHENTICATED.into());
    }
    user
}

/// The WebSocket subprotocol prefix under which browsers hand over a token.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Finds the bearer token: in `Authorization`, or in a WebSocket's subprotocols.
fn bearer_token(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let text = |name: http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text(http::header::AUTHORIZATION) {
        let Some((scheme, token)) = value.trim().split_once(' ') else {
            return Ok(None);
        };
        let token = token.trim();
        let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
        return Ok(usable.then(|| token.to_string()));
    }
    let protocols = text(http::header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let mut offered = protocols
        .split(',')
        .filter_map(|one| one.trim().strip_prefix(WEBSOCKET_TOKEN));
    let Some(encoded) = offered.next() else {
        return Ok(None);
    };
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded);
    let token = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    token
        .map(Some)
        .ok_or_else(|| refused("the subprotocol's token is not base64url"))
}

#[cfg(test)]
mod tests;
