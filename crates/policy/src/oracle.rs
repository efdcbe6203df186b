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
