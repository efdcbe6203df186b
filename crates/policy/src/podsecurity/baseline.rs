//! The checks of level baseline.

use serde_json::Value;

use super::pod::{Pod, containers, items, name, plural, quoted, text};
use super::{Check, Level, Verdict};

const fn check(id: &'static str, since: u32, run: fn(&Pod<'_>) -> Verdict) -> Check {
    Check {
        id,
        level: Level::Baseline,
        since,
        implies: "",
        run,
    }
}

/// In the order in which refusals list them.
pub(super) const CHECKS: &[Check] = &[
    check("appArmorProfile", 0, app_armor),
    check("capabilities_baseline", 0, capabilities),
    check("hostNamespaces", 0, host_namespaces),
    check("hostPathVolumes", 0, host_path),
    check("hostPorts", 0, host_ports),
    check("hostProbesAndHostLifecycle", 34, host_probes),
    check("privileged", 0, privileged),
    check("procMount", 0, proc_mount),
    check("procMount", 35, proc_mount_unless_user_namespace),
    check("seLinuxOptions", 0, selinux_first),
    check("seLinuxOptions", 31, selinux),
    check("seccompProfile_baseline", 0, seccomp_annotations),
    check("seccompProfile_baseline", 19, seccomp_fields),
    check("sysctls", 0, |pod| sysctls(pod, 0)),
    check("sysctls", 27, |pod| sysctls(pod, 27)),
    check("sysctls", 29, |pod| sysctls(pod, 29)),
    check("sysctls", 32, |pod| sysctls(pod, 32)),
    check("windowsHostProcess", 0, windows_host_process),
];

fn verdict(bad: bool, reason: &str, detail: impl FnOnce() -> String) -> Verdict {
    bad.then(|| (reason.to_string(), detail()))
}

fn privileged(pod: &Pod<'_>) -> Verdict {
    let bad = pod.names(|c| c["securityContext"]["privileged"] == true);
    verdict(!bad.is_empty(), "privileged", || {
        format!(
            "{} must not set securityContext.privileged=true",
            containers(&bad)
        )
    })
}

fn host_namespaces(pod: &Pod<'_>) -> Verdict {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    verdict(!set.is_empty(), "host namespaces", || set.join(", "))
}

fn host_path(pod: &Pod<'_>) -> Verdict {
    let volumes = items(&pod.spec["volumes"]).filter(|v| !v["hostPath"].is_null());
    let bad: Vec<&str> = volumes.map(name).collect();
    verdict(!bad.is_empty(), "hostPath volumes", || {
        format!(
            "{} {}",
            plural(bad.len(), "volume", "volumes"),
            quoted(bad.iter().copied())
        )
    })
}

fn host_ports(pod: &Pod<'_>) -> Verdict {
    let used = |c: &Value| -> Vec<u64> {
        items(&c["ports"])
            .filter_map(|p| p["hostPort"].as_u64())
            .filter(|port| *port != 0)
            .collect()
    };
    let bad = pod.names(|c| !used(c).is_empty());
    let mut ports: Vec<u64> = pod.containers().flat_map(used).collect();
    ports.sort_unstable();
    ports.dedup();
    verdict(!bad.is_empty(), "hostPort", || {
        let ports: Vec<String> = ports.iter().map(u64::to_string).collect();
        let uses = plural(bad.len(), "uses", "use");
        let word = plural(ports.len(), "hostPort", "hostPorts");
        format!("{} {uses} {word} {}", containers(&bad), ports.join(", "))
    })
}

fn app_armor(pod: &Pod<'_>) -> Verdict {
    let is_bad = |context: &Value| {
        text(&context["appArmorProfile"], "type").is_some_and(|t| t != "RuntimeDefault" && t != "Localhost")
    };
    let mut bad: Vec<String> = Vec::new();
    for (owner, context) in pod.contexts().filter(|(_, context)| is_bad(context)) {
        let value = text(&context["appArmorProfile"], "type").unwrap_or_default();
        bad.push(format!(
            "{owner} must not set AppArmor profile type to \"{value}\""
        ));
    }
    for (key, value) in pod.annotations() {
        let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
            bad.push(format!("annotation {key}=\"{value}\""));
        }
    }
    let reason = plural(
        bad.len(),
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
    );
    verdict(!bad.is_empty(), reason, || bad.join(", "))
}

/// What a container may add at most: the capabilities that common runtimes give by default.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities a container adds.
pub(super) fn added(container: &Value) -> impl Iterator<Item = &str> {
    items(&container["securityContext"]["capabilities"]["add"]).filter_map(Value::as_str)
}

/// The names of added capabilities outside an allowed set, sorted, each once.
pub(super) fn forbidden_additions<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Vec<&'a str> {
    let mut found: Vec<&str> = pod
        .containers()
        .flat_map(added)
        .filter(|c| !allowed.contains(c))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn capabilities(pod: &Pod<'_>) -> Verdict {
    let bad = pod.names(|c| added(c).any(|capability| !DEFAULT_CAPABILITIES.contains(&capability)));
    verdict(!bad.is_empty(), "non-default capabilities", || {
        let which = forbidden_additions(pod, DEFAULT_CAPABILITIES);
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&bad),
            quoted(which)
        )
    })
}

