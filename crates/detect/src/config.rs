//! Reads node-problem-detector's JSON configuration files: keys in any case, unknown keys ignored, as upstream.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not JSON of the right shape.
    #[error("failed to parse {path}: {problem}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, column and what was expected.
        problem: String,
    },
    /// A field holds what it may not.
    #[error("{path}: {field}: {problem}")]
    Field {
        /// Which file.
        path: PathBuf,
        /// The field, as `rules[2].pattern`.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

/// A condition and how it reads while all is well.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DefaultCondition {
    /// For example `KernelDeadlock`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason while all is well.
    #[serde(default)]
    pub reason: String,
    /// The message while all is well.
    #[serde(default)]
    pub message: String,
}

/// A rule of either monitor. `type: temporary` makes events; any other word is permanent.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    /// `temporary` or `permanent`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The condition of a permanent rule.
    #[serde(default)]
    pub condition: String,
    /// The reason it gives.
    #[serde(default)]
    pub reason: String,
    /// Log monitors: must match up to the end of the newest line.
    #[serde(default)]
    pub pattern: String,
    /// Log monitors: appended to the message after `; `.
    #[serde(default, rename = "patterngeneratedmessagesuffix")]
    pub suffix: String,
    /// Log monitors, ours: a line that ends the problem; matched as `pattern` is.
    #[serde(default, rename = "recoverpattern")]
    pub recover_pattern: String,
    /// Log monitors, ours: the problem is over when no line of the rule came for so long.
    #[serde(default, rename = "clearafter", deserialize_with = "duration")]
    pub clear_after: Option<Duration>,
    /// Plugins: the program.
    #[serde(default)]
    pub path: String,
    /// Plugins: its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Plugins: its own time limit.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Plugins: its own interval.
    #[serde(default, rename = "invoke_interval", deserialize_with = "duration")]
    pub interval: Option<Duration>,
}

impl Rule {
    /// Whether it makes events instead of a condition.
    pub fn is_temporary(&self) -> bool {
        self.kind == "temporary"
    }
}

/// A system log monitor.
#[derive(Debug, Clone, Deserialize)]
pub struct LogMonitor {
    /// `kmsg` or `filelog` (`journald` is refused with a message).
    pub plugin: String,
    /// filelog: `timestamp`, `message`, `timestampFormat`.
    #[serde(default, rename = "pluginconfig")]
    pub plugin_config: BTreeMap<String, String>,
    /// Which file.
    #[serde(default, rename = "logpath")]
    pub log_path: String,
    /// filelog: lines with these texts are skipped.
    #[serde(default, rename = "skiplist")]
    pub skip: Vec<String>,
    /// How far back to read at start.
    #[serde(default, deserialize_with = "duration")]
    pub lookback: Option<Duration>,
    /// What is older than this time after boot is ignored.
    #[serde(default, deserialize_with = "duration")]
    pub delay: Option<Duration>,
    /// How many lines a pattern can span.
    #[serde(default = "ten", rename = "buffersize")]
    pub buffer_size: usize,
    /// The monitor's name.
    pub source: String,
    /// Its conditions.
    #[serde(default)]
    pub conditions: Vec<DefaultCondition>,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// The settings of a custom plugin monitor.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct PluginSettings {
    /// Time between runs of a rule.
    #[serde(rename = "invoke_interval", deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// Time limit of a run.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// The message is cut to this many bytes.
    pub max_output_length: usize,
    /// Runs at the same time.
    pub concurrency: usize,
    /// Whether a changed message alone updates the condition.
    pub enable_message_change_based_condition_update: bool,
    /// Whether conditions are absent until the first result.
    pub skip_initial_status: bool,
}

impl Default for PluginSettings {
    fn default() -> Self {
        PluginSettings {
            interval: Some(Duration::from_secs(30)),
            timeout: Some(Duration::from_secs(5)),
            max_output_length: 80,
            concurrency: 3,
            enable_message_change_based_condition_update: false,
            skip_initial_status: false,
        }
    }
}

