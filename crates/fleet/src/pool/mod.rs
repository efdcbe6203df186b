//! NodePool controller: templates and a MachineDeployment per pool. Watches NodePools, OSImages, Clusters,
//! control planes, MachineDeployments and Machines; alone writes MachineDeployment.spec of its pools, their
//! templates, and NodePool.status.

mod plan;

use kube::{Api, ResourceExt};
use mainstay_api::{ComputeNodeTemplate, Host, HostedControlPlane, NodeConfigTemplate, NodePool, OSImage};
use mainstay_capi::{Cluster, MachineDeployment, MachineSet};
use mainstay_control::{Error, ObjectKey, Requeue, write};

pub use plan::{Plan, Seen, Step, plan};

use crate::Context;

/// Brings one pool a step further.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let pools: Api<NodePool> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(pool) = write::get(&pools, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    let paused = pool.annotations().contains_key(mainstay_api::PAUSED_ANNOTATION);
    if pool.metadata.deletion_timestamp.is_some() || paused {
        return Ok(Requeue::Never);
    }
    let seen = observe(ctx, pool).await?;
    let plan = plan(&seen, ctx.clock.now());
    for step in &plan.steps {
        tracing::info!(step = %step, "node pool step");
        apply(ctx, &key.namespace, step).await?;
    }
    write::status(&pools, &seen.pool, seen.pool.status.as_ref(), &plan.status).await?;
    Ok(Requeue::Never)
}

async fn observe(ctx: &Context, pool: NodePool) -> Result<Seen, Error> {
    let namespace = pool.namespace().unwrap_or_default();
    let (client, name) = (|| ctx.client.clone(), pool.name_any());
    let images: Api<OSImage> = Api::namespaced(client(), &namespace);
    let image = match pool.spec.image_ref.name.as_str() {
        "" => None,
        image => write::get(&images, image).await?,
    };
    let clusters: Api<Cluster> = Api::namespaced(client(), &namespace);
    let cluster = write::get(&clusters, &pool.spec.cluster_name).await?;
    let planes: Api<HostedControlPlane> = Api::namespaced(client(), &namespace);
    let plane = match cluster
        .as_ref()
        .map(|cluster| cluster.spec.control_plane_ref.name.clone())
    {
        Some(plane) if !plane.is_empty() => write::get(&planes, &plane).await?,
        _ => None,
    };
    let own = format!("{}={name}", mainstay_api::POOL_LABEL);
    let hosts: Vec<Host> = write::list(&Api::namespaced(client(), &namespace), "").await?;
    let templates: Vec<ComputeNodeTemplate> =
        write::list(&Api::namespaced(client(), &namespace), &own).await?;
    let configs: Vec<NodeConfigTemplate> = write::list(&Api::namespaced(client(), &namespace), &own).await?;
    let sets: Vec<MachineSet> = write::list(&Api::namespaced(client(), &namespace), "").await?;
    let deployments: Api<MachineDeployment> = Api::namespaced(client(), &namespace);
    Ok(Seen {
        deployment: write::get(&deployments, &name).await?,
        templates: templates.iter().map(ResourceExt::name_any).collect(),
        configs: configs.iter().map(ResourceExt::name_any).collect(),
        in_use: sets
            .iter()
            .flat_map(|set| {
                let spec = &set.spec.template.spec;
                [
                    spec.infrastructure_ref.name.clone(),
                    spec.bootstrap.config_ref.name.clone(),
                ]
            })
            .collect(),
        pool,
        image,
        cluster,
        plane_version: plane
            .and_then(|plane| plane.status)
            .map(|status| status.version)
            .unwrap_or_default(),
        hosts,
    })
}

async fn apply(ctx: &Context, namespace: &str, step: &Step) -> Result<(), Error> {
    let client = || ctx.client.clone();
    let templates: Api<ComputeNodeTemplate> = Api::namespaced(client(), namespace);
    let configs: Api<NodeConfigTemplate> = Api::namespaced(client(), namespace);
    let deployments: Api<MachineDeployment> = Api::namespaced(client(), namespace);
    match step {
        Step::MakeTemplate(template) => write::create(&templates, template).await.map(|_| ()),
        Step::MakeConfig(config) => write::create(&configs, config).await.map(|_| ()),
        Step::MakeDeployment(deployment) => write::create(&deployments, deployment).await.map(|_| ()),
        Step::ChangeDeployment { name, patch } => {
            write::merge(&deployments, name, patch.clone()).await.map(|_| ())
        }
        Step::DropTemplate { name } => write::delete(&templates, name).await,
        Step::DropConfig { name } => write::delete(&configs, name).await,
    }
}
