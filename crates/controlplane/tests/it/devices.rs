//! The kinds of resource.k8s.io: written in one version, read in the others.

use mainstay_testkit::plane;
use serde_json::json;

use crate::raw::send;

#[tokio::test]
async fn a_claim_written_in_an_old_version_is_read_in_all() {
    let plane = plane().await;
    let claims = |version: &str| format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims");
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim", "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "gpu", "deviceClassName": "gpu.example.com"}]}},
    });
    let head = format!("POST {} application/json", claims("v1beta1"));
    let made = send(&plane, &head, claim.to_string()).await;
    assert_eq!(made.code, 201, "{}", made.told());
    let exact = json!({"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1});
    for version in ["v1", "v1beta2", "v1beta1"] {
        let read = send(&plane, &format!("GET {}/c", claims(version)), "")
            .await
            .json();
        assert_eq!(read["apiVersion"], format!("resource.k8s.io/{version}"));
        let request = &read["spec"]["devices"]["requests"][0];
        let fields = if version == "v1beta1" {
            request
        } else {
            &request["exactly"]
        };
        for (field, wanted) in exact.as_object().expect("an object") {
            assert_eq!(&fields[field], wanted, "{field} in {version}: {read}");
        }
    }
    let head = format!("PATCH {}/c application/merge-patch+json", claims("v1"));
    let changed = send(&plane, &head, r#"{"spec":{"devices":{"requests":null}}}"#).await;
    assert_eq!(changed.told(), "422 Invalid");
    plane.stop().await;
}
