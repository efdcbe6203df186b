//! The decision: which addresses a Service has, spread over slices of at most a hundred with as few writes as possible.
//! Rules: <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{EndpointSlice, Pod, Service, ServicePort};
use crate::owner::{self, is_ended, ready_since};

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Kubernetes' default size of a slice.
const SLICE_LIMIT: usize = 100;

/// What the decision is made from.
pub(super) struct Seen<'a> {
    pub service: &'a Service,
    pub pods: &'a [Arc<Pod>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node.
    pub zone: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Debug)]
pub(super) enum Step {
    Create(Value),
    Update {
        slice: Arc<EndpointSlice>,
        endpoints: Vec<Value>,
        ports: Vec<Value>,
    },
    Delete(Arc<EndpointSlice>),
}

/// Whether the Service's selector picks the pod; without a selector it picks none.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service
        .spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
    else {
        return false;
    };
    let label = |name: &String| pod.metadata.labels.as_ref()?.get(name);
    selector.iter().all(|(name, value)| label(name) == Some(value))
}

fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip.as_deref() == Some("None")
}

/// Address families the Service has slices for.
fn families(service: &Service) -> Vec<&str> {
    if service.spec.ip_families.is_empty() {
        return vec!["IPv4"];
    }
    service.spec.ip_families.iter().map(String::as_str).collect()
}

