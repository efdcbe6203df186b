//! Checkpoints of containers: the runtime writes the state of a running container into a file.

use std::time::Duration;

use http::StatusCode;

use super::{Answer, Query, json, stream, text};
use crate::cri::runtime_v1 as v1;
use crate::pods::manager::Manager;

/// Folder of the files below the agent's folder.
const FOLDER: &str = "checkpoints";
/// How long the runtime may take when the request does not say.
const LIMIT: Duration = Duration::from_secs(120);

/// Answers `POST /checkpoint/NAMESPACE/POD/CONTAINER[?timeout=SECONDS]` with the file's path.
pub async fn serve(manager: &Manager, target: (&str, &str, &str), query: &Query) -> Answer {
    let (namespace, pod, container) = target;
    let shared = manager.shared();
    let timeout = match query.all("timeout").last().map(str::parse::<u32>) {
        None => LIMIT,
        Some(Ok(seconds)) => Duration::from_secs(u64::from(seconds)),
        Some(Err(_)) => return text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter"),
    };
    let container_id = match stream::running_id(manager, target).await {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let folder = shared.settings.dirs.root.join(FOLDER);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    let now = shared.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let file = folder.join(format!("checkpoint-{pod}_{namespace}-{container}-{now}.tar"));
    let request = v1::CheckpointContainerRequest {
        container_id,
        location: file.display().to_string(),
        timeout: i64::try_from(timeout.as_secs()).unwrap_or(0),
    };
    match shared.cri.checkpoint(request, timeout).await {
        Ok(()) => json(&serde_json::json!({"items": [file.display().to_string()]})),
        Err(error) if error.is_unimplemented() => text(
            StatusCode::NOT_FOUND,
            format!(
                "checkpointing of {namespace}/{pod}/{container} failed ({})",
                error.message()
            ),
        ),
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "checkpointing of {namespace}/{pod}/{container} failed ({})",
                error.message()
            ),
        ),
    }
}
