//! Composes operating system images for the fleet, with this binary as their agent, and removes old ones.

use std::path::PathBuf;

use async_trait::async_trait;
use mainstay_api::OSImage;
use mainstay_base::error::chain;
use mainstay_fleet::{ComposedImage, ImageBuilder, ImageError, Keep};
use mainstay_os::snapshot::Policy;
use mainstay_os::{Agent, Spare, Store, Treefile};
use mainstay_provider::local::LocalProvider;

use crate::commands::version;

/// Deployed trees kept besides those in use: the newest, which the next machine will most likely ask for.
const SPARE_DEPLOYMENTS: usize = 1;
/// Base layers kept: the present one and the one before, so that going back installs nothing again.
const BASES: usize = 2;

/// Composes in one store.
pub struct Images {
    /// Repository, cache and deployments.
    pub store: Store,
    /// The binary that becomes the image's agent.
    pub binary: PathBuf,
    /// Tells which trees this computer's machines have mounted.
    pub provider: LocalProvider,
}

impl Images {
    fn treefile(&self, image: &OSImage) -> Result<Treefile, ImageError> {
        let invalid = |problem: String| ImageError::Invalid { problem };
        let text = match (&image.spec.treefile.inline, &image.spec.treefile.path) {
            (Some(tree), _) => serde_json::to_string(tree).map_err(|error| invalid(error.to_string()))?,
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| invalid(format!("spec.treefile.path: {path}: {error}")))?,
            (None, None) => mainstay_os::NODE_TREEFILE.to_string(),
        };
        let mut treefile =
            Treefile::parse(&text).map_err(|error| invalid(format!("spec.treefile: {}", chain(&error))))?;
        treefile.sysctls.extend(image.spec.sysctls.clone());
        Ok(treefile)
    }
}

#[async_trait]
impl ImageBuilder for Images {
    async fn compose(&self, image: &OSImage) -> Result<ComposedImage, ImageError> {
        let treefile = self.treefile(image)?;
        let agent = Agent {
            binary: self.binary.clone(),
            version: version::TEXT.into(),
            services: mainstay_os::node_services(),
        };
        let (store, branch) = (self.store.clone(), treefile.branch.clone());
        let work = tokio::task::spawn_blocking(move || store.compose(&treefile, Policy::Pinned, &agent));
        let failed = |problem: String| ImageError::Failed { problem };
        let composed = work
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(chain(&error)))?;
        let facts = &composed.facts;
        let versions = [
            ("containerd", &facts.containerd),
            ("runc", &facts.runc),
            ("cni", &facts.cni),
            ("kernel", &facts.kernel),
        ];
        let versions = versions
            .into_iter()
            .filter_map(|(name, version)| Some((name.to_string(), version.clone()?)));
        Ok(ComposedImage {
            reference: branch,
            commit: composed.commit,
            inputs_digest: facts.inputs_digest.clone(),
            versions: versions.collect(),
            packages: composed.packages as u32,
            size_bytes: 0,
            known_bad: None,
        })
    }

    async fn retain(&self, keep: &Keep) -> Result<(), ImageError> {
        let failed = |problem: String| ImageError::Retention { problem };
        let mut in_use = keep.commits.clone();
        let mounted = self.provider.commits_in_use().await;
        in_use.extend(mounted.map_err(|error| failed(chain(&error)))?);
        let spare = Spare {
            deployments: SPARE_DEPLOYMENTS,
            commits: keep.spare_commits,
            bases: BASES,
        };
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.retain(&in_use, spare))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(chain(&error)))?;
        for commit in removed {
            tracing::info!(commit, "old image removed");
        }
        Ok(())
    }
}
