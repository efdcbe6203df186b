//! The serving certificate that the cluster issues: asked for, shown, kept.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, ListParams, Patch, PatchParams};
use mainstay_base::clock::SystemClock;
use mainstay_pki::{Authority, Usage, read_csr};
use mainstay_testkit::{admin, plane};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;

use crate::machine::{Agent, eventually, on_machine};
use crate::rules::{joined, node_user};
use crate::standalone::free_port;

const LIMIT: Duration = Duration::from_secs(60);

/// Whether the port shows a certificate for the node that this authority signed.
async fn is_trusted(port: u16, authority: &Authority) -> Option<()> {
    let mut roots = rustls::RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(authority.pem().certificate.as_bytes()).ok()?;
    roots.add(der).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let name = ServerName::try_from("n1").expect("a name");
    connector.connect(name, stream).await.ok().map(drop)
}

async fn asked(requests: &Api<CertificateSigningRequest>) -> Vec<CertificateSigningRequest> {
    let listed = requests.list(&ListParams::default()).await;
    let mut items = listed.map(|l| l.items).unwrap_or_default();
    items.retain(|r| r.spec.signer_name == "kubernetes.io/kubelet-serving");
    items
}

#[test]
fn the_cluster_issues_the_serving_certificate_and_it_outlives_the_agent() {
    on_machine(async |machine| {
        let plane = plane().await;
        let requests: Api<CertificateSigningRequest> = Api::all(admin(&plane));
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        settings.kubelet.server_tls_bootstrap = true;
        settings.kubelet.port = free_port();
        let port = settings.kubelet.port;
        let now = SystemClock::shared().now();
        let authority = Authority::create("nodes", now).expect("an authority");
        let agent = Agent::start(settings.clone());
        let request = eventually("the node asks", LIMIT, async || asked(&requests).await.pop()).await;
        assert_eq!(is_trusted(port, &authority).await, None, "nothing is issued yet");

        let pem = String::from_utf8(request.spec.request.0).expect("text");
        let facts = read_csr(&pem).expect("a request");
        assert_eq!(
            (facts.common_name.as_str(), facts.dns_names, facts.addresses),
            (
                "system:node:n1",
                vec!["n1".to_owned()],
                vec!["127.0.0.1".parse().expect("an address")]
            )
        );
        let life = SignedDuration::from_hours(24);
        let issued = authority
            .sign_csr(&pem, Usage::Server, &[], now, life)
            .expect("signed");
        let patch = json!({"status": {"certificate": k8s_openapi::ByteString(issued.into_bytes())}});
        let name = request.metadata.name.unwrap_or_default();
        requests
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("issued");
        let shown = async || is_trusted(port, &authority).await;
        eventually("the certificate is shown", LIMIT, shown).await;
        agent.stop().await;

        let agent = Agent::start(settings);
        eventually("the new agent shows it too", LIMIT, shown).await;
        assert_eq!(asked(&requests).await.len(), 1, "it did not ask again");
        agent.stop().await;
        plane.stop().await;
    });
}
