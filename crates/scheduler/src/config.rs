//! Configuration: today's KubeSchedulerConfiguration (YAML or JSON) and the older Policy (JSON).

mod policy;
mod v1;

use std::time::Duration;

use mainstay_placement::decide::Options;
use mainstay_placement::score::Weights;
use serde::de::DeserializeOwned;

use crate::extender::ExtenderConfig;
use crate::queue::{INITIAL_BACKOFF, MAX_BACKOFF};

/// The name of the scheduler that pods get when they name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// Everything the scheduler may be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Profiles; a pod chooses by `schedulerName`.
    pub profiles: Vec<Profile>,
    /// Extenders in order.
    pub extenders: Vec<ExtenderConfig>,
    /// The first rest after a failure.
    pub initial_backoff: Duration,
    /// The longest rest.
    pub max_backoff: Duration,
    /// The share of nodes to look at in percent; `None` lets the size of the cluster decide.
    pub percent_of_nodes: Option<usize>,
}

/// One way to choose nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What pods call it.
    pub name: String,
    /// Weights of scores.
    pub weights: Weights,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            profiles: vec![Profile {
                name: DEFAULT_NAME.to_owned(),
                weights: Weights::default(),
            }],
            extenders: Vec::new(),
            initial_backoff: INITIAL_BACKOFF,
            max_backoff: MAX_BACKOFF,
            percent_of_nodes: None,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text cannot be read.
    #[error("line {line} column {column}: {problem}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A value is not allowed.
    #[error("{field}: {problem}")]
    Value {
        /// The field's path.
        field: String,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
}

impl ConfigError {
    fn value(field: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Value {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl Config {
    /// Reads a configuration of either kind.
    ///
    /// # Errors
    /// The first thing that is wrong: with line and column for syntax, with the field's path for values.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let json = text.trim_start().starts_with('{');
        let head: Head = read(text, json)?;
        match (head.kind.as_str(), head.api_version.as_str()) {
            ("Policy", "v1" | "kubescheduler.config.k8s.io/v1" | "") => policy::parse(text, json),
            ("KubeSchedulerConfiguration", "kubescheduler.config.k8s.io/v1") => v1::parse(text, json),
            (kind, version) => Err(ConfigError::value(
                "kind",
                format!(
                    "{version} {kind} is not known: expected v1 Policy or kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration"
                ),
            )),
        }
    }

    /// Finds the profile that pods of this name use.
    pub fn profile(&self, name: &str) -> Option<usize> {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        self.profiles.iter().position(|profile| profile.name == name)
    }

    /// The options of a profile for `placement`.
    pub fn options(&self, profile: usize) -> Options {
        let managed = self
            .extenders
            .iter()
            .flat_map(|extender| &extender.managed_resources);
        let ignored = managed.filter(|resource| resource.ignored_by_scheduler);
        Options {
            weights: self.profiles[profile].weights.clone(),
            ignored_resources: ignored.map(|resource| resource.name.clone()).collect(),
            percent_of_nodes: self.percent_of_nodes,
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
}

/// Reads JSON or YAML, with the place of an error.
fn read<T: DeserializeOwned>(text: &str, json: bool) -> Result<T, ConfigError> {
    if json {
        return serde_json::from_str(text).map_err(|error| {
            let full = error.to_string();
            let problem = full
                .rsplit_once(" at line ")
                .map_or(full.as_str(), |(problem, _)| problem);
            ConfigError::Syntax {
                line: error.line(),
                column: error.column(),
                problem: problem.to_owned(),
            }
        });
    }
    serde_yaml_ng::from_str(text).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |place| (place.line(), place.column()));
        let full = error.to_string();
        let problem = full
            .rsplit_once(" at line ")
            .map_or(full.as_str(), |(problem, _)| problem);
        ConfigError::Syntax {
            line,
            column,
            problem: problem.to_owned(),
        }
    })
}

/// Checks what every extender must fulfil.
fn check_extenders(extenders: &[ExtenderConfig]) -> Result<(), ConfigError> {
    for (at, extender) in extenders.iter().enumerate() {
        let field = |name: &str| format!("extenders[{at}].{name}");
        if extender.url_prefix.parse::<http::Uri>().is_err() || !extender.url_prefix.contains("://") {
            return Err(ConfigError::value(
                field("urlPrefix"),
                "must be an address such as http://host:port/path",
            ));
        }
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            return Err(ConfigError::value(
                field("weight"),
                "must be above 0 when prioritizeVerb is set",
            ));
        }
        for (index, resource) in extender.managed_resources.iter().enumerate() {
            if mainstay_semantics::resource_name::is_extended(&resource.name) {
                continue;
            }
            let problem = format!("{:?} is not an extended resource name", resource.name);
            return Err(ConfigError::value(
                field(&format!("managedResources[{index}].name")),
                problem,
            ));
        }
    }
    if extenders
        .iter()
        .filter(|extender| !extender.bind_verb.is_empty())
        .count()
        > 1
    {
        return Err(ConfigError::value("extenders", "at most one may have a bindVerb"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
