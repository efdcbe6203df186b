//! Repair controllers: begin and drive repairs of ComputeNodes, and keep problem taints on workload Nodes.
//! Watches ComputeNodes, Repairs, policies and workload Nodes; alone writes Repairs, BreakFixTickets,
//! ComputeNode.spec.{restart, incarnation} and the taints under `problem.mainstay.dev/`.

mod act;
mod observe;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use mainstay_api::{
    BreakFixTicket, ComputeNode, Host, NameRef, Repair, RepairPolicy, RepairSpec,
    repair::{FaultClass, RepairState, RepairStatus, SERVICES_RESTARTED_ANNOTATION},
};
use mainstay_capi::{CLUSTER_NAME_LABEL, Machine};
use mainstay_control::queue::Queue;
use mainstay_control::{
    Cache, Controller, Error, EventKind, ObjectKey, Recorder, Requeue, Scope, events, write,
};
use mainstay_machines as machines;
use mainstay_provider::Provider;
use parking_lot::Mutex;

use crate::{
    gates::{Breakers, Member, ask},
    ladder::{MachineView, Pass, advance, begin},
    story,
    trigger::Health,
};

/// The longest time between two looks at a machine that a policy covers.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Source of the events.
const COMPONENT: &str = "repair-controller";
/// The policy of machines whose pool names none.
pub const DEFAULT_POLICY: &str = "default";

/// What the controllers share.
pub struct Context {
    /// Access to the management and workload clusters.
    pub machines: Arc<machines::Context>,
    /// Providers by name.
    pub providers: BTreeMap<String, Arc<dyn Provider>>,
    breakers: Mutex<BTreeMap<ObjectKey, Breakers>>,
    events: Recorder,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Context")
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.machines.client.clone(), namespace)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.machines.clock.now()
    }
}

/// Starts the controllers; they end with the machine controllers' token.
pub fn start(
    machines: &Arc<machines::Context>,
    providers: BTreeMap<String, Arc<dyn Provider>>,
) -> Arc<Context> {
    let ctx = Arc::new(Context {
        machines: machines.clone(),
        providers,
        breakers: Mutex::default(),
        events: Recorder::start(machines.client.clone(), COMPONENT, None, machines.clock.clone()),
    });
    let (client, stop) = (&machines.client, machines.stop.clone());
    let nodes: Cache<ComputeNode> = Cache::start(client, Scope::default(), stop.child_token());
    let repairs: Cache<Repair> = Cache::start(client, Scope::default(), stop.child_token());
    let tickets: Cache<BreakFixTicket> = Cache::start(client, Scope::default(), stop.child_token());
    let open = repairs.clone();
    let controller = Controller::new("repair")
        .wake_on(&nodes, |change| vec![change.key.clone()])
        .wake_on(&repairs, |change| {
            let node = change.any().spec.compute_node_ref.name.clone();
            vec![ObjectKey::namespaced(change.key.namespace.clone(), node)]
        })
        .wake_on(&tickets, move |change| {
            let named = change.any().spec.repair_ref.clone().unwrap_or_default();
            let repair = open.get(&ObjectKey::namespaced(change.key.namespace.clone(), named.name));
            let node = repair.map(|repair| repair.spec.compute_node_ref.name.clone());
            node.map(|node| ObjectKey::namespaced(change.key.namespace.clone(), node))
                .into_iter()
                .collect()
        });
    let queue = controller.queue();
    machines.on_node_change(move |_, change| queue_machine(&queue, &change.any().spec.provider_id));
    let shared = ctx.clone();
    // One at a time: gates look at the whole fleet.
    controller.concurrency(1).run(stop, move |key| {
        let ctx = shared.clone();
        async move { reconcile(key, &ctx).await }
    });
    ctx
}

/// Wakes the machine that a Node belongs to.
fn queue_machine(queue: &Queue<ObjectKey>, provider_id: &str) {
    if let Some((namespace, name)) = mainstay_api::join::parse_provider_id(provider_id) {
        queue.add(ObjectKey::namespaced(namespace, name));
    }
}

/// Everything one pass reads.
struct Seen {
    node: Option<ComputeNode>,
    machine: Option<Machine>,
    host: Option<Host>,
    policy: RepairPolicy,
    repair: Option<Repair>,
    tickets: Vec<BreakFixTicket>,
}

