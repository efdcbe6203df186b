//! Cluster controller: copies readiness and the endpoint from the infrastructure and control-plane objects.
//! Watches Clusters and those objects; alone writes Cluster.status and Cluster.spec.controlPlaneEndpoint.

use std::time::Duration;

use kube::{Api, ResourceExt};
use mainstay_api::conditions::{condition, set};
use mainstay_capi::{
    CLUSTER_FINALIZER, CLUSTER_NAME_LABEL, Cluster, ClusterStatus, Machine, MachineDeployment,
};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use serde_json::json;

use crate::{
    Context,
    objects::{self, flag, text},
};

/// How soon a deletion that waits is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Brings the status of one Cluster up to date, or takes the cluster down part by part.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let clusters: Api<Cluster> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(cluster) = write::get(&clusters, &key.name).await? else {
        ctx.forget(&key);
        return Ok(Requeue::Never);
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return delete(ctx, &clusters, &cluster, &key).await;
    }
    if write::add_finalizer(&clusters, &cluster, CLUSTER_FINALIZER).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    let infrastructure = objects::get(&ctx.client, &key.namespace, &cluster.spec.infrastructure_ref).await?;
    let plane = objects::get(&ctx.client, &key.namespace, &cluster.spec.control_plane_ref).await?;
    let endpoint = [&plane, &infrastructure].into_iter().find_map(|object| {
        let endpoint = object.as_ref()?.data.pointer("/spec/controlPlaneEndpoint")?;
        endpoint["host"]
            .as_str()
            .is_some_and(|host| !host.is_empty())
            .then(|| endpoint.clone())
    });
    if let (true, Some(endpoint)) = (cluster.spec.control_plane_endpoint.is_empty(), endpoint) {
        write::merge(
            &clusters,
            &key.name,
            json!({"spec": {"controlPlaneEndpoint": endpoint}}),
        )
        .await?;
        return Ok(Requeue::After(Duration::ZERO));
    }
    let now = ctx.clock.now();
    let mut status: ClusterStatus = cluster.status.clone().unwrap_or_default();
    let provisioned = flag(infrastructure.as_ref(), "/status/initialization/provisioned");
    let initialized = flag(plane.as_ref(), "/status/initialization/controlPlaneInitialized");
    status.initialization.infrastructure_provisioned |= provisioned;
    status.initialization.control_plane_initialized |= initialized;
    let of = |kind: &str, good: bool| {
        condition(
            kind,
            good,
            if good { "Ready" } else { "NotReady" },
            if good { "" } else { "not ready yet" },
            now,
        )
    };
    set(&mut status.conditions, of("InfrastructureReady", provisioned));
    set(
        &mut status.conditions,
        of(
            "ControlPlaneInitialized",
            status.initialization.control_plane_initialized,
        ),
    );
    set(
        &mut status.conditions,
        of("Available", provisioned && initialized),
    );
    status.phase = if provisioned && !cluster.spec.control_plane_endpoint.is_empty() {
        "Provisioned"
    } else {
        "Provisioning"
    }
    .into();
    status.observed_generation = cluster.metadata.generation.unwrap_or(0);
    write::status(&clusters, &cluster, cluster.status.as_ref(), &status).await?;
    Ok(Requeue::Never)
}

/// Machines first (they drain against the living control plane), then the control plane, then the rest.
async fn delete(
    ctx: &Context,
    clusters: &Api<Cluster>,
    cluster: &Cluster,
    key: &ObjectKey,
) -> Result<Requeue, Error> {
    let label = format!("{CLUSTER_NAME_LABEL}={}", key.name);
    let deployments: Api<MachineDeployment> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let sets: Api<mainstay_capi::MachineSet> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &key.namespace);
    for deployment in write::list(&deployments, &label).await? {
        write::delete(&deployments, &deployment.name_any()).await?;
    }
    for set in write::list(&sets, &label).await? {
        write::delete(&sets, &set.name_any()).await?;
    }
    let left = write::list(&machines, &label).await?;
    for machine in left.iter().filter(|m| m.metadata.deletion_timestamp.is_none()) {
        write::delete(&machines, &machine.name_any()).await?;
    }
    if !left.is_empty() {
        return Ok(Requeue::After(LOOK_AGAIN));
    }
    for reference in [&cluster.spec.control_plane_ref, &cluster.spec.infrastructure_ref] {
        if objects::get(&ctx.client, &key.namespace, reference)
            .await?
            .is_some()
        {
            objects::delete(&ctx.client, &key.namespace, reference).await?;
            return Ok(Requeue::After(LOOK_AGAIN));
        }
    }
    ctx.forget(key);
    write::remove_finalizer(clusters, cluster, CLUSTER_FINALIZER).await?;
    Ok(Requeue::Never)
}

/// Name of the Cluster that an object belongs to by label.
pub fn cluster_of<K: kube::Resource>(object: &K) -> Option<ObjectKey> {
    let name = object.meta().labels.as_ref()?.get(CLUSTER_NAME_LABEL)?.clone();
    Some(ObjectKey::namespaced(
        object.meta().namespace.clone().unwrap_or_default(),
        name,
    ))
}

/// Reads the version that a control-plane object reports.
pub fn served_version(plane: Option<&kube::api::DynamicObject>) -> String {
    text(plane, "/status/version")
}
