//! The parsers, each with what it takes.

use std::sync::{Arc, LazyLock};

use http::Method;
use mainstay_access::authn::service_account::{Keys, ServiceAccountTokens};
use mainstay_access::authn::token_file::TokenFile;
use mainstay_access::authn::{TokenMethod as _, certificate};
use mainstay_access::info::RequestInfo;
use mainstay_access::memory_world::MemoryWorld;
use mainstay_access::query::Query;
use mainstay_apiserver::proto;
use mainstay_base::clock::FakeClock;
use mainstay_objects::apply::{self, Writer};
use mainstay_objects::crd::CustomKind;
use mainstay_objects::decode::{FieldValidation, Notation, parse};
use mainstay_objects::json;
use mainstay_objects::jsonpath::JsonPath;
use mainstay_objects::model::Builtin;
use mainstay_objects::patch;
use mainstay_objects::types::Types;
use mainstay_semantics::quantity::Quantity;
use mainstay_semantics::selector::{FieldSelector, Selector};
use serde_json::{Value, json as value};

use super::Target;

/// All of them.
pub const ALL: &[Target] = &[
    target("body", bodies, body),
    target("json-patch", || pairs(JSON_PATCHES), json_patch),
    target("merge-patch", || pairs(MERGE_PATCHES), merge_patch),
    target("strategic-patch", || pairs(STRATEGIC_PATCHES), strategic_patch),
    target("apply", || pairs(MERGE_PATCHES), server_side_apply),
    target("label-selector", || texts(SELECTORS), label_selector),
    target(
        "field-selector",
        || texts(&["metadata.name=a,spec.nodeName!=b", "a==b\\,c", ""]),
        field_selector,
    ),
    target(
        "quantity",
        || texts(&["1", "100m", "1.5Gi", "-3e2", "12E", "0.1n", "1e-3"]),
        quantity,
    ),
    target(
        "jsonpath",
        || {
            texts(&[
                ".spec.a",
                ".a.b[0]",
                ".status.conditions[?(@.type==\"Ready\")].status",
            ])
        },
        jsonpath,
    ),
    target("schema", definitions, schema),
    target("cel", || texts(RULES), rule),
    target("url", || texts(URLS), url),
    target("token", tokens, token),
    target(
        "token-file",
        || texts(&["t,u,1\n", "t,u,1,\"a,b\"\n# x\n"]),
        token_file,
    ),
    target("certificate", certificates, client_certificate),
    target("protobuf", messages, protobuf),
];

const fn target(name: &'static str, examples: fn() -> Vec<Vec<u8>>, feed: fn(&[u8]) -> bool) -> Target {
    Target { name, examples, feed }
}

const SELECTORS: &[&str] = &[
    "a=b,c!=d",
    "a in (b,c),!d",
    "x.io/y notin (z),e",
    "a==b",
    "g>1,h<2",
];
const JSON_PATCHES: &[&str] = &[
    r#"[{"op":"add","path":"/data/x~1y","value":"1"},{"op":"move","from":"/data/x~1y","path":"/data/z"}]"#,
    r#"[{"op":"test","path":"/metadata/name","value":"m"},{"op":"remove","path":"/data"},{"op":"copy","from":"/metadata","path":"/x"}]"#,
];
const MERGE_PATCHES: &[&str] = &[
    r#"{"metadata":{"labels":{"a":null}},"spec":{"containers":[{"name":"c","image":"j"}]}}"#,
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"tolerations":[]}}"#,
];
const STRATEGIC_PATCHES: &[&str] = &[
    r#"{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"d","image":"i"}]}}"#,
    r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"]},"spec":{"containers":[{"name":"c","$patch":"delete"}]}}"#,
    r#"{"spec":{"$retainKeys":["containers"],"containers":[{"name":"c","env":[{"name":"A","$patch":"replace"}]}]}}"#,
];
const RULES: &[&str] = &[
    "self.size > self.min",
    "self.list.all(x, x.k != 'a') && has(self.name)",
    "self.name.matches('^[a-z]+$') || size(self.list) < 3",
    "self.list.map(x, x.k).exists(k, k.startsWith('b'))",
    "!has(self.name) || self.name.lowerAscii() == self.name",
];
const URLS: &[&str] = &[
    "/api/v1/namespaces/default/pods/p/log?container=c&tailLines=3",
    "/apis/apps/v1/deployments?labelSelector=a%20in%20(b,c)&limit=2&continue=x",
    "/api/v1/watch/namespaces/n/pods?resourceVersion=1",
    "/openapi/v3/apis/apps/v1?hash=AB",
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Inputs of two JSON texts, on a line each: what there is, and what is done to it.
fn pairs(patches: &[&str]) -> Vec<Vec<u8>> {
    let pair = |patch: &&str| format!("{}\n{patch}", pod()).into_bytes();
    patches.iter().map(pair).collect()
}

fn pod() -> Value {
    value!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "m", "namespace": "d", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {"containers": [{
            "name": "c", "image": "i:1", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "E", "value": "$(F)"}],
        }], "tolerations": [{"key": "k", "operator": "Exists"}]},
        "data": {"z": "1"},
    })
}

