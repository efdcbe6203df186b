//! Pods that keep more on disk than they said they would: the message of their eviction. Pure.

use mainstay_semantics::quantity::{Format, Quantity};

use super::rank::PodUse;
use super::thresholds::Layout;

const DISK: &str = "ephemeral-storage";

fn bytes(amount: i64) -> Quantity {
    Quantity::new(amount, Format::BinarySI)
}

fn volume_limits(pod: &PodUse) -> impl Iterator<Item = (&str, Quantity)> {
    let spec = pod.pod.spec.as_ref();
    let volumes = spec.into_iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let limit = Quantity::parse(&limit.0).ok().filter(|l| l.sign() > 0)?;
        Some((volume.name.as_str(), limit))
    })
}

/// Whether the pod has limits for its use of disks.
pub fn has_any(pod: &PodUse) -> bool {
    volume_limits(pod).next().is_some() || pod.resources.limits().contains_key(DISK)
}

fn of_volumes(pod: &PodUse) -> Option<String> {
    volume_limits(pod).find_map(|(name, limit)| {
        let used = pod.volumes.iter().find(|v| v.name == name)?.used.bytes;
        (bytes(used) > limit).then(|| {
            let limit = limit.canonical();
            format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ")
        })
    })
}

fn of_pod(pod: &PodUse) -> Option<String> {
    let limits = pod.resources.limits();
    let limit = limits.get(DISK)?;
    (bytes(pod.ephemeral_bytes()) > *limit).then(|| {
        let limit = limit.canonical();
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn of_containers(pod: &PodUse, layout: Layout) -> Option<String> {
    pod.containers.iter().find_map(|used| {
        let own = pod.resources.containers.iter().find(|c| c.name == used.name)?;
        let limit = own.resources.limits.get(DISK).filter(|l| !l.is_zero())?;
        let rootfs = if layout.dedicated_imagefs {
            0
        } else {
            used.rootfs.bytes
        };
        (bytes(used.logs.bytes + rootfs) > *limit).then(|| {
            let (name, limit) = (&used.name, limit.canonical());
            format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
        })
    })
}

/// Which limit of its own a pod exceeds, in the word of the kubelet's metrics, and the message.
pub fn exceeded(pod: &PodUse, layout: Layout) -> Option<(&'static str, String)> {
    if !pod.known {
        return None;
    }
    let named = |name: &'static str, message: Option<String>| message.map(|message| (name, message));
    named("emptydirfs.limit", of_volumes(pod))
        .or_else(|| named("ephemeralpodfs.limit", of_pod(pod)))
        .or_else(|| named("ephemeralcontainerfs.limit", of_containers(pod, layout)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::rank::{ContainerUse, FsUse, VolumeUse};
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value, logs: i64, scratch: i64) -> Option<String> {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("valid");
        let used = |bytes| FsUse { bytes, inodes: 1 };
        let pod = PodUse {
            known: true,
            containers: vec![ContainerUse {
                name: "c".into(),
                logs: used(logs),
                ..Default::default()
            }],
            volumes: vec![VolumeUse {
                name: "scratch".into(),
                used: used(scratch),
                on_disk: true,
            }],
            ..PodUse::unmeasured(Arc::new(pod))
        };
        exceeded(&pod, Layout::default()).map(|(limit, message)| format!("{limit}: {message}"))
    }

    #[test]
    fn each_limit_has_its_message() {
        let container =
            |limit: &str| json!({"name": "c", "resources": {"limits": {"ephemeral-storage": limit}}});
        let volume = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1024Ki"}}]);
        let rows = [
            check(
                json!({"containers": [{"name": "c"}], "volumes": volume}),
                0,
                2 << 20,
            ),
            check(json!({"containers": [container("2Mi")]}), 1 << 20, 2 << 20),
            check(
                json!({"containers": [container("2Mi"), {"name": "d", "resources": {"limits": {"ephemeral-storage": "9Mi"}}}]}),
                3 << 20,
                0,
            ),
            check(json!({"containers": [container("4Mi")]}), 1 << 20, 2 << 20),
        ];
        let texts: Vec<&str> = rows.iter().map(|r| r.as_deref().unwrap_or("-")).collect();
        assert_eq!(
            texts,
            [
                "emptydirfs.limit: Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ",
                "ephemeralpodfs.limit: Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
                "ephemeralcontainerfs.limit: Container c exceeded its local ephemeral storage limit \"2Mi\". ",
                "-"
            ]
        );
    }
}
