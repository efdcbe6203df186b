//! Registry credentials from docker configuration files, and which of them suit an image. The rules are the kubelet's.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Deserialize;

use crate::cri::runtime_v1 as v1;

/// The registry of images that name none.
const DEFAULT: &str = "index.docker.io";

/// A docker configuration file (`.dockerconfigjson`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
}

/// Credentials of one registry, or of a path in it.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    /// Both, `USER:SECRET` in base 64; counts where `username` is empty.
    auth: String,
    identitytoken: String,
}

impl Entry {
    fn credentials(&self, server: &str) -> Option<v1::AuthConfig> {
        let mut made = v1::AuthConfig {
            username: self.username.clone(),
            password: self.password.clone(),
            identity_token: self.identitytoken.clone(),
            server_address: server.to_owned(),
            ..Default::default()
        };
        if made.username.is_empty() && !self.auth.is_empty() {
            let engine = base64::engine::general_purpose::STANDARD;
            let decoded = engine.decode(self.auth.trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, secret) = text.split_once(':')?;
            made.username = user.to_owned();
            made.password = secret.trim_matches('\0').to_owned();
        }
        let any = !made.username.is_empty() || !made.identity_token.is_empty();
        any.then_some(made)
    }
}

/// Credentials by the registry, or the path in one, that they are for.
#[derive(Debug, Default)]
pub struct Keyring(BTreeMap<String, Vec<v1::AuthConfig>>);

/// Host and path of a registry's address; `/v1/` and `/v2/` say nothing.
fn key(server: &str) -> String {
    let bare = server
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let at = bare.find('/').unwrap_or(bare.len());
    let (host, mut path) = bare.split_at(at);
    if path.starts_with("/v1/") || path.starts_with("/v2/") {
        path = &path[3..];
    }
    match path {
        "" | "/" => host.to_owned(),
        path => format!("{host}{path}"),
    }
}

/// An image's registry and path, without tag and digest.
fn repository(image: &str) -> String {
    let bare = image.split('@').next().unwrap_or(image);
    let name_at = bare.rfind('/').map_or(0, |at| at + 1);
    let bare = match bare[name_at..].find(':') {
        Some(colon) => &bare[..name_at + colon],
        None => bare,
    };
    match bare.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => bare.to_owned(),
        Some(_) => format!("docker.io/{bare}"),
        None => format!("docker.io/library/{bare}"),
    }
}

/// Whether a part of a host name fits a pattern with `*` and `?`.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skipped| fits(rest, &text[skipped..])),
        (Some((b'?', rest)), Some((_, left))) => fits(rest, left),
        (Some((wanted, rest)), Some((found, left))) => wanted == found && fits(rest, left),
        _ => false,
    }
}

fn split(address: &str) -> (Vec<&str>, &str, &str) {
    let at = address.find('/').unwrap_or(address.len());
    let (host, path) = address.split_at(at);
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    (name.split('.').collect(), port, path)
}

fn matches(pattern: &str, repository: &str) -> bool {
    let ((parts, port, path), (own_parts, own_port, own_path)) = (split(pattern), split(repository));
    port == own_port
        && parts.len() == own_parts.len()
        && own_path.starts_with(path)
        && parts
            .iter()
            .zip(own_parts)
            .all(|(pattern, text)| fits(pattern.as_bytes(), text.as_bytes()))
}

impl Keyring {
    fn add(&mut self, entries: &BTreeMap<String, Entry>) {
        for (server, entry) in entries {
            if let Some(credentials) = entry.credentials(server) {
                self.0.entry(key(server)).or_default().push(credentials);
            }
        }
    }

    /// Adds a docker configuration file; text that is none adds nothing.
    pub fn add_file(&mut self, json: &[u8]) {
        if let Ok(file) = serde_json::from_slice::<File>(json) {
            self.add(&file.auths);
        }
    }

    /// Adds a file of the older form, without `auths`.
    pub fn add_old_file(&mut self, json: &[u8]) {
        if let Ok(entries) = serde_json::from_slice(json) {
            self.add(&entries);
        }
    }

    /// The credentials to try for an image, the most precise address first.
    pub fn of(&self, image: &str) -> Vec<v1::AuthConfig> {
        let repository = repository(image);
        let suiting = self.0.iter().rev().filter(|(key, _)| matches(key, &repository));
        let found: Vec<v1::AuthConfig> = suiting.flat_map(|(_, all)| all.clone()).collect();
        let is_default = repository.starts_with("docker.io/") || repository.starts_with("index.docker.io/");
        match found.is_empty() && is_default {
            true => self.0.get(DEFAULT).cloned().unwrap_or_default(),
            false => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(image: &str) -> Vec<String> {
        let mut keyring = Keyring::default();
        keyring.add_file(
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.io:5000": {"username": "x", "password": "y"},
            "*.example.com": {"username": "wide"}, "r.example.com/team": {"username": "team"}, "r.example.com": {"username": "all"},
            "broken.io": {"auth": "%%"}}}"#,
        );
        keyring.add_old_file(br#"{"http://old.io/v2/": {"username": "old"}}"#);
        keyring.of(image).into_iter().map(|a| a.username).collect()
    }

    #[test]
    fn credentials_are_found_by_registry_and_path_the_precise_ones_first() {
        let rows: [(&str, &[&str]); 10] = [
            ("busybox", &["u"]),
            ("team/busybox:1", &["u"]),
            ("docker.io/team/busybox@sha256:00", &["u"]),
            ("r.io:5000/a:1", &["x"]),
            ("r.io/a", &[]),
            ("r.example.com/team/app:2", &["team", "all", "wide"]),
            ("r.example.com/other/app", &["all", "wide"]),
            ("s.example.com/app", &["wide"]),
            ("a.b.example.com/app", &[]),
            ("old.io/app", &["old"]),
        ];
        for (image, wanted) in rows {
            assert_eq!(users(image), wanted, "{image}");
        }
    }
}
