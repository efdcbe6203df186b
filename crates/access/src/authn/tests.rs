//! Users from every kind of credential.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::{HeaderMap, Request};
use mainstay_base::clock::{Clock as _, FakeClock};
use serde_json::{Value, json};

use super::bootstrap_token::BootstrapTokens;
use super::service_account::{Issuing, Keys, ServiceAccountTokens, issue};
use super::token_file::TokenFile;
use super::*;
use crate::authz::Authorizer;
use crate::memory_world::MemoryWorld;

const ISSUER: &str = "https://kubernetes.default.svc";

fn pem() -> String {
    rcgen::KeyPair::generate().expect("a key").serialize_pem()
}

struct Setup {
    world: Arc<MemoryWorld>,
    clock: Arc<FakeClock>,
    keys: Arc<Keys>,
    chain: Authenticators,
}

fn setup() -> Setup {
    let world = Arc::new(MemoryWorld::default());
    let clock = FakeClock::new();
    let keys = Arc::new(Keys::new(&[pem()]).expect("a usable key"));
    world.put(
        "core/serviceaccounts",
        json!({"metadata": {"name": "ci", "namespace": "a", "uid": "u1"}}),
    );
    world.put(
        "core/pods",
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "u2"}, "spec": {"serviceAccountName": "ci", "nodeName": "n1"}}),
    );
    world.put("core/nodes", json!({"metadata": {"name": "n1", "uid": "u3"}}));
    let file = TokenFile::parse("# people\nt1,alice,1,\"devs,ops\"\n\nt2,bob,2\n").expect("well-formed");
    let tokens = ServiceAccountTokens::new(keys.clone(), ISSUER, world.clone(), clock.clone());
    let chain = Authenticators::new(vec!["api".into()])
        .with(Arc::new(file))
        .with(Arc::new(tokens))
        .with(Arc::new(BootstrapTokens::new(world.clone(), clock.clone())))
        .anonymous_on(Authenticators::default_anonymous_paths());
    Setup {
        world,
        clock,
        keys,
        chain,
    }
}

impl Setup {
    fn token(&self, spec: Value) -> ApiResult<String> {
        let audiences = ["api".to_string()];
        let issuing = Issuing {
            issuer: ISSUER,
            audiences: &audiences,
            now: self.clock.now(),
        };
        let answer = issue(
            &self.keys,
            &issuing,
            &*self.world,
            ("a", "ci"),
            json!({"spec": spec}),
        )?;
        Ok(answer["status"]["token"].as_str().expect("a token").to_string())
    }

    async fn who(&self, token: &str) -> Result<String, String> {
        let known = self.chain.token(token, self.chain.audiences()).await?;
        Ok(format!("{} {}", known.user.name, known.user.groups.join(",")))
    }

    async fn request(&self, path: &str, token: Option<&str>) -> ApiResult<Option<Arc<UserInfo>>> {
        let mut request = Request::builder().uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        self.chain.authenticate(&parts, &Peer::default()).await
    }
}

#[tokio::test]
async fn anonymous_users_reach_named_paths_only_and_bad_tokens_nothing() {
    let setup = setup();
    assert_eq!(
        setup.request("/healthz", None).await.expect("open"),
        Some(Arc::new(UserInfo::anonymous()))
    );
    assert_eq!(setup.request("/api", None).await.expect("no error"), None);
    assert_eq!(
        setup
            .request("/healthz", Some("wrong"))
            .await
            .expect_err("refused")
            .code,
        401
    );
    let alice = setup
        .request("/api", Some("t1"))
        .await
        .expect("known")
        .expect("alice");
    assert_eq!(
        (alice.name.as_str(), alice.groups.join(",")),
        ("alice", "devs,ops,system:authenticated".into())
    );
}

#[test]
fn a_token_file_names_the_malformed_line() {
    let error = TokenFile::parse("t1,alice,1\nt2,bob\n").expect_err("two fields");
    assert_eq!(
        error.to_string(),
        "token file line 2: needs at least token, user name and uid"
    );
    assert!(TokenFile::parse("t,u,1,\"a").is_err());
}

#[tokio::test]
async fn a_service_account_token_holds_for_its_time_audience_and_pod() {
    let setup = setup();
    let bound =
        json!({"expirationSeconds": 600, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}});
    let token = setup.token(bound).expect("issued");
    let known = setup
        .chain
        .token(&token, setup.chain.audiences())
        .await
        .expect("valid");
    assert_eq!(known.user.name, "system:serviceaccount:a:ci");
    assert_eq!(
        known.user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:a",
            "system:authenticated"
        ]
    );
    let fact = |key: &str| known.user.extra[&format!("authentication.kubernetes.io/{key}")].join(",");
    assert_eq!(
        (fact("pod-name"), fact("node-name"), fact("node-uid")),
        ("p".into(), "n1".into(), "u3".into())
    );
    assert!(setup.chain.token(&token, &["other".into()]).await.is_err());

    setup.world.put(
        "core/pods",
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "another"}}),
    );
    assert_eq!(
        setup.who(&token).await.expect_err("the pod was replaced"),
        "the pod the token is bound to is gone"
    );
    let plain = setup.token(json!({})).expect("issued");
    setup.clock.advance(Duration::from_secs(3_599));
    assert!(setup.who(&plain).await.is_ok());
    setup.clock.advance(Duration::from_secs(1));
    assert_eq!(
        setup.who(&plain).await.expect_err("too late"),
        "the token has expired"
    );
}

