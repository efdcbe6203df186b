//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer,
//! and nobody asks for system:masters.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

use super::forbidden;
use crate::authz::{Authorizer, attributes};
use crate::hooks::{Admit, Decision, Operation, Review, World};
use crate::status::ApiResult;
use crate::user::GROUP_MASTERS;

const GROUP: &str = "certificates.k8s.io";

/// The plugin.
pub(super) struct Certificates {
    authorizer: Arc<Authorizer>,
}

impl Certificates {
    /// Makes the plugin.
    pub(super) fn new(authorizer: Arc<Authorizer>) -> Self {
        Certificates { authorizer }
    }

    /// Whether the user holds the verb on the signer, by its name or by its domain (`example.com/*`).
    fn may(&self, review: &Review, verb: &str) -> bool {
        let signer = review.old["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = signer
            .split_once('/')
            .map(|(domain, _)| format!("{domain}/*"))
            .unwrap_or_default();
        [signer, &domain].iter().any(|name| {
            let asked = attributes(&review.user, verb, (GROUP, "signers", ""), ("", name));
            self.authorizer.decide(&asked) == Decision::Allow
        })
    }
}

/// The organizations a request (PEM) asks for.
fn organizations(pem: &[u8]) -> Vec<String> {
    let Ok((_, pem)) = parse_x509_pem(pem) else {
        return Vec::new();
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Vec::new();
    };
    let subject = &request.certification_request_info.subject;
    subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_string)
        .collect()
}

fn asks_for_masters(review: &Review) -> bool {
    let spec = &review.object["spec"];
    let pem = base64::engine::general_purpose::STANDARD.decode(spec["request"].as_str().unwrap_or_default());
    spec["signerName"] == "kubernetes.io/kube-apiserver-client"
        && organizations(&pem.unwrap_or_default())
            .iter()
            .any(|group| group == GROUP_MASTERS)
}

#[async_trait]
impl Admit for Certificates {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, _: &dyn World) -> ApiResult<()> {
        if review.group != GROUP || review.resource != "certificatesigningrequests" {
            return Ok(());
        }
        let signer = review.old["spec"]["signerName"].as_str().unwrap_or_default();
        match (review.operation, review.subresource.as_str()) {
            (Operation::Create, "") if asks_for_masters(review) => Err(forbidden(
                review,
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            )),
            (Operation::Update, "approval") if !self.may(review, "approve") => {
                let why = format!("user not permitted to approve requests with signerName \"{signer}\"");
                Err(forbidden(review, why))
            }
            (Operation::Update, "status")
                if review.object["status"]["certificate"] != review.old["status"]["certificate"]
                    && !self.may(review, "sign") =>
            {
                let why = format!("user not permitted to sign requests with signerName \"{signer}\"");
                Err(forbidden(review, why))
            }
            _ => Ok(()),
        }
    }
}
