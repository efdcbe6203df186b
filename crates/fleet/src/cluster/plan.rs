//! What one ClusterDeployment is made of, and the steps there. An object that does not pass its checks changes
//! nothing.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use kube::ResourceExt;
use mainstay_api::{
    ClusterDeployment, ClusterDeploymentStatus, ComputeCluster, ComputeClusterSpec, HostedControlPlane,
    HostedControlPlaneSpec, NameRef, NodePool, NodePoolSpec,
    cluster::{PlanSummary, PoolCount},
    conditions::{condition, is_true, reasons, set, types},
};
use mainstay_capi::{CLUSTER_NAME_LABEL, Cluster, ClusterNetwork, ClusterSpec, ContractRef, NetworkRanges};
use mainstay_control::write::merge_diff;
use mainstay_machines::objects::controlled_by;
use serde_json::{Value, json};

use crate::validate::FieldError;

/// Remembers the template's number of machines, so that only a change of it is written to the pool.
const TEMPLATE_REPLICAS: &str = "mainstay.dev/template-replicas";

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The object.
    pub object: ClusterDeployment,
    /// What is wrong with it.
    pub problems: Vec<FieldError>,
    /// Its Cluster.
    pub cluster: Option<Cluster>,
    /// Its infrastructure.
    pub infrastructure: Option<ComputeCluster>,
    /// Its control plane.
    pub plane: Option<HostedControlPlane>,
    /// Its pools.
    pub pools: Vec<NodePool>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Makes the infrastructure object.
    MakeInfrastructure(Box<ComputeCluster>),
    /// Makes the control plane.
    MakePlane(Box<HostedControlPlane>),
    /// Makes the Cluster.
    MakeCluster(Box<Cluster>),
    /// Makes a pool.
    MakePool(Box<NodePool>),
    /// Changes the control plane.
    ChangePlane {
        /// Its name.
        name: String,
        /// Merge patch.
        patch: Value,
    },
    /// Changes a pool.
    ChangePool {
        /// Its name.
        name: String,
        /// Merge patch.
        patch: Value,
    },
    /// Removes a pool that is no longer named.
    DropPool {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeInfrastructure(object) => write!(out, "make infrastructure {}", object.name_any()),
            Step::MakePlane(object) => write!(
                out,
                "start control plane {} at {}",
                object.name_any(),
                object.spec.version
            ),
            Step::MakeCluster(object) => write!(out, "make cluster {}", object.name_any()),
            Step::MakePool(object) => {
                write!(
                    out,
                    "make pool {} with {} machines",
                    object.name_any(),
                    object.spec.replicas.unwrap_or(0)
                )
            }
            Step::ChangePlane { name, patch } => {
                write!(out, "change control plane {name}: {}", patch["spec"])
            }
            Step::ChangePool { name, patch } => write!(out, "change pool {name}: {}", patch["spec"]),
            Step::DropPool { name } => write!(out, "drop pool {name}"),
        }
    }
}

/// The steps and the status that follows from what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The object's status.
    pub status: ClusterDeploymentStatus,
}

/// Decides one pass.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let steps = if seen.problems.is_empty() {
        steps(seen)
    } else {
        Vec::new()
    };
    let status = status(seen, &steps, now);
    Plan { steps, status }
}

fn own_labels(object: &ClusterDeployment) -> BTreeMap<String, String> {
    [(CLUSTER_NAME_LABEL.to_string(), object.name_any())].into()
}

/// Fills in what every made object has.
fn adopt<K: kube::Resource>(object: &ClusterDeployment, made: &mut K) {
    let owner = controlled_by(object);
    let meta = made.meta_mut();
    meta.namespace = object.namespace();
    meta.labels = Some(own_labels(object));
    meta.owner_references = Some(vec![owner]);
}

