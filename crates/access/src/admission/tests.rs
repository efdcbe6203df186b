//! The chain over a small world.

use std::sync::Arc;

use mainstay_base::clock::FakeClock;
use serde_json::{Value, json};

use super::*;
use crate::memory_world::MemoryWorld;
use crate::user::UserInfo;

struct Setup {
    world: Arc<MemoryWorld>,
    chain: Chain,
}

fn setup() -> Setup {
    let world = Arc::new(MemoryWorld::default());
    for (name, labels) in [
        ("a", json!({})),
        (
            "strict",
            json!({"pod-security.kubernetes.io/enforce": "restricted"}),
        ),
    ] {
        world.put(
            "core/namespaces",
            json!({"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}}),
        );
        world.put(
            "core/serviceaccounts",
            json!({"metadata": {"name": "default", "namespace": name}}),
        );
    }
    world.put(
        "core/namespaces",
        json!({"metadata": {"name": "ending"}, "status": {"phase": "Terminating"}}),
    );
    for object in mainstay_policy::bootstrap::objects() {
        world.put(
            &format!("rbac.authorization.k8s.io/{}", object.resource),
            object.body,
        );
    }
    let authorizer = Arc::new(Authorizer::new(world.clone()));
    let chain = Chain::standard(&Options::new(authorizer, FakeClock::new()), []);
    Setup { world, chain }
}

fn review(operation: Operation, (group, resource): (&str, &str), namespace: &str, object: Value) -> Review {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Review {
        operation,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        kind: "Pod".into(),
        namespace: namespace.into(),
        name: object["metadata"]["name"].as_str().unwrap_or_default().into(),
        user: Arc::new(UserInfo::new("alice", ["devs"])),
        object,
        old: Value::Null,
        options: Value::Null,
        dry_run: false,
        warnings: Vec::new(),
    }
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

impl Setup {
    async fn run(&self, mut review: Review) -> ApiResult<Review> {
        self.chain.mutate(&mut review, &*self.world).await?;
        self.chain.validate(&mut review, &*self.world).await?;
        Ok(review)
    }

    async fn create(&self, namespace: &str, object: Value) -> ApiResult<Review> {
        self.run(review(Operation::Create, ("", "pods"), namespace, object))
            .await
    }
}

#[tokio::test]
async fn a_plain_pod_gets_account_token_priority_and_tolerations() {
    let setup = setup();
    let done = setup.create("a", pod(json!({}))).await.expect("admitted");
    let spec = &done.object["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priority"]),
        (&json!("default"), &json!(0))
    );
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    assert_eq!(
        spec["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let keys: Vec<&str> = items(&spec["tolerations"])
        .filter_map(|t| t["key"].as_str())
        .collect();
    assert_eq!(
        keys,
        ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    );
    let declined = setup
        .create("a", pod(json!({"automountServiceAccountToken": false})))
        .await
        .expect("admitted");
    assert!(declined.object["spec"]["volumes"].is_null());
    let requests = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
    let burstable = setup
        .create("a", pod(json!({"containers": requests})))
        .await
        .expect("admitted");
    assert_eq!(
        burstable.object["spec"]["tolerations"][2]["key"],
        "node.kubernetes.io/memory-pressure"
    );
}

#[tokio::test]
async fn refusals_have_upstreams_codes() {
    let setup = setup();
    let refusal =
        async |namespace: &str, spec: Value| setup.create(namespace, pod(spec)).await.expect_err("refused");
    assert_eq!(refusal("none", json!({})).await.code, 404);
    let ending = refusal("ending", json!({})).await;
    assert_eq!(ending.code, 403);
    assert!(ending.to_status().to_string().contains("NamespaceTerminating"));
    assert_eq!(refusal("a", json!({"priorityClassName": "nope"})).await.code, 403);
    assert_eq!(refusal("a", json!({"priority": 5})).await.code, 403);
    assert_eq!(
        refusal("a", json!({"serviceAccountName": "nope"})).await.code,
        403
    );
    assert_eq!(
        refusal(
            "strict",
            json!({"hostNetwork": true, "automountServiceAccountToken": false})
        )
        .await
        .message,
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), \
         allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile \
         (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let mut delete = review(Operation::Delete, ("", "namespaces"), "", Value::Null);
    delete.name = "kube-system".into();
    assert_eq!(setup.run(delete).await.expect_err("it stays").code, 403);
}

#[tokio::test]
async fn system_classes_are_there_from_the_start() {
    let done = setup()
        .create("a", pod(json!({"priorityClassName": "system-node-critical"})))
        .await
        .expect("admitted");
    assert_eq!(done.object["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn extended_resources_are_whole_and_requests_equal_limits() {
    let setup = setup();
    let code = async |resources: Value| {
        let container = json!([{"name": "c", "resources": resources}]);
        setup
            .create("a", pod(json!({"containers": container})))
            .await
            .map_or_else(|error| error.code, |_| 201)
    };
    assert_eq!(
        code(json!({"limits": {"example.com/foo": "2"}, "requests": {"example.com/foo": "2"}})).await,
        201
    );
    assert_eq!(
        code(json!({"limits": {"example.com/foo": "2"}, "requests": {"example.com/foo": "1"}})).await,
        422
    );
    assert_eq!(code(json!({"limits": {"example.com/foo": "1500m"}})).await, 422);
    assert_eq!(code(json!({"requests": {"example.com/foo": "1"}})).await, 422);
    let node = async |name: &str| {
        let object = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4", "hugepages-2Mi": "0", name: "5"}}});
        let done = setup
            .run(review(Operation::Update, ("", "nodes/status"), "", object))
            .await;
        done.map_or_else(|error| error.code, |_| 200)
    };
    assert_eq!(
        (
            node("example.com/foo").await,
            node("kubernetes.io/foo").await,
            node("foo").await
        ),
        (200, 422, 422)
    );
}

fn by_node(operation: Operation, resource: &str, old: Value, object: Value) -> Review {
    let mut asked = review(operation, ("", resource), "", object);
    let mut node = UserInfo::new("system:node:n1", ["system:nodes"]);
    node.extra
        .insert(crate::authz::INCARNATION_EXTRA.into(), vec!["4".into()]);
    asked.user = Arc::new(node);
    asked.old = old;
    asked
}

#[tokio::test]
async fn a_node_writes_its_own_node_without_raising_itself() {
    let setup = setup();
    let object = |labels: Value| json!({"metadata": {"name": "n1", "labels": labels}});
    let done = setup
        .run(by_node(
            Operation::Create,
            "nodes",
            Value::Null,
            object(json!({"kubernetes.io/hostname": "n1"})),
        ))
        .await;
    let done = done.expect("admitted");
    assert_eq!(
        done.object["metadata"]["annotations"]["mainstay.dev/incarnation"],
        "4"
    );
    assert_eq!(
        done.object["spec"]["taints"][0]["key"],
        "node.kubernetes.io/not-ready"
    );
    for label in [
        "node-restriction.kubernetes.io/tenant",
        "node-role.kubernetes.io/control-plane",
        "mainstay.dev/pool",
    ] {
        let asked = by_node(
            Operation::Update,
            "nodes",
            object(json!({})),
            object(json!({label: "x"})),
        );
        assert_eq!(setup.run(asked).await.expect_err(label).code, 403);
    }
    let taints = json!({"metadata": {"name": "n1"}, "spec": {"taints": []}});
    assert!(
        setup
            .run(by_node(Operation::Update, "nodes", object(json!({})), taints))
            .await
            .is_err()
    );
    let foreign = by_node(
        Operation::Update,
        "nodes/status",
        Value::Null,
        json!({"metadata": {"name": "n2"}}),
    );
    assert!(setup.run(foreign).await.is_err());
    let status = |node: &str| {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        by_node(Operation::Update, "pods/status", pod.clone(), pod)
    };
    assert!(setup.run(status("n1")).await.is_ok());
    assert!(setup.run(status("n2")).await.is_err());
}

#[tokio::test]
async fn quotas_are_charged_refused_and_given_back() {
    let setup = setup();
    setup.world.put(
        "core/resourcequotas",
        json!({
            "metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1"}},
        }),
    );
    let quotas = Quotas::new(FakeClock::new());
    let asked = |cpu: &str| {
        let container = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        review(
            Operation::Create,
            ("", "pods"),
            "a",
            pod(json!({"containers": container})),
        )
    };
    let charged = quotas
        .charge(&asked("600m"), &*setup.world)
        .await
        .expect("it fits");
    assert_eq!(charged.len(), 1);
    assert_eq!(
        charged[0].value["status"],
        json!({"hard": {"pods": "2", "requests.cpu": "1"}, "used": {"pods": "1", "requests.cpu": "600m"}})
    );
    setup.world.put("core/resourcequotas", charged[0].value.clone());
    assert_eq!(
        quotas
            .charge(&asked("500m"), &*setup.world)
            .await
            .expect_err("too much")
            .message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    let mut without = asked("1");
    without.object = pod(json!({}));
    assert_eq!(
        quotas
            .charge(&without, &*setup.world)
            .await
            .expect_err("it must say")
            .message,
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let mut deleted = asked("600m");
    (deleted.operation, deleted.old) = (Operation::Delete, std::mem::take(&mut deleted.object));
    let charged = quotas.charge(&deleted, &*setup.world).await.expect("giving back");
    assert_eq!(
        charged[0].value["status"]["used"],
        json!({"pods": "0", "requests.cpu": "0"})
    );
}

#[tokio::test]
async fn a_changed_limit_is_counted_afresh() {
    let setup = setup();
    for name in ["x", "y"] {
        setup.world.put(
            "core/configmaps",
            json!({"metadata": {"name": name, "namespace": "a"}}),
        );
    }
    let quota = json!({
        "metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": {"configmaps": "3"}},
        "status": {"hard": {"configmaps": "9"}, "used": {"configmaps": "7"}},
    });
    setup.world.put("core/resourcequotas", quota);
    let map = review(
        Operation::Create,
        ("", "configmaps"),
        "a",
        json!({"metadata": {"name": "z"}}),
    );
    let charged = Quotas::new(FakeClock::new())
        .charge(&map, &*setup.world)
        .await
        .expect("the third fits");
    assert_eq!(charged[0].value["status"]["used"], json!({"configmaps": "3"}));
}

#[tokio::test]
async fn a_new_quota_shows_what_is_used_already() {
    let setup = setup();
    let high = json!({"metadata": {"name": "p0", "namespace": "a"}, "spec": {"priorityClassName": "high",
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "10Gi"}}}]}});
    setup.world.put("core/pods", high);
    let quota = |class: &str| {
        let scope = json!({"scopeName": "PriorityClass", "operator": "In", "values": [class]});
        json!({"metadata": {"name": class}, "spec": {"hard": {"cpu": "1k", "memory": "200Gi", "pods": "10"},
            "scopeSelector": {"matchExpressions": [scope]}}})
    };
    let status = async |class: &str| {
        let asked = review(Operation::Create, ("", "resourcequotas"), "a", quota(class));
        setup.run(asked).await.expect("admitted").object["status"]["used"].clone()
    };
    assert_eq!(
        status("high").await,
        json!({"cpu": "500m", "memory": "10Gi", "pods": "1"})
    );
    assert_eq!(
        status("low").await,
        json!({"cpu": "0", "memory": "0", "pods": "0"})
    );
}

/// Serves one answer to every POST on a loopback port.
async fn webhook(respond: fn(&Value) -> Value) -> String {
    use http_body_util::{BodyExt as _, Full};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/admit", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(
                move |request: hyper::Request<hyper::body::Incoming>| async move {
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let review: Value = serde_json::from_slice(&body).expect("JSON");
                    let mut response = respond(&review["request"]);
                    response["uid"] = review["request"]["uid"].clone();
                    let answer = json!({"response": response}).to_string();
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(bytes::Bytes::from(
                        answer,
                    ))))
                },
            );
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    url
}

