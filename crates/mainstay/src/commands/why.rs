//! `mainstay why KIND/NAME`: one causal chain about one object, from the hardware up: what is not well, since when, what
//! automation does about it. This module reads; [`chain`] decides.

mod chain;

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_base::error::chain as causes;
use serde_json::{Value, json};

use super::api;
use crate::args::WhyArgs;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;
use chain::{Explanation, Seen, Subject};

/// A workload cluster that does not answer must not keep the rest of the answer away.
const CLUSTER_LIMIT: Duration = Duration::from_secs(5);
/// Events of a pod that are looked at.
const EVENTS: u32 = 50;

/// What a person may write before the slash: the names, group, version, kind, plural.
const KINDS: [(&[&str], &str, &str, &str, &str); 11] = [
    (&["host", "hosts"], "mainstay.dev", "v1alpha1", "Host", "hosts"),
    (
        &["computenode", "computenodes", "cn"],
        "mainstay.dev",
        "v1alpha1",
        "ComputeNode",
        "computenodes",
    ),
    (
        &["machine", "machines", "ma"],
        "cluster.x-k8s.io",
        "v1beta2",
        "Machine",
        "machines",
    ),
    (
        &["repair", "repairs"],
        "mainstay.dev",
        "v1alpha1",
        "Repair",
        "repairs",
    ),
    (
        &["ticket", "tickets", "breakfixticket"],
        "mainstay.dev",
        "v1alpha1",
        "BreakFixTicket",
        "breakfixtickets",
    ),
    (
        &["pool", "pools", "nodepool", "np"],
        "mainstay.dev",
        "v1alpha1",
        "NodePool",
        "nodepools",
    ),
    (
        &["cluster", "clusters", "clusterdeployment", "cd"],
        "mainstay.dev",
        "v1alpha1",
        "ClusterDeployment",
        "clusterdeployments",
    ),
    (
        &["image", "images", "osimage"],
        "mainstay.dev",
        "v1alpha1",
        "OSImage",
        "osimages",
    ),
    (
        &["policy", "repairpolicy", "repairpolicies"],
        "mainstay.dev",
        "v1alpha1",
        "RepairPolicy",
        "repairpolicies",
    ),
    (&["node", "nodes", "no"], "", "v1", "Node", "nodes"),
    (&["pod", "pods", "po"], "", "v1", "Pod", "pods"),
];

/// Runs the command; exit code 1 when the object is not well.
pub fn run(args: &WhyArgs, output: &Output) -> Outcome {
    let subject = subject(&args.object)?;
    let explanation = super::block_on(async {
        let client = api::chosen(&args.target).await?;
        let mut seen = management(&client).await?;
        workloads(&client, args, &subject, &mut seen).await?;
        chain::explain(&subject, &seen, SystemClock::new().now()).ok_or_else(|| {
            Failure::new("MS-API-0003", format!("there is no {}", args.object))
                .fix("list what is there, for example: kubectl get hosts,machines,computenodes -A")
        })
    })?;
    output.answer("Why", document(&explanation), || table(&explanation));
    Ok(if explanation.well { Code::Ok } else { Code::No })
}

fn subject(text: &str) -> Result<Subject, Failure> {
    let wrong = |problem: String| {
        Failure::new("MS-CFG-0003", problem).fix(
            "one of host/, node/, pod/, machine/, computenode/, pool/, cluster/, image/, repair/, ticket/",
        )
    };
    let (kind, name) = text
        .split_once('/')
        .filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
        .ok_or_else(|| wrong(format!("{text:?} is not KIND/NAME, for example host/h1")))?;
    let known = KINDS
        .iter()
        .find(|(names, ..)| names.contains(&kind.to_lowercase().as_str()))
        .ok_or_else(|| wrong(format!("{kind:?} is not a kind that can be explained")))?;
    Ok(Subject {
        kind: known.3,
        name: name.into(),
    })
}

async fn list(client: &Client, kind: &str, params: &ListParams) -> Result<Vec<Seen>, kube::Error> {
    let Some((_, group, version, kind, plural)) = KINDS.iter().find(|(.., known, _)| *known == kind) else {
        return Ok(Vec::new());
    };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let listed = api.list(params).await?;
    let seen = |object| Seen {
        kind,
        value: serde_json::to_value(object).unwrap_or_default(),
    };
    Ok(listed.items.into_iter().map(seen).collect())
}

async fn management(client: &Client) -> Result<Vec<Seen>, Failure> {
    let mut seen = Vec::new();
    for (.., kind, _) in KINDS.iter().filter(|(_, group, ..)| !group.is_empty()) {
        seen.extend(
            list(client, kind, &ListParams::default())
                .await
                .map_err(api::refused)?,
        );
    }
    Ok(seen)
}

