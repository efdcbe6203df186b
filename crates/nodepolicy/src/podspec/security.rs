//! Security contexts of pods and containers in the form of the runtime.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use crate::cri::runtime_v1 as v1;

/// Paths that a container must not read.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that a container must not write.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn number(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The namespaces a pod's containers share.
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container as Own, Node, Pod as Shared};
    let spec = pod.spec.as_ref();
    let host = |flag: Option<bool>| flag == Some(true);
    let mode = |is_host: bool| if is_host { Node } else { Shared } as i32;
    let pid = if host(spec.and_then(|s| s.host_pid)) {
        Node
    } else if host(spec.and_then(|s| s.share_process_namespace)) {
        Shared
    } else {
        Own
    };
    v1::NamespaceOption {
        network: mode(host(spec.and_then(|s| s.host_network))),
        ipc: mode(host(spec.and_then(|s| s.host_ipc))),
        pid: pid as i32,
        ..Default::default()
    }
}

/// A seccomp profile; none given means the runtime's default or none at all, as configured.
fn seccomp(profile: Option<&SeccompProfile>, default_on: bool, profiles: &str) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let (kind, reference) = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => (RuntimeDefault, String::new()),
        Some(("Localhost", file)) => (Localhost, format!("{profiles}/{}", file.unwrap_or(""))),
        None if default_on => (RuntimeDefault, String::new()),
        _ => (Unconfined, String::new()),
    };
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: reference,
    }
}

/// Settings of the node that decide security defaults.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Whether pods without a seccomp profile get the runtime's.
    pub seccomp: bool,
    /// Folder of the node's own seccomp profiles.
    pub seccomp_profiles: String,
}

/// Supplemental groups: the pod's own and that of its volumes.
fn groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups = context
        .and_then(|c| c.supplemental_groups.clone())
        .unwrap_or_default();
    groups.extend(context.and_then(|c| c.fs_group));
    groups
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|c| c.privileged) == Some(true)
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod, defaults: &Defaults) -> v1::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let spec = pod.spec.as_ref();
    let privileged = spec.is_some_and(|s| {
        s.containers.iter().any(is_privileged) || s.init_containers.iter().flatten().any(is_privileged)
    });
    let default_seccomp = SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    };
    let chosen = context
        .and_then(|c| c.seccomp_profile.as_ref())
        .unwrap_or(&default_seccomp);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: number(context.and_then(|c| c.run_as_user)),
        run_as_group: number(
            context
                .filter(|c| c.run_as_user.is_some())
                .and_then(|c| c.run_as_group),
        ),
        supplemental_groups: groups(pod),
        privileged,
        seccomp: (!privileged).then(|| seccomp(Some(chosen), true, &defaults.seccomp_profiles)),
        ..Default::default()
    }
}

fn capabilities(context: Option<&SecurityContext>) -> Option<v1::Capability> {
    let given = context?.capabilities.as_ref()?;
    Some(v1::Capability {
        add_capabilities: given.add.clone().unwrap_or_default(),
        drop_capabilities: given.drop.clone().unwrap_or_default(),
        ..Default::default()
    })
}

/// Paths hidden and write-protected, unless the container asks for the unmasked `/proc` or is privileged.
fn protected(context: Option<&SecurityContext>) -> (Vec<String>, Vec<String>) {
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    let unmasked = context.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    if privileged || unmasked {
        return Default::default();
    }
    let owned = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect();
    (owned(MASKED), owned(READ_ONLY))
}

/// The user a container runs as: its own setting, else the pod's.
pub fn user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|c| c.run_as_user);
    own.or_else(|| pod_context(pod).and_then(|c| c.run_as_user))
}

/// Checks `runAsNonRoot` against the user that will run (`image_user`: what the image says; `None`: a name).
///
/// # Errors
/// In the kubelet's words.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &v1::Image) -> Result<(), String> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|c| c.run_as_non_root);
    let wanted = own.or_else(|| pod_context(pod).and_then(|c| c.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let at = format!("pod: {:?}, container: {}", super::name(pod), container.name);
    match user(pod, container) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy ({at})")),
        Some(_) => Ok(()),
        None => match image.uid.as_ref().map(|u| u.value) {
            Some(0) => Err(format!(
                "container has runAsNonRoot and image will run as root ({at})"
            )),
            Some(_) => Ok(()),
            None if image.username.is_empty() => Err(format!(
                "container has runAsNonRoot and image will run as root ({at})"
            )),
            None => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root ({at})",
                image.username
            )),
        },
    }
}

/// A container's security context.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &v1::Image,
    defaults: &Defaults,
) -> v1::LinuxContainerSecurityContext {
    let own = container.security_context.as_ref();
    let whole = pod_context(pod);
    let privileged = own.and_then(|c| c.privileged) == Some(true);
    let profile = own
        .and_then(|c| c.seccomp_profile.as_ref())
        .or_else(|| whole.and_then(|c| c.seccomp_profile.as_ref()));
    let (masked_paths, readonly_paths) = protected(own);
    let given_user = user(pod, container);
    let by_name = given_user.is_none() && image.uid.is_none();
    let group = own
        .and_then(|c| c.run_as_group)
        .or_else(|| whole.and_then(|c| c.run_as_group));
    let escalation = own.and_then(|c| c.allow_privilege_escalation);
    v1::LinuxContainerSecurityContext {
        capabilities: capabilities(own),
        privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: number(given_user.or_else(|| image.uid.as_ref().map(|u| u.value))),
        run_as_group: number(group),
        run_as_username: if by_name {
            image.username.clone()
        } else {
            String::new()
        },
        readonly_rootfs: own.and_then(|c| c.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(pod),
        no_new_privs: escalation == Some(false) && !privileged,
        masked_paths,
        readonly_paths,
        seccomp: (!privileged).then(|| seccomp(profile, defaults.seccomp, &defaults.seccomp_profiles)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(context: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a", "securityContext": context}], "hostPID": true}}))
        .expect("valid")
    }

    #[test]
    fn non_root_is_refused_for_root_images() {
        let pod = pod(json!({"runAsNonRoot": true}));
        let container = &pod.spec.as_ref().expect("set").containers[0];
        let error = verify_non_root(&pod, container, &v1::Image::default()).expect_err("root");
        assert_eq!(
            error,
            "container has runAsNonRoot and image will run as root (pod: \"p\", container: a)"
        );
    }

    #[test]
    fn privileged_containers_are_unmasked_and_unconfined() {
        let pod = pod(json!({"privileged": true}));
        let spec = pod.spec.as_ref().expect("set");
        let defaults = Defaults {
            seccomp: true,
            seccomp_profiles: "/p".into(),
        };
        let made = container(&pod, &spec.containers[0], &v1::Image::default(), &defaults);
        assert!(made.privileged && made.masked_paths.is_empty() && made.seccomp.is_none());
        assert_eq!(namespaces(&pod).pid, v1::NamespaceMode::Node as i32);
    }
}
