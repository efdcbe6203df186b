//! What is not well, since when and what happens next, object by object: gathered from the management cluster and
//! the Nodes of its clusters, told with the functions that the repair controller decides by.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, ResourceExt};
use mainstay_api::{
    BreakFixTicket, ClusterDeployment, ComputeNode, Host, HostState, NodePool, OSImage, POOL_LABEL, Repair,
    RepairPolicy,
    conditions::{is_bad, reasons},
    repair::{RepairPolicySpec, RepairState},
};
use mainstay_base::clock::{Clock, SystemClock, rfc3339_seconds};
use mainstay_capi::Machine;
use mainstay_machines::context::{NodeView, NodeViewCondition};
use mainstay_repair::{controller::DEFAULT_POLICY, story, trigger};
use serde_json::{Value, json};

use super::{api, kubeconfig};
use crate::outcome::Failure;

/// What is said when nothing more precise is known.
const GOES_ON: &str = "the controllers go on by themselves";

/// One line of the report.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Finding {
    /// `kind/name`.
    pub object: String,
    /// Nothing is wrong with it.
    pub well: bool,
    problem: String,
    since: String,
    next: String,
}

impl Finding {
    /// The finding as a document.
    pub fn document(&self) -> Value {
        json!({
            "object": self.object, "well": self.well, "problem": self.problem, "since": self.since, "next": self.next,
        })
    }

    /// The finding as text.
    pub fn line(&self) -> String {
        let next = match self.next.as_str() {
            "" => String::new(),
            next => format!("   next: {next}\n"),
        };
        if self.well {
            return format!(" ✓ {}\n{next}", self.object);
        }
        let since = if self.since.is_empty() {
            String::new()
        } else {
            format!(" since {}", self.since)
        };
        format!(" ✗ {}: {}{since}\n{next}", self.object, self.problem)
    }
}

/// Everything that is looked at.
#[derive(Default)]
struct World {
    now: Timestamp,
    images: Vec<OSImage>,
    clusters: Vec<ClusterDeployment>,
    pools: Vec<NodePool>,
    hosts: Vec<Host>,
    computes: Vec<ComputeNode>,
    machines: Vec<Machine>,
    tickets: Vec<BreakFixTicket>,
    repairs: Vec<Repair>,
    policies: Vec<RepairPolicy>,
    nodes: Vec<NodeView>,
    /// Clusters whose API did not answer, and what it said.
    silent: BTreeMap<String, String>,
}

/// Looks at everything once.
///
/// # Errors
/// When the management cluster does not answer; a workload cluster that does not is a finding.
pub async fn examine(client: &Client) -> Result<Vec<Finding>, Failure> {
    let mut world = World {
        now: SystemClock::new().now(),
        images: api::list(client).await?,
        clusters: api::list(client).await?,
        pools: api::list(client).await?,
        hosts: api::list(client).await?,
        computes: api::list(client).await?,
        machines: api::list(client).await?,
        tickets: api::list(client).await?,
        repairs: api::list(client).await?,
        policies: api::list(client).await?,
        ..Default::default()
    };
    let (mut nodes, mut silent) = (Vec::new(), BTreeMap::new());
    for cluster in &world.clusters {
        let namespace = cluster.namespace().unwrap_or_default();
        match nodes_of(client, &namespace, &cluster.name_any()).await {
            Ok(found) => nodes.extend(found),
            Err(failure) => drop(silent.insert(cluster.name_any(), failure.message)),
        }
    }
    (world.nodes, world.silent) = (nodes, silent);
    Ok(world.findings())
}

async fn nodes_of(client: &Client, namespace: &str, cluster: &str) -> Result<Vec<NodeView>, Failure> {
    let secrets = Api::namespaced(client.clone(), namespace);
    let text = kubeconfig::of_cluster(secrets, cluster, namespace).await?;
    api::list(&api::client(&text).await?).await
}

fn is_open(repair: &Repair) -> bool {
    let state = repair
        .status
        .as_ref()
        .map(|status| status.state)
        .unwrap_or_default();
    !matches!(state, RepairState::Healthy | RepairState::Cancelled)
}

