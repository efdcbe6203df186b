//! The decision about one claim: which volume it gets, or why it waits. Rules:
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>.

use std::sync::Arc;

use mainstay_semantics::quantity::Quantity;

use crate::kinds::{Node, PersistentVolume, PersistentVolumeClaim, StorageClass};

/// On claims and volumes: we chose the other side, not the user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On claims: bound once and for all.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims: the node that the scheduler chose for their first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What there is besides the claim.
pub(super) struct World<'a> {
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The claim's class.
    pub class: Option<&'a StorageClass>,
    /// The node of the claim's first pod.
    pub node: Option<&'a Node>,
}

#[derive(Debug)]
pub(super) enum Step {
    Nothing,
    Bind(Arc<PersistentVolume>),
    Wait { reason: &'static str, message: String },
    Lost(String),
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, name: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub(super) fn is_annotated(claim: &PersistentVolumeClaim, name: &str) -> bool {
    annotation(claim, name).is_some()
}

pub(super) fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, SELECTED_NODE)
}

/// Whether a volume names this very claim.
pub(super) fn refers(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume
        .spec
        .claim_ref
        .as_ref()
        .is_some_and(|reference| names(volume, claim) && Some(&reference.uid) == claim.metadata.uid.as_ref())
}

/// Whether a volume is kept for a claim of this name: for this very one, or for whichever comes.
fn names(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|reference| {
        let same = Some(&reference.name) == claim.metadata.name.as_ref()
            && Some(&reference.namespace) == claim.metadata.namespace.as_ref();
        same && (reference.uid.is_empty() || Some(&reference.uid) == claim.metadata.uid.as_ref())
    })
}

fn wait(reason: &'static str, message: impl Into<String>) -> Step {
    Step::Wait {
        reason,
        message: message.into(),
    }
}

pub(super) fn plan(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    if claim.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    match claim.spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => named(claim, world, name),
        None => unnamed(claim, world),
    }
}

fn named(claim: &PersistentVolumeClaim, world: &World<'_>, name: &str) -> Step {
    let bound = is_annotated(claim, BIND_COMPLETED);
    let volume = world
        .volumes
        .iter()
        .find(|volume| volume.metadata.name.as_deref() == Some(name));
    match volume {
        Some(volume) if refers(volume, claim) && bound && claim.status.phase == "Bound" => Step::Nothing,
        Some(volume) if names(volume, claim) => Step::Bind(volume.clone()),
        Some(volume) if volume.spec.claim_ref.is_none() && !bound => Step::Bind(volume.clone()),
        Some(_) if bound => Step::Lost("Bound claim has lost reference to PersistentVolume".into()),
        None if bound => {
            Step::Lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!".into())
        }
        Some(_) => wait(
            "FailedBinding",
            format!("volume {name:?} already bound to a different claim."),
        ),
        None => wait("FailedBinding", format!("volume {name:?} does not exist")),
    }
}

fn unnamed(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    if let Some(kept) = world.volumes.iter().find(|volume| names(volume, claim)) {
        return Step::Bind(kept.clone());
    }
    let delayed = world
        .class
        .is_some_and(|class| class.volume_binding_mode == "WaitForFirstConsumer");
    if delayed && world.node.is_none() {
        return wait(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        );
    }
    let mut fitting: Vec<(Quantity, &Arc<PersistentVolume>)> = world
        .volumes
        .iter()
        .filter(|volume| fits(claim, volume, world.node))
        .filter_map(|volume| Some((room(claim, volume)?, volume)))
        .collect();
    fitting
        .sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    if let Some((_, smallest)) = fitting.first() {
        return Step::Bind((*smallest).clone());
    }
    match world.class {
        Some(class) if class.provisioner != NO_PROVISIONER => wait(
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator.",
                class.provisioner
            ),
        ),
        _ => wait(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
    }
}

/// Whether a free volume is of the kind that the claim asks for, and reachable from its node.
fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume, node: Option<&Node>) -> bool {
    let spec = &volume.spec;
    let filesystem = "Filesystem".to_owned();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or(filesystem.clone());
    let class = claim.spec.storage_class_name.as_deref().unwrap_or_default();
    let empty = Default::default();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = claim
        .spec
        .selector
        .as_ref()
        .is_none_or(|selector| selector.selector().is_ok_and(|selector| selector.matches(labels)));
    let reachable = node.is_none_or(|node| {
        let required = spec.node_affinity.required.as_ref();
        let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
        let name = node.metadata.name.as_deref().unwrap_or_default();
        required.is_none_or(|required| required.matches(name, labels))
    });
    spec.claim_ref.is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && spec.storage_class_name.as_deref().unwrap_or_default() == class
        && mode(&spec.volume_mode) == mode(&claim.spec.volume_mode)
        && claim
            .spec
            .access_modes
            .iter()
            .all(|mode| spec.access_modes.contains(mode))
        && selected
        && reachable
}

