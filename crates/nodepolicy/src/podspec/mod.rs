//! What a pod's spec says, in the forms that the runtime and the kernel want. Pure.

pub mod backoff;
pub mod env;
pub mod runtime_config;
pub mod security;

use k8s_openapi::api::core::v1::Pod;

/// Labels with which the runtime's objects name their pod.
pub mod labels {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of the container's spec.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: number of restarts.
    pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
    /// Annotation: the pod's grace period.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Annotation: path of the termination message inside.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: whether the log's end may be the message.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
}

/// Annotation: `file` for static pods, `api` for others.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation: identity of a static pod's manifest.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation: marks the API server's copy of a static pod.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// The pod's UID; static pods get theirs when read.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// One annotation of the pod.
pub fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod comes from a file of this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// Whether the pod is the API server's copy of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// From this priority on a pod is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Whether the node may not run without the pod: static, the copy of a static one, or of critical priority.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority);
    is_static(pod) || is_mirror(pod) || priority.is_some_and(|p| p >= CRITICAL_PRIORITY)
}

/// Whether the pod has ended for good.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the pod runs in the host's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// The folder of a pod's logs: `<root>/<namespace>_<name>_<uid>`.
pub fn log_dir(root: &str, pod: &Pod) -> std::path::PathBuf {
    std::path::Path::new(root).join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
}
