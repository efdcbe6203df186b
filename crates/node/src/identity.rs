//! The node's certificate: asked for with the bootstrap token, kept in a file, renewed before it expires.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use mainstay_base::clock::SharedClock;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use ring::digest::{SHA256, digest};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::api::{ApiError, ApiSlot, Credentials, connect_counted};
use crate::config::NodeConfig;
use crate::settings::Access;
use crate::tally::Tally;

/// How long to wait between the first looks at the request.
const POLL: Duration = Duration::from_millis(500);
/// How long to wait after a failed attempt to join.
const RETRY: Duration = Duration::from_secs(2);

/// How long a certificate is used at least before the next is asked for: upstream's signer says that it was valid five
/// minutes before it was issued, which is most of the life of a short one.
const PAUSE: Duration = Duration::from_secs(10);
/// From so many failures on the wait no longer grows: a request that is denied again and again costs little.
const MOST_FAILURES: u32 = 15;

/// Why the node has no certificate (yet).
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be used.
    #[error("failed to use {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Making the key or the request failed.
    #[error("failed to make a certificate request")]
    Request(#[from] rcgen::Error),
    /// The API server refused a call.
    #[error("failed to {action}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No client could be made.
    #[error(transparent)]
    Client(#[from] ApiError),
    /// Somebody denied the request.
    #[error("the certificate request {name} was denied: {why}")]
    Denied {
        /// The request's name.
        name: String,
        /// Reason and message of the condition.
        why: String,
    },
    /// The API server issued something that is no certificate.
    #[error("the issued certificate cannot be read: {why}")]
    Unreadable {
        /// What is wrong.
        why: String,
    },
}

/// What a certificate is for.
#[derive(Debug)]
struct Purpose {
    /// Of the files that keep it.
    prefix: &'static str,
    /// Of requests for it.
    request_prefix: &'static str,
    signer: &'static str,
    usage: &'static str,
    /// The wait between looks at a request grows up to this: some are approved by people.
    longest_poll: Duration,
}

const CLIENT: &Purpose = &Purpose {
    prefix: "kubelet-client",
    request_prefix: "node-csr-",
    signer: "kubernetes.io/kube-apiserver-client-kubelet",
    usage: "client auth",
    longest_poll: POLL,
};
const SERVING: &Purpose = &Purpose {
    prefix: "kubelet-server",
    request_prefix: "node-serving-csr-",
    signer: "kubernetes.io/kubelet-serving",
    usage: "server auth",
    longest_poll: Duration::from_secs(30),
};

/// Where a certificate is kept.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    purpose: &'static Purpose,
}

/// A certificate with its key and the times that matter.
#[derive(Debug, Clone)]
pub struct Held {
    /// PEM chain.
    pub certificate: String,
    /// PEM key.
    pub key: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

impl Held {
    fn credentials(&self) -> Credentials {
        Credentials::Certificate {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }

    /// When to ask for the next one: after four fifths of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.as_second() - self.not_before.as_second();
        Timestamp::from_second(self.not_before.as_second() + life * 4 / 5).unwrap_or(self.not_after)
    }
}

impl Store {
    /// A store of the client certificate in `dir` (made when missing).
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Store {
            dir: dir.into(),
            purpose: CLIENT,
        }
    }

