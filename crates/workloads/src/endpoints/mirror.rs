//! EndpointSlice mirroring: Endpoints that somebody writes by hand for a Service without selector become slices, for only
//! those are looked at by nodes. Watches Endpoints, Services and slices; alone writes the slices it manages.

use std::net::IpAddr;
use std::sync::Arc;

use mainstay_control::{Change, Controller, Error, ObjectKey, Projection, Requeue};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::plan::{MANAGED_BY, SERVICE, Step};
use crate::context::Context;
use crate::kinds::{EndpointSlice, Endpoints, Service};
use crate::owner;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// On Endpoints: not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On Endpoints that serve an election, an old custom.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored at most (Kubernetes' default).
const SUBSET_LIMIT: usize = 1000;

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("endpointslice-mirroring")
        .wake_on(&caches.endpoints, itself)
        .wake_on(&caches.services, itself)
        .wake_on(&caches.slices, |change| {
            let slice = change.any();
            service_of(slice)
                .filter(|_| manager(slice) == Some(MANAGER))
                .map(|service| ObjectKey::namespaced(change.key.namespace.clone(), service))
                .into_iter()
                .collect()
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

fn itself<P: Projection>(change: &Change<P>) -> Vec<ObjectKey> {
    vec![change.key.clone()]
}

fn label<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn service_of(slice: &EndpointSlice) -> Option<&str> {
    label(slice, SERVICE)
}

fn manager(slice: &EndpointSlice) -> Option<&str> {
    label(slice, MANAGED_BY)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let caches = &context.caches;
    let ours = |slice: &EndpointSlice| {
        slice.metadata.namespace.as_deref() == Some(&key.namespace)
            && service_of(slice) == Some(&key.name)
            && manager(slice) == Some(MANAGER)
    };
    let mut held = caches.slices.select(ours);
    held.sort_by_key(|slice| slice.metadata.name.clone());
    let (service, endpoints) = (caches.services.get(&key), caches.endpoints.get(&key));
    for step in plan(service.as_deref(), endpoints.as_deref(), held) {
        super::apply(&context, &key, step).await?;
    }
    Ok(Requeue::Never)
}

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let has = |map: &Option<std::collections::BTreeMap<String, String>>, name: &str| {
        map.as_ref().and_then(|map| map.get(name)).cloned()
    };
    let meta = &endpoints.metadata;
    let selected = service
        .spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty());
    !selected
        && meta.deletion_timestamp.is_none()
        && has(&meta.labels, SKIP).as_deref() != Some("true")
        && has(&meta.annotations, LEADER).is_none()
}

fn plan(
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
    mut held: Vec<Arc<EndpointSlice>>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mirrored = service
        .zip(endpoints)
        .filter(|(service, endpoints)| is_mirrored(service, endpoints));
    if let Some((service, endpoints)) = mirrored {
        for subset in &endpoints.subsets {
            for family in ["IPv4", "IPv6"] {
                let found = addresses(subset, family);
                if !found.is_empty() {
                    steps.extend(fit(service, endpoints, &mut held, family, found, ports(subset)));
                }
            }
        }
    }
    steps.extend(held.into_iter().map(Step::Delete));
    steps
}

fn ports(subset: &Value) -> Vec<Value> {
    let ports = subset["ports"].as_array().into_iter().flatten();
    ports
        .map(|port| {
            let mut port = port.clone();
            port["name"] = port["name"].as_str().unwrap_or_default().into();
            port["protocol"] = port["protocol"].as_str().unwrap_or("TCP").into();
            port
        })
        .collect()
}

fn addresses(subset: &Value, family: &str) -> Vec<Value> {
    let of = |field: &str, ready: bool| -> Vec<Value> {
        let all = subset[field].as_array().into_iter().flatten();
        all.filter_map(|address| endpoint(address, family, ready))
            .collect()
    };
    let mut all = of("addresses", true);
    all.extend(of("notReadyAddresses", false));
    all.truncate(SUBSET_LIMIT);
    all
}

