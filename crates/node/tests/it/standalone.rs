//! Static pods on a node that has no API server at all.

use std::time::Duration;

use mainstay_node::cri::runtime_v1 as v1;

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};

const LIMIT: Duration = Duration::from_secs(60);

pub async fn running(machine: &Machine) -> Vec<v1::Container> {
    let state = v1::ContainerStateValue {
        state: v1::ContainerState::ContainerRunning as i32,
    };
    let filter = v1::ContainerFilter {
        state: Some(state),
        ..Default::default()
    };
    let listed = machine
        .cri()
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await;
    listed.map(|l| l.containers).unwrap_or_default()
}

#[test]
fn a_static_pod_runs_survives_the_agent_and_goes_with_its_file() {
    on_machine(async |machine| {
        machine.manifest(
            "web.yaml",
            &format!(
                r#"
metadata: {{name: web, namespace: kube-system, annotations: {{note: hello}}}}
spec:
  initContainers:
  - {{name: prepare, image: "{BUSYBOX}", command: [sh, -c, "echo prepared > /data/state"], volumeMounts: [{{name: data, mountPath: /data}}]}}
  containers:
  - name: app
    image: "{BUSYBOX}"
    command: [sh, -c, "cat /data/state; echo $(GREETING) from $(NODE); trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    env:
    - {{name: GREETING, value: hi}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    resources: {{requests: {{cpu: 100m, memory: 16Mi}}, limits: {{cpu: 200m, memory: 32Mi}}}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes:
  - {{name: data, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
"#
            ),
        );
        let agent = Agent::start(machine.settings("n1"));
        let container = eventually("the container runs", LIMIT, async || {
            let is_app = |c: &v1::Container| c.metadata.as_ref().is_some_and(|m| m.name == "app");
            running(machine).await.into_iter().find(is_app)
        })
        .await;
        let log = eventually("the log", LIMIT, async || {
            let dir = std::fs::read_dir(machine.path("log/pods"))
                .ok()?
                .flatten()
                .next()?;
            let text = std::fs::read_to_string(dir.path().join("app/0.log")).ok()?;
            text.contains("hi from n1").then_some(text)
        })
        .await;
        assert!(log.contains(" stdout F prepared\n"), "{log}");
        let uid = &container.labels["io.kubernetes.pod.uid"];
        let cgroup = format!("{}/kubepods/burstable/pod{uid}", machine.cgroup_root());
        let shares =
            std::fs::read_to_string(format!("/sys/fs/cgroup/cpu{cgroup}/cpu.shares")).expect("a cgroup");
        assert_eq!(shares.trim(), "102");

        agent.stop().await;
        let agent = Agent::start(machine.settings("n1"));
        machine.manifest("second.yaml", &format!(
            "metadata: {{name: second}}\nspec: {{hostNetwork: true, containers: [{{name: a, image: '{BUSYBOX}', command: [sleep, '1000']}}], terminationGracePeriodSeconds: 1}}"
        ));
        let both = eventually("the second pod", LIMIT, async || {
            Some(running(machine).await).filter(|r| r.len() == 2)
        })
        .await;
        assert!(
            both.iter().any(|c| c.id == container.id),
            "the first container was adopted"
        );

        machine.remove_manifest("web.yaml");
        eventually("the first pod is gone", LIMIT, async || {
            let left = running(machine).await;
            let there = std::path::Path::new(&format!("/sys/fs/cgroup/cpu{cgroup}")).exists();
            (left.len() == 1 && !there && !machine.path("kubelet/pods").join(uid).exists()).then_some(())
        })
        .await;
        agent.stop().await;
    });
}

/// Sends one request to the node's API and returns the whole answer.
pub async fn request(port: u16, text: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(mainstay_pki::any_server())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
        return String::new();
    };
    let name = rustls::pki_types::ServerName::try_from("n1").expect("a name");
    let mut stream = connector.connect(name, stream).await.expect("secured");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn the_serving_api_gives_logs_runs_commands_and_streams() {
    on_machine(async |machine| {
        machine.manifest(
            "web.yaml",
            &format!(
                "metadata: {{name: web}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{{name: a, image: '{BUSYBOX}', command: [sh, -c, 'echo one; echo two; sleep 1000']}}]}}"
            ),
        );
        let mut settings = machine.settings("n1");
        settings.kubelet.authorization.mode = "AlwaysAllow".into();
        settings.kubelet.authentication.anonymous.enabled = true;
        settings.kubelet.port = free_port();
        let port = settings.kubelet.port;
        let agent = Agent::start(settings);
        let get = async |path: &str| {
            request(
                port,
                &format!("GET {path} HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n"),
            )
            .await
        };
        eventually("the log is served", LIMIT, async || {
            let answer = get("/containerLogs/default/web-n1/a?tailLines=1").await;
            (answer.contains("two\n") && !answer.contains("one\n")).then_some(())
        })
        .await;
        let ran = request(port, "POST /run/default/web-n1/a?cmd=cat%20/etc/hostname HTTP/1.1\r\nhost: n1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert!(ran.contains("web-n1\n"), "{ran}");
        let upgraded = request(
            port,
            "POST /exec/default/web-n1/a?command=true&output=1 HTTP/1.1\r\nhost: n1\r\nconnection: upgrade\r\n\
             upgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\ncontent-length: 0\r\n\r\n",
        );
        let upgraded = tokio::time::timeout(Duration::from_secs(5), upgraded);
        // The runtime waits for streams that this test does not open; what counts is that it was reached.
        if let Ok(answer) = upgraded.await {
            assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        }
        let checkpoint = async |container: &str| {
            let path = format!("/checkpoint/default/web-n1/{container}");
            let head = "HTTP/1.1\r\nhost: n1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            request(port, &format!("POST {path} {head}")).await
        };
        let refused = checkpoint("a").await;
        // containerd learns it with 2.0: what counts is who said no, to what.
        let text = "checkpointing of default/web-n1/a failed (";
        assert!(
            refused.starts_with("HTTP/1.1 404")
                && refused.contains(text)
                && refused.contains("CheckpointContainer"),
            "{refused}"
        );
        let unknown = checkpoint("b").await;
        assert!(
            unknown.starts_with("HTTP/1.1 404") && unknown.contains("container not found (\"b\")"),
            "{unknown}"
        );
        let summary = get("/stats/summary").await;
        let (_, body) = summary.split_once("\r\n\r\n").expect("a body");
        let told: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let pods = told["pods"].as_array().expect("pods");
        let web = pods
            .iter()
            .find(|pod| pod["podRef"]["name"] == "web-n1")
            .expect("the pod");
        assert!(web["memory"]["workingSetBytes"].as_u64() > Some(0), "{web:#}");
        assert!(
            web["network"]["rxBytes"].is_u64() && web["network"]["name"] == "eth0",
            "{web:#}"
        );
        assert!(
            told["node"]["runtime"]["imageFs"]["capacityBytes"].as_u64() > Some(0),
            "{told:#}"
        );
        assert!(
            told["node"]["startTime"].as_str() < told["node"]["memory"]["time"].as_str(),
            "{told:#}"
        );
        let metrics = get("/metrics/resource").await;
        assert!(
            metrics.contains(
                "container_memory_working_set_bytes{container=\"a\",namespace=\"default\",pod=\"web-n1\"}"
            ),
            "{metrics}"
        );
        assert!(metrics.contains("\nresource_scrape_error 0\n"), "{metrics}");
        let series = get("/metrics/cadvisor").await;
        let of_container = "container=\"a\",id=\"/";
        for (name, labels) in [
            ("container_cpu_usage_seconds_total", of_container),
            ("container_memory_rss", of_container),
            ("container_memory_cache", of_container),
            ("container_cpu_user_seconds_total", "container=\"\",id=\"/\""),
            ("container_network_receive_bytes_total", "container=\"\",id=\"/"),
        ] {
            let start = format!("{name}{{{labels}");
            let found = series.lines().find(|line| line.starts_with(&start));
            let found = found.unwrap_or_else(|| panic!("no {start} in {series}"));
            let value: f64 = found
                .rsplit(' ')
                .next()
                .expect("a value")
                .parse()
                .expect("a number");
            assert!(value >= 0.0, "{found}");
        }
        // Recording rules take only series that have an image.
        assert!(series.contains("image=\"mainstay.local/busybox:1\""), "{series}");
        let own = get("/metrics").await;
        for series in [
            "kubelet_running_pods 1\n",
            "kubelet_running_containers{container_state=\"running\"} 1\n",
            "process_cpu_seconds_total ",
        ] {
            assert!(own.contains(series), "{series}: {own}");
        }
        assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));
        agent.stop().await;
    });
}