fn steps(seen: &Seen) -> Vec<Step> {
    let object = &seen.object;
    let mut steps = Vec::new();
    if seen.infrastructure.is_none() {
        let environment = object.spec.network.environment.clone();
        let spec = ComputeClusterSpec {
            environment,
            ..Default::default()
        };
        let mut made = ComputeCluster::new(&object.name_any(), spec);
        adopt(object, &mut made);
        steps.push(Step::MakeInfrastructure(Box::new(made)));
    }
    steps.extend(plane_step(seen));
    if seen.cluster.is_none() {
        steps.push(Step::MakeCluster(Box::new(core_cluster(object))));
    }
    // Machines of a version that the control plane does not serve yet could not join.
    let serving = seen
        .plane
        .as_ref()
        .and_then(|plane| plane.status.clone())
        .unwrap_or_default();
    if serving.initialization.control_plane_initialized {
        steps.extend(pool_steps(seen));
    }
    let wanted: Vec<String> = object
        .spec
        .node_pools
        .iter()
        .map(|pool| format!("{}-{}", object.name_any(), pool.name))
        .collect();
    let dropped = seen
        .pools
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| !wanted.contains(name));
    steps.extend(dropped.map(|name| Step::DropPool { name }));
    steps
}

/// Fields of a pool that can change without new machines.
const KEEPS_MACHINES: [&str; 5] = ["replicas", "autoscaling", "update", "deletion", "repairPolicyRef"];

/// Makes and changes pools. With `haltOnFailure` a change that makes new machines reaches one pool after the other:
/// while a pool is not as it should be, those after it keep what they have.
fn pool_steps(seen: &Seen) -> Vec<Step> {
    let spec = &seen.object.spec;
    let mut steps = Vec::new();
    let mut busy = false;
    for pool in &spec.node_pools {
        let step = pool_step(seen, &pool.name, &pool.template.spec);
        let rolls = step.as_ref().is_some_and(makes_new_machines);
        let held = spec.update.halt_on_failure && busy && rolls;
        busy |= rolls || !is_settled(seen, &pool.name);
        steps.extend(step.filter(|_| !held));
    }
    steps
}

fn makes_new_machines(step: &Step) -> bool {
    let Step::ChangePool { patch, .. } = step else {
        return false;
    };
    let fields = patch["spec"].as_object().into_iter().flatten();
    fields
        .into_iter()
        .any(|(name, _)| !KEEPS_MACHINES.contains(&name.as_str()))
}

/// The pool has all its machines, ready and of its present template.
fn is_settled(seen: &Seen, name: &str) -> bool {
    let full = format!("{}-{name}", seen.object.name_any());
    seen.pools.iter().any(|pool| {
        let status = pool.status.clone().unwrap_or_default();
        pool.name_any() == full
            && status.observed_generation >= pool.metadata.generation.unwrap_or(0)
            && is_true(&status.conditions, types::READY)
            && !is_true(&status.conditions, types::ROLLING_OUT)
    })
}

fn plane_step(seen: &Seen) -> Option<Step> {
    let object = &seen.object;
    let Some(plane) = &seen.plane else {
        let spec = HostedControlPlaneSpec {
            version: object.spec.version.clone(),
            network: object.spec.network.clone(),
            ..Default::default()
        };
        let mut made = HostedControlPlane::new(&object.name_any(), spec);
        adopt(object, &mut made);
        return Some(Step::MakePlane(Box::new(made)));
    };
    (plane.spec.version != object.spec.version).then(|| Step::ChangePlane {
        name: plane.name_any(),
        patch: json!({"spec": {"version": object.spec.version}}),
    })
}

fn core_cluster(object: &ClusterDeployment) -> Cluster {
    let reference = |kind: &str| ContractRef {
        api_group: mainstay_api::GROUP.into(),
        kind: kind.into(),
        name: object.name_any(),
    };
    let ranges = |range: &str| NetworkRanges {
        cidr_blocks: vec![range.to_string()],
    };
    let spec = ClusterSpec {
        cluster_network: ClusterNetwork {
            pods: ranges(&object.spec.network.pods),
            services: ranges(&object.spec.network.services),
            service_domain: "cluster.local".into(),
        },
        control_plane_ref: reference("HostedControlPlane"),
        infrastructure_ref: reference("ComputeCluster"),
        ..Default::default()
    };
    let mut made = Cluster::new(&object.name_any(), spec);
    adopt(object, &mut made);
    made
}

