//! Images of containers: present, pulled, or why not.

use k8s_openapi::api::core::v1::{Container, Pod};
use mainstay_control::events::EventKind;
use mainstay_nodepolicy::pods::keyring::Keyring;
pub use mainstay_nodepolicy::pods::pull::{PullBackoff, Waiting};
use mainstay_nodepolicy::pods::pull::{policy, with_tag};

use super::turn::Turn;
use crate::context::Shared;
use crate::cri::{image_spec, runtime_v1 as v1};
use crate::podspec;

/// Credentials to try for an image: those of the pod, then the node's own (`config.json` in the agent's folder).
async fn credentials(shared: &Shared, pod: &Pod, image: &str) -> Vec<v1::AuthConfig> {
    let mut of_pod = Keyring::default();
    let spec = pod.spec.as_ref();
    for reference in spec
        .and_then(|s| s.image_pull_secrets.as_ref())
        .into_iter()
        .flatten()
    {
        let namespace = podspec::namespace(pod);
        let Some(data) = shared.fetch.secret(namespace, &reference.name).await else {
            continue;
        };
        match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(file), _) => of_pod.add_file(file),
            (None, Some(file)) => of_pod.add_old_file(file),
            (None, None) => {}
        }
    }
    let mut of_node = Keyring::default();
    if let Ok(file) = tokio::fs::read(shared.settings.dirs.root.join("config.json")).await {
        of_node.add_file(&file);
    }
    let mut found = of_pod.of(image);
    found.extend(of_node.of(image));
    found
}

/// Makes sure that a container's image is here.
///
/// # Errors
/// Why the container must wait.
pub async fn ensure(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    sandbox: &v1::PodSandboxConfig,
    backoff: &PullBackoff,
    turn: &mut Turn<'_>,
) -> Result<v1::Image, Waiting> {
    let image = with_tag(container.image.as_deref().unwrap_or(""));
    let present = shared
        .cri
        .image(&image)
        .await
        .map_err(|e| Waiting::new("ImageInspectError", e.message()))?;
    let policy = policy(container, &image);
    let event = |kind, reason: &str, message: String| {
        shared
            .events
            .container(pod, &container.name, kind, reason, message);
    };
    match (present, policy.as_str()) {
        (Some(found), "IfNotPresent" | "Never") => {
            event(
                EventKind::Normal,
                "Pulled",
                format!("Container image {image:?} already present on machine"),
            );
            return Ok(found);
        }
        (None, "Never") => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            event(EventKind::Warning, "ErrImageNeverPull", message.clone());
            return Err(Waiting::new("ErrImageNeverPull", message));
        }
        _ => {}
    }
    if let Some(why) = backoff.held_back(&image, shared.clock.monotonic()) {
        let message = format!("Back-off pulling image {image:?}");
        event(EventKind::Normal, "BackOff", message.clone());
        let message = format!("{message}: ErrImagePull: {why}");
        return Err(Waiting::new("ImagePullBackOff", message));
    }
    event(EventKind::Normal, "Pulling", format!("Pulling image {image:?}"));
    let asked = shared.clock.monotonic();
    // Who waits here holds up nobody whose image is present.
    turn.pause();
    let _pull = match &shared.pulls {
        Some(turns) => turns.acquire().await.ok(),
        None => None,
    };
    let started = shared.clock.monotonic();
    let pulled = pull(shared, pod, &image, sandbox).await;
    turn.resume().await;
    match pulled {
        Ok(found) => {
            let now = shared.clock.monotonic();
            let class = crate::tally::size_class(found.size);
            shared.tally.pulls.observe([class], now.saturating_sub(asked));
            let took = crate::config::duration::format(now.saturating_sub(started));
            let whole = crate::config::duration::format(now.saturating_sub(asked));
            let size = found.size;
            event(
                EventKind::Normal,
                "Pulled",
                format!(
                    "Successfully pulled image {image:?} in {took} ({whole} including waiting). Image size: {size} bytes."
                ),
            );
            Ok(found)
        }
        Err(why) => {
            backoff.failed(&image, shared.clock.monotonic(), why.clone());
            event(
                EventKind::Warning,
                "Failed",
                format!("Failed to pull image {image:?}: {why}"),
            );
            event(EventKind::Warning, "Failed", "Error: ErrImagePull".to_owned());
            Err(Waiting::new("ErrImagePull", why))
        }
    }
}

async fn pull(
    shared: &Shared,
    pod: &Pod,
    image: &str,
    sandbox: &v1::PodSandboxConfig,
) -> Result<v1::Image, String> {
    let mut tries: Vec<Option<v1::AuthConfig>> = credentials(shared, pod, image)
        .await
        .into_iter()
        .map(Some)
        .collect();
    if tries.is_empty() {
        tries.push(None);
    }
    let mut last = String::new();
    for auth in tries {
        let request = v1::PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config: Some(sandbox.clone()),
        };
        match shared.cri.pull_image(request).await {
            Ok(answer) => {
                let found = shared
                    .cri
                    .image(&answer.image_ref)
                    .await
                    .map_err(|e| e.message())?;
                return found.ok_or_else(|| format!("image {image} is gone right after its pull"));
            }
            Err(error) => last = error.message(),
        }
    }
    Err(last)
}
