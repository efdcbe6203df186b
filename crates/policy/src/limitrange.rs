//! LimitRange: the defaults it gives to containers, and what it refuses.

use std::cmp::Ordering;

use mainstay_semantics::quantity::Quantity;
use serde_json::{Value, json};

use crate::amounts::{Amounts, amounts, list, pod_resources};

/// Fills what containers and init containers leave unset: limits from `default`, requests from
/// `defaultRequest`. Returns whether anything changed.
pub fn apply_defaults(limit_range: &Value, pod: &mut Value) -> bool {
    let mut changed = false;
    for item in list(&limit_range["spec"]["limits"]).filter(|item| item["type"] == "Container") {
        for containers in ["containers", "initContainers"] {
            let containers = pod["spec"].get_mut(containers).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                changed |= fill(container, "limits", &item["default"]);
                changed |= fill(container, "requests", &item["defaultRequest"]);
            }
        }
    }
    changed
}

fn fill(container: &mut Value, side: &str, defaults: &Value) -> bool {
    let mut changed = false;
    for (name, amount) in defaults.as_object().into_iter().flatten() {
        if container["resources"][side].get(name).is_none() {
            container["resources"][side][name] = amount.clone();
            changed = true;
        }
    }
    changed
}

/// Tells everything in a pod that the limit range refuses, in the words clients know.
pub fn pod_errors(limit_range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for item in list(&limit_range["spec"]["limits"]) {
        let subjects: Vec<Asked> = match item["type"].as_str() {
            Some("Container") => ["containers", "initContainers"]
                .iter()
                .flat_map(|field| list(&pod["spec"][*field]))
                .map(|container| Asked::of(&container["resources"]))
                .collect(),
            Some("Pod") => vec![Asked::of_pod(&pod["spec"])],
            _ => continue,
        };
        for asked in subjects {
            errors.extend(asked.errors(item));
        }
    }
    errors
}

/// Tells everything in a volume claim that the limit range refuses.
pub fn claim_errors(limit_range: &Value, claim: &Value) -> Vec<String> {
    let asked = Asked::of(&claim["spec"]["resources"]);
    let mut errors = Vec::new();
    for item in list(&limit_range["spec"]["limits"]).filter(|item| item["type"] == "PersistentVolumeClaim") {
        errors.extend(
            amounts(&item["min"])
                .iter()
                .filter_map(|(name, bound)| asked.below(item, name, bound)),
        );
        errors.extend(amounts(&item["max"]).iter().filter_map(|(name, bound)| {
            let word = format!("maximum {name} usage per {} is {}", kind(item), bound.canonical());
            match asked.requests.get(name) {
                None => Some(format!("{word}.  No request is specified")),
                Some(own) => above(own, bound).then(|| format!("{word}, but request is {}", own.canonical())),
            }
        }));
    }
    errors
}

/// What a container, pod or claim asks for.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

fn kind(item: &Value) -> &str {
    item["type"].as_str().unwrap_or_default()
}

fn above(amount: &Quantity, bound: &Quantity) -> bool {
    amount.cmp(bound) == Ordering::Greater
}

impl Asked {
    fn of(resources: &Value) -> Asked {
        Asked {
            requests: amounts(&resources["requests"]),
            limits: amounts(&resources["limits"]),
        }
    }

    fn of_pod(spec: &Value) -> Asked {
        let mut pod = pod_resources(spec);
        pod.overhead.clear();
        Asked {
            requests: pod.requests(),
            limits: pod.limits(),
        }
    }

    fn errors(&self, item: &Value) -> Vec<String> {
        let check = |field: &str, rule: &dyn Fn(&String, &Quantity) -> Option<String>| -> Vec<String> {
            amounts(&item[field])
                .iter()
                .filter_map(|(name, bound)| rule(name, bound))
                .collect()
        };
        let mut errors = check("min", &|name, bound| self.below(item, name, bound));
        errors.extend(check("max", &|name, bound| self.over(item, name, bound)));
        errors.extend(check("maxLimitRequestRatio", &|name, bound| {
            self.ratio(item, name, bound)
        }));
        errors
    }

    fn below(&self, item: &Value, name: &str, bound: &Quantity) -> Option<String> {
        let word = format!("minimum {name} usage per {} is {}", kind(item), bound.canonical());
        let Some(request) = self.requests.get(name) else {
            return Some(format!("{word}.  No request is specified"));
        };
        if above(bound, request) {
            return Some(format!("{word}, but request is {}", request.canonical()));
        }
        let limit = self.limits.get(name)?;
        above(bound, limit).then(|| format!("{word}, but limit is {}", limit.canonical()))
    }

    fn over(&self, item: &Value, name: &str, bound: &Quantity) -> Option<String> {
        let word = format!("maximum {name} usage per {} is {}", kind(item), bound.canonical());
        let Some(limit) = self.limits.get(name) else {
            return Some(format!("{word}.  No limit is specified"));
        };
        if above(limit, bound) {
            return Some(format!("{word}, but limit is {}", limit.canonical()));
        }
        let request = self.requests.get(name)?;
        above(request, bound).then(|| format!("{word}, but request is {}", request.canonical()))
    }

    fn ratio(&self, item: &Value, name: &str, bound: &Quantity) -> Option<String> {
        let word = format!(
            "{name} max limit to request ratio per {} is {}, but",
            kind(item),
            bound.canonical()
        );
        let set = |side: &Amounts| side.get(name).filter(|amount| !amount.is_zero()).cloned();
        let Some(request) = set(&self.requests) else {
            return Some(format!("{word} no request is specified or request is 0"));
        };
        let Some(limit) = set(&self.limits) else {
            return Some(format!("{word} no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > bound.as_f64()).then(|| format!("{word} provided ratio is {ratio:.6}"))
    }
}

/// Fills the defaults a LimitRange itself gets when it is stored: `default` from `max`, `defaultRequest` from
/// `default`, else from `min`.
pub fn default_limit_range(limit_range: &mut Value) {
    let items = limit_range["spec"]
        .get_mut("limits")
        .and_then(Value::as_array_mut);
    for item in items
        .into_iter()
        .flatten()
        .filter(|item| item["type"] == "Container")
    {
        copy_missing(item, "max", "default");
        copy_missing(item, "default", "defaultRequest");
        copy_missing(item, "min", "defaultRequest");
    }
}

fn copy_missing(item: &mut Value, from: &str, to: &str) {
    let Some(source) = item[from].as_object().cloned() else {
        return;
    };
    if item[to].is_null() {
        item[to] = json!({});
    }
    for (name, amount) in source {
        if item[to].get(&name).is_none() {
            item[to][name] = amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_refusals_are_those_of_the_table() {
        let text = mainstay_base::testdata::read("oracle/tenancy/limit-range.json");
        let table = serde_json::from_str(&text).expect("the table is JSON");
        let outcome = crate::oracle::run_limit_range(&table);
        assert_eq!(outcome.failed, Vec::<String>::new());
        assert!(outcome.passed >= 19);
    }

    #[test]
    fn a_limit_range_gets_its_own_defaults() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        default_limit_range(&mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }

    #[test]
    fn claims_have_bounds_too() {
        let range = json!({"spec": {"limits": [{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}});
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert_eq!(claim_errors(&range, &claim("1Gi")), Vec::<String>::new());
        assert_eq!(
            claim_errors(&range, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            claim_errors(&range, &claim("1Mi")),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
    }
}
