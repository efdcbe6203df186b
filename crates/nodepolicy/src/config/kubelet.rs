//! `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1): the fields this agent honours, with the kubelet's defaults.
//!
//! Field names and defaults: <https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConfigError, duration, gates, read};
use crate::admission::sysctl::AllowList;
use crate::cpus::policy::Options;
use crate::cpus::set::CpuSet;
use crate::eviction::thresholds;
use crate::numa;
use crate::shutdown::PriorityGrace;

/// Fields that the kubelet knows and that change nothing here; naming them is no mistake.
const WITHOUT_EFFECT: &[&str] = &[
    "apiVersion",
    "kind",
    "syncFrequency",
    "eventBurst",
    "eventRecordQPS",
    "volumeStatsAggPeriod",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "kubeAPIContentType",
    "contentType",
    "runtimeRequestTimeout",
    "cpuManagerReconcilePeriod",
    "logging",
    "tracing",
    "enableServer",
    "enableDebuggingHandlers",
    "enableContentionProfiling",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "registryPullQPS",
    "registryBurst",
    "maxOpenFiles",
    "hairpinMode",
    "configMapAndSecretChangeDetectionStrategy",
    "enableControllerAttachDetach",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "showHiddenMetricsForVersion",
    "flushFrequency",
    "runOnce",
    "healthzBindAddress",
    "streamingConnectionIdleTimeout",
    "localStorageCapacityIsolation",
    "kernelMemcgNotification",
    "imageServiceEndpoint",
    "volumePluginDir",
    "kubeletCgroups",
    "systemCgroups",
    "containerLogMaxWorkers",
    "tlsCipherSuites",
    "tlsMinVersion",
    "failCgroupV1",
    "readOnlyPort",
];