/// Looks at one machine: begins a repair, or takes its open one a pass further.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let Some(mut seen) = read(ctx, &key).await? else {
        return Ok(Requeue::Never);
    };
    taint(ctx, &seen).await?;
    let (health, fleet) = (
        observe::health(ctx, &seen, &seen.policy.spec),
        observe::fleet(ctx, &key.namespace).await?,
    );
    let now = ctx.now();
    if seen.repair.is_none() {
        let Health::Faulty(fault, trigger) = &health else {
            return Ok(Requeue::After(wait_for(&health)));
        };
        if fault.class == FaultClass::Software {
            return Ok(Requeue::After(LOOK_AGAIN));
        }
        let status = begin(&seen.policy.spec, trigger.class, trigger.start_at, now);
        let made = new_repair(ctx, &key, &seen, fault, &status).await?;
        announce(
            ctx,
            &seen,
            &made,
            &[story::begins(fault, &seen.policy.name_any())],
        );
        seen.repair = Some(made);
    }
    let Some(repair) = seen.repair.clone() else {
        return Ok(Requeue::Never);
    };
    let view = view(ctx, &seen, &repair, &health).await;
    let me = observe::member(&fleet, &repair.spec.host_ref.name);
    let closed = {
        let mut breakers = ctx.breakers.lock();
        let breakers = breakers.entry(ObjectKey::of(&seen.policy)).or_default();
        breakers.observe(&seen.policy.spec, &fleet, now);
        me.and_then(|me: &Member| ask(&seen.policy.spec, breakers, &fleet, me, now))
    };
    let old = repair.status.clone().unwrap_or_default();
    let name = repair.name_any();
    let pass = Pass {
        name: &name,
        spec: &repair.spec,
        policy: &seen.policy.spec,
        machine: &view,
        closed: closed.as_ref(),
        now,
    };
    let next = advance(pass, &old);
    let mut status = next.status.clone();
    for ask in &next.asks {
        tracing::info!(repair = name, ask = ?ask, "repair step");
        act::carry_out(ctx, &seen, &repair, ask, &mut status).await?;
    }
    write::status(
        &ctx.api::<Repair>(&key.namespace),
        &repair,
        repair.status.as_ref(),
        &status,
    )
    .await?;
    announce(ctx, &seen, &repair, &story::changes(&old, &status));
    Ok(Requeue::After(
        next.look_again.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
    ))
}

/// Tells what happened as events of the repair, its host and its machine.
fn announce(ctx: &Context, seen: &Seen, repair: &Repair, changes: &[story::Change]) {
    let repaired = events::reference(repair);
    let host = seen.host.as_ref().map(events::reference);
    let node = seen.node.as_ref().map(events::reference);
    let about: Vec<_> = [Some(repaired), host, node].into_iter().flatten().collect();
    for change in changes {
        let kind = match change.warning {
            true => EventKind::Warning,
            false => EventKind::Normal,
        };
        for object in &about {
            let message = format!("{}: {}", repair.name_any(), change.message);
            ctx.events.record(object.clone(), kind, change.reason, message);
        }
    }
}

fn wait_for(health: &Health) -> Duration {
    match health {
        Health::Suspect(left) => left.unsigned_abs().clamp(Duration::from_millis(100), LOOK_AGAIN),
        _ => LOOK_AGAIN,
    }
}

fn is_open(repair: &Repair) -> bool {
    let state = repair
        .status
        .as_ref()
        .map(|status| status.state)
        .unwrap_or_default();
    !matches!(state, RepairState::Healthy | RepairState::Cancelled)
}

async fn read(ctx: &Context, key: &ObjectKey) -> Result<Option<Seen>, Error> {
    let node = write::get(&ctx.api::<ComputeNode>(&key.namespace), &key.name).await?;
    let repairs: Vec<Repair> = write::list(&ctx.api(&key.namespace), "").await?;
    let repair = repairs
        .into_iter()
        .find(|repair| repair.spec.compute_node_ref.name == key.name && is_open(repair));
    if node.is_none() && repair.is_none() {
        return Ok(None);
    }
    let pool = node
        .as_ref()
        .and_then(|node| node.labels().get(mainstay_api::POOL_LABEL).cloned());
    let named = match pool {
        Some(pool) => write::get(&ctx.api::<mainstay_api::NodePool>(&key.namespace), &pool).await?,
        None => None,
    };
    let named = named
        .and_then(|pool| pool.spec.repair_policy_ref)
        .map(|policy| policy.name);
    let policy = repair
        .as_ref()
        .and_then(|repair| repair.spec.policy_ref.clone())
        .map(|policy| policy.name)
        .or(named);
    let policy = policy.unwrap_or_else(|| DEFAULT_POLICY.to_string());
    let Some(policy) = write::get(&ctx.api::<RepairPolicy>(&key.namespace), &policy).await? else {
        return Ok(None);
    };
    let owner = node
        .as_ref()
        .and_then(|node| machines::objects::controller_of(node, "Machine"));
    let machine = match owner {
        Some(owner) => write::get(&ctx.api::<Machine>(&key.namespace), &owner).await?,
        None => None,
    };
    let host = node.as_ref().and_then(|node| node.spec.host_ref.clone());
    let host = host.or_else(|| repair.as_ref().map(|repair| repair.spec.host_ref.clone()));
    let host = match host {
        Some(host) => write::get(&ctx.api::<Host>(&key.namespace), &host.name).await?,
        None => None,
    };
    let tickets = write::list(&ctx.api(&key.namespace), "").await?;
    Ok(Some(Seen {
        node,
        machine,
        host,
        policy,
        repair,
        tickets,
    }))
}

