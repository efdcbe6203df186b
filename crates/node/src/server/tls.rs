//! The serving certificate: from files, else made at start; and whose client certificates are believed.

use std::sync::Arc;

use parking_lot::Mutex;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::settings::Settings;

/// Why the serving certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("failed to read {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Making a certificate failed.
    #[error("failed to make a serving certificate")]
    Make(#[from] rcgen::Error),
    /// The parts do not fit.
    #[error("failed to set up TLS: {why}")]
    Setup {
        /// What is wrong.
        why: String,
    },
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup {
        why: error.to_string(),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_files(certificate: &str, key: &str) -> Result<Identity, TlsError> {
    let wrong = |path: &str, error: &dyn std::fmt::Display| TlsError::File {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(certificate, &e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, &e))?;
    Ok((chain, key))
}

/// A certificate that signs itself, for the node's name and addresses.
fn self_made(settings: &Settings) -> Result<Identity, TlsError> {
    let mut params = CertificateParams::new(vec![settings.node_name().to_owned()])?;
    if let Some(ip) = settings.overrides.address {
        params.subject_alt_names.push(SanType::IpAddress(ip));
    }
    params.distinguished_name.push(
        DnType::CommonName,
        format!("{}-serving@mainstay", settings.node_name()),
    );
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key))
}

/// Authorities of client certificates: the configured file, else the cluster's own.
fn client_roots(settings: &Settings) -> Result<RootCertStore, TlsError> {
    let file = &settings.kubelet.authentication.x509.client_ca_file;
    let pem = match file.is_empty() {
        true => settings.join.ca_bundle.clone(),
        false => std::fs::read_to_string(file).map_err(|e| TlsError::File {
            path: file.clone(),
            why: e.to_string(),
        })?,
    };
    let mut roots = RootCertStore::empty();
    for der in crate::api::bundle(&pem) {
        roots.add(CertificateDer::from(der)).map_err(setup)?;
    }
    Ok(roots)
}

/// The certificate that is shown now; none until there is one, and then nobody can connect.
#[derive(Debug, Default)]
pub struct Serving(Mutex<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().clone()
    }
}

impl Serving {
    fn set(&self, (chain, key): Identity) -> Result<(), TlsError> {
        let provider = rustls::crypto::ring::default_provider();
        let made = CertifiedKey::from_der(chain, key, &provider).map_err(setup)?;
        *self.0.lock() = Some(Arc::new(made));
        Ok(())
    }

    /// Shows another certificate from now on; both are PEM.
    ///
    /// # Errors
    /// When they are not, or do not fit each other.
    pub fn show(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(setup)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(setup)?;
        self.set((chain, key))
    }
}

/// Whether the serving certificate is to come from the cluster.
pub fn is_asked_for(settings: &Settings) -> bool {
    let kubelet = &settings.kubelet;
    kubelet.server_tls_bootstrap && kubelet.tls_cert_file.is_empty()
}

/// Makes the acceptor of the serving port; clients without a certificate are let in to show a token. The second value
/// takes other certificates later.
///
/// # Errors
/// When a configured file cannot be used.
pub fn acceptor(settings: &Settings) -> Result<(TlsAcceptor, Arc<Serving>), TlsError> {
    let kubelet = &settings.kubelet;
    let serving = Arc::new(Serving::default());
    if !kubelet.tls_cert_file.is_empty() {
        serving.set(from_files(&kubelet.tls_cert_file, &kubelet.tls_private_key_file)?)?;
    } else if !is_asked_for(settings) {
        serving.set(self_made(settings)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let roots = client_roots(settings)?;
    let builder = match roots.is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(setup)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(serving.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), serving))
}
