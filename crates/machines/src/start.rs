//! Starts the controllers of this crate: which changes wake which keys.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use mainstay_api::{ComputeCluster, ComputeNode, HostedControlPlane, NodeConfig};
use mainstay_capi::{
    CLUSTER_NAME_LABEL, Cluster, DEPLOYMENT_NAME_LABEL, Machine, MachineDeployment, MachineHealthCheck,
    MachineSet, SET_NAME_LABEL,
};
use mainstay_control::{Cache, Change, Controller, Error, ObjectKey, Projection, Requeue, Scope};

use crate::{
    Context, approver, bootstrap, cluster, deployment, health, machine, objects::controller_of, set,
};

/// How often undecided certificate requests of a cluster are looked for.
const REQUESTS_EVERY: Duration = Duration::from_secs(1);

fn by_label<P: Projection>(change: &Change<P>, label: &str) -> Vec<ObjectKey> {
    let object = change.any();
    let name = object.meta().labels.as_ref().and_then(|labels| labels.get(label));
    name.map(|name| ObjectKey::namespaced(object.meta().namespace.clone().unwrap_or_default(), name.clone()))
        .into_iter()
        .collect()
}

fn by_owner<P: Projection>(change: &Change<P>, kind: &str) -> Vec<ObjectKey> {
    let object = change.any();
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    controller_of(&**object, kind)
        .map(|name| ObjectKey::namespaced(namespace, name))
        .into_iter()
        .collect()
}

fn itself<P: Projection>(change: &Change<P>) -> Vec<ObjectKey> {
    vec![change.key.clone()]
}

/// Shared caches of the kinds that wake controllers.
struct Caches {
    clusters: Cache<Cluster>,
    deployments: Cache<MachineDeployment>,
    sets: Cache<MachineSet>,
    machines: Cache<Machine>,
    checks: Cache<MachineHealthCheck>,
    configs: Cache<NodeConfig>,
    computes: Cache<ComputeNode>,
    planes: Cache<HostedControlPlane>,
    infrastructures: Cache<ComputeCluster>,
}

impl Caches {
    fn start(ctx: &Context) -> Self {
        let (client, stop) = (&ctx.client, || ctx.stop.child_token());
        Caches {
            clusters: Cache::start(client, Scope::default(), stop()),
            deployments: Cache::start(client, Scope::default(), stop()),
            sets: Cache::start(client, Scope::default(), stop()),
            machines: Cache::start(client, Scope::default(), stop()),
            checks: Cache::start(client, Scope::default(), stop()),
            configs: Cache::start(client, Scope::default(), stop()),
            computes: Cache::start(client, Scope::default(), stop()),
            planes: Cache::start(client, Scope::default(), stop()),
            infrastructures: Cache::start(client, Scope::default(), stop()),
        }
    }
}

/// Starts one controller whose reconcile function takes a key and the context.
macro_rules! run {
    ($ctx:expr, $controller:expr, $reconcile:path) => {{
        let ctx = $ctx.clone();
        $controller.run($ctx.stop.clone(), move |key| {
            let ctx = ctx.clone();
            async move { $reconcile(key, &ctx).await }
        });
    }};
}

/// Starts all controllers; they end with the context's token.
pub fn start(ctx: &Arc<Context>) {
    let caches = Caches::start(ctx);
    start_machines(ctx, &caches);
    run!(
        ctx,
        Controller::new("machinedeployment")
            .wake_on(&caches.deployments, itself)
            .wake_on(&caches.sets, |change| by_label(change, DEPLOYMENT_NAME_LABEL)),
        deployment::reconcile
    );
    run!(
        ctx,
        Controller::new("machineset")
            .wake_on(&caches.sets, itself)
            .wake_on(&caches.machines, |change| by_label(change, SET_NAME_LABEL)),
        set::reconcile
    );
    run!(
        ctx,
        Controller::new("cluster")
            .wake_on(&caches.clusters, itself)
            .wake_on(&caches.planes, |change| by_label(change, CLUSTER_NAME_LABEL))
            .wake_on(&caches.infrastructures, |change| by_label(
                change,
                CLUSTER_NAME_LABEL
            )),
        cluster::reconcile
    );
    let machines = caches.machines.clone();
    run!(
        ctx,
        Controller::new("bootstrap")
            .wake_on(&caches.configs, itself)
            .wake_on(&caches.machines, |change| {
                let name = change.any().spec.bootstrap.config_ref.name.clone();
                vec![ObjectKey::namespaced(change.key.namespace.clone(), name)]
            })
            .wake_on(&caches.computes, move |change| {
                let owner = by_owner(change, "Machine");
                let machine = owner.first().and_then(|key| machines.get(key));
                let name = machine.map(|m| m.spec.bootstrap.config_ref.name.clone());
                name.map(|name| ObjectKey::namespaced(change.key.namespace.clone(), name))
                    .into_iter()
                    .collect()
            }),
        bootstrap::reconcile
    );
    start_health(ctx, &caches);
    start_approver(ctx, &caches);
}

fn start_machines(ctx: &Arc<Context>, caches: &Caches) {
    let controller = Controller::new("machine")
        .wake_on(&caches.machines, itself)
        .wake_on(&caches.configs, |change| by_owner(change, "Machine"))
        .wake_on(&caches.computes, |change| by_owner(change, "Machine"));
    let queue = controller.queue();
    let machines = caches.machines.clone();
    ctx.on_node_change(move |cluster, change| {
        // Heartbeats change nothing that a machine shows.
        let same = |a: &crate::context::NodeView, b: &crate::context::NodeView| {
            a.status.conditions == b.status.conditions
                && a.metadata.labels == b.metadata.labels
                && a.metadata.annotations == b.metadata.annotations
                && a.spec.taints == b.spec.taints
        };
        if matches!((&change.old, &change.new), (Some(old), Some(new)) if same(old, new)) {
            return;
        }
        let provider_id = &change.any().spec.provider_id;
        let concerned = machines.select(|machine| {
            machine::cluster_key(machine) == *cluster
                && (machine.spec.provider_id == *provider_id
                    || machine
                        .status
                        .as_ref()
                        .is_none_or(|status| status.node_ref.is_none()))
        });
        concerned
            .iter()
            .for_each(|machine| queue.add(ObjectKey::of(&**machine)));
    });
    let _ = ctx.machine_queue.set(controller.queue());
    run!(ctx, controller, machine::reconcile);
}

fn start_health(ctx: &Arc<Context>, caches: &Caches) {
    let checks = caches.checks.clone();
    run!(
        ctx,
        Controller::new("machinehealthcheck")
            .wake_on(&caches.checks, itself)
            .wake_on(&caches.machines, move |change| {
                let machine = change.any();
                let same_cluster = |check: &MachineHealthCheck| {
                    check.namespace() == machine.namespace()
                        && check.spec.cluster_name == machine.spec.cluster_name
                };
                checks
                    .select(same_cluster)
                    .iter()
                    .map(|check| ObjectKey::of(&**check))
                    .collect()
            }),
        health::reconcile
    );
}

fn start_approver(ctx: &Arc<Context>, caches: &Caches) {
    let controller = Controller::new("node-approver").wake_on(&caches.clusters, itself);
    let (shared, clusters) = (ctx.clone(), caches.clusters.clone());
    controller.run(ctx.stop.clone(), move |key| {
        let (ctx, clusters) = (shared.clone(), clusters.clone());
        async move {
            if clusters.get(&key).is_none() {
                return Ok::<_, Error>(Requeue::Never);
            }
            approver::reconcile(key, &ctx).await?;
            Ok(Requeue::After(REQUESTS_EVERY))
        }
    });
}
