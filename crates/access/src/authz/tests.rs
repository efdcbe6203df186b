//! Decisions over a small world.

use serde_json::{Value, json};

use super::*;
use crate::hooks::{Operation, Review};
use crate::memory_world::MemoryWorld;

fn world() -> Arc<MemoryWorld> {
    let world = MemoryWorld::default();
    for object in mainstay_policy::bootstrap::objects() {
        let resource = format!("rbac.authorization.k8s.io/{}", object.resource);
        world.put(&resource, object.body);
    }
    world.put(
        "core/nodes",
        json!({"metadata": {"name": "n1", "annotations": {INCARNATION_ANNOTATION: "3"}}}),
    );
    world.put(
        "core/pods",
        json!({
            "metadata": {"name": "p", "namespace": "a"},
            "spec": {"nodeName": "n1", "serviceAccountName": "default",
                     "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "env"}}]}],
                     "volumes": [{"name": "v", "secret": {"secretName": "vol"}},
                                 {"name": "w", "persistentVolumeClaim": {"claimName": "data"}}]},
        }),
    );
    world.put(
        "core/persistentvolumes",
        json!({
            "metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "a", "name": "data"}},
        }),
    );
    Arc::new(world)
}

fn node(incarnation: &str) -> UserInfo {
    let mut user = UserInfo::new("system:node:n1", ["system:nodes"]);
    user.extra
        .insert(INCARNATION_EXTRA.into(), vec![incarnation.into()]);
    user
}

fn ask(authorizer: &Authorizer, user: &UserInfo, line: &str) -> Decision {
    let words: Vec<&str> = line.split(' ').collect();
    let [verb, what, namespace, name, selector] = words[..] else {
        panic!("five words")
    };
    let (group, rest) = what.split_once('/').expect("group/resource");
    let (resource, sub) = rest.split_once('/').unwrap_or((rest, ""));
    let none = |word: &str| {
        if word == "-" {
            String::new()
        } else {
            word.to_string()
        }
    };
    let (group, namespace, name, selector) = (
        if group == "core" {
            String::new()
        } else {
            group.to_string()
        },
        none(namespace),
        none(name),
        none(selector),
    );
    let mut asked = attributes(user, verb, (&group, resource, sub), (&namespace, &name));
    asked.field_selector = &selector;
    authorizer.decide(&asked)
}

#[test]
fn a_node_reads_what_its_pods_name_and_nothing_else() {
    let authorizer = Authorizer::new(world());
    let user = node("3");
    for (line, allowed) in [
        ("get core/secrets a env -", true),
        ("get core/secrets a vol -", true),
        ("list core/secrets a - metadata.name=vol", true),
        ("list core/secrets a - -", false),
        ("get core/secrets a other -", false),
        ("get core/secrets b env -", false),
        ("update core/secrets a env -", false),
        ("get core/persistentvolumeclaims a data -", true),
        ("get core/persistentvolumes - pv -", true),
        ("create core/serviceaccounts/token a default -", true),
        ("create core/serviceaccounts/token a other -", false),
        ("get core/nodes - n1 -", true),
        ("get core/nodes - n2 -", false),
        ("patch core/nodes/status - n1 -", true),
        ("patch core/nodes/status - n2 -", false),
        ("list core/pods - - spec.nodeName=n1", true),
        ("list core/pods - - -", false),
        ("get core/pods a p -", true),
        ("update coordination.k8s.io/leases kube-node-lease n1 -", true),
        ("update coordination.k8s.io/leases kube-node-lease n2 -", false),
        ("update coordination.k8s.io/leases default n1 -", false),
        (
            "create certificates.k8s.io/certificatesigningrequests - x -",
            true,
        ),
        ("create apps/deployments a d -", false),
    ] {
        assert_eq!(
            ask(&authorizer, &user, line) == Decision::Allow,
            allowed,
            "{line}"
        );
    }
}

