//! Runs the rows of the oracle's tables through this crate's functions; used by the tests and the oracle runner.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::bootstrap;
use crate::rbac::{Index, ObjectRef, Request, RoleRef, Rule, Subject, Who, uncovered};

/// How many rows agreed, and one line for each that did not.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows that agreed.
    pub passed: usize,
    /// What differed, a line each.
    pub failed: Vec<String>,
}

impl Outcome {
    pub(crate) fn check(&mut self, id: &str, got: &Value, wanted: &Value) {
        if got == wanted {
            self.passed += 1;
        } else {
            self.failed
                .push(format!("{id}: got {got}, the table has {wanted}"));
        }
    }
}

pub(crate) fn rows<'a>(table: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    table[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

pub(crate) fn id(row: &Value) -> &str {
    row["id"].as_str().unwrap_or("?")
}

fn parse<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn reference(object: &Value) -> ObjectRef {
    let meta = &object["metadata"];
    ObjectRef::new(
        meta["namespace"].as_str().unwrap_or(""),
        meta["name"].as_str().unwrap_or(""),
    )
}

fn load(index: &mut Index, world: &Value) {
    for object in rows(world, "roles").chain(rows(world, "clusterRoles")) {
        index.set_role(reference(object), Arc::from(parse::<Vec<Rule>>(&object["rules"])));
    }
    for object in rows(world, "roleBindings").chain(rows(world, "clusterRoleBindings")) {
        let role: RoleRef = parse(&object["roleRef"]);
        index.set_binding(
            reference(object),
            &role,
            &parse::<Vec<Subject>>(&object["subjects"]),
        );
    }
}

fn decide_rows(index: &Index, table: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    for row in rows(table, "requests") {
        let text = |field: &str| row[field].as_str().unwrap_or("");
        let groups: Vec<String> = parse(&row["groups"]);
        let who = Who {
            name: text("user"),
            groups: &groups,
        };
        let request = match row["path"].as_str() {
            Some(path) => Request::Path {
                verb: text("verb"),
                path,
            },
            None => Request::Resource {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
            },
        };
        let got = index.decide(who, &request).allowed;
        outcome.check(&format!("{} {}", id(row), row), &json!(got), &row["allowed"]);
    }
    outcome
}

/// Runs `rbac-decisions.json`.
pub fn run_decisions(table: &Value) -> Outcome {
    let mut index = Index::default();
    load(&mut index, &table["world"]);
    decide_rows(&index, table)
}

/// Runs `rbac-default-roles.json`: the bootstrap roles with the table's bindings.
pub fn run_default_roles(table: &Value) -> Outcome {
    let mut index = Index::default();
    for object in bootstrap::objects()
        .iter()
        .filter(|object| object.resource == "clusterroles")
    {
        index.set_role(
            ObjectRef::new("", &object.name),
            Arc::from(parse::<Vec<Rule>>(&object.body["rules"])),
        );
    }
    load(&mut index, &table["world"]);
    decide_rows(&index, table)
}

/// Runs `rbac-covers.json`.
pub fn run_covers(table: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    for row in rows(table, "cases") {
        let (held, wanted): (Vec<Rule>, Vec<Rule>) = (parse(&row["owner"]), parse(&row["wanted"]));
        let missing = uncovered(&held, &wanted);
        let got = json!({"covered": missing.is_empty(), "uncovered": missing});
        outcome.check(
            id(row),
            &got,
            &json!({"covered": row["covered"], "uncovered": row["uncovered"]}),
        );
    }
    outcome
}

/// Runs `pod-security.json`: one check for every pod, level and version.
pub fn run_pod_security(table: &Value) -> Outcome {
    use crate::podsecurity::{Level, Standard, Version, failed_checks};
    let mut outcome = Outcome::default();
    for row in rows(table, "cases") {
        for (key, verdict) in row["verdicts"].as_object().into_iter().flatten() {
            let standard = key.split_once('/').and_then(|(level, version)| {
                let (level, version) = (Level::parse(level).ok()?, Version::parse(version).ok()?);
                Some(Standard { level, version })
            });
            let Some(standard) = standard else {
                outcome
                    .failed
                    .push(format!("{} {key}: no such level or version", id(row)));
                continue;
            };
            let failed = failed_checks(standard, &row["pod"]["metadata"], &row["pod"]["spec"]);
            let mut got = json!({"allowed": failed.is_empty()});
            if !failed.is_empty() {
                got["failed_checks"] = json!(failed);
            }
            outcome.check(&format!("{} {key}", id(row)), &got, verdict);
        }
    }
    outcome
}

