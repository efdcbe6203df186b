//! `mainstay version`.

use serde_json::json;

use crate::outcome::{Code, Outcome};
use crate::output::Output;

/// The Kubernetes version whose API is served, and ours.
pub const TEXT: &str = concat!("v1.36.3+mainstay.", env!("CARGO_PKG_VERSION"));

/// Prints the version.
pub fn run(output: &Output) -> Outcome {
    let document = json!({
        "mainstay": env!("CARGO_PKG_VERSION"), "gitVersion": TEXT,
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    output.answer("Version", document, || TEXT.to_string());
    Ok(Code::Ok)
}
