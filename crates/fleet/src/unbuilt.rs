//! Fields of the API that nothing carries out yet. They are refused by name: a rollout window that is accepted and
//! ignored would be worse than none. A field leaves this list with the change that builds it. Pure.

use mainstay_api::{
    ClusterDeployment, NodePoolSpec, OSImageSpec, cluster::ControlPlaneType, pool::UpdatePolicy,
};

use crate::validate::error::{FieldError, Rule};

/// A field, whether it asks for something that is not built, and what to do instead.
type Row<'a> = (&'a str, bool, &'a str);

fn refused(prefix: &str, rows: &[Row<'_>]) -> Vec<FieldError> {
    let asked = rows.iter().filter(|(_, asked, _)| *asked);
    asked
        .map(|(field, _, message)| FieldError {
            rule: Rule::Value,
            field: format!("{prefix}.{field}"),
            message: (*message).to_string(),
        })
        .collect()
}

/// What a pool asks for in vain.
pub fn node_pool(path: &str, pool: &NodePoolSpec) -> Vec<FieldError> {
    let (node, update) = (&pool.node, &pool.update);
    refused(
        path,
        &[
            (
                "failureDomains.spread",
                !["", "rack", "zone"].contains(&pool.failure_domains.spread.as_str()),
                "must be rack or zone; machines go to the zone, then the rack, with the fewest",
            ),
            (
                "node.hugepages",
                !node.hugepages.is_empty(),
                "no provider sets huge pages up yet; leave it out",
            ),
            (
                "node.firewall",
                !node.firewall.is_empty(),
                "host firewall rules are not loaded yet; leave it out",
            ),
            (
                "node.selinux",
                !node.selinux.is_empty(),
                "the mode is the image's; it cannot be set per pool yet",
            ),
            (
                "update.policy",
                update.policy != UpdatePolicy::Replace,
                "only Replace can be carried out: images are not changed in place yet",
            ),
            (
                "update.waves",
                !update.waves.is_empty(),
                "waves are not carried out yet; maxUnavailable and maxSurge bound a rollout, pause stops it",
            ),
            (
                "update.windows",
                !update.windows.is_empty(),
                "windows are not kept yet; pause: true holds a rollout back",
            ),
        ],
    )
}

/// What a cluster asks for in vain, its pools aside.
pub fn cluster(object: &ClusterDeployment) -> Vec<FieldError> {
    let spec = &object.spec;
    let hosted = spec.control_plane.kind == ControlPlaneType::Hosted;
    refused(
        "spec",
        &[
            (
                "controlPlane.replicas",
                hosted && spec.control_plane.replicas > 1,
                "a hosted control plane has one member",
            ),
            (
                "network.provider",
                !["", "bridge"].contains(&spec.network.provider.as_str()),
                "only bridge can be built so far",
            ),
            (
                "update.order",
                spec.update.order != "ControlPlaneFirst",
                "must be ControlPlaneFirst",
            ),
            (
                "addons",
                spec.addons.iter().any(|addon| addon.name != "dns"),
                "the only add-on is dns, which every node has",
            ),
            (
                "tenantRef",
                spec.tenant_ref.is_some(),
                "clusters of tenants are not built yet; tenants own namespaces",
            ),
        ],
    )
}

/// What an image asks for in vain.
pub fn os_image(image: &OSImageSpec) -> Vec<FieldError> {
    refused(
        "spec",
        &[
            (
                "treefile.configMapRef",
                image.treefile.config_map_ref.is_some(),
                "config maps are not read yet; write the treefile inline or name a file by path",
            ),
            (
                "sources",
                !image.sources.is_empty(),
                "write package sources into the treefile (sources)",
            ),
            (
                "agentVersion",
                !image.agent_version.is_empty(),
                "images get the manager's own agent; leave it out",
            ),
            (
                "kernelArguments",
                !image.kernel_arguments.is_empty(),
                "no provider passes kernel arguments yet; leave it out",
            ),
            (
                "outputs",
                image.outputs.iter().any(|output| output != "ostree"),
                "disk images are not made yet; only ostree",
            ),
            (
                "signing",
                image.signing.is_some(),
                "keys of Secrets are not used yet; name a key of the manager's keyring as gpg-key of the treefile",
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(errors: Vec<FieldError>, want: Expect) {
        let lines: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        want.assert_eq(&lines.join("\n"));
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("it has the type's shape")
    }

    #[test]
    fn what_a_pool_asks_for_in_vain_is_named() {
        let plain = json!({"replicas": 2, "update": {"policy": "Replace", "maxUnavailable": 1, "pause": true},
            "node": {"labels": {"a": "b"}, "sysctls": {"net.ipv4.ip_forward": "1"}}, "failureDomains": {"spread": "rack"}});
        check(node_pool("spec", &read(plain)), expect![""]);
        let rich = json!({"failureDomains": {"spread": "row"}, "node": {"hugepages": {"2Mi": 8}, "firewall": ["x"],
            "selinux": "enforcing"}, "update": {"policy": "PreferInPlace", "waves": [{"canary": 1}], "windows": ["Sat"]}});
        check(
            node_pool("spec.nodePools[0].template.spec", &read(rich)),
            expect![[r#"
                spec.nodePools[0].template.spec.failureDomains.spread: must be rack or zone; machines go to the zone, then the rack, with the fewest
                spec.nodePools[0].template.spec.node.hugepages: no provider sets huge pages up yet; leave it out
                spec.nodePools[0].template.spec.node.firewall: host firewall rules are not loaded yet; leave it out
                spec.nodePools[0].template.spec.node.selinux: the mode is the image's; it cannot be set per pool yet
                spec.nodePools[0].template.spec.update.policy: only Replace can be carried out: images are not changed in place yet
                spec.nodePools[0].template.spec.update.waves: waves are not carried out yet; maxUnavailable and maxSurge bound a rollout, pause stops it
                spec.nodePools[0].template.spec.update.windows: windows are not kept yet; pause: true holds a rollout back"#]],
        );
    }

    #[test]
    fn what_a_cluster_asks_for_in_vain_is_named() {
        let object = |spec: Value| ClusterDeployment::new("demo", read(spec));
        check(cluster(&object(json!({"version": "v1.36.3"}))), expect![""]);
        let rich = json!({"version": "v1.36.3", "controlPlane": {"type": "Hosted", "replicas": 3},
            "network": {"provider": "other"}, "update": {"order": "PoolsFirst"}, "tenantRef": {"name": "a"}, "addons": [{"name": "dns"}, {"name": "metrics"}]});
        check(
            cluster(&object(rich)),
            expect![[r#"
                spec.controlPlane.replicas: a hosted control plane has one member
                spec.network.provider: only bridge can be built so far
                spec.update.order: must be ControlPlaneFirst
                spec.addons: the only add-on is dns, which every node has
                spec.tenantRef: clusters of tenants are not built yet; tenants own namespaces"#]],
        );
    }

    #[test]
    fn what_an_image_asks_for_in_vain_is_named() {
        let plain = json!({"outputs": ["ostree"], "treefile": {"path": "x"}, "retention": {"commits": 5}});
        check(os_image(&read(plain)), expect![""]);
        let rich = json!({"outputs": ["ostree", "qcow2"], "agentVersion": "v1", "kernelArguments": ["quiet"],
            "treefile": {"configMapRef": {"name": "t"}}, "signing": {},
            "sources": [{"name": "a", "type": "deb", "url": "u"}]});
        check(
            os_image(&read(rich)),
            expect![[r#"
                spec.treefile.configMapRef: config maps are not read yet; write the treefile inline or name a file by path
                spec.sources: write package sources into the treefile (sources)
                spec.agentVersion: images get the manager's own agent; leave it out
                spec.kernelArguments: no provider passes kernel arguments yet; leave it out
                spec.outputs: disk images are not made yet; only ostree
                spec.signing: keys of Secrets are not used yet; name a key of the manager's keyring as gpg-key of the treefile"#]],
        );
    }
}
