//! The agent on upstream's API server: it joins by a bootstrap token, as its node becomes ready and renews lease and
//! certificate; a pod runs, becomes ready by its probe, tells its log through the server, and goes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use serde_json::json;

use super::{LIMIT, create, pod, until, until_running};
use crate::bench::up::client;
use crate::site::upstream::CERTIFICATE_LIFE;
use crate::site::world::{NODE, World};

const SAYS: &str = "trap 'exit 0' TERM; touch /tmp/up; echo here I am; sleep 100000 & wait";
const CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

pub async fn run(mut world: World) -> Result<()> {
    world.start_agent(&json!({"serverTLSBootstrap": true})).await?;
    let first = world.folder().join("first.pem");
    std::fs::copy(CERTIFICATE, &first)?;
    // What others on the machine use: it shows the node's own certificate.
    let node = client(&world.node_kubeconfig()).await?;
    let own: Api<Node> = Api::all(node.clone());
    own.get(NODE).await?;
    let refused = own.list(&ListParams::default()).await.err();
    ensure!(
        matches!(&refused, Some(kube::Error::Api(status)) if status.code == 403),
        "a node may list nodes: {refused:?}"
    );
    approve_serving(&world).await?;
    a_pod_lives(&world).await?;
    the_certificate_is_renewed(&world, &first).await
}

/// Nobody approves serving certificates by himself: an administrator does, or a controller of the installation.
async fn approve_serving(world: &World) -> Result<()> {
    let requests: Api<CertificateSigningRequest> = Api::all(world.client().clone());
    let name = until("the request for a serving certificate", LIMIT, async || {
        let all = requests.list(&ListParams::default()).await?;
        let serving = all
            .items
            .into_iter()
            .find(|one| one.spec.signer_name == "kubernetes.io/kubelet-serving");
        serving.and_then(|one| one.metadata.name).context("there is none")
    })
    .await?;
    let condition =
        json!({"type": "Approved", "status": "True", "reason": "Trial", "message": "by the trial"});
    let patch = json!({"status": {"conditions": [condition]}});
    requests
        .patch_subresource("approval", &name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

async fn a_pod_lives(world: &World) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(world.client().clone());
    let probe =
        json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1}});
    create(&pods, &pod("said", SAYS, &probe)?).await?;
    until_running(&pods, "said").await?;
    until("the pod is ready", LIMIT, async || ready(&pods, "said").await).await?;
    let log = until("the pod's log", LIMIT, async || {
        Ok(pods.logs("said", &LogParams::default()).await?)
    });
    ensure!(log.await?.contains("here I am"), "the log is another one");
    pods.delete("said", &DeleteParams::default()).await?;
    until("the pod is gone", LIMIT, async || {
        match pods.get_opt("said").await? {
            None => Ok(()),
            Some(pod) => bail!("it is still there: {:?}", pod.status),
        }
    })
    .await
}

/// The lease is still renewed when the first certificate has ended.
async fn the_certificate_is_renewed(world: &World, first: &Path) -> Result<()> {
    until(
        "the end of the first certificate",
        CERTIFICATE_LIFE + LIMIT,
        async || {
            let mut command = Command::new("openssl");
            command.args(["x509", "-noout", "-checkend", "0", "-in"]);
            let status = command.arg(first).stdout(Stdio::null()).status()?;
            ensure!(!status.success(), "it is still valid");
            Ok(())
        },
    )
    .await?;
    let requests: Api<CertificateSigningRequest> = Api::all(world.client().clone());
    let all = requests.list(&ListParams::default()).await?.items.into_iter();
    let asked = all.filter(|one| one.spec.signer_name == "kubernetes.io/kube-apiserver-client-kubelet");
    let most = CERTIFICATE_LIFE.as_secs() / 10 + 2;
    let asked = asked.count() as u64;
    ensure!((2..=most).contains(&asked), "{asked} certificates were asked for");
    let leases: Api<Lease> = Api::namespaced(world.client().clone(), "kube-node-lease");
    let before = renewed(&leases).await?;
    until("the lease is renewed", LIMIT, async || {
        let now = renewed(&leases).await?;
        ensure!(now > before, "last at {before}");
        Ok(())
    })
    .await
}

async fn renewed(leases: &Api<Lease>) -> Result<String> {
    let lease = leases.get(NODE).await?;
    let time = lease.spec.and_then(|spec| spec.renew_time);
    Ok(serde_json::to_string(
        &time.context("the lease was never renewed")?,
    )?)
}

async fn ready(pods: &Api<Pod>, name: &str) -> Result<()> {
    let status = pods.get(name).await?.status.unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let ready = conditions.filter(|one| one.type_ == "Ready" && one.status == "True");
    ensure!(ready.count() == 1, "{:?}", status.conditions);
    Ok(())
}
