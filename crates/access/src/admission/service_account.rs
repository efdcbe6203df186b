//! ServiceAccount: every pod runs as an account of its namespace and gets a token, the root CA and the namespace's
//! name under the well-known path, unless it or the account declines.

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{creates_pod, forbidden, items};
use crate::hooks::{Admit, Review, World};
use crate::status::ApiResult;

const MIRROR: &str = "kubernetes.io/config.mirror";
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A token is renewed by the node well before this; one second over an hour and some minutes marks it as this one.
const TOKEN_SECONDS: i64 = 3_607;

/// The plugin; the generator makes volume names.
pub(super) struct ServiceAccount {
    rng: Mutex<fastrand::Rng>,
}

impl Default for ServiceAccount {
    fn default() -> Self {
        ServiceAccount {
            rng: Mutex::new(fastrand::Rng::new()),
        }
    }
}

/// Whether the pod only mirrors a static one.
pub(super) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

fn account(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or_default()
}

impl ServiceAccount {
    fn volume_name(&self) -> String {
        let mut rng = self.rng.lock();
        format!("kube-api-access-{}", mainstay_base::ids::suffix(&mut rng, 5))
    }
}

#[async_trait]
impl Admit for ServiceAccount {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !creates_pod(review) || is_mirror(&review.object) {
            return Ok(());
        }
        if account(&review.object).is_empty() {
            review.object["spec"]["serviceAccountName"] = json!("default");
        }
        let name = account(&review.object).to_string();
        review.object["spec"]["serviceAccount"] = json!(name);
        let Some(stored) = world.get("core/serviceaccounts", &review.namespace, &name) else {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                review.namespace
            );
            return Err(forbidden(review, why));
        };
        let stored = stored.value();
        let spec = &mut review.object["spec"];
        if items(&spec["imagePullSecrets"]).next().is_none() && !stored["imagePullSecrets"].is_null() {
            spec["imagePullSecrets"] = stored["imagePullSecrets"].clone();
        }
        if wants_token(spec, &stored) {
            mount_token(spec, || self.volume_name());
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, _: &dyn World) -> ApiResult<()> {
        if creates_pod(review) && is_mirror(&review.object) && !account(&review.object).is_empty() {
            return Err(forbidden(
                review,
                "a mirror pod may not reference service accounts",
            ));
        }
        Ok(())
    }
}

/// The pod's word counts first, then the account's; without a word a token is mounted.
fn wants_token(spec: &Value, stored: &Value) -> bool {
    let said = |value: &Value| value["automountServiceAccountToken"].as_bool();
    said(spec).or(said(stored)).unwrap_or(true)
}

fn mounts_path(container: &Value) -> bool {
    items(&container["volumeMounts"]).any(|mount| mount["mountPath"] == PATH)
}

fn mount_token(spec: &mut Value, name: impl FnOnce() -> String) {
    let existing = items(&spec["volumes"])
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_string);
    let is_new = existing.is_none();
    let name = existing.unwrap_or_else(name);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers
            .into_iter()
            .flatten()
            .filter(|container| !mounts_path(container))
        {
            push(
                &mut container["volumeMounts"],
                json!({"name": name, "readOnly": true, "mountPath": PATH}),
            );
            mounted = true;
        }
    }
    if mounted && is_new {
        push(&mut spec["volumes"], volume(&name));
    }
}

/// Appends to a list, making it when it is unset.
pub(super) fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        unset => *unset = json!([item]),
    }
}

fn volume(name: &str) -> Value {
    let field =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({
        "name": name,
        "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [field]}},
        ]},
    })
}
