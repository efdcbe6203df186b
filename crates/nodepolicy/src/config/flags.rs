//! The kubelet's command-line flags that are fields of its configuration file, so that the arguments of an existing
//! installation are understood unchanged. A flag wins over the file.
//!
//! Names: <https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/>.

use serde_json::{Map, Value, json};

use super::ConfigError;

/// How a flag's text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`; the flag alone is `true`.
    Switch,
    /// `a,b`.
    List,
    /// `a=1,b=2`, or with another sign; the whole map of the file is replaced.
    Pairs(char),
    /// `a=true,b=false`, put over the file's.
    Gates,
    /// `key=value:Effect,key:Effect`.
    Taints,
}

/// A flag and the field that it is.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// The field's path in a `KubeletConfiguration`.
    pub field: &'static str,
    /// How its text is written.
    pub form: Form,
}

const fn flag(name: &'static str, field: &'static str, form: Form) -> Flag {
    Flag { name, field, form }
}

/// Every flag that is a field.
pub const FLAGS: &[Flag] = &[
    flag("address", "address", Form::Text),
    flag("allowed-unsafe-sysctls", "allowedUnsafeSysctls", Form::List),
    flag("anonymous-auth", "authentication.anonymous.enabled", Form::Switch),
    flag(
        "authentication-token-webhook",
        "authentication.webhook.enabled",
        Form::Switch,
    ),
    flag("authorization-mode", "authorization.mode", Form::Text),
    flag("cgroup-driver", "cgroupDriver", Form::Text),
    flag("cgroup-root", "cgroupRoot", Form::Text),
    flag("cgroups-per-qos", "cgroupsPerQOS", Form::Switch),
    flag("client-ca-file", "authentication.x509.clientCAFile", Form::Text),
    flag("cluster-dns", "clusterDNS", Form::List),
    flag("cluster-domain", "clusterDomain", Form::Text),
    flag("container-log-max-files", "containerLogMaxFiles", Form::Number),
    flag("container-log-max-size", "containerLogMaxSize", Form::Text),
    flag(
        "container-runtime-endpoint",
        "containerRuntimeEndpoint",
        Form::Text,
    ),
    flag("cpu-cfs-quota", "cpuCFSQuota", Form::Switch),
    flag("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Form::Text),
    flag("cpu-manager-policy", "cpuManagerPolicy", Form::Text),
    flag(
        "cpu-manager-policy-options",
        "cpuManagerPolicyOptions",
        Form::Pairs('='),
    ),
    flag("enforce-node-allocatable", "enforceNodeAllocatable", Form::List),
    flag("eviction-hard", "evictionHard", Form::Pairs('<')),
    flag(
        "eviction-max-pod-grace-period",
        "evictionMaxPodGracePeriod",
        Form::Number,
    ),
    flag(
        "eviction-minimum-reclaim",
        "evictionMinimumReclaim",
        Form::Pairs('='),
    ),
    flag(
        "eviction-pressure-transition-period",
        "evictionPressureTransitionPeriod",
        Form::Text,
    ),
    flag("eviction-soft", "evictionSoft", Form::Pairs('<')),
    flag(
        "eviction-soft-grace-period",
        "evictionSoftGracePeriod",
        Form::Pairs('='),
    ),
    flag("fail-swap-on", "failSwapOn", Form::Switch),
    flag("feature-gates", "featureGates", Form::Gates),
    flag("file-check-frequency", "fileCheckFrequency", Form::Text),
    flag("healthz-port", "healthzPort", Form::Number),
    flag(
        "image-gc-high-threshold",
        "imageGCHighThresholdPercent",
        Form::Number,
    ),
    flag(
        "image-gc-low-threshold",
        "imageGCLowThresholdPercent",
        Form::Number,
    ),
    flag("kube-reserved", "kubeReserved", Form::Pairs('=')),
    flag("kube-reserved-cgroup", "kubeReservedCgroup", Form::Text),
    flag("max-pods", "maxPods", Form::Number),
    flag("memory-manager-policy", "memoryManagerPolicy", Form::Text),
    flag("minimum-image-ttl-duration", "imageMinimumGCAge", Form::Text),
    flag("node-status-max-images", "nodeStatusMaxImages", Form::Number),
    flag(
        "node-status-update-frequency",
        "nodeStatusUpdateFrequency",
        Form::Text,
    ),
    flag("oom-score-adj", "oomScoreAdj", Form::Number),
    flag("pod-cidr", "podCIDR", Form::Text),
    flag("pod-manifest-path", "staticPodPath", Form::Text),
    flag("pod-max-pids", "podPidsLimit", Form::Number),
    flag("pods-per-core", "podsPerCore", Form::Number),
    flag("port", "port", Form::Number),
    flag("protect-kernel-defaults", "protectKernelDefaults", Form::Switch),
    flag("provider-id", "providerID", Form::Text),
    flag("qos-reserved", "qosReserved", Form::Pairs('=')),
    flag("register-node", "registerNode", Form::Switch),
    flag("register-with-taints", "registerWithTaints", Form::Taints),
    flag("reserved-cpus", "reservedSystemCPUs", Form::Text),
    flag("resolv-conf", "resolvConf", Form::Text),
    flag("rotate-certificates", "rotateCertificates", Form::Switch),
    flag("rotate-server-certificates", "serverTLSBootstrap", Form::Switch),
    flag("seccomp-default", "seccompDefault", Form::Switch),
    flag("serialize-image-pulls", "serializeImagePulls", Form::Switch),
    flag("system-reserved", "systemReserved", Form::Pairs('=')),
    flag("system-reserved-cgroup", "systemReservedCgroup", Form::Text),
    flag("tls-cert-file", "tlsCertFile", Form::Text),
    flag("tls-private-key-file", "tlsPrivateKeyFile", Form::Text),
    flag("topology-manager-policy", "topologyManagerPolicy", Form::Text),
    flag(
        "topology-manager-policy-options",
        "topologyManagerPolicyOptions",
        Form::Pairs('='),
    ),
    flag("topology-manager-scope", "topologyManagerScope", Form::Text),
];

/// Flags of the kubelet that change nothing here and take a value.
pub const VALUES_WITHOUT_EFFECT: &[&str] = &[
    "authentication-token-webhook-cache-ttl",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "container-log-max-workers",
    "cpu-manager-reconcile-period",
    "event-burst",
    "event-qps",
    "hairpin-mode",
    "healthz-bind-address",
    "http-check-frequency",
    "image-service-endpoint",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "kubelet-cgroups",
    "log-flush-frequency",
    "logging-format",
    "max-open-files",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "minimum-container-ttl-duration",
    "pod-infra-container-image",
    "read-only-port",
    "registry-burst",
    "registry-qps",
    "runtime-cgroups",
    "runtime-request-timeout",
    "streaming-connection-idle-timeout",
    "sync-frequency",
    "system-cgroups",
    "tls-cipher-suites",
    "tls-min-version",
    "v",
    "vmodule",
    "volume-plugin-dir",
    "volume-stats-agg-period",
];

/// Flags of the kubelet that change nothing here and are `true` by themselves.
pub const SWITCHES_WITHOUT_EFFECT: &[&str] = &[
    "contention-profiling",
    "enable-controller-attach-detach",
    "enable-debugging-handlers",
    "enable-server",
    "fail-cgroupv1",
    "kernel-memcg-notification",
    "local-storage-capacity-isolation",
    "make-iptables-util-chains",
];

impl Flag {
    /// Writes what the flag says into a `KubeletConfiguration` document. A flag that is given several times has several
    /// texts: lists and maps add up, of others the last holds.
    ///
    /// # Errors
    /// When a text is not in the flag's form; the error names the flag.
    pub fn put(&self, texts: &[String], document: &mut Value) -> Result<(), ConfigError> {
        let refused = |why: String| ConfigError::Refused {
            field: format!("--{}", self.name),
            why,
        };
        let value = self.read(texts).map_err(refused)?;
        let mut place = document;
        for name in self.field.split('.') {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[name];
        }
        match (self.form, &value, &mut *place) {
            (Form::Gates, Value::Object(given), Value::Object(there)) => there.extend(given.clone()),
            _ => *place = value,
        }
        Ok(())
    }

    fn read(&self, texts: &[String]) -> Result<Value, String> {
        let last = texts.last().map_or("", String::as_str);
        let parts = || texts.iter().flat_map(|text| text.split(',')).map(str::trim);
        let parts = || parts().filter(|part| !part.is_empty());
        Ok(match self.form {
            Form::Text => last.into(),
            Form::Number => number(last)?.into(),
            Form::Switch => switch(last)?.into(),
            Form::List => parts().collect::<Vec<_>>().into(),
            Form::Pairs(sign) => {
                let pairs = parts().map(|part| pair(part, sign));
                let pairs = pairs.map(|pair| pair.map(|(name, text)| (name.to_owned(), text.into())));
                Value::Object(pairs.collect::<Result<Map<String, Value>, String>>()?)
            }
            Form::Gates => {
                let mut gates = Map::new();
                for part in parts() {
                    let (name, text) = pair(part, '=')?;
                    gates.insert(name.to_owned(), switch(text)?.into());
                }
                Value::Object(gates)
            }
            Form::Taints => parts().map(taint).collect::<Result<Vec<_>, _>>()?.into(),
        })
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} must be a whole number"))
}

/// What Go's `strconv.ParseBool` takes.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} must be true or false")),
    }
}

