//! Who gets which devices.

use super::*;
use crate::numa::{Manager, Nodes, Policy, Scope};
use serde_json::json;

const NAME: &str = "example.com/dongle";

fn device(id: &str, healthy: bool, nodes: &[u32]) -> Listed {
    Listed {
        id: id.into(),
        healthy,
        nodes: nodes.to_vec(),
    }
}

fn pod(uid: &str, init: i64, app: i64) -> Pod {
    let asks = |count: i64| json!({"limits": {NAME: count.to_string()}});
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {
        "initContainers": [{"name": "i", "resources": asks(init)}],
        "containers": [{"name": "c", "resources": asks(app)}]}}))
    .expect("valid")
}

fn listed(devices: Vec<Listed>) -> (Book, u64) {
    let mut book = Book::default();
    let generation = book.registered(NAME, true);
    book.listed(NAME, generation, devices);
    (book, generation)
}

fn book() -> (Book, u64) {
    listed(vec![
        device("a", true, &[]),
        device("b", true, &[]),
        device("c", false, &[]),
    ])
}

fn allot(book: &mut Book, manager: &Manager, pod: &Pod) -> Result<(), String> {
    let mut draft = Draft::new(book);
    manager
        .allot(pod, &mut [&mut draft])
        .map_err(|refusal| refusal.message)?;
    *book = draft.book;
    Ok(())
}

fn allocate(book: &mut Book, pod: &Pod) -> Result<(), String> {
    allot(book, &Manager::default(), pod)
}

fn ids(assigned: &Assigned) -> Vec<&str> {
    assigned[NAME].iter().map(String::as_str).collect()
}

#[test]
fn sick_devices_are_counted_and_never_given() {
    let (mut book, _) = book();
    let status = book.status(Duration::ZERO);
    assert_eq!((status.capacity[NAME], status.allocatable[NAME]), (3, 2));
    let said = allocate(&mut book, &pod("u", 0, 3)).expect_err("only two are well");
    assert_eq!(
        said,
        "Allocate failed due to requested number of devices unavailable for example.com/dongle. Requested: 3, Available: 2, which is unexpected"
    );
    assert!(book.of("u", "c").is_empty());
}

#[test]
fn an_init_container_leaves_its_devices_to_the_pod_and_they_outlive_the_agent() {
    let (mut book, _) = book();
    allocate(&mut book, &pod("u", 2, 2)).expect("the same two");
    assert_eq!(book.of("u", "i"), book.of("u", "c"));
    assert!(allocate(&mut book, &pod("v", 0, 1)).is_err());
    let mut again = Book::from_text(&book.to_text());
    assert_eq!(again.of("u", "c"), book.of("u", "c"));
    assert_eq!(again.status(Duration::ZERO).removed, [NAME]);
    assert!(again.release("u"));
}

#[test]
fn a_lost_plug_in_counts_for_five_minutes_and_is_zero_then() {
    let (mut book, generation) = book();
    book.lost(NAME, generation, Duration::from_secs(10));
    let soon = book.status(Duration::from_secs(20));
    assert_eq!((soon.capacity[NAME], soon.allocatable[NAME]), (3, 0));
    let late = book.status(Duration::from_secs(310));
    assert_eq!(
        (late.capacity.get(NAME), late.removed),
        (None, vec![NAME.to_owned()])
    );
    book.registered(NAME, false);
    book.lost(NAME, generation, Duration::from_secs(400));
    assert!(
        book.status(Duration::from_secs(900)).removed.is_empty(),
        "an older connection ended"
    );
}

fn two_nodes(policy: Policy, scope: Scope) -> Manager {
    Manager {
        policy,
        scope,
        nodes: Nodes {
            ids: vec![0, 1],
            ..Default::default()
        },
        ..Default::default()
    }
}

#[test]
fn devices_come_from_one_memory_node_or_not_at_all() {
    let (mut book, _) = listed(vec![
        device("a", true, &[0]),
        device("b", true, &[1]),
        device("c", true, &[1]),
    ]);
    let single = two_nodes(Policy::SingleNode, Scope::Container);
    allot(&mut book, &single, &pod("u", 0, 2)).expect("both are on node 1");
    assert_eq!(ids(&book.of("u", "c")), ["b", "c"]);
    book.release("u");
    allot(&mut book, &single, &pod("v", 0, 1)).expect("one");
    assert_eq!(ids(&book.of("v", "c")), ["a"]);
    allot(&mut book, &single, &pod("w", 0, 1)).expect("one");
    let said = allot(&mut book, &single, &pod("x", 0, 2)).expect_err("one is left");
    assert_eq!(said, "Resources cannot be allocated with Topology locality");
    let lenient = two_nodes(Policy::BestEffort, Scope::Container);
    book.release("w");
    book.release("v");
    allot(&mut book, &lenient, &pod("y", 0, 3)).expect("there are three");
}

#[test]
fn a_pod_is_one_request_in_the_scope_pod() {
    let devices = || vec![device("a", true, &[0]), device("b", true, &[1])];
    let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
        {"name": "c", "resources": {"limits": {NAME: "1"}}}, {"name": "d", "resources": {"limits": {NAME: "1"}}}]}}))
    .expect("valid");
    let (mut book, _) = listed(devices());
    let refused = allot(&mut book, &two_nodes(Policy::SingleNode, Scope::Pod), &pod);
    assert!(refused.is_err(), "no node has two");
    let each = allot(&mut book, &two_nodes(Policy::SingleNode, Scope::Container), &pod);
    assert_eq!(each, Ok(()), "each container's one is on a node");
}

#[test]
fn what_goes_well_together_is_asked_and_followed() {
    let (mut book, _) = listed((0..4).map(|i| device(&i.to_string(), true, &[])).collect());
    let asking = pod("u", 1, 2);
    allocate(&mut book, &asking).expect("enough");
    assert!(book.has_preference("u"));
    let mut said = Preferences::new();
    let (_, asked) = book.reconsidered(&asking, &said).expect("still there");
    assert_eq!(
        (
            asked[0].container.as_str(),
            asked[0].count,
            asked[0].available.len()
        ),
        ("i", 1, 4)
    );
    said.insert(("i".into(), NAME.into()), ["3".to_owned()].into());
    let (_, asked) = book.reconsidered(&asking, &said).expect("still there");
    let included: Vec<&str> = asked[0].included.iter().map(String::as_str).collect();
    assert_eq!((asked[0].container.as_str(), included), ("c", vec!["3"]));
    said.insert(("c".into(), NAME.into()), ["1".to_owned(), "3".to_owned()].into());
    let (found, asked) = book.reconsidered(&asking, &said).expect("still there");
    assert!(asked.is_empty());
    book.take("u", &found);
    assert_eq!(
        (ids(&book.of("u", "i")), ids(&book.of("u", "c"))),
        (vec!["3"], vec!["1", "3"])
    );
}
