//! A small cluster, questions, answers as text.

use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::json;

use super::wire::{Data, Query, kind};
use super::{Reply, Transport, Zone, alias, records, reply};

fn zone() -> Zone {
    let services = [
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.7",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
        json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None",
            "ports": [{"name": "sql", "port": 5432}]}}),
        json!({"metadata": {"name": "out", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "db.example.org"}}),
        json!({"metadata": {"name": "near", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}}),
    ];
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.2.6"], "conditions": {"ready": true}},
            {"addresses": ["10.244.2.7"], "hostname": "db-2", "conditions": {"ready": false}},
        ],
    });
    let services: Vec<_> = services
        .into_iter()
        .map(|object| Arc::new(serde_json::from_value(object).expect("a Service")))
        .collect();
    let slices = [Arc::new(serde_json::from_value(slice).expect("a slice"))];
    let ranges = ["10.244.0.0/16", "10.96.0.0/12"].map(|range| range.parse().expect("a range"));
    Zone::build("cluster.local", &ranges, &services, &slices)
}

fn query(name: &str, kind: u16) -> Query {
    Query {
        id: 0,
        recursion: true,
        opcode: 0,
        name: name.to_owned(),
        kind,
        class: 1,
        udp_bytes: None,
    }
}

/// Code, counts of the sections and the addresses and aliases among the answers.
fn say(packet: &[u8]) -> String {
    let count = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let found = records(packet).unwrap_or_default();
    let texts: Vec<String> = found
        .iter()
        .map(|record| match &record.data {
            Data::A(address) => format!("{} {address}", record.name),
            Data::Cname(name) => format!("{} -> {name}", record.name),
            other => format!("{} {other:?}", record.name),
        })
        .collect();
    format!(
        "code {} answers {} authority {} additional {}: {}",
        packet[3] & 0xf,
        count(6),
        count(8),
        count(10),
        texts.join(", ")
    )
}

fn ask(name: &str, kind: u16) -> String {
    match reply(&zone(), &query(name, kind).bytes(), Transport::Udp) {
        Reply::Send(packet) => say(&packet),
        Reply::Forward(query) => format!("forward {}", query.name),
        Reply::Follow { ask, found, .. } => format!("follow {} after {}", ask.name, found.len()),
        Reply::Ignore => "ignore".to_owned(),
    }
}

fn check(name: &str, kind: u16, expected: Expect) {
    expected.assert_eq(&ask(name, kind));
}

#[test]
fn a_service_has_its_address_whatever_the_case() {
    check(
        "Web.default.svc.Cluster.local",
        kind::A,
        expect!["code 0 answers 1 authority 0 additional 0: Web.default.svc.Cluster.local 10.96.0.7"],
    );
}

#[test]
fn a_name_without_the_asked_type_exists_and_one_that_is_not_there_does_not() {
    for (name, kind) in [
        ("web.default.svc.cluster.local", kind::AAAA),
        ("default.svc.cluster.local", kind::A),
        ("cluster.local", kind::A),
    ] {
        check(name, kind, expect!["code 0 answers 0 authority 1 additional 0: "]);
    }
    check(
        "gone.default.svc.cluster.local",
        kind::A,
        expect!["code 3 answers 0 authority 1 additional 0: "],
    );
}

#[test]
fn a_headless_service_is_its_ready_endpoints_and_each_has_a_name() {
    check(
        "db.shop.svc.cluster.local",
        kind::A,
        expect![
            "code 0 answers 2 authority 0 additional 0: db.shop.svc.cluster.local 10.244.1.5, db.shop.svc.cluster.local 10.244.2.6"
        ],
    );
    check(
        "db-0.db.shop.svc.cluster.local",
        kind::A,
        expect!["code 0 answers 1 authority 0 additional 0: db-0.db.shop.svc.cluster.local 10.244.1.5"],
    );
    check(
        "10-244-2-6.db.shop.svc.cluster.local",
        kind::A,
        expect!["code 0 answers 1 authority 0 additional 0: 10-244-2-6.db.shop.svc.cluster.local 10.244.2.6"],
    );
    check(
        "db-2.db.shop.svc.cluster.local",
        kind::A,
        expect!["code 3 answers 0 authority 1 additional 0: "],
    );
}

