//! Approves the certificate requests of nodes in a workload cluster: the name is a Machine's, the request
//! carries the present incarnation, and the requester is that machine (its join token or its certificate).
//! Alone writes condition Approved or Denied of requests of the two kubelet signers.

use k8s_openapi::api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    core::v1::Secret,
};
use kube::{Api, ResourceExt};
use mainstay_api::{ComputeNode, join};
use mainstay_capi::{CLUSTER_NAME_LABEL, Cluster, Machine};
use mainstay_control::{Error, ObjectKey, write};
use mainstay_pki::NodeIdentity;
use serde_json::json;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::{Context, bootstrap::TOKEN_NODE_LABEL};

/// Signer of nodes' client certificates.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of nodes' serving certificates.
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// User names of join tokens.
const TOKEN_USER_PREFIX: &str = "system:bootstrap:";

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Common name.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// URI alternative names.
    pub uris: Vec<String>,
}

/// What is known of the node that the request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The machine exists in this cluster and is not being deleted.
    pub machine: bool,
    /// UID of the cluster.
    pub cluster_uid: String,
    /// The incarnation that may join.
    pub incarnation: i64,
    /// The node that the requester's join token is for.
    pub token_node: Option<String>,
}

/// The verdict on one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Sign it.
    Approve,
    /// Never sign it: the reason.
    Deny(String),
    /// Not ours to judge.
    Leave,
}

/// Judges a request.
pub fn judge(signer: &str, requester: &str, asked: &Asked, known: &Known) -> Verdict {
    let Some(node) = asked.common_name.strip_prefix(join::NODE_USER_PREFIX) else {
        return Verdict::Leave;
    };
    let deny = |why: &str| Verdict::Deny(why.to_string());
    if asked.organizations != [join::NODE_GROUP] {
        return deny("the organization must be system:nodes alone");
    }
    if !known.machine {
        return deny("no Machine of this cluster has this name");
    }
    let itself = requester == asked.common_name;
    match signer {
        SERVING_SIGNER if itself => return Verdict::Approve,
        SERVING_SIGNER => return deny("only the node itself may ask for its serving certificate"),
        CLIENT_SIGNER => {}
        _ => return Verdict::Leave,
    }
    let with_token = requester.starts_with(TOKEN_USER_PREFIX) && known.token_node.as_deref() == Some(node);
    if !itself && !with_token {
        return deny("the requester is neither the node nor the holder of its join token");
    }
    let incarnation = u64::try_from(known.incarnation).unwrap_or(0);
    let identity = NodeIdentity::new(&known.cluster_uid, node, incarnation);
    if asked.uris != [identity.to_string()] {
        return deny("the incarnation is not the present one");
    }
    Verdict::Approve
}

/// Reads subject and alternative names of a PEM request.
pub fn parse(pem: &[u8]) -> Option<Asked> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let texts = |values: Vec<&str>| values.into_iter().map(str::to_string).collect::<Vec<_>>();
    let mut asked = Asked {
        common_name: subject
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .collect(),
        organizations: texts(
            subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok())
                .collect(),
        ),
        uris: Vec::new(),
    };
    for extension in request.requested_extensions()? {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            let uris = names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_string()),
                _ => None,
            });
            asked.uris.extend(uris);
        }
    }
    Some(asked)
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    let conditions = request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| {
        list.iter()
            .any(|c| ["Approved", "Denied"].contains(&c.type_.as_str()))
    })
}

/// Judges the undecided requests of one workload cluster.
pub async fn reconcile(cluster: ObjectKey, ctx: &Context) -> Result<(), Error> {
    let Some(access) = ctx.clusters.access(&cluster) else {
        return Ok(());
    };
    let requests: Api<CertificateSigningRequest> = Api::all(access.approver.clone());
    for request in write::list(&requests, "").await? {
        let signer = request.spec.signer_name.as_str();
        if is_decided(&request) || ![CLIENT_SIGNER, SERVING_SIGNER].contains(&signer) {
            continue;
        }
        let Some(asked) = parse(&request.spec.request.0) else {
            continue;
        };
        let requester = request.spec.username.clone().unwrap_or_default();
        let known = known(ctx, &cluster, &asked, &requester).await?;
        decide(
            ctx,
            &requests,
            &request,
            judge(signer, &requester, &asked, &known),
        )
        .await?;
    }
    Ok(())
}