fn configuration(kind: &str, name: &str, url: &str, extra: Value) -> (String, Value) {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "clientConfig": {"url": url}, "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 2,
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    });
    for (field, value) in extra.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
    let resource = format!("admissionregistration.k8s.io/{kind}webhookconfigurations");
    (resource, json!({"metadata": {"name": name}, "webhooks": [hook]}))
}

fn label_it(_: &Value) -> Value {
    use base64::Engine as _;
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]).to_string();
    let patch = base64::engine::general_purpose::STANDARD.encode(patch);
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["labelled"]})
}

fn deny_it(_: &Value) -> Value {
    json!({"allowed": false, "status": {"message": "not today", "code": 400}})
}

#[tokio::test]
async fn webhooks_change_and_refuse() {
    let setup = setup();
    let (resource, object) = configuration("mutating", "label", &webhook(label_it).await, json!({}));
    setup.world.put(&resource, object);
    let done = setup.create("a", pod(json!({}))).await.expect("admitted");
    assert_eq!(
        (&done.object["metadata"]["labels"]["seen"], done.warnings),
        (&json!("yes"), vec!["labelled".to_string()])
    );
    let condition =
        json!({"matchConditions": [{"name": "named-q", "expression": "object.metadata.name == 'q'"}]});
    let (resource, object) = configuration("validating", "deny", &webhook(deny_it).await, condition);
    setup.world.put(&resource, object);
    assert!(setup.create("a", pod(json!({}))).await.is_ok());
    let mut named = pod(json!({}));
    named["metadata"]["name"] = json!("q");
    let refused = setup.create("a", named).await.expect_err("denied");
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            400,
            "admission webhook \"deny.example.com\" denied the request: not today"
        )
    );
}

