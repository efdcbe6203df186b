//! The Node object: made or adopted at start, its status written when it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::facts::go_arch;
use crate::node_status::{Seen, build, differs, transitions};
use crate::settings::Settings;

/// Labels that every node carries about itself.
fn own_labels(settings: &Settings) -> BTreeMap<String, String> {
    let arch = go_arch(std::env::consts::ARCH);
    let name = settings.node_name();
    let mut labels = settings.join.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn first_taints(settings: &Settings) -> Option<Vec<Taint>> {
    let mut taints = settings.join.taints.clone();
    taints.extend(settings.kubelet.register_with_taints.clone());
    (!taints.is_empty()).then_some(taints)
}

fn provider_id(settings: &Settings) -> Option<String> {
    let given = [&settings.join.provider_id, &settings.kubelet.provider_id];
    given.into_iter().find(|id| !id.is_empty()).cloned()
}

/// The Node object of a node that joins for the first time.
pub fn new_node(settings: &Settings) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(settings.node_name().to_owned()),
            labels: Some(own_labels(settings)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            provider_id: provider_id(settings),
            taints: first_taints(settings),
            ..Default::default()
        }),
        status: None,
    }
}

/// The merge patch that an existing Node needs, if any: missing labels and a missing provider id.
fn adoption(settings: &Settings, node: &Node) -> Option<serde_json::Value> {
    let have = node.metadata.labels.clone().unwrap_or_default();
    let mut labels = own_labels(settings);
    labels.retain(|key, value| have.get(key) != Some(value));
    let given = node.spec.as_ref().and_then(|s| s.provider_id.clone());
    let missing = provider_id(settings).filter(|_| given.is_none());
    if labels.is_empty() && missing.is_none() {
        return None;
    }
    let mut patch = json!({"metadata": {"labels": labels}});
    if let Some(id) = missing {
        patch["spec"] = json!({"providerID": id});
    }
    Some(patch)
}

/// Makes the Node object or adopts the existing one.
///
/// # Errors
/// What the API server answered.
pub async fn register(client: &kube::Client, settings: &Settings) -> Result<Node, kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let name = settings.node_name();
    let existing = match api.get_opt(name).await? {
        Some(node) => node,
        None if !settings.kubelet.register_node => {
            let status = kube::core::Status::failure(
                "the Node object is missing and registerNode is false",
                "NotFound",
            );
            return Err(kube::Error::Api(status.with_code(404).boxed()));
        }
        None => match api.create(&PostParams::default(), &new_node(settings)).await {
            Ok(node) => {
                tracing::info!(name, "registered the node");
                return Ok(node);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await?,
            Err(error) => return Err(error),
        },
    };
    match adoption(settings, &existing) {
        Some(patch) => {
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
        }
        None => Ok(existing),
    }
}

/// Remembers what was written last, so that an unchanged status costs no request.
#[derive(Debug, Default)]
pub struct StatusWriter {
    last: NodeStatus,
    written_at: Option<Timestamp>,
}

/// A status that was written.
#[derive(Debug)]
pub struct Written {
    /// The object with it.
    pub node: Node,
    /// Reasons of events about conditions that changed.
    pub events: Vec<&'static str>,
}

/// The patch that brings `status` about: what it no longer has is taken away by name.
fn patch(status: &NodeStatus, before: &NodeStatus) -> serde_json::Value {
    let mut patch = json!({"status": status});
    let now = status.allocatable.clone().unwrap_or_default();
    for gone in before.allocatable.iter().flatten().map(|(name, _)| name) {
        if !now.contains_key(gone) {
            patch["status"]["allocatable"][gone] = serde_json::Value::Null;
        }
    }
    patch
}

impl StatusWriter {
    /// Starts from the status of the registered Node.
    pub fn registered(node: &Node) -> Self {
        StatusWriter {
            last: node.status.clone().unwrap_or_default(),
            written_at: None,
        }
    }

    /// Takes over what others wrote (seen on the watch of our own Node).
    pub fn observe(&mut self, node: &Node) {
        if let Some(status) = &node.status {
            self.last = status.clone();
        }
    }

    /// Writes the status if it changed, or if `report_every` (not zero) has passed; `None`: there was no need.
    ///
    /// # Errors
    /// What the API server answered; 404 means that the Node must be registered anew.
    pub async fn write(
        &mut self,
        client: &kube::Client,
        name: &str,
        seen: &Seen,
        report_every: Duration,
        now: Timestamp,
    ) -> Result<Option<Written>, kube::Error> {
        let status = build(seen, &self.last, now);
        let due = self.written_at.is_none_or(|at| {
            !report_every.is_zero() && now.as_second() - at.as_second() >= report_every.as_secs() as i64
        });
        if !due && !differs(&status, &self.last) {
            return Ok(None);
        }
        let api: Api<Node> = Api::all(client.clone());
        let patch = Patch::Strategic(patch(&status, &self.last));
        let node = api.patch_status(name, &PatchParams::default(), &patch).await?;
        let events = transitions(&self.last, &status);
        self.observe(&node);
        self.written_at = Some(now);
        Ok(Some(Written { node, events }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KubeletConfiguration, NodeConfig};

    fn settings() -> Settings {
        let text = "{nodeName: n1, providerID: 'mainstay://local/default/m1', labels: {pool: a}, taints: [{key: k, effect: NoSchedule}]}";
        let join = NodeConfig::parse(text).expect("valid");
        Settings::new(join, KubeletConfiguration::default(), "v1.36.0")
    }

    #[test]
    fn a_new_node_carries_labels_taints_and_provider() {
        let node = new_node(&settings());
        let labels = node.metadata.labels.as_ref().expect("set");
        assert_eq!(
            (labels["pool"].as_str(), labels["kubernetes.io/hostname"].as_str()),
            ("a", "n1")
        );
        let spec = node.spec.as_ref().expect("set");
        assert_eq!(spec.provider_id.as_deref(), Some("mainstay://local/default/m1"));
        assert_eq!(spec.taints.as_ref().map(Vec::len), Some(1));
        assert_eq!(adoption(&settings(), &node), None);
    }

    #[test]
    fn adopting_adds_only_what_is_missing() {
        let mut node = new_node(&settings());
        node.metadata.labels.as_mut().expect("set").remove("pool");
        let patch = adoption(&settings(), &node).expect("something to do");
        assert_eq!(patch.to_string(), r#"{"metadata":{"labels":{"pool":"a"}}}"#);
    }

    #[test]
    fn what_left_the_allocatable_is_taken_away_by_name() {
        let quantities = |names: &[&str]| {
            let list = names.iter().map(|n| ((*n).to_owned(), "1".to_owned()));
            NodeStatus {
                allocatable: Some(
                    list.map(|(n, q)| (n, k8s_openapi::apimachinery::pkg::api::resource::Quantity(q)))
                        .collect(),
                ),
                ..Default::default()
            }
        };
        let patch = patch(&quantities(&["cpu"]), &quantities(&["cpu", "example.com/x"]));
        assert_eq!(
            patch["status"]["allocatable"],
            json!({"cpu": "1", "example.com/x": null})
        );
    }
}
