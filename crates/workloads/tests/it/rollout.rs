//! Deployments, Jobs, Services, garbage and namespaces through the API.

use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::world::world;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": template("v1")}})
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_serves_and_leaves_nothing_behind() {
    let world = world().await;
    world
        .create("Namespace", "", json!({"metadata": {"name": "shop"}}))
        .await;
    world
        .until("the account", "ServiceAccount", "shop", |all| {
            all.iter().any(|one| one["metadata"]["name"] == "default")
        })
        .await;
    world
        .until("the CA", "ConfigMap", "shop", |all| {
            all.iter().any(|one| one["data"]["ca.crt"] == "pem")
        })
        .await;
    world.create("Deployment", "shop", deployment(3)).await;
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.create("Service", "shop", service).await;
    let complete = |all: &[Value]| {
        all.iter().any(|one| {
            let status = &one["status"];
            status["updatedReplicas"] == 3
                && status["availableReplicas"] == 3
                && status["replicas"] == 3
                && status["observedGeneration"] == one["metadata"]["generation"]
        })
    };
    world
        .until_running("the first rollout", "Deployment", "shop", complete)
        .await;
    let three =
        |all: &[Value]| all.len() == 1 && all[0]["endpoints"].as_array().is_some_and(|list| list.len() == 3);
    world
        .until("three endpoints", "EndpointSlice", "shop", three)
        .await;

    world
        .patch(
            "Deployment",
            "shop",
            "web",
            "",
            json!({"spec": {"template": template("v2")}}),
        )
        .await;
    world
        .until_running("the second rollout", "Deployment", "shop", complete)
        .await;
    world
        .until("only new pods", "Pod", "shop", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| image(pod) == "v2")
        })
        .await;
    let web = world.get("Deployment", "shop", "web").await;
    assert_eq!(
        web["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "2"
    );

    world
        .api("Deployment", "shop")
        .delete("web", &DeleteParams::foreground())
        .await
        .expect("a delete");
    for kind in ["Deployment", "ReplicaSet", "Pod"] {
        world
            .until("nothing left", kind, "shop", <[Value]>::is_empty)
            .await;
    }
    world.create("Deployment", "shop", deployment(1)).await;
    world
        .until("a pod again", "Pod", "shop", |pods| pods.len() == 1)
        .await;
    world
        .api("Namespace", "")
        .delete("shop", &DeleteParams::default())
        .await
        .expect("a delete");
    world
        .until("the namespace is gone", "Namespace", "", |all| {
            all.iter().all(|one| one["metadata"]["name"] != "shop")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_when_its_pods_have() {
    let world = world().await;
    let template = json!({"metadata": {"labels": {"app": "job"}}, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "v1"}]}});
    let job = json!({"metadata": {"name": "sum"}, "spec": {"completions": 3, "parallelism": 2, "template": template}});
    world.create("Job", "default", job).await;
    for round in 1..=3 {
        let active = |pods: &[Value]| pods.iter().any(|pod| pod["status"]["phase"] == "Pending");
        world.until("a pod", "Pod", "default", active).await;
        let pods = world.list("Pod", "default").await;
        let pending = pods
            .iter()
            .find(|pod| pod["status"]["phase"] == "Pending")
            .expect("it was there");
        let name = pending["metadata"]["name"].as_str().expect("a name");
        world
            .patch(
                "Pod",
                "default",
                name,
                "status",
                json!({"status": {"phase": "Succeeded"}}),
            )
            .await;
        let counted = |jobs: &[Value]| jobs.iter().any(|job| job["status"]["succeeded"] == round);
        world.until("the pod is counted", "Job", "default", counted).await;
    }
    let complete = |jobs: &[Value]| {
        jobs[0]["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["type"] == "Complete"))
    };
    world
        .until("the job is complete", "Job", "default", complete)
        .await;
}
