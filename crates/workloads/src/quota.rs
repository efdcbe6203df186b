//! Quota resync: counts what a ResourceQuota limits anew from time to time and corrects its status. The API server charges
//! every write by itself; what is left are writes that it could not know of. Watches ResourceQuotas; writes their status only
//! where it is wrong, and never over a charge that came between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use mainstay_control::error::found;
use mainstay_control::{Change, Controller, Error, ObjectKey, Requeue};
use mainstay_policy::amounts::{amounts, to_json};
use mainstay_policy::quota::{Charged, concerns, recount};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::ResourceQuota;

/// How often each quota is counted (Kubernetes' default).
const PERIOD: Duration = Duration::from_secs(300);

/// The core kinds that limits count by other names than `count/...`.
const CORE: &[(&str, &str)] = &[
    ("pods", "Pod"),
    ("services", "Service"),
    ("persistentvolumeclaims", "PersistentVolumeClaim"),
    ("configmaps", "ConfigMap"),
    ("secrets", "Secret"),
    ("replicationcontrollers", "ReplicationController"),
    ("resourcequotas", "ResourceQuota"),
];

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    Controller::new("resourcequota")
        .wake_on(&context.caches.quotas, |change: &Change<ResourceQuota>| {
            // Every charge changes the status: only a new quota or new limits are a reason to count at once.
            let same = matches!((&change.old, &change.new), (Some(old), Some(new)) if old.spec == new.spec);
            if same {
                Vec::new()
            } else {
                vec![change.key.clone()]
            }
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// Group and plural of a kind.
type Kind = (String, String);

/// The kinds that a quota's limits count.
fn kinds(quota: &Value) -> Vec<Kind> {
    let limits = quota["spec"]["hard"].as_object();
    let limits: Vec<&String> = limits.into_iter().flatten().map(|(name, _)| name).collect();
    let core = CORE.iter().filter(|(plural, _)| {
        let any = Charged {
            group: "",
            resource: plural,
            object: &Value::Null,
        };
        limits.iter().any(|limit| concerns(&any, limit))
    });
    let named = limits.iter().filter_map(|limit| {
        let (plural, group) = limit.strip_prefix("count/")?.split_once('.')?;
        Some((group.to_owned(), plural.to_owned()))
    });
    core.map(|(plural, _)| (String::new(), (*plural).to_owned()))
        .chain(named)
        .collect()
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let quotas: Api<DynamicObject> = Api::namespaced_with(
        context.client.clone(),
        &key.namespace,
        &ApiResource::erase::<ResourceQuota>(&()),
    );
    let got = found(quotas.get(&key.name).await).map_err(Error::api(|| format!("read quota {key}")))?;
    let Some(quota) = got else {
        return Ok(Requeue::Never);
    };
    // Counted after it was read: a charge that comes between changes the version, and the write is refused.
    let version = quota.metadata.resource_version.clone();
    let quota = json!(quota);
    let mut objects: BTreeMap<Kind, Vec<Value>> = BTreeMap::new();
    for kind in kinds(&quota) {
        let listed = list(&context, &key.namespace, &kind).await?;
        objects.insert(kind, listed);
    }
    let charged = objects.iter().flat_map(|((group, resource), objects)| {
        objects.iter().map(move |object| Charged {
            group,
            resource,
            object,
        })
    });
    let used = recount(&quota, charged, context.clock.now().as_second());
    if used != amounts(&quota["status"]["used"]) || quota["status"]["hard"] != quota["spec"]["hard"] {
        let status = json!({"hard": quota["spec"]["hard"], "used": to_json(&used)});
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        context
            .patch::<ResourceQuota>(&key, Some("status"), patch)
            .await?;
    }
    Ok(Requeue::After(PERIOD))
}

/// All objects of a kind in a namespace; none of a kind that is not served.
async fn list(context: &Context, namespace: &str, (group, plural): &Kind) -> Result<Vec<Value>, Error> {
    let failed = || format!("count {plural}.{group} in {namespace}");
    let Some(version) = version(context, group).await? else {
        return Ok(Vec::new());
    };
    let kind = CORE
        .iter()
        .find(|(core, _)| core == plural)
        .map_or("", |(_, kind)| kind);
    let resource = ApiResource {
        plural: plural.clone(),
        ..ApiResource::from_gvk(&GroupVersionKind::gvk(group, &version, kind))
    };
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let listed = found(api.list(&ListParams::default()).await).map_err(Error::api(failed))?;
    let items = listed.map(|list| list.items).unwrap_or_default();
    Ok(items.iter().map(|object| json!(object)).collect())
}

/// The version of a group that its server prefers.
async fn version(context: &Context, group: &str) -> Result<Option<String>, Error> {
    if group.is_empty() {
        return Ok(Some("v1".into()));
    }
    let request = http::Request::get(format!("/apis/{group}")).body(Vec::new());
    let request = request.map_err(|error| Error::Invalid {
        object: format!("count/*.{group}"),
        problem: error.to_string(),
    })?;
    let asked = found(context.client.request::<APIGroup>(request).await);
    let group = asked.map_err(Error::api(|| format!("discover group {group}")))?;
    Ok(group
        .and_then(|group| group.preferred_version)
        .map(|preferred| preferred.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_the_kinds_that_are_counted() {
        let quota = json!({"spec": {"hard": {
            "requests.cpu": "1", "count/deployments.apps": "3", "services.nodeports": "1", "count/configmaps": "5"}}});
        let found: Vec<String> = kinds(&quota)
            .into_iter()
            .map(|(group, plural)| format!("{plural}.{group}"))
            .collect();
        assert_eq!(found, ["pods.", "services.", "configmaps.", "deployments.apps"]);
    }
}
