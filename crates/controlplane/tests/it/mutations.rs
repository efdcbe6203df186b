//! Requests that were damaged at random never panic, never break the server and never give an internal error: the seed
//! is printed on failure. `MAINSTAY_TEST_TIER=full` runs ten minutes of it.

use std::time::Duration;

use fastrand::Rng;
use mainstay_base::clock::{Clock as _, SystemClock};
use mainstay_base::testdata;
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::plane;
use serde_json::json;

use crate::raw::send;

/// Requests of the short run, and how long the long one takes.
const SHORT: usize = 3_000;
const LONG: Duration = Duration::from_secs(600);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Words that parsers treat in special ways.
const WORDS: &[&str] = &[
    "null",
    "-1",
    "1e999",
    "9223372036854775808",
    "\"\"",
    "{}",
    "[]",
    "[[[[",
    "\u{0}",
    "\u{feff}",
    "~1",
    "~2",
    "/-",
    "%00",
    "$patch",
    "$retainKeys",
    "$setElementOrder/data",
    "kind",
    "metadata",
    "managedFields",
    "resourceVersion",
    "1Ki",
    "1e3Ei",
    "0.0000000001n",
    "!a,b in (c)",
    "a notin ()",
    "self.all(x, x > 0)",
    "has(self.a)",
    "size(self) / 0",
    "\\ud800",
    "*anchor",
    "&a [*a]",
    "<<: *a",
    "!!binary x",
    "../..",
    ".well-known",
];

struct Seed {
    head: String,
    body: Vec<u8>,
}

fn seed(head: impl Into<String>, body: impl Into<Vec<u8>>) -> Seed {
    Seed {
        head: head.into(),
        body: body.into(),
    }
}

fn pod() -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{
            "name": "c", "image": "i:1", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "E", "value": "$(F)"}],
        }], "tolerations": [{"key": "k", "operator": "Exists"}]},
    })
    .to_string()
}

fn definition() -> String {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.test.io"},
        "spec": {
            "group": "test.io", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {
                    "type": "object", "required": ["size"], "x-kubernetes-validations": [{"rule": "self.size > self.min", "message": "m"}],
                    "properties": {
                        "size": {"type": "integer", "minimum": 1, "default": 3}, "min": {"type": "integer", "default": 0},
                        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10},
                        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "maxItems": 9,
                            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
                    },
                }},
            }}}],
        },
    })
    .to_string()
}

fn seeds() -> Vec<Seed> {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "annotations": {"x": "y"}}, "data": {"a": "b"}});
    let merge = json!({"metadata": {"labels": {"a": null}}, "data": {"a": "c", "d": "e"}}).to_string();
    let strategic = json!({"data": {"$patch": "merge", "a": "z"}, "metadata": {"finalizers": ["x/y"], "$deleteFromPrimitiveList/finalizers": ["x/y"]}});
    let patch = json!([{"op": "add", "path": "/data/x~1y", "value": "1"}, {"op": "move", "from": "/data/x~1y", "path": "/data/z"}, {"op": "test", "path": "/data/z", "value": "1"}]);
    let thing = json!({"apiVersion": "test.io/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"size": 4, "name": "abc", "list": [{"k": "v"}]}});
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"}});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1k", "requests.cpu": "1500m"}, "scopes": ["NotTerminating"]}});
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: |\n    text\n  b: &x 'q'\n";
    let apply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {applied: 'yes'}\n";
    let patched = |content: &str| format!("PATCH {MAPS}/m {content}");
    let selectors = "labelSelector=a%20in%20(b,c),!d,e%3D%3Df&fieldSelector=metadata.name%3Dm,metadata.namespace!%3Dx&limit=2&resourceVersion=1";
    let behaviours = testdata::rows("oracle/api/behaviours.json");
    let from_table = behaviours
        .iter()
        .filter(|row| row["body"].is_object())
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default();
            let content = row["content_type"].as_str().unwrap_or("application/json");
            seed(
                format!(
                    "{} {} {content}",
                    text("method"),
                    text("path").replace(' ', "%20")
                ),
                row["body"].to_string(),
            )
        });
    let own = [
        seed(format!("POST {MAPS} application/json"), map.to_string()),
        seed(format!("POST {MAPS} application/yaml"), yaml),
        seed(patched("application/merge-patch+json"), merge),
        seed(
            patched("application/strategic-merge-patch+json"),
            strategic.to_string(),
        ),
        seed(patched("application/json-patch+json"), patch.to_string()),
        seed(
            format!("PATCH {MAPS}/m?fieldManager=f&force=true application/apply-patch+yaml"),
            apply,
        ),
        seed("POST /api/v1/namespaces/default/pods application/json", pod()),
        seed(
            "POST /api/v1/namespaces/default/resourcequotas application/json",
            quota.to_string(),
        ),
        seed(
            format!("POST {DEFINITIONS}?dryRun=All application/json"),
            definition(),
        ),
        seed(
            "POST /apis/test.io/v1/namespaces/default/things?dryRun=All application/json",
            thing.to_string(),
        ),
        seed(
            "POST /apis/authentication.k8s.io/v1/tokenreviews application/json",
            review.to_string(),
        ),
        seed(format!("GET {MAPS}?{selectors}"), ""),
        seed(
            format!("GET {MAPS}?continue=eyJydiI6MSwibnMiOiIiLCJuIjoiIn0&limit=1"),
            "",
        ),
        seed(format!("GET {MAPS}/m?resourceVersion=0"), ""),
    ];
    own.into_iter().chain(from_table).collect()
}

