//! Ownership: who controls an object, which objects a controller claims, and what it writes to claim or release them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use mainstay_control::{Change, ObjectKey, Projection, Requeue};
use mainstay_semantics::selector::Selector;
use serde_json::{Value, json};

use crate::kinds::Pod;

/// The reference that makes `owner` the controller of an object.
pub(crate) fn reference<P: Projection>(owner: &P) -> Value {
    json!({
        "apiVersion": P::api_version(&()), "kind": P::kind(&()),
        "name": owner.meta().name, "uid": owner.meta().uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The controlling owner of an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// The key of the controlling owner if it is of kind `P`.
pub(crate) fn owner_key<P: Projection>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta)?;
    let same_kind = owner.kind == P::kind(&()) && owner.api_version == P::api_version(&());
    same_kind.then(|| ObjectKey::namespaced(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// The owners of kind `P` that a changed object wakes: before and after the change.
pub(crate) fn wakes<P: Projection, D: Projection>(change: &Change<D>) -> Vec<ObjectKey> {
    let sides = [&change.old, &change.new].into_iter().flatten();
    let mut keys: Vec<_> = sides.filter_map(|side| owner_key::<P>(side.meta())).collect();
    keys.dedup();
    keys
}

/// What a controller does about one object that it owns or could own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Own,
    /// Nobody's, and it matches: take it.
    Adopt,
    /// Ours, but it no longer matches: let it go.
    Release,
    /// None of our business.
    Ignore,
}

/// Decides a claim. An owner that is being deleted neither adopts nor releases.
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let empty = Default::default();
    let matches = selector.matches(object.labels.as_ref().unwrap_or(&empty));
    let leaving = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches || leaving => Claim::Own,
        Some(_) => Claim::Release,
        None if matches && !leaving && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// The merge patch that claims or releases an object.
pub(crate) fn claim_patch<P: Projection>(owner: &P, object: &ObjectMeta, adopt: bool) -> Value {
    let uid = owner.meta().uid.as_deref();
    let others = object
        .owner_references
        .iter()
        .flatten()
        .filter(|other| Some(other.uid.as_str()) != uid);
    let mut owners: Vec<Value> = others.map(|other| json!(other)).collect();
    if adopt {
        owners.push(reference(owner));
    }
    json!({"metadata": {"uid": object.uid, "resourceVersion": object.resource_version, "ownerReferences": owners}})
}

/// Sorts by creation, then name: the order in which "oldest" is decided.
pub(crate) fn oldest_first<P: Projection>(objects: &mut [Arc<P>]) {
    let age = |object: &Arc<P>| {
        let meta = object.meta();
        (
            meta.creation_timestamp.clone().map(|time| time.0),
            meta.name.clone(),
        )
    };
    objects.sort_by_key(age);
}

/// Not ended and not being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Succeeded or failed.
pub(crate) fn is_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Ready since when; `None` = not ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<jiff::Timestamp> {
    let ready = crate::kinds::condition(&pod.status.conditions, "Ready")?;
    (ready.status == "True").then(|| ready.last_transition_time.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: jiff::Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| now.as_second() - since.as_second() >= i64::from(min_ready_seconds))
}

/// Resolves a count or percentage (`3`, `"25%"`) of `total`.
pub(crate) fn scaled(value: &Value, total: i32, round_up: bool) -> Option<i32> {
    if let Some(count) = value.as_i64() {
        return i32::try_from(count).ok();
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    let hundredths = percent * i64::from(total);
    let rounded = if round_up { hundredths + 99 } else { hundredths };
    i32::try_from(rounded.div_euclid(100)).ok()
}

/// Look again when the next ready pod has been ready for `min_ready_seconds` and thereby becomes available.
pub(crate) fn next_available(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Requeue {
    let wait = i64::from(min_ready_seconds);
    let left = |pod: &Arc<Pod>| {
        Some(ready_since(pod)?.as_second() + wait - now.as_second()).filter(|left| *left > 0)
    };
    match pods.iter().filter_map(left).min() {
        Some(seconds) => Requeue::After(Duration::from_secs(seconds.unsigned_abs())),
        None => Requeue::Never,
    }
}