    /// A store of the serving certificate in `dir` (made when missing).
    pub fn serving(dir: impl Into<PathBuf>) -> Self {
        Store {
            dir: dir.into(),
            purpose: SERVING,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.purpose.prefix))
    }

    fn pending_key(&self) -> PathBuf {
        self.dir.join(format!("{}.key.tmp", self.purpose.prefix))
    }

    /// The kept certificate, if it is for this very node and incarnation and still valid.
    pub fn load(&self, join: &NodeConfig, now: Timestamp) -> Option<Held> {
        self.load_named(join, &identity_names(join).ok()?, now)
    }

    /// The kept certificate, if it is for this very node with all these names, and still valid.
    pub fn load_named(&self, join: &NodeConfig, wanted: &[SanType], now: Timestamp) -> Option<Held> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        let (certificate, key) = text.split_at(key_begins(&text)?);
        let held = describe(certificate, key).ok()?;
        let fits = names(certificate, join, wanted) && held.not_after > now;
        fits.then_some(held)
    }

    /// When the kept certificate ends; `None`: there is none.
    pub fn ends(&self) -> Option<Timestamp> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        let (certificate, key) = text.split_at(key_begins(&text)?);
        Some(describe(certificate, key).ok()?.not_after)
    }

    fn save(&self, held: &Held) -> Result<(), IdentityError> {
        write_private(&self.file(), &format!("{}{}", held.certificate, held.key))?;
        let _ = std::fs::remove_file(self.pending_key());
        Ok(())
    }

    /// The key of a request under way: kept so that a restart asks again with the same one.
    fn key(&self) -> Result<KeyPair, IdentityError> {
        if let Ok(text) = std::fs::read_to_string(self.pending_key())
            && let Ok(key) = KeyPair::from_pem(&text)
        {
            return Ok(key);
        }
        let key = KeyPair::generate()?;
        write_private(&self.pending_key(), &key.serialize_pem())?;
        Ok(key)
    }
}

/// Where the key begins in a file with a certificate and its key, which may say of which kind it is (`EC`, `RSA`).
fn key_begins(text: &str) -> Option<usize> {
    let mut begins = text.match_indices("-----BEGIN ").map(|(at, _)| at);
    begins.find(|at| {
        let line = text[*at..].lines().next().unwrap_or_default();
        line.ends_with("PRIVATE KEY-----")
    })
}

/// Writes a file only its owner may read, in one step.
pub fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let write = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| IdentityError::File {
        path: path.display().to_string(),
        source,
    })
}

fn describe(certificate: &str, key: &str) -> Result<Held, IdentityError> {
    let unreadable = |why: &str| IdentityError::Unreadable { why: why.to_owned() };
    let der = crate::api::bundle(certificate);
    let first = der.first().ok_or_else(|| unreadable("no PEM block"))?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|e| unreadable(&e.to_string()))?;
    let time = |t: x509_parser::time::ASN1Time| {
        Timestamp::from_second(t.timestamp()).map_err(|e| unreadable(&e.to_string()))
    };
    Ok(Held {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        not_before: time(parsed.validity().not_before)?,
        not_after: time(parsed.validity().not_after)?,
    })
}

/// Whether a certificate names this node, with all of these alternative names.
fn names(certificate: &str, join: &NodeConfig, wanted: &[SanType]) -> bool {
    let der = crate::api::bundle(certificate);
    let Some((_, parsed)) = der.first().and_then(|d| X509Certificate::from_der(d).ok()) else {
        return false;
    };
    let node = format!("system:node:{}", join.node_name);
    let mut common = parsed.subject().iter_common_name();
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let has = |wanted: &SanType| {
        let mut all = alternative.iter().flat_map(|s| &s.value.general_names);
        all.any(|name| is(name, wanted))
    };
    common.any(|cn| cn.as_str() == Ok(node.as_str())) && wanted.iter().all(has)
}

fn is(name: &GeneralName<'_>, wanted: &SanType) -> bool {
    match (name, wanted) {
        (GeneralName::URI(text), SanType::URI(wanted)) => *text == wanted.as_str(),
        (GeneralName::DNSName(text), SanType::DnsName(wanted)) => *text == wanted.as_str(),
        (GeneralName::IPAddress(bytes), SanType::IpAddress(IpAddr::V4(ip))) => *bytes == ip.octets(),
        (GeneralName::IPAddress(bytes), SanType::IpAddress(IpAddr::V6(ip))) => *bytes == ip.octets(),
        _ => false,
    }
}

/// The alternative names of a client certificate: the machine's identity, where the join file has one.
fn identity_names(join: &NodeConfig) -> Result<Vec<SanType>, IdentityError> {
    let uri = join.identity_uri().into_iter();
    uri.map(|uri| -> Result<SanType, IdentityError> { Ok(SanType::URI(uri.try_into()?)) })
        .collect()
}

