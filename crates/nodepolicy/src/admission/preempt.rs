//! Which pods make room for a critical one: as few as possible, of the least important class first. Pure.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::Pod;
use mainstay_semantics::qos::Class;

use super::predicates::Misfit;
use crate::{podspec, qos};

/// A resource of which this much is still missing.
#[derive(Debug, Clone)]
struct Need {
    resource: String,
    amount: i64,
}

/// What a pod would give back of a resource.
fn request(pod: &Pod, resource: &str) -> i64 {
    let Some(spec) = pod.spec.as_ref().filter(|_| resource != "pods") else {
        return i64::from(resource == "pods");
    };
    let asked = qos::counted_request(&qos::resources(spec), resource);
    match resource {
        "cpu" => asked.milli_value(),
        _ => asked.value(),
    }
}

/// What is still missing once `pods` are gone.
fn without(needs: &[Need], pods: &[&Pod]) -> Vec<Need> {
    let left = needs.iter().map(|need| Need {
        resource: need.resource.clone(),
        amount: need.amount - pods.iter().map(|p| request(p, &need.resource)).sum::<i64>(),
    });
    left.filter(|need| need.amount > 0).collect()
}

/// How far a pod is from satisfying all needs, each weighted alike.
fn distance(needs: &[Need], pod: &Pod) -> f64 {
    let shares = needs.iter().map(|need| {
        let missing = (need.amount - request(pod, &need.resource)).max(0);
        (missing as f64 / need.amount as f64).powi(2)
    });
    shares.sum()
}

fn not_larger(a: &Pod, b: &Pod) -> bool {
    let by = |resource: &str| request(a, resource).cmp(&request(b, resource));
    by("memory").then_with(|| by("cpu")) != Ordering::Greater
}

fn shown(needs: &[Need]) -> String {
    let texts = needs
        .iter()
        .map(|n| format!("(res: {}, q: {}), ", n.resource, n.amount));
    format!("[{}]", texts.collect::<String>())
}

fn impossible(needs: &[Need]) -> String {
    format!(
        "no set of running pods found to reclaim resources: {}",
        shown(needs)
    )
}

/// Takes the nearest pod again and again until nothing is missing; of equally near ones the smaller.
fn nearest(mut pods: Vec<&Pod>, mut needs: Vec<Need>) -> Result<Vec<&Pod>, String> {
    let mut taken = Vec::new();
    while !needs.is_empty() {
        let mut best: Option<(f64, usize)> = None;
        for (index, pod) in pods.iter().enumerate() {
            let far = distance(&needs, pod);
            let better =
                best.is_none_or(|(least, at)| far < least || (far == least && not_larger(pod, pods[at])));
            if better {
                best = Some((far, index));
            }
        }
        let (_, index) = best.ok_or_else(|| impossible(&needs))?;
        let pod = pods.swap_remove(index);
        needs = without(&needs, &[pod]);
        taken.push(pod);
    }
    Ok(taken)
}

fn may_preempt(preemptor: &Pod, pod: &Pod) -> bool {
    if podspec::is_critical(preemptor) && !podspec::is_critical(pod) {
        return true;
    }
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority);
    match (priority(preemptor), priority(pod)) {
        (Some(own), Some(other)) => own > other,
        _ => false,
    }
}

fn victims<'p>(preemptor: &Pod, running: &[&'p Pod], needs: &[Need]) -> Result<Vec<&'p Pod>, String> {
    let of = |class: Class| -> Vec<&'p Pod> {
        let mut pods = running.to_vec();
        pods.retain(|p| may_preempt(preemptor, p) && qos::class(p) == class);
        pods
    };
    let (best_effort, burstable, guaranteed) =
        (of(Class::BestEffort), of(Class::Burstable), of(Class::Guaranteed));
    let lesser = [best_effort.clone(), burstable.clone()].concat();
    let missing = without(needs, &[lesser.clone(), guaranteed.clone()].concat());
    if !missing.is_empty() {
        return Err(impossible(&missing));
    }
    let guaranteed = nearest(guaranteed, without(needs, &lesser))?;
    let given = [best_effort.clone(), guaranteed.clone()].concat();
    let burstable = nearest(burstable, without(needs, &given))?;
    let given = [burstable.clone(), guaranteed.clone()].concat();
    let best_effort = nearest(best_effort, without(needs, &given))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

/// How a pod that does not fit can still be taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery<'p> {
    /// What still speaks against it.
    pub remaining: Vec<Misfit>,
    /// Pods that must go first, in this order.
    pub victims: Vec<&'p Pod>,
}

/// Finds room for a critical pod that only lacks resources; others, and critical ones that misfit otherwise, stay out.
///
/// # Errors
/// When all pods that may be preempted together would not make enough room.
pub fn recover<'p>(pod: &Pod, running: &[&'p Pod], misfits: Vec<Misfit>) -> Result<Recovery<'p>, String> {
    if !podspec::is_critical(pod) {
        return Ok(Recovery {
            remaining: misfits,
            victims: Vec::new(),
        });
    }
    let (mut needs, mut remaining) = (Vec::new(), Vec::new());
    for misfit in misfits {
        match misfit {
            Misfit::Resource {
                name,
                requested,
                used,
                capacity,
            } => needs.push(Need {
                resource: name,
                amount: requested - (capacity - used),
            }),
            other => remaining.push(other),
        }
    }
    if !remaining.is_empty() {
        return Ok(Recovery {
            remaining,
            victims: Vec::new(),
        });
    }
    let victims = victims(pod, running, &needs)
        .map_err(|why| format!("preemption: error finding a set of pods to preempt: {why}"))?;
    Ok(Recovery { remaining, victims })
}
