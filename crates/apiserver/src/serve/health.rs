//! `/healthz`, `/livez`, `/readyz` with named checks, `/metrics` and `/version`.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, StatusCode};
use mainstay_base::metrics;
use serde_json::json;

use super::Call;
use crate::body::Body;
use crate::respond;
use crate::server::{GIT_VERSION, Server};

/// Checks under all three paths; `shutdown` is of readyz alone.
const CHECKS: [&str; 5] = ["ping", "log", "etcd", "informer-sync", "shutdown"];

/// Answers a health, metrics or version path.
pub fn serve(server: &Arc<Server>, call: &Call) -> Option<Response<Body>> {
    let path = call.info.path.trim_matches('/');
    match path.split_once('/').unwrap_or((path, "")) {
        ("version", "") => Some(version()),
        ("metrics", "") => Some(metrics(server)),
        (which @ ("healthz" | "livez" | "readyz"), check) => Some(health(server, call, which, check)),
        _ => None,
    }
}

fn holds(server: &Server, check: &str) -> bool {
    check != "shutdown" || !server.is_draining()
}

fn health(server: &Server, call: &Call, which: &str, only: &str) -> Response<Body> {
    let all = CHECKS
        .into_iter()
        .filter(|check| *check != "shutdown" || which == "readyz");
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let checks: Vec<&str> = match only {
        "" => all.collect(),
        one => all.filter(|check| *check == one).collect(),
    };
    if checks.is_empty() {
        return respond::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        let note = match (excluded.contains(&check), holds(server, check)) {
            (true, _) => "excluded: ok",
            (false, true) => "ok",
            (false, false) => "failed: reason withheld",
        };
        let sign = if note.starts_with("failed") { '-' } else { '+' };
        failed |= sign == '-';
        let _ = writeln!(text, "[{sign}]{check} {note}");
    }
    if failed {
        let _ = writeln!(text, "{which} check failed");
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    match call.query.get("verbose").is_some() && only.is_empty() {
        true => respond::text(StatusCode::OK, format!("{text}{which} check passed\n")),
        false => respond::text(StatusCode::OK, "ok"),
    }
}

fn version() -> Response<Body> {
    let version = json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
    });
    respond::encoded(
        StatusCode::OK,
        &version,
        crate::negotiate::Format {
            pretty: true,
            ..crate::negotiate::Format::JSON
        },
    )
}

/// Go's name of the processor architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn metrics(server: &Server) -> Response<Body> {
    let counts = server.caches().counts().into_iter();
    let mut text = server.metrics.print(counts, server.lanes.refused());
    text += &metrics::text(metrics::process::families());
    respond::plain(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
        text,
    )
}