/// Makes the request: CN `system:node:NAME`, O `system:nodes`, and the alternative names.
fn request_pem(join: &NodeConfig, key: &KeyPair, names: &[SanType]) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{}", join.node_name));
    params.distinguished_name = name;
    params.subject_alt_names = names.to_vec();
    Ok(params.serialize_request(key)?.pem()?)
}

fn request_object(
    purpose: &Purpose,
    join: &NodeConfig,
    key: &KeyPair,
    names: &[SanType],
) -> Result<CertificateSigningRequest, IdentityError> {
    let digest = digest(&SHA256, key.public_key_raw());
    let hash: String = digest
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(format!("{}{hash}", purpose.request_prefix)),
            ..Default::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request_pem(join, key, names)?.into_bytes()),
            signer_name: purpose.signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), purpose.usage.to_owned()]),
            ..Default::default()
        },
        status: None,
    })
}

fn denied(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let bad = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"))?;
    Some(format!(
        "{}: {}",
        bad.reason.as_deref().unwrap_or(""),
        bad.message.as_deref().unwrap_or("")
    ))
}

/// Asks for a certificate with `client` and waits for it.
///
/// # Errors
/// When it is denied, or what the API server answered.
pub async fn ask(
    client: &kube::Client,
    join: &NodeConfig,
    store: &Store,
    names: &[SanType],
) -> Result<Held, IdentityError> {
    let key = store.key()?;
    let wanted = request_object(store.purpose, join, &key, names)?;
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => tracing::info!(name, signer = store.purpose.signer, "asked for a certificate"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(source) => return Err(api_error("create the certificate request")(source)),
    }
    let mut poll = POLL;
    loop {
        let seen = api
            .get(&name)
            .await
            .map_err(api_error("read the certificate request"))?;
        if let Some(why) = denied(&seen) {
            let _ = std::fs::remove_file(store.pending_key());
            return Err(IdentityError::Denied { name, why });
        }
        let issued = seen
            .status
            .and_then(|s| s.certificate)
            .filter(|c| !c.0.is_empty());
        if let Some(ByteString(pem)) = issued {
            let held = describe(&String::from_utf8_lossy(&pem), &key.serialize_pem())?;
            store.save(&held)?;
            return Ok(held);
        }
        tokio::time::sleep(poll).await;
        poll = (poll * 2).min(store.purpose.longest_poll);
    }
}

fn api_error(action: &'static str) -> impl Fn(kube::Error) -> IdentityError {
    move |source| IdentityError::Api {
        action,
        source: Box::new(source),
    }
}

/// What a node joins its cluster with.
#[derive(Debug)]
pub struct Joining {
    /// The join file.
    pub join: NodeConfig,
    /// Credentials beside it.
    pub access: Access,
    /// Where the certificate is kept.
    pub store: Store,
    /// Whether it is renewed before it expires.
    pub rotate: bool,
    /// Counts failures.
    pub tally: Arc<Tally>,
}

/// With what the node shows who it is.
enum Shown {
    /// A certificate, which ends.
    Certificate(Held),
    /// A token that somebody else looks after.
    Token(String),
}

impl Shown {
    fn credentials(&self) -> Credentials {
        match self {
            Shown::Certificate(held) => held.credentials(),
            Shown::Token(token) => Credentials::Token(token.clone()),
        }
    }
}

impl Joining {
    /// The kept certificate, else what was given, else a new certificate from the cluster.
    async fn once(&self, clock: &SharedClock) -> Result<Shown, IdentityError> {
        if let Some(held) = self.store.load(&self.join, clock.now()) {
            return Ok(Shown::Certificate(held));
        }
        match &self.access.given {
            Some(Credentials::Token(token)) => return Ok(Shown::Token(token.clone())),
            Some(Credentials::Certificate { certificate, key }) => {
                let held = describe(certificate, key)?;
                if held.not_after > clock.now() {
                    return Ok(Shown::Certificate(held));
                }
            }
            None => {}
        }
        let token = || Credentials::Token(self.join.bootstrap_token.clone());
        let first = self.access.first.clone().unwrap_or_else(token);
        let client = connect_counted(&self.join, &first, &self.tally).await?;
        let held = self.renew(&client).await?;
        self.leave_kubeconfig()?;
        Ok(Shown::Certificate(held))
    }

