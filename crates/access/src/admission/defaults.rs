//! Small defaults: taints of new nodes, tolerations of pods, storage and ingress classes.

use async_trait::async_trait;
use mainstay_policy::amounts::pod_resources;
use mainstay_semantics::qos;
use serde_json::{Value, json};

use super::service_account::push;
use super::{creates_pod, items};
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::ApiResult;

/// How long pods stay on a node that is not ready or unreachable unless they say otherwise.
const NODE_LOSS_SECONDS: i64 = 300;

/// A plugin that only fills things in.
pub(super) struct Default(fn(&mut Review, &dyn World));

/// New nodes take no pods until they are ready.
pub(super) const TAINT_NODES: Default = Default(taint_new_node);
/// Pods outlive a short loss of their node.
pub(super) const TOLERATION_SECONDS: Default = Default(tolerate_node_loss);
/// Memory pressure keeps only BestEffort pods away: the others tolerate it.
pub(super) const MEMORY_PRESSURE: Default = Default(tolerate_memory_pressure);
/// Claims without a class get the default one.
pub(super) const STORAGE_CLASS: Default = Default(default_storage_class);
/// Ingresses without a class get the default one.
pub(super) const INGRESS_CLASS: Default = Default(default_ingress_class);

#[async_trait]
impl Admit for Default {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        self.0(review, world);
        Ok(())
    }

    async fn validate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }
}

fn taint_new_node(review: &mut Review, _: &dyn World) {
    if review.operation != Operation::Create || !review.is("", "nodes", "") {
        return;
    }
    let spec = &mut review.object["spec"];
    let is_there =
        |taint: &Value| taint["key"] == "node.kubernetes.io/not-ready" && taint["effect"] == "NoSchedule";
    if !items(&spec["taints"]).any(is_there) {
        push(
            &mut spec["taints"],
            json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}),
        );
    }
}

/// Whether a toleration speaks about the taint: it names it, or it tolerates everything.
fn speaks_of(toleration: &Value, key: &str, effect: &str) -> bool {
    let unset = |field: &str| toleration[field].as_str().unwrap_or_default().is_empty();
    (toleration["key"] == key || unset("key")) && (toleration["effect"] == effect || unset("effect"))
}

fn tolerate_node_loss(review: &mut Review, _: &dyn World) {
    if !creates_pod(review) {
        return;
    }
    let tolerations = &mut review.object["spec"]["tolerations"];
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !items(tolerations).any(|toleration| speaks_of(toleration, key, "NoExecute")) {
            push(
                tolerations,
                json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_SECONDS,
                }),
            );
        }
    }
}

fn tolerate_memory_pressure(review: &mut Review, _: &dyn World) {
    let best_effort = |spec: &Value| qos::class(&pod_resources(spec)) == qos::Class::BestEffort;
    if !creates_pod(review) || best_effort(&review.object["spec"]) {
        return;
    }
    const KEY: &str = "node.kubernetes.io/memory-pressure";
    let tolerations = &mut review.object["spec"]["tolerations"];
    if !items(tolerations).any(|toleration| speaks_of(toleration, KEY, "NoSchedule")) {
        push(
            tolerations,
            json!({"key": KEY, "operator": "Exists", "effect": "NoSchedule"}),
        );
    }
}

/// The class that carries the annotation; of several the newest, then the first by name.
fn default_class(world: &dyn World, resource: &str, annotation: &str) -> Option<String> {
    let classes = world.list(resource, None);
    let marked = classes.iter().map(|class| class.value()["metadata"].clone());
    let marked = marked.filter(|meta| meta["annotations"][annotation] == "true");
    let text = |meta: &Value, field: &str| meta[field].as_str().unwrap_or_default().to_string();
    let best = marked.max_by_key(|meta| {
        (
            text(meta, "creationTimestamp"),
            std::cmp::Reverse(text(meta, "name")),
        )
    })?;
    Some(text(&best, "name"))
}

fn default_storage_class(review: &mut Review, world: &dyn World) {
    if review.operation != Operation::Create || !review.is("", "persistentvolumeclaims", "") {
        return;
    }
    let legacy = &review.object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    if !review.object["spec"]["storageClassName"].is_null() || !legacy.is_null() {
        return;
    }
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    if let Some(class) = default_class(world, "storage.k8s.io/storageclasses", DEFAULT) {
        review.object["spec"]["storageClassName"] = json!(class);
    }
}

fn default_ingress_class(review: &mut Review, world: &dyn World) {
    if review.operation != Operation::Create || !review.is("networking.k8s.io", "ingresses", "") {
        return;
    }
    let legacy = &review.object["metadata"]["annotations"]["kubernetes.io/ingress.class"];
    if !review.object["spec"]["ingressClassName"].is_null() || !legacy.is_null() {
        return;
    }
    const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
    if let Some(class) = default_class(world, "networking.k8s.io/ingressclasses", DEFAULT) {
        review.object["spec"]["ingressClassName"] = json!(class);
    }
}
