//! Bootstrap controller: NodeConfig → Secret `<machine>-bootstrap` with the join document. Watches NodeConfigs,
//! Machines and ComputeNodes; alone writes NodeConfig.status, that Secret, and the token Secret in the workload
//! cluster.
//!
//! A token lives 15 minutes and is for one machine. While the machine has not joined with the present
//! incarnation the document is renewed before it ends.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, ResourceExt};
use mainstay_api::{
    ComputeNode, NodeConfig, NodeJoin,
    bootstrap::BootstrapInitialization,
    conditions::{condition, reasons, set, types},
    join::{self, NodeNetwork},
};
use mainstay_capi::{CLUSTER_NAME_LABEL, Cluster, Machine, SECRET_TYPE};
use mainstay_control::{Error, ObjectKey, Requeue, error::is_conflict, write};

use crate::{
    ClusterAccess, Context,
    machine::cluster_key,
    objects::{controlled_by, controller_of},
};

/// A document with less than this left is renewed while it is still needed.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// How soon a config that waits for its cluster is looked at again.
const WAIT: Duration = Duration::from_secs(2);
/// Label on token Secrets: the only machine that may use the token.
pub const TOKEN_NODE_LABEL: &str = "mainstay.dev/bootstrap-node";
/// Letters of bootstrap tokens.
const TOKEN_LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Everything the decision depends on.
struct Seen {
    config: NodeConfig,
    machine: Machine,
    compute: Option<ComputeNode>,
    cluster: Cluster,
}

/// Makes or renews the join document of one machine.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let configs: Api<NodeConfig> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(config) = write::get(&configs, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if config.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let Some(seen) = observe(ctx, config).await? else {
        return Ok(Requeue::Never);
    };
    let Some(access) = ctx.clusters.access(&cluster_key(&seen.machine)) else {
        let mut status = seen.config.status.clone().unwrap_or_default();
        let waits = condition(
            types::READY,
            false,
            reasons::WAITING,
            "the control plane does not serve yet",
            ctx.clock.now(),
        );
        set(&mut status.conditions, waits);
        write::status(&configs, &seen.config, seen.config.status.as_ref(), &status).await?;
        return Ok(Requeue::After(WAIT));
    };
    match due(&seen, ctx.clock.now()) {
        Due::Now => make(ctx, &configs, &seen, &access).await,
        Due::In(wait) => Ok(Requeue::After(wait)),
        Due::Never => Ok(Requeue::Never),
    }
}

async fn observe(ctx: &Context, config: NodeConfig) -> Result<Option<Seen>, Error> {
    let namespace = config.namespace().unwrap_or_default();
    let Some(owner) = controller_of(&config, "Machine") else {
        return Ok(None);
    };
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(machine) = write::get(&machines, &owner).await? else {
        return Ok(None);
    };
    let clusters: Api<Cluster> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(cluster) = write::get(&clusters, &machine.spec.cluster_name).await? else {
        return Ok(None);
    };
    let nodes: Api<ComputeNode> = Api::namespaced(ctx.client.clone(), &namespace);
    let compute = write::get(&nodes, &machine.spec.infrastructure_ref.name).await?;
    Ok(Some(Seen {
        config,
        machine,
        compute,
        cluster,
    }))
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now,
    In(Duration),
    Never,
}

/// The incarnation that the machine should join with: at least 1.
fn wanted_incarnation(compute: Option<&ComputeNode>) -> i64 {
    compute.map_or(1, |node| node.spec.incarnation.max(1))
}

fn due(seen: &Seen, now: Timestamp) -> Due {
    // The join data names the provider and the incarnation, which the ComputeNode knows.
    if seen.compute.is_none() {
        return Due::In(WAIT);
    }
    let status = seen.config.status.clone().unwrap_or_default();
    let wanted = wanted_incarnation(seen.compute.as_ref());
    let Some(expires) = status
        .expires_at
        .filter(|_| status.initialization.data_secret_created)
    else {
        return Due::Now;
    };
    if status.incarnation < wanted {
        return Due::Now;
    }
    let running = seen.compute.as_ref().and_then(|node| node.status.as_ref());
    let joined = seen
        .machine
        .status
        .as_ref()
        .is_some_and(|status| status.node_ref.is_some());
    if joined && running.is_some_and(|status| status.incarnation >= wanted) {
        return Due::Never;
    }
    let left = expires.0.duration_since(now) - RENEW_BEFORE;
    if left.is_positive() {
        Due::In(left.unsigned_abs())
    } else {
        Due::Now
    }
}

