//! The node's heartbeat: a Lease in `kube-node-lease`, renewed four times in its life.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Api, ObjectMeta, PostParams};
use mainstay_base::clock::SharedClock;

use crate::api::ApiHandle;
use crate::repeated::Repeated;

/// The namespace of all nodes' Leases.
pub const NAMESPACE: &str = "kube-node-lease";
/// Tries in a row before the next regular renewal.
const QUICK_TRIES: u32 = 5;
/// Wait before the first of them; each waits so much longer.
const QUICK: Duration = Duration::from_millis(200);

fn owner(node: &Node) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        ..Default::default()
    })
}

fn renewed(
    before: Option<Lease>,
    name: &str,
    seconds: i32,
    now: jiff::Timestamp,
    node: Option<&Node>,
) -> Lease {
    let mut lease = before.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        spec: None,
    });
    if lease.metadata.owner_references.is_none() {
        lease.metadata.owner_references = node.and_then(owner).map(|o| vec![o]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = Some(seconds);
    spec.renew_time = Some(MicroTime(now));
    lease
}

async fn renew_once(
    client: &kube::Client,
    held: &mut Option<Lease>,
    name: &str,
    seconds: i32,
    clock: &SharedClock,
) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    if held.is_none() {
        *held = api.get_opt(name).await?;
    }
    let owned = held
        .as_ref()
        .is_some_and(|l| l.metadata.owner_references.is_some());
    let node = match owned {
        true => None,
        false => Api::<Node>::all(client.clone()).get_opt(name).await?,
    };
    let next = renewed(held.take(), name, seconds, clock.now(), node.as_ref());
    let answer = match next.metadata.resource_version {
        Some(_) => api.replace(name, &PostParams::default(), &next).await?,
        None => api.create(&PostParams::default(), &next).await?,
    };
    *held = Some(answer);
    Ok(())
}

/// Renews the Lease for as long as the agent runs; failures are tried again soon and logged.
pub async fn keep(api: ApiHandle, name: String, seconds: i32, clock: SharedClock) {
    let period = Duration::from_secs(seconds.max(4) as u64) / 4;
    let mut held = None;
    let repeated = Repeated::new(clock.clone());
    loop {
        let client = api.joined().await;
        let attempt = renew_once(&client, &mut held, &name, seconds, &clock);
        let pause = match tokio::time::timeout(period, attempt).await {
            Ok(Ok(())) => {
                if let Some(failures) = repeated.works() {
                    tracing::warn!(failures, "the node's lease is renewed again");
                }
                period
            }
            failed => {
                held = None;
                let why = failed.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |r| r.map_or_else(|e| e.to_string(), |()| String::new()),
                );
                if let Some(failures) = repeated.fails() {
                    tracing::warn!(why, failures, "could not renew the node's lease");
                }
                match repeated.failures() {
                    failures if failures <= QUICK_TRIES => QUICK * failures,
                    _ => period,
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_has_microseconds_and_the_node_as_owner() {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        node.metadata.uid = Some("u1".into());
        let now: jiff::Timestamp = "2026-01-01T00:00:00.25Z".parse().expect("a time");
        let lease = renewed(None, "n1", 40, now, Some(&node));
        let json = serde_json::to_value(&lease).expect("serializable");
        assert_eq!(json["spec"]["renewTime"], "2026-01-01T00:00:00.250000Z");
        assert_eq!(json["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(json["spec"]["leaseDurationSeconds"], 40);
    }
}
