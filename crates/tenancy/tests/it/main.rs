//! Tenancy on a whole control plane in memory: the real request chain, store and controllers.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mainstay_base::clock::SystemClock;
use mainstay_control::CancellationToken;
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::{UserInfo, admin, plane};
use serde_json::json;

/// How long anything here may take before the test fails.
const LIMIT: Duration = Duration::from_secs(20);

fn user(plane: &ControlPlane, name: &str) -> Client {
    plane.client(UserInfo::new(name, Vec::<String>::new()))
}

fn parse<K: serde::de::DeserializeOwned>(object: serde_json::Value) -> K {
    serde_json::from_value(object).expect("a whole object")
}

async fn may(client: &Client, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let attributes = ResourceAttributes {
        verb: Some(verb.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        namespace: Some(namespace.into()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..Default::default()
        },
        ..Default::default()
    };
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .expect("an answer");
    answer.status.expect("a status").allowed
}

/// Lets alice and bob make namespaces, and starts the controllers.
async fn tenancy(plane: &ControlPlane, stop: &CancellationToken) {
    let bindings: Api<ClusterRoleBinding> = Api::all(admin(plane));
    let binding = parse(json!({
        "metadata": {"name": "makers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "namespace-creator"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"},
                     {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    }));
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .expect("bound");
    let client = plane.client(UserInfo::component("system:mainstay:tenancy"));
    mainstay_tenancy::controller::start(client, SystemClock::shared(), stop.clone());
}

async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"));
}

#[tokio::test]
async fn a_user_who_makes_a_namespace_becomes_admin_there_and_nowhere_else() {
    let (plane, stop) = (plane().await, CancellationToken::new());
    tenancy(&plane, &stop).await;
    let (alice, bob) = (user(&plane, "alice"), user(&plane, "bob"));
    for (client, name) in [(&alice, "a"), (&bob, "b")] {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = namespaces
            .create(
                &PostParams::default(),
                &parse(json!({"metadata": {"name": name}})),
            )
            .await;
        let made = made.expect("made");
        let owner = made
            .metadata
            .annotations
            .unwrap_or_default()
            .remove("mainstay.dev/owner");
        assert_eq!(owner.as_deref(), Some(if name == "a" { "alice" } else { "bob" }));
    }
    let (first, second) = (alice.clone(), bob.clone());
    eventually("alice is admin in a, bob in b", || async {
        may(&first, "create", "apps", "deployments", "a").await
            && may(&second, "create", "apps", "deployments", "b").await
    })
    .await;
    assert!(!may(&alice, "create", "apps", "deployments", "b").await);
    assert!(!may(&alice, "get", "", "secrets", "b").await);
    assert!(!may(&alice, "get", "", "nodes", "").await);
    assert!(!may(&alice, "bind", "rbac.authorization.k8s.io", "clusterroles", "a").await);

    let maps: Api<ConfigMap> = Api::namespaced(alice.clone(), "a");
    maps.create(&PostParams::default(), &parse(json!({"metadata": {"name": "m"}})))
        .await
        .expect("her own");
    let foreign: Api<ConfigMap> = Api::namespaced(alice.clone(), "b");
    let refused = foreign
        .create(&PostParams::default(), &parse(json!({"metadata": {"name": "m"}})))
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));

    let namespaces: Api<Namespace> = Api::all(alice.clone());
    let seen = namespaces
        .list(&ListParams::default())
        .await
        .expect("a filtered list");
    let names: Vec<String> = seen
        .items
        .into_iter()
        .filter_map(|namespace| namespace.metadata.name)
        .collect();
    assert_eq!(names, ["a"]);
    stop.cancel();
    plane.stop().await;
}

