//! What a pool wants its MachineDeployment to be, and the steps there. A template is named by the hash of its
//! content: a changed pool gets a new template, which rolls; an unchanged one changes nothing.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString};
use kube::ResourceExt;
use mainstay_api::{
    ComputeNodeSpec, ComputeNodeTemplate, ComputeNodeTemplateSpec, Host, NodeConfigSpec, NodeConfigTemplate,
    NodeConfigTemplateSpec, NodePool, NodePoolStatus, OSImage, POOL_LABEL,
    bootstrap::NodeConfigTemplateResource,
    compute::ComputeNodeTemplateResource,
    conditions::{condition, reasons, set, types},
    host::ImageCommit,
    pool::Rollout as PoolRollout,
};
use mainstay_capi::{
    Bootstrap, CLUSTER_NAME_LABEL, Cluster, ContractRef, MachineDeletion, MachineDeployment,
    MachineDeploymentSpec, MachineFields, MachineTemplate, RollingUpdate, Rollout, Strategy, TemplateMeta,
};
use mainstay_control::write::merge_diff;
use mainstay_machines::objects::controlled_by;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{unbuilt, validate::fits};

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The pool.
    pub pool: NodePool,
    /// Its image.
    pub image: Option<OSImage>,
    /// Its cluster.
    pub cluster: Option<Cluster>,
    /// Version that the control plane serves; empty while none does.
    pub plane_version: String,
    /// Its MachineDeployment.
    pub deployment: Option<MachineDeployment>,
    /// Names of its machine templates.
    pub templates: Vec<String>,
    /// Names of its configuration templates.
    pub configs: Vec<String>,
    /// Names of templates that MachineSets still name.
    pub in_use: Vec<String>,
    /// Hosts of the namespace.
    pub hosts: Vec<Host>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Makes the machine template.
    MakeTemplate(ComputeNodeTemplate),
    /// Makes the configuration template.
    MakeConfig(NodeConfigTemplate),
    /// Makes the MachineDeployment.
    MakeDeployment(Box<MachineDeployment>),
    /// Changes what differs in it.
    ChangeDeployment {
        /// Its name.
        name: String,
        /// Merge patch.
        patch: Value,
    },
    /// Removes a template that no set names.
    DropTemplate {
        /// Its name.
        name: String,
    },
    /// Removes a configuration template that no set names.
    DropConfig {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeTemplate(template) => write!(out, "make machine template {}", template.name_any()),
            Step::MakeConfig(config) => write!(out, "make configuration template {}", config.name_any()),
            Step::MakeDeployment(deployment) => {
                let replicas = deployment.spec.replicas.unwrap_or(0);
                write!(
                    out,
                    "make machine deployment {} with {replicas} machines",
                    deployment.name_any()
                )
            }
            Step::ChangeDeployment { name, patch } => {
                write!(out, "change machine deployment {name}: {}", patch["spec"])
            }
            Step::DropTemplate { name } => write!(out, "drop machine template {name}"),
            Step::DropConfig { name } => write!(out, "drop configuration template {name}"),
        }
    }
}

/// The steps and the status that follows from what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The pool's status.
    pub status: NodePoolStatus,
}

/// Decides one pass.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let waits = waits_for(seen);
    let mut steps = Vec::new();
    if waits.is_none() {
        steps = wanted_steps(seen);
    }
    Plan {
        steps,
        status: status(seen, waits, now),
    }
}

/// What must be there before machines can be made.
fn waits_for(seen: &Seen) -> Option<String> {
    let spec = &seen.pool.spec;
    if let Some(refused) = unbuilt::node_pool("spec", spec).first() {
        return Some(refused.to_string());
    }
    if seen.cluster.is_none() {
        return Some(format!("there is no Cluster {:?}", spec.cluster_name));
    }
    match (&seen.image, commit(seen)) {
        (None, _) => Some(format!("there is no OSImage {:?}", spec.image_ref.name)),
        (Some(_), None) => Some(format!(
            "OSImage {} has not been composed yet",
            spec.image_ref.name
        )),
        (Some(image), Some(_)) if image.status.as_ref().is_some_and(|s| s.verdict == "KnownBad") => {
            let why = image
                .status
                .as_ref()
                .map(|s| s.verdict_reason.clone())
                .unwrap_or_default();
            Some(format!("OSImage {} is known to be bad: {why}", image.name_any()))
        }
        _ => None,
    }
}

