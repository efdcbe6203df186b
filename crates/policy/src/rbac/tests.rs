//! The rows of the oracle's RBAC tables, and the index's bookkeeping.

use serde_json::Value;

use super::*;
use crate::oracle::{run_covers, run_decisions, run_default_roles};

fn table(name: &str) -> Value {
    let text = mainstay_base::testdata::read(&format!("oracle/tenancy/{name}.json"));
    serde_json::from_str(&text).expect("the table is JSON")
}

#[test]
fn decisions_are_those_of_the_table() {
    let outcome = run_decisions(&table("rbac-decisions"));
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 65);
}

#[test]
fn default_roles_decide_as_in_the_table() {
    let outcome = run_default_roles(&table("rbac-default-roles"));
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 198);
}

#[test]
fn escalation_is_found_as_in_the_table() {
    let outcome = run_covers(&table("rbac-covers"));
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 11);
}

#[test]
fn a_removed_binding_grants_nothing_and_leaves_nothing() {
    let mut index = Index::default();
    let at = ObjectRef::new("a", "b");
    let role = RoleRef {
        kind: "ClusterRole".into(),
        name: "r".into(),
        ..RoleRef::default()
    };
    let subject = Subject {
        kind: "User".into(),
        name: "u".into(),
        ..Subject::default()
    };
    let rule = Rule {
        verbs: vec!["get".into()],
        api_groups: vec!["".into()],
        resources: vec!["pods".into()],
        ..Rule::default()
    };
    index.set_role(ObjectRef::new("", "r"), Arc::from([rule]));
    index.set_binding(at.clone(), &role, &[subject]);
    let who = Who {
        name: "u",
        groups: &[],
    };
    let request = Request::Resource {
        verb: "get",
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "a",
        name: "",
    };
    assert_eq!(
        index.decide(who, &request).reason,
        "RBAC: allowed by RoleBinding \"a/b\" of ClusterRole \"r\" to \"u\""
    );
    index.remove_binding(&at);
    assert!(!index.decide(who, &request).allowed);
    assert!(index.namespaces_of(who).is_empty());
}