/// Damages a text in one to four places.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..7) {
            0 if at < bytes.len() => bytes[at] = rng.u8(..),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, WORDS[rng.usize(..WORDS.len())].bytes())),
            4 => {
                let end = rng.usize(at..=bytes.len().min(at + 40));
                let part: Vec<u8> = bytes[at..end].to_vec();
                let times = rng.usize(1..50);
                drop(bytes.splice(at..at, part.repeat(times)));
            }
            5 => {
                let end = rng.usize(at..=bytes.len().min(at + 40));
                bytes.drain(at..end);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
}

/// A head that can still be sent: a client's library refuses other bytes.
fn damaged_head(rng: &mut Rng, head: &str) -> String {
    let mut words: Vec<String> = head.split(' ').map(str::to_string).collect();
    let mut path = words[1].clone().into_bytes();
    damage(rng, &mut path);
    let path: String = path
        .into_iter()
        .map(|byte| match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'/'
            | b'?'
            | b'&'
            | b'='
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'%' => char::from(byte).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect();
    let watches = path.contains("watch");
    words[1] = match path.starts_with('/') && !watches {
        true => path,
        false => words[1].clone(),
    };
    words.join(" ")
}

async fn is_well(plane: &ControlPlane) -> bool {
    send(plane, &format!("GET {MAPS}?limit=1"), "").await.told() == "200"
}

async fn round(plane: &ControlPlane, seeds: &[Seed], number: u64) {
    let mut rng = Rng::with_seed(number);
    let chosen = &seeds[rng.usize(..seeds.len())];
    let mut body = chosen.body.clone();
    let head = match rng.u8(..4) {
        0 => damaged_head(&mut rng, &chosen.head),
        _ => {
            damage(&mut rng, &mut body);
            chosen.head.clone()
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), send(plane, &head, body.clone())).await;
    let answer = answer.unwrap_or_else(|_| panic!("seed {number}: no answer to {head}"));
    assert!(
        answer.code.as_u16() < 500 || answer.code == 504 || answer.code == 503,
        "seed {number}: {} {}\n{head}\n{}",
        answer.code,
        String::from_utf8_lossy(&answer.body),
        String::from_utf8_lossy(&body)
    );
}

#[tokio::test]
async fn damaged_requests_never_break_the_server() {
    let plane = plane().await;
    let seeds = seeds();
    let made = send(&plane, &seeds[0].head, seeds[0].body.clone()).await;
    assert_eq!(made.told(), "201");
    let made = send(
        &plane,
        &format!("POST {DEFINITIONS} application/json"),
        definition(),
    )
    .await;
    assert_eq!(made.told(), "201", "{}", made.json());
    let full = std::env::var("MAINSTAY_TEST_TIER").is_ok_and(|tier| tier == "full");
    let clock = SystemClock::new();
    let mut number = 0;
    while if full {
        clock.monotonic() < LONG
    } else {
        number < SHORT as u64
    } {
        round(&plane, &seeds, number).await;
        number += 1;
    }
    assert!(is_well(&plane).await);
    plane.stop().await;
}