async fn new_repair(
    ctx: &Context,
    key: &ObjectKey,
    seen: &Seen,
    fault: &mainstay_api::repair::Fault,
    status: &RepairStatus,
) -> Result<Repair, Error> {
    let host = seen.host.as_ref().map(ResourceExt::name_any).unwrap_or_default();
    let spec = RepairSpec {
        host_ref: NameRef::new(host.clone()),
        compute_node_ref: NameRef::new(key.name.clone()),
        machine_ref: seen
            .machine
            .as_ref()
            .map(|machine| NameRef::new(machine.name_any())),
        policy_ref: Some(NameRef::new(seen.policy.name_any())),
        fault: fault.clone(),
    };
    let mut repair = Repair::new(&format!("{host}-{}", ctx.machines.suffix()), spec);
    repair.metadata.namespace = Some(key.namespace.clone());
    let cluster = seen
        .machine
        .as_ref()
        .map(|machine| machine.spec.cluster_name.clone())
        .unwrap_or_default();
    repair.metadata.labels = Some([(CLUSTER_NAME_LABEL.to_string(), cluster)].into());
    let api: Api<Repair> = ctx.api(&key.namespace);
    let made = api.create(&Default::default(), &repair).await;
    let mut made = made.map_err(Error::api(|| format!("create repair of host {host}")))?;
    tracing::warn!(host, fault = fault.kind, reason = fault.reason, "repair begins");
    // The first pass writes the state; until then an empty status stands for it.
    made.status = Some(RepairStatus {
        rung: status.rung,
        since: status.since.clone(),
        ..Default::default()
    });
    write::status(&api, &made, None::<&RepairStatus>, status).await?;
    write::get(&api, &made.name_any())
        .await
        .map(|read| read.unwrap_or(made))
}

async fn view(ctx: &Context, seen: &Seen, repair: &Repair, health: &Health) -> MachineView {
    let status = seen
        .node
        .as_ref()
        .and_then(|node| node.status.clone())
        .unwrap_or_default();
    // A failed task is not work: the provider has given up on it for now.
    let working = status.task.as_ref().is_some_and(|task| task.step != "Failed");
    let failed =
        mainstay_api::conditions::find(&status.conditions, mainstay_api::conditions::types::PROVISIONED)
            .filter(|c| c.status == "False" && c.reason == mainstay_api::conditions::reasons::HARDWARE_BROKEN)
            .map(|c| c.message.clone());
    let ticket = repair
        .status
        .as_ref()
        .and_then(|status| status.ticket_ref.clone());
    let ticket = ticket.and_then(|name| seen.tickets.iter().find(|ticket| ticket.name_any() == name.name));
    let node = observe::node(ctx, seen);
    let reported = node.and_then(|node| node.annotations().get(SERVICES_RESTARTED_ANNOTATION).cloned());
    MachineView {
        services_restarted: reported.unwrap_or_default(),
        boot_id: status.boot_id,
        powered: observe::powered(ctx, seen, repair).await,
        faulty: match health {
            _ if working => None,
            Health::Healthy => Some(false),
            Health::Faulty(..) => Some(true),
            Health::Suspect(_) | Health::Unknown => None,
        },
        exists: seen
            .node
            .as_ref()
            .is_some_and(|node| node.metadata.deletion_timestamp.is_none()),
        restarted: status.restarted,
        incarnation: status.incarnation,
        action_failed: failed,
        proof: observe::proof(ctx, seen).await,
        ticket_resolved: ticket.is_some_and(|ticket| ticket.spec.resolved),
    }
}

/// Keeps the taints of the machine's Node in step with its conditions.
async fn taint(ctx: &Context, seen: &Seen) -> Result<(), Error> {
    let Some(node) = observe::node(ctx, seen) else {
        return Ok(());
    };
    let Some(taints) = crate::taint::wanted(&node) else {
        return Ok(());
    };
    let cluster = seen.machine.as_ref().map(machines::machine::cluster_key);
    let Some(access) = cluster.and_then(|cluster| ctx.machines.clusters.access(&cluster)) else {
        return Ok(());
    };
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(access.client);
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"taints": taints},
    });
    match write::merge(&nodes, &node.name_any(), patch).await {
        Err(error) if error.is_code(404) => Ok(()),
        other => other.map(|_| ()),
    }
}