#[tokio::test]
async fn a_dead_webhook_follows_its_policy() {
    let setup = setup();
    let dead = "http://127.0.0.1:1/";
    let (resource, object) = configuration("validating", "dead", dead, json!({"failurePolicy": "Ignore"}));
    setup.world.put(&resource, object);
    assert!(setup.create("a", pod(json!({}))).await.is_ok());
    let (resource, object) = configuration("validating", "dead", dead, json!({}));
    setup.world.put(&resource, object);
    assert_eq!(
        setup.create("a", pod(json!({}))).await.expect_err("fails").code,
        500
    );
}

#[tokio::test]
async fn a_pod_gets_the_overhead_of_its_runtime_class_and_goes_where_that_runs() {
    let setup = setup();
    setup.world.put(
        "node.k8s.io/runtimeclasses",
        json!({"metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"memory": "120Mi", "cpu": "250m"}},
            "scheduling": {"nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
    );
    let done = setup.create("a", pod(json!({"runtimeClassName": "vm"}))).await;
    let spec = done.expect("admitted").object["spec"].clone();
    assert_eq!(spec["overhead"], json!({"memory": "120Mi", "cpu": "250m"}));
    assert_eq!(spec["nodeSelector"], json!({"kvm": "yes"}));
    assert!(items(&spec["tolerations"]).any(|t| t["key"] == "vm"));

    let same = json!({"runtimeClassName": "vm", "overhead": {"memory": "122880Ki", "cpu": "0.25"}});
    setup.create("a", pod(same)).await.expect("the same amounts");
    let refusal = async |spec: Value| setup.create("a", pod(spec)).await.expect_err("refused").message;
    let cases = [
        (
            json!({"runtimeClassName": "none"}),
            "pod rejected: RuntimeClass \"none\" not found",
        ),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"kvm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no",
        ),
    ];
    for (spec, why) in cases {
        let message = refusal(spec).await;
        assert!(message.ends_with(why), "{message}");
    }
}
