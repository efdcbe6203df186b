//! Discovery is upstream's own document.

use std::collections::BTreeMap;

use mainstay_base::testdata;
use mainstay_testkit::plane;
use serde_json::Value;

use crate::raw::send;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every resource and subresource with all that clients read of it, by `group/version/resource`.
fn rows(document: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for group in document["items"].as_array().expect("items") {
        let name = text(&group["metadata"], "name");
        for version in group["versions"].as_array().expect("versions") {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let path = format!(
                    "{name}/{}/{}",
                    text(version, "version"),
                    text(resource, "resource")
                );
                let mut own = resource.clone();
                let subs = own.as_object_mut().and_then(|own| own.remove("subresources"));
                for sub in subs.iter().filter_map(Value::as_array).flatten() {
                    found.insert(format!("{path}/{}", text(sub, "subresource")), sorted(sub));
                }
                found.insert(path, sorted(&own));
            }
        }
    }
    found
}

/// The order of verbs, short names and categories says nothing.
fn sorted(resource: &Value) -> String {
    let mut own = resource.clone();
    for key in ["verbs", "shortNames", "categories"] {
        if let Some(list) = own.get_mut(key).and_then(Value::as_array_mut) {
            list.sort_by_key(Value::to_string);
        }
    }
    own.to_string()
}

#[tokio::test]
async fn discovery_equals_upstreams() {
    let plane = plane().await;
    let wanted = serde_json::from_str(&testdata::read("data/kubernetes-1.36.3/aggregated_v2.json"));
    let wanted = rows(&wanted.expect("the file is JSON"));
    let mut served = BTreeMap::new();
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let answer = crate::raw::get_accepting(&plane, path, accept).await;
        served.extend(rows(&answer.json()));
    }
    let differs: Vec<String> = wanted
        .iter()
        .filter(|(path, row)| served.get(*path) != Some(row))
        .map(|(path, row)| format!("{path}: wanted {row}, served {:?}", served.get(path)))
        .collect();
    assert!(differs.is_empty(), "{differs:#?}");
    // Upstream's file leaves out the core group.
    let more: Vec<&String> = served
        .keys()
        .filter(|path| !path.starts_with('/') && !wanted.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "served beyond upstream: {more:?}");
    let groups = send(&plane, "GET /apis", "").await.json();
    assert_eq!(groups["kind"], "APIGroupList");
    plane.stop().await;
}
