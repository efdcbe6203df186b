//! The agent on upstream's API server: its node becomes ready and renews its lease, a pod runs, becomes ready by its probe,
//! tells its log through the server, and goes.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, LogParams};
use serde_json::json;

use super::{LIMIT, create, pod, until, until_running};
use crate::site::world::{NODE, World};

const SAYS: &str = "trap 'exit 0' TERM; touch /tmp/up; echo here I am; sleep 100000 & wait";

pub async fn run(mut world: World) -> Result<()> {
    world.start_agent(&json!({})).await?;
    let client = world.client().clone();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let first = renewed(&leases).await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
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
    .await?;
    until("the lease is renewed", LIMIT, async || {
        let now = renewed(&leases).await?;
        ensure!(now > first, "last at {first}");
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
