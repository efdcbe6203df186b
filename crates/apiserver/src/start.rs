//! Starting and stopping a server: caches, first objects, followers.

use std::sync::Arc;

use mainstay_store::{Condition, Error, Key, Op};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cache::Caches;
use crate::in_process::InProcess;
use crate::registry::commit::canonical;
use crate::server::{Config, Server};
use mainstay_access::hooks::{Hooks, World};
use mainstay_access::user::UserInfo;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// A running API server. Dropping it stops its tasks.
pub struct ApiServer {
    server: Arc<Server>,
    tasks: Vec<JoinHandle<()>>,
    fronts: Vec<JoinHandle<()>>,
}

impl ApiServer {
    /// Loads the store, makes the objects that every cluster has, and starts to follow the store. `hooks` gets the
    /// world that policy decides on.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start(
        config: Config,
        hooks: impl FnOnce(Arc<dyn World>) -> Hooks,
    ) -> Result<ApiServer, Error> {
        let server = Server::load(config, hooks).await?;
        let follow = tokio::spawn(Caches::follow(server.caches().clone()));
        let unstall = tokio::spawn(Caches::end_stalled(server.caches().clone()));
        let mut tasks = vec![follow, unstall];
        ensure(&server, first_objects(&server)).await?;
        server.caches().fresh().await?;
        let mut definitions = crate::custom::Definitions::new(server.clone());
        definitions.serve().await;
        tasks.push(tokio::spawn(definitions.follow()));
        Ok(ApiServer {
            server,
            tasks,
            fronts: Vec::new(),
        })
    }

    /// A service that makes requests as `user`, in process.
    pub fn in_process(&self, user: UserInfo) -> InProcess {
        InProcess::new(self.server.clone(), user)
    }

    /// The server's inner state, for the network front and for diagnostics.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The watch caches as policy sees them.
    pub fn world(&self) -> Arc<dyn World> {
        self.server.caches().clone()
    }

    /// Makes objects that must exist, and leaves alone those that do.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn ensure(&self, objects: Vec<(String, Value)>) -> Result<(), Error> {
        ensure(&self.server, objects).await
    }

    /// Serves the network on `listener` until the server drains.
    pub fn serve(&mut self, listener: tokio::net::TcpListener, tls: Arc<rustls::ServerConfig>) {
        let front = crate::net::serve(self.server.clone(), listener, tls);
        self.fronts.push(tokio::spawn(front));
    }

    /// Ends watches and tells readyz; requests are still answered.
    pub fn drain(&self) {
        self.server.drain();
    }

    /// Drains, and waits until the requests that came over the network are answered (some seconds at most).
    pub async fn stop(mut self) {
        self.server.drain();
        for front in std::mem::take(&mut self.fronts) {
            if let Err(error) = front.await {
                tracing::error!(%error, "the network front failed");
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.server.drain();
        self.tasks.iter().chain(&self.fronts).for_each(JoinHandle::abort);
    }
}

/// Stores objects that are absent, named by store resource; fills in uid and creation time. All at once: they become
/// durable together.
async fn ensure(server: &Server, objects: Vec<(String, Value)>) -> Result<(), Error> {
    let stored = objects
        .into_iter()
        .map(|(resource, object)| ensure_one(server, resource, object));
    futures::future::try_join_all(stored).await.map(drop)
}

async fn ensure_one(server: &Server, resource: String, mut object: Value) -> Result<(), Error> {
    let meta = crate::registry::metadata(&mut object);
    meta.insert("uid".into(), mainstay_base::ids::new_uid().into());
    let now = mainstay_base::clock::rfc3339_seconds(server.clock.now());
    meta.insert("creationTimestamp".into(), now.into());
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let key = Key::new(&resource, text("namespace"), text("name"));
    if server
        .caches()
        .resource(&resource)
        .get(&key.namespace, &key.name)
        .is_some()
    {
        return Ok(());
    }
    let put = Op::put(key.clone(), canonical(&object));
    let store = server.caches().store();
    match store.txn(vec![Condition::Absent(key)], vec![put]).await {
        Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn first_objects(server: &Server) -> Vec<(String, Value)> {
    let mut objects: Vec<(String, Value)> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    let address = server.allocator.api_address().to_string();
    objects.push(("core/services".into(), api_service(&address)));
    objects.push(("networking.k8s.io/ipaddresses".into(), api_address(&address)));
    objects.push((
        "networking.k8s.io/servicecidrs".into(),
        service_cidr(server.allocator.cidr()),
    ));
    objects
}

fn namespace(name: &str) -> (String, Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    ("core/namespaces".into(), object)
}

fn api_service(address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn api_address(address: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address,
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}},
    })
}

fn service_cidr(cidr: String) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": [cidr]},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]},
    })
}
