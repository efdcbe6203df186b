//! The engine on an etcd cluster (3.4 and later): stateless, so that several servers can share it.
//!
//! A keyspace's revisions are etcd's own, which other keyspaces raise too: still one per transaction and increasing.
//! Every transaction also writes the keyspace's marker key. Its revision is the keyspace's newest, and every watch
//! sees it, which gives exact progress on any version of etcd without asking for it.

mod keys;
mod store;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Certificate, Client, ConnectOptions, DeleteOptions, GetOptions, Identity, TlsOptions};
use mainstay_base::clock::SharedClock;

use crate::error::{Error, Result};
use crate::model::{Engine, Store};
use store::EtcdStore;

/// A request that takes longer has failed, with unknown outcome.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without life signs for this long is replaced.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How etcd is trusted and convinced, as PEM texts.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed etcd's serving certificates.
    pub ca: String,
    /// Our certificate and key, if etcd asks for them.
    pub client: Option<(String, String)>,
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct EtcdEngine {
    client: Client,
    clock: SharedClock,
    runtime: tokio::runtime::Handle,
}

pub(crate) fn failed(action: &'static str) -> impl FnOnce(etcd_client::Error) -> Error {
    move |error| Error::Etcd {
        action,
        message: error.to_string(),
    }
}

impl EtcdEngine {
    /// Connects to the members at `urls` and makes sure that one answers.
    ///
    /// # Errors
    /// [`Error::Etcd`] when none does.
    pub async fn connect(urls: &[String], tls: Option<EtcdTls>, clock: SharedClock) -> Result<Self> {
        let mut options = ConnectOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true);
        if let Some(tls) = tls {
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca));
            if let Some((certificate, key)) = tls.client {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(config);
        }
        let mut client = Client::connect(urls, Some(options))
            .await
            .map_err(failed("connect"))?;
        client.status().await.map_err(failed("report its status"))?;
        Ok(EtcdEngine {
            client,
            clock,
            runtime: tokio::runtime::Handle::current(),
        })
    }
}

#[async_trait]
impl Engine for EtcdEngine {
    fn keyspace(&self, uid: &str) -> Result<Arc<dyn Store>> {
        keys::check_uid(uid)?;
        Ok(Arc::new(EtcdStore::new(
            self.client.clone(),
            uid,
            self.clock.clone(),
            self.runtime.clone(),
        )))
    }

    async fn keyspaces(&self) -> Result<Vec<String>> {
        let mut client = self.client.kv_client();
        let end = keys::after_prefix(keys::ROOT);
        let (mut start, mut names) = (keys::ROOT.as_bytes().to_vec(), Vec::new());
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(1)
                .with_keys_only();
            let found = client
                .get(start, Some(options))
                .await
                .map_err(failed("list keyspaces"))?;
            let Some(entry) = found.kvs().first() else {
                return Ok(names);
            };
            let name = keys::uid_of(entry.key())?;
            start = keys::after_prefix(&keys::plane(&name));
            names.push(name);
        }
    }

    async fn drop_keyspace(&self, uid: &str) -> Result<()> {
        keys::check_uid(uid)?;
        let options = DeleteOptions::new().with_prefix();
        let done = self
            .client
            .kv_client()
            .delete(keys::plane(uid), Some(options))
            .await;
        done.map(drop).map_err(failed("drop a keyspace"))
    }
}
