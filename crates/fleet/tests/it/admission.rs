//! What kubectl meets: clusters that cannot be built are refused by the server and leave nothing.

use std::sync::Arc;

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use mainstay_api::{ClusterDeployment, Host, NodePool, OSImage};
use mainstay_base::clock::SystemClock;
use mainstay_fleet::admission::FitsInventory;
use mainstay_fleet::validate::set::Surroundings;
use serde_json::{Value, json};

use crate::world::serve_kinds;

fn cluster(image: &str, replicas: i64) -> ClusterDeployment {
    let pool = json!({"replicas": replicas, "provider": "sim", "imageRef": {"name": image}});
    let object = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "ClusterDeployment", "metadata": {"name": "demo"},
        "spec": {"version": "v1.36.3", "nodePools": [{"name": "a", "template": {"spec": pool}}]},
    });
    serde_json::from_value(object).expect("a cluster")
}

fn refusal(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.message),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_cannot_be_built_is_refused_with_the_field_and_not_stored() {
    let plane = mainstay_testkit::plane_with(SystemClock::shared(), |config| {
        let surroundings = Surroundings {
            providers: vec!["sim".into()],
            reserved: Vec::new(),
        };
        config.admit.push(Arc::new(FitsInventory::new(surroundings)));
    })
    .await;
    let client = mainstay_testkit::admin(&plane);
    serve_kinds(&client).await;
    let clusters: Api<ClusterDeployment> = Api::namespaced(client.clone(), "default");
    let create = async |object: &ClusterDeployment| clusters.create(&PostParams::default(), object).await;

    let (code, message) = refusal(create(&cluster("node", 1)).await.expect_err("there is no image"));
    assert_eq!(code, 422, "{message}");
    assert!(
        message.contains("imageRef.name: there is no OSImage \"node\""),
        "{message}"
    );
    assert!(message.contains("MS-CFG-0013"), "{message}");
    assert!(
        clusters
            .get_opt("demo")
            .await
            .expect("the server answers")
            .is_none()
    );

    let hosts: Api<Host> = Api::namespaced(client.clone(), "default");
    let spec =
        serde_json::from_value(json!({"rack": "r1", "sku": "small", "provider": "sim"})).expect("a host");
    hosts
        .create(&PostParams::default(), &Host::new("h1", spec))
        .await
        .expect("created");
    let images: Api<OSImage> = Api::namespaced(client.clone(), "default");
    images
        .create(&PostParams::default(), &OSImage::new("node", Default::default()))
        .await
        .expect("created");
    // At once: the admission may not refuse what the same client wrote just before.
    let made = create(&cluster("node", 1)).await.expect("it can be built now");

    let larger = json!({"spec": {"nodePools": [cluster("node", 5).spec.node_pools[0]]}});
    let (code, message) = refusal(patch(&clusters, &larger).await.expect_err("too large"));
    assert_eq!(code, 422, "{message}");
    assert!(
        message.contains("5 machines are asked for, the racks have 1"),
        "{message}"
    );
    let now = clusters.get("demo").await.expect("it is there");
    assert_eq!(now.resource_version(), made.resource_version());

    // What was fine and is not any more may still be changed otherwise.
    hosts.delete("h1", &Default::default()).await.expect("deleted");
    patch(&clusters, &json!({"spec": {"deletionPolicy": "Orphan"}}))
        .await
        .expect("no worse than before");

    let pools: Api<NodePool> = Api::namespaced(client, "default");
    let spec =
        serde_json::from_value(json!({"replicas": 0, "provider": "cloud", "imageRef": {"name": "node"}}));
    let pool = NodePool::new("p", spec.expect("a pool"));
    let (_, message) = refusal(
        pools
            .create(&PostParams::default(), &pool)
            .await
            .expect_err("no such provider"),
    );
    assert!(message.contains("spec.provider"), "{message}");
}

async fn patch(clusters: &Api<ClusterDeployment>, change: &Value) -> kube::Result<ClusterDeployment> {
    clusters
        .patch("demo", &PatchParams::default(), &Patch::Merge(change))
        .await
}