macro_rules! kubelet_configuration {
    ($($(#[$attr:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        /// The honoured part of a `KubeletConfiguration`.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct KubeletConfiguration {
            $($(#[$attr])* pub $name: $type,)*
            /// Everything else in the file.
            #[serde(flatten)]
            pub rest: BTreeMap<String, Value>,
        }
        impl Default for KubeletConfiguration {
            fn default() -> Self {
                KubeletConfiguration { $($name: $default,)* rest: BTreeMap::new() }
            }
        }
    };
}

kubelet_configuration! {
    /// Folder with static pod manifests; empty: none.
    static_pod_path: String = String::new();
    /// How often that folder is read.
    #[serde(with = "duration")]
    file_check_frequency: Duration = Duration::from_secs(20);
    /// Address of the serving API.
    address: String = "0.0.0.0".to_owned();
    /// Port of the serving API; 0: any free one.
    port: u16 = 10250;
    /// Port of the plain health endpoint on loopback; 0: none.
    healthz_port: u16 = 10248;
    /// Serving certificate (PEM file); empty: made by the agent.
    tls_cert_file: String = String::new();
    /// Its key (PEM file).
    tls_private_key_file: String = String::new();
    /// Whether the client certificate is renewed before it expires.
    rotate_certificates: bool = true;
    /// Whether the serving certificate is requested from the cluster.
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: bool = false;
    /// Who may speak to the serving API.
    authentication: Authentication = Authentication::default();
    /// What they may do there.
    authorization: Authorization = Authorization::default();
    /// Domain of cluster names.
    cluster_domain: String = String::new();
    /// Addresses of the cluster's DNS.
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String> = Vec::new();
    /// How often the status is looked at.
    #[serde(with = "duration")]
    node_status_update_frequency: Duration = Duration::from_secs(10);
    /// How often an unchanged status is written all the same; zero (the default here): never, the Lease suffices.
    #[serde(with = "duration")]
    node_status_report_frequency: Duration = Duration::ZERO;
    /// Most images in the status; -1: all.
    node_status_max_images: i64 = 50;
    /// Life of the node's Lease; renewed four times as often.
    node_lease_duration_seconds: i32 = 40;
    /// Unused images younger than this stay.
    #[serde(with = "duration", rename = "imageMinimumGCAge")]
    image_minimum_gc_age: Duration = Duration::from_secs(120);
    /// Images that nobody has used for longer go even when there is room; zero: never.
    #[serde(with = "duration", rename = "imageMaximumGCAge")]
    image_maximum_gc_age: Duration = Duration::ZERO;
    /// Whether images are pulled one after the other; not given: unless `maxParallelImagePulls` is more than one.
    serialize_image_pulls: Option<bool> = None;
    /// Most pulls at once; not given: no limit, if they need not be one after the other.
    max_parallel_image_pulls: Option<i64> = None;
    /// Switches of single features, by name.
    feature_gates: BTreeMap<String, bool> = BTreeMap::new();
    /// Disk usage (percent) that starts image garbage collection.
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: u64 = 85;
    /// Disk usage (percent) at which it stops.
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: u64 = 80;
    /// Parent of `kubepods`.
    cgroup_root: String = String::new();
    /// Whether the QoS cgroup tree is kept.
    #[serde(rename = "cgroupsPerQOS")]
    cgroups_per_qos: bool = true;
    /// `cgroupfs` or `systemd`: must equal the runtime's.
    cgroup_driver: String = "cgroupfs".to_owned();
    /// `none` or `static`.
    cpu_manager_policy: String = "none".to_owned();
    /// Options of the static policy, each `true` or `false`.
    cpu_manager_policy_options: BTreeMap<String, String> = BTreeMap::new();
    /// `none`, `best-effort`, `restricted` or `single-numa-node`.
    topology_manager_policy: String = "none".to_owned();
    /// `container` or `pod`.
    topology_manager_scope: String = "container".to_owned();
    /// Options of the topology manager.
    topology_manager_policy_options: BTreeMap<String, String> = BTreeMap::new();
    /// Only `None` is possible.
    memory_manager_policy: String = "None".to_owned();
    /// Cores withheld from pods under the static policy.
    #[serde(rename = "reservedSystemCPUs")]
    reserved_system_cpus: String = String::new();
    /// Most pods of the node.
    max_pods: i64 = 110;
    /// Most pods per core; 0: no such limit.
    pods_per_core: i64 = 0;
    /// Most processes of a pod; -1: no limit.
    pod_pids_limit: i64 = -1;
    /// Pod network used where no Node.spec.podCIDR is given.
    #[serde(rename = "podCIDR")]
    pod_cidr: String = String::new();
    /// The node's resolver configuration.
    resolv_conf: String = "/etc/resolv.conf".to_owned();
    /// Whether CPU limits are enforced by quota.
    #[serde(rename = "cpuCFSQuota")]
    cpu_cfs_quota: bool = true;
    /// Period of that quota.
    #[serde(with = "duration", rename = "cpuCFSQuotaPeriod")]
    cpu_cfs_quota_period: Duration = Duration::from_millis(100);
    /// Hard eviction thresholds, signal to quantity or percentage.
    eviction_hard: Option<BTreeMap<String, String>> = None;
    /// Soft eviction thresholds.
    eviction_soft: BTreeMap<String, String> = BTreeMap::new();
    /// How long each soft threshold must have been crossed.
    eviction_soft_grace_period: BTreeMap<String, String> = BTreeMap::new();
    /// How much to win back once evicting.
    eviction_minimum_reclaim: BTreeMap<String, String> = BTreeMap::new();
    /// How long a pressure condition stays after the pressure.
    #[serde(with = "duration")]
    eviction_pressure_transition_period: Duration = Duration::from_secs(300);
    /// Longest grace (seconds) of a soft eviction.
    eviction_max_pod_grace_period: i64 = 0;
    /// Whether default thresholds fill up `evictionHard`.
    merge_default_eviction_settings: bool = false;
    /// Whether foreign kernel settings are an error.
    protect_kernel_defaults: bool = false;
    /// Whether swap on the node is an error.
    fail_swap_on: bool = true;
    /// Which memory the kernel leaves to pods (gate `MemoryQoS`): `None` or `TieredReservation`.
    memory_reservation_policy: String = "None".to_owned();
    /// Where between request and limit a container's memory is throttled (gate `MemoryQoS`).
    memory_throttling_factor: f64 = 0.9;
    /// Swap configuration: only the default is possible.
    memory_swap: Value = Value::Null;
    /// Size at which a container's log is rotated.
    container_log_max_size: String = "10Mi".to_owned();
    /// Files kept per container.
    container_log_max_files: usize = 5;
    /// How often logs are looked at.
    #[serde(with = "duration")]
    container_log_monitor_interval: Duration = Duration::from_secs(10);
    /// Withheld from pods for the system.
    system_reserved: BTreeMap<String, String> = BTreeMap::new();
    /// Withheld from pods for the node's own daemons.
    kube_reserved: BTreeMap<String, String> = BTreeMap::new();
    /// Cgroup in which `systemReserved` is enforced.
    system_reserved_cgroup: String = String::new();
    /// Cgroup in which `kubeReserved` is enforced.
    kube_reserved_cgroup: String = String::new();
    /// How gladly the kernel ends the agent itself when memory runs out.
    oom_score_adj: i64 = -999;
    /// Which of the reservations are enforced.
    enforce_node_allocatable: Vec<String> = vec!["pods".to_owned()];
    /// Sysctls beyond the safe ones that pods may set; `prefix.*` allowed.
    allowed_unsafe_sysctls: Vec<String> = Vec::new();
    /// Time from a shutdown signal to the end of pods; zero: no graceful shutdown.
    #[serde(with = "duration")]
    shutdown_grace_period: Duration = Duration::ZERO;
    /// The part of it for critical pods.
    #[serde(with = "duration")]
    shutdown_grace_period_critical_pods: Duration = Duration::ZERO;
    /// Grace from each priority on, in the place of the two above.
    shutdown_grace_period_by_pod_priority: Vec<PriorityGrace> = Vec::new();
    /// Restart back-off.
    crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff::default();
    /// Shares of requests (`memory: 50%`) that lower classes may not use.
    qos_reserved: BTreeMap<String, String> = BTreeMap::new();
    /// Taints of a new Node object.
    register_with_taints: Vec<Taint> = Vec::new();
    /// Whether the Node object is made by the agent.
    register_node: bool = true;
    /// Whether pods without a seccomp profile get the runtime's default.
    seccomp_default: bool = false;
    /// The runtime's socket.
    container_runtime_endpoint: String = "unix:///run/containerd/containerd.sock".to_owned();
    /// Root of pod logs.
    pod_logs_dir: String = "/var/log/pods".to_owned();
    /// `providerID` of a new Node object.
    #[serde(rename = "providerID")]
    provider_id: String = String::new();
    /// Whether one OOM kill takes the whole container.
    #[serde(rename = "singleProcessOOMKill")]
    single_process_oom_kill: Option<bool> = None;
    /// User namespaces: only the default is possible.
    user_namespaces: Value = Value::Null;
}

/// Who may speak to the serving API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    /// Client certificates.
    pub x509: X509,
    /// Bearer tokens by TokenReview.
    pub webhook: Webhook,
    /// Requests without credentials.
    pub anonymous: Enabled,
}

/// Client certificates of the serving API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    /// PEM file; empty: the cluster's own authority from the join file.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// TokenReview for the serving API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhook {
    /// Whether tokens are accepted.
    pub enabled: bool,
}

impl Default for Webhook {
    fn default() -> Self {
        Webhook { enabled: true }
    }
}

/// A switch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Enabled {
    /// Whether it is on.
    pub enabled: bool,
}

