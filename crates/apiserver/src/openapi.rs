//! `/openapi/v2` and `/openapi/v3`: the documents come from the object machinery; here they are indexed and served.

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::negotiate::Format;
use crate::resources::Catalog;
use crate::respond;
use crate::schema;
use crate::serve::Call;

/// Answers a path below `/openapi`.
pub fn serve(catalog: &Catalog, _call: &Call, rest: &[&str]) -> Response<Body> {
    match rest {
        ["v2"] => respond::encoded(StatusCode::OK, &schema::openapi_v2(catalog), Format::JSON),
        ["v3"] => {
            let index = index(catalog).to_string();
            respond::plain(StatusCode::OK, "text/plain; charset=utf-8", index)
        }
        ["v3", "api", version] => document(catalog, "", version),
        ["v3", "apis", group, version] => document(catalog, group, version),
        _ => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn document(catalog: &Catalog, group: &str, version: &str) -> Response<Body> {
    match schema::openapi_v3(catalog, group, version) {
        Some(document) => respond::encoded(StatusCode::OK, &document, Format::JSON),
        None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Every group version with the URL of its document; the URL names the document's hash.
fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for group in catalog.groups() {
        for version in &group.versions {
            let path = match group.name.as_str() {
                "" => format!("api/{}", version.name),
                name => format!("apis/{name}/{}", version.name),
            };
            let Some(document) = schema::openapi_v3(catalog, &group.name, &version.name) else {
                continue;
            };
            let digest = Sha256::digest(document.to_string().as_bytes());
            let hash: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}