impl World {
    fn findings(&self) -> Vec<Finding> {
        let mut all: Vec<Finding> = self.silent.iter().map(silent).collect();
        all.extend(self.images.iter().map(|image| {
            let conditions = image.status.as_ref().map(|status| status.conditions.as_slice());
            let next = "the image controller tries again".to_string();
            by_conditions("image", image, conditions, next)
        }));
        all.extend(self.clusters.iter().map(|cluster| {
            let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice());
            let next = "the controllers go on when what is named changes".to_string();
            by_conditions("cluster", cluster, conditions, next)
        }));
        all.extend(self.pools.iter().map(pool));
        all.extend(self.hosts.iter().map(|host| self.host(host)));
        all.extend(self.computes.iter().map(|compute| self.compute(compute)));
        all.extend(self.machines.iter().map(|machine| self.machine(machine)));
        all.extend(self.nodes.iter().map(|node| self.node(node)));
        let open = self.repairs.iter().filter(|repair| is_open(repair));
        all.extend(open.map(|repair| self.repair(repair)));
        let closed = |ticket: &BreakFixTicket| {
            ticket
                .status
                .as_ref()
                .is_some_and(|status| status.state == "Closed")
        };
        let open = self
            .tickets
            .iter()
            .filter(|ticket| !ticket.spec.resolved && !closed(ticket));
        all.extend(open.map(ticket));
        all
    }

    /// Names of everything that hangs together with a machine, from the host to the Node.
    fn chain(&self, compute: &ComputeNode) -> Vec<String> {
        let host = compute.spec.host_ref.as_ref().map(|host| host.name.clone());
        let machine = self.machine_of(compute).map(ResourceExt::name_any);
        let node = self.node_of(compute).map(ResourceExt::name_any);
        let own = Some(compute.name_any());
        [host, own, machine, node].into_iter().flatten().collect()
    }

    fn machine_of(&self, compute: &ComputeNode) -> Option<&Machine> {
        let name = compute.name_any();
        self.machines
            .iter()
            .find(|machine| machine.spec.infrastructure_ref.name == name)
    }

    fn node_of(&self, compute: &ComputeNode) -> Option<&NodeView> {
        let id = &compute.spec.provider_id;
        self.nodes
            .iter()
            .find(|node| !id.is_empty() && node.spec.provider_id == *id)
    }

    /// The machine that an object belongs to.
    fn compute_with(&self, name: &str) -> Option<&ComputeNode> {
        self.computes
            .iter()
            .find(|compute| self.chain(compute).iter().any(|known| known == name))
    }

    fn open_repair(&self, chain: &[String]) -> Option<&Repair> {
        let about = |repair: &&Repair| {
            let spec = &repair.spec;
            chain.contains(&spec.compute_node_ref.name) || chain.contains(&spec.host_ref.name)
        };
        self.repairs.iter().filter(|repair| is_open(repair)).find(about)
    }

    fn policy_of(&self, compute: &ComputeNode) -> Option<&RepairPolicy> {
        let label = compute.labels().get(POOL_LABEL);
        let pool = self.pools.iter().find(|pool| Some(&pool.name_any()) == label);
        let named = pool.and_then(|pool| pool.spec.repair_policy_ref.as_ref());
        self.policy(named.map_or(DEFAULT_POLICY, |policy| policy.name.as_str()))
    }

    fn policy(&self, name: &str) -> Option<&RepairPolicy> {
        self.policies.iter().find(|policy| policy.name_any() == name)
    }

    /// What will be done about a machine: by its open repair, else by what its policy sees coming.
    fn next(&self, chain: &[String], compute: Option<&ComputeNode>) -> Option<String> {
        if let Some(repair) = self.open_repair(chain) {
            return Some(format!(
                "repair {}: {}",
                repair.name_any(),
                self.repair_next(repair)
            ));
        }
        let compute = compute?;
        let policy = self.policy_of(compute)?;
        let health = trigger::health(&policy.spec, compute, self.node_of(compute), self.now);
        story::suspicion(&policy.name_any(), &health, self.now)
    }

    fn repair_next(&self, repair: &Repair) -> String {
        let named = repair.spec.policy_ref.as_ref().map(|policy| policy.name.as_str());
        let policy = self.policy(named.unwrap_or(DEFAULT_POLICY));
        let spec = policy.map_or_else(RepairPolicySpec::default, |policy| policy.spec.clone());
        story::next(&spec, &repair.status.clone().unwrap_or_default())
    }

    /// Adds what happens next to the finding about one object of it.
    fn linked(&self, mut finding: Finding, compute: Option<&ComputeNode>, own: &str) -> Finding {
        let mut chain = compute.map(|compute| self.chain(compute)).unwrap_or_default();
        chain.push(own.to_string());
        let next = self.next(&chain, compute);
        if !finding.well {
            finding.next = next.unwrap_or_else(|| GOES_ON.into());
        }
        finding
    }

    fn host(&self, host: &Host) -> Finding {
        let name = host.name_any();
        let status = host.status.as_ref();
        let conditions = status.map(|status| status.conditions.as_slice());
        let mut finding = by_conditions("host", host, conditions, String::new());
        if status.is_some_and(|status| status.state == HostState::BreakFix) {
            finding.well = false;
            finding.problem = "is out for repair by people".into();
            let repair = self.open_repair(std::slice::from_ref(&name));
            let since = repair.and_then(|repair| repair.status.as_ref()?.since.as_ref());
            finding.since = since.map(|time| rfc3339_seconds(time.0)).unwrap_or_default();
        }
        self.linked(finding, self.compute_with(&name), &name)
    }

    fn compute(&self, compute: &ComputeNode) -> Finding {
        let conditions = compute.status.as_ref().map(|status| status.conditions.as_slice());
        let finding = by_conditions("computenode", compute, conditions, String::new());
        self.linked(finding, Some(compute), &compute.name_any())
    }

    fn machine(&self, machine: &Machine) -> Finding {
        let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice());
        let finding = by_conditions("machine", machine, conditions, String::new());
        let compute = self.compute_with(&machine.spec.infrastructure_ref.name);
        self.linked(finding, compute, &machine.name_any())
    }

    fn node(&self, node: &NodeView) -> Finding {
        let bad: Vec<&NodeViewCondition> = node
            .status
            .conditions
            .iter()
            .filter(|c| is_wrong(&c.kind, &c.status, &c.reason))
            .collect();
        let say =
            |c: &&NodeViewCondition| format!("{} is {}: {} ({})", c.kind, c.status, c.message, c.reason);
        let since = bad.iter().filter_map(|c| c.last_transition_time).min();
        let finding = Finding {
            object: format!("node/{}", node.name_any()),
            well: bad.is_empty(),
            problem: bad.iter().map(say).collect::<Vec<_>>().join("; "),
            since: since.map(rfc3339_seconds).unwrap_or_default(),
            ..Default::default()
        };
        self.linked(finding, self.compute_with(&node.name_any()), &node.name_any())
    }

    fn repair(&self, repair: &Repair) -> Finding {
        let (fault, status) = (&repair.spec.fault, repair.status.clone().unwrap_or_default());
        let first = fault.first_seen.as_ref().map(|time| rfc3339_seconds(time.0));
        let host = &repair.spec.host_ref.name;
        let what = format!("{} {}", fault.name(), fault.reason);
        Finding {
            object: format!("repair/{}", repair.name_any()),
            // The machine works again; it is only watched.
            well: status.state == RepairState::Probation,
            problem: format!("host {host} has a fault: {}, {:?}", what.trim(), status.state),
            since: first.unwrap_or_default(),
            next: self.repair_next(repair),
        }
    }
}

