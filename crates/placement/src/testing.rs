//! Builders for tests: nodes and pods from short texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::input::PodSpec;
use crate::node::NodeInfo;
use crate::pod::{Eviction, Owner, Pod, Shape};
use crate::snapshot::Snapshot;

/// Makes a ready node with its hostname label.
pub fn node(name: &str, cpu: &str, memory: &str) -> Arc<NodeInfo> {
    node_with(name, json!({"cpu": cpu, "memory": memory}), &[])
}

/// Makes a node with any resources and labels.
pub fn node_with(name: &str, resources: Value, labels: &[(&str, &str)]) -> Arc<NodeInfo> {
    let mut own: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    own.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    let status = json!({"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True"}]});
    let status = serde_json::from_value(status).expect("a node status");
    Arc::new(NodeInfo::new(name, own, &Default::default(), &status))
}

/// Makes a ReplicaSet pod from words: `cpu=1 memory=1Gi example.com/foo=1`, `port=80`, `app=web` (a label),
/// `priority=5`.
pub fn pod(name: &str, words: &str) -> Arc<Pod> {
    pod_with(name, words, json!({}))
}

/// Makes a pod whose spec has further fields.
pub fn pod_with(name: &str, words: &str, spec: Value) -> Arc<Pod> {
    let mut labels = BTreeMap::new();
    let mut requests = serde_json::Map::new();
    let mut ports = Vec::new();
    let mut priority = 0;
    for (key, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "port" => ports.push(json!({"hostPort": value.parse::<u16>().expect("a port")})),
            "priority" => priority = value.parse().expect("a priority"),
            "app" => drop(labels.insert(key.to_owned(), value.to_owned())),
            _ => drop(requests.insert(key.to_owned(), value.into())),
        }
    }
    let mut whole = json!({"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": requests}, "ports": ports}]});
    if let (Value::Object(whole), Value::Object(spec)) = (&mut whole, spec) {
        whole.extend(spec);
    }
    let spec: PodSpec = serde_json::from_value(whole).expect("a pod spec");
    let owner = Owner {
        kind: "ReplicaSet".into(),
        name: name.into(),
        uid: name.into(),
    };
    Arc::new(Pod {
        name: name.into(),
        uid: name.into(),
        shape: Arc::new(Shape::new("default", &labels, &spec)),
        eviction: Arc::new(Eviction {
            controller: Some(owner),
            ..Eviction::default()
        }),
        since: 0,
        deleted_at: None,
    })
}

/// Makes a cluster of nodes, each with its pods.
pub fn cluster(nodes: Vec<(Arc<NodeInfo>, Vec<Arc<Pod>>)>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for (info, pods) in nodes {
        let at = snapshot.set_node(info);
        pods.into_iter().for_each(|pod| snapshot.add_pod(at, pod));
    }
    snapshot
}
