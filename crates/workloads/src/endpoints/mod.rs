//! EndpointSlice: keeps the addresses behind each Service with a selector. Watches Services, pods, nodes (zones) and
//! slices; alone writes the slices it manages.

pub(crate) mod mirror;
mod plan;

use std::sync::Arc;

use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{EndpointSlice, Pod, Service};
use plan::{MANAGED_BY, MANAGER, SERVICE, Seen, Step, plan};

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let services = caches.services.clone();
    Controller::new("endpointslice")
        .wake_on(&caches.services, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, move |change| {
            let sides = [&change.old, &change.new].into_iter().flatten();
            let mut keys: Vec<_> = sides.flat_map(|pod| selecting(&services, pod)).collect();
            keys.sort();
            keys.dedup();
            keys
        })
        .wake_on(&caches.slices, |change| {
            let labels = change.any().metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get(SERVICE));
            service
                .map(|service| ObjectKey::namespaced(change.key.namespace.clone(), service.clone()))
                .into_iter()
                .collect()
        })
        .wait_for(&caches.nodes)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The Services that select a pod.
fn selecting(services: &mainstay_control::Cache<Service>, pod: &Pod) -> Vec<ObjectKey> {
    let matching = services.select(|service| {
        service.metadata.namespace == pod.metadata.namespace && plan::selects(service, pod)
    });
    matching.iter().map(|service| ObjectKey::of(&**service)).collect()
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let caches = &context.caches;
    let Some(service) = caches.services.get(&key) else {
        return Ok(Requeue::Never);
    };
    let ours = |slice: &EndpointSlice| {
        let label = |name: &str| {
            slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(name))
                .map(String::as_str)
        };
        slice.metadata.namespace.as_deref() == Some(&key.namespace)
            && label(SERVICE) == Some(&key.name)
            && label(MANAGED_BY) == Some(MANAGER)
    };
    let mut slices = caches.slices.select(ours);
    slices.sort_by_key(|slice| slice.metadata.name.clone());
    let pods = caches
        .pods
        .select(|pod| pod.metadata.namespace == service.metadata.namespace && plan::selects(&service, pod));
    let zone = |node: &str| {
        let node = caches.nodes.get(&ObjectKey::cluster(node))?;
        node.metadata
            .labels
            .as_ref()?
            .get(mainstay_semantics::labels::ZONE)
            .cloned()
    };
    let steps = plan(&Seen {
        service: &service,
        pods: &pods,
        slices: &slices,
        zone: &zone,
    });
    for step in steps {
        apply(&context, &key, step).await?;
    }
    Ok(Requeue::Never)
}

async fn apply(context: &Context, key: &ObjectKey, step: Step) -> Result<(), Error> {
    match step {
        Step::Create(object) => match context.create::<EndpointSlice>(&key.namespace, object).await {
            Ok(made) => {
                context
                    .caches
                    .slices
                    .settle(|slices| slices.get(&made).is_some())
                    .await
            }
            // The namespace is going away; nothing can be added to it.
            Err(error) if error.is_code(403) || error.is_code(404) => {}
            Err(error) => return Err(error),
        },
        Step::Update {
            slice,
            endpoints,
            ports,
        } => {
            let version = slice.metadata.resource_version.clone();
            let patch =
                json!({"metadata": {"resourceVersion": version}, "endpoints": endpoints, "ports": ports});
            let slice_key = ObjectKey::of(&*slice);
            context.patch::<EndpointSlice>(&slice_key, None, patch).await?;
            let newer = |now: Arc<EndpointSlice>| now.metadata.resource_version != version;
            context
                .caches
                .slices
                .settle(|slices| slices.get(&slice_key).is_none_or(newer))
                .await;
        }
        Step::Delete(slice) => {
            context
                .delete::<EndpointSlice>(&ObjectKey::of(&*slice), slice.metadata.uid.as_deref())
                .await?;
        }
    }
    Ok(())
}