fn commit(seen: &Seen) -> Option<String> {
    let commit = seen.image.as_ref()?.status.as_ref()?.commit.clone();
    (!commit.is_empty()).then_some(commit)
}

/// Hash (FNV-1a) of an object's content, for its name.
fn hash(content: &impl Serialize) -> String {
    let text = serde_json::to_string(content).unwrap_or_default();
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash = text
        .bytes()
        .fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{:08x}", hash & 0xffff_ffff)
}

fn labels(seen: &Seen) -> BTreeMap<String, String> {
    [
        (POOL_LABEL, seen.pool.name_any()),
        (CLUSTER_NAME_LABEL, seen.pool.spec.cluster_name.clone()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}

fn template(seen: &Seen) -> ComputeNodeTemplate {
    let pool = &seen.pool.spec;
    let spec = ComputeNodeSpec {
        provider: pool.provider.clone(),
        sku_selector: pool.sku_selector.clone(),
        zones: pool.failure_domains.allowed.clone(),
        image_ref: Some(pool.image_ref.clone()),
        image: commit(seen).map(|commit| ImageCommit { commit }),
        liveness_probe: pool.liveness_probe.clone(),
        ..Default::default()
    };
    let spec = ComputeNodeTemplateSpec {
        template: ComputeNodeTemplateResource { spec },
    };
    let mut made = ComputeNodeTemplate::new(&format!("{}-{}", seen.pool.name_any(), hash(&spec)), spec);
    made.metadata.namespace = seen.pool.namespace();
    made.metadata.labels = Some(labels(seen));
    made.metadata.owner_references = Some(vec![controlled_by(&seen.pool)]);
    made
}

fn config(seen: &Seen) -> NodeConfigTemplate {
    let mut node = seen.pool.spec.node.clone();
    node.labels.insert(POOL_LABEL.into(), seen.pool.name_any());
    let spec = NodeConfigTemplateSpec {
        template: NodeConfigTemplateResource {
            spec: NodeConfigSpec { node },
        },
    };
    let mut made = NodeConfigTemplate::new(&format!("{}-{}", seen.pool.name_any(), hash(&spec)), spec);
    made.metadata.namespace = seen.pool.namespace();
    made.metadata.labels = Some(labels(seen));
    made.metadata.owner_references = Some(vec![controlled_by(&seen.pool)]);
    made
}

/// Wanted machines, kept inside the autoscaling range.
fn replicas(pool: &NodePool) -> i32 {
    let asked = pool.spec.replicas;
    match &pool.spec.autoscaling {
        Some(range) => asked
            .unwrap_or(range.min)
            .clamp(range.min, range.max.max(range.min)),
        None => asked.unwrap_or(1),
    }
}

fn deployment(seen: &Seen, template: &str, config: &str) -> MachineDeployment {
    let pool = &seen.pool.spec;
    let reference = |kind: &str, name: &str| ContractRef {
        api_group: mainstay_api::GROUP.into(),
        kind: kind.into(),
        name: name.into(),
    };
    let fields = MachineFields {
        cluster_name: pool.cluster_name.clone(),
        bootstrap: Bootstrap {
            config_ref: reference("NodeConfigTemplate", config),
            data_secret_name: None,
        },
        infrastructure_ref: reference("ComputeNodeTemplate", template),
        version: if pool.version.is_empty() {
            seen.plane_version.clone()
        } else {
            pool.version.clone()
        },
        deletion: MachineDeletion {
            node_drain_timeout_seconds: pool.deletion.node_drain_timeout_seconds,
            ..Default::default()
        },
        ..Default::default()
    };
    let update = &pool.update;
    let rolling_update = RollingUpdate {
        max_surge: Some(update.max_surge.clone().unwrap_or(IntOrString::Int(0))),
        max_unavailable: Some(update.max_unavailable.clone().unwrap_or(IntOrString::Int(1))),
    };
    let own = BTreeMap::from([(POOL_LABEL.to_string(), seen.pool.name_any())]);
    let spec = MachineDeploymentSpec {
        cluster_name: pool.cluster_name.clone(),
        replicas: Some(replicas(&seen.pool)),
        selector: LabelSelector {
            match_labels: Some(own),
            ..Default::default()
        },
        template: MachineTemplate {
            metadata: TemplateMeta {
                labels: labels(seen),
                ..Default::default()
            },
            spec: fields,
        },
        rollout: Rollout {
            strategy: Strategy {
                kind: "RollingUpdate".into(),
                rolling_update,
            },
            ..Default::default()
        },
        paused: Some(update.pause).filter(|paused| *paused),
        ..Default::default()
    };
    let mut made = MachineDeployment::new(&seen.pool.name_any(), spec);
    made.metadata.namespace = seen.pool.namespace();
    made.metadata.labels = Some(labels(seen));
    made.metadata.owner_references = Some(vec![controlled_by(&seen.pool)]);
    made
}

fn wanted_steps(seen: &Seen) -> Vec<Step> {
    let (template, config) = (template(seen), config(seen));
    let names = (template.name_any(), config.name_any());
    let deployment = deployment(seen, &names.0, &names.1);
    let mut steps = Vec::new();
    if !seen.templates.contains(&names.0) {
        steps.push(Step::MakeTemplate(template));
    }
    if !seen.configs.contains(&names.1) {
        steps.push(Step::MakeConfig(config));
    }
    match &seen.deployment {
        None => steps.push(Step::MakeDeployment(Box::new(deployment))),
        Some(have) => steps.extend(change(have, &deployment)),
    }
    let unused = |name: &&String, present: &String| *name != present && !seen.in_use.contains(name);
    let old = seen.templates.iter().filter(|name| unused(name, &names.0));
    steps.extend(old.map(|name| Step::DropTemplate { name: name.clone() }));
    let old = seen.configs.iter().filter(|name| unused(name, &names.1));
    steps.extend(old.map(|name| Step::DropConfig { name: name.clone() }));
    steps
}

fn change(have: &MachineDeployment, want: &MachineDeployment) -> Option<Step> {
    let value =
        |deployment: &MachineDeployment| serde_json::to_value(&deployment.spec).unwrap_or(Value::Null);
    let diff = merge_diff(&value(have), &value(want))?;
    Some(Step::ChangeDeployment {
        name: have.name_any(),
        patch: json!({ "spec": diff }),
    })
}

fn capacity(seen: &Seen) -> BTreeMap<String, String> {
    let racks = BTreeMap::new();
    let mut any_zone = seen.pool.spec.clone();
    any_zone.failure_domains.allowed.clear();
    let fitting = seen
        .hosts
        .iter()
        .find(|host| fits(host, &seen.pool.name_any(), &any_zone, &racks));
    let hardware = fitting.and_then(|host| host.status.as_ref()?.hardware.clone());
    let parts = hardware.map(|hardware| {
        [
            ("cpu", hardware.cpus.to_string()),
            ("memory", hardware.memory_bytes.to_string()),
            ("pods", "110".to_string()),
        ]
    });
    parts
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.to_string(), value))
        .collect()
}

