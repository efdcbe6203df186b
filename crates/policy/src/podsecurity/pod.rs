//! Reading a pod: containers of all three lists, unset and null alike, and the wording of names.

use serde_json::Value;

/// The parts of a pod the checks look at.
pub(super) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    pub fn new(metadata: &'a Value, spec: &'a Value) -> Self {
        Pod { metadata, spec }
    }

    /// Init containers, containers, ephemeral containers, in this order.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| items(&spec[list]))
    }

    /// The names of the containers that a test picks.
    pub fn names(&self, pick: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| pick(container))
            .map(name)
            .collect()
    }

    pub fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether the pod runs in a user namespace of its own.
    pub fn has_user_namespace(&self) -> bool {
        self.spec["hostUsers"] == Value::Bool(false)
    }

    /// Security contexts: `pod` first, then each container's, with the words that name their owner.
    pub fn contexts(&self) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let pod = ("pod".to_string(), &self.spec["securityContext"]);
        let of_container = |c: &'a Value| (format!("container \"{}\"", name(c)), &c["securityContext"]);
        std::iter::once(pod).chain(self.containers().map(of_container))
    }

    pub fn annotations(&self) -> impl Iterator<Item = (&'a String, &'a str)> + use<'a> {
        let map = self.metadata["annotations"].as_object();
        map.into_iter()
            .flatten()
            .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
    }
}

/// The items of a list; nothing when it is unset.
pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

pub(super) fn name(object: &Value) -> &str {
    object["name"].as_str().unwrap_or_default()
}

/// The text of a field, when it is set.
pub(super) fn text<'v>(object: &'v Value, field: &str) -> Option<&'v str> {
    object.get(field).and_then(Value::as_str)
}

/// Picks one of two words by a count.
pub(super) fn plural(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

/// `"a", "b"`.
pub(super) fn quoted<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let quoted = names.into_iter().map(|name| format!("\"{name}\""));
    quoted.collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural(names.len(), "container", "containers"),
        quoted(names.iter().copied())
    )
}

/// Finds the pod inside an object: the pod itself, or the template of a workload; `None` for other kinds.
///
/// Returns metadata and spec.
pub fn pod_of<'v>(kind: &str, object: &'v Value) -> Option<(&'v Value, &'v Value)> {
    let holder = match kind {
        "Pod" => object,
        "PodTemplate" => &object["template"],
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => {
            &object["spec"]["template"]
        }
        _ => return None,
    };
    holder.get("spec").map(|spec| (&holder["metadata"], spec))
}
