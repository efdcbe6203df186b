//! Restricting tolerations: merging a pod's with its namespace's, and checking them against an allowed list.

use serde::{Deserialize, Serialize};

/// A pod's toleration, as in the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; empty with operator `Exists` means every key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal` or `Exists`; empty means `Equal`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// The taint's value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The taint's effect; empty means every effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// How long a `NoExecute` taint is borne; `None` means for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// Tells whether `wide` tolerates everything that `narrow` does.
fn includes(wide: &Toleration, narrow: &Toleration) -> bool {
    if wide == narrow {
        return true;
    }
    let every_key = wide.key.is_empty() && wide.operator == "Exists";
    if narrow.key != wide.key && !every_key {
        return false;
    }
    if narrow.effect != wide.effect && !wide.effect.is_empty() {
        return false;
    }
    if wide.effect == "NoExecute" && !within(wide.toleration_seconds, narrow.toleration_seconds) {
        return false;
    }
    match wide.operator.as_str() {
        "Equal" | "" => narrow.operator == "Equal" && narrow.value == wide.value,
        "Exists" => true,
        _ => false,
    }
}

/// No limit allows all; a limit allows a shorter or equal time, not for ever.
fn within(limit: Option<i64>, asked: Option<i64>) -> bool {
    limit.is_none_or(|limit| asked.is_some_and(|asked| asked <= limit))
}

/// Merges two lists in order; one that another includes is dropped, of equals the first is kept.
pub fn merge(first: &[Toleration], second: &[Toleration]) -> Vec<Toleration> {
    let all: Vec<&Toleration> = first.iter().chain(second).collect();
    let mut merged: Vec<Toleration> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let seen = merged.iter().any(|earlier| includes(earlier, one));
        let later = all[at + 1..]
            .iter()
            .any(|later| later != one && includes(later, one));
        if !seen && !later {
            merged.push((*one).clone());
        }
    }
    merged
}

/// Finds the first toleration that no allowed one includes; an empty allowed list allows everything.
pub fn first_outside<'t>(tolerations: &'t [Toleration], allowed: &[Toleration]) -> Option<&'t Toleration> {
    if allowed.is_empty() {
        return None;
    }
    tolerations
        .iter()
        .find(|one| !allowed.iter().any(|wide| includes(wide, one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_and_limits_are_those_of_the_table() {
        let text = mainstay_base::testdata::read("oracle/tenancy/tolerations.json");
        let table = serde_json::from_str(&text).expect("the table is JSON");
        let outcome = crate::oracle::run_tolerations(&table);
        assert_eq!(outcome.failed, Vec::<String>::new());
        assert!(outcome.passed >= 10);
    }

    #[test]
    fn the_wider_of_two_is_kept() {
        let exact = Toleration {
            key: "a".into(),
            operator: "Equal".into(),
            value: "1".into(),
            ..Default::default()
        };
        let all = Toleration {
            operator: "Exists".into(),
            ..Default::default()
        };
        assert_eq!(
            merge(std::slice::from_ref(&exact), std::slice::from_ref(&all)),
            std::slice::from_ref(&all)
        );
        assert_eq!(merge(std::slice::from_ref(&all), &[exact]), [all]);
    }
}
