//! Facts of the machine as the kernel and the system's files tell them.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use serde::Deserialize;

/// Facts that are told from outside because the kernel's answer is the host's (a machine inside a machine).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overrides {
    /// Processors.
    pub cpus: Option<i64>,
    /// Memory in bytes.
    pub memory_bytes: Option<i64>,
    /// The address to report as InternalIP.
    pub address: Option<IpAddr>,
    /// `nodeInfo.machineID`.
    #[serde(rename = "machineID")]
    pub machine_id: Option<String>,
    /// `nodeInfo.bootID`.
    #[serde(rename = "bootID")]
    pub boot_id: Option<String>,
}

/// The part of a local machine's `machine.json` that the agent uses.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MachineFile {
    sku: MachineSku,
    machine_id: String,
    boot_id: String,
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MachineSku {
    cpu_millis: i64,
    memory_bytes: i64,
}

impl Overrides {
    /// Reads the facts of a local machine (`machine.json`), whose kernel shows the host's.
    ///
    /// # Errors
    /// When the text is not in that form.
    pub fn of_local_machine(text: &str) -> Result<Self, serde_json::Error> {
        let file: MachineFile = serde_json::from_str(text)?;
        let address = file.address.split('/').next().unwrap_or("");
        Ok(Overrides {
            cpus: Some((file.sku.cpu_millis / 1000).max(1)),
            memory_bytes: Some(file.sku.memory_bytes),
            address: address.parse().ok(),
            machine_id: Some(file.machine_id),
            boot_id: Some(file.boot_id),
        })
    }
}

/// What stays the same until the next boot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Processors online.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Size of each hugepage pool: (size in bytes, pages).
    pub hugepages: Vec<(i64, i64)>,
    /// Most processes the kernel allows.
    pub pid_limit: i64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product UUID, else the machine id.
    pub system_uuid: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// PRETTY_NAME of os-release.
    pub os_image: String,
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

fn number(path: impl AsRef<Path>) -> Option<i64> {
    line(path)?.parse().ok()
}

impl Facts {
    /// Reads the facts; what cannot be read is empty or zero.
    pub fn read(overrides: &Overrides) -> Self {
        let machine_id = overrides
            .machine_id
            .clone()
            .or_else(|| line("/etc/machine-id"))
            .unwrap_or_default();
        let boot_id = overrides
            .boot_id
            .clone()
            .or_else(|| line("/proc/sys/kernel/random/boot_id"));
        let pid_max = number("/proc/sys/kernel/pid_max").unwrap_or(32768);
        let threads_max = number("/proc/sys/kernel/threads-max").unwrap_or(pid_max);
        Facts {
            cpus: overrides.cpus.unwrap_or_else(cpus_online),
            memory_bytes: overrides.memory_bytes.unwrap_or_else(memory_total),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
            pid_limit: pid_max.min(threads_max),
            system_uuid: line("/sys/class/dmi/id/product_uuid").unwrap_or_else(|| machine_id.clone()),
            machine_id,
            boot_id: boot_id.unwrap_or_default(),
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        }
    }

    /// The `nodeInfo` of a Node's status.
    pub fn node_info(&self, kubelet_version: &str, runtime: &str) -> NodeSystemInfo {
        NodeSystemInfo {
            architecture: go_arch(std::env::consts::ARCH).to_owned(),
            boot_id: self.boot_id.clone(),
            container_runtime_version: runtime.to_owned(),
            kernel_version: self.kernel.clone(),
            kube_proxy_version: kubelet_version.to_owned(),
            kubelet_version: kubelet_version.to_owned(),
            machine_id: self.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: self.os_image.clone(),
            system_uuid: self.system_uuid.clone(),
            ..Default::default()
        }
    }
}

/// Go's name of a processor architecture, which Kubernetes uses.
pub fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Counts the processors in a kernel list such as `0-3,8`.
pub fn count_cpu_list(list: &str) -> i64 {
    let ranges = list.trim().split(',').filter(|r| !r.is_empty());
    ranges
        .map(|range| match range.split_once('-') {
            Some((a, b)) => match (a.parse::<i64>(), b.parse::<i64>()) {
                (Ok(a), Ok(b)) => b - a + 1,
                _ => 0,
            },
            None => 1,
        })
        .sum()
}

fn cpus_online() -> i64 {
    let listed = line("/sys/devices/system/cpu/online").map_or(0, |l| count_cpu_list(&l));
    listed.max(1)
}

/// One field of `/proc/meminfo`-like text, in bytes.
pub fn meminfo_field(text: &str, field: &str) -> Option<i64> {
    let line = text
        .lines()
        .find(|l| l.split(':').next().map(str::trim) == Some(field))?;
    let kib: i64 = line
        .split(':')
        .nth(1)?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}

fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo_field(&text, "MemTotal").unwrap_or(0)
}

fn hugepages(dir: &Path) -> Vec<(i64, i64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<(i64, i64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: i64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            Some((kib * 1024, number(entry.path().join("nr_hugepages"))?))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

fn os_image(os_release: &str) -> String {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// The resource name of a hugepage size (`hugepages-2Mi`).
pub fn hugepage_name(bytes: i64) -> String {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let found = units.iter().find(|(size, _)| bytes % size == 0);
    match found {
        Some((size, unit)) => format!("hugepages-{}{unit}", bytes / size),
        None => format!("hugepages-{bytes}"),
    }
}

/// The address with which this machine speaks to `server` (a URL), by asking the routing table.
pub fn address_towards(server: &str) -> Option<IpAddr> {
    let uri: http::Uri = server.parse().ok()?;
    let port = uri.port_u16().unwrap_or(443);
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let target = (host.as_str(), port).to_socket_addrs().ok()?.next()?;
    let local = match target {
        std::net::SocketAddr::V4(_) => "0.0.0.0:0",
        std::net::SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_machine_tells_its_own_size() {
        let text = r#"{"sku": {"cpuMillis": 2000, "memoryBytes": 1024, "diskBytes": 1, "maxPids": 1}, "machineId": "m",
            "bootId": "b", "address": "10.1.0.2/24", "host": "default/h1"}"#;
        let facts = Overrides::of_local_machine(text).expect("valid");
        assert_eq!((facts.cpus, facts.memory_bytes), (Some(2), Some(1024)));
        assert_eq!(facts.address.map(|a| a.to_string()), Some("10.1.0.2".into()));
    }

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(count_cpu_list("0-3,8,10-11\n"), 7);
        assert_eq!(
            meminfo_field("MemTotal:  2048 kB\nMemFree: 1 kB", "MemTotal"),
            Some(2 << 20)
        );
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Mainstay OS 1\"\n"), "Mainstay OS 1");
        assert_eq!(hugepage_name(2 << 20), "hugepages-2Mi");
        assert_eq!(hugepage_name(1 << 30), "hugepages-1Gi");
    }

    #[test]
    fn the_loopback_is_reached_from_the_loopback() {
        assert_eq!(
            address_towards("https://127.0.0.1:6443").map(|ip| ip.to_string()),
            Some("127.0.0.1".into())
        );
    }
}
