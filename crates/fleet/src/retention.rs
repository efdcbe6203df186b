//! Image retention: composed images that nothing offers, runs or is to run are removed, but for the newest. Woken by
//! OSImages and by machines that come, change their image or go; writes no object.

use std::collections::BTreeSet;

use kube::Api;
use mainstay_api::{
    ComputeNode, ComputeNodeTemplate, OSImage,
    conditions::{find, types},
};
use mainstay_base::error::chain;
use mainstay_control::{Change, Error, ObjectKey, Requeue, write};

use crate::{Context, Keep};

/// Commits kept besides those in use when no OSImage says how many.
pub const SPARE_COMMITS: usize = 3;

/// The only key of this controller: images of all namespaces are kept in one place.
fn key() -> ObjectKey {
    ObjectKey::cluster("images")
}

/// Wakes on every change of an OSImage.
pub(crate) fn by_image(_: &Change<OSImage>) -> Vec<ObjectKey> {
    vec![key()]
}

/// Wakes when a machine goes or its image changes.
pub(crate) fn by_machine(change: &Change<ComputeNode>) -> Vec<ObjectKey> {
    let commits = |node: &ComputeNode| {
        let slots = node.status.clone().and_then(|status| status.image);
        (node.spec.image.clone(), slots)
    };
    let same = matches!((&change.old, &change.new), (Some(old), Some(new)) if commits(old) == commits(new));
    if same { Vec::new() } else { vec![key()] }
}

/// Removes what is no longer needed. A failure is logged: nothing waits for it, and the next change tries again.
pub async fn reconcile(_: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let client = || ctx.client.clone();
    let images: Vec<OSImage> = write::list(&Api::all(client()), "").await?;
    let nodes: Vec<ComputeNode> = write::list(&Api::all(client()), "").await?;
    let templates: Vec<ComputeNodeTemplate> = write::list(&Api::all(client()), "").await?;
    let Some(keep) = plan(&images, &nodes, &templates) else {
        return Ok(Requeue::Never);
    };
    if let Err(error) = ctx.images.retain(&keep).await {
        tracing::warn!(problem = chain(&error), "old images not removed");
    }
    Ok(Requeue::Never)
}

/// What must stay; `None` while an image is still to be composed, which may turn out to be one that is here.
pub fn plan(images: &[OSImage], nodes: &[ComputeNode], templates: &[ComputeNodeTemplate]) -> Option<Keep> {
    if !images.iter().all(is_settled) {
        return None;
    }
    let offered = images
        .iter()
        .filter_map(|image| Some(&image.status.as_ref()?.commit));
    let wanted = nodes
        .iter()
        .filter_map(|node| node.spec.image.as_ref())
        .chain(
            templates
                .iter()
                .filter_map(|template| template.spec.template.spec.image.as_ref()),
        )
        .map(|image| &image.commit);
    let slots = nodes
        .iter()
        .filter_map(|node| node.status.as_ref()?.image.as_ref());
    let run = slots.flat_map(|slots| [&slots.booted, &slots.staged, &slots.previous]);
    let commits: BTreeSet<String> = offered
        .chain(wanted)
        .chain(run)
        .filter(|commit| !commit.is_empty())
        .cloned()
        .collect();
    let asked = images
        .iter()
        .filter_map(|image| image.spec.retention.as_ref())
        .map(|retention| retention.commits as usize)
        .max();
    Some(Keep {
        commits,
        spare_commits: asked.unwrap_or(SPARE_COMMITS),
    })
}

/// Its present generation is composed, or cannot be.
fn is_settled(image: &OSImage) -> bool {
    let generation = image.metadata.generation.unwrap_or(0);
    image.status.as_ref().is_some_and(|status| {
        status.observed_generation == generation
            || find(&status.conditions, types::COMPOSED).is_some_and(|composed| composed.status == "False")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_api::{
        ComputeNodeSpec, ComputeNodeStatus, OSImageSpec, OSImageStatus, compute::ImageSlots,
        host::ImageCommit, image::Retention,
    };

    fn image(name: &str, commit: &str, spare: Option<u32>) -> OSImage {
        let mut image = OSImage::new(
            name,
            OSImageSpec {
                retention: spare.map(|commits| Retention { commits }),
                ..Default::default()
            },
        );
        image.status = Some(OSImageStatus {
            commit: commit.into(),
            ..Default::default()
        });
        image
    }

    fn machine(wanted: &str, booted: &str, previous: &str) -> ComputeNode {
        let spec = ComputeNodeSpec {
            image: Some(ImageCommit {
                commit: wanted.into(),
            }),
            ..Default::default()
        };
        let mut node = ComputeNode::new("m", spec);
        node.status = Some(ComputeNodeStatus {
            image: Some(ImageSlots {
                booted: booted.into(),
                previous: previous.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        node
    }

    fn check(images: &[OSImage], nodes: &[ComputeNode], want: Expect) {
        let text = match plan(images, nodes, &[]) {
            None => "wait".to_string(),
            Some(keep) => format!("keep {:?} and {} more", keep.commits, keep.spare_commits),
        };
        want.assert_eq(&text);
    }

    #[test]
    fn what_images_offer_and_machines_run_or_fall_back_to_stays() {
        check(
            &[image("a", "c3", None), image("b", "d1", Some(5))],
            &[machine("c2", "c2", "c1"), machine("c3", "", "")],
            expect![[r#"keep {"c1", "c2", "c3", "d1"} and 5 more"#]],
        );
        check(
            &[image("a", "c3", None)],
            &[],
            expect![[r#"keep {"c3"} and 3 more"#]],
        );
    }

    #[test]
    fn nothing_goes_while_an_image_is_to_be_composed() {
        let mut early = image("a", "c3", None);
        early.metadata.generation = Some(2);
        check(&[early.clone()], &[], expect!["wait"]);
        let failed = mainstay_api::conditions::condition(
            types::COMPOSED,
            false,
            "Invalid",
            "no such package",
            jiff::Timestamp::UNIX_EPOCH,
        );
        early.status.as_mut().expect("it was set").conditions.push(failed);
        check(&[early], &[], expect![[r#"keep {"c3"} and 3 more"#]]);
    }
}
