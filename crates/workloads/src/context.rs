//! What every controller gets: the client, the clock, the shared caches, and the few ways to write.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::ApiResource;
use mainstay_base::clock::SharedClock;
use mainstay_control::error::{found, is_conflict};
use mainstay_control::{Cache, CancellationToken, Error, ObjectKey, Projection, Recorder, Scope};
use serde_json::Value;
use tokio::sync::watch;

use crate::kinds::{
    CertificateSigningRequest, ClusterRole, ConfigMap, ControllerRevision, CronJob, DaemonSet, Deployment,
    EndpointSlice, Endpoints, Job, Lease, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    PodDisruptionBudget, ReplicaSet, ResourceQuota, Service, ServiceAccount, StatefulSet, StorageClass,
};

/// Where nodes keep their Leases.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The ServiceAccount of every namespace.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap of every namespace that holds the authority's certificate.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// How long a controller waits to see its own writes come back; longer means the watch is broken, and then the next
/// pass works on what is known.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// A cache that can be waited on.
#[derive(Clone)]
pub(crate) struct Tracked<P> {
    cache: Cache<P>,
    changes: Arc<watch::Sender<u64>>,
}

impl<P: Projection> Tracked<P> {
    pub(crate) fn of(cache: Cache<P>) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        let bump = changes.clone();
        cache.listen(move |_| bump.send_modify(|count| *count += 1));
        Tracked { cache, changes }
    }

    fn start(client: &kube::Client, scope: Scope, stop: &CancellationToken) -> Self {
        Self::of(Cache::start(client, scope, stop.clone()))
    }

    /// Waits until `seen` holds of the cache, up to [`SETTLE_LIMIT`]. Controllers call it after creates and deletes so
    /// that their next pass never decides on a world without them.
    pub(crate) async fn settle(&self, seen: impl Fn(&Cache<P>) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = async {
            while !seen(&self.cache) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(SETTLE_LIMIT, wait).await.is_err() {
            tracing::debug!(kind = %P::kind(&()), "own writes did not come back in time");
        }
    }
}

impl<P> std::ops::Deref for Tracked<P> {
    type Target = Cache<P>;

    fn deref(&self) -> &Cache<P> {
        &self.cache
    }
}

/// One shared cache per kind.
#[derive(Clone)]
pub(crate) struct Caches {
    pub pods: Tracked<Pod>,
    pub replica_sets: Tracked<ReplicaSet>,
    pub deployments: Tracked<Deployment>,
    pub jobs: Tracked<Job>,
    pub nodes: Tracked<Node>,
    pub leases: Tracked<Lease>,
    pub namespaces: Tracked<Namespace>,
    pub accounts: Tracked<ServiceAccount>,
    pub root_cas: Tracked<ConfigMap>,
    pub services: Tracked<Service>,
    pub slices: Tracked<EndpointSlice>,
    pub requests: Tracked<CertificateSigningRequest>,
    pub cluster_roles: Tracked<ClusterRole>,
    pub budgets: Tracked<PodDisruptionBudget>,
    pub cron_jobs: Tracked<CronJob>,
    pub stateful_sets: Tracked<StatefulSet>,
    pub daemon_sets: Tracked<DaemonSet>,
    pub revisions: Tracked<ControllerRevision>,
    pub endpoints: Tracked<Endpoints>,
    pub claims: Tracked<PersistentVolumeClaim>,
    pub volumes: Tracked<PersistentVolume>,
    pub classes: Tracked<StorageClass>,
    pub quotas: Tracked<ResourceQuota>,
}