async fn make(
    ctx: &Context,
    configs: &Api<NodeConfig>,
    seen: &Seen,
    access: &ClusterAccess,
) -> Result<Requeue, Error> {
    let now = ctx.clock.now();
    let expires = now + SignedDuration::from_secs(join::TOKEN_LIFETIME_SECONDS);
    let (id, secret) = (token_part(6), token_part(16));
    make_token(access, &seen.machine.name_any(), &id, &secret, expires).await?;
    let document = document(seen, access, format!("{id}.{secret}"), expires);
    let name = format!("{}-bootstrap", seen.machine.name_any());
    let incarnation = document.incarnation;
    make_secret(ctx, seen, &name, &document).await?;
    let mut status = seen.config.status.clone().unwrap_or_default();
    status.initialization = BootstrapInitialization {
        data_secret_created: true,
    };
    status.data_secret_name = name;
    status.incarnation = incarnation;
    status.expires_at = Some(Time(expires));
    set(
        &mut status.conditions,
        condition(types::READY, true, reasons::AS_EXPECTED, "", now),
    );
    write::status(configs, &seen.config, seen.config.status.as_ref(), &status).await?;
    Ok(Requeue::After(Duration::from_secs(60)))
}

/// Random letters from the operating system's generator: tokens are secrets, so no seed.
fn token_part(length: usize) -> String {
    let mut letters = String::with_capacity(length);
    while letters.len() < length {
        for byte in mainstay_base::ids::new_uid()
            .replace('-', "")
            .as_bytes()
            .chunks(2)
        {
            let value = byte.iter().fold(0_usize, |sum, b| sum * 31 + usize::from(*b));
            letters.push(TOKEN_LETTERS[value % TOKEN_LETTERS.len()] as char);
        }
    }
    letters.truncate(length);
    letters
}

async fn make_token(
    access: &ClusterAccess,
    node: &str,
    id: &str,
    secret: &str,
    expires: Timestamp,
) -> Result<(), Error> {
    let data = [
        ("token-id", id.to_string()),
        ("token-secret", secret.to_string()),
        ("expiration", expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ("usage-bootstrap-authentication", "true".to_string()),
        ("auth-extra-groups", join::BOOTSTRAP_GROUP.to_string()),
        ("description", format!("join token of machine {node}")),
    ];
    let token = Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{id}")),
            namespace: Some("kube-system".into()),
            labels: Some([(TOKEN_NODE_LABEL.to_string(), node.to_string())].into()),
            ..Default::default()
        },
        type_: Some("bootstrap.kubernetes.io/token".into()),
        data: Some(
            data.map(|(key, value)| (key.to_string(), ByteString(value.into_bytes())))
                .into(),
        ),
        ..Default::default()
    };
    write::create(&Api::namespaced(access.client.clone(), "kube-system"), &token)
        .await
        .map(|_| ())
}

fn document(seen: &Seen, access: &ClusterAccess, token: String, expires_at: Timestamp) -> NodeJoin {
    let (node, machine) = (&seen.config.spec.node, &seen.machine);
    let compute_name = machine.spec.infrastructure_ref.name.clone();
    let provider = seen
        .compute
        .as_ref()
        .map(|node| node.spec.provider.clone())
        .unwrap_or_default();
    let namespace = machine.namespace().unwrap_or_default();
    NodeJoin {
        cluster_uid: seen.cluster.uid().unwrap_or_default(),
        api_servers: access.api_servers.clone(),
        ca_bundle: access.ca_bundle.clone(),
        bootstrap_token: token,
        node_name: machine.name_any(),
        provider_id: join::provider_id(&provider, &namespace, &compute_name),
        incarnation: wanted_incarnation(seen.compute.as_ref()),
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        kubelet_configuration: node.kubelet_configuration.clone(),
        sysctls: node.sysctls.clone(),
        network: network(&seen.cluster),
        expires_at,
    }
}

