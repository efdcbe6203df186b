//! Affinity and anti-affinity between pods: which domains hold the pods a rule speaks of.

use std::collections::{HashMap, HashSet};

use crate::node::{Node, NodeInfo};
use crate::pod::{Namespaces, Shape, Term};
use crate::reason::Reason;
use crate::snapshot::Snapshot;

type Domain = (String, String);

/// The rules of one pod, and of all others about it, against one snapshot.
#[derive(Debug)]
pub struct PodRules<'a> {
    shape: &'a Shape,
    /// Per affinity term: domains with a pod that matches every term.
    near: Vec<HashSet<String>>,
    /// Per anti-affinity term: domains with a matching pod.
    away: Vec<HashSet<String>>,
    /// Domains where a pod wants this one away.
    barred: HashSet<Domain>,
    /// The pod may be the first of its kind: it matches its own terms.
    matches_itself: bool,
}

impl<'a> PodRules<'a> {
    /// Looks at the cluster once; not at all when there is no rule.
    pub fn new(shape: &'a Shape, snapshot: &Snapshot) -> Self {
        let namespaces = snapshot.namespaces();
        let mut rules = PodRules {
            shape,
            near: vec![HashSet::new(); shape.affinity.len()],
            away: vec![HashSet::new(); shape.anti_affinity.len()],
            barred: HashSet::new(),
            matches_itself: shape.affinity.iter().all(|term| term.selects(shape, namespaces)),
        };
        let own = !shape.affinity.is_empty() || !shape.anti_affinity.is_empty();
        if !own && snapshot.with_anti_affinity() == 0 {
            return rules;
        }
        for node in snapshot.nodes() {
            if own {
                rules.look_for_own(node, namespaces);
            }
            if node.with_anti_affinity > 0 {
                rules.look_for_bars(node, namespaces);
            }
        }
        rules
    }

    fn look_for_own(&mut self, node: &Node, namespaces: &Namespaces) {
        let shape = self.shape;
        let any = |test: &dyn Fn(&Shape) -> bool| node.pods.iter().any(|pod| test(&pod.shape));
        let all_near = |pod: &Shape| shape.affinity.iter().all(|term| term.selects(pod, namespaces));
        if !shape.affinity.is_empty() && any(&all_near) {
            note(&mut self.near, &shape.affinity, &node.info, |_| true);
        }
        note(&mut self.away, &shape.anti_affinity, &node.info, |term| {
            any(&|pod| term.selects(pod, namespaces))
        });
    }

    fn look_for_bars(&mut self, node: &Node, namespaces: &Namespaces) {
        for pod in &node.pods {
            for term in pod
                .shape
                .anti_affinity
                .iter()
                .filter(|term| term.selects(self.shape, namespaces))
            {
                if let Some(value) = node.info.labels.get(&term.key) {
                    self.barred.insert((term.key.clone(), value.clone()));
                }
            }
        }
    }

    /// Checks the rules for a node.
    pub fn reason(&self, info: &NodeInfo) -> Option<Reason> {
        if !self.near_enough(info) {
            return Some(Reason::PodAffinity);
        }
        let inside = |(term, domains): (&Term, &HashSet<String>)| {
            info.labels
                .get(&term.key)
                .is_some_and(|value| domains.contains(value))
        };
        if self.shape.anti_affinity.iter().zip(&self.away).any(inside) {
            return Some(Reason::PodAntiAffinity);
        }
        let barred = self
            .barred
            .iter()
            .any(|(key, value)| info.labels.get(key) == Some(value));
        barred.then_some(Reason::ExistingAntiAffinity)
    }

    fn near_enough(&self, info: &NodeInfo) -> bool {
        let terms = &self.shape.affinity;
        if !terms.iter().all(|term| info.labels.contains_key(&term.key)) {
            return false;
        }
        let nobody_yet = self.near.iter().all(HashSet::is_empty);
        terms.is_empty()
            || nobody_yet && self.matches_itself
            || terms
                .iter()
                .zip(&self.near)
                .all(|(term, domains)| domains.contains(&info.labels[&term.key]))
    }
}

fn note(domains: &mut [HashSet<String>], terms: &[Term], info: &NodeInfo, holds: impl Fn(&Term) -> bool) {
    for (term, domains) in terms.iter().zip(domains) {
        if let Some(value) = info.labels.get(&term.key).filter(|_| holds(term)) {
            domains.insert(value.clone());
        }
    }
}

/// Weights of domains from wished-for affinity, both of the pod and of the pods that are there.
#[derive(Debug, Default)]
pub struct PodWishes {
    weights: HashMap<Domain, i64>,
}

impl PodWishes {
    /// Looks at the cluster once. `hard_weight` is what a required affinity of an existing pod is worth.
    pub fn new(shape: &Shape, snapshot: &Snapshot, hard_weight: i64) -> Self {
        let mut wishes = PodWishes::default();
        if shape.wished.is_empty() && snapshot.with_affinity() == 0 {
            return wishes;
        }
        let namespaces = snapshot.namespaces();
        for node in snapshot.nodes() {
            for pod in &node.pods {
                for (weight, term) in shape
                    .wished
                    .iter()
                    .filter(|(_, term)| term.selects(&pod.shape, namespaces))
                {
                    wishes.add(term, &node.info, *weight);
                }
                wishes.add_theirs(&pod.shape, shape, node, namespaces, hard_weight);
            }
        }
        wishes
    }

    fn add_theirs(&mut self, other: &Shape, shape: &Shape, node: &Node, namespaces: &Namespaces, hard: i64) {
        let wished = other.wished.iter().map(|(weight, term)| (*weight, term));
        let required = other.affinity.iter().map(|term| (hard, term));
        for (weight, term) in wished
            .chain(required)
            .filter(|(_, term)| term.selects(shape, namespaces))
        {
            self.add(term, &node.info, weight);
        }
    }

    fn add(&mut self, term: &Term, info: &NodeInfo, weight: i64) {
        if let Some(value) = info.labels.get(&term.key) {
            *self.weights.entry((term.key.clone(), value.clone())).or_default() += weight;
        }
    }

    /// Sums the weights of a node's domains.
    pub fn weight(&self, info: &NodeInfo) -> i64 {
        let here = |(key, value): &Domain| info.labels.get(key) == Some(value);
        self.weights
            .iter()
            .filter(|(domain, _)| here(domain))
            .map(|(_, weight)| weight)
            .sum()
    }

    /// Tells whether nothing is wished for.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}
