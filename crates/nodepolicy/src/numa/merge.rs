//! Merges hints: the memory nodes on which all requests can best be served together. The rules are the kubelet's
//! topology manager's.

use std::cmp::Ordering;

use super::{Hint, Hints, Manager, Mask, Policy};

const ANYWHERE: Hint = Hint {
    nodes: None,
    preferred: true,
};
const NOWHERE: Hint = Hint {
    nodes: None,
    preferred: false,
};

/// Every request's hints in one list, of whoever they are.
fn flat(givers: &[Hints]) -> Vec<Vec<Hint>> {
    let mut all = Vec::new();
    for hints in givers {
        if hints.is_empty() {
            all.push(vec![ANYWHERE]);
        }
        all.extend(hints.values().map(|of| match of.as_deref() {
            None => vec![ANYWHERE],
            Some([]) => vec![NOWHERE],
            Some(given) => given.to_vec(),
        }));
    }
    all
}

/// Whether a hint can lead to one node.
fn is_single(hint: &Hint) -> bool {
    hint.preferred && hint.nodes.is_none_or(|nodes| nodes.len() == 1)
}

/// How wide the widest of the narrowest ways of each request is: narrower ones cannot serve all.
fn needed_width(requests: &[Vec<Hint>]) -> usize {
    let narrowest = |hints: &Vec<Hint>| hints.iter().filter_map(|h| h.nodes).map(Mask::len).min();
    requests.iter().filter_map(narrowest).max().unwrap_or(0)
}

/// A choice of one way for each request.
#[derive(Debug, Clone, Copy)]
struct Choice {
    nodes: Mask,
    preferred: bool,
}

/// Looks at every choice and keeps the best.
struct Search<'a> {
    manager: &'a Manager,
    needed: usize,
    best: Option<Choice>,
}

impl Search<'_> {
    fn choose(&mut self, requests: &[Vec<Hint>], so_far: Choice, first: Option<Mask>) {
        let Some((hints, rest)) = requests.split_first() else {
            return self.offer(so_far);
        };
        for hint in hints {
            let equal = match (hint.nodes, first) {
                (Some(nodes), Some(first)) => nodes == first,
                _ => true,
            };
            let next = Choice {
                nodes: hint.nodes.map_or(so_far.nodes, |nodes| so_far.nodes.and(nodes)),
                preferred: so_far.preferred && hint.preferred && equal,
            };
            self.choose(rest, next, first.or(hint.nodes));
        }
    }

    fn offer(&mut self, candidate: Choice) {
        if candidate.nodes.is_empty() {
            return;
        }
        if self.best.is_none_or(|best| self.is_better(best, candidate)) {
            self.best = Some(candidate);
        }
    }

    fn is_better(&self, best: Choice, candidate: Choice) -> bool {
        if best.preferred != candidate.preferred {
            return candidate.preferred;
        }
        if best.preferred {
            return self.fits_better(best, candidate);
        }
        // Both are second best: as wide as is needed, else as near to that from below as can be.
        let width = candidate.nodes.len();
        match best.nodes.len().cmp(&self.needed) {
            Ordering::Greater => self.fits_better(best, candidate),
            Ordering::Equal => width == self.needed && self.fits_better(best, candidate),
            Ordering::Less => match width.cmp(&best.nodes.len()) {
                Ordering::Equal => self.fits_better(best, candidate),
                Ordering::Greater => width <= self.needed,
                Ordering::Less => false,
            },
        }
    }

    fn fits_better(&self, best: Choice, candidate: Choice) -> bool {
        let (old, new) = (best.nodes, candidate.nodes);
        let by_distance = self.manager.prefer_closest && self.manager.policy != Policy::SingleNode;
        if !by_distance || old.len() != new.len() {
            return new.is_narrower_than(old);
        }
        let distance = |mask| self.manager.nodes.mean_distance(mask);
        match distance(new).total_cmp(&distance(old)) {
            Ordering::Equal => new < old,
            order => order == Ordering::Less,
        }
    }
}

