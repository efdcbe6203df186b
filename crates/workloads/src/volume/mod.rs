//! The binder of claims and volumes that exist: it provisions nothing and erases nothing. Watches claims, volumes, classes
//! and nodes; alone writes `spec.volumeName` and status of claims, `spec.claimRef` and phase of volumes.

mod plan;

use std::sync::Arc;

use mainstay_control::{Cache, Change, Controller, Error, EventKind, ObjectKey, Projection, Requeue, events};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{PersistentVolume, PersistentVolumeClaim};
use plan::{BIND_COMPLETED, BOUND_BY_CONTROLLER, Step, World, phase, plan};

/// Starts the controller. One key at a time: two claims must not reach for one volume.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let (claims, more) = (caches.claims.clone(), caches.claims.clone());
    Controller::new("persistentvolume-binder")
        .concurrency(1)
        .wake_on(&caches.claims, |change: &Change<PersistentVolumeClaim>| {
            // A claim that goes leaves its volume behind.
            let volume = change.any().spec.volume_name.clone();
            let volume = volume.filter(|name| !name.is_empty()).map(ObjectKey::cluster);
            [change.key.clone()].into_iter().chain(volume).collect()
        })
        .wake_on(&caches.volumes, move |change: &Change<PersistentVolume>| {
            let mut keys = waiting(&claims);
            let claim = change.any().spec.claim_ref.clone();
            keys.extend(claim.map(|claim| ObjectKey::namespaced(claim.namespace, claim.name)));
            keys.push(change.key.clone());
            keys
        })
        .wake_on(&caches.classes, move |_| waiting(&more))
        .wait_for(&caches.nodes)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// Claims without a volume.
fn waiting(claims: &Cache<PersistentVolumeClaim>) -> Vec<ObjectKey> {
    let unbound = |claim: &PersistentVolumeClaim| claim.status.phase != "Bound";
    let found = claims.select(unbound);
    found.iter().map(|claim| ObjectKey::of(&**claim)).collect()
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    if key.namespace.is_empty() {
        return show_phase(&context, &key).await;
    }
    let caches = &context.caches;
    let Some(claim) = caches.claims.get(&key) else {
        return Ok(Requeue::Never);
    };
    let class = claim.spec.storage_class_name.as_deref().unwrap_or_default();
    let class = caches.classes.get(&ObjectKey::cluster(class));
    let volumes = caches.volumes.list();
    let node = plan::selected_node(&claim).and_then(|node| caches.nodes.get(&ObjectKey::cluster(node)));
    let step = plan(
        &claim,
        &World {
            volumes: &volumes,
            class: class.as_deref(),
            node: node.as_deref(),
        },
    );
    match step {
        Step::Nothing => {}
        Step::Bind(volume) => bind(&context, &claim, &volume).await?,
        Step::Wait { reason, message } => {
            events(&context, &*claim, EventKind::Normal, reason, message);
            pending(&context, &claim, "Pending").await?;
        }
        Step::Lost(message) => {
            events(&context, &*claim, EventKind::Warning, "ClaimLost", message);
            pending(&context, &claim, "Lost").await?;
        }
    }
    Ok(Requeue::Never)
}

fn events<P: Projection>(context: &Context, about: &P, kind: EventKind, reason: &str, message: String) {
    context
        .events
        .record(events::reference(about), kind, reason, message);
}

async fn pending(context: &Context, claim: &PersistentVolumeClaim, phase: &str) -> Result<(), Error> {
    if claim.status.phase == phase {
        return Ok(());
    }
    let patch = json!({"status": {"phase": phase}});
    context
        .patch::<PersistentVolumeClaim>(&ObjectKey::of(claim), Some("status"), patch)
        .await
}

/// Ties both to each other: first the volume, which only one claim can have, then the claim.
async fn bind(
    context: &Context,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<(), Error> {
    let (claim_key, volume_key) = (ObjectKey::of(claim), ObjectKey::of(volume));
    if !plan::refers(volume, claim) {
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim_key.namespace, "name": claim_key.name,
            "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
        });
        let mut patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version}, "spec": {"claimRef": reference},
        });
        if volume.spec.claim_ref.is_none() {
            patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        context
            .patch::<PersistentVolume>(&volume_key, None, patch)
            .await?;
    }
    let named = claim.spec.volume_name.as_deref() == Some(volume_key.name.as_str());
    if !named || !plan::is_annotated(claim, BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if !named {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
        }
        let patch = json!({
            "metadata": {"uid": claim.metadata.uid, "annotations": annotations}, "spec": {"volumeName": volume_key.name},
        });
        context
            .patch::<PersistentVolumeClaim>(&claim_key, None, patch)
            .await?;
    }
    if claim.status.phase != "Bound" {
        let status = json!({"status": {
            "phase": "Bound", "accessModes": volume.spec.access_modes, "capacity": volume.spec.capacity,
        }});
        context
            .patch::<PersistentVolumeClaim>(&claim_key, Some("status"), status)
            .await?;
    }
    let version = volume.metadata.resource_version.clone();
    let seen =
        |now: Arc<PersistentVolume>| now.metadata.resource_version != version || plan::refers(&now, claim);
    context
        .caches
        .volumes
        .settle(|volumes| volumes.get(&volume_key).is_none_or(seen))
        .await;
    Ok(())
}

async fn show_phase(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(volume) = context.caches.volumes.get(key) else {
        return Ok(Requeue::Never);
    };
    let claim = volume.spec.claim_ref.as_ref().and_then(|claim| {
        let key = ObjectKey::namespaced(claim.namespace.clone(), claim.name.clone());
        context.caches.claims.get(&key)
    });
    let phase = phase(&volume, claim.as_deref());
    if volume.status.phase != phase {
        let patch = json!({"status": {"phase": phase}});
        context
            .patch::<PersistentVolume>(key, Some("status"), patch)
            .await?;
    }
    Ok(Requeue::Never)
}