/// Runs `tolerations.json`.
pub fn run_tolerations(table: &Value) -> Outcome {
    use crate::tolerations::{Toleration, first_outside, merge};
    let mut outcome = Outcome::default();
    for row in rows(table, "cases") {
        let list = |field: &str| parse::<Vec<Toleration>>(&row[field]);
        let merged = merge(&list("namespace_default"), &list("pod"));
        let got = json!({
            "merged": merged, "within_allowed": first_outside(&merged, &list("allowed")).is_none(),
        });
        let wanted = json!({"merged": row["merged"], "within_allowed": row["within_allowed"]});
        outcome.check(id(row), &got, &wanted);
    }
    outcome
}

/// Fills requests from limits, as the API's defaulting does before admission.
fn requests_from_limits(pod: &mut Value) {
    let fill = |resources: &mut Value| {
        for (name, amount) in resources["limits"].as_object().cloned().into_iter().flatten() {
            if resources["requests"].get(&name).is_none() {
                resources["requests"][name] = amount;
            }
        }
    };
    for field in ["containers", "initContainers"] {
        for container in pod["spec"]
            .get_mut(field)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if container.get("resources").is_some() {
                fill(&mut container["resources"]);
            }
        }
    }
}

fn resources_of(pod: &Value, field: &str) -> Vec<Value> {
    rows(&pod["spec"], field)
        .map(|container| container["resources"].clone())
        .collect()
}

/// Runs `limit-range.json`.
pub fn run_limit_range(table: &Value) -> Outcome {
    use crate::limitrange::{apply_defaults, pod_errors};
    let mut outcome = Outcome::default();
    for row in rows(table, "cases") {
        let mut pod = row["pod"].clone();
        requests_from_limits(&mut pod);
        apply_defaults(&row["limitRange"], &mut pod);
        let errors = pod_errors(&row["limitRange"], &pod);
        let mut got =
            json!({"resources_after": resources_of(&pod, "containers"), "allowed": errors.is_empty()});
        if row.get("init_resources_after").is_some() {
            got["init_resources_after"] = json!(resources_of(&pod, "initContainers"));
        }
        if !errors.is_empty() {
            got["error"] = json!(errors.join(", "));
        }
        let mut wanted = row.clone();
        for input in ["id", "limitRange", "pod"] {
            wanted.as_object_mut().map(|fields| fields.remove(input));
        }
        outcome.check(id(row), &got, &wanted);
    }
    outcome
}

/// A time past the deadline of every deleted pod in the tables.
const NOW_SECONDS: i64 = 1_767_225_600;

/// Runs `quota-scopes.json`.
pub fn run_quota_scopes(table: &Value) -> Outcome {
    use crate::quota::{Charged, Refusal, matches, missing, usage};
    let mut outcome = Outcome::default();
    for row in rows(table, "pods") {
        let mut pod = row["pod"].clone();
        requests_from_limits(&mut pod);
        let charged = Charged {
            group: "",
            resource: "pods",
            object: &pod,
        };
        let mut names: Vec<&str> = Vec::new();
        let mut lacking = json!({});
        for quota in rows(table, "quotas").filter(|quota| matches(quota, &charged)) {
            let name = quota["metadata"]["name"].as_str().unwrap_or_default();
            names.push(name);
            if let Some(Refusal::Missing { missing, .. }) = missing(quota, &pod) {
                lacking[name] = json!(format!("must specify {missing}"));
            }
        }
        names.sort_unstable();
        let used = crate::amounts::to_json(&usage(&charged, NOW_SECONDS));
        let got = json!({"matches": names, "usage": used, "constraint_errors": lacking});
        let wanted = json!({
            "matches": row["matches"], "usage": row["usage"], "constraint_errors": row["constraint_errors"],
        });
        outcome.check(id(row), &got, &wanted);
    }
    outcome
}

/// Runs `quota-services-claims.json`.
pub fn run_quota_services_claims(table: &Value) -> Outcome {
    use crate::quota::{Charged, usage};
    let mut outcome = Outcome::default();
    for row in rows(table, "cases") {
        let (resource, object) = match row.get("service") {
            Some(service) => ("services", service),
            None => ("persistentvolumeclaims", &row["pvc"]),
        };
        let used = usage(
            &Charged {
                group: "",
                resource,
                object,
            },
            NOW_SECONDS,
        );
        outcome.check(id(row), &crate::amounts::to_json(&used), &row["usage"]);
    }
    outcome
}
