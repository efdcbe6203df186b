//! The Policy file of older releases: predicates, priorities, extenders.

use std::time::Duration;

use mainstay_placement::score::{Strategy, Weights};
use serde::Deserialize;

use super::{Config, ConfigError, DEFAULT_NAME, Profile, check_extenders, read};
use crate::extender::{ExtenderConfig, ManagedResource};

/// Predicates that older releases had; all of them are always on here.
const PREDICATES: [&str; 24] = [
    "PodFitsPorts",
    "PodFitsHostPorts",
    "PodFitsResources",
    "NoDiskConflict",
    "NoVolumeZoneConflict",
    "MatchNodeSelector",
    "HostName",
    "GeneralPredicates",
    "PodToleratesNodeTaints",
    "PodToleratesNodeNoExecuteTaints",
    "CheckNodeUnschedulable",
    "CheckNodeMemoryPressure",
    "CheckNodeDiskPressure",
    "CheckNodePIDPressure",
    "CheckNodeCondition",
    "CheckVolumeBinding",
    "MatchInterPodAffinity",
    "MaxEBSVolumeCount",
    "MaxGCEPDVolumeCount",
    "MaxAzureDiskVolumeCount",
    "MaxCinderVolumeCount",
    "MaxCSIVolumeCountPred",
    "EvenPodsSpread",
    "TestServiceAffinity",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    predicates: Option<Vec<Predicate>>,
    priorities: Option<Vec<Priority>>,
    #[serde(default, alias = "extenderConfigs")]
    extenders: Vec<Extender>,
    hard_pod_affinity_symmetric_weight: Option<i64>,
}

#[derive(Deserialize)]
struct Predicate {
    name: String,
}

#[derive(Deserialize)]
struct Priority {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Extender {
    url_prefix: String,
    filter_verb: String,
    prioritize_verb: String,
    preempt_verb: String,
    bind_verb: String,
    weight: i64,
    #[serde(alias = "enableHTTPS")]
    enable_https: bool,
    /// Nanoseconds, as Go writes a duration.
    http_timeout: Option<u64>,
    node_cache_capable: bool,
    managed_resources: Vec<Managed>,
    ignorable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// Reads a Policy.
pub(super) fn parse(text: &str, json: bool) -> Result<Config, ConfigError> {
    let policy: Policy = read(text, json)?;
    for (at, predicate) in policy.predicates.iter().flatten().enumerate() {
        if !PREDICATES.contains(&predicate.name.as_str()) {
            let problem = format!("{:?} is not a known predicate", predicate.name);
            return Err(ConfigError::value(format!("predicates[{at}].name"), problem));
        }
    }
    let hard = policy.hard_pod_affinity_symmetric_weight.unwrap_or(1);
    if !(0..=100).contains(&hard) {
        return Err(ConfigError::value(
            "hardPodAffinitySymmetricWeight",
            "must be from 0 to 100",
        ));
    }
    let weights = match &policy.priorities {
        None => Weights {
            hard_pod_affinity: hard,
            ..Weights::default()
        },
        Some(priorities) => weights(priorities, hard)?,
    };
    let extenders: Vec<ExtenderConfig> = policy.extenders.into_iter().map(convert).collect();
    check_extenders(&extenders)?;
    let profiles = vec![Profile {
        name: DEFAULT_NAME.to_owned(),
        weights,
    }];
    Ok(Config {
        profiles,
        extenders,
        ..Config::default()
    })
}

fn weights(priorities: &[Priority], hard: i64) -> Result<Weights, ConfigError> {
    let mut weights = Weights {
        resources: 0,
        strategy: Strategy::LeastAllocated,
        balanced: 0,
        taints: 0,
        node_affinity: 0,
        spread: 0,
        pod_affinity: 0,
        hard_pod_affinity: hard,
        images: 0,
    };
    for (at, priority) in priorities.iter().enumerate() {
        if priority.weight <= 0 {
            let problem = format!("{} must be above 0", priority.weight);
            return Err(ConfigError::value(format!("priorities[{at}].weight"), problem));
        }
        let slot = match priority.name.as_str() {
            "LeastRequestedPriority" => &mut weights.resources,
            "MostRequestedPriority" => {
                weights.strategy = Strategy::MostAllocated;
                &mut weights.resources
            }
            "BalancedResourceAllocation" => &mut weights.balanced,
            "ServiceSpreadingPriority" | "SelectorSpreadPriority" | "EvenPodsSpreadPriority" => {
                &mut weights.spread
            }
            "InterPodAffinityPriority" => &mut weights.pod_affinity,
            "NodeAffinityPriority" => &mut weights.node_affinity,
            "TaintTolerationPriority" => &mut weights.taints,
            "ImageLocalityPriority" => &mut weights.images,
            "EqualPriority" | "NodePreferAvoidPodsPriority" | "RequestedToCapacityRatioPriority" => continue,
            other => {
                let problem = format!("{other:?} is not a known priority");
                return Err(ConfigError::value(format!("priorities[{at}].name"), problem));
            }
        };
        *slot = priority.weight;
    }
    Ok(weights)
}

fn convert(extender: Extender) -> ExtenderConfig {
    let url = match extender.url_prefix.strip_prefix("http://") {
        Some(rest) if extender.enable_https => format!("https://{rest}"),
        _ => extender.url_prefix,
    };
    let managed = |own: Managed| ManagedResource {
        name: own.name,
        ignored_by_scheduler: own.ignored_by_scheduler,
    };
    ExtenderConfig {
        url_prefix: url,
        filter_verb: extender.filter_verb,
        prioritize_verb: extender.prioritize_verb,
        preempt_verb: extender.preempt_verb,
        bind_verb: extender.bind_verb,
        weight: extender.weight,
        node_cache_capable: extender.node_cache_capable,
        managed_resources: extender.managed_resources.into_iter().map(managed).collect(),
        ignorable: extender.ignorable,
        timeout: extender.http_timeout.map(Duration::from_nanos),
    }
}
