//! Problem detection: stock kernel-log lines and the recorded edge cases, through the pure monitors.

use std::path::Path;

use jiff::Timestamp;
use mainstay_detect::config::{DefaultCondition, LogMonitor, Monitor, Rule, load};
use mainstay_detect::kmsg;
use mainstay_detect::plugin::RunResult;
use mainstay_detect::rules::{Line, LogRules};
use mainstay_detect::status::{Severity, Status, Truth};
use serde_json::Value;

use super::FileResult;

/// Runs the tables of area `npd`.
pub fn run(dir: &Path, only: Option<&str>) -> Vec<FileResult> {
    if only.is_some_and(|area| area != "npd") {
        return Vec::new();
    }
    let mut results = Vec::new();
    if let Ok(text) = std::fs::read_to_string(dir.join("npd/kmsg_stock_lines.tsv")) {
        results.push(stock_lines(dir, &text));
    }
    if let Ok(text) = std::fs::read_to_string(dir.join("npd/edge_cases.json")) {
        results.push(edge_cases(&text));
    }
    results
}

fn stock_monitors(dir: &Path) -> Result<Vec<LogRules>, String> {
    let folder = dir.join("../data/node-problem-detector-config");
    let one = |name: &str| match load(&folder.join(name)) {
        Ok(Monitor::Log(config)) => {
            LogRules::new(&config, Timestamp::UNIX_EPOCH).map_err(|error| error.to_string())
        }
        Ok(Monitor::Plugin(_)) => Err(format!("{name} is no log monitor")),
        Err(error) => Err(error.to_string()),
    };
    ["kernel-monitor.json", "readonly-monitor.json"]
        .into_iter()
        .map(one)
        .collect()
}

fn stock_lines(dir: &Path, text: &str) -> FileResult {
    let mut result = FileResult {
        file: "npd/kmsg_stock_lines.tsv".into(),
        passed: 0,
        failed: Vec::new(),
    };
    let mut monitors = match stock_monitors(dir) {
        Ok(monitors) => monitors,
        Err(problem) => {
            result.failed.push(problem);
            return result;
        }
    };
    for row in text.lines().filter(|line| line.starts_with('"')) {
        let columns: Vec<&str> = row.split('\t').collect();
        let line: String = serde_json::from_str(columns[0]).unwrap_or_default();
        let statuses: Vec<Status> = monitors
            .iter_mut()
            .flat_map(|rules| {
                rules.push(
                    kmsg::parse(&line, Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH),
                    Timestamp::UNIX_EPOCH,
                )
            })
            .collect();
        match stock_difference(&columns, &statuses) {
            None => result.passed += 1,
            Some(difference) => result.failed.push(format!("{line:?}: {difference}")),
        }
    }
    result
}

/// Compares one row; events that only tell a condition's change are not in the events column.
fn stock_difference(columns: &[&str], statuses: &[Status]) -> Option<String> {
    let is_change = |message: &str| message.starts_with("Node condition ");
    let events: Vec<_> = statuses.iter().flat_map(|status| &status.events).collect();
    let reasons: Vec<&str> = events
        .iter()
        .filter(|event| !is_change(&event.message))
        .map(|event| event.reason.as_str())
        .collect();
    let got = if reasons.is_empty() {
        "-".to_string()
    } else {
        reasons.join(",")
    };
    if got != columns[1] {
        return Some(format!("events: want {}, got {got}", columns[1]));
    }
    if statuses.len().to_string() != columns[2] {
        return Some(format!("statuses: want {}, got {}", columns[2], statuses.len()));
    }
    let want: Option<String> = serde_json::from_str(columns[4]).ok();
    let first = events
        .iter()
        .find(|event| !is_change(&event.message))
        .map(|event| event.message.clone());
    match want {
        Some(want) if first.as_ref() != Some(&want) => Some(format!("message: want {want:?}, got {first:?}")),
        _ => None,
    }
}

fn edge_cases(text: &str) -> FileResult {
    let mut result = FileResult {
        file: "npd/edge_cases.json".into(),
        passed: 0,
        failed: Vec::new(),
    };
    let cases: Value = match serde_json::from_str(text) {
        Ok(cases) => cases,
        Err(error) => {
            result.failed.push(error.to_string());
            return result;
        }
    };
    let list = |key: &str| cases[key].as_array().cloned().unwrap_or_default();
    let log_cases = list("filelog")
        .into_iter()
        .filter(|case| case["rules"].is_array() && case["id"] != "F15-partial-line");
    let outcomes = log_cases
        .map(|case| (case["id"].to_string(), log_case(&case)))
        .chain(
            list("custom_plugin")
                .into_iter()
                .filter(|case| case["message"].is_string() || case["message_bytes"].is_u64())
                .map(|case| (case["id"].to_string(), message_case(&case))),
        );
    for (id, difference) in outcomes {
        match difference {
            None => result.passed += 1,
            Some(difference) => result.failed.push(format!("{id}: {difference}")),
        }
    }
    result
}

