//! Discovery: the legacy documents, the aggregated ones with ETag, and the paths that stand at the root.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Call;
use crate::body::Body;
use crate::negotiate::{self, Format, Offer};
use crate::resources::{Catalog, Group, Resource, Subresource, Version, api_version, verb_names};
use crate::respond;
use crate::server::Server;
use mainstay_access::sha256::sha256;
use mainstay_access::status::ApiError;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Discovery documents have one shape; clients that prefer protobuf read their JSON.
const PLAIN: Offer = Offer {
    shapes: false,
    protobuf: false,
};

/// Answers a discovery path; `None` for paths that are not discovery's.
pub fn serve(server: &Arc<Server>, call: &Call) -> Option<Response<Body>> {
    let path = call.info.path.trim_matches('/').to_string();
    let parts: Vec<&str> = path.split('/').collect();
    let catalog = server.catalog();
    if parts.first() == Some(&"openapi") {
        return Some(crate::openapi::serve(server, call, &parts[1..]));
    }
    let document = match parts.as_slice() {
        [""] => paths(&catalog),
        ["api"] | ["apis"] if wants_aggregated(call) => {
            return Some(aggregated(&catalog, call, parts[0] == "api"));
        }
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.header(header::HOST)}],
        }),
        ["apis"] => group_list(&catalog),
        ["apis", name] => {
            let mut group = catalog
                .group(name)
                .filter(|group| !group.name.is_empty())
                .map(group_value)?;
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["api", "v1"] => resource_list(&catalog, "", "v1")?,
        ["apis", group, version] => match resource_list(&catalog, group, version) {
            Some(list) => list,
            None => return Some(respond::error(&ApiError::no_resource())),
        },
        _ => return None,
    };
    let format = match negotiate::format(&call.parts.headers, call.query.flag("pretty"), PLAIN) {
        Ok(format) => format,
        Err(_)
            if negotiate::accepted(&call.parts.headers)
                .iter()
                .any(|one| one.media.contains("protobuf")) =>
        {
            Format::JSON
        }
        Err(error) => return Some(respond::error(&error)),
    };
    let mut response = respond::encoded(StatusCode::OK, &document, format);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn wants_aggregated(call: &Call) -> bool {
    let best = negotiate::accepted(&call.parts.headers).into_iter().find(|one| {
        let plain = one.param("as").is_empty();
        let ours = one.param("g") == "apidiscovery.k8s.io" && one.param("v") == "v2";
        matches!(one.media, "application/json" | "*/*")
            && (plain || ours && one.param("as") == "APIGroupDiscoveryList")
    });
    best.is_some_and(|one| one.param("as") == "APIGroupDiscoveryList")
}

fn aggregated(catalog: &Catalog, call: &Call, core: bool) -> Response<Body> {
    let groups = catalog
        .groups()
        .iter()
        .filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups.map(group_discovery).collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
    .to_string();
    let digest = sha256(document.as_bytes());
    let etag = digest
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect::<String>();
    let etag = format!("\"{etag}\"");
    let known = call.header(header::IF_NONE_MATCH) == etag;
    let mut response = match known {
        true => respond::plain(StatusCode::NOT_MODIFIED, AGGREGATED, ""),
        false => respond::plain(StatusCode::OK, AGGREGATED, document),
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, value);
    }
    response
}

/// One group of the aggregated document.
pub fn group_discovery(group: &Group) -> Value {
    let versions: Vec<Value> = group.versions.iter().map(version_discovery).collect();
    let metadata = if group.name.is_empty() {
        json!({})
    } else {
        json!({"name": group.name})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn version_discovery(version: &Version) -> Value {
    let resources: Vec<Value> = version
        .resources
        .iter()
        .map(|resource| resource_discovery(resource))
        .collect();
    json!({"version": version.name, "resources": resources, "freshness": "Current"})
}

fn resource_discovery(resource: &Resource) -> Value {
    let own = match resource.custom {
        Some(_) => {
            json!({"group": resource.gvk.group, "version": resource.gvk.version, "kind": resource.gvk.kind})
        }
        None => json!({"group": "", "version": "", "kind": resource.gvk.kind}),
    };
    let mut value = json!({
        "resource": resource.plural, "responseKind": own,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verb_names(&resource.verbs).collect::<Vec<_>>(),
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        value["subresources"] = resource
            .subresources
            .iter()
            .map(|sub| sub_discovery(resource, sub))
            .collect();
    }
    value
}

fn sub_discovery(resource: &Resource, sub: &Subresource) -> Value {
    let is_own = sub.kind.group == resource.gvk.group && sub.kind.version == resource.gvk.version;
    let kind = match is_own && resource.custom.is_none() {
        true => json!({"group": "", "version": "", "kind": sub.kind.kind}),
        false => json!({"group": sub.kind.group, "version": sub.kind.version, "kind": sub.kind.kind}),
    };
    json!({
        "subresource": sub.name, "responseKind": kind, "verbs": verb_names(&sub.verbs).collect::<Vec<_>>(),
    })
}

fn group_value(group: &Group) -> Value {
    let version = |version: &Version| json!({"groupVersion": api_version(&group.name, &version.name), "version": version.name});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = catalog
        .groups()
        .iter()
        .filter(|group| !group.name.is_empty())
        .map(group_value)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let found = catalog
        .group(group)?
        .versions
        .iter()
        .find(|one| one.name == version)?;
    let resources: Vec<Value> = found
        .resources
        .iter()
        .flat_map(|resource| legacy(resource))
        .collect();
    let mut list = json!({
        "kind": "APIResourceList", "groupVersion": api_version(group, version), "resources": resources,
    });
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

fn legacy(resource: &Resource) -> Vec<Value> {
    let mut own = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.gvk.kind, "verbs": verb_names(&resource.verbs).collect::<Vec<_>>(),
    });
    if !resource.short_names.is_empty() {
        own["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        own["categories"] = json!(resource.categories);
    }
    let subs = resource.subresources.iter().map(|sub| legacy_sub(resource, sub));
    std::iter::once(own).chain(subs).collect()
}

fn legacy_sub(resource: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
        "namespaced": resource.namespaced, "kind": sub.kind.kind,
        "verbs": verb_names(&sub.verbs).collect::<Vec<_>>(),
    });
    if sub.kind.group != resource.gvk.group || sub.kind.version != resource.gvk.version {
        value["group"] = sub.kind.group.as_str().into();
        value["version"] = sub.kind.version.as_str().into();
    }
    value
}

fn paths(catalog: &Catalog) -> Value {
    let mut paths = vec![
        "/api".to_string(),
        "/api/v1".into(),
        "/apis".into(),
        "/apis/".into(),
    ];
    for group in catalog.groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(
            group
                .versions
                .iter()
                .map(|version| format!("/apis/{}/{}", group.name, version.name)),
        );
    }
    let fixed = [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    paths.extend(fixed.map(String::from));
    json!({"paths": paths})
}