/// A condition that says something is wrong. That nobody has looked yet says nothing.
fn is_wrong(kind: &str, status: &str, reason: &str) -> bool {
    is_bad(kind, status) && reason != reasons::NOT_PROBED
}

fn silent((cluster, problem): (&String, &String)) -> Finding {
    Finding {
        object: format!("cluster/{cluster}"),
        problem: format!("its nodes cannot be read: {problem}"),
        next: "the control plane is started again by itself when it has failed".into(),
        ..Default::default()
    }
}

fn ticket(ticket: &BreakFixTicket) -> Finding {
    let opened = ticket.creation_timestamp();
    Finding {
        object: format!("ticket/{}", ticket.name_any()),
        well: false,
        problem: format!("host {}: {}", ticket.spec.host_ref.name, ticket.spec.summary),
        since: opened.map(|time| rfc3339_seconds(time.0)).unwrap_or_default(),
        next: "nothing until a person sets spec.resolved; then the host is inspected and comes back".into(),
    }
}

fn by_conditions<K: ResourceExt>(
    kind: &str,
    object: &K,
    conditions: Option<&[Condition]>,
    next: String,
) -> Finding {
    let bad = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.status == "False" || condition.status == "Unknown");
    let problem = |bad: &Condition| {
        format!(
            "{} is {}: {} ({})",
            bad.type_, bad.status, bad.message, bad.reason
        )
    };
    Finding {
        object: format!("{kind}/{}", object.name_any()),
        well: bad.is_none(),
        problem: bad.map(problem).unwrap_or_default(),
        since: bad
            .map(|bad| rfc3339_seconds(bad.last_transition_time.0))
            .unwrap_or_default(),
        next: if bad.is_some() { next } else { String::new() },
    }
}

