//! Kubeconfig files as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Pem;

/// How a user shows who it is.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// By a client certificate.
    Certificate(Pem),
    /// By a client certificate and its key, together in a file that changes when the certificate is renewed.
    File(std::path::PathBuf),
    /// By a bearer token.
    Token(String),
}

/// Writes a kubeconfig with one cluster, one user and one context, all named by `name` and `user`. JSON, which every
/// reader of kubeconfigs takes as YAML.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, user: &str, credentials: &Credentials) -> String {
    let context = format!("{user}@{name}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": user, "user": shown(credentials)}],
        "contexts": [{"name": context, "context": {"cluster": name, "user": user}}],
        "current-context": context,
        "preferences": {},
    });
    let mut text = serde_json::to_string_pretty(&config).unwrap_or_default();
    text.push('\n');
    text
}

fn shown(credentials: &Credentials) -> Value {
    match credentials {
        Credentials::Token(token) => json!({"token": token}),
        Credentials::File(path) => json!({"client-certificate": path, "client-key": path}),
        Credentials::Certificate(pem) => json!({
            "client-certificate-data": STANDARD.encode(&pem.certificate),
            "client-key-data": STANDARD.encode(&pem.key),
        }),
    }
}
