//! HTTP extenders: programs outside that filter, rank and bind (`extender/v1` of kube-scheduler).
//!
//! Keys are capitalised on the wire, as Go writes them; answers are read in any case.

use std::time::Duration;

use kube::Client;
use mainstay_placement::{Pod, Shape, Snapshot};
use serde::Deserialize;
use serde_json::{Value, json};

/// Scores of extenders are 0 to 10, ours 0 to 100.
const SCORE_FACTOR: f64 = 10.0;
/// How long a call may take unless configured.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// An extender as configured; both the Policy's and today's spellings load into this.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExtenderConfig {
    /// Where it listens.
    pub url_prefix: String,
    /// Path of the filter call; empty: not asked.
    pub filter_verb: String,
    /// Path of the ranking call.
    pub prioritize_verb: String,
    /// Path of the preemption call.
    pub preempt_verb: String,
    /// Path of the bind call.
    pub bind_verb: String,
    /// What its scores are multiplied with.
    pub weight: i64,
    /// It keeps its own cache: send names only.
    pub node_cache_capable: bool,
    /// It is asked only for pods with one of these; empty means all pods.
    pub managed_resources: Vec<ManagedResource>,
    /// Its failure does not fail the pod.
    pub ignorable: bool,
    /// How long a call may take.
    pub timeout: Option<Duration>,
}

/// A resource that an extender manages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManagedResource {
    /// The resource's name.
    pub name: String,
    /// Our resource filter leaves it to the extender.
    pub ignored_by_scheduler: bool,
}

/// Why an extender could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    /// The address is none.
    #[error("extender address {url} is invalid: {problem}")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A call failed.
    #[error("failed to call extender {url}")]
    Call {
        /// The address with the verb.
        url: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A call took too long.
    #[error("extender {url} did not answer within {seconds} s")]
    Timeout {
        /// The address with the verb.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The extender reported an error.
    #[error("extender {url} said: {problem}")]
    Refused {
        /// The address with the verb.
        url: String,
        /// Its words.
        problem: String,
    },
}

/// An extender to call.
#[derive(Clone)]
pub struct Extender {
    config: ExtenderConfig,
    client: Client,
    path: String,
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Extender")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What a filter call left.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filtered {
    /// Positions that may be used.
    pub accepted: Vec<usize>,
    /// Positions that may not, with the extender's reasons.
    pub refused: Vec<(usize, String)>,
}

impl Extender {
    /// Prepares calls to an extender.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(config: ExtenderConfig) -> Result<Self, ExtenderError> {
        let url = config.url_prefix.clone();
        let wrong = |problem: String| ExtenderError::Address {
            url: url.clone(),
            problem,
        };
        let uri: http::Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        let root = http::Uri::from_parts(parts).map_err(|error| wrong(error.to_string()))?;
        let client = Client::try_from(kube::Config::new(root)).map_err(|error| wrong(error.to_string()))?;
        Ok(Extender {
            config,
            client,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The address.
    pub fn url(&self) -> &str {
        &self.config.url_prefix
    }

    /// Tells whether a failure is to be overlooked.
    pub fn is_ignorable(&self) -> bool {
        self.config.ignorable
    }

    /// Tells whether the extender binds pods itself.
    pub fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    /// Tells whether the extender is to be asked about such a pod.
    pub fn is_concerned(&self, shape: &Shape) -> bool {
        let managed = &self.config.managed_resources;
        managed.is_empty()
            || managed
                .iter()
                .any(|resource| shape.requests.amount(&resource.name) > 0)
    }

    /// Asks which of the candidates may be used.
    ///
    /// # Errors
    /// When the call fails or the extender reports an error.
    pub async fn filter(
        &self,
        pod: &Pod,
        snapshot: &Snapshot,
        candidates: &[usize],
    ) -> Result<Filtered, ExtenderError> {
        if self.config.filter_verb.is_empty() {
            return Ok(Filtered {
                accepted: candidates.to_vec(),
                refused: Vec::new(),
            });
        }
        let answer = self
            .call(
                &self.config.filter_verb,
                &self.arguments(pod, snapshot, candidates),
            )
            .await?;
        let verb_url = || format!("{}/{}", self.config.url_prefix, self.config.filter_verb);
        if let Some(problem) = field(&answer, "Error")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            return Err(ExtenderError::Refused {
                url: verb_url(),
                problem: problem.to_owned(),
            });
        }
        Ok(read_filter(&answer, snapshot, candidates))
    }

    /// Adds the extender's scores, weighted; its failure is overlooked, as upstream does.
    pub async fn prioritize(&self, pod: &Pod, snapshot: &Snapshot, candidates: &[usize], totals: &mut [f64]) {
        if self.config.prioritize_verb.is_empty() {
            return;
        }
        let arguments = self.arguments(pod, snapshot, candidates);
        let answer = match self.call(&self.config.prioritize_verb, &arguments).await {
            Ok(answer) => answer,
            Err(error) => return tracing::warn!(extender = self.url(), %error, "no scores from extender"),
        };
        for entry in answer.as_array().into_iter().flatten() {
            let host = field(entry, "Host")
                .and_then(Value::as_str)
                .and_then(|name| snapshot.position(name));
            let score = field(entry, "Score").and_then(Value::as_f64).unwrap_or(0.0);
            if let Some(at) = host.and_then(|host| candidates.iter().position(|at| *at == host)) {
                totals[at] += score * self.config.weight as f64 * SCORE_FACTOR;
            }
        }
    }

    /// Lets the extender bind the pod.
    ///
    /// # Errors
    /// When the call fails or the extender reports an error.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), ExtenderError> {
        let arguments = json!({"PodName": &*pod.name, "PodNamespace": pod.shape.namespace,
            "PodUID": &*pod.uid, "Node": node});
        let answer = self.call(&self.config.bind_verb, &arguments).await?;
        match field(&answer, "Error")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            None => Ok(()),
            Some(problem) => Err(ExtenderError::Refused {
                url: self.url().to_owned(),
                problem: problem.to_owned(),
            }),
        }
    }

    fn arguments(&self, pod: &Pod, snapshot: &Snapshot, candidates: &[usize]) -> Value {
        let infos = candidates.iter().map(|at| &snapshot.nodes()[*at].info);
        let pod = json!({"metadata": {"name": &*pod.name, "namespace": pod.shape.namespace,
            "uid": &*pod.uid, "labels": pod.shape.labels}, "spec": pod_spec(&pod.shape)});
        if self.config.node_cache_capable {
            let names: Vec<&str> = infos.map(|info| &*info.name).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let nodes: Vec<Value> = infos
            .map(|info| json!({"metadata": {"name": &*info.name, "labels": info.labels}}))
            .collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": null})
    }

    async fn call(&self, verb: &str, arguments: &Value) -> Result<Value, ExtenderError> {
        let url = format!("{}/{verb}", self.config.url_prefix);
        let failed = |source| ExtenderError::Call {
            url: url.clone(),
            source: Box::new(source),
        };
        let request = http::Request::post(format!("{}/{verb}", self.path))
            .header("content-type", "application/json")
            .body(arguments.to_string().into_bytes())
            .map_err(|error| failed(kube::Error::HttpError(error)))?;
        let limit = self.config.timeout.unwrap_or(DEFAULT_TIMEOUT);
        match tokio::time::timeout(limit, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(ExtenderError::Timeout {
                url: url.clone(),
                seconds: limit.as_secs(),
            }),
        }
    }
}

/// The part of a pod's spec that extenders look at, from what we keep.
fn pod_spec(shape: &Shape) -> Value {
    let mut requests = serde_json::Map::new();
    requests.insert("cpu".to_owned(), format!("{}m", shape.requests.cpu_milli).into());
    requests.insert(
        "memory".to_owned(),
        shape.requests.memory_bytes.to_string().into(),
    );
    for (name, amount) in &shape.requests.scalars {
        requests.insert(name.to_string(), amount.to_string().into());
    }
    let image = shape.images.first().cloned().unwrap_or_default();
    json!({"priority": shape.priority, "nodeSelector": shape.node_selector,
        "containers": [{"name": "pod", "image": image, "resources": {"requests": requests}}]})
}

#[derive(Deserialize)]
struct NodeName {
    metadata: NameOnly,
}

#[derive(Deserialize)]
struct NameOnly {
    name: String,
}

fn read_filter(answer: &Value, snapshot: &Snapshot, candidates: &[usize]) -> Filtered {
    let accepted_names: Vec<String> = match field(answer, "NodeNames") {
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => {
            let items = field(answer, "Nodes").and_then(|nodes| field(nodes, "items"));
            let items = items.cloned().unwrap_or(Value::Null);
            let nodes: Vec<NodeName> = serde_json::from_value(items).unwrap_or_default();
            nodes.into_iter().map(|node| node.metadata.name).collect()
        }
    };
    let accepted = accepted_names.iter().filter_map(|name| snapshot.position(name));
    let mut filtered = Filtered {
        accepted: accepted.filter(|at| candidates.contains(at)).collect(),
        refused: Vec::new(),
    };
    for key in ["FailedNodes", "FailedAndUnresolvableNodes"] {
        for (name, reason) in field(answer, key)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if let Some(at) = snapshot.position(name) {
                filtered
                    .refused
                    .push((at, reason.as_str().unwrap_or_default().to_owned()));
            }
        }
    }
    filtered
}