#[test]
fn ports_with_names_are_found_with_the_addresses_of_their_hosts() {
    check(
        "_sql._tcp.db.shop.svc.cluster.local",
        kind::SRV,
        expect!["code 0 answers 2 authority 0 additional 2: "],
    );
    check(
        "_http._tcp.web.default.svc.cluster.local",
        kind::SRV,
        expect!["code 0 answers 1 authority 0 additional 1: "],
    );
    check(
        "_http._udp.web.default.svc.cluster.local",
        kind::SRV,
        expect!["code 3 answers 0 authority 1 additional 0: "],
    );
}

#[test]
fn addresses_have_names_and_those_outside_are_somebody_elses() {
    for name in ["7.0.96.10.in-addr.arpa", "5.1.244.10.in-addr.arpa"] {
        check(
            name,
            kind::PTR,
            expect!["code 0 answers 1 authority 0 additional 0: "],
        );
    }
    check(
        "9.9.244.10.in-addr.arpa",
        kind::PTR,
        expect!["code 3 answers 0 authority 1 additional 0: "],
    );
    check(
        "1.2.0.192.in-addr.arpa",
        kind::PTR,
        expect!["forward 1.2.0.192.in-addr.arpa"],
    );
}

#[test]
fn pods_have_names_made_of_their_addresses() {
    check(
        "10-244-1-9.default.pod.cluster.local",
        kind::A,
        expect!["code 0 answers 1 authority 0 additional 0: 10-244-1-9.default.pod.cluster.local 10.244.1.9"],
    );
    check(
        "nonsense.default.pod.cluster.local",
        kind::A,
        expect!["code 3 answers 0 authority 1 additional 0: "],
    );
}

#[test]
fn other_names_go_to_other_servers_and_aliases_are_followed() {
    check("example.org", kind::A, expect!["forward example.org"]);
    check("notcluster.local", kind::A, expect!["forward notcluster.local"]);
    check(
        "near.shop.svc.cluster.local",
        kind::A,
        expect![
            "code 0 answers 2 authority 0 additional 0: near.shop.svc.cluster.local -> web.default.svc.cluster.local, web.default.svc.cluster.local 10.96.0.7"
        ],
    );
    check(
        "out.shop.svc.cluster.local",
        kind::A,
        expect!["follow db.example.org after 1"],
    );
}

#[test]
fn an_alias_and_what_it_stands_for_are_one_answer() {
    let Reply::Follow { ask, query, found } = reply(
        &zone(),
        &query("out.shop.svc.cluster.local", kind::A).bytes(),
        Transport::Udp,
    ) else {
        panic!("an alias of another's name is followed");
    };
    let theirs = super::wire::Message {
        answers: vec![super::Record {
            name: ask.name.clone(),
            seconds: 60,
            data: Data::A([192, 0, 2, 1].into()),
        }],
        ..Default::default()
    };
    let answer = theirs.bytes(&ask, 512);
    expect![
        "code 0 answers 2 authority 0 additional 0: out.shop.svc.cluster.local -> db.example.org, db.example.org 192.0.2.1"
    ]
    .assert_eq(&say(&alias(&query, found.clone(), Some(&answer), Transport::Udp)));
    expect!["code 2 answers 0 authority 0 additional 0: "].assert_eq(&say(&alias(
        &query,
        found,
        None,
        Transport::Udp,
    )));
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let mut update = query("cluster.local", kind::SOA).bytes();
    update[2] = 5 << 3;
    assert!(matches!(reply(&zone(), &update, Transport::Udp), Reply::Send(packet) if packet[3] & 0xf == 4));
    assert!(matches!(reply(&zone(), &[0; 12], Transport::Udp), Reply::Send(packet) if packet[3] & 0xf == 1));
    assert_eq!(reply(&zone(), &[0; 3], Transport::Udp), Reply::Ignore);
}