/// A custom plugin monitor.
#[derive(Debug, Clone, Deserialize)]
pub struct PluginMonitor {
    /// Must be `custom`.
    pub plugin: String,
    /// Its settings.
    #[serde(default, rename = "pluginconfig")]
    pub settings: PluginSettings,
    /// The monitor's name.
    pub source: String,
    /// Its conditions.
    #[serde(default)]
    pub conditions: Vec<DefaultCondition>,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// One configured monitor.
#[derive(Debug, Clone)]
pub enum Monitor {
    /// Reads a log.
    Log(LogMonitor),
    /// Runs programs.
    Plugin(PluginMonitor),
}

fn ten() -> usize {
    10
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    go_duration(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a duration such as 5m or 1h30m")))
}

/// Reads a Go duration (`300ms`, `5m`, `1h30m`, `0`).
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// The monitors of a node that names no configuration of its own: the kernel log.
///
/// # Errors
/// Never with the configuration that is built in; a test holds that.
pub fn built_in() -> Result<Vec<Monitor>, ConfigError> {
    Ok(vec![parse(
        Path::new("(built in)"),
        include_str!("../assets/kernel.json"),
    )?])
}

/// Loads one file and checks it.
///
/// # Errors
/// When it cannot be read or used; the message names the file and field.
pub fn load(path: &Path) -> Result<Monitor, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    parse(path, &text)
}

/// Reads a configuration from text; `path` is only for messages.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Monitor, ConfigError> {
    let problem = |error: serde_json::Error| ConfigError::Parse {
        path: path.into(),
        problem: error.to_string(),
    };
    let raw: Value = serde_json::from_str(text).map_err(problem)?;
    let value = lower_keys(raw);
    let monitor = match value.get("plugin").and_then(Value::as_str) {
        Some("custom") => Monitor::Plugin(serde_json::from_value(value).map_err(problem)?),
        _ => Monitor::Log(serde_json::from_value(value).map_err(problem)?),
    };
    check(path, &monitor)?;
    Ok(monitor)
}

/// Go matches JSON keys whatever their case; so do we, except in filelog's own settings, which are a map.
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key.to_ascii_lowercase(), lower_keys(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(lower_keys).collect()),
        other => other,
    }
}

fn check(path: &Path, monitor: &Monitor) -> Result<(), ConfigError> {
    let fail = |field: String, problem: String| {
        Err(ConfigError::Field {
            path: path.into(),
            field,
            problem,
        })
    };
    match monitor {
        Monitor::Log(monitor) => {
            if !["kmsg", "filelog"].contains(&monitor.plugin.as_str()) {
                let problem = format!("`{}` is not supported; use kmsg or filelog", monitor.plugin);
                return fail("plugin".into(), problem);
            }
            for (place, rule) in monitor.rules.iter().enumerate() {
                for (field, pattern) in [
                    ("pattern", &rule.pattern),
                    ("recoverPattern", &rule.recover_pattern),
                ] {
                    if let Err(error) = crate::pattern::compile(pattern) {
                        return fail(format!("rules[{place}].{field}"), error.to_string());
                    }
                }
                if rule.is_temporary() && (rule.clear_after.is_some() || !rule.recover_pattern.is_empty()) {
                    let problem = "only a permanent rule has a condition that can end".into();
                    return fail(format!("rules[{place}].clearAfter"), problem);
                }
            }
        }
        Monitor::Plugin(monitor) => {
            let global = monitor.settings.timeout.unwrap_or_default();
            if monitor
                .settings
                .interval
                .is_none_or(|interval| interval.is_zero())
            {
                return fail(
                    "pluginConfig.invoke_interval".into(),
                    "must be longer than 0".into(),
                );
            }
            for (place, rule) in monitor.rules.iter().enumerate() {
                if rule.timeout.is_some_and(|timeout| timeout > global) {
                    return fail(
                        format!("rules[{place}].timeout"),
                        "is longer than pluginConfig.timeout".into(),
                    );
                }
                let known = monitor
                    .conditions
                    .iter()
                    .any(|condition| condition.kind == rule.condition);
                if !rule.is_temporary() && !known {
                    let problem = format!("`{}` is not among the monitor's conditions", rule.condition);
                    return fail(format!("rules[{place}].condition"), problem);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stock_configuration_loads_or_says_why_not() {
        let Some(folder) = mainstay_base::testdata::upstream("node-problem-detector-config") else {
            return;
        };
        let mut refused = Vec::new();
        for entry in std::fs::read_dir(folder).expect("the stock configurations are there") {
            let path = entry.expect("a readable folder").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !name.ends_with(".json") || name.contains("system-stats") {
                continue;
            }
            if let Err(error) = load(&path) {
                refused.push(format!(
                    "{name}: {}",
                    error.to_string().rsplit_once(": ").map_or("", |(_, why)| why)
                ));
            }
        }
        refused.sort();
        // The journald reader is not built yet; everything else loads unchanged.
        assert!(
            refused
                .iter()
                .all(|line| line.contains("`journald` is not supported")),
            "{refused:#?}"
        );
    }

    #[test]
    fn the_built_in_monitors_load() {
        assert_eq!(built_in().map(|monitors| monitors.len()).ok(), Some(1));
    }

    #[test]
    fn durations_read_as_in_go() {
        let seconds = |text| go_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("300ms"), Some(0.3));
        assert_eq!(seconds("0"), Some(0.0));
        assert_eq!(seconds("5 minutes"), None);
    }

    #[test]
    fn a_bad_field_is_named() {
        let text =
            r#"{"plugin":"kmsg","source":"s","Rules":[{"type":"temporary","reason":"R","pattern":"("}]}"#;
        let error = parse(Path::new("x.json"), text)
            .expect_err("the pattern is broken")
            .to_string();
        assert!(error.starts_with("x.json: rules[0].pattern: "), "{error}");
    }
}
