//! Garbage collection: deletes objects whose owners are gone, and carries out foreground and orphaning deletion.
//! Watches the metadata of every kind the server knows; alone writes the two finalizers and dangling owner references.

mod graph;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use mainstay_control::error::{found, is_conflict};
use mainstay_control::{CancellationToken, Controller, Error, ObjectKey, Requeue, queue::Queue};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::{Context, api_of};
use crate::resources::{Kind, deletable};
use graph::{Graph, Item, Step};

/// How often newly served kinds are looked for.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// Kinds that come and go in masses and never have owners or dependents.
const IGNORED: [&str; 1] = ["events"];

/// What the watches fill and the workers read.
struct Collector {
    context: Arc<Context>,
    graph: Mutex<Graph>,
    kinds: Mutex<HashMap<String, Kind>>,
    queue: Arc<Queue<ObjectKey>>,
}

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let controller = Controller::new("garbagecollector");
    let collector = Arc::new(Collector {
        queue: controller.queue(),
        graph: Mutex::default(),
        kinds: Mutex::default(),
        context: context.clone(),
    });
    let watching = collector.clone();
    let run = controller.run(context.stop.clone(), move |key| reconcile(collector.clone(), key));
    tokio::spawn(async move {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = watching.follow_kinds() => {}
        }
        // The workers end with the same token; a panic in them has been reported already.
        let _ = run.await;
    })
}

