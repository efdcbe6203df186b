//! `api/behaviours.json`: an ordered sequence of requests against an empty server, with the answers of upstream's.
//! Runs against a control plane of its own, over TLS, as a client from outside would.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::Value;

use super::FileResult;
use crate::client::{Https, Plane};

const FILE: &str = "api/behaviours.json";
/// How long a watch may take to deliver its events; where none are wanted, none may come for [`QUIET`].
const EVENT_WAIT: Duration = Duration::from_secs(4);
const QUIET: Duration = Duration::from_millis(500);
/// Static tokens of the table's users.
const TOKENS: &str = "tok-admin,admin,u1,\"system:masters\"\ntok-alice,alice,u2,\"devs\"\ntok-bob,bob,u3,\"devs\"\n\
                      tok-node,system:node:n1,u4,\"system:nodes\"\ntok-nobody,nobody,u5\n";

/// Runs the table if it is there.
pub fn run(dir: &Path, only: Option<&str>) -> Vec<FileResult> {
    if only.is_some_and(|area| area != "api") || !dir.join(FILE).is_file() {
        return Vec::new();
    }
    let result = run_table(&dir.join(FILE)).unwrap_or_else(|error| (0, vec![format!("{error:#}")]));
    vec![FileResult {
        file: FILE.into(),
        passed: result.0,
        failed: result.1,
    }]
}

fn run_table(path: &Path) -> Result<(usize, Vec<String>)> {
    let table: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let cases = table["cases"].as_array().context("the table has no cases")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let plane = Plane::start(Some(TOKENS)).await?;
        let mut run = Run {
            client: plane.client(),
            saved: HashMap::new(),
        };
        let (mut passed, mut failed) = (0, Vec::new());
        for case in cases {
            match run.case(case).await {
                problems if problems.is_empty() => passed += 1,
                problems => failed.push(format!("{}: {}", text(case, "id"), problems.join("; "))),
            }
        }
        Ok((passed, failed))
    })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

struct Run {
    client: Https,
    saved: HashMap<String, String>,
}

impl Run {
    async fn case(&mut self, case: &Value) -> Vec<String> {
        let request = match self.request(case) {
            Ok(request) => request,
            Err(error) => return vec![format!("bad row: {error:#}")],
        };
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => return vec![format!("no answer: {error:#}")],
        };
        let mut problems = Vec::new();
        let expect = &case["expect"];
        head(expect, &response, &mut problems);
        if expect["events"].is_array() && response.status() == 200 {
            let got = events(response, expect["events"].as_array().map_or(0, Vec::len)).await;
            compare_events(expect, &got, &mut problems);
            return problems;
        }
        let bytes = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return vec![format!("the answer broke: {error}")],
        };
        body(expect, &bytes, &mut problems);
        let object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        for (name, path) in case["save"].as_object().into_iter().flatten() {
            if let Value::String(found) = look(&object, path.as_str().unwrap_or_default()) {
                self.saved.insert(name.clone(), found.clone());
            }
        }
        problems
    }

    fn request(&self, case: &Value) -> Result<Request<Full<Bytes>>> {
        let path = self.fill(text(case, "path"));
        let mut request = Request::builder()
            .method(text(case, "method"))
            .uri(path.replace(' ', "%20"));
        let token = match case.get("user").map(|user| user.as_str().unwrap_or_default()) {
            None => "tok-admin".to_string(),
            Some("") => String::new(),
            Some("xxx") => "xxx".to_string(),
            Some(user) => format!("tok-{user}"),
        };
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(accept) = case["accept"].as_str() {
            request = request.header("accept", accept);
        }
        let body = match &case["body"] {
            Value::Null => None,
            Value::String(text) => Some(self.fill(text)),
            other => Some(self.fill(&other.to_string())),
        };
        if body.is_some() {
            request = request.header(
                "content-type",
                case["content_type"].as_str().unwrap_or("application/json"),
            );
        }
        for (name, value) in case["headers"].as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        Ok(request.body(Full::new(body.unwrap_or_default().into()))?)
    }

    /// Replaces `${name}` by what was saved and `${repeat:x:N}` by N times x.
    fn fill(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((name, tail)) = after.split_once('}') else {
                out.push_str("${");
                rest = after;
                continue;
            };
            match name.strip_prefix("repeat:").and_then(|spec| spec.split_once(':')) {
                Some((unit, count)) => out.push_str(&unit.repeat(count.parse().unwrap_or(0))),
                None => out.push_str(self.saved.get(name).map_or("", String::as_str)),
            }
            rest = tail;
        }
        out + rest
    }
}

fn head(expect: &Value, response: &Response<Incoming>, problems: &mut Vec<String>) {
    let code = u64::from(response.status().as_u16());
    let accepted = match expect["accept_codes"].as_array() {
        Some(codes) => codes.iter().any(|one| one.as_u64() == Some(code)),
        None => expect["code"].as_u64() == Some(code),
    };
    if !accepted {
        problems.push(format!("code {code}, expected {}", expect["code"]));
    }
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    for (name, wanted) in expect["headers"].as_object().into_iter().flatten() {
        let fits = match wanted.as_str() {
            Some("<set>") => header(name).is_some(),
            wanted => header(name) == wanted,
        };
        if !fits {
            problems.push(format!("header {name} is {:?}, expected {wanted}", header(name)));
        }
    }
    if let Some(wanted) = expect["content_type"]
        .as_str()
        .filter(|wanted| header("content-type") != Some(wanted))
    {
        problems.push(format!(
            "content type is {:?}, expected {wanted}",
            header("content-type")
        ));
    }
}