#[tokio::test]
async fn a_token_dies_with_its_account_and_with_its_key() {
    let setup = setup();
    let token = setup.token(json!({})).expect("issued");
    assert!(setup.who(&token).await.is_ok());
    setup.world.remove("core/serviceaccounts", "a", "ci");
    assert_eq!(
        setup.who(&token).await.expect_err("gone"),
        "the service account is gone"
    );
    let keys = Keys::new(&[pem()]).expect("a usable key");
    let old = keys.sign(&json!({"iss": ISSUER})).expect("signed");
    keys.replace(&[pem()]).expect("usable");
    assert!(keys.verify::<Value>(&old).is_err());
    assert_eq!(keys.jwks()["keys"][0]["alg"], "ES256");
    assert!(Keys::new::<&str>(&[]).is_err());
}

#[test]
fn token_requests_are_checked() {
    let setup = setup();
    let code = |spec: Value| setup.token(spec).expect_err("refused").code;
    assert_eq!(code(json!({"expirationSeconds": 599})), 422);
    assert_eq!(
        code(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "none"}})),
        404
    );
    assert_eq!(
        code(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x"}})),
        409
    );
    assert_eq!(
        code(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Service", "name": "p"}})),
        400
    );
}

fn secret(expiration: &str) -> Value {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {"token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                 "expiration": encode(expiration), "usage-bootstrap-authentication": encode("true"),
                 "auth-extra-groups": encode("system:bootstrappers:mainstay")},
    })
}

#[tokio::test]
async fn bootstrap_tokens_expire() {
    let setup = setup();
    setup.world.put("core/secrets", secret("2026-01-01T00:15:00Z"));
    let token = "abcdef.0123456789abcdef";
    let who = setup.who(token).await;
    assert_eq!(
        who.as_deref(),
        Ok("system:bootstrap:abcdef system:bootstrappers,system:bootstrappers:mainstay")
    );
    assert!(setup.who("abcdef.0123456789abcdee").await.is_err());
    setup.clock.advance(Duration::from_secs(900));
    assert_eq!(
        setup.who(token).await.expect_err("late"),
        "bootstrap token abcdef: the token has expired"
    );
}

#[test]
fn a_certificate_names_user_groups_and_incarnation() {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "system:node:n1");
    name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name = name;
    let uri = "mainstay://c1/m1/7".to_string();
    params
        .subject_alt_names
        .push(SanType::URI(uri.try_into().expect("ascii")));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let user = certificate::user(certificate.der()).expect("a user");
    assert_eq!(
        (user.name.as_str(), user.groups.join(",")),
        ("system:node:n1", "system:nodes,system:authenticated".into())
    );
    assert_eq!(user.extra["mainstay.dev/incarnation"], ["7"]);
    assert_eq!(user.extra["mainstay.dev/machine"], ["m1"]);
}

#[tokio::test]
async fn impersonation_needs_leave_for_every_part() {
    let world = Arc::new(MemoryWorld::default());
    world.put("rbac.authorization.k8s.io/clusterroles", json!({"metadata": {"name": "imp"}, "rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"], "resourceNames": ["bob", "devs"]}]}));
    world.put(
        "rbac.authorization.k8s.io/clusterrolebindings",
        json!({"metadata": {"name": "imp"},
        "roleRef": {"kind": "ClusterRole", "name": "imp"}, "subjects": [{"kind": "User", "name": "alice"}]}),
    );
    let authorizer = Authorizer::new(world);
    let alice = UserInfo::new("alice", ["ops"]);
    let headers = |pairs: &[(&str, &str)]| -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (
                name.parse::<http::HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            )
        };
        pairs.iter().map(parse).collect()
    };
    let act =
        async |pairs: &[(&str, &str)]| impersonation::impersonate(&headers(pairs), &alice, &authorizer).await;
    assert_eq!(act(&[]).await.expect("nothing asked"), None);
    let bob = act(&[("Impersonate-User", "bob"), ("Impersonate-Group", "devs")])
        .await
        .expect("allowed")
        .expect("bob");
    assert_eq!(
        (bob.name.as_str(), bob.groups.join(",")),
        ("bob", "devs,system:authenticated".into())
    );
    assert_eq!(
        act(&[("Impersonate-User", "carol")])
            .await
            .expect_err("refused")
            .code,
        403
    );
    assert_eq!(
        act(&[
            ("Impersonate-User", "bob"),
            ("Impersonate-Group", "system:masters")
        ])
        .await
        .expect_err("refused")
        .code,
        403
    );
    assert_eq!(
        act(&[("Impersonate-User", "bob"), ("Impersonate-Extra-scopes", "x")])
            .await
            .expect_err("refused")
            .code,
        403
    );
    assert_eq!(
        act(&[("Impersonate-Group", "devs")])
            .await
            .expect_err("no user")
            .code,
        400
    );
}
