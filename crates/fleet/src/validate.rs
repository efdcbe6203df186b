//! Checks a ClusterDeployment against itself and the inventory, before anything is made. Pure: used at
//! admission, by the controller and by preflight alike.

pub mod error;
pub mod schema;
pub mod set;

use ipnet::IpNet;
use kube::ResourceExt;
use mainstay_api::{ClusterDeployment, Host, HostState, NodePoolSpec, SKU_LABEL, cluster::ControlPlaneType};
use mainstay_machines::{objects::selector, rules::version::Version};

use crate::unbuilt;
pub use error::{FieldError, Rule};

/// Most pool machines that a pod range can serve: each takes a /24 (IPv4) or a /64 (IPv6).
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;

fn wrong(rule: Rule, field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError::new(rule, field, message)
}

/// `; there are: a, b`, so that a misspelt name is seen at once.
pub(crate) fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: std::collections::BTreeSet<&str> = names.into_iter().collect();
    let listed: Vec<&str> = names.iter().copied().take(NAMES_SHOWN).collect();
    match names.len() {
        0 => "; there are none".into(),
        count if count > NAMES_SHOWN => format!("; there are {count}, such as {}", listed.join(", ")),
        _ => format!("; there are: {}", listed.join(", ")),
    }
}

/// A message stays one line: so many names are enough to see a slip of the pen.
const NAMES_SHOWN: usize = 8;

/// What exists besides the object that is checked.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Other ClusterDeployments.
    pub others: Vec<ClusterDeployment>,
    /// Hosts of the namespace.
    pub hosts: Vec<Host>,
    /// Names of OSImages of the namespace.
    pub images: Vec<String>,
    /// Rack name → zone name.
    pub racks: std::collections::BTreeMap<String, String>,
    /// Names of providers.
    pub providers: Vec<String>,
    /// Networks that clusters must keep away from: what each is, and its range.
    pub reserved: Vec<(String, IpNet)>,
}

/// Checks the whole object; empty means it can be built.
pub fn cluster_deployment(object: &ClusterDeployment, world: &World) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if Version::parse(&object.spec.version).is_none() {
        errors.push(wrong(
            Rule::Value,
            "spec.version",
            format!("{:?} is not a version such as v1.36.3", object.spec.version),
        ));
    }
    if object.spec.control_plane.kind != ControlPlaneType::Hosted {
        errors.push(wrong(
            Rule::Value,
            "spec.controlPlane.type",
            "only Hosted can be built so far",
        ));
    }
    errors.extend(unbuilt::cluster(object));
    network(object, world, &mut errors);
    let mut names: Vec<&str> = Vec::new();
    for (index, pool) in object.spec.node_pools.iter().enumerate() {
        let path = format!("spec.nodePools[{index}]");
        if names.contains(&pool.name.as_str()) {
            errors.push(wrong(
                Rule::Twice,
                format!("{path}.name"),
                format!("{:?} is used twice", pool.name),
            ));
        }
        names.push(&pool.name);
        let full_name = format!("{}-{}", object.name_any(), pool.name);
        node_pool(
            &format!("{path}.template.spec"),
            &full_name,
            &pool.template.spec,
            world,
            &mut errors,
        );
    }
    capacity(object, world, &mut errors);
    errors
}

