//! Scenarios against the real cluster-autoscaler's answers.

use serde_json::Value;

use crate::case::{Case, simulate};
use crate::score::difference;

#[test]
fn every_case_of_the_table_is_decided_as_upstream_decides() {
    let table = mainstay_base::testdata::read("oracle/autoscaler/cases.jsonl");
    let mut wrong = Vec::new();
    for line in table.lines() {
        let row: Value = serde_json::from_str(line).expect("a row");
        let case: Case = serde_json::from_value(row.clone()).expect("a case");
        let outcome = serde_json::to_value(simulate(&case).expect("it runs")).expect("an outcome");
        let by = row["scoreBy"].as_str().unwrap_or("exact");
        if let Some(problem) = difference(&outcome, &row["expect"], by) {
            wrong.push(format!("{}: {problem}", row["id"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ten_thousand_pods_and_twenty_groups_decide_as_upstream_does() {
    let text = mainstay_base::testdata::read("oracle/autoscaler/big/bigup-nocap-def-p10000-g20-rs100.json");
    let case: Case = serde_json::from_str(&text).expect("a case");
    let first = simulate(&case).expect("it runs").steps.remove(0);
    assert_eq!(
        format!("{:?} {}", first.increase, first.pods_triggered),
        r#"{"g00": 1000} 2850"#
    );
}