async fn known(ctx: &Context, cluster: &ObjectKey, asked: &Asked, requester: &str) -> Result<Known, Error> {
    let node = asked
        .common_name
        .strip_prefix(join::NODE_USER_PREFIX)
        .unwrap_or_default();
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &cluster.namespace);
    let machine = if node.is_empty() {
        None
    } else {
        write::get(&machines, node).await?
    };
    let machine = machine.filter(|m| {
        m.spec.cluster_name == cluster.name
            && m.metadata.deletion_timestamp.is_none()
            && m.labels()
                .get(CLUSTER_NAME_LABEL)
                .is_none_or(|label| *label == cluster.name)
    });
    let infrastructure = machine
        .as_ref()
        .map(|m| m.spec.infrastructure_ref.name.clone())
        .unwrap_or_default();
    let nodes: Api<ComputeNode> = Api::namespaced(ctx.client.clone(), &cluster.namespace);
    let compute = if infrastructure.is_empty() {
        None
    } else {
        write::get(&nodes, &infrastructure).await?
    };
    let clusters: Api<Cluster> = Api::namespaced(ctx.client.clone(), &cluster.namespace);
    let cluster_uid = write::get(&clusters, &cluster.name)
        .await?
        .and_then(|c| c.uid())
        .unwrap_or_default();
    Ok(Known {
        machine: machine.is_some(),
        cluster_uid,
        incarnation: compute.map_or(1, |node| node.spec.incarnation.max(1)),
        token_node: token_node(ctx, cluster, requester).await?,
    })
}

async fn token_node(ctx: &Context, cluster: &ObjectKey, requester: &str) -> Result<Option<String>, Error> {
    let (Some(id), Some(access)) = (
        requester.strip_prefix(TOKEN_USER_PREFIX),
        ctx.clusters.access(cluster),
    ) else {
        return Ok(None);
    };
    let secrets: Api<Secret> = Api::namespaced(access.client, "kube-system");
    let token = write::get(&secrets, &format!("bootstrap-token-{id}")).await?;
    Ok(token.and_then(|token| token.labels().get(TOKEN_NODE_LABEL).cloned()))
}

async fn decide(
    ctx: &Context,
    requests: &Api<CertificateSigningRequest>,
    request: &CertificateSigningRequest,
    verdict: Verdict,
) -> Result<(), Error> {
    let (kind, reason, message) = match verdict {
        Verdict::Leave => return Ok(()),
        Verdict::Approve => (
            "Approved",
            "MachineKnown",
            "machine, token and incarnation are as expected".to_string(),
        ),
        Verdict::Deny(why) => ("Denied", "NotExpected", why),
    };
    tracing::info!(
        request = request.name_any(),
        kind,
        message,
        "certificate request decided"
    );
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(ctx.clock.now());
    let condition = CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    };
    let patch = kube::api::Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let name = request.name_any();
    let written = requests.patch_approval(&name, &Default::default(), &patch).await;
    written
        .map(|_| ())
        .map_err(Error::api(|| format!("decide on certificate request {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_present_incarnation_of_a_known_machine_with_its_own_token_is_approved() {
        let asked = |uri: &str| Asked {
            common_name: "system:node:m1".into(),
            organizations: vec!["system:nodes".into()],
            uris: vec![uri.into()],
        };
        let known = Known {
            machine: true,
            cluster_uid: "u".into(),
            incarnation: 2,
            token_node: Some("m1".into()),
        };
        let of = |requester: &str, uri: &str, known: &Known| match judge(
            CLIENT_SIGNER,
            requester,
            &asked(uri),
            known,
        ) {
            Verdict::Approve => "approve".to_string(),
            Verdict::Deny(why) => why,
            Verdict::Leave => "leave".to_string(),
        };
        assert_eq!(
            of("system:bootstrap:abcdef", "mainstay://u/m1/2", &known),
            "approve"
        );
        assert_eq!(of("system:node:m1", "mainstay://u/m1/2", &known), "approve");
        let old = "the incarnation is not the present one";
        assert_eq!(of("system:bootstrap:abcdef", "mainstay://u/m1/1", &known), old);
        let other = Known {
            token_node: Some("m2".into()),
            ..known.clone()
        };
        let foreign = "the requester is neither the node nor the holder of its join token";
        assert_eq!(
            of("system:bootstrap:abcdef", "mainstay://u/m1/2", &other),
            foreign
        );
        let gone = Known {
            machine: false,
            ..known
        };
        assert_eq!(
            of("system:node:m1", "mainstay://u/m1/2", &gone),
            "no Machine of this cluster has this name"
        );
    }
}