/// Reads `T(reason,pattern)` and `P(condition,reason,pattern)`.
fn rule(text: &str) -> Option<Rule> {
    let (kind, rest) = text.strip_suffix(')')?.split_once('(')?;
    let mut parts = rest.splitn(if kind == "T" { 2 } else { 3 }, ',').map(str::trim);
    let condition = if kind == "P" { parts.next()? } else { "" };
    let json = serde_json::json!({
        "type": if kind == "T" { "temporary" } else { "permanent" }, "condition": condition,
        "reason": parts.next()?, "pattern": parts.next()?,
    });
    serde_json::from_value(json).ok()
}

fn condition(text: &str) -> Option<DefaultCondition> {
    let mut parts = text.split('/').map(String::from);
    Some(DefaultCondition {
        kind: parts.next()?,
        reason: parts.next()?,
        message: parts.next()?,
    })
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn log_case(case: &Value) -> Option<String> {
    let config = LogMonitor {
        plugin: "filelog".into(),
        plugin_config: Default::default(),
        log_path: String::new(),
        skip: Vec::new(),
        lookback: None,
        delay: None,
        buffer_size: case["bufferSize"].as_u64().unwrap_or(10) as usize,
        source: "s".into(),
        conditions: strings(&case["conditions"])
            .into_iter()
            .filter_map(condition)
            .collect(),
        rules: strings(&case["rules"]).into_iter().filter_map(rule).collect(),
    };
    let mut rules = match LogRules::new(&config, Timestamp::UNIX_EPOCH) {
        Ok(rules) => rules,
        Err(error) => return Some(error.to_string()),
    };
    let lines = strings(&case["in"]).into_iter().map(|text| Line {
        at: Timestamp::UNIX_EPOCH,
        text: text.into(),
    });
    let statuses: Vec<Status> = lines
        .flat_map(|line| rules.push(line, Timestamp::UNIX_EPOCH))
        .collect();
    let events: Vec<Value> = statuses
        .iter()
        .flat_map(|status| &status.events)
        .map(|event| {
            let severity = if event.severity == Severity::Warn {
                "warn"
            } else {
                "info"
            };
            serde_json::json!([severity, event.reason, event.message])
        })
        .collect();
    if case["events"].is_array() && case["events"] != Value::Array(events.clone()) {
        return Some(format!("want {}, got {}", case["events"], Value::Array(events)));
    }
    if case["events_count"]
        .as_u64()
        .is_some_and(|want| want != events.len() as u64)
    {
        return Some(format!(
            "want {} events, got {}",
            case["events_count"],
            events.len()
        ));
    }
    let last = rules.status().conditions.into_iter().next();
    let wanted = case["final"].as_object()?;
    let got = last.map(|condition| {
        (
            condition.status == Truth::True,
            condition.reason,
            condition.message,
        )
    });
    let want = Some((
        wanted["status"] == "True",
        text(&wanted["reason"]),
        text(&wanted["message"]),
    ));
    (got != want).then(|| format!("final: want {want:?}, got {got:?}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn message_case(case: &Value) -> Option<String> {
    let stdout = match case["stdout"].as_str() {
        Some("200 x") => "x".repeat(200),
        Some("60 two-byte letters") => "é".repeat(60),
        Some(text) => text.replace("\\n", "\n"),
        None => "anything".into(),
    };
    let limit = case["max_output_length"].as_u64().unwrap_or(80) as usize;
    let got = RunResult {
        exit_code: Some(1),
        stdout: stdout.into_bytes(),
    }
    .message(limit);
    if let Some(bytes) = case["message_bytes"].as_u64() {
        return (got.len() as u64 != bytes).then(|| format!("want {bytes} bytes, got {}", got.len()));
    }
    let want = text(&case["message"]).replace("\\n", "\n");
    let letters = want.starts_with("40 letters");
    let right = if letters {
        got.chars().count() == 40
    } else {
        got == want
    };
    (!right).then(|| format!("want {want:?}, got {got:?}"))
}
