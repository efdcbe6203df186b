//! Topology spread constraints: counts of matching pods per domain, for filters and scores.

use std::collections::HashMap;

use mainstay_semantics::toleration::{Effect, first_untolerated};

use crate::node::{Node, NodeInfo, affinity_matches};
use crate::pod::{Shape, Spread};
use crate::reason::Reason;
use crate::snapshot::Snapshot;

/// A rule with the number of matching pods in each of its domains.
#[derive(Debug)]
struct Counted<'a> {
    rule: &'a Spread,
    counts: HashMap<String, i64>,
    /// Whether the pod itself matches the rule's selector (1 or 0).
    own: i64,
}

/// The rules of one pod against one snapshot.
#[derive(Debug)]
pub struct SpreadRules<'a> {
    rules: Vec<Counted<'a>>,
}

impl<'a> SpreadRules<'a> {
    /// Counts for the rules that must hold.
    pub fn required(shape: &'a Shape, snapshot: &Snapshot) -> Self {
        Self::count(&shape.spread_required, shape, snapshot)
    }

    /// Counts for the rules that should hold.
    pub fn wished(shape: &'a Shape, snapshot: &Snapshot) -> Self {
        Self::count(&shape.spread_wished, shape, snapshot)
    }

    fn count(rules: &'a [Spread], shape: &Shape, snapshot: &Snapshot) -> Self {
        let counted = |rule: &'a Spread| Counted {
            rule,
            counts: HashMap::new(),
            own: i64::from(selects(rule, shape, &shape.namespace)),
        };
        let mut all = SpreadRules {
            rules: rules.iter().map(counted).collect(),
        };
        if !rules.is_empty() {
            snapshot
                .nodes()
                .iter()
                .for_each(|node| all.count_node(shape, node));
        }
        all
    }

    fn count_node(&mut self, shape: &Shape, node: &Node) {
        let labels = &node.info.labels;
        if !self
            .rules
            .iter()
            .all(|counted| labels.contains_key(&counted.rule.key))
        {
            return;
        }
        for counted in &mut self.rules {
            if !is_domain(counted.rule, shape, &node.info) {
                continue;
            }
            let matching = node.pods.iter().filter(|pod| {
                pod.deleted_at.is_none() && selects(counted.rule, &pod.shape, &shape.namespace)
            });
            let more = matching.count() as i64;
            match counted.counts.get_mut(&labels[&counted.rule.key]) {
                Some(count) => *count += more,
                None => drop(counted.counts.insert(labels[&counted.rule.key].clone(), more)),
            }
        }
    }

    /// Checks the rules for a node.
    pub fn reason(&self, info: &NodeInfo) -> Option<Reason> {
        self.rules.iter().find_map(|counted| counted.reason(info))
    }

    /// Tells how many matching pods are in the node's domains, weighted so that rules with more domains
    /// count more; `None` when the node lacks a label.
    pub fn crowd(&self, info: &NodeInfo) -> Option<f64> {
        let mut sum = 0.0;
        for counted in &self.rules {
            let domain = info.labels.get(&counted.rule.key)?;
            let count = counted.counts.get(domain).copied().unwrap_or(0) as f64;
            let weight = ((counted.counts.len() + 2) as f64).ln();
            sum += count * weight + (counted.rule.max_skew - 1) as f64;
        }
        Some(sum)
    }

    /// Tells whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Counted<'_> {
    fn reason(&self, info: &NodeInfo) -> Option<Reason> {
        let Some(domain) = info.labels.get(&self.rule.key) else {
            return Some(Reason::SpreadLabel);
        };
        let count = self.counts.get(domain).copied().unwrap_or(0);
        let skew = count + self.own - self.least();
        (skew > self.rule.max_skew).then_some(Reason::Spread)
    }

    /// The count of the emptiest domain; 0 while there are fewer domains than `minDomains`.
    fn least(&self) -> i64 {
        if (self.counts.len() as i64) < self.rule.min_domains {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }
}

fn selects(rule: &Spread, shape: &Shape, namespace: &str) -> bool {
    shape.namespace == namespace && rule.selector.matches(&shape.labels)
}

fn is_domain(rule: &Spread, shape: &Shape, info: &NodeInfo) -> bool {
    let hard = [Effect::NoSchedule, Effect::NoExecute];
    let tainted = || first_untolerated(&info.taints, &shape.tolerations, &hard).is_some();
    (!rule.honor_affinity || affinity_matches(shape, info)) && !(rule.honor_taints && tainted())
}