fn status(seen: &Seen, waits: Option<String>, now: Timestamp) -> NodePoolStatus {
    let old = seen.pool.status.clone().unwrap_or_default();
    let machines = seen
        .deployment
        .as_ref()
        .and_then(|d| d.status.clone())
        .unwrap_or_default();
    let wanted = replicas(&seen.pool);
    let complete = machines.ready_replicas >= wanted && machines.up_to_date_replicas >= wanted;
    let rolling = machines.replicas > machines.up_to_date_replicas;
    let mut conditions = old.conditions;
    let counts = format!(
        "{} of {wanted} machines are ready, {} have the present template",
        machines.ready_replicas, machines.up_to_date_replicas
    );
    let ready = match &waits {
        Some(what) => condition(types::READY, false, reasons::WAITING, what.clone(), now),
        None if complete => condition(types::READY, true, reasons::AS_EXPECTED, counts.clone(), now),
        None => condition(
            types::READY,
            false,
            reasons::MACHINES_NOT_READY,
            counts.clone(),
            now,
        ),
    };
    set(&mut conditions, ready);
    let reason = if rolling {
        "RollingOut"
    } else {
        reasons::AS_EXPECTED
    };
    set(
        &mut conditions,
        condition(types::ROLLING_OUT, rolling, reason, counts, now),
    );
    NodePoolStatus {
        replicas: machines.replicas,
        ready_replicas: machines.ready_replicas,
        up_to_date_replicas: machines.up_to_date_replicas,
        selector: format!("{POOL_LABEL}={}", seen.pool.name_any()),
        image: commit(seen).map(|commit| ImageCommit { commit }),
        capacity: capacity(seen),
        rollout: rolling.then(|| PoolRollout {
            wave: 1,
            of: 1,
            blocked_by: waits.unwrap_or_default(),
        }),
        observed_generation: seen.pool.metadata.generation.unwrap_or(0),
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_api::{NameRef, NodePoolSpec, OSImageSpec, OSImageStatus, pool::Autoscaling};
    use mainstay_capi::ClusterSpec;

    fn seen(commit: &str) -> Seen {
        let spec = NodePoolSpec {
            cluster_name: "demo".into(),
            replicas: Some(2),
            provider: "sim".into(),
            image_ref: NameRef::new("node"),
            ..Default::default()
        };
        let mut image = OSImage::new("node", OSImageSpec::default());
        image.status = Some(OSImageStatus {
            commit: commit.into(),
            ..Default::default()
        });
        Seen {
            pool: NodePool::new("demo-a", spec),
            image: Some(image),
            cluster: Some(Cluster::new("demo", ClusterSpec::default())),
            plane_version: "v1.36.3".into(),
            ..Default::default()
        }
    }

    /// The world after the steps of `seen` were carried out.
    fn after(seen: &Seen) -> Seen {
        let mut next = seen.clone();
        for step in plan(seen, Timestamp::UNIX_EPOCH).steps {
            match step {
                Step::MakeTemplate(template) => next.templates.push(template.name_any()),
                Step::MakeConfig(config) => next.configs.push(config.name_any()),
                Step::MakeDeployment(deployment) => next.deployment = Some(*deployment),
                _ => {}
            }
        }
        next
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
    fn a_pool_waits_for_its_image_and_then_makes_templates_and_machines_once() {
        let early = plan(&seen(""), Timestamp::UNIX_EPOCH);
        assert_eq!(early.steps, []);
        assert_eq!(
            early.status.conditions[0].message,
            "OSImage node has not been composed yet"
        );
        check(
            &seen("c1"),
            expect![[r#"
                make machine template demo-a-23dc19fb
                make configuration template demo-a-fc99aad8
                make machine deployment demo-a with 2 machines"#]],
        );
        check(&after(&seen("c1")), expect![""]);
    }

    #[test]
    fn a_new_commit_changes_only_the_template_reference() {
        let mut next = after(&seen("c1"));
        next.image = seen("c2").image;
        let steps = plan(&next, Timestamp::UNIX_EPOCH).steps;
        let Some(Step::ChangeDeployment { patch, .. }) =
            steps.iter().find(|s| matches!(s, Step::ChangeDeployment { .. }))
        else {
            panic!("no change: {steps:?}")
        };
        let fields = &patch["spec"]["template"]["spec"];
        assert_eq!(
            fields.as_object().map(|map| map.keys().collect::<Vec<_>>()),
            Some(vec![&"infrastructureRef".to_string()])
        );
    }

    #[test]
    fn the_autoscaling_range_bounds_the_machines() {
        let mut one = seen("c1");
        one.pool.spec.autoscaling = Some(Autoscaling { min: 3, max: 4 });
        assert_eq!(replicas(&one.pool), 3);
        one.pool.spec.replicas = Some(9);
        assert_eq!(replicas(&one.pool), 4);
    }
}
