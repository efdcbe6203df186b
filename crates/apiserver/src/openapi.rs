//! `/openapi/v2` and `/openapi/v3`: structure comes from the object machinery, sentences from k8s-openapi, custom
//! schemas from their definitions; here documents are indexed, made on request and served.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use mainstay_objects::openapi;
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::custom::DEFINITIONS;
use crate::descriptions::Descriptions;
use crate::negotiate::{self, Format};
use crate::proto;
use crate::resources::{Catalog, Group, Resource, Version, verb_names};
use crate::respond;
use crate::serve::Call;
use crate::server::{GIT_VERSION, Server};
use mainstay_access::hooks::World as _;
use mainstay_access::sha256::sha256;

/// Answers a path below `/openapi`.
pub fn serve(server: &Server, call: &Call, rest: &[&str]) -> Response<Body> {
    let catalog = server.catalog();
    match rest {
        ["v2"] => whole(server, call, &catalog),
        ["v3"] => {
            let index = index(server, &catalog).to_string();
            respond::plain(StatusCode::OK, "text/plain; charset=utf-8", index)
        }
        ["v3", "api", version] => document(server, call, &catalog, "", version),
        ["v3", "apis", group, version] => document(server, call, &catalog, group, version),
        _ => not_found(),
    }
}

fn not_found() -> Response<Body> {
    respond::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// What discovery clients ask for; the answer spells it with a dot.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The document in the first form that the client accepts; JSON for anything unknown, as upstream.
fn whole(server: &Server, call: &Call, catalog: &Catalog) -> Response<Body> {
    let resources = all(catalog);
    let descriptions = Descriptions::of(None);
    let document = with_facts(server, &resources, |facts| {
        openapi::v2(facts, GIT_VERSION, &|name, field| {
            descriptions.describe(name, field)
        })
    });
    let known = |media: &str| matches!(media, PROTOBUF | "application/json" | "*/*" | "application/*");
    let accepted = negotiate::accepted(&call.parts.headers);
    match accepted.iter().find(|one| known(one.media)) {
        Some(one) if one.media == PROTOBUF => {
            let answered = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            respond::plain(StatusCode::OK, answered, proto::document(&document))
        }
        _ => respond::encoded(StatusCode::OK, &document, Format::JSON),
    }
}

fn document(server: &Server, call: &Call, catalog: &Catalog, group: &str, version: &str) -> Response<Body> {
    let found = catalog.group(group).and_then(|group| {
        let version = group.versions.iter().find(|one| one.name == version)?;
        Some((group, version))
    });
    let Some((own_group, own_version)) = found else {
        return not_found();
    };
    let etag = format!("\"{}\"", hash(server, own_group, own_version));
    if call.header(header::IF_NONE_MATCH) == etag {
        return respond::plain(StatusCode::NOT_MODIFIED, "application/json", "");
    }
    let descriptions = Descriptions::of(Some(group));
    let made = with_facts(server, &own_version.resources, |facts| {
        openapi::v3(facts, group, version, GIT_VERSION, &|name, field| {
            descriptions.describe(name, field)
        })
    });
    let Some(document) = made else { return not_found() };
    let mut response = respond::encoded(StatusCode::OK, &document, Format::JSON);
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    if call.query.get("hash").is_some() {
        let immutable = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, immutable);
    }
    response
}

fn all(catalog: &Catalog) -> Vec<Arc<Resource>> {
    let versions = catalog.groups().iter().flat_map(|group| &group.versions);
    versions
        .flat_map(|version| version.resources.iter().cloned())
        .collect()
}

/// Calls `make` with the resources in the form that the document maker takes.
fn with_facts<T>(
    server: &Server,
    resources: &[Arc<Resource>],
    make: impl FnOnce(&[openapi::Resource<'_>]) -> T,
) -> T {
    let verbs = |letters: &str| verb_names(letters).collect::<Vec<&str>>();
    let schemas: Vec<Option<Value>> = resources
        .iter()
        .map(|resource| custom_schema(server, resource))
        .collect();
    let own: Vec<Vec<&str>> = resources.iter().map(|resource| verbs(&resource.verbs)).collect();
    let subs: Vec<Vec<(&str, Vec<&str>)>> = resources
        .iter()
        .map(|resource| {
            resource
                .subresources
                .iter()
                .map(|sub| (sub.name.as_str(), verbs(&sub.verbs)))
                .collect()
        })
        .collect();
    let subs: Vec<Vec<(&str, &[&str])>> = subs
        .iter()
        .map(|list| {
            list.iter()
                .map(|(name, verbs)| (*name, verbs.as_slice()))
                .collect()
        })
        .collect();
    let facts: Vec<openapi::Resource<'_>> = resources
        .iter()
        .enumerate()
        .map(|(at, resource)| openapi::Resource {
            group: &resource.gvk.group,
            version: &resource.gvk.version,
            kind: &resource.gvk.kind,
            list_kind: &resource.list_kind,
            plural: &resource.plural,
            namespaced: resource.namespaced,
            verbs: &own[at],
            subresources: &subs[at],
            schema: schemas[at].as_ref(),
        })
        .collect();
    make(&facts)
}

/// The schema in a custom resource's definition.
fn custom_schema(server: &Server, resource: &Resource) -> Option<Value> {
    resource.custom.as_ref()?;
    let name = format!("{}.{}", resource.plural, resource.gvk.group);
    let definition = server.caches().get(DEFINITIONS, "", &name)?.value();
    let versions = definition["spec"]["versions"].as_array()?;
    let version = versions
        .iter()
        .find(|version| version["name"] == resource.gvk.version.as_str())?;
    Some(version["schema"]["openAPIV3Schema"].clone())
}

/// Every group version with the URL of its document, which changes when the document does.
fn index(server: &Server, catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for group in catalog.groups() {
        for version in &group.versions {
            let path = match group.name.as_str() {
                "" => format!("api/{}", version.name),
                name => format!("apis/{name}/{}", version.name),
            };
            let url = format!("/openapi/v3/{path}?hash={}", hash(server, group, version));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// Names a document's content without making it: the program's version and the definitions it is made of.
fn hash(server: &Server, group: &Group, version: &Version) -> String {
    let mut parts = String::new();
    parts.push_str(GIT_VERSION);
    parts.push_str(&format!("{}/{}", group.name, version.name));
    for resource in &version.resources {
        parts.push_str(&resource.plural);
        if resource.custom.is_some() {
            let name = format!("{}.{}", resource.plural, resource.gvk.group);
            let definition = server.caches().get(DEFINITIONS, "", &name);
            let part = definition.map(|one| format!("{}/{}", one.uid(), one.scalar("metadata.generation")));
            parts.push_str(&part.unwrap_or_default());
        }
    }
    sha256(parts).iter().map(|byte| format!("{byte:02X}")).collect()
}