#[test]
fn an_older_incarnation_of_a_node_is_refused_everything() {
    let authorizer = Authorizer::new(world());
    let refused = ask(&authorizer, &node("2"), "patch core/nodes/status - n1 -");
    assert_eq!(
        refused,
        Decision::Deny("node n1 was reprovisioned: incarnation 3 has replaced this one".into())
    );
}

#[test]
fn rbac_follows_the_world_and_masters_need_no_rule() {
    let world = world();
    let authorizer = Authorizer::new(world.clone());
    let alice = UserInfo::new("alice", ["devs"]);
    let line = "create core/pods a - -";
    assert_eq!(ask(&authorizer, &alice, line), Decision::NoOpinion(String::new()));
    let binding = json!({
        "metadata": {"name": "b", "namespace": "a"},
        "roleRef": {"kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "name": "alice"}],
    });
    world.put("rbac.authorization.k8s.io/rolebindings", binding);
    assert_eq!(ask(&authorizer, &alice, line), Decision::Allow);
    assert_eq!(authorizer.rbac().namespaces_of(&alice), ["", "a"]);
    world.remove("rbac.authorization.k8s.io/rolebindings", "a", "b");
    assert_ne!(ask(&authorizer, &alice, line), Decision::Allow);
    assert_eq!(
        ask(&authorizer, &UserInfo::admin(), "delete core/nodes - n -"),
        Decision::Allow
    );
}

fn write(user: &UserInfo, resource: &str, object: Value) -> Review {
    Review {
        operation: Operation::Create,
        group: "rbac.authorization.k8s.io".into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: String::new(),
        kind: String::new(),
        namespace: "a".into(),
        name: "x".into(),
        user: Arc::new(user.clone()),
        object,
        old: Value::Null,
        options: Value::Null,
        dry_run: false,
        warnings: Vec::new(),
    }
}

#[test]
fn nobody_grants_more_than_they_hold() {
    let world = world();
    world.put("rbac.authorization.k8s.io/rolebindings", json!({
        "metadata": {"name": "b", "namespace": "a"},
        "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [{"kind": "User", "name": "alice"}],
    }));
    let check = Escalation::new(Arc::new(Authorizer::new(world)));
    let alice = UserInfo::new("alice", ["devs"]);
    let bind = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []});
    assert!(check.check(&write(&alice, "rolebindings", bind("edit"))).is_ok());
    let refused = check
        .check(&write(&alice, "rolebindings", bind("cluster-admin")))
        .expect_err("it escalates");
    assert_eq!(refused.code, 403);
    let role = |verb: &str| json!({"rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
    assert!(check.check(&write(&alice, "roles", role("get"))).is_ok());
    assert!(check.check(&write(&alice, "roles", role("*"))).is_err());
    assert!(
        check
            .check(&write(&UserInfo::admin(), "roles", role("*")))
            .is_ok()
    );
}

#[test]
fn reviews_tell_yes_no_and_why() {
    let authorizer = Authorizer::new(world());
    let ask = |user: &str| {
        json!({"spec": {"user": user, "groups": ["system:authenticated"],
        "resourceAttributes": {"verb": "list", "group": "apps", "resource": "replicasets"}}})
    };
    let yes = review::subject_access(&authorizer, ask("system:kube-scheduler")).expect("well-formed");
    assert_eq!(
        yes["status"],
        json!({"allowed": true, "reason":
        "RBAC: allowed by ClusterRoleBinding \"system:kube-scheduler\" of ClusterRole \"system:kube-scheduler\" to \"system:kube-scheduler\""})
    );
    let no = review::subject_access(&authorizer, ask("bob")).expect("well-formed");
    assert_eq!(no["status"], json!({"allowed": false}));
    assert_eq!(
        review::subject_access(&authorizer, json!({"spec": {}}))
            .expect_err("names nobody")
            .code,
        422
    );
    let own = json!({"spec": {"namespace": "a"}});
    let rules =
        review::self_subject_rules(&authorizer, &UserInfo::new("bob", ["x"]), own).expect("well-formed");
    assert!(
        rules["status"]["resourceRules"]
            .as_array()
            .is_some_and(|rules| rules.len() == 2)
    );
}
