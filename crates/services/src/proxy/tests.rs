//! Services in, the rules that differ from an empty cluster's out; and the kernel's own opinion of the scripts.

use std::process::Command;
use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{NodeFacts, Ruleset, compile};
use crate::model::{EndpointSlice, Service};

fn node() -> NodeFacts {
    NodeFacts {
        name: "n1".into(),
        addresses: vec!["10.89.0.2".parse().expect("an address")],
        pod_range: Some("10.244.1.0/24".parse().expect("a range")),
        pod_ranges: vec!["10.244.0.0/16".parse().expect("a range")],
        answered_here: vec!["10.96.0.10".parse().expect("an address")],
    }
}

fn service(name: &str, address: &str, extra: Value) -> Arc<Service> {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
        "ports": [{"port": 80, "protocol": "TCP"}]});
    for (field, value) in extra.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let status = extra.get("status").cloned().unwrap_or(json!({}));
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status});
    Arc::new(serde_json::from_value(object).expect("a Service"))
}

/// A slice; each endpoint as address, node, and letters: r(eady), s(erving), t(erminating).
fn slice(service: &str, endpoints: &[(&str, &str, &str)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, flags)| {
            json!({"addresses": [address], "nodeName": node, "conditions": {"ready": flags.contains('r'),
                "serving": flags.contains('s'), "terminating": flags.contains('t')}})
        })
        .collect();
    let object = json!({
        "metadata": {"name": format!("{service}-x"), "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    Arc::new(serde_json::from_value(object).expect("a slice"))
}

/// What Services add to the table.
fn added(rules: &Ruleset) -> String {
    let bare = compile(&[], &[], &node());
    let mut lines = Vec::new();
    for (name, table) in rules.maps.iter().chain(&rules.sets) {
        for (key, value) in &table.elements {
            let known = bare
                .sets
                .get(name)
                .is_some_and(|bare| bare.elements.contains_key(key));
            if !known {
                lines.push(format!("{name}: {key} {value}").trim_end().to_owned());
            }
        }
    }
    for (name, chain) in rules
        .chains
        .iter()
        .filter(|(name, _)| !bare.chains.contains_key(*name))
    {
        lines.extend(chain.rules.iter().map(|rule| format!("{name}| {rule}")));
    }
    lines.join("\n")
}

fn check(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], expected: Expect) {
    expected.assert_eq(&added(&compile(services, slices, &node())));
}

#[test]
fn a_service_leads_to_its_ready_endpoints_and_the_own_address_comes_back_under_the_nodes() {
    check(
        &[service("web", "10.96.0.7", json!({}))],
        &[slice(
            "web",
            &[
                ("10.244.1.5", "n1", "rs"),
                ("10.244.2.6", "n2", "rs"),
                ("10.244.2.7", "n2", "st"),
            ],
        )],
        expect![[r#"
            addresses: 10.96.0.7 . tcp . 80 goto inside/default/web/tcp/80
            cluster-addresses: 10.96.0.7
            cluster/default/web/tcp/80| numgen random mod 2 vmap { 0 : goto endpoint/default/web/tcp/80/10.244.1.5/8080, 1 : goto endpoint/default/web/tcp/80/10.244.2.6/8080 }
            endpoint/default/web/tcp/80/10.244.1.5/8080| ip saddr 10.244.1.5 meta mark set meta mark or 0x4000
            endpoint/default/web/tcp/80/10.244.1.5/8080| meta l4proto tcp dnat to 10.244.1.5:8080
            endpoint/default/web/tcp/80/10.244.2.6/8080| ip saddr 10.244.2.6 meta mark set meta mark or 0x4000
            endpoint/default/web/tcp/80/10.244.2.6/8080| meta l4proto tcp dnat to 10.244.2.6:8080
            inside/default/web/tcp/80| ip saddr != @pod-ranges ip saddr != @node-addresses meta mark set meta mark or 0x4000
            inside/default/web/tcp/80| goto cluster/default/web/tcp/80"#]],
    );
}

#[test]
fn a_service_that_nobody_serves_is_refused_and_those_that_leave_serve_while_nobody_else_does() {
    check(
        &[
            service("none", "10.96.0.8", json!({})),
            service("leaving", "10.96.0.9", json!({})),
        ],
        &[
            slice("none", &[("10.244.1.5", "n1", "t")]),
            slice("leaving", &[("10.244.1.6", "n1", "st")]),
        ],
        expect![[r#"
            addresses: 10.96.0.9 . tcp . 80 goto inside/default/leaving/tcp/80
            unserved-addresses: 10.96.0.8 . tcp . 80 goto refuse
            cluster-addresses: 10.96.0.8
            cluster-addresses: 10.96.0.9
            cluster/default/leaving/tcp/80| numgen random mod 1 vmap { 0 : goto endpoint/default/leaving/tcp/80/10.244.1.6/8080 }
            endpoint/default/leaving/tcp/80/10.244.1.6/8080| ip saddr 10.244.1.6 meta mark set meta mark or 0x4000
            endpoint/default/leaving/tcp/80/10.244.1.6/8080| meta l4proto tcp dnat to 10.244.1.6:8080
            inside/default/leaving/tcp/80| ip saddr != @pod-ranges ip saddr != @node-addresses meta mark set meta mark or 0x4000
            inside/default/leaving/tcp/80| goto cluster/default/leaving/tcp/80"#]],
    );
}

#[test]
fn policy_local_keeps_the_sender_and_drops_what_only_others_serve() {
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"],
        "ports": [{"port": 80, "nodePort": 30080}]});
    check(
        &[service("web", "10.96.0.7", spec)],
        &[slice("web", &[("10.244.2.6", "n2", "rs")])],
        expect![[r#"
            addresses: 10.96.0.7 . tcp . 80 goto inside/default/web/tcp/80
            addresses: 192.0.2.1 . tcp . 80 goto outside/default/web/tcp/80
            node-ports: tcp . 30080 goto outside/default/web/tcp/80
            unserved-addresses: 192.0.2.1 . tcp . 80 drop
            unserved-node-ports: tcp . 30080 drop
            cluster-addresses: 10.96.0.7
            cluster/default/web/tcp/80| numgen random mod 1 vmap { 0 : goto endpoint/default/web/tcp/80/10.244.2.6/8080 }
            endpoint/default/web/tcp/80/10.244.2.6/8080| ip saddr 10.244.2.6 meta mark set meta mark or 0x4000
            endpoint/default/web/tcp/80/10.244.2.6/8080| meta l4proto tcp dnat to 10.244.2.6:8080
            inside/default/web/tcp/80| ip saddr != @pod-ranges ip saddr != @node-addresses meta mark set meta mark or 0x4000
            inside/default/web/tcp/80| goto cluster/default/web/tcp/80
            outside/default/web/tcp/80| ip saddr @pod-ranges goto cluster/default/web/tcp/80
            outside/default/web/tcp/80| ip saddr @node-addresses meta mark set meta mark or 0x4000 goto cluster/default/web/tcp/80"#]],
    );
    check(
        &[service(
            "in",
            "10.96.0.7",
            json!({"internalTrafficPolicy": "Local"}),
        )],
        &[slice("in", &[("10.244.2.6", "n2", "rs")])],
        expect![[r#"
            unserved-addresses: 10.96.0.7 . tcp . 80 drop
            cluster-addresses: 10.96.0.7
            cluster/default/in/tcp/80| numgen random mod 1 vmap { 0 : goto endpoint/default/in/tcp/80/10.244.2.6/8080 }
            endpoint/default/in/tcp/80/10.244.2.6/8080| ip saddr 10.244.2.6 meta mark set meta mark or 0x4000
            endpoint/default/in/tcp/80/10.244.2.6/8080| meta l4proto tcp dnat to 10.244.2.6:8080"#]],
    );
}

#[test]
fn clients_stay_with_their_endpoint_and_balancers_let_in_whom_they_should() {
    let spec = json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "192.0.2.10", "ipMode": "Proxy"}]}}});
    let rules = compile(
        &[service("web", "10.96.0.7", spec)],
        &[slice("web", &[("10.244.2.6", "n2", "rs")])],
        &node(),
    );
    expect![[r#"
        addresses: 10.96.0.7 . tcp . 80 goto inside/default/web/tcp/80
        addresses: 192.0.2.9 . tcp . 80 goto balancer/default/web/tcp/80
        cluster-addresses: 10.96.0.7
        balancer/default/web/tcp/80| ip saddr != { 203.0.113.0/24 } drop
        balancer/default/web/tcp/80| goto outside/default/web/tcp/80
        cluster/default/web/tcp/80| ip saddr @affinity/default/web/tcp/80/10.244.2.6/8080 goto endpoint/default/web/tcp/80/10.244.2.6/8080
        cluster/default/web/tcp/80| numgen random mod 1 vmap { 0 : goto endpoint/default/web/tcp/80/10.244.2.6/8080 }
        endpoint/default/web/tcp/80/10.244.2.6/8080| ip saddr 10.244.2.6 meta mark set meta mark or 0x4000
        endpoint/default/web/tcp/80/10.244.2.6/8080| update @affinity/default/web/tcp/80/10.244.2.6/8080 { ip saddr }
        endpoint/default/web/tcp/80/10.244.2.6/8080| meta l4proto tcp dnat to 10.244.2.6:8080
        inside/default/web/tcp/80| ip saddr != @pod-ranges ip saddr != @node-addresses meta mark set meta mark or 0x4000
        inside/default/web/tcp/80| goto cluster/default/web/tcp/80
        outside/default/web/tcp/80| meta mark set meta mark or 0x4000
        outside/default/web/tcp/80| goto cluster/default/web/tcp/80"#]]
    .assert_eq(&added(&rules));
    let affinity = &rules.sets["affinity/default/web/tcp/80/10.244.2.6/8080"];
    assert_eq!(
        affinity.header,
        "type ipv4_addr ; flags dynamic,timeout ; timeout 60s ;"
    );
}

#[test]
fn headless_external_and_otherwise_answered_services_have_no_rules() {
    let labelled = json!({"metadata": {"name": "other", "namespace": "default",
        "labels": {"service.kubernetes.io/service-proxy-name": "x"}}, "spec": {"clusterIP": "10.96.0.11", "ports": [{"port": 80}]}});
    check(
        &[
            service("headless", "None", json!({})),
            service(
                "elsewhere",
                "",
                json!({"type": "ExternalName", "externalName": "example.org"}),
            ),
            service("dns", "10.96.0.10", json!({})),
            Arc::new(serde_json::from_value(labelled).expect("a Service")),
        ],
        &[
            slice("headless", &[("10.244.2.6", "n2", "rs")]),
            slice("other", &[("10.244.2.6", "n2", "rs")]),
        ],
        expect![[r#""#]],
    );
}

#[test]
fn an_endpoint_that_goes_is_the_only_change() {
    let services = [service(
        "web",
        "10.96.0.7",
        json!({"sessionAffinity": "ClientIP"}),
    )];
    let (one, two) = (("10.244.1.5", "n1", "rs"), ("10.244.2.6", "n2", "rs"));
    let before = compile(&services, &[slice("web", &[one, two])], &node());
    let after = compile(&services, &[slice("web", &[one])], &node());
    expect![[r#"
        flush chain ip mainstay cluster/default/web/tcp/80
        add rule ip mainstay cluster/default/web/tcp/80 ip saddr @affinity/default/web/tcp/80/10.244.1.5/8080 goto endpoint/default/web/tcp/80/10.244.1.5/8080
        add rule ip mainstay cluster/default/web/tcp/80 numgen random mod 1 vmap { 0 : goto endpoint/default/web/tcp/80/10.244.1.5/8080 }
        flush chain ip mainstay endpoint/default/web/tcp/80/10.244.2.6/8080
        delete chain ip mainstay endpoint/default/web/tcp/80/10.244.2.6/8080
        delete set ip mainstay affinity/default/web/tcp/80/10.244.2.6/8080
    "#]]
    .assert_eq(&after.since(&before).expect("a difference"));
    assert_eq!(after.since(&after), None);
}

#[test]
fn udp_flows_to_what_changed_are_forgotten() {
    let udp = |name: &str, address: &str| {
        service(name, address, json!({"ports": [{"port": 53, "protocol": "UDP"}]}))
    };
    let served = |name: &str, address: &str| {
        let mut one = (*slice(name, &[(address, "n1", "rs")])).clone();
        one.ports
            .iter_mut()
            .flatten()
            .for_each(|port| port.protocol = Some("UDP".into()));
        Arc::new(one)
    };
    let services = [udp("a", "10.96.0.7"), udp("b", "10.96.0.8")];
    let before = compile(&services, &[served("a", "10.244.1.5")], &node());
    let after = compile(
        &services,
        &[served("a", "10.244.1.6"), served("b", "10.244.1.7")],
        &node(),
    );
    expect!["[From { address: 10.244.1.5, port: 8080 }, To { address: 10.96.0.8, port: 53 }]"]
        .assert_eq(&format!("{:?}", after.stale_flows(&before)));
    assert_eq!(after.stale_flows(&after), []);
}

/// Loads the scripts one after the other in a network namespace of its own and tells what stands in the end.
#[allow(clippy::disallowed_methods)] // the test asks the real kernel, in a namespace of its own
fn kernel(scripts: &[String]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let mut commands = Vec::new();
    for (number, script) in scripts.iter().enumerate() {
        let file = dir.path().join(number.to_string());
        std::fs::write(&file, script).expect("written");
        commands.push(format!("nft -f {}", file.display()));
    }
    commands.push("nft list ruleset".to_owned());
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", &commands.join(" && ")])
        .output()
        .expect("unshare is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_kernel_takes_every_script_and_differences_end_where_a_whole_load_does() {
    let spec = json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"],
        "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "ports": [{"port": 80, "nodePort": 30080}], "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
    let (one, two) = (("10.244.1.5", "n1", "rs"), ("10.244.2.6", "n2", "rs"));
    let states = [
        compile(&[], &[], &node()),
        compile(
            &[
                service("web", "10.96.0.7", spec.clone()),
                service("dead", "10.96.0.8", json!({})),
            ],
            &[slice("web", &[one, two])],
            &node(),
        ),
        compile(
            &[
                service("web", "10.96.0.7", spec.clone()),
                service("plain", "10.96.0.8", json!({})),
            ],
            &[slice("web", &[two]), slice("plain", &[one])],
            &node(),
        ),
        compile(&[service("web", "10.96.0.7", spec)], &[], &node()),
    ];
    let mut steps = vec![states[0].whole()];
    steps.extend(
        states
            .windows(2)
            .map(|pair| pair[1].since(&pair[0]).expect("they differ")),
    );
    let (sort, last) = (
        |text: String| {
            let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            lines.join("\n")
        },
        states[3].whole(),
    );
    assert_eq!(sort(kernel(&steps)), sort(kernel(&[last])));
}
