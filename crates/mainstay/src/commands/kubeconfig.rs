//! `mainstay kubeconfig`: how to reach the management cluster or one of its clusters, as its administrator or as
//! somebody else.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, ResourceExt};
use mainstay_base::clock::{Clock, SystemClock, rfc3339_seconds};
use mainstay_base::error::chain;
use mainstay_control::error::found;
use mainstay_pki::{Credentials, Pem};
use serde_json::json;

use super::api;
use crate::args::{KubeconfigArgs, Target};
use crate::manager::state::Layout;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// How long the cluster may take to sign a certificate.
const SIGN_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Who signs certificates of people.
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Prints the kubeconfig on stdout, as it is; as one text in a document with `-o json`.
pub fn run(args: &KubeconfigArgs, output: &Output) -> Outcome {
    let text = super::block_on(async {
        let admin = administrators(args).await?;
        match &args.user {
            None => Ok(admin),
            Some(user) => of_user(&admin, user, args).await,
        }
    })?;
    output.answer("Kubeconfig", json!({"kubeconfig": text}), || text.clone());
    Ok(Code::Ok)
}

/// The administrator's kubeconfig of the cluster that is asked for.
async fn administrators(args: &KubeconfigArgs) -> Result<String, Failure> {
    let client = api::chosen(&args.target).await?;
    match &args.cluster {
        None => own(&args.target),
        Some(cluster) => of_cluster(Api::namespaced(client, &args.namespace), cluster, &args.namespace).await,
    }
}

/// The management cluster's own, as it is.
fn own(target: &Target) -> Result<String, Failure> {
    let layout = Layout::new(&target.data.data_dir);
    let file = target.kubeconfig.clone().unwrap_or_else(|| layout.kubeconfig());
    std::fs::read_to_string(&file)
        .map_err(|error| Failure::new("MS-API-0004", format!("{}: {error}", file.display())))
}

/// Cluster API keeps it in Secret `<cluster>-kubeconfig`, key `value`.
pub(super) async fn of_cluster(
    secrets: Api<Secret>,
    cluster: &str,
    namespace: &str,
) -> Result<String, Failure> {
    let missing = || {
        Failure::new(
            "MS-API-0003",
            format!("no kubeconfig of cluster {namespace}/{cluster}"),
        )
    };
    let secret = found(secrets.get(&format!("{cluster}-kubeconfig")).await)
        .map_err(api::refused)?
        .ok_or_else(missing)?;
    let value = secret
        .data
        .and_then(|mut data| data.remove("value"))
        .ok_or_else(missing)?;
    String::from_utf8(value.0).map_err(|error| Failure::new("MS-API-0002", error.to_string()))
}

/// Has a certificate signed for a user and writes a kubeconfig with it. What the user may do is RBAC's matter.
async fn of_user(admin: &str, user: &str, args: &KubeconfigArgs) -> Result<String, Failure> {
    let names = args.groups.iter().map(String::as_str).chain([user]);
    if let Some(name) = names.into_iter().find(|name| name.starts_with("system:")) {
        let problem = format!("{name:?} is a name of the cluster's own parts; people have other ones");
        return Err(Failure::new("MS-CFG-0003", format!("--user, --group: {problem}")));
    }
    let wrong = |problem: String| Failure::new("MS-API-0001", problem);
    let parsed = Kubeconfig::from_yaml(admin).map_err(|error| wrong(chain(&error)))?;
    let named = parsed.clusters.first();
    let cluster = named.and_then(|named| named.cluster.as_ref().map(|cluster| (&named.name, cluster)));
    let (name, cluster) = cluster.ok_or_else(|| wrong("the kubeconfig names no cluster".into()))?;
    let authority = cluster.certificate_authority_data.clone().unwrap_or_default();
    let authority = decoded(&authority).ok_or_else(|| wrong("the kubeconfig has no authority".into()))?;
    let request = mainstay_pki::client_request(user, &args.groups)
        .map_err(|error| Failure::new("MS-CFG-0003", format!("--group: {}", chain(&error))))?;
    let certificate = sign(&api::client(admin).await?, &request.request, args.hours).await?;
    let credentials = Credentials::Certificate(Pem {
        certificate,
        key: request.key,
    });
    let server = cluster.server.clone().unwrap_or_default();
    Ok(mainstay_pki::kubeconfig(
        name,
        &server,
        &authority,
        user,
        &credentials,
    ))
}

/// Text of a base64 field. The API's own type for such fields reads it.
fn decoded(base64: &str) -> Option<String> {
    let bytes: ByteString = serde_json::from_value(json!(base64)).ok()?;
    String::from_utf8(bytes.0).ok().filter(|text| !text.is_empty())
}

/// Has a request signed by way of the API: created, approved by the administrator, signed by the cluster, removed.
async fn sign(client: &Client, request: &str, hours: u32) -> Result<String, Failure> {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: kube::api::ObjectMeta {
            generate_name: Some("mainstay-kubeconfig-".into()),
            ..Default::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.as_bytes().to_vec()),
            signer_name: SIGNER.into(),
            expiration_seconds: Some(i32::try_from(u64::from(hours) * 3600).unwrap_or(i32::MAX)),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..Default::default()
        },
        status: None,
    };
    let made = requests.create(&PostParams::default(), &object).await;
    let name = made.map_err(api::refused)?.name_any();
    let signed = approved(&requests, &name).await;
    // It holds no secret and the cluster removes old ones; a failure to tidy up fails nothing.
    let _ = requests.delete(&name, &DeleteParams::default()).await;
    signed
}

async fn approved(requests: &Api<CertificateSigningRequest>, name: &str) -> Result<String, Failure> {
    let clock = SystemClock::new();
    let approval = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "MainstayKubeconfig",
        "message": "asked for by the administrator", "lastUpdateTime": rfc3339_seconds(clock.now()),
    }]}});
    requests
        .patch_subresource("approval", name, &PatchParams::default(), &Patch::Merge(approval))
        .await
        .map_err(api::refused)?;
    loop {
        let now = requests.get(name).await.map_err(api::refused)?;
        let status = now.status.unwrap_or_default();
        if let Some(certificate) = status.certificate {
            return String::from_utf8(certificate.0)
                .map_err(|error| Failure::new("MS-API-0002", error.to_string()));
        }
        let failed = status.conditions.unwrap_or_default();
        if let Some(why) = failed.into_iter().find(|condition| condition.type_ != "Approved") {
            let why = why.message.unwrap_or_default();
            return Err(Failure::new(
                "MS-API-0002",
                format!("the certificate was refused: {why}"),
            ));
        }
        if clock.monotonic() > SIGN_LIMIT {
            let problem = format!("the cluster did not sign within {} s", SIGN_LIMIT.as_secs());
            return Err(Failure::new("MS-API-0002", problem));
        }
        tokio::time::sleep(LOOK).await;
    }
}
