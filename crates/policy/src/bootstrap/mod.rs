//! The roles and bindings every cluster starts with: Kubernetes' own defaults and those of Mainstay's components.
//!
//! The tables use a short notation, one grant a line: `verbs group resources [names]` or `verbs url paths`.
//! Lists are comma-separated; `core` is the empty group; `read` is get, list, watch; `write` is create, delete,
//! deletecollection, patch, update. The facts are those of the Kubernetes documentation, "Default roles and
//! role bindings" (1.36).

mod cluster_roles;
mod controllers;
mod own;

pub use own::{NAMESPACE_ADMIN, NAMESPACE_CREATOR, component_user};

use serde_json::{Value, json};

use crate::rbac::Rule;

/// The label on every object of this module.
const LABEL: &str = "kubernetes.io/bootstrapping";
/// The annotation that lets a restart repair the object.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// The label prefix by which aggregated roles collect others.
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// One role of the tables.
#[derive(Debug, Clone, Copy)]
struct Role {
    name: &'static str,
    /// The aggregated role this one flows into (`admin`, `edit`, `view`, ...), or the empty text.
    into: &'static str,
    /// The aggregation this role is made of, or the empty text.
    from: &'static str,
    grants: &'static str,
}

const fn role(name: &'static str, grants: &'static str) -> Role {
    Role {
        name,
        into: "",
        from: "",
        grants,
    }
}

/// One binding of the tables: role and the subjects as `User:x`, `Group:y` or `ServiceAccount:namespace/name`.
#[derive(Debug, Clone, Copy)]
struct Binding {
    name: &'static str,
    role: &'static str,
    subjects: &'static str,
}

/// One object to create when it is missing, or to repair at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// The namespace, or the empty text.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The whole object.
    pub body: Value,
}

fn all_roles() -> impl Iterator<Item = &'static Role> {
    cluster_roles::ROLES
        .iter()
        .chain(controllers::ROLES)
        .chain(own::ROLES)
}

fn all_bindings() -> impl Iterator<Item = &'static Binding> {
    cluster_roles::BINDINGS.iter().chain(own::BINDINGS)
}

/// Makes every bootstrap object: cluster roles (aggregated ones already filled), bindings, and the namespaced
/// roles of kube-system and kube-public.
pub fn objects() -> Vec<Object> {
    let mut found: Vec<Object> = all_roles().map(cluster_role).collect();
    found.extend(all_bindings().map(cluster_binding));
    found.extend(controllers::ROLES.iter().map(controller_binding));
    for namespaced in cluster_roles::NAMESPACED {
        found.extend(namespaced_pair(namespaced));
    }
    found
}

/// Tells the rules of one bootstrap cluster role.
pub fn cluster_role_rules(name: &str) -> Option<Vec<Rule>> {
    all_roles().find(|role| role.name == name).map(rules_of)
}

fn rules_of(role: &Role) -> Vec<Rule> {
    if role.from.is_empty() {
        return parse(role.grants);
    }
    let members: Vec<Vec<Rule>> = all_roles()
        .filter(|member| member.into == role.from)
        .map(rules_of)
        .collect();
    crate::rbac::aggregate(members.iter().map(Vec::as_slice))
}

fn parse(grants: &str) -> Vec<Rule> {
    grants
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(parse_line)
        .collect()
}

fn parse_line(line: &str) -> Rule {
    let mut words = line.split_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let (verbs, group, what, names) = (next(), next(), next(), next());
    let verbs = verbs.split(',').flat_map(verb_words).collect();
    if group == "url" {
        return Rule {
            verbs,
            non_resource_urls: list(what),
            ..Rule::default()
        };
    }
    let api_groups = group
        .split(',')
        .map(|g| if g == "core" { "" } else { g }.to_string())
        .collect();
    Rule {
        verbs,
        api_groups,
        resources: list(what),
        resource_names: list(names),
        ..Rule::default()
    }
}

fn verb_words(word: &str) -> Vec<String> {
    match word {
        "read" => ["get", "list", "watch"].map(String::from).to_vec(),
        "write" => ["create", "delete", "deletecollection", "patch", "update"]
            .map(String::from)
            .to_vec(),
        verb => vec![verb.to_string()],
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(str::to_string)
        .collect()
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {LABEL: "rbac-defaults"}, "annotations": {AUTOUPDATE: "true"}})
}

