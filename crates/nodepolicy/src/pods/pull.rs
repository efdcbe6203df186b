//! Pulling images as rules: references, policies, whose credentials, how long to wait after a failure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine;
use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::cri::runtime_v1 as v1;

const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why a container waits: the reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: &'static str,
    /// Details.
    pub message: String,
}

impl Waiting {
    /// Makes one.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Waiting {
            reason,
            message: message.into(),
        }
    }
}

/// One image that could not be pulled. Times are monotonic.
#[derive(Debug, Clone)]
struct FailedPull {
    wait: Duration,
    failed_at: Duration,
    why: String,
}

/// Pull back-off of one pod, by image.
#[derive(Debug, Default)]
pub struct PullBackoff(Mutex<HashMap<String, FailedPull>>);

impl PullBackoff {
    /// The last failure of an image that must still wait at `now`.
    pub fn held_back(&self, image: &str, now: Duration) -> Option<String> {
        let entries = self.0.lock();
        let failed = entries.get(image)?;
        (now.saturating_sub(failed.failed_at) < failed.wait).then(|| failed.why.clone())
    }

    /// Counts a failed pull: the next one waits twice as long, unless the last failure was long ago.
    pub fn failed(&self, image: &str, now: Duration, why: String) {
        let mut entries = self.0.lock();
        let recent = entries
            .get(image)
            .filter(|f| now.saturating_sub(f.failed_at) <= 2 * LONGEST_WAIT);
        let wait = recent.map_or(FIRST_WAIT, |f| (f.wait * 2).min(LONGEST_WAIT));
        let failed = FailedPull {
            wait,
            failed_at: now,
            why,
        };
        entries.insert(image.to_owned(), failed);
    }

    /// The shortest wait of any image, to know when to look again.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let entries = self.0.lock();
        let left = entries
            .values()
            .map(|f| (f.failed_at + f.wait).saturating_sub(now));
        left.filter(|l| !l.is_zero()).min()
    }
}

/// Adds `:latest` to a reference without tag and digest.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains(':') || last.contains('@') {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

/// When a container's image is pulled.
pub fn policy(container: &Container, image: &str) -> String {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy.to_owned(),
        _ if image.ends_with(":latest") => "Always".to_owned(),
        _ => "IfNotPresent".to_owned(),
    }
}

/// A docker configuration file (`.dockerconfigjson`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DockerConfig {
    /// By registry.
    pub auths: BTreeMap<String, DockerAuth>,
}

/// Credentials of one registry.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct DockerAuth {
    /// Who.
    pub username: String,
    /// Secret.
    pub password: String,
    /// Both, `USER:SECRET` in base 64; counts where `username` is empty.
    pub auth: String,
    /// A token in their place.
    pub identitytoken: String,
}

/// The registry host of an image reference.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains('.') || host.contains(':') || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The credentials for an image.
pub fn auth_for(config: &DockerConfig, image: &str) -> Option<v1::AuthConfig> {
    let host = registry(image);
    let (server, auth) = config.auths.iter().find(|(server, _)| {
        let bare = server
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let bare_host = bare.split('/').next().unwrap_or(bare);
        bare_host == host || (host == "docker.io" && bare_host == "index.docker.io")
    })?;
    let (mut username, mut password) = (auth.username.clone(), auth.password.clone());
    if username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(&auth.auth)
            .ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, secret) = text.split_once(':')?;
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    Some(v1::AuthConfig {
        username,
        password,
        identity_token: auth.identitytoken.clone(),
        server_address: server.clone(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_tag_means_latest() {
        let rows = ["busybox", "r.io:5000/a/b", "a:1", "a@sha256:00"];
        assert_eq!(
            rows.map(with_tag),
            ["busybox:latest", "r.io:5000/a/b:latest", "a:1", "a@sha256:00"]
        );
    }

    #[test]
    fn credentials_are_found_by_registry() {
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.io:5000": {"username": "x", "password": "y"}}}"#;
        let config: DockerConfig = serde_json::from_str(text).expect("valid");
        let user = |image: &str| auth_for(&config, image).map(|a| a.username);
        assert_eq!(
            [user("busybox"), user("r.io:5000/a"), user("other.io/a")],
            [Some("u".into()), Some("x".into()), None]
        );
    }

    #[test]
    fn pull_waits_double() {
        let backoff = PullBackoff::default();
        let second = Duration::from_secs;
        backoff.failed("i", Duration::ZERO, "gone".into());
        assert_eq!(backoff.held_back("i", second(9)), Some("gone".to_owned()));
        assert_eq!(backoff.held_back("i", second(10)), None);
        backoff.failed("i", second(10), "gone".into());
        assert_eq!(backoff.next(second(10)), Some(second(20)));
    }
}