/// Nodes make the network of hosted clusters; elsewhere the cluster's add-ons do.
fn network(cluster: &Cluster) -> Option<NodeNetwork> {
    let network = &cluster.spec.cluster_network;
    let services = network.services.cidr_blocks.first()?;
    let hosted = cluster.spec.control_plane_ref.kind == "HostedControlPlane";
    let address = join::dns_address(services).filter(|_| hosted)?;
    let domain = Some(network.service_domain.clone()).filter(|domain| !domain.is_empty());
    Some(NodeNetwork {
        pod_ranges: network.pods.cidr_blocks.clone(),
        service_ranges: network.services.cidr_blocks.clone(),
        cluster_dns: address.to_string(),
        cluster_domain: domain.unwrap_or_else(|| "cluster.local".into()),
    })
}

async fn make_secret(ctx: &Context, seen: &Seen, name: &str, document: &NodeJoin) -> Result<(), Error> {
    let value = serde_json::to_vec(document).unwrap_or_default();
    let data = [("value", value), ("format", join::FORMAT.as_bytes().to_vec())];
    let namespace = seen.machine.namespace().unwrap_or_default();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.clone()),
            labels: Some(
                [(
                    CLUSTER_NAME_LABEL.to_string(),
                    seen.machine.spec.cluster_name.clone(),
                )]
                .into(),
            ),
            owner_references: Some(vec![controlled_by(&seen.config)]),
            ..Default::default()
        },
        type_: Some(SECRET_TYPE.into()),
        data: Some(
            data.map(|(key, value)| (key.to_string(), ByteString(value)))
                .into(),
        ),
        ..Default::default()
    };
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    match secrets.create(&Default::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => {
            let data = serde_json::json!({ "data": secret.data });
            write::merge(&secrets, name, data).await.map(|_| ())
        }
        Err(error) => Err(Error::api(|| format!("create secret {namespace}/{name}"))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::{ComputeNodeSpec, ComputeNodeStatus, bootstrap::NodeConfigStatus};
    use mainstay_capi::{MachineStatus, NodeRef};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn seen(made: i64, wanted: i64, running: i64, joined: bool) -> Seen {
        let mut config = NodeConfig::new("c", Default::default());
        config.status = Some(NodeConfigStatus {
            initialization: BootstrapInitialization {
                data_secret_created: true,
            },
            incarnation: made,
            expires_at: Some(Time(at(900))),
            ..Default::default()
        });
        let mut compute = ComputeNode::new(
            "c",
            ComputeNodeSpec {
                incarnation: wanted,
                ..Default::default()
            },
        );
        compute.status = Some(ComputeNodeStatus {
            incarnation: running,
            ..Default::default()
        });
        let mut machine = Machine::default();
        let node_ref = joined.then(|| NodeRef { name: "n".into() });
        machine.status = Some(MachineStatus {
            node_ref,
            ..Default::default()
        });
        Seen {
            config,
            machine,
            compute: Some(compute),
            cluster: Cluster::default(),
        }
    }

    #[test]
    fn a_document_is_renewed_until_its_machine_has_joined_and_again_for_a_new_incarnation() {
        assert_eq!(
            due(&seen(1, 1, 0, false), at(0)),
            Due::In(Duration::from_secs(600))
        );
        assert_eq!(due(&seen(1, 1, 0, false), at(601)), Due::Now);
        assert_eq!(due(&seen(1, 1, 1, true), at(9000)), Due::Never);
        assert_eq!(due(&seen(1, 2, 1, true), at(9000)), Due::Now);
    }

    #[test]
    fn tokens_have_the_shape_that_kubernetes_demands() {
        let token = format!("{}.{}", token_part(6), token_part(16));
        assert_eq!(token.len(), 23);
        assert!(token.bytes().all(|b| b == b'.' || TOKEN_LETTERS.contains(&b)));
    }
}
