//! Namespace deletion: empties a namespace that is being deleted, of every kind the server knows, then finalizes it.
//! Watches Namespaces; alone writes their deletion conditions and the finalizer `kubernetes`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use mainstay_control::error::found;
use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::{Context, api_of};
use crate::kinds::{Condition, Namespace};
use crate::pods::set_condition;
use crate::resources::{Kind, deletable};

const FINALIZER: &str = "kubernetes";
/// How soon the content is looked at again while finalizers or graceful ends keep it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("namespace")
        .wake_on(&caches.namespaces, |change| {
            let leaving = change.any().metadata.deletion_timestamp.is_some();
            leaving.then(|| change.key.clone()).into_iter().collect()
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// What is left of one kind.
#[derive(Debug, Clone, PartialEq)]
struct Left {
    resource: String,
    count: usize,
    finalizers: Vec<String>,
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(namespace) = context.caches.namespaces.get(&key) else {
        return Ok(Requeue::Never);
    };
    let holds = namespace.spec.finalizers.iter().any(|name| name == FINALIZER);
    if namespace.metadata.deletion_timestamp.is_none() || !holds {
        return Ok(Requeue::Never);
    }
    let mut left = Vec::new();
    for kind in deletable(&context.client)
        .await?
        .iter()
        .filter(|kind| kind.namespaced)
    {
        left.extend(empty(&context, &key.name, kind).await?);
    }
    if left.is_empty() {
        finalize(&context, &key).await?;
        return Ok(Requeue::Never);
    }
    let conditions = conditions(&namespace, &left, context.clock.now());
    if conditions != namespace.status.conditions {
        let patch = json!({"status": {"conditions": conditions}});
        context.patch::<Namespace>(&key, Some("status"), patch).await?;
    }
    Ok(Requeue::After(LOOK_AGAIN))
}

/// Deletes all objects of a kind in the namespace and tells what remains.
async fn empty(context: &Context, namespace: &str, kind: &Kind) -> Result<Option<Left>, Error> {
    let api = api_of(&context.client, namespace, &kind.resource);
    let action = |verb: &str| format!("{verb} {} in {namespace}", kind.resource.plural);
    let before = api
        .list_metadata(&ListParams::default().limit(1))
        .await
        .map_err(Error::api(|| action("list")))?;
    if before.items.is_empty() {
        return Ok(None);
    }
    delete_all(&api, kind)
        .await
        .map_err(Error::api(|| action("delete all")))?;
    let after = api
        .list_metadata(&ListParams::default())
        .await
        .map_err(Error::api(|| action("list")))?;
    let mut finalizers: Vec<_> = after
        .items
        .iter()
        .flat_map(|object| object.metadata.finalizers.iter().flatten().cloned())
        .collect();
    finalizers.sort();
    finalizers.dedup();
    Ok((!after.items.is_empty()).then(|| Left {
        resource: resource_name(&kind.resource),
        count: after.items.len(),
        finalizers,
    }))
}

async fn delete_all(api: &Api<DynamicObject>, kind: &Kind) -> Result<(), kube::Error> {
    let params = DeleteParams::background();
    if kind.collection {
        return api
            .delete_collection(&params, &ListParams::default())
            .await
            .map(drop);
    }
    for object in api.list_metadata(&ListParams::default()).await?.items {
        found(
            api.delete(object.metadata.name.as_deref().unwrap_or_default(), &params)
                .await,
        )?;
    }
    Ok(())
}

fn resource_name(resource: &ApiResource) -> String {
    if resource.group.is_empty() {
        format!("{}.", resource.plural)
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

async fn finalize(context: &Context, key: &ObjectKey) -> Result<(), Error> {
    let action = || format!("finalize namespace {key}");
    let api = api_of(&context.client, "", &ApiResource::erase::<Namespace>(&()));
    let Some(mut object) = api.get_opt(&key.name).await.map_err(Error::api(action))? else {
        return Ok(());
    };
    if let Some(finalizers) = object
        .data
        .pointer_mut("/spec/finalizers")
        .and_then(Value::as_array_mut)
    {
        finalizers.retain(|name| name != FINALIZER);
    }
    let done = api
        .replace_subresource("finalize", &key.name, &PostParams::default(), &object)
        .await;
    found(done).map(drop).map_err(Error::api(action))
}

/// The deletion conditions, with the texts kubectl users know.
fn conditions(namespace: &Namespace, left: &[Left], now: Timestamp) -> Vec<Condition> {
    let mut conditions = namespace.status.conditions.clone();
    let instances = |left: &Left| format!("{} has {} resource instances", left.resource, left.count);
    let remaining: Vec<_> = left.iter().map(instances).collect();
    let mut held: Vec<String> = Vec::new();
    for finalizer in left.iter().flat_map(|left| &left.finalizers) {
        let count: usize = left
            .iter()
            .filter(|left| left.finalizers.contains(finalizer))
            .map(|left| left.count)
            .sum();
        held.push(format!("{finalizer} in {count} resource instances"));
    }
    held.sort();
    held.dedup();
    let mut set = |kind: &str, there: Option<String>, reasons: [&str; 2], otherwise: &str| {
        let (status, reason) = if there.is_some() {
            ("True", reasons[0])
        } else {
            ("False", reasons[1])
        };
        let condition = Condition {
            kind: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(there.unwrap_or(otherwise.into())),
            ..Condition::default()
        };
        set_condition(&mut conditions, condition, now);
    };
    set(
        "NamespaceDeletionDiscoveryFailure",
        None,
        ["", "ResourcesDiscovered"],
        "All resources successfully discovered",
    );
    set(
        "NamespaceDeletionContentFailure",
        None,
        ["", "ContentDeleted"],
        "All content successfully deleted, may be waiting on finalization",
    );
    let content =
        (!remaining.is_empty()).then(|| format!("Some resources are remaining: {}", remaining.join(", ")));
    set(
        "NamespaceContentRemaining",
        content,
        ["SomeResourcesRemain", "ContentRemoved"],
        "All content successfully removed",
    );
    let finalizers = (!held.is_empty()).then(|| {
        format!(
            "Some content in the namespace has finalizers remaining: {}",
            held.join(", ")
        )
    });
    set(
        "NamespaceFinalizersRemaining",
        finalizers,
        ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
        "All content-preserving finalizers finished",
    );
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use expect_test::expect;

    #[test]
    fn the_conditions_name_what_remains_and_what_holds_it() {
        let left = [
            Left {
                resource: "pods.".into(),
                count: 2,
                finalizers: vec!["x.io/hold".into()],
            },
            Left {
                resource: "jobs.batch".into(),
                count: 1,
                finalizers: vec![],
            },
        ];
        let text: Vec<_> = conditions(&Namespace::default(), &left, at(0))
            .into_iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| {
                format!(
                    "{}: {}",
                    condition.reason.unwrap_or_default(),
                    condition.message.unwrap_or_default()
                )
            })
            .collect();
        expect!["SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances, jobs.batch has 1 resource instances\nSomeFinalizersRemain: Some content in the namespace has finalizers remaining: x.io/hold in 2 resource instances"].assert_eq(&text.join("\n"));
    }
}
