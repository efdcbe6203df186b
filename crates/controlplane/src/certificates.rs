//! A plane's keys and certificates: one CA, one service account key, kept in a folder or made for one run; serving and
//! client certificates are made from them when needed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mainstay_apiserver::net::Serving;
use mainstay_apiserver::proxy::NodeClient;
use mainstay_base::clock::SharedClock;
use mainstay_pki::{Authority, Pem, PkiError, Usage, new_key_pem, write_private};

use crate::Error;

/// How long serving and client certificates live.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How often the serving certificate is made anew: long before it ends.
const RENEW_EVERY: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Who the API server is to node agents.
pub(crate) const NODE_CLIENT: &str = "kube-apiserver-kubelet-client";
/// Names that every plane's serving certificate has.
const NAMES: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// See the module's text.
pub struct Certificates {
    authority: Arc<Authority>,
    service_account_key: String,
}

impl Certificates {
    /// Reads the folder's keys, and makes those that are missing (mode 0600).
    ///
    /// # Errors
    /// When the folder cannot be used or its content is damaged.
    pub fn open(directory: Option<&Path>, now: Timestamp) -> Result<Self, Error> {
        let Some(directory) = directory else {
            let authority = Arc::new(Authority::create("kubernetes", now)?);
            return Ok(Certificates {
                authority,
                service_account_key: new_key_pem()?,
            });
        };
        std::fs::create_dir_all(directory).map_err(|source| Error::File {
            path: directory.to_path_buf(),
            source,
        })?;
        let key = read_or(&directory.join("sa.key"), || Ok(new_key_pem()?))?;
        let authority = Arc::new(authority(directory, now)?);
        Ok(Certificates {
            authority,
            service_account_key: key,
        })
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.authority.pem().certificate
    }

    /// The key that signs service account tokens.
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// The CA itself.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Makes a serving certificate for these names and those that every plane has.
    ///
    /// # Errors
    /// When a name is no DNS name.
    pub fn serving(&self, names: &[String], now: Timestamp) -> Result<Pem, PkiError> {
        serving(&self.authority, names, now)
    }

    /// Makes a client certificate.
    ///
    /// # Errors
    /// For more than two groups.
    pub fn client(
        &self,
        user: &str,
        groups: &[String],
        uris: &[String],
        now: Timestamp,
    ) -> Result<Pem, PkiError> {
        self.authority.client(user, groups, uris, now, LIFE)
    }

    /// The client that the API server is to node agents.
    pub(crate) fn node_client(&self, now: Timestamp) -> Result<NodeClient, Error> {
        let pem = self.client(NODE_CLIENT, &[], &[], now)?;
        Ok(NodeClient::new(&pem.certificate, &pem.key)?)
    }

    /// Signs a request for a client certificate.
    ///
    /// # Errors
    /// When the request is malformed.
    pub fn sign_client(&self, csr_pem: &str, uris: &[String], now: Timestamp) -> Result<String, PkiError> {
        self.authority.sign_csr(csr_pem, Usage::Client, uris, now, LIFE)
    }

    /// Renews the serving certificate while the plane runs.
    pub(crate) fn keep_fresh(&self, serving_slot: Arc<Serving>, names: Vec<String>, clock: SharedClock) {
        let authority = self.authority.clone();
        let weak = Arc::downgrade(&serving_slot);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                let Some(slot) = weak.upgrade() else { return };
                let renewed = serving(&authority, &names, clock.now());
                let replaced = renewed.map(|pem| slot.replace(&pem.certificate, &pem.key));
                if !matches!(replaced, Ok(Ok(()))) {
                    tracing::error!("the serving certificate could not be renewed");
                }
            }
        });
    }
}

fn serving(authority: &Authority, names: &[String], now: Timestamp) -> Result<Pem, PkiError> {
    let mut all: Vec<String> = NAMES.map(String::from).to_vec();
    all.extend(
        names
            .iter()
            .filter(|name| *name != "0.0.0.0" && *name != "::")
            .cloned(),
    );
    all.sort();
    all.dedup();
    authority.serving("kube-apiserver", &all, now, LIFE)
}

fn authority(directory: &Path, now: Timestamp) -> Result<Authority, Error> {
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    if certificate.exists() && key.exists() {
        let pem = Pem {
            certificate: read(&certificate)?,
            key: read(&key)?,
        };
        return Ok(Authority::load(pem)?);
    }
    let made = Authority::create("kubernetes", now)?;
    write_private(&key, &made.pem().key)?;
    write_private(&certificate, &made.pem().certificate)?;
    Ok(made)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_path_buf(),
        source,
    })
}

fn read_or(path: &Path, make: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
    if path.exists() {
        return read(path);
    }
    let made = make()?;
    write_private(path, &made)?;
    Ok(made)
}
