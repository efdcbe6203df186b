//! CSR signing: signs approved requests of the kubelet and client signers, and removes old requests. Watches
//! CertificateSigningRequests; alone writes `status.certificate` and the condition Failed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{CertificateSigningRequest, Condition, is_true};
use crate::pods::set_condition;

/// Certificates live this long unless the request asks for less.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Requests may not ask for less than this.
const SHORTEST_LIFE: SignedDuration = SignedDuration::from_mins(10);
/// How long ended and forgotten requests are kept (upstream's numbers).
const KEEP_ENDED: SignedDuration = SignedDuration::from_hours(1);
const KEEP_PENDING: SignedDuration = SignedDuration::from_hours(24);

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUse {
    /// TLS clients.
    Client,
    /// TLS servers.
    Server,
}

/// Signs certificate requests with the cluster's authority.
pub trait Sign: Send + Sync {
    /// Signs a PEM request; subject and alternative names are the request's. Returns a PEM certificate.
    ///
    /// # Errors
    /// The reason, for the request's author.
    fn sign(
        &self,
        request: &str,
        usage: CertificateUse,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<String, String>;
}

impl Sign for mainstay_pki::Authority {
    fn sign(
        &self,
        request: &str,
        usage: CertificateUse,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<String, String> {
        let usage = match usage {
            CertificateUse::Client => mainstay_pki::Usage::Client,
            CertificateUse::Server => mainstay_pki::Usage::Server,
        };
        self.sign_csr(request, usage, &[], now, life)
            .map_err(|error| mainstay_base::error::chain(&error))
    }
}

/// What happens to a request.
#[derive(Debug, PartialEq)]
enum Step {
    Wait(Option<Duration>),
    Sign {
        usage: CertificateUse,
        life: SignedDuration,
    },
    Refuse(String),
    Remove,
}

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    Controller::new("csrsigning")
        .wake_on(&context.caches.requests, |change| vec![change.key.clone()])
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Step {
    let conditions = &request.status.conditions;
    let created = request
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let ended = is_true(conditions, "Denied")
        || is_true(conditions, "Failed")
        || request.status.certificate.is_some();
    let approved = is_true(conditions, "Approved");
    let keep = if ended || approved {
        KEEP_ENDED
    } else {
        KEEP_PENDING
    };
    let left = keep - now.duration_since(created);
    if left <= SignedDuration::ZERO {
        return Step::Remove;
    }
    if ended || !approved {
        return Step::Wait(Duration::try_from(left).ok());
    }
    let (usage, wanted, allowed): (_, _, &[&str]) = match request.spec.signer_name.as_str() {
        KUBELET_CLIENT | CLIENT => (CertificateUse::Client, "client auth", &["server auth"]),
        KUBELET_SERVING => (CertificateUse::Server, "server auth", &["client auth"]),
        _ => return Step::Wait(None),
    };
    let usages = &request.spec.usages;
    if !usages.iter().any(|held| held == wanted) || usages.iter().any(|held| allowed.contains(&held.as_str()))
    {
        return Step::Refuse(format!(
            "usages {usages:?} do not suit signer {}",
            request.spec.signer_name
        ));
    }
    let asked = request.spec.expiration_seconds.map(SignedDuration::from_secs);
    Step::Sign {
        usage,
        life: asked.unwrap_or(LIFE).clamp(SHORTEST_LIFE, LIFE),
    }
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(request) = context.caches.requests.get(&key) else {
        return Ok(Requeue::Never);
    };
    let now = context.clock.now();
    match plan(&request, now) {
        Step::Wait(None) => return Ok(Requeue::Never),
        Step::Wait(Some(time)) => return Ok(Requeue::After(time)),
        Step::Remove => {
            context
                .delete::<CertificateSigningRequest>(&key, request.metadata.uid.as_deref())
                .await?;
        }
        Step::Refuse(why) => refuse(&context, &request, &key, why).await?,
        Step::Sign { usage, life } => match sign(&context, &request, usage, life) {
            Err(why) => refuse(&context, &request, &key, why).await?,
            Ok(None) => {}
            Ok(Some(pem)) => {
                let status = json!({"status": {"certificate": STANDARD.encode(pem)}});
                context
                    .patch::<CertificateSigningRequest>(&key, Some("status"), status)
                    .await?;
            }
        },
    }
    Ok(Requeue::Never)
}

/// Signs a request; `None` = this cluster's keys are elsewhere.
fn sign(
    context: &Context,
    request: &CertificateSigningRequest,
    usage: CertificateUse,
    life: SignedDuration,
) -> Result<Option<String>, String> {
    let Some(signer) = &context.config.signer else {
        return Ok(None);
    };
    let pem = STANDARD
        .decode(&request.spec.request)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let pem = pem.ok_or("spec.request is no base64-encoded PEM text")?;
    signer.sign(&pem, usage, context.clock.now(), life).map(Some)
}

async fn refuse(
    context: &Context,
    request: &CertificateSigningRequest,
    key: &ObjectKey,
    why: String,
) -> Result<(), Error> {
    let mut conditions = request.status.conditions.clone();
    let failed = Condition {
        kind: "Failed".into(),
        status: "True".into(),
        reason: Some("SignerValidationFailure".into()),
        message: Some(why),
        ..Condition::default()
    };
    set_condition(&mut conditions, failed, context.clock.now());
    let patch: Value = json!({"status": {"conditions": conditions}});
    context
        .patch::<CertificateSigningRequest>(key, Some("status"), patch)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};

    fn request(signer: &str, usages: &[&str], condition: &str) -> CertificateSigningRequest {
        decoded(json!({
            "metadata": {"name": "r", "creationTimestamp": at(0).to_string()},
            "spec": {"signerName": signer, "usages": usages, "expirationSeconds": 3600},
            "status": {"conditions": [{"type": condition, "status": "True"}]},
        }))
    }

    #[test]
    fn approved_requests_of_our_signers_are_signed_for_what_they_may() {
        let life = SignedDuration::from_secs(3600);
        let client = request(KUBELET_CLIENT, &["digital signature", "client auth"], "Approved");
        assert_eq!(
            plan(&client, at(10)),
            Step::Sign {
                usage: CertificateUse::Client,
                life
            }
        );
        let wrong = request(KUBELET_SERVING, &["client auth"], "Approved");
        assert!(matches!(plan(&wrong, at(10)), Step::Refuse(_)));
        assert_eq!(
            plan(&request("example.com/mine", &[], "Approved"), at(10)),
            Step::Wait(None)
        );
    }

    #[test]
    fn old_requests_are_removed() {
        let denied = request(CLIENT, &[], "Denied");
        assert_eq!(plan(&denied, at(3599)), Step::Wait(Some(Duration::from_secs(1))));
        assert_eq!(plan(&denied, at(3600)), Step::Remove);
    }
}
