//! Upstream's API server over etcd in the place of ours, with the same folder of certificates and the same kubeconfig.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::PostParams;
use kube::{Api, Client};
use mainstay_base::clock::{Clock as _, SystemClock};
use mainstay_controlplane::Certificates;
use mainstay_pki::Credentials;
use serde_json::json;

use crate::bench::up::{Process, free_port};

/// A program of upstream's that `scripts/build-interop` has put into its folder.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("MAINSTAY_INTEROP") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("no home")?).join(".cache/mainstay/interop"),
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "no {}: run scripts/build-interop first",
        path.display()
    );
    Ok(path)
}

/// Starts etcd and the API server; the administrator's kubeconfig and `pki` are in `data` as with our server.
pub fn start(data: &Path, port: u16) -> Result<(Process, Process)> {
    let program = program("kube-apiserver")?;
    std::fs::create_dir_all(data)?;
    let etcd = etcd(data)?;
    let now = SystemClock::new().now();
    let certificates = Certificates::open(Some(&data.join("pki")), now)?;
    let serving = certificates.serving(&["127.0.0.1".into(), "localhost".into()], now)?;
    let admin = certificates.client("admin", &["system:masters".into()], &[], now)?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = data.join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (certificate, key) = (
        file("admin.pem", &admin.certificate)?,
        file("admin.key", &admin.key)?,
    );
    let ca = file("ca.pem", certificates.ca_pem())?;
    let tokens = file("sa.key", certificates.service_account_key())?;
    let flags = [
        ("etcd-servers", etcd.1),
        ("bind-address", "127.0.0.1".into()),
        ("secure-port", port.to_string()),
        ("tls-cert-file", file("serving.pem", &serving.certificate)?),
        ("tls-private-key-file", file("serving.key", &serving.key)?),
        ("client-ca-file", ca.clone()),
        ("kubelet-client-certificate", certificate),
        ("kubelet-client-key", key),
        // What the node agent shows must be signed for it.
        ("kubelet-certificate-authority", ca),
        ("enable-bootstrap-token-auth", "true".into()),
        ("service-account-key-file", public_key(&tokens)?),
        ("service-account-signing-key-file", tokens),
        ("service-account-issuer", "https://kubernetes.default.svc".into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("service-cluster-ip-range", "10.96.0.0/16".into()),
        // There is no default route here; nobody connects to it.
        ("advertise-address", "192.0.2.1".into()),
        // As every installer says: names of nodes are in no DNS.
        ("kubelet-preferred-address-types", "InternalIP,Hostname".into()),
    ];
    let log = std::fs::File::create(data.join("kube-apiserver.log"))?;
    let mut command = Command::new(program);
    command.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
    let server = Process(command.stdout(Stdio::null()).stderr(log).spawn()?);
    let url = format!("https://127.0.0.1:{port}");
    let credentials = Credentials::Certificate(admin);
    let text = mainstay_pki::kubeconfig("upstream", &url, certificates.ca_pem(), "admin", &credentials);
    file("admin.kubeconfig", &text)?;
    Ok((server, etcd.0))
}

/// The bootstrap token of nodes.
const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");

/// Makes the bootstrap token and lets those who show it ask for a node's certificate, as installers do.
pub async fn let_nodes_join(api: &Client) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(api.clone(), "kube-system");
    let secret = json!({
        "metadata": {"name": format!("bootstrap-token-{}", TOKEN.0)}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": TOKEN.0, "token-secret": TOKEN.1, "usage-bootstrap-authentication": "true"},
    });
    secrets
        .create(&PostParams::default(), &serde_json::from_value(secret)?)
        .await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(api.clone());
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, group) in [
        (
            "ask",
            "system:node-bootstrapper".to_owned(),
            "system:bootstrappers",
        ),
        ("join", format!("{requests}:nodeclient"), "system:bootstrappers"),
        ("renew", format!("{requests}:selfnodeclient"), "system:nodes"),
    ] {
        let binding = json!({
            "metadata": {"name": format!("nodes-{name}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        bindings
            .create(&PostParams::default(), &serde_json::from_value(binding)?)
            .await?;
    }
    Ok(())
}

/// The kubeconfig with which a node joins.
pub fn bootstrap_kubeconfig(port: u16, ca_pem: &str) -> String {
    let token = Credentials::Token(format!("{}.{}", TOKEN.0, TOKEN.1));
    let url = format!("https://127.0.0.1:{port}");
    mainstay_pki::kubeconfig("upstream", &url, ca_pem, "bootstrap", &token)
}

/// How long certificates of nodes live: so short that a trial sees them renewed.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90);

/// Starts upstream's controllers that approve and sign certificates of nodes.
pub fn signer(data: &Path) -> Result<Process> {
    let path = |name: &str| data.join(name).display().to_string();
    let flags = [
        ("kubeconfig", path("admin.kubeconfig")),
        (
            "controllers",
            "certificatesigningrequest-approving-controller,certificatesigningrequest-signing-controller"
                .into(),
        ),
        ("cluster-signing-cert-file", path("pki/ca.crt")),
        ("cluster-signing-key-file", path("pki/ca.key")),
        (
            "cluster-signing-duration",
            format!("{}s", CERTIFICATE_LIFE.as_secs()),
        ),
        ("leader-elect", "false".into()),
        ("secure-port", free_port()?.to_string()),
        ("cert-dir", path("kcm")),
    ];
    let log = std::fs::File::create(data.join("kube-controller-manager.log"))?;
    let mut command = Command::new(program("kube-controller-manager")?);
    command.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
    Ok(Process(command.stdout(Stdio::null()).stderr(log).spawn()?))
}

/// The public half of a key, in a file beside it: upstream's server does not take it from a PKCS #8 key by itself.
fn public_key(key: &str) -> Result<String> {
    let public = format!("{key}.pub");
    let mut command = Command::new("openssl");
    command.args(["pkey", "-pubout", "-in", key, "-out", &public]);
    ensure!(command.status()?.success(), "openssl does not read {key}");
    Ok(public)
}

fn etcd(data: &Path) -> Result<(Process, String)> {
    let url = || -> Result<String> { Ok(format!("http://127.0.0.1:{}", free_port()?)) };
    let (client, peer) = (url()?, url()?);
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data.join("etcd"));
    for (flag, value) in [
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
    ] {
        command.args([flag, value]);
    }
    command.args([
        "--initial-cluster",
        &format!("default={peer}"),
        "--log-level=error",
    ]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ok((Process(child.context("etcd does not start")?), client))
}
