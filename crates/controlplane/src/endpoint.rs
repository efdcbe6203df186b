//! The endpoints of the `kubernetes` Service: where this API server is, for pods. Alone writes the Endpoints and the
//! EndpointSlice `default/kubernetes`; a server that only its own computer can reach has none.

use std::net::{IpAddr, SocketAddr};

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// The address that pods may use: the one listened on, else the first of the serving names that is an address.
pub(crate) fn reachable(bound: SocketAddr, names: &[String]) -> Option<SocketAddr> {
    let usable = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    if !bound.ip().is_unspecified() {
        return Some(bound).filter(|bound| usable(&bound.ip()));
    }
    let address = names.iter().filter_map(|name| name.parse().ok()).find(usable)?;
    Some(SocketAddr::new(address, bound.port()))
}

fn slice(at: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if at.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}],
    })
}

/// The older form of the same; marked as not to be copied into slices.
fn endpoints(at: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": at.ip().to_string()}],
            "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}],
        }],
    })
}

/// Writes both.
///
/// # Errors
/// What the server answered.
pub(crate) async fn publish(client: &Client, at: SocketAddr) -> Result<(), kube::Error> {
    let kinds = [
        ("discovery.k8s.io", "EndpointSlice", slice(at)),
        ("", "Endpoints", endpoints(at)),
    ];
    for (group, kind, object) in kinds {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let resource = match kind {
            // The guess of a plural adds nothing to a name that is one already.
            "Endpoints" => ApiResource {
                plural: "endpoints".into(),
                ..resource
            },
            _ => resource,
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        let params = PatchParams::apply("kube-apiserver").force();
        api.patch(NAME, &params, &Patch::Apply(&object)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_an_address_that_they_can_reach() {
        let names = ["localhost", "127.0.0.1", "10.89.0.1"].map(String::from);
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(reachable(at("0.0.0.0:6443"), &names), Some(at("10.89.0.1:6443")));
        assert_eq!(reachable(at("127.0.0.1:6443"), &names), None);
        assert_eq!(reachable(at("10.89.0.1:7000"), &[]), Some(at("10.89.0.1:7000")));
    }
}
