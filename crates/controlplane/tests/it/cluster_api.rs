//! The published definitions of Cluster API install and behave: defaults, rules, patterns, pruning, scale, status, columns.

use std::time::Duration;

use mainstay_base::testdata;
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::plane;
use serde_json::{Value, json};

use crate::raw::{Answer, get_accepting, send};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LIMIT: Duration = Duration::from_secs(30);

fn group(kind: &str) -> String {
    format!("/apis/cluster.x-k8s.io/v1beta2/namespaces/default/{kind}")
}

async fn install(plane: &ControlPlane) -> usize {
    let folder = testdata::shared_dir().join("data/cluster-api-crds");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let text = std::fs::read_to_string(entry.expect("it can be read").path()).expect("text");
        let made = send(plane, &format!("POST {DEFINITIONS} application/yaml"), text).await;
        assert_eq!(made.told(), "201", "{}", made.json());
        names.push(
            made.json()["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_string(),
        );
    }
    let established = async {
        for name in &names {
            while !is_established(&send(plane, &format!("GET {DEFINITIONS}/{name}"), "").await.json()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(LIMIT, established)
        .await
        .expect("all are established in time");
    names.len()
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut ready = conditions.filter(|one| one["type"] == "Established" || one["type"] == "NamesAccepted");
    ready.clone().count() == 2 && ready.all(|one| one["status"] == "True")
}

fn cluster(name: &str, spec: Value) -> String {
    json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn template() -> Value {
    let reference = |kind: &str, group: &str| json!({"kind": kind, "name": "x", "apiGroup": group});
    json!({"spec": {
        "clusterName": "c", "bootstrap": {"configRef": reference("KubeadmConfigTemplate", "bootstrap.cluster.x-k8s.io")},
        "infrastructureRef": reference("ComputeNodeTemplate", "mainstay.dev"),
    }})
}

fn causes(answer: &Answer) -> Vec<String> {
    let status = answer.json();
    let list = status["details"]["causes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |cause: &Value, key: &str| cause[key].as_str().unwrap_or_default().to_string();
    list.iter()
        .map(|cause| format!("{} {}", text(cause, "reason"), text(cause, "field")))
        .collect()
}

#[tokio::test]
async fn cluster_api_definitions_install_and_behave() {
    let plane = plane().await;
    assert!(install(&plane).await >= 12);
    clusters(&plane).await;
    deployments(&plane).await;
    rules(&plane).await;
    plane.stop().await;
}

async fn clusters(plane: &ControlPlane) {
    let create = format!("POST {} application/json", group("clusters"));
    let spec = json!({"paused": false, "controlPlaneEndpoint": {"host": "h", "port": 6443}, "nonsense": 1});
    let made = send(plane, &create, cluster("c", spec.clone())).await;
    assert_eq!(made.told(), "201", "{}", made.json());
    assert_eq!(
        made.json()["spec"].get("nonsense"),
        None,
        "unknown fields are pruned"
    );
    assert_eq!(made.json()["metadata"]["generation"], 1);
    let warned = made
        .headers
        .get("warning")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    assert!(warned.contains("unknown field \\\"spec.nonsense\\\""), "{warned}");
    let strict = send(
        plane,
        &create.replace("clusters ", "clusters?fieldValidation=Strict "),
        cluster("d", spec),
    )
    .await;
    assert_eq!(strict.told(), "400 BadRequest");
    let bad =
        json!({"controlPlaneEndpoint": {"host": "", "port": 70_000}, "clusterNetwork": {"serviceDomain": 7}});
    let refused = send(plane, &create, cluster("d", bad)).await;
    assert_eq!(refused.told(), "422 Invalid", "{}", refused.json());
    let table = get_accepting(
        plane,
        &group("clusters"),
        "application/json;as=Table;v=v1;g=meta.k8s.io",
    )
    .await
    .json();
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert!(
        columns.len() == 17 && columns[0] == "Name" && columns.contains(&"Phase"),
        "{columns:?}"
    );
    let older = send(
        plane,
        "GET /apis/cluster.x-k8s.io/v1beta1/namespaces/default/clusters/c",
        "",
    )
    .await;
    assert_eq!(older.json()["apiVersion"], "cluster.x-k8s.io/v1beta1");
    let status = json!({"status": {"phase": "Provisioned"}, "spec": {"paused": true}}).to_string();
    let patched = send(
        plane,
        &format!(
            "PATCH {}/c/status application/merge-patch+json",
            group("clusters")
        ),
        status,
    )
    .await;
    let now = patched.json();
    assert_eq!(
        (&now["status"]["phase"], &now["spec"]["paused"]),
        (&json!("Provisioned"), &json!(false))
    );
    assert_eq!(
        now["metadata"]["generation"], 1,
        "a status write counts no generation"
    );
}

async fn deployments(plane: &ControlPlane) {
    let create = format!("POST {} application/json", group("machinedeployments"));
    let object = json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment", "metadata": {"name": "md"},
        "spec": {"clusterName": "c", "replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template()},
    });
    let made = send(plane, &create, object.to_string()).await;
    assert_eq!(made.told(), "201", "{}", made.json());
    let scale = format!("{}/md/scale", group("machinedeployments"));
    let read = send(plane, &format!("GET {scale}"), "").await.json();
    assert_eq!(
        (&read["kind"], &read["spec"]["replicas"]),
        (&json!("Scale"), &json!(2))
    );
    let change = json!({"spec": {"replicas": 5}}).to_string();
    let scaled = send(
        plane,
        &format!("PATCH {scale} application/merge-patch+json"),
        change,
    )
    .await;
    assert_eq!(scaled.json()["spec"]["replicas"], 5, "{}", scaled.json());
    let after = send(plane, &format!("GET {}/md", group("machinedeployments")), "")
        .await
        .json();
    assert_eq!(
        (&after["spec"]["replicas"], &after["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
    let strategic = format!(
        "PATCH {}/md application/strategic-merge-patch+json",
        group("machinedeployments")
    );
    assert_eq!(
        send(plane, &strategic, "{}").await.told(),
        "415 UnsupportedMediaType"
    );
    let mut missing = object;
    missing["metadata"]["name"] = "other".into();
    missing["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("template"));
    let refused = send(plane, &create, missing.to_string()).await;
    assert_eq!(causes(&refused), ["FieldValueRequired spec.template"]);
}

async fn rules(plane: &ControlPlane) {
    let check = |kind: &str| {
        json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineHealthCheck", "metadata": {"name": "mhc"},
            "spec": {
                "clusterName": "c", "selector": {"matchLabels": {"a": "b"}},
                "checks": {"unhealthyMachineConditions": [{"type": kind, "status": "False", "timeoutSeconds": 10}]},
            },
        })
        .to_string()
    };
    let create = format!("POST {} application/json", group("machinehealthchecks"));
    let refused = send(plane, &create, check("Ready")).await;
    assert_eq!(refused.told(), "422 Invalid", "{}", refused.json());
    let field = "FieldValueInvalid spec.checks.unhealthyMachineConditions[0].type";
    assert_eq!(
        causes(&refused),
        [field],
        "a rule refuses what upstream's refuses"
    );
    assert_eq!(send(plane, &create, check("Rebooted")).await.told(), "201");
    let drain = |selectors: Value| {
        let spec = json!({"drain": {"behavior": "Drain", "order": 1}, "machines": selectors});
        json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDrainRule", "metadata": {"name": "r"}, "spec": spec}).to_string()
    };
    let create = format!("POST {} application/json", group("machinedrainrules"));
    let one = json!({"selector": {"matchLabels": {"a": "b"}}});
    let twice = send(plane, &create, drain(json!([one, one]))).await;
    assert_eq!(
        causes(&twice),
        ["FieldValueInvalid spec.machines"],
        "{}",
        twice.json()
    );
    assert_eq!(send(plane, &create, drain(json!([one]))).await.told(), "201");
}
