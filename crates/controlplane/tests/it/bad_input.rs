//! Bad input gets upstream's code and reason, and changes nothing.

use expect_test::expect;
use mainstay_testkit::plane;
use serde_json::json;

use crate::raw::{Answer, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
        .to_string()
}

fn warnings(answer: &Answer) -> String {
    let all = answer.headers.get_all("warning").iter();
    all.map(|value| value.to_str().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("; ")
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let plane = plane().await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!("{{\"data\":{}1{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let rows: Vec<(&str, String, Vec<u8>)> = vec![
        (
            "oversized",
            format!("POST {MAPS} application/json"),
            map(&"x".repeat(4 << 20)).into(),
        ),
        (
            "large value",
            format!("POST {MAPS} application/json"),
            map("big")
                .replace("\"b\"", &format!("{:?}", "x".repeat(2 << 20)))
                .into(),
        ),
        ("empty", format!("POST {MAPS} application/json"), Vec::new()),
        (
            "cut",
            format!("POST {MAPS} application/json"),
            map("a")[..40].into(),
        ),
        ("list", format!("POST {MAPS} application/json"), b"[]".to_vec()),
        ("text", format!("POST {MAPS} application/json"), b"\"x\"".to_vec()),
        (
            "two",
            format!("POST {MAPS} application/json"),
            [map("a"), map("b")].concat().into(),
        ),
        (
            "deep lists",
            format!("POST {MAPS} application/json"),
            deep.clone().into(),
        ),
        (
            "deep objects",
            format!("POST {MAPS} application/json"),
            deep_object.clone().into(),
        ),
        (
            "deep YAML",
            format!("POST {MAPS} application/yaml"),
            deep.clone().into(),
        ),
        (
            "YAML with bad UTF-8",
            format!("POST {MAPS} application/yaml"),
            b"kind: ConfigMap\nmetadata: {name: \xff}".to_vec(),
        ),
        (
            "wrong type of a field",
            format!("POST {MAPS} application/json"),
            map("a").replace("\"b\"", "7").into(),
        ),
        (
            "wrong kind",
            format!("POST {MAPS} application/json"),
            map("a").replace("ConfigMap", "Secret").into(),
        ),
        (
            "wrong version",
            format!("POST {MAPS} application/json"),
            map("a").replace("\"v1\"", "\"v2\"").into(),
        ),
        (
            "wrong namespace",
            format!("POST {MAPS} application/json"),
            map("a")
                .replace("\"name\"", "\"namespace\":\"x\",\"name\"")
                .into(),
        ),
        ("no name", format!("POST {MAPS} application/json"), map("").into()),
        (
            "bad name",
            format!("POST {MAPS} application/json"),
            map("A_b").into(),
        ),
        (
            "long name",
            format!("POST {MAPS} application/json"),
            map(&"a".repeat(254)).into(),
        ),
        (
            "form",
            format!("POST {MAPS} application/x-www-form-urlencoded"),
            map("a").into(),
        ),
        (
            "no such media type",
            format!("POST {MAPS} text/plain"),
            map("a").into(),
        ),
        (
            "CBOR",
            format!("POST {MAPS} application/cbor"),
            b"\xd9\xd9\xf7\xa0".to_vec(),
        ),
        (
            "cut protobuf",
            format!("POST {MAPS} application/vnd.kubernetes.protobuf"),
            b"k8s\0\x0a\xff".to_vec(),
        ),
        (
            "no protobuf",
            format!("POST {MAPS} application/vnd.kubernetes.protobuf"),
            map("a").into(),
        ),
        (
            "patch type on create",
            format!("POST {MAPS} {MERGE}"),
            map("a").into(),
        ),
        (
            "JSON on patch",
            format!("PATCH {MAPS}/a application/json"),
            map("a").into(),
        ),
    ];
    let mut text = String::new();
    for (what, head, body) in rows {
        text += &format!("{what}: {}\n", send(&plane, &head, body).await.told());
    }
    expect![[r#"
        oversized: 413 RequestEntityTooLarge
        large value: 422 Invalid
        empty: 400 BadRequest
        cut: 400 BadRequest
        list: 400 BadRequest
        text: 400 BadRequest
        two: 400 BadRequest
        deep lists: 400 BadRequest
        deep objects: 400 BadRequest
        deep YAML: 400 BadRequest
        YAML with bad UTF-8: 400 BadRequest
        wrong type of a field: 400 BadRequest
        wrong kind: 400 BadRequest
        wrong version: 400 BadRequest
        wrong namespace: 400 BadRequest
        no name: 422 Invalid
        bad name: 422 Invalid
        long name: 422 Invalid
        form: 415 UnsupportedMediaType
        no such media type: 415 UnsupportedMediaType
        CBOR: 415 UnsupportedMediaType
        cut protobuf: 400 BadRequest
        no protobuf: 400 BadRequest
        patch type on create: 415 UnsupportedMediaType
        JSON on patch: 415 UnsupportedMediaType
    "#]]
    .assert_eq(&text);
    let list = send(&plane, &format!("GET {MAPS}"), "").await.json();
    assert_eq!(list["items"], json!([]), "a refused body changed something");
    plane.stop().await;
}

#[tokio::test]
async fn unknown_and_double_fields_follow_field_validation() {
    let plane = plane().await;
    let odd = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"NAME"},"data":{"a":"1","a":"2"},"dat":{},"metadata":{"name":"NAME","x":1}}"#;
    let mut text = String::new();
    for validation in ["", "Ignore", "Warn", "Strict", "Loud"] {
        let head = format!("POST {MAPS}?fieldValidation={validation} application/json");
        let name = format!("odd-{}-x", validation.to_lowercase());
        let answer = send(&plane, &head, odd.replace("NAME", &name)).await;
        let told = answer.told();
        text += &format!(
            "{validation:?}: {told} {} [{}]\n",
            answer.json()["data"]["a"],
            warnings(&answer)
        );
    }
    expect![[r#"
        "": 201 "2" [299 - "duplicate field \"data.a\""; 299 - "duplicate field \"metadata\""; 299 - "unknown field \"dat\""; 299 - "unknown field \"metadata.x\""]
        "Ignore": 201 "2" []
        "Warn": 201 "2" [299 - "duplicate field \"data.a\""; 299 - "duplicate field \"metadata\""; 299 - "unknown field \"dat\""; 299 - "unknown field \"metadata.x\""]
        "Strict": 400 BadRequest null []
        "Loud": 422 Invalid null []
    "#]]
    .assert_eq(&text);
    plane.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8_become_the_replacement_character() {
    let plane = plane().await;
    let mut body = map("a").into_bytes();
    let at = body
        .windows(3)
        .position(|three| three == b"\"b\"")
        .expect("it is there");
    body.splice(at + 1..at + 2, [0xe2, 0x82, b'x']);
    let answer = send(&plane, &format!("POST {MAPS} application/json"), body).await;
    assert_eq!(answer.json()["data"]["a"], "\u{fffd}\u{fffd}x");
    plane.stop().await;
}

#[tokio::test]
async fn patches_that_cannot_be_applied() {
    let plane = plane().await;
    assert_eq!(
        send(&plane, &format!("POST {MAPS} application/json"), map("a"))
            .await
            .told(),
        "201"
    );
    let bomb = json!({"op": "copy", "from": "/data", "path": "/data/x"});
    let many = vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001];
    let rows: Vec<(&str, &str, String)> = vec![
        ("JSON patch: no list", JSON_PATCH, "{}".into()),
        ("JSON patch: no JSON", JSON_PATCH, "[{".into()),
        (
            "JSON patch: unknown operation",
            JSON_PATCH,
            r#"[{"op":"smile","path":"/a"}]"#.into(),
        ),
        (
            "JSON patch: missing path",
            JSON_PATCH,
            r#"[{"op":"remove","path":"/data/none"}]"#.into(),
        ),
        (
            "JSON patch: failed test",
            JSON_PATCH,
            r#"[{"op":"test","path":"/data/a","value":"z"}]"#.into(),
        ),
        ("JSON patch: too many", JSON_PATCH, json!(many).to_string()),
        ("JSON patch: bomb", JSON_PATCH, json!(vec![bomb; 50]).to_string()),
        (
            "JSON patch: not its type any more",
            JSON_PATCH,
            r#"[{"op":"add","path":"/data/b","value":{}}]"#.into(),
        ),
        (
            "JSON patch: everything gone",
            JSON_PATCH,
            r#"[{"op":"replace","path":"","value":[]}]"#.into(),
        ),
        (
            "JSON patch: other name",
            JSON_PATCH,
            r#"[{"op":"replace","path":"/metadata/name","value":"b"}]"#.into(),
        ),
        (
            "JSON patch: other kind",
            JSON_PATCH,
            r#"[{"op":"replace","path":"/kind","value":"Secret"}]"#.into(),
        ),
        ("merge: no object", MERGE, "[]".into()),
        ("merge: no JSON", MERGE, "{".into()),
        (
            "merge: old revision",
            MERGE,
            r#"{"metadata":{"resourceVersion":"1"},"data":{"a":"c"}}"#.into(),
        ),
        (
            "merge: other uid",
            MERGE,
            r#"{"metadata":{"uid":"x"},"data":{"a":"c"}}"#.into(),
        ),
        ("apply: no kind", APPLY, "metadata: {name: a}".into()),
        ("apply: no YAML", APPLY, "a: b: c".into()),
        (
            "apply: unknown field",
            APPLY,
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, nothing: 1}".into(),
        ),
        (
            "apply: with managedFields",
            APPLY,
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, managedFields: [{manager: x}]}}".into(),
        ),
    ];
    let mut text = String::new();
    for (what, content_type, body) in rows {
        let query = if content_type == APPLY {
            "?fieldManager=me&fieldValidation=Strict"
        } else {
            ""
        };
        let answer = send(&plane, &format!("PATCH {MAPS}/a{query} {content_type}"), body).await;
        text += &format!("{what}: {}\n", answer.told());
    }
    let unnamed = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}";
    text += &format!(
        "apply: no manager: {}\n",
        send(&plane, &format!("PATCH {MAPS}/a {APPLY}"), unnamed)
            .await
            .told()
    );
    expect![[r#"
        JSON patch: no list: 400 BadRequest
        JSON patch: no JSON: 400 BadRequest
        JSON patch: unknown operation: 422 Invalid
        JSON patch: missing path: 422 Invalid
        JSON patch: failed test: 422 Invalid
        JSON patch: too many: 400 BadRequest
        JSON patch: bomb: 422 Invalid
        JSON patch: not its type any more: 422 Invalid
        JSON patch: everything gone: 422 Invalid
        JSON patch: other name: 400 BadRequest
        JSON patch: other kind: 422 Invalid
        merge: no object: 400 BadRequest
        merge: no JSON: 400 BadRequest
        merge: old revision: 409 Conflict
        merge: other uid: 409 Conflict
        apply: no kind: 400 BadRequest
        apply: no YAML: 400 BadRequest
        apply: unknown field: 400 BadRequest
        apply: with managedFields: 400 BadRequest
        apply: no manager: 422 Invalid
    "#]]
    .assert_eq(&text);
    let after = send(&plane, &format!("GET {MAPS}/a"), "").await.json();
    assert_eq!(
        after["data"],
        json!({"a": "b"}),
        "a refused patch changed something"
    );
    plane.stop().await;
}

#[tokio::test]
async fn revisions_tokens_selectors_and_options_that_make_no_sense() {
    let plane = plane().await;
    let made = send(&plane, &format!("POST {MAPS} application/json"), map("a"))
        .await
        .json();
    let old = made["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision")
        .to_string();
    let change = r#"{"data":{"a":"c"}}"#;
    assert_eq!(
        send(&plane, &format!("PATCH {MAPS}/a {MERGE}"), change)
            .await
            .told(),
        "200"
    );
    let mut stale = made.clone();
    stale["data"]["a"] = "d".into();
    let (stale, delete) = (
        stale.to_string(),
        json!({"preconditions": {"resourceVersion": old}}).to_string(),
    );
    let rows: Vec<(&str, String, String)> = vec![
        (
            "old revision on PUT",
            format!("PUT {MAPS}/a application/json"),
            stale.clone(),
        ),
        (
            "no revision number on PUT",
            format!("PUT {MAPS}/a application/json"),
            stale.replace(&format!("\"{old}\""), "\"x\""),
        ),
        (
            "old revision on DELETE",
            format!("DELETE {MAPS}/a application/json"),
            delete,
        ),
        (
            "other name on PUT",
            format!("PUT {MAPS}/a application/json"),
            map("b"),
        ),
        (
            "absent on PUT",
            format!("PUT {MAPS}/none application/json"),
            map("none"),
        ),
        (
            "revision on create",
            format!("POST {MAPS} application/json"),
            stale.replace("\"a\",\"namespace\"", "\"z\",\"namespace\""),
        ),
        ("exists", format!("POST {MAPS} application/json"), map("a")),
        (
            "no namespace",
            "POST /api/v1/namespaces/none/configmaps application/json".into(),
            map("a"),
        ),
        (
            "future revision on GET",
            format!("GET {MAPS}/a?resourceVersion=999999999"),
            String::new(),
        ),
        (
            "future revision on list",
            format!("GET {MAPS}?resourceVersion=999999999"),
            String::new(),
        ),
        (
            "future exact revision",
            format!("GET {MAPS}?resourceVersion=999999999&resourceVersionMatch=Exact"),
            String::new(),
        ),
        (
            "no number as revision",
            format!("GET {MAPS}?resourceVersion=abc"),
            String::new(),
        ),
        (
            "negative revision",
            format!("GET {MAPS}?resourceVersion=-1"),
            String::new(),
        ),
        (
            "match without revision",
            format!("GET {MAPS}?resourceVersionMatch=Exact"),
            String::new(),
        ),
        (
            "unknown match",
            format!("GET {MAPS}?resourceVersion=1&resourceVersionMatch=Newest"),
            String::new(),
        ),
        (
            "garbage token",
            format!("GET {MAPS}?limit=1&continue=garbage"),
            String::new(),
        ),
        (
            "token and revision",
            format!("GET {MAPS}?limit=1&continue=garbage&resourceVersion=3"),
            String::new(),
        ),
        (
            "no number as limit",
            format!("GET {MAPS}?limit=many"),
            String::new(),
        ),
        (
            "malformed label selector",
            format!("GET {MAPS}?labelSelector=a%20in%20("),
            String::new(),
        ),
        (
            "bad label value",
            format!("GET {MAPS}?labelSelector=a%3D%40%40"),
            String::new(),
        ),
        (
            "malformed field selector",
            format!("GET {MAPS}?fieldSelector=metadata.name"),
            String::new(),
        ),
        (
            "unknown field selector",
            format!("GET {MAPS}?fieldSelector=data.a%3Db"),
            String::new(),
        ),
        (
            "malformed selector on delete",
            format!("DELETE {MAPS}?labelSelector=%21%21"),
            String::new(),
        ),
        (
            "unknown dry run",
            format!("POST {MAPS}?dryRun=Some application/json"),
            map("dry"),
        ),
        (
            "unknown propagation",
            format!("DELETE {MAPS}/a?propagationPolicy=Sideways"),
            String::new(),
        ),
        (
            "watch list without match",
            format!("GET {MAPS}?watch=1&sendInitialEvents=true"),
            String::new(),
        ),
        (
            "list with initial events",
            format!("GET {MAPS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
            String::new(),
        ),
        (
            "long manager",
            format!("POST {MAPS}?fieldManager={} application/json", "m".repeat(200)),
            map("m"),
        ),
        (
            "no such resource",
            "GET /api/v1/namespaces/default/nothings".into(),
            String::new(),
        ),
        (
            "no such group",
            "GET /apis/nothing.io/v1/things".into(),
            String::new(),
        ),
        (
            "no such subresource",
            format!("GET {MAPS}/a/status"),
            String::new(),
        ),
        (
            "no such verb",
            format!("POST {MAPS}/a application/json"),
            map("a"),
        ),
        ("no such path", "GET /nothing/here".into(), String::new()),
        (
            "bad percent escape",
            "GET /api/v1/namespaces/default/configmaps/%zz".into(),
            String::new(),
        ),
    ];
    let mut text = String::new();
    for (what, head, body) in rows {
        text += &format!("{what}: {}\n", send(&plane, &head, body).await.told());
    }
    expect![[r#"
        old revision on PUT: 409 Conflict
        no revision number on PUT: 400 BadRequest
        old revision on DELETE: 409 Conflict
        other name on PUT: 400 BadRequest
        absent on PUT: 404 NotFound
        revision on create: 400 BadRequest
        exists: 409 AlreadyExists
        no namespace: 404 NotFound
        future revision on GET: 504 Timeout
        future revision on list: 504 Timeout
        future exact revision: 504 Timeout
        no number as revision: 400 BadRequest
        negative revision: 400 BadRequest
        match without revision: 422 Invalid
        unknown match: 422 Invalid
        garbage token: 400 BadRequest
        token and revision: 400 BadRequest
        no number as limit: 400 BadRequest
        malformed label selector: 400 BadRequest
        bad label value: 400 BadRequest
        malformed field selector: 400 BadRequest
        unknown field selector: 400 BadRequest
        malformed selector on delete: 400 BadRequest
        unknown dry run: 422 Invalid
        unknown propagation: 422 Invalid
        watch list without match: 422 Invalid
        list with initial events: 422 Invalid
        long manager: 422 Invalid
        no such resource: 404 NotFound
        no such group: 404 NotFound
        no such subresource: 404 NotFound
        no such verb: 405 MethodNotAllowed
        no such path: 404
        bad percent escape: 404 NotFound
    "#]]
    .assert_eq(&text);
    let after = send(&plane, &format!("GET {MAPS}/a"), "").await.json();
    assert_eq!(
        after["data"],
        json!({"a": "c"}),
        "a refused request changed something"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_list_that_outlived_its_token_may_go_on_in_the_present() {
    let plane = plane().await;
    for name in ["a", "b", "c"] {
        assert_eq!(
            send(&plane, &format!("POST {MAPS} application/json"), map(name))
                .await
                .told(),
            "201"
        );
    }
    let first = send(&plane, &format!("GET {MAPS}?limit=1"), "").await.json();
    let token = first["metadata"]["continue"]
        .as_str()
        .expect("more follow")
        .to_string();
    // The window of old revisions is bounded by bytes, too: some large changes push the token's revision out.
    let large = json!({"data": {"a": "x".repeat(900_000)}}).to_string();
    for round in 0..8 {
        let change = large.replace("xx\"", &format!("{round}x\""));
        assert_eq!(
            send(&plane, &format!("PATCH {MAPS}/c {MERGE}"), change)
                .await
                .told(),
            "200"
        );
    }
    let expired = send(&plane, &format!("GET {MAPS}?limit=1&continue={token}"), "").await;
    assert_eq!(expired.told(), "410 Expired");
    let token = expired.json()["metadata"]["continue"]
        .as_str()
        .expect("a token")
        .to_string();
    let rest = send(&plane, &format!("GET {MAPS}?limit=1&continue={token}"), "").await;
    assert_eq!(
        (rest.told().as_str(), &rest.json()["items"][0]["metadata"]["name"]),
        ("200", &json!("b"))
    );
    let watch = send(
        &plane,
        &format!("GET {MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1"),
        "",
    )
    .await;
    let line: serde_json::Value = watch.json();
    assert_eq!(
        (&line["type"], &line["object"]["code"], &line["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    plane.stop().await;
}
