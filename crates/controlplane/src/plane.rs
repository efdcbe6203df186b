//! Starting, reaching and stopping a control plane.

use std::path::PathBuf;
use std::sync::Arc;

use mainstay_apiserver::authn::service_account::{KeyError, Keys};
use mainstay_apiserver::authn::token_file::{Malformed, TokenFile};
use mainstay_apiserver::{ApiServer, InProcess, UserInfo};
use mainstay_base::clock::SharedClock;
use mainstay_base::error::{Class, Classify};

use crate::{Config, policy};

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
            Error::Pki(_) | Error::Keys(_) | Error::Tokens { .. } => Class::Invalid,
            Error::File { .. } | Error::Listen { .. } => Class::Transient,
        }
    }
}

/// A running control plane.
pub struct ControlPlane {
    api: ApiServer,
    uid: String,
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
        let keys = Arc::new(Keys::new(&[mainstay_pki::new_key_pem()?])?);
        let parts = policy::Parts {
            keys,
            tokens: tokens(&config)?,
            clock: clock.clone(),
        };
        let server = mainstay_apiserver::Config {
            seed: config.seed,
            service_cidr: config.service_cidr.clone(),
            ..mainstay_apiserver::Config::new(store, clock)
        };
        let api = ApiServer::start(server, |world| policy::hooks(&config, parts, world))
            .await
            .map_err(failed)?;
        api.ensure(policy::bootstrap_objects()).await.map_err(failed)?;
        Ok(ControlPlane { api, uid: config.uid })
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

    /// Ends watches and stops.
    pub async fn stop(self) {
        self.api.drain();
    }
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
