//! Taints and tolerations: which pods a tainted node takes, and for how long.
//!
//! Rules: <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use serde::{Deserialize, Serialize};

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away when there is another place.
    PreferNoSchedule,
    /// New pods stay away and running ones are evicted.
    NoExecute,
}

/// A node's taint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taint {
    /// A label key.
    pub key: String,
    /// May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What happens to pods without a toleration.
    pub effect: Effect,
}

/// How a toleration compares a taint's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Operator {
    /// The values are equal.
    #[default]
    Equal,
    /// Any value will do.
    Exists,
    /// The taint's value, an integer, is less than the toleration's.
    Lt,
    /// The taint's value, an integer, is greater than the toleration's.
    Gt,
}

/// A pod's toleration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Empty means every key (with [`Operator::Exists`] only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How values compare; `Equal` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<Operator>,
    /// The value to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `None` means every effect.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "effect_or_any")]
    pub effect: Option<Effect>,
    /// For `NoExecute`: how long the pod stays; `None` means for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// Reads an effect; the empty string means every effect, as in Go clients' output.
fn effect_or_any<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Effect>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some("NoSchedule") => Ok(Some(Effect::NoSchedule)),
        Some("PreferNoSchedule") => Ok(Some(Effect::PreferNoSchedule)),
        Some("NoExecute") => Ok(Some(Effect::NoExecute)),
        Some(other) => Err(serde::de::Error::custom(format!(
            "unknown taint effect {other:?}"
        ))),
    }
}

impl Toleration {
    /// Tells whether this toleration covers the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if self.effect.is_some_and(|effect| effect != taint.effect) {
            return false;
        }
        let key = self.key.as_deref().unwrap_or_default();
        if !key.is_empty() && key != taint.key {
            return false;
        }
        let value = self.value.as_deref().unwrap_or_default();
        match self.operator.unwrap_or_default() {
            Operator::Exists => true,
            Operator::Equal => value == taint.value,
            Operator::Lt => compare(&taint.value, value).is_some_and(|order| order.is_lt()),
            Operator::Gt => compare(&taint.value, value).is_some_and(|order| order.is_gt()),
        }
    }
}

/// Compares two integers written as text; `None` when one is none.
fn compare(left: &str, right: &str) -> Option<std::cmp::Ordering> {
    Some(left.parse::<i64>().ok()?.cmp(&right.parse::<i64>().ok()?))
}

/// Tells whether one of the tolerations covers the taint.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

/// Finds the first taint with one of `effects` that no toleration covers.
pub fn first_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[Effect],
) -> Option<&'a Taint> {
    taints
        .iter()
        .find(|taint| effects.contains(&taint.effect) && !tolerated(tolerations, taint))
}

/// What `NoExecute` taints mean for a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It may stay.
    Forever,
    /// It may stay this long after the taint appeared.
    Seconds(u64),
    /// It must go now.
    Evict,
}

/// Decides how long a pod may stay on a node with these taints: the shortest `tolerationSeconds` of the
/// tolerations that cover its `NoExecute` taints.
pub fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest: Option<u64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == Effect::NoExecute) {
        let mut covered = false;
        for toleration in tolerations
            .iter()
            .filter(|toleration| toleration.tolerates(taint))
        {
            covered = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let seconds = u64::try_from(seconds).unwrap_or(0);
                shortest = Some(shortest.map_or(seconds, |now| now.min(seconds)));
            }
        }
        if !covered {
            return Stay::Evict;
        }
    }
    match shortest {
        None => Stay::Forever,
        Some(0) => Stay::Evict,
        Some(seconds) => Stay::Seconds(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: Effect) -> Taint {
        Taint {
            key: key.into(),
            value: value.into(),
            effect,
        }
    }

    fn toleration(json: &str) -> Toleration {
        serde_json::from_str(json).expect("a toleration")
    }

    #[test]
    fn tolerations_match_by_key_operator_value_and_effect() {
        let spot = taint("spot", "yes", Effect::NoSchedule);
        let rows = [
            (r#"{"operator":"Exists"}"#, true),
            (r#"{"key":"spot","operator":"Exists"}"#, true),
            (r#"{"key":"spot","value":"yes"}"#, true),
            (r#"{"key":"spot","value":"no"}"#, false),
            (r#"{"key":"other","operator":"Exists"}"#, false),
            (
                r#"{"key":"spot","operator":"Exists","effect":"NoExecute"}"#,
                false,
            ),
            (r#"{"key":"spot","operator":"Exists","effect":""}"#, true),
            (r#"{}"#, false),
        ];
        for (json, expected) in rows {
            assert_eq!(toleration(json).tolerates(&spot), expected, "{json}");
        }
    }

    #[test]
    fn numeric_operators_compare_integers_only() {
        let sla = taint("sla", "950", Effect::NoSchedule);
        assert!(toleration(r#"{"key":"sla","operator":"Gt","value":"900"}"#).tolerates(&sla));
        assert!(!toleration(r#"{"key":"sla","operator":"Lt","value":"900"}"#).tolerates(&sla));
        assert!(!toleration(r#"{"key":"sla","operator":"Lt","value":"many"}"#).tolerates(&sla));
    }

    #[test]
    fn the_shortest_toleration_decides_how_long_a_pod_stays() {
        let taints = [
            taint("a", "", Effect::NoExecute),
            taint("b", "", Effect::NoSchedule),
        ];
        let rows = [
            ("[]", Stay::Evict),
            (r#"[{"key":"a","operator":"Exists"}]"#, Stay::Forever),
            (
                r#"[{"operator":"Exists","tolerationSeconds":300},{"key":"a","operator":"Exists","tolerationSeconds":30}]"#,
                Stay::Seconds(30),
            ),
            (r#"[{"operator":"Exists","tolerationSeconds":0}]"#, Stay::Evict),
        ];
        for (json, expected) in rows {
            let tolerations: Vec<Toleration> = serde_json::from_str(json).expect("tolerations");
            assert_eq!(stay(&taints, &tolerations), expected, "{json}");
        }
    }
}
