//! The TLS side: which certificate is shown (replaceable while running), which client certificates are believed.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// PEM text is damaged or empty.
    #[error("failed to read {what}")]
    Pem {
        /// What was read.
        what: &'static str,
    },
    /// The library refuses.
    #[error("failed to set up TLS")]
    Rustls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("failed to use the client CA: {0}")]
    ClientCa(String),
}

/// The certificate that is shown; replacing it affects new connections.
#[derive(Debug)]
pub struct Serving(RwLock<Arc<CertifiedKey>>);

impl Serving {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// When either is damaged or they do not belong together.
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Serving(RwLock::new(read(certificate_pem, key_pem)?))))
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// As [`Serving::new`]; the old one stays then.
    pub fn replace(&self, certificate_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let read = read(certificate_pem, key_pem)?;
        *self.0.write() = read;
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

fn read(certificate_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or(TlsError::Pem {
        what: "the serving certificate",
    })?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    let key = key.map_err(|_| TlsError::Pem {
        what: "the serving key",
    })?;
    let key = ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

/// Makes a configuration that believes client certificates of `client_ca_pem` and lets clients come without one.
///
/// # Errors
/// When the CA is damaged.
pub fn server_config(serving: Arc<Serving>, client_ca_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|_| TlsError::Pem {
            what: "the client CA",
        })?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::ClientCa(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
