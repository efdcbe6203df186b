//! MachineSet controller. Watches MachineSets and Machines; alone creates and deletes the Machines of a set
//! and writes MachineSet.status.

mod plan;

use std::collections::BTreeMap;

use kube::{Api, ResourceExt};
use mainstay_capi::{
    CLUSTER_NAME_LABEL, DEPLOYMENT_NAME_LABEL, MACHINE_FINALIZER, Machine, MachineDeployment, MachineSet,
    MachineSpec, SET_NAME_LABEL,
};
use mainstay_control::{Error, ObjectKey, Requeue, write};

pub use plan::{Plan, Step, plan};

use crate::{
    Context,
    objects::{self, cloned_ref, controlled_by},
};

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The set.
    pub set: MachineSet,
    /// Its machines, deleting ones included.
    pub machines: Vec<Machine>,
    /// Remediations at once; None is unlimited.
    pub max_in_flight: Option<i32>,
}

/// Brings the machines of one set to the wanted number.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let sets: Api<MachineSet> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(set) = write::get(&sets, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if set.annotations().contains_key(mainstay_capi::PAUSED_ANNOTATION) {
        return Ok(Requeue::Never);
    }
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mine = write::list(&machines, &format!("{SET_NAME_LABEL}={}", key.name)).await?;
    let max_in_flight = max_in_flight(ctx, &set).await?;
    let seen = Seen {
        set,
        machines: mine,
        max_in_flight,
    };
    let plan = plan(&seen, ctx.clock.now());
    if seen.set.metadata.deletion_timestamp.is_none() {
        for machine in seen.machines.iter().filter(|machine| needs_objects(machine)) {
            make_objects(ctx, &seen.set, machine).await?;
        }
    }
    for step in &plan.steps {
        tracing::info!(step = ?step, "machine set step");
        match step {
            Step::Create => create_machine(ctx, &seen.set, &machines).await?,
            Step::Delete { machine, .. } => write::delete(&machines, machine).await?,
        }
    }
    write::status(&sets, &seen.set, seen.set.status.as_ref(), &plan.status).await?;
    Ok(plan.look_again.map_or(Requeue::Never, Requeue::After))
}

async fn max_in_flight(ctx: &Context, set: &MachineSet) -> Result<Option<i32>, Error> {
    let Some(name) = objects::controller_of(set, "MachineDeployment") else {
        return Ok(None);
    };
    let api: Api<MachineDeployment> =
        Api::namespaced(ctx.client.clone(), &set.namespace().unwrap_or_default());
    let Some(deployment) = write::get(&api, &name).await? else {
        return Ok(None);
    };
    let amount = deployment
        .spec
        .remediation
        .as_ref()
        .and_then(|r| r.max_in_flight.clone());
    let total = deployment.spec.replicas.unwrap_or(1);
    let resolve =
        |amount| crate::rules::amount::resolve(&amount, total, crate::rules::amount::Round::Up).ok();
    Ok(amount.and_then(resolve))
}

/// A machine whose infrastructure is not there yet may lack its objects: a crash came between.
fn needs_objects(machine: &Machine) -> bool {
    let provisioned = machine
        .status
        .as_ref()
        .is_some_and(|s| s.initialization.infrastructure_provisioned);
    !provisioned && machine.metadata.deletion_timestamp.is_none()
}

async fn create_machine(ctx: &Context, set: &MachineSet, machines: &Api<Machine>) -> Result<(), Error> {
    let machine = new_machine(set, &format!("{}-{}", set.name_any(), ctx.suffix()));
    let created = machines.create(&Default::default(), &machine).await;
    let created = created.map_err(Error::api(|| format!("create machine {}", machine.name_any())))?;
    make_objects(ctx, set, &created).await
}

fn machine_labels(set: &MachineSet) -> BTreeMap<String, String> {
    let mut labels = set.spec.template.metadata.labels.clone();
    labels.insert(CLUSTER_NAME_LABEL.into(), set.spec.cluster_name.clone());
    labels.insert(SET_NAME_LABEL.into(), set.name_any());
    if let Some(deployment) = set.labels().get(DEPLOYMENT_NAME_LABEL) {
        labels.insert(DEPLOYMENT_NAME_LABEL.into(), deployment.clone());
    }
    labels
}

fn new_machine(set: &MachineSet, name: &str) -> Machine {
    let mut fields = set.spec.template.spec.clone();
    fields.cluster_name.clone_from(&set.spec.cluster_name);
    fields.infrastructure_ref = cloned_ref(&fields.infrastructure_ref, name);
    if !fields.bootstrap.config_ref.is_empty() {
        fields.bootstrap.config_ref = cloned_ref(&fields.bootstrap.config_ref, name);
    }
    let mut machine = Machine::new(name, MachineSpec(fields));
    machine.metadata.namespace = set.namespace();
    machine.metadata.labels = Some(machine_labels(set));
    machine.metadata.annotations = Some(set.spec.template.metadata.annotations.clone());
    machine.metadata.finalizers = Some(vec![MACHINE_FINALIZER.to_string()]);
    machine.metadata.owner_references = Some(vec![controlled_by(set)]);
    machine
}

async fn make_objects(ctx: &Context, set: &MachineSet, machine: &Machine) -> Result<(), Error> {
    let (namespace, name) = (machine.namespace().unwrap_or_default(), machine.name_any());
    let labels = machine_labels(set);
    let template = &set.spec.template.spec;
    for source in [&template.bootstrap.config_ref, &template.infrastructure_ref] {
        if source.is_empty() {
            continue;
        }
        let wanted = cloned_ref(source, &name);
        if objects::get(&ctx.client, &namespace, &wanted).await?.is_none() {
            let owner = controlled_by(machine);
            objects::clone_template(&ctx.client, &namespace, source, &name, owner, &labels).await?;
        }
    }
    Ok(())
}
