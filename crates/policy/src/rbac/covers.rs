//! The escalation check: whether rules somebody holds cover the rules they want to hand out.

use super::{Rule, url_covers};

/// The single-verb, single-resource pieces of the wanted rules that are not covered, in the order given.
pub type Uncovered = Vec<Rule>;

/// Tells which pieces of `wanted` the rules in `held` do not cover; empty means no escalation.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Uncovered {
    let pieces = wanted.iter().flat_map(pieces);
    pieces
        .filter(|piece| !held.iter().any(|rule| covers(rule, piece)))
        .collect()
}

/// Splits a rule into rules with one verb, one group, one resource and at most one name, or one verb and one path.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let mut found = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let piece = Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                found.extend(per_name(piece, &rule.resource_names));
            }
        }
    }
    for url in &rule.non_resource_urls {
        let one = |verb: &String| Rule {
            verbs: vec![verb.clone()],
            non_resource_urls: vec![url.clone()],
            ..Rule::default()
        };
        found.extend(rule.verbs.iter().map(one));
    }
    found
}

fn per_name(piece: Rule, names: &[String]) -> Vec<Rule> {
    if names.is_empty() {
        return vec![piece];
    }
    let named = |name: &String| Rule {
        resource_names: vec![name.clone()],
        ..piece.clone()
    };
    names.iter().map(named).collect()
}

fn covers(held: &Rule, piece: &Rule) -> bool {
    holds_all(&held.verbs, &piece.verbs)
        && holds_all(&held.api_groups, &piece.api_groups)
        && covers_resources(&held.resources, &piece.resources)
        && covers_names(&held.resource_names, &piece.resource_names)
        && piece
            .non_resource_urls
            .iter()
            .all(|path| held.non_resource_urls.iter().any(|own| url_covers(own, path)))
}

fn holds_all(held: &[String], wanted: &[String]) -> bool {
    held.iter().any(|item| item == "*") || wanted.iter().all(|item| held.contains(item))
}

fn covers_resources(held: &[String], wanted: &[String]) -> bool {
    let any_of = |sub: &str| held.iter().any(|own| own.strip_prefix("*/") == Some(sub));
    holds_all(held, wanted)
        || wanted
            .iter()
            .all(|item| held.contains(item) || item.split_once('/').is_some_and(|(_, sub)| any_of(sub)))
}

fn covers_names(held: &[String], wanted: &[String]) -> bool {
    held.is_empty() || !wanted.is_empty() && wanted.iter().all(|name| held.contains(name))
}