fn endpoint(address: &Value, family: &str, ready: bool) -> Option<Value> {
    let ip = address["ip"].as_str()?;
    let fits = matches!(
        (ip.parse(), family),
        (Ok(IpAddr::V4(_)), "IPv4") | (Ok(IpAddr::V6(_)), "IPv6")
    );
    let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    fits.then_some(endpoint)
}

/// Puts endpoints into the held slice with the same ports, or into a new one.
fn fit(
    service: &Service,
    endpoints: &Endpoints,
    held: &mut Vec<Arc<EndpointSlice>>,
    family: &str,
    found: Vec<Value>,
    ports: Vec<Value>,
) -> Option<Step> {
    let same = |slice: &Arc<EndpointSlice>| {
        slice.address_type == family && slice.ports.clone().unwrap_or_default() == ports
    };
    let Some(at) = held.iter().position(same) else {
        return Some(Step::Create(object(service, endpoints, family, &found, &ports)));
    };
    let slice = held.remove(at);
    (slice.endpoints.clone().unwrap_or_default() != found).then_some(Step::Update {
        slice,
        endpoints: found,
        ports,
    })
}

fn object(service: &Service, endpoints: &Endpoints, family: &str, found: &[Value], ports: &[Value]) -> Value {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = json!(endpoints.metadata.labels.clone().unwrap_or_default());
    labels[SERVICE] = name.clone().into();
    labels[MANAGED_BY] = MANAGER.into();
    json!({
        "metadata": {"generateName": format!("{name}-"), "labels": labels, "ownerReferences": [owner::reference(endpoints)]},
        "addressType": family, "endpoints": found, "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::decoded;
    use expect_test::{Expect, expect};

    fn check(service: Value, endpoints: Value, held: Vec<Value>, expected: Expect) {
        let service: Service = decoded(service);
        let endpoints: Endpoints = decoded(endpoints);
        let held = held.into_iter().map(|slice| Arc::new(decoded(slice))).collect();
        let list = |endpoints: &[Value]| {
            let texts = endpoints
                .iter()
                .map(|one| format!("{} {}", one["addresses"][0], one["conditions"]["ready"]));
            texts.collect::<Vec<_>>().join(", ")
        };
        let text = |step: &Step| match step {
            Step::Create(object) => format!(
                "create [{}] {}",
                list(object["endpoints"].as_array().expect("a list")),
                object["ports"]
            ),
            Step::Update { endpoints, .. } => format!("update [{}]", list(endpoints)),
            Step::Delete(_) => "delete".to_owned(),
        };
        let steps = plan(Some(&service), Some(&endpoints), held);
        expected.assert_eq(&steps.iter().map(text).collect::<Vec<_>>().join("; "));
    }

    fn endpoints(labels: Value) -> Value {
        json!({"metadata": {"name": "db", "namespace": "default", "labels": labels}, "subsets": [{
            "addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]})
    }

    fn slice(address: &str) -> Value {
        json!({"metadata": {"name": "db-x"}, "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "", "port": 5432, "protocol": "TCP"}]})
    }

    #[test]
    fn endpoints_written_by_hand_become_a_slice_and_follow_changes() {
        let service = json!({"metadata": {"name": "db", "namespace": "default"}});
        check(
            service.clone(),
            endpoints(json!({})),
            vec![],
            expect![[
                r#"create ["192.0.2.1" true, "192.0.2.2" false] [{"name":"","port":5432,"protocol":"TCP"}]"#
            ]],
        );
        check(
            service,
            endpoints(json!({})),
            vec![slice("192.0.2.9")],
            expect![[r#"update ["192.0.2.1" true, "192.0.2.2" false]"#]],
        );
    }

    #[test]
    fn what_others_keep_is_not_mirrored() {
        let selecting = json!({"metadata": {"name": "db"}, "spec": {"selector": {"app": "db"}}});
        check(
            selecting,
            endpoints(json!({})),
            vec![slice("192.0.2.1")],
            expect!["delete"],
        );
        let service = json!({"metadata": {"name": "db"}});
        check(service, endpoints(json!({SKIP: "true"})), vec![], expect![""]);
    }
}