/// How requests to the serving API are authorized.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Authorization {
    /// `Webhook` (SubjectAccessReview) or `AlwaysAllow`.
    pub mode: String,
}

impl Default for Authorization {
    fn default() -> Self {
        Authorization {
            mode: "Webhook".to_owned(),
        }
    }
}

/// Restart back-off.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// The longest wait between restarts, 1 s to 300 s.
    #[serde(with = "duration")]
    pub max_container_restart_period: Duration,
}

impl Default for CrashLoopBackOff {
    fn default() -> Self {
        CrashLoopBackOff {
            max_container_restart_period: Duration::from_secs(300),
        }
    }
}

impl KubeletConfiguration {
    /// Reads a file (JSON or YAML); the second value holds warnings to print.
    ///
    /// # Errors
    /// See [`Self::from_value`].
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        Self::parse(&read(path)?)
    }

    /// Parses a document (JSON or YAML); the second value holds warnings to print.
    ///
    /// # Errors
    /// See [`Self::from_value`].
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let value: Value = serde_yaml_ng::from_str(text).map_err(parse_error)?;
        Self::from_value(value)
    }

    /// Takes a parsed document; the second value holds warnings to print.
    ///
    /// # Errors
    /// When a field has the wrong type or asks for a feature that is refused.
    pub fn from_value(value: Value) -> Result<(Self, Vec<String>), ConfigError> {
        let mut config: Self = serde_json::from_value(value).map_err(|error| {
            use serde::de::Error;
            parse_error(serde_yaml_ng::Error::custom(error))
        })?;
        config.refuse_unbuilt()?;
        let mut warnings = config.check_gates()?;
        let unknown = config
            .rest
            .keys()
            .filter(|k| !WITHOUT_EFFECT.contains(&k.as_str()));
        warnings.extend(unknown.map(|key| format!("KubeletConfiguration: unknown field {key:?} is ignored")));
        config.rest.clear();
        Ok((config, warnings))
    }

    fn check_gates(&self) -> Result<Vec<String>, ConfigError> {
        gates::check(&self.feature_gates).map_err(|why| ConfigError::Refused {
            field: "featureGates".to_owned(),
            why,
        })
    }

    /// Whether a feature is switched on.
    pub fn gate(&self, name: &str) -> bool {
        gates::is_on(&self.feature_gates, name)
    }

    /// How many images are pulled at once; `None`: as many as are wanted.
    pub fn parallel_pulls(&self) -> Option<usize> {
        let most = self.max_parallel_image_pulls;
        let serial = self
            .serialize_image_pulls
            .unwrap_or(most.is_none_or(|most| most < 2));
        match serial {
            true => Some(1),
            false => most.and_then(|most| usize::try_from(most).ok()),
        }
    }

    /// The longest wait between two starts of a container that ends again and again.
    pub fn longest_restart_wait(&self) -> Duration {
        match self.gate("KubeletCrashLoopBackOffMax") {
            true => self.crash_loop_back_off.max_container_restart_period,
            false => CrashLoopBackOff::default().max_container_restart_period,
        }
    }

    fn refuse_unbuilt(&self) -> Result<(), ConfigError> {
        let swap = self.memory_swap.get("swapBehavior").and_then(Value::as_str);
        let checks = [
            (
                swap.is_some_and(|s| !s.is_empty() && s != "NoSwap"),
                "memorySwap.swapBehavior",
                "swap is not supported; leave it out or use NoSwap",
            ),
            (
                self.memory_manager_policy != "None",
                "memoryManagerPolicy",
                "the memory manager is not supported; use None",
            ),
            (
                !matches!(self.cpu_manager_policy.as_str(), "none" | "static"),
                "cpuManagerPolicy",
                "must be none or static",
            ),
            (
                self.reserved_system_cpus.parse::<CpuSet>().is_err(),
                "reservedSystemCPUs",
                "must be a list of processors such as 0-3,8",
            ),
            (
                self.shutdown_grace_period_critical_pods > self.shutdown_grace_period,
                "shutdownGracePeriodCriticalPods",
                "must not be longer than shutdownGracePeriod",
            ),
            (
                !self.shutdown_grace_period.is_zero()
                    && !self.shutdown_grace_period_by_pod_priority.is_empty(),
                "shutdownGracePeriodByPodPriority",
                "cannot be used together with shutdownGracePeriod",
            ),
            (
                !self.user_namespaces.is_null(),
                "userNamespaces",
                "user namespaces are not supported; leave it out",
            ),
            (
                !matches!(self.cgroup_driver.as_str(), "cgroupfs" | "systemd"),
                "cgroupDriver",
                "must be cgroupfs or systemd",
            ),
            (
                !matches!(self.authorization.mode.as_str(), "Webhook" | "AlwaysAllow"),
                "authorization.mode",
                "must be Webhook or AlwaysAllow",
            ),
            (
                self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent,
                "imageGCLowThresholdPercent",
                "must be lower than imageGCHighThresholdPercent",
            ),
            (
                !matches!(
                    self.memory_reservation_policy.as_str(),
                    "None" | "TieredReservation"
                ),
                "memoryReservationPolicy",
                "must be None or TieredReservation",
            ),
            (
                self.memory_reservation_policy != "None" && !self.gate("MemoryQoS"),
                "memoryReservationPolicy",
                "needs the feature gate MemoryQoS",
            ),
            (
                !(self.memory_throttling_factor > 0.0 && self.memory_throttling_factor <= 1.0),
                "memoryThrottlingFactor",
                "must be greater than 0 and less than or equal to 1.0",
            ),
            (
                !(-1000..=1000).contains(&self.oom_score_adj),
                "oomScoreAdj",
                "must be between -1000 and 1000, inclusive",
            ),
            (
                self.max_parallel_image_pulls.is_some_and(|most| most < 1),
                "maxParallelImagePulls",
                "must be a positive number",
            ),
            (
                self.serialize_image_pulls == Some(true)
                    && self.max_parallel_image_pulls.is_some_and(|most| most > 1),
                "maxParallelImagePulls",
                "cannot be larger than 1 unless serializeImagePulls is false",
            ),
            (
                !self.image_maximum_gc_age.is_zero()
                    && self.image_maximum_gc_age <= self.image_minimum_gc_age,
                "imageMaximumGCAge",
                "must be longer than imageMinimumGCAge",
            ),
            (
                self.qos_reserved.iter().any(|(resource, share)| {
                    resource != "memory" || (share != "0%" && self.qos_reserved_memory_percent() == 0)
                }),
                "qosReserved",
                "only memory can be reserved, as a percentage such as 50%",
            ),
            (
                self.container_log_max_files < 2,
                "containerLogMaxFiles",
                "must be at least 2",
            ),
        ];
        let refused = |field: &str, why: String| ConfigError::Refused {
            field: field.to_owned(),
            why,
        };
        if let Some((_, field, why)) = checks.into_iter().find(|(wrong, ..)| *wrong) {
            return Err(refused(field, why.to_owned()));
        }
        thresholds::parse(self).map_err(|why| refused("evictionHard, evictionSoft", why))?;
        Options::parse(&self.cpu_manager_policy_options)
            .map_err(|why| refused("cpuManagerPolicyOptions", why))?;
        numa::policy_of(&self.topology_manager_policy)
            .map_err(|why| refused("topologyManagerPolicy", why))?;
        numa::scope_of(&self.topology_manager_scope).map_err(|why| refused("topologyManagerScope", why))?;
        numa::Options::parse(&self.topology_manager_policy_options)
            .map_err(|why| refused("topologyManagerPolicyOptions", why))?;
        AllowList::new(self.allowed_unsafe_sysctls.iter().map(String::as_str))
            .map_err(|why| refused("allowedUnsafeSysctls", why))?;
        Ok(())
    }

    /// The percentage of `qosReserved.memory`; 0 when it is not set.
    pub fn qos_reserved_memory_percent(&self) -> i64 {
        let percent = |text: &String| {
            text.strip_suffix('%')?
                .parse()
                .ok()
                .filter(|p| (0..=100).contains(p))
        };
        self.qos_reserved.get("memory").and_then(percent).unwrap_or(0)
    }

    /// The hard thresholds in force: the given ones, else (or also, when merged) the kubelet's defaults.
    pub fn hard_thresholds(&self) -> BTreeMap<String, String> {
        let defaults = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
        ];
        let defaults = defaults.map(|(k, v)| (k.to_owned(), v.to_owned()));
        match &self.eviction_hard {
            None => defaults.into(),
            Some(given) if self.merge_default_eviction_settings => {
                defaults.into_iter().chain(given.clone()).collect()
            }
            Some(given) => given.clone(),
        }
    }
}

