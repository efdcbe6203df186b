//! What a pod's claims say about nodes, resolved from claims and volumes.

use mainstay_control::{Cache, CancellationToken, ObjectKey, Scope};
use mainstay_placement::Shape;
use mainstay_placement::volume::VolumeRules;
use mainstay_semantics::node_affinity::NodeSelector;
use serde::Deserialize;

mainstay_control::projection! {
    /// What placement reads of a PersistentVolumeClaim.
    pub struct Claim = "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" namespaced {
        /// The spec.
        pub spec: ClaimSpec,
        /// The status.
        pub status: ClaimStatus,
    }
}

mainstay_control::projection! {
    /// What placement reads of a PersistentVolume.
    pub struct Volume = "" "v1" "PersistentVolume" "persistentvolumes" cluster {
        /// The spec.
        pub spec: VolumeSpec,
    }
}

mainstay_control::projection! {
    /// What placement reads of a StorageClass.
    pub struct StorageClass = "storage.k8s.io" "v1" "StorageClass" "storageclasses" cluster {
        /// When claims are bound.
        pub volume_binding_mode: String,
    }
}

/// A claim's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// The bound volume.
    pub volume_name: String,
    /// The class.
    pub storage_class_name: String,
}

/// A claim's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    /// Pending, Bound or Lost.
    pub phase: String,
}

/// A volume's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// Where it can be used.
    pub node_affinity: Option<VolumeAffinity>,
}

/// A volume's node affinity.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeAffinity {
    /// Nodes that reach it.
    pub required: Option<NodeSelector>,
}

/// What choosing a node for a claim must do first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound {
    /// The claim.
    pub claim: String,
}

/// Knowledge about volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    claims: Cache<Claim>,
    volumes: Cache<Volume>,
    classes: Cache<StorageClass>,
}

impl Volumes {
    /// Starts the caches.
    pub fn start(client: &kube::Client, stop: &CancellationToken) -> Self {
        Volumes {
            claims: Cache::start(client, Scope::default(), stop.clone()),
            volumes: Cache::start(client, Scope::default(), stop.clone()),
            classes: Cache::start(client, Scope::default(), stop.clone()),
        }
    }

    /// Calls `wake` when a claim changes.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.claims.listen(move |_| wake());
    }

    /// Waits for the first lists.
    pub async fn ready(&self) {
        self.claims.ready().await;
        self.volumes.ready().await;
        self.classes.ready().await;
    }

    /// Resolves a pod's claims: its rules for nodes, and claims that get bound once a node is chosen.
    pub fn resolve(&self, shape: &Shape) -> (VolumeRules, Vec<Unbound>) {
        let (mut rules, mut unbound) = (VolumeRules::default(), Vec::new());
        for name in &shape.claims {
            let claim = self.claims.get(&ObjectKey::namespaced(&shape.namespace, name));
            match claim {
                Some(claim) if !claim.spec.volume_name.is_empty() && claim.status.phase != "Lost" => {
                    rules.bound.extend(self.reach(&claim.spec.volume_name));
                }
                Some(claim) if self.waits_for_consumer(&claim) => {
                    unbound.push(Unbound { claim: name.clone() });
                }
                _ => rules.blocked = true,
            }
        }
        (rules, unbound)
    }

    fn reach(&self, volume: &str) -> Option<NodeSelector> {
        let volume = self.volumes.get(&ObjectKey::cluster(volume))?;
        volume.spec.node_affinity.as_ref()?.required.clone()
    }

    fn waits_for_consumer(&self, claim: &Claim) -> bool {
        let class = self
            .classes
            .get(&ObjectKey::cluster(&claim.spec.storage_class_name));
        class.is_some_and(|class| class.volume_binding_mode == "WaitForFirstConsumer")
    }
}
