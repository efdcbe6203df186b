//! Machine controller. Watches Machines, their infrastructure and bootstrap objects and the workload cluster's
//! Nodes; alone writes Machine.spec.{providerID, bootstrap.dataSecretName} and Machine.status (conditions of
//! the health check excepted), and on Nodes the labels, annotations and taints that come from the Machine.

mod deletion;
mod node;
mod status;

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, api::DynamicObject};
use mainstay_capi::{Cluster, MACHINE_FINALIZER, Machine};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use serde_json::json;

use crate::{
    Context,
    context::NodeView,
    objects::{self, flag, text},
};

/// How soon a machine that waits for something without a watch is looked at again.
const WAIT: Duration = Duration::from_secs(5);

/// Everything the status depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The machine.
    pub machine: Machine,
    /// Its infrastructure object.
    pub infrastructure: Option<DynamicObject>,
    /// Its bootstrap object.
    pub bootstrap: Option<DynamicObject>,
    /// Its Node.
    pub node: Option<Arc<NodeView>>,
    /// The workload cluster can be read, so a missing Node is known to be missing.
    pub nodes_known: bool,
}

impl Seen {
    /// The identity that the infrastructure reports.
    pub fn provider_id(&self) -> String {
        match text(self.infrastructure.as_ref(), "/spec/providerID") {
            reported if reported.is_empty() => self.machine.spec.provider_id.clone(),
            reported => reported,
        }
    }

    /// The newest incarnation that was asked for; 0 for infrastructure that counts none.
    pub fn incarnation(&self) -> i64 {
        let wanted = self
            .infrastructure
            .as_ref()
            .and_then(|object| object.data.pointer("/spec/incarnation"));
        wanted.and_then(serde_json::Value::as_i64).unwrap_or(0)
    }

    /// The infrastructure is there.
    pub fn provisioned(&self) -> bool {
        flag(self.infrastructure.as_ref(), "/status/initialization/provisioned")
    }
}

/// Brings one machine forward, or takes it down when it is being deleted.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(machine) = write::get(&machines, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if machine
        .annotations()
        .contains_key(mainstay_capi::PAUSED_ANNOTATION)
        || cluster_paused(ctx, &machine).await?
    {
        return Ok(Requeue::Never);
    }
    let seen = observe(ctx, machine).await?;
    if seen.machine.metadata.deletion_timestamp.is_some() {
        return deletion::reconcile(ctx, &machines, &seen).await;
    }
    if write::add_finalizer(&machines, &seen.machine, MACHINE_FINALIZER).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    if copy_references(&machines, &seen).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    if let Some(node) = &seen.node {
        node::sync(ctx, &seen.machine, node, seen.incarnation()).await?;
    }
    let now = ctx.clock.now();
    let status = status::compute(&seen, now);
    write::status(&machines, &seen.machine, seen.machine.status.as_ref(), &status).await?;
    let waits_for_node = seen.provisioned() && seen.node.is_none();
    Ok(if waits_for_node || !seen.nodes_known {
        Requeue::After(WAIT)
    } else {
        Requeue::Never
    })
}

async fn cluster_paused(ctx: &Context, machine: &Machine) -> Result<bool, Error> {
    let clusters: Api<Cluster> =
        Api::namespaced(ctx.client.clone(), &machine.namespace().unwrap_or_default());
    let cluster = write::get(&clusters, &machine.spec.cluster_name).await?;
    Ok(cluster.is_some_and(|cluster| cluster.spec.paused == Some(true)))
}

/// The Cluster that a machine belongs to.
pub fn cluster_key(machine: &Machine) -> ObjectKey {
    ObjectKey::namespaced(
        machine.namespace().unwrap_or_default(),
        machine.spec.cluster_name.clone(),
    )
}

async fn observe(ctx: &Context, machine: Machine) -> Result<Seen, Error> {
    let namespace = machine.namespace().unwrap_or_default();
    let infrastructure = objects::get(&ctx.client, &namespace, &machine.spec.infrastructure_ref).await?;
    let bootstrap = objects::get(&ctx.client, &namespace, &machine.spec.bootstrap.config_ref).await?;
    let watched = ctx.watch(&cluster_key(&machine));
    let mut seen = Seen {
        machine,
        infrastructure,
        bootstrap,
        ..Default::default()
    };
    if let Some(watched) = watched.filter(|watched| watched.nodes.is_ready()) {
        let wanted = seen.provider_id();
        let mut found = watched
            .nodes
            .select(|node| !wanted.is_empty() && node.spec.provider_id == wanted);
        seen.node = found.pop();
        seen.nodes_known = true;
    }
    Ok(seen)
}

/// Copies the identity and the bootstrap Secret's name into the machine; tells whether anything was written.
async fn copy_references(machines: &Api<Machine>, seen: &Seen) -> Result<bool, Error> {
    let (machine, mut spec) = (&seen.machine, serde_json::Map::new());
    let secret = text(seen.bootstrap.as_ref(), "/status/dataSecretName");
    if !secret.is_empty() && machine.spec.bootstrap.data_secret_name.as_deref() != Some(secret.as_str()) {
        spec.insert("bootstrap".into(), json!({ "dataSecretName": secret }));
    }
    let provider_id = seen.provider_id();
    if seen.provisioned() && machine.spec.provider_id != provider_id {
        spec.insert("providerID".into(), provider_id.into());
    }
    if spec.is_empty() {
        return Ok(false);
    }
    write::merge(machines, &machine.name_any(), json!({ "spec": spec })).await?;
    Ok(true)
}
