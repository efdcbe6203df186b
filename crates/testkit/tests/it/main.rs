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