fn pool_step(seen: &Seen, name: &str, template: &NodePoolSpec) -> Option<Step> {
    let object = &seen.object;
    let full = format!("{}-{name}", object.name_any());
    let mut wanted = NodePoolSpec {
        cluster_name: object.name_any(),
        ..template.clone()
    };
    let number = template.replicas.map(|n| n.to_string()).unwrap_or_default();
    let Some(have) = seen.pools.iter().find(|pool| pool.name_any() == full) else {
        if wanted.replicas.is_none() {
            wanted.replicas = Some(wanted.autoscaling.as_ref().map_or(1, |range| range.min));
        }
        let mut made = NodePool::new(&full, wanted);
        adopt(object, &mut made);
        made.annotations_mut().insert(TEMPLATE_REPLICAS.into(), number);
        return Some(Step::MakePool(Box::new(made)));
    };
    let number_changed = have.annotations().get(TEMPLATE_REPLICAS) != Some(&number);
    if !number_changed || template.replicas.is_none() {
        wanted.replicas = have.spec.replicas;
    }
    let value = |spec: &NodePoolSpec| serde_json::to_value(spec).unwrap_or(Value::Null);
    let diff = merge_diff(&value(&have.spec), &value(&wanted));
    if diff.is_none() && !number_changed {
        return None;
    }
    let annotations = json!({ TEMPLATE_REPLICAS: number });
    let patch = json!({"metadata": {"annotations": annotations}, "spec": diff.unwrap_or_else(|| json!({}))});
    Some(Step::ChangePool { name: full, patch })
}

fn counts(seen: &Seen) -> Vec<PoolCount> {
    let object = &seen.object;
    object
        .spec
        .node_pools
        .iter()
        .map(|pool| {
            let full = format!("{}-{}", object.name_any(), pool.name);
            let have = seen.pools.iter().find(|have| have.name_any() == full);
            PoolCount {
                name: pool.name.clone(),
                ready: have
                    .and_then(|have| have.status.as_ref())
                    .map_or(0, |status| status.ready_replicas),
                wanted: have
                    .and_then(|have| have.spec.replicas)
                    .or(pool.template.spec.replicas)
                    .unwrap_or(1),
            }
        })
        .collect()
}

