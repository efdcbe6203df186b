//! Making and removing a controller's pods: from template to object, in batches that double, with events.

use std::sync::Arc;

use kube::Resource;
use mainstay_control::{Error, EventKind, ObjectKey, Projection, events};
use serde_json::{Value, json};

use crate::context::Context;
use crate::kinds::{Condition, Pod, condition};
use crate::owner;

/// The first batch of creates; each good one doubles it, so that a quota refuses one pod, not hundreds.
const FIRST_BATCH: usize = 1;
/// Pods that one pass creates or deletes at most.
pub(crate) const BURST: usize = 500;

/// The pod object that a template describes. `name` ends with a dash where the server shall choose the rest.
pub(crate) fn from_template<P: Projection>(owner: &P, template: &Value, name: &str) -> Value {
    let meta = &template["metadata"];
    let mut metadata = json!({
        "namespace": owner.meta().namespace,
        "labels": meta["labels"], "annotations": meta["annotations"], "finalizers": meta["finalizers"],
        "ownerReferences": [owner::reference(owner)],
    });
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let naming = if name.ends_with('-') {
        "generateName"
    } else {
        "name"
    };
    metadata[naming] = name.into();
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// Creates pods in batches of 1, 2, 4, ...; stops at the first failure, with an event, and waits to see what it made.
pub(crate) async fn create<P: Projection>(
    context: &Context,
    owner: &P,
    pods: Vec<Value>,
) -> Result<(), Error> {
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let mut made: Vec<ObjectKey> = Vec::new();
    let (mut rest, mut batch, mut failure) = (pods.into_iter().peekable(), FIRST_BATCH, None);
    while rest.peek().is_some() && failure.is_none() {
        let creates = rest
            .by_ref()
            .take(batch)
            .map(|pod| context.create::<Pod>(&namespace, pod));
        for outcome in futures::future::join_all(creates).await {
            match outcome {
                Ok(key) => {
                    let message = format!("Created pod: {}", key.name);
                    context.events.record(
                        events::reference(owner),
                        EventKind::Normal,
                        "SuccessfulCreate",
                        message,
                    );
                    made.push(key);
                }
                Err(error) => failure = Some(error),
            }
        }
        batch *= 2;
    }
    context
        .caches
        .pods
        .settle(|pods| made.iter().all(|key| pods.get(key).is_some()))
        .await;
    let Some(error) = failure else { return Ok(()) };
    let message = format!("Error creating: {}", mainstay_base::error::chain(&error));
    context.events.record(
        events::reference(owner),
        EventKind::Warning,
        "FailedCreate",
        message,
    );
    Err(error)
}

/// Deletes pods, all at once, and waits to see them go.
pub(crate) async fn delete<P: Projection>(
    context: &Context,
    owner: &P,
    pods: &[Arc<Pod>],
) -> Result<(), Error> {
    let deletes = pods.iter().map(|pod| async move {
        let key = ObjectKey::of(&**pod);
        context.delete::<Pod>(&key, pod.metadata.uid.as_deref()).await?;
        let message = format!("Deleted pod: {}", key.name);
        context.events.record(
            events::reference(owner),
            EventKind::Normal,
            "SuccessfulDelete",
            message,
        );
        Ok(())
    });
    let outcomes = futures::future::join_all(deletes).await;
    let going = |pod: &Arc<Pod>, now: Option<Arc<Pod>>| {
        now.is_none_or(|now| {
            now.metadata.uid != pod.metadata.uid || now.metadata.deletion_timestamp.is_some()
        })
    };
    context
        .caches
        .pods
        .settle(|cache| {
            pods.iter()
                .all(|pod| going(pod, cache.get(&ObjectKey::of(&**pod))))
        })
        .await;
    outcomes.into_iter().collect()
}

/// Writes what `claims` decided and returns the pods that are the owner's now.
pub(crate) async fn claim<P: Projection>(
    context: &Context,
    owner: &P,
    selector: &mainstay_semantics::selector::Selector,
) -> Result<Vec<Arc<Pod>>, Error> {
    let namespace = owner.meta().namespace.as_deref();
    let mut ours = Vec::new();
    for pod in context
        .caches
        .pods
        .select(|pod| pod.metadata.namespace.as_deref() == namespace)
    {
        let decision = owner::claim(owner.meta(), selector, pod.meta());
        match decision {
            owner::Claim::Ignore => continue,
            owner::Claim::Own => {}
            owner::Claim::Adopt | owner::Claim::Release => {
                let adopt = decision == owner::Claim::Adopt;
                let patch = owner::claim_patch(owner, pod.meta(), adopt);
                context.patch::<Pod>(&ObjectKey::of(&*pod), None, patch).await?;
                if !adopt {
                    continue;
                }
            }
        }
        ours.push(pod);
    }
    Ok(ours)
}

/// Sets a condition in a status, keeping its transition time while the status stays the same.
pub(crate) fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition, now: jiff::Timestamp) {
    if let Some(old) = condition(conditions, &new.kind) {
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time;
        }
        if old.status == new.status && old.reason == new.reason {
            new.last_update_time = old.last_update_time;
        }
    }
    new.last_transition_time = new.last_transition_time.or(Some(whole_seconds(now)));
    conditions.retain(|condition| condition.kind != new.kind);
    conditions.push(new);
}

/// A time as `metav1.Time` keeps it.
pub(crate) fn whole_seconds(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}
