//! Many writes that want the same at once, and servers that see each other's writes late: neither reaches a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use mainstay_base::clock::SystemClock;
use mainstay_controlplane::ControlPlane;
use mainstay_store::MemoryEngine;
use mainstay_testkit::{admin, plane_with};
use serde_json::{Value, json};

/// More than a write would try by itself against others.
const WRITERS: usize = 150;
const QUOTA: usize = 100;

/// Two servers over one store that draw the same random numbers.
async fn twins() -> [ControlPlane; 2] {
    let clock = SystemClock::shared();
    let engine = Arc::new(MemoryEngine::new(clock.clone()).expect("memory can be had"));
    let first = plane_with(clock.clone(), |config| config.engine = engine.clone()).await;
    let second = plane_with(clock, |config| config.engine = engine.clone()).await;
    [first, second]
}

fn parse<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("a whole object")
}

/// Creates all at once and counts the answers by their code.
async fn create_all<K>(objects: impl Iterator<Item = (Client, K)>) -> BTreeMap<u16, usize>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let creates = objects.map(|(client, object)| async move {
        let api: Api<K> = Api::namespaced(client, "default");
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => 201,
            Err(kube::Error::Api(status)) => status.code,
            Err(error) => panic!("{error}"),
        }
    });
    let mut codes = BTreeMap::new();
    for code in join_all(creates).await {
        *codes.entry(code).or_default() += 1;
    }
    codes
}

#[tokio::test]
async fn writes_against_one_quota_take_turns() {
    let planes = twins().await;
    let clients = planes.each_ref().map(admin);
    let quotas: Api<ResourceQuota> = Api::namespaced(clients[0].clone(), "default");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": QUOTA.to_string()}}});
    quotas
        .create(&PostParams::default(), &parse(quota))
        .await
        .expect("made");
    let maps = (0..WRITERS).map(|number| {
        let map: ConfigMap = parse(json!({"metadata": {"name": format!("m{number}")}}));
        (clients[0].clone(), map)
    });
    let codes = create_all(maps).await;
    assert_eq!(codes, BTreeMap::from([(201, QUOTA), (403, WRITERS - QUOTA)]));
    for plane in planes {
        plane.stop().await;
    }
}

#[tokio::test]
async fn two_servers_over_one_store_give_every_service_its_own_address_and_port() {
    let planes = twins().await;
    let clients = planes.each_ref().map(admin);
    let services = (0..WRITERS).map(|number| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let service: Service = parse(json!({"metadata": {"name": format!("s{number}")}, "spec": spec}));
        (clients[number % clients.len()].clone(), service)
    });
    assert_eq!(create_all(services).await, BTreeMap::from([(201, WRITERS)]));
    let services: Api<Service> = Api::namespaced(clients[0].clone(), "default");
    let made = services.list(&ListParams::default()).await.expect("a list");
    let specs = made.items.into_iter().filter_map(|service| service.spec);
    let given: Vec<_> = specs
        .filter(|spec| spec.type_.as_deref() == Some("NodePort"))
        .map(|spec| {
            let port = spec.ports.expect("ports")[0].node_port.expect("a node port");
            (spec.cluster_ip.expect("an address"), port)
        })
        .collect();
    let addresses: BTreeSet<_> = given.iter().map(|(address, _)| address).collect();
    let ports: BTreeSet<_> = given.iter().map(|(_, port)| port).collect();
    assert_eq!([addresses.len(), ports.len()], [WRITERS, WRITERS]);
    for plane in planes {
        plane.stop().await;
    }
}

#[tokio::test]
async fn a_namespace_can_be_used_at_once_on_another_server() {
    let planes = twins().await;
    let clients = planes.each_ref().map(admin);
    let namespaces: Api<Namespace> = Api::all(clients[0].clone());
    for number in 0..WRITERS {
        let name = format!("n{number}");
        let namespace = parse(json!({"metadata": {"name": name}}));
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("made");
        let maps: Api<ConfigMap> = Api::namespaced(clients[1].clone(), &name);
        let map = parse(json!({"metadata": {"name": "m"}}));
        let made = maps.create(&PostParams::default(), &map).await;
        assert!(made.is_ok(), "{name}: {made:?}");
    }
    for plane in planes {
        plane.stop().await;
    }
}