fn unmasked(container: &Value) -> bool {
    text(&container["securityContext"], "procMount").is_some_and(|mount| mount != "Default")
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Verdict {
    let bad = pod.names(unmasked);
    verdict(!bad.is_empty(), "procMount", || {
        let offending = pod.containers().filter(|c| unmasked(c));
        let values = offending.filter_map(|c| text(&c["securityContext"], "procMount"));
        format!(
            "{} must not set securityContext.procMount to {}",
            containers(&bad),
            quoted(values)
        )
    })
}

fn proc_mount_unless_user_namespace(pod: &Pod<'_>) -> Verdict {
    if pod.has_user_namespace() {
        None
    } else {
        proc_mount(pod)
    }
}

const SELINUX_FIRST: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t"];
const SELINUX: &[&str] = &[
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

fn selinux_first(pod: &Pod<'_>) -> Verdict {
    selinux_types(pod, SELINUX_FIRST)
}

fn selinux(pod: &Pod<'_>) -> Verdict {
    selinux_types(pod, SELINUX)
}

fn selinux_types(pod: &Pod<'_>, allowed: &[&str]) -> Verdict {
    let wrong = |context: &Value| -> Vec<String> {
        let options = &context["seLinuxOptions"];
        let set = |field| text(options, field).unwrap_or_default();
        let mut found = Vec::new();
        if !allowed.contains(&set("type")) {
            found.push(format!("type \"{}\"", set("type")));
        }
        for field in ["user", "role"] {
            if !set(field).is_empty() {
                found.push(format!("{field} may not be set"));
            }
        }
        found
    };
    let bad: Vec<String> = pod
        .contexts()
        .map(|(owner, context)| (owner, wrong(context)))
        .filter(|(_, wrong)| !wrong.is_empty())
        .map(|(owner, wrong)| {
            format!(
                "{owner} set forbidden securityContext.seLinuxOptions: {}",
                wrong.join("; ")
            )
        })
        .collect();
    verdict(!bad.is_empty(), "seLinuxOptions", || bad.join(", "))
}

fn seccomp_annotations(pod: &Pod<'_>) -> Verdict {
    let all: Vec<String> = pod
        .containers()
        .map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(c)))
        .chain(["seccomp.security.alpha.kubernetes.io/pod".to_string()])
        .collect();
    let allowed = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let bad: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| all.contains(key) && !allowed(value))
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    verdict(!bad.is_empty(), "seccompProfile", || {
        format!(
            "forbidden {} {}",
            plural(bad.len(), "annotation", "annotations"),
            bad.join(", ")
        )
    })
}

/// The seccomp profile type a security context sets.
pub(super) fn seccomp_type(context: &Value) -> Option<&str> {
    let profile = &context["seccompProfile"];
    (!profile.is_null()).then(|| text(profile, "type").unwrap_or_default())
}

/// Whether a seccomp profile type confines.
pub(super) fn seccomp_confines(profile: &str) -> bool {
    profile == "RuntimeDefault" || profile == "Localhost"
}

fn seccomp_fields(pod: &Pod<'_>) -> Verdict {
    let bad: Vec<String> = pod
        .contexts()
        .filter_map(|(owner, context)| Some((owner, seccomp_type(context)?)))
        .filter(|(_, profile)| !seccomp_confines(profile))
        .map(|(owner, profile)| {
            format!("{owner} must not set securityContext.seccompProfile.type to \"{profile}\"")
        })
        .collect();
    verdict(!bad.is_empty(), "seccompProfile", || bad.join(", "))
}

/// Sysctls that pods may set, with the release that first allowed each.
const SAFE_SYSCTLS: &[(u32, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: &Pod<'_>, minor: u32) -> Verdict {
    let safe = |name: &str| {
        SAFE_SYSCTLS
            .iter()
            .any(|(since, known)| *since <= minor && *known == name)
    };
    let set = items(&pod.spec["securityContext"]["sysctls"]).map(name);
    let bad: Vec<&str> = set.filter(|name| !safe(name)).collect();
    verdict(!bad.is_empty(), "forbidden sysctls", || bad.join(", "))
}

fn windows_host_process(pod: &Pod<'_>) -> Verdict {
    let bad: Vec<String> = pod
        .contexts()
        .filter(|(_, context)| context["windowsOptions"]["hostProcess"] == true)
        .map(|(owner, _)| owner)
        .collect();
    verdict(!bad.is_empty(), "hostProcess", || {
        format!(
            "{} must not set securityContext.windowsOptions.hostProcess=true",
            bad.join(" and ")
        )
    })
}

/// Handlers that can name a host: the three probes and the two hooks.
fn names_host(container: &Value) -> bool {
    let hooks = &container["lifecycle"];
    let handlers = [
        &container["livenessProbe"],
        &container["readinessProbe"],
        &container["startupProbe"],
        &hooks["postStart"],
        &hooks["preStop"],
    ];
    let set = |handler: &Value| text(handler, "host").is_some_and(|host| !host.is_empty());
    handlers
        .iter()
        .any(|handler| set(&handler["httpGet"]) || set(&handler["tcpSocket"]))
}

fn host_probes(pod: &Pod<'_>) -> Verdict {
    let bad = pod.names(names_host);
    verdict(!bad.is_empty(), "probe or lifecycle host", || {
        format!(
            "{} must not set a host in probes or lifecycle handlers",
            containers(&bad)
        )
    })
}
