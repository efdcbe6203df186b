//! KubeSchedulerConfiguration v1: profiles, plugin weights, extenders.

use std::time::Duration;

use mainstay_placement::score::{Strategy, Weights};
use serde::Deserialize;
use serde_json::Value;

use super::{Config, ConfigError, DEFAULT_NAME, Profile, check_extenders, read};
use crate::extender::{ExtenderConfig, ManagedResource};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct File {
    profiles: Vec<ProfileFile>,
    extenders: Vec<ExtenderFile>,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ProfileFile {
    scheduler_name: Option<String>,
    plugins: Plugins,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Plugins {
    score: PluginSet,
    multi_point: PluginSet,
    filter: PluginSet,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PluginSet {
    enabled: Vec<Plugin>,
    disabled: Vec<Plugin>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PluginConfig {
    name: String,
    args: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ExtenderFile {
    url_prefix: String,
    filter_verb: String,
    prioritize_verb: String,
    preempt_verb: String,
    bind_verb: String,
    weight: i64,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<ManagedFile>,
    ignorable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManagedFile {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// Reads a KubeSchedulerConfiguration.
pub(super) fn parse(text: &str, json: bool) -> Result<Config, ConfigError> {
    let file: File = read(text, json)?;
    let mut config = Config::default();
    if !file.profiles.is_empty() {
        let profiles = file
            .profiles
            .iter()
            .enumerate()
            .map(|(at, profile)| convert_profile(at, profile));
        config.profiles = profiles.collect::<Result<_, _>>()?;
    }
    for (at, profile) in config.profiles.iter().enumerate() {
        if config.profiles[..at]
            .iter()
            .any(|other| other.name == profile.name)
        {
            let problem = format!("{:?} is used twice", profile.name);
            return Err(ConfigError::value(
                format!("profiles[{at}].schedulerName"),
                problem,
            ));
        }
    }
    let extenders = file
        .extenders
        .into_iter()
        .enumerate()
        .map(|(at, extender)| convert_extender(at, extender));
    config.extenders = extenders.collect::<Result<_, _>>()?;
    check_extenders(&config.extenders)?;
    config.percent_of_nodes = file.percentage_of_nodes_to_score.filter(|percent| *percent > 0);
    if config.percent_of_nodes.is_some_and(|percent| percent > 100) {
        return Err(ConfigError::value(
            "percentageOfNodesToScore",
            "must be from 0 to 100",
        ));
    }
    config.initial_backoff = file
        .pod_initial_backoff_seconds
        .map_or(config.initial_backoff, Duration::from_secs);
    config.max_backoff = file
        .pod_max_backoff_seconds
        .map_or(config.max_backoff, Duration::from_secs);
    if config.max_backoff < config.initial_backoff {
        return Err(ConfigError::value(
            "podMaxBackoffSeconds",
            "must be at least podInitialBackoffSeconds",
        ));
    }
    Ok(config)
}

fn convert_profile(at: usize, profile: &ProfileFile) -> Result<Profile, ConfigError> {
    let field = |name: &str| format!("profiles[{at}].{name}");
    if let Some(plugin) = profile.plugins.filter.disabled.first() {
        let problem = format!("switching the filter {} off is not supported", plugin.name);
        return Err(ConfigError::value(field("plugins.filter.disabled[0]"), problem));
    }
    let mut weights = Weights::default();
    for (point, set) in [
        ("score", &profile.plugins.score),
        ("multiPoint", &profile.plugins.multi_point),
    ] {
        for (index, plugin) in set.disabled.iter().enumerate() {
            set_weight(&mut weights, &plugin.name, 0).map_err(|problem| {
                ConfigError::value(field(&format!("plugins.{point}.disabled[{index}].name")), problem)
            })?;
        }
        for (index, plugin) in set.enabled.iter().enumerate() {
            set_weight(&mut weights, &plugin.name, plugin.weight.unwrap_or(1)).map_err(|problem| {
                ConfigError::value(field(&format!("plugins.{point}.enabled[{index}].name")), problem)
            })?;
        }
    }
    for (index, plugin) in profile.plugin_config.iter().enumerate() {
        apply_arguments(&mut weights, plugin)
            .map_err(|problem| ConfigError::value(field(&format!("pluginConfig[{index}].args")), problem))?;
    }
    let name = profile
        .scheduler_name
        .clone()
        .unwrap_or_else(|| DEFAULT_NAME.to_owned());
    Ok(Profile { name, weights })
}

fn set_weight(weights: &mut Weights, plugin: &str, weight: i64) -> Result<(), String> {
    let slots: Vec<&mut i64> = match plugin {
        "*" => vec![
            &mut weights.resources,
            &mut weights.balanced,
            &mut weights.taints,
            &mut weights.node_affinity,
            &mut weights.spread,
            &mut weights.pod_affinity,
            &mut weights.images,
        ],
        "NodeResourcesFit" => vec![&mut weights.resources],
        "NodeResourcesBalancedAllocation" => vec![&mut weights.balanced],
        "TaintToleration" => vec![&mut weights.taints],
        "NodeAffinity" => vec![&mut weights.node_affinity],
        "PodTopologySpread" => vec![&mut weights.spread],
        "InterPodAffinity" => vec![&mut weights.pod_affinity],
        "ImageLocality" => vec![&mut weights.images],
        "DynamicResources" | "VolumeBinding" => vec![],
        other => return Err(format!("{other:?} is not a plugin that scores")),
    };
    slots.into_iter().for_each(|slot| *slot = weight);
    Ok(())
}

fn apply_arguments(weights: &mut Weights, plugin: &PluginConfig) -> Result<(), String> {
    match plugin.name.as_str() {
        "InterPodAffinity" => {
            if let Some(weight) = plugin.args.get("hardPodAffinityWeight") {
                let weight = weight.as_i64().filter(|weight| (0..=100).contains(weight));
                weights.hard_pod_affinity = weight.ok_or("hardPodAffinityWeight must be from 0 to 100")?;
            }
            Ok(())
        }
        "NodeResourcesFit" => match plugin
            .args
            .pointer("/scoringStrategy/type")
            .and_then(Value::as_str)
        {
            None | Some("LeastAllocated") => Ok(()),
            Some("MostAllocated") => {
                weights.strategy = Strategy::MostAllocated;
                Ok(())
            }
            Some(other) => Err(format!("scoringStrategy {other} is not supported")),
        },
        _ => Ok(()),
    }
}

fn convert_extender(at: usize, extender: ExtenderFile) -> Result<ExtenderConfig, ConfigError> {
    let url = match extender.url_prefix.strip_prefix("http://") {
        Some(rest) if extender.enable_https => format!("https://{rest}"),
        _ => extender.url_prefix,
    };
    let timeout = match &extender.http_timeout {
        None => None,
        Some(text) => Some(duration(text).ok_or_else(|| {
            ConfigError::value(
                format!("extenders[{at}].httpTimeout"),
                format!("{text:?} is not a duration such as 5s"),
            )
        })?),
    };
    let managed = |own: ManagedFile| ManagedResource {
        name: own.name,
        ignored_by_scheduler: own.ignored_by_scheduler,
    };
    Ok(ExtenderConfig {
        url_prefix: url,
        filter_verb: extender.filter_verb,
        prioritize_verb: extender.prioritize_verb,
        preempt_verb: extender.preempt_verb,
        bind_verb: extender.bind_verb,
        weight: extender.weight,
        node_cache_capable: extender.node_cache_capable,
        managed_resources: extender.managed_resources.into_iter().map(managed).collect(),
        ignorable: extender.ignorable,
        timeout,
    })
}

/// Reads a Go duration of one unit.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}
