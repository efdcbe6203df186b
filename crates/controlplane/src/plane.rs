//! Starting, reaching and stopping a control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mainstay_access::UserInfo;
use mainstay_access::audit::PolicyError;
use mainstay_access::authn::service_account::{KeyError, Keys};
use mainstay_access::authn::token_file::{Malformed, TokenFile};
use mainstay_access::authn::webhook::TokenWebhook;
use mainstay_apiserver::net::{Serving, TlsError, server_config};
use mainstay_apiserver::{ApiServer, InProcess};
use mainstay_base::clock::SharedClock;
use mainstay_base::error::{Class, Classify};

use mainstay_pki::{Credentials, FileError, kubeconfig};
use tokio::net::TcpListener;

use crate::webhook::{self, WebhookError};
use crate::{Certificates, Config, endpoint, policy};

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("failed to open the store of control plane {plane}")]
    Store {
        /// The plane's keyspace.
        plane: String,
        /// Why.
        #[source]
        source: mainstay_store::Error,
    },
    /// A key or certificate could not be made or read.
    #[error("failed to set up certificates")]
    Pki(#[from] mainstay_pki::PkiError),
    /// A secret could not be written.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// TLS cannot be set up.
    #[error("failed to set up the network front")]
    Tls(#[from] TlsError),
    /// The service account keys cannot be used.
    #[error("failed to set up service account keys")]
    Keys(#[from] KeyError),
    /// A file could not be read or written.
    #[error("failed to use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token file has a bad line.
    #[error("failed to read the token file {}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Malformed,
    },
    /// Pods cannot be told where the server is.
    #[error("failed to publish {address} as endpoint of the kubernetes Service")]
    Endpoint {
        /// Where it is.
        address: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The token webhook's configuration cannot be used.
    #[error("failed to set up token reviews by {}", path.display())]
    Webhook {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: WebhookError,
    },
    /// The audit policy cannot be used.
    #[error("failed to use the audit policy {}", path.display())]
    AuditPolicy {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PolicyError,
    },
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Store { source, .. } => source.class(),
            Error::Pki(_) | Error::Tls(_) | Error::Keys(_) | Error::Tokens { .. } => Class::Invalid,
            Error::Webhook { .. } | Error::AuditPolicy { .. } => Class::Invalid,
            Error::File { .. } | Error::Secret(_) | Error::Listen { .. } | Error::Endpoint { .. } => {
                Class::Transient
            }
        }
    }
}

/// A running control plane.
pub struct ControlPlane {
    api: ApiServer,
    uid: String,
    name: String,
    certificates: Certificates,
    address: Option<SocketAddr>,
    advertise: Option<String>,
    clock: SharedClock,
}

impl ControlPlane {
    /// Starts a control plane; it answers when this returns.
    ///
    /// # Errors
    /// When the store, the keys or the address cannot be had.
    pub async fn start(config: Config, clock: SharedClock) -> Result<ControlPlane, Error> {
        let failed = |source| Error::Store {
            plane: config.uid.clone(),
            source,
        };
        let store = config.engine.keyspace(&config.uid).map_err(failed)?;
        let certificates = Certificates::open(config.directory.as_deref(), clock.now())?;
        let keys = Arc::new(Keys::new(&[certificates.service_account_key()])?);
        let parts = policy::Parts {
            keys,
            tokens: tokens(&config)?,
            webhook: token_webhook(&config, &clock)?,
            clock: clock.clone(),
        };
        let server = mainstay_apiserver::Config {
            seed: config.seed,
            node_client: Some(Arc::new(certificates.node_client(clock.now())?)),
            service_cidr: config.service_cidr.clone(),
            seats: config.seats,
            ..mainstay_apiserver::Config::new(store, clock.clone())
        };
        let api = ApiServer::start(server, |world| policy::hooks(&config, parts, world))
            .await
            .map_err(failed)?;
        api.ensure(policy::bootstrap_objects(certificates.ca_pem()))
            .await
            .map_err(failed)?;
        let mut plane = ControlPlane {
            api,
            uid: config.uid.clone(),
            name: config.name.clone(),
            certificates,
            address: None,
            advertise: config.advertise.clone(),
            clock,
        };
        if let Some(address) = config.listen {
            plane.listen(address, &config).await?;
        }
        Ok(plane)
    }

    async fn listen(&mut self, address: SocketAddr, config: &Config) -> Result<(), Error> {
        let failed = |source| Error::Listen {
            address: address.to_string(),
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let mut names = config.serving_names.clone();
        names.push(bound.ip().to_string());
        names.push(self.api.server().api_address().to_string());
        names.extend(self.advertise.iter().map(|host| host_of(host)));
        let shown = self.certificates.serving(&names, self.clock.now())?;
        let serving = Serving::new(&shown.certificate, &shown.key)?;
        let tls = server_config(serving.clone(), self.certificates.ca_pem())?;
        self.api.serve(listener, tls);
        self.certificates.keep_fresh(serving, names, self.clock.clone());
        self.address = Some(bound);
        if let Some(at) = endpoint::reachable(bound, &config.serving_names) {
            let published = endpoint::publish(&self.client(UserInfo::admin()), at).await;
            published.map_err(|source| Error::Endpoint {
                address: at.to_string(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// A client that makes requests as `user`, in process, through the full chain. Must be called inside a runtime, on
    /// which the client then depends.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(self.service(user), "default")
    }

    /// The same as a plain tower service.
    pub fn service(&self, user: UserInfo) -> InProcess {
        self.api.in_process(user)
    }

    /// The API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The plane's keyspace.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Where it listens; `None` when it is in process only.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The URL that clients use; empty when it is in process only.
    pub fn url(&self) -> String {
        match (&self.advertise, self.address) {
            (Some(host), Some(address)) if !host.contains(':') => {
                format!("https://{host}:{}", address.port())
            }
            (Some(host), _) => format!("https://{host}"),
            (None, Some(address)) => format!("https://{address}"),
            (None, None) => String::new(),
        }
    }

    /// The CA that signs the serving certificate and client certificates.
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// The plane's keys and certificates: signs client certificates of joining nodes.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// A kubeconfig with a new client certificate for a user in these groups (at most two).
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn kubeconfig_for(&self, user: &str, groups: &[String]) -> Result<String, Error> {
        let pem = self.certificates.client(user, groups, &[], self.clock.now())?;
        let credentials = Credentials::Certificate(pem);
        Ok(kubeconfig(
            &self.name,
            &self.url(),
            self.ca_pem(),
            user,
            &credentials,
        ))
    }

    /// Ends watches, lets open requests end, and stops.
    pub async fn stop(self) {
        self.api.stop().await;
    }
}

fn host_of(address: &str) -> String {
    address
        .rsplit_once(':')
        .map_or(address, |(host, _)| host)
        .to_string()
}

fn tokens(config: &Config) -> Result<Option<TokenFile>, Error> {
    let Some(path) = &config.token_auth else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.clone(),
        source,
    })?;
    let parsed = TokenFile::parse(&text).map_err(|source| Error::Tokens {
        path: path.clone(),
        source,
    })?;
    Ok(Some(parsed))
}

fn token_webhook(config: &Config, clock: &SharedClock) -> Result<Option<TokenWebhook>, Error> {
    let Some(path) = &config.token_webhook else {
        return Ok(None);
    };
    let endpoint = webhook::endpoint(path).map_err(|source| Error::Webhook {
        path: path.clone(),
        source,
    })?;
    let ttl = config.token_webhook_ttl;
    Ok(Some(TokenWebhook::new(endpoint, ttl, clock.clone())))
}