fn digest(steps: &[Step]) -> String {
    let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash = text
        .bytes()
        .fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn status(seen: &Seen, steps: &[Step], now: Timestamp) -> ClusterDeploymentStatus {
    let object = &seen.object;
    let mut status = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let plane = seen
        .plane
        .as_ref()
        .and_then(|plane| plane.status.clone())
        .unwrap_or_default();
    let valid = seen.problems.is_empty();
    let problems: Vec<String> = seen.problems.iter().map(FieldError::to_string).collect();
    let reason = if valid {
        reasons::AS_EXPECTED
    } else {
        reasons::INVALID
    };
    set(
        &mut status.conditions,
        condition(types::VALID, valid, reason, problems.join("; "), now),
    );
    let plane_ready = is_true(&plane.conditions, types::READY);
    let why = mainstay_api::conditions::find(&plane.conditions, types::READY).map(|c| c.message.clone());
    let reason = if plane_ready {
        reasons::AS_EXPECTED
    } else {
        reasons::WAITING
    };
    let message = why.unwrap_or_else(|| "the control plane has not started yet".to_string());
    set(
        &mut status.conditions,
        condition(types::CONTROL_PLANE_READY, plane_ready, reason, message, now),
    );
    let pools_ready = pools_ready(seen, &mut status, now);
    let ready = valid && plane_ready && pools_ready;
    let failing = status
        .conditions
        .iter()
        .find(|c| c.type_ != types::READY && c.status != "True");
    let message = failing
        .map(|c| format!("{}: {}", c.type_, c.message))
        .unwrap_or_default();
    let reason = if ready {
        reasons::AS_EXPECTED
    } else {
        reasons::WAITING
    };
    set(
        &mut status.conditions,
        condition(types::READY, ready, reason, message, now),
    );
    if !steps.is_empty() {
        let count = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        status.plan = Some(PlanSummary {
            digest: digest(steps),
            generation,
            steps: count,
        });
    }
    status.phase = match () {
        () if !valid => "Invalid",
        () if !plane_ready => "ProvisioningControlPlane",
        () if ready => "Ready",
        () if is_rolling(seen) => "Updating",
        () => "ProvisioningNodes",
    }
    .to_string();
    let endpoint = seen
        .plane
        .as_ref()
        .map(|plane| plane.spec.control_plane_endpoint.clone());
    status.control_plane_endpoint = endpoint.filter(mainstay_api::Endpoint::is_known);
    status.kubeconfig_secret_ref =
        plane_ready.then(|| NameRef::new(format!("{}-kubeconfig", object.name_any())));
    status.version = plane.version;
    status.observed_generation = generation;
    status
}

fn is_rolling(seen: &Seen) -> bool {
    let conditions = |pool: &NodePool| pool.status.clone().unwrap_or_default().conditions;
    seen.pools
        .iter()
        .any(|pool| is_true(&conditions(pool), types::ROLLING_OUT))
}

fn pools_ready(seen: &Seen, status: &mut ClusterDeploymentStatus, now: Timestamp) -> bool {
    status.pools = counts(seen);
    let unready =
        |pool: &&NodePool| !is_true(&pool.status.clone().unwrap_or_default().conditions, types::READY);
    let missing = seen.pools.len() < seen.object.spec.node_pools.len();
    let first = seen.pools.iter().find(unready);
    let message = first.map(|pool| {
        let conditions = pool.status.clone().unwrap_or_default().conditions;
        let why = mainstay_api::conditions::find(&conditions, types::READY).map(|c| c.message.clone());
        format!(
            "pool {}: {}",
            pool.name_any(),
            why.unwrap_or_else(|| "not looked at yet".to_string())
        )
    });
    let ready = !missing && first.is_none();
    let message = message.unwrap_or_else(|| {
        if missing {
            "pools are missing".into()
        } else {
            String::new()
        }
    });
    let reason = if ready {
        reasons::AS_EXPECTED
    } else {
        reasons::MACHINES_NOT_READY
    };
    set(
        &mut status.conditions,
        condition(types::POOLS_READY, ready, reason, message, now),
    );
    ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_api::{
        ClusterDeploymentSpec, HostedControlPlaneStatus,
        cluster::{ControlPlaneInitialization, PoolTemplate, PoolTemplateResource},
    };

    fn object(replicas: i32) -> ClusterDeployment {
        let spec = NodePoolSpec {
            replicas: Some(replicas),
            ..Default::default()
        };
        let pool = PoolTemplate {
            name: "a".into(),
            template: PoolTemplateResource { spec },
        };
        let spec = ClusterDeploymentSpec {
            version: "v1.36.3".into(),
            node_pools: vec![pool],
            ..Default::default()
        };
        ClusterDeployment::new("demo", spec)
    }

    fn serving() -> HostedControlPlane {
        let spec = HostedControlPlaneSpec {
            version: "v1.36.3".into(),
            ..Default::default()
        };
        let mut plane = HostedControlPlane::new("demo", spec);
        plane.status = Some(HostedControlPlaneStatus {
            initialization: ControlPlaneInitialization {
                control_plane_initialized: true,
            },
            ..Default::default()
        });
        plane
    }

    fn check(seen: &Seen, want: Expect) {
        let steps: Vec<String> = plan(seen, Timestamp::UNIX_EPOCH)
            .steps
            .iter()
            .map(Step::to_string)
            .collect();
        want.assert_eq(&steps.join("\n"));
    }

    #[test]
    fn the_control_plane_comes_before_the_pools() {
        let mut seen = Seen {
            object: object(2),
            ..Default::default()
        };
        check(
            &seen,
            expect![[r#"
                make infrastructure demo
                start control plane demo at v1.36.3
                make cluster demo"#]],
        );
        seen.plane = Some(serving());
        seen.infrastructure = Some(ComputeCluster::default());
        seen.cluster = Some(Cluster::default());
        check(&seen, expect!["make pool demo-a with 2 machines"]);
    }

    #[test]
    fn an_invalid_object_changes_nothing_and_says_why() {
        let problem = FieldError::new(crate::validate::Rule::Value, "spec.version", "bad");
        let seen = Seen {
            object: object(2),
            problems: vec![problem],
            ..Default::default()
        };
        let plan = plan(&seen, Timestamp::UNIX_EPOCH);
        assert_eq!((plan.steps, plan.status.phase.as_str()), (vec![], "Invalid"));
        assert_eq!(plan.status.conditions[0].message, "spec.version: bad");
    }

    #[test]
    fn a_change_reaches_the_next_pool_when_the_one_before_is_complete() {
        let mut object = object(2);
        let second = PoolTemplate {
            name: "b".into(),
            ..object.spec.node_pools[0].clone()
        };
        object.spec.node_pools.push(second);
        let mut seen = Seen {
            object,
            plane: Some(serving()),
            cluster: Some(Cluster::default()),
            infrastructure: Some(ComputeCluster::default()),
            ..Default::default()
        };
        let made = plan(&seen, Timestamp::UNIX_EPOCH).steps.into_iter();
        seen.pools = made
            .filter_map(|step| match step {
                Step::MakePool(pool) => Some(*pool),
                _ => None,
            })
            .collect();
        let complete = |pool: &mut NodePool| {
            let ready = condition(types::READY, true, "AsExpected", "", Timestamp::UNIX_EPOCH);
            pool.status = Some(mainstay_api::NodePoolStatus {
                conditions: vec![ready],
                ..Default::default()
            });
        };
        seen.pools.iter_mut().for_each(complete);
        for pool in &mut seen.object.spec.node_pools {
            pool.template.spec.version = "v1.36.4".into();
        }
        let both = expect![[r#"
            change pool demo-a: {"version":"v1.36.4"}
            change pool demo-b: {"version":"v1.36.4"}"#]];
        seen.object.spec.update.halt_on_failure = false;
        check(&seen, both);
        seen.object.spec.update.halt_on_failure = true;
        check(&seen, expect![[r#"change pool demo-a: {"version":"v1.36.4"}"#]]);
        seen.pools[0].spec.version = "v1.36.4".into();
        seen.pools[0].status = None;
        check(&seen, expect![""]);
        complete(&mut seen.pools[0]);
        check(&seen, expect![[r#"change pool demo-b: {"version":"v1.36.4"}"#]]);
    }

    #[test]
    fn the_autoscaler_keeps_its_number_until_the_template_names_another() {
        let Some(Step::MakePool(pool)) = plan(
            &Seen {
                object: object(2),
                plane: Some(serving()),
                cluster: Some(Cluster::default()),
                infrastructure: Some(ComputeCluster::default()),
                ..Default::default()
            },
            Timestamp::UNIX_EPOCH,
        )
        .steps
        .pop() else {
            panic!("no pool was made")
        };
        let mut pool = *pool;
        pool.spec.replicas = Some(4);
        let mut seen = Seen {
            object: object(2),
            plane: Some(serving()),
            cluster: Some(Cluster::default()),
            infrastructure: Some(ComputeCluster::default()),
            pools: vec![pool],
            ..Default::default()
        };
        check(&seen, expect![""]);
        seen.object = object(3);
        check(&seen, expect![[r#"change pool demo-a: {"replicas":3}"#]]);
        seen.object.spec.node_pools.clear();
        check(&seen, expect!["drop pool demo-a"]);
    }
}
