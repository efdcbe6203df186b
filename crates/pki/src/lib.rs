//! Certificate authorities, leaf certificates, CSR signing and kubeconfigs.

mod any_server;
mod authority;
mod files;
mod identity;
mod kubeconfig;
mod leaf;
mod request;

pub use any_server::any_server;
pub use authority::{Authority, Pem};
pub use files::{FileError, write_private};
pub use identity::NodeIdentity;
pub use kubeconfig::{Credentials, kubeconfig};
pub use leaf::{CsrFacts, Usage, read_csr};
pub use request::{ClientRequest, client_request};

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be made or signed.
    #[error("failed to {action}")]
    Make {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// A request, key or certificate could not be read.
    #[error("failed to read {what}: {why}")]
    Read {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl PkiError {
    pub(crate) fn make(action: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
        move |source| PkiError::Make { action, source }
    }
}

/// A key of the kind everything here uses (ECDSA P-256), as PEM (PKCS #8).
///
/// # Errors
/// When the system gives no randomness.
pub fn new_key_pem() -> Result<String, PkiError> {
    let key = rcgen::KeyPair::generate().map_err(PkiError::make("make a key"))?;
    Ok(key.serialize_pem())
}