fn pod_type() -> Builtin {
    Builtin::find("", "v1", "Pod").expect("pods are built in")
}

fn pair(input: &[u8]) -> Option<(Value, Value)> {
    let middle = input.iter().position(|byte| *byte == b'\n')?;
    let value = |bytes: &[u8]| json::parse(bytes, &mut Vec::new()).ok();
    Some((value(&input[..middle])?, value(&input[middle + 1..])?))
}

fn bodies() -> Vec<Vec<u8>> {
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - &c {name: c, image: 'i'}\n  - *c\n";
    vec![pod().to_string().into_bytes(), yaml.into()]
}

fn body(input: &[u8]) -> bool {
    let fit = |notation| {
        let parsed = parse(input, notation).ok()?;
        let mut decoded = pod_type().fit(parsed, FieldValidation::Warn).ok()?;
        pod_type().default(&mut decoded.value);
        Some(())
    };
    let (json, yaml) = (fit(Notation::Json), fit(Notation::Yaml));
    json.or(yaml).is_some()
}

fn json_patch(input: &[u8]) -> bool {
    let Some((mut document, change)) = pair(input) else {
        return false;
    };
    patch::json_patch(&mut document, &change).is_ok()
}

fn merge_patch(input: &[u8]) -> bool {
    let Some((mut document, change)) = pair(input) else {
        return false;
    };
    patch::merge_patch(&mut document, &change);
    true
}

fn strategic_patch(input: &[u8]) -> bool {
    let Some((mut document, change)) = pair(input) else {
        return false;
    };
    pod_type().strategic(&mut document, &change).is_ok()
}

fn server_side_apply(input: &[u8]) -> bool {
    let Some((live, config)) = pair(input) else {
        return false;
    };
    let writer = |manager| Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-01-02T03:04:05Z",
    };
    let (types, root) = (Types::builtin(), pod_type().root());
    let Ok(first) = apply::apply(types, root, Some(&live), &config, &writer("one"), true) else {
        return false;
    };
    let mut changed = live.clone();
    apply::track_update(types, root, Some(&first), &mut changed, &writer("two"));
    // What the other writer changed is a conflict, and that is fine.
    let _ = apply::apply(types, root, Some(&changed), &config, &writer("one"), false);
    true
}

fn text(input: &[u8], feed: impl FnOnce(&str) -> bool) -> bool {
    std::str::from_utf8(input).is_ok_and(feed)
}

fn label_selector(input: &[u8]) -> bool {
    text(input, |text| {
        let Ok(selector) = Selector::parse(text) else {
            return false;
        };
        let again = Selector::parse(&selector.to_string()).expect("the canonical text parses");
        assert_eq!(again.to_string(), selector.to_string());
        true
    })
}

fn field_selector(input: &[u8]) -> bool {
    text(input, |text| {
        let Ok(selector) = FieldSelector::parse(text) else {
            return false;
        };
        let again = FieldSelector::parse(&selector.to_string()).expect("the canonical text parses");
        assert_eq!(again.to_string(), selector.to_string());
        true
    })
}

fn quantity(input: &[u8]) -> bool {
    text(input, |text| {
        let Ok(amount) = Quantity::parse(text) else {
            return false;
        };
        let canonical = amount.canonical();
        let again = Quantity::parse(&canonical).expect("the canonical text parses");
        assert_eq!(again.canonical(), canonical);
        let _ = (
            amount.value(),
            amount.milli_value(),
            amount.as_f64(),
            amount.to_decimal(),
        );
        let mut sum = amount.clone();
        sum.add(&again);
        sum.sub(&amount);
        sum.mul(i64::MAX);
        true
    })
}

fn jsonpath(input: &[u8]) -> bool {
    text(input, |text| {
        let Some(path) = JsonPath::parse(text) else {
            return false;
        };
        let _ = path.find(&pod());
        true
    })
}