/// Adds nodes, and the pod asked for, of the workload clusters; one that cannot be reached is said so.
async fn workloads(
    management: &Client,
    args: &WhyArgs,
    subject: &Subject,
    seen: &mut Vec<Seen>,
) -> Result<(), Failure> {
    let clusters: Vec<(String, String)> = seen
        .iter()
        .filter(|object| object.kind == "ClusterDeployment")
        .map(|object| (object.namespace().to_string(), object.name().to_string()))
        .filter(|(_, name)| args.cluster.as_ref().is_none_or(|wanted| wanted == name))
        .collect();
    if let (Some(wanted), true) = (&args.cluster, clusters.is_empty()) {
        return Err(Failure::new(
            "MS-API-0003",
            format!("there is no cluster {wanted}"),
        ));
    }
    for (namespace, name) in clusters {
        let read = tokio::time::timeout(
            CLUSTER_LIMIT,
            workload(management, &namespace, &name, args, subject),
        );
        let problem = match read.await {
            Ok(Ok(objects)) => {
                seen.extend(objects);
                continue;
            }
            Ok(Err(problem)) => problem,
            Err(_) => format!("no answer within {} s", CLUSTER_LIMIT.as_secs()),
        };
        seen.push(Seen::unreachable(&name, &problem));
    }
    Ok(())
}

async fn workload(
    management: &Client,
    namespace: &str,
    cluster: &str,
    args: &WhyArgs,
    subject: &Subject,
) -> Result<Vec<Seen>, String> {
    let secrets: Api<Secret> = Api::namespaced(management.clone(), namespace);
    let secret = secrets.get_opt(&format!("{cluster}-kubeconfig")).await;
    let data = secret
        .map_err(|error| causes(&error))?
        .and_then(|secret| secret.data?.remove("value"))
        .ok_or("its kubeconfig is not there yet")?;
    let text = String::from_utf8(data.0).map_err(|error| error.to_string())?;
    let client = api::client(&text).await.map_err(|failure| failure.message)?;
    let failed = |error: kube::Error| causes(&error);
    let mut seen = list(&client, "Node", &ListParams::default())
        .await
        .map_err(failed)?;
    if subject.kind == "Pod" {
        let only = ListParams::default().fields(&format!(
            "metadata.name={},metadata.namespace={}",
            subject.name, args.namespace
        ));
        seen.extend(list(&client, "Pod", &only).await.map_err(failed)?);
        seen.extend(events(&client, args, &subject.name).await.map_err(failed)?);
    }
    Ok(seen)
}

async fn events(client: &Client, args: &WhyArgs, pod: &str) -> Result<Vec<Seen>, kube::Error> {
    let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), &args.namespace);
    let only = ListParams::default()
        .fields(&format!(
            "involvedObject.kind=Pod,involvedObject.name={pod},type=Warning"
        ))
        .limit(EVENTS);
    let listed = api.list(&only).await?;
    let seen = |event| Seen {
        kind: "Event",
        value: serde_json::to_value(event).unwrap_or_default(),
    };
    Ok(listed.items.into_iter().map(seen).collect())
}

fn document(explanation: &Explanation) -> Value {
    let lines = explanation
        .lines
        .iter()
        .map(|line| json!({"at": line.at, "object": line.object, "what": line.what}));
    json!({
        "object": explanation.object, "well": explanation.well, "since": explanation.since,
        "because": explanation.because, "chain": lines.collect::<Vec<_>>(), "next": explanation.next,
    })
}

fn table(explanation: &Explanation) -> String {
    let verdict = match (explanation.well, explanation.since.as_str()) {
        (true, _) => "well".to_string(),
        (false, "") => format!("not well: {}", explanation.because),
        (false, since) => format!("not well since {since}: {}", explanation.because),
    };
    let width = explanation
        .lines
        .iter()
        .map(|line| line.object.len())
        .max()
        .unwrap_or(0);
    let lines = explanation
        .lines
        .iter()
        .map(|line| format!("  {:<20}  {:<width$}  {}\n", line.at, line.object, line.what));
    format!(
        "{}: {verdict}\n{}Next: {}\n",
        explanation.object,
        lines.collect::<String>(),
        explanation.next
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_short_names_and_others_are_refused() {
        for (text, kind) in [
            ("host/h1", "Host"),
            ("no/n1", "Node"),
            ("Pod/web-0", "Pod"),
            ("cd/demo", "ClusterDeployment"),
        ] {
            assert_eq!(
                subject(text).map(|subject| subject.kind).ok(),
                Some(kind),
                "{text}"
            );
        }
        for text in ["h1", "host/", "/h1", "thing/x"] {
            assert_eq!(
                subject(text).map_err(|failure| failure.id).err(),
                Some("MS-CFG-0003")
            );
        }
    }
}
