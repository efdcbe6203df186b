//! Whole plans as text.

use expect_test::{Expect, expect};
use mainstay_api::tenant::TenantSpec;
use serde_json::json;

use super::observe::{Existing, Member, SeenNamespace, SeenTenant};
use super::plan;

fn check_namespace(seen: &SeenNamespace, wanted: Expect) {
    let lines: Vec<String> = plan::namespace(seen)
        .into_iter()
        .map(|step| match step {
            plan::Step::Enforce(level) => format!("enforce {level}"),
            plan::Step::Create(kind, object) => format!("create {kind} {}", brief(&object)),
            plan::Step::Replace(kind, object) => format!("replace {kind} {}", brief(&object)),
            plan::Step::Delete(kind, name) => format!("delete {kind} {name}"),
        })
        .collect();
    wanted.assert_eq(&lines.join("\n"));
}

fn brief(object: &serde_json::Value) -> String {
    let body = [&object["subjects"], &object["spec"]]
        .into_iter()
        .find(|part| !part.is_null());
    format!(
        "{} {}",
        object["metadata"]["name"].as_str().unwrap_or_default(),
        body.map(ToString::to_string).unwrap_or_default()
    )
}

fn seen(owner: &str) -> SeenNamespace {
    SeenNamespace {
        name: "a".into(),
        owner: Some(owner.into()),
        ..SeenNamespace::default()
    }
}

#[test]
fn the_owner_becomes_admin_there() {
    check_namespace(
        &seen("alice"),
        expect![[
            r#"create rolebindings mainstay-owner [{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"alice"}]"#
        ]],
    );
    check_namespace(
        &seen("system:serviceaccount:tools:gitops"),
        expect![[
            r#"create rolebindings mainstay-owner [{"kind":"ServiceAccount","name":"gitops","namespace":"tools"}]"#
        ]],
    );
}

#[test]
fn what_is_there_is_left_alone_and_what_is_not_wanted_goes() {
    let mut own = seen("alice");
    let role =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "namespace-admin"});
    let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}]);
    own.existing = vec![
        Existing {
            resource: "rolebindings",
            name: "mainstay-owner".into(),
            body: json!({"subjects": subjects, "roleRef": role}),
        },
        Existing {
            resource: "networkpolicies",
            name: "mainstay-isolation".into(),
            body: json!({"spec": {}}),
        },
    ];
    check_namespace(&own, expect!["delete networkpolicies mainstay-isolation"]);
    own.existing.truncate(1);
    own.existing[0].body["subjects"][0]["name"] = json!("mallory");
    check_namespace(
        &own,
        expect![[
            r#"replace rolebindings mainstay-owner [{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"alice"}]"#
        ]],
    );
    own.ending = true;
    check_namespace(&own, expect![""]);
}

#[test]
fn a_tenants_namespace_gets_limits_and_isolation() {
    let spec: TenantSpec = serde_json::from_value(json!({
        "owners": [{"kind": "Group", "name": "team-a"}], "podSecurity": "restricted",
        "limitRange": {"limits": []}, "network": {"isolation": "DefaultDeny", "allowFrom": ["monitoring"]},
    }))
    .expect("well-formed");
    let own = SeenNamespace {
        tenant_name: Some("team-a".into()),
        tenant: Some(spec),
        ..seen("alice")
    };
    check_namespace(
        &own,
        expect![[r#"
            enforce restricted
            create rolebindings mainstay-owner [{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"alice"}]
            create rolebindings mainstay-tenant-owners [{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"team-a"}]
            create limitranges mainstay-tenant {"limits":[]}
            create networkpolicies mainstay-isolation {"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"mainstay.dev/tenant":"team-a"}}},{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}},{"namespaceSelector":{"matchLabels":{"mainstay.dev/tenant":"monitoring"}}}]}],"podSelector":{},"policyTypes":["Ingress"]}"#]],
    );
}

#[test]
fn a_tenant_adopts_what_is_free_and_says_what_is_taken() {
    let member = |name: &str, tenant: Option<&str>| Member {
        name: name.into(),
        uid: format!("uid-{name}"),
        owner: "bob".into(),
        tenant: tenant.map(str::to_string),
    };
    let seen = SeenTenant {
        name: "team-a".into(),
        generation: 2,
        members: vec![
            member("free", None),
            member("mine", Some("team-a")),
            member("taken", Some("team-b")),
        ],
        ..SeenTenant::default()
    };
    let now = mainstay_base::clock::Clock::now(&*mainstay_base::clock::FakeClock::new());
    expect![[r#"[Adopt("free"), Status(Object {"conditions": Array [Object {"lastTransitionTime": String("2026-01-01T00:00:00Z"), "message": String("namespace taken belongs to another tenant"), "observedGeneration": Number(2), "reason": String("NamespaceTaken"), "status": String("False"), "type": String("Ready")}], "namespaces": Array [Object {"name": String("mine"), "owner": String("bob"), "uid": String("uid-mine")}]})]"#]]
    .assert_eq(&format!("{:?}", plan::tenant(&seen, now)));
}
