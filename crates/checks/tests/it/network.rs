//! The nodes' network on local machines: pods of different nodes, Services, names, the API from within.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::support::{Installation, ready_nodes};
use crate::tools::{Said, apply, kubectl, try_kubectl, wait, wait_told};

const LIMIT: Duration = Duration::from_secs(60);

/// A server on one node and a client on the other.
fn manifest(server_node: &str, client_node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}}}
spec:
  nodeName: {server_node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: mainstay.local/busybox:1
    command: [sh, -c, 'mkdir /tmp/www; echo $HOSTNAME serves > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www']
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  nodeName: {client_node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: mainstay.local/busybox:1
    command: [sleep, '100000']
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: server}}
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: headless}}
spec:
  clusterIP: None
  selector: {{app: server}}
  ports: [{{name: http, port: 8080}}]
"
    )
}

fn within(demo: &Path, pod: &str, command: &str) -> Said {
    try_kubectl(demo, &["exec", pod, "--", "sh", "-c", command])
}

fn eventually(demo: &Path, pod: &str, command: &str, holds: impl Fn(&Said) -> bool) {
    wait_told(&format!("{pod}: {command}"), LIMIT, || {
        let said = within(demo, pod, command);
        match holds(&said) {
            true => Ok(()),
            false => Err(said.out + &said.err),
        }
    });
}

/// What an HTTP server answers, asked from this computer.
fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn lines(demo: &Path, arguments: &[&str]) -> Vec<String> {
    kubectl(demo, arguments)
        .split_whitespace()
        .map(String::from)
        .collect()
}

#[test]
fn pods_reach_services_by_name_across_nodes_and_the_api_from_within() {
    let installation = Installation::new();
    let said = installation.up();
    assert!(said.well, "up: {}{}", said.out, said.err);
    let demo = installation.demo();
    wait("two nodes", LIMIT, || (ready_nodes(&demo) >= 2).then_some(()));
    let names = lines(
        &demo,
        &["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"],
    );
    apply(&demo, &installation.folder, &manifest(&names[0], &names[1]));
    kubectl(
        &demo,
        &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s"],
    );
    routes_are_reported(&demo);
    names_lead_across_nodes(&demo);
    nodes_have_the_port(&demo, &names);
    the_api_is_reached_from_within(&demo);
    an_endpoint_that_is_gone_is_refused(&demo);
    crate::controllers::daemons_and_numbered_pods_run(&demo, &installation.folder);
    let said = installation.down();
    assert!(said.well, "down: {}", said.err);
    let routes = std::fs::read_to_string("/proc/net/route").expect("/proc is there");
    // 10.244.x.0 as the kernel writes it; nothing else on this computer may use that range while this runs.
    assert!(!routes.contains("F40A\t"), "{routes}");
}

fn routes_are_reported(demo: &Path) {
    let template = r#"jsonpath={.items[*].status.conditions[?(@.type=="NetworkUnavailable")].reason}"#;
    wait("routes to every node's pods", LIMIT, || {
        let reasons = lines(demo, &["get", "nodes", "-o", template]);
        (reasons.len() >= 2 && reasons.iter().all(|reason| reason == "RouteCreated")).then_some(())
    });
}

fn names_lead_across_nodes(demo: &Path) {
    let serves = |said: &Said| said.out.contains("server serves");
    for url in [
        "http://web.default.svc.cluster.local/",
        "http://web/",
        "http://headless:8080/",
    ] {
        eventually(demo, "client", &format!("timeout 3 wget -qO- {url}"), serves);
    }
    // A pod reaches its own Service: the way back leads through the node.
    eventually(demo, "server", "timeout 3 wget -qO- http://web/", serves);
    let address = kubectl(
        demo,
        &["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"],
    );
    let said = within(demo, "client", "nslookup kubernetes.default.svc.cluster.local");
    assert!(said.out.contains(&address), "{}{}", said.out, said.err);
    let ip = kubectl(demo, &["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]);
    let said = within(demo, "client", "nslookup headless.default.svc.cluster.local");
    assert!(said.out.contains(&ip), "{}{}", said.out, said.err);
    let said = within(demo, "client", "nslookup gone.default.svc.cluster.local");
    assert!(!said.well, "{}", said.out);
}

fn nodes_have_the_port(demo: &Path, names: &[String]) {
    for name in names {
        let template = r#"jsonpath={.status.addresses[?(@.type=="InternalIP")].address}"#;
        let address = kubectl(demo, &["get", "node", name, "-o", template]);
        let address: SocketAddr = format!("{address}:30080").parse().expect("an address");
        let text = wait("an answer at the node port", LIMIT, || fetch(address).ok());
        assert!(text.contains("server serves"), "{name}: {text}");
    }
}

/// A real client finds the API by its environment, trusts it by the pod's CA and shows the pod's token.
fn the_api_is_reached_from_within(demo: &Path) {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let kubectl = std::env::split_paths(&path)
        .map(|folder| folder.join("kubectl"))
        .find(|file| file.is_file())
        .expect("kubectl is installed");
    let said = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(demo)
        .args(["exec", "-i", "client", "--", "sh", "-c"])
        .arg("cat > /tmp/kubectl && chmod +x /tmp/kubectl")
        .stdin(std::fs::File::open(kubectl).expect("kubectl can be read"))
        .output()
        .expect("kubectl can be started");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    eventually(demo, "client", "/tmp/kubectl auth whoami", |said| {
        said.out.contains("system:serviceaccount:default:default")
    });
}

fn an_endpoint_that_is_gone_is_refused(demo: &Path) {
    kubectl(demo, &["delete", "pod", "server", "--wait=true"]);
    eventually(demo, "client", "timeout 3 wget -qO- http://web/ 2>&1", |said| {
        said.out.contains("refused")
    });
    eventually(
        demo,
        "client",
        "nslookup headless.default.svc.cluster.local",
        |said| !said.out.contains("Address: 10.244"),
    );
}
