//! Tables of pod resources, quality of service and out-of-memory scores.

use std::collections::BTreeMap;
use std::path::Path;

use mainstay_semantics::pod::{PodResources, ResourceList, Without};
use mainstay_semantics::qos::{Class, OomContext, class, oom_score_adj};
use serde::Deserialize;
use serde_json::{Value, json};

use super::FileResult;

/// Upstream's floor of Burstable scores; the documentation, and we, say 2 (docs/oracle-deviations.md).
const UPSTREAM_FLOOR: i64 = 3;
const DOCUMENTED_FLOOR: i64 = 2;

type Check = fn(&Value) -> Result<(), String>;

const TABLES: [(&str, Check); 3] = [
    ("kubelet/pod_requests_limits.json", requests_and_limits),
    ("kubelet/qos_class.json", quality_of_service),
    ("kubelet/oom_score_adj.json", oom_scores),
];

/// Runs the tables that are there.
pub fn run(dir: &Path, filter: Option<&str>) -> Vec<FileResult> {
    let wanted = TABLES
        .iter()
        .filter(|(file, _)| filter.is_none_or(|area| file.starts_with(&format!("{area}/"))));
    wanted
        .filter(|(file, _)| dir.join(file).is_file())
        .map(|(file, check)| table(dir, file, *check))
        .collect()
}

fn table(dir: &Path, file: &str, check: Check) -> FileResult {
    let mut result = FileResult {
        file: file.to_owned(),
        passed: 0,
        failed: Vec::new(),
    };
    let text = std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string());
    let rows =
        text.and_then(|text| serde_json::from_str::<Vec<Value>>(&text).map_err(|error| error.to_string()));
    match rows {
        Err(problem) => result.failed.push(problem),
        Ok(rows) => rows.iter().enumerate().for_each(|(at, row)| match check(row) {
            Ok(()) => result.passed += 1,
            Err(problem) => result.failed.push(format!("row {at}: {problem}")),
        }),
    }
    result
}

#[derive(Deserialize)]
struct Pod {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(flatten)]
    resources: PodResources,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    priority_class_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    qos_class: Option<Class>,
}

fn pod(row: &Value) -> Result<Pod, String> {
    Deserialize::deserialize(&row["pod"]).map_err(|error: serde_json::Error| error.to_string())
}

fn same(field: &str, expected: &Value, came: &Value) -> Result<(), String> {
    if expected == came {
        Ok(())
    } else {
        Err(format!("{field}: expected {expected}, came {came}"))
    }
}

fn text(list: &ResourceList) -> Value {
    let texts: BTreeMap<&String, String> = list
        .iter()
        .map(|(name, quantity)| (name, quantity.canonical()))
        .collect();
    json!(texts)
}

fn requests_and_limits(row: &Value) -> Result<(), String> {
    let spec = pod(row)?.spec.resources;
    let without = |overhead, pod_level| spec.requests_with(Without { overhead, pod_level });
    same("requests", &row["requests"], &text(&spec.requests()))?;
    same("limits", &row["limits"], &text(&spec.limits()))?;
    same(
        "requests_skip_pod_level",
        &row["requests_skip_pod_level"],
        &text(&without(false, true)),
    )?;
    same(
        "requests_without_overhead",
        &row["requests_without_overhead"],
        &text(&without(true, false)),
    )
}

fn quality_of_service(row: &Value) -> Result<(), String> {
    let pod = pod(row)?;
    let computed = class(&pod.spec.resources);
    let effective = pod.status.qos_class.unwrap_or(computed);
    same("computed_qos", &row["computed_qos"], &computed.as_str().into())?;
    same("effective_qos", &row["effective_qos"], &effective.as_str().into())
}

fn oom_scores(row: &Value) -> Result<(), String> {
    let pod = pod(row)?;
    let context = OomContext {
        spec: &pod.spec.resources,
        class: pod.status.qos_class.unwrap_or_else(|| class(&pod.spec.resources)),
        priority: pod.spec.priority,
        priority_class: &pod.spec.priority_class_name,
        node_memory_bytes: row["node_memory_bytes"].as_i64().ok_or("no node_memory_bytes")?,
    };
    for container in pod.spec.resources.all_containers() {
        let expected = row["oom_score_adj"][&container.name]
            .as_i64()
            .ok_or("no score of a container")?;
        let expected = if expected == UPSTREAM_FLOOR {
            DOCUMENTED_FLOOR
        } else {
            expected
        };
        same(
            &container.name,
            &expected.into(),
            &oom_score_adj(context, container).into(),
        )?;
    }
    Ok(())
}