fn parse_error(source: serde_yaml_ng::Error) -> ConfigError {
    ConfigError::Parse {
        what: "KubeletConfiguration".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_named_and_known_ones_without_effect_are_not() {
        let text = "kind: KubeletConfiguration\nsyncFrequency: 1m\nmaxPods: 50\nmaxPodz: 3\nclusterDNS: [10.96.0.10]";
        let (config, warnings) = KubeletConfiguration::parse(text).expect("valid");
        assert_eq!((config.max_pods, config.cluster_dns.len()), (50, 1));
        assert_eq!(
            warnings,
            [r#"KubeletConfiguration: unknown field "maxPodz" is ignored"#]
        );
    }

    #[test]
    fn pulls_are_one_after_the_other_unless_told_otherwise() {
        let pulls = |text: &str| {
            KubeletConfiguration::parse(text)
                .expect("valid")
                .0
                .parallel_pulls()
        };
        let texts = [
            "{}",
            "serializeImagePulls: false",
            "maxParallelImagePulls: 3",
            "maxParallelImagePulls: 1",
        ];
        assert_eq!(texts.map(pulls), [Some(1), None, Some(3), Some(1)]);
    }

    #[test]
    fn refused_features_say_what_is_possible() {
        let texts = [
            "memorySwap: {swapBehavior: LimitedSwap}",
            "memoryManagerPolicy: Static",
            "containerLogMaxFiles: 1",
            "topologyManagerPolicy: strict",
            "{serializeImagePulls: true, maxParallelImagePulls: 2}",
            "imageMaximumGCAge: 1m",
            "oomScoreAdj: 1001",
            "memoryReservationPolicy: TieredReservation",
            "memoryThrottlingFactor: 0",
            "featureGates: {NodeSwap: false}",
        ];
        let said: Vec<String> = texts
            .iter()
            .map(|t| KubeletConfiguration::parse(t).expect_err("refused").to_string())
            .collect();
        assert_eq!(
            said,
            [
                "memorySwap.swapBehavior: swap is not supported; leave it out or use NoSwap",
                "memoryManagerPolicy: the memory manager is not supported; use None",
                "containerLogMaxFiles: must be at least 2",
                "topologyManagerPolicy: must be none, best-effort, restricted or single-numa-node",
                "maxParallelImagePulls: cannot be larger than 1 unless serializeImagePulls is false",
                "imageMaximumGCAge: must be longer than imageMinimumGCAge",
                "oomScoreAdj: must be between -1000 and 1000, inclusive",
                "memoryReservationPolicy: needs the feature gate MemoryQoS",
                "memoryThrottlingFactor: must be greater than 0 and less than or equal to 1.0",
                "featureGates: cannot set feature gate NodeSwap to false, feature is locked to true",
            ]
        );
    }

    #[test]
    fn any_given_hard_threshold_drops_the_defaults_unless_merged() {
        let (plain, _) = KubeletConfiguration::parse("evictionHard: {memory.available: 1Gi}").expect("valid");
        assert_eq!(plain.hard_thresholds().len(), 1);
        let (merged, _) = KubeletConfiguration::parse(
            "evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true",
        )
        .expect("valid");
        assert_eq!(merged.hard_thresholds()["memory.available"], "1Gi");
        assert_eq!(merged.hard_thresholds().len(), 5);
    }
}
