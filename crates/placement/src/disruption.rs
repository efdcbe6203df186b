//! Disruption budgets: which pods may still be evicted.

use std::sync::Arc;

use mainstay_semantics::selector::Selector;

use crate::pod::{Pod, Shape};

/// One PodDisruptionBudget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    /// Where it holds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pods it protects.
    pub selector: Selector,
    /// How many of them may go now.
    pub allowed: i64,
}

/// All budgets, with what is left of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budgets {
    budgets: Vec<Budget>,
}

impl Budgets {
    /// Collects budgets.
    pub fn new(budgets: Vec<Budget>) -> Self {
        Budgets { budgets }
    }

    /// Tells whether every budget that protects the pod lets it go.
    pub fn allow(&self, shape: &Shape) -> bool {
        self.of(shape).all(|budget| budget.allowed > 0)
    }

    /// Tells whether any budget protects the pod.
    pub fn cover(&self, shape: &Shape) -> bool {
        self.of(shape).next().is_some()
    }

    /// Counts one eviction.
    pub fn take(&mut self, shape: &Shape) {
        let here = |budget: &&mut Budget| protects(budget, shape);
        self.budgets
            .iter_mut()
            .filter(here)
            .for_each(|budget| budget.allowed -= 1);
    }

    /// Splits pods, in order, into those that a spent budget protects and the others.
    pub fn split(&self, pods: Vec<Arc<Pod>>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut left = self.clone();
        pods.into_iter().partition(|pod| {
            let protected = !left.allow(&pod.shape);
            left.take(&pod.shape);
            protected
        })
    }

    fn of(&self, shape: &Shape) -> impl Iterator<Item = &Budget> {
        self.budgets.iter().filter(move |budget| protects(budget, shape))
    }
}

fn protects(budget: &Budget, shape: &Shape) -> bool {
    budget.namespace == shape.namespace && budget.selector.matches(&shape.labels)
}
