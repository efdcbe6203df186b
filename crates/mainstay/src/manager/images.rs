//! Composes operating system images for the fleet, with this binary as their agent.

use std::path::PathBuf;

use async_trait::async_trait;
use mainstay_api::OSImage;
use mainstay_base::error::chain;
use mainstay_fleet::{ComposedImage, ImageBuilder, ImageError};
use mainstay_os::snapshot::Policy;
use mainstay_os::{Agent, Store, Treefile};

use crate::commands::version;

/// Composes in one store.
pub struct Images {
    /// Repository, cache and deployments.
    pub store: Store,
    /// The binary that becomes the image's agent.
    pub binary: PathBuf,
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
}
