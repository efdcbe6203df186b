//! The rows of the oracle's quota tables, and the arithmetic of charging.

use serde_json::json;

use super::*;

fn table(name: &str) -> Value {
    let text = mainstay_base::testdata::read(&format!("oracle/tenancy/{name}.json"));
    serde_json::from_str(&text).expect("the table is JSON")
}

#[test]
fn pods_are_charged_as_in_the_table() {
    let outcome = crate::oracle::run_quota_scopes(&table("quota-scopes"));
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 19);
}

#[test]
fn services_and_claims_are_charged_as_in_the_table() {
    let outcome = crate::oracle::run_quota_services_claims(&table("quota-services-claims"));
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(outcome.passed >= 7);
}

fn of(list: Value) -> Amounts {
    amounts(&list)
}

#[test]
fn a_charge_fits_up_to_the_limit_and_not_past_it() {
    let hard = of(json!({"pods": "2", "requests.cpu": "1"}));
    let pod = of(json!({"pods": "1", "requests.cpu": "400m", "memory": "1Gi"}));
    let none = Amounts::new();
    let first = charge("q", &hard, &none, &none, &pod)
        .expect("it fits")
        .expect("it counts");
    let second = charge("q", &hard, &first.used, &none, &pod)
        .expect("it fits")
        .expect("it counts");
    assert_eq!(
        crate::amounts::to_json(&second.used),
        json!({"pods": "2", "requests.cpu": "800m"})
    );
    let refusal = charge("q", &hard, &second.used, &none, &pod).expect_err("it is too much");
    assert_eq!(
        refusal.to_string(),
        "exceeded quota: q, requested: pods=1,requests.cpu=400m, used: pods=2,requests.cpu=800m, limited: pods=2,requests.cpu=1"
    );
}

#[test]
fn giving_back_is_allowed_even_over_the_limit() {
    let hard = of(json!({"requests.cpu": "1"}));
    let used = of(json!({"requests.cpu": "3"}));
    let (before, after) = (
        of(json!({"requests.cpu": "2"})),
        of(json!({"requests.cpu": "1500m"})),
    );
    let charge = charge("q", &hard, &used, &before, &after)
        .expect("less is allowed")
        .expect("it counts");
    assert_eq!(
        crate::amounts::to_json(&charge.used),
        json!({"requests.cpu": "2500m"})
    );
}

#[test]
fn a_change_of_what_is_not_limited_charges_nothing() {
    let hard = of(json!({"pods": "1"}));
    let outcome = charge(
        "q",
        &hard,
        &Amounts::new(),
        &Amounts::new(),
        &of(json!({"services": "1"})),
    );
    assert_eq!(outcome, Ok(None));
}

#[test]
fn a_recount_starts_from_zero_for_every_limit() {
    let quota = json!({"spec": {"hard": {"pods": "5", "services": "1"}}});
    let pod = json!({"spec": {"containers": []}});
    let objects = [Charged {
        group: "",
        resource: "pods",
        object: &pod,
    }; 2];
    let used = recount(&quota, objects.into_iter(), 0);
    assert_eq!(
        crate::amounts::to_json(&used),
        json!({"pods": "2", "services": "0"})
    );
}
