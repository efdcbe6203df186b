//! ClusterDeployment controller: one object becomes Cluster, ComputeCluster, HostedControlPlane and NodePools.
//! Watches these kinds and the inventory; alone writes ClusterDeployment.status and the spec of what it makes,
//! NodePool.spec.replicas excepted: that is written only when the template's own number changes.

mod plan;

use std::time::Duration;

use kube::{Api, ResourceExt};
use mainstay_api::{
    ClusterDeployment, ComputeCluster, FINALIZER, HostedControlPlane, NodePool, OSImage, Rack,
    cluster::DeletionPolicy,
};
use mainstay_capi::{CLUSTER_NAME_LABEL, Cluster};
use mainstay_control::{Error, ObjectKey, Requeue, write};

pub use plan::{Plan, Seen, Step, plan};

use crate::{
    Context,
    validate::{World, cluster_deployment},
};

/// How soon a deletion is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Brings one cluster a step further, or takes it down.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let clusters: Api<ClusterDeployment> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(object) = write::get(&clusters, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if object.metadata.deletion_timestamp.is_some() {
        return delete(ctx, &clusters, &object, &key).await;
    }
    if object.annotations().contains_key(mainstay_api::PAUSED_ANNOTATION) {
        return Ok(Requeue::Never);
    }
    if write::add_finalizer(&clusters, &object, FINALIZER).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    let seen = observe(ctx, object).await?;
    let plan = plan(&seen, ctx.clock.now());
    for step in &plan.steps {
        tracing::info!(step = %step, "cluster step");
        apply(ctx, &key.namespace, step).await?;
    }
    write::status(&clusters, &seen.object, seen.object.status.as_ref(), &plan.status).await?;
    Ok(Requeue::Never)
}

/// Reads what a ClusterDeployment is checked against.
///
/// # Errors
/// What the API server answers.
pub async fn world(ctx: &Context, namespace: &str) -> Result<World, Error> {
    let client = || ctx.client.clone();
    let racks: Vec<Rack> = write::list(&Api::all(client()), "").await?;
    let images: Vec<OSImage> = write::list(&Api::namespaced(client(), namespace), "").await?;
    Ok(World {
        others: write::list(&Api::all(client()), "").await?,
        hosts: write::list(&Api::namespaced(client(), namespace), "").await?,
        images: images.iter().map(ResourceExt::name_any).collect(),
        racks: racks
            .into_iter()
            .map(|rack| (rack.name_any(), rack.spec.zone))
            .collect(),
        providers: ctx.providers.keys().cloned().collect(),
        reserved: Vec::new(),
    })
}

async fn observe(ctx: &Context, object: ClusterDeployment) -> Result<Seen, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let client = || ctx.client.clone();
    let problems = cluster_deployment(&object, &world(ctx, &namespace).await?);
    Ok(Seen {
        problems,
        cluster: write::get(&Api::<Cluster>::namespaced(client(), &namespace), &name).await?,
        infrastructure: write::get(&Api::<ComputeCluster>::namespaced(client(), &namespace), &name).await?,
        plane: write::get(
            &Api::<HostedControlPlane>::namespaced(client(), &namespace),
            &name,
        )
        .await?,
        pools: write::list(
            &Api::namespaced(client(), &namespace),
            &format!("{CLUSTER_NAME_LABEL}={name}"),
        )
        .await?,
        object,
    })
}

async fn apply(ctx: &Context, namespace: &str, step: &Step) -> Result<(), Error> {
    let client = || ctx.client.clone();
    let pools: Api<NodePool> = Api::namespaced(client(), namespace);
    let planes: Api<HostedControlPlane> = Api::namespaced(client(), namespace);
    match step {
        Step::MakeInfrastructure(object) => {
            write::create(&Api::<ComputeCluster>::namespaced(client(), namespace), object)
                .await
                .map(|_| ())
        }
        Step::MakePlane(object) => write::create(&planes, object).await.map(|_| ()),
        Step::MakeCluster(object) => write::create(&Api::<Cluster>::namespaced(client(), namespace), object)
            .await
            .map(|_| ()),
        Step::MakePool(object) => write::create(&pools, object).await.map(|_| ()),
        Step::ChangePlane { name, patch } => write::merge(&planes, name, patch.clone()).await.map(|_| ()),
        Step::ChangePool { name, patch } => write::merge(&pools, name, patch.clone()).await.map(|_| ()),
        Step::DropPool { name } => write::delete(&pools, name).await,
    }
}

/// Pools and machines first, then the Cluster with its control plane.
async fn delete(
    ctx: &Context,
    clusters: &Api<ClusterDeployment>,
    object: &ClusterDeployment,
    key: &ObjectKey,
) -> Result<Requeue, Error> {
    if object.spec.deletion_policy == DeletionPolicy::Orphan {
        write::remove_finalizer(clusters, object, FINALIZER).await?;
        return Ok(Requeue::Never);
    }
    let pools: Api<NodePool> = Api::namespaced(ctx.client.clone(), &key.namespace);
    for pool in write::list(&pools, &format!("{CLUSTER_NAME_LABEL}={}", key.name)).await? {
        write::delete(&pools, &pool.name_any()).await?;
    }
    let cores: Api<Cluster> = Api::namespaced(ctx.client.clone(), &key.namespace);
    if let Some(core) = write::get(&cores, &key.name).await? {
        if core.metadata.deletion_timestamp.is_none() {
            write::delete(&cores, &key.name).await?;
        }
        return Ok(Requeue::After(LOOK_AGAIN));
    }
    write::remove_finalizer(clusters, object, FINALIZER).await?;
    Ok(Requeue::Never)
}