fn definition(rule: &str) -> Value {
    value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.test.io"},
        "spec": {
            "group": "test.io", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object", "x-kubernetes-validations": [{"rule": rule, "message": "m"}],
                    "properties": {
                        "size": {"type": "integer", "minimum": 1, "default": 3}, "min": {"type": "integer", "default": 0},
                        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10},
                        "list": {"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 9}}}},
                    },
                }}}},
            }],
        },
    })
}

fn definitions() -> Vec<Vec<u8>> {
    vec![definition(RULES[0]).to_string().into_bytes()]
}

fn thing() -> Value {
    let spec = value!({"size": 4, "min": 1, "name": "abc", "list": [{"k": "v"}, {"k": "w"}], "other": 1});
    value!({"apiVersion": "test.io/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "d"}, "spec": spec})
}

fn compiled(definition: &Value) -> bool {
    let Ok(kind) = CustomKind::compile(definition) else {
        return false;
    };
    for version in &kind.versions {
        let parsed = parse(thing().to_string().as_bytes(), Notation::Json).expect("the thing is JSON");
        let Ok(mut decoded) = version.fit(parsed, FieldValidation::Warn) else {
            continue;
        };
        version.default(&mut decoded.value);
        let _ = version.validate_create(&decoded.value, true);
        let _ = version.validate_update(&decoded.value, &thing());
    }
    true
}

fn schema(input: &[u8]) -> bool {
    let Ok(parsed) = parse(input, Notation::Json) else {
        return false;
    };
    compiled(&parsed.value)
}

fn rule(input: &[u8]) -> bool {
    text(input, |rule| compiled(&definition(rule)))
}

fn url(input: &[u8]) -> bool {
    text(input, |text| {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let query = Query::parse(query);
        let info = RequestInfo::parse(&Method::GET, path, &query);
        let _ = (query.flag("watch"), query.boolean("pretty"));
        for key in ["labelSelector", "fieldSelector"] {
            let value = query.get(key).unwrap_or_default();
            let _ = (
                Selector::parse(value).is_ok(),
                FieldSelector::parse(value).is_ok(),
            );
        }
        info.path.starts_with('/')
    })
}

/// A key, and a method that knows tokens signed with it.
static ACCOUNTS: LazyLock<ServiceAccountTokens> = LazyLock::new(|| {
    let key = mainstay_pki::new_key_pem().expect("a key can be made");
    let keys = Arc::new(Keys::new(&[key]).expect("the key is of the right kind"));
    ServiceAccountTokens::new(keys, "issuer", Arc::new(MemoryWorld::default()), FakeClock::new())
});

fn tokens() -> Vec<Vec<u8>> {
    texts(&[
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpc3N1ZXIiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.c2ln",
        "eyJhbGciOiJub25lIn0.eyJpc3MiOiJpc3N1ZXIifQ.",
        "abcdef.0123456789abcdef",
    ])
}

/// No made-up token may be good; whether it was taken for one is the question.
fn token(input: &[u8]) -> bool {
    text(input, |token| {
        let told = futures::executor::block_on(ACCOUNTS.tell(token, &[]));
        assert!(
            !matches!(told, Ok(Some(_))),
            "a token without a signature is good"
        );
        token.split('.').count() > 1
    })
}

fn token_file(input: &[u8]) -> bool {
    text(input, |text| TokenFile::parse(text).is_ok())
}

fn certificates() -> Vec<Vec<u8>> {
    let clock = FakeClock::new();
    let now = mainstay_base::clock::Clock::now(&*clock);
    let authority = mainstay_pki::Authority::create("ca", now).expect("an authority");
    let life = jiff::SignedDuration::from_hours(1);
    let groups = ["a".to_string(), "b".to_string()];
    let made = authority
        .client("u", &groups, &["spiffe://x".into()], now, life)
        .expect("a certificate");
    use rustls::pki_types::pem::PemObject as _;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(made.certificate.as_bytes()).expect("PEM");
    vec![der.to_vec()]
}

fn client_certificate(input: &[u8]) -> bool {
    certificate::user(input).is_ok()
}

fn messages() -> Vec<Vec<u8>> {
    let definition = definition(RULES[0]);
    let mut pod = pod();
    pod["spec"]["activeDeadlineSeconds"] = 3.into();
    [pod, definition].iter().filter_map(proto::from_json).collect()
}

fn protobuf(input: &[u8]) -> bool {
    let Ok(object) = proto::to_json(input) else {
        return false;
    };
    let Some(written) = proto::from_json(&object) else {
        return false;
    };
    let again = proto::to_json(&written).expect("what was written is read");
    assert_eq!(proto::from_json(&again), Some(written));
    true
}