/// The volume's size, if it is enough.
fn room(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Quantity> {
    let size: Quantity = volume.spec.capacity.get("storage")?.parse().ok()?;
    let wanted = claim.spec.resources.requests.get("storage");
    let wanted: Option<Quantity> = wanted.and_then(|text| text.parse().ok());
    wanted
        .is_none_or(|wanted| size.cmp(&wanted).is_ge())
        .then_some(size)
}

/// What a volume's status shall say.
pub(super) fn phase(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> &'static str {
    match (&volume.spec.claim_ref, claim) {
        (None, _) => "Available",
        (Some(_), Some(claim)) if refers(volume, claim) => "Bound",
        // Kept for a claim that has not come yet.
        (Some(reference), _) if reference.uid.is_empty() => "Available",
        _ => "Released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::decoded;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disk"});
        for (field, value) in extra.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        Arc::new(decoded(json!({"metadata": {"name": name}, "spec": spec})))
    }

    fn claim(extra: Value, annotations: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
            "resources": {"requests": {"storage": "5Gi"}}});
        for (field, value) in extra.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        decoded(
            json!({"metadata": {"name": "data", "namespace": "default", "uid": "u1", "annotations": annotations}, "spec": spec}),
        )
    }

    fn reference(uid: &str) -> Value {
        json!({"claimRef": {"namespace": "default", "name": "data", "uid": uid}})
    }

    fn check(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        class: Option<Value>,
        node: Option<&str>,
        expected: Expect,
    ) {
        let class: Option<StorageClass> = class.map(decoded);
        let node: Option<Node> = node.map(|name| {
            decoded(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
        });
        let step = plan(
            claim,
            &World {
                volumes,
                class: class.as_ref(),
                node: node.as_ref(),
            },
        );
        let text = match step {
            Step::Nothing => "nothing".to_owned(),
            Step::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap_or_default()),
            Step::Wait { reason, message } => format!("wait: {reason}: {message}"),
            Step::Lost(message) => format!("lost: {message}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_is_enough() {
        let volumes = [
            volume("large", "100Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("fit", "10Gi", json!({})),
            volume("other", "6Gi", json!({"storageClassName": "tape"})),
            volume("block", "6Gi", json!({"volumeMode": "Block"})),
        ];
        check(
            &claim(json!({}), json!({})),
            &volumes,
            None,
            None,
            expect!["bind fit"],
        );
        check(
            &claim(json!({"accessModes": ["ReadWriteMany"]}), json!({})),
            &volumes,
            None,
            None,
            expect![
                "wait: FailedBinding: no persistent volumes available for this claim and no storage class is set"
            ],
        );
    }

    #[test]
    fn a_volume_that_is_kept_for_the_claim_comes_first() {
        let volumes = [
            volume("fit", "5Gi", json!({})),
            volume("kept", "50Gi", reference("")),
        ];
        check(
            &claim(json!({}), json!({})),
            &volumes,
            None,
            None,
            expect!["bind kept"],
        );
    }

    #[test]
    fn a_class_that_waits_for_a_pod_binds_where_the_pod_goes() {
        let local = |name: &str, node: &str| {
            volume(
                name,
                "5Gi",
                json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}),
            )
        };
        let class = json!({"metadata": {"name": "disk"}, "volumeBindingMode": "WaitForFirstConsumer", "provisioner": NO_PROVISIONER});
        let volumes = [local("a", "n1"), local("b", "n2")];
        check(
            &claim(json!({}), json!({})),
            &volumes,
            Some(class.clone()),
            None,
            expect!["wait: WaitForFirstConsumer: waiting for first consumer to be created before binding"],
        );
        check(
            &claim(json!({}), json!({SELECTED_NODE: "n2"})),
            &volumes,
            Some(class),
            Some("n2"),
            expect!["bind b"],
        );
    }

    #[test]
    fn a_bound_claim_whose_volume_went_is_lost() {
        let bound = claim(json!({"volumeName": "gone"}), json!({BIND_COMPLETED: "yes"}));
        check(
            &bound,
            &[],
            None,
            None,
            expect!["lost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"],
        );
        let named = claim(json!({"volumeName": "v"}), json!({}));
        check(
            &named,
            &[volume("v", "5Gi", reference("u9"))],
            None,
            None,
            expect![[r#"wait: FailedBinding: volume "v" already bound to a different claim."#]],
        );
    }

    #[test]
    fn a_volume_is_released_when_its_claim_is_gone() {
        let phase_of =
            |extra: Value, claim: Option<&PersistentVolumeClaim>| phase(&volume("v", "1Gi", extra), claim);
        let own = claim(json!({}), json!({}));
        assert_eq!(phase_of(json!({}), None), "Available");
        assert_eq!(phase_of(reference(""), None), "Available");
        assert_eq!(phase_of(reference("u1"), Some(&own)), "Bound");
        assert_eq!(phase_of(reference("u2"), Some(&own)), "Released");
        assert_eq!(phase_of(reference("u1"), None), "Released");
    }
}
