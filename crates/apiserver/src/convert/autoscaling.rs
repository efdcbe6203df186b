//! autoscaling/v2 (stored) and autoscaling/v1: v1 knows one CPU target; other metrics travel in an annotation.

use serde_json::{Value, json};

/// Where v1 carries what it has no field for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

/// v2 → v1.
pub fn to_v1(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let metrics = spec
        .remove("metrics")
        .and_then(|metrics| metrics.as_array().cloned())
        .unwrap_or_default();
    spec.remove("behavior");
    let (cpu, rest): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
    if let Some(target) = cpu.first() {
        let percent = target["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".into(), percent);
    }
    if !rest.is_empty() {
        let text = Value::Array(rest).to_string();
        annotations(object).insert(METRICS.into(), text.into());
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("conditions");
        let current = status.remove("currentMetrics").unwrap_or_default();
        let cpu = current
            .as_array()
            .into_iter()
            .flatten()
            .find(|metric| metric["resource"]["name"] == "cpu");
        if let Some(cpu) = cpu {
            let percent = cpu["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
    }
}

/// v1 → v2.
pub fn to_v2(object: &mut Value) {
    let carried = object["metadata"]["annotations"]
        .as_object_mut()
        .and_then(|all| all.remove(METRICS));
    let parsed = carried
        .as_ref()
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok());
    let mut metrics: Vec<Value> = parsed.unwrap_or_default();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(percent) = spec
            .remove("targetCPUUtilizationPercentage")
            .filter(|value| !value.is_null())
        {
            metrics.insert(0, cpu_metric("target", percent));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.remove("currentCPUUtilizationPercentage")
    {
        status.insert("currentMetrics".into(), json!([cpu_metric("current", percent)]));
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    let target = &metric["resource"]["target"]["averageUtilization"];
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" && !target.is_null()
}

fn cpu_metric(key: &str, percent: Value) -> Value {
    let mut value = json!({"averageUtilization": percent});
    if key == "target" {
        value["type"] = "Utilization".into();
    }
    json!({"type": "Resource", "resource": {"name": "cpu", key: value}})
}

fn annotations(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    let slot = &mut object["metadata"]["annotations"];
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made an object just above")
}
