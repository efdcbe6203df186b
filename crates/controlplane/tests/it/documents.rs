//! What other servers need to check this cluster's tokens.

use mainstay_testkit::{UserInfo, plane};
use serde_json::Value;

#[tokio::test]
async fn service_accounts_read_the_issuer_and_its_keys_and_strangers_do_not() {
    let plane = plane().await;
    let get = async |groups: &[&str], path: &str| {
        let user = UserInfo::new("system:serviceaccount:a:b", groups.iter().copied());
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        let text = plane.client(user).request_text(request).await.ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    let accounts = ["system:serviceaccounts"];
    let issuer = get(&accounts, "/.well-known/openid-configuration")
        .await
        .expect("a document");
    assert_eq!(issuer["id_token_signing_alg_values_supported"][0], "ES256");
    let keys = get(&accounts, "/openid/v1/jwks").await.expect("a document");
    assert_eq!(keys["keys"][0]["crv"], "P-256");
    assert_eq!(get(&[], "/openid/v1/jwks").await, None);
    plane.stop().await;
}