async fn refused(client: &Client, patch: Patch<serde_json::Value>) -> bool {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut params = PatchParams::default();
    if matches!(patch, Patch::Apply(_)) {
        params = PatchParams::apply("mallory").force();
    }
    match namespaces.patch("a", &params, &patch).await {
        Err(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    }
}

#[tokio::test]
async fn the_owner_cannot_change_record_isolation_or_quota_by_any_patch() {
    let (plane, stop) = (plane().await, CancellationToken::new());
    tenancy(&plane, &stop).await;
    let alice = user(&plane, "alice");
    let namespaces: Api<Namespace> = Api::all(alice.clone());
    namespaces
        .create(&PostParams::default(), &parse(json!({"metadata": {"name": "a"}})))
        .await
        .expect("made");
    let first = alice.clone();
    eventually("alice is admin in a", || async {
        may(&first, "patch", "", "namespaces", "a").await
    })
    .await;

    let record = json!({"metadata": {"annotations": {"mainstay.dev/owner": "mallory"}}});
    let level = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    for change in [record, level] {
        assert!(
            refused(&alice, Patch::Merge(change.clone())).await,
            "merge patch {change}"
        );
        assert!(
            refused(&alice, Patch::Strategic(change.clone())).await,
            "strategic merge patch {change}"
        );
        let mut whole = change.clone();
        whole["apiVersion"] = json!("v1");
        whole["kind"] = json!("Namespace");
        assert!(refused(&alice, Patch::Apply(whole)).await, "apply {change}");
    }
    let steps = json!([{"op": "remove", "path": "/metadata/annotations/mainstay.dev~1owner"}]);
    assert!(refused(&alice, Patch::Json(parse(steps))).await, "JSON patch");
    let harmless = Patch::Merge(json!({"metadata": {"labels": {"app": "x"}}}));
    namespaces
        .patch("a", &PatchParams::default(), &harmless)
        .await
        .expect("her own label");

    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    let admins: Api<ResourceQuota> = Api::namespaced(admin(&plane), "a");
    admins
        .create(&PostParams::default(), &parse(quota))
        .await
        .expect("the platform's");
    let hers: Api<ResourceQuota> = Api::namespaced(alice.clone(), "a");
    assert!(hers.delete("q", &DeleteParams::default()).await.is_err());
    let bindings: Api<RoleBinding> = Api::namespaced(alice.clone(), "a");
    assert!(
        bindings
            .delete("mainstay-owner", &DeleteParams::default())
            .await
            .is_err()
    );
    stop.cancel();
    plane.stop().await;
}

#[tokio::test]
async fn concurrent_creates_never_overshoot_a_quota_and_see_no_conflict() {
    let plane = plane().await;
    let client = admin(&plane);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &parse(json!({"metadata": {"name": "q"}})))
        .await
        .expect("made");
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), "q");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}});
    quotas
        .create(&PostParams::default(), &parse(quota))
        .await
        .expect("made");
    let creates = (0..40).map(|number| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "q");
        let pod: Pod = parse(json!({"metadata": {"name": format!("p{number}")}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
        tokio::spawn(async move { pods.create(&PostParams::default(), &pod).await })
    });
    let mut codes = std::collections::BTreeMap::new();
    for outcome in futures::future::join_all(creates).await {
        let code = match outcome.expect("no panic") {
            Ok(_) => 201,
            Err(kube::Error::Api(status)) => status.code,
            Err(error) => panic!("{error}"),
        };
        *codes.entry(code).or_insert(0) += 1;
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(201, 10), (403, 30)]);
    let pods: Api<Pod> = Api::namespaced(client.clone(), "q");
    assert_eq!(
        pods.list(&ListParams::default())
            .await
            .expect("a list")
            .items
            .len(),
        10
    );
    let used = quotas
        .get("q")
        .await
        .expect("there")
        .status
        .expect("charged")
        .used
        .expect("counted");
    assert_eq!(used["pods"].0, "10");
    let first = pods
        .list(&ListParams::default())
        .await
        .expect("a list")
        .items
        .remove(0)
        .metadata
        .name
        .expect("a name");
    pods.delete(&first, &DeleteParams::default().grace_period(0))
        .await
        .expect("gone");
    let used = quotas
        .get("q")
        .await
        .expect("there")
        .status
        .expect("charged")
        .used
        .expect("counted");
    assert_eq!(used["pods"].0, "9");
    plane.stop().await;
}