fn parse_range(field: &str, text: &str, errors: &mut Vec<FieldError>) -> Option<IpNet> {
    let parsed = text
        .parse::<IpNet>()
        .ok()
        .filter(|net| net.network() == net.addr());
    if parsed.is_none() {
        errors.push(wrong(
            Rule::Value,
            field,
            format!("{text:?} is not a network such as 10.244.0.0/16"),
        ));
    }
    parsed
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn network(object: &ClusterDeployment, world: &World, errors: &mut Vec<FieldError>) {
    let network = &object.spec.network;
    let pods = parse_range("spec.network.pods", &network.pods, errors);
    let services = parse_range("spec.network.services", &network.services, errors);
    let (Some(pods), Some(services)) = (pods, services) else {
        return;
    };
    if overlap(&pods, &services) {
        errors.push(wrong(
            Rule::Overlap,
            "spec.network.services",
            format!("{services} overlaps with spec.network.pods {pods}"),
        ));
    }
    let prefix = if pods.addr().is_ipv4() {
        NODE_PREFIX_V4
    } else {
        NODE_PREFIX_V6
    };
    let bits = u32::from(prefix.saturating_sub(pods.prefix_len())).min(31);
    let machines = largest(object);
    if pods.prefix_len() > prefix || machines > 1_i64 << bits {
        let message = format!(
            "{pods} has room for {} machines, the pools may have {machines}",
            1_i64 << bits
        );
        errors.push(wrong(Rule::Capacity, "spec.network.pods", message));
    }
    for (what, range) in &world.reserved {
        for (field, own) in [("spec.network.pods", &pods), ("spec.network.services", &services)] {
            if overlap(own, range) {
                errors.push(wrong(
                    Rule::Overlap,
                    field,
                    format!("{own} overlaps with {range}, {what}"),
                ));
            }
        }
    }
    let same_environment = |other: &&ClusterDeployment| {
        let itself = other.name_any() == object.name_any() && other.namespace() == object.namespace();
        !itself && !network.environment.is_empty() && other.spec.network.environment == network.environment
    };
    for other in world.others.iter().filter(same_environment) {
        let ranges = [other.spec.network.pod_range(), other.spec.network.service_range()];
        for range in ranges.into_iter().flatten() {
            for (field, own) in [("spec.network.pods", &pods), ("spec.network.services", &services)] {
                if overlap(own, &range) {
                    let whose = format!("{own} overlaps with {range} of cluster {}", other.name_any());
                    errors.push(wrong(
                        Rule::Overlap,
                        field,
                        format!("{whose} in environment {}", network.environment),
                    ));
                }
            }
        }
    }
}

/// Most machines that all pools together may have.
fn largest(object: &ClusterDeployment) -> i64 {
    object
        .spec
        .node_pools
        .iter()
        .map(|pool| i64::from(most(&pool.template.spec)))
        .sum()
}

/// Most machines that a pool may have.
fn most(pool: &NodePoolSpec) -> i32 {
    pool.autoscaling
        .as_ref()
        .map_or(pool.replicas.unwrap_or(1), |range| range.max)
}

fn node_pool(path: &str, name: &str, pool: &NodePoolSpec, world: &World, errors: &mut Vec<FieldError>) {
    if pool.image_ref.name.is_empty() {
        errors.push(wrong(
            Rule::Image,
            format!("{path}.imageRef.name"),
            "an OSImage must be named",
        ));
    } else if !world.images.contains(&pool.image_ref.name) {
        let others = known(world.images.iter().map(String::as_str));
        let message = format!(
            "there is no OSImage {:?} in this namespace{others}",
            pool.image_ref.name
        );
        errors.push(wrong(Rule::Image, format!("{path}.imageRef.name"), message));
    }
    if !world.providers.contains(&pool.provider) {
        let known = world.providers.join(", ");
        errors.push(wrong(
            Rule::Reference,
            format!("{path}.provider"),
            format!("{:?} is not one of: {known}", pool.provider),
        ));
    }
    errors.extend(unbuilt::node_pool(path, pool));
    if let Some(range) = pool.autoscaling.as_ref().filter(|range| range.min > range.max) {
        let message = format!("min {} is greater than max {}", range.min, range.max);
        errors.push(wrong(Rule::Value, format!("{path}.autoscaling"), message));
    }
    for zone in &pool.failure_domains.allowed {
        if !world.racks.values().any(|known| known == zone) {
            let message = format!("no rack stands in zone {zone:?}");
            errors.push(wrong(
                Rule::Reference,
                format!("{path}.failureDomains.allowed"),
                message,
            ));
        }
    }
    if let Some(error) = unknown_sku(path, pool, world) {
        // That no host fits follows from it: one message is enough.
        errors.push(error);
        return;
    }
    let usable = world
        .hosts
        .iter()
        .filter(|host| fits(host, name, pool, &world.racks))
        .count();
    if i64::try_from(usable).unwrap_or(i64::MAX) < i64::from(most(pool)) {
        let message = format!(
            "up to {} machines are asked for, the racks have {usable} hosts that fit",
            most(pool)
        );
        let field = if pool.autoscaling.is_some() {
            "autoscaling.max"
        } else {
            "replicas"
        };
        errors.push(wrong(Rule::Capacity, format!("{path}.{field}"), message));
    }
}

fn unknown_sku(path: &str, pool: &NodePoolSpec, world: &World) -> Option<FieldError> {
    let wanted = pool.sku_selector.match_labels.as_ref()?.get(SKU_LABEL)?;
    if world.hosts.iter().any(|host| host.spec.sku == *wanted) {
        return None;
    }
    let others = known(world.hosts.iter().map(|host| host.spec.sku.as_str()));
    Some(wrong(
        Rule::Sku,
        format!("{path}.skuSelector.matchLabels[{SKU_LABEL}]"),
        format!("no host has SKU {wanted:?}{others}"),
    ))
}

/// Checks a NodePool that stands for itself.
pub fn single_pool(object: &mainstay_api::NodePool, world: &World) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node_pool("spec", &object.name_any(), &object.spec, world, &mut errors);
    errors
}

