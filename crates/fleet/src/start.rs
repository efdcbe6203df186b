//! Starts all controllers of the fleet: which changes wake which keys.

use std::sync::Arc;

use kube::ResourceExt;
use mainstay_api::{
    BreakFixTicket, ClusterDeployment, ComputeCluster, ComputeNode, Host, HostedControlPlane, NodeConfig,
    NodePool, OSImage, POOL_LABEL, Rack,
};
use mainstay_capi::{CLUSTER_NAME_LABEL, Cluster, Machine, MachineDeployment};
use mainstay_control::{Cache, Change, Controller, ObjectKey, Projection, Scope};
use mainstay_machines as machines;
use parking_lot::Mutex;

use crate::{Context, FleetConfig, cluster, compute, host, image, plane, pool, probe, retention};

/// The running fleet controllers.
#[derive(Debug)]
pub struct Fleet {
    /// What the controllers of this crate share.
    pub context: Arc<Context>,
    /// What the machine controllers share.
    pub machines: Arc<machines::Context>,
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

fn itself<P: Projection>(change: &Change<P>) -> Vec<ObjectKey> {
    vec![change.key.clone()]
}

fn by_label<P: Projection>(change: &Change<P>, label: &str) -> Vec<ObjectKey> {
    let name = change
        .any()
        .meta()
        .labels
        .as_ref()
        .and_then(|labels| labels.get(label))
        .cloned();
    name.map(|name| ObjectKey::namespaced(change.key.namespace.clone(), name))
        .into_iter()
        .collect()
}

/// Keys of all objects of another cache in the namespace of the change.
fn all_beside<P: Projection, Q: Projection>(
    cache: &Cache<Q>,
) -> impl Fn(&Change<P>) -> Vec<ObjectKey> + use<P, Q> {
    let cache = cache.clone();
    move |change| {
        let namespace = &change.key.namespace;
        let beside = |object: &Q| namespace.is_empty() || object.meta().namespace.as_ref() == Some(namespace);
        cache
            .select(beside)
            .iter()
            .map(|object| ObjectKey::of(&**object))
            .collect()
    }
}

struct Caches {
    hosts: Cache<Host>,
    racks: Cache<Rack>,
    tickets: Cache<BreakFixTicket>,
    images: Cache<OSImage>,
    pools: Cache<NodePool>,
    nodes: Cache<ComputeNode>,
    configs: Cache<NodeConfig>,
    infrastructures: Cache<ComputeCluster>,
    planes: Cache<HostedControlPlane>,
    deployments: Cache<ClusterDeployment>,
    clusters: Cache<Cluster>,
    machines: Cache<Machine>,
    machine_deployments: Cache<MachineDeployment>,
}

impl Caches {
    fn start(ctx: &Context) -> Self {
        let (client, stop) = (&ctx.client, || ctx.stop.child_token());
        Caches {
            hosts: Cache::start(client, Scope::default(), stop()),
            racks: Cache::start(client, Scope::default(), stop()),
            tickets: Cache::start(client, Scope::default(), stop()),
            images: Cache::start(client, Scope::default(), stop()),
            pools: Cache::start(client, Scope::default(), stop()),
            nodes: Cache::start(client, Scope::default(), stop()),
            configs: Cache::start(client, Scope::default(), stop()),
            infrastructures: Cache::start(client, Scope::default(), stop()),
            planes: Cache::start(client, Scope::default(), stop()),
            deployments: Cache::start(client, Scope::default(), stop()),
            clusters: Cache::start(client, Scope::default(), stop()),
            machines: Cache::start(client, Scope::default(), stop()),
            machine_deployments: Cache::start(client, Scope::default(), stop()),
        }
    }
}

/// Starts every controller of this crate, of `machines` and of `repair`; they end with `config.shutdown`. The kinds must
/// be served already.
pub fn start(config: FleetConfig) -> Fleet {
    let FleetConfig {
        client,
        clock,
        providers,
        planes,
        images,
        prober,
        access,
        seed,
        shutdown,
    } = config;
    let machines_context = machines::Context::new(
        client.clone(),
        clock.clone(),
        access.clone(),
        shutdown.clone(),
        seed,
    );
    let context = Arc::new(Context {
        client,
        clock,
        providers,
        planes,
        images,
        prober,
        access,
        stop: shutdown,
        probes: Mutex::default(),
        choosing: tokio::sync::Mutex::default(),
    });
    let caches = Caches::start(&context);
    start_inventory(&context, &caches);
    start_machines(&context, &caches);
    start_clusters(&context, &caches);
    machines::start(&machines_context);
    mainstay_repair::start(&machines_context, context.providers.clone());
    Fleet {
        context,
        machines: machines_context,
    }
}

fn start_inventory(ctx: &Arc<Context>, caches: &Caches) {
    run!(
        ctx,
        Controller::new("host")
            .wake_on(&caches.hosts, itself)
            .wake_on(&caches.racks, all_beside(&caches.hosts))
            .wake_on(&caches.tickets, |change| {
                vec![ObjectKey::namespaced(
                    change.key.namespace.clone(),
                    change.any().spec.host_ref.name.clone(),
                )]
            }),
        host::reconcile
    );
    run!(
        ctx,
        Controller::new("osimage")
            .concurrency(1)
            .wake_on(&caches.images, itself),
        image::reconcile
    );
    run!(
        ctx,
        Controller::new("imageretention")
            .concurrency(1)
            .wake_on(&caches.images, retention::by_image)
            .wake_on(&caches.nodes, retention::by_machine),
        retention::reconcile
    );
}

fn start_machines(ctx: &Arc<Context>, caches: &Caches) {
    let waiting = caches.nodes.clone();
    let unplaced = move |change: &Change<Host>| -> Vec<ObjectKey> {
        let namespace = &change.key.namespace;
        let same = |node: &ComputeNode| {
            node.namespace().as_ref() == Some(namespace)
                && node
                    .spec
                    .host_ref
                    .as_ref()
                    .is_none_or(|host| host.name == change.key.name)
        };
        waiting
            .select(same)
            .iter()
            .map(|node| ObjectKey::of(&**node))
            .collect()
    };
    run!(
        ctx,
        Controller::new("computenode")
            .concurrency(16)
            .wake_on(&caches.nodes, itself)
            .wake_on(&caches.hosts, unplaced)
            .wake_on(&caches.configs, itself)
            .wake_on(&caches.machines, |change| {
                let name = change.any().spec.infrastructure_ref.name.clone();
                vec![ObjectKey::namespaced(change.key.namespace.clone(), name)]
            }),
        compute::reconcile
    );
    run!(
        ctx,
        Controller::new("probe")
            .concurrency(32)
            .wake_on(&caches.nodes, probed),
        probe::reconcile
    );
}

/// Only what the probe looks at wakes it: it writes the same objects itself.
fn probed(change: &Change<ComputeNode>) -> Vec<ObjectKey> {
    let facts = |node: &ComputeNode| {
        let status = node.status.clone().unwrap_or_default();
        (
            node.spec.liveness_probe.clone(),
            status.initialization,
            status.task.is_some(),
            status.provisioned_at,
        )
    };
    let same = matches!((&change.old, &change.new), (Some(old), Some(new)) if facts(old) == facts(new));
    if same {
        Vec::new()
    } else {
        vec![change.key.clone()]
    }
}

fn start_clusters(ctx: &Arc<Context>, caches: &Caches) {
    run!(
        ctx,
        Controller::new("hostedcontrolplane").wake_on(&caches.planes, itself),
        plane::reconcile
    );
    run!(
        ctx,
        Controller::new("computecluster")
            .wake_on(&caches.infrastructures, itself)
            .wake_on(&caches.racks, all_beside(&caches.infrastructures)),
        plane::reconcile_infrastructure
    );
    run!(
        ctx,
        Controller::new("nodepool")
            .wake_on(&caches.pools, itself)
            .wake_on(&caches.images, all_beside(&caches.pools))
            .wake_on(&caches.clusters, all_beside(&caches.pools))
            .wake_on(&caches.planes, all_beside(&caches.pools))
            .wake_on(&caches.machine_deployments, |change| by_label(change, POOL_LABEL)),
        pool::reconcile
    );
    run!(
        ctx,
        Controller::new("clusterdeployment")
            .wake_on(&caches.deployments, itself)
            .wake_on(&caches.clusters, itself)
            .wake_on(&caches.planes, |change| by_label(change, CLUSTER_NAME_LABEL))
            .wake_on(&caches.pools, |change| by_label(change, CLUSTER_NAME_LABEL))
            .wake_on(&caches.images, all_beside(&caches.deployments))
            .wake_on(&caches.racks, all_beside(&caches.deployments))
            .wake_on(&caches.hosts, all_beside(&caches.deployments)),
        cluster::reconcile
    );
}