pub(super) fn plan(seen: &Seen<'_>) -> Vec<Step> {
    let service = seen.service;
    let no_selector = service.spec.selector.as_ref().is_none_or(BTreeMap::is_empty);
    let gone =
        service.metadata.deletion_timestamp.is_some() || service.spec.kind.as_deref() == Some("ExternalName");
    if no_selector || gone {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for family in families(service) {
        let slices: Vec<_> = seen
            .slices
            .iter()
            .filter(|slice| slice.address_type == family)
            .cloned()
            .collect();
        steps.extend(of_family(seen, family, slices));
    }
    steps
}

/// Groups endpoints by what their pods call the ports, then fits each group into slices.
fn of_family(seen: &Seen<'_>, family: &str, mut slices: Vec<Arc<EndpointSlice>>) -> Vec<Step> {
    let mut groups: BTreeMap<String, (Vec<Value>, BTreeMap<String, Value>)> = BTreeMap::new();
    for pod in seen.pods.iter().filter(|pod| !is_ended(pod)) {
        let Some(address) = address(pod, family) else {
            continue;
        };
        let ports = ports(seen.service, pod);
        let group = groups
            .entry(json!(ports).to_string())
            .or_insert((ports, BTreeMap::new()));
        group.1.insert(
            pod.metadata.name.clone().unwrap_or_default(),
            endpoint(seen, pod, address),
        );
    }
    if groups.is_empty() {
        // One empty slice says that the Service has been looked at; the ports of the last pods stay.
        let ports = slices
            .first()
            .and_then(|slice| slice.ports.clone())
            .unwrap_or_default();
        groups.insert(String::new(), (ports, BTreeMap::new()));
    }
    let mut steps = Vec::new();
    for (ports, endpoints) in groups.into_values() {
        let same = |slice: &Arc<EndpointSlice>| slice.ports.clone().unwrap_or_default() == ports;
        let (own, rest) = slices.into_iter().partition(same);
        slices = rest;
        steps.extend(fit(seen.service, family, own, endpoints, ports));
    }
    steps.extend(slices.into_iter().map(Step::Delete));
    steps
}

fn pod_name(endpoint: &Value) -> &str {
    endpoint["targetRef"]["name"].as_str().unwrap_or_default()
}

/// Keeps endpoints in the slice they are in, fills what has room, makes new slices for the rest, drops empty ones.
fn fit(
    service: &Service,
    family: &str,
    slices: Vec<Arc<EndpointSlice>>,
    mut wanted: BTreeMap<String, Value>,
    ports: Vec<Value>,
) -> Vec<Step> {
    let mut filled: Vec<(Arc<EndpointSlice>, Vec<Value>)> = Vec::new();
    for slice in slices {
        let old = slice.endpoints.iter().flatten();
        let kept: Vec<Value> = old
            .filter_map(|endpoint| wanted.remove(pod_name(endpoint)))
            .collect();
        filled.push((slice, kept));
    }
    let mut new = wanted.into_values().peekable();
    for (_, endpoints) in &mut filled {
        let room = SLICE_LIMIT.saturating_sub(endpoints.len());
        endpoints.extend(new.by_ref().take(room));
    }
    let mut steps = Vec::new();
    let mut is_first = true;
    for (slice, endpoints) in filled {
        if endpoints.is_empty() && !is_first {
            steps.push(Step::Delete(slice));
        } else if slice.endpoints.clone().unwrap_or_default() != endpoints {
            steps.push(Step::Update {
                slice,
                endpoints,
                ports: ports.clone(),
            });
        }
        is_first = false;
    }
    while is_first || new.peek().is_some() {
        is_first = false;
        let endpoints: Vec<Value> = new.by_ref().take(SLICE_LIMIT).collect();
        steps.push(Step::Create(object(service, family, &endpoints, &ports)));
    }
    steps
}

fn object(service: &Service, family: &str, endpoints: &[Value], ports: &[Value]) -> Value {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = json!(service.metadata.labels.clone().unwrap_or_default());
    labels[SERVICE] = name.clone().into();
    labels[MANAGED_BY] = MANAGER.into();
    if is_headless(service) {
        labels[HEADLESS] = "".into();
    }
    json!({
        "metadata": {"generateName": format!("{name}-"), "labels": labels, "ownerReferences": [owner::reference(service)]},
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let all = pod
        .status
        .pod_ips
        .iter()
        .map(|ip| &ip.ip)
        .chain(&pod.status.pod_ip);
    let fits = |ip: &&String| {
        matches!(
            (ip.parse(), family),
            (Ok(IpAddr::V4(_)), "IPv4") | (Ok(IpAddr::V6(_)), "IPv6")
        )
    };
    all.into_iter().find(fits).cloned()
}

fn endpoint(seen: &Seen<'_>, pod: &Pod, address: String) -> Value {
    let ready = ready_since(pod).is_some();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let publish = seen.service.spec.publish_not_ready_addresses;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": publish || (ready && !leaving), "serving": ready, "terminating": leaving},
        "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
    });
    if let Some(node) = &pod.spec.node_name {
        endpoint["nodeName"] = node.clone().into();
        if let Some(zone) = (seen.zone)(node) {
            endpoint["zone"] = zone.into();
        }
    }
    let in_domain = pod.spec.subdomain == seen.service.metadata.name && is_headless(seen.service);
    if let Some(hostname) = pod.spec.hostname.as_ref().filter(|_| in_domain) {
        endpoint["hostname"] = hostname.clone().into();
    }
    endpoint
}

/// The Service's ports as this pod serves them; a named target that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Value> {
    let names: HashMap<(&str, &str), i32> = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| &container.ports)
        .filter_map(|port| {
            Some((
                (port.name.as_deref()?, port.protocol.as_deref().unwrap_or("TCP")),
                port.container_port,
            ))
        })
        .collect();
    service
        .spec
        .ports
        .iter()
        .filter_map(|port| as_served(port, &names))
        .collect()
}