fn body(expect: &Value, bytes: &[u8], problems: &mut Vec<String>) {
    match expect["body"].as_str() {
        None | Some("<set>") => {}
        Some(wanted) if wanted.starts_with("<binary") => {
            if !bytes.starts_with(b"k8s\0") {
                problems.push("the body is not protobuf".into());
            }
        }
        Some(wanted) if wanted.as_bytes() == bytes => {}
        Some(wanted) => problems.push(format!("body is not {wanted:?}")),
    }
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    for key in ["kind", "apiVersion"] {
        if expect[key].is_string() && object[key] != expect[key] {
            problems.push(format!("{key} is {}, expected {}", object[key], expect[key]));
        }
    }
    for (path, wanted) in expect["fields"].as_object().into_iter().flatten() {
        let got = look(&object, path);
        if !fits(got, wanted) {
            problems.push(format!("{path} is {got}, expected {wanted}"));
        }
    }
    if let Some(wanted) = expect["items"].as_u64() {
        let got = object["items"].as_array().map_or(0, Vec::len) as u64;
        if got != wanted {
            problems.push(format!("{got} items, expected {wanted}"));
        }
    }
    for part in expect["message_contains"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !text(&object, "message").contains(part) {
            problems.push(format!("the message lacks {part:?}"));
        }
    }
    if expect["code"] != 500 {
        status(&expect["status"], &object, problems);
    }
}

fn status(expect: &Value, object: &Value, problems: &mut Vec<String>) {
    for key in ["status", "reason", "code"] {
        if !expect[key].is_null() && object[key] != expect[key] {
            problems.push(format!(
                "status.{key} is {}, expected {}",
                object[key], expect[key]
            ));
        }
    }
    for (key, wanted) in expect["details"].as_object().into_iter().flatten() {
        if object["details"][key] != *wanted {
            problems.push(format!(
                "details.{key} is {}, expected {wanted}",
                object["details"][key]
            ));
        }
    }
    let Some(wanted) = expect["causes"].as_array() else {
        return;
    };
    let causes = object["details"]["causes"].as_array().into_iter().flatten();
    let got: Vec<Value> = causes
        .map(|cause| format!("{}|{}", text(cause, "reason"), text(cause, "field")).into())
        .collect();
    if got != *wanted {
        problems.push(format!("causes are {got:?}, expected {wanted:?}"));
    }
}

/// `<set>` fits any value; a text with `<set>` inside fits by what stands before it.
fn fits(got: &Value, wanted: &Value) -> bool {
    match wanted.as_str().and_then(|text| text.split_once("<set>")) {
        Some(("", _)) => !got.is_null(),
        Some((before, _)) => got.as_str().is_some_and(|text| text.starts_with(before)),
        None => got == wanted,
    }
}

/// Follows a dotted path; `\.` is a dot inside a key.
fn look<'a>(object: &'a Value, path: &str) -> &'a Value {
    let path = path.replace("\\.", "\0");
    path.split('.')
        .fold(object, |value, part| match (value, part.parse::<usize>()) {
            (Value::Array(list), Ok(index)) => list.get(index).unwrap_or(&Value::Null),
            _ => &value[part.replace('\0', ".").as_str()],
        })
}

/// Reads the first events of a watch, as many as are wanted; when none are, whatever comes within a short while.
async fn events(response: Response<Incoming>, wanted: usize) -> Vec<Value> {
    let mut body = response.into_body();
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    loop {
        let wait = if found.len() < wanted { EVENT_WAIT } else { QUIET };
        let Ok(Some(Ok(frame))) = tokio::time::timeout(wait, body.frame()).await else {
            return found;
        };
        buffer.extend_from_slice(frame.data_ref().map_or(&b""[..], |data| data));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            found.extend(serde_json::from_slice::<Value>(&line));
        }
        // A server may send several events at once; the table has the first ones.
        if found.len() >= wanted && wanted > 0 {
            found.truncate(wanted);
            return found;
        }
    }
}

fn compare_events(expect: &Value, got: &[Value], problems: &mut Vec<String>) {
    let wanted = expect["events"].as_array().cloned().unwrap_or_default();
    let same = |event: &Value, wanted: &Value| {
        let object = &event["object"];
        let pairs = [
            ("type", &event["type"]),
            ("kind", &object["kind"]),
            ("name", &object["metadata"]["name"]),
            ("annotations", &object["metadata"]["annotations"]),
        ];
        pairs
            .iter()
            .all(|(key, value)| wanted.get(key).is_none_or(|wanted| wanted == *value))
    };
    let fit = got.len() == wanted.len() && got.iter().zip(&wanted).all(|(event, wanted)| same(event, wanted));
    if !fit {
        let shown: Vec<String> = got
            .iter()
            .map(|event| format!("{} {}", event["type"], look(event, "object.metadata.name")))
            .collect();
        problems.push(format!(
            "events were [{}], expected {}",
            shown.join(", "),
            expect["events"]
        ));
    }
}
