//! Which sysctls a pod may set on this node: the safe ones that the kernel has, and those that the configuration adds.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use super::Refusal;

/// Longest name of a sysctl.
const MAX_LENGTH: usize = 253;
/// What patterns look like, for messages.
const PATTERN: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]";

/// Sysctls that touch their own pod alone, and the kernel version from which they do.
const SAFE: &[(&str, (u32, u32))] = &[
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// Kernel namespaces that sysctls belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Namespace::Ipc => "IPC",
            Namespace::Net => "Net",
        })
    }
}

const IPC_NAMES: &[&str] = &[
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

fn namespace(name: &str) -> Option<Namespace> {
    if IPC_NAMES.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some(Namespace::Ipc);
    }
    name.starts_with("net.").then_some(Namespace::Net)
}

/// The name with dots between its parts; `net/ipv4/conf/eth0.1/rp_filter` and `net.ipv4.conf.eth0/1.rp_filter` are one.
fn normalized(name: &str) -> String {
    let slashes_separate = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'/');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match slashes_separate {
        true => name.chars().map(swap).collect(),
        false => name.to_owned(),
    }
}

fn is_pattern(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = |c: char| word(c) || matches!(c, '-' | '_');
    let part = |p: &str| p.starts_with(word) && p.ends_with(word) && p.chars().all(inside);
    let last_part = |p: &str| {
        let mut letters = p.chars();
        let last = letters.next_back();
        let rest = letters.as_str();
        last.is_some_and(|c| word(c) || c == '*')
            && (rest.is_empty() || rest.starts_with(word) && rest.chars().all(inside))
    };
    let mut parts: Vec<&str> = text.split(['.', '/']).collect();
    let last = parts.pop().unwrap_or_default();
    text.len() <= MAX_LENGTH && parts.into_iter().all(part) && last_part(last)
}

/// The sysctls that pods may set.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    names: BTreeMap<String, Namespace>,
    prefixes: BTreeMap<String, Namespace>,
}

impl AllowList {
    /// Reads patterns: names, or prefixes that end in `*`.
    ///
    /// # Errors
    /// When one is malformed or not known to have a namespace, in the kubelet's words.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, String> {
        let mut list = AllowList::default();
        for pattern in patterns {
            if !is_pattern(pattern) {
                return Err(format!(
                    "sysctl {pattern:?} must have at most {MAX_LENGTH} characters and match regex {PATTERN}"
                ));
            }
            let name = normalized(pattern);
            let (stem, is_prefix) = match name.split_once('*') {
                Some((stem, _)) => (stem, true),
                None => (name.as_str(), false),
            };
            let Some(namespace) = namespace(stem) else {
                return Err(format!("the sysctls {stem:?} are not known to be namespaced"));
            };
            let into = if is_prefix {
                &mut list.prefixes
            } else {
                &mut list.names
            };
            into.insert(stem.to_owned(), namespace);
        }
        Ok(list)
    }

    /// The safe sysctls of a kernel release such as `6.1.0-13-amd64`, and the patterns of the configuration.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn of_node(kernel: &str, more: &[String]) -> Result<Self, String> {
        let mut numbers = kernel.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let safe = SAFE
            .iter()
            .filter(|(_, since)| version >= *since)
            .map(|(name, _)| *name);
        Self::new(safe.chain(more.iter().map(String::as_str)))
    }

    fn refusal(&self, name: &str, host_network: bool, host_ipc: bool) -> Option<String> {
        let name = normalized(name);
        let prefixed = || self.prefixes.iter().find(|(p, _)| name.starts_with(p.as_str()));
        let found = self.names.get_key_value(&name).or_else(prefixed);
        let Some((_, namespace)) = found else {
            return Some(format!("{name:?} not allowlisted"));
        };
        let shared = match namespace {
            Namespace::Ipc => host_ipc,
            Namespace::Net => host_network,
        };
        shared.then(|| format!("{name:?} not allowed with host {namespace} enabled"))
    }

    /// Tells why a pod's sysctls are refused; `None` when they are not.
    pub fn refuse(&self, pod: &Pod) -> Option<Refusal> {
        let spec = pod.spec.as_ref()?;
        let (network, ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
        let sysctls = spec.security_context.as_ref()?.sysctls.iter().flatten();
        let why = sysctls
            .into_iter()
            .find_map(|s| self.refusal(&s.name, network, ipc))?;
        Some(Refusal {
            reason: "SysctlForbidden".to_owned(),
            message: format!("forbidden sysctl: {why}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_has_fewer_safe_sysctls() {
        let allowed = |kernel: &str| {
            let list = AllowList::of_node(kernel, &[]).expect("valid");
            list.refusal("net.ipv4.tcp_rmem", false, false).is_none()
        };
        assert_eq!((allowed("4.14.3"), allowed("6.1.0-13-amd64")), (false, true));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        let said = AllowList::new(["net.*.x"]).expect_err("a star in the middle");
        assert!(
            said.starts_with("sysctl \"net.*.x\" must have at most 253 characters"),
            "{said}"
        );
        let bad = ["", "a..b", "-a", "Net.a", "a*b"].map(is_pattern);
        assert_eq!(bad, [false; 5]);
    }
}
