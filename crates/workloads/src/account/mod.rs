//! What every namespace must have: ServiceAccount `default` and ConfigMap `kube-root-ca.crt`. Watches both and the
//! Namespaces; alone writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::{Context, DEFAULT_ACCOUNT, ROOT_CA};
use crate::kinds::{ConfigMap, Namespace, ServiceAccount};

const CA_KEY: &str = "ca.crt";

#[derive(Debug, PartialEq)]
enum Step {
    CreateAccount,
    CreateRootCa,
    RepairRootCa,
}

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("serviceaccount")
        .wake_on(&caches.namespaces, |change| vec![change.key.clone()])
        .wake_on(&caches.accounts, |change| {
            vec![ObjectKey::cluster(change.key.namespace.clone())]
        })
        .wake_on(&caches.root_cas, |change| {
            vec![ObjectKey::cluster(change.key.namespace.clone())]
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

fn plan(
    namespace: &Namespace,
    account: bool,
    root_ca: Option<&BTreeMap<String, String>>,
    ca_pem: &str,
) -> Vec<Step> {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if !account {
        steps.push(Step::CreateAccount);
    }
    match root_ca {
        None => steps.push(Step::CreateRootCa),
        Some(data) if data.len() == 1 && data.get(CA_KEY).is_some_and(|pem| pem == ca_pem) => {}
        Some(_) => steps.push(Step::RepairRootCa),
    }
    steps
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(namespace) = context.caches.namespaces.get(&key) else {
        return Ok(Requeue::Never);
    };
    let in_it = |name: &str| ObjectKey::namespaced(key.name.clone(), name);
    let account = context.caches.accounts.get(&in_it(DEFAULT_ACCOUNT)).is_some();
    let root_ca = context.caches.root_cas.get(&in_it(ROOT_CA));
    let ca_pem = &context.config.ca_pem;
    for step in plan(&namespace, account, root_ca.as_ref().map(|map| &map.data), ca_pem) {
        let outcome = match step {
            Step::CreateAccount => context
                .create::<ServiceAccount>(&key.name, json!({"metadata": {"name": DEFAULT_ACCOUNT}}))
                .await
                .map(drop),
            Step::CreateRootCa => context
                .create::<ConfigMap>(&key.name, root_ca_object(ca_pem))
                .await
                .map(drop),
            Step::RepairRootCa => {
                let strangers = root_ca
                    .iter()
                    .flat_map(|map| map.data.keys())
                    .filter(|name| *name != CA_KEY);
                let mut data: serde_json::Map<_, _> =
                    strangers.map(|name| (name.clone(), Value::Null)).collect();
                data.insert(CA_KEY.into(), ca_pem.clone().into());
                context
                    .patch::<ConfigMap>(&in_it(ROOT_CA), None, json!({"data": data}))
                    .await
            }
        };
        match outcome {
            // Created meanwhile by someone else: the watch brings it.
            Err(error) if error.is_code(409) => {}
            // The namespace is gone or going: nothing is missing in it.
            Err(error) if error.is_code(404) || error.is_code(403) => return Ok(Requeue::Never),
            other => other?,
        }
    }
    Ok(Requeue::Never)
}

fn root_ca_object(ca_pem: &str) -> Value {
    let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    json!({"metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": about}}, "data": {CA_KEY: ca_pem}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_things_are_made_and_changed_ones_repaired() {
        let namespace = Namespace::default();
        let data = |pem: &str| BTreeMap::from([(CA_KEY.to_string(), pem.to_string())]);
        assert_eq!(
            plan(&namespace, false, None, "pem"),
            [Step::CreateAccount, Step::CreateRootCa]
        );
        assert_eq!(plan(&namespace, true, Some(&data("pem")), "pem"), []);
        assert_eq!(
            plan(&namespace, true, Some(&data("forged")), "pem"),
            [Step::RepairRootCa]
        );
    }
}
