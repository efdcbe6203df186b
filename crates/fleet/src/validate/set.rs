//! Checks a whole set of objects, together with what is there already, before the first of them is applied: names
//! that are used twice, references that lead nowhere, clusters that do not fit the inventory. Pure.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mainstay_api::{API_VERSION, ClusterDeployment, Host, NodePool, OSImage, Rack};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FieldError, Rule, World, cluster_deployment, known, single_pool};

/// Kinds that the checks look at; of a running plane these must be read.
pub const KINDS: [&str; 10] = [
    "Region",
    "DataCenter",
    "Zone",
    "Rack",
    "Host",
    "OSImage",
    "RepairPolicy",
    "Tenant",
    "ClusterDeployment",
    "NodePool",
];

/// Kind, where it names another object (`*` = every item), and the kind that it names.
const REFERENCES: [(&str, &str, &str); 7] = [
    ("DataCenter", "spec.region", "Region"),
    ("Zone", "spec.dataCenter", "DataCenter"),
    ("Rack", "spec.zone", "Zone"),
    ("Host", "spec.rack", "Rack"),
    ("ClusterDeployment", "spec.tenantRef.name", "Tenant"),
    (
        "ClusterDeployment",
        "spec.nodePools.*.template.spec.repairPolicyRef.name",
        "RepairPolicy",
    ),
    ("NodePool", "spec.repairPolicyRef.name", "RepairPolicy"),
];

/// Kinds without a namespace.
const CLUSTER_SCOPED: [&str; 5] = ["Region", "DataCenter", "Zone", "Rack", "Tenant"];

/// Where a kind names the image of machines.
const IMAGES: [(&str, &str); 2] = [
    (
        "ClusterDeployment",
        "spec.nodePools.*.template.spec.imageRef.name",
    ),
    ("NodePool", "spec.imageRef.name"),
];

/// How names of packages begin that bring containerd, by themselves or by what they depend on.
const RUNTIMES: [&str; 3] = ["containerd", "docker", "moby-"];

/// Providers that make machines themselves and must be told how large.
const MAKERS: [&str; 2] = ["local", "qemu"];

/// What is given besides objects.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Names of providers.
    pub providers: Vec<String>,
    /// Networks that clusters must keep away from: what each is, and its range.
    pub reserved: Vec<(String, IpNet)>,
}

/// One broken rule, in which of the manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index into the manifests.
    pub manifest: usize,
    /// The field and what was expected.
    pub error: FieldError,
}

/// Checks `manifests` as they will be once applied over `live`. Objects of other kinds only count for names that are
/// used twice.
pub fn check(manifests: &[Value], live: &[Value], surroundings: &Surroundings) -> Vec<Problem> {
    let all = Objects::new(manifests, live);
    let mut problems = twice(manifests);
    for (manifest, object) in manifests.iter().enumerate() {
        let mut errors = references(object, &all);
        errors.extend(without_runtime(object, &all));
        errors.extend(by_kind(object, &all, surroundings));
        problems.extend(errors.into_iter().map(|error| Problem { manifest, error }));
    }
    problems
}

/// Every object of our group as it will be.
struct Objects<'a> {
    by_kind: BTreeMap<&'a str, BTreeMap<(&'a str, &'a str), &'a Value>>,
}

impl<'a> Objects<'a> {
    fn new(manifests: &'a [Value], live: &'a [Value]) -> Self {
        let mut by_kind: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        // Manifests come last: they replace what is there.
        for object in live
            .iter()
            .chain(manifests)
            .filter(|object| object["apiVersion"] == API_VERSION)
        {
            by_kind
                .entry(text(&object["kind"]))
                .or_default()
                .insert(key(object), object);
        }
        Objects { by_kind }
    }

    fn of(&self, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let found: Vec<&Value> = self
            .by_kind
            .get(kind)
            .into_iter()
            .flat_map(|objects| objects.values().copied())
            .collect();
        found.into_iter()
    }

    /// The objects of a kind that an object of this namespace may name.
    fn beside(&self, kind: &str, namespace: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let namespace = namespace.to_string();
        self.of(kind)
            .filter(move |object| key(object).0.is_empty() || key(object).0 == namespace)
    }