/// Reads a field whatever the case of its key, as Go does.
fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value
        .as_object()?
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(key))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_placement::{NodeInfo, Resources};
    use std::sync::Arc;

    fn snapshot(names: &[&str]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for name in names {
            snapshot.set_node(Arc::new(NodeInfo {
                name: (*name).into(),
                ..NodeInfo::default()
            }));
        }
        snapshot
    }

    #[test]
    fn answers_are_read_in_any_case() {
        let snapshot = snapshot(&["a", "b"]);
        let rows = [
            json!({"NodeNames": ["a"], "FailedNodes": {"b": "no GPU"}}),
            json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}, "failedNodes": {"b": "no GPU"}}),
        ];
        for answer in rows {
            let expected = Filtered {
                accepted: vec![0],
                refused: vec![(1, "no GPU".to_owned())],
            };
            assert_eq!(read_filter(&answer, &snapshot, &[0, 1]), expected);
        }
    }

    #[tokio::test]
    async fn an_extender_is_asked_only_about_what_it_manages() {
        let managed = ManagedResource {
            name: "example.com/foo".into(),
            ignored_by_scheduler: true,
        };
        let config = ExtenderConfig {
            url_prefix: "http://127.0.0.1:1/scheduler".into(),
            managed_resources: vec![managed],
            ..ExtenderConfig::default()
        };
        let extender = Extender::new(config).expect("an extender");
        let mut shape = Shape::default();
        assert!(!extender.is_concerned(&shape));
        shape.requests = Resources {
            scalars: vec![("example.com/foo".into(), 1)],
            ..Resources::default()
        };
        assert!(extender.is_concerned(&shape));
    }
}