impl Caches {
    fn start(client: &kube::Client, stop: &CancellationToken) -> Self {
        let all = Scope::default;
        let named = |name: &str| Scope {
            fields: Some(format!("metadata.name={name}")),
            ..Scope::default()
        };
        Caches {
            pods: Tracked::start(client, all(), stop),
            replica_sets: Tracked::start(client, all(), stop),
            deployments: Tracked::start(client, all(), stop),
            jobs: Tracked::start(client, all(), stop),
            nodes: Tracked::start(client, all(), stop),
            leases: Tracked::of(Cache::start_in(client, LEASE_NAMESPACE, all(), stop.clone())),
            namespaces: Tracked::start(client, all(), stop),
            accounts: Tracked::start(client, named(DEFAULT_ACCOUNT), stop),
            root_cas: Tracked::start(client, named(ROOT_CA), stop),
            services: Tracked::start(client, all(), stop),
            slices: Tracked::start(client, all(), stop),
            requests: Tracked::start(client, all(), stop),
            cluster_roles: Tracked::start(client, all(), stop),
            budgets: Tracked::start(client, all(), stop),
            cron_jobs: Tracked::start(client, all(), stop),
            stateful_sets: Tracked::start(client, all(), stop),
            daemon_sets: Tracked::start(client, all(), stop),
            revisions: Tracked::start(client, all(), stop),
            endpoints: Tracked::start(client, all(), stop),
            claims: Tracked::start(client, all(), stop),
            volumes: Tracked::start(client, all(), stop),
            classes: Tracked::start(client, all(), stop),
            quotas: Tracked::start(client, all(), stop),
        }
    }
}

/// What every controller gets.
pub(crate) struct Context {
    pub client: kube::Client,
    pub clock: SharedClock,
    pub events: Recorder,
    pub caches: Caches,
    pub stop: CancellationToken,
    pub config: crate::Config,
}

impl Context {
    pub(crate) fn new(
        client: kube::Client,
        config: crate::Config,
        clock: SharedClock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Context {
            events: Recorder::start(client.clone(), "controller-manager", None, clock.clone()),
            caches: Caches::start(&client, &stop),
            client,
            clock,
            stop,
            config,
        })
    }

    fn api<P: Projection>(&self, namespace: &str) -> Api<DynamicObject> {
        api_of(&self.client, namespace, &ApiResource::erase::<P>(&()))
    }

    /// Creates an object and returns its key (the server may have chosen the name).
    pub(crate) async fn create<P: Projection>(
        &self,
        namespace: &str,
        mut object: Value,
    ) -> Result<ObjectKey, Error> {
        object["apiVersion"] = P::api_version(&()).into_owned().into();
        object["kind"] = P::kind(&()).into_owned().into();
        let action = || format!("create a {} in {namespace}", P::kind(&()));
        let object = serde_json::from_value(object).map_err(|error| Error::Invalid {
            object: action(),
            problem: error.to_string(),
        })?;
        let made = self
            .api::<P>(namespace)
            .create(&PostParams::default(), &object)
            .await;
        made.map(|made| ObjectKey::of_dynamic(&made))
            .map_err(Error::api(action))
    }

    /// Merges a patch into an object or one of its subresources; an object that is gone is left gone.
    pub(crate) async fn patch<P: Projection>(
        &self,
        key: &ObjectKey,
        subresource: Option<&str>,
        patch: Value,
    ) -> Result<(), Error> {
        let api = self.api::<P>(&key.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = match subresource {
            None => api.patch(&key.name, &params, &patch).await,
            Some(part) => api.patch_subresource(part, &key.name, &params, &patch).await,
        };
        let action = || format!("patch {} {key}", P::kind(&()));
        found(patched).map(drop).map_err(Error::api(action))
    }

    /// Deletes exactly this object (by uid), its dependents in the background. Gone or replaced counts as done.
    pub(crate) async fn delete<P: Projection>(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
    ) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: uid.map(|uid| Preconditions {
                uid: Some(uid.to_string()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match found(self.api::<P>(&key.namespace).delete(&key.name, &params).await) {
            Err(error) if is_conflict(&error) => Ok(()),
            other => other
                .map(drop)
                .map_err(Error::api(|| format!("delete {} {key}", P::kind(&())))),
        }
    }
}

/// An untyped API of a resource; the empty namespace means cluster scope (or all namespaces, for lists).
pub(crate) fn api_of(client: &kube::Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, resource)
    }
}

trait OfDynamic {
    fn of_dynamic(object: &DynamicObject) -> ObjectKey;
}

impl OfDynamic for ObjectKey {
    fn of_dynamic(object: &DynamicObject) -> ObjectKey {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        ObjectKey::namespaced(text(&object.metadata.namespace), text(&object.metadata.name))
    }
}