    fn typed<K: DeserializeOwned>(objects: impl Iterator<Item = &'a Value>) -> Vec<K> {
        // What does not fit its kind has been refused by its schema already.
        objects
            .filter_map(|object| serde_json::from_value(object.clone()).ok())
            .collect()
    }

    fn world(&self, namespace: &str, surroundings: &Surroundings) -> World {
        let racks: Vec<Rack> = Self::typed(self.of("Rack"));
        World {
            others: self
                .of("ClusterDeployment")
                .filter_map(|object| serde_json::from_value(placed(object)).ok())
                .collect(),
            hosts: Self::typed(self.beside("Host", namespace)),
            images: self
                .beside("OSImage", namespace)
                .map(|object| key(object).1.to_string())
                .collect(),
            racks: racks
                .into_iter()
                .map(|rack| (rack.metadata.name.unwrap_or_default(), rack.spec.zone))
                .collect(),
            providers: surroundings.providers.clone(),
            reserved: surroundings.reserved.clone(),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Namespace (empty for cluster scope) and name.
fn key(object: &Value) -> (&str, &str) {
    let metadata = &object["metadata"];
    let namespace = match text(&metadata["namespace"]) {
        _ if CLUSTER_SCOPED.contains(&text(&object["kind"])) => "",
        "" => "default",
        namespace => namespace,
    };
    (namespace, text(&metadata["name"]))
}

/// The object with the namespace that it will get.
fn placed(object: &Value) -> Value {
    let mut placed = object.clone();
    let namespace = key(object).0;
    if !namespace.is_empty() && placed["metadata"].is_object() {
        placed["metadata"]["namespace"] = namespace.into();
    }
    placed
}

fn twice(manifests: &[Value]) -> Vec<Problem> {
    let mut seen = BTreeMap::new();
    let mut problems = Vec::new();
    for (manifest, object) in manifests.iter().enumerate() {
        let group = text(&object["apiVersion"])
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        let (namespace, name) = key(object);
        let identity = (group, text(&object["kind"]), namespace, name);
        if let Some(first) = seen.insert(identity, manifest) {
            let message = format!("{name:?} is given twice, first as object {}", first + 1);
            let error = FieldError::new(Rule::Twice, "metadata.name", message);
            problems.push(Problem { manifest, error });
        }
    }
    problems
}

fn references(object: &Value, all: &Objects<'_>) -> Vec<FieldError> {
    if object["apiVersion"] != API_VERSION {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (_, path, target) in REFERENCES.iter().filter(|(kind, ..)| object["kind"] == *kind) {
        let parts: Vec<&str> = path.split('.').collect();
        for (field, name) in named(object, &parts, String::new()) {
            let names: Vec<&str> = all
                .beside(target, key(object).0)
                .map(|object| key(object).1)
                .collect();
            if !name.is_empty() && !names.contains(&name) {
                let message = format!("there is no {target} {name:?}{}", known(names));
                errors.push(FieldError::new(Rule::Reference, field, message));
            }
        }
    }
    errors
}

/// Machines run pods through containerd: an image whose own package list lacks it can be composed, but never joins.
fn without_runtime(object: &Value, all: &Objects<'_>) -> Vec<FieldError> {
    let paths = IMAGES.iter().filter(|(kind, _)| object["kind"] == *kind);
    let fields = paths.flat_map(|(_, path)| {
        let parts: Vec<&str> = path.split('.').collect();
        named(object, &parts, String::new())
    });
    let lacks = |name: &str| {
        let image = all
            .beside("OSImage", key(object).0)
            .find(|image| key(image).1 == name);
        let packages = image.and_then(|image| image["spec"]["treefile"]["inline"]["packages"].as_array());
        packages.is_some_and(|packages| {
            !packages
                .iter()
                .any(|package| RUNTIMES.iter().any(|runtime| text(package).starts_with(runtime)))
        })
    };
    fields
        .filter(|(_, name)| lacks(name))
        .map(|(field, name)| {
            let message =
                format!("the packages of OSImage {name:?} lack containerd: its machines could run no pods");
            FieldError::new(Rule::Image, field, message)
        })
        .collect()
}

/// The texts at a path, each with the path that leads to it.
fn named<'a>(value: &'a Value, path: &[&str], field: String) -> Vec<(String, &'a str)> {
    let Some((first, rest)) = path.split_first() else {
        return value.as_str().map(|name| (field, name)).into_iter().collect();
    };
    if *first == "*" {
        let items = value.as_array().into_iter().flatten().enumerate();
        return items
            .flat_map(|(index, item)| named(item, rest, format!("{field}[{index}]")))
            .collect();
    }
    let dot = if field.is_empty() { "" } else { "." };
    value
        .get(*first)
        .map(|below| named(below, rest, format!("{field}{dot}{first}")))
        .unwrap_or_default()
}

fn by_kind(object: &Value, all: &Objects<'_>, surroundings: &Surroundings) -> Vec<FieldError> {
    if object["apiVersion"] != API_VERSION {
        return Vec::new();
    }
    let world = || all.world(key(object).0, surroundings);
    // What does not fit its kind has been refused by its schema already.
    match text(&object["kind"]) {
        "Host" => host(object, all),
        "NodePool" => serde_json::from_value::<NodePool>(placed(object))
            .map(|pool| single_pool(&pool, &world()))
            .unwrap_or_default(),
        "ClusterDeployment" => serde_json::from_value::<ClusterDeployment>(placed(object))
            .map(|cluster| cluster_deployment(&cluster, &world()))
            .unwrap_or_default(),
        "OSImage" => serde_json::from_value::<OSImage>(placed(object))
            .map(|image| crate::unbuilt::os_image(&image.spec))
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// A host stands in its rack alone, and a machine that is made must be told its size.
fn host(object: &Value, all: &Objects<'_>) -> Vec<FieldError> {
    let Ok(host) = serde_json::from_value::<Host>(object.clone()) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    let (spec, name) = (&host.spec, key(object).1);
    let rack = all
        .of("Rack")
        .find(|rack| key(rack).1 == spec.rack)
        .and_then(|rack| serde_json::from_value::<Rack>(rack.clone()).ok());
    if let Some(rack) = rack.filter(|rack| spec.unit > rack.spec.units) {
        let message = format!("rack {} has {} units", spec.rack, rack.spec.units);
        errors.push(FieldError::new(Rule::Capacity, "spec.unit", message));
    }
    let neighbour = all.of("Host").find(|other| {
        key(other) != key(object)
            && other["spec"]["rack"] == spec.rack.as_str()
            && spec.unit != 0
            && other["spec"]["unit"] == spec.unit
    });
    if let Some(other) = neighbour.filter(|other| key(other).1 < name) {
        let message = format!(
            "unit {} of rack {} is taken by Host {}",
            spec.unit,
            spec.rack,
            key(other).1
        );
        errors.push(FieldError::new(Rule::Twice, "spec.unit", message));
    }
    if MAKERS.contains(&spec.provider.as_str()) && spec.resources.is_none() {
        let message = format!(
            "provider {} must be told cpus, memoryMiB and diskMiB",
            spec.provider
        );
        errors.push(FieldError::new(Rule::Form, "spec.resources", message));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn object(kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    fn host(name: &str, unit: u16) -> Value {
        let resources = json!({"cpus": 1, "memoryMiB": 1024, "diskMiB": 1024});
        let spec =
            json!({"rack": "r1", "unit": unit, "sku": "small", "provider": "local", "resources": resources});
        object("Host", name, spec)
    }

    fn cluster(name: &str, environment: &str) -> Value {
        let pool = json!({"replicas": 2, "provider": "local", "imageRef": {"name": "node"}});
        let spec = json!({
            "version": "v1.36.3", "network": {"environment": environment},
            "nodePools": [{"name": "a", "template": {"spec": pool}}],
        });
        object("ClusterDeployment", name, spec)
    }

    fn inventory() -> Vec<Value> {
        vec![
            object("Region", "home", json!({})),
            object("DataCenter", "desk", json!({"region": "home"})),
            object("Zone", "z1", json!({"dataCenter": "desk"})),
            object("Rack", "r1", json!({"zone": "z1"})),
            host("h1", 1),
            host("h2", 2),
            object("OSImage", "node", json!({})),
        ]
    }

    fn check_all(manifests: &[Value], live: &[Value], want: Expect) {
        let surroundings = Surroundings {
            providers: vec!["local".into()],
            reserved: Vec::new(),
        };
        let lines: Vec<String> = check(manifests, live, &surroundings)
            .iter()
            .map(|problem| {
                let of = &manifests[problem.manifest];
                format!(
                    "{} {} {}: {}",
                    problem.error.rule.id(),
                    text(&of["kind"]),
                    key(of).1,
                    problem.error
                )
            })
            .collect();
        want.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_set_that_fits_is_accepted_whatever_its_order_and_wherever_its_parts_are() {
        let mut set = inventory();
        set.insert(0, cluster("demo", "test"));
        check_all(&set, &[], expect![""]);
        check_all(&[cluster("demo", "test")], &inventory(), expect![""]);
        check_all(&set, &set, expect![""]);
    }

    #[test]
    fn references_that_lead_nowhere_are_named_with_what_there_is() {
        let mut set = inventory();
        set[3]["spec"]["zone"] = "z9".into();
        set[4]["spec"]["rack"] = "r7".into();
        check_all(
            &set,
            &[],
            expect![[r#"
            MS-CFG-0014 Rack r1: spec.zone: there is no Zone "z9"; there are: z1
            MS-CFG-0014 Host h1: spec.rack: there is no Rack "r7"; there are: r1"#]],
        );
    }

    #[test]
    fn names_and_places_that_are_taken_are_named() {
        let mut set = inventory();
        set.push(host("h1", 1));
        set.push(host("h3", 2));
        set.push(host("h4", 50));
        check_all(
            &set,
            &[],
            expect![[r#"
            MS-CFG-0015 Host h1: metadata.name: "h1" is given twice, first as object 5
            MS-CFG-0015 Host h3: spec.unit: unit 2 of rack r1 is taken by Host h2
            MS-CFG-0012 Host h4: spec.unit: rack r1 has 42 units"#]],
        );
    }

    #[test]
    fn clusters_are_checked_against_the_set_and_what_is_there() {
        let mut demo = cluster("demo", "test");
        demo["spec"]["nodePools"][0]["template"]["spec"]["replicas"] = 3.into();
        demo["spec"]["nodePools"][0]["template"]["spec"]["repairPolicyRef"] = json!({"name": "gentle"});
        check_all(
            &[demo],
            &[inventory(), vec![cluster("other", "test")]].concat(),
            expect![[r#"
                MS-CFG-0014 ClusterDeployment demo: spec.nodePools[0].template.spec.repairPolicyRef.name: there is no RepairPolicy "gentle"; there are none
                MS-CFG-0011 ClusterDeployment demo: spec.network.pods: 10.244.0.0/16 overlaps with 10.244.0.0/16 of cluster other in environment test
                MS-CFG-0011 ClusterDeployment demo: spec.network.services: 10.96.0.0/12 overlaps with 10.96.0.0/12 of cluster other in environment test
                MS-CFG-0012 ClusterDeployment demo: spec.nodePools[0].template.spec.replicas: up to 3 machines are asked for, the racks have 2 hosts that fit"#]],
        );
    }

    #[test]
    fn an_image_for_machines_must_bring_containerd() {
        let mut set = inventory();
        set.push(cluster("demo", ""));
        set[6]["spec"] =
            json!({"treefile": {"inline": {"ref": "a/b", "packages": ["bash", "containerd.io"]}}});
        check_all(&set, &[], expect![""]);
        set[6]["spec"]["treefile"]["inline"]["packages"] = json!(["bash"]);
        check_all(
            &set,
            &[],
            expect![[
                r#"MS-CFG-0013 ClusterDeployment demo: spec.nodePools[0].template.spec.imageRef.name: the packages of OSImage "node" lack containerd: its machines could run no pods"#
            ]],
        );
    }

    #[test]
    fn a_machine_that_is_made_must_be_told_its_size() {
        let mut set = inventory();
        set[4]["spec"]["resources"] = Value::Null;
        check_all(
            &set,
            &[],
            expect![
                "MS-CFG-0005 Host h1: spec.resources: provider local must be told cpus, memoryMiB and diskMiB"
            ],
        );
    }
}