    async fn renew(&self, client: &kube::Client) -> Result<Held, IdentityError> {
        ask(client, &self.join, &self.store, &identity_names(&self.join)?).await
    }

    /// Makes the kubeconfig that others on this machine expect of a node that has joined.
    fn leave_kubeconfig(&self) -> Result<(), IdentityError> {
        let Some(path) = self.access.kubeconfig.as_ref().filter(|path| !path.exists()) else {
            return Ok(());
        };
        let server = self.join.api_servers.first().map_or("", String::as_str);
        let credentials = mainstay_pki::Credentials::File(self.store.file());
        let ca = &self.join.ca_bundle;
        let text = mainstay_pki::kubeconfig("default-cluster", server, ca, "default-auth", &credentials);
        write_private(path, &text)
    }
}

/// Keeps the node joined for as long as it runs: certificate first, then a new one before each expires.
/// Failures are logged and tried again; the rest of the agent works on without an API server meanwhile.
pub async fn keep(joining: Joining, slot: ApiSlot, clock: SharedClock) {
    let mut failures = 0;
    loop {
        let shown = match joining.once(&clock).await {
            Ok(shown) => shown,
            Err(error) => {
                joining.tally.client_renewals_failed.count([]);
                tracing::warn!(
                    error = mainstay_base::error::chain(&error),
                    "could not join the cluster yet"
                );
                failures = (failures + 1).min(MOST_FAILURES);
                tokio::time::sleep(RETRY * failures).await;
                continue;
            }
        };
        failures = 0;
        let client = match connect_counted(&joining.join, &shown.credentials(), &joining.tally).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(
                    error = mainstay_base::error::chain(&error),
                    "no client with the node's certificate"
                );
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        slot.set(client.clone());
        let Shown::Certificate(held) = shown else {
            return std::future::pending().await;
        };
        let until = match joining.rotate {
            true => held.renew_at().max(clock.now() + PAUSE).min(held.not_after),
            false => held.not_after,
        };
        wait_until(until, &clock).await;
        if let Err(error) = joining.renew(&client).await {
            joining.tally.client_renewals_failed.count([]);
            tracing::warn!(
                error = mainstay_base::error::chain(&error),
                "could not renew the certificate"
            );
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Waits until a time has come.
pub async fn wait_until(at: Timestamp, clock: &SharedClock) {
    while clock.now() < at {
        let left = at
            .as_second()
            .saturating_sub(clock.now().as_second())
            .clamp(1, 60);
        tokio::time::sleep(Duration::from_secs(left as u64)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join() -> NodeConfig {
        NodeConfig::parse("{clusterUID: c, nodeName: n1, incarnation: 2}").expect("valid")
    }

    fn certificate(uri: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:n1");
        params
            .subject_alt_names
            .push(SanType::URI(uri.to_owned().try_into().expect("ascii")));
        (params.self_signed(&key).expect("signed").pem(), key)
    }

    #[test]
    fn a_certificate_of_an_older_incarnation_is_not_used() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::new(dir.path());
        let now = Timestamp::from_second(1_767_225_600).expect("in range");
        for (uri, kept) in [("mainstay://c/n1/1", false), ("mainstay://c/n1/2", true)] {
            let (pem, key) = certificate(uri);
            let held = describe(&pem, &key.serialize_pem()).expect("readable");
            store.save(&held).expect("saved");
            assert_eq!(store.load(&join(), now).is_some(), kept, "{uri}");
        }
    }

    #[test]
    fn the_request_is_named_after_its_key_so_that_a_restart_asks_for_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::new(dir.path());
        let first = request_object(CLIENT, &join(), &store.key().expect("a key"), &[]).expect("a request");
        let second = request_object(CLIENT, &join(), &store.key().expect("a key"), &[]).expect("a request");
        assert_eq!(first.metadata.name, second.metadata.name);
    }
}
