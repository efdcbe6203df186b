//! OSImage controller: composes an image when its spec changes. Watches OSImages; alone writes OSImage.status.

use std::time::Duration;

use kube::Api;
use mainstay_api::{
    OSImage,
    conditions::{condition, reasons, set, types},
};
use mainstay_control::{Error, ObjectKey, Requeue, write};

use crate::{Context, ImageError};

/// How soon a failed compose is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Composes one image unless its present generation is composed already.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let images: Api<OSImage> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(image) = write::get(&images, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    let generation = image.metadata.generation.unwrap_or(0);
    let mut status = image.status.clone().unwrap_or_default();
    if image.metadata.deletion_timestamp.is_some()
        || (status.observed_generation == generation && !status.commit.is_empty())
    {
        return Ok(Requeue::Never);
    }
    let result = match crate::unbuilt::os_image(&image.spec).first() {
        Some(refused) => Err(ImageError::Invalid {
            problem: refused.to_string(),
        }),
        None => ctx.images.compose(&image).await,
    };
    let now = ctx.clock.now();
    let mut requeue = Requeue::Never;
    match result {
        Ok(made) => {
            status.verdict = if made.known_bad.is_some() {
                "KnownBad"
            } else {
                "Good"
            }
            .to_string();
            status.verdict_reason = made.known_bad.clone().unwrap_or_default();
            status.reference = made.reference;
            status.commit = made.commit;
            status.inputs_digest = made.inputs_digest;
            status.versions = made.versions;
            status.packages = made.packages;
            status.size_bytes = made.size_bytes;
            status.observed_generation = generation;
            set(
                &mut status.conditions,
                condition(types::COMPOSED, true, reasons::AS_EXPECTED, "", now),
            );
        }
        Err(error) => {
            let reason = match error {
                ImageError::Invalid { .. } => reasons::INVALID,
                ImageError::Failed { .. } | ImageError::Retention { .. } => {
                    requeue = Requeue::After(RETRY);
                    reasons::COMPOSE_FAILED
                }
            };
            set(
                &mut status.conditions,
                condition(types::COMPOSED, false, reason, error.to_string(), now),
            );
        }
    }
    write::status(&images, &image, image.status.as_ref(), &status).await?;
    Ok(requeue)
}
