//! ConfigMaps, Secrets, service-account tokens and Services that pods of this node refer to.
//!
//! Answers are kept for a short while, and longer when the API server is away: pods restart without it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Secret, Service,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::ListParams;
use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::api::ApiHandle;
use crate::podspec;
use crate::podspec::env::service_variables;
use crate::repeated::Repeated;
use crate::volumes::content::{Objects, TokenKey, token_key};

/// How long an answer counts as fresh.
const FRESH: Duration = Duration::from_secs(20);
/// How long to wait for one object.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests under way at once: each has a connection of its own, and many pods come at the same moment.
const AT_ONCE: usize = 4;

/// Names of what a pod refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// Tokens.
    pub tokens: BTreeSet<TokenKey>,
    /// Claims of storage.
    pub claims: BTreeSet<String>,
}

/// Collects what a pod refers to.
pub fn wanted(spec: &PodSpec) -> Wanted {
    let mut wanted = Wanted::default();
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        for from in container.env_from.iter().flatten() {
            wanted
                .config_maps
                .extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            wanted
                .secrets
                .extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for from in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            wanted
                .config_maps
                .extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
            wanted
                .secrets
                .extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        wanted
            .config_maps
            .extend(volume.config_map.iter().map(|s| s.name.clone()));
        wanted
            .secrets
            .extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        let claim = volume.persistent_volume_claim.as_ref();
        wanted.claims.extend(claim.map(|c| c.claim_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            wanted
                .config_maps
                .extend(source.config_map.iter().map(|s| s.name.clone()));
            wanted
                .secrets
                .extend(source.secret.iter().map(|s| s.name.clone()));
            wanted
                .tokens
                .extend(source.service_account_token.iter().map(token_key));
        }
    }
    wanted
}

/// Whether a pod's volumes hold content that can change while it runs.
pub fn has_changing_content(spec: &PodSpec) -> bool {
    spec.volumes.iter().flatten().any(|v| {
        v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
    })
}

/// A request under way. Boxed, since one takes kilobytes: what may ask keeps no room for it when it does not.
type Asked<'a, T> = BoxFuture<'a, Result<T, kube::Error>>;

struct Kept<T> {
    at: Duration,
    value: Option<T>,
}

type Cache<K, T> = Mutex<HashMap<K, Kept<T>>>;
type MapData = (BTreeMap<String, String>, BTreeMap<String, Vec<u8>>);
type SecretData = BTreeMap<String, Vec<u8>>;

struct Token {
    text: String,
    refresh_at: jiff::Timestamp,
}

/// Fetches and keeps what pods refer to.
pub struct Fetcher {
    api: ApiHandle,
    clock: SharedClock,
    config_maps: Cache<(String, String), MapData>,
    secrets: Cache<(String, String), SecretData>,
    services: Cache<String, BTreeMap<String, String>>,
    handlers: Cache<String, String>,
    tokens: Mutex<HashMap<(String, TokenKey), Token>>,
    no_token: Repeated,
    turns: Semaphore,
}

impl Fetcher {
    /// Makes an empty fetcher.
    pub fn new(api: ApiHandle, clock: SharedClock) -> Self {
        Fetcher {
            no_token: Repeated::new(clock.clone()),
            api,
            clock,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            services: Mutex::default(),
            handlers: Mutex::default(),
            tokens: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Asks the API server in turn with others.
    async fn ask<T>(
        &self,
        ask: impl Future<Output = Result<T, kube::Error>>,
    ) -> Option<Result<T, kube::Error>> {
        let in_turn = async {
            let _turn = self.turns.acquire().await;
            ask.await
        };
        tokio::time::timeout(PATIENCE, in_turn).await.ok()
    }

    /// Answers from what is kept while fresh; else asks, and falls back to what was kept when asking fails.
    async fn cached<K, T>(&self, cache: &Cache<K, T>, key: K, ask: Asked<'_, Option<T>>) -> Option<T>
    where
        K: std::hash::Hash + Eq,
        T: Clone,
    {
        let fresh = || {
            let cache = cache.lock();
            let kept = cache.get(&key)?;
            let age = self.clock.monotonic().saturating_sub(kept.at);
            kept.value.as_ref().filter(|_| age < FRESH).cloned()
        };
        if let Some(value) = fresh() {
            return Some(value);
        }
        // Another pod may have asked while this one waited for its turn.
        let ask = async {
            match fresh() {
                Some(value) => Ok(Some(value)),
                None => ask.await,
            }
        };
        match self.ask(ask).await {
            Some(Ok(value)) => {
                let kept = Kept {
                    at: self.clock.monotonic(),
                    value: value.clone(),
                };
                cache.lock().insert(key, kept);
                value
            }
            failed => {
                if let Some(Err(error)) = &failed {
                    tracing::debug!(
                        error = mainstay_base::error::chain(error),
                        "could not fetch an object for a pod"
                    );
                }
                // While the API server is away nobody waits for it again and again.
                let mut cache = cache.lock();
                let kept = cache.get_mut(&key)?;
                kept.at = self.clock.monotonic();
                kept.value.clone()
            }
        }
    }

    async fn config_map(&self, client: &kube::Client, namespace: &str, name: &str) -> Option<MapData> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let key = (namespace.to_owned(), name.to_owned());
        let ask = Box::pin(async {
            let found = api.get_opt(name).await?;
            Ok(found.map(|m| {
                let binary = m.binary_data.unwrap_or_default();
                let binary = binary.into_iter().map(|(k, v)| (k, v.0)).collect();
                (m.data.unwrap_or_default(), binary)
            }))
        });
        self.cached(&self.config_maps, key, ask).await
    }

    /// The runtime's handler of a RuntimeClass; `None`: there is no such class, or nobody can tell.
    pub async fn runtime_handler(&self, class: &str) -> Option<String> {
        let api: Api<RuntimeClass> = Api::all(self.api.client()?);
        let ask = Box::pin(async { Ok(api.get_opt(class).await?.map(|found| found.handler)) });
        self.cached(&self.handlers, class.to_owned(), ask).await
    }

    /// The data of one Secret.
    pub async fn secret(&self, namespace: &str, name: &str) -> Option<SecretData> {
        let client = self.api.client()?;
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let key = (namespace.to_owned(), name.to_owned());
        let ask = Box::pin(async {
            let found = api.get_opt(name).await?;
            Ok(found.map(|s| {
                s.data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(k, v)| (k, v.0))
                    .collect()
            }))
        });
        self.cached(&self.secrets, key, ask).await
    }

    async fn services(&self, client: &kube::Client, namespace: &str) -> BTreeMap<String, String> {
        let api: Api<Service> = Api::namespaced(client.clone(), namespace);
        let ask = Box::pin(async {
            let list = api.list(&ListParams::default()).await?;
            Ok(Some(
                list.items.iter().flat_map(variables).collect::<BTreeMap<_, _>>(),
            ))
        });
        self.cached(&self.services, namespace.to_owned(), ask)
            .await
            .unwrap_or_default()
    }

    async fn token(&self, client: &kube::Client, pod: &Pod, key: &TokenKey) -> Option<String> {
        let held = (podspec::uid(pod).to_owned(), key.clone());
        if let Some(token) = self.tokens.lock().get(&held)
            && self.clock.now() < token.refresh_at
        {
            return Some(token.text.clone());
        }
        let status = match self.ask(Box::pin(request_token(client, pod, key))).await {
            Some(Ok(request)) => request.status?,
            failed => {
                if let Some(Err(error)) = failed
                    && let Some(failures) = self.no_token.fails()
                {
                    let error = mainstay_base::error::chain(&error);
                    tracing::warn!(error, failures, "could not get a service account token");
                }
                let tokens = self.tokens.lock();
                return tokens.get(&held).map(|t| t.text.clone());
            }
        };
        self.no_token.works();
        let now = self.clock.now().as_second();
        let ends = status.expiration_timestamp.map_or(now, |t| t.0.as_second());
        let life = (ends - now).clamp(0, 30 * 3600);
        let text = status.token?;
        let refresh_at = jiff::Timestamp::from_second(now + life * 4 / 5).unwrap_or(jiff::Timestamp::MAX);
        let token = Token {
            text: text.clone(),
            refresh_at,
        };
        self.tokens.lock().insert(held, token);
        Some(text)
    }

    /// Everything a pod refers to, as far as it is there.
    pub async fn objects(&self, pod: &Pod) -> Objects {
        let mut objects = Objects::default();
        let (Some(spec), Some(client)) = (pod.spec.as_ref(), self.api.client()) else {
            return objects;
        };
        let namespace = podspec::namespace(pod);
        let wanted = wanted(spec);
        // All at once: each is a round trip that the pod's start waits for.
        let config_maps = join_all(wanted.config_maps.iter().map(|name| async {
            let found = self.config_map(&client, namespace, name).await;
            found.map(|data| (name.clone(), data))
        }));
        let secrets = join_all(wanted.secrets.iter().map(|name| async {
            let found = self.secret(namespace, name).await;
            found.map(|data| (name.clone(), data))
        }));
        let tokens = join_all(wanted.tokens.iter().map(|key| async {
            let found = self.token(&client, pod, key).await;
            found.map(|text| (key.clone(), text))
        }));
        let claims = join_all(
            wanted
                .claims
                .iter()
                .map(|name| Box::pin(async { (name.clone(), claimed(&client, namespace, name).await) })),
        );
        let services = self.service_variables(&client, spec, namespace);
        let (config_maps, secrets, tokens, claims, services) =
            futures::join!(config_maps, secrets, tokens, claims, services);
        for (name, (text, binary)) in config_maps.into_iter().flatten() {
            objects.sources.config_maps.insert(name.clone(), text);
            objects.binary.insert(name, binary);
        }
        objects.sources.secrets = secrets.into_iter().flatten().collect();
        objects.tokens = tokens.into_iter().flatten().collect();
        objects.claims = claims.into_iter().collect();
        objects.sources.services = services;
        objects
    }

    /// Variables of the namespace's Services, if the pod wants them, and of the API server in any case.
    async fn service_variables(
        &self,
        client: &kube::Client,
        spec: &PodSpec,
        namespace: &str,
    ) -> BTreeMap<String, String> {
        let mut all = match spec.enable_service_links {
            Some(false) => BTreeMap::new(),
            _ => self.services(client, namespace).await,
        };
        let master = self.services(client, "default").await;
        all.extend(
            master
                .into_iter()
                .filter(|(name, _)| name.starts_with("KUBERNETES_")),
        );
        all
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.tokens.lock().retain(|(owner, _), _| owner != uid);
    }
}

/// Where the volume of a claim is on this machine; else why not.
async fn claimed(client: &kube::Client, namespace: &str, name: &str) -> Result<HostPathVolumeSource, String> {
    let failed = |error: kube::Error| mainstay_base::error::chain(&error);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(name).await.map_err(failed)?;
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    let bound = claim
        .status
        .and_then(|status| status.phase)
        .is_some_and(|phase| phase == "Bound");
    let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|_| bound);
    let volume = volume.ok_or_else(|| format!("persistentvolumeclaim {name:?} is not bound"))?;
    let found = Api::<PersistentVolume>::all(client.clone())
        .get_opt(&volume)
        .await
        .map_err(failed)?;
    let spec = found.and_then(|found| found.spec);
    let spec = spec.ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
    let local = spec.local.map(|local| HostPathVolumeSource {
        path: local.path,
        type_: Some("Directory".to_owned()),
    });
    spec.host_path.or(local).ok_or_else(|| {
        format!("persistentvolume {volume:?}: only hostPath and local volumes are supported by this node")
    })
}

fn variables(service: &Service) -> BTreeMap<String, String> {
    let spec = service.spec.as_ref();
    let ip = spec
        .and_then(|s| s.cluster_ip.as_deref())
        .filter(|ip| !ip.is_empty() && *ip != "None");
    let Some(ip) = ip else { return BTreeMap::new() };
    let ports: Vec<_> = spec
        .and_then(|s| s.ports.as_ref())
        .into_iter()
        .flatten()
        .map(|p| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (p.name.clone().filter(|n| !n.is_empty()), p.port, protocol)
        })
        .collect();
    service_variables(service.metadata.name.as_deref().unwrap_or(""), ip, &ports)
}

async fn request_token(
    client: &kube::Client,
    pod: &Pod,
    key: &TokenKey,
) -> Result<TokenRequest, kube::Error> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    let audiences: Vec<&str> = Some(key.0.as_str())
        .filter(|a| !a.is_empty())
        .into_iter()
        .collect();
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": audiences, "expirationSeconds": key.1,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": podspec::name(pod), "uid": podspec::uid(pod)}}});
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
        podspec::namespace(pod)
    );
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_pod_refers_to_is_found() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "a", "envFrom": [{"secretRef": {"name": "s1"}}],
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "s2"}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "w", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "m2"}}]}}]}))
        .expect("valid");
        let wanted = wanted(&spec);
        assert_eq!(Vec::from_iter(&wanted.config_maps), ["m1", "m2"]);
        assert_eq!(Vec::from_iter(&wanted.secrets), ["s1", "s2"]);
        assert_eq!(Vec::from_iter(&wanted.claims), ["c1"]);
        assert_eq!(Vec::from_iter(&wanted.tokens), [&(String::new(), 3600)]);
    }
}
