//! The rules over a small world: who may do what in whose namespace.

use std::sync::Arc;

use mainstay_access::ApiResult;
use mainstay_access::authz::{Authorizer, attributes};
use mainstay_access::hooks::{Attributes, Decision, Operation, Review, World};
use mainstay_access::memory_world::MemoryWorld;
use mainstay_access::user::UserInfo;
use mainstay_base::clock::FakeClock;
use serde_json::{Value, json};

use super::*;

struct Setup {
    world: Arc<MemoryWorld>,
    tenancy: Tenancy,
}

fn setup() -> Setup {
    let world = Arc::new(MemoryWorld::default());
    for object in mainstay_policy::bootstrap::objects() {
        world.put(
            &format!("rbac.authorization.k8s.io/{}", object.resource),
            object.body,
        );
    }
    let namespace = |name: &str, labels: Value| json!({"metadata": {"name": name, "annotations": {OWNER_ANNOTATION: "alice"}, "labels": labels}});
    world.put("core/namespaces", namespace("a", json!({})));
    world.put(
        "core/namespaces",
        namespace("team-x", json!({TENANT_LABEL: "team"})),
    );
    world.put("core/namespaces", json!({"metadata": {"name": "plain"}}));
    world.put("core/namespaces", json!({"metadata": {"name": "other"}}));
    world.put("rbac.authorization.k8s.io/rolebindings", json!({
        "metadata": {"name": OWNER_BINDING, "namespace": "a"},
        "roleRef": {"kind": "ClusterRole", "name": "namespace-admin"}, "subjects": [{"kind": "User", "name": "alice"}],
    }));
    world.put("mainstay.dev/tenants", json!({
        "metadata": {"name": "team"},
        "spec": {"owners": [{"kind": "Group", "name": "devs"}], "namespaces": {"prefix": "team-", "limit": 2},
                 "podSecurity": "restricted", "quota": {"hard": {"pods": "2", "requests.cpu": "1"}},
                 "priorityClasses": ["low"], "storageClasses": ["slow"], "nodePools": ["pool-a"],
                 "ingress": {"classes": ["nginx"], "hostnames": ["*.team.example"]},
                 "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
    }));
    let authorizer = Arc::new(Authorizer::new(world.clone()));
    Setup {
        tenancy: Tenancy::new(authorizer, FakeClock::new()),
        world,
    }
}

fn alice() -> UserInfo {
    UserInfo::new("alice", Vec::<String>::new())
}

fn dev() -> UserInfo {
    UserInfo::new("dana", ["devs"])
}

fn review(
    user: &UserInfo,
    operation: Operation,
    what: &str,
    namespace: &str,
    (old, object): (Value, Value),
) -> Review {
    let (group, rest) = what.split_once('/').expect("group/resource");
    let (resource, subresource) = rest.split_once('/').unwrap_or((rest, ""));
    let name = [&object, &old]
        .iter()
        .find_map(|o| o["metadata"]["name"].as_str())
        .unwrap_or_default()
        .to_string();
    Review {
        operation,
        group: if group == "core" {
            String::new()
        } else {
            group.into()
        },
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        kind: String::new(),
        namespace: namespace.into(),
        name,
        user: Arc::new(user.clone()),
        object,
        old,
        options: Value::Null,
        dry_run: false,
        warnings: Vec::new(),
    }
}

impl Setup {
    async fn run(&self, mut review: Review) -> ApiResult<Value> {
        for plugin in &self.tenancy.admit {
            plugin.mutate(&mut review, &*self.world).await?;
        }
        for plugin in &self.tenancy.admit {
            plugin.validate(&mut review, &*self.world).await?;
        }
        Ok(review.object)
    }

    async fn create(&self, user: &UserInfo, what: &str, namespace: &str, object: Value) -> ApiResult<Value> {
        self.run(review(
            user,
            Operation::Create,
            what,
            namespace,
            (Value::Null, object),
        ))
        .await
    }

    async fn change(
        &self,
        user: &UserInfo,
        what: &str,
        namespace: &str,
        change: (Value, Value),
    ) -> ApiResult<Value> {
        self.run(review(user, Operation::Update, what, namespace, change))
            .await
    }
}

#[tokio::test]
async fn the_maker_of_a_namespace_is_recorded_whatever_they_wrote() {
    let setup = setup();
    let object = json!({"metadata": {"name": "mine", "annotations": {OWNER_ANNOTATION: "bob"}}});
    let made = setup
        .create(&alice(), "core/namespaces", "", object.clone())
        .await
        .expect("made");
    assert_eq!(made["metadata"]["annotations"][OWNER_ANNOTATION], "alice");
    assert_eq!(
        made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "baseline"
    );
    let by_admin = setup
        .create(&UserInfo::admin(), "core/namespaces", "", object)
        .await
        .expect("made");
    assert_eq!(
        by_admin["metadata"]["annotations"][OWNER_ANNOTATION], "bob",
        "the platform may make namespaces for others"
    );
    let lax =
        json!({"metadata": {"name": "lax", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let made = setup
        .create(&alice(), "core/namespaces", "", lax)
        .await
        .expect("made");
    assert_eq!(
        made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "baseline"
    );
    let claims = json!({"metadata": {"name": "x", "labels": {TENANT_LABEL: "team"}}});
    assert_eq!(
        setup
            .create(&alice(), "core/namespaces", "", claims)
            .await
            .expect_err("not hers")
            .code,
        403
    );
}

#[tokio::test]
async fn a_tenants_namespaces_carry_its_name_level_prefix_and_limit() {
    let setup = setup();
    let namespace = |name: &str| json!({"metadata": {"name": name}});
    let made = setup
        .create(&dev(), "core/namespaces", "", namespace("team-y"))
        .await
        .expect("the second of two");
    assert_eq!(made["metadata"]["labels"][TENANT_LABEL], "team");
    assert_eq!(
        made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let wrong = setup
        .create(&dev(), "core/namespaces", "", namespace("y"))
        .await
        .expect_err("no prefix");
    assert_eq!(
        wrong.message,
        "namespaces \"y\" is forbidden: its name must start with team-"
    );
    setup.world.put("core/namespaces", made);
    let third = setup
        .create(&dev(), "core/namespaces", "", namespace("team-z"))
        .await
        .expect_err("one too many");
    assert_eq!(
        third.message,
        "namespaces \"team-z\" is forbidden: tenant team has 2 namespaces, its limit is 2"
    );
}

#[tokio::test]
async fn the_record_cannot_be_changed_on_any_path() {
    let setup = setup();
    let old = setup
        .world
        .get("core/namespaces", "", "a")
        .expect("there")
        .value();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut object = old.clone();
        change(&mut object);
        (old.clone(), object)
    };
    let changes: [&dyn Fn(&mut Value); 7] = [
        &|object| object["metadata"]["annotations"][OWNER_ANNOTATION] = json!("mallory"),
        &|object| object["metadata"]["annotations"] = json!({}),
        &|object| object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("privileged"),
        &|object| object["metadata"]["labels"][TENANT_LABEL] = json!("team"),
        &|object| object["metadata"]["ownerReferences"] = json!([{"kind": "Tenant"}]),
        &|object| object["spec"]["finalizers"] = json!([]),
        &|object| {
            object["metadata"]["annotations"]["scheduler.alpha.kubernetes.io/node-selector"] = json!("x=y")
        },
    ];
    for change in changes {
        for path in ["core/namespaces", "core/namespaces/status"] {
            assert_eq!(
                setup
                    .change(&alice(), path, "a", with(change))
                    .await
                    .expect_err("guarded")
                    .code,
                403
            );
            assert!(
                setup
                    .change(&UserInfo::admin(), path, "a", with(change))
                    .await
                    .is_ok()
            );
        }
    }
    let free = with(&|object| object["metadata"]["labels"]["app"] = json!("x"));
    assert!(
        setup
            .change(&alice(), "core/namespaces", "a", free.clone())
            .await
            .is_ok()
    );
    assert!(
        setup
            .change(&alice(), "core/namespaces/finalize", "a", free)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn limits_and_the_platforms_objects_stay() {
    let setup = setup();
    let marked = json!({"metadata": {"name": "mainstay-owner", "labels": {PLATFORM_LABEL: "true"}}});
    let plain = json!({"metadata": {"name": "x"}});
    let owned = json!({"metadata": {"name": "x", "ownerReferences": [{"kind": "Tenant", "apiVersion": "mainstay.dev/v1alpha1"}]}});
    for (what, change) in [
        ("core/resourcequotas", (plain.clone(), plain.clone())),
        ("core/limitranges", (Value::Null, plain.clone())),
        ("core/endpoints", (Value::Null, plain.clone())),
        ("discovery.k8s.io/endpointslices", (plain.clone(), plain.clone())),
        ("core/pods/binding", (Value::Null, plain.clone())),
        (
            "rbac.authorization.k8s.io/rolebindings",
            (marked.clone(), plain.clone()),
        ),
        (
            "rbac.authorization.k8s.io/rolebindings",
            (plain.clone(), marked.clone()),
        ),
        ("networking.k8s.io/networkpolicies", (owned, plain.clone())),
    ] {
        assert_eq!(
            setup
                .change(&alice(), what, "a", change.clone())
                .await
                .expect_err(what)
                .code,
            403
        );
        assert!(
            setup
                .change(&alice(), what, "plain", (Value::Null, plain.clone()))
                .await
                .is_ok(),
            "no user's namespace"
        );
        let scheduler = UserInfo::component("system:kube-scheduler");
        assert!(setup.change(&scheduler, what, "a", change).await.is_ok());
    }
    let delete = review(
        &alice(),
        Operation::Delete,
        "rbac.authorization.k8s.io/rolebindings",
        "a",
        (marked, Value::Null),
    );
    assert!(setup.run(delete).await.is_err());
    assert!(
        setup
            .change(
                &alice(),
                "networking.k8s.io/networkpolicies",
                "a",
                (Value::Null, plain)
            )
            .await
            .is_ok()
    );
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[tokio::test]
async fn pods_cannot_choose_nodes_or_enter_reserved_ones_even_through_a_controller() {
    let setup = setup();
    let controller = UserInfo::component("system:kube-controller-manager");
    for user in [alice(), controller] {
        let code = async |namespace: &str, spec: Value| {
            setup
                .create(&user, "core/pods", namespace, pod(spec))
                .await
                .map_or_else(|error| error.code, |_| 201)
        };
        assert_eq!(code("a", json!({"nodeName": "n1"})).await, 403);
        assert_eq!(code("plain", json!({"nodeName": "n1"})).await, 201);
        assert_eq!(
            code("a", json!({"tolerations": [{"operator": "Exists"}]})).await,
            403
        );
        assert_eq!(
            code(
                "a",
                json!({"tolerations": [{"key": TENANT_TAINT, "operator": "Exists"}]})
            )
            .await,
            403
        );
        assert_eq!(
            code(
                "a",
                json!({"tolerations": [{"key": "mine", "operator": "Exists"}]})
            )
            .await,
            201
        );
        assert_eq!(
            code("a", json!({"priorityClassName": "system-node-critical"})).await,
            403
        );
        assert_eq!(
            code(
                "team-x",
                json!({"tolerations": [{"key": "other", "operator": "Exists"}]})
            )
            .await,
            403
        );
        assert_eq!(
            code(
                "team-x",
                json!({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]})
            )
            .await,
            201
        );
        assert_eq!(code("team-x", json!({"priorityClassName": "high"})).await, 403);
        assert_eq!(code("team-x", json!({"priorityClassName": "low"})).await, 201);
    }
}

#[tokio::test]
async fn a_tenants_pods_go_to_its_pools() {
    let made = setup()
        .create(&dev(), "core/pods", "team-x", pod(json!({})))
        .await
        .expect("made");
    expect_test::expect![[r#"{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"mainstay.dev/pool","operator":"In","values":["pool-a"]}]}]}}}"#]]
        .assert_eq(&made["spec"]["affinity"].to_string());
    let keys: Vec<&str> = made["spec"]["tolerations"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|t| t["key"].as_str())
        .collect();
    assert_eq!(keys, ["gpu", TENANT_TAINT]);
}

#[tokio::test]
async fn published_names_and_storage_stay_within_the_tenants_lists() {
    let setup = setup();
    let code = async |what: &str, spec: Value| {
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        setup
            .create(&dev(), what, "team-x", object)
            .await
            .map_or_else(|error| error.code, |_| 201)
    };
    let ingress = "networking.k8s.io/ingresses";
    assert_eq!(
        code(
            ingress,
            json!({"ingressClassName": "nginx", "rules": [{"host": "web.team.example"}]})
        )
        .await,
        201
    );
    assert_eq!(
        code(
            ingress,
            json!({"ingressClassName": "nginx", "rules": [{"host": "web.else.example"}]})
        )
        .await,
        403
    );
    assert_eq!(
        code(
            ingress,
            json!({"ingressClassName": "other", "rules": [{"host": "web.team.example"}]})
        )
        .await,
        403
    );
    assert_eq!(code(ingress, json!({"rules": [{}]})).await, 403);
    setup.world.put("networking.k8s.io/ingresses", json!({
        "metadata": {"name": "i", "namespace": "other"}, "spec": {"rules": [{"host": "taken.team.example"}]},
    }));
    assert_eq!(
        code(ingress, json!({"rules": [{"host": "taken.team.example"}]})).await,
        403
    );
    assert_eq!(
        code("core/services", json!({"externalIPs": ["10.0.0.1"]})).await,
        403
    );
    assert_eq!(
        code("core/persistentvolumeclaims", json!({"storageClassName": "fast"})).await,
        403
    );
    assert_eq!(
        code("core/persistentvolumeclaims", json!({"storageClassName": "slow"})).await,
        201
    );
}

#[tokio::test]
async fn a_tenants_quota_counts_all_its_namespaces() {
    let setup = setup();
    setup.world.put(
        "core/namespaces",
        json!({"metadata": {"name": "team-y", "labels": {TENANT_LABEL: "team"}}}),
    );
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "400m"}}}]});
    setup.world.put(
        "core/pods",
        json!({"metadata": {"name": "p0", "namespace": "team-y"}, "spec": spec}),
    );
    let asked = |namespace: &str| {
        review(
            &dev(),
            Operation::Create,
            "core/pods",
            namespace,
            (Value::Null, pod(spec.clone())),
        )
    };
    let charged = setup
        .tenancy
        .charge
        .charge(&asked("team-x"), &*setup.world)
        .await
        .expect("it fits");
    assert_eq!(
        charged[0].value["status"]["used"],
        json!({"pods": "2", "requests.cpu": "800m"})
    );
    setup.world.put("mainstay.dev/tenants", charged[0].value.clone());
    assert_eq!(
        setup
            .tenancy
            .charge
            .charge(&asked("team-y"), &*setup.world)
            .await
            .expect_err("too much")
            .message,
        "pods \"p\" is forbidden: exceeded quota: tenant team, requested: pods=1,requests.cpu=400m, used: pods=2,requests.cpu=800m, limited: pods=2,requests.cpu=1"
    );
    assert!(
        setup
            .tenancy
            .charge
            .charge(&asked("plain"), &*setup.world)
            .await
            .expect("no tenant")
            .is_empty()
    );
}

fn list_namespaces(user: &UserInfo) -> Attributes<'_> {
    attributes(user, "list", ("", "namespaces", ""), ("", ""))
}

#[tokio::test]
async fn users_see_their_own_namespaces_and_tenants_make_them() {
    let setup = setup();
    let world: Arc<dyn World> = setup.world.clone();
    let alice = alice();
    let visible = setup
        .tenancy
        .list_filter
        .filter(&list_namespaces(&alice), &world)
        .expect("she has one");
    let names: Vec<String> = world
        .list("core/namespaces", None)
        .iter()
        .filter(|object| visible(object))
        .map(|object| object.name().into_owned())
        .collect();
    assert_eq!(names, ["a"]);
    let nobody = UserInfo::new("nobody", Vec::<String>::new());
    assert!(
        setup
            .tenancy
            .list_filter
            .filter(&list_namespaces(&nobody), &world)
            .is_none()
    );
    let create = |user: &'_ UserInfo| {
        let user = user.clone();
        let authorize = setup.tenancy.authorize.clone();
        async move {
            authorize
                .authorize(&attributes(&user, "create", ("", "namespaces", ""), ("", "x")))
                .await
        }
    };
    assert_eq!(create(&dev()).await, Decision::Allow);
    assert_ne!(create(&alice).await, Decision::Allow);
}
