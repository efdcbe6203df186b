//! The in-memory control plane through kube-rs, as controllers use it.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use serde_json::json;

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some([("k".to_string(), value.to_string())].into()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn objects_live_and_die() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<ConfigMap> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    let made = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.resource_version.is_some());
    let patch = json!({"data": {"k": "2"}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let mut stale = made.clone();
    stale.data = None;
    let error = api
        .replace("a", &PostParams::default(), &stale)
        .await
        .unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"));
    assert_eq!(api.get("a").await.unwrap().data.unwrap()["k"], "2");
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn lists_page_at_one_revision() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<ConfigMap> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    for number in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("c{number}"), "1"))
            .await
            .unwrap();
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (2, Some(3))
    );
    api.create(&PostParams::default(), &config_map("c2a", "1"))
        .await
        .unwrap();
    api.delete("c3", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = api
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = rest
        .items
        .iter()
        .map(|item| item.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["c2", "c3", "c4"]);
}

#[tokio::test]
async fn watches_miss_and_repeat_nothing() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<ConfigMap> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    let start = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let mut events = api
        .watch(&WatchParams::default().timeout(30), &start)
        .await
        .unwrap()
        .boxed();
    api.patch(
        "a",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"k": "2"}})),
    )
    .await
    .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match events.next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            _ => "other",
        });
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn streaming_lists_end_with_their_mark() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<ConfigMap> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let config = watcher::Config::default().streaming_lists();
    let mut stream = watcher(api, config).boxed();
    let mut seen = String::new();
    loop {
        match stream.next().await.unwrap().unwrap() {
            watcher::Event::Init => seen.push_str("init "),
            watcher::Event::InitApply(object) => seen.push_str(&object.metadata.name.unwrap()),
            watcher::Event::InitDone => break,
            _ => seen.push_str("other "),
        }
    }
    assert_eq!(seen, "init a");
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<Service> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    let service = |name: &str| {
        serde_json::from_value::<Service>(json!({
            "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}
        }))
        .unwrap()
    };
    let mut seen = std::collections::HashSet::new();
    let creates = (0..8).map(|number| {
        let api = api.clone();
        let service = service(&format!("s{number}"));
        async move { api.create(&PostParams::default(), &service).await.unwrap() }
    });
    for made in futures::future::join_all(creates).await {
        let spec = made.spec.unwrap();
        assert!(seen.insert(spec.cluster_ip.unwrap()));
        assert!(seen.insert(spec.ports.unwrap()[0].node_port.unwrap().to_string()));
    }
}

#[tokio::test]
async fn pods_that_nobody_runs_go_at_once_others_get_time() {
    let plane = mainstay_testkit::plane().await;
    let api: Api<Pod> = Api::default_namespaced(mainstay_testkit::admin(&plane));
    let pod = |name: &str, node: Option<&str>| {
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i:1"}]}
        }))
        .unwrap()
    };
    api.create(&PostParams::default(), &pod("free", None))
        .await
        .unwrap();
    api.create(&PostParams::default(), &pod("bound", Some("n1")))
        .await
        .unwrap();
    api.delete("free", &DeleteParams::default()).await.unwrap();
    api.delete("bound", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("free").await.unwrap().is_none());
    let bound = api.get("bound").await.unwrap();
    assert_eq!(bound.metadata.deletion_grace_period_seconds, Some(30));
}

#[tokio::test]
async fn definitions_are_served_without_restart_and_take_their_objects_with_them() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
    use kube::runtime::wait::{await_condition, conditions};

    let plane = mainstay_testkit::plane().await;
    let client = mainstay_testkit::admin(&plane);
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = json!({
        "metadata": {"name": "foos.ex.io"},
        "spec": {"group": "ex.io", "scope": "Namespaced", "names": {"kind": "Foo", "plural": "foos"}, "versions": [{
            "name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"replicas": {"type": "integer", "default": 3, "minimum": 0}}},
                "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}
        }]}
    });
    let definition: CustomResourceDefinition = serde_json::from_value(definition).unwrap();
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .unwrap();
    let limit = std::time::Duration::from_secs(20);
    let established = await_condition(
        definitions.clone(),
        "foos.ex.io",
        conditions::is_crd_established(),
    );
    tokio::time::timeout(limit, established).await.unwrap().unwrap();

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("ex.io", "v1", "Foo"));
    let foos: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    let foo = DynamicObject::new("f", &kind).data(json!({"spec": {}}));
    let made = foos.create(&PostParams::default(), &foo).await.unwrap();
    assert_eq!(made.data["spec"]["replicas"], 3);
    let seven = Patch::Merge(json!({"spec": {"replicas": 7}}));
    let scaled = foos
        .patch_scale("f", &PatchParams::default(), &seven)
        .await
        .unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(7));
    let bad = DynamicObject::new("g", &kind).data(json!({"spec": {"replicas": -1}}));
    let error = foos.create(&PostParams::default(), &bad).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 422));

    let uid = definitions.get("foos.ex.io").await.unwrap().metadata.uid.unwrap();
    definitions
        .delete("foos.ex.io", &DeleteParams::default())
        .await
        .unwrap();
    let gone = await_condition(definitions, "foos.ex.io", conditions::is_deleted(&uid));
    tokio::time::timeout(limit, gone).await.unwrap().unwrap();
    assert!(matches!(foos.get("f").await.unwrap_err(), kube::Error::Api(status) if status.code == 404));
}
