//! The policy of a plane: who is who, who may what, what writes must satisfy, put together over its watch caches.

use std::sync::Arc;

use mainstay_access::admission::{Chain, Options, Quotas};
use mainstay_access::authn::Authenticators;
use mainstay_access::authn::bootstrap_token::BootstrapTokens;
use mainstay_access::authn::service_account::{Keys, ServiceAccountTokens};
use mainstay_access::authn::token_file::TokenFile;
use mainstay_access::authn::webhook::TokenWebhook;
use mainstay_access::authz::Authorizer;
use mainstay_access::hooks::{Hooks, World};
use mainstay_apiserver::answers::Answers;
use mainstay_base::clock::SharedClock;
use mainstay_tenancy::Tenancy;
use serde_json::Value;

use crate::Config;

/// The issuer and the audience of service account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What policy is made of besides the configuration.
pub struct Parts {
    /// Signs service account tokens.
    pub keys: Arc<Keys>,
    /// The static token file, read.
    pub tokens: Option<TokenFile>,
    /// Another server that knows tokens.
    pub webhook: Option<TokenWebhook>,
    /// The time.
    pub clock: SharedClock,
}

/// Makes the hooks of a plane.
pub fn hooks(config: &Config, parts: Parts, world: Arc<dyn World>) -> Hooks {
    let Parts {
        keys,
        tokens,
        webhook,
        clock,
    } = parts;
    let authorizer = Arc::new(Authorizer::new(world.clone()));
    let accounts = ServiceAccountTokens::new(keys.clone(), ISSUER, world.clone(), clock.clone());
    let mut authenticators = Authenticators::new(vec![ISSUER.to_string()])
        // As upstream: requests without credentials are system:anonymous, to whom RBAC grants health and version.
        .anonymous_on(["*".to_string()])
        .with(Arc::new(accounts))
        .with(Arc::new(BootstrapTokens::new(world, clock.clone())));
    if let Some(tokens) = tokens {
        authenticators = authenticators.with(Arc::new(tokens));
    }
    // Last: a token of this cluster's own is never shown to another server.
    if let Some(webhook) = webhook {
        authenticators = authenticators.with(Arc::new(webhook));
    }
    let authenticators = Arc::new(authenticators);
    let options = Options {
        disabled: config.disabled_admission.clone(),
        ..Options::new(authorizer.clone(), clock.clone())
    };
    let tenancy = Tenancy::new(authorizer.clone(), clock.clone());
    let between = tenancy.admit.into_iter().chain(config.admit.clone());
    let admit = Chain::standard(&options, between);
    let mut charge = config.charge.clone();
    charge.push(Arc::new(Quotas::new(clock.clone())));
    charge.push(tenancy.charge);
    let mut list_filter = config.list_filter.clone();
    list_filter.push(tenancy.list_filter);
    let answers = Answers {
        authorizer: authorizer.clone(),
        authenticators: authenticators.clone(),
        keys,
        issuer: ISSUER.into(),
        clock,
    };
    Hooks {
        authenticate: vec![authenticators],
        authorize: vec![authorizer, tenancy.authorize],
        admit: vec![Arc::new(admit)],
        charge,
        list_filter,
        answer: vec![Arc::new(answers)],
        audit: config.audit.clone(),
        anonymous: false,
    }
}

/// The roles and bindings that every cluster starts with, named by store resource.
pub fn bootstrap_objects(ca_pem: &str) -> Vec<(String, Value)> {
    let objects = mainstay_policy::bootstrap::objects().into_iter();
    let mut found: Vec<(String, Value)> = objects
        .map(|object| {
            (
                format!("rbac.authorization.k8s.io/{}", object.resource),
                object.body,
            )
        })
        .collect();
    found.push(ca_config(ca_pem));
    found.extend(
        PRIORITY_CLASSES
            .iter()
            .map(|(name, value, text)| priority_class(name, *value, text)),
    );
    found
}

/// What API servers publish about how clients are told apart.
fn ca_config(ca_pem: &str) -> (String, Value) {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca_pem},
    });
    ("core/configmaps".into(), object)
}

const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

fn priority_class(name: &str, value: i64, description: &str) -> (String, Value) {
    let object = serde_json::json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": name, "generation": 1},
        "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
    });
    ("scheduling.k8s.io/priorityclasses".into(), object)
}