fn pool(pool: &NodePool) -> Finding {
    let ready = pool.status.as_ref().map_or(0, |status| status.ready_replicas);
    let wanted = pool.spec.replicas.unwrap_or(0);
    let well = ready >= wanted;
    Finding {
        object: format!("pool/{}", pool.name_any()),
        well,
        problem: format!("{ready} of {wanted} nodes are ready"),
        next: if well {
            String::new()
        } else {
            "missing nodes are made or repaired".into()
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::{
        ComputeNodeSpec, GoDuration, NameRef,
        repair::{Action, RepairStep, Trigger},
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    fn world() -> World {
        let spec = ComputeNodeSpec {
            host_ref: Some(NameRef::new("h1")),
            provider_id: "mainstay://local/d/c1".into(),
            ..Default::default()
        };
        let mut compute = ComputeNode::new("c1", spec);
        compute.status = Some(Default::default());
        if let Some(status) = compute.status.as_mut() {
            status.initialization.provisioned = true;
        }
        let mut node = NodeView::default();
        node.metadata.name = Some("n1".into());
        node.spec.provider_id = "mainstay://local/d/c1".into();
        node.status.conditions = vec![NodeViewCondition {
            kind: "KernelDeadlock".into(),
            status: "True".into(),
            reason: "DockerHung".into(),
            message: "hung".into(),
            last_transition_time: Some(at(0)),
        }];
        let trigger = Trigger {
            kind: "KernelDeadlock".into(),
            lasting: GoDuration::seconds(60),
            ..Default::default()
        };
        let policy = RepairPolicySpec {
            triggers: vec![trigger],
            ladder: mainstay_api::repair::default_ladder(),
            ..Default::default()
        };
        World {
            now: at(10),
            hosts: vec![Host::new("h1", Default::default())],
            computes: vec![compute],
            nodes: vec![node],
            policies: vec![RepairPolicy::new(DEFAULT_POLICY, policy)],
            ..Default::default()
        }
    }

    fn told(world: &World) -> String {
        world.findings().iter().map(Finding::line).collect()
    }

    #[test]
    fn a_coming_repair_is_told_with_its_time() {
        expect_test::expect![[r#"
            told:
             ✓ host/h1
             ✓ computenode/c1
             ✗ node/n1: KernelDeadlock is True: hung (DockerHung) since 1970-01-01T00:00:00Z
               next: unless it is well again by 1970-01-01T00:01:00Z a repair begins (policy default)
        "#]]
        .assert_eq(&format!("told:\n{}", told(&world())));
    }

    #[test]
    fn an_open_repair_is_told_with_its_next_step() {
        let mut world = world();
        let mut repair = Repair::new("h1-abc", Default::default());
        repair.spec.host_ref = NameRef::new("h1");
        repair.spec.compute_node_ref = NameRef::new("c1");
        repair.spec.fault.kind = "KernelDeadlock".into();
        let time = |second| Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(second)));
        repair.status = Some(mainstay_api::RepairStatus {
            state: RepairState::Restarting,
            rung: 1,
            steps: vec![RepairStep {
                action: Action::Restart,
                started_at: time(60),
                ..Default::default()
            }],
            ..Default::default()
        });
        world.repairs = vec![repair];
        let told = told(&world);
        let next = "Restart runs since 1970-01-01T00:01:00Z; unless healthy by 1970-01-01T00:11:00Z: Restart";
        assert_eq!(told.matches(next).count(), 2, "{told}");
        assert!(
            told.contains("host h1 has a fault: KernelDeadlock, Restarting"),
            "{told}"
        );
    }
}