impl Manager {
    /// The best way to serve all requests, and whether it is good enough.
    pub fn merge(&self, givers: &[Hints]) -> (Hint, bool) {
        let mut requests = flat(givers);
        if self.policy == Policy::SingleNode {
            requests.iter_mut().for_each(|hints| hints.retain(is_single));
        }
        let everywhere = self.nodes.all();
        let mut search = Search {
            manager: self,
            needed: needed_width(&requests),
            best: None,
        };
        let start = Choice {
            nodes: everywhere,
            preferred: true,
        };
        search.choose(&requests, start, None);
        let best = search.best.unwrap_or(Choice {
            nodes: everywhere,
            preferred: false,
        });
        let anywhere = self.policy == Policy::SingleNode && best.nodes == everywhere;
        let hint = Hint {
            nodes: (!anywhere).then_some(best.nodes),
            preferred: best.preferred,
        };
        let lenient = matches!(self.policy, Policy::None | Policy::BestEffort);
        (hint, lenient || hint.preferred)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Nodes;
    use super::*;

    fn hint(nodes: &[u32], preferred: bool) -> Hint {
        Hint {
            nodes: Some(nodes.iter().copied().collect()),
            preferred,
        }
    }

    fn giver(requests: &[&[Hint]]) -> Hints {
        let named = requests.iter().enumerate();
        named
            .map(|(i, hints)| (i.to_string(), Some(hints.to_vec())))
            .collect()
    }

    /// What each policy makes of the hints on a machine with these nodes: nodes, preferred, admitted.
    fn merged(count: u32, givers: &[Hints]) -> [String; 3] {
        [Policy::BestEffort, Policy::Restricted, Policy::SingleNode].map(|policy| {
            let manager = Manager {
                policy,
                nodes: Nodes {
                    ids: (0..count).collect(),
                    ..Default::default()
                },
                ..Default::default()
            };
            let (hint, admitted) = manager.merge(givers);
            let nodes = hint.nodes.map_or("any".to_owned(), |nodes| {
                let numbers: Vec<String> = nodes.nodes().map(|n| n.to_string()).collect();
                numbers.join("+")
            });
            format!(
                "{nodes} {} {}",
                if hint.preferred { "preferred" } else { "-" },
                if admitted { "yes" } else { "no" }
            )
        })
    }

    #[test]
    fn requests_meet_on_the_node_that_suits_all() {
        let cpus = giver(&[&[hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]]);
        let device = giver(&[&[hint(&[1], true), hint(&[0, 1], false)]]);
        assert_eq!(merged(2, &[cpus, device]), ["1 preferred yes"; 3]);
    }

    #[test]
    fn apart_they_are_only_good_enough_for_best_effort() {
        let cpus = giver(&[&[hint(&[0], true), hint(&[0, 1], false)]]);
        let device = giver(&[&[hint(&[1], true), hint(&[0, 1], false)]]);
        assert_eq!(merged(2, &[cpus, device]), ["0 - yes", "0 - no", "any - no"]);
    }

    #[test]
    fn what_needs_two_nodes_fits_restricted_and_never_one_node() {
        let cpus = giver(&[&[hint(&[0, 1], true)]]);
        assert_eq!(
            merged(2, &[cpus]),
            ["0+1 preferred yes", "0+1 preferred yes", "any - no"]
        );
    }

    #[test]
    fn who_does_not_care_spoils_nothing_and_who_cannot_serve_spoils_all() {
        let indifferent = Hints::from([("x".to_owned(), None)]);
        let cpus = giver(&[&[hint(&[1], true)]]);
        assert_eq!(
            merged(2, &[Hints::new(), indifferent.clone()]),
            ["0+1 preferred yes", "0+1 preferred yes", "any preferred yes"]
        );
        assert_eq!(merged(2, &[indifferent, cpus.clone()]), ["1 preferred yes"; 3]);
        assert_eq!(
            merged(2, &[giver(&[&[]]), cpus]),
            ["1 - yes", "1 - no", "any - no"]
        );
    }

    #[test]
    fn of_second_best_ways_the_one_as_wide_as_needed_wins() {
        let wide = giver(&[&[
            hint(&[0, 1], false),
            hint(&[1, 2], false),
            hint(&[0, 1, 2], false),
        ]]);
        let narrow = giver(&[&[hint(&[1], false), hint(&[1, 2], false), hint(&[0, 1, 2], false)]]);
        assert_eq!(merged(3, &[wide, narrow])[0], "0+1 - yes");
    }

    #[test]
    fn near_nodes_win_when_asked_for() {
        let row = |numbers: [u64; 3]| (0..3).zip(numbers).collect();
        let manager = |prefer_closest| Manager {
            policy: Policy::Restricted,
            prefer_closest,
            nodes: Nodes {
                ids: vec![0, 1, 2],
                distances: [
                    (0, row([10, 31, 21])),
                    (1, row([31, 10, 31])),
                    (2, row([21, 31, 10])),
                ]
                .into(),
            },
            ..Default::default()
        };
        let given = [giver(&[&[hint(&[0, 1], true), hint(&[0, 2], true)]])];
        let chosen = |prefer| manager(prefer).merge(&given).0.nodes.map(Mask::bits);
        assert_eq!((chosen(false), chosen(true)), (Some(0b011), Some(0b101)));
    }
}
