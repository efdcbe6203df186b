//! The checks that level restricted adds.

use serde_json::Value;

use super::baseline::{added, forbidden_additions, proc_mount, seccomp_confines, seccomp_type};
use super::pod::{Pod, containers, items, name, plural, quoted};
use super::{Check, Level, Verdict};

const fn check(id: &'static str, since: u32, implies: &'static str, run: fn(&Pod<'_>) -> Verdict) -> Check {
    Check {
        id,
        level: Level::Restricted,
        since,
        implies,
        run,
    }
}

/// In the order in which refusals list them.
pub(super) const CHECKS: &[Check] = &[
    check("allowPrivilegeEscalation", 8, "", privilege_escalation),
    check("allowPrivilegeEscalation", 25, "", |pod| {
        unless_windows(pod, privilege_escalation)
    }),
    check(
        "capabilities_restricted",
        22,
        "capabilities_baseline",
        capabilities,
    ),
    check("capabilities_restricted", 25, "capabilities_baseline", |pod| {
        unless_windows(pod, capabilities)
    }),
    check("procMount_restricted", 35, "procMount", proc_mount),
    check("restrictedVolumes", 0, "hostPathVolumes", volumes),
    check("runAsNonRoot", 0, "", run_as_non_root),
    check("runAsNonRoot", 35, "", |pod| {
        unless_user_namespace(pod, run_as_non_root)
    }),
    check("runAsUser", 23, "", run_as_user),
    check("runAsUser", 35, "", |pod| unless_user_namespace(pod, run_as_user)),
    check(
        "seccompProfile_restricted",
        19,
        "seccompProfile_baseline",
        seccomp,
    ),
    check(
        "seccompProfile_restricted",
        25,
        "seccompProfile_baseline",
        |pod| unless_windows(pod, seccomp),
    ),
];

fn unless_windows(pod: &Pod<'_>, check: fn(&Pod<'_>) -> Verdict) -> Verdict {
    if pod.is_windows() { None } else { check(pod) }
}

fn unless_user_namespace(pod: &Pod<'_>, check: fn(&Pod<'_>) -> Verdict) -> Verdict {
    if pod.has_user_namespace() {
        None
    } else {
        check(pod)
    }
}

fn privilege_escalation(pod: &Pod<'_>) -> Verdict {
    let bad = pod.names(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers(&bad)
        );
        ("allowPrivilegeEscalation != false".to_string(), detail)
    })
}

fn drops_all(container: &Value) -> bool {
    items(&container["securityContext"]["capabilities"]["drop"]).any(|drop| drop == "ALL")
}

fn capabilities(pod: &Pod<'_>) -> Verdict {
    const ALLOWED: &[&str] = &["NET_BIND_SERVICE"];
    let keeps = pod.names(|c| !drops_all(c));
    let adds = pod.names(|c| added(c).any(|capability| !ALLOWED.contains(&capability)));
    let mut wrong = Vec::new();
    if !keeps.is_empty() {
        wrong.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeps)
        ));
    }
    if !adds.is_empty() {
        let which = quoted(forbidden_additions(pod, ALLOWED));
        wrong.push(format!(
            "{} must not include {which} in securityContext.capabilities.add",
            containers(&adds)
        ));
    }
    (!wrong.is_empty()).then(|| ("unrestricted capabilities".to_string(), wrong.join("; ")))
}

const VOLUME_TYPES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The source a volume names, whatever its type.
fn volume_type(volume: &Value) -> &str {
    let fields = volume.as_object().into_iter().flatten();
    let source = fields
        .filter(|(field, value)| *field != "name" && !value.is_null())
        .map(|(field, _)| field);
    source.map(String::as_str).next().unwrap_or("unknown")
}

fn volumes(pod: &Pod<'_>) -> Verdict {
    let allowed = |volume: &Value| VOLUME_TYPES.iter().any(|kind| !volume[*kind].is_null());
    let bad: Vec<&Value> = items(&pod.spec["volumes"]).filter(|v| !allowed(v)).collect();
    (!bad.is_empty()).then(|| {
        let mut types: Vec<&str> = bad.iter().map(|volume| volume_type(volume)).collect();
        types.sort_unstable();
        types.dedup();
        let (noun, verb) = (
            plural(bad.len(), "volume", "volumes"),
            plural(bad.len(), "uses", "use"),
        );
        let names = quoted(bad.iter().map(|volume| name(volume)));
        let kinds = plural(types.len(), "type", "types");
        let detail = format!(
            "{noun} {names} {verb} restricted volume {kinds} {}",
            quoted(types)
        );
        ("restricted volume types".to_string(), detail)
    })
}

fn run_as_non_root(pod: &Pod<'_>) -> Verdict {
    let of_pod = &pod.spec["securityContext"]["runAsNonRoot"];
    let explicit = pod.names(|c| c["securityContext"]["runAsNonRoot"] == false);
    let mut setters: Vec<String> = Vec::new();
    if *of_pod == false {
        setters.push("pod".to_string());
    }
    if !explicit.is_empty() {
        setters.push(containers(&explicit));
    }
    let reason = "runAsNonRoot != true".to_string();
    if !setters.is_empty() {
        let detail = format!(
            "{} must not set securityContext.runAsNonRoot=false",
            setters.join(" and ")
        );
        return Some((reason, detail));
    }
    let implicit = pod.names(|c| c["securityContext"]["runAsNonRoot"].is_null());
    (*of_pod != true && !implicit.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            containers(&implicit)
        );
        (reason, detail)
    })
}

fn run_as_user(pod: &Pod<'_>) -> Verdict {
    let roots: Vec<String> = pod
        .contexts()
        .filter(|(_, context)| context["runAsUser"].as_i64() == Some(0))
        .map(|(owner, _)| owner)
        .collect();
    (!roots.is_empty()).then(|| {
        let detail = format!("{} must not set runAsUser=0", roots.join(" and "));
        ("runAsUser=0".to_string(), detail)
    })
}

fn seccomp(pod: &Pod<'_>) -> Verdict {
    let of_pod = seccomp_type(&pod.spec["securityContext"]);
    let explicit: Vec<String> = pod
        .contexts()
        .filter(|(_, context)| seccomp_type(context).is_some_and(|profile| !seccomp_confines(profile)))
        .map(|(owner, _)| owner)
        .collect();
    if !explicit.is_empty() {
        let who = explicit.join(" and ");
        let detail = format!(
            "{who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        );
        return Some(("seccompProfile".to_string(), detail));
    }
    let implicit = pod.names(|c| seccomp_type(&c["securityContext"]).is_none());
    (of_pod.is_none() && !implicit.is_empty()).then(|| {
        let who = containers(&implicit);
        let detail = format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        );
        ("seccompProfile".to_string(), detail)
    })
}
