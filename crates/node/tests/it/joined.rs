//! Pods of an API server: registered, run, reported, refused, deleted.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use mainstay_testkit::{UserInfo, admin, plane};
use serde_json::json;

use crate::machine::{Agent, BUSYBOX, eventually, on_machine};

const LIMIT: Duration = Duration::from_secs(60);

fn node_user(name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".into(), "system:authenticated".into()],
        ..Default::default()
    }
}

fn condition(node: &Node, kind: &str) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| c.status.clone())
}

/// A pod on n1 that ends a second after it is told to.
pub fn pod(name: &str, spec: serde_json::Value) -> Pod {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    spec["terminationGracePeriodSeconds"] = json!(1);
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
        .expect("a pod")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

#[test]
fn pods_of_the_api_server_run_report_and_go() {
    on_machine(async |machine| {
        let plane = plane().await;
        let client = admin(&plane);
        let mut settings = machine.settings("n1");
        settings.join.ca_bundle = plane.ca_pem().to_owned();
        settings.client = Some(plane.client(node_user("n1")));
        let agent = Agent::start(settings);

        let nodes: Api<Node> = Api::all(client.clone());
        eventually("the node is ready", LIMIT, async || {
            let node = nodes.get_opt("n1").await.ok().flatten()?;
            (condition(&node, "Ready").as_deref() == Some("True")).then_some(())
        })
        .await;
        let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
        eventually("the lease", LIMIT, async || {
            let lease = leases.get_opt("n1").await.ok().flatten()?;
            lease.spec?.renew_time
        })
        .await;

        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let map = serde_json::from_value(json!({"metadata": {"name": "conf"}, "data": {"colour": "blue"}}))
            .expect("a map");
        maps.create(&PostParams::default(), &map).await.expect("created");
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
        let secret =
            serde_json::from_value(json!({"metadata": {"name": "key"}, "data": {"word": "c2VzYW1l"}}))
                .expect("a secret");
        secrets
            .create(&PostParams::default(), &secret)
            .await
            .expect("created");
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let web = pod(
            "web",
            json!({
            "containers": [{"name": "a", "image": BUSYBOX, "command": ["sh", "-c", "echo $COLOUR $(cat /s/word); sleep 1000"],
                "env": [{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "colour"}}}],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/s/word"]}, "periodSeconds": 1},
                "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "key"}}]}),
        );
        let created = pods.create(&PostParams::default(), &web).await.expect("created");
        let running = eventually("the pod is ready", LIMIT, async || {
            pods.get("web").await.ok().filter(is_ready)
        })
        .await;
        let status = running.status.as_ref().expect("a status");
        assert_eq!(phase(&running), "Running");
        assert!(
            status
                .pod_ip
                .as_deref()
                .is_some_and(|ip| ip.starts_with("10.88.0.")),
            "{status:?}"
        );
        let log = machine.path(&format!(
            "log/pods/default_web_{}/a/0.log",
            created.metadata.uid.as_deref().unwrap_or("")
        ));
        assert!(
            std::fs::read_to_string(log)
                .expect("a log")
                .contains("blue sesame")
        );

        let params = LogParams::default();
        assert_eq!(pods.logs("web", &params).await.expect("a log"), "blue sesame\n");

        let big = pod(
            "big",
            json!({"containers": [{"name": "a", "image": BUSYBOX, "resources": {"requests": {"cpu": "1000"}}}]}),
        );
        pods.create(&PostParams::default(), &big).await.expect("created");
        let refused = eventually("the large pod is refused", LIMIT, async || {
            pods.get("big").await.ok().filter(|p| phase(p) == "Failed")
        })
        .await;
        let status = refused.status.as_ref().expect("a status");
        assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
        let message = status.message.as_deref().unwrap_or("");
        assert!(
            message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: "),
            "{message}"
        );

        let once = pod(
            "once",
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": BUSYBOX,
            "command": ["sh", "-c", "echo why > /dev/termination-log; exit 3"]}]}),
        );
        pods.create(&PostParams::default(), &once).await.expect("created");
        let failed = eventually("the failing pod ends", LIMIT, async || {
            pods.get("once").await.ok().filter(|p| phase(p) == "Failed")
        })
        .await;
        let text = serde_json::to_string(&failed.status).expect("text");
        assert!(
            text.contains(r#""exitCode":3"#) && text.contains(r#""message":"why\n""#),
            "{text}"
        );

        pods.delete("web", &DeleteParams::default())
            .await
            .expect("deleted");
        eventually("the pod is gone", LIMIT, async || {
            pods.get_opt("web").await.ok()?.is_none().then_some(())
        })
        .await;
        let events: Api<Event> = Api::namespaced(client.clone(), "default");
        let reasons = eventually("events", LIMIT, async || {
            let list = events.list(&ListParams::default()).await.ok()?;
            let reasons: Vec<String> = list.items.into_iter().filter_map(|e| e.reason).collect();
            reasons.iter().any(|r| r == "Killing").then_some(reasons)
        })
        .await;
        for reason in ["Pulled", "Created", "Started", "OutOfcpu"] {
            assert!(reasons.iter().any(|r| r == reason), "{reason} in {reasons:?}");
        }
        agent.stop().await;
        plane.stop().await;
    });
}