/// Pools that draw on the same hosts must fit together.
fn capacity(object: &ClusterDeployment, world: &World, errors: &mut Vec<FieldError>) {
    let pools = &object.spec.node_pools;
    let fitting_any = world.hosts.iter().filter(|host| {
        pools.iter().any(|pool| {
            fits(
                host,
                &format!("{}-{}", object.name_any(), pool.name),
                &pool.template.spec,
                &world.racks,
            )
        })
    });
    let usable = i64::try_from(fitting_any.count()).unwrap_or(i64::MAX);
    if pools.len() > 1 && usable < largest(object) && errors.is_empty() {
        let message = format!(
            "all pools together may have {} machines, {usable} hosts fit",
            largest(object)
        );
        errors.push(wrong(Rule::Capacity, "spec.nodePools", message));
    }
}

/// Tells whether a host could be a machine of the pool, now or when it is free again.
pub fn fits(
    host: &Host,
    pool_name: &str,
    pool: &NodePoolSpec,
    racks: &std::collections::BTreeMap<String, String>,
) -> bool {
    let state = host
        .status
        .as_ref()
        .map(|status| status.state)
        .unwrap_or_default();
    let mut labels = host.labels().clone();
    labels.insert(SKU_LABEL.into(), host.spec.sku.clone());
    let zone_ok = pool.failure_domains.allowed.is_empty()
        || racks
            .get(&host.spec.rack)
            .is_some_and(|zone| pool.failure_domains.allowed.contains(zone));
    // A host in repair or maintenance comes back: a running cluster must not turn invalid meanwhile.
    state != HostState::Retired
        && !host.spec.unmanaged
        && (host.spec.provider.is_empty() || host.spec.provider == pool.provider)
        && host.spec.reserved_for.as_ref().is_none_or(|of| of == pool_name)
        && zone_ok
        && selector(&pool.sku_selector).matches(&labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_api::{ClusterDeploymentSpec, HostSpec, NameRef, cluster::PoolTemplate, pool::Autoscaling};

    fn world(hosts: usize) -> World {
        let host = |n: usize| {
            let spec = HostSpec {
                rack: "r1".into(),
                sku: "small".into(),
                provider: "sim".into(),
                ..Default::default()
            };
            Host::new(&format!("h{n}"), spec)
        };
        World {
            hosts: (0..hosts).map(host).collect(),
            images: vec!["node".into()],
            racks: [("r1".to_string(), "z1".to_string())].into(),
            providers: vec!["sim".into()],
            ..World::default()
        }
    }

    fn cluster(name: &str) -> ClusterDeployment {
        let spec = NodePoolSpec {
            replicas: Some(2),
            provider: "sim".into(),
            image_ref: NameRef::new("node"),
            ..Default::default()
        };
        let pool = PoolTemplate {
            name: "a".into(),
            template: mainstay_api::cluster::PoolTemplateResource { spec },
        };
        let spec = ClusterDeploymentSpec {
            version: "v1.36.3".into(),
            node_pools: vec![pool],
            ..Default::default()
        };
        ClusterDeployment::new(name, spec)
    }

    fn check(object: &ClusterDeployment, world: &World, want: Expect) {
        let errors: Vec<String> = cluster_deployment(object, world)
            .iter()
            .map(FieldError::to_string)
            .collect();
        want.assert_eq(&errors.join("\n"));
    }

    #[test]
    fn a_cluster_that_fits_is_accepted() {
        check(&cluster("demo"), &world(2), expect![""]);
    }

    #[test]
    fn a_pool_larger_than_the_racks_is_refused() {
        let mut object = cluster("demo");
        object.spec.node_pools[0].template.spec.autoscaling = Some(Autoscaling { min: 1, max: 4 });
        check(
            &object,
            &world(2),
            expect![
                "spec.nodePools[0].template.spec.autoscaling.max: up to 4 machines are asked for, the racks have 2 hosts that fit"
            ],
        );
    }

    #[test]
    fn overlapping_networks_are_refused_with_both_names() {
        let mut object = cluster("demo");
        object.spec.network.environment = "production".into();
        let mut other = cluster("other");
        other.spec.network.environment = "production".into();
        other.spec.network.services = "10.112.0.0/16".into();
        let mut world = world(2);
        world.others = vec![other];
        check(
            &object,
            &world,
            expect![
                "spec.network.pods: 10.244.0.0/16 overlaps with 10.244.0.0/16 of cluster other in environment production"
            ],
        );
        object.spec.network.services = "10.244.128.0/17".into();
        world.others.clear();
        check(
            &object,
            &world,
            expect!["spec.network.services: 10.244.128.0/17 overlaps with spec.network.pods 10.244.0.0/16"],
        );
    }

    #[test]
    fn an_unknown_sku_is_one_message_with_the_known_ones() {
        let mut object = cluster("demo");
        let wanted = [(SKU_LABEL.to_string(), "huge".to_string())].into();
        object.spec.node_pools[0].template.spec.sku_selector.match_labels = Some(wanted);
        check(
            &object,
            &world(2),
            expect![[
                r#"spec.nodePools[0].template.spec.skuSelector.matchLabels[mainstay.dev/sku]: no host has SKU "huge"; there are: small"#
            ]],
        );
    }

    #[test]
    fn networks_keep_away_from_that_of_the_machines() {
        let mut world = world(2);
        world.reserved = vec![(
            "the machines' network".into(),
            "10.96.7.0/24".parse().expect("a range"),
        )];
        check(
            &cluster("demo"),
            &world,
            expect!["spec.network.services: 10.96.0.0/12 overlaps with 10.96.7.0/24, the machines' network"],
        );
    }

    #[test]
    fn unknown_images_providers_and_zones_are_named() {
        let mut object = cluster("demo");
        let pool = &mut object.spec.node_pools[0].template.spec;
        pool.image_ref.name = "nowhere".into();
        pool.provider = "cloud".into();
        pool.failure_domains.allowed = vec!["z9".into()];
        check(
            &object,
            &world(2),
            expect![[r#"
                spec.nodePools[0].template.spec.imageRef.name: there is no OSImage "nowhere" in this namespace; there are: node
                spec.nodePools[0].template.spec.provider: "cloud" is not one of: sim
                spec.nodePools[0].template.spec.failureDomains.allowed: no rack stands in zone "z9"
                spec.nodePools[0].template.spec.replicas: up to 2 machines are asked for, the racks have 0 hosts that fit"#]],
        );
    }
}