fn as_served(port: &ServicePort, names: &HashMap<(&str, &str), i32>) -> Option<Value> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        Value::String(name) => *names.get(&(name.as_str(), protocol))?,
        other => other
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .filter(|number| *number != 0)
            .unwrap_or(port.port),
    };
    let mut served =
        json!({"name": port.name.clone().unwrap_or_default(), "port": number, "protocol": protocol});
    if let Some(application) = &port.app_protocol {
        served["appProtocol"] = application.clone().into();
    }
    Some(served)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, decoded, pod};
    use expect_test::{Expect, expect};

    fn service(extra: Value) -> Service {
        let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]});
        for (name, value) in extra.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        decoded(json!({"metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": spec}))
    }

    fn at_ip(name: &str, ip: &str) -> PodBuilder {
        pod(name)
            .on("n1")
            .ready(1)
            .set("/status/podIPs", json!([{"ip": ip}]))
    }

    fn check(service: Service, pods: Vec<PodBuilder>, slices: Vec<Value>, expected: Expect) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(|pod| Arc::new(pod.into())).collect();
        let slices: Vec<Arc<EndpointSlice>> =
            slices.into_iter().map(|slice| Arc::new(decoded(slice))).collect();
        let zone = |_: &str| Some("z1".to_string());
        let steps = plan(&Seen {
            service: &service,
            pods: &pods,
            slices: &slices,
            zone: &zone,
        });
        let list = |endpoints: &[Value]| {
            let one = |endpoint: &Value| {
                let flag = |name: &'static str| {
                    if endpoint["conditions"][name] == true {
                        &name[..1]
                    } else {
                        "-"
                    }
                };
                let flags = [flag("ready"), flag("serving"), flag("terminating")].concat();
                format!(
                    "{} {flags}",
                    endpoint["addresses"][0].as_str().unwrap_or_default()
                )
            };
            endpoints.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let text = |step: &Step| match step {
            Step::Create(object) => format!(
                "create [{}] {}",
                list(object["endpoints"].as_array().expect("a list")),
                object["ports"]
            ),
            Step::Update { slice, endpoints, .. } => format!(
                "update {} [{}]",
                slice.metadata.name.as_deref().unwrap_or_default(),
                list(endpoints)
            ),
            Step::Delete(slice) => format!("delete {}", slice.metadata.name.as_deref().unwrap_or_default()),
        };
        expected.assert_eq(&steps.iter().map(text).collect::<Vec<_>>().join("; "));
    }

    fn slice(name: &str, pods: &[(&str, &str)]) -> Value {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(pod, ip)| json!({"addresses": [ip], "targetRef": {"name": pod}}))
            .collect();
        json!({"metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]})
    }

    #[test]
    fn ready_pods_serve_and_leaving_ones_only_terminate() {
        let pods = vec![
            at_ip("a", "10.1.0.1"),
            at_ip("b", "10.1.0.2").deleting(),
            pod("c"),
            at_ip("d", "10.1.0.4").phase("Failed"),
        ];
        check(
            service(json!({})),
            pods,
            vec![],
            expect![[r#"create [10.1.0.1 rs-, 10.1.0.2 -st] [{"name":"","port":8080,"protocol":"TCP"}]"#]],
        );
    }

    #[test]
    fn a_service_without_pods_gets_an_empty_slice_and_one_without_selector_none() {
        check(service(json!({})), vec![], vec![], expect!["create [] []"]);
        check(service(json!({"selector": null})), vec![], vec![], expect![""]);
    }

    #[test]
    fn named_ports_resolve_per_pod() {
        let port = json!([{"port": 80, "targetPort": "http"}]);
        let serving = |name: &str, ip: &str, number: i32| {
            at_ip(name, ip).set(
                "/spec/containers",
                json!([{"name": "c", "ports": [{"name": "http", "containerPort": number}]}]),
            )
        };
        let pods = vec![serving("a", "10.1.0.1", 8080), serving("b", "10.1.0.2", 9090)];
        check(
            service(json!({"ports": port})),
            pods,
            vec![],
            expect![[
                r#"create [10.1.0.1 rs-] [{"name":"","port":8080,"protocol":"TCP"}]; create [10.1.0.2 rs-] [{"name":"","port":9090,"protocol":"TCP"}]"#
            ]],
        );
    }

    #[test]
    fn endpoints_stay_in_their_slice() {
        let pods = vec![at_ip("a", "10.1.0.1"), at_ip("b", "10.1.0.2")];
        let slices = vec![
            slice("s1", &[("a", "10.1.0.1")]),
            slice("s2", &[("gone", "10.1.0.9")]),
        ];
        check(
            service(json!({})),
            pods,
            slices,
            expect!["update s1 [10.1.0.1 rs-, 10.1.0.2 rs-]; delete s2"],
        );
    }
}