fn cluster_role(role: &Role) -> Object {
    let mut meta = metadata(role.name);
    if !role.into.is_empty() {
        meta["labels"][format!("{AGGREGATE}{}", role.into)] = json!("true");
    }
    let mut body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": meta, "rules": rules_of(role),
    });
    if !role.from.is_empty() {
        let label = format!("{AGGREGATE}{}", role.from);
        body["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    }
    Object {
        resource: "clusterroles",
        namespace: String::new(),
        name: role.name.to_string(),
        body,
    }
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or(("User", text));
    match (kind, name.split_once('/')) {
        ("ServiceAccount", Some((namespace, name))) => {
            json!({"kind": kind, "namespace": namespace, "name": name})
        }
        _ => json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": name}),
    }
}

fn binding_body(kind: &str, meta: Value, role_kind: &str, role: &str, subjects: &str) -> Value {
    let subjects: Vec<Value> = subjects.split_whitespace().map(subject).collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": subjects,
    })
}

fn cluster_binding(binding: &Binding) -> Object {
    let meta = metadata(binding.name);
    let body = binding_body(
        "ClusterRoleBinding",
        meta,
        "ClusterRole",
        binding.role,
        binding.subjects,
    );
    let name = binding.name.to_string();
    Object {
        resource: "clusterrolebindings",
        namespace: String::new(),
        name,
        body,
    }
}

fn controller_binding(role: &Role) -> Object {
    let account = role.name.trim_start_matches("system:controller:");
    let subjects = format!("ServiceAccount:kube-system/{account}");
    let body = binding_body(
        "ClusterRoleBinding",
        metadata(role.name),
        "ClusterRole",
        role.name,
        &subjects,
    );
    let name = role.name.to_string();
    Object {
        resource: "clusterrolebindings",
        namespace: String::new(),
        name,
        body,
    }
}

/// A Role and, when it has subjects, the RoleBinding of the same name.
fn namespaced_pair(entry: &cluster_roles::Namespaced) -> Vec<Object> {
    let namespaced = |resource, mut body: Value| {
        body["metadata"]["namespace"] = json!(entry.namespace);
        let (namespace, name) = (entry.namespace.to_string(), entry.name.to_string());
        Object {
            resource,
            namespace,
            name,
            body,
        }
    };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": metadata(entry.name), "rules": parse(entry.grants),
    });
    let mut pair = vec![namespaced("roles", role)];
    if !entry.subjects.is_empty() {
        let body = binding_body(
            "RoleBinding",
            metadata(entry.name),
            "Role",
            entry.name,
            entry.subjects,
        );
        pair.push(namespaced("rolebindings", body));
    }
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_rule() {
        let rule = parse_line("read,update core,events.k8s.io pods,pods/log one");
        assert_eq!(
            serde_json::to_string(&rule).expect("a rule is JSON"),
            r#"{"verbs":["get","list","watch","update"],"apiGroups":["","events.k8s.io"],"resources":["pods","pods/log"],"resourceNames":["one"]}"#
        );
    }

    #[test]
    fn no_verb_is_misspelt() {
        const KNOWN: &str = "* get list watch create update patch delete deletecollection approve sign bind \
                             escalate impersonate proxy";
        let rules: Vec<Rule> = all_roles().flat_map(rules_of).collect();
        let verbs = rules.iter().flat_map(|rule| &rule.verbs);
        let odd: Vec<&String> = verbs
            .filter(|verb| !KNOWN.split_whitespace().any(|k| k == *verb))
            .collect();
        assert!(odd.is_empty(), "{odd:?}");
    }

    #[test]
    fn only_cluster_admin_holds_every_verb_everywhere() {
        let every = |role: &&Role| {
            rules_of(role)
                .iter()
                .any(|r| r.verbs == ["*"] && r.resources == ["*"] && r.api_groups == ["*"])
        };
        let names: Vec<&str> = all_roles().filter(every).map(|role| role.name).collect();
        assert_eq!(names, ["cluster-admin"]);
    }

    #[test]
    fn every_binding_names_a_role_that_exists_and_names_are_unique() {
        for binding in all_bindings() {
            assert!(
                cluster_role_rules(binding.role).is_some(),
                "{} binds nothing",
                binding.name
            );
        }
        let objects = objects();
        let mut names: Vec<_> = objects
            .iter()
            .map(|o| (o.resource, &o.namespace, &o.name))
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
