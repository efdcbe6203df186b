//! MachineDeployment controller. Watches MachineDeployments and their MachineSets; alone writes
//! MachineSet.spec.replicas and MachineDeployment.status.

mod plan;

use std::collections::BTreeMap;

use kube::{Api, ResourceExt};
use mainstay_capi::{
    CLUSTER_NAME_LABEL, DEPLOYMENT_NAME_LABEL, MachineDeployment, MachineSet, MachineSetSpec,
    TEMPLATE_HASH_LABEL,
};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use serde_json::json;

pub use plan::{Plan, Step, plan, selector_text};

use crate::{Context, objects::controlled_by};

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The deployment.
    pub deployment: MachineDeployment,
    /// Its sets.
    pub sets: Vec<MachineSet>,
}

/// Brings the sets of one MachineDeployment one step closer to what it asks for.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let deployments: Api<MachineDeployment> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(deployment) = write::get(&deployments, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if deployment.metadata.deletion_timestamp.is_some() || is_paused(&deployment) {
        return Ok(Requeue::Never);
    }
    let sets: Api<MachineSet> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mine = write::list(&sets, &format!("{DEPLOYMENT_NAME_LABEL}={}", key.name)).await?;
    let seen = Seen {
        deployment,
        sets: mine,
    };
    let plan = plan(&seen, ctx.clock.now()).map_err(|problem| Error::Invalid {
        object: format!("MachineDeployment {key}"),
        problem: problem.to_string(),
    })?;
    for step in &plan.steps {
        apply(&seen, step, &sets).await?;
    }
    write::status(
        &deployments,
        &seen.deployment,
        seen.deployment.status.as_ref(),
        &plan.status,
    )
    .await?;
    Ok(Requeue::Never)
}

fn is_paused(deployment: &MachineDeployment) -> bool {
    deployment.spec.paused == Some(true)
        || deployment
            .annotations()
            .contains_key(mainstay_capi::PAUSED_ANNOTATION)
}

async fn apply(seen: &Seen, step: &Step, sets: &Api<MachineSet>) -> Result<(), Error> {
    tracing::info!(step = ?step, "machine deployment step");
    match step {
        Step::CreateSet { name, hash, replicas } => {
            write::create(sets, &new_set(&seen.deployment, name, hash, *replicas)).await?;
        }
        Step::Scale { set, replicas } => {
            write::merge(sets, set, json!({"spec": {"replicas": replicas}})).await?;
        }
        Step::CopyInPlace { set } => {
            let template = &seen.deployment.spec.template;
            let spec = json!({
                "minReadySeconds": template.spec.min_ready_seconds,
                "readinessGates": template.spec.readiness_gates,
                "taints": template.spec.taints,
                "deletion": template.spec.deletion,
            });
            let patch = json!({"spec": {
                "template": {"metadata": {"annotations": template.metadata.annotations,
                    "labels": template.metadata.labels}, "spec": spec},
                "deletion": seen.deployment.spec.deletion,
            }});
            write::merge(sets, set, patch).await?;
        }
        Step::DeleteSet { set } => write::delete(sets, set).await?,
    }
    Ok(())
}

fn new_set(deployment: &MachineDeployment, name: &str, hash: &str, replicas: i32) -> MachineSet {
    let own: BTreeMap<String, String> = [
        (CLUSTER_NAME_LABEL, deployment.spec.cluster_name.as_str()),
        (DEPLOYMENT_NAME_LABEL, &deployment.name_any()),
        (TEMPLATE_HASH_LABEL, hash),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into();
    let mut template = deployment.spec.template.clone();
    template.metadata.labels.extend(own.clone());
    template
        .spec
        .cluster_name
        .clone_from(&deployment.spec.cluster_name);
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.get_or_insert_default().extend(own.clone());
    let mut set = MachineSet::new(
        name,
        MachineSetSpec {
            cluster_name: deployment.spec.cluster_name.clone(),
            replicas: Some(replicas),
            selector,
            template,
            deletion: deployment.spec.deletion.clone(),
        },
    );
    set.metadata.namespace = deployment.namespace();
    set.metadata.labels = Some(own);
    set.metadata.owner_references = Some(vec![controlled_by(deployment)]);
    set
}