fn kind_name(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock()
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<String, Kind>> {
        self.kinds.lock()
    }

    /// Wakes objects by uid.
    fn wake(&self, uids: Vec<String>) {
        uids.into_iter()
            .for_each(|uid| self.queue.add(ObjectKey::cluster(uid)));
    }

    /// Watches every kind there is, and those that come later; kinds that are gone are let go.
    async fn follow_kinds(self: Arc<Self>) {
        let mut watches: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            match deletable(&self.context.client).await {
                Ok(kinds) => self.clone().follow_only(kinds, &mut watches),
                Err(error) => {
                    let problem = mainstay_base::error::chain(&error);
                    tracing::debug!(problem, "kinds not discovered, trying again");
                }
            }
            tokio::time::sleep(if watches.is_empty() {
                Duration::from_secs(1)
            } else {
                DISCOVERY_PERIOD
            })
            .await;
        }
    }

    fn follow_only(self: Arc<Self>, kinds: Vec<Kind>, watches: &mut HashMap<String, CancellationToken>) {
        let followed = |kind: &Kind| kind.watchable && !IGNORED.contains(&kind.resource.plural.as_str());
        let kinds: HashMap<_, _> = kinds
            .into_iter()
            .filter(followed)
            .map(|kind| (kind_name(&kind.resource), kind))
            .collect();
        watches.retain(|name, stop| {
            let served = kinds.contains_key(name);
            if !served {
                stop.cancel();
            }
            served
        });
        *self.kinds() = kinds.clone();
        for (name, kind) in kinds {
            if watches.contains_key(&name) {
                continue;
            }
            let stop = self.context.stop.child_token();
            watches.insert(name.clone(), stop.clone());
            let collector = self.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = collector.follow(&name, &kind) => {}
                }
                let gone = collector.graph().uids_of(&name);
                gone.iter().for_each(|uid| drop(collector.graph().remove(uid)));
            });
        }
    }

    async fn follow(&self, name: &str, kind: &Kind) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.context.client.clone(), &kind.resource);
        let mut stream = pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut relisted = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => relisted.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    relisted.extend(object.metadata.uid.clone());
                    self.put(name, &object.metadata);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = self
                        .graph()
                        .uids_of(name)
                        .into_iter()
                        .filter(|uid| !relisted.contains(uid));
                    gone.collect::<Vec<_>>().iter().for_each(|uid| self.remove(uid));
                }
                Ok(watcher::Event::Apply(object)) => self.put(name, &object.metadata),
                Ok(watcher::Event::Delete(object)) => {
                    self.remove(object.metadata.uid.as_deref().unwrap_or_default())
                }
                Err(error) => {
                    let problem = mainstay_base::error::chain(&error);
                    tracing::debug!(kind = name, problem, "watch failed, trying again");
                }
            }
        }
    }

    fn put(&self, kind: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        let affected = self.graph().put(uid, Item::of(kind, meta));
        self.wake(affected);
    }

    fn remove(&self, uid: &str) {
        let affected = self.graph().remove(uid);
        self.wake(affected);
    }

    fn resource(&self, kind: &str) -> Option<ApiResource> {
        self.kinds().get(kind).map(|kind| kind.resource.clone())
    }

    /// Asks the server which of these owners do not exist. An owner of a kind nobody serves counts as existing:
    /// deleting on a guess cannot be undone.
    async fn absent(&self, item: &Item, owners: Vec<OwnerReference>) -> Result<HashSet<String>, Error> {
        let mut absent = HashSet::new();
        for owner in owners {
            let (group, _) = owner
                .api_version
                .split_once('/')
                .unwrap_or(("", &owner.api_version));
            let serves = |kind: &&Kind| kind.resource.kind == owner.kind && kind.resource.group == group;
            let Some(kind) = self.kinds().values().find(serves).cloned() else {
                continue;
            };
            let namespace = if kind.namespaced {
                item.key.namespace.as_str()
            } else {
                ""
            };
            let api = api_of(&self.context.client, namespace, &kind.resource);
            let action = || format!("look up owner {} {}", owner.kind, owner.name);
            let there = api
                .get_metadata_opt(&owner.name)
                .await
                .map_err(Error::api(action))?;
            if there.is_none_or(|there| there.metadata.uid.as_ref() != Some(&owner.uid)) {
                absent.insert(owner.uid);
            }
        }
        Ok(absent)
    }

    async fn delete(&self, uid: &str, item: &Item, policy: Option<PropagationPolicy>) -> Result<(), Error> {
        let Some(resource) = self.resource(&item.kind) else {
            return Ok(());
        };
        let params = DeleteParams {
            propagation_policy: policy,
            preconditions: Some(Preconditions {
                uid: Some(uid.to_string()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api = api_of(&self.context.client, &item.key.namespace, &resource);
        match found(api.delete(&item.key.name, &params).await) {
            Err(error) if is_conflict(&error) => Ok(()),
            other => other
                .map(drop)
                .map_err(Error::api(|| format!("delete {} {}", item.kind, item.key))),
        }
    }

    /// Merges a change of metadata into exactly this object.
    async fn patch(&self, uid: &str, item: &Item, mut metadata: serde_json::Value) -> Result<(), Error> {
        let Some(resource) = self.resource(&item.kind) else {
            return Ok(());
        };
        metadata["uid"] = uid.into();
        let api = api_of(&self.context.client, &item.key.namespace, &resource);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let done = api
            .patch_metadata(&item.key.name, &PatchParams::default(), &patch)
            .await;
        found(done)
            .map(drop)
            .map_err(Error::api(|| format!("patch {} {}", item.kind, item.key)))
    }

    async fn unlink(&self, uid: &str, item: &Item, owners: &[String]) -> Result<(), Error> {
        let kept: Vec<_> = item
            .owners
            .iter()
            .filter(|owner| !owners.contains(&owner.uid))
            .collect();
        self.patch(uid, item, json!({"ownerReferences": kept})).await
    }
}

async fn reconcile(collector: Arc<Collector>, key: ObjectKey) -> Result<Requeue, Error> {
    let uid = key.name;
    let look = |absent: &HashSet<String>| {
        let graph = collector.graph();
        let item = graph.get(&uid).cloned();
        item.map(|item| (item, graph.plan(&uid, absent)))
    };
    let Some((item, mut step)) = look(&HashSet::new()) else {
        return Ok(Requeue::Never);
    };
    if let Step::Verify(owners) = step {
        let absent = collector.absent(&item, owners).await?;
        step = look(&absent).map_or(Step::Nothing, |(_, step)| step);
    }
    apply(&collector, &uid, &item, step).await?;
    Ok(Requeue::Never)
}

async fn apply(collector: &Collector, uid: &str, item: &Item, step: Step) -> Result<(), Error> {
    match step {
        // What could not be verified just now is there but not in the graph yet: its arrival wakes us.
        Step::Nothing | Step::Verify(_) => Ok(()),
        Step::Delete { foreground: true } => {
            collector
                .delete(uid, item, Some(PropagationPolicy::Foreground))
                .await
        }
        Step::Delete { foreground: false } => {
            collector
                .delete(uid, item, Some(PropagationPolicy::Background))
                .await
        }
        Step::Unlink(owners) => collector.unlink(uid, item, &owners).await,
        Step::DeleteDependents(dependents) => {
            collector.wake(dependents);
            Ok(())
        }
        Step::OrphanDependents(dependents) => {
            for dependent in dependents {
                let Some(item) = collector.graph().get(&dependent).cloned() else {
                    continue;
                };
                collector.unlink(&dependent, &item, &[uid.to_string()]).await?;
            }
            Ok(())
        }
        Step::Release(finalizer) => {
            let kept: Vec<_> = item.finalizers.iter().filter(|held| *held != finalizer).collect();
            collector.patch(uid, item, json!({"finalizers": kept})).await
        }
    }
}