fn pair(text: &str, sign: char) -> Result<(&str, &str), String> {
    let (name, value) = text
        .split_once(sign)
        .ok_or_else(|| format!("{text:?} must be a name and a value with {sign:?} between"))?;
    Ok((name.trim(), value.trim()))
}

fn taint(text: &str) -> Result<Value, String> {
    let wrong = || format!("{text:?} must be a taint such as key=value:NoSchedule");
    let (name, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong());
    }
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

/// Reads labels such as `a=1,b=2` of `--node-labels`.
///
/// # Errors
/// When an entry is no pair.
pub fn labels(text: &str) -> Result<std::collections::BTreeMap<String, String>, ConfigError> {
    let refused = |why| ConfigError::Refused {
        field: "--node-labels".to_owned(),
        why,
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pairs = parts.map(|part| pair(part, '=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    pairs.collect::<Result<_, String>>().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KubeletConfiguration;

    fn put(name: &str, texts: &[&str], document: &mut Value) -> Result<(), String> {
        let flag = FLAGS.iter().find(|flag| flag.name == name).expect("a flag");
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        flag.put(&texts, document).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_is_a_field_that_the_configuration_has() {
        let known = serde_json::to_value(KubeletConfiguration::default()).expect("written");
        for flag in FLAGS {
            let path = format!("/{}", flag.field.replace('.', "/"));
            assert!(known.pointer(&path).is_some(), "{}: {}", flag.name, flag.field);
        }
        let mut names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        names.extend(VALUES_WITHOUT_EFFECT.iter().chain(SWITCHES_WITHOUT_EFFECT));
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "a flag is there twice");
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut document = json!({
            "maxPods": 50, "evictionHard": {"memory.available": "1Gi"}, "featureGates": {"MemoryQoS": true, "DRAAdminAccess": true},
            "authentication": {"webhook": {"enabled": true}},
        });
        for (name, texts) in [
            ("max-pods", &["70"][..]),
            (
                "eviction-hard",
                &["nodefs.available<10%", "imagefs.available<15%"],
            ),
            ("feature-gates", &["MemoryQoS=false"]),
            ("anonymous-auth", &["false"]),
            ("kube-reserved", &["cpu=100m,memory=1Gi"]),
            ("cluster-dns", &["10.96.0.10,10.96.0.11"]),
            ("register-with-taints", &["a=b:NoSchedule,c:NoExecute"]),
        ] {
            put(name, texts, &mut document).expect(name);
        }
        assert_eq!(
            document,
            json!({
                "maxPods": 70, "evictionHard": {"nodefs.available": "10%", "imagefs.available": "15%"},
                "featureGates": {"MemoryQoS": false, "DRAAdminAccess": true},
                "authentication": {"webhook": {"enabled": true}, "anonymous": {"enabled": false}},
                "kubeReserved": {"cpu": "100m", "memory": "1Gi"}, "clusterDNS": ["10.96.0.10", "10.96.0.11"],
                "registerWithTaints": [
                    {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "value": "", "effect": "NoExecute"},
                ],
            })
        );
        KubeletConfiguration::from_value(document).expect("valid");
    }

    #[test]
    fn a_wrong_text_names_its_flag() {
        let mut document = json!({});
        for (name, text, said) in [
            ("max-pods", "many", r#"--max-pods: "many" must be a whole number"#),
            (
                "fail-swap-on",
                "no",
                r#"--fail-swap-on: "no" must be true or false"#,
            ),
            (
                "eviction-hard",
                "memory.available=1Gi",
                r#"--eviction-hard: "memory.available=1Gi" must be a name and a value with '<' between"#,
            ),
            (
                "register-with-taints",
                "a=b",
                r#"--register-with-taints: "a=b" must be a taint such as key=value:NoSchedule"#,
            ),
        ] {
            assert_eq!(put(name, &[text], &mut document), Err(said.to_owned()));
        }
        assert_eq!(document, json!({}));
    }
}
